"""What a mirror makes of answers that begin before its end, of redactions, and of what is no answer."""

from __future__ import annotations

import orjson

from edgeserver.proxy.mirror import Mirror

ROOM = "!r:box"
CREATE = {"type": "m.room.create", "state_key": "", "event_id": "$create", "sender": "@b:box", "content": {"room_version": "11"}}


def word(event_id: str, **beside) -> dict:
    return {"type": "m.room.message", "event_id": event_id, "sender": "@b:box", "content": {"body": event_id}, **beside}


def answer(end: str, events, *, prev_batch: str, limited: bool = False, state=()) -> dict:
    timeline = {"events": list(events), "limited": limited, "prev_batch": prev_batch}
    return {"next_batch": end, "rooms": {"join": {ROOM: {"timeline": timeline, "state": {"events": list(state)}}}}}


def begun() -> Mirror:
    mirror = Mirror(state_after=False)
    mirror.hear(None, answer("s4_0", [word("$1")], prev_batch="p1", limited=True, state=[CREATE]))
    return mirror


def told(mirror: Mirror, limit: int = 20) -> list[str]:
    entry = orjson.loads(mirror.first(limit))["rooms"]["join"][ROOM]
    return [event["event_id"] for event in entry["timeline"]["events"]]


def before(mirror: Mirror, start: str) -> list[str]:
    page = mirror.messages(ROOM, start, 100, lazy=False, at_least=True)
    assert page is not None
    return [event["event_id"] for event in page["chunk"]]


def test_an_answer_that_repeats_the_end_of_another_one_doubles_nothing() -> None:
    mirror = begun()
    mirror.hear("s4_0", answer("s9_0", [word("$2"), word("$3")], prev_batch="p2"))
    mirror.hear("s8_0", answer("s10_0", [word("$3"), word("$4")], prev_batch="p3"))
    assert told(mirror) == ["$1", "$2", "$3", "$4"]
    assert before(mirror, "p3") == ["$2", "$1"]


def test_an_answer_from_far_back_doubles_nothing_of_what_is_no_longer_told_first() -> None:
    mirror = begun()
    for number in range(5, 25):
        mirror.hear(f"s{number - 1}_0", answer(f"s{number}_0", [word(f"${number}"), word(f"${number}b")], prev_batch=f"p{number}"))
    repeated = [event for number in range(7, 26) for event in (f"${number}", f"${number}b")][1:]
    mirror.hear("s6_0", answer("s25_0", map(word, repeated), prev_batch="in between"))
    assert told(mirror) == repeated
    assert before(mirror, "in between") == ["$7", "$6b", "$6", "$5b", "$5", "$1"]


def removal(position: int, target: str) -> dict:
    event = {"type": "m.room.redaction", "event_id": f"$r{position}", "sender": "@b:box", "content": {"redacts": target}}
    return answer(f"s{position}_0", [event], prev_batch=f"p{position}")


def test_what_was_removed_is_not_told_beside_other_events_either() -> None:
    reply = word("$reply", unsigned={"m.relations": {"m.replace": word("$edit of reply")}})
    thread = {"m.thread": {"latest_event": reply, "count": 2, "current_user_participated": False}}
    topic = {"type": "m.room.topic", "state_key": "", "event_id": "$topic", "sender": "@b:box", "content": {"topic": "new"}}
    topic["unsigned"] = {"replaces_state": "$old", "prev_content": {"topic": "old"}}
    events = [word("$1", unsigned={"m.relations": {"m.replace": word("$edit")}}), word("$2", unsigned={"m.relations": thread}), topic]
    mirror = Mirror(state_after=False)
    mirror.hear(None, answer("s4_0", events, prev_batch="p1", limited=True, state=[CREATE]))
    targets = {"$edit": b'"body":"$edit"', "$edit of reply": b'"body":"$edit of', "$reply": b'"body":"$reply"', "$old": b'"topic":"old"'}
    for position, (target, content) in enumerate(targets.items(), 5):
        assert content in mirror.first(20)
        mirror.hear(f"s{position - 1}_0", removal(position, target))
        assert content not in mirror.first(20)
    assert b'"count":2' in mirror.first(20)


def test_a_page_whose_edits_were_removed_is_asked_for_at_the_box() -> None:
    mirror = Mirror(state_after=False)
    event = word("$1", unsigned={"m.relations": {"m.replace": word("$edit")}})
    mirror.hear(None, answer("s4_0", [event], prev_batch="p1", limited=True, state=[CREATE]))
    mirror.hear("s4_0", answer("s5_0", [word("$2")], prev_batch="p5"))
    assert mirror.messages(ROOM, "p5", 100, lazy=False, at_least=False) is not None
    mirror.hear("s5_0", removal(6, "$edit"))
    assert mirror.messages(ROOM, "p5", 100, lazy=False, at_least=False) is None
    assert before(mirror, "p5") == ["$1"]
