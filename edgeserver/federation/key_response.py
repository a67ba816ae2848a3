"""Key responses: what a server publishes of its signing keys, written and read.

GET /_matrix/key/v2/server and the notary's /_matrix/key/v2/query. Spec: server-server API, "Publishing Keys".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import identifiers, signatures
from edgeserver.matrix.signatures import SignatureError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.matrix.signatures import SigningKey

DAY_MS: Final = 86_400_000
OWN_VALIDITY_MS: Final = 7 * DAY_MS
"""As long as others may believe it: a box can be away for days, and what it signed before must verify meanwhile."""
MAX_VALIDITY_MS: Final = 7 * DAY_MS
"""The spec's bound on how long a key is believed without asking again."""
MAX_KEYS: Final = 64
FOREVER: Final = 2**53 - 1


class BadKeyResponse(ValueError):
    """Not a key response of that server, or not one that it signed."""


@dataclass(frozen=True, slots=True)
class OldKey:
    """A key of ours that no longer signs; `expired_ts` in ms."""

    key_id: str
    verify_key: bytes
    expired_ts: int


@dataclass(frozen=True, slots=True)
class KeyResponse:
    """A key response whose signatures hold: the public keys (32 bytes) by key id, and until when (ms) they are good.

    `signed_by` are the key ids of `current` by which the response is signed: at least one.
    """

    server_name: str
    current: Mapping[str, bytes]
    old: Mapping[str, tuple[bytes, int]]
    valid_until: int
    signed_by: frozenset[str]
    raw: dict[str, Any]


def write(server_name: str, key: SigningKey, old: Sequence[OldKey], now_ms: int) -> dict[str, Any]:
    """Our own key response, signed; good for a week."""
    response = {
        "server_name": server_name,
        "verify_keys": {key.key_id: {"key": signatures.encode_base64(key.verify_key)}},
        "old_verify_keys": {each.key_id: {"key": signatures.encode_base64(each.verify_key), "expired_ts": each.expired_ts} for each in old},
        "valid_until_ts": now_ms + OWN_VALIDITY_MS,
    }
    return signatures.sign_json(response, server_name, key)


def read(response: Any, server_name: str) -> KeyResponse:
    """Check what somebody gave us as `server_name`'s key response. Raises BadKeyResponse."""
    if not isinstance(response, dict) or response.get("server_name") != server_name:
        raise BadKeyResponse(f"not a key response of {server_name}")
    valid_until = response.get("valid_until_ts")
    if type(valid_until) is not int or not 0 <= valid_until <= FOREVER:
        raise BadKeyResponse("valid_until_ts is not a time")
    current = {key_id: _key(entry) for key_id, entry in _entries(response, "verify_keys")}
    old = {key_id: (_key(entry), _expiry(entry)) for key_id, entry in _entries(response, "old_verify_keys") if key_id not in current}
    signed_by = frozenset(key_id for key_id, key in current.items() if _is_signed(response, server_name, key_id, key))
    if not signed_by:
        raise BadKeyResponse(f"{server_name} did not sign its key response")
    return KeyResponse(server_name, current, old, valid_until, signed_by, response)


def is_signed_by_any(response: KeyResponse, keys: Mapping[str, bytes]) -> bool:
    """Whether the response also carries a good signature by one of these keys (key id → public key) of its server."""
    return any(_is_signed(response.raw, response.server_name, key_id, key) for key_id, key in keys.items())


def _entries(response: Mapping[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    entries = response.get(name, {})
    if not isinstance(entries, dict) or len(entries) > MAX_KEYS:
        raise BadKeyResponse(f"{name} is not an object of at most {MAX_KEYS} keys")
    return [
        (key_id, entry)
        for key_id, entry in entries.items()
        if identifiers.is_key_id(key_id) and key_id.startswith("ed25519:") and isinstance(entry, dict)
    ]


def _key(entry: Mapping[str, Any]) -> bytes:
    text = entry.get("key")
    try:
        key = signatures.decode_base64(text) if isinstance(text, str) else b""
    except ValueError as error:
        raise BadKeyResponse("a key is not base64") from error
    if len(key) != 32:
        raise BadKeyResponse("a key has not 32 bytes")
    return key


def _expiry(entry: Mapping[str, Any]) -> int:
    expired = entry.get("expired_ts")
    if type(expired) is not int or not 0 <= expired <= FOREVER:
        raise BadKeyResponse("expired_ts is not a time")
    return expired


def _is_signed(response: Mapping[str, Any], server_name: str, key_id: str, key: bytes) -> bool:
    try:
        signatures.verify_json(response, server_name, key_id, key)
    except SignatureError:
        return False
    return True
