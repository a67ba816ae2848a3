"""Facts: what an end has been told once is referred to, over whatever is lost, and comes out as it was said or not at all."""

from __future__ import annotations

import contextlib
import io
import random
import tracemalloc
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transports.exchange import Response
from transports.lowband import factlist, facts, memory, told
from transports.lowband.body import from_value
from transports.lowband.factlist import Patch, Standing
from transports.lowband.facts import CondensedBody, FactError, FactsMissing
from transports.lowband.heard import KEPT, Heard
from transports.lowband.messages import Kind, MessageError, ResponseMessage, Session
from transports.lowband.told import Told

KEY = b"k" * 32
ROOM, OTHER_ROOM = f"!{'r' * 43}", f"!{'o' * 18}:a.example"
TARGET = "/_matrix/client/v3/sync"
JSON = (("content-type", "application/json"),)


def event(number: int, text: str = "low tide", **more: Any) -> dict[str, Any]:
    return {"event_id": f"$event{number}", "content": {"body": f"{text} {number}"}, "type": "m.room.message", "sender": "@a:b"} | more


def dated(number: int, now: int) -> dict[str, Any]:
    return event(number, origin_server_ts=1_000_000 + number, unsigned={"age": now - 1_000_000 - number})


def apply(file: bytes, patch: Patch | None) -> bytes:
    return file if patch is None else file[: patch.offset] + patch.data


@dataclass
class Device:
    """The hearing end with its file."""

    file: bytes = b""
    heard: Heard = field(default_factory=lambda: Heard(KEY))

    def restored(self, body: CondensedBody) -> Any:
        wanted = facts.references(body.value)
        found = self.heard.in_memory(wanted)
        for number, offset, size in self.heard.in_file(wanted - found.keys()):
            fact = self.file[offset : offset + size]
            if self.heard.is_right(number, fact):
                found[number] = fact
        restored, heard = facts.restore(body, found.get)
        if body.first:
            self.heard.hear(body.first, heard)
        return orjson.loads(restored)

    def write(self) -> None:
        if (patch := self.heard.patch()) is not None:
            self.file = apply(self.file, patch)
            self.heard.written()
        if (kept := self.heard.outgrown()) is not None:
            self.file = kept[1] + self.file[kept[0] :]
            self.heard.shortened(kept[0])

    def restart(self) -> None:
        self.heard = Heard.from_file(io.BytesIO(self.file), KEY)


@dataclass
class World:
    """A box and a device, and the connection between them."""

    told: Told = field(default_factory=lambda: Told(KEY))
    told_file: bytes = b""
    device: Device = field(default_factory=Device)

    def __post_init__(self) -> None:
        self.connect()

    def connect(self) -> None:
        self.telling = self.told.open()
        self.telling.agree(self.device.heard.standing(self.telling.top))

    def say(self, value: Any) -> CondensedBody | None:
        """What travels of an answer that arrives at once."""
        condensed = self.telling.condense(value)
        assert condensed is not None
        if condensed.body is not None:
            assert self.device.restored(condensed.body) == value
        condensed.acknowledge()
        return None if condensed.body is None else replace(condensed.body, check=None)

    def write(self) -> None:
        self.told_file = apply(self.told_file, self.told.patch())
        self.device.write()

    def restart_box(self) -> None:
        self.told = Told.from_file(self.told_file, KEY)


def size_of(body: CondensedBody | None) -> int:
    assert body is not None
    return len(from_value(body.value))


def test_an_event_that_was_told_once_is_a_number_from_then_on() -> None:
    world = World()
    first = world.say({"timeline": [event(1), event(2)]})
    assert first == CondensedBody({"timeline": [event(1), event(2)]}, 1)
    again = world.say({"chunk": [event(2, room_id="!r"), event(3)], "end": "t"})
    assert again is not None
    assert again.value == {"chunk": [{"#": 2, "room_id": "!r"}, event(3)], "end": "t"}


def test_a_changed_event_is_another_fact() -> None:
    world = World()
    world.say([event(1)])
    redacted = event(1) | {"content": {}}
    assert world.say([redacted]) == CondensedBody([redacted], 2)
    assert world.say([redacted, event(1)]) == CondensedBody([{"#": 2}, {"#": 1}], 3)


def test_an_event_that_an_answer_holds_twice_is_told_once() -> None:
    assert World().say([event(1), event(1, unsigned={})]) == CondensedBody([event(1), {"#": 1, "unsigned": {}}], 1)


def test_an_event_bundled_with_another_is_a_fact_of_its_own() -> None:
    world = World()
    outer = event(1, unsigned={"m.relations": {"m.thread": {"latest_event": event(2)}}})
    world.say([outer])
    again = world.say([outer])
    assert again is not None
    assert again.value == [{"#": 1, "unsigned": {"m.relations": {"m.thread": {"latest_event": {"#": 2}}}}}]


def test_a_room_and_an_event_that_are_only_named_are_numbers_from_then_on() -> None:
    world = World()
    world.say({"rooms": {ROOM: {"read": [f"${'e' * 43}"]}}})
    again = world.say({"rooms": {ROOM: {"chunk": [event(1, room_id=ROOM)], f"${'e' * 43}": 1}, OTHER_ROOM: {}}})
    assert again == CondensedBody({"rooms": {"~1": {"chunk": [event(1, room_id="~1")], "~2": 1}, OTHER_ROOM: {}}}, 3)
    assert world.say([OTHER_ROOM, OTHER_ROOM, event(1)]) == CondensedBody(["~3", "~3", {"#": 4}], 5)


def test_the_ages_of_an_answers_events_are_told_by_how_much_they_say_different_times() -> None:
    world = World()
    world.say([dated(number, 2_000_000) for number in range(3)])
    again = world.say([dated(0, 3_000_000), event(7, unsigned={"age": 5}), dated(1, 3_000_000), dated(2, 3_000_001)])
    assert again is not None
    told = [(one.get("#"), one["unsigned"]["age"]) for one in again.value]
    assert told == [(1, 2_000_000), (None, 5), (2, 0), (3, 1)]


@pytest.mark.parametrize("age", [True, 1.5, "7", None, {"age": 7}])
def test_an_age_that_is_no_number_stays_as_it_is(age: Any) -> None:
    assert World().say([event(1, origin_server_ts=5, unsigned={"age": age})]) is not None


def test_what_has_no_exact_condensed_form_travels_as_it_is() -> None:
    world = World()
    deep: Any = event(1)
    for _ in range(60):
        deep = [deep]
    ancient = [event(1, origin_server_ts=at, unsigned={"age": 1}) for at in (2**53, -1)]
    for value in ({"#": 1, "a": event(1)}, [event(1), "~17"], {"~17": 0, "a": event(1)}, ancient, deep, {"content": {}}, 5):
        assert world.say(value) is None
    assert world.say([event(1)]) == CondensedBody([event(1)], 1)


def test_a_marker_within_what_somebody_wrote_does_no_harm() -> None:
    world = World()
    written = event(1) | {"content": {"#": 7}, "unsigned": 3}
    world.say([written])
    assert world.say([written]) == CondensedBody([{"#": 1, "unsigned": 3}], 2)


def test_what_was_not_acknowledged_is_told_again_and_so_is_what_came_after_it() -> None:
    world = World()
    slow = world.telling.condense([event(1)])
    quick = world.telling.condense([event(2)])
    assert slow is not None
    assert quick is not None
    assert slow.body is not None
    assert quick.body is not None
    assert world.device.restored(quick.body) == [event(2)]
    quick.acknowledge()
    assert world.say([event(1), event(2)]) == CondensedBody([event(1), event(2)], 3)
    assert world.device.restored(slow.body) == [event(1)]
    slow.acknowledge()
    assert world.say([event(1), event(2)]) == CondensedBody([{"#": 1}, {"#": 2}], 5)


def test_an_answer_that_does_not_travel_tells_nothing() -> None:
    world = World()
    made = world.telling.condense([event(1)])
    assert made is not None
    made.withdraw()
    assert world.say([event(1)]) == CondensedBody([event(1)], 1)


def test_another_connection_goes_on_where_the_last_one_ended() -> None:
    world = World()
    world.say([event(1)])
    lost = world.telling.condense([event(2)])
    assert lost is not None
    older = world.telling
    world.connect()
    assert world.say([event(1), event(2)]) == CondensedBody([{"#": 1}, event(2)], 2)
    lost.acknowledge()
    assert older.condense([event(1)]) is None
    assert world.say([event(2)]) == CondensedBody([{"#": 2}], 3)


def test_restarts_of_both_ends_lose_nothing_that_was_written() -> None:
    world = World()
    world.say([event(number) for number in range(50)])
    world.write()
    world.restart_box()
    world.device.restart()
    world.connect()
    assert world.say([event(7)]) == CondensedBody([{"#": 8}], 51)


@pytest.mark.parametrize("end", ["box", "device"])
def test_a_tail_that_one_end_lost_is_all_that_is_told_again(end: str) -> None:
    world = World()
    world.say([event(1)])
    world.write()
    world.say([event(2)])
    if end == "box":
        world.restart_box()
    else:
        world.device.restart()
    world.connect()
    assert world.say([event(1), event(2)]) == CondensedBody([{"#": 1}, event(2)], 2)
    world.write()
    world.restart_box()
    world.device.restart()
    world.connect()
    assert world.say([event(1), event(2)]) == CondensedBody([{"#": 1}, {"#": 2}], 3)


@pytest.mark.parametrize("end", ["box", "device"])
def test_an_end_that_lost_everything_begins_anew(end: str) -> None:
    world = World()
    world.say([event(1), event(2)])
    if end == "box":
        world.told = Told(KEY)
    else:
        world.device = Device()
    world.connect()
    assert world.say([event(2)]) == CondensedBody([event(2)], 1)


def test_ends_that_disagree_find_out() -> None:
    world, other = World(), World()
    world.say([event(1), event(2)])
    other.say([event(3), event(4)])
    world.device = other.device
    world.connect()
    assert world.say([event(1)]) == CondensedBody([event(1)], 3)
    assert world.say([event(1), event(3)]) == CondensedBody([{"#": 3}, event(3)], 4)


def test_a_reference_that_means_something_else_at_the_other_end_is_noticed() -> None:
    world, other = World(), World()
    world.say([event(1), event(2)])
    other.say([event(2), event(1)])
    condensed = world.telling.condense([event(1)])
    assert condensed is not None
    assert condensed.body is not None
    assert condensed.body.value == [{"#": 1}]
    with pytest.raises(FactsMissing, match="something else"):
        other.device.restored(condensed.body)


def test_a_reference_is_checked_once_on_each_connection() -> None:
    world = World()

    def is_checked(*numbers: int) -> bool:
        condensed = world.telling.condense([event(number) for number in numbers])
        assert condensed is not None
        assert condensed.body is not None
        world.device.restored(condensed.body)
        condensed.acknowledge()
        return condensed.body.check is not None

    assert [is_checked(1, 2), is_checked(1), is_checked(1), is_checked(1, 2), is_checked(1, 3)] == [False, True, False, True, False]
    assert is_checked(4, 4)
    world.connect()
    assert [is_checked(1), is_checked(1)] == [True, False]


def test_the_push_rules_are_told_once_though_they_have_no_id() -> None:
    world = World()
    rules = {"type": "m.push_rules", "content": {"global": {"override": []}}}
    world.say({"account_data": {"events": [rules]}, "x": [event(1)]})
    again = world.say({"account_data": {"events": [rules]}, "x": [event(2)]})
    assert again == CondensedBody({"account_data": {"events": [{"#": 1}]}, "x": [event(2)]}, 3)


def test_who_lacks_a_fact_says_so_and_both_begin_anew() -> None:
    world = World()
    world.say([event(1)])
    world.write()
    world.device.file = bytes(len(world.device.file))
    on_its_way = world.telling.condense([event(1), event(2)])
    assert on_its_way is not None
    assert on_its_way.body is not None
    with pytest.raises(FactsMissing):
        world.device.restored(on_its_way.body)
    later = world.telling.condense([event(3)])
    assert later is not None
    assert later.body is not None
    world.telling.agree(world.device.heard.begin_anew())
    assert world.device.restored(later.body) == [event(3)]
    later.acknowledge()
    anew = world.say([event(1), event(3)])
    assert anew is not None
    assert anew.value == [event(1), event(3)]
    assert world.say([event(1), event(3)]) == CondensedBody([{"#": anew.first}, {"#": anew.first + 1}], anew.first + 2)


# Whatever happens

texts = st.text(max_size=6) | st.sampled_from(
    ["event_id", "content", "unsigned", "room_id", "age", "origin_server_ts", "#", "$1", "~1", ROOM, OTHER_ROOM]
)
numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.integers(0, 9)
scalars = st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | texts
events = st.fixed_dictionaries(
    {"event_id": st.sampled_from(["$1", "$2", "$3", ""]), "content": st.sampled_from([{}, {"a": 1}, {"#": 2}, {"a": 1.0}])},
    optional={
        "unsigned": st.deferred(lambda: st.fixed_dictionaries({}, optional={"age": scalars, "redacted_because": values}) | scalars),
        "room_id": scalars,
        "origin_server_ts": scalars,
    },
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars | events, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)


def strictly_equal(one: Any, other: Any) -> bool:
    """1 and 1.0 and True are different things."""
    return from_value(one) == from_value(other)


@given(st.lists(values, min_size=1, max_size=6))
@settings(deadline=None, max_examples=300)
def test_whatever_is_said_is_restored_exactly(said: list[Any]) -> None:
    world = World()
    for value in said:
        read = orjson.loads(orjson.dumps(value))
        condensed = world.telling.condense(read)
        assert condensed is not None
        if condensed.body is not None:
            travelled = replace(condensed.body, value=orjson.loads(from_value(condensed.body.value)))
            assert strictly_equal(world.device.restored(travelled), value)
        condensed.acknowledge()


junk = st.recursive(
    st.fixed_dictionaries({"#": scalars}, optional={"unsigned": values, "x": scalars})
    | st.sampled_from(["~1", "~2", "~3", "~9999999999"])
    | events,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
)


@given(values | junk, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=300)
def test_bodies_that_nobody_condensed_do_no_harm(value: Any, first: int) -> None:
    world = World()
    world.say([event(1), event(2), ROOM])
    with contextlib.suppress(FactError):
        world.device.restored(CondensedBody(value, first))
    assert world.device.heard.count <= 3 + len(from_value(value))


def test_references_do_not_unfold_without_bound() -> None:
    world = World()
    world.say([event(1, "x" * 8000)])
    with pytest.raises(FactError, match="beyond all bounds"):
        world.device.restored(CondensedBody([{"#": 1}] * 2000, 0))


def damaged(file: bytes, chance: random.Random) -> bytes:
    match chance.randrange(5):
        case 0:
            return file[: chance.randrange(len(file) + 1)]
        case 1 if file:
            at = chance.randrange(len(file))
            return file[:at] + bytes((file[at] ^ 1 << chance.randrange(8),)) + file[at + 1 :]
        case 2:
            return file + chance.randbytes(chance.randrange(60))
        case 3:
            at = chance.randrange(len(file) + 1)
            return file[:at] + bytes(len(file) - at)
    return file


@given(st.randoms(use_true_random=False), st.integers(5, 40))
@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.too_slow])
def test_through_kills_torn_files_and_overtaking_messages_nothing_is_restored_wrongly(chance: random.Random, steps: int) -> None:
    """Documents are read in order whatever overtakes them; other messages as they come; acknowledgements come later, or never."""
    world = World()
    under_way: list[tuple[bool, Any, told.Condensed]] = []
    old_files = [(b"", b"")]
    for _ in range(steps):
        match chance.randrange(12):
            case 0 | 1 | 2 | 3:
                rooms = [ROOM, OTHER_ROOM, "!r"]
                value = [event(chance.randrange(12), room_id=chance.choice(rooms)) for _ in range(chance.randrange(1, 5))]
                condensed = world.telling.condense(value)
                if condensed is not None:
                    under_way.append((chance.random() < 0.5, value, condensed))
            case 4 | 5 | 6 | 7 if under_way:
                at = chance.randrange(len(under_way))
                if under_way[at][0]:  # a document: those before it are read first
                    at = next(index for index, one in enumerate(under_way) if one[0])
                _, value, condensed = under_way.pop(at)
                assert condensed.body is not None
                assert strictly_equal(world.device.restored(condensed.body), value)  # and nothing is missing
                if chance.random() < 0.9:
                    condensed.acknowledge()
            case 8:
                world.write()
                old_files.append((world.told_file, world.device.file))
            case 9 | 10 | 11:
                under_way.clear()
                if chance.random() < 0.5:
                    world.told_file = damaged(chance.choice(old_files)[0] if chance.random() < 0.2 else world.told_file, chance)
                    world.restart_box()
                if chance.random() < 0.5:
                    world.device.file = damaged(chance.choice(old_files)[1] if chance.random() < 0.2 else world.device.file, chance)
                    world.device.restart()
                world.connect()


def test_of_a_damaged_file_what_stands_before_the_damage_is_held() -> None:
    world = World()
    world.say([event(number) for number in range(10)])
    world.write()
    at = world.device.file.index(b"low tide 6")
    world.device.file = world.device.file[:at] + b"X" + world.device.file[at + 1 :]
    world.device.restart()
    assert world.device.heard.count == 6
    world.connect()
    assert world.say([event(5), event(6)]) == CondensedBody([{"#": 6}, event(6)], 7)
    world.write()
    world.device.restart()
    assert world.device.heard.count == 7


@given(st.binary(max_size=200), st.booleans())
def test_files_that_nobody_wrote_hold_what_can_be_read_of_them(junk: bytes, has_header: bool) -> None:
    content = (factlist.header(7, 9) if has_header else b"") + junk
    assert Told.from_file(content, KEY).count <= len(junk) // told.RECORD
    assert Heard.from_file(io.BytesIO(content), KEY).count == 0


# Bounds


def test_where_nothing_can_be_written_down_so_much_is_kept_in_memory_and_no_more() -> None:
    world = World()
    taken = 0
    for turn in range(500):
        value = event(turn, "x" * 7000)
        condensed = world.telling.condense([value, event(0, "x" * 7000)])
        assert condensed is not None
        assert condensed.body is not None
        try:
            assert world.device.restored(condensed.body) == [value, event(0, "x" * 7000)]
            condensed.acknowledge()
        except FactsMissing:
            world.telling.agree(world.device.heard.begin_anew())
        taken = max(taken, world.device.heard.unwritten_bytes)
    assert 1_900_000 < taken <= 2_000_000


@pytest.mark.parametrize(("text", "count"), [("low tide", 70_000), ("x" * 7000, 4_000)])
def test_old_facts_are_forgotten_at_both_ends_and_the_files_stay_bounded(text: str, count: int) -> None:
    world, step = World(), count // 100
    for turn in range(0, count, step):
        said = [event(number, text) for number in range(turn, turn + step)]
        assert world.say(said) == CondensedBody(said, turn + 1)
        if turn % (5 * step) == 0:
            world.write()
            assert len(world.told_file) <= told.MAX_FILE
            assert len(world.device.file) < 2 * KEPT * facts.MAX_BYTES + 5 * step * len(from_value(said[0]))
        if turn % (30 * step) == 0:
            world.restart_box()
            world.device.restart()
            world.connect()
    assert world.told.count <= facts.MAX_FACTS
    newest = world.say([event(count - 1, text), event(count - 500, text)])
    assert newest == CondensedBody([{"#": count}, {"#": count - 499}], count + 1)
    assert world.say([event(0, text)]) == CondensedBody([event(0, text)], count + 1)


def test_of_messages_without_acknowledgement_so_many_facts_are_told_and_no_more() -> None:
    world = World()
    under_way = [world.telling.condense([dated(number + 100 * turn, 5_000_000) for number in range(100)]) for turn in range(60)]
    firsts = [one.body.first for one in under_way if one is not None and one.body is not None]
    assert firsts == [*range(1, told.MAX_UNDER_WAY + 1, 100), *[0] * (60 - told.MAX_UNDER_WAY // 100 - 1)]


def test_of_one_answer_so_many_facts_get_numbers_and_no_more() -> None:
    world = World()
    many = [f"!{number:020}" for number in range(facts.MAX_TOLD + 10)]
    assert world.say(many) == CondensedBody(many, 1)
    assert world.say(many[-20:]) == CondensedBody([*(f"~{facts.MAX_TOLD - 9 + n}" for n in range(10)), *many[-10:]], facts.MAX_TOLD + 1)


def test_what_never_becomes_whole_takes_bounded_memory() -> None:
    heard = Heard(KEY)
    for number in range(2, 2000):
        heard.hear(number, [b"x" * facts.MAX_FACT])
    assert heard.count == 0
    assert 200 < len(heard.in_memory(range(2000))) < 250


def test_the_telling_end_takes_twenty_bytes_a_fact() -> None:
    world, count = World(), 16_000
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for turn in range(0, count, 500):
        condensed = world.telling.condense([event(number) for number in range(turn, turn + 500)])
        assert condensed is not None
        condensed.acknowledge()
    condensed = None
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken / count < 22


# In messages


def pair(told: Told | None = None, device: Device | None = None) -> tuple[Session, Session, Device]:
    """Asking and answering end, which have greeted each other."""
    device = device or Device()
    asking = Session(remembers=True, holds=device.heard.standing(facts.MAX_NUMBER))
    answering = Session(remembers=True, telling=(told or Told(KEY)).open())
    list(answering.receive(asking.encode_hello()))
    list(asking.receive(answering.encode_hello()))
    return asking, answering, device


def said(asking: Session, answering: Session, device: Device, response: Response) -> tuple[Response, int]:
    condensed = answering.condense(response, TARGET)
    message = answering.encode_response(1, response, target=TARGET, condensed=condensed)
    [read] = asking.receive(message)
    assert isinstance(read, ResponseMessage)
    body = read.response.body if read.condensed is None else from_value(device.restored(read.condensed))
    if condensed is not None:
        condensed.acknowledge()
    return Response(read.response.status, read.response.headers, body), len(message)


@given(st.lists(values, min_size=1, max_size=4), st.booleans(), st.sampled_from([200, 404]))
@settings(deadline=None, max_examples=40)
def test_answers_come_back_as_they_were(bodies: list[Any], is_large: bool, status: int) -> None:
    asking, answering, device = pair()
    for body in bodies:
        body = {"value": body, "x": "y" * 20_000 * is_large}
        expected = Response(status, JSON, from_value(body))
        assert said(asking, answering, device, expected)[0] == expected


def test_an_answer_that_was_told_before_costs_next_to_nothing() -> None:
    asking, answering, device = pair()
    chance = random.Random(1)

    def screen(now: int) -> Response:
        return Response(200, JSON, from_value({"chunk": [dated(n, now) | {"event_id": f"${n}", "x": ids[n]} for n in range(50)]}))

    ids = [chance.randbytes(40).hex() for _ in range(50)]
    first = said(asking, answering, device, screen(9_000_000))[1]
    again = said(asking, answering, device, screen(9_500_000))[1]
    assert first > 2000
    assert again < 100


def test_a_large_answer_becomes_a_small_document_when_its_facts_are_known() -> None:
    asking, answering, device = pair()
    large = Response(200, JSON, from_value([event(number, "x" * 900) for number in range(40)]))
    answering.is_final(answering.encode_response(9, large, target=TARGET))
    first = answering.condense(large, TARGET)
    message = answering.encode_response(1, large, target=TARGET, condensed=first)
    assert not answering.is_final(message)
    [read] = asking.receive(message)
    assert read.condensed is not None
    assert strictly_equal(device.restored(read.condensed), orjson.loads(large.body))
    assert first is not None
    first.acknowledge()
    again = answering.condense(large, TARGET)
    message = answering.encode_response(2, large, target=TARGET, condensed=again)
    assert answering.is_final(message)
    assert len(message) < 100


def test_what_has_been_condensed_is_never_larger_than_a_link_that_remembers_must_carry() -> None:
    for text in (random.Random(1).randbytes(20_000).decode("latin-1"), "\U0001f600" * 6000):
        _, answering, _ = pair()
        while len(from_value([event(1), text])) > memory.LARGEST_CONDENSED:
            text = text[:-100]
        response = Response(200, (*JSON, ("x-more", "y" * 4000)), from_value([event(1), text]))
        message = answering.encode_response(1, response, target=TARGET, condensed=answering.condense(response, TARGET))
        assert answering.is_final(message)
        assert len(message) < memory.LEAST_MESSAGE


def test_ends_agree_as_they_greet_each_other_unless_the_telling_one_has_forgotten_something() -> None:
    told, device = Told(KEY), Device()
    asking, answering, _ = pair(told, device)
    response = Response(200, JSON, from_value([event(1, random.Random(1).randbytes(60).hex())]))
    first = said(asking, answering, device, response)[1]
    asking, answering, _ = pair(told, device)
    assert asking.peer is not None
    assert asking.peer.facts == 1
    assert said(asking, answering, device, response)[1] < first / 2
    asking, answering, _ = pair(Told(KEY), device)
    assert asking.peer is not None
    assert asking.peer.facts == 0
    assert answering.condense(response, TARGET) is None
    list(answering.receive(asking.encode_standing(device.heard.standing(0))))
    assert said(asking, answering, device, response)[1] > first / 2


def test_an_end_that_does_not_tell_and_one_that_does_not_hear_speak_as_before() -> None:
    response = Response(200, JSON, from_value([event(1)]))
    for asking, answering in (
        (Session(remembers=True), Session(remembers=True, telling=Told(KEY).open())),
        (Session(remembers=True, holds=Standing(7, 7)), Session(remembers=True)),
    ):
        list(answering.receive(asking.encode_hello()))
        list(asking.receive(answering.encode_hello()))
        assert answering.condense(response, TARGET) is None
        [read] = asking.receive(answering.encode_response(1, response, target=TARGET))
        assert read == ResponseMessage(1, response)
    with pytest.raises(MessageError):
        Session().decode(bytes((Kind.FACTS << 5, 1)))


def test_a_standing_that_nobody_has_does_no_harm() -> None:
    world = World()
    world.say([event(1)])
    for standing in (Standing(0, 5), Standing(1, 0), Standing(2**31, 5)):
        world.telling.agree(standing)
        condensed = world.telling.condense([event(1)])
        assert condensed is not None
        assert condensed.body == CondensedBody([event(1)], standing.number + 1)
    world.telling.agree(Standing(2**32 - 1, 5))  # there are no more numbers
    condensed = world.telling.condense([event(1)])
    assert condensed is not None
    assert condensed.body is None
