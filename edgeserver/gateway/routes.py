"""For whom this box is a gateway: the table of fronted names, and the words by which they came to be there.

A paired box that we front for announces, each time its link comes up, every name that is reached through it: its own and those that it
fronts for in turn, each with the chain of words that says so (`delegation.py`). We do the same towards our own gateway.

A name that moves: its own box, on its own link, is always believed. Another box may only take a name over from where it is with a word
of that name's that is newer than the one we have, so an old word cannot be used to draw its requests back.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeserver.gateway import delegation
from edgeserver.matrix import canonical_json, errors, server_names
from edgeserver.matrix.signatures import SignatureError, verify_json
from edgeserver.store import pairings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from edgeserver.matrix.signatures import SigningKey
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.pairings import Pairing
    from transports.exchange import Exchange

log = logging.getLogger(__name__)

MAX_NAMES = 256
MAX_KEY_RESPONSE = 65_536
FRESH_MS = 12 * 3_600_000
"""A key response that is valid for less than this is asked for anew, so that it outlives what its server signs while it can be reached."""


class GatewayRoutes:
    """The fronted names, kept in memory beside the table (they are asked for with every request)."""

    def __init__(self, db: Database, server_name: str, key: SigningKey, now_ms: Callable[[], int]) -> None:
        self._db = db
        self._server_name = server_name
        self._key = key
        self._now_ms = now_ms
        self._pairings: dict[bytes, Pairing] = {}
        self._via: dict[str, bytes] = {}
        self._chains: dict[str, list[Any]] = {}
        self._key_responses: dict[str, _KeyResponse] = {}
        self._exchanges: dict[bytes, Exchange] = {}
        self._changed: Callable[[], Awaitable[None]] | None = None

    def on_change(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Awaited after the table of names has changed: our own gateway is to be told."""
        self._changed = callback

    async def load(self) -> None:
        """Reads the tables; to be called again after a pairing was made or ended."""

        def read(tx: Transaction) -> tuple[list[Pairing], list[pairings.GatewayRoute]]:
            return pairings.all_pairings(tx), pairings.routes(tx)

        known, found = await self._db.read(read)
        self._pairings = {one.public_key: one for one in known}
        found = [one for one in found if self._pairings[one.via].fronted]
        self._via = {one.server_name: one.via for one in found}
        self._chains = {one.server_name: canonical_json.decode(one.delegation) for one in found}
        kept = {one.server_name: _read_key_response(one.server_name, one.key_response) for one in found if one.key_response is not None}
        self._key_responses = {name: response for name, response in kept.items() if response is not None}

    # Lookups

    def fronts(self, server_name: str) -> bool:
        """Whether requests for this name are ours to carry."""
        return server_name in self._via

    def may_use(self, peer: str) -> bool:
        """Whether this paired box may have its requests carried to others."""
        return any(one.fronted and one.is_box and one.name == peer for one in self._pairings.values())

    def exchange_to(self, server_name: str) -> Exchange | None:
        """The link towards that name, None while it is down."""
        via = self._via.get(server_name)
        return None if via is None else self._exchanges.get(via)

    def link_up(self, public_key: bytes, exchange: Exchange) -> None:
        self._exchanges[public_key] = exchange

    def link_down(self, public_key: bytes, exchange: Exchange) -> None:
        if self._exchanges.get(public_key) is exchange:
            del self._exchanges[public_key]

    def names_via(self, public_key: bytes) -> list[str]:
        """The names that are reached through this paired box."""
        return [name for name, via in self._via.items() if via == public_key]

    def key_response(self, server_name: str) -> bytes | None:
        """The last key response of a fronted server (canonical JSON), for when it cannot be asked itself."""
        known = self._key_responses.get(server_name)
        return None if known is None else known.body

    def keys_are_fresh(self, server_name: str) -> bool:
        """Whether that response is good for long enough yet that nobody needs to be asked again."""
        known = self._key_responses.get(server_name)
        return known is not None and known.valid_until - self._now_ms() >= FRESH_MS

    async def remember_key_response(self, server_name: str, body: bytes) -> None:
        """Keeps a fronted server's key response for when it is away.

        Not one that the key of a self-certifying name has not signed, nor one that says no more than what is kept.
        """
        response, known = _read_key_response(server_name, body), self._key_responses.get(server_name)
        if response is None or not self.fronts(server_name):
            return
        if known is not None and known.keys == response.keys and self.keys_are_fresh(server_name):
            return
        self._key_responses[server_name] = response
        await self._db.write(lambda tx: pairings.put_key_response(tx, server_name, body))

    # Announcements

    def announcement(self, to_gateway: str) -> dict[str, Any]:
        """What to tell our gateway: our name and every name that is reached through us, with their chains."""
        word = delegation.sign(self._server_name, to_gateway, self._now_ms(), self._key)
        return {"routes": [[word], *([*chain, word] for chain in self._chains.values() if len(chain) < delegation.MAX_CHAIN)]}

    async def accept(self, peer: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Takes the announcement of a paired box. Raises M_FORBIDDEN if we do not front for it, M_BAD_JSON."""
        pairing = next((one for one in self._pairings.values() if one.is_box and one.name == peer), None)
        if pairing is None or not pairing.fronted:
            raise errors.Forbidden("This box is not your gateway.")
        offered = body.get("routes")
        if not isinstance(offered, list) or len(offered) > MAX_NAMES:
            raise errors.BadJson(f"routes is not a list of at most {MAX_NAMES} chains.")
        sound = {name: chain for chain in offered if isinstance(chain, list) and (name := self._check(chain, peer)) is not None}
        accepted = {name: chain for name, chain in sound.items() if self._may_lead(name, chain, pairing.public_key)}

        def write(tx: Transaction) -> None:
            pairings.drop_routes_via(tx, pairing.public_key, set(accepted))
            for name, chain in accepted.items():
                pairings.put_route(tx, name, pairing.public_key, canonical_json.encode(chain))

        if {name: self._chains.get(name) for name in accepted} != accepted or set(self.names_via(pairing.public_key)) != set(accepted):
            await self._db.write(write)
            await self.load()
            if self._changed is not None:
                await self._changed()
            log.info("%s is the way to %s", peer, ", ".join(sorted(accepted)) or "nobody")
        return {"accepted": sorted(accepted)}

    def _may_lead(self, name: str, chain: list[Any], via: bytes) -> bool:
        """Whether a name may be reached through that box, given where it is now."""
        known = self._chains.get(name)
        if name == self._server_name:
            return False
        if known is None or len(chain) == 1 or self._via.get(name) == via:
            return True
        return bool(chain[0]["issued_ts"] > known[0]["issued_ts"])

    def _check(self, chain: list[Any], peer: str) -> str | None:
        def pinned(server_name: str) -> bytes | None:
            return next((one.public_key for one in self._pairings.values() if one.is_box and one.name == server_name), None)

        # The last word is the announcer's own, to us; what is before it leads to the announcer.
        last = chain[-1] if chain else None
        if not isinstance(last, dict) or last.get("box") != peer or last.get("via") != self._server_name:
            return None
        return delegation.check_chain(chain, self._server_name, pinned)


@dataclass(frozen=True, slots=True)
class _KeyResponse:
    """As it came, and until when (ms) it says that its keys are good."""

    body: bytes
    keys: tuple[Any, Any]
    valid_until: int


def _read_key_response(server_name: str, body: bytes) -> _KeyResponse | None:
    """None for what is no key response of that server. Who asks us checks the signatures; those by a key that the name states, we do."""
    try:
        response = canonical_json.decode(body) if len(body) <= MAX_KEY_RESPONSE else None
    except canonical_json.CanonicalJSONError:
        return None
    if not isinstance(response, dict) or response.get("server_name") != server_name:
        return None
    valid_until = response.get("valid_until_ts")
    if type(valid_until) is not int:
        return None
    stated = server_names.key_of(server_name)
    if stated is not None:
        try:
            verify_json(response, server_name, server_names.key_id_of(server_name), stated)
        except SignatureError:
            return None
    return _KeyResponse(body, (response.get("verify_keys"), response.get("old_verify_keys")), valid_until)
