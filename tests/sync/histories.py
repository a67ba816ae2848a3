"""Sync told in four ways: generated histories, and clients that must come to know the same whichever way they poll.

    .venv/bin/python -m tests.sync.histories --seed 123             replays one seed, telling each step
    .venv/bin/python -m tests.sync.histories --seeds 0-1000

Some people of one box create, join, knock, leave, talk, change state, invite, kick, ban, read, tag, type and ignore. Two of them watch:
each with sliding sync in both dialects, in lists and subscriptions that change at whim, and with classic sync (`classic_client.py`), with
timelines so short that there are gaps; repeating a `pos` or a `since` as if the answer had been lost, and through restarts of the box; and
with all three once more by way of the mirrors of a proxy (`mirrored_client.py`). When
nobody does anything any more, each sliding watcher widens the window to all rooms; then all must know of each room what a first classic
sync, `/state`, `/messages` and `/joined_members` say: no more, no less; and of rooms that they are not in, that they are not.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trio
from trio.testing import MockClock

from tests.flows.world import BoxInWorld, Person, World
from tests.sync.classic_client import ClassicClient
from tests.sync.mirrored_client import MirroredClient, MirroredSlidingClient
from tests.sync.sliding_client import PATHS, SlidingClient, inviter_in

CONFIG = "[limits]\nrate_limits = false\n[discovery]\nmdns = false\n"
STEPS = 40


class Story:
    """One history."""

    def __init__(self, seed: int, *, tell: bool = False) -> None:
        self.seed, self.chance = seed, random.Random(seed)
        self.tell = tell
        self.rooms: list[str] = []
        self.events: dict[str, list[str]] = {}
        self.watchers: list[SlidingClient] = []
        self.classic: list[ClassicClient] = []
        self.ignored: dict[str, set[str]] = {}
        self.ever_ignored: dict[str, set[str]] = {}
        self.people: list[Person] = []
        self.box: BoxInWorld

    async def run(self, folder: Path) -> None:
        async with World(folder) as world:
            self.box = await world.box("a", CONFIG)
            self.people = [await self.box.person(name) for name in ("alice", "bob", "carol")]
            for person in self.people[:2]:
                ignored, self.ever_ignored[person.user_id] = self.ignored.setdefault(person.user_id, set()), set()
                self.watchers += [SlidingClient(person, dialect, self.chance, ignored) for dialect in PATHS]
                self.classic.append(ClassicClient(person, self.chance, ignored))
                chance = random.Random(f"{self.seed} {person.user_id}")
                self.watchers += [MirroredSlidingClient(person, dialect, chance, ignored) for dialect in PATHS]
                self.classic.append(await MirroredClient.log_in(person, chance, ignored))
            for _ in range(STEPS):
                await self._step()
                for watcher in self.watchers:
                    await self._watch(watcher)
                for client in self.classic:
                    if client.chance.random() < 0.4:
                        await client.poll(lost=client.chance.random() < 0.2)
            await trio.sleep(200)  # whoever typed has stopped
            for watcher in self.watchers:
                watcher.widen()
                await watcher.settle()
                await Check(watcher, self.ever_ignored[watcher.person.user_id]).run()
            for client in self.classic:
                await client.check(self.ever_ignored[client.person.user_id])

    async def _watch(self, watcher: SlidingClient) -> None:
        chance = watcher.chance.random()
        if chance < 0.15:
            watcher.change_wish()
        if chance < 0.55:
            await watcher.poll(lost=watcher.chance.random() < 0.2)

    async def _step(self) -> None:
        acts = [
            self._create, self._join, self._join, self._say, self._say, self._say, self._say, self._state, self._leave, self._invite,
            self._kick, self._redact, self._read, self._data, self._type, self._ignore, self._forget, self._restart, self._rename,
            self._knock,
        ]  # fmt: skip
        act = self.chance.choice(acts) if self.rooms else self._create
        person = self.chance.choice(self.people)
        if self.tell:
            print(act.__name__, person.user_id)
        await act(person)

    async def _try(self, person: Person, method: str, path: str, body: Any = None) -> Any:
        answer = await person.request(method, path, body)
        assert answer.status < 500, (method, path, answer.body)
        return answer.json if answer.status == 200 else None

    def _room(self) -> str:
        return quote(self.chance.choice(self.rooms))

    async def _create(self, person: Person) -> None:
        preset = self.chance.choice(["public_chat", "private_chat"])
        name = {"name": f"Room {len(self.rooms)}"} if self.chance.random() < 0.6 else {}
        invite = {"invite": [self.chance.choice(self.people).user_id]} if self.chance.random() < 0.4 else {}
        if invite.get("invite") == [person.user_id]:
            invite = {}
        knocked = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
        rule = {"initial_state": [knocked]} if self.chance.random() < 0.2 else {}
        self.rooms.append(await person.create_room(preset=preset, **name, **invite, **rule))

    async def _join(self, person: Person) -> None:
        await self._try(person, "POST", f"/join/{self._room()}")

    async def _knock(self, person: Person) -> None:
        await self._try(person, "POST", f"/knock/{self._room()}")

    async def _leave(self, person: Person) -> None:
        await self._try(person, "POST", f"/rooms/{self._room()}/leave")

    async def _forget(self, person: Person) -> None:
        await self._try(person, "POST", f"/rooms/{self._room()}/forget")

    async def _say(self, person: Person) -> None:
        room = self.chance.choice(self.rooms)
        mention = {"m.mentions": {"user_ids": [self.chance.choice(self.people).user_id]}} if self.chance.random() < 0.3 else {}
        content = {"msgtype": "m.text", "body": "word", **mention}
        path = f"/rooms/{quote(room)}/send/m.room.message/t{self.chance.getrandbits(40):x}"
        answer = await self._try(person, "PUT", path, content)
        if answer:
            self.events.setdefault(room, []).append(answer["event_id"])

    async def _state(self, person: Person) -> None:
        kind, content = self.chance.choice(
            [("m.room.name", {"name": f"n{self.chance.randrange(9)}"}), ("m.room.name", {}), ("m.room.topic", {"topic": "t"}),
             ("m.room.avatar", {"url": f"mxc://a.test/{self.chance.randrange(9)}"}), ("x.y", {"n": self.chance.randrange(99)})]
        )  # fmt: skip
        await self._try(person, "PUT", f"/rooms/{self._room()}/state/{kind}/", content)

    async def _rename(self, person: Person) -> None:
        await self._try(person, "PUT", f"/profile/{quote(person.user_id)}/displayname", {"displayname": f"p{self.chance.randrange(9)}"})

    async def _invite(self, person: Person) -> None:
        await self._try(person, "POST", f"/rooms/{self._room()}/invite", {"user_id": self.chance.choice(self.people).user_id})

    async def _kick(self, person: Person) -> None:
        act = self.chance.choice(["kick", "ban", "unban"])
        await self._try(person, "POST", f"/rooms/{self._room()}/{act}", {"user_id": self.chance.choice(self.people).user_id})

    async def _redact(self, person: Person) -> None:
        room = self.chance.choice(self.rooms)
        if self.events.get(room):
            event_id = quote(self.chance.choice(self.events[room]), safe="")
            await self._try(person, "PUT", f"/rooms/{quote(room)}/redact/{event_id}/r{self.chance.getrandbits(40):x}", {})

    async def _read(self, person: Person) -> None:
        room = self.chance.choice(self.rooms)
        if self.events.get(room):
            kind = self.chance.choice(["m.read", "m.read", "m.read.private"])
            event_id = quote(self.chance.choice(self.events[room][-3:]), safe="")
            await self._try(person, "POST", f"/rooms/{quote(room)}/receipt/{kind}/{event_id}", {})

    async def _data(self, person: Person) -> None:
        user, room = quote(person.user_id), self.chance.choice(self.rooms)
        if self.chance.random() < 0.4:
            await self._try(person, "PUT", f"/user/{user}/account_data/m.direct", {"@x:a.test": [room]})
        else:
            await self._try(person, "PUT", f"/user/{user}/rooms/{quote(room)}/account_data/x.y", {"n": self.chance.randrange(99)})

    async def _type(self, person: Person) -> None:
        typing = {"typing": self.chance.random() < 0.7, "timeout": 20_000}
        await self._try(person, "PUT", f"/rooms/{self._room()}/typing/{quote(person.user_id)}", typing)

    async def _ignore(self, person: Person) -> None:
        """Another choice of people whom somebody who watches ignores from now on."""
        ignored = self.ignored.get(person.user_id)
        if ignored is None:
            return
        others = [other.user_id for other in self.people if other is not person]
        ignored.clear()
        ignored.update(other for other in others if self.chance.random() < 0.4)
        self.ever_ignored[person.user_id] |= ignored
        content = {"ignored_users": {user_id: {} for user_id in sorted(ignored)}}
        await person.ok("PUT", f"/user/{quote(person.user_id)}/account_data/m.ignored_user_list", content)

    async def _restart(self, person: Person) -> None:
        if self.chance.random() < 0.3:
            await self.box.stop()
            await self.box.start()


SET_LATER = {("m.room.name", ""), ("m.room.topic", ""), ("m.room.avatar", "")}
"""What a history may set after an invite has been told: an invite shows the room as it was then, a first sync as it is."""


class Check:
    """What a watcher knows in the end, against what everything else says. `ever_ignored`: some of what was told of these people
    may be lacking.
    """

    def __init__(self, watcher: SlidingClient, ever_ignored: set[str]) -> None:
        self.watcher = watcher
        self.person = watcher.person
        self.ever_ignored = ever_ignored

    async def run(self) -> None:
        whole = await self.person.ok("GET", "/sync", query={"filter": '{"room":{"timeline":{"limit":1}}}'})
        joined = whole.get("rooms", {}).get("join", {})
        invited = whole.get("rooms", {}).get("invite", {})
        knocked = whole.get("rooms", {}).get("knock", {})
        in_list = self.watcher.lists["all"]["count"]
        shown = {room_id for room_id, room in self.watcher.rooms.items() if room.stripped is not None}
        for room_id, entry in joined.items():
            await self._joined(room_id, entry)
        for room_id, entry in invited.items():
            assert self.watcher.rooms[room_id].stripped is not None, self._about(room_id, "an invite without its state")
            keys = {(one["type"], one["state_key"]) for one in entry["invite_state"]["events"]}
            told = {(one["type"], one["state_key"]) for one in self.watcher.rooms[room_id].stripped or ()}
            assert told <= keys, self._about(room_id, "an invite with more than the room has")
            assert keys - told <= SET_LATER, self._about(room_id, "an invite with less than the room has")
        assert {*joined, *invited, *knocked} <= {*self.watcher.rooms}, "a room is lacking"
        assert in_list >= len(joined) + len(invited)
        for room_id, room in self.watcher.rooms.items():
            if room.membership == "invite" and inviter_in(room, self.person) in self.watcher.ignored:
                continue  # it had been told before the inviter was ignored
            is_out = room_id not in {*joined, *invited, *knocked}
            assert is_out == (room.membership in ("leave", "ban")), self._about(room_id, f"takes the person for {room.membership}")
        assert not shown & set(joined), "a room that the person has joined counts as an invite"
        self._data(whole, set(joined))

    def _about(self, room_id: str, what: str) -> str:
        return f"{self.watcher.dialect} {self.person.user_id} {room_id}: {what}"

    async def _joined(self, room_id: str, entry: dict[str, Any]) -> None:
        room = self.watcher.rooms[room_id]
        assert room.state == await self.person.state(room_id), self._about(room_id, "the state differs")
        page = await self.person.ok("GET", f"/rooms/{quote(room_id)}/messages", query={"dir": "b", "limit": "1000"})
        unsure = {one["event_id"] for one in page["chunk"] if one["sender"] in self.ever_ignored and "state_key" not in one}
        told = [event["event_id"] for event in page["chunk"] if event["event_id"] not in unsure][::-1]
        known = [event_id for event_id in room.timeline if event_id not in unsure]
        assert known == told[len(told) - len(known) :], self._about(room_id, "the timeline differs")
        assert len(room.timeline) >= min(len(told), 50), self._about(room_id, "the timeline is too short")
        members = (await self.person.ok("GET", f"/rooms/{quote(room_id)}/joined_members"))["joined"]
        assert room.fields["joined_count"] == len(members) == entry["summary"]["m.joined_member_count"]
        assert room.fields["invited_count"] == entry["summary"]["m.invited_member_count"]
        names = [event for event in await self.person.ok("GET", f"/rooms/{quote(room_id)}/state") if event["type"] == "m.room.name"]
        name = names[0]["content"].get("name") if names else None
        assert (room.fields.get("name") or None) == name, self._about(room_id, "the name differs")
        if not name:
            heroes = [hero["user_id"] for hero in room.fields.get("heroes", [])]
            assert heroes == entry["summary"].get("m.heroes", []), self._about(room_id, "the heroes differ")
        if self.watcher.dialect == "deployed":
            unread = entry["unread_notifications"]
            counts = (room.fields["notification_count"], room.fields["highlight_count"])
            assert counts == (unread["notification_count"], unread["highlight_count"]), self._about(room_id, "the counts differ")
        else:
            assert room.fields["membership"] == "join"

    def _data(self, whole: dict[str, Any], joined: set[str]) -> None:
        for item in whole["account_data"]["events"]:
            assert self.watcher.account_data["", item["type"]] == item["content"]
        for room_id, entry in whole.get("rooms", {}).get("join", {}).items():
            for item in entry["account_data"]["events"]:
                assert self.watcher.account_data[room_id, item["type"]] == item["content"], self._about(room_id, item["type"])
            typing = [event for event in entry["ephemeral"]["events"] if event["type"] == "m.typing"]
            users = typing[0]["content"]["user_ids"] if typing else []
            assert self.watcher.typing.get(room_id, []) == users, self._about(room_id, "who types differs")
            self._receipts(room_id, entry)

    def _receipts(self, room_id: str, entry: dict[str, Any]) -> None:
        shown = set(self.watcher.rooms[room_id].timeline)
        for event in entry["ephemeral"]["events"]:
            for event_id, kinds in event["content"].items() if event["type"] == "m.receipt" else ():
                for kind, users in kinds.items():
                    for user_id, value in users.items():
                        known = self.watcher.receipts.get((room_id, kind, user_id, value.get("thread_id", "")))
                        if (event_id in shown or user_id == self.person.user_id) and user_id not in self.ever_ignored:
                            assert known == event_id, self._about(room_id, f"the receipt of {user_id} differs")


def run(seed: int, *, tell: bool = False) -> None:
    """One history in a folder of its own. Raises AssertionError."""
    with tempfile.TemporaryDirectory(prefix="history-") as folder:
        trio.run(Story(seed, tell=tell).run, Path(folder), clock=MockClock(autojump_threshold=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", default="0-50", help="FIRST-LAST")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        run(chosen.seed, tell=True)
        return
    first, last = map(int, chosen.seeds.split("-"))
    for seed in range(first, last):
        try:
            run(seed)
        except BaseException as error:
            print(f"seed {seed}: {error!r}")


if __name__ == "__main__":
    main()
