"""Devices behind `edgeserver proxy`: what they are told passes through a mirror, and sometimes they begin anew from there.

Part of `histories.py`. The answers of classic sync always have the same filter. What the mirror hears of them may be lost on its way to the
client, as when an app ends while its poll is under way; mirrors are now and then written and read again, as by a restart of the proxy; one
may have lost its last answers, and then asks for what it lacks while the client goes on. A client may be the first or the second device of
its person, each of which begins with what the other was told. What a mirror says of older events without being told that it is better than
nothing, the box says, too; and no message to a device is deleted before it has come there.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from edgeserver.proxy.mirror import Mirror, acknowledging_as
from edgeserver.proxy.sliding_mirror import SlidingMirror
from tests.flows.world import PASSWORD
from tests.sync.classic_client import ClassicClient
from tests.sync.sliding_client import SlidingClient

if TYPE_CHECKING:
    from tests.flows.world import Person


class MirroredClient(ClassicClient):
    """Made by `log_in`, for it is a device of its own."""

    def __init__(self, person: Person, chance: random.Random, ignored: set[str]) -> None:
        super().__init__(person, chance, ignored)
        self.state_after = chance.random() < 0.5
        timeline = {"limit": chance.choice([1, 2, 5])}
        self.filter = orjson.dumps({"room": {"timeline": timeline, "state": {"lazy_load_members": self.lazy}}}).decode()
        self.mirror = Mirror(state_after=self.state_after)
        self.starts: dict[str, str] = {}
        """Tokens of what is before a timeline that was told."""
        self.begun_anew = self.read_back = 0
        self.more = random.Random(repr(chance.getstate()))
        """For what is drawn beside `chance`."""
        self.earlier: bytes | None = None
        """The mirror as it was some time ago."""
        self.devices: list[tuple[str, str]] = []
        """Tokens and device ids; the one that is used now is the first."""
        self.sent: dict[str, str] = {}
        self.got: set[str] = set()
        """Messages to the devices: those sent, with the device, and those that have come."""

    @classmethod
    async def log_in(cls, person: Person, chance: random.Random, ignored: set[str]) -> MirroredClient:
        login = {
            "type": "m.login.password", "identifier": {"type": "m.id.user", "user": person.user_id}, "password": PASSWORD,
        }  # fmt: skip
        devices = []
        for _ in range(2):
            answer = await person.ok("POST", "/login", login)
            devices.append((answer["access_token"], answer["device_id"]))
        client = cls(replace(person, token=devices[0][0], heard={}), chance, ignored)
        client.devices = devices
        return client

    async def poll(self, *, lost: bool = False) -> bool:
        """As `ClassicClient.poll`, by way of the mirror."""
        await self._live_on()
        if self.mirror.position and self.chance.random() < 0.15:
            return await self._begin_anew()
        if self.since is not None and self.chance.random() < 0.1 and (whole := self.mirror.full_state(self.since)) is not None:
            now, self.ignored = self.ignored, self._ignored_then()
            try:
                await self.take(orjson.loads(whole), is_repeated=True)
            finally:
                self.ignored = now
        answer = await self._ask(self.since)
        self.mirror.hear(self.since, answer)
        if self.chance.random() < 0.3:
            await self._scroll_back()
        if self.chance.random() < 0.3:
            self.mirror = Mirror.read(self.mirror.write())
        return True if lost else await self.take(answer)

    async def take(self, answer: dict[str, Any], *, is_repeated: bool = False) -> bool:
        """As `ClassicClient.take`."""
        self.got |= {message["content"]["id"] for message in answer.get("to_device", {}).get("events", ())}
        for room_id, entry in answer.get("rooms", {}).get("join", {}).items():
            if "prev_batch" in entry["timeline"]:
                self.starts[room_id] = entry["timeline"]["prev_batch"]
        return await super().take(answer, is_repeated=is_repeated)

    async def check(self, ever_ignored: set[str]) -> None:
        """Also that the mirror tells a newcomer what the box does."""
        await super().check(ever_ignored)
        query = {"filter": self.filter, **({"use_state_after": "true"} if self.state_after else {})}
        true = await self.person.ok("GET", "/sync", query=query)
        told = orjson.loads(self.mirror.first(20))
        assert _by_type(told) == _by_type(true), self._about("", "account data")
        for room_id, entry in true.get("rooms", {}).get("join", {}).items():
            known = told["rooms"]["join"][room_id]
            assert known["unread_notifications"] == entry["unread_notifications"], self._about(room_id, "counts of the mirror")
            assert _by_type(known) == _by_type(entry), self._about(room_id, "account data of the mirror")
            assert {*told["rooms"].get("invite", {})} <= {*true["rooms"].get("invite", {})}

        lost = {message for message, device in self.sent.items() if device == self.devices[0][1]} - self.got
        assert not lost, self._about("", f"messages to the device are lost: {lost}")

    async def _ask(self, since: str | None) -> dict[str, Any]:
        query = {"timeout": "0", "filter": self.filter, **({"use_state_after": "true"} if self.state_after else {})}
        query |= {} if since is None else {"since": since}
        answer: dict[str, Any] = await self.person.ok("GET", "/sync", query=query)
        return answer

    async def _live_on(self) -> None:
        """What may happen to a device and its mirror before it polls."""
        chance = self.more.random()
        if chance < 0.15:
            await self._send_to_devices()
        elif chance < 0.25:
            self.earlier = self.mirror.write() if self.mirror.position else None
        elif chance < 0.35 and self.since is not None and self.earlier is not None:
            self.mirror, self.earlier = Mirror.read(self.earlier), None  # its last answers have been lost
            position = acknowledging_as(self.since, self.mirror.position)
            self.mirror.hear(position, await self._ask(position))
        elif chance < 0.42 and self.mirror.position:
            self.devices.reverse()
            self.person = replace(self.person, token=self.devices[0][0], heard={})
            self.mirror, self.earlier = self.mirror.for_another_device(), None
            await self._begin_anew()

    async def _send_to_devices(self) -> None:
        messages = {}
        for _, device in self.devices:
            message = f"{len(self.sent)}"
            self.sent[message] = device
            messages[device] = {"id": message}
        body = {"messages": {self.person.user_id: messages}}
        await self.person.ok("PUT", f"/sendToDevice/m.test/{len(self.sent)}", body)

    async def _begin_anew(self) -> bool:
        self.begun_anew += 1
        for known in (self.rooms, self.account_data, self.receipts, self.typing):
            known.clear()
        self.since = None
        now, self.ignored = self.ignored, self._ignored_then()
        try:
            return await self.take(orjson.loads(self.mirror.first(self.chance.choice([1, 10, 20]))))
        finally:
            self.ignored = now

    def _ignored_then(self) -> set[str]:
        """Whom the user ignored, as far as the mirror knows."""
        data = _by_type(orjson.loads(self.mirror.first(1)))
        return {*data.get("m.ignored_user_list", {}).get("ignored_users", {})}

    async def _scroll_back(self) -> None:
        """From a place that the client knows, some pages at the box; the mirror says the same, or nothing."""
        if not self.starts:
            return
        room_id = self.chance.choice(sorted(self.starts))
        token, limit = self.starts[room_id], self.chance.choice([1, 3, 10])
        for _ in range(3):
            query = {"dir": "b", "from": token, "limit": str(limit)}
            answer = await self.person.request("GET", f"/rooms/{quote(room_id)}/messages", query=query)
            if answer.status != 200:
                return
            known = self.mirror.messages(room_id, token, limit, lazy=False, at_least=False)
            if known is not None:
                self.read_back += 1
                told = await self.person.ok("GET", f"/rooms/{quote(room_id)}/messages", query=query | {"limit": "1000"})
                ours, theirs = ([_content(event) for event in page["chunk"]] for page in (known, told))
                assert ours == theirs[: len(ours)], self._about(room_id, "older events")
                assert known["chunk"] or "end" not in told, self._about(room_id, "the beginning")
            self.mirror.hear_older(room_id, token, answer.json)
            if "end" not in answer.json:
                return
            token = answer.json["end"]


def _content(event: dict[str, Any]) -> tuple[str, Any]:
    return event["event_id"], event["content"]


class MirroredSlidingClient(SlidingClient):
    """The same for sliding sync. What does not reach it its mirror has not heard either."""

    conn_id = "mirrored"

    def __init__(self, person: Person, dialect: str, chance: random.Random, ignored: set[str]) -> None:
        super().__init__(person, dialect, chance, ignored)
        self.mirror = SlidingMirror(person.user_id)

    async def poll(self, *, lost: bool = False) -> bool:
        """As `SlidingClient.poll`, by way of the mirror."""
        if self.pos is None or self.chance.random() >= 0.15:
            return await super().poll(lost=lost)
        self.forget()
        now, self.ignored = self.ignored, self._ignored_then()
        try:
            return self.take(orjson.loads(self.mirror.first(20)))
        finally:
            self.ignored = now

    def _ignored_then(self) -> set[str]:
        """Whom the user ignored, as far as the mirror knows."""
        data = orjson.loads(self.mirror.first(1))["extensions"].get("account_data", {}).get("global", ())
        return {user for item in data if item["type"] == "m.ignored_user_list" for user in item["content"]["ignored_users"]}

    def hear(self, answer: dict[str, Any]) -> bool:
        """As `SlidingClient.hear`."""
        self.mirror.hear(self.pos, answer)
        if self.chance.random() < 0.3:
            self.mirror = SlidingMirror.read(self.mirror.write())
        return self.take(answer)


def _by_type(part: dict[str, Any]) -> dict[str, Any]:
    return {item["type"]: item["content"] for item in part["account_data"]["events"]}
