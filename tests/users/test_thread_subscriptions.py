"""Thread subscriptions at work: what notifies whom, and the push rules that people see (MSC4306)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgeserver.matrix import errors, push_rules
from edgeserver.rooms.thread_subscriptions import ThreadSubscriptions
from edgeserver.store import thread_subscriptions as table
from edgeserver.users.threads import thread_of
from tests.sync.world import ALICE, BOB, CAROL, World, open_world
from tests.users.test_reading import counts, in_thread, mentioning

PREFIX = ".io.element.msc4306.rule."


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as made:
        await made.db.write(lambda tx: table.switch(tx, on=True))
        yield made


def subscriptions(world: World) -> ThreadSubscriptions:
    return ThreadSubscriptions(world.db, world.wakeups, thread_of)


async def test_a_thread_notifies_its_subscribers_and_of_mentions_whoever_is_mentioned(world: World) -> None:
    room = await world.room(ALICE, BOB, CAROL)
    root = await world.say(room, ALICE, "root")
    await subscriptions(world).subscribe(BOB, room, root, None)
    for user_id in (BOB, CAROL):
        await world.receipts.send(user_id, room, "m.read", root)
    await world.say(room, ALICE, "in", **in_thread(root))
    assert await counts(world, room, BOB) == {root: (1, 0)}
    assert await counts(world, room, CAROL) == {}
    mention = await world.say(room, ALICE, "carol!", **in_thread(root), **mentioning(CAROL))
    assert await counts(world, room, CAROL) == {root: (1, 1)}
    await subscriptions(world).subscribe(CAROL, room, root, mention)
    await subscriptions(world).unsubscribe(BOB, room, root)
    await world.say(room, ALICE, "in again", **in_thread(root))
    assert await counts(world, room, BOB) == {root: (2, 0)}
    assert await counts(world, room, CAROL) == {root: (2, 1)}
    await world.say(room, ALICE, "outside")
    assert (await counts(world, room, BOB))["main"] == (1, 0)


async def test_a_subscription_counts_more_than_the_settings_of_the_room_and_less_than_keywords(world: World) -> None:
    room = await world.room(ALICE, BOB)
    root = await world.say(room, ALICE, "root")
    await world.receipts.send(BOB, room, "m.read", root)
    await world.account_data.change_ruleset(BOB, lambda rules: push_rules.put_rule(rules, "room", room, {"actions": []}))
    keyword: dict[str, Any] = {"pattern": "cake", "actions": ["notify", {"set_tweak": "highlight"}]}
    await world.account_data.change_ruleset(BOB, lambda rules: push_rules.put_rule(rules, "content", "cake", keyword))
    await world.say(room, ALICE, "in", **in_thread(root))
    assert await counts(world, room, BOB) == {}
    await world.say(room, ALICE, "cake", **in_thread(root))
    assert await counts(world, room, BOB) == {root: (1, 1)}
    await subscriptions(world).subscribe(BOB, room, root, None)
    await world.say(room, ALICE, "in", **in_thread(root))
    await world.say(room, ALICE, "outside")
    assert await counts(world, room, BOB) == {root: (2, 1)}
    off = f"{PREFIX}subscribed_thread"
    await world.account_data.change_ruleset(BOB, lambda rules: push_rules.set_enabled(rules, "postcontent", off, False))
    await world.say(room, ALICE, "in", **in_thread(root))
    assert await counts(world, room, BOB) == {root: (2, 1)}


async def test_the_rules_stand_between_content_and_room_and_nobody_adds_to_them(world: World) -> None:
    rules = await world.account_data.ruleset(BOB)
    assert list(rules) == ["override", "content", "postcontent", "room", "sender", "underride"]
    assert [(rule["rule_id"], rule["enabled"], rule["conditions"]) for rule in rules["postcontent"]] == [
        (f"{PREFIX}{name}", True, [{"kind": "io.element.msc4306.thread_subscription", "subscribed": is_so}])
        for name, is_so in (("unsubscribed_thread", False), ("subscribed_thread", True))
    ]
    with pytest.raises(errors.InvalidParam):
        push_rules.put_rule(rules, "postcontent", "mine", {"actions": [], "conditions": []})
    off = f"{PREFIX}unsubscribed_thread"
    await world.account_data.change_ruleset(BOB, lambda rules: push_rules.set_enabled(rules, "postcontent", off, False))
    assert not (await world.account_data.ruleset(BOB))["postcontent"][0]["enabled"]


async def test_where_they_are_switched_off_threads_notify_as_rooms_do(world: World) -> None:
    await world.db.write(lambda tx: table.switch(tx, on=False))
    room = await world.room(ALICE, BOB)
    root = await world.say(room, ALICE, "root")
    await world.receipts.send(BOB, room, "m.read", root)
    await world.say(room, ALICE, "in", **in_thread(root))
    assert await counts(world, room, BOB) == {root: (1, 0)}
    rules = await world.account_data.ruleset(BOB)
    assert tuple(rules) == push_rules.KINDS
    with pytest.raises(errors.InvalidParam):
        push_rules.find_rule(rules, "postcontent", f"{PREFIX}unsubscribed_thread")


async def test_what_leaves_one_thread_unread_is_counted_anew_by_subscriptions(world: World) -> None:
    room = await world.room(ALICE, BOB)
    root = await world.say(room, ALICE, "root")
    await subscriptions(world).subscribe(BOB, room, root, None)
    said = [await world.say(room, ALICE, str(number), **in_thread(root)) for number in range(3)]
    await world.receipts.send(BOB, room, "m.read", said[0], root)
    assert (await counts(world, room, BOB))[root] == (2, 0)


async def test_of_many_subscriptions_those_that_changed_longest_ago_go(world: World) -> None:
    room = await world.room(ALICE, BOB)
    number = await world.number(room)

    def fill(tx: Any) -> None:
        for at in range(table.KEPT + 3):
            table.put(tx, number, f"${at}", BOB, False)

    await world.db.write(fill)
    kept = await world.db.read(lambda tx: table.changes(tx, BOB, 0, 2**62, table.KEPT + 10))
    assert [one.root for one in kept] == [f"${at}" for at in range(table.KEPT + 2, 2, -1)]
