"""The homeserver on localhost: an ASGI application that answers ordinary clients from the other end of a line.

What only takes long is no error: a request waits for the line, and is repeated where that is harmless, until the client
goes away; while the line is down what the box has said before is given. See `paths` for what is done with each endpoint, `outbox` for
messages, `polls` for /sync, `media` for pictures, `feeds`, `kept_answers` and `owners` for what is kept and for whom, `front_page` for what
people see.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import orjson
import trio

from edgeserver.matrix import errors
from edgeserver.matrix.signatures import encode_base64
from edgeserver.proxy import front_page
from edgeserver.proxy.call import Call
from edgeserver.proxy.copies import Copies
from edgeserver.proxy.errands import Errands, Terms
from edgeserver.proxy.feeds import Feeds
from edgeserver.proxy.filters import DefinedFilters, thinned
from edgeserver.proxy.front_page import FrontPage
from edgeserver.proxy.held import HeldFolder
from edgeserver.proxy.kept_answers import AnswerFolder, KeptAnswers
from edgeserver.proxy.kept_media import MediaFolder
from edgeserver.proxy.media import Media, Policy
from edgeserver.proxy.meter import Meter
from edgeserver.proxy.outbox import Outbox
from edgeserver.proxy.owners import Owners
from edgeserver.proxy.paths import Keep, Kind, outdated_by, treatment_of
from edgeserver.proxy.polls import Polls
from edgeserver.proxy.replies import error_response, json_object, json_response, request_headers, response_headers
from edgeserver.proxy.scroll_back import ScrollBack
from edgeserver.proxy.transfers import Transfers
from transports.exchange import Priority, Request, Response

if TYPE_CHECKING:
    from edgeserver.paired.line import Line
    from edgeserver.paired.state import State
    from edgeserver.proxy.errands import Errand

PATIENCE: Final = 3600.0
"""Seconds that a request may take; media and history twelve times as long."""
LINE_SECONDS: Final = 600.0
"""An upload that would keep a thin line busy for longer is refused."""
MAX_BODY: Final = 1_000_000
"""Bytes of a body, for a link carries no larger messages."""
MAX_UPLOAD: Final = 16_000_000
"""Bytes of a file, which goes in parts; it lies in memory."""
_MESSAGE_HEAD: Final = 4096
_TERMS: Final = Terms(linger=120.0, keep_untaken=120.0)
_TERMS_UNREPEATABLE: Final = Terms(linger=120.0, keep_untaken=120.0, shared=False)
_SYNCS: Final = frozenset((Kind.SYNC, Kind.SLIDING_SYNC))
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _Left(Exception):
    """The client has gone away."""


class ProxyApplication:
    """`line` must be running, and `run` of this application, too."""

    def __init__(self, line: Line, state: State, policy: Policy = Policy.NONE, *, inline: bool = False) -> None:
        """`policy` says which media clients get over a thin line without a person's wish. `inline` is for tests with a virtual clock: what
        is done on disk does not run on another thread.
        """
        self._line = line
        self._errands = Errands()
        box = "" if state.box is None else encode_base64(state.box.public_key)
        told = state.told_folder
        self.owners = Owners(line, self._errands, told / "owners.json", box, inline=inline)
        self.filters = DefinedFilters(self.owners, self._carry_own, told / "filters.json", box, inline=inline)
        self.answers = KeptAnswers(line, self._errands, self.owners, AnswerFolder(told / "answers", box), inline=inline)
        self._copies = Copies(line, self._errands, self.answers)
        self._transfers = Transfers(line, 12 * PATIENCE)
        self.feeds = Feeds(told / "feeds", box, self.owners, inline=inline)
        self._polls = Polls(line, self._errands, self.filters, self.feeds)
        self.owners.when_forgotten.append(self._polls.forget)
        self._scroll_back = ScrollBack(line, self.feeds, self._kept_or_forwarded)
        self.outbox = Outbox(line, self._errands, HeldFolder(state.file.parent / "outbox", box), inline=inline)
        self.media = Media(line, self._transfers, MediaFolder(state.file.parent / "media", box), self.owners, policy, inline=inline)
        self._meter = Meter(state.file.parent / "meter.json", line.stats, time.time, inline=inline)
        self._page = FrontPage(line, self.outbox, self.media, self._meter)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carries requests until cancelled, first of all those that an earlier run held. Raises `StateError` in a group."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._errands.run)
            await nursery.start(self.owners.run)
            await nursery.start(self.filters.run)
            await nursery.start(self.answers.run)
            await nursery.start(self.feeds.run)
            await nursery.start(self._polls.run)
            await nursery.start(self._meter.run)
            await nursery.start(self.media.run)
            await nursery.start(self.outbox.run)
            task_status.started()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response | None = None
        try:
            if (path := _path(scope)) in front_page.PATHS:
                response = await self._own(scope, path, receive)
            elif scope["method"] == "OPTIONS":
                response = json_response({})
            else:
                bound = MAX_UPLOAD if treatment_of(scope["method"], _path(scope)).kind is Kind.UPLOAD else MAX_BODY
                call = _call(scope, await _body(scope, receive, bound))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_until_disconnect, receive, nursery.cancel_scope)
                    response = await self._respond(call)
                    nursery.cancel_scope.cancel()
        except _Left:
            return
        except errors.MatrixError as error:
            response = error_response(error)
        if response is not None:
            headers = response_headers(response, cors=_path(scope) not in front_page.PATHS)
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})

    async def _own(self, scope: Scope, path: str, receive: Receive) -> Response:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        body = await _body(scope, receive, front_page.MAX_FORM)
        client = scope.get("client")
        return self._page.respond(scope["method"], path, headers, client[0] if client else None, body)

    async def _respond(self, call: Call) -> Response:
        try:
            return self._local(call) or self._noted(call, await self._over_the_line(call))
        except errors.MatrixError as error:
            return error_response(error)

    # ---- answered here

    def _local(self, call: Call) -> Response | None:
        """The answer of those requests that need no line."""
        kind, thin = call.treatment.kind, self._line.is_thin
        if call.path == "/.well-known/matrix/client":
            return json_response({"m.homeserver": {"base_url": f"http://{call.host}"}})
        if kind is Kind.FOREIGN:
            return error_response(errors.Unrecognized())
        if kind is Kind.HUSHED and (thin or not self._line.is_up):
            return json_response({})
        if kind is Kind.PREVIEW and thin:
            return json_response({})
        return None

    # ---- answered by the box

    def _noted(self, call: Call, response: Response) -> Response:
        """What an answer tells about media, keys, filters and whose token it is."""
        kind = call.treatment.kind
        if kind in _SYNCS or response.status == 401:
            self.owners.hear(call, response)  # of all others with 200 `answers` has told, as soon as they came
        if kind is Kind.SYNC and response.status == 400:
            self.filters.forget(call.authorization)  # the box may have more of them than it keeps
        if kind is Kind.KEYS:
            self._polls.hear_of_keys(call, response)
        if response.status == 200 and (kind in _SYNCS or call.treatment.priority is Priority.HISTORY):
            self.media.learn(response)
        return response

    async def _over_the_line(self, call: Call) -> Response:
        self._check_size(call)
        match call.treatment.kind:
            case Kind.SEND:
                return await self._send(call)
            case Kind.SYNC:
                return await self._polls.sync(call)
            case Kind.SLIDING_SYNC:
                return await self._polls.sliding_sync(call)
            case Kind.OLDER:
                return await self._scroll_back.answer(call)
            case Kind.CACHED:
                return self._media_limit(call, await self._copies.answer(call))
            case Kind.FILTER:
                return await self._filter(call)
            case Kind.LOGIN:
                return _without_well_known(await self._forward(call))
            case Kind.LOGOUT:
                return await self._logout(call)
            case Kind.UPLOAD if self._transfers.comes_in_parts(call):
                upload = self._transfers.upload
                return await self._errands.ask(call.identity(), lambda: upload(call), _TERMS_UNREPEATABLE)
            case Kind.DOWNLOAD | Kind.AUTOMATIC if self._line.is_thin:
                return await self.media.answer(call)
            case Kind.DOWNLOAD:
                download = self._transfers.download
                return await self._errands.ask(call.identity(), lambda: download(call), _TERMS)
            case _:
                return await self._kept_or_forwarded(call)

    async def _kept_or_forwarded(self, call: Call) -> Response:
        if call.treatment.keep is not Keep.NOT and self._line.is_thin:
            return await self.answers.answer(call, lambda: self._begin(call))
        return await self._forward(call)

    async def _forward(self, call: Call) -> Response:
        return await self._errands.wait(self._begin(call))

    def _begin(self, call: Call) -> Errand:
        repeatable = call.treatment.repeatable
        patience = PATIENCE * (12 if call.treatment.priority >= Priority.HISTORY else 1)

        async def carry() -> Response:
            return await self._line.carry(call.request, repeatable=repeatable, patience=patience)

        return self._errands.begin(call.identity(), lambda: self.answers.ask(call, carry), _TERMS if repeatable else _TERMS_UNREPEATABLE)

    async def _send(self, call: Call) -> Response:
        outdated = outdated_by(call.request.method, call.path)
        if outdated is not None:  # a redaction, which is held until it is delivered
            self.answers.outdate(outdated)
        return await self.outbox.send(call)

    async def _carry_own(self, request: Request) -> Response:
        return await self._line.carry(request, repeatable=True, patience=PATIENCE)

    async def _filter(self, call: Call) -> Response:
        """POST /user/{userId}/filter and GET /user/{userId}/filter/{filterId}: what is known of them is answered here."""
        if not self._line.is_thin:
            return await self._forward(call)
        is_own = self.owners.is_path_of_its_own(call)
        if call.request.method == "GET":
            filter_id = unquote(call.path.rpartition("/")[2])
            found = self.filters.definition(call.authorization, filter_id) if is_own else None
            return await self._forward(call) if found is None else json_response(found)
        definition = json_object(call.request.body)
        if definition is None:
            return await self._forward(call)
        thin = thinned(definition)
        known = self.filters.defined(call.authorization, thin) if is_own else None
        if known is not None:
            return json_response({"filter_id": known})
        response = await self._forward(replace(call, request=replace(call.request, body=orjson.dumps(thin))))
        if response.status == 200 and not call.speaks_for_another:
            self.filters.learn(call.authorization, thin, (json_object(response.body) or {}).get("filter_id"))
        return response

    async def _logout(self, call: Call) -> Response:
        """Who has logged out here is given nothing more from here, whether or not the box has heard of it yet."""
        user = self.owners.known(call.authorization)
        self.owners.log_out(call.authorization)
        response = await self._forward(call)
        self.owners.log_out(call.authorization)  # something else may have been answered meanwhile
        if response.status == 200 and user and call.path.endswith("/all"):
            self.owners.log_out_everywhere(user)
        return response

    # ---- sizes

    @property
    def _max_body(self) -> int:
        return min(MAX_BODY, self._line.max_message - _MESSAGE_HEAD) if self._line.max_message else MAX_BODY

    @property
    def _max_upload(self) -> int:
        profile = self._line.profile
        if profile is None:
            return self._max_body
        return MAX_UPLOAD if profile.bit_rate is None else min(MAX_UPLOAD, int(profile.bit_rate / 10 * LINE_SECONDS))

    def _check_size(self, call: Call) -> None:
        """Raises M_TOO_LARGE."""
        size = len(call.request.body)
        bound = self._max_upload if call.treatment.kind is Kind.UPLOAD else self._max_body
        if size > bound:
            raise errors.TooLarge(f"This is {size:,} bytes; the line to the box is so slow that it takes no more than {bound:,} at a time.")

    def _media_limit(self, call: Call, response: Response) -> Response:
        """GET /_matrix/client/v1/media/config: clients shrink or refuse what is larger before they try."""
        told = json_object(response.body) if call.path.endswith("/config") and response.status == 200 else None
        if told is None:
            return response
        limit = told.get("m.upload.size")
        return json_response({**told, "m.upload.size": min(limit, self._max_upload) if isinstance(limit, int) else self._max_upload})


def _without_well_known(response: Response) -> Response:
    """A client that followed the box's own address would leave the proxy."""
    told = json_object(response.body)
    if response.status != 200 or told is None or "well_known" not in told:
        return response
    return json_response({name: value for name, value in told.items() if name != "well_known"})


# ---- ASGI


def _path(scope: Scope) -> str:
    """Percent-encoded."""
    raw = scope.get("raw_path")
    return str(raw.decode("latin-1") if raw else scope["path"])


async def _body(scope: Scope, receive: Receive, bound: int) -> bytes:
    """The whole body. Raises M_TOO_LARGE before reading what says that it is too large."""
    told = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"0")
    size, parts = int(told) if told.isdigit() and len(told) < 16 else 0, []
    while size <= bound:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Left
        parts.append(message.get("body", b""))
        size = sum(map(len, parts))
        if size <= bound and not message.get("more_body", False):
            return b"".join(parts)
    raise errors.TooLarge(f"The line to the box takes no more than {bound:,} bytes at a time.")


def _call(scope: Scope, body: bytes) -> Call:
    path = _path(scope)
    query = scope["query_string"].decode("latin-1")
    headers = request_headers(scope["headers"], has_body=bool(body))
    treatment = treatment_of(scope["method"], path)
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"), "")
    request = Request(
        scope["method"],
        f"{path}?{query}" if query else path,
        headers=headers,
        body=body,
        priority=treatment.priority,
        timeout=float("inf"),  # `Line.carry` has its own
    )
    return _with_token_in_header(Call(treatment, path, query, request, host if _HOST.fullmatch(host) else "localhost"))


def _with_token_in_header(call: Call) -> Call:
    """A link sends an Authorization header once, but a query (the deprecated ?access_token=) each time."""
    if call.authorization or "access_token=" not in call.query:
        return call
    parameters = call.parameters
    token = parameters.pop("access_token", "")
    request = call.with_parameters(parameters)
    headers = (("authorization", f"Bearer {token}"), *request.headers)
    return replace(call, query=request.target.partition("?")[2], request=replace(request, headers=headers))


async def _until_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
