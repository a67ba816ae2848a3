"""Large answers decoded element by element are what they are when decoded at once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserver.matrix import canonical_json
from edgeserver.matrix.json_lists import JsonList, decode_with_lists

NAMES = frozenset({"state", "auth_chain"})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=12,
)
ANSWERS = st.dictionaries(st.sampled_from(["state", "auth_chain", "event", "origin", "servers", "é"]), VALUES, max_size=6)


@given(ANSWERS, st.sampled_from([None, 1]), st.booleans())
def test_nothing_is_lost_or_changed(answer: dict, indent: int | None, ascii_only: bool) -> None:
    body = json.dumps(answer, indent=indent, ensure_ascii=ascii_only).encode()
    found = decode_with_lists(body, NAMES)
    assert {name: list(value) if isinstance(value, JsonList) else value for name, value in found.items()} == answer
    for name in NAMES & set(answer):
        assert isinstance(found[name], JsonList) == isinstance(answer[name], list)


def test_a_slice_is_a_list_of_elements() -> None:
    found = decode_with_lists(b'{"state": [1, {"a": [2]}, "\xc3\xa9"]}', NAMES)["state"]
    assert (len(found), found[1:], found[-1]) == (3, [{"a": [2]}, "é"], "é")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"state"',
        b'{"state": [1',
        b'{"state": [1,]}',
        b'{"state": [1 2]}',
        b'{"state": []} x',
        b'{"state": [], }',
        b'{"a" 1}',
        b'{a: 1}',
        b'{"state": [nul]}',
        b'{"event": "\xff"}',
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(canonical_json.CanonicalJSONError):
        decode_with_lists(body, NAMES)


def test_an_element_that_is_not_utf_8_or_nested_too_deep_is_refused_when_it_is_looked_at() -> None:
    deep = b"[" * 150 + b"]" * 150
    found = decode_with_lists(b'{"state": ["\xff", ' + deep + b", 1]}", NAMES)["state"]
    assert found[2] == 1
    for index in (0, 1):
        with pytest.raises(canonical_json.CanonicalJSONError):
            found[index]
