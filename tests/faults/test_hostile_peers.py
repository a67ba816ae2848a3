"""Servers that keep the protocol's form and mean harm: forged depths, floods, endless ancestors, doctored state, missing keys."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import pytest
import trio

from edgeserver.federation import inbound, key_response, lookups
from edgeserver.matrix.signatures import SigningKey
from edgeserver.rooms import event_source, missing
from edgeserver.store import events
from tests.faults.stranger import V1, Stranger, targets
from tests.faults.test_bad_peers import visited
from tests.faults.test_bodies import UNLIMITED
from tests.flows.world import World, until

KEY_QUERY = "/_matrix/key/v2/query"


def pdus(*found: Any) -> dict[str, Any]:
    return {"pdus": [one.pdu for one in found], "events": [one.pdu for one in found]}


def asked(stranger: Stranger, begin: str) -> int:
    return sum(target.startswith(begin) for target in stranger.asked)


def give(stranger: Stranger, *found: Any) -> None:
    """Answers /event with these events."""
    by_id = {one.event_id: one for one in found}
    stranger.answers[f"{V1}/event/"] = lambda target: pdus(by_id[unquote(target.rsplit("/", 1)[1])])


async def rows_of(box: Any, event_id: str) -> int:
    found = await box.box.ground.db.read(lambda tx: tx.one("SELECT count(*) FROM events WHERE event_id = ?", (event_id,)))
    return int(found[0])


# Depth


@pytest.mark.parametrize("depth", [0, 1, 2**53 - 1])
async def test_a_forged_depth_disorders_no_timeline_and_boxes_page_alike(tmp_path, autojump_clock, depth):
    async with visited(tmp_path) as (world, _, alice, room_id, stranger, _joined):
        bob = await (await world.box("b", UNLIMITED)).person("bob")
        await bob.join(room_id, "a.test")
        bobs = (await alice.state(room_id))["m.room.member", bob.user_id]
        await alice.say(room_id, "before")
        forged = stranger.message(room_id, [bobs], depth, "forged")
        for server in ("a.test", "b.test"):
            assert await stranger.transaction(server, [forged.pdu]) == {forged.event_id: {}}
        await until(lambda: has(bob, room_id, "before"))
        for number in range(3):
            await alice.say(room_id, f"alice {number}")
            await until(lambda number=number: has(bob, room_id, f"alice {number}"))
            await bob.say(room_id, f"bob {number}")
            await until(lambda number=number: has(alice, room_id, f"bob {number}"))
        ordered = [f"{who} {number}" for number in range(3) for who in ("alice", "bob")]
        at_alice, at_bob = await paged(alice, room_id), await paged(bob, room_id)
        assert at_alice == at_bob
        assert [text for text in at_alice if text not in ("before", "forged")] == ordered
        assert set(at_alice[:2]) == {"before", "forged"}


async def has(person: Any, room_id: str, text: str) -> bool:
    return text in await person.texts(room_id)


async def paged(person: Any, room_id: str) -> list[str]:
    """The room's texts, oldest first, read in the smallest pages."""
    found: list[str] = []
    token = None
    while True:
        query = {"dir": "b", "limit": "1", **({"from": token} if token else {})}
        page = await person.ok("GET", f"/rooms/{room_id}/messages", query=query)
        found += [event["content"]["body"] for event in page["chunk"] if event["type"] == "m.room.message"]
        token = page.get("end")
        if not token:
            return found[::-1]


async def test_history_with_forged_depths_is_shown_in_the_order_in_which_it_was_said(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, _joined):
        said = [stranger.message(room_id, ["$" + "x" * 43], 4, "what nobody has")]
        for number, depth in enumerate([9, 0, 2**53 - 1, 3, 2**53 - 1, 1]):
            said.append(stranger.message(room_id, [said[-1].event_id], depth, f"{number}"))
        state = list((await alice.state(room_id)).values())
        stranger.answers[f"{V1}/state_ids"] = lambda _: {"pdu_ids": state, "auth_chain_ids": []}
        stranger.answers[f"{V1}/backfill"] = lambda _: {"pdus": [one.pdu for one in reversed(said[1:-1])]}
        give(stranger, *said)
        assert await stranger.transaction("a.test", [said[-1].pdu]) == {said[-1].event_id: {}}
        assert await alice.texts(room_id) == ["0", "1", "2", "3", "4", "5"]
        assert await paged(alice, room_id) == ["0", "1", "2", "3", "4", "5"]


# What events refer to


async def test_an_event_that_names_another_rooms_events_before_it_is_not_judged_by_that_rooms_state(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, joined):
        other = await alice.create_room(preset="public_chat", room_version="11")
        await alice.ok("PUT", f"/rooms/{other}/state/m.room.topic", {"topic": "there"})
        elsewhere = (await alice.state(other))["m.room.topic", ""]
        before = await alice.state(room_id)
        for prevs in ([elsewhere], [joined.event_id, elsewhere]):
            mixed = stranger.message(room_id, prevs, joined.depth + 1, "from elsewhere")
            answer = await stranger.transaction("a.test", [mixed.pdu])
            assert "error" in answer[mixed.event_id]
        assert await alice.state(room_id) == before
        assert await alice.texts(room_id) == []


async def test_ancestors_without_end_cost_a_bounded_number_of_requests(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, joined):
        good = stranger.auth
        chain = [stranger.message(room_id, [joined.event_id], 1, "root")]
        for number in range(event_source.MAX_REQUESTS + 100):
            changes = {"type": "m.room.member", "state_key": stranger.user_id, "content": {"membership": "join", "n": number}}
            chain.append(stranger.message(room_id, [joined.event_id], 1, "", auth_events=[*good[:1], chain[-1].event_id], **changes))
        give(stranger, *chain)
        stranger.answers[f"{V1}/event_auth"] = lambda _: {"auth_chain": []}
        late = stranger.message(room_id, [joined.event_id], joined.depth + 1, "late", auth_events=[*good[:-1], chain[-1].event_id])
        answer = await stranger.transaction("a.test", [late.pdu])
        assert answer[late.event_id] == {} or "error" in answer[late.event_id]
        with trio.move_on_after(120):
            await trio.sleep_forever()
        one_go = event_source.MAX_REQUESTS + 1
        assert asked(stranger, f"{V1}/event/") <= 4 * one_go  # once, and each time that it is asked for again
        assert await alice.texts(room_id) == []
        await alice.say(room_id, "still here")


async def test_a_gap_without_end_is_filled_so_far_and_no_further(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, box, alice, room_id, stranger, joined):
        said = [joined]
        for number in range(event_source.GAP_LIMIT + 300):
            said.append(stranger.message(room_id, [said[-1].event_id], number + 9, f"{number}"))
        place = {one.event_id: index for index, one in enumerate(said)}
        state = list((await alice.state(room_id)).values())
        latest = [len(said) - 1]

        def older(_: str) -> dict[str, Any]:
            latest[0] -= missing.GAP_PAGE
            return pdus(*said[max(latest[0], 1) : latest[0] + missing.GAP_PAGE])

        stranger.answers[f"{V1}/get_missing_events"] = older
        stranger.answers[f"{V1}/state_ids"] = lambda _: {"pdu_ids": state, "auth_chain_ids": []}
        give(stranger, *said)
        assert await stranger.transaction("a.test", [said[-1].pdu]) == {said[-1].event_id: {}}
        assert asked(stranger, f"{V1}/get_missing_events") == event_source.GAP_LIMIT // missing.GAP_PAGE
        held = await box.box.ground.db.read(lambda tx: events.whereabouts(tx, place))
        assert sum(one.placed for one in held.values()) == event_source.GAP_LIMIT + 2


async def test_what_a_server_adds_to_asked_for_history_is_not_taken(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, joined):
        first = stranger.message(room_id, [joined.event_id], joined.depth + 1, "first")
        second = stranger.message(room_id, [first.event_id], joined.depth + 2, "second")
        beside = stranger.message(room_id, [joined.event_id], joined.depth + 1, "made up beside it")
        state = list((await alice.state(room_id)).values())
        stranger.answers[f"{V1}/state_ids"] = lambda _: {"pdu_ids": state, "auth_chain_ids": []}
        stranger.answers[f"{V1}/backfill"] = lambda _: pdus(second, first, beside)
        give(stranger, first)
        await stranger.transaction("a.test", [second.pdu])
        assert await alice.texts(room_id) == ["first", "second"]


@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_doctored_state_before_a_missing_event_does_what_state_resolution_allows_and_no_more(tmp_path, autojump_clock, version):
    async with World(tmp_path) as world:
        box = await world.box("a", UNLIMITED)
        alice = await box.person("alice")
        levels = {"users": {} if version == "12" else {alice.user_id: 100}}
        room_id = await alice.create_room(preset="public_chat", room_version=version, power_level_content_override=levels)
        stranger = Stranger(world)
        joined = await stranger.join("a.test", room_id, version)
        content = await alice.ok("GET", f"/rooms/{room_id}/state/m.room.power_levels/")
        users = {**content["users"], stranger.user_id: 100 if version == "12" else 99}
        await alice.ok("PUT", f"/rooms/{room_id}/state/m.room.power_levels", {**content, "users": users})
        await alice.ok("PUT", f"/rooms/{room_id}/state/m.room.topic", {"topic": "old"})
        stale = await alice.state(room_id)
        await alice.ok("PUT", f"/rooms/{room_id}/state/m.room.power_levels", content)
        await alice.ok("PUT", f"/rooms/{room_id}/state/m.room.topic", {"topic": "new"})
        now = await alice.state(room_id)
        mine = stale["m.room.power_levels", ""]
        auth = [*([] if version == "12" else [stale["m.room.create", ""]]), mine, stale["m.room.member", stranger.user_id]]
        stranger.answers[f"{V1}/state_ids"] = lambda _: {"pdu_ids": list(stale.values()), "auth_chain_ids": []}
        hidden = stranger.message(room_id, [joined.event_id], joined.depth + 1, "hidden", auth_events=auth)
        give(stranger, hidden)
        coup = {"type": "m.room.topic", "state_key": "", "content": {"topic": "mine"}}
        taken = [
            stranger.message(room_id, [hidden.event_id], 50, "", auth_events=auth, **coup),
            stranger.message(room_id, [hidden.event_id], 50, "a message is all that is left to say", auth_events=auth),
        ]
        for event in taken:
            await stranger.transaction("a.test", [event.pdu])
        assert await alice.state(room_id) == now
        assert "mine" not in [one.get("topic") for one in await contents(alice, room_id)]
        await alice.say(room_id, "on")
        assert await alice.state(room_id) == now


async def contents(person: Any, room_id: str) -> list[dict[str, Any]]:
    page = await person.ok("GET", f"/rooms/{room_id}/messages", query={"dir": "b", "limit": "100"})
    return [event["content"] for event in page["chunk"]]


async def test_what_follows_rejected_and_soft_failed_events_is_judged_and_they_are_shown_to_nobody(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, box, alice, room_id, stranger, joined):
        before = await alice.state(room_id)
        # Rejected: a topic without the power. Soft-failed: said before a ban, told after it.
        coup = {"type": "m.room.topic", "state_key": "", "content": {"topic": "mine"}}
        rejected = stranger.message(room_id, [joined.event_id], joined.depth + 1, "", **coup)
        after = stranger.message(room_id, [rejected.event_id], joined.depth + 2, "after a rejected one")
        answer = await stranger.transaction("a.test", [rejected.pdu, after.pdu])
        assert "error" in answer[rejected.event_id]
        assert answer[after.event_id] == {}
        citing = stranger.message(room_id, [joined.event_id], joined.depth + 2, "cites", auth_events=[*stranger.auth, rejected.event_id])
        assert "error" in (await stranger.transaction("a.test", [citing.pdu]))[citing.event_id]
        await alice.ok("POST", f"/rooms/{room_id}/ban", {"user_id": stranger.user_id})
        late = stranger.message(room_id, [after.event_id], joined.depth + 3, "before the ban, he says")
        assert await stranger.transaction("a.test", [late.pdu]) == {late.event_id: {}}
        assert await alice.texts(room_id) == ["after a rejected one"]
        assert (await alice.state(room_id))["m.room.join_rules", ""] == before["m.room.join_rules", ""]
        assert ("m.room.topic", "") not in await alice.state(room_id)
        for event, standing in ((rejected, events.Standing.REJECTED), (late, events.Standing.SOFT_FAILED)):
            stored = await box.box.ground.db.read(lambda tx, event=event: events.get(tx, event.event_id))
            assert (stored.standing, stored.is_outlier) == (standing, False)
            assert (await alice.request("GET", f"/rooms/{room_id}/event/{event.event_id}")).status == 404


# Keys


async def test_an_event_whose_authors_keys_cannot_be_had_is_asked_for_again_until_they_can(tmp_path, autojump_clock):
    async with visited(tmp_path) as (world, box, alice, room_id, stranger, _joined):
        author = Stranger(world, "author.test", b"o" * 32)
        theirs = await author.join("a.test", room_id)
        author.key = SigningKey(b"n" * 32, "ed25519:new")  # nobody has seen this one, and its owner goes away
        author.vanish()
        message = author.message(room_id, [theirs.event_id], theirs.depth + 1, "to be judged later")
        forged = {**message.pdu, "signatures": {author.name: {"ed25519:new": "A" * 86}}, "depth": 7}
        give(stranger, message)
        answer = await stranger.transaction("a.test", [message.pdu, forged])
        assert all("error" in result for result in answer.values())
        assert await alice.texts(room_id) == []
        await box.stop()
        await box.start()
        await trio.sleep(1800)
        author.appear()
        await until(lambda: has(alice, room_id, "to be judged later"), seconds=7200)
        assert await alice.texts(room_id) == ["to be judged later"]


async def test_an_event_that_waits_for_its_authors_keys_is_taken_as_soon_as_the_author_is_heard_of(tmp_path, autojump_clock):
    async with visited(tmp_path) as (world, _, alice, room_id, stranger, _joined):
        author = Stranger(world, "author.test", b"o" * 32)
        theirs = await author.join("a.test", room_id)
        author.key = SigningKey(b"n" * 32, "ed25519:new")
        author.vanish()
        message = author.message(room_id, [theirs.event_id], theirs.depth + 1, "mine")
        give(stranger, message)
        await stranger.transaction("a.test", [message.pdu])
        await trio.sleep(50_000)
        author.appear()
        await author.transaction("a.test")
        await until(lambda: has(alice, room_id, "mine"), seconds=60)


@pytest.mark.parametrize("vouching", [1, 2])
async def test_an_absent_authors_keys_are_believed_if_two_servers_of_the_room_tell_them_alike(tmp_path, autojump_clock, vouching):
    async with visited(tmp_path) as (world, _, alice, room_id, stranger, joined):
        other = Stranger(world, "other.test", b"w" * 32)
        await other.join("a.test", room_id)
        absent = Stranger(world, "absent.test", b"o" * 32)
        absent.vanish()
        keys = key_response.write(absent.name, absent.key, (), absent.now())
        for witness in (stranger, other)[:vouching]:
            witness.answers[KEY_QUERY] = lambda _: {"server_keys": [keys]}
        member = {"type": "m.room.member", "state_key": absent.user_id, "content": {"membership": "join"}}
        absent.auth = stranger.auth[:-1]
        rules = (await alice.state(room_id))["m.room.join_rules", ""]
        came = absent.message(room_id, [joined.event_id], joined.depth + 1, "", **member, auth_events=[*absent.auth, rules])
        answer = await stranger.transaction("a.test", [came.pdu])
        assert ("error" in answer[came.event_id]) is (vouching == 1)
        members = (await alice.ok("GET", f"/rooms/{room_id}/joined_members"))["joined"]
        assert (absent.user_id in members) is (vouching == 2)


async def test_made_up_servers_are_looked_up_a_few_times_and_no_more(tmp_path, autojump_clock):
    async with visited(tmp_path) as (world, _, _alice, room_id, stranger, joined):
        tried = targets(world)
        for number in range(4):
            made_up = []
            for index in range(50):
                name = f"x{number}-{index}.invented.test"
                pdu = stranger.message(room_id, [joined.event_id], joined.depth + 1, "boo", sender=f"@x:{name}").pdu
                made_up.append({**pdu, "signatures": {name: {"ed25519:e": "A" * 86}}})
            answer = await stranger.transaction("a.test", made_up)
            assert all("error" in result for result in answer.values())
        invented = sum(name.endswith(".invented.test") for name in tried)
        assert 40 <= invented <= lookups.OF_TELLER.burst + 5
        # Whoever is known is not held up by it.
        good = stranger.message(room_id, [joined.event_id], joined.depth + 1, "hello")
        assert await stranger.transaction("a.test", [good.pdu]) == {good.event_id: {}}


# Time, order and paths


@asynccontextmanager
async def slow_and_quick(tmp_path):
    """A stranger in two rooms, of which one has an event whose gap is never filled."""
    async with visited(tmp_path) as (world, box, alice, slow, stranger, joined):
        quick = await alice.create_room(preset="public_chat", room_version="11")
        in_slow = stranger.auth
        there = await stranger.join("a.test", quick)
        in_quick, stranger.auth = stranger.auth, in_slow
        gap = stranger.message(slow, [joined.event_id], joined.depth + 1, "in the gap")
        stuck = stranger.message(slow, [gap.event_id], joined.depth + 2, "stuck")

        async def never(_: str) -> Any:
            await trio.sleep(50)
            return pdus(gap)

        stranger.answers[f"{V1}/get_missing_events"] = never
        give(stranger, gap, stuck)
        stranger.auth = in_quick
        yield world, box, alice, slow, quick, stranger, stuck, there


async def test_a_slow_room_holds_up_neither_other_rooms_nor_the_next_transaction_for_long(tmp_path, autojump_clock):
    async with slow_and_quick(tmp_path) as (_, _, alice, slow, quick, stranger, stuck, there):
        one = stranger.message(quick, [there.event_id], there.depth + 1, "one")
        two = stranger.message(quick, [one.event_id], there.depth + 2, "two")
        began = trio.current_time()
        answer = await stranger.transaction("a.test", [stuck.pdu, one.pdu])
        assert answer == {stuck.event_id: {}, one.event_id: {}}
        assert await stranger.transaction("a.test", [two.pdu]) == {two.event_id: {}}
        assert trio.current_time() - began < inbound.PATIENCE + 5
        assert await alice.texts(quick) == ["one", "two"]
        await until(lambda: has(alice, slow, "stuck"), seconds=120)
        assert await alice.texts(slow) == ["in the gap", "stuck"]


async def test_what_is_still_under_way_in_the_background_survives_a_restart(tmp_path, autojump_clock):
    async with slow_and_quick(tmp_path) as (_, box, alice, slow, _, stranger, stuck, _):
        assert await stranger.transaction("a.test", [stuck.pdu]) == {stuck.event_id: {}}
        await box.stop()
        await box.start()
        await until(lambda: has(alice, slow, "stuck"), seconds=3600)
        assert await alice.texts(slow) == ["in the gap", "stuck"]


async def test_more_transactions_at_once_than_may_wait_are_put_off(tmp_path, autojump_clock):
    async with slow_and_quick(tmp_path) as (_, _, _alice, _, _, stranger, stuck, _):
        statuses: list[int] = []

        async def send(number: int) -> None:
            content = {"origin": stranger.name, "pdus": [stuck.pdu], "edus": []}
            status, _ = await stranger.ask("a.test", "PUT", f"{V1}/send/flood{number}", content)
            statuses.append(status)

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(send, number)
        assert statuses.count(200) == inbound.MAX_WAITING
        assert statuses.count(429) == 30 - inbound.MAX_WAITING


async def test_rooms_beyond_what_may_go_on_in_the_background_are_put_off_and_not_lost(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, box, alice, _, stranger, _):
        stuck, gaps, rooms = [], [], []
        for _ in range(inbound.MAX_BEHIND_OF_ORIGIN + 3):
            room_id = await alice.create_room(preset="public_chat", room_version="11")
            joined = await stranger.join("a.test", room_id)
            gaps.append(stranger.message(room_id, [joined.event_id], joined.depth + 1, "in the gap"))
            stuck.append(stranger.message(room_id, [gaps[-1].event_id], joined.depth + 2, "stuck"))
            rooms.append(room_id)

        async def never(_: str) -> Any:
            await trio.sleep_forever()

        give(stranger, *gaps, *stuck)
        stranger.answers[f"{V1}/get_missing_events"] = never
        answer = await stranger.transaction("a.test", [event.pdu for event in stuck])
        assert list(answer.values()) == [{}] * len(stuck)
        await trio.sleep(20)
        assert len(box.box.inward.inbound._behind) <= inbound.MAX_BEHIND_OF_ORIGIN
        state = {}
        for room_id in rooms:
            state[room_id] = list((await alice.state(room_id)).values())
        stranger.answers[f"{V1}/get_missing_events"] = lambda _: {"events": []}
        stranger.answers[f"{V1}/state_ids"] = lambda target: {
            "pdu_ids": next(ids for room_id, ids in state.items() if room_id in unquote(target)),
            "auth_chain_ids": [],
        }
        for room_id in rooms:
            await until(lambda room_id=room_id: has(alice, room_id, "stuck"), seconds=7200)


async def test_a_gap_that_could_not_be_filled_is_filled_when_its_server_answers_again(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, box, alice, room_id, stranger, joined):
        first = stranger.message(room_id, [joined.event_id], joined.depth + 1, "first")
        second = stranger.message(room_id, [first.event_id], joined.depth + 2, "second")
        answer = await stranger.transaction("a.test", [second.pdu])
        assert "error" in answer[second.event_id]
        await box.stop()
        await box.start()
        stranger.answers[f"{V1}/get_missing_events"] = lambda _: pdus(first)
        give(stranger, first, second)
        await until(lambda: has(alice, room_id, "second"), seconds=600)
        assert await alice.texts(room_id) == ["first", "second"]


async def test_one_event_by_many_paths_at_once_is_one_event(tmp_path, autojump_clock):
    async with visited(tmp_path) as (world, box, alice, room_id, stranger, joined):
        other = Stranger(world, "other.test", b"w" * 32)
        await other.join("a.test", room_id)
        one = stranger.message(room_id, [joined.event_id], joined.depth + 1, "one")
        two = stranger.message(room_id, [one.event_id], joined.depth + 2, "two")
        three = stranger.message(room_id, [two.event_id], joined.depth + 3, "three")
        for source in (stranger, other):
            source.answers[f"{V1}/get_missing_events"] = lambda _: pdus(one, two)
            source.answers[f"{V1}/backfill"] = lambda _: pdus(three, two, one)
            give(source, one, two, three)
        answers: list[Any] = []

        async def send(source: Stranger, *found: Any) -> None:
            answers.append(await source.transaction("a.test", [event.pdu for event in found]))

        async with trio.open_nursery() as nursery:
            for source in (stranger, other):
                nursery.start_soon(send, source, three)
                nursery.start_soon(send, source, two, one)
                nursery.start_soon(send, source, one, two, three, two)
            nursery.start_soon(alice.texts, room_id)
        assert all(result == {} for answer in answers for result in answer.values())
        assert [await rows_of(box, event.event_id) for event in (one, two, three)] == [1, 1, 1]
        assert await alice.texts(room_id) == ["one", "two", "three"]


async def test_a_transaction_id_with_another_body_gets_the_first_answer_and_nothing_is_taken(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, box, alice, room_id, stranger, joined):
        one = stranger.message(room_id, [joined.event_id], joined.depth + 1, "one")
        two = stranger.message(room_id, [one.event_id], joined.depth + 2, "two")
        first = await stranger.transaction("a.test", [one.pdu], txn="t")
        await box.stop()
        await box.start()
        assert await stranger.transaction("a.test", [two.pdu], txn="t") == first == {one.event_id: {}}
        assert await alice.texts(room_id) == ["one"]


# Server ACLs


ACLS = [
    {"allow": ["*"], "deny": ["EVIL.Test"]},
    {"allow": ["*"], "deny": ["*.TEST"]},
    {"allow": ["A.test"], "deny": []},
    {"allow": ["*"], "deny": ["e?il.*"]},
]


@pytest.mark.parametrize("acl", ACLS)
async def test_no_request_about_a_room_is_answered_to_a_server_that_its_acl_shuts_out(tmp_path, autojump_clock, acl):
    async with World(tmp_path) as world:
        box = await world.box("a", UNLIMITED)
        alice = await box.person("alice")
        room_id = await alice.create_room(preset="public_chat", room_version="11")
        stranger = Stranger(world, "evil.test:8448")
        joined = await stranger.join("a.test", room_id)
        endpoints = requests_about(room_id, stranger, joined, alice.user_id)
        for method, target, content in endpoints:
            _, answer = await stranger.ask("a.test", method, target, content)
            assert not isinstance(answer, dict) or answer.get("errcode") != "M_FORBIDDEN", (target, answer)
        await alice.sync()
        await alice.ok("PUT", f"/rooms/{room_id}/state/m.room.server_acl", acl)
        for method, target, content in endpoints:
            status, answer = await stranger.ask("a.test", method, target, content)
            refusal = (404, "M_NOT_FOUND") if "/hierarchy/" in target else (403, "M_FORBIDDEN")  # which has no other answer
            assert (status, answer["errcode"]) == refusal, (target, answer)
        late = stranger.message(room_id, [joined.event_id], joined.depth + 1, "let me in")
        receipt = {room_id: {"m.read": {stranger.user_id: {"event_ids": [joined.event_id], "data": {"ts": 1}}}}}
        edus = [
            {"edu_type": "m.typing", "content": {"room_id": room_id, "user_id": stranger.user_id, "typing": True}},
            {"edu_type": "m.receipt", "content": receipt},
        ]
        answer = await stranger.transaction("a.test", [late.pdu], edus)
        assert "error" in answer[late.event_id]
        seen = (await alice.sync())["rooms"]["join"][room_id]
        assert [event for event in seen["ephemeral"]["events"] if event["type"] in ("m.typing", "m.receipt")] == []
        assert await alice.texts(room_id) == []


def requests_about(room_id: str, stranger: Stranger, joined: Any, alice: str) -> list[tuple[str, str, Any]]:
    """Every request about a room that the spec knows, each of a kind that the room would answer or find fault with otherwise."""
    from edgeserver.federation.calls import path

    v2, event_id, user = "/_matrix/federation/v2", joined.event_id, stranger.user_id
    asking = {"latest_events": [event_id], "earliest_events": []}
    invite = stranger.message(
        room_id, [event_id], 9, "", type="m.room.member", state_key=alice, content={"membership": "invite"}
    )
    found: list[tuple[str, str, Any]] = [
        ("GET", path(f"{V1}/backfill", room_id, v=event_id, limit=5), None),
        ("POST", path(f"{V1}/get_missing_events", room_id), asking),
        ("GET", path(f"{V1}/state", room_id, event_id=event_id), None),
        ("GET", path(f"{V1}/state_ids", room_id, event_id=event_id), None),
        ("GET", path(f"{V1}/event", event_id), None),
        ("GET", path(f"{V1}/event_auth", room_id, event_id), None),
        ("GET", path(f"{V1}/hierarchy", room_id), None),
        ("GET", path(f"{V1}/timestamp_to_event", room_id, ts=1, dir="f"), None),
        ("GET", path(f"{V1}/make_join", room_id, user, ver=["11"]), None),
        ("GET", path(f"{V1}/make_leave", room_id, user), None),
        ("PUT", path(f"{v2}/invite", room_id, invite.event_id), {"event": invite.pdu, "room_version": "11", "invite_room_state": []}),
    ]
    found += [("PUT", path(f"{version}/send_{kind}", room_id, event_id), {"type": 7}) for version in (V1, v2) for kind in ("join", "leave")]
    found.append(("PUT", path(f"{V1}/send_knock", room_id, event_id), {"type": 7}))
    return found

