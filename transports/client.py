"""An `Exchange` over a link, and the pump that carries both directions over one connection.

`Multiplexer` reads the connection, answers the other end's requests through a handler (`transports.server` has one for
an ASGI application) and hands answers to whoever waits in `exchange`. It lives as long as its connection::

    multiplexer = Multiplexer(connection)
    await nursery.start(multiplexer.run, handler)      # ends when the link is down and the last handler has finished
    response = await multiplexer.exchange(request)

Every request that arrives is answered exactly once, also after a CANCEL, so an id is free when its answer has come. The
id of a request that nobody waits for any more stays taken until then, or until many later ones were given up, too.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from transports.exchange import (
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
from transports.lowband.messages import (
    MAX_ID,
    Cancel,
    Failure,
    FailureCode,
    Hello,
    Kind,
    Message,
    MessageError,
    RequestMessage,
    ResponseMessage,
    Session,
)

if TYPE_CHECKING:
    from transports.link.connection import Connection

log = logging.getLogger(__name__)

HELLO_PATIENCE = 10.0
"""Seconds that a first request waits for the other end's HELLO, so that it can be written in the short form."""
LINGER = 30.0
"""Seconds that handlers of unsafe requests may go on after the link went down."""
_MAX_ABANDONED = 1024
_MAX_WAITING = 4096
_MAX_REFUSALS = 16
_DOWN = "the link is down"
_SAFE_METHODS = frozenset(("GET", "HEAD"))


class RequestHandler(Protocol):
    """Answers one request of the other end. `gone` is set when nobody waits for the answer any more."""

    async def __call__(self, request: Request, gone: trio.Event) -> Response: ...


@dataclass(eq=False)
class _Waiting:
    """A request of ours; `outcome` is set once."""

    sending: trio.CancelScope = field(default_factory=trio.CancelScope)
    left: bool = False
    acknowledged: bool = False
    done: trio.Event = field(default_factory=trio.Event)
    outcome: Response | ExchangeError | None = None

    def finish(self, outcome: Response | ExchangeError) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.done.set()


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
        max_concurrent: int = 32,
        linger: float = LINGER,
    ) -> None:
        """`max_concurrent` bounds the other end's requests that are being answered, until the answer is acknowledged;
        more are refused."""
        self._connection = connection
        self._session = session or Session()
        self._max_concurrent = max_concurrent
        self._linger = linger
        self._nursery: trio.Nursery | None = None
        self._greeted = trio.Event()
        self._waiting: dict[int, _Waiting] = {}
        self._abandoned: dict[int, None] = {}
        self._serving: dict[int, _Serving] = {}
        self._busy = 0
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
            nursery.start_soon(self._send_quietly, self._session.encode_hello(), Priority.INTERACTIVE)
            task_status.started()
            try:
                while True:
                    self._dispatch(await self._connection.receive(), handler, nursery)
            except ExchangeError as error:
                log.debug("link %s is down: %s", self.profile.name, error)
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
                await self._connection.send(message, priority=request.priority)
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

    async def _send_quietly(self, message: bytes, priority: Priority) -> None:
        try:
            await self._connection.send(message, priority=priority)
        except ExchangeError as error:
            log.debug("not sent over %s: %s", self.profile.name, error)

    # — what arrives

    def _dispatch(self, data: bytes, handler: RequestHandler | None, nursery: trio.Nursery) -> None:
        try:
            message: Message = self._session.decode(data)
        except MessageError as error:
            self._malformed(error, nursery)
            return
        match message:
            case Hello():
                self._greeted.set()
            case RequestMessage(exchange_id, request):
                self._accept(exchange_id, request, handler, nursery)
            case ResponseMessage(exchange_id, response):
                self._finish(exchange_id, response)
            case Failure(exchange_id, code, reason):
                self._finish(exchange_id, _error_of(code, reason))
            case Cancel(exchange_id):
                # An unknown id is a request whose answer is on its way, or one that was withdrawn before it came.
                serving = self._serving.get(exchange_id)
                if serving is not None:
                    serving.leave()

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
            nursery.start_soon(self._serve, exchange_id, request, handler, serving)

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

    async def _serve(self, exchange_id: int, request: Request, handler: RequestHandler, serving: _Serving) -> None:
        answer: Response | Failure = Failure(exchange_id, FailureCode.CANCELLED, "")
        try:
            try:
                with serving.scope:
                    answer = await _answer(exchange_id, request, handler, serving.gone)
            finally:
                # Free before the answer leaves: the other end may use the id again as soon as it has the answer.
                del self._serving[exchange_id]
            if serving.gone.is_set():
                answer = Failure(exchange_id, FailureCode.CANCELLED, "")
            await self._send_quietly(self._written(exchange_id, request, answer), request.priority)
        finally:
            self._busy -= 1

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


async def _answer(exchange_id: int, request: Request, handler: RequestHandler, gone: trio.Event) -> Response | Failure:
    try:
        return await handler(request, gone)
    except TooLarge as error:
        return Failure(exchange_id, FailureCode.TOO_LARGE, str(error))
    except Unreachable as error:
        return Failure(exchange_id, FailureCode.REFUSED, str(error))
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
    """The `Exchange` that a link offers: a view of its multiplexer."""

    def __init__(self, multiplexer: Multiplexer) -> None:
        self._multiplexer = multiplexer

    @property
    def profile(self) -> LinkProfile:
        return self._multiplexer.profile

    async def exchange(self, request: Request) -> Response:
        """See `Multiplexer.exchange`."""
        return await self._multiplexer.exchange(request)
