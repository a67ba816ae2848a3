"""Messages of a link: what goes in comes out, in few bytes, and noise is refused."""

from contextlib import suppress
from dataclasses import replace

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserver.matrix import canonical_json
from transports.exchange import Priority, Request, Response
from transports.lowband import dictionary, tables
from transports.lowband.dictionary import CompressionError, Dictionaries
from transports.lowband.messages import (
    Cancel,
    Failure,
    FailureCode,
    Hello,
    Kind,
    MessageError,
    RequestMessage,
    ResponseMessage,
    Session,
)

JSON_TYPE = ("content-type", "application/json")
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["content-type", "etag", "x-custom", "retry-after", "authorization", "range"]),
        st.text('abcXYZ019 =",/;:-_\x80\xff', max_size=30),
    ),
    max_size=4,
).map(tuple)
BODIES = st.one_of(
    st.binary(max_size=80),
    st.dictionaries(st.sampled_from(["type", "body", "msgtype", "x"]), st.text(max_size=12) | st.integers(0, 99)).map(orjson.dumps),
)
REQUESTS = st.builds(
    Request,
    st.sampled_from(["GET", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"]),
    st.sampled_from(["/", "/_matrix/client/v3/sync?since=s1", "/_matrix/federation/v1/send/7", "/_matrix/media/v3/upload"]),
    st.sampled_from(["", "example.org", "[::1]:8448"]),
    HEADERS,
    BODIES,
    st.sampled_from(Priority),
)


def acquainted(first=None, second=None):
    a, b = Session(first or dictionary.shipped()), Session(second or dictionary.shipped())
    b.decode(a.encode_hello())
    a.decode(b.encode_hello())
    return a, b


def same_value(sent, got):
    """Equal bodies, or equal JSON where it was rewritten."""
    return sent == got or orjson.loads(sent) == orjson.loads(got)


def carried(headers):
    return [header for header in headers if header[0] not in ("authorization", "content-type")]


@settings(max_examples=150, deadline=None)
@given(REQUESTS, st.booleans(), st.integers(0, 0xFFFF))
def test_a_request_arrives_as_it_was_sent(request, known, exchange_id):
    a, b = acquainted() if known else (Session(), Session())
    message = b.decode(a.encode_request(exchange_id, request))
    assert isinstance(message, RequestMessage)
    got = message.request
    assert (message.exchange_id, got.method, got.target) == (exchange_id, request.method, request.target)
    assert (got.authority, got.priority) == (request.authority, request.priority)
    assert same_value(request.body, got.body)
    assert got.header("authorization") == request.header("authorization")
    assert carried(got.headers) == carried(request.headers)
    if got.body != request.body or not request.body:
        return
    assert got.header("content-type") in (request.header("content-type"), "application/json")


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.integers(-(2**65), 2**65) | st.integers(-(10**350), 10**350)


@settings(max_examples=150, deadline=None)
@given(st.lists(NUMBERS, max_size=3))
def test_numbers_arrive_as_they_were_written_by_whomever(numbers):
    """Events of old rooms hold floats and integers of any size: what CBOR has no exact form for travels as JSON."""
    a, b = acquainted()
    sent = {"content": {"n": numbers}}
    for body in (canonical_json.encode_lenient(sent), canonical_json.encode_loose(sent)):
        request = b.decode(a.encode_request(1, Request("PUT", "/_matrix/federation/v1/send/7", "", (JSON_TYPE,), body))).request
        response = b.decode(a.encode_response(5, Response(200, (JSON_TYPE,), body))).response
        for got in (request, response):
            assert repr(canonical_json.decode_exact(got.body)["content"]["n"]) == repr(numbers)


@settings(max_examples=150, deadline=None)
@given(st.integers(100, 599), HEADERS.map(lambda h: tuple(x for x in h if x[0] != "authorization")), BODIES)
def test_a_response_arrives_with_its_exact_status(status, headers, body):
    a, b = acquainted()
    message = b.decode(a.encode_response(5, Response(status, headers, body)))
    assert isinstance(message, ResponseMessage)
    assert message.response.status == status
    assert same_value(body, message.response.body)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_noise_is_a_message_or_a_message_error(data):
    _, b = acquainted()
    with suppress(MessageError):
        assert b.decode(data) is not None


@settings(max_examples=150, deadline=None)
@given(REQUESTS, st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_request_is_a_message_or_a_message_error(request, at, byte):
    a, b = acquainted()
    data = bytearray(a.encode_request(1, request))
    data[at % len(data)] = byte
    with suppress(MessageError):
        b.decode(bytes(data))


def test_sending_hello_costs_what_the_page_says():
    a, b = acquainted()
    room = "!OGEhHVWSdvArJzumhm%3Aexample.org"
    headers = (("Authorization", "Bearer syt_YWxpY2U_abcdefghijklmnopqrst_1aBcDe"), JSON_TYPE, ("Accept", "*/*"))
    body = b'{"body":"hello","msgtype":"m.text"}'
    request = Request("PUT", f"/_matrix/client/v3/rooms/{room}/send/m.room.message/m1.3", headers=headers, body=body)
    first = a.encode_request(1, request)
    a.delivered(request)
    again = a.encode_request(2, request)
    assert len(a.encode_hello()) == 10
    assert len(first) - len(again) >= 40
    assert len(again) == 56
    answer = Response(200, (JSON_TYPE,), b'{"event_id":"$abcdefghijklmnopqrstuvwxyz0123456789ABCDEFE"}')
    written = b.encode_response(2, answer)
    assert len(written) == 40
    assert a.decode(written) == ResponseMessage(2, answer)
    b.decode(first)
    message = b.decode(again)
    assert isinstance(message, RequestMessage)
    assert message.request.header("authorization") == headers[0][1]
    assert message.request.body == body


def test_a_token_is_not_abbreviated_before_its_request_was_acknowledged():
    a, b = acquainted()
    request = Request("GET", "/", headers=(("Authorization", "Bearer secret-token"),))
    lost, kept = a.encode_request(1, request), a.encode_request(2, request)
    assert len(lost) == len(kept)
    assert b.decode(kept).request.header("authorization") == "Bearer secret-token"


def test_a_handle_that_was_never_told_is_refused():
    a, _ = acquainted()
    _, stranger = acquainted()
    request = Request("GET", "/", headers=(("Authorization", "Bearer secret-token"),))
    a.delivered(request)
    a.encode_request(1, request)
    a.delivered(request)
    with pytest.raises(MessageError) as caught:
        stranger.decode(a.encode_request(7, request))
    assert (caught.value.kind, caught.value.exchange_id) == (Kind.REQUEST, 7)


def test_the_signature_of_an_x_matrix_header_travels_as_64_bytes():
    a, b = acquainted()
    sizes = []
    for n in range(3):
        signature = "ABCD" * 20 + f"{n}BCD" + "Zg"
        value = f'X-Matrix origin="a.example",destination="b.example",key="ed25519:1",sig="{signature}"'
        request = Request("PUT", "/_matrix/federation/v1/send/1", "b.example", (("Authorization", value),), b"{}")
        data = a.encode_request(n, request)
        a.delivered(request)
        assert b.decode(data).request.header("authorization") == value
        sizes.append(len(data))
    assert sizes[1] < 64 + 25
    assert sizes[1] == sizes[2]


def test_more_tokens_than_handles_still_arrive():
    a, b = acquainted()
    for n in range(200):
        request = Request("GET", "/", headers=(("Authorization", f"Bearer {n}"),))
        assert b.decode(a.encode_request(1, request)).request.header("authorization") == f"Bearer {n}"
        a.delivered(request)
    again = Request("GET", "/", headers=(("Authorization", "Bearer 199"),))
    assert b.decode(a.encode_request(1, again)).request.header("authorization") == "Bearer 199"


def test_stored_json_files_keep_their_bytes():
    a, b = acquainted()
    file = b'{ "b" : 1,\n "a": 2 }'
    up = Request("POST", "/_matrix/media/v3/upload", headers=(JSON_TYPE,), body=file)
    assert b.decode(a.encode_request(1, up)).request.body == file
    down = a.encode_response(1, Response(200, (JSON_TYPE,), file), target="/_matrix/client/v1/media/download/x/y")
    assert b.decode(down).response == Response(200, (JSON_TYPE,), file)


def test_ends_with_different_tables_speak_the_proposals():
    a, b = Session(), Session()
    a.decode(bytes((Kind.HELLO << 5, 9)) + b"????")
    request = Request("POST", "/_matrix/client/v3/rooms/!r:x/join", headers=(JSON_TYPE,), body=b'{"reason":"m.text"}')
    data = a.encode_request(1, request)
    assert not data[0] & 0x10
    assert b.decode(data) == RequestMessage(1, request)


def test_ends_of_two_releases_use_the_dictionary_that_both_have():
    old = bytes(zstandard.train_dictionary(2048, [b"sample %d of words " % (n * 7919) * 3 for n in range(400)]).as_bytes())
    shipped = dictionary.shipped()
    new = next(iter(shipped._contents.values()))
    a, b = acquainted(Dictionaries((new, old)), Dictionaries((old,)))
    body = b"sample 77 of words sample 78 of words and no JSON"
    request = Request("POST", "/", body=body)
    ab, ba = a.encode_request(1, request), b.encode_request(1, request)
    assert (ab[0] & 7, ba[0] & 7) == (2, 3)
    assert b.decode(ab) == RequestMessage(1, request)
    assert a.decode(ba) == RequestMessage(1, request)
    with pytest.raises(MessageError):
        b.decode(bytes((ab[0] + 1,)) + ab[1:])


def test_without_a_common_dictionary_plain_zstd_is_used_where_it_helps():
    a, b = acquainted(Dictionaries(), Dictionaries())
    body = b"again and again and again and again and again and again"
    data = a.encode_request(1, Request("POST", "/", body=body))
    assert data[0] & 7 == 1
    assert b.decode(data).request.body == body
    assert a.encode_request(1, Request("POST", "/", body=bytes(range(200))))[0] & 7 == 0


def test_cancel_and_failure_come_back():
    a, b = acquainted()
    assert b.decode(a.encode_cancel(300)) == Cancel(300)
    assert len(a.encode_cancel(3)) == 2
    failure = Failure(4, FailureCode.REFUSED, "é" * 10)
    assert b.decode(a.encode_failure(failure)) == failure
    long = b.decode(a.encode_failure(Failure(4, FailureCode.FAILED, "é" * 5000)))
    assert isinstance(long, Failure)
    assert long.reason == "é" * 100


@settings(max_examples=60, deadline=None)
@given(st.integers(100, 599), BODIES)
def test_a_notification_is_an_answer_that_is_not_the_last(status, body):
    a, b = acquainted()
    response = Response(status, (JSON_TYPE,), body)
    last, first = a.encode_response(3, response), a.encode_response(3, response, is_last=False)
    assert (first[0] >> 5, first[1:]) == (Kind.NOTIFICATION, last[1:])
    assert b.decode(first) == replace(b.decode(last), is_last=False)


@pytest.mark.parametrize("data", [b"\xa0", b"\xa0\x80", b"\xa0\xff\xff\x7f"])
def test_a_notification_without_an_exchange_is_no_message(data):
    with pytest.raises(MessageError):
        Session().decode(data)


def test_a_method_number_beyond_the_last_is_refused():
    a, b = acquainted()
    data = bytearray(a.encode_request(5, Request("POST", "/")))
    data[2] = 25 << 3
    with pytest.raises(MessageError, match="method"):
        b.decode(bytes(data))


def test_hello_tells_tables_and_dictionaries():
    a, _ = acquainted()
    assert a.peer == Hello(2, tables.extended().hash, dictionary.shipped().hashes)


def test_a_frame_that_claims_too_much_never_grows():
    bomb = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            3, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=True
        )
    ).compress(bytes(64 * 1024 * 1024))
    assert len(bomb) < 10_000
    with pytest.raises(CompressionError, match="too large"):
        Dictionaries().decompress(bomb, None, 1_000_000)
    silent = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            3, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False
        )
    ).compress(bytes(1000))
    with pytest.raises(CompressionError, match="no size"):
        Dictionaries().decompress(silent, None, 1_000_000)
    with pytest.raises(MessageError):
        Session().decode(bytes((Kind.REQUEST << 5 | 1, 1)) + bomb)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=3000), st.booleans())
def test_frames_unfold_to_what_was_folded(data, plain):
    shipped = dictionary.shipped()
    name = None if plain else shipped.hashes[0]
    frame = shipped.compress(data, name)
    assert shipped.decompress(frame, name, len(data)) == data
    if data:
        for damaged in (frame[:-1], frame + b"x"):
            with pytest.raises(CompressionError):
                shipped.decompress(damaged, name, len(data))


def test_the_shipped_dictionary_is_named_by_its_hash():
    from importlib import resources

    folder = resources.files("transports.lowband").joinpath("dictionaries")
    files = [file for file in folder.iterdir() if file.name.endswith(".zdict")]
    assert files
    assert all(dictionary.name_of(file.read_bytes()) + ".zdict" == file.name for file in files)
    assert folder.joinpath("current.txt").read_text().strip() + ".zdict" in {file.name for file in files}
    assert all(16_000 <= len(file.read_bytes()) <= 32_768 for file in files)
