"""Forks: servers that speak at the same time, and what the room is afterwards."""

from __future__ import annotations

import pytest
import trio

from edgeserver.matrix.draft import complete
from edgeserver.matrix.verdicts import Accepted, Dropped, Rejected, SoftFailed, Unready
from edgeserver.rooms.placing import Task
from edgeserver.store import rooms, state
from edgeserver.store.events import Standing
from tests.rooms.house import ALICE, BOB, CAROL, DAVE, House, Street


@pytest.fixture
async def room_id(one: House, two: House) -> str:
    """A room of server one that Carol of two is in, with some power."""
    room = await one.room(power_level_overrides={"users": {CAROL: 50}, "state_default": 50})
    await two.memberships.join(CAROL, room, ["one"])
    return room


async def state_ids(house: House, room_id: str) -> dict[tuple[str, str], str]:
    return {key: stored.event.event_id for key, stored in (await house.state(room_id)).items()}


async def test_messages_of_both_sides_of_a_fork_stay_and_the_next_event_joins_them(room_id: str, one: House, two: House) -> None:
    by_alice, by_carol = await one.say(room_id, ALICE, "a"), await two.say(room_id, CAROL, "c")
    assert [type(verdict) for verdict in await two.tell(one, by_carol)] == [Accepted]
    assert set(await one.heads(room_id)) == {by_alice, by_carol}
    after = await one.get(await one.say(room_id, ALICE, "both"))
    assert set(after.event.prev_events) == {by_alice, by_carol}
    assert await one.heads(room_id) == (after.event.event_id,)
    *fork, last = (await one.bodies(ALICE, room_id))[-3:]
    assert (sorted(fork), last) == (["a", "c"], "both")


async def test_state_of_both_sides_is_resolved_alike_on_both_servers(room_id: str, one: House, two: House) -> None:
    topic = await one.set(room_id, ALICE, "m.room.topic", {"topic": "Alice's"})
    other_topic = await two.set(room_id, CAROL, "m.room.topic", {"topic": "Carol's"})
    name = await two.set(room_id, CAROL, "m.room.name", {"name": "Carol's"})
    await two.tell(one, other_topic, name)
    await one.tell(two, topic)
    assert await state_ids(one, room_id) == await state_ids(two, room_id)
    assert (await state_ids(one, room_id))["m.room.name", ""] == name
    assert set(await one.heads(room_id)) == set(await two.heads(room_id)) == {topic, name}


async def test_an_event_that_joins_two_forks_while_a_third_stays_open_is_placed(
    room_id: str, one: House, two: House, three: House, street: Street
) -> None:
    await three.memberships.join(DAVE, room_id, ["one"])
    (joined,) = await one.heads(room_id)
    await one.tell(two, joined)
    by_alice = await one.set(room_id, ALICE, "m.room.topic", {"topic": "Alice's"})
    by_carol = await two.set(room_id, CAROL, "m.room.topic", {"topic": "Carol's"})
    by_dave = await three.say(room_id, DAVE, "d")
    await two.tell(one, by_carol)
    joining = await one.say(room_id, ALICE, "joins a and c")
    await one.tell(two, by_alice, joining)
    assert await two.heads(room_id) == (joining,)
    # Server three hears of all but its own fork stays a head
    await one.tell(three, by_alice)
    await two.tell(three, by_carol)
    (verdict,) = await one.tell(three, joining)
    assert isinstance(verdict, Accepted)
    assert set(await three.heads(room_id)) == {joining, by_dave}
    assert await state_ids(three, room_id) == await state_ids(one, room_id)


async def test_events_that_arrive_in_the_wrong_order_are_fetched_from_the_sender(room_id: str, one: House, two: House) -> None:
    said = [await one.say(room_id, ALICE, f"{number}") for number in range(5)]
    (verdict,) = await one.tell(two, said[-1])
    assert isinstance(verdict, Accepted)
    assert (await two.bodies(CAROL, room_id))[-5:] == ["0", "1", "2", "3", "4"]
    assert await two.heads(room_id) == (said[-1],)


async def test_a_gap_that_cannot_be_filled_becomes_a_state_request_and_is_filled_by_paging_back(
    room_id: str, one: House, two: House, street: Street
) -> None:
    said = [await one.say(room_id, ALICE, f"{number}") for number in range(3)]
    await one.set(room_id, ALICE, "m.room.topic", {"topic": "Tea"})
    said.append(await one.say(room_id, ALICE, "last"))

    source = two.receiver.missing._source

    class Forgetful:
        def __getattr__(self, name: str) -> object:
            return getattr(source, name)

        async def missing_events(self, *args: object) -> list[object]:
            return []

    two.receiver.missing._source = Forgetful()
    (verdict,) = await one.tell(two, said[-1])
    assert isinstance(verdict, Accepted)
    assert (await two.state(room_id))["m.room.topic", ""].event.content == {"topic": "Tea"}
    assert (await two.bodies(CAROL, room_id))[-5:] == ["0", "1", "2", "m.room.topic", "last"]


async def test_an_event_whose_past_cannot_be_had_is_dropped_and_taken_when_it_comes_again(
    room_id: str, one: House, two: House, street: Street
) -> None:
    await one.say(room_id, ALICE, "lost")
    last = await one.say(room_id, ALICE, "last")
    street.down.add("one")
    assert [type(verdict) for verdict in await one.tell(two, last)] == [Unready]
    street.down.clear()
    assert [type(verdict) for verdict in await one.tell(two, last)] == [Accepted]


async def test_a_forged_event_is_dropped_and_a_changed_one_is_kept_redacted(room_id: str, one: House, two: House) -> None:
    forged, changed = await one.say(room_id, ALICE, "forged"), await one.say(room_id, ALICE, "true")
    two.forged.add(forged)
    assert [type(verdict) for verdict in await one.tell(two, forged)] == [Dropped]
    two.forged.clear()
    pdu = (await one.get(changed)).event.pdu
    await two.receiver.receive("one", {**pdu, "content": {"msgtype": "m.text", "body": "false"}})
    assert (await two.get(changed)).event.content == {}


async def test_what_a_user_says_after_being_banned_elsewhere_is_soft_failed(room_id: str, one: House, two: House) -> None:
    await one.memberships.ban(ALICE, room_id, CAROL)
    said = await two.say(room_id, CAROL, "not banned here yet")
    (verdict,) = await two.tell(one, said)
    assert isinstance(verdict, SoftFailed)
    stored = await one.get(said)
    assert stored.standing is Standing.SOFT_FAILED
    assert stored.stream is None
    assert said not in await one.heads(room_id)
    assert "not banned here yet" not in await one.bodies(ALICE, room_id)
    assert [type(verdict) for verdict in await two.tell(one, said)] == [SoftFailed]


async def test_an_event_that_its_own_auth_events_do_not_allow_is_rejected(room_id: str, one: House, two: House) -> None:
    pdu = (await two.get(await two.say(room_id, CAROL, "hello"))).event.pdu
    room = (await two.get((await two.heads(room_id))[0])).event.rules
    forged = complete({**pdu, "sender": "@mallory:two"}, room, "two", two.key)
    verdict = await one.receiver.receive("two", forged.pdu)
    assert isinstance(verdict, Rejected)
    assert (await one.get(forged.event_id)).standing is Standing.REJECTED


async def test_an_event_received_twice_at_once_is_written_once(room_id: str, one: House, two: House) -> None:
    said = await one.say(room_id, ALICE, "once")
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(one.tell, two, said)
    assert (await two.bodies(CAROL, room_id)).count("once") == 1


async def test_a_long_partition_heals_to_the_same_state(room_id: str, one: House, two: House) -> None:
    await one.memberships.join(BOB, room_id)
    ours = [await one.set(room_id, ALICE, "m.room.topic", {"topic": f"{number}"}) for number in range(6)]
    ours.append(await one.set(room_id, ALICE, "m.room.power_levels", {"users": {CAROL: 10}}))
    theirs = []
    for number in range(6):
        theirs.append(await two.set(room_id, CAROL, "m.room.name", {"name": f"{number}"}))
        theirs.append(await two.set(room_id, CAROL, "m.room.topic", {"topic": f"c{number}"}))
    await two.tell(one, *theirs)
    await one.tell(two, *(await one.heads(room_id)), *ours)
    await one.say(room_id, ALICE, "we are back")
    await one.tell(two, *(await one.heads(room_id)))
    assert await state_ids(one, room_id) == await state_ids(two, room_id)


async def test_a_redaction_that_comes_before_its_target_is_applied_when_that_comes(room_id: str, one: House, two: House) -> None:
    target = await one.say(room_id, ALICE, "regretted")
    (before,) = await two.heads(room_id)
    redaction = await one.composer.send(room_id, ALICE, "m.room.redaction", {}, redacts=target)
    pdu = (await one.get(redaction)).event.pdu
    early = complete({**pdu, "prev_events": [before]}, (await one.get(target)).event.rules, "one", one.key)
    assert isinstance(await two.receiver.receive("one", early.pdu), Accepted)
    original = {**(await one.get(target)).event.pdu, "content": {"msgtype": "m.text", "body": "regretted"}}
    assert isinstance(await two.receiver.receive("one", original), Accepted)
    stored = await two.get(target)
    assert stored.redacted_by == early.event_id
    assert stored.event.content == {}


async def state_before(house: House, event_id: str) -> dict[tuple[str, str], str]:
    before = (await house.get(event_id)).before
    assert before is not None
    return await house.db.read(lambda tx: state.whole_ids(tx, before))


# Runs of events


async def tasks_of(one: House, two: House, room_id: str, *event_ids: str) -> list[Task]:
    room = await two.db.read(lambda tx: rooms.get(tx, room_id))
    assert room is not None
    return [Task(room.number, (await one.get(event_id)).event) for event_id in event_ids]


async def test_a_run_of_events_is_placed_in_one_write(room_id: str, one: House, two: House) -> None:
    said = [await one.say(room_id, ALICE, f"{number}") for number in range(25)]
    said.append(await one.set(room_id, ALICE, "m.room.topic", {"topic": "Tea"}))
    said += [await one.say(room_id, ALICE, f"{number}") for number in range(25, 49)]
    commits = two.db.commits
    verdicts = await two.placer.place_all(await tasks_of(one, two, room_id, *said))
    assert [type(verdict) for verdict in verdicts] == [Accepted] * 50
    assert two.db.commits == commits + 1
    assert await two.heads(room_id) == (said[-1],)
    assert await state_ids(two, room_id) == await state_ids(one, room_id)


async def test_a_run_goes_on_where_branches_meet(room_id: str, one: House, two: House) -> None:
    ours = await two.set(room_id, CAROL, "m.room.topic", {"topic": "Carol's"})
    theirs = [await one.set(room_id, ALICE, "m.room.name", {"name": f"{number}"}) for number in range(10)]
    commits = two.db.commits
    await two.placer.place_all(await tasks_of(one, two, room_id, *theirs))
    assert two.db.commits == commits + 1
    await two.tell(one, ours)
    assert set(await two.heads(room_id)) == set(await one.heads(room_id)) == {ours, theirs[-1]}
    assert await state_ids(two, room_id) == await state_ids(one, room_id)


async def test_an_event_of_a_run_that_cannot_be_placed_does_not_fail_the_others(room_id: str, one: House, two: House) -> None:
    said = [await one.say(room_id, ALICE, f"{number}") for number in range(4)]
    first, _lost, after, _ = await tasks_of(one, two, room_id, *said)
    verdicts = await two.placer.place_all([first, after])
    assert [type(verdict) for verdict in verdicts] == [Accepted, Dropped]
    assert await two.heads(room_id) == (said[0],)
    assert [type(verdict) for verdict in await two.placer.place_all(await tasks_of(one, two, room_id, *said))] == [Accepted] * 4


async def test_an_event_that_cites_some_of_many_heads_has_the_same_state_before_it_everywhere(room_id: str, one: House, two: House) -> None:
    pdu = (await two.get(await two.set(room_id, CAROL, "m.room.topic", {"topic": "0"}))).event.pdu
    rules = (await two.get((await two.heads(room_id))[0])).event.rules
    forks = [complete({**pdu, "content": {"topic": f"{number}"}}, rules, "two", two.key) for number in range(14)]
    for house in (one, two):
        for fork in forks:
            assert isinstance(await house.receiver.receive("two", fork.pdu), Accepted)
    assert len(await one.heads(room_id)) == 14
    for send in (one.say(room_id, ALICE, "a"), one.set(room_id, ALICE, "m.room.name", {"name": "Tea"}), one.say(room_id, ALICE, "b")):
        sent = await send
        assert [type(verdict) for verdict in await one.tell(two, sent)] == [Accepted]
        assert await state_before(one, sent) == await state_before(two, sent)
        assert set(await one.heads(room_id)) == set(await two.heads(room_id))
        assert await state_ids(one, room_id) == await state_ids(two, room_id)
    assert len(await one.heads(room_id)) == 1


async def test_an_event_that_is_taken_in_as_history_and_that_nothing_comes_after_leaves_the_heads_alone(
    room_id: str, one: House, two: House
) -> None:
    by_alice, by_carol = await one.say(room_id, ALICE, "a"), await two.say(room_id, CAROL, "c")
    await two.tell(one, by_carol)
    made_up = (await two.get(await two.say(room_id, CAROL, "long ago"))).event
    assert made_up.prev_events == (by_carol,)
    number = (await one.get(by_alice)).room
    assert isinstance(await one.placer.place(Task(number, made_up, backfilled=True)), Accepted)
    assert set(await one.heads(room_id)) == {by_alice, by_carol}
