"""Membership as users ask for it: restricted rooms, invites across servers, profiles."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from edgeserver.matrix import errors
from edgeserver.matrix.event import Event
from edgeserver.matrix.room_versions import RoomVersion
from edgeserver.rooms.importing import GivenRoom, Importer
from edgeserver.store import outbox, rooms
from edgeserver.store.database import Transaction
from tests.rooms.house import ALICE, BOB, CAROL, DAVE, House, Street


def restricted_to(*room_ids: str) -> dict[str, Any]:
    allow = [{"type": "m.room_membership", "room_id": room_id} for room_id in room_ids]
    return {"type": "m.room.join_rules", "content": {"join_rule": "restricted", "allow": allow}}


async def test_a_restricted_room_lets_in_the_members_of_the_rooms_it_names(one: House) -> None:
    club = await one.room()
    room_id = await one.room(initial_state=[restricted_to("!unknown:x", club)])
    with pytest.raises(errors.Forbidden):
        await one.memberships.join(BOB, room_id)
    await one.memberships.join(BOB, club)
    await one.memberships.join(BOB, room_id)
    join = (await one.state(room_id))["m.room.member", BOB].event
    assert join.content["join_authorised_via_users_server"] == ALICE


async def test_a_restricted_room_in_which_nobody_here_may_invite_is_joined_through_another_server(
    one: House, two: House, street: Street
) -> None:
    club = await one.room()
    room_id = await one.room(initial_state=[restricted_to(club)], power_level_overrides={"invite": 50})
    await one.memberships.invite(ALICE, room_id, CAROL)
    await two.memberships.join(CAROL, room_id)
    await two.memberships.join(CAROL, club, ["one"])
    (joined,) = await two.heads(club)
    other = CAROL.replace("carol", "claire")
    await two.memberships.join(other, club)
    street.asked.clear()
    with pytest.raises(errors.MatrixError):
        await two.memberships.join(other, room_id)  # the neighbour of these tests authorises nobody
    assert ("one", "join") in street.asked
    assert joined


async def test_an_invite_is_signed_by_the_other_server_before_it_is_placed(one: House, two: House) -> None:
    room_id = await one.room(preset="private_chat", name="Kitchen")
    await one.memberships.invite(ALICE, room_id, CAROL, reason="tea")
    invite = (await one.state(room_id))["m.room.member", CAROL].event
    assert set(invite.pdu["signatures"]) == {"one", "two"}
    there = await two.db.read(lambda tx: rooms.membership_in(tx, CAROL, room_id))
    assert there is not None
    assert there.stripped is not None
    shown = {event["type"]: event for event in there.stripped}
    assert shown["m.room.name"]["content"] == {"name": "Kitchen"}
    assert shown["m.room.member"]["state_key"] == ALICE
    assert shown["m.room.create"]["sender"] == ALICE


async def test_everybody_in_the_room_is_told_who_was_kicked_even_the_server_that_left_with_them(one: House, two: House) -> None:
    room_id = await one.room()
    await two.memberships.join(CAROL, room_id, ["one"])
    await one.memberships.kick(ALICE, room_id, CAROL)
    (destination,) = await one.db.read(outbox.waiting)
    (kick,) = await one.db.read(lambda tx: outbox.pending(tx, destination.number))
    assert kick.pdu is not None
    assert kick.pdu["content"] == {"membership": "leave"}
    assert await one.db.read(lambda tx: rooms.servers(tx, rooms.get(tx, room_id).number)) == ["one"]  # type: ignore[union-attr]


async def test_the_server_of_an_invited_user_is_told_when_the_invite_is_withdrawn(one: House, two: House) -> None:
    room_id = await one.room(preset="private_chat")
    await one.memberships.invite(ALICE, room_id, CAROL)
    assert await one.db.read(outbox.waiting) == []
    await one.memberships.kick(ALICE, room_id, CAROL)
    (destination,) = await one.db.read(outbox.waiting)
    assert destination.server_name == "two"
    (kick,) = await one.db.read(lambda tx: outbox.pending(tx, destination.number))
    invites = [written.event.event_id for written in one.written if written.event.content.get("membership") == "invite"]
    assert kick.pdu is not None
    assert invites[0] in kick.pdu["auth_events"]


class SlowImporter(Importer):
    """Takes five seconds to take a room in."""

    async def join(self, rules: RoomVersion, join: Event, given: GivenRoom) -> None:
        await trio.sleep(5)
        await super().join(rules, join, given)


async def test_who_leaves_while_their_join_is_under_way_is_out_for_their_own_server_and_for_others(
    one: House, two: House, autojump_clock: object
) -> None:
    two.importer = SlowImporter(two.db, two.persister, two.outliers, two.wakeups)
    room_id = await one.room()
    await one.memberships.invite(ALICE, room_id, CAROL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(two.memberships.join, CAROL, room_id, ["one"])
        await trio.sleep(1)
        nursery.start_soon(two.memberships.leave, CAROL, room_id)
    assert await membership_of(two, CAROL, room_id) == await standing_of(two, CAROL, room_id) == "leave"


async def test_an_invite_that_is_withdrawn_after_its_user_has_joined_does_not_hide_the_room(one: House, two: House) -> None:
    room_id = await one.room()
    await one.memberships.invite(ALICE, room_id, CAROL)
    await two.memberships.join(CAROL, room_id, ["one"])
    await one.memberships.kick(ALICE, room_id, CAROL)
    await two.importer.left((await one.state(room_id))["m.room.member", CAROL].event)
    assert await membership_of(two, CAROL, room_id) == await standing_of(two, CAROL, room_id) == "join"


async def membership_of(house: House, user_id: str, room_id: str) -> str:
    """As the server lists it for its user."""
    found = await house.db.read(lambda tx: rooms.membership_in(tx, user_id, room_id))
    assert found is not None
    return found.membership


async def standing_of(house: House, user_id: str, room_id: str) -> str:
    """As the room's state has it."""
    return str((await house.state(room_id))["m.room.member", user_id].event.content["membership"])


async def test_a_new_name_is_told_to_the_rooms_that_take_it(one: House) -> None:
    open_room, strict = await one.room(), await one.room()
    for room_id in (open_room, strict):
        await one.memberships.join(BOB, room_id)
    await one.memberships.ban(ALICE, strict, BOB)
    one.profiles[BOB] = {"displayname": "Bob"}
    await one.memberships.profile_changed(BOB)
    await one.memberships.profile_changed(BOB)
    named = [written for written in one.written if written.event.content.get("displayname") == "Bob"]
    assert [written.room.room_id for written in named] == [open_room]


async def test_the_last_who_left_comes_back_through_another_server(one: House, two: House) -> None:
    room_id = await one.room()
    await two.memberships.join(CAROL, room_id, ["one"])
    await two.memberships.leave(CAROL, room_id)
    await two.tell(one, *(await two.heads(room_id)))
    said = await one.say(room_id, ALICE, "while nobody of two was here")
    await two.memberships.join(CAROL, room_id)
    assert await two.membership(room_id, CAROL) == "join"
    assert await one.membership(room_id, CAROL) == "join"
    assert "while nobody of two was here" in await two.bodies(CAROL, room_id)
    assert (await two.get(said)).stream is not None


async def test_leaving_twice_is_no_error_and_leaving_what_one_never_was_in_is(one: House) -> None:
    room_id = await one.room()
    await one.memberships.leave(ALICE, room_id)
    await one.memberships.leave(ALICE, room_id)
    with pytest.raises(errors.Forbidden):
        await one.memberships.leave(BOB, room_id)


async def test_the_count_of_joined_members_by_server_follows_joins_and_leaves(one: House, two: House, three: House) -> None:
    room_id = await one.room()
    await two.memberships.join(CAROL, room_id, ["one"])
    await one.memberships.join(BOB, room_id)
    await three.memberships.join(DAVE, room_id, ["one"])

    def servers(tx: Transaction) -> list[str]:
        room = rooms.get(tx, room_id)
        assert room is not None
        return rooms.servers(tx, room.number)

    assert await one.db.read(servers) == ["one", "three", "two"]
    await one.memberships.ban(ALICE, room_id, DAVE)
    assert await one.db.read(servers) == ["one", "two"]
    assert sorted(await three.db.read(servers)) == ["one", "three", "two"]
