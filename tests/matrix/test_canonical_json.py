import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserver.matrix import canonical_json
from edgeserver.matrix.canonical_json import MAX_DEPTH, MAX_INTEGER, CanonicalJSONError, NumberError
from tests.matrix.spec_vectors import VECTORS

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
integers = st.integers(-MAX_INTEGER, MAX_INTEGER)
values = st.recursive(
    st.none() | st.booleans() | integers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


def reference(value):
    """What the spec's appendix gives as an implementation, in its own words: sorted, compact, UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def nested(depth):
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize("vector", VECTORS["canonical_json"], ids=lambda vector: vector["canonical"][:30])
def test_every_example_of_the_specification_has_its_canonical_form(vector):
    assert canonical_json.encode(canonical_json.decode(vector["input"])) == vector["canonical"].encode()


@given(values)
@settings(max_examples=150)
def test_any_value_is_written_as_the_specification_writes_it_and_read_back_the_same(value):
    data = canonical_json.encode(value)
    assert data == reference(value)
    assert canonical_json.encode_checked(value) == data
    assert canonical_json.decode(data) == value


@given(st.binary(max_size=60))
@settings(max_examples=150)
def test_any_bytes_are_decoded_or_refused_with_the_one_error(data):
    try:
        canonical_json.decode(data)
    except CanonicalJSONError:
        return


@pytest.mark.parametrize(
    "data", [b"", b"{", b"NaN", b"[1,]", b'"\xff"', b'"\\ud800"', b"[Infinity]", b"{'a':1}", b"01", b"\xef\xbb\xbf{}"]
)
def test_what_is_not_json_in_utf_8_is_refused(data):
    with pytest.raises(CanonicalJSONError):
        canonical_json.decode(data)


def test_bytes_of_any_kind_and_text_can_be_decoded():
    for data in (b"[1]", bytearray(b"[1]"), memoryview(b"[1]"), "[1]"):
        assert canonical_json.decode(data) == [1]


@pytest.mark.parametrize("number", [1.5, float("nan"), float("inf"), 2.0**53, MAX_INTEGER + 1, -MAX_INTEGER - 1, 2**80])
def test_a_number_without_canonical_form_is_refused(number):
    with pytest.raises(NumberError):
        canonical_json.encode({"a": [number]})


def test_the_greatest_integers_are_written():
    assert canonical_json.encode([MAX_INTEGER, -MAX_INTEGER]) == b"[9007199254740991,-9007199254740991]"


def test_a_whole_float_is_written_as_an_integer_but_a_pdu_may_not_hold_one():
    assert canonical_json.encode({"a": [1e10, "x", (2.0,)]}) == b'{"a":[10000000000,"x",[2]]}'
    with pytest.raises(NumberError):
        canonical_json.check({"a": 1.0})


def test_an_integer_too_great_for_64_bits_is_seen_although_it_decodes_to_a_float():
    with pytest.raises(NumberError):
        canonical_json.check(canonical_json.decode(b"[18446744073709551616]"))


def test_the_loose_form_writes_any_number():
    assert canonical_json.encode_loose({"b": 1.5, "a": 2**63}) == b'{"a":9223372036854775808,"b":1.5}'
    assert canonical_json.encode_loose({"b": 1.5, "a": 2**70}) == b'{"a":1180591620717411303424,"b":1.5}'
    with pytest.raises(CanonicalJSONError):
        canonical_json.encode_loose({"a": "\ud800"})


numbers = integers | st.integers(-(10**400), 10**400) | st.floats(allow_nan=False, allow_infinity=False)
values_of_old_rooms = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


def exactly(value):
    """Tells 1 from 1.0 and from True, and 0.0 from -0.0."""
    return json.dumps(value, sort_keys=True)


@given(values_of_old_rooms)
@settings(max_examples=200)
def test_old_rooms_sign_any_number_as_python_writes_it_and_read_it_back_exactly(value):
    data = canonical_json.encode_lenient(value)
    assert data == reference(value)
    assert exactly(canonical_json.decode_exact(data)) == exactly(value)
    assert exactly(canonical_json.decode_exact(canonical_json.encode_loose(value))) == exactly(value)
    assert exactly(canonical_json.decode_exact(data.decode())) == exactly(value)


@pytest.mark.parametrize(
    ("written", "form"),
    [
        (b"[1E5,1e16,1e-7,0.1,-0.0,2.50]", b"[100000.0,1e+16,1e-07,0.1,-0.0,2.5]"),
        (b"[18446744073709551615,18446744073709551616]", b"[18446744073709551615,18446744073709551616]"),
        (b"[-9223372036854775808, -9223372036854775809]", b"[-9223372036854775808,-9223372036854775809]"),
        (b"[1e19,10000000000000000000]", b"[1e+19,10000000000000000000]"),
        (b"[" + b"7" * 400 + b"]", b"[" + b"7" * 400 + b"]"),
    ],
)
def test_numbers_keep_what_they_are(written, form):
    assert canonical_json.encode_lenient(canonical_json.decode_exact(written)) == form


@pytest.mark.parametrize("long", ["7" * 20, "7" * 400])
@pytest.mark.parametrize(
    "other", ["NaN", "Infinity", "-Infinity", "1e400", "1e", "7" * 5000, '"\\ud800"', "01", "[" * 200 + "]" * 200, "\ufeff"]
)
def test_beside_a_long_number_everything_else_is_refused_that_is_refused_elsewhere(long, other):
    for data in (f"[{long},{other}]", f"[{other},{long}]"):
        with pytest.raises(CanonicalJSONError):
            canonical_json.decode_exact(data.encode())
        with pytest.raises(CanonicalJSONError):
            canonical_json.decode_exact(data)


@given(st.binary(max_size=60))
def test_any_bytes_beside_a_long_number_are_decoded_or_refused_with_the_one_error(data):
    try:
        value = canonical_json.decode_exact(b"[" + b"7" * 400 + b"," + data)
    except CanonicalJSONError:
        return
    canonical_json.encode_lenient(value)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), "\ud800", {"a": {1: 2}}, {1: 2}, {"a": {1, 2}}, [b"bytes"], object(), [[{"a": [{True: 1}]}]]],
)
def test_what_json_cannot_say_is_refused_beside_a_float_too(value):
    for encode in (canonical_json.encode_lenient, canonical_json.encode_loose):
        for whole in ([0.5, value, 2**70], {"a": 2**70, "b": value, "c": 0.5}):
            with pytest.raises(CanonicalJSONError):
                encode(whole)


def test_old_rooms_nest_no_deeper():
    deepest = canonical_json.decode(nested(MAX_DEPTH - 1))
    assert canonical_json.encode_lenient([deepest, 1.5]) == b"[" + nested(MAX_DEPTH - 1) + b",1.5]"
    with pytest.raises(CanonicalJSONError):
        canonical_json.encode_lenient([[deepest], 1.5])


@pytest.mark.parametrize("value", [{"a": "\ud800"}, {"\udfff": 1}, {1: 2}, {"a": {1, 2}}, [b"bytes"], object()])
def test_what_json_cannot_say_is_refused(value):
    with pytest.raises(CanonicalJSONError):
        canonical_json.encode(value)


def test_nesting_is_allowed_up_to_the_bound_and_no_further():
    deepest = canonical_json.decode(nested(MAX_DEPTH))
    assert canonical_json.encode(deepest) == nested(MAX_DEPTH)
    with pytest.raises(CanonicalJSONError):
        canonical_json.decode(nested(MAX_DEPTH + 1))
    with pytest.raises(CanonicalJSONError):
        canonical_json.check([deepest])
    with pytest.raises(CanonicalJSONError):
        canonical_json.encode([1.0, [deepest]])
    with pytest.raises(CanonicalJSONError):
        canonical_json.decode(nested(100_000))


def test_many_brackets_side_by_side_are_not_deep():
    flat = b"[" + b",".join([b'{"a":[]}'] * 500) + b"]"
    assert canonical_json.encode(canonical_json.decode(flat)) == flat
    assert canonical_json.decode(b'"' + b"[" * 500 + b'"') == "[" * 500
