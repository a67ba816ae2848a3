"""Sliding sync over a thin line: no answer is large whatever waits for the device, all of it comes in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from edgeserver.matrix import canonical_json
from edgeserver.store import device_lists, rooms
from edgeserver.store.database import Transaction
from edgeserver.sync.sliding import deployed
from edgeserver.sync.sliding.budget import Budget
from edgeserver.sync.sliding.engine import SlidingSync
from tests.asgi import AsgiClient
from tests.flows.world import Person, World
from tests.sync.world import ALICE, open_world
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


@given(st.lists(st.integers(1, 500)), st.integers(0, 300))
def test_portions_fit_unless_they_are_one_large_thing_and_all_comes_in_order(sizes: list[int], size: int) -> None:
    waiting = [{"n": "x" * length} for length in sizes]
    portions: list[list[Any]] = []
    while waiting:
        budget, portion = Budget(size), list[Any]()
        while waiting and budget.takes(waiting[0]):
            portion.append(waiting.pop(0))
        portions.append(portion)
        assert portion
        assert len(portion) == 1 or sum(len(canonical_json.encode_loose(one)) for one in portion) <= size
    assert [len(one["n"]) for portion in portions for one in portion] == sizes


async def test_a_large_item_does_not_come_with_others_and_gets_its_turn_however_much_is_new_elsewhere(two, autojump_clock):
    alice, _ = two
    names = [await alice.create_room(name=f"Room {number}") for number in range(4)]
    phone = Phone(alice, lists={"all": WISH}, extensions={"account_data": {"enabled": True}})
    await phone.all()
    phone.largest = 0

    async def note(room: str, text: str) -> None:
        await alice.ok("PUT", f"/user/{alice.user_id}/rooms/{quote(room)}/account_data/x.note", {"text": text})

    await note(names[0], "z" * 20_000)
    heard: list[set[str]] = []
    for number in range(3):
        for room in names[1:]:
            await note(room, str(number) * 500)
        heard.append(set((await phone.poll())["extensions"]["account_data"]["rooms"]))
    assert heard == [set(names[1:]), {names[0]}, set(names[1:])]
    assert phone.largest < 21_000


async def test_device_lists_come_in_portions_and_what_changes_meanwhile_is_told_after_them(tmp_path):
    async with open_world(tmp_path) as world:
        encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        number = await world.number(await world.room(ALICE, initial_state=[encryption]))
        others = [f"@user{one:03}:far.example" for one in range(200)]

        def meet(tx: Transaction) -> None:
            own = rooms.membership(tx, ALICE, number)
            assert own is not None
            for other in others:
                rooms.set_membership(tx, other, number, "join", own.event, tx.stream(), local=False)

        await world.db.write(meet)
        engine = SlidingSync(world.db, world.wakeups, world.typing, world.now_ms, lambda _: 0)

        async def poll(pos: str | None, budget: int | None = 4096) -> tuple[str, list[str]]:
            request = deployed.read(ALICE, "PHONE", pos, 0, {"extensions": {"e2ee": {"enabled": True}}})
            answer = await engine.sync(replace(request, budget=budget))
            return answer.pos, answer.extensions["e2ee"].get("device_lists", {}).get("changed", [])

        async def change(*users: str) -> None:
            await world.db.write(lambda tx: [device_lists.note_change(tx, user) for user in users])

        pos, _ = await poll(None)
        await change(*others)
        pos, first = await poll(pos)
        assert first == others[: len(first)]
        assert 20 < len(first) < 50
        again = [others[0], others[-1]]
        await change(*again)
        assert (await poll(pos))[1] == (await poll(pos))[1] == others[len(first) : 2 * len(first)]
        told = list(first)
        while True:
            pos, portion = await poll(pos)
            if not portion:
                break
            assert len(portion) <= len(first)
            told += portion
        assert sorted(told) == sorted([*others, again[0]])
        assert told.index(others[-1]) > told.index(others[-2])
        await change(*others)
        assert (await poll(pos, None))[1] == others


async def test_of_thread_subscriptions_the_newest_that_fit_are_told_and_the_rest_is_paged_for(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", "[limits]\nrate_limits = false\n[features]\nthread_subscriptions = true\n")
        alice = await box.person("alice")
        room = await alice.create_room()
        roots = [await alice.say(room, str(number)) for number in range(60)]
        name = "io.element.msc4308.thread_subscriptions"
        phone = Phone(alice, extensions={name: {"enabled": True}})
        unstable = AsgiClient(box.box.app, token=alice.token)
        for root in roots:
            path = f"/_matrix/client/unstable/io.element.msc4306/rooms/{quote(room)}/thread/{quote(root)}/subscription"
            assert (await unstable.request("PUT", path, json={})).status == 200
        [answer] = await phone.all()
        assert phone.largest < BUDGET / 2
        found = answer["extensions"][name]
        newest = list(found["subscribed"][room])
        assert newest == roots[: -len(newest) - 1 : -1]
        assert 10 < len(newest) < 40
        path, query = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions", {"from": found["prev_batch"], "limit": "100"}
        page = await unstable.request("GET", path, query={**query, "dir": "b"})
        assert list(page.json["subscribed"][room]) == roots[: -len(newest)][::-1]
