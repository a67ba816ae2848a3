"""Sliding sync over a thin line: no answer is large whatever waits for the device, all of it comes in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import trio

from tests.asgi import AsgiClient
from tests.flows.world import Person, World
from transports.exchange import LinkProfile

PATH = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
LINE = LinkProfile("line", bit_rate=2400)
BUDGET = 6 * 2400
WISH = {"ranges": [[0, 999]], "timeline_limit": 1, "required_state": []}


@pytest.fixture
async def two(tmp_path) -> AsyncIterator[tuple[Person, Person]]:
    async with World(tmp_path) as world:
        box = await world.box("a", "[limits]\nrate_limits = false\n")
        yield await box.person("alice"), await box.person("bob")


class Phone:
    """A connection over the line. `largest` is the size of its largest answer."""

    def __init__(self, person: Person, **body: Any) -> None:
        self.person, self.body = person, body
        self.pos: str | None = None
        self.largest = 0

    async def poll(self) -> Any:
        """One answer. A poll waits for a minute, so what does not answer at once is seen by the clock."""
        client = AsgiClient(self.person.box.box.app, token=self.person.token, link=LINE)
        query = {"timeout": "60000", **({} if self.pos is None else {"pos": self.pos})}
        answer = await client.request("POST", PATH, json=self.body, query=query)
        assert answer.status == 200, answer.body
        self.pos, self.largest = answer.json["pos"], max(self.largest, len(answer.body))
        return answer.json

    async def all(self) -> list[Any]:
        """All answers until there is nothing new for a minute."""
        found: list[Any] = []
        while True:
            began = trio.current_time()
            found.append(await self.poll())
            if trio.current_time() - began >= 59:
                return found[:-1]


async def test_messages_to_a_device_come_in_portions_that_fit_in_their_order_and_once(two, autojump_clock):
    alice, bob = two
    for number in range(100):
        content = {"n": number, "ciphertext": "x" * 900}
        await bob.ok("PUT", f"/sendToDevice/m.room.encrypted/{number}", {"messages": {alice.user_id: {"*": content}}})
    room = await alice.create_room(name="Harbour")
    phone = Phone(alice, lists={"all": WISH}, extensions={"to_device": {"enabled": True}})
    heard: list[int] = []
    answers = []
    while len(heard) < 100:
        answers.append(await phone.poll())
        told = answers[-1]["extensions"]["to_device"]
        assert told["events"]
        heard += [event["content"]["n"] for event in told["events"]]
        phone.body["extensions"]["to_device"]["since"] = told["next_batch"]
    assert heard == list(range(100))
    assert phone.largest < BUDGET
    assert list(answers[0]["rooms"]) == [room]  # a flood of messages does not keep the rooms away
    assert await phone.all() == []


async def test_account_data_of_many_rooms_and_of_none_comes_in_portions_and_once(two, autojump_clock):
    alice, _ = two
    await alice.ok("PUT", f"/user/{alice.user_id}/account_data/x.large", {"text": "y" * 6000})
    await alice.ok("PUT", f"/user/{alice.user_id}/account_data/x.last", {"n": 1})
    rooms = [await alice.create_room(name=f"Room {number}") for number in range(30)]
    for room in rooms:
        await alice.ok("PUT", f"/user/{alice.user_id}/rooms/{quote(room)}/account_data/x.note", {"text": "z" * 2000})
    phone = Phone(alice, lists={"all": WISH}, extensions={"account_data": {"enabled": True}})
    answers = await phone.all()
    overall = [item["type"] for answer in answers for item in answer["extensions"].get("account_data", {}).get("global", ())]
    assert sorted(overall) == sorted({*overall})
    assert {"m.push_rules", "x.large", "x.last"} <= {*overall}
    told = [room for answer in answers for room in answer["extensions"].get("account_data", {}).get("rooms", ())]
    assert sorted(told) == sorted(rooms)
    assert sorted(room for answer in answers for room in answer["rooms"]) == sorted(rooms)
    assert phone.largest < 2 * BUDGET


async def test_what_changed_everywhere_while_a_device_was_away_comes_in_portions(two, autojump_clock):
    alice, bob = two
    rooms = []
    for number in range(30):
        rooms.append(await alice.create_room(name=f"Room {number}", preset="public_chat"))
        await bob.join(rooms[-1])
    events = {room: await alice.say(room, "read me") for room in rooms}
    phone = Phone(alice, lists={"all": WISH}, extensions={"account_data": {"enabled": True}, "receipts": {"enabled": True}})
    await phone.all()
    phone.largest = 0
    for number, room in enumerate(rooms):
        await bob.ok("POST", f"/rooms/{quote(room)}/receipt/m.read/{quote(events[room], safe='')}")
        await alice.ok("PUT", f"/user/{alice.user_id}/rooms/{quote(room)}/account_data/x.note", {"n": number, "text": "z" * 1000})
    await alice.ok("PUT", f"/user/{alice.user_id}/account_data/x.first", {"n": 1})
    first, *rest = await phone.all()
    assert first["extensions"]["account_data"]["global"] == [{"type": "x.first", "content": {"n": 1}}]
    for kind in ("account_data", "receipts"):
        told = [room for answer in (first, *rest) for room in answer["extensions"].get(kind, {}).get("rooms", ())]
        assert sorted(told) == sorted(rooms), kind
        assert set(first["extensions"][kind]["rooms"]) < set(rooms)
    assert phone.largest < BUDGET
    await alice.ok("PUT", f"/user/{alice.user_id}/rooms/{quote(rooms[3])}/account_data/x.note", {"n": 77})
    [last] = await phone.all()
    assert last["extensions"]["account_data"]["rooms"] == {rooms[3]: [{"type": "x.note", "content": {"n": 77}}]}


async def test_an_answer_that_was_lost_loses_no_portion(two, autojump_clock):
    alice, _ = two
    for number in range(8):
        await alice.ok("PUT", f"/user/{alice.user_id}/account_data/x.n{number}", {"text": "y" * 1500})
    phone = Phone(alice, extensions={"account_data": {"enabled": True}})
    heard: list[str] = []
    while True:
        before, began = phone.pos, trio.current_time()
        lost = await phone.poll()
        if trio.current_time() - began >= 59:
            break
        if before is not None:
            phone.pos = before
            assert (await phone.poll())["extensions"] == lost["extensions"]
        heard += [item["type"] for item in lost["extensions"]["account_data"]["global"]]
    assert sorted(heard) == ["m.push_rules", *(f"x.n{number}" for number in range(8))]


async def test_over_any_other_wire_all_of_it_comes_at_once(two):
    alice, bob = two
    for number in range(20):
        await bob.ok("PUT", f"/sendToDevice/m.x/{number}", {"messages": {alice.user_id: {"*": {"text": "x" * 900}}}})
        await alice.ok("PUT", f"/user/{alice.user_id}/account_data/x.n{number}", {"text": "y" * 1500})
    body = {"extensions": {"account_data": {"enabled": True}, "to_device": {"enabled": True}}}
    answer = await AsgiClient(alice.box.box.app, token=alice.token).request("POST", PATH, json=body)
    assert len(answer.json["extensions"]["to_device"]["events"]) == 20
    assert len(answer.json["extensions"]["account_data"]["global"]) == 21
