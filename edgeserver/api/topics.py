"""Topics for phones on this network, as an ntfy server has them (docs.ntfy.sh): what its Android app asks for, and what is published to.

    PUT, POST /{topic}                    publish (?up=1: UnifiedPush, any bytes)
    GET       /{topic}?up=1               whether this is a UnifiedPush endpoint
    GET       /{topics}/json|sse|raw      listen, by a response that does not end; ?since=, ?poll=1
    WebSocket /{topics}/ws                listen
    GET       /{topics}/auth, /v1/health  may I, and are you well

Errors have ntfy's form (`push/topic_errors.py`). Nothing of this is served on thin lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
import trio
from starlette.responses import Response

from edgeserver.api.application import WEBSOCKET
from edgeserver.api.endpoint import Auth, Call, Route, endpoint
from edgeserver.api.responses import JsonResponse
from edgeserver.matrix.errors import LimitExceeded, TooLarge, Unrecognized
from edgeserver.push import topic_errors
from edgeserver.push.topic_errors import TopicError
from edgeserver.push.topic_message import (
    MAX_MESSAGE,
    Parameters,
    Since,
    id_of,
    is_unifiedpush,
    looks_like_topics,
    published,
    since_of,
    topic_of,
    topics_of,
    wants_poll,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from edgeserver.api.endpoint import Receive, Scope, Send
    from edgeserver.push.topics import Subscription, Topics

KEEPALIVE: Final = 45.0
"""Seconds. The app takes a response for dead that says nothing for 77 s. WebSockets are pinged by the listener."""
TRY_AGAIN: Final = 1013


def _as_sse(body: bytes) -> bytes:
    event = orjson.loads(body)["event"]
    return (b"" if event == "message" else f"event: {event}\n".encode()) + b"data: " + body + b"\n\n"


def _as_raw(body: bytes) -> bytes:
    said = str(orjson.loads(body).get("message", ""))
    return said.replace("\n", " ").encode() + b"\n"


_FORMS: Final[dict[str, tuple[str, Callable[[bytes], bytes]]]] = {
    "json": ("application/x-ndjson", lambda body: body + b"\n"),
    "sse": ("text/event-stream", _as_sse),
    "raw": ("text/plain", _as_raw),
}


class _Wish:
    """What a subscriber asks for."""

    def __init__(self, topics: Topics, call: Call, now_ms: Callable[[], int]) -> None:
        parameters = Parameters(call.headers, call.query)
        self._topics = topics
        self._now_ms = now_ms
        self.names = topics_of(call.path["topics"])
        self.address = call.address
        self.poll = wants_poll(parameters)
        self.since: Since = since_of(parameters, now_ms() // 1000)

    def event(self, name: str) -> bytes:
        """`open` and `keepalive`, which tell that the line is up."""
        now = self._now_ms()
        return orjson.dumps({"id": id_of(now), "time": now // 1000, "event": name, "topic": ",".join(self.names)})

    async def tell(
        self, subscription: Subscription, old: list[tuple[int, bytes]], send: Callable[[bytes], Awaitable[None]], keepalive: float
    ) -> None:
        """Sends what waited, then what comes. Returns when a poll is over, or the subscriber does not take what it is sent."""
        for _, body in old:
            await send(body)
        newest = old[-1][0] if old else 0
        while not self.poll:
            with trio.move_on_after(keepalive) as silence:
                try:
                    number, body = await subscription.next()
                except trio.EndOfChannel:
                    return
            if silence.cancelled_caught:
                await send(self.event("keepalive"))
            elif number > newest:  # what came while the old was read has been sent with it
                newest = number
                await send(body)


class _Stream(Response):
    """A response that goes on for as long as somebody listens."""

    def __init__(self, topics: Topics, wish: _Wish, form: str) -> None:
        content_type, self._encode = _FORMS[form]
        super().__init__(media_type=f"{content_type}; charset=utf-8", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._topics = topics
        self._wish = wish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wish = self._wish
        try:
            with self._topics.listening(wish.names, wish.address) as subscription:
                old = await self._topics.waiting(wish.names, wish.since)
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_until_gone, receive, "http.disconnect", nursery.cancel_scope)

                    async def say(body: bytes) -> None:
                        await send({"type": "http.response.body", "body": self._encode(body), "more_body": True})

                    if not wish.poll:
                        await say(wish.event("open"))
                    await wish.tell(subscription, old, say, KEEPALIVE)
                    nursery.cancel_scope.cancel()
        except TopicError as error:
            await _refusal(error)(scope, receive, send)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _WebSocket:
    """The ASGI application of `/{topics}/ws`."""

    def __init__(self, topics: Topics, now_ms: Callable[[], int]) -> None:
        self._topics = topics
        self._now_ms = now_ms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        call = Call(scope, receive)
        call.behind_proxy = scope["gate"].behind_proxy
        try:
            _admit(call, call.path["topics"])
            wish = _Wish(self._topics, call, self._now_ms)
            with self._topics.listening(wish.names, wish.address) as subscription:
                old = await self._topics.waiting(wish.names, wish.since)
                await send({"type": "websocket.accept"})
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_until_gone, receive, "websocket.disconnect", nursery.cancel_scope)

                    async def say(body: bytes) -> None:
                        await send({"type": "websocket.send", "text": body.decode()})

                    await say(wish.event("open"))
                    await wish.tell(subscription, old, say, float("inf"))
                    await send({"type": "websocket.close", "code": 1000 if wish.poll else TRY_AGAIN})
                    nursery.cancel_scope.cancel()
        except TopicError as error:
            await _refuse_socket(scope, send, _refusal(error))
        except Unrecognized:
            await send({"type": "websocket.close", "code": 1000})


async def _until_gone(receive: Receive, message: str, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != message:
        pass
    scope.cancel()


def _admit(call: Call, names: str) -> None:
    """Raises Unrecognized for what is no topic at all, or asked for over a thin line; `TopicError` for too many requests."""
    if not looks_like_topics(names) or (call.link is not None and call.link.is_thin):
        raise Unrecognized
    gate = call.scope.get("gate")
    if gate is not None and gate.limiter is not None:
        try:
            gate.limiter.check("topics", call.address)
        except LimitExceeded as error:
            raise TopicError(*topic_errors.REQUESTS, retry_after=-(-error.retry_after_ms // 1000)) from error


def _refusal(error: TopicError) -> Response:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return JsonResponse(error.as_json(), status_code=error.status, headers=headers)


async def _refuse_socket(scope: Scope, send: Send, response: Response) -> None:
    """Before the accept: as an HTTP response where the listener can do that (ASGI, "WebSocket Denial Response"), else as a 403."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1000})
        return
    await send({"type": "websocket.http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "websocket.http.response.body", "body": response.body})


class TopicSection:
    """The handlers."""

    def __init__(self, topics: Topics, now_ms: Callable[[], int]) -> None:
        self._topics = topics
        self._now_ms = now_ms

    async def publish(self, call: Call) -> dict[str, Any] | Response:
        """PUT and POST /{topic}"""
        topic = topic_of(call.path["topic"])
        parameters = Parameters(call.headers, call.query)
        try:
            body = await call.body()
        except TooLarge as error:
            await call.discard()
            raise TopicError(*topic_errors.TOO_LARGE) from error
        said = published(body, parameters)
        if is_unifiedpush(parameters) and not self._topics.is_known(topic):
            raise TopicError(*topic_errors.FORSAKEN)  # which tells an application server to stop
        return await self._topics.publish(topic, said, keep=parameters.switch(True, "cache"))

    async def about(self, call: Call) -> dict[str, Any]:
        """GET /{topic}?up=1; there is no page to show for a topic"""
        if not Parameters(call.headers, call.query).switch(False, "unifiedpush", "up"):
            raise Unrecognized
        topic_of(call.path["topic"])
        return {"unifiedpush": {"version": 1}}

    async def auth(self, call: Call) -> dict[str, Any]:
        """GET /{topics}/auth: whoever knows a topic's name may listen"""
        topics_of(call.path["topics"])
        return {"success": True}

    async def not_upgraded(self, call: Call) -> dict[str, Any]:
        """GET /{topics}/ws without the upgrade"""
        raise TopicError(*topic_errors.NO_UPGRADE)

    def subscribe(self, form: str) -> Callable[[Call], Awaitable[Response]]:
        async def stream(call: Call) -> Response:
            wish = _Wish(self._topics, call, self._now_ms)
            return Response(media_type=_FORMS[form][0]) if call.method == "HEAD" else _Stream(self._topics, wish, form)

        return stream


def _guarded(handler: Callable[[Call], Awaitable[dict[str, Any] | Response]]) -> Callable[[Call], Awaitable[dict[str, Any] | Response]]:
    async def guarded(call: Call) -> dict[str, Any] | Response:
        try:
            _admit(call, call.path.get("topics") or call.path["topic"])
            return await handler(call)
        except TopicError as error:
            await call.discard()
            return _refusal(error)

    guarded.__name__ = getattr(handler, "__name__", "topic")
    return guarded


def routes(topics: Topics, now_ms: Callable[[], int]) -> list[Route]:
    section = TopicSection(topics, now_ms)

    async def health(call: Call) -> dict[str, Any]:
        return {"healthy": True}

    found = [*endpoint("GET", "/v1/health", health, auth=Auth.NONE)]
    for method in ("PUT", "POST"):
        found += endpoint(method, "/{topic}", _guarded(section.publish), auth=Auth.NONE, max_body=MAX_MESSAGE + 1)
    found += endpoint("GET", "/{topic}", _guarded(section.about), auth=Auth.NONE)
    for form in _FORMS:
        found += endpoint("GET", f"/{{topics}}/{form}", _guarded(section.subscribe(form)), auth=Auth.NONE)
    found += endpoint("GET", "/{topics}/auth", _guarded(section.auth), auth=Auth.NONE)
    found += endpoint("GET", "/{topics}/ws", _guarded(section.not_upgraded), auth=Auth.NONE)
    return [*found, Route("/{topics}/ws", (WEBSOCKET,), _WebSocket(topics, now_ms))]
