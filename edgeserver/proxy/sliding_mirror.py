"""What a client of sliding sync knows once it has had these answers, told to one that begins the connection anew.

Answers of one connection are heard from the first on, each where the one before it ended. `first` tells all of it in one answer that ends
where the last one did, so that the box, for which the connection goes on, need not hear of it. Both dialects (MSC4186 as deployed and as
accepted) are understood. Sans-io.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from edgeserver.proxy.timelines import (
    CREATE,
    Stretch,
    Unmirrorable,
    apply_relations,
    count,
    ignored_in,
    is_invite_by,
    is_said_by,
    kept,
    last,
    receipts,
    receipts_in,
    state_key,
    words,
)

FIRST_EVENTS: Final = 20
"""Of each room in a first answer, if the box has told so many."""
_TIMELINES: Final = ("timeline", "timeline_events")
_STRIPPED: Final = ("invite_state", "stripped_state")
_EXPANDED: Final = ("unstable_expanded_timeline", "expanded_timeline")
_THREADS: Final = ("thread_subscriptions", "io.element.msc4308.thread_subscriptions")
_OUT: Final = ("leave", "ban")

Json = dict[str, Any]


@dataclass
class _Room:
    """`told` are the members of its results that each new one replaces; `state` by `timelines.state_key`."""

    told: Json = field(default_factory=dict)
    state: dict[str, Json] = field(default_factory=dict)
    stretches: list[Stretch] = field(default_factory=list)
    is_limited: bool = False

    @classmethod
    def read(cls, data: bytes) -> _Room:
        """Raises KeyError, TypeError or ValueError for what was not made of one."""
        found = orjson.loads(data)
        return cls(**found | {"stretches": [Stretch(**one) for one in found["stretches"]]})


@dataclass
class _Known:
    """All but the rooms. `receipts` by room, and by `words` of kind, user and thread: event id and value."""

    person: str
    position: str = ""
    lists: Json = field(default_factory=dict)
    timeline_name: str = _TIMELINES[0]
    extensions: list[str] = field(default_factory=list)
    account_data: dict[str, Json] = field(default_factory=dict)
    room_data: dict[str, dict[str, Json]] = field(default_factory=dict)
    receipts: dict[str, dict[str, tuple[str, Json]]] = field(default_factory=dict)
    threads: Json = field(default_factory=dict)
    e2ee: Json = field(default_factory=dict)


class SlidingMirror:
    """`person`: the user id, "" if it is not known."""

    def __init__(self, person: str) -> None:
        self._known = _Known(person)
        self._rooms: dict[str, bytes] = {}

    @property
    def position(self) -> str:
        """Where the last answer ended."""
        return self._known.position

    # ---- what the box has said

    def hear(self, start: str | None, answer: Json) -> None:
        """An answer to the sync from `start` on (None: the first). Raises `Unmirrorable`."""
        if start is None:
            self._known, self._rooms = _Known(self._known.person), {}
        elif start != self.position:
            raise Unmirrorable(f"an answer from {start} on is no help at {self.position}")
        try:
            self._known.lists |= answer.get("lists", {})
            for room_id, result in answer.get("rooms", {}).items():
                self._rooms[room_id] = orjson.dumps(self._room(self._rooms.get(room_id), result))
            self._hear_extensions(answer.get("extensions", {}))
            self._known.position = str(answer["pos"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Unmirrorable(f"no answer to a sync: {error!r}") from error

    def _room(self, known: bytes | None, result: Json) -> _Room:
        room = _Room() if known is None or result.get("initial") else _Room.read(known)
        self._known.timeline_name = next((name for name in _TIMELINES if name in result), self._known.timeline_name)
        events = [kept(event) for event in result.get(self._known.timeline_name, ())]
        if result.get("limited") or any(result.get(name) for name in _EXPANDED):
            room.stretches, room.is_limited = [], bool(result.get("limited"))
        for event in result.get("required_state", ()):
            if "event_id" in event:
                room.state[state_key(event)] = kept(event)
            else:
                room.state.pop(state_key(event), None)
        if events:
            room.stretches.append(Stretch(result.get("prev_batch"), events))
        apply_relations(room.stretches, room.state.values(), events, room.state.get(CREATE, {}))
        while len(room.stretches) > 1 and count(room.stretches[1:]) >= FIRST_EVENTS:
            del room.stretches[0]
            room.is_limited = True
        for name in _STRIPPED:
            room.told.pop(name, None)
        apart = (self._known.timeline_name, "required_state", "prev_batch", "initial", "limited", "num_live", *_EXPANDED)
        room.told |= {name: value for name, value in result.items() if name not in apart}
        return room

    def _hear_extensions(self, told: Json) -> None:
        self._known.extensions = list(dict.fromkeys([*self._known.extensions, *told]))
        data = told.get("account_data", {})
        self._known.account_data |= {item["type"]: item["content"] for item in data.get("global", ())}
        for room_id, items in data.get("rooms", {}).items():
            self._known.room_data.setdefault(room_id, {}).update({item["type"]: item["content"] for item in items})
        for room_id, event in told.get("receipts", {}).get("rooms", {}).items():
            known = self._known.receipts.setdefault(room_id, {})
            known |= receipts_in(event["content"])
        counts = told.get("e2ee", {})
        self._known.e2ee |= {name: value for name, value in counts.items() if name != "device_lists"}
        for name in _THREADS:
            if name in told:
                self._hear_threads(self._known.threads.setdefault(name, {}), told[name])

    def _hear_threads(self, known: Json, told: Json) -> None:
        for room_id, threads in told.get("subscribed", {}).items():
            known.setdefault("subscribed", {}).setdefault(room_id, {}).update(threads)
        for room_id, threads in told.get("unsubscribed", {}).items():
            for root in threads:
                known.get("subscribed", {}).get(room_id, {}).pop(root, None)
        if "prev_batch" in told:
            known.setdefault("prev_batch", told["prev_batch"])

    def hear_older(self, room_id: str, start: str, page: Json) -> None:
        """Nothing is made of it."""

    # ---- what a client is told

    @property
    def counts(self) -> Json:
        """What the last answers said of the keys of the device."""
        return self._known.e2ee

    def first(self, limit: int) -> bytes:
        """The body of an answer to a first sync, with `limit` events of each room, if the box has told them in such portions."""
        ignored = ignored_in(self._known.account_data)
        shown = {}
        for room_id, known in self._rooms.items():
            if self._is_in(room := _Room.read(known), ignored):
                shown[room_id] = orjson.Fragment(orjson.dumps(self._result(room, limit, ignored)))
        answer = {"pos": self.position, "lists": self._known.lists, "rooms": shown, "extensions": self._told_extensions(ignored)}
        return orjson.dumps(answer)

    def _is_in(self, room: _Room, ignored: set[str]) -> bool:
        stripped = next((room.told[name] for name in _STRIPPED if room.told.get(name)), None)
        if stripped is not None:
            return not any(is_invite_by(event, ignored) for event in stripped)
        own = room.state.get(words("m.room.member", self._known.person), {}).get("content", {}).get("membership")
        return room.told.get("membership", own) not in _OUT

    def _result(self, room: _Room, limit: int, ignored: set[str]) -> Json:
        told = last(room.stretches, limit)
        events = [event for stretch in told for event in stretch.events if not is_said_by(event, ignored)]
        result: Json = {"initial": True, **room.told}
        if room.state:
            result["required_state"] = list(room.state.values())
        if told:
            result |= {self._known.timeline_name: events, "num_live": 0, "prev_batch": told[0].start}
            result["limited"] = room.is_limited or len(told) < len(room.stretches)
        return result

    def _told_extensions(self, ignored: set[str]) -> Json:
        found: Json = {}
        if "account_data" in self._known.extensions:
            rooms = {room_id: _items(data) for room_id, data in self._known.room_data.items()}
            found["account_data"] = {"global": _items(self._known.account_data), "rooms": rooms}
        if "receipts" in self._known.extensions:
            found["receipts"] = {
                "rooms": {
                    room_id: {"type": "m.receipt", "content": receipts(known, ignored)} for room_id, known in self._known.receipts.items()
                }
            }
        if self._known.e2ee:
            found["e2ee"] = self._known.e2ee
        return found | {name: told for name, told in self._known.threads.items() if told}

    # ---- kept

    def write(self) -> bytes:
        """For `read`."""
        rooms = {room_id: orjson.Fragment(data) for room_id, data in self._rooms.items()}
        return orjson.dumps({"known": self._known, "rooms": rooms})

    @classmethod
    def read(cls, data: bytes) -> SlidingMirror:
        """Raises `Unmirrorable`."""
        try:
            told = orjson.loads(data)
            made = cls("")
            made._known = _Known(**told["known"])
            made._rooms = {room_id: orjson.dumps(room) for room_id, room in told["rooms"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Unmirrorable(f"no mirror: {error!r}") from error
        return made


def _items(data: dict[str, Json]) -> list[Json]:
    return [{"type": kind, "content": content} for kind, content in data.items()]
