"""Where media is named: in the events of a room, and as pictures of people and rooms."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import canonical_json

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction

_MXC: Final = re.compile(r"mxc://([^/]+)/([A-Za-z0-9_-]+)")


def of_room(tx: Transaction, room: int) -> list[tuple[str, str]]:
    """(server name, media id) of what the room's events name as `url` or as `info.thumbnail_url`, in the order of the timeline. What is
    named in encrypted events nobody but their readers knows.
    """
    rows = tx.all(
        "SELECT json_extract(CAST(pdu AS TEXT), '$.content.url'), json_extract(CAST(pdu AS TEXT), '$.content.info.thumbnail_url')"
        " FROM events WHERE room = ? AND stream IS NOT NULL AND instr(CAST(pdu AS TEXT), 'mxc://') > 0 ORDER BY depth, tie",
        (room,),
    )
    found = [match for row in rows for uri in row if isinstance(uri, str) and (match := _MXC.fullmatch(uri))]
    return list(dict.fromkeys((match[1], match[2]) for match in found))


def pictures(tx: Transaction) -> set[str]:
    """The mxc:// URIs of the pictures of our people, and of those that rooms have now."""
    avatars: list[Any] = [
        canonical_json.decode_exact(value) for (value,) in tx.all("SELECT value FROM profiles WHERE field = 'avatar_url'")
    ]
    rows = tx.all(
        "WITH RECURSIVE chain (room, snapshot, base, height) AS ("
        " SELECT r.room, s.snapshot, s.base, s.height FROM rooms r JOIN snapshots s ON s.snapshot = r.snapshot"
        " UNION ALL SELECT c.room, s.snapshot, s.base, s.height FROM chain c JOIN snapshots s ON s.snapshot = c.base)"
        " SELECT json_extract(CAST(e.pdu AS TEXT), '$.content.url'), max(c.height) FROM state_keys k"
        " JOIN snapshot_entries n ON n.key = k.key JOIN chain c ON c.snapshot = n.snapshot JOIN events e ON e.event = n.event"
        " WHERE k.type = 'm.room.avatar' AND k.state_key = '' GROUP BY c.room"
    )
    return {uri for uri in [*avatars, *(uri for uri, _ in rows)] if isinstance(uri, str)}
