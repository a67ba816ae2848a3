"""An `Exchange` over a link, and the pump that carries both directions over one connection.

`Multiplexer` reads the connection, answers the other end's requests through a handler (`transports.server` has one for
an ASGI application) and hands answers to whoever waits in `exchange`. It lives as long as its connection::

    multiplexer = Multiplexer(connection)
    await nursery.start(multiplexer.run, handler)      # ends when the link is down and the last handler has finished
    response = await multiplexer.exchange(request)
    async with multiplexer.observe(request) as news:   # of a sync: answers again and again, until either end leaves
        response = await news.receive()

Every request that arrives is answered exactly once, also after a CANCEL, so an id is free when its answer has come. The
id of a request that nobody waits for any more stays taken until then, or until many later ones were given up, too. An observed
sync is answered until it is over or left (`transports.observing`); every answer but the last is a NOTIFICATION.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import trio

from transports import syncing
from transports.exchange import (
    ExchangeError,
    Interrupted,
    LinkProfile,
    Observation,
    Priority,
    Request,
    Response,
    TimedOut,
    TooLarge,
    Unreachable,
)
from transports.lowband.facts import MAX_NUMBER, FactError, FactsMissing
from transports.lowband.memory import LEAST_MESSAGE
from transports.lowband.messages import (
    MAX_ID,
    Cancel,
    Failure,
    FailureCode,
    Hello,
    Kind,
    MemoryLost,
    Message,
    MessageError,
    RequestMessage,
    ResponseMessage,
    Session,
)
from transports.observing import Observer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from transports.link.connection import Connection
    from transports.lowband.facts import CondensedBody
    from transports.lowband.heard import FactMemory
    from transports.lowband.told import Condensed, Told

log = logging.getLogger(__name__)

HELLO_PATIENCE = 10.0
"""Seconds that a first request waits for the other end's HELLO, so that it can be written in the short form."""
LINGER = 30.0
"""Seconds that handlers of unsafe requests may go on after the link went down."""
_MAX_ABANDONED = 1024
_MAX_WAITING = 4096
_MAX_REFUSALS = 16
_MAX_UNREAD = 64
_MAX_UNREAD_BYTES = 1 << 20
_OBSERVE = ("observe", "0")
"""RFC 7641: 0 registers."""
_DOWN = "the link is down"
_SAFE_METHODS = frozenset(("GET", "HEAD"))


class RequestHandler(Protocol):
    """Answers one request of the other end. `gone` is set when nobody waits for the answer any more."""

    async def __call__(self, request: Request, gone: trio.Event) -> Response: ...


class ObservedSync:
    """An `Observation`."""

    def __init__(self) -> None:
        self._unread: deque[Response] = deque()
        self._size = 0
        self._outcome: Response | ExchangeError | None = None
        self._change = trio.Event()
        self.is_over = False

    async def receive(self) -> Response:
        """See `Observation.receive`."""
        while not self._unread and self._outcome is None:
            await self._change.wait()
        if (response := self.arrived()) is not None:
            return response
        self.is_over = True
        if isinstance(self._outcome, Response):
            return self._outcome
        assert self._outcome is not None
        raise self._outcome

    def arrived(self) -> Response | None:
        """See `Observation.arrived`."""
        if not self._unread:
            return None
        response = self._unread.popleft()
        self._size -= len(response.body)
        return response

    def put(self, response: Response) -> bool:
        """Takes an answer that is not the last. False: there are too many unread ones."""
        self._unread.append(response)
        self._size += len(response.body)
        self._changed()
        return len(self._unread) <= _MAX_UNREAD and self._size <= _MAX_UNREAD_BYTES

    def end(self, outcome: Response | ExchangeError) -> None:
        self._outcome = outcome
        self._changed()

    def _changed(self) -> None:
        change, self._change = self._change, trio.Event()
        change.set()


@dataclass(eq=False)
class _Waiting:
    """A request of ours; `outcome` is set once. `observed` if it is an observed sync."""

    observed: ObservedSync | None = None
    sending: trio.CancelScope = field(default_factory=trio.CancelScope)
    left: bool = False
    acknowledged: bool = False
    done: trio.Event = field(default_factory=trio.Event)
    outcome: Response | ExchangeError | None = None

    def finish(self, outcome: Response | ExchangeError) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.done.set()
            if self.observed is not None:
                self.observed.end(outcome)


@dataclass(eq=False)
class _Serving:
    """A request of the other end."""

    safe: bool
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    gone: trio.Event = field(default_factory=trio.Event)

    def leave(self) -> None:
        """Nobody waits. What changes nothing is cancelled; what may change something runs to its end."""
        self.gone.set()
        if self.safe:
            self.scope.cancel()


class Multiplexer:
    """Requests and answers of both ends over one connection."""

    def __init__(
        self,
        connection: Connection,
        *,
        session: Session | None = None,
        told: Told | None = None,
        heard: FactMemory | None = None,
        max_concurrent: int = 32,
        max_observed: int = 32,
        linger: float = LINGER,
    ) -> None:
        """`max_concurrent` bounds the other end's requests that are being answered, until the answer is acknowledged;
        more are refused. Of its observations, which are not counted among them, no more than `max_observed` go on: others are
        requests that are answered once. `told`: the facts that the other end was told over whatever connection; `heard`: those that this
        end keeps (`lowband.facts`). Both count on thin lines alone."""
        self._connection = connection
        is_thin = connection.profile.is_thin and connection.max_message >= LEAST_MESSAGE
        self._session = session or Session(remembers=is_thin, telling=told.open() if told is not None and is_thin else None)
        self._heard = heard if is_thin else None
        self._hearing = 0 if self._heard is None else self._heard.open()
        self._max_concurrent = max_concurrent
        self._max_observed = max_observed
        self._linger = linger
        self._nursery: trio.Nursery | None = None
        self._greeted = trio.Event()
        self._waiting: dict[int, _Waiting] = {}
        self._abandoned: dict[int, None] = {}
        self._serving: dict[int, _Serving] = {}
        self._busy = 0
        self._observed = 0
        self._refusals = 0
        self._last_id = -1

    @property
    def profile(self) -> LinkProfile:
        return self._connection.profile

    async def run(
        self,
        handler: RequestHandler | None = None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Carries messages until the link is down, then returns. Without a handler the other end's requests are
        refused. On the way out all waiting requests fail, and unsafe handlers get `linger` seconds to finish."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._send_quietly, await self._hello(), Priority.INTERACTIVE)
            task_status.started()
            try:
                while True:
                    await self._read(await self._connection.receive(), handler, nursery)
            except ExchangeError as error:
                log.debug("link %s is down: %s", self.profile.name, error)
            except MemoryLost as error:
                log.warning("the two ends of %s remember different things and begin anew: %s", self.profile.name, error)
                nursery.start_soon(self._connection.aclose)
            finally:
                self._nursery = None
                self._leave_all()
                nursery.cancel_scope.deadline = trio.current_time() + self._linger

    def _leave_all(self) -> None:
        for waiting in self._waiting.values():
            if waiting.acknowledged:
                waiting.finish(Interrupted(_DOWN))
            elif not waiting.left:
                waiting.finish(Unreachable(_DOWN))
                waiting.sending.cancel()
            # else the connection's `send` is about to say how far the request came
        for serving in self._serving.values():
            serving.leave()

    # — our requests

    async def exchange(self, request: Request) -> Response:
        """Sends a request and waits for its answer. Raises ExchangeError; cancelling it tells the other end."""
        if self._nursery is None:
            raise Unreachable(_DOWN)
        exchange_id = self._take_id()
        waiting = self._waiting[exchange_id] = _Waiting()
        try:
            self._nursery.start_soon(self._send_request, exchange_id, request, waiting)
            with trio.move_on_after(request.timeout):
                await waiting.done.wait()
        finally:
            if waiting.outcome is None:
                self._abandon(exchange_id, waiting)
            del self._waiting[exchange_id]
        if isinstance(waiting.outcome, Response):
            return waiting.outcome
        if waiting.outcome is not None:
            raise waiting.outcome
        if waiting.left:
            raise TimedOut(f"no answer within {request.timeout:g} s")
        raise Unreachable(f"could not be sent within {request.timeout:g} s")

    @asynccontextmanager
    async def observe(self, request: Request) -> AsyncIterator[ObservedSync]:
        """A sync that is answered again whenever there is news, as a context; leaving it tells the other end.

        The request's own timeouts do not matter: the answering end waits for news as long as it takes. Where it does not care to go on,
        the first answer is the last. Raises `Unreachable`; everything else when receiving.
        """
        if self._nursery is None:
            raise Unreachable(_DOWN)
        exchange_id = self._take_id()
        observed = ObservedSync()
        waiting = self._waiting[exchange_id] = _Waiting(observed)
        try:
            asked = replace(request, headers=(*request.headers, _OBSERVE))
            self._nursery.start_soon(self._send_request, exchange_id, asked, waiting)
            yield observed
        finally:
            if waiting.outcome is None:
                self._abandon(exchange_id, waiting)
            del self._waiting[exchange_id]

    def _take_id(self) -> int:
        """The next free id, of one byte on the wire while there are such."""
        for limit in (0x80, MAX_ID + 1):
            for step in range(1, min(limit, _MAX_WAITING) + 1):
                candidate = (self._last_id + step) % limit
                if candidate not in self._waiting and candidate not in self._abandoned:
                    self._last_id = candidate
                    return candidate
        raise Unreachable("too many requests without an answer")

    async def _send_request(self, exchange_id: int, request: Request, waiting: _Waiting) -> None:
        try:
            with waiting.sending:
                with trio.move_on_after(HELLO_PATIENCE):
                    await self._greeted.wait()
                message = self._session.encode_request(exchange_id, request)
                if len(message) > self._connection.max_message:
                    raise TooLarge(f"a request of {len(message)} bytes is more than this link carries")
                waiting.left = True
                await self._send(message, request.priority)
                self._session.delivered(request)
                waiting.acknowledged = True
                if self._nursery is None:
                    waiting.finish(Interrupted(_DOWN))
        except trio.Cancelled:  # `run` was cancelled: nobody else will say it to whoever waits outside its nursery
            waiting.finish(Interrupted(_DOWN) if waiting.left else Unreachable(_DOWN))
            raise
        except Unreachable as error:
            waiting.left = False
            waiting.finish(error)
        except ExchangeError as error:
            waiting.finish(error if isinstance(error, Interrupted | TooLarge) else Interrupted(str(error)))
        except ValueError as error:
            waiting.finish(Unreachable(f"the request cannot be written: {error}"))

    def _abandon(self, exchange_id: int, waiting: _Waiting) -> None:
        """The caller no longer waits: withdraw what has not left, tell the other end about what has."""
        waiting.sending.cancel()
        if waiting.left and self._nursery is not None:
            self._abandoned[exchange_id] = None
            if len(self._abandoned) > _MAX_ABANDONED:
                del self._abandoned[next(iter(self._abandoned))]
            cancel = self._session.encode_cancel(exchange_id)
            self._nursery.start_soon(self._send_quietly, cancel, Priority.INTERACTIVE)

    async def _send(self, message: bytes, priority: Priority, condensed: Condensed | None = None) -> None:
        """Returns when it was acknowledged. Raises ExchangeError. What later messages build upon is not withdrawn."""
        tells = condensed is not None and condensed.body is not None
        with trio.CancelScope(shield=tells or self._session.is_final(message)):
            await self._connection.send(message, priority=priority)
        self._session.arrived(message)
        if condensed is not None:
            condensed.acknowledge()

    async def _send_quietly(self, message: bytes, priority: Priority, condensed: Condensed | None = None) -> None:
        try:
            await self._connection.send(message, priority=priority)
            self._session.arrived(message)
            if condensed is not None:
                condensed.acknowledge()
        except ExchangeError as error:
            log.debug("not sent over %s: %s", self.profile.name, error)

    # — what arrives

    async def _read(self, data: bytes, handler: RequestHandler | None, nursery: trio.Nursery) -> None:
        """Raises MemoryLost."""
        try:
            for message in self._session.receive(data):
                whole: Message | None = message
                if isinstance(message, ResponseMessage) and message.condensed is not None:
                    whole = await self._restored(message, message.condensed, nursery)
                elif isinstance(message, Hello) and message.facts is not None:
                    await self._agree_on_facts(message.facts, nursery)
                if whole is not None:
                    self._dispatch(whole, handler, nursery)
                # Of tasks that are started at once trio runs any first; requests that waited for a lost one keep their order.
                await trio.lowlevel.checkpoint()
        except MessageError as error:
            self._malformed(error, nursery)

    async def _restored(self, message: ResponseMessage, body: CondensedBody, nursery: trio.Nursery) -> ResponseMessage | Failure | None:
        """The answer as it was said. What refers to what is lost here counts as interrupted, and the other end hears that we begin anew.
        An observation ends by that, at the other end as well: then there is nothing left to be done (None).
        """
        try:
            if self._heard is None:
                raise FactError("this end keeps no facts")
            response = replace(message.response, body=await self._heard.restored(self._hearing, body))
        except FactError as error:
            log.warning("an answer over %s cannot be restored: %s", self.profile.name, error)
            if isinstance(error, FactsMissing) and error.standing is not None:
                nursery.start_soon(self._send_quietly, self._session.encode_standing(error.standing), Priority.INTERACTIVE)
            if message.is_last:
                return Failure(message.exchange_id, FailureCode.FAILED, "the answer was not understood")
            self._break_off(message.exchange_id, "an answer was not understood")
            return None
        return ResponseMessage(message.exchange_id, response, message.is_last)

    async def _hello(self) -> bytes:
        if self._heard is not None:
            self._session.holds = await self._heard.standing(self._hearing, MAX_NUMBER)
        return self._session.encode_hello()

    async def _agree_on_facts(self, told: int, nursery: trio.Nursery) -> None:
        """With an end that knows of fewer facts than this one has said it holds."""
        if self._heard is None or self._session.holds is None or self._session.holds.number <= told:
            return
        standing = await self._heard.standing(self._hearing, told)
        if standing is not None:
            nursery.start_soon(self._send_quietly, self._session.encode_standing(standing), Priority.INTERACTIVE)

    def _dispatch(self, message: Message, handler: RequestHandler | None, nursery: trio.Nursery) -> None:
        match message:
            case Hello():
                self._greeted.set()
            case RequestMessage(exchange_id, request):
                self._accept(exchange_id, request, handler, nursery)
            case ResponseMessage(exchange_id, response, is_last=True):
                self._finish(exchange_id, response)
            case ResponseMessage(exchange_id, response):
                self._notified(exchange_id, response)
            case Failure(exchange_id, code, reason):
                self._finish(exchange_id, _error_of(code, reason))
            case Cancel(exchange_id):
                # An unknown id is a request whose answer is on its way, or one that was withdrawn before it came.
                serving = self._serving.get(exchange_id)
                if serving is not None:
                    serving.leave()

    def _notified(self, exchange_id: int, response: Response) -> None:
        """An answer that is not the last; of a sync that we have left, it means nothing."""
        waiting = self._waiting.get(exchange_id)
        if waiting is None or waiting.observed is None or waiting.outcome is not None:
            return
        if not waiting.observed.put(response):
            self._break_off(exchange_id, "answers came faster than they were read")

    def _break_off(self, exchange_id: int, reason: str) -> None:
        """Leaves an observation."""
        waiting = self._waiting.get(exchange_id)
        if waiting is not None and waiting.outcome is None:
            self._abandon(exchange_id, waiting)
            waiting.finish(Interrupted(reason))

    def _finish(self, exchange_id: int, outcome: Response | ExchangeError) -> None:
        self._abandoned.pop(exchange_id, None)
        waiting = self._waiting.get(exchange_id)
        if waiting is not None:
            waiting.finish(outcome)

    def _malformed(self, error: MessageError, nursery: trio.Nursery) -> None:
        log.warning("not understood over %s: %s", self.profile.name, error)
        if error.exchange_id is None:
            return
        if error.kind is Kind.REQUEST:
            self._refuse(error.exchange_id, "not understood", nursery)
        elif error.kind is Kind.NOTIFICATION:
            self._break_off(error.exchange_id, "an answer was not understood")
        elif error.kind in (Kind.RESPONSE, Kind.FAILURE):
            self._finish(error.exchange_id, Interrupted("the answer was not understood"))

    def _accept(self, exchange_id: int, request: Request, handler: RequestHandler | None, nursery: trio.Nursery) -> None:
        if exchange_id in self._serving:
            log.warning("an id in use came again over %s", self.profile.name)
        elif handler is None:
            self._refuse(exchange_id, "this end answers no requests", nursery)
        elif _OBSERVE in request.headers and (form := syncing.form_of(request)) and self._observed < self._max_observed:
            self._observed += 1
            serving = self._serving[exchange_id] = _Serving(safe=True)
            nursery.start_soon(self._serve_observed, exchange_id, request, form, handler, serving)
        elif self._busy >= self._max_concurrent:
            self._refuse(exchange_id, "too many requests at a time", nursery)
        else:
            self._busy += 1
            serving = self._serving[exchange_id] = _Serving(request.method in _SAFE_METHODS)
            nursery.start_soon(self._serve_request, exchange_id, request, handler, serving)

    def _refuse(self, exchange_id: int, reason: str, nursery: trio.Nursery) -> None:
        """Answers with a refusal; a flood of them is dropped, and its requests run into their timeouts."""
        if self._refusals < _MAX_REFUSALS:
            self._refusals += 1
            nursery.start_soon(self._send_refusal, Failure(exchange_id, FailureCode.REFUSED, reason))

    async def _send_refusal(self, failure: Failure) -> None:
        try:
            await self._send_quietly(self._session.encode_failure(failure), Priority.MESSAGE)
        finally:
            self._refusals -= 1

    async def _serve_request(self, exchange_id: int, request: Request, handler: RequestHandler, serving: _Serving) -> None:
        try:
            await self._serve(exchange_id, request, lambda: handler(request, serving.gone), serving)
        finally:
            self._busy -= 1

    async def _serve_observed(
        self, exchange_id: int, request: Request, form: syncing.Form, handler: RequestHandler, serving: _Serving
    ) -> None:
        observer = Observer(_unobserved(request), form, lambda asked: handler(asked, serving.gone))

        async def tell() -> Response:
            while True:
                response = await observer.next()
                if observer.is_over:
                    return response
                condensed = self._session.condense(response, request.target)
                message = self._session.encode_response(
                    exchange_id, response, target=request.target, is_last=False, condensed=condensed
                )
                if len(message) > self._connection.max_message:
                    if condensed is not None:
                        condensed.withdraw()
                    raise TooLarge(f"an answer of {len(message)} bytes")
                await self._send(message, request.priority, condensed)

        try:
            await self._serve(exchange_id, request, tell, serving)
        finally:
            self._observed -= 1

    async def _serve(
        self, exchange_id: int, request: Request, answering: Callable[[], Awaitable[Response]], serving: _Serving
    ) -> None:
        answer: Response | Failure = Failure(exchange_id, FailureCode.CANCELLED, "")
        try:
            with serving.scope:
                answer = await _answer(exchange_id, request, answering)
        finally:
            # Free before the answer leaves: the other end may use the id again as soon as it has the answer.
            del self._serving[exchange_id]
        if serving.gone.is_set():
            answer = Failure(exchange_id, FailureCode.CANCELLED, "")
        message, condensed = self._written(exchange_id, request, answer)
        await self._send_quietly(message, request.priority, condensed)

    def _written(self, exchange_id: int, request: Request, answer: Response | Failure) -> tuple[bytes, Condensed | None]:
        if isinstance(answer, Response):
            condensed = self._session.condense(answer, request.target)
            try:
                message = self._session.encode_response(exchange_id, answer, target=request.target, condensed=condensed)
            except ValueError as error:
                answer = Failure(exchange_id, FailureCode.FAILED, f"the answer cannot be written: {error}")
            else:
                if len(message) <= self._connection.max_message:
                    return message, condensed
                answer = Failure(exchange_id, FailureCode.TOO_LARGE, f"an answer of {len(message)} bytes")
            if condensed is not None:
                condensed.withdraw()
        return self._session.encode_failure(answer), None


def _unobserved(request: Request) -> Request:
    return replace(request, headers=tuple(header for header in request.headers if header != _OBSERVE))


async def _answer(exchange_id: int, request: Request, answering: Callable[[], Awaitable[Response]]) -> Response | Failure:
    try:
        return await answering()
    except TooLarge as error:
        return Failure(exchange_id, FailureCode.TOO_LARGE, str(error))
    except Unreachable as error:
        return Failure(exchange_id, FailureCode.REFUSED, str(error))
    except Interrupted as error:
        return Failure(exchange_id, FailureCode.FAILED, str(error))
    except Exception:
        log.exception("answering %s %s failed", request.method, request.target)
        return Failure(exchange_id, FailureCode.FAILED, "internal error")


def _error_of(code: FailureCode, reason: str) -> ExchangeError:
    said = reason or code.name.lower()
    if code is FailureCode.REFUSED:
        return Unreachable(f"refused by the other end: {said}")
    if code is FailureCode.TOO_LARGE:
        return TooLarge(f"the other end's answer is too large: {said}")
    return Interrupted(f"failed at the other end: {said}")


class LinkExchange:
    """The `Exchange` that a link offers, observations included: a view of its multiplexer."""

    def __init__(self, multiplexer: Multiplexer) -> None:
        self._multiplexer = multiplexer

    @property
    def profile(self) -> LinkProfile:
        return self._multiplexer.profile

    async def exchange(self, request: Request) -> Response:
        """See `Multiplexer.exchange`."""
        return await self._multiplexer.exchange(request)

    def observe(self, request: Request) -> AbstractAsyncContextManager[Observation]:
        """See `Multiplexer.observe`."""
        return self._multiplexer.observe(request)
