"""Which redactions count, and which are kept from clients. Spec: rooms/v3, "Handling redactions".

From room version 3 on the auth rules let every redaction into the room: whether it means anything is seen only beside the event that it
redacts. Until both are held and the one may redact the other, no client may be told of it, for clients apply whatever redaction they see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeserver.matrix.auth_events import CREATE, POWER_LEVELS
from edgeserver.matrix.identifiers import domain_of
from edgeserver.matrix.power_levels import PowerLevels
from edgeserver.store import events, state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent

REDACTION = "m.room.redaction"


def may_redact(tx: Transaction, redaction: StoredEvent, target: StoredEvent) -> bool:
    """Whether an accepted redaction applies to this event: both are of the same room, and it is not the create event.

    In room versions 1 and 2 the auth rules have weighed it already. From version 3 on its sender has the power to redact, or is of the
    server that sent the event.
    """
    return _may_redact(tx, redaction, target, {})


def _may_redact(tx: Transaction, redaction: StoredEvent, target: StoredEvent, known: dict[int, PowerLevels]) -> bool:
    """`known` is filled with the power levels of the snapshots that were looked at."""
    event = redaction.event
    if target.event.room_id != event.room_id or target.event.type == CREATE[0]:
        return False
    if event.rules.redaction_auth_by_event_id:
        return True
    if domain_of(event.sender) == domain_of(target.event.sender):
        return True
    if redaction.before is None:
        return False
    if redaction.before not in known:
        found = state.lookup_events(tx, redaction.before, [CREATE, POWER_LEVELS])
        judged = {key: events.for_auth(tx, item) for key, item in found.items()}
        known[redaction.before] = PowerLevels(event.rules, judged.get(CREATE), judged.get(POWER_LEVELS))
    levels = known[redaction.before]
    return levels.user(event.sender) >= levels.redact


def withheld(tx: Transaction, found: Iterable[StoredEvent]) -> set[int]:
    """The numbers of those of the events that are redactions which no client may be told of (yet).

    A target that is held only as state or as an auth event is held all the same: clients have it in the room's state. Costs nothing where
    there are no redactions, and one more read where all of them have been applied.
    """
    asked = [one for one in found if one.event.type == REDACTION and not one.event.rules.redaction_auth_by_event_id]
    if not asked:
        return set()
    targets = events.many(tx, {one.event.redacts for one in asked if one.event.redacts is not None})
    known: dict[int, PowerLevels] = {}
    return {one.number for one in asked if not _counts(tx, one, targets.get(one.event.redacts or ""), known)}


def _counts(tx: Transaction, redaction: StoredEvent, target: StoredEvent | None, known: dict[int, PowerLevels]) -> bool:
    if redaction.event.redacts is None:
        # It names nothing where its room version has it, but clients look elsewhere, too. Once redacted itself, it has nothing left to heed
        return redaction.redacted_by is not None
    if target is None:
        return False
    return target.redacted_by == redaction.event.event_id or _may_redact(tx, redaction, target, known)
