"""Paired boxes and client devices, and the server names that this box is a gateway for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Pairing:
    """One paired peer.

    `name` is a server name if `is_box`. `link` names the link on which we call it (None: it calls us). `fronted`: we are its
    gateway; `gateway`: it is ours. `paired_at` in ms.
    """

    public_key: bytes
    name: str
    is_box: bool
    link: str | None
    fronted: bool
    gateway: bool
    paired_at: int


@dataclass(frozen=True, slots=True)
class GatewayRoute:
    """A server name that is reached through the paired box with the key `via`."""

    server_name: str
    via: bytes
    delegation: bytes
    key_response: bytes | None


_PAIRING = "SELECT public_key, name, is_box, link, fronted, gateway, paired_at FROM pairings"
_ROUTE = "SELECT server_name, via, delegation, key_response FROM gateway_routes"


def _pairing(row: tuple[Any, ...]) -> Pairing:
    public_key, name, is_box, link, fronted, gateway, paired_at = row
    return Pairing(public_key, name, bool(is_box), link, bool(fronted), bool(gateway), paired_at)


def all_pairings(tx: Transaction) -> list[Pairing]:
    return [_pairing(row) for row in tx.all(f"{_PAIRING} ORDER BY paired_at")]


def put(tx: Transaction, pairing: Pairing) -> None:
    """Adds or replaces. A box that comes with a new key is another pairing: its old one must be removed by hand."""
    tx.execute(
        "INSERT INTO pairings (public_key, name, is_box, link, fronted, gateway, paired_at) VALUES (?,?,?,?,?,?,?)"
        " ON CONFLICT (public_key) DO UPDATE SET name = excluded.name, is_box = excluded.is_box, link = excluded.link,"
        " fronted = excluded.fronted, gateway = excluded.gateway, paired_at = excluded.paired_at",
        (
            pairing.public_key,
            pairing.name,
            int(pairing.is_box),
            pairing.link,
            int(pairing.fronted),
            int(pairing.gateway),
            pairing.paired_at,
        ),
    )


def remove(tx: Transaction, public_key: bytes) -> bool:
    """Ends a pairing and every route through it."""
    return tx.execute("DELETE FROM pairings WHERE public_key = ?", (public_key,)).rowcount > 0


def put_route(tx: Transaction, server_name: str, via: bytes, delegation: bytes) -> None:
    tx.execute(
        "INSERT INTO gateway_routes (server_name, via, delegation) VALUES (?,?,?)"
        " ON CONFLICT (server_name) DO UPDATE SET via = excluded.via, delegation = excluded.delegation",
        (server_name, via, delegation),
    )


def routes(tx: Transaction) -> list[GatewayRoute]:
    return [GatewayRoute(*row) for row in tx.all(_ROUTE)]


def drop_routes_via(tx: Transaction, via: bytes, keep: set[str]) -> None:
    """Forgets the names that this box does not announce any more."""
    for (server_name,) in tx.all("SELECT server_name FROM gateway_routes WHERE via = ?", (via,)):
        if server_name not in keep:
            tx.execute("DELETE FROM gateway_routes WHERE server_name = ?", (server_name,))


def put_key_response(tx: Transaction, server_name: str, response: bytes) -> None:
    tx.execute("UPDATE gateway_routes SET key_response = ? WHERE server_name = ?", (response, server_name))
