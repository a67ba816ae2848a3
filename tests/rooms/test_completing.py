"""Rooms that were joined without their members are usable at once and become whole in the background."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from edgeserver.matrix import errors
from edgeserver.matrix.room_versions import SUPPORTED
from edgeserver.matrix.verdicts import Accepted, Verdict
from edgeserver.rooms.history import History
from edgeserver.rooms.placing import Placer, Task
from edgeserver.store import integrity, partial_rooms, rooms
from tests.rooms.house import ALICE, BOB, CAROL, DAVE, House, Source, Street, open_house

CROWD = [f"@guest{number}:one" for number in range(60)]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(10_000):
        while not await condition():
            await trio.sleep(1)


@asynccontextmanager
async def completing(house: House) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.completer.run)
        yield
        nursery.cancel_scope.cancel()


async def is_whole(house: House, room_id: str) -> bool:
    room = await house.db.read(lambda tx: rooms.get(tx, room_id))
    assert room is not None
    return not room.is_partial


async def crowded(one: House, version: str = "11", **new: object) -> str:
    room_id = await one.room(rules=SUPPORTED[version], name="Square", **new)
    for user in (BOB, *CROWD):
        await one.memberships.join(user, room_id)
    one.omits_members = True
    return room_id


async def same_state(one: House, two: House, room_id: str) -> None:
    theirs, ours = await one.state(room_id), await two.state(room_id)
    assert {key: it.event.event_id for key, it in ours.items()} == {key: it.event.event_id for key, it in theirs.items()}


@pytest.mark.parametrize("version", ["6", "10", "11", "12"])
async def test_a_room_is_usable_before_its_members_are_known(one: House, two: House, version: str, autojump_clock: object) -> None:
    room_id = await crowded(one, version)
    await two.memberships.join(CAROL, room_id, ["one"])
    assert not await is_whole(two, room_id)
    assert ("m.room.member", BOB) not in await two.state(room_id)
    said = await two.say(room_id, CAROL, "good evening")
    assert await two.tell(one, said) == [Accepted()]
    heard = await one.say(room_id, BOB, "good evening, Carol")  # by somebody whom two has never heard of
    assert await one.tell(two, heard) == [Accepted()]
    assert {"good evening", "good evening, Carol"} <= set(await two.bodies(CAROL, room_id))
    async with completing(two):
        await until(lambda: is_whole(two, room_id))
    await same_state(one, two, room_id)
    assert await two.membership(room_id, BOB) == "join"
    assert await two.db.read(partial_rooms.every) == []


async def test_the_store_holds_together_before_and_after(one: House, two: House, tmp_path: Path, autojump_clock: object) -> None:
    room_id = await crowded(one)
    await one.say(room_id, BOB, "long ago")
    await two.memberships.join(CAROL, room_id, ["one"])
    await one.tell(two, await one.say(room_id, CROWD[0], "now"))
    await two.bodies(CAROL, room_id)
    assert integrity.inspect(tmp_path / "two.db", "two").findings == []
    async with completing(two):
        await until(lambda: is_whole(two, room_id))
    assert integrity.inspect(tmp_path / "two.db", "two").findings == []
    await two.db.write(lambda tx: tx.execute("UPDATE events SET partial = 1 WHERE depth = 1"))
    (finding,) = integrity.inspect(tmp_path / "two.db", "two").findings
    assert "1 of its events are still to be judged" in finding


async def test_what_happens_meanwhile_is_judged_again_by_the_whole_state(one: House, two: House, autojump_clock: object) -> None:
    room_id = await crowded(one)
    await two.memberships.join(CAROL, room_id, ["one"])
    leaves, back = CROWD[0], CROWD[1]
    await one.memberships.leave(leaves, room_id)
    await one.memberships.leave(back, room_id)
    await one.memberships.join(back, room_id)
    await one.memberships.ban(ALICE, room_id, CROWD[2])
    topic = await one.set(room_id, ALICE, "m.room.topic", {"topic": "Fish"})
    (head,) = await one.heads(room_id)
    assert await one.tell(two, head) == [Accepted()]  # the rest is asked for
    assert ("m.room.topic", "") in await two.state(room_id)
    async with completing(two):
        await until(lambda: is_whole(two, room_id))
    await same_state(one, two, room_id)
    assert (await two.state(room_id))["m.room.topic", ""].event.event_id == topic
    assert [await two.membership(room_id, user) for user in (leaves, back, CROWD[2])] == ["leave", "join", "ban"]
    assert two.written[-1].room.room_id == room_id


async def test_a_fork_across_a_partial_join_comes_to_the_same_state(one: House, two: House, autojump_clock: object) -> None:
    room_id = await crowded(one, "12", power_level_overrides={"users": {BOB: 50}, "events": {"m.room.topic": 0}})
    await two.memberships.join(CAROL, room_id, ["one"])
    theirs = [await one.set(room_id, BOB, "m.room.topic", {"topic": "theirs"}), await one.say(room_id, BOB, "theirs")]
    ours = [await two.set(room_id, CAROL, "m.room.topic", {"topic": "ours"}), await two.say(room_id, CAROL, "ours")]
    assert await one.tell(two, *theirs) == [Accepted()] * 2
    assert await two.tell(one, *ours) == [Accepted()] * 2
    async with completing(two):
        await until(lambda: is_whole(two, room_id))
    merged = await two.say(room_id, CAROL, "together again")
    await two.tell(one, merged)
    await same_state(one, two, room_id)


async def test_completion_waits_for_a_server_that_can_be_reached(one: House, two: House, autojump_clock: object) -> None:
    room_id = await crowded(one)
    await two.memberships.join(CAROL, room_id, ["one"])
    two.street.down.add("one")
    async with completing(two):
        await trio.sleep(7200)
        assert not await is_whole(two, room_id)
        assert len(two.street.asked) < 20  # the pauses grow
        two.street.down.clear()
        two.completer.route_returned("one")
        await trio.sleep(1)
        assert await is_whole(two, room_id)
    await same_state(one, two, room_id)


async def test_completion_goes_on_after_a_restart(tmp_path: Path, autojump_clock: object) -> None:
    street = Street()
    async with open_house(tmp_path, "one", street) as one:
        async with open_house(tmp_path, "two", street) as two:
            room_id = await crowded(one)
            await two.memberships.join(CAROL, room_id, ["one"])
            said = await one.say(room_id, BOB, "before the night")
            await one.tell(two, said)
            street.down.add("one")
            async with completing(two):
                await trio.sleep(60)
        street.down.clear()
        async with open_house(tmp_path, "two", street) as two:
            assert not await is_whole(two, room_id)
            async with completing(two):
                await until(lambda: is_whole(two, room_id))
            await same_state(one, two, room_id)
            assert "before the night" in await two.bodies(CAROL, room_id)


async def test_a_metered_box_fetches_members_only_when_somebody_asks(one: House, two: House, autojump_clock: object) -> None:
    room_id = await crowded(one)
    two.completer._at_once = False
    await two.memberships.join(CAROL, room_id, ["one"])
    async with completing(two):
        await trio.sleep(86_400)
        assert not await is_whole(two, room_id)
        await two.completer.until_whole(room_id)
        assert await is_whole(two, room_id)
        await two.completer.until_whole(room_id)  # and nobody waits a second time
    await same_state(one, two, room_id)


async def test_who_asks_for_members_that_cannot_be_had_is_told_so(one: House, two: House, autojump_clock: object) -> None:
    room_id = await crowded(one)
    await two.memberships.join(CAROL, room_id, ["one"])
    two.street.down.add("one")
    async with completing(two):
        with pytest.raises(errors.MatrixError, match="still being fetched") as failure:
            await two.completer.until_whole(room_id)
    assert failure.value.status == 504


async def test_a_room_that_everybody_left_is_not_made_whole(one: House, two: House, autojump_clock: object) -> None:
    room_id = await crowded(one)
    await two.memberships.join(CAROL, room_id, ["one"])
    await two.memberships.leave(CAROL, room_id)
    two.street.asked.clear()
    async with completing(two):
        await trio.sleep(600)
        began = trio.current_time()
        await two.completer.until_whole(room_id)
        assert trio.current_time() == began
    assert two.street.asked == []


async def test_who_waits_for_members_of_a_room_is_let_go_when_everybody_leaves_it(one: House, two: House, autojump_clock: object) -> None:
    room_id = await crowded(one)
    await two.memberships.join(CAROL, room_id, ["one"])
    two.street.down.add("one")
    async with completing(two), trio.open_nursery() as nursery:
        nursery.start_soon(two.completer.until_whole, room_id)
        await trio.sleep(1)
        await two.memberships.leave(CAROL, room_id)
        with trio.fail_after(60):
            while nursery.child_tasks:
                await trio.sleep(1)


async def test_who_is_not_known_to_be_in_a_partial_room_can_be_removed_from_it(one: House, two: House, autojump_clock: object) -> None:
    room_id = await crowded(one, power_level_overrides={"users": {ALICE: 100, CAROL: 50}})
    await two.memberships.join(CAROL, room_id, ["one"])
    assert await two.membership(room_id, BOB) is None
    await two.memberships.kick(CAROL, room_id, BOB)
    assert await two.membership(room_id, BOB) == "leave"
    kick = (await two.state(room_id))["m.room.member", BOB].event.event_id
    assert await two.tell(one, kick) == [Accepted()]
    async with completing(two):
        await until(lambda: is_whole(two, room_id))
    await same_state(one, two, room_id)
    assert await one.membership(room_id, BOB) == "leave"
    with pytest.raises(errors.MatrixError, match="not in the room"):
        await two.memberships.kick(CAROL, room_id, "@nobody:one")


async def test_history_of_before_the_join_can_be_read_while_the_room_is_partial(one: House, two: House, autojump_clock: object) -> None:
    room_id = await crowded(one)
    for number in range(5):
        await one.say(room_id, CROWD[number], f"old {number}")
    await two.memberships.join(CAROL, room_id, ["one"])
    two.street.asked.clear()
    old = [f"old {number}" for number in range(5)]
    assert [body for body in await two.bodies(CAROL, room_id) if body.startswith("old")] == old
    assert {what for _, what in two.street.asked}.isdisjoint({"state", "state_ids"})
    async with completing(two):
        await until(lambda: is_whole(two, room_id))
    await same_state(one, two, room_id)
    assert [body for body in await two.bodies(CAROL, room_id) if body.startswith("old")] == old


async def test_servers_in_the_room_are_sent_to_though_their_members_are_unknown(one: House, two: House, autojump_clock: object) -> None:
    room_id = await crowded(one)
    await two.memberships.join(CAROL, room_id, ["one"])

    async def known() -> list[str]:
        return await two.db.read(lambda tx: sorted(rooms.servers(tx, rooms.get(tx, room_id).number)))  # type: ignore[union-attr]

    assert await known() == ["one", "two"]
    for user in (ALICE, BOB, *CROWD):
        await one.memberships.leave(user, room_id)
    (head,) = await one.heads(room_id)
    await one.tell(two, head)
    assert await known() == ["one", "two"]  # somebody there may still be in it
    async with completing(two):
        await until(lambda: is_whole(two, room_id))
    assert await known() == ["two"]


class SlowPlacer(Placer):
    """Places events once the room has become whole."""

    def __init__(self, house: House, room_id: str) -> None:
        super().__init__(house.db, house.persister)
        self._completer, self._room_id = house.completer, room_id

    async def place(self, task: Task) -> Verdict:
        await self._completer.until_whole(self._room_id)
        return await super().place(task)


async def test_history_that_was_asked_for_while_the_room_was_partial_is_judged_by_all_of_it(
    one: House, two: House, autojump_clock: object
) -> None:
    room_id = await crowded(one)
    old = [await one.say(room_id, user, f"old of {user}") for user in CROWD[:5]]
    await two.memberships.join(CAROL, room_id, ["one"])
    two.completer._at_once = False  # but when the placer asks for it
    two.history = History(two.db, two.receiver, SlowPlacer(two, room_id), Source(two.street), "two")
    async with completing(two):
        bodies = await two.bodies(CAROL, room_id, limit=6)
    assert [body for body in bodies if body.startswith("old")] == [f"old of {user}" for user in CROWD[:5]]
    for event_id in old:
        theirs, ours = await one.get(event_id), await two.get(event_id)
        assert await one.state_before(theirs) == await two.state_before(ours)


@pytest.mark.parametrize("omits", [False, True])
async def test_members_whose_keys_cannot_be_had_are_waited_for_and_come_when_they_can(
    one: House, two: House, three: House, omits: bool, autojump_clock: object
) -> None:
    room_id = await one.room(rules=SUPPORTED["12"])
    await three.memberships.join(DAVE, room_id, ["one"])
    one.omits_members = omits
    two.keyless.add("three")
    await two.memberships.join(CAROL, room_id, ["one"])
    async with completing(two):
        await two.completer.until_whole(room_id)  # as far as it can be: the tries took a minute
        assert not await is_whole(two, room_id)
        assert await two.membership(room_id, ALICE) == "join"
        assert await two.membership(room_id, DAVE) is None
        assert "three" in await two.db.read(lambda tx: rooms.servers(tx, rooms.get(tx, room_id).number))  # type: ignore[union-attr]
        topic = await one.set(room_id, ALICE, "m.room.topic", {"topic": "Where is Dave?"})
        assert await one.tell(two, topic) == [Accepted()]
        await trio.sleep(7200)
        assert not await is_whole(two, room_id)
        two.keyless.clear()
        two.completer.route_returned("three")
        await until(lambda: is_whole(two, room_id))
    await same_state(one, two, room_id)
    assert await two.membership(room_id, DAVE) == "join"


async def test_members_whose_keys_are_gone_for_good_are_given_up(
    one: House, two: House, three: House, tmp_path: Path, autojump_clock: object
) -> None:
    room_id = await one.room()
    await three.memberships.join(DAVE, room_id, ["one"])
    two.keyless.add("three")
    await two.memberships.join(CAROL, room_id, ["one"])
    assert integrity.inspect(tmp_path / "two.db", "two").findings == []
    async with completing(two):
        await two.completer.until_whole(room_id)
        assert integrity.inspect(tmp_path / "two.db", "two").findings == []
        await trio.sleep(4 * 86_400)
    assert await is_whole(two, room_id)
    assert await two.db.read(partial_rooms.every) == []
    assert integrity.inspect(tmp_path / "two.db", "two").findings == []
