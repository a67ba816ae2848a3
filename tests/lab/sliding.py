"""A client of sliding sync that does what matrix-rust-sdk does, as a program on trio over plain HTTP.

A device has three connections: `room-list` (all rooms, first twenty, then a hundred more each time, one event each; open rooms are
subscribed to with twenty), `encryption` (to-device messages and keys) and `notifications` (single rooms). A request without an answer is
repeated with the same `pos`; M_UNKNOWN_POS makes a connection begin anew.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.lab.box import Box
from tests.lab.programs import LabError

PATH = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
FIRST, MORE = 20, 100
STATE = [
    ["m.room.name", ""], ["m.room.encryption", ""], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"], ["m.room.topic", ""],
    ["m.room.canonical_alias", ""], ["m.room.power_levels", ""], ["m.room.create", ""], ["m.room.history_visibility", ""],
]  # fmt: skip
PAUSE = 0.1
"""Seconds until a request that failed is repeated."""


@dataclass
class Known:
    """What a device knows of one room; `events` are ids of the newest part of the timeline, in order."""

    name: str | None = None
    events: list[str] = field(default_factory=list)
    notifications: int = 0
    highlights: int = 0
    invited: bool = False


class SlidingDevice:
    """One device. `lose`: the share of answers that are thrown away as if the line had broken."""

    def __init__(self, box: Box, token: str, *, timeout_ms: int = 30_000, lose: float = 0.0, seed: int = 1) -> None:
        self._box, self._token, self._timeout, self._lose = box, token, timeout_ms, lose
        self._chance = random.Random(seed)
        self.rooms: dict[str, Known] = {}
        self.open: set[str] = set()
        self.to_device: list[dict[str, Any]] = []
        self.begun = {"room-list": 0, "encryption": 0}
        self.count = 0
        self._last = FIRST - 1
        self._to_device_token: str | None = None

    async def run(self) -> None:
        """Syncs until it is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._connection, "room-list")
            nursery.start_soon(self._connection, "encryption")

    async def notification(self, room_id: str) -> dict[str, Any]:
        """What the `notifications` connection says of one room, as for a push message: a connection that begins anew each time."""
        wish = {"timeline_limit": 16, "required_state": STATE}
        body = {"conn_id": "notifications", "room_subscriptions": {room_id: wish}}
        answer = await self._box.arequest("POST", f"{PATH}?timeout=1000", body, self._token)
        if answer.status != 200:
            raise LabError(f"notifications: {answer}")
        return dict(answer.json["rooms"][room_id])

    async def _connection(self, name: str) -> None:
        pos: str | None = None
        while True:
            query = f"?timeout={self._timeout if self._is_grown(name) else 0}" + ("" if pos is None else f"&pos={pos}")
            try:
                answer = await self._box.arequest("POST", PATH + query, self._body(name), self._token)
            except (OSError, LabError):
                await trio.sleep(PAUSE)
                continue
            if self._chance.random() < self._lose:
                continue
            if answer.status == 400 and answer.json["errcode"] == "M_UNKNOWN_POS":
                pos = None
                if name == "room-list":
                    self._last = FIRST - 1
                continue
            if answer.status != 200:
                await trio.sleep(PAUSE)
                continue
            self.begun[name] += pos is None
            pos = answer.json["pos"]
            self._take(answer.json)

    def _is_grown(self, name: str) -> bool:
        return name != "room-list" or self._last + 1 >= self.count > 0

    def _body(self, name: str) -> dict[str, Any]:
        if name == "encryption":
            to_device = {"enabled": True, **({} if self._to_device_token is None else {"since": self._to_device_token})}
            return {"conn_id": name, "extensions": {"e2ee": {"enabled": True}, "to_device": to_device}}
        wanted = {"ranges": [[0, self._last]], "timeline_limit": 1, "required_state": STATE}
        filters = {"not_room_types": ["m.space"]}
        return {
            "conn_id": name,
            "lists": {"all_rooms": {**wanted, "filters": filters}},
            "room_subscriptions": {room_id: {"timeline_limit": 20, "required_state": STATE} for room_id in sorted(self.open)},
            "extensions": {one: {"enabled": True} for one in ("account_data", "receipts", "typing")},
        }

    def _take(self, answer: dict[str, Any]) -> None:
        for room_id, told in answer.get("rooms", {}).items():
            self._take_room(self.rooms.setdefault(room_id, Known()), told)
        found = answer.get("lists", {}).get("all_rooms")
        if found is not None:
            self.count = found["count"]
            if self._last + 1 < self.count:
                self._last += MORE
        news = answer.get("extensions", {}).get("to_device")
        if news is not None:
            self._to_device_token = news["next_batch"]
            self.to_device += news["events"]

    def _take_room(self, room: Known, told: dict[str, Any]) -> None:
        events = [event["event_id"] for event in told.get("timeline", ())]
        if told.get("initial") or told.get("unstable_expanded_timeline") or told.get("limited"):
            room.events = []
        if again := set(events) & set(room.events):
            raise AssertionError(f"told twice: {again}")
        room.events += events
        room.name = told.get("name", room.name)
        room.notifications = told.get("notification_count", room.notifications)
        room.highlights = told.get("highlight_count", room.highlights)
        room.invited = "invite_state" in told
