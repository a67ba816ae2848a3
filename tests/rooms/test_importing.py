"""Rooms that come from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from edgeserver.matrix import errors
from edgeserver.matrix.event import Event
from edgeserver.matrix.room_versions import SUPPORTED
from edgeserver.rooms.importing import GivenRoom
from edgeserver.store.events import Standing
from tests.rooms.house import ALICE, BOB, CAROL, House


@pytest.mark.parametrize("version", ["6", "10", "11", "12"])
async def test_a_room_taken_in_has_the_same_state_as_where_it_came_from(one: House, two: House, version: str) -> None:
    room_id = await one.room(rules=SUPPORTED[version], name="Room", topic="Tea")
    await one.memberships.join(BOB, room_id)
    await two.memberships.join(CAROL, room_id, ["one"])
    theirs, ours = await one.state(room_id), await two.state(room_id)
    assert {key: one.event.event_id for key, one in ours.items()} == {key: one.event.event_id for key, one in theirs.items()}
    assert {stored.standing for stored in ours.values()} == {Standing.ACCEPTED}
    assert await two.membership(room_id, ALICE) == "join"
    said = await two.say(room_id, CAROL, "hello")
    await two.tell(one, said)
    assert await one.heads(room_id) == (said,)


async def test_a_second_user_joins_here_without_asking_again(one: House, two: House) -> None:
    room_id = await one.room()
    await two.memberships.join(CAROL, room_id, ["one"])
    two.street.asked.clear()
    await two.memberships.join("@claire:two", room_id)
    assert two.street.asked == []


async def test_state_that_does_not_allow_the_join_is_a_tale_and_nothing_is_kept(one: House, two: House) -> None:
    room_id = await one.room(preset="private_chat")
    pretended = await one.room()
    await two.memberships.join(CAROL, pretended, ["one"])
    join = (await one.state(pretended))["m.room.member", CAROL].event
    lie = Event.from_pdu({**join.pdu, "room_id": room_id}, join.rules)
    known = [stored.event.pdu for stored in (await one.state(room_id)).values()]
    with pytest.raises(errors.Forbidden):
        await two.importer.join(lie.rules, lie, GivenRoom("one", known, []))
    assert await two.membership(room_id, CAROL) is None


async def test_an_invite_is_kept_with_what_it_tells_of_the_room_until_it_ends(one: House, two: House) -> None:
    room_id = await one.room(preset="private_chat", name="Kitchen")
    with two.wakeups.listening(CAROL) as listener:
        await one.memberships.invite(ALICE, room_id, CAROL)
        await listener.wait()
    with pytest.raises(errors.Forbidden):
        await two.bodies(CAROL, room_id)
    await two.memberships.leave(CAROL, room_id)
    assert await two.membership(room_id, CAROL) == "leave"
    with pytest.raises(errors.Forbidden):
        await two.bodies(CAROL, room_id)
    await one.memberships.invite(ALICE, room_id, CAROL)
    assert await two.membership(room_id, CAROL) == "invite"
    await two.memberships.join(CAROL, room_id)
    assert (await two.state(room_id))["m.room.name", ""].event.content == {"name": "Kitchen"}


async def test_the_room_itself_is_believed_before_an_invite_that_comes_late(one: House, two: House) -> None:
    room_id = await one.room()
    await two.memberships.join(CAROL, room_id, ["one"])
    claire = "@claire:two"
    await two.memberships.join(claire, room_id)
    (head,) = await two.heads(room_id)
    join = (await two.get(head)).event
    content: Mapping[str, Any] = {"membership": "invite"}
    late = Event.from_pdu({**join.pdu, "sender": ALICE, "content": content}, join.rules)
    await two.importer.invite(late.rules, late, [])
    assert await two.membership(room_id, claire) == "join"
