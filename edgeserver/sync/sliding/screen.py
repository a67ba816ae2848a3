"""The dialect for programs that show text to a person: POST /_matrix/client/unstable/org.edgeserver.screen/sync.

What is asked and told is in `edgeserver.thin.screen`; here it is made of what the engine composes. `pos` and `timeout` are in the query.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from edgeserver.store import events, rooms
from edgeserver.sync.sliding.wanted import MEMBER, Extensions, ListFilter, ListWish, RequiredState, RoomWish, Scope, SlidingRequest
from edgeserver.thin import entries, screen
from edgeserver.thin.screen import Answer, Reader, Room

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from edgeserver.store.database import Transaction
    from edgeserver.sync.sliding.wanted import RoomResult, SlidingAnswer

CONNECTION: Final = "org.edgeserver.screen"
"""The id of a device's connection: one screen is all that it has."""
WHOLE_EVENTS: Final = 20
LIST: Final = "rooms"
ENCRYPTION, NAME = ("m.room.encryption", ""), ("m.room.name", "")
PREVIEW: Final = 32
"""Characters of the last words of a room whose timeline begins anew in a list: what a line of 80 columns holds beside the room's name and
who says it. Whoever opens the room is told of them once more, for an open room has more events than a listed one.
"""
_LISTED: Final = RoomWish(1, frozenset([RequiredState(frozenset([ENCRYPTION]))]))
_WHOLE: Final = RoomWish(WHOLE_EVENTS, frozenset([RequiredState(frozenset([ENCRYPTION]), lazy_members=True)]))
_ALL_BUT_SPACES: Final = ListFilter(not_room_types=frozenset(["m.space"]))
_ROOM: Final = 8
"""Bytes on the line that a room takes at the least."""
_ROOM_ID: Final = 32
_PER_BYTE: Final = 3
"""Characters of text that go into a byte on the line."""
_EVENT: Final = 6


def read(
    user_id: str, device_id: str, pos: str | None, timeout_ms: int, listed: int, whole: Iterable[str], opened: str | None
) -> SlidingRequest:
    """The request for the first `listed` rooms, and for the rooms with these ids in full; `opened` is one of them."""
    lists = {LIST: ListWish(_LISTED, ((0, listed - 1),), _ALL_BUT_SPACES)} if listed else {}
    shown = frozenset() if opened is None else frozenset([opened])
    return SlidingRequest(
        user_id,
        device_id,
        CONNECTION,
        pos,
        timeout_ms,
        lists,
        dict.fromkeys([*whole, *shown], _WHOLE),
        Extensions(receipts=Scope(frozenset(), shown)) if shown else Extensions(),
        counts_reads=True,
        size=weight,
        echoes=False,
        short_pos=True,
    )


def weight(result: RoomResult) -> int:
    """About how many bytes a room's result takes on a line that remembers what went over it."""
    most = PREVIEW if result.initial and len(result.timeline) == 1 else screen.MAX_TEXT
    texts = sum(min(most, len(entries.text_of(event["content"], "body"))) for event in result.timeline)
    named = len(result.name or "") + 8 * len(result.heroes or ()) + 8 * len(result.state)
    return _ROOM + _ROOM_ID * result.initial + _EVENT * len(result.timeline) + (texts + named) // _PER_BYTE


@dataclass(frozen=True, slots=True)
class Cited:
    """Places in the stream of events that an answer speaks of, by their ids, and numbers of rooms by theirs."""

    places: Mapping[str, int]
    rooms: Mapping[str, int]


NOTHING_CITED: Final = Cited({}, {})


def cited(tx: Transaction, answer: SlidingAnswer) -> Cited:
    """What the answer's edits, removals and receipts are about, as far as it is held."""
    wanted = {entries.target(event) for result in answer.rooms.values() for event in result.timeline}
    found: dict[str, int] = {}
    for room_id, told in _receipts(answer).items():
        wanted |= told["content"].keys()
        room = rooms.get(tx, room_id)
        found |= {} if room is None else {room_id: room.number}
    return Cited(events.streams_by_id(tx, wanted - {""}), found)


def cites(answer: SlidingAnswer) -> bool:
    """Whether `cited` has anything to look up."""
    told = any(entries.target(event) for result in answer.rooms.values() for event in result.timeline)
    return told or bool(_receipts(answer))


def _receipts(answer: SlidingAnswer) -> dict[str, Any]:
    found: dict[str, Any] = answer.extensions.get("receipts", {}).get("rooms", {})
    return found


def write(answer: SlidingAnswer, known: Cited, whole: Collection[str]) -> Answer:
    """`whole`: the rooms that were asked for in full."""
    told = tuple(_room(room_id, result, known.places, is_whole=room_id in whole) for room_id, result in answer.rooms.items())
    readers = tuple(_readers(answer, known))[: screen.MAX_READERS]
    return Answer(int(answer.pos or 0), answer.lists.get(LIST), told[: screen.MAX_ROOMS], readers)


def _readers(answer: SlidingAnswer, known: Cited) -> Iterator[Reader]:
    """Of several receipts of one user the last: they may be of several threads."""
    for room_id, told in _receipts(answer).items():
        newest: dict[str, int] = {}
        for event_id, kinds in told["content"].items():
            place = known.places.get(event_id)
            for user_id in () if place is None else kinds.get("m.read", {}):
                newest[user_id] = max(place or 0, newest.get(user_id, place or 0))
        if room_id in known.rooms:
            yield from (Reader(known.rooms[room_id], user_id, place) for user_id, place in newest.items())


def _room(room_id: str, result: RoomResult, places: Mapping[str, int], *, is_whole: bool) -> Room:
    told = Room(result.number, room_id if result.initial else "", result.membership)
    if result.membership in ("invite", "knock"):
        return _asked(told, result)
    if result.membership != "join":
        return told
    is_end = result.initial or result.limited or result.expanded
    shown = [
        entry
        for event, stream in zip(result.timeline, result.streams, strict=True)
        if (entry := entries.read(event, stream, places, knows_own=not is_end)) is not None
    ]
    if is_end and not is_whole:
        shown = [entries.cut(entry, PREVIEW) for entry in shown]
    newest = max((entry.number for entry in shown if entry.bumps), default=None)
    first = result.streams[0] if result.streams else None
    return replace(
        told,
        name=None if result.name is None or (result.initial and not result.name) else result.name[: screen.MAX_NAME],
        heroes=tuple(entries.name_of(one) for one in result.heroes or ())[: screen.MAX_HEROES],
        joined=result.joined_count if is_whole else None,
        unread=result.notifications,
        highlights=result.highlights,
        is_encrypted=any(event["type"] == ENCRYPTION[0] for event in result.state),
        stamp=None if result.bump_stamp == newest else result.bump_stamp,
        has_gap=is_end and not result.initial,
        before=first if first is not None and not (shown and shown[0].number == first) else None,
        entries=tuple(shown),
        people=tuple(entries.people(result.state))[: screen.MAX_PEOPLE],
    )


def _asked(told: Room, result: RoomResult) -> Room:
    """An invite or a knock."""
    state = {(event["type"], event["state_key"]): event for event in result.stripped or ()}
    inviter = next((event["sender"] for (kind, _), event in reversed(state.items()) if kind == MEMBER), "")
    name = entries.text_of(state[NAME]["content"], "name") if NAME in state else ""
    return replace(
        told,
        inviter=inviter if screen.is_user_id(inviter) else "",
        name=name[: screen.MAX_NAME] or None,
        is_encrypted=ENCRYPTION in state,
        stamp=result.bump_stamp,
    )
