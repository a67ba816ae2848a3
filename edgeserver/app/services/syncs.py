"""What tells clients what is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeserver.matrix import canonical_json
from edgeserver.sync.classic import ClassicSync
from edgeserver.sync.sliding import deployed
from edgeserver.sync.sliding.engine import SlidingSync

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.app.services.ground import Ground
    from edgeserver.app.services.people import Users
    from edgeserver.store.database import Transaction
    from edgeserver.sync.sliding.wanted import RoomResult


@dataclass(frozen=True, slots=True)
class Syncs:
    """What tells clients what is new: classic sync, and sliding sync in both dialects."""

    classic: ClassicSync
    sliding: SlidingSync


def syncs(ground: Ground, users: Users) -> Syncs:
    """Both read the store for themselves."""

    def size(result: RoomResult) -> int:
        return len(canonical_json.encode_loose(deployed.room(result)))

    sliding = SlidingSync(ground.db, ground.wakeups, users.typing, ground.now_ms, size)

    def forget(tx: Transaction, user_id: str, device_ids: Sequence[str]) -> None:
        tx.on_commit(lambda: sliding.connections.forget(user_id, frozenset(device_ids)))

    users.devices.when_deleted(forget)
    return Syncs(
        ClassicSync(ground.db, ground.wakeups, users.typing, ground.now_ms, users.presence if users.presence.enabled else None),
        sliding,
    )
