"""Events as a client sees them: the event, and in `unsigned` what this server knows of it for whoever asks.

Client-server API, "Room event format": `age` (ms), `transaction_id` for the device that sent the event, `redacted_because`, `prev_content`
(with `replaces_state`), `membership`, the asking user's own at that event (MSC4115), and `m.relations`, what child events amount to
("Aggregations of child events").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeserver.matrix.event import client_event
from edgeserver.matrix.relations import REFERENCE, REPLACE, THREAD
from edgeserver.matrix.visibility import membership_of
from edgeserver.rooms.aggregations import aggregated
from edgeserver.rooms.erasure import as_seen_by
from edgeserver.store import events, state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from edgeserver.rooms.aggregations import Aggregation
    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks, from which device (None: none), and when (ms since epoch)."""

    user_id: str
    device_id: str | None
    now: int


def timeline(
    tx: Transaction, found: Sequence[StoredEvent], viewer: Viewer, *, with_room_id: bool = True, bundled: bool = True
) -> list[dict[str, Any]]:
    """Events of a timeline, with everything that `unsigned` may say; `bundled`: aggregations, too. What the viewer may not see has
    been left out before.

    Costs one state lookup for each run of events without a state event between them, and one for each state event.
    """
    notes = _timeline_notes(tx, found, viewer)
    if bundled:
        for number, bundle in _bundles(tx, found, viewer, with_room_id=with_room_id).items():
            notes[number]["m.relations"] = bundle
    return _shown(found, notes, with_room_id)


def _timeline_notes(tx: Transaction, found: Sequence[StoredEvent], viewer: Viewer) -> dict[int, dict[str, Any]]:
    notes = _notes(tx, found, viewer)
    memberships: dict[int, str] = {}
    for stored in found:
        note = notes[stored.number]
        if stored.after is not None:
            if stored.after not in memberships:
                member = state.lookup_event(tx, stored.after, "m.room.member", viewer.user_id)
                memberships[stored.after] = membership_of(None if member is None else member.event)
            note["membership"] = memberships[stored.after]
        note.update(_replaced(tx, stored, viewer.user_id))
    return notes


def _bundles(tx: Transaction, found: Sequence[StoredEvent], viewer: Viewer, *, with_room_id: bool) -> dict[int, dict[str, Any]]:
    """`m.relations` of those of the events that have it. The latest event of a thread has its own; it is no root of another one."""
    outer = aggregated(tx, found, viewer.user_id)
    if not outer:
        return {}
    latest = [one.thread.latest for one in outer.values() if one.thread is not None]
    inner = aggregated(tx, latest, viewer.user_id) if latest else {}
    edits = {one.edit.number: one.edit for one in (*outer.values(), *inner.values()) if one.edit is not None}
    notes = _timeline_notes(tx, list(({stored.number: stored for stored in latest} | edits).values()), viewer)

    def shown(stored: StoredEvent) -> dict[str, Any]:
        return client_event(stored.event, unsigned=notes[stored.number], with_room_id=with_room_id)

    for number, one in inner.items():
        notes[number]["m.relations"] = _bundle(one, shown)
    return {number: _bundle(one, shown) for number, one in outer.items()}


def _bundle(one: Aggregation, shown: Callable[[StoredEvent], dict[str, Any]]) -> dict[str, Any]:
    bundle: dict[str, Any] = {}
    if one.edit is not None:
        bundle[REPLACE] = shown(one.edit)
    if one.thread is not None:
        thread = one.thread
        bundle[THREAD] = {
            "latest_event": shown(thread.latest), "count": thread.count, "current_user_participated": thread.participated
        }  # fmt: skip
    if one.references:
        bundle[REFERENCE] = {"chunk": [{"event_id": event_id} for event_id in one.references]}
    return bundle


def cited_member(tx: Transaction, found: Iterable[StoredEvent], user_id: str) -> int | None:
    """The number of the membership event that some event of this sender cites: in a partial room the state may lack the sender."""
    for stored in found:
        if stored.event.sender == user_id:
            for one in events.many(tx, stored.event.auth_events).values():
                if (one.event.type, one.event.state_key) == ("m.room.member", user_id):
                    return one.number
    return None


def state_events(tx: Transaction, found: Iterable[StoredEvent], viewer: Viewer, *, with_room_id: bool = True) -> list[dict[str, Any]]:
    """Events as parts of a room's state, of which there may be thousands: without what would cost a lookup for each."""
    listed = list(found)
    return _shown(listed, _notes(tx, listed, viewer), with_room_id)


def _shown(found: Sequence[StoredEvent], notes: dict[int, dict[str, Any]], with_room_id: bool) -> list[dict[str, Any]]:
    return [client_event(stored.event, unsigned=notes[stored.number], with_room_id=with_room_id) for stored in found]


def _notes(tx: Transaction, found: Sequence[StoredEvent], viewer: Viewer) -> dict[int, dict[str, Any]]:
    """`unsigned` of each event, by its number: what all kinds of view have."""
    notes: dict[int, dict[str, Any]] = {
        stored.number: {"age": viewer.now - stored.event.origin_server_ts} for stored in found
    }
    if viewer.device_id is not None:
        own = [stored.number for stored in found if stored.event.sender == viewer.user_id]
        for number, txn_id in events.transaction_ids(tx, viewer.user_id, viewer.device_id, own).items():
            notes[number]["transaction_id"] = txn_id
    redactions = events.many(tx, [stored.redacted_by for stored in found if stored.redacted_by is not None])
    for stored in found:
        because = None if stored.redacted_by is None else redactions.get(stored.redacted_by)
        if because is not None:
            age = viewer.now - because.event.origin_server_ts
            notes[stored.number]["redacted_because"] = client_event(because.event, unsigned={"age": age})
    return notes


def _replaced(tx: Transaction, stored: StoredEvent, user_id: str) -> dict[str, Any]:
    """What the state held under this event's key before it, as the user may see it."""
    event = stored.event
    if event.state_key is None or stored.before is None:
        return {}
    previous = state.lookup_event(tx, stored.before, event.type, event.state_key)
    if previous is None or previous.number == stored.number:
        return {}
    [previous] = as_seen_by(tx, user_id, [previous])
    return {
        "prev_content": previous.event.content,
        "prev_sender": previous.event.sender,
        "replaces_state": previous.event.event_id,
    }
