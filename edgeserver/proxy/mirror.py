"""What a client of classic sync knows once it has had these answers, told to one that begins anew.

A mirror is fed with the answers to the syncs of one filter, from a first one on, each where the one before it ended or earlier. `first` is
then what the box might have answered at that point to a first sync; the client goes on from there at the box. Of the timelines a mirror
keeps, where their parts began, the tokens with which the box can be asked for what was before; so `messages` reads back as far as is known
without a gap.

The state of a room is kept as it was before the first event that `first` may tell, or, if the answers are of the newer kind
(`state_after`), as it is after the last one. Redactions are applied to what is kept; of edits and other relations a client hears by the
events that make them, which are kept as well. Sans-io. Spec: client-server API, "Syncing".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from edgeserver.matrix.errors import MatrixError
from edgeserver.proxy.timelines import (
    CREATE,
    IGNORED,
    Stretch,
    Unmirrorable,
    apply_relations,
    changes,
    count,
    ignored_in,
    is_invite_by,
    is_said_by,
    kept,
    last,
    of_no_device,
    receipts,
    receipts_in,
    state_key,
    without_repeated,
    words,
)
from edgeserver.sync import since as sync_token

COUNTS: Final = ("device_one_time_keys_count", "device_unused_fallback_key_types", "org.matrix.msc2732.device_unused_fallback_key_types")
"""Parts that each answer has, of the keys of the device."""
FIRST_EVENTS: Final = 20
"""Of each room in a first answer, unless the client wants fewer."""
MAX_EVENTS: Final = 300
"""Of each room that are kept."""
_TIMELINE_PARTS: Final = ("state", "state_after", "timeline", "account_data", "ephemeral")
_ASKED: Final = ("invite", "knock")

Json = dict[str, Any]


@dataclass
class MirroredRoom:
    """A room that the client has joined. Before `recent` comes `older`, and before that, if `is_limited`, what is not known.

    `state` (keys are JSON lists of type and state key) is that before `recent`, or that after it. `members` were told beside older events,
    `beside` are the parts of an entry that each new one replaces; `receipts` (event id and value) have a JSON list of kind, user and thread
    as key.
    """

    state: dict[str, Json] = field(default_factory=dict)
    older: list[Stretch] = field(default_factory=list)
    recent: list[Stretch] = field(default_factory=list)
    is_limited: bool = False
    members: dict[str, Json] = field(default_factory=dict)
    summary: Json = field(default_factory=dict)
    beside: Json = field(default_factory=dict)
    account_data: dict[str, Json] = field(default_factory=dict)
    receipts: dict[str, tuple[str, Json]] = field(default_factory=dict)

    @classmethod
    def read(cls, data: bytes) -> MirroredRoom:
        """Raises KeyError, TypeError or ValueError for what `write` has not made."""
        told = orjson.loads(data)
        for name in ("older", "recent"):
            told[name] = [Stretch(**one) for one in told[name]]
        return cls(**told)

    def write(self) -> bytes:
        return orjson.dumps(self)

    def stretches(self) -> list[Stretch]:
        return [*self.older, *self.recent]

    def state_now(self, *, state_after: bool) -> dict[str, Json]:
        """That after the last event."""
        return self.state if state_after else self.state | changes(self.recent)


def goes_on(position: str, start: str) -> bool:
    """Whether an answer to the sync from `start` on lacks nothing for who stands at `position`. Raises MatrixError for what is no token."""
    return bool(position) and _stream(start) <= _stream(position)


def is_overtaken(position: str, start: str, end: str) -> bool:
    """Whether who stands at `position` knows all of an answer from `start` to `end`; not so of one that tells all anew, as a box does
    that was restored. Raises MatrixError for what is no token.
    """
    return bool(position) and _stream(start) <= _stream(end) < _stream(position)


def acknowledging_as(since: str, position: str) -> str:
    """That position, of a device that has got no more messages than a sync from `since` on says. Raises MatrixError for no token."""
    stands = sync_token.parse(position)
    return str(replace(stands, to_device=min(stands.to_device, sync_token.parse(since).to_device), typing_rooms=()))


class Mirror:
    """`state_after`: whether the answers tell the state of rooms that way. `position` is where the last answer ended."""

    def __init__(self, *, state_after: bool) -> None:
        self._state_after = state_after
        self._clear()

    def _clear(self) -> None:
        self.position = ""
        self._rooms: dict[str, bytes] = {}
        self._asked: dict[str, dict[str, bytes]] = {section: {} for section in _ASKED}
        self._account_data: dict[str, Json] = {}
        self._counts: Json = {}
        self._owes_messages = False  # the last answer had some for the device, or had nothing for this device at all

    # ---- what the box has said

    def hear(self, start: str | None, answer: Json) -> None:
        """An answer to the sync from `start` on (None: the first). Raises `Unmirrorable`."""
        try:
            if start is None or _stream(answer["next_batch"]) < _stream(start):
                self._clear()  # in the second case the box is one that was restored, and has told everything anew
            elif not goes_on(self.position, start):
                raise Unmirrorable(f"an answer from {start} on is no help at {self.position}")
            elif is_overtaken(self.position, start, answer["next_batch"]):
                return
            self._hear(answer)
        except (AttributeError, KeyError, MatrixError, TypeError, ValueError) as error:
            raise Unmirrorable(f"no answer to a sync: {error!r}") from error

    def _hear(self, answer: Json) -> None:
        rooms = answer.get("rooms", {})
        for room_id, entry in rooms.get("join", {}).items():
            self._leave(room_id, _ASKED)
            self._rooms[room_id] = self._joined(self._rooms.get(room_id), entry).write()
        for section in _ASKED:
            for room_id, entry in rooms.get(section, {}).items():
                self._leave(room_id, _ASKED)
                self._rooms.pop(room_id, None)
                entry[f"{section}_state"]["events"]
                self._asked[section][room_id] = orjson.dumps(entry)
        for room_id in rooms.get("leave", {}):
            self._leave(room_id, _ASKED)
            self._rooms.pop(room_id, None)
        data = {item["type"]: item["content"] for item in _events(answer, "account_data")}
        if IGNORED in data:
            self._outdate_all()
        self._account_data |= data
        self._counts |= {name: answer[name] for name in COUNTS if name in answer}
        self._owes_messages = bool(_events(answer, "to_device"))
        self.position = answer["next_batch"]

    def _leave(self, room_id: str, sections: tuple[str, ...]) -> None:
        for section in sections:
            self._asked[section].pop(room_id, None)

    def _joined(self, known: bytes | None, entry: Json) -> MirroredRoom:
        told = {state_key(event): kept(event) for event in _events(entry, "state_after" if self._state_after else "state")}
        events = [kept(event) for event in _events(entry, "timeline")]
        timeline = entry.get("timeline", {})
        is_whole = CREATE in told or CREATE in map(state_key, events)
        if known is None and not is_whole:
            raise Unmirrorable("a room that is new, and not whole")
        room = MirroredRoom() if known is None else MirroredRoom.read(known)
        room.recent = without_repeated(room.recent, events)
        if not room.recent:
            room.older = without_repeated(room.older, events)
        if is_whole or timeline.get("limited"):
            room.state = {} if is_whole else room.state_now(state_after=self._state_after)
            room.older, room.recent, room.is_limited = [], [], bool(timeline.get("limited"))
        is_led_to = self._state_after or self._is_led_to(room, told)
        if not is_led_to:
            room.state, room.older, room.recent = room.state_now(state_after=False), room.stretches(), []
        known_after = {} if self._state_after else changes(room.recent)
        room.state |= {key: event for key, event in told.items() if key not in known_after}
        if events or timeline.get("limited") or not is_led_to:
            room.recent.append(Stretch(timeline.get("prev_batch"), events))
        state = room.state_now(state_after=self._state_after)
        apply_relations(room.stretches(), room.state.values(), events, state.get(CREATE, {}))
        self._shorten(room)
        self._hear_beside(room, entry)
        return room

    def _is_led_to(self, room: MirroredRoom, told: dict[str, Json]) -> bool:
        """Whether the state before new events is what the events lead to that are known; else it was resolved between forks of the room."""
        changed = changes(room.recent)
        return all(changed[key]["event_id"] == told[key]["event_id"] for key in changed.keys() & told.keys())

    def _shorten(self, room: MirroredRoom) -> None:
        while len(room.recent) > 1 and count(room.recent[1:]) >= FIRST_EVENTS:
            first = room.recent.pop(0)
            if not self._state_after:
                room.state |= changes([first])
            room.older.append(first)
        while room.older and count(room.stretches()) > MAX_EVENTS:
            del room.older[0]
            room.is_limited = True

    def _hear_beside(self, room: MirroredRoom, entry: Json) -> None:
        room.summary |= entry.get("summary", {})
        room.beside = {name: part for name, part in entry.items() if name not in (*_TIMELINE_PARTS, "summary")}
        room.account_data |= {item["type"]: item["content"] for item in _events(entry, "account_data")}
        for event in _events(entry, "ephemeral"):
            if event["type"] == "m.receipt":
                room.receipts |= receipts_in(event["content"])

    def _outdate_all(self) -> None:
        """The box leaves out what people say who are ignored by now, and brings back what others said."""
        for room_id, known in self._rooms.items():
            room = MirroredRoom.read(known)
            for stretch in room.stretches():
                stretch.is_outdated = True
            self._rooms[room_id] = room.write()

    def hear_older(self, room_id: str, start: str, page: Json) -> None:
        """An answer to /messages backwards from `start`; it is kept if it continues what is known."""
        known = self._rooms.get(room_id)
        if known is None:
            return
        room = MirroredRoom.read(known)
        stretches = room.stretches()
        try:
            chunk = [kept(event) for event in page.get("chunk", ())][::-1]
            members = {state_key(event): kept(event) for event in page.get("state", ())}
        except (AttributeError, KeyError, TypeError, ValueError):
            return  # no events
        if not stretches or stretches[0].start != start or count(stretches) + len(chunk) > MAX_EVENTS:
            return
        room.older.insert(0, Stretch(page.get("end"), chunk))
        room.members |= members
        room.is_limited = page.get("end") is not None
        self._rooms[room_id] = room.write()

    # ---- what a client is told

    @property
    def counts(self) -> Json:
        """What the last answer said of the keys of the device."""
        return self._counts

    def first(self, limit: int) -> bytes:
        """The body of an answer to a first sync, with at most so many events of each room, if the box has told them in such portions.

        Messages to the device are not in it. Those that have not been acknowledged come with the next answer.
        """
        return self._told(limit, self._acknowledging_nothing() if self._owes_messages else self.position)

    def full_state(self, start: str) -> bytes | None:
        """The body of an answer with the full state to a sync from `start` on, which ends there: its events come with the next one. None if
        the state is not known there.
        """
        return self._told(0, start) if goes_on(self.position, start) else None

    def _told(self, limit: int, end: str) -> bytes:
        ignored = ignored_in(self._account_data)
        join = {
            room_id: orjson.Fragment(orjson.dumps(self._entry(MirroredRoom.read(known), limit, ignored)))
            for room_id, known in self._rooms.items()
        }
        asked = {section: self._asked_by_others(section, ignored) for section in _ASKED}
        rooms = {section: entries for section, entries in (("join", join), *asked.items()) if entries}
        data = [{"type": kind, "content": content} for kind, content in self._account_data.items()]
        parts = {"account_data": {"events": data}, **({"rooms": rooms} if rooms else {}), **self._counts}
        return orjson.dumps({"next_batch": end, **parts})

    def _acknowledging_nothing(self) -> str:
        """The position, of a device that has got no messages yet; what the box takes it to hold otherwise is forgotten, too."""
        stands = sync_token.parse(self.position)
        return str(sync_token.Since(stands.stream, stands.typing, 0))

    def _entry(self, room: MirroredRoom, limit: int, ignored: set[str]) -> Json:
        told = last(room.recent, limit) if limit else []
        before = room.recent[: len(room.recent) - len(told)]
        state = room.state if self._state_after else room.state | changes(before)
        events = [event for stretch in told for event in stretch.events if not is_said_by(event, ignored)]
        timeline = {"events": events, "limited": bool(limit) and (room.is_limited or bool(room.older or before))}
        start = told[0].start if told else f"s{_stream(self.position)}"
        read = receipts(room.receipts, ignored)
        return {
            "state_after" if self._state_after else "state": {"events": list(state.values())},
            "timeline": timeline | ({} if start is None else {"prev_batch": start}),
            "summary": room.summary,
            "account_data": {"events": [{"type": kind, "content": content} for kind, content in room.account_data.items()]},
            "ephemeral": {"events": [{"type": "m.receipt", "content": read}] if read else []},
            **room.beside,
        }

    def _asked_by_others(self, section: str, ignored: set[str]) -> Json:
        entries = {room_id: orjson.loads(data) for room_id, data in self._asked[section].items()}
        unwanted = {
            room_id
            for room_id, entry in entries.items()
            if any(is_invite_by(event, ignored) for event in entry[f"{section}_state"]["events"])
        }
        return {room_id: entry for room_id, entry in entries.items() if room_id not in unwanted}

    def messages(self, room_id: str, start: str | None, limit: int, *, lazy: bool, at_least: bool) -> Json | None:
        """The body of an answer to /messages backwards from `start` (None: from the end), of whole stretches; None if there is none here.

        Without `at_least` that is so too if the box might tell something else by now, or less than a whole stretch; with it, what is known
        is better than nothing. Who ignores somebody is not told by syncs what these people redact.
        """
        known = self._rooms.get(room_id)
        if known is None:
            return None
        room, ignored = MirroredRoom.read(known), ignored_in(self._account_data)
        if ignored and not at_least:
            return None
        stretches = room.stretches()
        if start is not None:
            at = next((number for number, stretch in enumerate(stretches) if stretch.start == start), None)
            if at == 0 and not room.is_limited:
                return {"start": start, "chunk": []}
            stretches = stretches[: at or 0]
        told = list[Stretch]()
        for stretch in reversed(stretches):
            if (count(told) + len(stretch.events) > limit and (told or not at_least)) or (stretch.is_outdated and not at_least):
                break
            told.append(stretch)
        if not told:
            return None
        chunk = [event for stretch in told for event in reversed(stretch.events) if not is_said_by(event, ignored)]
        page: Json = {"start": start or self.position, "chunk": chunk}
        if told[-1].start is not None:
            page["end"] = told[-1].start
        if lazy:
            state = room.members | room.state_now(state_after=self._state_after)
            senders = dict.fromkeys(event["sender"] for event in chunk)
            page["state"] = [state[key] for sender in senders if (key := words("m.room.member", sender)) in state]
        return page

    # ---- kept

    def write(self) -> bytes:
        """For `read`."""
        whole = {
            "state_after": self._state_after,
            "position": self.position,
            "account_data": self._account_data,
            "counts": self._counts,
            "owes_messages": self._owes_messages,
            "asked": {section: _as_it_is(found) for section, found in self._asked.items()},
            "rooms": _as_it_is(self._rooms),
        }
        return orjson.dumps(whole)

    @classmethod
    def read(cls, data: bytes) -> Mirror:
        """Raises `Unmirrorable`."""
        try:
            told = orjson.loads(data)
            made = cls(state_after=told["state_after"])
            made.position, made._account_data, made._counts = told["position"], told["account_data"], told["counts"]
            made._owes_messages = told["owes_messages"]
            for room_id, room in told["rooms"].items():
                made._rooms[room_id] = orjson.dumps(room)
            for section in _ASKED:
                made._asked[section] = {room_id: orjson.dumps(entry) for room_id, entry in told["asked"][section].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Unmirrorable(f"no mirror: {error!r}") from error
        return made

    def for_another_device(self) -> Mirror:
        """The same without what only this device is told."""
        made = Mirror.read(self.write())
        made._counts, made._owes_messages = {}, True
        for room_id, known in made._rooms.items():
            room = MirroredRoom.read(known)
            room.state = {key: of_no_device(event) for key, event in room.state.items()}
            for stretch in room.stretches():
                stretch.events = [*map(of_no_device, stretch.events)]
            made._rooms[room_id] = room.write()
        return made


# ---- events


def _as_it_is(found: dict[str, bytes]) -> dict[str, orjson.Fragment]:
    return {name: orjson.Fragment(data) for name, data in found.items()}


def _stream(token: str) -> int:
    return sync_token.parse(token).stream


def _events(part: Json, name: str) -> list[Json]:
    found: list[Json] = part.get(name, {}).get("events", [])
    return found
