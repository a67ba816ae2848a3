"""Events by the time that their senders state, for GET /timestamp_to_event.

There is no index for it: `tie` holds that time in its upper bits (`events.tie_of`), and the index of the topological order covers it. A
jump to a date is rare and reads some 25 bytes an event of the room that way; an index would be written with every event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.store.database import Transaction

_TIE_BITS = 20
_LATEST = 2**42 - 1


def nearest(tx: Transaction, room: int, ts: int, limit: int, *, backwards: bool) -> list[int]:
    """The numbers of the room's timeline events at or after (or at or before) `ts` (ms): at most `limit`, the nearest first."""
    bounded = min(max(ts, -1), _LATEST)
    if backwards:
        order, end = "tie < ? AND stream IS NOT NULL ORDER BY tie DESC", bounded + 1
    else:
        order, end = "tie >= ? AND stream IS NOT NULL ORDER BY tie", bounded if ts <= _LATEST else _LATEST + 1
    rows = tx.all(
        f"SELECT event FROM events INDEXED BY events_by_depth WHERE room = ? AND {order} LIMIT ?", (room, end << _TIE_BITS, limit)
    )
    return [number for (number,) in rows]


def beside_a_gap(tx: Transaction, room: int, numbers: Sequence[int]) -> bool:
    """Whether any of these events names a prev event that is not held."""
    marks = ",".join("?" * len(numbers))
    return tx.one(f"SELECT 1 FROM gaps WHERE room = ? AND event IN ({marks}) LIMIT 1", (room, *numbers)) is not None
