"""CBOR of JSON values: the proposal's vectors, exact round trips, and what is refused."""

import json

import cbor2
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transports.lowband import body, cbor, tables
from transports.lowband.cbor import PLAIN, CborError, decode, encode

MSC3079 = tables.msc3079().vocabulary
EXTENDED = tables.extended().vocabulary

KEYS = st.one_of(st.text(max_size=8), st.sampled_from([*EXTENDED.keys, "8", "103", ""]))
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from([*(EXTENDED.strings or ()), "8"]),
    st.text("ABCabc019-_+/$!", min_size=38, max_size=90),
    st.from_regex(r"[$!][A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", fullmatch=True),
)
SCALARS = st.one_of(st.none(), st.booleans(), TEXTS, st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(KEYS, v, max_size=5), max_leaves=20
)  # fmt: skip


def canonical(value):
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"error": "something", "errcode": "M_UNKNOWN"}, "a21866694d5f554e4b4e4f574e186769736f6d657468696e67"),
        (
            {
                "type": "m.room.message",
                "content": {"msgtype": "m.text", "body": "Hello World"},
                "sender": "@alice:localhost",
                "room_id": "!foo:localhost",
                "unsigned": {"bool_value": True, "null_value": None},
            },
            "a5026e6d2e726f6f6d2e6d65737361676503a2181b6b48656c6c6f20576f726c64181c666d2e74657874056e21666f6f3a6c6f63616c68"
            "6f7374067040616c6963653a6c6f63616c686f737409a26a626f6f6c5f76616c7565f56a6e756c6c5f76616c7565f6",
        ),
    ],
)
def test_the_proposals_vectors_are_met_both_ways(value, expected):
    assert encode(value, MSC3079).hex() == expected
    assert decode(bytes.fromhex(expected), MSC3079) == value


def test_the_tables_have_the_proposals_size_and_no_code_twice():
    assert len(MSC3079.keys) == len(MSC3079.names) == 104
    assert len(tables.msc3079_path_codes()) == 57
    assert len(EXTENDED.keys) == len(EXTENDED.names)
    assert all(EXTENDED.keys[key] == code for key, code in MSC3079.keys.items())
    assert len(EXTENDED.texts) <= 256


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from([PLAIN, MSC3079, EXTENDED]))
def test_every_json_value_comes_back_as_the_same_canonical_json(value, vocabulary):
    assert canonical(decode(encode(value, vocabulary), vocabulary)) == canonical(value)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_another_decoder_reads_what_we_write_and_the_form_is_deterministic(value):
    written = encode(value)
    assert canonical(cbor2.loads(written)) == canonical(value)
    assert encode(orjson.loads(canonical(value))) == written


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_what_another_encoder_writes_is_read(value):
    assert canonical(decode(cbor2.dumps(value))) == canonical(value)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_noise_is_a_value_or_a_cbor_error(data):
    try:
        value = decode(data, EXTENDED)
    except CborError:
        return
    assert canonical(decode(encode(value, EXTENDED), EXTENDED)) == canonical(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    # RFC 8949 appendix A
    [
        (0.0, "f90000"),
        (-0.0, "f98000"),
        (1.5, "f93e00"),
        (100000.0, "fa47c35000"),
        (1.1, "fb3ff199999999999a"),
        (65504.0, "f97bff"),
        (1.0e300, "fb7e37e43c8800759c"),
        (18446744073709551615, "1bffffffffffffffff"),
        (-1000, "3903e7"),
    ],
)
def test_numbers_take_the_shortest_form_of_the_standard(value, expected):
    assert encode(value).hex() == expected
    assert repr(decode(bytes.fromhex(expected))) == repr(value)


def test_map_keys_are_sorted_by_their_encoded_bytes():
    # 24 is 1818, "" is 60: bytewise before lengthwise (RFC 8949 §4.2.1)
    assert encode({"": 1, "join": 2, "type": 3}, MSC3079).hex() == "a302031818026001"


def test_a_string_form_wins_over_the_integer_form_of_the_same_key():
    assert decode(bytes.fromhex("a2020164747970650 2".replace(" ", "")), MSC3079) == {"type": 2}
    assert decode(bytes.fromhex("a26474797065020201"), MSC3079) == {"type": 2}


def test_a_string_of_digits_is_never_expanded():
    assert decode(encode({"8": 1}, MSC3079), MSC3079) == {"8": 1}
    assert decode(bytes.fromhex("a1613801"), MSC3079) == {"8": 1}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("d82361 61", "a tag"),
        ("c249010000000000000000", "a tag"),
        ("a2616101616102", "duplicate"),
        ("a202010202", "duplicate"),
        ("a118ff01", "unknown map key"),
        ("a1f501", "unknown map key"),
        ("a14161 01", "unknown map key"),
        ("0102", "after the value"),
        ("", "too early"),
        ("6461", "too early"),
        ("62fffe", "UTF-8"),
        ("5f4161ff", "indefinite"),
        ("9fff", "indefinite"),
        ("4161", "byte string"),
        ("f7", "simple"),
        ("e5", "simple"),
        ("f97e00", "NaN"),
        ("f97c00", "infinity"),
        ("3bffffffffffffffff", "64 bits"),
        ("9bffffffffffffffff", "more items"),
        ("bb0000000100000000", "more items"),
        ("81" * 65 + "00", "too deeply"),
    ],
)
def test_what_is_not_an_acceptable_value_is_refused(data, why):
    with pytest.raises(CborError, match=why):
        decode(bytes.fromhex(data.replace(" ", "")), MSC3079)


def test_items_are_bounded_before_they_are_built():
    with pytest.raises(CborError, match="more items"):
        decode(b"\x9a\x00\x01\x00\x00" + b"\x80" * 65536, max_items=1000)


def test_floats_are_refused_where_they_are_not_allowed():
    for work in (lambda: encode(1.5, floats=False), lambda: decode(bytes.fromhex("f93e00"), floats=False)):
        with pytest.raises(CborError):
            work()


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, float("nan"), {1: 2}, b"x", {"a": {1}}, "\ud800", {"\ud800": 1}])
def test_what_json_does_not_have_is_not_written(value):
    with pytest.raises(CborError):
        encode(value)


def test_hashes_signatures_and_ciphertext_travel_as_raw_bytes():
    event_id = "$" + "Zm9v" * 10 + "Zm8"
    assert len(encode(event_id, EXTENDED)) == 2 + 1 + 32
    assert len(encode("A" * 86, EXTENDED)) == 2 + 1 + 64
    almost = "A" * 85 + "B"  # the last letter's spare bits are set
    assert encode(almost, EXTENDED) == encode(almost)


@settings(max_examples=200)
@given(TEXTS)
def test_packed_text_unpacks_to_itself(text):
    packed = cbor.pack_base64(text)
    assert packed is None or cbor.unpack_base64(packed) == text


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":2}',
        b'{"a":18446744073709551616}',
        b"[" * 70 + b"]" * 70,
        b'{"a":1e400}',
        b'{"a":NaN}',
        b'"\\ud800"',
        b"not json",
        b"",
        b"\xff",
    ],
)
def test_a_body_that_would_lose_something_is_not_rewritten(raw):
    assert body.to_cbor(raw, EXTENDED) is None


def test_a_body_with_spaces_keeps_its_value_unless_its_very_bytes_matter():
    raw = b'{"b": 1.0, "a": [1, "\\u00e9"]}'
    packed = body.to_cbor(raw, EXTENDED)
    assert packed is not None
    assert body.to_json(packed, EXTENDED) == '{"a":[1,"é"],"b":1.0}'.encode()
    assert body.to_cbor(raw, EXTENDED, verbatim=True) is None


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_canonical_json_comes_out_byte_for_byte(value):
    raw = canonical(value)
    packed = body.to_cbor(raw, EXTENDED, verbatim=True)
    assert packed is None or body.to_json(packed, EXTENDED) == raw
    assert packed is not None or json.loads(raw) is not None or raw == b"null"
