"""Stories of two servers and a room: joins, invites, messages both ways, gaps."""

from __future__ import annotations

import pytest
import trio

from edgeserver.matrix.errors import MatrixError
from edgeserver.store import outbox
from edgeserver.store.database import Transaction
from tests.federation.rig import servers


async def test_a_user_joins_a_room_of_another_server_and_messages_flow_both_ways(autojump_clock: trio.testing.MockClock) -> None:
    async with servers("a.test", "b.test") as (a, b), trio.open_nursery() as nursery:
        for server in (a, b):
            nursery.start_soon(server.sender.run)
        room = await a.room("@alice:a.test")
        await a.say(room, "@alice:a.test", "before")
        await b.members.join("@bob:b.test", room, ["a.test"])
        assert await a.membership(room, "@bob:b.test") == "join"
        assert await a.state_ids(room) == await b.state_ids(room)
        await a.say(room, "@alice:a.test", "hello")
        await b.say(room, "@bob:b.test", "hi")
        await trio.sleep(5)
        assert await b.bodies(room) == ["hello", "hi"] or await b.bodies(room) == ["hi", "hello"]
        assert set(await a.bodies(room)) == {"before", "hello", "hi"}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", ["6", "10", "11", "12"])
async def test_rooms_of_every_version_can_be_joined(version: str) -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version=version)
        await b.members.join("@bob:b.test", room, ["a.test"])
        assert await b.membership(room, "@bob:b.test") == "join"
        assert await b.membership(room, "@alice:a.test") == "join"


async def test_a_join_tries_the_next_server_when_one_is_out_of_reach() -> None:
    async with servers("a.test", "b.test", "c.test") as (a, b, c):
        room = await a.room("@alice:a.test")
        await c.members.join("@carol:c.test", room, ["a.test"])
        assert await b.keyring.key("a.test", "ed25519:1") is not None
        a.web.cut.add("a.test")
        await b.members.join("@bob:b.test", room, ["a.test", "c.test"])
        assert await c.membership(room, "@bob:b.test") == "join"


async def test_a_join_that_is_refused_tells_the_client_of_the_refusal() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", preset="private_chat")
        with pytest.raises(MatrixError) as refused:
            await b.members.join("@bob:b.test", room, ["gone.test", "a.test"])
        assert (refused.value.status, refused.value.errcode) == (403, "M_FORBIDDEN")


async def test_an_invite_is_countersigned_and_can_be_declined() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", preset="private_chat", name="Den")
        await a.members.invite("@alice:a.test", room, "@bob:b.test")
        assert await b.membership(room, "@bob:b.test") == "invite"
        await b.members.leave("@bob:b.test", room)
        assert await a.membership(room, "@bob:b.test") == "leave"
        assert await b.membership(room, "@bob:b.test") == "leave"


async def test_an_invite_can_be_declined_while_its_server_is_gone() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", preset="private_chat")
        await a.members.invite("@alice:a.test", room, "@bob:b.test")
        a.web.cut.add("a.test")
        await b.members.leave("@bob:b.test", room)
        assert await b.membership(room, "@bob:b.test") == "leave"


async def test_an_invited_user_joins_a_private_room() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", preset="private_chat", room_version="12")
        await a.members.invite("@alice:a.test", room, "@bob:b.test")
        await b.members.join("@bob:b.test", room)
        assert await a.membership(room, "@bob:b.test") == "join"


async def test_a_restricted_room_is_joined_by_word_of_its_own_server() -> None:
    async with servers("a.test", "b.test") as (a, b):
        lobby = await a.room("@alice:a.test")
        rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": lobby}]}
        state = [{"type": "m.room.join_rules", "state_key": "", "content": rule}]
        room = await a.room("@alice:a.test", initial_state=state)
        with pytest.raises(MatrixError):
            await b.members.join("@bob:b.test", room, ["a.test"])
        await b.members.join("@bob:b.test", lobby, ["a.test"])
        await b.members.join("@bob:b.test", room, ["a.test"])
        assert await a.membership(room, "@bob:b.test") == "join"
        assert await b.membership(room, "@bob:b.test") == "join"


@pytest.mark.parametrize("version", ["11", "12"])
async def test_a_knock_is_taken_back_refused_and_answered(autojump_clock: trio.testing.MockClock, version: str) -> None:
    async with servers("a.test", "b.test") as (a, b), trio.open_nursery() as nursery:
        for server in (a, b):
            nursery.start_soon(server.sender.run)
        rule = [{"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}]
        room = await a.room("@alice:a.test", room_version=version, preset="private_chat", initial_state=rule)
        await b.members.knock("@bob:b.test", room, ["gone.test", "a.test"], reason="rain")
        assert [await one.membership(room, "@bob:b.test") for one in (a, b)] == ["knock", "knock"]
        await b.members.leave("@bob:b.test", room)
        assert [await one.membership(room, "@bob:b.test") for one in (a, b)] == ["leave", "leave"]
        await b.members.knock("@bob:b.test", room, ["a.test"])
        await a.members.kick("@alice:a.test", room, "@bob:b.test")
        await trio.sleep(5)
        assert [await one.membership(room, "@bob:b.test") for one in (a, b)] == ["leave", "leave"]
        await b.members.knock("@bob:b.test", room, ["a.test"])
        await a.members.invite("@alice:a.test", room, "@bob:b.test")
        await b.members.join("@bob:b.test", room)
        assert await a.membership(room, "@bob:b.test") == "join"
        nursery.cancel_scope.cancel()


async def test_a_room_without_knocking_refuses_a_knock() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", preset="private_chat")
        with pytest.raises(MatrixError) as refused:
            await b.members.knock("@bob:b.test", room, ["a.test"])
        assert refused.value.errcode == "M_FORBIDDEN"


async def test_events_missed_during_an_outage_are_fetched_with_the_next_one(autojump_clock: trio.testing.MockClock) -> None:
    async with servers("a.test", "b.test") as (a, b), trio.open_nursery() as nursery:
        room = await a.room("@alice:a.test")
        await b.members.join("@bob:b.test", room, ["a.test"])
        for number in range(5):
            await a.say(room, "@alice:a.test", f"lost {number}")

        def lose(tx: Transaction) -> None:
            (destination,) = outbox.waiting(tx)
            rows = outbox.pending(tx, destination.number)
            outbox.delivered(tx, destination.number, [row.stream for row in rows])

        await a.db.write(lose)
        nursery.start_soon(a.sender.run)
        await a.say(room, "@alice:a.test", "news")
        await trio.sleep(2)
        assert await b.bodies(room) == [*(f"lost {number}" for number in range(5)), "news"]
        assert "v1/get_missing_events/" + room.replace("!", "%21").replace(":", "%3A") in b.web.paths("a.test")
        nursery.cancel_scope.cancel()
