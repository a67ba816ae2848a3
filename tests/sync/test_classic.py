"""What `/v3/sync` tells of rooms: stories of a few people on one server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from edgeserver.rooms import tokens
from edgeserver.store import device_keys, events, to_device
from edgeserver.store.events import Place
from edgeserver.sync.filters import MAX_LIMIT, UNBROKEN
from tests.sync.world import ALICE, BOB, CAROL, World, bodies, joined, known, open_world, state_of

LAZY = {"room": {"state": {"lazy_load_members": True}}}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as made:
        yield made


async def test_a_first_sync_gives_the_room_whole(world: World) -> None:
    room = await world.room(ALICE, BOB, name="Kitchen")
    await world.say(room, BOB, "hello")
    found = joined(await world.sync(ALICE), room)
    assert bodies(found) == ["hello"]
    assert {"m.room.create", "m.room.power_levels", "m.room.name"} <= {key[0] for key in known(found)}
    assert found["summary"] == {"m.joined_member_count": 2, "m.invited_member_count": 0}
    assert found["unread_notifications"] == {"highlight_count": 0, "notification_count": 1}


async def test_state_and_timeline_of_a_first_sync_do_not_overlap(world: World) -> None:
    room = await world.room()
    for topic in ("one", "two"):
        await world.composer.send(room, ALICE, "m.room.topic", {"topic": topic}, state_key="")
    found = joined(await world.sync(ALICE, wanted={"room": {"timeline": {"limit": 1}}}), room)
    assert [one["content"] for one in found["timeline"]["events"]] == [{"topic": "two"}]
    assert found["timeline"]["limited"]
    assert state_of(found)["m.room.topic", ""]["content"] == {"topic": "one"}
    assert found["timeline"]["events"][0]["unsigned"]["prev_content"] == {"topic": "one"}


async def test_the_next_sync_gives_only_what_is_new(world: World) -> None:
    room, other = await world.room(ALICE, BOB), await world.room()
    first = await world.sync(ALICE)
    await world.say(room, BOB, "news")
    answer = await world.sync(ALICE, first)
    assert bodies(joined(answer, room)) == ["news"]
    assert other not in answer["rooms"]["join"]
    assert not joined(answer, room)["state"]["events"]
    assert not joined(answer, room)["timeline"]["limited"]
    assert "rooms" not in await world.sync(ALICE, answer)


async def test_on_a_box_where_nothing_has_happened_yet_a_sync_waits_like_any_other(world: World, autojump_clock: Any) -> None:
    first = await world.sync(ALICE)
    assert [one["type"] for one in first["account_data"]["events"]] == ["m.push_rules"]
    began = trio.current_time()
    assert "account_data" not in await world.sync(ALICE, first, timeout_ms=30_000)
    assert trio.current_time() - began == 30


async def test_a_gap_is_limited_and_its_state_is_told(world: World) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.sync(ALICE)
    await world.composer.send(room, ALICE, "m.room.name", {"name": "Hall"}, state_key="")
    for number in range(12):
        await world.say(room, BOB, str(number))
    found = joined(await world.sync(ALICE, first), room)
    assert bodies(found) == [str(number) for number in range(2, 12)]
    assert found["timeline"]["limited"]
    assert {key: e["content"] for key, e in state_of(found).items()} == {("m.room.name", ""): {"name": "Hall"}}
    start = tokens.parse(found["timeline"]["prev_batch"])
    oldest = await world.event(found["timeline"]["events"][0]["event_id"])
    assert isinstance(start, Place)
    assert start.depth == oldest.event.depth


async def test_without_a_gap_the_timeline_begins_at_the_token_that_the_client_has(world: World) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.sync(ALICE)
    await world.say(room, BOB, "x")
    second = await world.sync(ALICE, first)
    assert joined(second, room)["timeline"]["prev_batch"] == first["next_batch"]
    wanted = {"room": {"timeline": {"types": ["m.room.message"]}}}
    await world.composer.send(room, ALICE, "m.room.name", {"name": "Hall"}, state_key="")
    await world.say(room, BOB, "y")
    found = joined(await world.sync(ALICE, second, wanted), room)  # what the filter hides is before it, too
    assert bodies(found) == ["y"]
    assert isinstance(tokens.parse(found["timeline"]["prev_batch"]), Place)


async def test_a_change_within_the_gap_and_one_in_the_timeline_end_with_the_last(world: World) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.sync(ALICE)
    for name in ("A", "B"):
        await world.composer.send(room, ALICE, "m.room.name", {"name": name}, state_key="")
    await world.say(room, BOB, "x")
    wanted = {"room": {"timeline": {"limit": 2}}}
    found = joined(await world.sync(ALICE, first, wanted), room)
    assert state_of(found)["m.room.name", ""]["content"] == {"name": "A"}
    after = joined(await world.sync(ALICE, first, wanted, state_after=True), room)
    assert "state" not in after
    assert state_of(after, "state_after")["m.room.name", ""]["content"] == {"name": "B"}


async def test_state_after_tells_of_changes_in_the_timeline_too(world: World) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.sync(ALICE)
    await world.say(room, BOB, "x")
    quiet = await world.sync(ALICE, first, state_after=True)
    assert joined(quiet, room)["state_after"] == {"events": []}
    await world.composer.send(room, ALICE, "m.room.name", {"name": "N"}, state_key="")
    after = joined(await world.sync(ALICE, quiet, state_after=True), room)
    assert state_of(after, "state_after")["m.room.name", ""]["content"] == {"name": "N"}


async def test_state_that_a_filter_takes_out_of_the_timeline_comes_as_state(world: World) -> None:
    room = await world.room(ALICE, BOB)
    wanted = {"room": {"timeline": {"types": ["m.room.mess*"]}}}
    first = await world.sync(ALICE, wanted=wanted)
    await world.composer.send(room, ALICE, "m.room.name", {"name": "N"}, state_key="")
    await world.say(room, BOB, "x")
    found = joined(await world.sync(ALICE, first, wanted), room)
    assert [one["type"] for one in found["timeline"]["events"]] == ["m.room.message"]
    assert set(state_of(found)) == {("m.room.name", "")}


async def test_full_state_answers_at_once_with_all_state_and_only_new_events(world: World) -> None:
    room = await world.room(ALICE, BOB, name="Kitchen")
    first = await world.sync(ALICE)
    found = joined(await world.sync(ALICE, first, full_state=True, timeout_ms=60_000), room)
    assert not found["timeline"]["events"]
    assert {"m.room.create", "m.room.member", "m.room.name"} <= {key[0] for key in state_of(found)}


async def test_an_invite_shows_what_the_room_is(world: World) -> None:
    room = await world.room(ALICE, preset="private_chat", name="Secret")
    first = await world.sync(BOB)
    await world.memberships.invite(ALICE, room, BOB)
    answer = await world.sync(BOB, first)
    found = {(e["type"], e["state_key"]): e for e in answer["rooms"]["invite"][room]["invite_state"]["events"]}
    assert found["m.room.name", ""]["content"] == {"name": "Secret"}
    assert found["m.room.member", BOB]["content"]["membership"] == "invite"
    assert found["m.room.member", ALICE]["content"]["membership"] == "join"
    assert all(set(e) == {"type", "state_key", "content", "sender"} for e in found.values())


async def test_an_invite_by_somebody_ignored_is_not_shown(world: World) -> None:
    await world.account_data.put(BOB, "", "m.ignored_user_list", {"ignored_users": {ALICE: {}}})
    room = await world.room(ALICE, preset="private_chat")
    await world.memberships.invite(ALICE, room, BOB)
    assert "rooms" not in await world.sync(BOB)


async def test_a_declined_invite_is_a_room_left_and_tells_nothing_of_it(world: World) -> None:
    room = await world.room(ALICE, preset="private_chat")
    await world.memberships.invite(ALICE, room, BOB)
    first = await world.sync(BOB)
    await world.say(room, ALICE, "private")
    await world.memberships.leave(BOB, room)
    found = (await world.sync(BOB, first))["rooms"]["leave"][room]
    assert [one["content"]["membership"] for one in found["timeline"]["events"]] == ["leave"]
    assert not found["state"]["events"]


async def test_a_room_is_told_up_to_the_leaving(world: World) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.sync(BOB)
    await world.say(room, ALICE, "before")
    await world.memberships.kick(ALICE, room, BOB)
    await world.say(room, ALICE, "after")
    answer = await world.sync(BOB, first)
    assert bodies(answer["rooms"]["leave"][room]) == ["before"]
    assert "join" not in answer["rooms"]
    assert "rooms" not in await world.sync(BOB, answer)


async def test_rooms_that_were_left_come_with_a_first_sync_only_if_asked_for(world: World) -> None:
    room = await world.room(ALICE, BOB)
    await world.say(room, ALICE, "before")
    await world.memberships.leave(BOB, room)
    assert "rooms" not in await world.sync(BOB)
    answer = await world.sync(BOB, wanted={"room": {"include_leave": True}})
    assert bodies(answer["rooms"]["leave"][room]) == ["before"]
    assert ("m.room.create", "") in known(answer["rooms"]["leave"][room])
    await world.memberships.forget(BOB, room)
    assert "rooms" not in await world.sync(BOB, wanted={"room": {"include_leave": True}})


async def test_who_comes_back_is_given_the_room_whole(world: World) -> None:
    room = await world.room(ALICE, BOB, name="Kitchen")
    await world.memberships.leave(BOB, room)
    first = await world.sync(BOB)
    await world.account_data.put(BOB, room, "x.note", {"a": 1})
    quiet = await world.sync(BOB, first)
    await world.memberships.join(BOB, room)
    found = joined(await world.sync(BOB, quiet), room)
    assert ("m.room.name", "") in known(found)
    assert found["account_data"]["events"] == [{"type": "x.note", "content": {"a": 1}}]


async def test_leaving_and_coming_back_between_two_syncs_gives_the_room_whole(world: World) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.sync(BOB)
    await world.memberships.leave(BOB, room)
    await world.memberships.join(BOB, room)
    assert ("m.room.create", "") in known(joined(await world.sync(BOB, first), room))


async def test_a_new_name_does_not_make_a_room_new(world: World) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.sync(BOB)
    world.names[BOB] = "Robert"
    await world.memberships.profile_changed(BOB)
    found = joined(await world.sync(BOB, first), room)
    assert not found["state"]["events"]
    assert found["timeline"]["events"][0]["content"]["displayname"] == "Robert"


async def test_history_from_before_the_join_is_kept_from_who_may_not_see_it(world: World) -> None:
    rule = {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "joined"}}
    room = await world.room(ALICE, initial_state=[rule])
    await world.say(room, ALICE, "private")
    await world.memberships.join(BOB, room)
    await world.say(room, ALICE, "welcome")
    assert bodies(joined(await world.sync(BOB), room)) == ["welcome"]


async def test_events_of_ignored_people_are_left_out_but_not_their_state(world: World) -> None:
    room = await world.room(ALICE, BOB, CAROL)
    await world.account_data.put(ALICE, "", "m.ignored_user_list", {"ignored_users": {BOB: {}}})
    first = await world.sync(ALICE)
    await world.say(room, BOB, "rude")
    await world.say(room, CAROL, "kind")
    await world.memberships.leave(BOB, room)
    found = joined(await world.sync(ALICE, first), room)
    assert bodies(found) == ["kind"]
    assert found["timeline"]["events"][-1]["type"] == "m.room.member"
    assert found["unread_notifications"]["notification_count"] == 1


async def test_what_was_unread_before_its_sender_was_ignored_is_counted_to_a_client_that_is_not_shown_it(world: World) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.sync(ALICE)
    await world.say(room, BOB, "hello")
    await world.account_data.put(ALICE, "", "m.ignored_user_list", {"ignored_users": {BOB: {}}})
    answer = await world.sync(ALICE, first)
    assert bodies(joined(answer, room)) == []
    assert joined(answer, room)["unread_notifications"] == joined(await world.sync(ALICE), room)["unread_notifications"]
    assert joined(answer, room)["unread_notifications"]["notification_count"] == 1
    await world.say(room, BOB, "still there?")
    assert "rooms" not in await world.sync(ALICE, answer)


async def test_filters_choose_rooms_types_and_senders(world: World) -> None:
    room, other = await world.room(ALICE, BOB, CAROL), await world.room(ALICE, BOB)
    first = await world.sync(ALICE)
    await world.say(room, BOB, "b")
    await world.say(room, CAROL, "c")
    await world.say(other, BOB, "elsewhere")
    only = await world.sync(ALICE, first, {"room": {"not_rooms": [other], "timeline": {"not_senders": [CAROL]}}})
    assert set(only["rooms"]["join"]) == {room}
    assert bodies(joined(only, room)) == ["b"]
    none = await world.sync(ALICE, first, {"room": {"timeline": {"types": ["m.call.*"]}}})
    assert "rooms" not in none
    fields = await world.sync(ALICE, first, {"event_fields": ["content.body", "type"]})
    assert joined(fields, room)["timeline"]["events"][0] == {"content": {"body": "b"}, "type": "m.room.message"}


async def test_lazy_loading_gives_those_who_speak_and_nobody_twice(world: World) -> None:
    room = await world.room(ALICE, BOB, CAROL, name="Kitchen")
    for number in range(11):
        await world.say(room, ALICE, str(number))
    first = await world.sync(ALICE, wanted=LAZY)
    members = {key[1] for key in state_of(joined(first, room)) if key[0] == "m.room.member"}
    assert members == {ALICE}
    await world.say(room, BOB, "hi")
    second = await world.sync(ALICE, first, LAZY)
    assert set(state_of(joined(second, room))) == {("m.room.member", BOB)}
    again = await world.sync(ALICE, first, LAZY)  # the answer was lost: it is given again
    assert set(state_of(joined(again, room))) == {("m.room.member", BOB)}
    await world.say(room, BOB, "still here")
    third = await world.sync(ALICE, second, LAZY)
    assert not joined(third, room)["state"]["events"]
    redundant = {"room": {"state": {"lazy_load_members": True, "include_redundant_members": True}}}
    fourth = await world.sync(ALICE, second, redundant)
    assert set(state_of(joined(fourth, room))) == {("m.room.member", BOB)}
    elsewhere = await world.sync(ALICE, second, LAZY, device_id="OTHER")
    assert set(state_of(joined(elsewhere, room))) == {("m.room.member", BOB)}


async def test_a_device_that_begins_with_what_another_was_told_is_told_of_those_who_speak_then(world: World) -> None:
    room = await world.room(ALICE, BOB, name="Kitchen")
    await world.say(room, BOB, "hello")
    first = await world.sync(ALICE, wanted=LAZY)
    await world.say(room, BOB, "well?")
    assert not joined(await world.sync(ALICE, first, LAZY), room)["state"]["events"]
    anothers = await world.sync(ALICE, f"{first['next_batch']}_0", LAZY)
    assert set(state_of(joined(anothers, room))) == {("m.room.member", BOB)}
    await world.say(room, BOB, "still here")
    assert not joined(await world.sync(ALICE, anothers, LAZY), room)["state"]["events"]


async def test_lazy_loading_gives_the_heroes_of_a_room_without_a_name(world: World) -> None:
    room = await world.room(ALICE, BOB, CAROL)
    found = joined(await world.sync(ALICE, wanted={"room": {"timeline": {"limit": 0}, **LAZY["room"]}}), room)
    assert found["summary"]["m.heroes"] == [BOB, CAROL]
    assert {key[1] for key in state_of(found) if key[0] == "m.room.member"} == {ALICE, BOB, CAROL}
    assert found["timeline"]["limited"]


async def test_a_redacted_event_comes_without_its_content_and_with_the_reason(world: World) -> None:
    room = await world.room(ALICE, BOB)
    event_id = await world.say(room, BOB, "oops")
    await world.composer.send(
        room, BOB, "m.room.redaction", {"redacts": event_id, "reason": "typo"}, redacts=event_id
    )
    shown = joined(await world.sync(ALICE), room)["timeline"]["events"]
    redacted = next(one for one in shown if one["event_id"] == event_id)
    assert redacted["content"] == {}
    assert redacted["unsigned"]["redacted_because"]["content"]["reason"] == "typo"


async def test_a_device_is_told_which_of_its_sendings_an_event_is(world: World) -> None:
    room = await world.room(ALICE, BOB)
    await world.composer.send(room, ALICE, "m.room.message", {"body": "x"}, device_id="DEVICE", txn_id="send/t1")
    mine = joined(await world.sync(ALICE), room)["timeline"]["events"][-1]
    theirs = joined(await world.sync(BOB), room)["timeline"]["events"][-1]
    assert mine["unsigned"]["transaction_id"] == "t1"
    assert "transaction_id" not in theirs["unsigned"]
    assert mine["unsigned"]["membership"] == "join"


async def test_account_data_comes_once_with_its_room_or_without(world: World) -> None:
    room = await world.room()
    first = await world.sync(ALICE)
    assert [one["type"] for one in first["account_data"]["events"]] == ["m.push_rules"]
    await world.account_data.put(ALICE, "", "x.global", {"a": 1})
    await world.account_data.set_tag(ALICE, room, "m.favourite", {})
    answer = await world.sync(ALICE, first)
    assert answer["account_data"]["events"] == [{"type": "x.global", "content": {"a": 1}}]
    tags = joined(answer, room)["account_data"]["events"]
    assert tags == [{"type": "m.tag", "content": {"tags": {"m.favourite": {}}}}]
    assert "account_data" not in await world.sync(ALICE, answer)


async def test_messages_to_a_device_come_in_portions_and_go_when_it_has_them(world: World) -> None:
    def add(tx: Any) -> None:
        for number in range(150):
            to_device.add(tx, ALICE, "DEVICE", {"sender": BOB, "type": "x", "content": {"n": number}})

    await world.db.write(add)
    first = await world.sync(ALICE)
    second = await world.sync(ALICE, first, timeout_ms=60_000)
    got = [one["content"]["n"] for answer in (first, second) for one in answer["to_device"]["events"]]
    assert got == list(range(150))
    third = await world.sync(ALICE, second)
    assert "to_device" not in third
    assert await world.db.read(lambda tx: to_device.pending(tx, ALICE, "DEVICE", 0, 2**62, 10)) == []
    assert third["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert third["device_unused_fallback_key_types"] == []


async def test_a_waiting_device_is_told_when_one_of_its_keys_is_claimed(world: World) -> None:
    await world.db.write(lambda tx: device_keys.add_one_time_key(tx, ALICE, "DEVICE", "signed_curve25519", "A", {}))
    first = await world.sync(ALICE)
    assert first["device_one_time_keys_count"] == {"signed_curve25519": 1}
    await world.db.write(lambda tx: device_keys.claim(tx, ALICE, "DEVICE", "signed_curve25519"))
    answer = await world.sync(ALICE, first, timeout_ms=60_000)
    assert answer["device_one_time_keys_count"] == {"signed_curve25519": 0}


async def test_keys_of_new_companions_in_an_encrypted_room_are_to_be_asked_for(world: World) -> None:
    encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    room = await world.room(ALICE, initial_state=[encryption])
    first = await world.sync(ALICE)
    assert "device_lists" not in first
    await world.memberships.join(BOB, room)
    assert (await world.sync(ALICE, first))["device_lists"] == {"changed": [BOB], "left": []}


async def test_a_poll_ends_with_news_for_its_user_and_sleeps_through_that_of_others(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    room, private = await world.room(ALICE, BOB), await world.room(BOB)
    first = await world.sync(ALICE)
    answers: list[dict[str, Any]] = []

    async def poll() -> None:
        answers.append(await world.sync(ALICE, first, timeout_ms=30_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        await trio.sleep(5)
        await world.say(private, BOB, "not for alice")
        await trio.sleep(5)
        assert not answers
        await world.say(room, BOB, "for alice")
    assert trio.current_time() == pytest.approx(10, abs=1)
    assert bodies(joined(answers[0], room)) == ["for alice"]


async def test_a_poll_without_news_ends_with_its_timeout(world: World, autojump_clock: trio.testing.MockClock) -> None:
    await world.room()
    first = await world.sync(ALICE)
    started = trio.current_time()
    answer = await world.sync(ALICE, first, timeout_ms=30_000)
    assert trio.current_time() - started == pytest.approx(30)
    assert "rooms" not in answer


async def test_many_rooms_come_in_one_answer(world: World) -> None:
    made = {await world.room() for _ in range(45)}
    assert set((await world.sync(ALICE))["rooms"]["join"]) == made


async def test_a_token_from_after_a_restored_backup_begins_anew(world: World) -> None:
    room = await world.room()
    answer = await world.sync(ALICE, "s999999999_1")
    assert ("m.room.create", "") in known(joined(answer, room))


@pytest.mark.parametrize("wanted", [{}, {"room": {"timeline": {"limit": 5, UNBROKEN: True}}}])
async def test_a_client_that_set_no_limit_gets_no_gap_before_what_it_has_sent(world: World, wanted: dict[str, Any]) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.sync(ALICE, wanted=wanted)
    said = [str(number) for number in range(30)]
    for body in said:
        await world.say(room, BOB, body)
    content = {"msgtype": "m.text", "body": "mine"}
    await world.composer.send(room, ALICE, "m.room.message", content, device_id="DEVICE", txn_id="send/m.room.message/1")
    found = joined(await world.sync(ALICE, first, wanted), room)["timeline"]
    assert [one["content"]["body"] for one in found["events"]] == [*said, "mine"]
    assert not found["limited"]
    for options in ({"wanted": wanted, "device_id": "OTHER"}, {"wanted": {"room": {"timeline": {"limit": 5}}}}):
        found = joined(await world.sync(ALICE, first, **options), room)["timeline"]
        assert len(found["events"]) in (5, 10)
        assert found["limited"]
    for number in range(MAX_LIMIT):
        await world.say(room, BOB, f"more {number}")
    found = joined(await world.sync(ALICE, first, wanted), room)["timeline"]
    assert found["limited"]
    assert len(found["events"]) in (5, 10)


async def test_where_history_is_missing_the_timeline_is_cut(world: World) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.sync(ALICE)
    await world.say(room, BOB, "before the line broke")
    later = await world.event(await world.say(room, BOB, "after"))
    await world.db.write(lambda tx: events.note_gaps(tx, later.room, later.number, ["$missing"]))
    found = joined(await world.sync(ALICE, first), room)
    assert bodies(found) == ["after"]
    assert found["timeline"]["limited"]


async def test_only_a_limited_timeline_carries_aggregations(world: World) -> None:
    room = await world.room(ALICE, BOB)
    said = await world.say(room, ALICE, "old")
    relation = {"m.relates_to": {"rel_type": "m.replace", "event_id": said}, "m.new_content": {"body": "new"}}
    first = await world.sync(BOB)
    other = await world.say(room, ALICE, "root")
    edit = await world.say(room, ALICE, "* new", **relation)
    inside = await world.say(room, ALICE, "in", **{"m.relates_to": {"rel_type": "m.thread", "event_id": other}})

    def bundled(answer: dict[str, Any]) -> dict[str, Any]:
        timeline = joined(answer, room)["timeline"]
        return {one["event_id"]: one["unsigned"]["m.relations"] for one in timeline["events"] if "m.relations" in one["unsigned"]}

    assert bundled(await world.sync(BOB, first)) == {}  # whoever has all of it counts for themselves
    found = bundled(await world.sync(BOB, wanted={"room": {"timeline": {"limit": 4}}}))
    assert found.keys() == {said, other}
    assert found[said]["m.replace"]["event_id"] == edit
    assert found[other]["m.thread"]["latest_event"]["event_id"] == inside
    assert "room_id" not in found[other]["m.thread"]["latest_event"]


async def test_a_limit_holds_for_account_data_and_what_passes_by(world: World) -> None:
    room = await world.room(ALICE, BOB)
    for number in range(3):
        await world.account_data.put(ALICE, "", f"x.n{number}", {})
        await world.account_data.put(ALICE, room, f"x.n{number}", {})
    said = await world.say(room, BOB, "x")
    await world.receipts.send(ALICE, room, "m.read", said)

    async def told(limit: int) -> tuple[list[str], list[str], list[str]]:
        part = {"limit": limit}
        answer = await world.sync(ALICE, wanted={"account_data": part, "room": {"account_data": part, "ephemeral": part}})
        found = joined(answer, room)
        sections = (answer.get("account_data", {"events": []}), found["account_data"], found["ephemeral"])
        first, second, third = ([one["type"] for one in section["events"]] for section in sections)
        return first, second, third

    assert await told(2) == (["x.n1", "x.n2"], ["x.n1", "x.n2"], ["m.receipt"])
    assert await told(0) == ([], [], [])


async def test_filters_of_each_section_of_a_room_choose_rooms_and_types(world: World) -> None:
    room, other = await world.room(ALICE, BOB, name="One"), await world.room(ALICE, BOB, name="Two")
    for each in (room, other):
        await world.say(each, BOB, "x")
        await world.account_data.put(ALICE, each, "x.note", {})
        await world.account_data.put(ALICE, each, "y.note", {})
    only = {"rooms": [room, other], "not_rooms": [other]}
    parts = {name: dict(only) for name in ("timeline", "state", "ephemeral", "account_data")}
    parts["account_data"]["types"], parts["state"]["types"] = ["x.*"], ["m.room.*"]
    parts["state"]["not_types"] = ["*.member"]
    answer = await world.sync(ALICE, wanted={"room": parts})
    found, left_out = joined(answer, room), joined(answer, other)
    assert [one["type"] for one in found["account_data"]["events"]] == ["x.note"]
    assert "m.room.member" not in {key[0] for key in state_of(found)}
    assert bodies(found) == ["x"]
    for name in ("timeline", "state", "account_data", "ephemeral"):
        assert left_out[name]["events"] == [], name


async def test_events_come_as_servers_exchange_them_if_asked_for(world: World) -> None:
    room = await world.room(ALICE, BOB)
    await world.say(room, BOB, "x")
    found = joined(await world.sync(ALICE, wanted={"event_format": "federation", "room": {"timeline": {"limit": 1}}}), room)
    for event in (*found["timeline"]["events"], *found["state"]["events"]):
        assert {"auth_events", "prev_events", "hashes", "depth", "event_id", "unsigned"} <= set(event)


async def test_a_room_that_loses_its_name_is_told_with_those_who_give_it_one(world: World) -> None:
    room = await world.room(ALICE, BOB, name="Kitchen")
    first = await world.sync(ALICE)
    assert "m.heroes" not in joined(first, room)["summary"]
    await world.composer.send(room, BOB, "m.room.message", {"body": "x"})
    await world.composer.send(room, ALICE, "m.room.name", {}, state_key="")
    found = joined(await world.sync(ALICE, first), room)
    assert found["summary"] == {"m.heroes": [BOB], "m.joined_member_count": 2, "m.invited_member_count": 0}


async def test_state_that_a_filter_takes_none_of_is_no_news(world: World) -> None:
    room = await world.room(ALICE, BOB)
    wanted = {"room": {"state": {"types": []}, "timeline": {"types": ["m.room.message"]}}}
    first = await world.sync(ALICE, wanted=wanted)
    await world.composer.send(room, ALICE, "m.room.topic", {"topic": "t"}, state_key="")
    assert "rooms" not in await world.sync(ALICE, first, wanted)
    await world.say(room, BOB, "x")
    assert bodies(joined(await world.sync(ALICE, first, wanted), room)) == ["x"]


@pytest.mark.parametrize("state", [{"types": []}, {"not_rooms": ["here"]}])
async def test_who_takes_no_state_of_a_room_is_told_how_many_are_in_it(world: World, state: dict[str, Any]) -> None:
    room = await world.room(ALICE, BOB)
    state = {name: [room] if value else [] for name, value in state.items()}
    wanted = {"room": {"state": state, "timeline": {"types": ["m.room.message"]}}}
    first = await world.sync(ALICE, wanted=wanted)
    await world.memberships.join(CAROL, room)
    found = joined(await world.sync(ALICE, first, wanted), room)
    assert found["summary"] == {"m.heroes": [BOB, CAROL], "m.joined_member_count": 3, "m.invited_member_count": 0}
    assert not found["state"]["events"]


async def test_members_that_a_filter_keeps_out_are_given_once_another_takes_them(world: World) -> None:
    room = await world.room(ALICE, BOB, name="Kitchen")
    await world.say(room, BOB, "before")
    first = await world.sync(ALICE, wanted={"room": {"state": {"lazy_load_members": True, "types": []}, "timeline": {"limit": 1}}})
    await world.say(room, BOB, "x")
    assert ("m.room.member", BOB) in state_of(joined(await world.sync(ALICE, first, LAZY), room))


async def test_who_is_put_out_and_asked_back_by_somebody_ignored_is_told_that_they_are_out(world: World) -> None:
    room = await world.room(ALICE, BOB)
    await world.account_data.put(BOB, "", "m.ignored_user_list", {"ignored_users": {ALICE: {}}})
    first = await world.sync(BOB)
    await world.memberships.kick(ALICE, room, BOB)
    await world.composer.send(room, ALICE, "m.room.name", {"name": "Later"}, state_key="")
    await world.memberships.invite(ALICE, room, BOB)
    answer = await world.sync(BOB, first)
    assert list(answer["rooms"]) == ["leave"]
    assert [one["content"]["membership"] for one in answer["rooms"]["leave"][room]["timeline"]["events"]] == ["leave"]
    assert "rooms" not in await world.sync(BOB, answer)
    assert "rooms" not in await world.sync(BOB)
    everything = await world.sync(BOB, wanted={"room": {"include_leave": True}})
    assert list(everything["rooms"]) == ["leave"]
    await world.account_data.put(BOB, "", "m.ignored_user_list", {"ignored_users": {}})
    assert room in (await world.sync(BOB, answer))["rooms"]["invite"]


async def test_who_knocked_and_is_invited_by_somebody_ignored_goes_on_knocking(world: World) -> None:
    room = await world.room(ALICE, initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}])
    await world.account_data.put(BOB, "", "m.ignored_user_list", {"ignored_users": {ALICE: {}}})
    before = await world.sync(BOB)
    await world.memberships.knock(BOB, room, [])
    knocking = await world.sync(BOB, before)
    await world.memberships.invite(ALICE, room, BOB)
    assert list(knocking["rooms"]) == ["knock"]
    assert "rooms" not in await world.sync(BOB, knocking)
    for late in (await world.sync(BOB, before), await world.sync(BOB)):
        assert list(late["rooms"]) == ["knock"]
        assert [one["content"]["membership"] for one in late["rooms"]["knock"][room]["knock_state"]["events"][-1:]] == ["knock"]
    await world.account_data.put(BOB, "", "m.ignored_user_list", {"ignored_users": {}})
    invited = await world.sync(BOB, knocking)
    assert list(invited["rooms"]) == ["invite"]
    await world.account_data.put(BOB, "", "m.ignored_user_list", {"ignored_users": {ALICE: {}}})
    assert list((await world.sync(BOB, invited))["rooms"]) == ["knock"]


async def test_an_invite_stands_though_somebody_ignored_invites_as_well(world: World) -> None:
    room = await world.room(ALICE, CAROL)
    await world.account_data.put(BOB, "", "m.ignored_user_list", {"ignored_users": {CAROL: {}}})
    await world.memberships.invite(ALICE, room, BOB)
    first = await world.sync(BOB)
    await world.memberships.invite(CAROL, room, BOB)
    assert "rooms" not in await world.sync(BOB, first)
    own = (await world.sync(BOB))["rooms"]["invite"][room]["invite_state"]["events"][-1]
    assert (own["state_key"], own["sender"]) == (BOB, ALICE)


async def test_an_invite_that_is_wanted_again_is_shown_with_full_state_too(world: World) -> None:
    await world.account_data.put(BOB, "", "m.ignored_user_list", {"ignored_users": {ALICE: {}}})
    room = await world.room(ALICE, preset="private_chat")
    await world.memberships.invite(ALICE, room, BOB)
    first = await world.sync(BOB)
    await world.account_data.put(BOB, "", "m.ignored_user_list", {"ignored_users": {}})
    assert list((await world.sync(BOB, first, full_state=True))["rooms"]["invite"]) == [room]


async def test_an_invite_is_shown_once_invites_are_taken_again(world: World) -> None:
    await world.account_data.put(BOB, "", "m.ignored_user_list", {"ignored_users": {ALICE: {}}})
    room = await world.room(ALICE, preset="private_chat")
    await world.memberships.invite(ALICE, room, BOB)
    first = await world.sync(BOB)
    await world.account_data.put(BOB, "", "x.other", {})
    quiet = await world.sync(BOB, first)
    assert "rooms" not in quiet
    await world.account_data.put(BOB, "", "m.ignored_user_list", {"ignored_users": {}})
    assert list((await world.sync(BOB, quiet))["rooms"]["invite"]) == [room]


async def test_a_device_that_was_away_learns_of_a_room_left_and_forgotten_and_of_no_more_than_that(world: World) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.sync(BOB)
    await world.say(room, ALICE, "before")
    await world.memberships.leave(BOB, room)
    told = await world.sync(BOB, first)
    await world.memberships.forget(BOB, room)
    found = (await world.sync(BOB, first))["rooms"]["leave"][room]
    assert [one["content"].get("membership") for one in found["timeline"]["events"]] == ["leave"]
    assert not found["state"]["events"]
    assert "rooms" not in await world.sync(BOB, told)  # another device that knows it already
    await world.memberships.ban(ALICE, room, BOB)
    assert "rooms" not in await world.sync(BOB, told)


async def test_full_state_tells_lazy_clients_of_members_who_changed_too(world: World) -> None:
    room = await world.room(ALICE, BOB, CAROL, name="Kitchen")
    wanted = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    first = await world.sync(ALICE, wanted=wanted)
    await world.memberships.leave(BOB, room)
    await world.say(room, ALICE, "x")
    found = joined(await world.sync(ALICE, first, wanted, full_state=True), room)
    members = {key[1]: event["content"]["membership"] for key, event in state_of(found).items() if key[0] == "m.room.member"}
    assert members == {ALICE: "join", BOB: "leave"}


async def test_lazy_clients_who_were_away_between_two_syncs_hear_of_members_who_changed(world: World) -> None:
    room = await world.room(ALICE, BOB, CAROL, name="Kitchen")
    wanted = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    first = await world.sync(CAROL, wanted=wanted)
    await world.memberships.leave(CAROL, room)
    await world.memberships.leave(BOB, room)
    await world.memberships.join(CAROL, room)
    found = joined(await world.sync(CAROL, first, wanted), room)
    assert state_of(found)["m.room.member", BOB]["content"]["membership"] == "leave"
    assert ("m.room.member", ALICE) not in state_of(found)


async def test_a_room_left_and_forgotten_is_told_as_left_with_full_state_too(world: World) -> None:
    room = await world.room(ALICE, BOB)
    first = await world.sync(BOB)
    await world.memberships.leave(BOB, room)
    await world.memberships.forget(BOB, room)
    assert list((await world.sync(BOB, first, full_state=True))["rooms"]["leave"]) == [room]


async def test_members_that_came_with_a_lost_answer_come_once_more_though_the_next_answer_was_another(world: World) -> None:
    room = await world.room(ALICE, BOB, CAROL, name="Kitchen")
    wanted = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    await world.say(room, ALICE, "x")
    first = await world.sync(ALICE, wanted=wanted)
    await world.say(room, BOB, "lost with its sender")
    await world.sync(ALICE, first, wanted)
    await world.say(room, CAROL, "in a gap with what was lost")
    second = await world.sync(ALICE, first, wanted)
    await world.say(room, BOB, "again")
    assert set(state_of(joined(await world.sync(ALICE, second, wanted), room))) == {("m.room.member", BOB)}


async def test_who_comes_back_is_told_again_of_members_whom_they_were_told_of_before_they_left(world: World) -> None:
    room = await world.room(ALICE, BOB, CAROL, name="Kitchen")
    wanted = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    first = await world.sync(CAROL, wanted=wanted)
    await world.say(room, BOB, "x")
    second = await world.sync(CAROL, first, wanted)
    assert ("m.room.member", BOB) in state_of(joined(second, room))
    await world.memberships.leave(CAROL, room)
    third = await world.sync(CAROL, second, wanted)
    await world.memberships.join(CAROL, room)
    fourth = await world.sync(CAROL, third, wanted)
    await world.say(room, BOB, "y")
    assert ("m.room.member", BOB) in state_of(joined(await world.sync(CAROL, fourth, wanted), room))


async def test_whoever_was_typing_is_told_to_have_stopped_to_who_was_away_meanwhile(world: World) -> None:
    room = await world.room(ALICE, BOB)
    await world.typing.set(ALICE, room, True)
    first = await world.sync(BOB)
    await world.memberships.leave(BOB, room)
    await world.typing.set(ALICE, room, False)
    await world.memberships.join(BOB, room)
    found = joined(await world.sync(BOB, first), room)["ephemeral"]["events"]
    assert found == [{"type": "m.typing", "content": {"user_ids": []}}]


def typists(answer: dict[str, Any], room: str) -> list[list[str]]:
    return [one["content"]["user_ids"] for one in joined(answer, room)["ephemeral"]["events"] if one["type"] == "m.typing"]


@pytest.mark.parametrize("start", [1, 2**40 + 1000])
async def test_after_a_restart_a_client_is_told_once_that_those_who_typed_do_not_any_more(world: World, start: int) -> None:
    kitchen, hall = await world.room(ALICE, BOB, CAROL), await world.room(ALICE, BOB)
    quiet = await world.sync(BOB)
    await world.typing.set(ALICE, kitchen, True)
    await world.typing.set(ALICE, hall, True)
    busy = await world.sync(BOB, quiet)
    assert typists(busy, kitchen) == typists(busy, hall) == [[ALICE]]
    await world.typing.set(ALICE, hall, False)
    later = await world.sync(BOB, busy)
    assert "rooms" not in await world.sync(BOB, later)
    first = await world.sync(CAROL)
    world.restart(start)
    await world.typing.set(CAROL, kitchen, True)
    answer = await world.sync(BOB, later)
    assert typists(answer, kitchen) == [[CAROL]]
    assert hall not in answer["rooms"]["join"]
    assert typists(await world.sync(BOB, busy), hall) == [[]]
    world.restart(start + 1000)
    assert typists(await world.sync(CAROL, first), kitchen) == [[]]
    over = await world.sync(BOB, answer)
    assert typists(over, kitchen) == [[]]
    assert "rooms" not in await world.sync(BOB, over)
    world.restart(start + 2000)
    for told in (quiet, over):
        assert "rooms" not in await world.sync(BOB, told)


async def test_after_a_restart_who_types_in_a_room_that_was_left_meanwhile_is_nobodys_business(world: World) -> None:
    room = await world.room(ALICE, BOB)
    await world.typing.set(ALICE, room, True)
    first = await world.sync(BOB)
    await world.memberships.leave(BOB, room)
    left = await world.sync(BOB, first)
    world.restart(1)
    assert list((await world.sync(BOB, first))["rooms"]) == ["leave"]
    assert "rooms" not in await world.sync(BOB, left)


async def test_a_member_in_the_timeline_alone_is_not_known_to_who_takes_the_state_after_it(world: World) -> None:
    room = await world.room(ALICE, BOB, name="Kitchen")
    await world.memberships.invite(ALICE, room, CAROL)
    wanted = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    first = await world.sync(ALICE, wanted=wanted, state_after=True)
    assert ("m.room.member", CAROL) not in state_of(joined(first, room), "state_after")
    await world.composer.send(room, ALICE, "m.room.name", {}, state_key="")
    found = joined(await world.sync(ALICE, first, wanted, state_after=True), room)
    assert found["summary"]["m.heroes"] == [BOB, CAROL]
    assert ("m.room.member", CAROL) in state_of(found, "state_after")
