"""An `Exchange` over a link, and the pump that carries both directions over one connection.

`Multiplexer` reads the connection, answers the other end's requests through a handler (`transports.server` has one for
an ASGI application) and hands answers to whoever waits in `exchange`. It lives as long as its connection::

    multiplexer = Multiplexer(connection)
    await nursery.start(multiplexer.run, handler)      # ends when the link is down and the last handler has finished
    response = await multiplexer.exchange(request)
    async with multiplexer.open(request) as duplex:    # goes on in pieces, until either end leaves
        await duplex.send(piece)

Every request that arrives is answered exactly once, also after a CANCEL, so an id is free when its answer has come. The
id of a request that nobody waits for any more stays taken until then, or until many later ones were given up, too; that
of a duplex also until its last piece was acknowledged.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from transports.duplex import PieceStream
from transports.exchange import (
    Duplex,
    ExchangeError,
    Interrupted,
    LinkProfile,
    Priority,
    Request,
    Response,
    TimedOut,
    TooLarge,
    Unreachable,
)
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
    Part,
    RequestMessage,
    ResponseMessage,
    Session,
)
from transports.lowband.pieces import PieceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from transports.link.connection import Connection

log = logging.getLogger(__name__)

HELLO_PATIENCE = 10.0
"""Seconds that a first request waits for the other end's HELLO, so that it can be written in the short form."""
LINGER = 30.0
"""Seconds that handlers of unsafe requests may go on after the link went down."""
_MAX_ABANDONED = 1024
_MAX_WAITING = 4096
_MAX_REFUSALS = 16
_MAX_OPEN = 64
_PART_OVERHEAD = 4
_DOWN = "the link is down"
_SAFE_METHODS = frozenset(("GET", "HEAD"))


class RequestHandler(Protocol):
    """Answers one request of the other end. `gone` is set when nobody waits for the answer any more."""

    async def __call__(self, request: Request, gone: trio.Event) -> Response: ...


class DuplexHandler(Protocol):
    """Answers one duplex of the other end: pieces first, the end is the response. The asking end's pieces follow
    `request.body`; `duplex` is interrupted when it has left."""

    async def converse(self, request: Request, duplex: Duplex) -> Response: ...


@dataclass(eq=False)
class _Waiting:
    """A request of ours; `outcome` is set once. `stream` if it is a duplex."""

    stream: PieceStream | None = None
    sending: trio.CancelScope = field(default_factory=trio.CancelScope)
    left: bool = False
    arrived: trio.Event = field(default_factory=trio.Event)
    done: trio.Event = field(default_factory=trio.Event)
    outcome: Response | ExchangeError | None = None

    def finish(self, outcome: Response | ExchangeError) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.done.set()
            self.arrived.set()  # or never will: nobody needs to wait for it
            if self.stream is not None:
                self.stream.end(outcome)


@dataclass(eq=False)
class _Serving:
    """A request of the other end. `stream` if it is a duplex; `verdict` answers when `gone` is set."""

    safe: bool
    stream: PieceStream | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    gone: trio.Event = field(default_factory=trio.Event)
    verdict: tuple[FailureCode, str] = (FailureCode.CANCELLED, "")

    def leave(self, reason: str, linger: float) -> None:
        """Nobody waits. What changes nothing is cancelled; what may change something runs to its end, a duplex no longer
        than `linger` seconds."""
        self.gone.set()
        if self.safe:
            self.scope.cancel()
        if self.stream is not None:
            self.stream.end(Interrupted(reason))
            self.scope.deadline = min(self.scope.deadline, trio.current_time() + linger)


class Multiplexer:
    """Requests and answers of both ends over one connection."""

    def __init__(
        self,
        connection: Connection,
        *,
        session: Session | None = None,
        max_concurrent: int = 32,
        max_duplex: int = 8,
        linger: float = LINGER,
    ) -> None:
        """`max_concurrent` bounds the other end's requests that are being answered, until the answer is acknowledged;
        more are refused. `max_duplex` does so for its duplexes, which are not counted among the requests."""
        self._connection = connection
        self._session = session or Session(remembers=connection.profile.is_thin and connection.max_message >= LEAST_MESSAGE)
        self._max_concurrent = max_concurrent
        self._max_duplex = max_duplex
        self._linger = linger
        self._nursery: trio.Nursery | None = None
        self._greeted = trio.Event()
        self._waiting: dict[int, _Waiting] = {}
        self._abandoned: dict[int, None] = {}
        self._serving: dict[int, _Serving] = {}
        self._busy = 0
        self._conversing = 0
        self._open = 0
        self._refusals = 0
        self._last_id = -1

    @property
    def profile(self) -> LinkProfile:
        return self._connection.profile

    async def run(
        self,
        handler: RequestHandler | None = None,
        duplex_handler: DuplexHandler | None = None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Carries messages until the link is down, then returns. Without a handler the other end's requests are
        refused, without a `duplex_handler` its duplexes. On the way out all waiting requests fail, and unsafe handlers
        get `linger` seconds to finish."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._send_quietly, self._session.encode_hello(), Priority.INTERACTIVE)
            task_status.started()
            try:
                while True:
                    self._read(await self._connection.receive(), handler, duplex_handler, nursery)
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
            if waiting.arrived.is_set():
                waiting.finish(Interrupted(_DOWN))
            elif not waiting.left:
                waiting.finish(Unreachable(_DOWN))
                waiting.sending.cancel()
            # else the connection's `send` is about to say how far the request came
        for serving in self._serving.values():
            serving.leave(_DOWN, self._linger)

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
        raise waiting.outcome or _late(request, waiting)

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[Duplex]:
        """A POST that goes on in pieces, as a context; leaving it tells the other end.

        Enters when the other end has the request, its first piece in the body. `request.timeout` is for this alone; raises
        `ExchangeError`, `Unreachable` also where the other end does not know of pieces. A refusal by whoever answers is
        `Answered`, when receiving. Leaving may overtake the pieces sent last: what must arrive, the other end confirms.
        """
        if self._nursery is None:
            raise Unreachable(_DOWN)
        if self._open >= _MAX_OPEN:
            raise Unreachable("too many duplexes at a time")
        exchange_id = self._take_id()
        stream = self._stream(self._nursery, exchange_id, request.priority, from_asker=True)
        waiting = self._waiting[exchange_id] = _Waiting(stream)
        self._open += 1
        self._nursery.start_soon(self._send_request, exchange_id, request, waiting)
        try:
            with trio.move_on_after(request.timeout):
                await waiting.arrived.wait()
            if not waiting.arrived.is_set():
                raise _late(request, waiting)
            if isinstance(waiting.outcome, ExchangeError):
                raise waiting.outcome
            yield stream
        finally:
            if waiting.outcome is None:
                self._abandon(exchange_id, waiting)
                waiting.finish(Interrupted("this end has left it"))
            if stream.under_way and self._nursery is not None:
                self._nursery.start_soon(self._release, exchange_id, stream)
            else:
                self._released(exchange_id)

    async def _release(self, exchange_id: int, stream: PieceStream) -> None:
        try:
            await stream.settled()
        finally:
            self._released(exchange_id)

    def _released(self, exchange_id: int) -> None:
        del self._waiting[exchange_id]
        self._open -= 1

    def _stream(self, nursery: trio.Nursery, exchange_id: int, priority: Priority, *, from_asker: bool) -> PieceStream:
        async def transmit(number: int, piece: bytes, priority: Priority) -> None:
            message = self._session.encode_part(Part(exchange_id, from_asker, number, piece))
            await self._connection.send(message, priority=priority)

        return PieceStream(nursery, transmit, priority, self._connection.max_message - _PART_OVERHEAD)

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
                duplex = waiting.stream is not None
                # There is no other form of a duplex to fall back to: it waits for a HELLO that has to be repeated, too.
                with trio.move_on_after(float("inf") if duplex else HELLO_PATIENCE):
                    await self._greeted.wait()
                if duplex and not self._session.carries_duplex:
                    raise Unreachable("the other end knows no duplex requests")
                message = self._session.encode_request(exchange_id, request, duplex=duplex)
                if len(message) > self._connection.max_message:
                    raise TooLarge(f"a request of {len(message)} bytes is more than this link carries")
                waiting.left = True
                with trio.CancelScope(shield=self._session.is_final(message)):
                    await self._connection.send(message, priority=request.priority)
                self._session.delivered(request)
                waiting.arrived.set()
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

    async def _send_quietly(self, message: bytes, priority: Priority) -> None:
        try:
            await self._connection.send(message, priority=priority)
        except ExchangeError as error:
            log.debug("not sent over %s: %s", self.profile.name, error)

    # — what arrives

    def _read(self, data: bytes, handler: RequestHandler | None, duplex_handler: DuplexHandler | None, nursery: trio.Nursery) -> None:
        """Raises MemoryLost."""
        try:
            for message in self._session.receive(data):
                self._dispatch(message, handler, duplex_handler, nursery)
        except MessageError as error:
            self._malformed(error, nursery)

    def _dispatch(
        self, message: Message, handler: RequestHandler | None, duplex_handler: DuplexHandler | None, nursery: trio.Nursery
    ) -> None:
        match message:
            case Hello():
                self._greeted.set()
            case RequestMessage(exchange_id, request, duplex=False):
                self._accept(exchange_id, request, handler, nursery)
            case RequestMessage(exchange_id, request):
                self._accept_duplex(exchange_id, request, duplex_handler, nursery)
            case Part(from_asker=True):
                self._take_question(message)
            case Part():
                self._take_answer(message)
            case ResponseMessage(exchange_id, response):
                self._finish(exchange_id, response)
            case Failure(exchange_id, code, reason):
                self._finish(exchange_id, _error_of(code, reason))
            case Cancel(exchange_id):
                # An unknown id is a request whose answer is on its way, or one that was withdrawn before it came.
                serving = self._serving.get(exchange_id)
                if serving is not None:
                    serving.leave("the other end has left it", self._linger)

    def _take_question(self, part: Part) -> None:
        """A piece of a duplex that the other end has opened; of one that is over, it means nothing."""
        serving = self._serving.get(part.exchange_id)
        if serving is None or serving.stream is None:
            return
        try:
            serving.stream.arrived(part.number, part.piece)
        except PieceError as error:
            log.warning("a duplex of %s ended: %s", self.profile.name, error)
            serving.verdict = (FailureCode.FAILED, str(error))
            serving.leave(str(error), self._linger)

    def _take_answer(self, part: Part) -> None:
        """A piece of a duplex that we have opened; of one that we have left, it means nothing."""
        waiting = self._waiting.get(part.exchange_id)
        if waiting is None or waiting.stream is None or waiting.outcome is not None:
            return
        waiting.arrived.set()
        try:
            waiting.stream.arrived(part.number, part.piece)
        except PieceError as error:
            log.warning("a duplex of %s ended: %s", self.profile.name, error)
            self._abandon(part.exchange_id, waiting)
            waiting.finish(Interrupted(str(error)))

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
        elif error.kind in (Kind.RESPONSE, Kind.FAILURE):
            self._finish(error.exchange_id, Interrupted("the answer was not understood"))

    def _accept(self, exchange_id: int, request: Request, handler: RequestHandler | None, nursery: trio.Nursery) -> None:
        if exchange_id in self._serving:
            log.warning("an id in use came again over %s", self.profile.name)
        elif handler is None:
            self._refuse(exchange_id, "this end answers no requests", nursery)
        elif self._busy >= self._max_concurrent:
            self._refuse(exchange_id, "too many requests at a time", nursery)
        else:
            self._busy += 1
            serving = self._serving[exchange_id] = _Serving(request.method in _SAFE_METHODS)
            nursery.start_soon(self._serve_request, exchange_id, request, handler, serving)

    def _accept_duplex(self, exchange_id: int, request: Request, handler: DuplexHandler | None, nursery: trio.Nursery) -> None:
        if exchange_id in self._serving:
            log.warning("an id in use came again over %s", self.profile.name)
        elif handler is None:
            self._refuse(exchange_id, "this end answers no duplex requests", nursery)
        elif self._conversing >= self._max_duplex:
            self._refuse(exchange_id, "too many duplexes at a time", nursery)
        else:
            self._conversing += 1
            stream = self._stream(nursery, exchange_id, request.priority, from_asker=False)
            serving = self._serving[exchange_id] = _Serving(False, stream)
            nursery.start_soon(self._serve_duplex, exchange_id, request, handler, serving, stream)

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

    async def _serve_duplex(
        self, exchange_id: int, request: Request, handler: DuplexHandler, serving: _Serving, stream: PieceStream
    ) -> None:
        async def converse() -> Response:
            try:
                return await handler.converse(request, stream)
            finally:
                stream.end(Interrupted("it has been answered"))

        try:
            await self._serve(exchange_id, request, converse, serving)
        finally:
            self._conversing -= 1

    async def _serve(
        self, exchange_id: int, request: Request, answering: Callable[[], Awaitable[Response]], serving: _Serving
    ) -> None:
        answer: Response | Failure = Failure(exchange_id, FailureCode.CANCELLED, "")
        try:
            with serving.scope:
                answer = await _answer(exchange_id, request, answering)
            if serving.stream is not None:
                await serving.stream.settled()  # the answer may not overtake the pieces before it
        finally:
            # Free before the answer leaves: the other end may use the id again as soon as it has the answer.
            del self._serving[exchange_id]
        if serving.gone.is_set():
            answer = Failure(exchange_id, *serving.verdict)
        await self._send_quietly(self._written(exchange_id, request, answer), request.priority)

    def _written(self, exchange_id: int, request: Request, answer: Response | Failure) -> bytes:
        if isinstance(answer, Response):
            try:
                message = self._session.encode_response(exchange_id, answer, target=request.target)
            except ValueError as error:
                answer = Failure(exchange_id, FailureCode.FAILED, f"the answer cannot be written: {error}")
            else:
                if len(message) <= self._connection.max_message:
                    return message
                answer = Failure(exchange_id, FailureCode.TOO_LARGE, f"an answer of {len(message)} bytes")
        return self._session.encode_failure(answer)


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


def _late(request: Request, waiting: _Waiting) -> ExchangeError:
    if waiting.left:
        return TimedOut(f"no answer within {request.timeout:g} s")
    return Unreachable(f"could not be sent within {request.timeout:g} s")


def _error_of(code: FailureCode, reason: str) -> ExchangeError:
    said = reason or code.name.lower()
    if code is FailureCode.REFUSED:
        return Unreachable(f"refused by the other end: {said}")
    if code is FailureCode.TOO_LARGE:
        return TooLarge(f"the other end's answer is too large: {said}")
    return Interrupted(f"failed at the other end: {said}")


class LinkExchange:
    """The `Exchange` that a link offers, duplexes included: a view of its multiplexer."""

    def __init__(self, multiplexer: Multiplexer) -> None:
        self._multiplexer = multiplexer

    @property
    def profile(self) -> LinkProfile:
        return self._multiplexer.profile

    async def exchange(self, request: Request) -> Response:
        """See `Multiplexer.exchange`."""
        return await self._multiplexer.exchange(request)

    def open(self, request: Request) -> AbstractAsyncContextManager[Duplex]:
        """See `Multiplexer.open`."""
        return self._multiplexer.open(request)
