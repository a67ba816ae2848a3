"""One box, whole: opened from a configuration, run until it is told to stop.

`open_box` builds and runs everything but the listeners and is what flow tests use, with wires and a clock of their own; `serve` adds the
HTTP listeners, the control socket and mDNS.
"""

from __future__ import annotations

import logging
import os
import random
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import trio

from edgeserver.api import control_socket
from edgeserver.api.application import Application
from edgeserver.api.authentication import AccessTokens
from edgeserver.api.endpoint import Gate
from edgeserver.api.ratelimit import RateLimiter
from edgeserver.app import identity as identities
from edgeserver.app import services
from edgeserver.app.facts import ToldFolder
from edgeserver.app.lasting import lasting
from edgeserver.app.links import LinkService
from edgeserver.app.listeners import Tls
from edgeserver.app.listeners import serve as serve_http
from edgeserver.app.media import open_previews, open_repository
from edgeserver.app.push import exchange_post, push_services, web_post
from edgeserver.app.routes import admin_routes, client_routes, server_routes
from edgeserver.app.uplink import Uplink
from edgeserver.clock import NEVER_AFTER_MS, Clock, TimeSource, system_time
from edgeserver.config import Config, host_and_port
from edgeserver.federation.peers import Peers
from edgeserver.gateway.front import GatewayFront
from edgeserver.gateway.routes import GatewayRoutes
from edgeserver.matrix import server_names
from edgeserver.rooms.server_notices import Voice
from edgeserver.store import clock_floor, database, thread_subscriptions
from edgeserver.store.database import StoreError
from edgeserver.wakeups import Wakeups
from transports.identity import Identity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from edgeserver.app.bridging import Bridging
    from edgeserver.app.identity import BoxIdentity
    from edgeserver.app.low_bandwidth import ClientLine
    from edgeserver.app.neighbours import Neighbours
    from edgeserver.app.push import Post, Push
    from edgeserver.bridges.registration import Registration
    from edgeserver.federation.internet import InternetWeb
    from edgeserver.federation.keyring import Keyring
    from edgeserver.media.repository import MediaRepository
    from edgeserver.store.pairings import Pairing
    from edgeserver.users.emails import Emails
    from transports.exchange import Exchange
    from transports.http import HttpPool
    from transports.link.wire import Driver

log = logging.getLogger(__name__)

FLOOR_SECONDS = 3600.0
"""So often the time is noted for the next start. What happens in between is read off the newest events."""


@dataclass(frozen=True, slots=True)
class Wires:
    """What a test or the demo puts in place of the world: an `Exchange` to the internet, drivers by line name, a source of time,
    what leads to the URL of an application service.

    `inline` runs the database in the caller, for virtual clocks; `random_bytes` gives what of a box's chance others can see (names of
    rooms, moments of repeats, keys of sessions on lines), so that a seeded run can be run again: nothing but a test may set it.
    """

    internet: Exchange | None = None
    drivers: Mapping[str, Driver] = field(default_factory=dict)
    time: TimeSource | None = None
    services: Callable[[str], Exchange] | None = None
    inline: bool = False
    random_bytes: Callable[[int], bytes] = os.urandom


@dataclass(frozen=True, slots=True)
class Box:
    """A running box. `app` is its ASGI application, gateway included."""

    config: Config
    identity: BoxIdentity
    ground: services.Ground
    users: services.Users
    rooms: services.Rooms
    inward: services.In
    peers: Peers
    gateway: GatewayRoutes
    links: LinkService
    push: Push
    app: Any
    pool: HttpPool
    uplink: Uplink | None
    media: MediaRepository


@dataclass(frozen=True, slots=True)
class Ready:
    """What to tell the person who started it. `owner` is (user id, password) of the account made on first boot."""

    server_name: str
    client_urls: list[str]
    federation_urls: list[str]
    is_new: bool
    owner: tuple[str, str] | None


@asynccontextmanager
async def open_box(config: Config, wires: Wires | None = None) -> AsyncIterator[Box]:
    """Opens the data folder and runs every task of the box until the block ends.

    Raises `IdentityError`, `NewerFile`, `WireError`, `RegistrationError`, `sqlite3.DatabaseError`.
    """
    wires = wires or Wires()
    identity = identities.load_or_make(config.data, config.server.name, config.server.suffix)
    registrations = _registrations(config, identity)
    async with _loop(inline=wires.inline), database.open_database(config.data / "edgeserver.db", inline=wires.inline) as db:
        floor = await db.read(lambda tx: clock_floor.newest(tx, identity.server_name, before_ms=NEVER_AFTER_MS))
        clock = Clock(_time_source(config, wires), floor)
        async with _pool(config) as pool, AsyncExitStack() as stack, trio.open_nursery() as nursery:
            ground = services.Ground(
                db, Wakeups(), clock, identity.server_name, identity.signing_key, nursery, wires.random_bytes
            )
            bridging = await stack.enter_async_context(_bridging(config, registrations, ground, wires))
            box = await _build(config, identity, ground, wires, pool, bridging)
            for what, *task in (
                ("the sender", box.inward.sender.run),
                ("what comes late", box.inward.late.run),
                ("the notes of when devices were seen", box.users.tokens.run),
                ("typing notifications", box.users.typing.run),
                ("presence", box.users.presence.run),
                ("telling servers who is there", box.inward.presence.run),
                ("the lines", box.links.run),
                ("the completion of rooms", box.rooms.completer.run),
                ("push notifications", box.push.follower.run),
                ("the removal of rooms", box.rooms.removals.run),
                ("the leaving of deactivated accounts", box.rooms.departures.run),
                ("the index of the search", box.rooms.indexer.run),
                ("the note of the time", _note_time, ground),
            ):
                nursery.start_soon(lasting, what, *task)
            if bridging is not None:
                nursery.start_soon(lasting, "the application services", bridging.deliveries(ground, box.users).run)
            if box.uplink is not None:
                box.inward.sender.route_returned(None)  # others have paused for us while we were away: say at once that we are back
            try:
                yield box
            finally:
                await _note_time_at_the_end(ground)
            nursery.cancel_scope.cancel()


def _registrations(config: Config, identity: BoxIdentity) -> list[Registration]:
    if not config.bridges.registrations:
        return []
    from edgeserver.bridges import registration

    return registration.load([config.folder / name for name in config.bridges.registrations], identity.server_name)


@asynccontextmanager
async def _bridging(
    config: Config, registrations: list[Registration], ground: services.Ground, wires: Wires
) -> AsyncIterator[Bridging | None]:
    """The application services; None, and nothing of theirs imported, where none is configured."""
    if not registrations:
        yield None
        return
    from edgeserver.app.bridging import open_bridging

    async with open_bridging(registrations, ground, config.federation.extra_ca or None, wires.services) as bridging:
        yield bridging


def _time_source(config: Config, wires: Wires) -> TimeSource:
    source = wires.time or system_time()
    return replace(source, synchronised=lambda: True) if config.server.clock == "system" else source


async def _note_time(ground: services.Ground) -> None:
    while True:
        await trio.sleep(FLOOR_SECONDS)
        await ground.db.write(lambda tx: clock_floor.note(tx, ground.now_ms()))


async def _note_time_at_the_end(ground: services.Ground) -> None:
    try:
        with trio.CancelScope(shield=True):
            await ground.db.write(lambda tx: clock_floor.note(tx, ground.now_ms()))
    except StoreError as error:
        log.warning("the time could not be noted for the next start: %s", error)


@asynccontextmanager
async def _loop(*, inline: bool) -> AsyncIterator[None]:
    """The trio-asyncio loop that the database's threads report to."""
    if inline:
        yield
        return
    import trio_asyncio

    async with trio_asyncio.open_loop():
        yield


@asynccontextmanager
async def _pool(config: Config) -> AsyncIterator[HttpPool]:
    from transports.http import HttpPool

    async with HttpPool(ca_file=config.federation.extra_ca or None) as pool:
        yield pool


async def _build(
    config: Config, identity: BoxIdentity, ground: services.Ground, wires: Wires, pool: HttpPool, bridging: Bridging | None
) -> Box:
    uplink, web = _internet(config, wires, pool)
    peers = Peers(identity.server_name, uplink, internet_up=uplink is not None)
    if uplink is not None:
        uplink.changed = peers.internet_changed
        ground.nursery.start_soon(lasting, "the watch on the uplink", uplink.run)
    out = services.outward(
        ground, peers, web, config.federation.verify_ordinary_keys_by, trust_clock=config.server.clock == "system"
    )

    async def profile_changed(user_id: str) -> None:
        await rooms.memberships.profile_changed(user_id)

    await ground.db.write(lambda tx: thread_subscriptions.switch(tx, on=config.features.thread_subscriptions))
    users = services.users(
        ground,
        out,
        profile_changed,
        inline=wires.inline,
        emails=_emails(config, ground),
        registration_tokens=config.accounts.registration_tokens,
        presence=config.accounts.presence,
        bridging=bridging,
    )
    said = config.notices
    voice = Voice(said.user, said.name, said.avatar_url, auto_join=said.auto_join)
    rooms = services.rooms(
        ground,
        out,
        users,
        voice,
        partial_joins=config.federation.partial_joins,
        metered=config.federation.metered,
        bridging=bridging,
    )
    peers.on_return(rooms.completer.route_returned)
    push = await push_services(config, ground, users, _post(wires, uplink, web), pool)
    peers.on_return(push.follower.route_returned)
    inward = services.inward(ground, out, users, rooms, peers, bridging)
    media = await open_repository(config, ground, out, inline=wires.inline)
    previews = await open_previews(config, ground, media)
    syncs = services.syncs(ground, users)
    gateway = GatewayRoutes(ground.db, identity.server_name, identity.signing_key, ground.now_ms)
    limiter = RateLimiter(ground.now_ms, enabled=config.limits.rate_limits)

    async def retry(server_name: str) -> None:
        if uplink is not None and not uplink.is_up:
            await uplink.stir()  # whether the internet is back is seen now, and whoever waits for it is told
        inward.sender.route_returned(server_name)

    routes = [
        *client_routes(config, ground, users, rooms, media, previews, syncs, limiter, bridging),
        *admin_routes(ground, users, rooms, media, retry),
        *server_routes(ground, out, users, rooms, inward, media, gateway, peers),
        *push.routes(ground.now_ms),
    ]
    appservices = None if bridging is None else bridging.services
    tokens = AccessTokens(users.tokens, appservices=appservices, in_query=config.lab.query_access_token)
    application = Application(routes, Gate(tokens, limiter, behind_proxy=config.http.behind_proxy))
    app = GatewayFront(
        application, identity.server_name, gateway, lambda name: [way.exchange for way in peers.ways_to(name)], out.keyring.key
    )
    links = LinkService(
        config.links,
        db=ground.db,
        identity=Identity(identity.seed),
        server_name=identity.server_name,
        peers=peers,
        routes=gateway,
        clock=ground.clock,
        app=app,
        paired=lambda pairing: _pin(out.keyring, pairing),
        facts=ToldFolder(config.data / "facts", inline=wires.inline),
        drivers=dict(wires.drivers),
        random=ground.random_bytes,
    )
    gateway.on_change(links.routes_changed)
    peers.on_return(links.way_returned)
    await links.load()
    return Box(config, identity, ground, users, rooms, inward, peers, gateway, links, push, app, pool, uplink, media)


def _emails(config: Config, ground: services.Ground) -> Emails | None:
    """Email addresses, for a box that can send mail."""
    if not config.smtp.host:
        return None
    from edgeserver.api.client.email_addresses import SUBMIT
    from edgeserver.app.mail import Mailer
    from edgeserver.users.emails import Emails

    page = f"{config.http.public_url.rstrip('/')}{SUBMIT}"
    return Emails(ground.db, ground.server_name, ground.now_ms, Mailer(config.smtp), lambda token: f"{page}?token={token}")


async def _pin(keyring: Keyring, pairing: Pairing) -> None:
    """A box with a domain is known by the key that it had when it was paired; a self-named one states its key anyway."""
    if pairing.is_box and server_names.key_of(pairing.name) is None:
        key_id = server_names.key_id_of(server_names.label_of(pairing.public_key))
        await keyring.pin(pairing.name, key_id, pairing.public_key)


def _internet(config: Config, wires: Wires, pool: HttpPool) -> tuple[Uplink | None, InternetWeb | None]:
    """The way to the internet: the given one, or discovery and HTTPS; nothing for a box that has only lines."""
    if wires.internet is not None:
        return Uplink(wires.internet), None
    if not config.federation.internet:
        return None, None
    from edgeserver.federation.dns_lookup import TrioDns
    from edgeserver.federation.internet import InternetExchange, InternetWeb
    from edgeserver.federation.resolver import Resolver
    from edgeserver.federation.well_known import WellKnown

    private = config.federation.private_addresses
    dns = TrioDns(config.federation.nameservers)
    web = InternetWeb(dns, pool, allow_private=private)
    well_known = WellKnown(web)
    resolver = Resolver(well_known, dns, pick=lambda bound: random.randrange(bound) if bound > 0 else 0, allow_private=private)
    return Uplink(InternetExchange(resolver, pool), before_return=well_known.ask_again), web


def _post(wires: Wires, uplink: Uplink | None, web: InternetWeb | None) -> Post | None:
    """How push gateways on the internet are told; None for a box that has only lines."""
    if wires.internet is not None:
        return exchange_post(wires.internet)
    return None if web is None or uplink is None else web_post(web, lambda: uplink.is_up)


async def serve(config: Config, *, on_ready: Callable[[Ready], None]) -> None:
    """Runs the box with its listeners until cancelled. Raises what `open_box` does, and `ListenerError`."""
    async with open_box(config) as box, trio.open_nursery() as nursery:
        client_urls: list[str] = []
        federation_urls: list[str] = []
        if config.http.client:
            client_urls = await nursery.start(serve_http, box.app, config.http.client)
        tls_addresses = [*config.http.tls, *config.http.federation]
        if tls_addresses:
            federation_urls = await nursery.start(serve_http, box.app, tls_addresses, _certificate(config, box.identity))
        client_lines: Sequence[ClientLine] = ()
        if config.low_bandwidth.listen or config.low_bandwidth.lines:
            from edgeserver.app.low_bandwidth import serve_low_bandwidth

            tls = _dtls_certificate(config, box.identity) if config.low_bandwidth.certificate else None
            client_lines = (await nursery.start(serve_low_bandwidth, box.app, config.low_bandwidth, tls)).lines
        neighbours = _start_discovery(nursery, box) if config.discovery.mdns else None
        await serve_control(nursery, box, client_urls, federation_urls, neighbours, client_lines)
        on_ready(Ready(box.identity.server_name, client_urls, federation_urls, box.identity.is_new, await _owner(box)))


async def serve_control(
    nursery: trio.Nursery,
    box: Box,
    client_urls: list[str],
    federation_urls: list[str],
    neighbours: Neighbours | None,
    client_lines: Sequence[ClientLine] = (),
) -> None:
    """The control API, on a Unix socket that its owner alone may open. Imported when clients are being served already."""
    from edgeserver.api import control, control_operators
    from edgeserver.app.operations import BoxOperations

    operations = BoxOperations(box, client_urls, federation_urls, neighbours, client_lines)
    path = box.config.data / control_socket.SOCKET
    path.unlink(missing_ok=True)
    words = control_operators.routes(box.users.accounts, box.users.registration_tokens, box.rooms.notices)
    app = Application([*control.routes(operations), *words], Gate(AccessTokens(box.users.tokens)))
    mask = os.umask(0o177)
    try:
        await nursery.start(serve_http, app, [f"unix:{_shortest(path)}"])
    finally:
        os.umask(mask)


def _shortest(path: Path) -> str:
    """The path as it is or from the working directory: a socket's holds 107 bytes."""
    return min(str(path), os.path.relpath(path), key=len)


def _certificate(config: Config, identity: BoxIdentity) -> Tls:
    """The configured certificate, or one that the box's own key certifies, made when it is missing."""
    if config.http.certificate:
        return Tls(config.folder / config.http.certificate, config.folder / config.http.certificate_key)
    made = Tls(config.data / "certificate.pem", config.data / "certificate.key")
    if not made.certificate.exists() or not made.key.exists():
        _make_certificate(made, identity)
    return made


def _dtls_certificate(config: Config, identity: BoxIdentity) -> Tls:
    """The configured certificate, or one of its own that DTLS clients can check, made when it is missing."""
    if config.http.certificate:
        return _certificate(config, identity)
    made = Tls(config.data / "dtls.pem", config.data / "dtls.key")
    if not made.certificate.exists() or not made.key.exists():
        _make_certificate(made, identity, p256=True)
    return made


def _make_certificate(tls: Tls, identity: BoxIdentity, *, p256: bool = False) -> None:
    from datetime import UTC, datetime, timedelta

    from transports.self_signed import make_certificate, make_p256_certificate

    # The key in it is what counts, and a box may not know the year: valid from long ago until long after.
    start, lifetime = datetime(2020, 1, 1, tzinfo=UTC), timedelta(days=365 * 100)
    if p256:
        certificate, key = make_p256_certificate(identity.server_name, now=start, lifetime=lifetime)
    else:
        certificate, key = make_certificate(identity.seed, identity.server_name, now=start, lifetime=lifetime)
    tls.key.touch(0o600)
    tls.key.write_bytes(key)
    tls.certificate.write_bytes(certificate)


def _start_discovery(nursery: trio.Nursery, box: Box) -> Neighbours | None:
    """None, and no mDNS, for a box that no other could talk to."""
    from edgeserver.app.neighbours import Neighbours

    def port_of(addresses: list[str]) -> int | None:
        return host_and_port(addresses[0], "[http]")[1] if addresses else None

    federation = port_of([*box.config.http.federation, *box.config.http.tls])
    if federation is None:
        log.info("mDNS is off: there is no listener for federation to announce")
        return None
    neighbours = Neighbours(
        box.peers, box.pool, box.identity.server_name, box.identity.signing_key.verify_key, box.config.discovery.interfaces
    )
    client = port_of(box.config.http.client)
    nursery.start_soon(lasting, "mDNS", lambda: neighbours.run(federation_port=federation, client_port=client))
    return neighbours


async def _owner(box: Box) -> tuple[str, str] | None:
    """On first boot: the owner's account, with a password that is shown once."""
    if any(one.appservice_id is None for one in await box.users.accounts.people()):
        return None
    import secrets

    words = "-".join(secrets.token_hex(2) for _ in range(4))
    user_id, _ = await box.users.accounts.create_person("owner", words, admin=True)
    return user_id, words
