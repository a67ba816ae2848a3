"""Request targets through the path tables: exactly the same characters come out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transports.lowband import fields, tables, targets

TABLES = [tables.msc3079(), tables.extended()]
SEGMENTS = st.one_of(
    st.text("abcXYZ019!$:@%2F-_.~'()*+,;=&", max_size=12),
    st.sampled_from(["%21room%3Aexample.org", "!room%3Aexample.org", "!room:example.org", "%C3%A9", "%c3%a9", "%FF", "m.read"]),
)


def roundtrip(target, table):
    written = targets.encode(target, table.paths, table.vocabulary)
    reader = fields.Reader(written)
    assert targets.decode(reader, table.paths, table.vocabulary) == target
    assert reader.rest() == b""
    return written


@pytest.mark.parametrize("table", TABLES)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_filled_template_comes_out_as_it_went_in(table, data):
    template = data.draw(st.sampled_from(table.paths.templates))
    segments = [data.draw(SEGMENTS) if part.startswith("{") else part for part in template.split("/")[1:]]
    query = data.draw(st.sampled_from(["", "?", "?limit=20&dir=b", "?a=%3F?&b"]))
    roundtrip("/" + "/".join(segments) + query, table)


@pytest.mark.parametrize("target", ["/", "", "*", "/x", "//", "/_matrix/client/v3/rooms/", "/_matrix//client", "/é", "/_matrix/?"])
def test_a_target_without_a_template_travels_whole(target):
    for table in TABLES:
        roundtrip(target, table)


@pytest.mark.parametrize("room", ["!abc:example.org", "%21abc%3Aexample.org", "!abc%3Aexample.org"])
def test_no_way_of_quoting_costs_more_than_another(room):
    target = f"/_matrix/client/v3/rooms/{room}/send/m.room.message/17"
    assert len(roundtrip(target, tables.extended())) == 1 + 17 + 1 + 3


def test_every_template_is_found_by_its_own_path():
    for table in TABLES:
        for index, template in enumerate(table.paths.templates):
            path = "/".join("x:y" if part.startswith("{") else part for part in template.split("/"))
            assert table.paths.match(path) == (index, ["x:y"] * table.paths.count(index))


@settings(max_examples=200)
@given(st.binary(max_size=40))
def test_noise_is_a_target_or_a_field_error(data):
    for table in TABLES:
        try:
            target = targets.decode(fields.Reader(data), table.paths, table.vocabulary)
        except fields.FieldError:
            continue
        assert isinstance(target, str)


def test_uri_path_segments_of_the_proposal_name_a_path():
    codes = tables.msc3079_path_codes()
    assert targets.from_segments(["7"], codes) == "/_matrix/client/r0/sync"
    assert targets.from_segments(["9", "!r:a/b", "m.room.message", "1"], codes) == "/_matrix/client/r0/rooms/!r:a%2Fb/send/m.room.message/1"
    assert targets.from_segments(["_matrix", "client", "versions"], codes) == "/_matrix/client/versions"
    with pytest.raises(fields.FieldError):
        targets.from_segments(["9", "!r:a"], codes)


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_numbers_come_back(value):
    assert fields.Reader(fields.number(value)).number() == value


def test_a_number_without_end_is_refused():
    with pytest.raises(fields.FieldError):
        fields.Reader(b"\x80" * 20).number()
