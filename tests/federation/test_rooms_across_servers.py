"""Stories of two servers and a room: joins, invites, messages both ways, gaps."""

from __future__ import annotations

import pytest
import trio

from edgeserver.federation.calls import V1, path
from edgeserver.federation.client import Ask
from edgeserver.federation.errors import PeerError
from edgeserver.matrix import canonical_json
from edgeserver.matrix.errors import MatrixError
from edgeserver.matrix.event import Event
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from edgeserver.store import events, outbox, rooms
from edgeserver.store.database import Transaction
from tests.federation.rig import Server, servers
from transports.exchange import Request, Response


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


@pytest.mark.parametrize("version", ROOM_VERSIONS)
async def test_rooms_of_every_version_can_be_joined(version: str) -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version=version)
        await b.members.join("@bob:b.test", room, ["a.test"])
        assert await b.membership(room, "@bob:b.test") == "join"
        assert await b.membership(room, "@alice:a.test") == "join"
        assert await a.state_ids(room) == await b.state_ids(room)


@pytest.mark.parametrize("version", ["1", "2", "3", "5"])
async def test_events_of_old_rooms_arrive_with_every_number_that_they_hold(autojump_clock: trio.testing.MockClock, version: str) -> None:
    numbers = [1.0, -0.0, 1e16, 2**60, 2**70, -(10**400)]
    async with servers("a.test", "b.test") as (a, b), trio.open_nursery() as nursery:
        room = await a.room("@alice:a.test", room_version=version)
        await a.composer.send(room, "@alice:a.test", "org.example", {"n": numbers}, state_key="")
        await b.members.join("@bob:b.test", room, ["a.test"])
        a.web.cut.add("b.test")
        sent = [await a.composer.send(room, "@alice:a.test", "m.room.message", {"body": "x", "n": [n]}) for n in numbers]
        a.web.cut.clear()
        for server in (a, b):
            nursery.start_soon(server.sender.run)
        await trio.sleep(10)
        held = await b.db.read(lambda tx: events.many(tx, sent))
        assert [repr(held[one].event.content["n"][0]) for one in sent] == list(map(repr, numbers))
        (gap,) = await b.calls.missing_events("a.test", room, [sent[1]], [sent[3]], 1, 0)
        assert repr(gap["content"]["n"]) == repr([numbers[2]])
        state, _ = await b.calls.state("a.test", room, sent[0])
        assert repr(next(one["content"]["n"] for one in state if one["type"] == "org.example")) == repr(numbers)
        assert await a.state_ids(room) == await b.state_ids(room)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("version", "shown", "told"), [("1", True, "1"), ("2", True, "2"), ("2", False, "1")])
async def test_an_invite_of_the_first_versions_may_come_by_the_first_form_of_the_endpoint(version: str, shown: bool, told: str) -> None:
    """That form does not tell the version. If it cannot be guessed, it is corrected when the user joins."""
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version=version, preset="private_chat")
        invite = await drafted_invite(a, room, "@bob:b.test")
        create = [one.pdu for one in await state_events(a, room) if one.type == "m.room.create"]
        unsigned = {"invite_room_state": create if shown else []}
        ask = Ask("PUT", path(V1 + "/invite", room, invite.event_id), {**invite.pdu, "unsigned": unsigned})
        status, answer = canonical_json.decode((await a.client.response("b.test", ask)).body)
        assert status == 200
        assert answer["event"]["event_id"] == invite.event_id
        assert answer["event"]["signatures"].keys() == {"a.test", "b.test"}
        assert await version_at(b, room) == told
        await a.members.invite("@alice:a.test", room, "@bob:b.test")
        await b.members.join("@bob:b.test", room)
        assert await version_at(b, room) == version


async def test_an_invite_that_tells_another_version_of_a_room_that_we_know_is_refused() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version="11")
        await b.members.join("@bob:b.test", room, ["a.test"])
        invite = await drafted_invite(a, room, "@bert:b.test")
        for version in ("10", "11"):
            content = {"event": invite.pdu, "room_version": version, "invite_room_state": []}
            ask = Ask("PUT", path("/_matrix/federation/v2/invite", room, invite.event_id), content)
            if version == "11":
                await a.client.response("b.test", ask)
            else:
                with pytest.raises(PeerError, match="version 11"):
                    await a.client.response("b.test", ask)
                assert await b.membership(room, "@bert:b.test") is None
        assert await b.membership(room, "@bert:b.test") == "invite"


async def test_an_invite_goes_by_the_first_form_to_a_server_that_knows_no_other() -> None:
    async with servers("a.test", "b.test") as (a, b):
        whole = b.web.servers["b.test"]

        async def without_v2(request: Request, gone: trio.Event) -> Response:
            if request.target.startswith("/_matrix/federation/v2/invite/"):
                return Response(404, (("content-type", "application/json"),), b'{"errcode":"M_UNRECOGNIZED","error":"?"}')
            return await whole(request, gone)

        b.web.servers["b.test"] = without_v2
        for version in ("1", "2"):
            room = await a.room("@alice:a.test", room_version=version, preset="private_chat")
            await a.members.invite("@alice:a.test", room, "@bob:b.test")
            assert await b.membership(room, "@bob:b.test") == "invite"
            assert await version_at(b, room) == version
            await b.members.join("@bob:b.test", room)
            assert await a.membership(room, "@bob:b.test") == "join"
        room = await a.room("@alice:a.test", room_version="3", preset="private_chat")
        with pytest.raises(MatrixError):
            await a.members.invite("@alice:a.test", room, "@bob:b.test")


async def test_a_version_that_an_inviting_server_made_up_does_not_outlast_the_join() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version="4")
        invite = await drafted_invite(a, room, "@bob:b.test")
        await a.calls.invite("b.test", room, invite.event_id, invite.pdu, "5", [])
        assert await version_at(b, room) == "5"
        await b.members.join("@bob:b.test", room, ["a.test"])
        assert await version_at(b, room) == "4"
        with pytest.raises(PeerError, match="version 4"):
            await a.calls.invite("b.test", room, invite.event_id, invite.pdu, "5", [])
        assert await version_at(b, room) == "4"


async def drafted_invite(server: Server, room_id: str, target: str) -> Event:
    def draft(tx: Transaction) -> Event:
        room = rooms.get(tx, room_id)
        assert room is not None
        return server.composer.draft(tx, room, "@alice:a.test", "m.room.member", {"membership": "invite"}, state_key=target)[0]

    return await server.db.read(draft)


async def state_events(server: Server, room_id: str) -> list[Event]:
    ids = await server.state_ids(room_id)
    held = await server.db.read(lambda tx: events.many(tx, ids.values()))
    return [one.event for one in held.values()]


async def version_at(server: Server, room_id: str) -> str:
    room = await server.db.read(lambda tx: rooms.get(tx, room_id))
    assert room is not None
    return room.rules.version


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


@pytest.mark.parametrize("version", ["1", "2", "3", "12"])
async def test_an_invite_is_countersigned_and_can_be_declined(version: str) -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version=version, preset="private_chat", name="Den")
        await a.members.invite("@alice:a.test", room, "@bob:b.test")
        assert await b.membership(room, "@bob:b.test") == "invite"
        await b.members.leave("@bob:b.test", room)
        assert await a.membership(room, "@bob:b.test") == "leave"
        assert await b.membership(room, "@bob:b.test") == "leave"


@pytest.mark.parametrize("version", ["1", "3", "12"])
async def test_an_invite_can_be_declined_while_its_server_is_gone(version: str) -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version=version, preset="private_chat")
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


@pytest.mark.parametrize("version", ["1", "6", "12"])
async def test_a_room_without_knocking_refuses_a_knock(version: str) -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", room_version=version, preset="private_chat")
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
