"""Rooms, unread counts and timelines, as the server's answers and our own messages make them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgeserver.chat import classic, events, sliding, view
from edgeserver.chat.events import Kind, State
from edgeserver.chat.model import MAX_ENTRIES, Model, RoomUpdate
from tests.chat.test_visible import NASTY, is_harmless

ME, BOB, ROOM = "@me:home", "@bob:home", "!room:home"


def said(key: str, text: str = "hi", sender: str = BOB, **more: Any) -> dict[str, Any]:
    content = {"msgtype": "m.text", "body": text}
    return {"type": "m.room.message", "event_id": key, "sender": sender, "origin_server_ts": 1_790_000_000_000, "content": content, **more}


def member(user_id: str, name: str | None, membership: str = "join") -> dict[str, Any]:
    content = {"membership": membership, **({} if name is None else {"displayname": name})}
    return {"type": "m.room.member", "state_key": user_id, "sender": user_id, "event_id": f"$m{user_id}", "content": content}


def texts(model: Model) -> list[str]:
    return [entry.text[0] for entry in model.rooms[ROOM].entries]


def test_rooms_stand_in_the_order_of_activity_after_the_invites_and_keep_their_numbers() -> None:
    model = Model(ME)
    for number, stamp in enumerate((5, 9, 7)):
        model.apply(RoomUpdate(f"!{number}:home", "join", name=f"Room {number}", stamp=stamp))
    model.apply(RoomUpdate("!i:home", "invite", name="Invited", stamp=1))
    assert [room.name for room in model.listed()] == ["Invited", "Room 1", "Room 2", "Room 0"]
    model.apply(RoomUpdate("!0:home", stamp=10))
    assert [room.number for room in model.listed()] == [4, 1, 2, 3]
    model.apply(RoomUpdate("!1:home", "leave"))
    assert [room.name for room in model.listed()] == ["Invited", "Room 0", "Room 2"]
    assert [room.name for room in model.find("room 0")] == ["Room 0"]
    assert [room.name for room in model.find("ROOM")] == ["Room 0", "Room 2"]
    assert [room.name for room in model.find("4")] == ["Invited"]
    assert model.find("") == model.find("!none:home") == []


def test_news_are_told_once_and_a_gap_begins_the_timeline_anew() -> None:
    model = Model(ME)

    def told(*keys: str, **more: Any) -> list[str]:
        return [entry.key for entry in model.apply(RoomUpdate(ROOM, events=[said(key) for key in keys], **more))]

    assert told("$1", "$2", is_whole=True, prev_batch="p1") == ["$1", "$2"]
    assert told("$2", "$3") == ["$3"]
    assert told("$3", "$4", is_whole=True) == ["$4"]
    assert len(model.rooms[ROOM].timeline) == 4
    told("$9", is_whole=True, prev_batch="p9")
    assert [entry.key for entry in model.rooms[ROOM].timeline] == ["$9"]
    assert model.rooms[ROOM].prev_batch == "p9"
    assert model.prepend(model.rooms[ROOM], [said("$8"), said("$7"), said("$9")], "p7") == 2
    assert [entry.key for entry in model.rooms[ROOM].timeline] == ["$7", "$8", "$9"]


def test_a_timeline_is_bounded() -> None:
    model = Model(ME)
    for number in range(MAX_ENTRIES + 50):
        model.apply(RoomUpdate(ROOM, events=[said(f"$e{number}")]))
    assert len(model.rooms[ROOM].timeline) == MAX_ENTRIES
    assert model.rooms[ROOM].newest == f"$e{MAX_ENTRIES + 49}"


def test_edits_are_the_senders_own_and_what_is_removed_is_gone() -> None:
    model = Model(ME)

    def edit(key: str, sender: str, text: str) -> dict[str, Any]:
        relation = {"m.relates_to": {"rel_type": "m.replace", "event_id": "$1"}, "m.new_content": {"msgtype": "m.text", "body": text}}
        event = said(key, f"* {text}", sender)
        event["content"].update(relation)
        return event

    model.apply(RoomUpdate(ROOM, events=[said("$1", "helo"), edit("$2", "@eve:home", "forged"), edit("$3", BOB, "hello")]))
    assert texts(model) == ["hello (edited)"]
    model.apply(RoomUpdate(ROOM, events=[{"type": "m.room.redaction", "event_id": "$4", "sender": BOB, "content": {"redacts": "$1"}}]))
    assert texts(model) == ["(removed)"]


def test_our_message_is_there_once_whichever_comes_first_its_answer_or_its_echo() -> None:
    for echo_first in (False, True):
        model = Model(ME)
        model.apply(RoomUpdate(ROOM, "join", events=[said("$1")]))
        model.queued(ROOM, "t1", Kind.TEXT, "mine", 1)
        assert [entry.state for entry in model.rooms[ROOM].entries] == [State.THERE, State.QUEUED]
        echo = RoomUpdate(ROOM, events=[said("$2", "mine", ME, unsigned={"transaction_id": "t1"})])
        if echo_first:
            assert [entry.key for entry in model.apply(echo)] == ["$2"]
            assert model.acknowledged(ROOM, "t1", "$2") is None
        else:
            entry = model.acknowledged(ROOM, "t1", "$2")
            assert entry is not None
            assert entry.state is State.SENT
            assert model.apply(echo) == []
        assert [entry.key for entry in model.rooms[ROOM].entries] == ["$1", "$2"]
        assert model.rooms[ROOM].entries[-1].state is State.THERE or not echo_first


def test_an_echo_without_its_transaction_does_not_double_the_message() -> None:
    model = Model(ME)
    model.queued(ROOM, "t1", Kind.TEXT, "mine", 1)
    model.apply(RoomUpdate(ROOM, events=[said("$2", "mine", ME)]))
    assert model.acknowledged(ROOM, "t1", "$2") is None
    assert texts(model) == ["mine"]


def test_a_refused_message_says_why_until_it_waits_again() -> None:
    model = Model(ME)
    model.queued(ROOM, "t1", Kind.TEXT, "mine", 1)
    entry = model.failed(ROOM, "t1", "no\x1b[2J")
    assert entry is not None
    assert "[NOT SENT: no\ufffd[2J]" in view.entry_lines(model.rooms[ROOM], entry)[0]
    model.again(ROOM, "t1")
    assert entry.state is State.QUEUED
    model.dropped(ROOM, "t1")
    assert model.rooms[ROOM].entries == []


def test_an_encrypted_room_shows_nothing_and_stays_encrypted() -> None:
    model = Model(ME)
    model.apply(RoomUpdate(ROOM, "join", events=[said("$1")]))
    model.apply(RoomUpdate(ROOM, state=[{"type": "m.room.encryption", "state_key": "", "content": {}}]))
    model.queued(ROOM, "t1", Kind.TEXT, "mine", 1)
    room = model.rooms[ROOM]
    assert room.is_encrypted
    assert room.entries == room.timeline == []
    assert model.apply(RoomUpdate(ROOM, events=[said("$2")])) == []
    assert model.prepend(room, [said("$0")], "") == 0
    assert "needs a full client" in view.list_lines(model)[0]
    assert "needs a full client" in view.room_rows(room, 200, ME)[0]


def test_people_of_one_name_are_told_apart_and_long_server_names_are_cut() -> None:
    model = Model(ME)
    mesh = f"@cleo:{'a' * 52}.mesh"
    model.apply(RoomUpdate(ROOM, state=[member(BOB, "Bob"), member("@eve:away", "Bob"), member("@ana:home", None), member(mesh, None)]))
    room = model.rooms[ROOM]
    assert room.name_of(BOB) == "Bob (@bob:home)"
    assert room.name_of("@eve:away") == "Bob (@eve:away)"
    assert room.name_of("@ana:home") == "ana"
    assert room.name_of(mesh) == "@cleo:" + "a" * 23 + "…"
    model.apply(RoomUpdate(ROOM, state=[member("@eve:away", "@bob:home")]))
    assert room.name_of("@eve:away") == "@bob:home (@eve:away)"
    model.apply(RoomUpdate(ROOM, state=[member("@eve:away", "ana")]))
    assert room.name_of("@eve:away") == "ana (@eve:away)"


def test_what_is_unread_is_counted_here_until_the_server_shows_that_it_does() -> None:
    model = Model(ME)
    model.apply(RoomUpdate(ROOM, "join", unread=0, events=[said("$1"), member("@ana:home", None), said("$2")]))
    room = model.rooms[ROOM]
    assert room.unread == 2
    model.apply(RoomUpdate(ROOM, receipts=[(ME, "$1")]))
    assert room.unread == 1
    model.apply(RoomUpdate(ROOM, unread=0, events=[said("$3", "mine", ME)]))
    assert room.unread == 0
    model.apply(RoomUpdate(ROOM, unread=5, events=[said("$4")]))
    assert room.unread == 5
    model.apply(RoomUpdate(ROOM, unread=0, events=[said("$5")]))
    assert room.unread == 0


def test_who_has_read_a_later_message_has_read_the_earlier() -> None:
    model = Model(ME)
    mine = said("$2", "mine", ME)
    receipts = [(BOB, "$3"), ("@ana:home", "$1"), (ME, "$3"), ("@cleo:home", "$unknown")]
    model.apply(RoomUpdate(ROOM, events=[said("$1"), mine, said("$3")], receipts=receipts))
    assert model.rooms[ROOM].readers_of("$2") == [BOB]
    assert view.readers_line(model.rooms[ROOM], ME) == "(your last message: read by bob)"


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), NASTY),
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(st.text(max_size=5), below, max_size=3)),
    max_leaves=6,
)
CONTENT = st.fixed_dictionaries(
    {},
    optional={
        "body": st.one_of(NASTY, JSON), "msgtype": st.one_of(st.sampled_from(["m.text", "m.emote", "m.image", "m.file"]), JSON),
        "membership": st.one_of(st.sampled_from(["join", "leave", "invite", "ban", "knock"]), JSON), "displayname": st.one_of(NASTY, JSON),
        "name": st.one_of(NASTY, JSON), "topic": st.one_of(NASTY, JSON), "redacts": JSON,
        "m.new_content": st.one_of(JSON, st.just({"body": 1})),
        "m.relates_to": st.one_of(JSON, st.just({"rel_type": "m.replace", "event_id": "$a"}), st.just({"m.in_reply_to": {}})),
    },
)  # fmt: skip
TYPES = ["m.room.message", "m.room.member", "m.room.name", "m.room.topic", "m.room.redaction", "m.sticker"]
UNSIGNED = {"transaction_id": 1, "prev_content": {"membership": []}}
EVENT = st.fixed_dictionaries(
    {},
    optional={
        "type": st.one_of(st.sampled_from(TYPES), JSON),
        "event_id": st.one_of(st.sampled_from(["$a", "$b"]), NASTY, JSON), "sender": st.one_of(st.sampled_from([ME, BOB]), NASTY, JSON),
        "state_key": st.one_of(st.just(""), st.just(ME), NASTY, JSON), "origin_server_ts": st.one_of(st.integers(), JSON),
        "content": st.one_of(CONTENT, JSON), "unsigned": st.one_of(JSON, st.just(UNSIGNED)),
    },
)  # fmt: skip
EVENTS = st.one_of(st.lists(st.one_of(EVENT, JSON), max_size=4), JSON)
SLIDING_ROOM = st.fixed_dictionaries(
    {},
    optional={
        "timeline": EVENTS, "required_state": EVENTS, "invite_state": EVENTS, "heroes": EVENTS, "name": st.one_of(NASTY, JSON),
        "initial": st.booleans(), "notification_count": JSON, "bump_stamp": JSON, "prev_batch": JSON, "joined_count": JSON,
    },
)  # fmt: skip
RECEIPTS = st.one_of(JSON, st.just({"content": {"$a": {"m.read": {BOB: {}}}}}), st.just({"content": {"$a": []}}))


@given(st.lists(st.dictionaries(st.one_of(st.just(ROOM), NASTY), st.one_of(SLIDING_ROOM, JSON), max_size=2), max_size=3), RECEIPTS, JSON)
def test_whatever_a_sliding_sync_says_can_be_shown(answers: list[Any], receipts: Any, lists: Any) -> None:
    model = Model(ME)
    for rooms in answers:
        answer = {"pos": "1", "rooms": rooms, "lists": lists, "extensions": {"receipts": {"rooms": {ROOM: receipts}}}}
        assert sliding.position(answer) == "1"
        sliding.count(answer)
        for update in sliding.updates(answer, ME):
            model.apply(update)
    _is_all_harmless(model)


@given(EVENTS, EVENTS, JSON, JSON, RECEIPTS)
def test_whatever_a_classic_sync_says_can_be_shown(timeline: Any, state: Any, summary: Any, unread: Any, receipts: Any) -> None:
    model = Model(ME)
    joined = {
        "timeline": {"events": timeline, "limited": True, "prev_batch": 5},
        "state": {"events": state},
        "summary": summary,
        "unread_notifications": unread,
        "ephemeral": {"events": [receipts, {"type": "m.receipt", "content": summary}]},
    }
    answer = {"next_batch": [], "rooms": {"join": {ROOM: joined, "!x:y": summary}, "invite": {"!i:y": {"invite_state": {"events": state}}}}}
    assert classic.position(answer) is None
    for update in classic.updates(answer, ME, 5):
        model.apply(update)
    _is_all_harmless(model)


def _is_all_harmless(model: Model) -> None:
    shown = view.list_lines(model)
    for room in model.rooms.values():
        shown += view.room_rows(room, 40, ME)
        assert is_harmless(room.name + room.inviter)
        for entry in room.entries:
            assert is_harmless(room.name_of(entry.sender))
    assert all(is_harmless(row) for row in shown)
    assert all("\n" not in row for row in shown)


def test_a_reply_loses_the_quotation_of_older_clients() -> None:
    assert events.without_quote("> <@bob:home> hello\n> more\n\nyes") == "yes"
    assert events.without_quote("a > b") == "a > b"


def test_times_that_no_calendar_has_are_dashes() -> None:
    for ms in (-1, 0, 1 << 60, 1 << 47):
        assert view.clock(ms) == "--:--"
        assert view.day(ms) == ""


def test_a_page_shows_the_end_or_begins_anew_in_leaps() -> None:
    rows = [str(number) for number in range(100)]
    assert view.page(rows, 10) == rows[90:]
    assert view.page(rows, 10, 5) == rows[85:95]
    assert view.page(rows, 10, 500) == rows[:10]
    assert view.page(rows[:3], 10, 2) == rows[:3]
    written = 0
    before: list[str] = []
    for count in range(1, 100):
        shown = view.page(rows[:count], 20, in_leaps=True)
        assert shown == rows[count - len(shown) : count]
        assert len(shown) <= 20
        written += sum(1 for place, row in enumerate(shown) if place >= len(before) or before[place] != row)
        before = shown
    assert written < 3 * 100
