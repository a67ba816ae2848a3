"""Sending: what an event cites, what it may be, and repeats."""

from __future__ import annotations

import pytest
import trio

from edgeserver.matrix import errors
from edgeserver.matrix.room_versions import SUPPORTED
from edgeserver.store import events, outbox
from edgeserver.store.events import transaction_key
from tests.rooms.house import ALICE, BOB, CAROL, House


async def test_each_event_follows_the_one_before_and_cites_what_authorises_it(one: House) -> None:
    room_id = await one.room()
    first = await one.say(room_id, ALICE, "hello")
    second = (await one.get(await one.say(room_id, ALICE, "again"))).event
    known = await one.state(room_id)
    assert second.prev_events == (first,)
    assert second.depth == (await one.get(first)).event.depth + 1
    assert set(second.auth_events) == {
        known["m.room.power_levels", ""].event.event_id,
        known["m.room.member", ALICE].event.event_id,
    }
    assert await one.heads(room_id) == (second.event_id,)


@pytest.mark.parametrize("version", sorted(SUPPORTED))
async def test_rooms_of_every_supported_version_can_be_made_and_spoken_in(one: House, version: str) -> None:
    room_id = await one.room(rules=SUPPORTED[version], name="Room")
    await one.memberships.join(BOB, room_id)
    event_id = await one.say(room_id, BOB, "hello")
    await one.composer.send(room_id, ALICE, "m.room.redaction", {}, redacts=event_id)
    stored = await one.get(event_id)
    assert stored.event.content == {}
    assert stored.redacted_by is not None


async def test_state_that_changes_nothing_is_not_sent_again(one: House) -> None:
    room_id = await one.room()
    first = await one.set(room_id, ALICE, "m.room.topic", {"topic": "Tea"})
    assert await one.set(room_id, ALICE, "m.room.topic", {"topic": "Tea"}) == first
    assert await one.set(room_id, ALICE, "m.room.topic", {"topic": "Coffee"}) != first


async def test_concurrent_repeats_of_a_transaction_make_one_event(one: House) -> None:
    room_id = await one.room()
    answers: list[str] = []

    async def send(txn_id: str) -> None:
        key = transaction_key("send", room_id, "m.room.message", txn_id)
        answers.append(await one.composer.send(room_id, ALICE, "m.room.message", {"body": "x"}, device_id="A", txn_id=key))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(send, "a/b")
    assert len(set(answers)) == 1
    stored = await one.get(answers[0])
    assert await one.db.read(lambda tx: events.transaction_ids(tx, ALICE, "A", [stored.number])) == {stored.number: "a/b"}
    await send("c")
    assert len(set(answers)) == 2


async def test_who_is_not_in_the_room_or_lacks_the_power_is_refused(one: House) -> None:
    room_id = await one.room()
    with pytest.raises(errors.Forbidden):
        await one.say(room_id, BOB, "let me in")
    with pytest.raises(errors.Forbidden):
        await one.say("!nowhere:one", BOB, "hello?")
    await one.memberships.join(BOB, room_id)
    with pytest.raises(errors.Forbidden):
        await one.set(room_id, BOB, "m.room.name", {"name": "Bob's"})
    assert await one.heads(room_id) == ((await one.state(room_id))["m.room.member", BOB].event.event_id,)


async def test_an_event_beyond_64_kib_is_too_large(one: House) -> None:
    room_id = await one.room()
    with pytest.raises(errors.TooLarge):
        await one.say(room_id, ALICE, "x" * 65536)


async def test_users_redact_their_own_events_and_moderators_anybodys(one: House) -> None:
    room_id, other_room = await one.room(), await one.room()
    await one.memberships.join(BOB, room_id)
    by_alice, by_bob = await one.say(room_id, ALICE, "mine"), await one.say(room_id, BOB, "his")
    elsewhere = await one.say(other_room, ALICE, "elsewhere")
    for sender, target in ((BOB, by_alice), (ALICE, elsewhere), (BOB, "$unknown"), (ALICE, room_id.replace("!", "$"))):
        with pytest.raises(errors.Forbidden):
            await one.composer.send(room_id, sender, "m.room.redaction", {}, redacts=target)
    await one.composer.send(room_id, BOB, "m.room.redaction", {}, redacts=by_bob)
    await one.composer.send(room_id, ALICE, "m.room.redaction", {}, redacts=by_alice)
    assert (await one.get(by_bob)).event.content == {}
    assert (await one.get(by_alice)).event.content == {}


async def test_an_event_is_queued_for_every_other_server_in_the_room(one: House, two: House) -> None:
    room_id = await one.room()
    await one.say(room_id, ALICE, "alone")
    assert await one.db.read(outbox.waiting) == []
    await two.memberships.join(CAROL, room_id, ["one"])
    event_id = await one.say(room_id, ALICE, "together")
    (destination,) = await one.db.read(outbox.waiting)
    assert destination.server_name == "two"
    waiting = await one.db.read(lambda tx: outbox.pending(tx, destination.number))
    assert waiting[-1].pdu == (await one.get(event_id)).event.pdu


async def test_the_members_of_a_room_are_woken_by_an_event_and_others_are_not(one: House) -> None:
    room_id = await one.room()
    with one.wakeups.listening(ALICE) as alice, one.wakeups.listening(BOB) as bob:
        await one.say(room_id, ALICE, "hello")
        await alice.wait()
        await one.memberships.invite(ALICE, room_id, BOB)
        await bob.wait()
