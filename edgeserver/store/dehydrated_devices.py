"""Dehydrated devices: the table `dehydrated_devices`, one row a user at most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.matrix import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.store.database import Transaction


def device_id(tx: Transaction, user_id: str) -> str | None:
    """The user's dehydrated device."""
    row = tx.one("SELECT device_id FROM dehydrated_devices WHERE user_id = ?", (user_id,))
    return None if row is None else row[0]


def get(tx: Transaction, user_id: str) -> tuple[str, dict[str, Any]] | None:
    """The id of the user's dehydrated device and its data."""
    row = tx.one("SELECT device_id, data FROM dehydrated_devices WHERE user_id = ?", (user_id,))
    return None if row is None else (row[0], canonical_json.decode_exact(row[1]))


def put(tx: Transaction, user_id: str, device_id: str, data: Mapping[str, Any]) -> None:
    """Notes that this device is the user's dehydrated one."""
    tx.execute(
        "INSERT OR REPLACE INTO dehydrated_devices (user_id, device_id, data) VALUES (?,?,?)",
        (user_id, device_id, canonical_json.encode_loose(data)),
    )
