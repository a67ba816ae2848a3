"""A device that syncs as matrix-rust-sdk does, against a box as a process that is killed again and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
import trio

from tests.interop.boxes import local_box, register
from tests.interop.people import Person
from tests.lab.box import Box
from tests.lab.programs import LabError
from tests.lab.sliding import SlidingDevice


class Life:
    """Bob talks to alice, whose phone syncs; the box is killed meanwhile."""

    def __init__(self, box: Box, alice: Person, bob: Person) -> None:
        self.box, self.alice, self.bob = box, alice, bob
        self.sent: dict[str, list[str]] = {}
        self.letters: list[int] = []

    async def rooms(self, count: int) -> list[str]:
        made = []
        for number in range(count):
            room = await self.bob.create_room("12", name=f"Room {number}", preset="public_chat")
            await self.alice.join(room)
            made.append(room)
        return made

    async def _insist(self, path: str, body: object) -> dict[str, str]:
        """A PUT with a transaction id of its own, repeated until it is answered: what a client does whose server has gone."""
        while True:
            try:
                answer = await self.bob.request("PUT", "/_matrix/client/v3" + path, body)
            except (OSError, LabError):
                await trio.sleep(0.1)
                continue
            assert answer.status == 200, answer.body
            return dict(answer.json)

    async def talk(self, rooms: list[str], first: int, last: int) -> None:
        device = (await self.alice.ok("GET", "/account/whoami"))["device_id"]
        for number in range(first, last):
            room = rooms[number % len(rooms)]
            body = {"msgtype": "m.text", "body": f"message {number}"}
            said = await self._insist(f"/rooms/{quote(room)}/send/m.room.message/t{number}", body)
            self.sent.setdefault(room, []).append(said["event_id"])
            messages = {self.alice.user_id: {device: {"number": number}}}
            await self._insist(f"/sendToDevice/m.test/d{number}", {"messages": messages})
            self.letters.append(number)

    def is_known(self, phone: SlidingDevice, rooms: list[str]) -> bool:
        if {one["content"]["number"] for one in phone.to_device} != set(self.letters) or not set(rooms) <= set(phone.rooms):
            return False
        return all(self.sent[room][-1] == phone.rooms[room].events[-1] for room in rooms if room in self.sent and phone.rooms[room].events)


async def until(condition: Callable[[], bool], within: float) -> None:
    with trio.fail_after(within):
        while not condition():
            await trio.sleep(0.05)


async def through_kills(folder: Path, *, rooms: int, kills: int, messages: int, seed: int) -> None:
    with local_box(folder) as box:
        people = [await trio.to_thread.run_sync(register, box, name) for name in ("alice", "bob")]
        life = Life(box, *people)
        made = await life.rooms(rooms)
        phone = SlidingDevice(box, life.alice.token, timeout_ms=5000, lose=0.1, seed=seed)
        phone.open.add(made[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(phone.run)
            await until(lambda: len(phone.rooms) == rooms, 30)
            for kill in range(kills):
                async with trio.open_nursery() as talking:
                    talking.start_soon(life.talk, made, kill * messages, (kill + 1) * messages)
                    await trio.sleep(0.3)
                    await trio.to_thread.run_sync(box.kill)
                    box.begin()
                    await box.ready()
            await until(lambda: life.is_known(phone, made), 30)
            await check(life, phone, made)
            nursery.cancel_scope.cancel()


async def check(life: Life, phone: SlidingDevice, made: list[str]) -> None:
    """Room list, names, last events, unread counts, each message once, each to-device message."""
    whole = (await life.alice.ok("GET", "/sync"))["rooms"]["join"]
    assert set(phone.rooms) == set(whole) == set(made)
    assert phone.count == len(made)
    for number, room in enumerate(made):
        known, entry = phone.rooms[room], whole[room]
        assert known.name == f"Room {number}"
        assert known.notifications == entry["unread_notifications"]["notification_count"]
        assert known.highlights == entry["unread_notifications"]["highlight_count"]
        page = await life.alice.ok("GET", f"/rooms/{quote(room)}/messages?dir=b&limit=500")
        told = [event["event_id"] for event in page["chunk"]][::-1]
        assert known.events == told[len(told) - len(known.events) :]
        said = [event_id for event_id in told if event_id in set(life.sent.get(room, ()))]
        assert said == life.sent.get(room, [])
        texts = [event["content"]["body"] for event in page["chunk"] if event["type"] == "m.room.message"]
        assert len(texts) == len(set(texts)) == len(said)
    assert sorted(one["content"]["number"] for one in phone.to_device) == life.letters
    opened = phone.rooms[made[0]].events
    assert set(life.sent[made[0]][-20:]) <= set(opened)
    assert phone.begun["room-list"] > 1
    pushed = await phone.notification(made[-1])
    assert pushed["timeline"][-1]["event_id"] == life.sent[made[-1]][-1]


async def test_a_device_knows_everything_after_its_server_was_killed(tmp_path: Path) -> None:
    await through_kills(tmp_path, rooms=24, kills=2, messages=24, seed=1)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3))
async def test_a_device_knows_everything_after_many_kills(tmp_path: Path, seed: int) -> None:
    await through_kills(tmp_path, rooms=140, kills=8, messages=150, seed=seed)
