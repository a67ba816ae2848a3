"""Receipts, read markers, unread counts, typing, notifications: stories of people in a room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from edgeserver.matrix import errors
from edgeserver.store import outbox, room_views, rooms, unread
from edgeserver.store.database import Transaction
from edgeserver.users import ephemeral
from edgeserver.users.notifications import Notifications
from tests.sync.world import ALICE, BOB, CAROL, World, joined, open_world

THREADS = {"room": {"timeline": {"unread_thread_notifications": True}}}
DAVE = "@dave:b.example"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as made:
        yield made


async def counts(world: World, room: str, user_id: str) -> dict[str, tuple[int, int]]:
    number = await world.number(room)
    found = await world.db.read(lambda tx: unread.of_user(tx, number, user_id))
    return {thread: tuple(count) for thread, count in found.items()}


def in_thread(root: str) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}


def mentioning(*users: str) -> dict[str, Any]:
    return {"m.mentions": {"user_ids": list(users)}}


async def with_remote_member(world: World, room: str) -> None:
    """A member of another server, as a federated join would leave them."""
    number = await world.number(room)

    def write(tx: Transaction) -> None:
        event = rooms.membership(tx, ALICE, number)
        assert event is not None
        rooms.set_membership(tx, DAVE, number, "join", event.event, tx.stream(), local=False)
        rooms.server_joined(tx, number, "b.example", 1)

    await world.db.write(write)


async def queued(world: World) -> list[dict[str, Any]]:
    def read(tx: Transaction) -> list[dict[str, Any]]:
        found = outbox.destination(tx, "b.example")
        return [] if found is None else [one.edu for one in outbox.pending(tx, found.number) if one.edu is not None]

    return await world.db.read(read)


async def test_messages_count_for_everyone_but_their_sender_until_they_are_read(world: World) -> None:
    room = await world.room(ALICE, BOB, CAROL)
    for number in range(3):
        last = await world.say(room, ALICE, str(number))
    assert await counts(world, room, BOB) == {"main": (3, 0)}
    assert await counts(world, room, ALICE) == {}
    await world.receipts.send(BOB, room, "m.read", last)
    assert await counts(world, room, BOB) == {}
    assert await counts(world, room, CAROL) == {"main": (3, 0)}


async def test_a_mention_is_highlighted_for_who_is_mentioned(world: World) -> None:
    room = await world.room(ALICE, BOB, CAROL)
    await world.say(room, ALICE, "bob?", **mentioning(BOB))
    assert await counts(world, room, BOB) == {"main": (1, 1)}
    assert await counts(world, room, CAROL) == {"main": (1, 0)}


async def test_everyone_is_highlighted_only_by_who_may(world: World) -> None:
    room = await world.room(ALICE, BOB, CAROL)
    await world.say(room, BOB, "all", **{"m.mentions": {"room": True}})
    assert await counts(world, room, CAROL) == {"main": (1, 0)}
    await world.say(room, ALICE, "all", **{"m.mentions": {"room": True}})
    assert await counts(world, room, CAROL) == {"main": (2, 1)}


async def test_notices_and_reactions_do_not_count(world: World) -> None:
    room = await world.room(ALICE, BOB)
    await world.composer.send(room, ALICE, "m.room.message", {"msgtype": "m.notice", "body": "x"})
    await world.composer.send(room, ALICE, "m.reaction", {"m.relates_to": {"rel_type": "m.annotation", "event_id": "$x"}})
    assert await counts(world, room, BOB) == {}


async def test_a_rule_of_ones_own_counts_from_its_change_on(world: World) -> None:
    room = await world.room(ALICE, BOB, CAROL)
    await world.say(room, ALICE, "one")
    mute = {"rule_id": room, "default": False, "enabled": True, "actions": []}
    await world.account_data.change_ruleset(BOB, lambda rules: {**rules, "room": [mute]})
    await world.say(room, ALICE, "two")
    assert await counts(world, room, BOB) == {"main": (1, 0)}
    assert await counts(world, room, CAROL) == {"main": (2, 0)}


async def test_an_old_rule_that_looks_for_ones_name_still_works(world: World) -> None:
    room = await world.room(ALICE, BOB, CAROL)
    rule = {
        "rule_id": "name",
        "default": False,
        "enabled": True,
        "conditions": [{"kind": "contains_display_name"}],
        "actions": ["notify", {"set_tweak": "highlight"}],
    }
    await world.account_data.change_ruleset(BOB, lambda rules: {**rules, "override": [rule, *rules["override"]]})
    await world.say(room, ALICE, "is bob there?")
    assert await counts(world, room, BOB) == {"main": (1, 1)}


async def test_ignored_people_do_not_count(world: World) -> None:
    room = await world.room(ALICE, BOB)
    await world.account_data.put(BOB, "", "m.ignored_user_list", {"ignored_users": {ALICE: {}}})
    await world.say(room, ALICE, "x")
    assert await counts(world, room, BOB) == {}


async def test_a_receipt_in_the_middle_leaves_the_rest_unread(world: World) -> None:
    room = await world.room(ALICE, BOB)
    said = [await world.say(room, ALICE, str(number), **mentioning(BOB)) for number in range(5)]
    await world.receipts.send(BOB, room, "m.read", said[2])
    assert await counts(world, room, BOB) == {"main": (2, 2)}
    await world.receipts.send(BOB, room, "m.read", said[0])  # back: that is not possible
    assert await counts(world, room, BOB) == {"main": (2, 2)}
    await world.receipts.send(BOB, room, "m.read.private", said[4])
    assert await counts(world, room, BOB) == {}


async def test_whoever_says_something_has_read_what_was_said_before_in_that_thread(world: World) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.say(room, BOB, "1", **mentioning(ALICE))
    await world.say(room, BOB, "in thread", **in_thread(first))
    assert await counts(world, room, ALICE) == {"main": (1, 1), first: (1, 0)}
    await world.composer.send(room, ALICE, "m.room.topic", {"topic": "t"}, state_key="")
    assert await counts(world, room, ALICE) == {"main": (1, 1), first: (1, 0)}
    since = await world.sync(ALICE)
    await world.say(room, ALICE, "an answer")
    assert await counts(world, room, ALICE) == {first: (1, 0)}
    assert joined(await world.sync(ALICE, since, THREADS), room)["unread_notifications"] == {"highlight_count": 0, "notification_count": 0}
    await world.say(room, ALICE, "an answer there", **in_thread(first))
    assert await counts(world, room, ALICE) == {}
    # A receipt for what was before that brings nothing back.
    await world.say(room, BOB, "2")
    await world.receipts.send(ALICE, room, "m.read", first)
    assert await counts(world, room, ALICE) == {"main": (1, 0)}


async def test_threads_are_counted_and_read_by_themselves(world: World) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.sync(BOB)
    root = await world.say(room, ALICE, "root")
    inside = await world.say(room, ALICE, "inside", **in_thread(root), **mentioning(BOB))
    after = await world.say(room, ALICE, "after")
    found = joined(await world.sync(BOB, first, THREADS), room)
    assert found["unread_notifications"] == {"notification_count": 2, "highlight_count": 0}
    assert found["unread_thread_notifications"] == {root: {"notification_count": 1, "highlight_count": 1}}
    plain = joined(await world.sync(BOB, first), room)
    assert plain["unread_notifications"] == {"notification_count": 3, "highlight_count": 1}
    assert "unread_thread_notifications" not in plain
    await world.receipts.send(BOB, room, "m.read", after, "main")
    assert await counts(world, room, BOB) == {root: (1, 1)}
    await world.receipts.send(BOB, room, "m.read", inside, root)
    assert await counts(world, room, BOB) == {}


async def test_a_receipt_for_everything_reads_threads_up_to_it(world: World) -> None:
    room = await world.room(ALICE, BOB)
    root = await world.say(room, ALICE, "root")
    await world.say(room, ALICE, "in", **in_thread(root))
    middle = await world.say(room, ALICE, "middle")
    await world.say(room, ALICE, "in again", **in_thread(root))
    await world.receipts.send(BOB, room, "m.read", middle)
    assert await counts(world, room, BOB) == {root: (1, 0)}


async def test_what_relates_to_a_message_in_a_thread_is_in_that_thread(world: World) -> None:
    room = await world.room(ALICE, BOB)
    root = await world.say(room, ALICE, "root")
    inside = await world.say(room, ALICE, "in", **in_thread(root))
    await world.receipts.send(BOB, room, "m.read", inside)
    edit = {"m.new_content": {"body": "x"}, "m.relates_to": {"rel_type": "m.replace", "event_id": inside}}
    edited = await world.say(room, ALICE, "* in", **edit, **mentioning(BOB))
    assert await counts(world, room, BOB) == {root: (1, 1)}  # an edit notifies of nothing but whom it mentions anew
    of_edit = await world.say(room, ALICE, "refers", **{"m.relates_to": {"rel_type": "m.reference", "event_id": edited}})
    of_root = await world.say(room, ALICE, "of the root", **{"m.relates_to": {"rel_type": "m.reference", "event_id": root}})
    fourth = await world.say(room, ALICE, "too far", **{"m.relates_to": {"rel_type": "m.reference", "event_id": of_edit}})
    assert await counts(world, room, BOB) == {root: (2, 1), "main": (2, 0)}
    await world.receipts.send(BOB, room, "m.read", of_edit, root)
    assert await counts(world, room, BOB) == {"main": (2, 0)}
    with pytest.raises(errors.InvalidParam):
        await world.receipts.send(BOB, room, "m.read", of_root, root)
    await world.receipts.send(BOB, room, "m.read", fourth, "main")
    assert await counts(world, room, BOB) == {}


async def test_a_thread_whose_root_is_not_here_is_one_and_one_that_hangs_on_a_reaction_is_none(world: World) -> None:
    room = await world.room(ALICE, BOB)
    gone = "$" + "x" * 43
    inside = await world.say(room, ALICE, "in", **in_thread(gone))
    assert await counts(world, room, BOB) == {gone: (1, 0)}
    await world.receipts.send(BOB, room, "m.read", inside, gone)
    assert await counts(world, room, BOB) == {}
    await world.receipts.received([Received(room, inside, gone), Received(room, inside, "$" + "y" * 43)])
    seen = joined(await world.sync(ALICE), room)["ephemeral"]["events"]
    assert seen[-1]["content"][inside]["m.read"][DAVE]["thread_id"] == gone
    said = await world.say(room, ALICE, "x")
    reaction = await world.composer.send(
        room, ALICE, "m.reaction", {"m.relates_to": {"rel_type": "m.annotation", "event_id": said, "key": "k"}}
    )
    await world.compose(room, ALICE, "m.room.message", {"body": "from elsewhere", **in_thread(reaction)})
    assert await counts(world, room, BOB) == {"main": (2, 0)}


async def test_a_redacted_message_can_still_be_what_one_has_read_last(world: World) -> None:
    room = await world.room(ALICE, BOB)
    root = await world.say(room, ALICE, "root")
    await world.say(room, ALICE, "in", **in_thread(root))
    last = await world.say(room, ALICE, "in again", **in_thread(root))
    await world.composer.send(room, ALICE, "m.room.redaction", {}, redacts=last)
    await world.receipts.send(BOB, room, "m.read", last, root)
    assert root not in await counts(world, room, BOB)
    with pytest.raises(errors.InvalidParam):
        await world.receipts.send(BOB, room, "m.read", last, "$" + "x" * 43)


async def test_a_room_marked_unread_is_told_to_ones_other_devices(world: World) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.sync(BOB)
    await world.account_data.put(BOB, room, "m.marked_unread", {"unread": True})
    found = joined(await world.sync(BOB, first), room)
    assert found["account_data"]["events"] == [{"type": "m.marked_unread", "content": {"unread": True}}]
    assert found["unread_notifications"] == {"notification_count": 0, "highlight_count": 0}


async def test_a_receipt_must_fit_its_thread_and_its_room(world: World) -> None:
    room, other = await world.room(BOB, ALICE), await world.room(BOB, ALICE)
    root = await world.say(room, ALICE, "root")
    inside = await world.say(room, ALICE, "in", **in_thread(root))
    for event_id, thread in ((inside, "main"), (inside, inside[:-1] + "x"), ("$nothing", None)):
        with pytest.raises(errors.InvalidParam):
            await world.receipts.send(BOB, room, "m.read", event_id, thread)
    with pytest.raises(errors.InvalidParam):
        await world.receipts.send(BOB, other, "m.read", root)
    with pytest.raises(errors.Forbidden):
        await world.receipts.send(CAROL, room, "m.read", root)
    await world.receipts.send(BOB, room, "m.read", root, "main")
    await world.receipts.send(BOB, room, "m.read", root, root)


async def test_who_leaves_has_nothing_unread(world: World) -> None:
    room = await world.room(ALICE, BOB)
    await world.say(room, ALICE, "x")
    await world.memberships.leave(BOB, room)
    assert await counts(world, room, BOB) == {}


async def test_others_see_a_public_receipt_and_not_a_private_one(world: World) -> None:
    room = await world.room(ALICE, BOB)
    said = await world.say(room, ALICE, "x")
    alice, bob = await world.sync(ALICE), await world.sync(BOB)
    await world.receipts.send(BOB, room, "m.read.private", said)
    assert "rooms" not in await world.sync(ALICE, alice)
    own = joined(await world.sync(BOB, bob), room)
    content = own["ephemeral"]["events"][0]["content"]
    assert set(content[said]) == {"m.read.private"}
    assert own["unread_notifications"]["notification_count"] == 0
    await world.receipts.send(BOB, room, "m.read", said, "main")
    seen = joined(await world.sync(ALICE, alice), room)["ephemeral"]["events"]
    assert [one["type"] for one in seen] == ["m.receipt"]
    assert seen[0]["content"][said]["m.read"][BOB]["thread_id"] == "main"
    whole = joined(await world.sync(ALICE), room)["ephemeral"]["events"]
    assert whole[0]["content"] == seen[0]["content"]


async def test_other_servers_are_told_of_public_receipts_only_the_newest(world: World) -> None:
    room = await world.room(ALICE, BOB)
    said = [await world.say(room, ALICE, str(number)) for number in range(2)]
    await with_remote_member(world, room)
    await world.receipts.send(BOB, room, "m.read.private", said[0])
    assert await queued(world) == []
    for event_id in said:
        await world.receipts.send(BOB, room, "m.read", event_id)
    (edu,) = await queued(world)
    assert edu["edu_type"] == "m.receipt"
    assert edu["content"][room]["m.read"][BOB]["event_ids"] == [said[1]]
    assert set(edu["content"][room]["m.read"][BOB]["data"]) == {"ts"}


class Received:
    """A receipt as another server's EDU gives it."""

    def __init__(self, room_id: str, event_id: str, thread_id: str | None = None) -> None:
        self.room_id, self.event_id, self.thread_id = room_id, event_id, thread_id
        self.user_id, self.ts = DAVE, 5


async def test_receipts_of_other_servers_are_shown(world: World) -> None:
    room = await world.room(ALICE)
    said = await world.say(room, ALICE, "x")
    first = await world.sync(ALICE)
    await world.receipts.received(
        [Received(room, said), Received(room, said, "$made-up"), Received(room, "garbage"), Received("!no:b", said)]
    )
    (seen,) = joined(await world.sync(ALICE, first), room)["ephemeral"]["events"]
    assert seen["content"] == {said: {"m.read": {DAVE: {"ts": 5}}}}


async def test_the_fully_read_marker_is_account_data_and_only_moves_forward(world: World) -> None:
    room = await world.room(ALICE, BOB)
    said = [await world.say(room, ALICE, str(number)) for number in range(2)]
    await world.markers.set(BOB, room, fully_read=said[1], read=said[1])
    await world.markers.set(BOB, room, fully_read=said[0])
    assert await world.account_data.get(BOB, room, "m.fully_read") == {"event_id": said[1]}
    assert await counts(world, room, BOB) == {}


async def test_notifications_are_listed_with_whether_they_are_read(world: World) -> None:
    room = await world.room(ALICE)
    await world.say(room, ALICE, "before bob came")
    await world.memberships.join(BOB, room)
    said = [await world.say(room, ALICE, str(number)) for number in range(3)]
    await world.say(room, ALICE, "bob!", **mentioning(BOB))
    await world.receipts.send(BOB, room, "m.read", said[1])
    service = Notifications(world.db)
    page, more = await service.page(BOB, None, 3)
    assert [(one["event"]["content"]["body"], one["read"]) for one in page] == [("bob!", False), ("2", False), ("1", True)]
    rest, end = await service.page(BOB, more, 3)
    assert [one["event"]["content"]["body"] for one in rest] == ["0"]
    assert end is None
    highlights, _ = await service.page(BOB, None, 10, highlights_only=True)
    assert [one["event"]["content"]["body"] for one in highlights] == ["bob!"]


async def listed(world: World, user_id: str, limit: int = 20) -> dict[str, bool]:
    page, _ = await Notifications(world.db).page(user_id, None, limit)
    return {one["event"]["content"]["body"]: one["read"] for one in page}


async def test_notifications_are_read_as_they_are_counted(world: World) -> None:
    room, other = await world.room(BOB, ALICE), await world.room(BOB, ALICE)
    root = await world.say(room, ALICE, "root")
    await world.say(room, ALICE, "in thread", **in_thread(root))
    await world.say(room, ALICE, "after it")
    await world.say(other, ALICE, "elsewhere")
    assert await listed(world, BOB) == {"elsewhere": False, "after it": False, "in thread": False, "root": False}
    await world.composer.send(room, BOB, "m.room.topic", {"topic": "t"}, state_key="")
    assert not any((await listed(world, BOB)).values())
    await world.say(room, BOB, "an answer")
    assert await listed(world, BOB) == {"elsewhere": False, "after it": True, "in thread": False, "root": True}
    assert await counts(world, room, BOB) == {root: (1, 0)}
    await world.say(room, ALICE, "again", **in_thread(root))
    await world.say(room, ALICE, "and again")
    answer = await world.say(room, BOB, "an answer there", **in_thread(root))
    await world.say(room, ALICE, "the last", **in_thread(root))
    expected = {"the last": False, "and again": False, "again": True, "elsewhere": False, "after it": True, "in thread": True, "root": True}
    assert await listed(world, BOB) == expected
    assert await counts(world, room, BOB) == {"main": (1, 0), root: (1, 0)}
    await world.receipts.send(BOB, room, "m.read.private", answer)
    assert await listed(world, BOB) == {**expected, "and again": True}


async def test_a_receipt_in_a_thread_reads_notifications_of_that_thread_alone(world: World) -> None:
    room = await world.room(ALICE, BOB)
    root = await world.say(room, ALICE, "root")
    threaded = await world.say(room, ALICE, "in thread", **in_thread(root))
    main = await world.say(room, ALICE, "after it")
    await world.receipts.send(BOB, room, "m.read", threaded, root)
    assert await listed(world, BOB) == {"after it": False, "in thread": True, "root": False}
    await world.receipts.send(BOB, room, "m.read.private", main, "main")
    assert await listed(world, BOB) == {"after it": True, "in thread": True, "root": True}
    await world.say(room, ALICE, "more", **in_thread(root))
    assert (await listed(world, BOB, 1)) == {"more": False}


async def test_typing_is_seen_and_ends_by_itself(world: World, autojump_clock: trio.testing.MockClock) -> None:
    room = await world.room(ALICE, BOB)
    seen: list[tuple[float, list[str]]] = []

    async def watch() -> None:
        answer = await world.sync(ALICE)
        while len(seen) < 2:
            answer = await world.sync(ALICE, answer, timeout_ms=60_000)
            (event,) = joined(answer, room)["ephemeral"]["events"]
            seen.append((trio.current_time(), event["content"]["user_ids"]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.typing.run)
        nursery.start_soon(watch)
        await trio.sleep(1)
        started = trio.current_time()
        await world.typing.set(BOB, room, True, 20_000)
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert [users for _, users in seen] == [[BOB], []]
    assert seen[1][0] - started == pytest.approx(20, abs=0.1)


async def test_typing_ends_after_two_minutes_at_most_and_so_many_type_at_once(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    room_id = await world.room(ALICE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.typing.run)
        await world.typing.set(ALICE, room_id, True, 10**9)
        for number in range(ephemeral.MAX_TYPING + 5):
            await world.typing.received(room_id, f"@u{number}:b.example", True)
        assert len(world.typing.in_room(room_id)) == ephemeral.MAX_TYPING
        await trio.sleep(119)
        assert world.typing.in_room(room_id) == [ALICE]
        await trio.sleep(2)
        assert world.typing.in_room(room_id) == []
        nursery.cancel_scope.cancel()
    for number in range(ephemeral.MAX_ROOMS + 5):
        await world.typing.received(f"!{number}:b.example", "@u:b.example", True)
    assert len(world.typing.changed(0)) == ephemeral.MAX_ROOMS


async def test_typing_again_wakes_nobody_and_stopping_does(world: World) -> None:
    room = await world.room(ALICE, BOB)
    await world.typing.set(BOB, room, True)
    first = await world.sync(ALICE)
    assert {"type": "m.typing", "content": {"user_ids": [BOB]}} in joined(first, room)["ephemeral"]["events"]
    await world.typing.set(BOB, room, True)
    assert "rooms" not in await world.sync(ALICE, first)
    await world.typing.set(BOB, room, False)
    (event,) = joined(await world.sync(ALICE, first), room)["ephemeral"]["events"]
    assert event["content"] == {"user_ids": []}


async def test_typing_goes_to_other_servers_and_comes_from_them(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    room = await world.room(ALICE)
    await with_remote_member(world, room)
    await world.typing.set(ALICE, room, True, 30_000)
    await world.typing.set(ALICE, room, True, 30_000)
    (edu,) = await queued(world)
    assert edu == {"edu_type": "m.typing", "content": {"room_id": room, "user_id": ALICE, "typing": True}}
    await world.typing.set(ALICE, room, False)
    (edu,) = await queued(world)
    assert edu["content"]["typing"] is False
    await world.typing.received(room, DAVE, True)
    assert world.typing.in_room(room) == [DAVE]


async def test_only_members_type(world: World) -> None:
    room = await world.room(ALICE)
    with pytest.raises(errors.Forbidden):
        await world.typing.set(BOB, room, True)


async def test_notifications_older_than_what_one_page_looks_at_are_on_a_later_one(world: World) -> None:
    room, busy = await world.room(ALICE, BOB), await world.room(ALICE, CAROL)
    await world.say(room, ALICE, "long ago")
    await world.say(busy, ALICE, "elsewhere")
    last = (await world.event(await world.say(busy, ALICE, "elsewhere"))).stream
    assert last is not None

    def pass_time(tx: Transaction) -> None:
        """As if the server had seen so many events since."""
        number = tx.one("SELECT max(event) FROM events")[0]
        tx.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO events (event_id, room, stream, depth, tie, pdu)"
            " SELECT 'filler ' || i, room, ? + i, 1, 0, x'7b7d' FROM n, events WHERE event = ?",
            (room_views.RECENT, last, number),
        )

    await world.db.write(pass_time)
    service = Notifications(world.db)
    page, more = await service.page(BOB, None, 10)
    assert page == []
    rest, end = await service.page(BOB, more, 10)
    assert [one["event"]["content"]["body"] for one in rest] == ["long ago"]
    assert end is None
