"""A client of classic sync as apps are made: polls from `since` to `since`, fills gaps from `prev_batch`, keeps what it is told.

Part of `histories.py`. While it polls it asserts that nothing is told twice, that no room is told of without news in it, and that people
whom its user ignores are not told of; `check` compares what it believes in the end with what everything else says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

if TYPE_CHECKING:
    import random

    from tests.flows.world import Person

MEMBER = "m.room.member"
CREATE = ("m.room.create", "")
IN = ("join", "invite", "knock")
StateKey = tuple[str, str]


@dataclass
class ClassicRoom:
    """What a client has made of the entries for one room. `timeline` is in the room's order, without gaps; `spoke` are senders in it that
    a sync has told.
    """

    section: str = ""
    state: dict[StateKey, str] = field(default_factory=dict)
    timeline: list[str] = field(default_factory=list)
    spoke: set[str] = field(default_factory=set)
    summary: dict[str, Any] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    inviter: str = ""


class ClassicClient:
    """`ignored` are the people whom the user ignores: a set that the history changes."""

    def __init__(self, person: Person, chance: random.Random, ignored: set[str]) -> None:
        self.person, self.chance, self.ignored = person, chance, ignored
        self.lazy = chance.random() < 0.5
        self.rooms: dict[str, ClassicRoom] = {}
        self.account_data: dict[tuple[str, str], Any] = {}
        self.receipts: dict[tuple[str, str, str, str], str] = {}
        self.typing: dict[str, list[str]] = {}
        self.since: str | None = None
        self.excused: set[str] = set()
        """Events that were new while their sender was ignored, or before the user left a room and was asked, or asked, to come back between
        two polls: they need not be known.
        """

    async def poll(self, *, lost: bool = False) -> bool:
        """One request; True if it brought anything. `lost`: the answer never reaches the client."""
        timeline = {"limit": self.chance.choice([0, 1, 1, 2, 3, 10])}
        wanted = {"timeline": timeline, "state": {"lazy_load_members": self.lazy}, "include_leave": self.chance.random() < 0.3}
        query = {"timeout": "0", "filter": orjson.dumps({"room": wanted}).decode()}
        full_state = self.since is not None and self.chance.random() < 0.05
        query |= {"full_state": "true"} if full_state else {}
        query |= {"use_state_after": "true"} if self.chance.random() < 0.4 else {}
        query |= {} if self.since is None else {"since": self.since}
        answer = await self.person.ok("GET", "/sync", query=query)
        if lost:
            return True
        return await self.take(answer, is_repeated=full_state)

    async def take(self, answer: dict[str, Any], *, is_repeated: bool = False) -> bool:
        """What a sync has brought; True if that is anything. `is_repeated`: with all that was told before."""
        first, self.since = self.since is None, answer["next_batch"]
        for item in answer.get("account_data", {}).get("events", []):
            self.account_data["", item["type"]] = item["content"]
        rooms = answer.get("rooms", {})
        for section in ("join", "leave", "invite", "knock"):
            for room_id, entry in rooms.get(section, {}).items():
                await self._take(room_id, section, entry, may_be_empty=first or is_repeated)
        await self._excuse()
        return bool(rooms and not is_repeated) or bool(answer.get("account_data"))

    async def settle(self) -> None:
        """Polls until there is nothing new."""
        for _ in range(50):
            if not await self.poll():
                return
        raise AssertionError("classic: there is always something new")

    # What is told

    async def _take(self, room_id: str, section: str, entry: dict[str, Any], *, may_be_empty: bool) -> None:
        room = self.rooms.setdefault(room_id, ClassicRoom())
        before, room.section = room.section, section
        if section != "join":
            self.typing.pop(room_id, None)
        if section in ("invite", "knock"):
            own = [event for event in entry[f"{section}_state"]["events"] if event.get("state_key") == self.person.user_id]
            assert own[-1]["content"]["membership"] == section, self._about(room_id, "stripped state without the user")
            room.inviter = own[-1]["sender"]
            assert section == "knock" or room.inviter not in self.ignored, self._about(room_id, "an invite of somebody ignored")
            if before == "join":  # left since: such an entry has no timeline, so of what was said until then it cannot tell
                self.excused |= {one["event_id"] for one in await self._messages(room_id) or ()} - set(room.timeline)
            return
        if section == "join" and not may_be_empty:
            assert self._is_news(room, entry) or before != "join", self._about(room_id, "an entry without news")
        after = "state_after" in entry
        told = entry["state_after" if after else "state"]["events"]
        timeline = entry["timeline"]["events"]
        changes = [event for event in timeline if "state_key" in event]
        if section == "join" and before != "join":
            room.state, room.spoke = {}, set()
        is_whole = CREATE in {(event["type"], event["state_key"]) for event in (*told, *changes)}
        assert section == "leave" or is_whole or before == "join", self._about(room_id, "a room that is new to the client and not whole")
        for event in (*told, *(() if after else changes)):
            room.state[event["type"], event["state_key"]] = event["event_id"]
        if is_whole or before == "join":
            await self._take_timeline(room_id, room, entry["timeline"], is_whole=is_whole)
            room.spoke |= {event["sender"] for event in timeline}
        if section == "leave" and await self._messages(room_id) is None:
            room.timeline = []  # forgotten, so the leave is told alone: what was before it may be lacking, and an app drops the room
        room.summary |= entry.get("summary", {})
        room.unread = entry.get("unread_notifications", {})
        self._take_beside(room_id, entry)

    def _is_news(self, room: ClassicRoom, entry: dict[str, Any]) -> bool:
        parts = (entry.get(name, {}).get("events") for name in ("state", "state_after", "timeline", "account_data", "ephemeral"))
        counted = entry["unread_notifications"] != room.unread or not _within(entry["summary"], room.summary)
        return any(parts) or entry["timeline"]["limited"] or counted

    async def _take_timeline(self, room_id: str, room: ClassicRoom, timeline: dict[str, Any], *, is_whole: bool) -> None:
        rude = [event["event_id"] for event in timeline["events"] if event["sender"] in self.ignored and "state_key" not in event]
        assert not rude, self._about(room_id, "events of somebody ignored")
        told = [event["event_id"] for event in timeline["events"]]
        assert is_whole or not set(told) & set(room.timeline), self._about(room_id, "an event was told twice")
        new = (await self._gap(room_id, room, timeline["prev_batch"]) if timeline["limited"] else []) + told
        room.timeline = _joined(room.timeline, new)
        if told and not timeline["limited"]:
            await self._check_start(room_id, told[0], timeline["prev_batch"])

    async def _check_start(self, room_id: str, first: str, token: str) -> None:
        """`prev_batch` reads back from just before the first event, whatever the token looks like."""
        answer = await self.person.request("GET", f"/rooms/{quote(room_id)}/messages", query={"dir": "b", "from": token, "limit": "1000"})
        whole = [event["event_id"] for event in await self._messages(room_id) or ()]
        if answer.status == 200 and first in whole:
            before = [event["event_id"] for event in answer.json["chunk"][::-1]]
            assert before == whole[: whole.index(first)], self._about(room_id, "prev_batch reads back from elsewhere")

    async def _gap(self, room_id: str, room: ClassicRoom, token: str | None) -> list[str]:
        """What is before the token, back to the first that is known, oldest first."""
        known, found = set(room.timeline), list[str]()
        while token is not None:
            query = {"dir": "b", "from": token, "limit": str(self.chance.choice([1, 3, 100]))}
            page = await self._older(room_id, query)
            if page.status == 403:  # a room that was left, and forgotten since or never seen
                break
            for event in page.json["chunk"]:
                found.append(event["event_id"])
                if event["event_id"] in known:
                    return found[::-1]
            token = page.json.get("end")
        return found[::-1]

    async def _older(self, room_id: str, query: dict[str, str]) -> Any:
        """A page of `/messages`."""
        return await self.person.request("GET", f"/rooms/{quote(room_id)}/messages", query=query)

    def _take_beside(self, room_id: str, entry: dict[str, Any]) -> None:
        for item in entry["account_data"]["events"]:
            self.account_data[room_id, item["type"]] = item["content"]
        for event in entry.get("ephemeral", {}).get("events", []):
            if event["type"] == "m.typing":
                self.typing[room_id] = event["content"]["user_ids"]
                assert not self.ignored & {*self.typing[room_id]}, self._about(room_id, "somebody ignored types")
            for event_id, kinds in event["content"].items() if event["type"] == "m.receipt" else ():
                for kind, users in kinds.items():
                    assert not self.ignored & users.keys(), self._about(room_id, "a receipt of somebody ignored")
                    self.receipts |= {(room_id, kind, user_id, one.get("thread_id", "")): event_id for user_id, one in users.items()}

    async def _excuse(self) -> None:
        """What those who are ignored have said up to now need not be known."""
        for room_id in [room_id for room_id, room in self.rooms.items() if self.ignored and room.section in ("join", "leave")]:
            events = await self._messages(room_id)
            self.excused |= {one["event_id"] for one in events or () if one["sender"] in self.ignored and "state_key" not in one}

    # What is true

    async def _messages(self, room_id: str) -> list[dict[str, Any]] | None:
        """All of the room that the user may see, oldest first; None if nothing."""
        answer = await self.person.request("GET", f"/rooms/{quote(room_id)}/messages", query={"dir": "b", "limit": "1000"})
        return answer.json["chunk"][::-1] if answer.status == 200 else None

    async def check(self, ever_ignored: set[str]) -> None:
        """Against a first sync, `/state` and `/messages`. `ever_ignored`: some of what was told of these people may be lacking."""
        await self.settle()
        whole = (await self.person.ok("GET", "/sync", query={"filter": '{"room":{"timeline":{"limit":1}}}'})).get("rooms", {})
        for section in IN:
            believed = {room_id for room_id, room in self.rooms.items() if room.section == section}
            unwanted = {room_id for room_id in believed if section == "invite" and self.rooms[room_id].inviter in self.ignored}
            wrong = (believed - unwanted) ^ whole.get(section, {}).keys()
            assert not wrong, f"classic {self.person.user_id}: {section} is not so of {wrong}"
        for room_id, entry in whole.get("join", {}).items():
            await self._check_joined(room_id, entry, ever_ignored)
        for room_id in [room_id for room_id, room in self.rooms.items() if room.section == "leave" and CREATE in room.state]:
            await self._check_left(room_id)
        assert not any(self.typing.values()), f"classic {self.person.user_id}: people type for ever {self.typing}"

    async def _check_joined(self, room_id: str, entry: dict[str, Any], ever_ignored: set[str]) -> None:
        room, me = self.rooms[room_id], self.person.user_id
        self._check_state(room_id, await self.person.state(room_id), {*room.spoke, *entry["summary"].get("m.heroes", []), me})
        told = await self._messages(room_id) or []
        self._check_timeline(room_id, [event["event_id"] for event in told])
        assert room.unread == entry["unread_notifications"], self._about(room_id, "the counts differ")
        assert _within(entry["summary"], room.summary), self._about(room_id, f"the summary differs {entry['summary']} {room.summary}")
        for item in entry["account_data"]["events"]:
            assert self.account_data[room_id, item["type"]] == item["content"], self._about(room_id, item["type"])
        for event in [event for event in entry["ephemeral"]["events"] if event["type"] == "m.receipt"]:
            for event_id, kinds in event["content"].items():
                for kind, users in kinds.items():
                    for user_id in users.keys() - ever_ignored:
                        known = self.receipts.get((room_id, kind, user_id, users[user_id].get("thread_id", "")))
                        assert known == event_id, self._about(room_id, f"the receipt of {user_id} differs")

    async def _check_left(self, room_id: str) -> None:
        told = await self._messages(room_id)
        if told is None:
            return
        mine = {event["event_id"] for event in told}
        answer = await self.person.state(room_id)
        own = (MEMBER, self.person.user_id)  # who was banned after they had left is told of the ban
        room = self.rooms[room_id]
        room.state[own] = answer[own]
        self._check_state(room_id, answer, room.spoke & {key[1] for key in answer if key[0] == MEMBER})
        room.timeline = [event_id for event_id in room.timeline if event_id in mine or event_id in self.excused]
        self._check_timeline(room_id, [event["event_id"] for event in told])

    def _check_state(self, room_id: str, true: dict[StateKey, str], needed: set[str]) -> None:
        known = self.rooms[room_id].state
        if not self.lazy:
            assert known == true, self._about(room_id, "the state differs")
            return
        assert known.items() <= true.items(), self._about(room_id, "the state holds what is not so")
        lacking = true.keys() - known.keys()
        assert {key[0] for key in lacking} <= {MEMBER}, self._about(room_id, "state is lacking")
        assert not {key[1] for key in lacking} & needed, self._about(room_id, "members who spoke are lacking")

    def _check_timeline(self, room_id: str, told: list[str]) -> None:
        known = self.rooms[room_id].timeline
        lacking = set(told) - set(known)
        assert lacking <= self.excused, self._about(room_id, "events are lacking")
        assert known == [event_id for event_id in told if event_id not in lacking], self._about(room_id, "the timeline differs")

    def _about(self, room_id: str, what: str) -> str:
        return f"classic {self.person.user_id} {room_id}: {what}"


def _within(part: dict[str, Any], whole: dict[str, Any]) -> bool:
    return all(whole.get(name) == value for name, value in part.items())


def _joined(known: list[str], told: list[str]) -> list[str]:
    """Two stretches of a room, each in its order. Who comes back is told again of what they know, without the words of those whom they
    ignore by now: these stay where they were, and what is new goes behind what it was told behind.
    """
    places, found = {event_id: number for number, event_id in enumerate(known)}, list[list[str]]([[event_id] for event_id in known])
    met = [places[event_id] for event_id in told if event_id in places]
    at = met[0] - 1 if met else len(known) - 1
    first: list[str] = []
    for event_id in told:
        if event_id in places:
            at = places[event_id]
        else:
            (found[at] if at >= 0 else first).append(event_id)
    return [*first, *(event_id for group in found for event_id in group)]
