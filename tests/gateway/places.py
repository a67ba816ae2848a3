"""A gateway's table of names in a store, boxes with keys, and exchanges that write down what they carry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgeserver.gateway import delegation
from edgeserver.gateway.routes import GatewayRoutes
from edgeserver.matrix import canonical_json, server_names
from edgeserver.matrix.signatures import SigningKey, encode_base64, sign_json
from edgeserver.store import pairings
from edgeserver.store.database import Database
from edgeserver.store.pairings import Pairing
from transports.exchange import ExchangeError, LinkProfile, Request, Response

NOW = 1_790_000_000_000
DAY = 86_400_000
GATEWAY = "gw.test"


class KeyedBox:
    """A box by its key; self-named under the gateway unless it has a name of its own."""

    def __init__(self, number: int, name: str = "") -> None:
        seed = bytes([number]) * 32
        self.public_key = SigningKey(seed, "ed25519:0").verify_key
        self.name = name or server_names.name_of(self.public_key, GATEWAY)
        self.key = SigningKey(seed, server_names.key_id_of(server_names.label_of(self.public_key)))

    def word(self, via: str, issued_ts: int = NOW) -> dict[str, Any]:
        return delegation.sign(self.name, via, issued_ts, self.key)

    def key_response(self, valid_until: int = NOW + DAY) -> bytes:
        response = {
            "server_name": self.name,
            "verify_keys": {self.key.key_id: {"key": encode_base64(self.public_key)}},
            "old_verify_keys": {},
            "valid_until_ts": valid_until,
        }
        return canonical_json.encode(sign_json(response, self.name, self.key))


@dataclass
class Line:
    """An `Exchange` that answers with `answer`, or raises it."""

    answer: Response | ExchangeError = field(default_factory=lambda: Response(200, (("content-type", "application/json"),), b"{}"))
    bit_rate: int | None = None
    peer: str | None = None
    carried: list[Request] = field(default_factory=list)

    @property
    def profile(self) -> LinkProfile:
        return LinkProfile("line", self.bit_rate, None, self.peer)

    async def exchange(self, request: Request) -> Response:
        self.carried.append(request)
        if isinstance(self.answer, ExchangeError):
            raise self.answer
        return self.answer


async def pair(db: Database, box: KeyedBox, *, fronted: bool = True, is_box: bool = True) -> None:
    pairing = Pairing(box.public_key, box.name, is_box, None, fronted, False, NOW)
    await db.write(lambda tx: pairings.put(tx, pairing))


async def gateway_of(db: Database, *boxes: KeyedBox, now_ms: Any = lambda: NOW) -> GatewayRoutes:
    """The table of the gateway that fronts for these boxes; none has announced itself yet."""
    for box in boxes:
        await pair(db, box)
    key = SigningKey(bytes(32), "ed25519:gateway")
    routes = GatewayRoutes(db, GATEWAY, key, now_ms)
    await routes.load()
    return routes
