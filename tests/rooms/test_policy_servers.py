"""Rooms with a policy server: what of others' events counts there, and when the policy server is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from edgeserver.matrix import errors, policy_server
from edgeserver.matrix.event import Event
from edgeserver.matrix.room_versions import SUPPORTED
from edgeserver.matrix.verdicts import Accepted, SoftFailed
from edgeserver.rooms.membership import Memberships
from edgeserver.rooms.policy import PolicyGate, PolicyServerSilent
from edgeserver.rooms.receive import Receiver
from edgeserver.rooms.send import Composer
from edgeserver.rooms.turns import Turns
from edgeserver.rooms.upgrade import RoomUpgrader, Upgrade
from edgeserver.store import partial_rooms
from edgeserver.store.events import Standing
from tests.lab.policy_server import PolicyServer
from tests.rooms.house import ALICE, BOB, CAROL, DAVE, House, Neighbours, Source

POLLY = "@polly:three"


class Signer:
    """The way to the policy server, which may be cut."""

    def __init__(self, policy: PolicyServer) -> None:
        self.policy = policy
        self.silent = False
        self.tries = 0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def sign(self, server: str, pdu: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        self.tries += 1
        if self.meanwhile is not None:
            await self.meanwhile()
        if self.silent:
            raise PolicyServerSilent(server)
        status, answer = self.policy.answer(pdu)
        if status != 200:
            raise errors.MatrixError(status, answer["errcode"], answer["error"])
        return answer


def guard(house: House, policy: PolicyServer) -> Signer:
    """The house heeds policy servers from now on."""
    signer = Signer(policy)
    gate = PolicyGate(house.db, house.placer, signer, house.name, Turns())
    house.composer = Composer(house.db, house.persister, house.name, house.key, house.now_ms, gate)
    house.receiver = Receiver(house.db, house.placer, Source(house.street), house, house.remote_state, gate)
    house.memberships = Memberships(
        house.db, house.composer, house.placer, house.importer, Neighbours(house), house.name, lambda tx, user: {}
    )
    return signer


async def guarded_room(one: House, two: House, three: House, policy: PolicyServer) -> str:
    """Alice of `one` and Carol of `two`, in a room whose policy server, `three`, has a user there; `two` does not heed it."""
    room = await one.room()
    await two.memberships.join(CAROL, room, ["one"])
    await three.memberships.join(POLLY, room, ["one"])
    joined = (await one.state(room))["m.room.member", POLLY].event.event_id
    await one.tell(two, joined)
    named = await one.set(room, ALICE, "m.room.policy", policy.policy)
    await one.tell(two, named)
    await one.tell(three, named)
    return room


@pytest.fixture
def policy() -> PolicyServer:
    return PolicyServer("three", "12")


async def test_an_unsigned_event_of_another_server_is_shown_to_the_policy_server(
    one: House, two: House, three: House, policy: PolicyServer
) -> None:
    room = await guarded_room(one, two, three, policy)
    signer = guard(one, policy)
    good, bad = await two.say(room, CAROL, "fish"), await two.say(room, CAROL, "spam")
    first, second = await two.tell(one, good, bad)
    assert isinstance(first, Accepted)
    assert isinstance(second, SoftFailed)
    assert "That smells of spam" in second.why
    assert policy.asked == [good, bad]
    named = policy_server.named_by((await one.state(room))["m.room.policy", ""].event)
    assert named is not None
    assert policy_server.has_signed((await one.get(good)).event, named)
    assert await one.bodies(ALICE, room, limit=2) == ["m.room.policy", "fish"]
    assert signer.tries == 2


async def test_a_signature_that_the_event_carries_is_enough(one: House, two: House, three: House, policy: PolicyServer) -> None:
    room = await guarded_room(one, two, three, policy)
    guard(two, policy)
    signer = guard(one, policy)
    signer.silent = True
    said = await two.say(room, CAROL, "fish")
    assert [type(verdict) for verdict in await two.tell(one, said)] == [Accepted]
    assert signer.tries == 0


async def test_a_forged_signature_or_one_by_an_old_key_is_none(one: House, two: House, three: House, policy: PolicyServer) -> None:
    room = await guarded_room(one, two, three, policy)
    guard(two, policy)
    said = await two.say(room, CAROL, "fish")
    other = PolicyServer("three", "12", "other key")
    await one.tell(two, await one.set(room, ALICE, "m.room.policy", other.policy))
    signer = guard(one, policy)  # it goes on to sign by the key that the room has given up
    [verdict] = await two.tell(one, said)
    assert isinstance(verdict, SoftFailed)
    assert "did not sign the event by its key" in verdict.why
    assert signer.tries == 1


@pytest.mark.parametrize("garbage", [[], "x", {"ed25519:policy_server": 5}, {"ed25519:policy_server": "AAAA"}])
async def test_garbage_among_the_signatures_harms_nobody(
    one: House, two: House, three: House, policy: PolicyServer, garbage: Any
) -> None:
    room = await guarded_room(one, two, three, policy)
    guard(one, policy)
    event = (await two.get(await two.say(room, CAROL, "fish"))).event
    pdu = {**event.pdu, "signatures": {**event.pdu["signatures"], "three": garbage}}
    assert isinstance(await one.receiver.receive("two", pdu), Accepted)


async def test_while_the_policy_server_is_silent_what_is_unsigned_fails_softly_and_costs_one_try(
    one: House, two: House, three: House, policy: PolicyServer, autojump_clock: trio.testing.MockClock
) -> None:
    room = await guarded_room(one, two, three, policy)
    signer = guard(one, policy)
    signer.silent = True
    said = [await two.say(room, CAROL, f"fish {number}") for number in range(5)]
    assert {type(verdict) for verdict in await two.tell(one, *said)} == {SoftFailed}
    assert signer.tries == 1
    assert {(await one.get(event_id)).standing for event_id in said} == {Standing.SOFT_FAILED}
    signer.silent = False
    await trio.sleep(61)
    [verdict] = await two.tell(one, await two.say(room, CAROL, "bread"))
    assert isinstance(verdict, Accepted)


async def test_a_room_whose_members_are_not_known_yet_heeds_its_policy_server(
    one: House, two: House, three: House, policy: PolicyServer
) -> None:
    room = await guarded_room(one, two, three, policy)
    guard(one, policy)
    number = (await one.state(room))["m.room.create", ""].room
    await one.db.write(lambda tx: partial_rooms.begin(tx, number, "two", ["two"]))
    good, bad = await two.say(room, CAROL, "fish"), await two.say(room, CAROL, "spam")
    assert [type(verdict) for verdict in await two.tell(one, good, bad)] == [Accepted, SoftFailed]


async def test_a_room_is_upgraded_when_its_policy_server_has_been_taken_out(
    one: House, two: House, three: House, policy: PolicyServer
) -> None:
    room = await guarded_room(one, two, three, policy)
    guard(one, policy)
    upgrader = RoomUpgrader(one.db, one.composer, one.creator, lambda tx, user: {})
    before = await one.heads(room)
    with pytest.raises(errors.InvalidRoomState, match="policy server, three"):
        await upgrader.upgrade(ALICE, room, Upgrade(SUPPORTED["11"]))
    assert await one.heads(room) == before
    await one.set(room, ALICE, "m.room.policy", {})
    new = await upgrader.upgrade(ALICE, room, Upgrade(SUPPORTED["11"]))
    assert (await one.state(room))["m.room.tombstone", ""].event.content["replacement_room"] == new


async def test_the_event_that_names_the_policy_server_needs_no_signature_and_others_of_its_type_do(
    one: House, two: House, three: House, policy: PolicyServer
) -> None:
    room = await guarded_room(one, two, three, policy)
    signer = guard(one, policy)
    signer.silent = True
    with pytest.raises(PolicyServerSilent):
        await one.set(room, ALICE, "m.room.policy", {}, "elsewhere")
    with pytest.raises(PolicyServerSilent):
        await one.composer.send(room, ALICE, "m.room.policy", {})
    await one.set(room, ALICE, "m.room.policy", {})
    assert await one.say(room, ALICE, "free")
    assert signer.tries == 2


@pytest.mark.parametrize(
    "content",
    [
        {"via": "three"},
        {"via": 3, "public_keys": {"ed25519": "k"}},
        {"via": "three", "public_keys": {"ed25519": 3}},
        {"via": "three", "public_keys": "ed25519"},
        {"via": "nobody.here", "public_keys": {"ed25519": "k"}},
        {"via": "one", "public_keys": {"ed25519": "k"}},
    ],
)
async def test_a_room_uses_no_policy_server_that_is_not_whole_not_in_it_or_ourselves(
    one: House, two: House, three: House, policy: PolicyServer, content: dict[str, Any]
) -> None:
    room = await guarded_room(one, two, three, policy)
    signer = guard(one, policy)
    await one.set(room, ALICE, "m.room.policy", content)
    await one.say(room, ALICE, "anything, even spam")
    assert signer.tries == 0


async def test_the_policy_server_leaves_and_is_not_asked_any_more(one: House, two: House, three: House, policy: PolicyServer) -> None:
    room = await guarded_room(one, two, three, policy)
    await three.memberships.leave(POLLY, room)
    await three.tell(one, (await three.state(room))["m.room.member", POLLY].event.event_id)
    signer = guard(one, policy)
    await one.say(room, ALICE, "spam, spam, spam")
    assert signer.tries == 0


async def test_what_one_person_says_is_asked_about_and_written_in_its_order(
    one: House, two: House, three: House, policy: PolicyServer
) -> None:
    room = await guarded_room(one, two, three, policy)
    guard(one, policy)
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(one.say, room, ALICE, str(number))
            await trio.testing.wait_all_tasks_blocked()
    assert (await one.bodies(ALICE, room))[-5:] == list("01234")


async def test_a_repeated_request_waits_for_the_first_and_says_it_once(
    one: House, two: House, three: House, policy: PolicyServer
) -> None:
    room = await guarded_room(one, two, three, policy)
    guard(one, policy)
    found: list[str] = []

    async def send() -> None:
        content = {"msgtype": "m.text", "body": "once"}
        found.append(await one.composer.send(room, ALICE, "m.room.message", content, device_id="A", txn_id="t"))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(send)
    assert len(set(found)) == 1
    assert (await one.bodies(ALICE, room)).count("once") == 1


async def test_memberships_are_signed_too(one: House, two: House, three: House, policy: PolicyServer) -> None:
    room = await guarded_room(one, two, three, policy)
    guard(one, policy)
    await one.memberships.join(BOB, room)
    await one.memberships.kick(ALICE, room, CAROL)
    await one.memberships.invite(ALICE, room, DAVE)
    state = await one.state(room)
    events = [state["m.room.member", user].event for user in (BOB, CAROL, DAVE)]
    assert [_is_signed(event, policy) for event in events] == [True, True, True]
    with pytest.raises(errors.MatrixError, match="smells of spam"):
        await one.memberships.ban(ALICE, room, CAROL, reason="spam")
    assert (await one.state(room))["m.room.member", CAROL].event.content["membership"] == "leave"


def _is_signed(event: Event, policy: PolicyServer) -> bool:
    return policy_server.has_signed(event, policy_server.PolicyServer(policy.name, policy.policy["public_keys"]["ed25519"]))


@pytest.mark.parametrize("key", ["", "k", "ü" * 43, "A" * 5000])
async def test_a_key_that_is_none_lets_nothing_through_but_the_way_out(
    one: House, two: House, three: House, policy: PolicyServer, key: str
) -> None:
    room = await guarded_room(one, two, three, policy)
    await one.set(room, ALICE, "m.room.policy", {"via": "three", "public_keys": {"ed25519": key}})
    guard(one, policy)
    with pytest.raises(errors.MatrixError, match="did not sign the event by its key"):
        await one.say(room, ALICE, "fish")
    [verdict] = await two.tell(one, await two.say(room, CAROL, "bread"))
    assert isinstance(verdict, SoftFailed)
    await one.set(room, ALICE, "m.room.policy", {})
    assert await one.say(room, ALICE, "fish")


async def test_a_homeserver_that_is_the_policy_server_keeps_its_signature_beside_the_other(
    one: House, two: House, three: House, policy: PolicyServer
) -> None:
    room = await guarded_room(one, two, three, policy)
    guard(one, policy)
    [verdict] = await three.tell(one, said := await three.say(room, POLLY, "I watch"))
    assert isinstance(verdict, Accepted)
    assert set((await one.get(said)).event.pdu["signatures"]["three"]) == {"ed25519:1", policy_server.KEY_ID}


async def test_an_event_that_meets_a_changed_room_after_it_was_signed_is_judged_anew(
    one: House, two: House, three: House, policy: PolicyServer
) -> None:
    room = await guarded_room(one, two, three, policy)
    await one.memberships.join(BOB, room)
    signer = guard(one, policy)

    async def ban() -> None:
        signer.meanwhile = None
        await one.memberships.ban(ALICE, room, BOB)

    signer.meanwhile = ban
    with pytest.raises(errors.Forbidden):
        await one.say(room, BOB, "too late")
    assert "too late" not in await one.bodies(ALICE, room)
