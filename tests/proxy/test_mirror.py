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
