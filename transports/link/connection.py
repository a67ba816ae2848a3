"""A link for trio: a `Link` lives as long as its port is configured, a `Connection` as long as one session.

::

    link = Link(driver, identity, known, peer_key=key)
    nursery.start_soon(link.run)
    async for connection in link.connections():
        nursery.start_soon(serve, connection)          # until connection.receive() raises LinkDown

Errors, by what the caller may conclude::

    ExchangeError
    └── LinkDown                            the session is over (what `receive` raises)
        ├── NotDelivered   (Unreachable)    the other end surely does not have the message
        └── PerhapsDelivered (Interrupted)  all of it had left, but no acknowledgement came
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import trio

from transports.exchange import ExchangeError, Interrupted, LinkProfile, Priority, TooLarge, Unreachable
from transports.link.airtime import DutyCycle
from transports.link.rendezvous import Party, Rendezvous, Up
from transports.link.session import Delivered, Ended, Received, Session
from transports.link.switchboard import Seat, Switchboard
from transports.link.wire import Driver, LinkStats, SharedPort, Wire, WireGone

if TYPE_CHECKING:
    from collections.abc import Callable

    from transports.identity import Identity
    from transports.link.fragments import Outgoing

MAX_QUEUED = 32  # messages of one priority that `send` takes at a time; further callers wait
_FAREWELL_SECONDS = 2.0
_UNSEEN = 16
_REOPEN_FIRST, _REOPEN_CAP = 0.25, 5.0


class LinkDown(ExchangeError):
    """The session with the other end is over. Raised as one of the two below by `send`, plain by `receive`."""


class NotDelivered(LinkDown, Unreachable):
    """The message surely did not reach the other end whole: it may be sent again without harm."""


class PerhapsDelivered(LinkDown, Interrupted):
    """All of the message had left but was not acknowledged: the other end may or may not have it."""


class Connection:
    """One session with one peer.

    `profile.peer` is the identity that the handshake proved, None for a stranger who wants to pair; `peer_key` its
    ed25519 key. `handshake_hash` (64 bytes) is the same at both ends and unique. Messages arrive once and whole;
    those of one priority in order of sending unless lost frames hold one up, those of different priorities overtake
    each other.
    """

    def __init__(self, up: Up, wire: Wire, name: str, stats: LinkStats, wake: Callable[[], None]) -> None:
        self.profile = LinkProfile(name=name, bit_rate=wire.bit_rate, mtu=up.session.mtu, peer=up.peer)
        self.stats = stats
        self.peer_key = up.peer_key
        self.handshake_hash = up.session.handshake_hash
        self.max_message = up.session.max_message
        self._session = up.session
        self._wake = wake
        self._waiting: dict[Outgoing, trio.Event] = {}
        self._slots = {priority: trio.Semaphore(MAX_QUEUED) for priority in Priority}
        self._put, self._get = trio.open_memory_channel[bytes](float("inf"))  # bounded by the session's credit
        self._reason: str | None = None
        self._down = trio.Event()

    async def send(self, message: bytes, *, priority: Priority = Priority.MESSAGE) -> None:
        """Returns when the other end has acknowledged the whole message. Waits while `MAX_QUEUED` of this priority
        are under way.

        Cancelled, the message is withdrawn unless all of it has left. Raises `NotDelivered`, `PerhapsDelivered`,
        `TooLarge`.
        """
        if len(message) > self.max_message:
            raise TooLarge(f"{len(message)} bytes; this link carries {self.max_message} in a message")
        async with self._slots[priority]:
            if self._reason is not None:
                raise NotDelivered(self._reason)
            outgoing = self._session.submit(message, priority)
            done = self._waiting[outgoing] = trio.Event()
            self._wake()
            try:
                await done.wait()
            except trio.Cancelled:
                self._session.cancel(outgoing)
                self._wake()
                raise
            finally:
                del self._waiting[outgoing]
        if not outgoing.delivered:
            raise (PerhapsDelivered if outgoing.wholly_sent else NotDelivered)(self._reason or "")

    async def receive(self) -> bytes:
        """The next whole message. What arrived before the end is still handed out; then raises `LinkDown`."""
        try:
            message = await self._get.receive()
        except trio.EndOfChannel:
            raise LinkDown(self._reason or "") from None
        self._session.taken(len(message))
        self._wake()
        return message

    @property
    def is_up(self) -> bool:
        return self._reason is None

    async def wait_down(self) -> str:
        """Returns the reason, once the session is over."""
        await self._down.wait()
        return self._reason or ""

    async def aclose(self) -> None:
        """Ends the session and tells the other end.

        The link lives on and will call again after a pause, or be called.
        """
        self._session.close()
        self._wake()
        await self._down.wait()

    def supersede(self) -> None:
        """Ends the session without a word, for the same peer has come up elsewhere."""
        self._session.abandon("the other end came up on another path")
        self.drain()
        self._wake()

    def drain(self) -> None:
        """Hands on what the session has to say (called by whoever moves its frames)."""
        events = self._session.events
        while events:
            match events.popleft():
                case Received(message):
                    if self._reason is None:
                        self._put.send_nowait(message)
                case Delivered(outgoing):
                    if outgoing in self._waiting:
                        self._waiting[outgoing].set()
                case Ended(reason):
                    self._reason = reason
                    self._put.close()
                    self._down.set()
                    for done in self._waiting.values():
                        done.set()


class Announce(Protocol):
    def __call__(self, connection: Connection) -> None: ...


class Carrier:
    """Moves frames between one open wire and its `Rendezvous` until the wire is gone."""

    def __init__(self, name: str, wire: Wire, rendezvous: Rendezvous, stats: LinkStats, announce: Announce) -> None:
        self._name = name
        self._wire = wire
        self._shared_port = wire if isinstance(wire, SharedPort) else None
        self._rendezvous = rendezvous
        self._stats = stats
        self._announce = announce
        self._connections: dict[Session, Connection] = {}
        self._news = trio.Event()

    async def run(self, *, until_vacant: bool = False) -> None:
        """Raises `WireGone`. `until_vacant`: returns when no session is up or being made."""
        gone: str | None = None
        self._rendezvous.start(trio.current_time())
        try:
            if until_vacant:
                await self._read_one()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                await self._write(until_vacant)
                nursery.cancel_scope.cancel()
        except* WireGone as group:
            gone = str(group.exceptions[0])
        finally:
            if gone is None:
                await self._farewell()
            if self._rendezvous.session is not None:
                self._rendezvous.session.abandon(gone or "the link was shut down")
            self._step()
        if gone is not None:
            raise WireGone(gone)

    def redial(self) -> None:
        self._rendezvous.redial(trio.current_time())
        self.wake()

    def wake(self) -> None:
        """There may be something to send."""
        self._news.set()

    async def _read(self) -> None:
        while True:
            await self._read_one()

    async def _read_one(self) -> None:
        frame = await self._wire.receive()
        if self._rendezvous.receive(frame, trio.current_time()):
            self._wire.confirm()
        self._step()
        self.wake()

    async def _write(self, until_vacant: bool) -> None:
        while True:
            self._news = trio.Event()
            now = trio.current_time()
            frame = self._rendezvous.next_frame(now)
            self._step()
            if frame is not None:
                if self._shared_port is not None:
                    await self._shared_port.send_in_turn(frame, self._rendezvous.urgency, asks=self._rendezvous.asks)
                else:
                    await self._wire.send(frame)
                self._rendezvous.left(trio.current_time())
                continue
            if until_vacant and self._rendezvous.vacant:
                return
            deadline = self._rendezvous.deadline(now)
            with trio.move_on_at(float("inf") if deadline is None else max(deadline, now + 0.001)):
                await self._news.wait()

    async def _farewell(self) -> None:
        session = self._rendezvous.session
        if session is None:
            return
        session.close()
        frame = session.next_frame(trio.current_time())
        if frame is not None:
            with trio.move_on_after(_FAREWELL_SECONDS, shield=True):
                try:
                    await self._wire.send(frame)
                except WireGone:
                    return

    def _step(self) -> None:
        """Announces what came up, and lets every connection say what it has to."""
        ups = self._rendezvous.ups
        while ups:
            up = ups.popleft()
            self._stats.since = trio.current_time()
            connection = Connection(up, self._wire, self._name, self._stats, self.wake)
            self._connections[up.session] = connection
            for older in self._connections.values():
                older.drain()
            self._announce(connection)
        for session, connection in list(self._connections.items()):
            connection.drain()
            if session.ended is not None:
                del self._connections[session]


class Link:
    """A long-lived link on one driver: opens it, meets the other end, reopens a vanished port, lives on.

    `known(public_key)` gives a paired peer's identity or None. `peer_key` is whom to call; without it the link waits
    to be called (and wakes whoever is there while it has no session). `as_stranger` calls anonymously and `strangers_welcome`
    may be set while pairing is open. `redial_cap` is the longest pause in seconds between calls into the void;
    WAKEs pause as long, on a shared channel longer.
    `expects` tells whether anybody is paired who might call here; while nobody is, the link says nothing by itself.
    `duty` is shared by all that uses the same transmitter, `switchboard` by all links of one station on a shared channel.
    """

    def __init__(
        self,
        driver: Driver,
        identity: Identity,
        known: Callable[[bytes], str | None],
        *,
        peer_key: bytes | None = None,
        as_stranger: bool = False,
        max_message: int = 1 << 20,
        redial_cap: float = 600.0,
        duty: DutyCycle | None = None,
        switchboard: Switchboard | None = None,
        expects: Callable[[], bool] = lambda: True,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.name = driver.name
        self.stats = LinkStats()
        self.strangers_welcome = False
        self.connection: Connection | None = None
        self.trouble: str | None = None
        self._driver = driver
        self._board = switchboard or Switchboard()
        self._seat = Seat(peer_key, lambda: self.connection is not None and self.connection.is_up)
        self._party = Party(
            identity, known, peer_key, as_stranger, lambda: self.strangers_welcome, self._admits, expects, self._wakes
        )
        self._duty = duty or DutyCycle()
        self._random = random
        self._max_message = max_message
        self._redial_cap = redial_cap
        self._carrier: Carrier | None = None
        self._put, self._get = trio.open_memory_channel[Connection](_UNSEEN)
        self._changed = trio.Event()

    async def run(self) -> None:
        """Runs until cancelled. `trouble` says why the port is not open, if it is not."""
        self._board.add(self._seat)
        try:
            await self._run()
        finally:
            self._board.remove(self._seat)

    async def _run(self) -> None:
        pause = _REOPEN_FIRST
        while True:
            try:
                wire = await self._driver.open(self.stats)
                self.trouble = None
                pause = _REOPEN_FIRST
                await self._carry(wire)
            except WireGone as error:
                self.trouble = str(error)
            await trio.sleep(pause)
            pause = min(2 * pause, _REOPEN_CAP)

    def _admits(self, key: bytes | None) -> bool:
        return self._board.admits(self._seat, key)

    def _wakes(self, now: float, pause: float) -> bool:
        return self._board.wakes(self._seat, now, pause)

    async def _carry(self, wire: Wire) -> None:
        rendezvous = Rendezvous(
            self._party,
            wire,
            duty=self._duty,
            stats=self.stats,
            random=self._random,
            max_message=self._max_message,
            redial_cap=self._redial_cap,
        )
        self._carrier = Carrier(self.name, wire, rendezvous, self.stats, self._announce)
        try:
            await self._carrier.run()
        finally:
            self._carrier = None
            with trio.move_on_after(_FAREWELL_SECONDS, shield=True):
                await wire.aclose()

    def _announce(self, connection: Connection) -> None:
        self.connection = connection
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        if self._put.statistics().current_buffer_used == _UNSEEN:
            self._get.receive_nowait()  # nobody looks, and the oldest is down by now
        self._put.send_nowait(connection)

    def connections(self) -> trio.MemoryReceiveChannel[Connection]:
        """Every connection as it comes up, for one consumer (who serves incoming messages). Others use `wait_up`.

        One that is down already may be among them; its `receive` says so.
        """
        return self._get

    async def wait_up(self) -> Connection:
        """The connection that is up, or the next to come; calls the other end at once if a pause is on."""
        while self.connection is None or not self.connection.is_up:
            if self._carrier is not None:
                self._carrier.redial()
            await self._changed.wait()
        return self.connection
