"""The lines of the box: opened, met, served and told to those who route by them, for as long as the box runs.

Each configured line is a `Link` (or a UDP listener with many peers). Every connection that comes up carries requests both ways: the other
end's go into the same application as HTTP, ours go out through an `Exchange` that peers and gateway routes are told of. An anonymous
connection is somebody who wants to pair, and is let in only while an offer is open.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from edgeserver.app.lasting import contained, lasting
from edgeserver.app.wires import driver_of, is_shared, listener_of
from edgeserver.matrix import canonical_json, errors, server_names
from edgeserver.store import pairings
from edgeserver.store.pairings import Pairing
from transports.client import LinkExchange, Multiplexer
from transports.exchange import ExchangeError, Priority, Request
from transports.identity import Identity, client_identity
from transports.link.connection import Link, LinkDown
from transports.link.pairing import Offer, Paired, PairingFailed, PairingQR, guest, host
from transports.link.switchboard import Switchboard
from transports.server import serve as serve_link

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from edgeserver.app.facts import ToldFolder
    from edgeserver.clock import Clock
    from edgeserver.config import Link as LinkConfig
    from edgeserver.federation.peers import Peers
    from edgeserver.gateway.routes import GatewayRoutes
    from edgeserver.store.database import Database
    from transports.link.connection import Connection
    from transports.link.wire import Driver, LinkStats
    from transports.lowband.told import Told
    from transports.udp import UdpListener

log = logging.getLogger(__name__)

PAIR_TIMEOUT = 120.0
_PAIR_TRIES = 4
FAREWELL = 5.0
TIME_PATH = "/_edgeserver/v1/time"
ROUTES_PATH = "/_edgeserver/v1/gateway/routes"
RETURNED_PATH = "/_edgeserver/v1/gateway/returned"
KEY_PATH = "/_matrix/key/v2/server"
KEYS_ASKED_SECONDS = 3 * 3600.0
"""So often a gateway sees to it that it holds fresh key responses of those that it fronts for."""


@dataclass(slots=True)
class Line:
    """One configured line. `scope` stops its link, so that pairing may have the port to itself."""

    name: str
    uri: str
    driver: Driver | None
    link: Link | None = None
    listener: UdpListener | None = None
    scope: trio.CancelScope | None = None
    begun: trio.Event = field(default_factory=trio.Event)
    stopped: trio.Event = field(default_factory=trio.Event)
    resume: trio.Event = field(default_factory=trio.Event)
    connections: dict[str, Connection] = field(default_factory=dict)
    exchanges: dict[str, LinkExchange] = field(default_factory=dict)

    @property
    def stats(self) -> LinkStats | None:
        return None if self.link is None else self.link.stats


@dataclass(frozen=True, slots=True)
class Standing:
    """How a line stands, for people: `peer` is None while nobody answers, `trouble` says why the port is not open."""

    name: str
    uri: str
    peers: list[str]
    trouble: str | None
    stats: LinkStats | None


class LinkService:
    """Runs the lines. `run` is one task for the life of the box; the other methods may be called at any time."""

    def __init__(
        self,
        configured: list[LinkConfig],
        *,
        db: Database,
        identity: Identity,
        server_name: str,
        peers: Peers,
        routes: GatewayRoutes,
        clock: Clock,
        app: Any,
        paired: Callable[[Pairing], Awaitable[None]],
        facts: ToldFolder,
        drivers: dict[str, Driver] | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`app` is the ASGI application; `paired` is told of each new pairing; `facts` has what devices have been told; `drivers`
        replace those of the URIs by line name; `random` gives the keys of sessions and the codes of offers.
        """
        self._tell_paired = paired
        self._facts = facts
        self._random = random
        self._db = db
        self._identity = identity
        self._server_name = server_name
        self._peers = peers
        self._routes = routes
        self._clock = clock
        self._app = app
        self._known: dict[bytes, Pairing] = {}
        self._offer: Offer | None = None
        self._settling: Offer | None = None  # used, but its guest may not have heard so: he may come again
        self._paired: Pairing | None = None
        self._fronting = False
        self._guests = 0
        self._nursery: trio.Nursery | None = None
        self._boards: dict[int, Switchboard] = {}  # by driver: several lines may share a station on one channel
        self._ports: dict[str, Driver] = {}
        self.lines = [self._line(one, (drivers or {}).get(one.name or one.uri)) for one in configured]

    def _line(self, config: LinkConfig, driver: Driver | None) -> Line:
        name = config.name or config.uri
        if driver is None and is_shared(config.uri):
            driver = self._ports.setdefault(config.uri, driver_of(config.uri))
        elif driver is None and listener_of(config.uri) is None:
            driver = driver_of(config.uri)
        return Line(name, config.uri, driver)

    async def load(self) -> None:
        """Reads who is paired; to be called before `run`."""
        found = await self._db.read(pairings.all_pairings)
        self._known = {one.public_key: one for one in found}
        await self._facts.keep_only(one.public_key for one in found if not one.is_box)
        await self._routes.load()

    def known(self, public_key: bytes) -> str | None:
        """The identity of a paired peer: a server name, or `client:<key>` of a device."""
        pairing = self._known.get(public_key)
        if pairing is None:
            return None
        return pairing.name if pairing.is_box else client_identity(public_key)

    async def run(self) -> None:
        async with trio.open_nursery() as self._nursery:
            for line in self.lines:
                run = self._run_listener if line.driver is None else self._run_line
                self._nursery.start_soon(lasting, f"the line {line.name}", run, line)

    # One line

    async def _run_line(self, line: Line) -> None:
        assert line.driver is not None
        while True:
            board = self._boards.setdefault(id(line.driver), Switchboard())
            line.link = Link(
                line.driver,
                self._identity,
                self.known,
                peer_key=self._callee(line.name),
                switchboard=board,
                expects=partial(self._expects_a_call, line.name),
                random=self._random,
            )
            line.link.strangers_welcome = (self._offer or self._settling) is not None
            line.stopped, line.resume = trio.Event(), trio.Event()
            try:
                with trio.CancelScope() as line.scope:
                    line.begun.set()
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(line.link.run)
                        async for connection in line.link.connections():
                            nursery.start_soon(self._serve, line, connection)
            finally:
                line.link = None
                line.stopped.set()
            await line.resume.wait()

    def _callee(self, line_name: str) -> bytes | None:
        return next((one.public_key for one in self._known.values() if one.link == line_name), None)

    def _expects_a_call(self, line_name: str) -> bool:
        """Whether somebody is paired who does not belong to another line."""
        return any(one.link in (None, line_name) for one in self._known.values())

    async def _run_listener(self, line: Line) -> None:
        from transports.udp import UdpListener

        where = listener_of(line.uri)
        assert where is not None
        line.listener = UdpListener(where.host, where.port, self._identity, self.known, random=self._random)
        line.listener.strangers_welcome = self._offer is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.listener.run)
            async for connection in line.listener.connections():
                nursery.start_soon(self._serve, line, connection)

    async def _serve(self, line: Line, connection: Connection) -> None:
        """One connection until it is down."""
        try:
            if connection.peer_key is None:
                await self._pair_with_stranger(connection)
            elif connection.profile.peer is not None and connection.peer_key in self._known:
                await self._serve_peer(line, connection, connection.profile.peer, connection.peer_key)
        except LinkDown:
            pass
        except Exception:  # one connection's trouble is not the box's
            log.exception("the connection on %s failed", line.name)
        finally:
            with trio.move_on_after(2, shield=True):
                await connection.aclose()

    async def _serve_peer(self, line: Line, connection: Connection, peer: str, public_key: bytes) -> None:
        if self._known[public_key].is_box or not connection.profile.is_thin:
            await self._serve_peer_with(line, connection, peer, public_key, None)
        else:
            async with self._facts.of(public_key) as told:
                await self._serve_peer_with(line, connection, peer, public_key, told)

    async def _serve_peer_with(self, line: Line, connection: Connection, peer: str, public_key: bytes, told: Told | None) -> None:
        pairing = self._known[public_key]
        multiplexer = Multiplexer(connection, told=told)
        exchange = LinkExchange(multiplexer)
        line.connections[peer], line.exchanges[peer] = connection, exchange
        log.info("%s: %s is here", line.name, peer)
        if self._settling is not None and self._settling.used_by == public_key:
            self.close_offer()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_link, multiplexer, self._app)
                if pairing.is_box:
                    self._routes.link_up(public_key, exchange)
                    self._peers.link_up(peer, exchange, gateway=pairing.gateway)
                    nursery.start_soon(self._greet, pairing, exchange)
                if pairing.fronted:
                    nursery.start_soon(self._keep_keys, public_key, exchange)
                await connection.wait_down()
                self._forget(line, pairing, connection, exchange)
                nursery.cancel_scope.deadline = trio.current_time() + 30  # let handlers that are at work finish
        finally:
            self._forget(line, pairing, connection, exchange)
            log.info("%s: %s is gone", line.name, peer)

    def _forget(self, line: Line, pairing: Pairing, connection: Connection, exchange: LinkExchange) -> None:
        """Nothing goes out over that connection any more."""
        peer = connection.profile.peer
        if peer is not None and line.connections.get(peer) is connection:
            del line.connections[peer], line.exchanges[peer]
        if pairing.is_box:
            self._peers.link_down(pairing.name, exchange)
            self._routes.link_down(pairing.public_key, exchange)

    async def _greet(self, pairing: Pairing, exchange: LinkExchange) -> None:
        """What boxes tell each other when they meet: the time, and who is reached through whom."""
        try:
            await self._learn_time(pairing, exchange)
            if pairing.gateway:
                await self._announce(pairing, exchange)
        except (ExchangeError, canonical_json.CanonicalJSONError) as error:
            log.info("greeting %s: %s", pairing.name, error)

    async def _learn_time(self, pairing: Pairing, exchange: LinkExchange) -> None:
        if self._clock.trusted:
            return
        asked = self._clock.now_ms()
        response = await exchange.exchange(Request("GET", TIME_PATH, priority=Priority.INTERACTIVE))
        if response.status == 200:
            told = canonical_json.decode(response.body)
            if isinstance(told, dict) and told.get("trusted") is True and type(told.get("now")) is int:
                self._clock.learn(pairing.name, told["now"] + (self._clock.now_ms() - asked) // 2)

    async def _announce(self, pairing: Pairing, exchange: LinkExchange) -> None:
        body = canonical_json.encode(self._routes.announcement(pairing.name))
        headers = (("content-type", "application/json"),)
        response = await exchange.exchange(Request("PUT", ROUTES_PATH, "", headers, body))
        if response.status != 200:
            log.warning("%s is set as our gateway, but does not front for us: pair again with --front at its end", pairing.name)

    async def routes_changed(self) -> None:
        """Other names are reached through us: our gateway is told of them, and their keys are asked for, in the background."""
        if self._nursery is None:
            return
        for line in self.lines:
            for peer, connection in list(line.connections.items()):
                pairing, exchange = self._known.get(connection.peer_key or b""), line.exchanges[peer]
                if pairing is not None and pairing.gateway:
                    self._nursery.start_soon(contained, f"telling {peer} of new names", self._greet, pairing, exchange)
                if pairing is not None and pairing.fronted:
                    self._nursery.start_soon(contained, f"the keys behind {peer}", self._ask_keys, pairing.public_key, exchange)

    def way_returned(self, server_name: str | None) -> None:
        """The way to servers at large (None) is back: the boxes that we front for are told, for others back off from them, too."""
        if server_name is not None or self._nursery is None:
            return
        for line in self.lines:
            for peer, connection in line.connections.items():
                pairing = self._known.get(connection.peer_key or b"")
                if pairing is not None and pairing.fronted and not pairing.gateway:
                    self._nursery.start_soon(contained, f"telling {peer} of the uplink", self._tell_returned, peer, line.exchanges[peer])

    async def _tell_returned(self, peer: str, exchange: LinkExchange) -> None:
        try:
            await exchange.exchange(Request("POST", RETURNED_PATH, priority=Priority.INTERACTIVE))
        except ExchangeError as error:
            log.info("%s could not be told that the uplink is back: %s", peer, error)  # it will be, when its link comes up

    async def _keep_keys(self, public_key: bytes, exchange: LinkExchange) -> None:
        """For as long as the link is up: what is signed behind it can be verified when it is down."""
        while True:
            await self._ask_keys(public_key, exchange)
            await trio.sleep(KEYS_ASKED_SECONDS)

    async def _ask_keys(self, public_key: bytes, exchange: LinkExchange) -> None:
        for name in self._routes.names_via(public_key):
            if self._routes.keys_are_fresh(name):
                continue
            try:
                response = await exchange.exchange(Request("GET", KEY_PATH, name, priority=Priority.RECEIPT, timeout=300.0))
            except ExchangeError as error:
                log.info("the keys of %s could not be had: %s", name, error)
                continue
            if response.status == 200:
                await self._routes.remember_key_response(name, response.body)

    # Pairing

    def open_offer(self, *, front: bool) -> tuple[str, str]:
        """Lets one stranger pair within ten minutes; returns the short code and the QR string. `front`: be its gateway."""
        self._offer = Offer(self._server_name, self._identity.public_key, now=trio.current_time(), random=self._random)
        self._fronting = front
        self._paired = self._settling = None
        self._welcome(True)
        return self._offer.code, self._offer.qr.format()

    def close_offer(self) -> None:
        self._offer = self._settling = None
        self._welcome(False)

    def _welcome(self, welcome: bool) -> None:
        for line in self.lines:
            if line.link is not None:
                line.link.strangers_welcome = welcome
            if line.listener is not None:
                line.listener.strangers_welcome = welcome

    @property
    def offer_trouble(self) -> str | None:
        """Why nobody can pair (any more); None while an offer is open, or the pairing with who has used it is being written down."""
        if self._offer is None:
            return "no pairing is open"
        return None if self._guests and self._offer.used else self._offer.trouble(trio.current_time())

    @property
    def last_paired(self) -> Pairing | None:
        """Who paired since the offer was opened."""
        return self._paired

    async def _pair_with_stranger(self, connection: Connection) -> None:
        offer = self._offer or self._settling
        if offer is None:
            return
        self._guests += 1
        try:
            with trio.move_on_after(PAIR_TIMEOUT):
                paired = await host(connection, offer, trio.current_time, self._random)
                is_box = server_names.is_valid(paired.name) and "." in paired.name
                self._check_name(paired.name, paired.public_key)
                fronted, now_ms = is_box and self._fronting, self._clock.now_ms()
                await self._add(Pairing(paired.public_key, paired.name, is_box, None, fronted, False, now_ms))
                self._paired = self._known[paired.public_key]
                self._offer, self._settling = None, offer
        except (PairingFailed, LinkDown, errors.MatrixError) as error:
            log.warning("a pairing failed: %s", error)
        finally:
            self._guests -= 1

    async def join_offer(self, line_name: str, secret: str, *, gateway: bool) -> Pairing:
        """Pairs with the box at the other end of a line by its code or QR string. Raises M_NOT_FOUND, M_FORBIDDEN (wrong code)."""
        line = next((one for one in self.lines if one.name == line_name), None)
        if line is None or line.driver is None:
            raise errors.NotFound(f"There is no line {line_name!r} to pair over; edgeserver link status lists those that there are.")
        parsed = PairingQR.parse(secret) if secret.startswith("edgeserver:") else secret
        await self._stop(line)
        try:
            paired = await self._be_guest(line.driver, parsed)
            self._check_name(paired.name, paired.public_key)
            pairing = Pairing(paired.public_key, paired.name, True, line.name, False, gateway, self._clock.now_ms())
            await self._add(pairing)
            return pairing
        finally:
            line.resume.set()

    async def _stop(self, line: Line) -> None:
        await line.begun.wait()
        assert line.scope is not None
        line.scope.cancel()
        await line.stopped.wait()

    async def _be_guest(self, driver: Driver, secret: str | PairingQR) -> Paired:
        """Raises M_FORBIDDEN, and M_UNKNOWN if nobody answers or the line breaks."""
        link = Link(driver, self._identity, lambda key: None, as_stranger=True, random=self._random)
        outcome: Paired | Exception = errors.Unknown("Nobody answered on the line within two minutes.", status=504)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            with trio.move_on_after(PAIR_TIMEOUT):
                outcome = await self._meet_host(link, secret)
            nursery.cancel_scope.cancel()
        if isinstance(outcome, Exception):  # raised in the nursery, it would end as a group
            raise outcome
        return outcome

    async def _meet_host(self, link: Link, secret: str | PairingQR) -> Paired | Exception:
        """The host, or why we are not paired with it."""
        for tries_left in reversed(range(_PAIR_TRIES)):
            connection = await link.wait_up()
            try:
                paired = await guest(connection, self._server_name, self._identity.public_key, secret, self._random)
                break
            except PairingFailed as error:
                return errors.Forbidden(f"The pairing failed: {error}.")
            except LinkDown as error:  # perhaps only its last message was lost: it lets us come again
                if not tries_left:
                    return errors.Unknown(f"The line broke while pairing: {error}.", status=504)
        with trio.move_on_after(FAREWELL):  # the host must hear that its last message has arrived
            await connection.wait_down()
        return paired

    def _check_name(self, name: str, public_key: bytes) -> None:
        """Nobody pairs under a name that is another's. Raises M_FORBIDDEN."""
        stated = server_names.key_of(name)
        if name == self._server_name or (stated is not None and stated != public_key):
            raise errors.Forbidden(f"The other end calls itself {name}, and is not.")
        if any(one.is_box and one.name == name and one.public_key != public_key for one in self._known.values()):
            raise errors.Forbidden(f"{name} is paired with another key; if it has a new one, unpair it first.")

    async def _add(self, pairing: Pairing) -> None:
        await self._db.write(lambda tx: pairings.put(tx, pairing))
        await self.load()
        await self._tell_paired(pairing)
        log.info("paired with %s", pairing.name)

    async def unpair(self, name: str) -> bool:
        """Ends the pairing with that name; False if there is none."""
        found = [one for one in self._known.values() if one.name == name]
        for one in found:
            await self._db.write(lambda tx, one=one: pairings.remove(tx, one.public_key))  # type: ignore[misc]
        await self.load()
        for line in self.lines:
            for connection in list(line.connections.values()):
                if connection.peer_key is not None and connection.peer_key not in self._known:
                    await connection.aclose()
        await self.routes_changed()
        return bool(found)

    # For people

    def pairings(self) -> list[Pairing]:
        return list(self._known.values())

    def standing(self) -> list[Standing]:
        """How each line stands."""
        return [
            Standing(line.name, line.uri, sorted(line.connections), None if line.link is None else line.link.trouble, line.stats)
            for line in self.lines
        ]

    def exchange_on(self, line_name: str) -> LinkExchange | None:
        """The way to whoever is at the other end of the line (the first, if a listener has several); None while nobody is there."""
        line = next((one for one in self.lines if one.name == line_name), None)
        return next(iter(line.exchanges.values()), None) if line is not None else None
