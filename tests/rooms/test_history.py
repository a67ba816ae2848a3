"""History: who sees what, and what is fetched from other servers."""

from __future__ import annotations

import pytest

from edgeserver.matrix import errors
from edgeserver.rooms import tokens
from edgeserver.rooms.history import MAX_TURNS
from edgeserver.store.events import Place
from tests.rooms.house import ALICE, BOB, CAROL, House, Street


async def bodies(house: House, user_id: str, room_id: str) -> list[str]:
    return [body for body in await house.bodies(user_id, room_id) if "." not in body]


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        ("world_readable", ["before", "invited", "joined"]),
        ("shared", ["before", "invited", "joined"]),
        ("invited", ["invited", "joined"]),
        ("joined", ["joined"]),
        ("nonsense", ["before", "invited", "joined"]),
    ],
)
async def test_the_visibility_of_a_room_decides_what_a_newcomer_and_a_leaver_see(one: House, setting: str, seen: list[str]) -> None:
    room_id = await one.room(
        initial_state=[{"type": "m.room.history_visibility", "content": {"history_visibility": setting}}]
    )
    await one.say(room_id, ALICE, "before")
    await one.memberships.invite(ALICE, room_id, BOB)
    await one.say(room_id, ALICE, "invited")
    if setting != "world_readable":
        with pytest.raises(errors.Forbidden):
            await one.bodies(BOB, room_id)
    await one.memberships.join(BOB, room_id)
    await one.say(room_id, ALICE, "joined")
    assert await bodies(one, BOB, room_id) == seen
    await one.memberships.leave(BOB, room_id)
    await one.say(room_id, ALICE, "after")
    assert await bodies(one, BOB, room_id) == ([*seen, "after"] if setting == "world_readable" else seen)
    await one.memberships.ban(ALICE, room_id, BOB)
    await one.memberships.unban(ALICE, room_id, BOB)
    assert await bodies(one, BOB, room_id) == ([*seen, "after"] if setting == "world_readable" else seen)


async def test_a_ban_and_its_end_show_a_room_to_nobody_who_was_never_in_it(one: House) -> None:
    room_id = await one.room()
    await one.memberships.ban(ALICE, room_id, BOB)
    with pytest.raises(errors.Forbidden):
        await one.bodies(BOB, room_id)
    await one.memberships.unban(ALICE, room_id, BOB)
    with pytest.raises(errors.Forbidden):
        await one.bodies(BOB, room_id)


async def test_whoever_is_banned_and_pardoned_without_end_counts_as_never_there_until_they_are_back(one: House) -> None:
    room_id = await one.room()
    await one.memberships.join(BOB, room_id)
    await one.say(room_id, ALICE, "seen")
    await one.memberships.leave(BOB, room_id)

    async def turned_away(times: int) -> None:
        for _ in range(times):
            await one.memberships.ban(ALICE, room_id, BOB)
            await one.memberships.unban(ALICE, room_id, BOB)

    await turned_away((MAX_TURNS - 1) // 2)
    assert await bodies(one, BOB, room_id) == ["seen"]
    await turned_away(1)
    with pytest.raises(errors.Forbidden):
        await one.bodies(BOB, room_id)
    await one.memberships.join(BOB, room_id)
    assert await bodies(one, BOB, room_id) == ["seen"]


async def test_a_newcomer_from_another_server_reads_shared_history_as_far_back_as_it_goes(one: House, two: House) -> None:
    room_id = await one.room(name="Room")
    for number in range(4):
        await one.say(room_id, ALICE, str(number))
    await two.memberships.join(CAROL, room_id, ["one"])
    assert await bodies(two, CAROL, room_id) == ["0", "1", "2", "3"]
    whole = await two.bodies(CAROL, room_id)
    assert whole[0] == "m.room.create"
    assert await two.heads(room_id) == await one.heads(room_id)
    assert [stored.stream for stored in (await two.state(room_id)).values()].count(None) == 0
    asked = len([what for _, what in two.street.asked if what == "backfill"])
    await two.bodies(CAROL, room_id)
    assert len([what for _, what in two.street.asked if what == "backfill"]) == asked


async def test_history_under_joined_visibility_stays_hidden_when_it_was_fetched(one: House, two: House) -> None:
    room_id = await one.room(initial_state=[{"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}])
    await one.say(room_id, ALICE, "secret")
    await two.memberships.join(CAROL, room_id, ["one"])
    await one.say(room_id, ALICE, "open")
    await one.tell(two, *(await one.heads(room_id)))
    assert await bodies(two, CAROL, room_id) == ["open"]


async def test_when_no_server_can_be_reached_what_is_here_is_shown(one: House, two: House, street: Street) -> None:
    room_id = await one.room()
    await one.say(room_id, ALICE, "old")
    await two.memberships.join(CAROL, room_id, ["one"])
    street.down.add("one")
    assert await two.bodies(CAROL, room_id) == ["m.room.member"]
    street.down.clear()
    assert await bodies(two, CAROL, room_id) == ["old"]


def test_tokens_are_read_back_as_they_were_written_and_others_are_refused() -> None:
    for place in (Place(3, 7), Place(-1, -5), Place(2**62, 2**62)):
        assert tokens.parse(tokens.write_place(place)) == place
    assert tokens.parse(tokens.write_stream(12)) == 12
    for token in ("", "x", "t1", "ta_b", "s", "sx", "t1_2_3", "s+5", "s\u0661", "t1_9999999999999999999"):
        with pytest.raises(errors.InvalidParam):
            tokens.parse(token)
