"""What a room shows with an invite and after a knock, in both directions (MSC4311)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from edgeserver.federation import shown_state
from edgeserver.federation.errors import PeerError
from edgeserver.federation.resident import public_state
from edgeserver.matrix.event import Event
from edgeserver.matrix.pdu_checks import open_pdu
from edgeserver.matrix.room_versions import SUPPORTED
from edgeserver.store import rooms
from edgeserver.store.database import Transaction
from tests.federation.rig import Server, servers

ALICE, BOB = "@alice:a.test", "@bob:b.test"
Shown = list[dict[str, Any]]


async def invite(a: Server, b: Server, room_id: str, version: str, change: Callable[[Shown], Shown] = lambda shown: shown) -> None:
    """Alice invites Bob; the shown state is what a room of ours shows, changed."""

    def draft(tx: Transaction) -> tuple[Event, Shown]:
        room = rooms.get(tx, room_id)
        assert room is not None
        event, _ = a.composer.draft(tx, room, ALICE, "m.room.member", {"membership": "invite"}, state_key=BOB)
        return event, public_state(tx, room, ALICE, whole=True)

    event, shown = await a.db.read(draft)
    await a.calls.invite("b.test", room_id, event.event_id, event.pdu, version, change(shown))


async def seen(b: Server, room_id: str) -> set[str]:
    """The types of what Bob is shown."""
    membership = await b.db.read(lambda tx: rooms.membership_in(tx, BOB, room_id))
    assert membership is not None
    for one in membership.stripped or ():
        assert set(one) == {"content", "sender", "state_key", "type"}
    return {one["type"] for one in membership.stripped or ()}


def with_signature_broken(pdu: dict[str, Any]) -> dict[str, Any]:
    [(server, keys)] = pdu["signatures"].items()
    return {**pdu, "signatures": {server: dict.fromkeys(keys, "A" * 86)}}


def changed(event_type: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Shown], Shown]:
    return lambda shown: [change(one) if one["type"] == event_type else one for one in shown]


@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_whole_events_go_out_and_stripped_ones_are_shown(version: str) -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room(ALICE, room_version=version, name="Hall")
        await a.members.invite(ALICE, room, BOB)
        assert {"m.room.create", "m.room.name", "m.room.join_rules", "m.room.member"} <= await seen(b, room)
        request = next(one for one in a.web.requests if "/v2/invite/" in one.target)
        shown = orjson.loads(request.body)["invite_room_state"]
        opened = [open_pdu(pdu, SUPPORTED[version]) for pdu in shown]
        assert {event.room_id for event in opened if isinstance(event, Event)} == {room}
        assert len(opened) >= 4


@pytest.mark.parametrize(
    "change",
    [
        lambda shown: [],
        lambda shown: [one for one in shown if one["type"] != "m.room.create"],
        changed("m.room.create", with_signature_broken),
        changed("m.room.create", lambda pdu: {**pdu, "content": {**pdu["content"], "m.federate": True}}),
        changed("m.room.name", lambda pdu: {**pdu, "room_id": "!" + "x" * 43}),
        changed("m.room.name", lambda pdu: {**pdu, "depth": "deep"}),
    ],
    ids=["nothing", "no create event", "create event by nobody", "another create event", "of another room", "malformed"],
)
async def test_an_invite_to_a_room_of_version_12_with_unsound_state_is_refused(change: Callable[[Shown], Shown]) -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room(ALICE, room_version="12", name="Hall")
        with pytest.raises(PeerError) as refusal:
            await invite(a, b, room, "12", change)
        assert (refusal.value.status, refusal.value.errcode) == (400, "M_INVALID_PARAM")
        assert await b.membership(room, BOB) is None


async def test_what_cannot_be_verified_is_left_out_and_what_is_stripped_already_is_shown() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room(ALICE, room_version="12", name="Hall", topic="Talk")
        await invite(a, b, room, "12", changed("m.room.name", with_signature_broken))
        assert "m.room.name" not in await seen(b, room)
        assert "m.room.topic" in await seen(b, room)
        old = await a.room(ALICE, room_version="12", name="Old hall")
        stripped = ("content", "sender", "state_key", "type")
        await invite(a, b, old, "12", lambda shown: [{name: one[name] for name in stripped} for one in shown])
        assert {"m.room.create", "m.room.name"} <= await seen(b, old)


async def test_garbage_is_passed_over_in_rooms_of_older_versions() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room = await a.room(ALICE, room_version="11", name="Hall")
        await invite(a, b, room, "11", lambda shown: [5, {"type": 3}, None, {"type": "m.room.name"}, *shown[:2]])  # type: ignore[list-item]
        assert await b.membership(room, BOB) == "invite"
        bare = await a.room(ALICE, room_version="11")
        await invite(a, b, bare, "11", lambda shown: [])
        assert await seen(b, bare) == set()


async def test_after_a_knock_what_is_unsound_is_left_out_and_the_rest_is_shown() -> None:
    async with servers("a.test", "b.test") as (a, b):
        room_id = await a.room(ALICE, room_version="12", name="Hall", topic="Talk")
        room = await a.db.read(lambda tx: rooms.get(tx, room_id))
        assert room is not None
        whole = await a.db.read(lambda tx: public_state(tx, room, whole=True))
        whole = changed("m.room.name", with_signature_broken)(whole)
        whole = changed("m.room.topic", lambda pdu: {**pdu, "room_id": "!" + "x" * 43})(whole)
        shown = await shown_state.after_knock(b.receiver, [*whole, "garbage"], room.rules, room_id)
        kinds = {one["type"] for one in shown}
        assert "m.room.create" in kinds
        assert kinds.isdisjoint({"m.room.name", "m.room.topic"})
        assert await shown_state.after_knock(b.receiver, "garbage", room.rules, room_id) == []
