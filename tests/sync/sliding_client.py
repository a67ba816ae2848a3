"""A client of sliding sync, in either dialect, as apps are made: keeps rooms from initial results and deltas.

Part of `histories.py`. While it polls it asserts that nothing is told twice, and that people whom its user ignores are not told of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.asgi import AsgiClient

if TYPE_CHECKING:
    import random

    from tests.flows.world import Person

PATHS = {"deployed": "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", "accepted": "/_matrix/client/v4/sync"}
MEMBER = "m.room.member"
FIELDS = ("name", "avatar", "joined_count", "invited_count", "notification_count", "highlight_count", "is_dm", "membership", "heroes")


@dataclass
class KnownRoom:
    """What a client has made of the results for one room."""

    fields: dict[str, Any] = field(default_factory=dict)
    state: dict[tuple[str, str], str] = field(default_factory=dict)
    timeline: list[str] = field(default_factory=list)
    stripped: list[Any] | None = None
    membership: str = "join"


class SlidingClient:
    """A client of one dialect: keeps rooms as an app would, from initial results and deltas."""

    conn_id = "main"

    def __init__(self, person: Person, dialect: str, chance: random.Random, ignored: set[str]) -> None:
        self.person, self.dialect, self.chance, self.ignored = person, dialect, chance, ignored
        self.rooms: dict[str, KnownRoom] = {}
        self.lists: dict[str, Any] = {}
        self.account_data: dict[tuple[str, str], Any] = {}
        self.receipts: dict[tuple[str, str, str, str], str] = {}
        self.typing: dict[str, list[str]] = {}
        self.pos: str | None = None
        self.wish = self._wish(1, (0, 1), everything=False)
        self.begun_anew = 0

    def widen(self) -> None:
        """From now on all rooms, all state, and enough of the timelines."""
        self.wish = self._wish(50, (0, 999), everything=True)

    def change_wish(self) -> None:
        start = self.chance.randrange(2)
        span = (start, start + self.chance.randrange(4))
        self.wish = self._wish(self.chance.choice([1, 1, 3, 10]), span, everything=self.chance.random() < 0.3)
        if self.rooms and self.chance.random() < 0.4:
            part = self._part(self.chance.choice([2, 20]), everything=self.chance.random() < 0.5)
            self.wish["room_subscriptions"] = {self.chance.choice(sorted(self.rooms)): part}

    def _part(self, limit: int, *, everything: bool) -> dict[str, Any]:
        if self.dialect == "deployed":
            some = [["m.room.name", ""], [MEMBER, "$LAZY"], [MEMBER, "$ME"], ["m.room.topic", "*"]]
            return {"timeline_limit": limit, "required_state": [["*", "*"]] if everything else some}
        some_of = {"include": [{"type": "m.room.name"}, {"type": "m.room.topic", "state_key": ""}], "lazy_members": True}
        return {"timeline_limit": limit, "required_state": {"include": [{}]} if everything else some_of}

    def _wish(self, limit: int, span: tuple[int, int], *, everything: bool) -> dict[str, Any]:
        part = self._part(limit, everything=everything)
        ranges = {"ranges": [list(span)]} if self.dialect == "deployed" else {"range": list(span)}
        extensions = {name: {"enabled": True} for name in ("account_data", "receipts", "typing", "e2ee")}
        return {"conn_id": self.conn_id, "lists": {"all": {**part, **ranges}}, "extensions": extensions}

    async def poll(self, *, lost: bool = False) -> bool:
        """One request; True if it brought anything. `lost`: the answer never reaches the client."""
        client = AsgiClient(self.person.box.box.app, token=self.person.token)
        body, query = dict(self.wish), {}
        if self.pos is not None:
            (query if self.dialect == "deployed" else body)["pos"] = self.pos
        answer = await client.request("POST", PATHS[self.dialect], json=body, query=query)
        if answer.status == 400 and answer.json["errcode"] == "M_UNKNOWN_POS":
            self.begun_anew += 1
            self.forget()
            return True
        assert answer.status == 200, (self.dialect, answer.status, answer.body)
        if lost:
            return True
        return self.hear(answer.json)

    def forget(self) -> None:
        """Begins anew."""
        self.pos = None
        for known in (self.rooms, self.typing, self.receipts):
            known.clear()

    def hear(self, answer: dict[str, Any]) -> bool:
        """An answer of the box; True if it brought anything."""
        return self.take(answer)

    async def settle(self) -> None:
        """Polls until there is nothing new."""
        for _ in range(50):
            if not await self.poll():
                return
        raise AssertionError(f"{self.dialect}: there is always something new")

    def take(self, answer: dict[str, Any]) -> bool:
        """What an answer brings; True if that is anything."""
        first, self.pos = self.pos is None, answer["pos"]
        self.lists = answer.get("lists", {})
        for room_id, result in answer.get("rooms", {}).items():
            self._take_room(self.rooms.setdefault(room_id, KnownRoom()), result)
        found = answer.get("extensions", {})
        self._take_extensions(found)
        return first or bool(answer.get("rooms")) or any(found.get(name) for name in ("account_data", "receipts", "typing"))

    def _take_room(self, room: KnownRoom, result: dict[str, Any]) -> None:
        expanded = result.get("unstable_expanded_timeline") or result.get("expanded_timeline")
        told = result.get("timeline", result.get("timeline_events", []))
        assert all("state_key" in event or event["sender"] not in self.ignored for event in told), "events of somebody ignored are told"
        events = [event["event_id"] for event in told]
        if result.get("initial"):
            room.fields, room.state, room.timeline, room.stripped = {}, {}, [], None
        if result.get("initial") or expanded or result.get("limited"):
            room.timeline = []
        assert not set(events) & set(room.timeline), "an event was told twice"
        room.timeline += events
        for event in result.get("required_state", []):
            key = (event["type"], event["state_key"])
            if "event_id" in event:
                room.state[key] = event["event_id"]
            else:
                room.state.pop(key, None)
        room.fields.update({name: result[name] for name in FIELDS if name in result})
        room.stripped = result.get("invite_state", result.get("stripped_state", room.stripped))
        is_asked = "invite_state" in result or result.get("membership") == "invite"
        assert not (is_asked and inviter_in(room, self.person) in self.ignored), "an invite of somebody ignored is told"
        own = [event for event in result.get("required_state", []) if (event["type"], event["state_key"]) == (MEMBER, self.person.user_id)]
        believed = "join" if self.dialect == "deployed" else room.membership
        believed = own[-1]["content"]["membership"] if own and "content" in own[-1] else believed
        if "invite_state" in result:
            believed = [event for event in room.stripped or () if event["type"] == MEMBER][-1]["content"]["membership"]
        room.membership = result.get("membership", believed)

    def _take_extensions(self, found: dict[str, Any]) -> None:
        data = found.get("account_data", {})
        for room_id, items in [("", data.get("global", [])), *data.get("rooms", {}).items()]:
            self.account_data.update({(room_id, item["type"]): item["content"] for item in items})
        for room_id, event in found.get("receipts", {}).get("rooms", {}).items():
            for event_id, kinds in event["content"].items():
                for kind, users in kinds.items():
                    assert not self.ignored & users.keys(), "a receipt of somebody ignored is told"
                    for user_id, value in users.items():
                        self.receipts[room_id, kind, user_id, value.get("thread_id", "")] = event_id
        for room_id, event in found.get("typing", {}).get("rooms", {}).items():
            self.typing[room_id] = event["content"]["user_ids"]
            assert not self.ignored & {*self.typing[room_id]}, "somebody ignored is told to be typing"


def inviter_in(room: KnownRoom, person: Person) -> str | None:
    """Who invites the person, if the room is known by its stripped state and somebody does."""
    own = [event for event in room.stripped or () if (event["type"], event["state_key"]) == (MEMBER, person.user_id)]
    return own[-1]["sender"] if own and own[-1]["content"]["membership"] == "invite" else None
