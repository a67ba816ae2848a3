"""Transactions of peers: once only, in order, within limits; EDUs for their own users alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from edgeserver.federation import acl
from edgeserver.federation.edus import EduHandlers, Edus
from edgeserver.federation.inbound import Inbound
from edgeserver.matrix import draft
from edgeserver.matrix.errors import MatrixError
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from edgeserver.rooms.turns import Turns
from edgeserver.store import events, outbox, rooms
from tests.federation.rig import Server, Web, servers
from transports.exchange import Request, Response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.verdicts import Verdict

BOB = "@bob:b.test"


async def pdus_of(server: Server, ids: list[str]) -> list[dict[str, Any]]:
    found = await server.db.read(lambda tx: events.many(tx, ids))
    return [found[one].event.pdu for one in ids]


async def test_a_repeated_transaction_gets_the_first_answer_and_is_not_taken_again() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test")
        await b.members.join(BOB, room, ["a.test"])
        sent = [await b.say(room, BOB, text) for text in ("one", "two")]
        body = {"pdus": await pdus_of(b, sent), "edus": []}
        answers: list[Any] = []

        async def deliver() -> None:
            answers.append(await b.calls.send("a.test", "t1", body, priority=2))  # type: ignore[arg-type]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            nursery.start_soon(deliver)
        assert answers == [{sent[0]: {}, sent[1]: {}}] * 2
        assert await a.bodies(room) == ["one", "two"]
        assert await a.inbound.transaction("b.test", "t1", {"pdus": [], "edus": []}) == {"pdus": answers[0]}


async def test_a_forged_event_is_answered_with_an_error_and_the_rest_is_taken() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test")
        await b.members.join(BOB, room, ["a.test"])
        (good,) = await pdus_of(b, [await b.say(room, BOB, "good")])
        forged = {**good, "sender": "@alice:a.test"}
        answer = await a.inbound.transaction("b.test", "t", {"pdus": [forged, 7, {"room_id": room}, good]})
        assert sorted("error" in result for result in answer["pdus"].values()) == [False, True]
        assert await a.bodies(room) == ["good"]


async def test_a_transaction_beyond_the_limits_is_refused() -> None:
    async with servers("a.test") as (a,):
        for body in ({"pdus": [{}] * 51}, {"edus": [{}] * 101}, {"pdus": {}}):
            with pytest.raises(MatrixError):
                await a.inbound.transaction("b.test", "t", body)


async def test_a_server_that_the_room_does_not_admit_is_refused() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test")
        await b.members.join(BOB, room, ["a.test"])
        acl_content = {"allow": ["*"], "deny": ["B.*"]}
        await a.composer.send(room, "@alice:a.test", "m.room.server_acl", acl_content, state_key="")
        event_id = await b.say(room, BOB, "let me in")
        answer = await a.inbound.transaction("b.test", "t", {"pdus": await pdus_of(b, [event_id])})
        assert "error" in answer["pdus"][event_id]
        with pytest.raises(MatrixError):
            await b.members.join("@bert:b.test", await a.room("@alice:a.test", preset="private_chat"), ["a.test"])
        typing = {"room_id": room, "user_id": BOB, "typing": True}
        await a.inbound.transaction("b.test", "u", {"edus": [{"edu_type": "m.typing", "content": typing}]})
        assert a.edus == []


@pytest.mark.parametrize(
    ("content", "name", "allowed"),
    [
        (None, "evil.com", True),
        ({}, "good.com", False),
        ({"allow": ["*"]}, "good.com:8448", True),
        ({"allow": ["*"], "deny": ["evil.com"]}, "EVIL.com:1", False),
        ({"allow": ["*"], "deny": ["*.evil.com"]}, "a.evil.com", False),
        ({"allow": ["*"], "allow_ip_literals": False}, "1.2.3.4", False),
        ({"allow": ["*"], "allow_ip_literals": False}, "[::1]:8448", False),
        ({"allow": ["*"], "allow_ip_literals": "no"}, "1.2.3.4", True),
        ({"allow": [7, "good.com"], "deny": "x"}, "good.com", True),
    ],
)
def test_server_acls(content: dict[str, Any] | None, name: str, allowed: bool) -> None:
    assert acl.allows(content, name) is allowed


async def test_edus_reach_their_handlers_only_for_users_of_the_origin() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test")
        await b.members.join(BOB, room, ["a.test"])

        def receipt(user: str) -> dict[str, Any]:
            return {room: {"m.read": {user: {"event_ids": ["$x"], "data": {"ts": 1, "thread_id": "main"}}}}}

        def message(sender: str) -> dict[str, Any]:
            messages = {"@alice:a.test": {"*": {"k": 1}, "BAD": 7}}
            return {"sender": sender, "type": "m.x", "message_id": "1", "messages": messages}

        edus = [
            {"edu_type": "m.typing", "content": {"room_id": room, "user_id": BOB, "typing": True}},
            {"edu_type": "m.typing", "content": {"room_id": room, "user_id": "@alice:a.test", "typing": True}},
            {"edu_type": "m.typing", "content": {"room_id": room, "user_id": "@stranger:b.test", "typing": True}},
            {"edu_type": "m.receipt", "content": receipt(BOB)},
            {"edu_type": "m.receipt", "content": receipt("@alice:a.test")},
            {"edu_type": "m.direct_to_device", "content": message(BOB)},
            {"edu_type": "m.direct_to_device", "content": message("@x:c.test")},
            {"edu_type": "m.unheard_of", "content": {}},
            {"edu_type": ["m.typing"], "content": {}},
            "nonsense",
        ]
        assert await a.inbound.transaction("b.test", "t", {"edus": edus}) == {"pdus": {}}
        assert [kind for kind, _ in a.edus] == ["typing", "receipts", "to_device"]
        assert a.edus[0][1] == (room, BOB, True)
        assert a.edus[1][1][0].event_id == "$x"
        assert a.edus[2][1] == ("b.test", BOB, "m.x", "1", {"@alice:a.test": {"*": {"k": 1}}})


async def test_events_of_a_request_that_is_given_up_are_not_worked_on_behind_its_back(autojump_clock: trio.testing.MockClock) -> None:
    class Endless:
        working = 0

        async def receive_all(self, origin: str, room: rooms.Room, found: Sequence[Event]) -> dict[str, Verdict]:
            self.working += 1
            try:
                await trio.sleep_forever()
            finally:
                self.working -= 1

    async with servers("a.test") as (a,), trio.open_nursery() as background:
        room = await a.room("@alice:a.test")
        pdus = await pdus_of(a, [await a.say(room, "@alice:a.test", "one")])
        endless = Endless()
        inbound = Inbound(
            a.db, endless, Edus(a.db, EduHandlers()), a.invites, a.late, joining=Turns(), now_ms=a.now_ms, background=background
        )
        for _ in range(3):
            with trio.move_on_after(1):
                await inbound.transaction("b.test", "t", {"pdus": pdus})
        await trio.testing.wait_all_tasks_blocked()
        assert endless.working == 0
        await inbound.transaction("b.test", "t", {"pdus": pdus})
        assert endless.working == 1
        background.cancel_scope.cancel()


async def test_an_edu_handler_that_fails_does_not_fail_the_transaction() -> None:
    async with servers("a.test") as (a,):

        async def fail(updates: object) -> None:
            await trio.lowlevel.checkpoint()
            raise RuntimeError("broken")

        inbound = Inbound(a.db, a.receiver, Edus(a.db, EduHandlers(presence=fail)), a.invites, a.late, joining=Turns(), now_ms=a.now_ms)
        content = {"push": [{"user_id": BOB, "presence": "online"}]}
        answer = await inbound.transaction("b.test", "t", {"edus": [{"edu_type": "m.presence", "content": content}]})
        assert answer == {"pdus": {}}


async def test_a_withdrawn_invite_goes_away() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room("@alice:a.test", preset="private_chat")
        await a.members.invite("@alice:a.test", room, BOB)
        await a.members.kick("@alice:a.test", room, BOB)
        kick = (await a.state_ids(room))["m.room.member", BOB]
        answer = await b.inbound.transaction("a.test", "t", {"pdus": await pdus_of(a, [kick])})
        assert answer == {"pdus": {kick: {}}}
        assert await b.membership(room, BOB) == "leave"


class SlowJoins(Web):
    """The answer to a send_join is on its way until `arrive` is set; `taken` is set when the resident server has given it."""

    def __init__(self) -> None:
        super().__init__()
        self.taken, self.arrive = trio.Event(), trio.Event()

    async def exchange(self, request: Request) -> Response:
        response = await super().exchange(request)
        if "/send_join/" in request.target and not self.taken.is_set():
            self.taken.set()
            await self.arrive.wait()
        return response


async def test_what_overtakes_the_answer_to_a_join_is_not_lost() -> None:
    web = SlowJoins()
    async with servers("a.test", "b.test", web=web) as (a, b), trio.open_nursery() as nursery:
        room = await a.room("@alice:a.test")
        nursery.start_soon(b.members.join, BOB, room, ["a.test"])
        await web.taken.wait()
        (said,) = await pdus_of(a, [await a.say(room, "@alice:a.test", "too early")])
        answers: list[Any] = []

        async def deliver() -> None:
            answers.append(await a.calls.send("b.test", "t1", {"pdus": [said], "edus": []}, priority=2))  # type: ignore[arg-type]

        nursery.start_soon(deliver)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        web.arrive.set()
        with trio.fail_after(5):
            while not answers:
                await trio.sleep(0.01)
        assert [*answers[0].values()] == [{}]
        assert await b.bodies(room) == ["too early"]


async def test_who_joins_beside_others_is_sent_what_the_join_does_not_know_of() -> None:
    async with servers("a.test", "b.test", "c.test") as (a, b, c):
        room = await a.room("@alice:a.test")
        template, _ = await c.calls.make_membership("a.test", room, "@carol:c.test", "join", ["12"])
        await b.members.join(BOB, room, ["a.test"])
        late = draft.complete({**template, "origin_server_ts": c.now_ms()}, ROOM_VERSIONS["12"], "c.test", c.key)
        await c.calls.send_join("a.test", room, late.event_id, late.pdu)
        waiting = {one.server_name: one.number for one in await a.db.read(outbox.waiting)}
        pending = await a.db.read(lambda tx: outbox.pending(tx, waiting["c.test"]))
        assert [one.pdu["state_key"] for one in pending if one.pdu is not None] == [BOB]
