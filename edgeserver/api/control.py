"""The control API: what the command line asks of the running box. Served on the Unix socket `control.sock` in the data folder and nowhere
else; whoever may open the socket (mode 0600: the box's own user, and root) may do all of it, so nothing here authenticates.

    GET    /_edgeserver/control/status                    who the box is and how it is
    GET    /_edgeserver/control/peers                     paired boxes and devices, boxes found on the network
    DELETE /_edgeserver/control/peers/{name}              ends a pairing
    GET    /_edgeserver/control/links                     the lines and their counters
    POST   /_edgeserver/control/links/{name}/test         round trip and throughput
    POST   /_edgeserver/control/pairing                   opens an offer: code and QR string
    GET    /_edgeserver/control/pairing                   whether it stands, and who has paired
    DELETE /_edgeserver/control/pairing                   closes it
    POST   /_edgeserver/control/pairing/guest             pairs by the other end's code
    GET    /_edgeserver/control/people                    the accounts
    POST   /_edgeserver/control/people                    makes one
    POST   /_edgeserver/control/people/{name}/password    sets a password
    PUT    /_edgeserver/control/people/{name}/locked      locks or unlocks an account
    PUT    /_edgeserver/control/people/{name}/suspended   suspends an account, or ends that
    POST   /_edgeserver/control/people/{name}/deactivate  ends an account for good
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import trio

from edgeserver.api import link_test
from edgeserver.api.body import needed_switch, needed_text, switch
from edgeserver.api.control_socket import PREFIX
from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.matrix import errors
from transports.exchange import ExchangeError
from transports.identity import client_identity
from transports.link.pairing import LIFETIME, PairingFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.store.accounts import Account
    from edgeserver.store.pairings import Pairing
    from edgeserver.users.accounts import Accounts
    from transports.exchange import Exchange
    from transports.link.wire import LinkStats


@dataclass(frozen=True, slots=True)
class BoxStatus:
    """How the box is. `uplink`: whether the internet is believed to be there (None: this box is told never to try).

    `started_at` in ms; `waiting`: servers that are still to be given something.
    """

    server_name: str
    version: str
    started_at: int
    client_urls: list[str]
    federation_urls: list[str]
    clock_trusted: bool
    uplink: bool | None
    waiting: list[str]


class LineStanding(Protocol):
    """How one line stands: `peers` are the identities at its other end now, `trouble` is why its port is not open."""

    @property
    def name(self) -> str: ...
    @property
    def uri(self) -> str: ...
    @property
    def peers(self) -> Sequence[str]: ...
    @property
    def trouble(self) -> str | None: ...
    @property
    def stats(self) -> LinkStats | None: ...


class Lines(Protocol):
    """The lines of the box and who is paired; `LinkService` is one."""

    def open_offer(self, *, front: bool) -> tuple[str, str]:
        """Lets one stranger pair; returns the short code and the QR string. `front`: be its gateway. Replaces an older offer."""
        ...

    def close_offer(self) -> None:
        """Nobody can pair any more."""
        ...

    @property
    def offer_trouble(self) -> str | None:
        """Why nobody can pair; None while an offer is open."""
        ...

    @property
    def last_paired(self) -> Pairing | None:
        """Who paired since the newest offer was opened, if anybody."""
        ...

    async def join_offer(self, line_name: str, secret: str, *, gateway: bool) -> Pairing:
        """Pairs by the other end's code or QR string. Raises `MatrixError`, and `PairingFailed` for a secret that cannot be one."""
        ...

    async def unpair(self, name: str) -> bool:
        """Ends the pairings with that name; False if there is none."""
        ...

    def pairings(self) -> Sequence[Pairing]: ...

    def standing(self) -> Sequence[LineStanding]: ...


class Operations(Protocol):
    """What the control API needs of the running box; implemented where the box is put together."""

    @property
    def accounts(self) -> Accounts:
        """The accounts of the box."""
        ...

    @property
    def lines(self) -> Lines:
        """The lines of the box: its `LinkService`."""
        ...

    @property
    def client_lines(self) -> Sequence[LineStanding]:
        """How the lines stand on which apps speak the low-bandwidth API; `peers` are those whose session is up."""
        ...

    async def status(self) -> BoxStatus:
        """How the box is at this moment; `waiting` are the server names of `outbox.waiting`, in their order."""
        ...

    def found(self) -> Mapping[str, Sequence[str]]:
        """Boxes that announce themselves on the local network now: addresses by server name; empty without discovery."""
        ...

    def exchange_on(self, line_name: str) -> Exchange | None:
        """The way to the peer (the first one, if a listener has several) at the other end of a line: requests to it go over this
        very line. None while nobody is there. Raises M_NOT_FOUND if no line has that name.
        """
        ...


def routes(operations: Operations) -> list[Route]:
    """All of the control API, for an application of its own on the Unix socket."""
    return [*_box_routes(operations), *_pairing_routes(operations), *_people_routes(operations)]


def _route(method: str, path: str, handler: Any, *, long_poll: bool = False) -> list[Route]:
    return endpoint(method, PREFIX + path, handler, auth=Auth.NONE, long_poll=long_poll)


# The box, its peers and lines


def _box_routes(operations: Operations) -> list[Route]:
    async def status(call: Call) -> dict[str, Any]:
        return asdict(await operations.status())

    async def peers(call: Call) -> dict[str, Any]:
        paired = [_paired(one, operations.lines.standing()) for one in operations.lines.pairings()]
        known = {one["name"] for one in paired}
        found = [
            {"name": name, "addresses": list(addresses), "paired": name in known}
            for name, addresses in sorted(operations.found().items())
        ]
        return {"paired": paired, "found": found}

    async def unpair(call: Call) -> dict[str, Any]:
        name = call.path["name"]
        if not await operations.lines.unpair(name):
            raise errors.NotFound(f"Nobody named {name} is paired with this box.")
        return {}

    async def links(call: Call) -> dict[str, Any]:
        now = trio.current_time()
        found = {"links": operations.lines.standing(), "client_lines": operations.client_lines}
        return {name: [_line(one, now) for one in lines] for name, lines in found.items()}

    async def test(call: Call) -> dict[str, Any]:
        name = call.path["name"]
        exchange = operations.exchange_on(name)
        if exchange is None:
            raise errors.Unknown(f"Nobody is at the other end of {name} now.", status=503)
        try:
            return asdict(await link_test.measure(exchange))
        except ExchangeError as error:
            raise errors.Unknown(f"The line did not carry the test: {error}", status=504) from error

    return [
        *_route("GET", "status", status),
        *_route("GET", "peers", peers),
        *_route("DELETE", "peers/{name}", unpair),
        *_route("GET", "links", links),
        *_route("POST", "links/{name}/test", test, long_poll=True),
    ]


def _paired(pairing: Pairing, lines: Sequence[LineStanding]) -> dict[str, Any]:
    identity = pairing.name if pairing.is_box else client_identity(pairing.public_key)
    return {
        "name": pairing.name,
        "is_box": pairing.is_box,
        "key": pairing.public_key.hex(),
        "link": pairing.link,
        "fronted": pairing.fronted,
        "gateway": pairing.gateway,
        "paired_at": pairing.paired_at,
        "up_on": [one.name for one in lines if identity in one.peers],
    }


def _line(line: LineStanding, now: float) -> dict[str, Any]:
    found: dict[str, Any] = {"name": line.name, "uri": line.uri, "peers": list(line.peers), "trouble": line.trouble, "stats": None}
    if line.stats is not None:
        stats = asdict(line.stats)
        since = stats.pop("since")
        stats["bytes_by_priority"] = {priority.name.lower(): count for priority, count in line.stats.bytes_by_priority.items()}
        stats["up_for"] = None if since is None or not line.peers else now - since
        found["stats"] = stats
    return found


# Pairing


def _pairing_routes(operations: Operations) -> list[Route]:
    lines = operations.lines

    async def open_offer(call: Call) -> dict[str, Any]:
        front = bool(switch(await call.json(optional=True), "front"))
        if not lines.standing():
            raise errors.Unknown("This box has no line to pair over: add one under [[links]] in the configuration.", status=409)
        code, qr = lines.open_offer(front=front)
        return {"code": code, "qr": qr, "expires_in_ms": int(LIFETIME * 1000)}

    async def offer(call: Call) -> dict[str, Any]:
        trouble, paired = lines.offer_trouble, lines.last_paired
        return {"open": trouble is None, "trouble": trouble, "paired": None if paired is None else _paired(paired, lines.standing())}

    async def close_offer(call: Call) -> dict[str, Any]:
        lines.close_offer()
        return {}

    async def guest(call: Call) -> dict[str, Any]:
        body = await call.json()
        try:
            link, secret, gateway = needed_text(body, "link"), needed_text(body, "secret"), bool(switch(body, "gateway"))
            pairing = await lines.join_offer(link, secret, gateway=gateway)
        except PairingFailed as error:
            raise errors.InvalidParam(f"That will not do: {error}.") from error
        return _paired(pairing, lines.standing())

    return [
        *_route("POST", "pairing", open_offer),
        *_route("GET", "pairing", offer),
        *_route("DELETE", "pairing", close_offer),
        *_route("POST", "pairing/guest", guest, long_poll=True),
    ]


# People


def person(account: Account) -> dict[str, Any]:
    """One account, as GET people tells it."""
    return {
        "user_id": account.user_id,
        "admin": account.admin,
        "guest": account.guest,
        "locked": account.locked,
        "suspended": account.suspended,
        "appservice_id": account.appservice_id,
        "created_at": account.created_at,
        "deactivated": account.deactivated_at is not None,
    }


def _people_routes(operations: Operations) -> list[Route]:
    accounts = operations.accounts

    async def people(call: Call) -> dict[str, Any]:
        return {"people": [person(one) for one in await accounts.people()]}

    async def add(call: Call) -> dict[str, Any]:
        body = await call.json()
        name, password, admin = needed_text(body, "name"), needed_text(body, "password"), bool(switch(body, "admin"))
        user_id, _ = await accounts.create_person(name, password, admin=admin)
        return {"user_id": user_id}

    async def set_password(call: Call) -> dict[str, Any]:
        body = await call.json()
        user_id = accounts.user_id(call.path["name"])
        await accounts.set_password(user_id, needed_text(body, "password"), log_out=bool(switch(body, "log_out")))
        return {"user_id": user_id}

    async def set_locked(call: Call) -> dict[str, Any]:
        user_id = accounts.user_id(call.path["name"])
        await accounts.set_locked(user_id, needed_switch(await call.json(), "locked"))
        return {"user_id": user_id}

    async def set_suspended(call: Call) -> dict[str, Any]:
        user_id = accounts.user_id(call.path["name"])
        await accounts.set_suspended(user_id, needed_switch(await call.json(), "suspended"))
        return {"user_id": user_id}

    async def deactivate(call: Call) -> dict[str, Any]:
        user_id = accounts.user_id(call.path["name"])
        await accounts.deactivate(user_id, erase=bool(switch(await call.json(optional=True), "erase")))
        return {"user_id": user_id}

    return [
        *_route("GET", "people", people),
        *_route("POST", "people", add),
        *_route("POST", "people/{name}/password", set_password),
        *_route("PUT", "people/{name}/locked", set_locked),
        *_route("PUT", "people/{name}/suspended", set_suspended),
        *_route("POST", "people/{name}/deactivate", deactivate),
    ]
