"""The newest time that the store has seen: a box without a clock of its own goes on from there after a power cut.

It is written seldom (once an hour and at the end); what happened since is read off the newest events of this server,
so it costs no write of its own. Only events after the last note count: the clock may have been wrong before, and set right since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from edgeserver.matrix import canonical_json

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction

_KEY: Final = "clock_floor"
_LOOKED_AT: Final = 200
"""So many of the newest events are looked at."""


def note(tx: Transaction, now_ms: int) -> None:
    """This box has reached that time."""
    newest = tx.one("SELECT max(event) FROM events")
    value = orjson.dumps([now_ms, (newest[0] or 0) if newest else 0]).decode()
    tx.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_KEY, value))


def newest(tx: Transaction, server_name: str, *, before_ms: int) -> int:
    """The newest time (ms) that this box is known to have reached; 0 for a new one. Times from `before_ms` on are no times."""
    row = tx.one("SELECT value FROM meta WHERE key = ?", (_KEY,))
    reached, after = orjson.loads(row[0]) if row else (0, 0)
    pdus = tx.all("SELECT pdu FROM events WHERE event > ? ORDER BY event DESC LIMIT ?", (after, _LOOKED_AT))
    for (data,) in pdus:
        pdu = canonical_json.decode_exact(data)
        sender, sent = pdu.get("sender"), pdu.get("origin_server_ts")
        if isinstance(sender, str) and sender.partition(":")[2] == server_name and type(sent) is int and sent < before_ms:
            reached = max(reached, sent)
    return int(reached)
