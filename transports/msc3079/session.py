"""One client of MSC3079 over a channel of datagrams: its messages become requests, the responses go back as the wire likes them.

The channel is any that carries whole datagrams and tells by trio's errors that it has ended; `transports.dtls` makes such. The handler is
that of every wire (`transports.server.AsgiHandler`).
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from transports import syncing
from transports.coap.blockwise import LARGEST
from transports.coap.exchange import DEFAULTS, Parameters
from transports.coap.server import Asked, Forgotten, ServerSession, Taken
from transports.exchange import Response, TooLarge
from transports.msc3079 import mapping
from transports.observing import Observer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from transports.coap.blockwise import Allowance
    from transports.coap.message import Options
    from transports.coap.server import Event
    from transports.exchange import Request
    from transports.msc3079.mapping import Asking

    Handler = Callable[[Request, trio.Event], Awaitable[Response]]

log = logging.getLogger(__name__)

IDLE_SECONDS = 3600.0
"""A client of whom nothing has come for so long has gone; those that there are ping once a minute."""
DTLS_OVERHEAD = 37
"""Bytes of a DTLS record besides its content: header, and nonce and tag of AES-GCM (RFC 6347 §4.1, RFC 5288)."""
COAP_OVERHEAD = 64
"""Bytes of a message with a block besides the block, at most: header, token and options of an answer."""
LARGE = 128 * 1024
"""Bytes of a body from which it is rewritten on another thread."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What CoAP has to know of a wire on which a datagram takes a while: its times, and the size exponent of the largest block.

    RFC 7252 §4.8 lets an application choose other times than the defaults, which are made for the internet; block sizes are RFC 7959's.
    """

    parameters: Parameters
    largest_block: int


def pace_of(bit_rate: int, mtu: int) -> Pace:
    """For a wire of `bit_rate` bits a second (ten of them to a byte) and `mtu` bytes in each datagram, DTLS included.

    A confirmable message and its acknowledgement each may have to wait for the datagram that is on the wire already.
    """
    datagram = mtu * 10 / bit_rate
    parameters = Parameters(ack_timeout=DEFAULTS.ack_timeout + 2 * datagram, travel=datagram)
    room = mtu - DTLS_OVERHEAD - COAP_OVERHEAD
    return Pace(parameters, min(LARGEST, max(0, room.bit_length() - 5)))


class Channel(Protocol):
    """Whole datagrams to and from one peer. Both raise trio's ClosedResourceError, BrokenResourceError or EndOfChannel at the end."""

    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes: ...


async def serve(
    channel: Channel,
    handler: Handler,
    allowance: Allowance,
    *,
    idle: float = IDLE_SECONDS,
    pace: Pace | None = None,
    chance: Callable[[], float] = random.random,
) -> None:
    """Answers one client until it or the channel has gone. `allowance` bounds what all clients together have in transfers; `pace` is
    that of a slow wire.
    """
    server = ServerSession(chance, allowance, extra=mapping.UNDERSTOOD)
    if pace is not None:
        server = ServerSession(
            chance, allowance, extra=mapping.UNDERSTOOD, parameters=pace.parameters, largest=pace.largest_block, quick=False
        )
    await _Session(channel, handler, server, idle).run()


@dataclass(eq=False, slots=True)
class _Observation:
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    taken: trio.Event = field(default_factory=trio.Event)


class _Session:
    def __init__(self, channel: Channel, handler: Handler, server: ServerSession, idle: float) -> None:
        self._channel = channel
        self._handler = handler
        self._server = server
        self._idle = idle
        self._memory = mapping.Memory()
        self._gone = trio.Event()
        self._changed = trio.Event()
        self._sending = trio.Lock()
        self._observations: dict[int, _Observation] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._keep_time)
                await self._listen()
                self._gone.set()
                self._nursery.cancel_scope.cancel()
        finally:
            self._gone.set()
            self._server.close()

    async def _listen(self) -> None:
        while True:
            with trio.move_on_after(self._idle) as patience:
                try:
                    data = await self._channel.receive()
                except (trio.ClosedResourceError, trio.BrokenResourceError, trio.EndOfChannel):
                    return
            if patience.cancelled_caught:
                return
            await self._act(self._server.receive(data, trio.current_time()))

    async def _keep_time(self) -> None:
        while True:
            self._changed = trio.Event()
            deadline = self._server.deadline
            with trio.move_on_at(float("inf") if deadline is None else deadline):
                await self._changed.wait()
            await self._act(self._server.advance(trio.current_time()))

    async def _act(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Asked):
                self._begin(event)
            elif isinstance(event, Taken) and (observation := self._observations.get(event.exchange)) is not None:
                observation.taken.set()
            elif isinstance(event, Forgotten) and (observation := self._observations.get(event.exchange)) is not None:
                observation.scope.cancel()
        await self._flush()

    async def _flush(self) -> None:
        """Sends what there is to send, in its order."""
        self._changed.set()
        async with self._sending:
            for data in self._server.take():
                try:
                    await self._channel.send(data)
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    return  # whoever listens finds out

    def _begin(self, asked: Asked) -> None:
        """Reads the request at once: what it says of token and version holds for those that come after it."""
        try:
            asking = mapping.request_of(asked.request, self._memory)
        except mapping.Refused as refused:
            self._server.answer(asked.exchange, refused.code, (), refused.reason.encode(), trio.current_time())
            return
        assert self._nursery is not None
        if syncing.is_sync(asking.request) and asked.observes:
            self._nursery.start_soon(self._observe, asked.exchange, asking)
        else:
            if asked.deregisters and syncing.is_sync(asking.request):
                asking = mapping.Asking(syncing.at_once(asking.request), asking.wants_json)
            self._nursery.start_soon(self._carry_out, asked.exchange, asking)

    async def _carry_out(self, exchange: int, asking: Asking) -> None:
        response = await self._response(asking.request)
        await self._answer(exchange, asking, response)

    async def _answer(self, exchange: int, asking: Asking, response: Response, *, observe: bool = False) -> None:
        code, options, payload = await self._message(asking, response)
        self._server.answer(exchange, code, options, payload, trio.current_time(), observe=observe)
        await self._flush()

    async def _response(self, request: Request) -> Response:
        try:
            return await self._handler(request, self._gone)
        except TooLarge as error:
            log.info("an answer over CoAP was too large: %s", error)
            body = b'{"errcode":"M_TOO_LARGE","error":"The answer is larger than is sent over CoAP."}'
            return Response(500, (("content-type", "application/json"),), body)

    async def _message(self, asking: Asking, response: Response) -> tuple[int, Options, bytes]:
        if len(response.body) < LARGE:
            return mapping.message_of(response, self._memory, wants_json=asking.wants_json)
        memory = mapping.Memory(None, self._memory.version)
        return await trio.to_thread.run_sync(lambda: mapping.message_of(response, memory, wants_json=asking.wants_json))

    # — observing /sync

    async def _observe(self, exchange: int, asking: Asking) -> None:
        """The registration is answered at once with what there is (MSC3079); a CoAP client acknowledges what it has taken."""
        observation = self._observations[exchange] = _Observation()
        observer = Observer(syncing.at_once(asking.request), syncing.Form.CLASSIC, self._response, acknowledges=True)
        try:
            with observation.scope:
                first = await observer.first()
                await self._answer(exchange, asking, first, observe=not observer.is_over)
                if not observer.is_over:
                    await self._tell_news(exchange, observation, asking, observer)
        finally:
            del self._observations[exchange]

    async def _tell_news(self, exchange: int, observation: _Observation, asking: Asking, observer: Observer) -> None:
        while self._server.observes(exchange):
            while not self._server.is_free(exchange):
                observation.taken = trio.Event()
                await observation.taken.wait()
            code, options, payload = await self._message(asking, await observer.next())
            told = self._server.notify(exchange, code, options, payload, trio.current_time())
            await self._flush()
            if not told or observer.is_over:
                return
