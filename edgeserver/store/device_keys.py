"""Device keys, one-time and fallback keys, cross-signing keys and the signatures that others have put on them.

Keys of remote users lie in the same tables; whether they are whole and current is for store/device_lists.py to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.store.database import Transaction

KEPT_CLAIMED: Final = 100
"""So many claimed one-time keys of a device and algorithm are remembered."""


@dataclass(frozen=True, slots=True)
class KeySignature:
    """A signature that came after the key: `key_id` is a device id, or the public half of a master key."""

    key_id: str
    signer: str
    signing_key: str
    signature: str


@dataclass(frozen=True, slots=True)
class UserKeys:
    """The public keys of one user: device id → (device keys, display name), usage → cross-signing key."""

    devices: Mapping[str, tuple[dict[str, Any], str | None]] = field(default_factory=dict)
    cross_signing: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    signatures: tuple[KeySignature, ...] = ()


def user_keys(tx: Transaction, user_id: str) -> UserKeys:
    """All that is held of one user's public keys."""
    rows = tx.all("SELECT device_id, keys, display_name FROM device_keys WHERE user_id = ?", (user_id,))
    return UserKeys(
        {device_id: (canonical_json.decode_exact(keys), name) for device_id, keys, name in rows},
        cross_signing_keys(tx, user_id),
        signatures_of(tx, user_id),
    )


# Device keys


def device_keys(tx: Transaction, user_id: str, device_id: str) -> dict[str, Any] | None:
    """The identity keys of one device, as they were uploaded."""
    row = tx.one("SELECT keys FROM device_keys WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    return None if row is None else canonical_json.decode_exact(row[0])


def device_ids(tx: Transaction, user_id: str) -> list[str]:
    """The devices of which identity keys are held."""
    return [row[0] for row in tx.all("SELECT device_id FROM device_keys WHERE user_id = ?", (user_id,))]


def set_device_keys(
    tx: Transaction, user_id: str, device_id: str, keys: Mapping[str, Any], display_name: str | None = None
) -> bool:
    """Keeps a device's identity keys; False if they are what was held. Signatures of other keys than these go."""
    encoded = canonical_json.encode_loose(keys)
    row = tx.one("SELECT keys, display_name FROM device_keys WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    if row is not None and row == (encoded, display_name):
        return False
    if row is not None and canonical_json.decode_exact(row[0]).get("keys") != keys.get("keys"):
        remove_signatures(tx, user_id, device_id)
    tx.execute(
        "INSERT OR REPLACE INTO device_keys (user_id, device_id, keys, display_name) VALUES (?,?,?,?)",
        (user_id, device_id, encoded, display_name),
    )
    return True


def remove_device(tx: Transaction, user_id: str, device_id: str) -> bool:
    """Forgets all keys of a device; True if it had identity keys."""
    device = (user_id, device_id)
    tx.execute("DELETE FROM one_time_keys WHERE user_id = ? AND device_id = ?", device)
    tx.execute("DELETE FROM fallback_keys WHERE user_id = ? AND device_id = ?", device)
    remove_signatures(tx, user_id, device_id)
    return tx.execute("DELETE FROM device_keys WHERE user_id = ? AND device_id = ?", device).rowcount > 0


def remove_user(tx: Transaction, user_id: str) -> None:
    """Forgets the identity and cross-signing keys of a user, and the signatures on them that the user made."""
    tx.execute("DELETE FROM device_keys WHERE user_id = ?", (user_id,))
    tx.execute("DELETE FROM cross_signing_keys WHERE user_id = ?", (user_id,))
    tx.execute("DELETE FROM key_signatures WHERE user_id = ? AND signer = ?", (user_id, user_id))


# One-time and fallback keys


def one_time_key(
    tx: Transaction, user_id: str, device_id: str, algorithm: str, key_id: str
) -> tuple[Any, bool] | None:
    """An uploaded key and whether it has been claimed; None if there was none of that id (or it is long forgotten)."""
    row = tx.one(
        "SELECT key, claimed IS NOT NULL FROM one_time_keys"
        " WHERE user_id = ? AND device_id = ? AND algorithm = ? AND key_id = ?",
        (user_id, device_id, algorithm, key_id),
    )
    return None if row is None else (canonical_json.decode_exact(row[0]), bool(row[1]))


def add_one_time_key(tx: Transaction, user_id: str, device_id: str, algorithm: str, key_id: str, key: Any) -> None:
    """Appends a key to those that can be claimed; a claimed one of the same id is forgotten."""
    tx.execute(
        "INSERT OR REPLACE INTO one_time_keys (user_id, device_id, algorithm, key_id, key) VALUES (?,?,?,?,?)",
        (user_id, device_id, algorithm, key_id, canonical_json.encode_loose(key)),
    )


def set_fallback_key(tx: Transaction, user_id: str, device_id: str, algorithm: str, key_id: str, key: Any) -> None:
    """Keeps the one fallback key of an algorithm. The same key once more stays as used as it was."""
    tx.execute(
        "INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, key) VALUES (?,?,?,?,?)"
        " ON CONFLICT (user_id, device_id, algorithm) DO UPDATE"
        " SET key_id = excluded.key_id, key = excluded.key, used = NULL"
        " WHERE key_id <> excluded.key_id OR key <> excluded.key",
        (user_id, device_id, algorithm, key_id, canonical_json.encode_loose(key)),
    )


def claim(tx: Transaction, user_id: str, device_id: str, algorithm: str) -> tuple[str, Any] | None:
    """Takes the oldest one-time key, else the fallback key: (key id, key).

    A claim takes a stream position, since the device has to learn of it; a fallback key's only its first one.
    """
    device = (user_id, device_id, algorithm)
    row = tx.one(
        "SELECT position, key_id, key FROM one_time_keys"
        " WHERE user_id = ? AND device_id = ? AND algorithm = ? AND claimed IS NULL ORDER BY position LIMIT 1",
        device,
    )
    if row is not None:
        tx.execute("UPDATE one_time_keys SET claimed = ? WHERE position = ?", (tx.stream(), row[0]))
        tx.execute(
            "DELETE FROM one_time_keys WHERE user_id = ? AND device_id = ? AND algorithm = ? AND claimed <="
            " (SELECT claimed FROM one_time_keys WHERE user_id = ? AND device_id = ? AND algorithm = ?"
            "  AND claimed IS NOT NULL ORDER BY claimed DESC LIMIT 1 OFFSET ?)",
            (*device, *device, KEPT_CLAIMED),
        )
        return row[1], canonical_json.decode_exact(row[2])
    row = tx.one(
        "SELECT key_id, key, used FROM fallback_keys WHERE user_id = ? AND device_id = ? AND algorithm = ?", device
    )
    if row is None:
        return None
    if row[2] is None:
        tx.execute(
            "UPDATE fallback_keys SET used = ? WHERE user_id = ? AND device_id = ? AND algorithm = ?",
            (tx.stream(), *device),
        )
    return row[0], canonical_json.decode_exact(row[1])


def one_time_key_counts(tx: Transaction, user_id: str, device_id: str) -> dict[str, int]:
    """Algorithm → keys that can still be claimed. signed_curve25519 is always told: clients wait for its 0."""
    rows = tx.all(
        "SELECT algorithm, count(*) FROM one_time_keys"
        " WHERE user_id = ? AND device_id = ? AND claimed IS NULL GROUP BY algorithm",
        (user_id, device_id),
    )
    return {"signed_curve25519": 0, **dict(rows)}


def unused_fallback_key_types(tx: Transaction, user_id: str, device_id: str) -> list[str]:
    """Algorithms of which an unused fallback key is held."""
    rows = tx.all(
        "SELECT algorithm FROM fallback_keys WHERE user_id = ? AND device_id = ? AND used IS NULL ORDER BY algorithm",
        (user_id, device_id),
    )
    return [row[0] for row in rows]


def claims_since(tx: Transaction, user_id: str, device_id: str, since: int) -> bool:
    """Whether keys of the device were handed out after `since`, so that a waiting sync has counts to tell."""
    row = tx.one(
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM one_time_keys WHERE user_id = ? AND device_id = ? AND claimed > ?)"
        " OR EXISTS (SELECT 1 FROM fallback_keys WHERE user_id = ? AND device_id = ? AND used > ?)",
        (user_id, device_id, since, user_id, device_id, since),
    )
    return row is not None


# Cross-signing keys and signatures


def cross_signing_keys(tx: Transaction, user_id: str) -> dict[str, dict[str, Any]]:
    """Usage (master, self_signing, user_signing) → key, as uploaded."""
    rows = tx.all("SELECT usage, key FROM cross_signing_keys WHERE user_id = ?", (user_id,))
    return {usage: canonical_json.decode_exact(key) for usage, key in rows}


def public_key(tx: Transaction, user_id: str, usage: str) -> str | None:
    """The public half of a user's cross-signing key, unpadded base64."""
    row = tx.one("SELECT public_key FROM cross_signing_keys WHERE user_id = ? AND usage = ?", (user_id, usage))
    return row[0] if row else None


def set_cross_signing_key(tx: Transaction, user_id: str, usage: str, public: str, key: Mapping[str, Any]) -> bool:
    """Keeps a cross-signing key; False if it is what was held. Signatures on a public key that it replaces go."""
    encoded = canonical_json.encode_loose(key)
    row = tx.one("SELECT public_key, key FROM cross_signing_keys WHERE user_id = ? AND usage = ?", (user_id, usage))
    if row is not None and row == (public, encoded):
        return False
    if row is not None and row[0] != public:
        remove_signatures(tx, user_id, row[0])
    tx.execute(
        "INSERT OR REPLACE INTO cross_signing_keys (user_id, usage, public_key, key) VALUES (?,?,?,?)",
        (user_id, usage, public, encoded),
    )
    return True


def remove_cross_signing_key(tx: Transaction, user_id: str, usage: str) -> None:
    tx.execute("DELETE FROM cross_signing_keys WHERE user_id = ? AND usage = ?", (user_id, usage))


def add_signature(tx: Transaction, user_id: str, signature: KeySignature) -> bool:
    """Keeps a signature on one of the user's keys; False if it was held."""
    return (
        tx.execute(
            "INSERT INTO key_signatures (user_id, key_id, signer, signing_key, signature) VALUES (?,?,?,?,?)"
            " ON CONFLICT (user_id, key_id, signer, signing_key) DO UPDATE SET signature = excluded.signature"
            " WHERE signature <> excluded.signature",
            (user_id, signature.key_id, signature.signer, signature.signing_key, signature.signature),
        ).rowcount
        > 0
    )


def signatures_of(tx: Transaction, user_id: str) -> tuple[KeySignature, ...]:
    """The signatures on the user's keys, whoever made them."""
    rows = tx.all("SELECT key_id, signer, signing_key, signature FROM key_signatures WHERE user_id = ?", (user_id,))
    return tuple(KeySignature(*row) for row in rows)


def remove_signatures(tx: Transaction, user_id: str, key_id: str) -> None:
    tx.execute("DELETE FROM key_signatures WHERE user_id = ? AND key_id = ?", (user_id, key_id))
