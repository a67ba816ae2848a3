"""Documents: everything that JSON knows comes back as it was, what repeats costs next to nothing, and no bytes do harm."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transports.lowband import documents
from transports.lowband.documents import MAX_DEPTH, DocumentError, Documents, Snapshot
from transports.lowband.rangecoder import AdaptiveNumber, Coder, code_bytes

KEYS = ("type", "content", "body", "sender", "event_id", "origin_server_ts", "rooms", "timeline")
HASHED = "$IFC2eG3rC-5XnQzQG55I1cKc5ZeCXmDU7zqe__Q3P74"


class Utf8:
    """Texts as they stand."""

    def __init__(self) -> None:
        self._length = AdaptiveNumber(1 << 22)

    def code(self, coder: Coder, text: str = "") -> str:
        raw = text.encode()
        length = self._length.code(coder, len(raw))
        return code_bytes(coder, length, raw if len(raw) == length else b"").decode()


def memory() -> Documents:
    return Documents(Utf8(), KEYS)


texts = st.text(st.characters(exclude_categories=["Cs"]))
identifiers = st.sampled_from(
    [HASHED, HASHED.replace("$", "!"), "@alice:hill.example", "#harbour:hill.example", "!old:hill.example", "mxc://hill.example/AbC1",
     "$:", "@a", "mxc://", "mxc:///", "@:\n:x", "abcDEF0123456789", "abcDEF012345678",
     "Zm9vYmFyYmF6cXV4MQ", "Zm9vYmFyYmF6cXV4-_", "", "null", "Bearer esa_d4tfXb7JrDSasBkn64CufZKk", "A b4", " b4", "crew 7", "crew 123456"]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | texts | identifiers,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(texts | st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=30,
)


@given(st.lists(values, max_size=5))
@settings(deadline=None)
def test_documents_come_back_as_they_were_one_after_the_other(told: list[Any]) -> None:
    writer, reader = memory(), memory()
    for document in told:
        assert as_json(reader.decode(writer.encode(document))) == as_json(document)


def as_json(document: Any) -> str:
    """In which 1 and 1.0 and True differ."""
    return json.dumps(document, sort_keys=True)


@given(st.lists(st.binary(max_size=100), max_size=3))
@settings(deadline=None)
def test_bytes_that_nobody_wrote_do_no_harm(told: list[bytes]) -> None:
    reader = memory()
    for data in told:
        try:
            json.dumps(reader.decode(data))
        except DocumentError:
            return


@given(values, st.data())
@settings(deadline=None)
def test_damaged_documents_do_no_harm(document: Any, data: st.DataObject) -> None:
    coded = bytearray(memory().encode(document))
    if coded:
        at = data.draw(st.integers(0, len(coded) - 1))
        coded[at] ^= data.draw(st.integers(1, 255))
    with suppress(DocumentError):
        json.dumps(memory().decode(bytes(coded)))


def event(number: int, body: str, event_id: str = HASHED) -> dict[str, Any]:
    return {
        "type": "m.room.message", "sender": "@alice:hill.example", "event_id": event_id,
        "origin_server_ts": 1_790_000_000_000 + number * 60_000,
        "content": {"msgtype": "m.text", "body": body},
    }  # fmt: skip


def test_what_repeats_costs_next_to_nothing() -> None:
    writer = memory()
    first, *later = (len(writer.encode(event(number, "low tide"))) for number in range(20))
    assert first > 100
    assert max(later[10:]) <= 5


def test_a_hash_costs_its_32_bytes_and_a_time_its_distance() -> None:
    writer = memory()
    for number in range(20):
        writer.encode(event(number, "low tide"))
    other = HASHED.replace("IFC2", "XXXX")
    assert len(writer.encode(event(21, "low tide", other))) <= 32 + 5


def test_identifiers_share_the_names_of_their_servers() -> None:
    writer = memory()
    writer.encode(["@alice:a.very.long.name.of.a.server.example"])
    assert len(writer.encode(["@bob:a.very.long.name.of.a.server.example"])) <= 8


def test_a_token_like_an_earlier_one_at_its_place_costs_the_distance_of_its_numbers() -> None:
    writer, reader = memory(), memory()
    costs = []
    for number in range(30):
        told = {"next_batch": f"s{1000 + 2 * number}_1790000000000", "prev_batch": f"t{40 + number}_{1876951235436374709 + number * 3**20}"}
        coded = writer.encode(told | {"p": ["!room:here", f"m17{number}.{number}"]})
        assert reader.decode(coded) == told | {"p": ["!room:here", f"m17{number}.{number}"]}
        costs.append(len(coded))
    assert costs[0] > 50
    assert max(costs[20:]) <= 10


@given(st.lists(st.from_regex(r"[a-c_.-]?[0-9]{0,20}[a-c_.-]?[0-9]{0,3}", fullmatch=True), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_strings_of_numbers_come_back_with_all_their_zeros(told: list[str]) -> None:
    writer, reader = memory(), memory()
    for text in told:
        assert reader.decode(writer.encode({"token": text})) == {"token": text}


def test_a_name_like_the_last_one_costs_what_is_between_its_beginning_and_its_end() -> None:
    writer, reader = memory(), memory()
    costs = []
    for number in range(90, 130):
        document = {"body": f"Harbour crew {number}, north", "sender": f"@visitor{number * 7_919_077}:far{number}.a.long.name.example"}
        coded = writer.encode(document)
        assert reader.decode(coded) == document
        costs.append(len(coded))
    assert costs[0] > 60
    assert sorted(costs)[len(costs) // 2] <= 10


def test_digits_cost_what_they_say_with_all_zeros_before_them() -> None:
    writer, reader = memory(), memory()
    for text in ("007", "0", "00", "123456789012345678", "1234567890123456789", "9", "-1", "٣"):
        coded = writer.encode(text)
        assert reader.decode(coded) == text
    assert len(writer.encode("528491036528491036")) <= 9


def test_a_copy_goes_on_from_where_the_first_was_and_neither_touches_the_other() -> None:
    seen = memory()
    seen.encode(event(1, "low tide"))
    snapshot = seen.snapshot()
    writer, reader = (Documents.restored(snapshot, Utf8()) for _ in range(2))
    coded = writer.encode(event(2, "low tide"))
    assert len(coded) < 12
    assert reader.decode(coded) == event(2, "low tide")
    assert len(Documents.restored(snapshot, Utf8()).encode(event(2, "low tide"))) == len(coded)


def test_names_can_be_forgotten_and_words_of_protocols_stay() -> None:
    seen = memory()
    seen.encode(event(1, "The road is open"))
    plain = Documents.restored(seen.snapshot(), Utf8())
    seen.forget_names()
    for text, is_known in (("m.room.message", True), ("@alice:hill.example", False), ("The road is open", False), (HASHED, False)):
        known, forgotten = (len(Documents.restored(one.snapshot(), Utf8()).encode([text])) for one in (plain, seen))
        assert (known == forgotten) is is_known, text


def test_what_is_no_json_is_refused_before_anything_is_remembered() -> None:
    writer, reader = memory(), memory()
    for document in (float("nan"), {"a": object()}, "\ud800", ["x" * documents.MAX_TEXT], [0] * documents.MAX_VALUES):
        with pytest.raises(DocumentError):
            writer.encode(document)
    assert reader.decode(writer.encode(event(1, "x"))) == event(1, "x")


def test_the_largest_documents_come_back() -> None:
    for large in ([[0]] * (documents.MAX_VALUES // 4 - 1), ["x" * (documents.MAX_TEXT - 4)], ["\x00" * (documents.MAX_TEXT // 6 - 1)]):
        assert memory().decode(memory().encode(large)) == large


def test_depth_has_a_bound_beyond_which_values_are_text() -> None:
    deep: Any = "bottom"
    for _ in range(3 * MAX_DEPTH):
        deep = {"content": [deep]}
    assert memory().decode(memory().encode(deep)) == deep


def test_the_memory_of_many_different_documents_is_bounded() -> None:
    writer = memory()
    for number in range(3000):
        writer.encode({f"key{number}": {f"inner{number}": f"text {number}"}})
    assert len(writer.snapshot()) < 300_000


def test_memories_that_begin_where_another_was_learn_each_for_itself() -> None:
    seen = memory()
    for number in range(20):
        seen.encode(event(number, "x"))
    snapshot = seen.snapshot()

    def restored(begun: Snapshot = snapshot) -> Documents:
        return Documents.restored(begun, Utf8())

    fresh = restored().encode(event(21, "y"))
    one, again = restored(), restored(restored().snapshot())
    told = [one.encode(event(number, "y")) for number in range(21, 40)]
    assert told[0] == fresh == again.encode(event(21, "y")) == restored().encode(event(21, "y"))
    reader = restored()
    assert [reader.decode(data) for data in told] == [event(number, "y") for number in range(21, 40)]
    assert len(fresh) < len(memory().encode(event(21, "y")))
