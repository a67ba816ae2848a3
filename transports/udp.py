"""Link frames in UDP datagrams: `UdpDriver` calls out (through NAT), `UdpListener` serves many peers on one socket.

The caller sends a keep-alive of 22 bytes after each `keepalive` seconds of silence, for the NAT's sake. The listener
gives each peer a connection id of four bytes; a frame that carries it and proves authentic may come from a new
address, which then is the peer's address (roaming). A listener that has restarted answers sealed frames that it
cannot place with a WAKE (see `rendezvous.py`), shorter than what it answers, if their connection id is one that it may
have given: half of an id is a keyed hash of the other half. So nobody finds a listener by sending it what he likes;
whoever is not paired gets an answer to one of 65,536 datagrams at best.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import trio

from transports.link.airtime import DutyCycle
from transports.link.connection import Carrier, Connection
from transports.link.rendezvous import Party, Rendezvous
from transports.link.secure import COUNTER, IK1, NN1, WAKE
from transports.link.wire import LinkStats, Wire, WireGone

if TYPE_CHECKING:
    from collections.abc import Callable

    from transports.identity import Identity

MTU = 1280 - 48  # the IPv6 minimum less IPv6 and UDP headers
_ID = 4
_MAX_PEERS = 256
_MAX_STRANGERS = 32
_MAX_ANONYMOUS = 8
_INBOX = 64
_WAKES_PER_SECOND = 20
_SMALLEST_SEALED = 22

Address = Any  # what the socket module takes and gives: (host, port) or (host, port, flow, scope)


class UdpWire:
    """The caller's socket, connected to the listener."""

    mtu = MTU
    ordered = False
    shared = True
    connection_id = b""

    def __init__(self, socket: trio.socket.SocketType, stats: LinkStats, *, bit_rate: int | None, keepalive: float) -> None:
        self._socket = socket
        self._stats = stats
        self.bit_rate = bit_rate
        self.keepalive = keepalive

    async def send(self, frame: bytes) -> None:
        try:
            await self._socket.send(frame)
        except ConnectionRefusedError:
            return  # an ICMP message about an earlier datagram: the listener may be restarting
        except (OSError, trio.ClosedResourceError) as error:
            raise WireGone(str(error)) from error
        self._stats.frames_out += 1
        self._stats.bytes_out += len(frame)
        await trio.sleep(self.time_on_air(len(frame)))

    async def receive(self) -> bytes:
        while True:
            try:
                frame = await self._socket.recv(MTU + 1)
            except ConnectionRefusedError:
                continue
            except (OSError, trio.ClosedResourceError) as error:
                raise WireGone(str(error)) from error
            self._stats.bytes_in += len(frame)
            self._stats.frames_in += 1
            if len(frame) <= MTU:
                return frame

    def confirm(self) -> None:
        pass

    def time_on_air(self, size: int) -> float:
        return 0.0 if self.bit_rate is None else size * 8 / self.bit_rate

    def receiving(self) -> bool:
        return False

    async def aclose(self) -> None:
        self._socket.close()
        await trio.lowlevel.checkpoint()


class UdpDriver:
    """Calls a listener. The name is looked up at each opening. `bit_rate` limits what we send (None:

    watch for congestion).
    """

    def __init__(self, host: str, port: int, *, bit_rate: int | None = None, keepalive: float = 25.0) -> None:
        self.name = f"udp:{host}:{port}"
        self._host = host
        self._port = port
        self._bit_rate = bit_rate
        self._keepalive = keepalive

    async def open(self, stats: LinkStats) -> UdpWire:
        """Raises `WireGone` when the name is unknown or there is no route."""
        try:
            found = await trio.socket.getaddrinfo(self._host, self._port, type=trio.socket.SOCK_DGRAM)
        except OSError as error:
            raise WireGone(f"{self._host}: {error}") from error
        trouble: OSError | None = None
        for family, kind, protocol, _, address in found:
            socket = trio.socket.socket(family, kind, protocol)
            try:
                await socket.connect(address)
            except OSError as error:
                socket.close()
                trouble = error
                continue
            return UdpWire(socket, stats, bit_rate=self._bit_rate, keepalive=self._keepalive)
        raise WireGone(f"{self._host}: {trouble}")


class _PeerWire:
    """The listener's view of one peer:

    datagrams from the common socket, answers to where the last authentic one came from.
    """

    mtu = MTU
    ordered = False
    shared = True
    keepalive = 0.0
    bit_rate: int | None = None

    def __init__(self, listener: UdpListener, address: Address, connection_id: bytes) -> None:
        self.address = address
        self.connection_id = connection_id
        self.stats = LinkStats()
        self._listener = listener
        self._source = address
        self._put, self._get = trio.open_memory_channel[tuple[bytes, Address]](_INBOX)

    def deliver(self, frame: bytes, source: Address) -> None:
        try:
            self._put.send_nowait((frame, source))
        except trio.WouldBlock:
            return  # as a full socket buffer would

    async def send(self, frame: bytes) -> None:
        await self._listener.transmit(frame, self.address)
        self.stats.frames_out += 1
        self.stats.bytes_out += len(frame)

    async def receive(self) -> bytes:
        frame, self._source = await self._get.receive()
        self.stats.frames_in += 1
        self.stats.bytes_in += len(frame)
        return frame

    def confirm(self) -> None:
        if self._source != self.address:
            self._listener.moved(self, self._source)

    def time_on_air(self, size: int) -> float:
        return 0.0

    def receiving(self) -> bool:
        return False

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class UdpListener:
    """One socket, many peers. `run` serves until cancelled; `connections` gives each peer's connection as it comes up.

    `port` 0 takes a free one, see `address` once `ready` is set. At most 256 peers, of whom 32 may be in the middle
    of a handshake, 8 of them anonymous ones.
    """

    def __init__(
        self,
        host: str,
        port: int,
        identity: Identity,
        known: Callable[[bytes], str | None],
        *,
        max_message: int = 1 << 20,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.name = f"udp:{host}:{port}"
        self.strangers_welcome = False
        self.address: Address = None
        self.ready = trio.Event()
        self.peers: dict[str, Connection] = {}
        self._host = host
        self._port = port
        self._party = Party(identity, known, None, False, lambda: self.strangers_welcome)
        self._max_message = max_message
        self._random = random
        self._by_id: dict[bytes, _PeerWire] = {}
        self._by_address: dict[Address, _PeerWire] = {}
        self._strangers: dict[_PeerWire, bool] = {}  # is it an anonymous caller?
        self._id_key = hashlib.blake2b(identity.seed, person=b"edgeserver ids", digest_size=32).digest()
        self._wakes_left, self._wakes_second = _WAKES_PER_SECOND, 0
        self._put, self._get = trio.open_memory_channel[Connection](_MAX_PEERS)
        self._socket: trio.socket.SocketType | None = None

    async def run(self) -> None:
        """Raises OSError when the address cannot be bound."""
        family = trio.socket.AF_INET6 if ":" in self._host else trio.socket.AF_INET
        with trio.socket.socket(family, trio.socket.SOCK_DGRAM) as socket:
            await socket.bind((self._host, self._port))
            self._socket = socket
            self.address = socket.getsockname()
            self.ready.set()
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        frame, source = await socket.recvfrom(MTU + 1)
                    except ConnectionError:
                        continue  # an ICMP message about some earlier datagram
                    if 0 < len(frame) <= MTU:
                        await self._route(frame, source, nursery)

    def connections(self) -> trio.MemoryReceiveChannel[Connection]:
        """Every peer's connection as it comes up, for one consumer; see `Link.connections`."""
        return self._get

    async def transmit(self, frame: bytes, address: Address) -> None:
        if self._socket is None:
            raise WireGone("not open")
        try:
            await self._socket.sendto(frame, address)
        except (OSError, trio.ClosedResourceError):
            return  # no route to this peer now: as good as lost

    def moved(self, wire: _PeerWire, address: Address) -> None:
        """An authentic frame came from a new address."""
        if self._by_address.get(wire.address) is wire:
            del self._by_address[wire.address]
        wire.address = address
        self._by_address[address] = wire

    async def _route(self, frame: bytes, source: Address, nursery: trio.Nursery) -> None:
        if frame[0] >= 0x80:
            wire = self._by_id.get(frame[COUNTER : COUNTER + _ID])
            if wire is None:
                await self._wake(frame, source)
                return
        else:
            wire = self._by_address.get(source)
        if wire is None and frame[0] in (IK1, NN1) and self._has_room(anonymous=frame[0] == NN1):
            wire = _PeerWire(self, source, self._fresh_id())
            self._by_id[wire.connection_id] = self._by_address[source] = wire
            self._strangers[wire] = frame[0] == NN1
            nursery.start_soon(self._serve, wire)
        if wire is not None:
            wire.deliver(frame, source)

    def _has_room(self, *, anonymous: bool) -> bool:
        if len(self._by_id) >= _MAX_PEERS or len(self._strangers) >= _MAX_STRANGERS:
            return False
        return not anonymous or (self.strangers_welcome and sum(self._strangers.values()) < _MAX_ANONYMOUS)

    def _fresh_id(self) -> bytes:
        while (connection_id := self._id_of(self._random(_ID // 2))) in self._by_id:
            pass
        return connection_id

    def _id_of(self, half: bytes) -> bytes:
        return half + hashlib.blake2b(half, key=self._id_key, digest_size=_ID - len(half)).digest()

    async def _wake(self, frame: bytes, source: Address) -> None:
        second = int(trio.current_time())
        if second != self._wakes_second:
            self._wakes_left, self._wakes_second = _WAKES_PER_SECOND, second
        connection_id = frame[COUNTER : COUNTER + _ID]
        ours = self._id_of(connection_id[: _ID // 2]) == connection_id
        if ours and len(frame) >= _SMALLEST_SEALED and self._wakes_left > 0:
            self._wakes_left -= 1
            await self.transmit(bytes([WAKE]) + frame[:8], source)

    async def _serve(self, wire: _PeerWire) -> None:
        rendezvous = Rendezvous(
            self._party, wire, duty=DutyCycle(), stats=wire.stats, random=self._random, max_message=self._max_message
        )

        def announce(connection: Connection) -> None:
            self._strangers.pop(wire, None)
            self._announce(connection)

        try:
            await Carrier(self.name, wire, rendezvous, wire.stats, announce).run(until_vacant=True)
        except WireGone:
            return
        finally:
            del self._by_id[wire.connection_id]
            self._strangers.pop(wire, None)
            if self._by_address.get(wire.address) is wire:
                del self._by_address[wire.address]

    def _announce(self, connection: Connection) -> None:
        peer = connection.profile.peer
        if peer is not None:
            older = self.peers.get(peer)
            self.peers[peer] = connection
            if older is not None:
                older.supersede()
        for name in [name for name, each in self.peers.items() if not each.is_up]:
            del self.peers[name]
        try:
            self._put.send_nowait(connection)
        except trio.WouldBlock:
            connection.supersede()


def as_wire(wire: UdpWire | _PeerWire) -> Wire:
    """Both ends are wires (checked by the type checker)."""
    return wire
