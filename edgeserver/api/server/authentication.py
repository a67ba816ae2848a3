"""Which server a request comes from: its X-Matrix signature, else the paired peer whose link it came by.

Spec: server-server API, "Request Authentication". A header goes before the link, for a gateway passes on requests
of others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.matrix import server_names, signatures
from edgeserver.matrix.errors import Forbidden, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from edgeserver.api.endpoint import Call

    KeyLookup = Callable[[str, str], Awaitable[bytes | None]]


class ServerGuard:
    """The `auth` of federation endpoints: sets `call.origin` or raises M_UNAUTHORIZED.

    `key(server name, key id)` finds a public key that is valid now (`Keyring.key`). `heard_from(server)` is told of
    each server that proved itself.
    """

    def __init__(self, server_name: str, key: KeyLookup, heard_from: Callable[[str], None] = lambda _: None) -> None:
        self._server_name = server_name
        self._key = key
        self._heard_from = heard_from

    async def __call__(self, call: Call) -> None:
        header = call.headers.get("authorization")
        origin = self._link_peer(call) if header is None else await self._signer(call, header)
        if origin == self._server_name:
            raise Forbidden("A request of this server to itself is not taken.")
        call.origin = origin
        self._heard_from(origin)

    def _link_peer(self, call: Call) -> str:
        peer = call.link.peer if call.link is not None else None
        if peer is None or peer.startswith("client:") or not server_names.is_valid(peer):
            raise Unauthorized("The request carries no X-Matrix authorisation.")
        return peer

    async def _signer(self, call: Call, header: str) -> str:
        try:
            claim = signatures.parse_authorization(header)
        except signatures.SignatureError as error:
            raise Unauthorized(f"The Authorization header is malformed: {error}.") from error
        if not server_names.is_valid(claim.origin):
            raise Unauthorized("The origin is not a server name.")
        if claim.destination not in (None, self._server_name):
            raise Unauthorized("The request is meant for another server.")
        content = await _content(call)
        key = await self._key(claim.origin, claim.key_id)
        if key is None:
            raise Unauthorized(f"No key {claim.key_id[:80]} of {claim.origin} could be had.")
        try:
            signatures.verify_request(claim, call.method, _target(call), self._server_name, key, content)
        except signatures.SignatureError as error:
            raise Unauthorized("The request's signature is wrong.") from error
        return claim.origin


def origin_of(call: Call) -> str:
    """The server that the guard has authenticated."""
    if call.origin is None:
        raise Unauthorized
    return call.origin


async def _content(call: Call) -> Any:
    return await call.decoded() if await call.body() else None


def _target(call: Call) -> str:
    """The path and query, byte for byte as they were signed."""
    raw = call.scope.get("raw_path") or call.scope["path"].encode()
    query = call.scope.get("query_string", b"")
    target: bytes = raw + b"?" + query if query else raw
    return target.decode("latin-1")
