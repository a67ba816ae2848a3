"""Rooms of versions 1 to 5: what is made there, what redactions do, and what forks lead to."""

from __future__ import annotations

import pytest

from edgeserver.matrix import errors
from edgeserver.matrix.draft import references
from edgeserver.matrix.identifiers import domain_of
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from edgeserver.matrix.verdicts import Accepted, Rejected
from tests.rooms.house import ALICE, BOB, CAROL, House
from tests.rooms.test_placing import state_ids

OLD = ["1", "2", "3", "4", "5"]


@pytest.fixture(params=OLD, ids=lambda version: f"v{version}")
async def room_id(request: pytest.FixtureRequest, one: House, two: House) -> str:
    """A room of server one that Carol of two is in, with some power."""
    overrides = {"users": {ALICE: 100, CAROL: 50}, "redact": 60}
    room = await one.room(rules=ROOM_VERSIONS[request.param], power_level_overrides=overrides)
    await two.memberships.join(CAROL, room, ["one"])
    return room


async def test_events_name_themselves_and_refer_to_others_as_their_version_does(room_id: str, one: House) -> None:
    before = await one.get(await one.say(room_id, ALICE, "before"))
    after = await one.get(await one.say(room_id, ALICE, "after"))
    event, rules = after.event, after.event.rules
    assert event.prev_events == (before.event.event_id,)
    assert event.pdu["prev_events"] == references([before.event])
    assert event.pdu["auth_events"] == references([(await one.get(cited)).event for cited in event.auth_events])
    assert isinstance(event.pdu["prev_events"][0], list) == rules.events_name_themselves
    assert (domain_of(event.event_id) == "one") == rules.events_name_themselves
    assert ("event_id" in event.pdu) == rules.events_name_themselves


async def test_a_fork_is_resolved_alike_on_both_servers(room_id: str, one: House, two: House) -> None:
    topic = await one.set(room_id, ALICE, "m.room.topic", {"topic": "Alice's"})
    rule = await one.set(room_id, ALICE, "m.room.join_rules", {"join_rule": "invite"})
    other_topic = await two.set(room_id, CAROL, "m.room.topic", {"topic": "Carol's"})
    other_rule = await two.set(room_id, CAROL, "m.room.join_rules", {"join_rule": "public", "by": "Carol"})
    later = await two.say(room_id, CAROL, "later")
    await two.tell(one, other_topic, other_rule, later)
    await one.tell(two, topic, rule)
    resolved = await state_ids(one, room_id)
    assert resolved == await state_ids(two, room_id)
    assert resolved["m.room.topic", ""] in (topic, other_topic)
    assert resolved["m.room.join_rules", ""] in (rule, other_rule)
    joining = await one.say(room_id, ALICE, "both")
    (verdict,) = await one.tell(two, joining)
    assert isinstance(verdict, Accepted)
    assert await two.heads(room_id) == (joining,)
    assert await state_ids(two, room_id) == resolved


async def test_any_number_is_sent_and_taken(room_id: str, one: House, two: House) -> None:
    content = {"body": "numbers", "n": [1.0, 1e16, 2**70, -(10**400)]}
    sent = await one.composer.send(room_id, ALICE, "m.room.message", content)
    (verdict,) = await one.tell(two, sent)
    assert isinstance(verdict, Accepted)
    assert repr((await two.get(sent)).event.content) == repr((await one.get(sent)).event.content)


async def test_a_room_of_version_6_takes_no_floats(one: House) -> None:
    room = await one.room(rules=ROOM_VERSIONS["6"])
    for number in (1.5, 1.0, 2**53):
        with pytest.raises(errors.BadJson):
            await one.composer.send(room, ALICE, "m.room.message", {"n": number})


async def test_nobody_may_redact_anothers_event_without_the_power(room_id: str, one: House, two: House) -> None:
    await one.memberships.join(BOB, room_id)
    by_alice, by_bob = await one.say(room_id, ALICE, "hers"), await one.say(room_id, BOB, "his")
    by_carol = await two.say(room_id, CAROL, "Carol's")
    await two.tell(one, by_carol)
    with pytest.raises(errors.Forbidden):
        await one.composer.send(room_id, BOB, "m.room.redaction", {}, redacts=by_carol)
    for sender, target in ((ALICE, by_carol), (ALICE, by_alice), (BOB, by_bob)):
        await one.composer.send(room_id, sender, "m.room.redaction", {}, redacts=target)
        assert (await one.get(target)).event.content == {}


async def test_the_first_versions_weigh_a_redaction_by_who_named_the_events(room_id: str, one: House, two: House) -> None:
    """Carol lacks the redact level. Server two makes the redaction all the same, as a server may that is not ours."""
    by_alice, by_carol = await one.say(room_id, ALICE, "hers"), await two.say(room_id, CAROL, "Carol's")
    await two.tell(one, by_carol)

    async def redaction(target: str) -> object:
        def draft(tx):
            room = two.composer.joined_room(tx, room_id, CAROL)
            return two.composer.draft(tx, room, CAROL, "m.room.redaction", {}, redacts=target)[0]

        return await one.receiver.receive("two", (await two.db.read(draft)).pdu)

    verdicts = [await redaction(target) for target in (by_carol, by_alice)]
    rules = (await one.get(by_alice)).event.rules
    weighed = rules.redaction_auth_by_event_id
    assert [type(verdict) for verdict in verdicts] == [Accepted, Rejected if weighed else Accepted]
    assert (await one.get(by_carol)).event.content == {}
    assert (await one.get(by_alice)).event.content["body"] == "hers"


async def test_nobody_knocks(room_id: str, one: House) -> None:
    await one.set(room_id, ALICE, "m.room.join_rules", {"join_rule": "knock"})
    with pytest.raises(errors.Forbidden):
        await one.memberships.knock(BOB, room_id)


async def test_aliases_are_the_servers_to_state_even_without_power(room_id: str, one: House) -> None:
    """m.room.aliases is judged by its state key alone."""
    await one.memberships.join(BOB, room_id)
    await one.set(room_id, BOB, "m.room.aliases", {"aliases": ["#a:one"]}, "one")
    for sender, state_key in ((ALICE, "two"), (ALICE, "")):
        with pytest.raises(errors.Forbidden):
            await one.set(room_id, sender, "m.room.aliases", {"aliases": ["#a:two"]}, state_key)
