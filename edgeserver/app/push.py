"""The way to push gateways: this box's own in the process, those of the internet by HTTPS, those in private networks that are configured.

A pusher is what a user says, so this is where users must not make the box call whatever they like: an address that is not of the public
internet is called only if the operator has named it.
"""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson
import trio

from edgeserver.api import push_gateway
from edgeserver.api import topics as topic_routes
from edgeserver.config import host_and_port, origin_of
from edgeserver.matrix import server_names
from edgeserver.push.follower import PushFollower
from edgeserver.push.gateways import MAX_ANSWER, TIMEOUT, NotAllowed
from edgeserver.push.topic_errors import TopicError
from edgeserver.push.topics import Topics
from edgeserver.push.unifiedpush import UnifiedPush
from transports.exchange import Request, Response, Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from edgeserver.api.endpoint import Route
    from edgeserver.app.services import Ground, Users
    from edgeserver.config import Config
    from edgeserver.federation.internet import InternetWeb
    from transports.exchange import Exchange
    from transports.http import HttpPool

    Post = Callable[[Request, str, int], Awaitable[Response]]
    """Carries a request to a host and port of the internet."""

PATH: Final = "/_matrix/push/v1/notify"
AT_ONCE: Final = 8
LOOKUP_SECONDS: Final = 10.0
_PORTS: Final = {"http": 80, "https": 443}
_HEADERS: Final = (("Content-Type", "application/json"), ("User-Agent", "edgeserver"))


class OwnNames:
    """Which URLs mean this box: its server name, what is configured, the machine's names and addresses with a port that it listens on."""

    def __init__(self, config: Config, server_name: str) -> None:
        self._configured = {origin_of(url, "[push] unifiedpush_urls") for url in config.push.unifiedpush_urls}
        with suppress(ValueError):
            public = urlsplit(config.http.public_url)
            if public.scheme in _PORTS and public.hostname:
                self._configured.add((public.scheme, public.hostname, public.port or _PORTS[public.scheme]))
        listening = [*config.http.client, *config.http.tls, *config.http.federation]
        self._ports = {host_and_port(address, "[http]")[1] for address in listening if not address.startswith("unix:")}
        key = server_names.key_of(server_name)
        announced = [] if key is None else [f"edgeserver-{server_names.label_of(key)[:8]}.local"]
        machine = socket.gethostname().lower()
        self._names = {"localhost", machine, f"{machine.partition('.')[0]}.local", *announced}
        self._server_name = server_name.partition(":")[0].lower()

    def __call__(self, scheme: str, authority: str) -> bool:
        """Whether this scheme and host[:port] are this box's."""
        try:
            parts = urlsplit(f"{scheme}://{authority}")
            host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS[scheme]
        except (ValueError, KeyError):
            return False
        if (scheme, host, port) in self._configured:
            return True
        if host == self._server_name:
            return port in self._ports or port in _PORTS.values()
        return port in self._ports and (host in self._names or is_of_this_machine(host))

    def has_port(self, port: int) -> bool:
        return port in self._ports


def is_of_this_machine(address: str) -> bool:
    """Whether it is an IP address of one of this machine's interfaces: those alone can be bound to. Nothing is sent."""
    try:
        [found, *_] = socket.getaddrinfo(address, 0, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
        with socket.socket(found[0], socket.SOCK_DGRAM) as probe:
            probe.bind(found[4])
    except OSError:
        return False
    return found[4][0] not in ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Push:
    """Notifications to phones. `topics` and `gateway` are None where the box is no UnifiedPush server."""

    follower: PushFollower
    topics: Topics | None
    gateway: UnifiedPush | None

    def routes(self, now_ms: Callable[[], int]) -> list[Route]:
        if self.topics is None or self.gateway is None:
            return []
        return [*push_gateway.routes(self.gateway, self.topics), *topic_routes.routes(self.topics, now_ms)]


async def push_services(config: Config, ground: Ground, users: Users, post: Post | None, pool: HttpPool) -> Push:
    """The follower with its ways, told by the unread counts of what happens. `post` is the way to the internet, if it is used."""
    own = OwnNames(config, ground.server_name)
    topics, gateway = None, None
    if config.push.unifiedpush:
        topics = Topics(ground.db, ground.now_ms)
        await topics.load()
        gateway = UnifiedPush(topics, own)
    follower = PushFollower(
        ground.db,
        PushGateways(config, own, gateway, post, pool),
        random=random.Random(ground.random_bytes(16)).random,
        keep=(lambda tx: None) if topics is None else topics.flush,
    )
    users.unread.on_notify.append(follower.notified)
    users.unread.on_read.append(follower.read)
    users.pushers.changed = follower.changed
    return Push(follower, topics, gateway)


class PushGateways:
    """`push.gateways.Gateways`. `box` is this box's own gateway (None: switched off), `post` the way to the internet (None: not used),
    `pool` carries requests to configured gateways; `lookup(host)` finds addresses as the machine's own resolver does.
    """

    def __init__(
        self,
        config: Config,
        own: OwnNames,
        box: UnifiedPush | None,
        post: Post | None,
        pool: HttpPool,
        lookup: Callable[[str], Awaitable[Collection[str]]] | None = None,
    ) -> None:
        self._lookup = lookup or system_addresses
        self._own = own
        self._box = box
        self._post = post if config.push.internet_gateways else None
        self._pool = pool
        self._private = {origin_of(url, "[push] private_gateways") for url in config.push.private_gateways}
        self._limit = trio.CapacityLimiter(AT_ONCE)

    async def notify(self, url: str, body: bytes) -> Response:
        """See `Gateways.notify`."""
        parts = urlsplit(url)
        scheme, host = parts.scheme, parts.hostname or ""
        port = parts.port or _PORTS[scheme]
        if self._own(scheme, parts.netloc):
            return await self._in_process(body, parts.netloc)
        target = f"{PATH}?{parts.query}" if parts.query else PATH
        request = Request("POST", target, _authority(host, port, scheme), _HEADERS, body, timeout=TIMEOUT, max_response=MAX_ANSWER)
        async with self._limit:
            if (scheme, host, port) in self._private:
                return await self._to_private(request, scheme, host, port)
            if self._own.has_port(port) and await self._is_here(host, scheme):
                return await self._in_process(body, parts.netloc)
            if scheme != "https":
                raise NotAllowed(f"{url} is not an https URL, and not one of [push] private_gateways")
            if self._post is None:
                raise NotAllowed(f"{host} is on the internet, which this box does not use for this")
            return await self._post(request, host, port)

    async def _is_here(self, host: str, scheme: str) -> bool:
        """Whether the name is one that the network's router, say, has given this machine."""
        found = await self._lookup(host)
        if not found and scheme != "https":
            raise Unreachable(f"{host} has no address")  # now: whoever gives the names may be away
        return any(is_of_this_machine(address) for address in found)

    async def _in_process(self, body: bytes, authority: str) -> Response:
        if self._box is None:
            raise NotAllowed("this box is no push gateway: [push] unifiedpush is off")
        notification: Any = orjson.loads(body)["notification"]
        try:
            rejected = await self._box.notify(notification, authority)
        except TopicError as error:
            raise Unreachable(str(error)) from error
        return Response(200, (), orjson.dumps({"rejected": rejected}))

    async def _to_private(self, request: Request, scheme: str, host: str, port: int) -> Response:
        from transports.http import Plaintext, Route, VerifiedName

        addresses = await self._lookup(host)
        if not addresses:
            raise Unreachable(f"{host} has no address")
        tls = VerifiedName(host) if scheme == "https" else Plaintext()
        return await self._pool.exchange(request, Route(request.authority, tuple(addresses), port, tls), allow_plaintext=True)


def web_post(web: InternetWeb, is_up: Callable[[], bool]) -> Post:
    """The way over the internet, while it is there. It does not lead into private networks."""
    from edgeserver.federation.internet import Forbidden

    async def post(request: Request, host: str, port: int) -> Response:
        if not is_up():
            raise Unreachable("the way to the internet is gone")
        try:
            return await web.ask(request, host, port)
        except Forbidden as error:
            raise NotAllowed(f"{error}, and is not one of [push] private_gateways") from error

    return post


def exchange_post(exchange: Exchange) -> Post:
    """The way over an `Exchange` that stands for the internet (tests, the demo)."""

    async def post(request: Request, host: str, port: int) -> Response:
        return await exchange.exchange(request)

    return post


async def system_addresses(host: str) -> Collection[str]:
    """By the machine's own resolver, which knows the names of the local network; nothing if it takes too long."""
    with suppress(OSError, UnicodeError), trio.move_on_after(LOOKUP_SECONDS):
        found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(one[4][0]) for one in found))
    return []


def _authority(host: str, port: int, scheme: str) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port == _PORTS[scheme] else f"{name}:{port}"
