"""What a transaction holds: the events between two stream positions that concern a service, and what goes with them.

Spec: application service API, "Pushing events" and "Pushing ephemeral data"; MSC4203 for messages to devices, MSC3202 for device lists
and the counts of one-time and fallback keys. Names that are not in the spec yet are sent as they will be and as bridges know them.

Everything with a stream position is read from the store between the same two positions, so a transaction can be read again as it was.
Who types, and presence, are told as they are now, and are gone with a restart.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edgeserver.bridges.interest import MEMBER, Interest
from edgeserver.matrix import canonical_json
from edgeserver.matrix.visibility import membership_of
from edgeserver.rooms.client_view import Viewer, timeline
from edgeserver.rooms.membership import stripped_state
from edgeserver.store import bridges, device_keys, device_lists, events, redactions, rooms
from edgeserver.store.receipts import READ
from edgeserver.users.receipts import edu_content

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.bridges.services import Service
    from edgeserver.store.bridges import ToDeviceMessage
    from edgeserver.store.database import Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.receipts import Receipt

SCANNED: Final = 500
"""Events that are looked at for one transaction."""
MAX_EVENTS: Final = 100
MAX_BYTES: Final = 512 * 1024
"""Of events, and of messages to devices."""
MAX_RECEIPTS: Final = 500
MAX_TO_DEVICE: Final = 100


@dataclass(frozen=True, slots=True)
class Ephemera:
    """What has no place in the store: who types where (room id → user ids), and presence (user id → content), at a version of these."""

    version: int = 0
    typing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    presence: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """One transaction: all that concerns the service in (since, upto]. `body` None: nothing does."""

    since: int
    upto: int
    txn_id: str
    body: dict[str, Any] | None
    has_to_device: bool = False


def read(tx: Transaction, service: Service, since: int, ceiling: int, ephemera: Ephemera, now: int) -> Batch:
    """The next transaction: as much as fits one, of what lies after `since` and not after `ceiling`. `now` in ms."""
    interest = Interest(tx, service)
    chosen, upto = _events(tx, interest, since, ceiling)
    wants_more = service.registration.receive_ephemeral
    messages: list[ToDeviceMessage] = []
    receipts: list[Receipt] = []
    if wants_more:
        messages, upto = bridges.new_to_device(tx, service.id, since, upto, MAX_TO_DEVICE, MAX_BYTES)
        found = bridges.new_receipts(tx, since, upto, MAX_RECEIPTS)
        upto = found[-1][0] if len(found) == MAX_RECEIPTS else upto
        receipts = [
            receipt
            for _, receipt in found
            if (receipt.type == READ or service.has_user(receipt.user_id)) and interest.takes_room(receipt.room)
        ]
    loaded = [one for stream, one in chosen if stream <= upto]
    messages = [one for one in messages if one.stream <= upto]
    shown = timeline(tx, loaded, Viewer(service.sender, None, now), bundled=False)
    for stored, event in zip(loaded, shown, strict=True):
        _tell_of_room(tx, stored, event)
    body: dict[str, Any] = {"events": shown}
    if wants_more:
        ephemeral = _ephemeral(tx, service, interest, receipts, ephemera)
        _put(body, "ephemeral", ephemeral, "de.sorunome.msc2409")
        _put(body, "to_device", [_addressed(one) for one in messages], "de.sorunome.msc2409")
    if service.registration.encrypts:
        _encryption(tx, service, since, upto, messages, body)
    is_news = bool(shown) or len(body) > 1
    ids = [one.event.event_id for one in loaded]
    return Batch(since, upto, _id(service, since, upto, ids, messages, body, ephemera), body if is_news else None, bool(messages))


def _events(tx: Transaction, interest: Interest, since: int, ceiling: int) -> tuple[list[tuple[int, StoredEvent]], int]:
    """The events for the service with the positions at which they came in, and up to where that is all of them."""
    rows = bridges.new_events(tx, since, ceiling, SCANNED)
    upto = rows[-1].stream if len(rows) == SCANNED else ceiling
    outside = bridges.new_memberships_outside(tx, since, upto, SCANNED)
    upto = outside[-1].stream if len(outside) == SCANNED else upto
    rows = [row for row in (*rows, *outside) if row.stream <= upto and interest.may_concern(row.room)]
    rows.sort(key=lambda row: row.stream)
    chosen: list[tuple[int, StoredEvent]] = []
    size = 0
    for start in range(0, len(rows), MAX_EVENTS):
        part = rows[start : start + MAX_EVENTS]
        loaded = events.many_by_number(tx, [row.number for row in part])
        withheld = redactions.withheld(tx, loaded.values())
        for row in part:
            if row.number in withheld or not interest.takes(loaded[row.number]):
                continue
            size += row.size
            if len(chosen) == MAX_EVENTS or (size > MAX_BYTES and chosen):
                return chosen, row.stream - 1
            chosen.append((row.stream, loaded[row.number]))
    return chosen, upto


def _tell_of_room(tx: Transaction, stored: StoredEvent, shown: dict[str, Any]) -> None:
    """An invite or a knock comes with what the room shows of itself, in `unsigned`: the service need not be in the room."""
    event = stored.event
    membership = membership_of(event)
    if event.type != MEMBER or event.state_key is None or membership not in ("invite", "knock"):
        return
    now = rooms.membership(tx, event.state_key, stored.room)
    room = rooms.by_number(tx, stored.room)
    if now is not None and now.event == stored.number and now.stripped is not None:
        shown["unsigned"][f"{membership}_room_state"] = now.stripped
    elif room.snapshot is not None:
        shown["unsigned"][f"{membership}_room_state"] = stripped_state(tx, room, event.sender)


def _put(body: dict[str, Any], key: str, value: Any, unstable: str) -> None:
    if value:
        body[key] = body[f"{unstable}.{key}"] = value


def _addressed(one: ToDeviceMessage) -> dict[str, Any]:
    return {**one.message, "to_user_id": one.user_id, "to_device_id": one.device_id}


# Ephemeral data


def _ephemeral(
    tx: Transaction, service: Service, interest: Interest, receipts: Sequence[Receipt], ephemera: Ephemera
) -> list[dict[str, Any]]:
    by_room: dict[int, list[Receipt]] = {}
    for receipt in receipts:
        by_room.setdefault(receipt.room, []).append(receipt)
    found: list[dict[str, Any]] = [
        {"type": "m.receipt", "room_id": rooms.by_number(tx, room).room_id, "content": edu_content(of_room)}
        for room, of_room in by_room.items()
    ]
    for room_id, user_ids in ephemera.typing.items():
        known = rooms.get(tx, room_id)
        if known is not None and interest.takes_room(known.number):
            found.append({"type": "m.typing", "room_id": room_id, "content": {"user_ids": list(user_ids)}})
    for user_id, content in ephemera.presence.items():
        if service.has_user(user_id) or any(
            one.membership == "join" and interest.takes_room(one.room) for one in rooms.memberships_of(tx, user_id)
        ):
            found.append({"type": "m.presence", "sender": user_id, "content": dict(content)})
    return found


# End-to-end encryption


def _encryption(
    tx: Transaction, service: Service, since: int, upto: int, messages: Sequence[ToDeviceMessage], body: dict[str, Any]
) -> None:
    """Device lists as the service's users with keys would be told of them in a sync, and the counts that have changed for a device.

    What a device is sent may have been made with one of its keys, so it is told the counts with that too.
    """
    devices = bridges.devices_with_keys(tx, service.id)
    unstable = "org.matrix.msc3202"
    changed, gone = _device_lists(tx, list(dict.fromkeys(user_id for user_id, _ in devices)), since, upto)
    if changed or gone:
        _put(body, "device_lists", {"changed": sorted(changed), "left": sorted(gone)}, unstable)
    addressed = {(one.user_id, one.device_id) for one in messages}
    counts: dict[str, dict[str, Any]] = {}
    unused: dict[str, dict[str, Any]] = {}
    for user_id, device_id in devices:
        if (user_id, device_id) in addressed or device_keys.claims_since(tx, user_id, device_id, since):
            counts.setdefault(user_id, {})[device_id] = device_keys.one_time_key_counts(tx, user_id, device_id)
            unused.setdefault(user_id, {})[device_id] = device_keys.unused_fallback_key_types(tx, user_id, device_id)
    _put(body, "device_one_time_keys_count", counts, unstable)
    _put(body, "device_unused_fallback_key_types", unused, unstable)
    if counts:
        body[f"{unstable}.device_one_time_key_counts"] = counts  # as the proposal had it first, and older bridges read it


def _device_lists(tx: Transaction, users: Sequence[str], since: int, upto: int) -> tuple[set[str], set[str]]:
    """(whose keys changed, who shares no encrypted room with any of the users any more)."""
    changed: set[str] = set()
    gone: set[str] = set()
    for user_id in users:
        theirs, left = device_lists.changed(tx, user_id, since, upto)
        changed.update(theirs)
        gone.update(left)
    gone -= changed
    return changed, {other for other in gone if not any(device_lists.share_encrypted_room(tx, one, other) for one in users)}


def _id(
    service: Service,
    since: int,
    upto: int,
    event_ids: Sequence[str],
    messages: Sequence[ToDeviceMessage],
    body: Mapping[str, Any],
    ephemera: Ephemera,
) -> str:
    """The same for the same events and messages to devices, from wherever they were read, after a restart too; another where the store
    has been put back to an older copy of itself, and where somebody types again between the same two positions.
    """
    content: Any = [service.id, event_ids, [one.stream for one in messages], body.get("to_device")]
    if not event_ids and not messages:
        content += [since, upto, body, ephemera.version if ephemera.typing or ephemera.presence else None]
    return hashlib.blake2b(canonical_json.encode_loose(content), digest_size=16).hexdigest()
