"""Devices: the table `devices`, and what goes with a device that is deleted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeserver.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Device:
    """One row of `devices`; `last_seen_at` in ms since the epoch."""

    device_id: str
    display_name: str | None
    last_seen_at: int | None
    last_seen_ip: str | None


def devices(tx: Transaction, user_id: str) -> list[Device]:
    rows = tx.all(
        "SELECT device_id, display_name, last_seen_at, last_seen_ip FROM devices WHERE user_id = ? ORDER BY device_id",
        (user_id,),
    )
    return [Device(*row) for row in rows]


def device(tx: Transaction, user_id: str, device_id: str) -> Device | None:
    row = tx.one(
        "SELECT device_id, display_name, last_seen_at, last_seen_ip FROM devices WHERE user_id = ? AND device_id = ?",
        (user_id, device_id),
    )
    return None if row is None else Device(*row)


def ensure(tx: Transaction, user_id: str, device_id: str, display_name: str | None) -> None:
    """Creates the device; one that is there keeps its name."""
    tx.execute(
        "INSERT OR IGNORE INTO devices (user_id, device_id, display_name) VALUES (?, ?, ?)",
        (user_id, device_id, display_name),
    )


def rename(tx: Transaction, user_id: str, device_id: str, display_name: str) -> None:
    tx.execute("UPDATE devices SET display_name = ? WHERE user_id = ? AND device_id = ?", (display_name, user_id, device_id))


def delete(tx: Transaction, user_id: str, device_ids: Iterable[str]) -> list[str]:
    """Deletes devices with their tokens and pushers and, of a dehydrated one, its data; returns those that were there."""
    deleted = []
    for device_id in device_ids:
        if tx.execute("DELETE FROM devices WHERE user_id = ? AND device_id = ?", (user_id, device_id)).rowcount:
            deleted.append(device_id)
        for table in ("tokens", "pushers", "dehydrated_devices"):
            tx.execute(f"DELETE FROM {table} WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    return deleted


def seen(tx: Transaction, rows: Iterable[tuple[str, str, int, str]]) -> None:
    """Notes when and from where devices were last seen: (user_id, device_id, ms, address)."""
    tx.executemany("UPDATE devices SET last_seen_at = ?3, last_seen_ip = ?4 WHERE user_id = ?1 AND device_id = ?2", list(rows))
