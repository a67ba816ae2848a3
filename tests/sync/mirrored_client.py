"""Devices behind `edgeserver proxy`: what they are told passes through a mirror, and sometimes they begin anew from there.

Part of `histories.py`. The answers of classic sync always have the same filter. What the mirror hears of them may be lost on its way to the
client, as when an app ends while its poll is under way; mirrors are now and then written and read again, as by a restart of the proxy. What
one says of older events without being told that it is better than nothing, the box says, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from edgeserver.proxy.mirror import Mirror
from edgeserver.proxy.sliding_mirror import SlidingMirror
from tests.flows.world import PASSWORD
from tests.sync.classic_client import ClassicClient
from tests.sync.sliding_client import SlidingClient

if TYPE_CHECKING:
    import random

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

    @classmethod
    async def log_in(cls, person: Person, chance: random.Random, ignored: set[str]) -> MirroredClient:
        login = {
            "type": "m.login.password", "identifier": {"type": "m.id.user", "user": person.user_id}, "password": PASSWORD,
        }  # fmt: skip
        answer = await person.ok("POST", "/login", login)
        return cls(replace(person, token=answer["access_token"], heard={}), chance, ignored)

    async def poll(self, *, lost: bool = False) -> bool:
        """As `ClassicClient.poll`, by way of the mirror."""
        if self.mirror.position and self.chance.random() < 0.15:
            return await self._begin_anew()
        if self.since is not None and self.chance.random() < 0.1 and (whole := self.mirror.full_state(self.since)) is not None:
            await self.take(orjson.loads(whole), is_repeated=True)
        query = {"timeout": "0", "filter": self.filter, **({"use_state_after": "true"} if self.state_after else {})}
        query |= {} if self.since is None else {"since": self.since}
        answer = await self.person.ok("GET", "/sync", query=query)
        self.mirror.hear(self.since, answer)
        if self.chance.random() < 0.3:
            await self._scroll_back()
        if self.chance.random() < 0.3:
            self.mirror = Mirror.read(self.mirror.write())
        return True if lost else await self.take(answer)

    async def take(self, answer: dict[str, Any], *, is_repeated: bool = False) -> bool:
        """As `ClassicClient.take`."""
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
