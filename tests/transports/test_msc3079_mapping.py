"""Requests and responses of the client API as CoAP messages, by the rules of MSC3079."""

import json

import pytest

from transports import syncing
from transports.coap.message import Code, Message, Option, Type, uint
from transports.exchange import Request, Response
from transports.lowband import tables
from transports.msc3079 import mapping
from transports.msc3079.mapping import ACCESS_TOKEN, CBOR, CBOR_VERSION, HTTP_STATUS, JSON, Memory, Refused, Told

JSON_TYPE = (("content-type", "application/json"),)
EVENT = {
    "type": "m.room.message",
    "content": {"msgtype": "m.text", "body": "Hello World"},
    "sender": "@alice:localhost",
    "room_id": "!foo:localhost",
    "unsigned": {"bool_value": True, "null_value": None},
}
EVENT_CBOR = bytes.fromhex(
    "a5026e6d2e726f6f6d2e6d65737361676503a2181b6b48656c6c6f20576f726c64181c666d2e74657874056e21666f6f3a6c6f63616c686f7374067040616c"
    "6963653a6c6f63616c686f737409a26a626f6f6c5f76616c7565f56a6e756c6c5f76616c7565f6"
)
ERROR = {"error": "something", "errcode": "M_UNKNOWN"}
ERROR_CBOR = bytes.fromhex("a21866694d5f554e4b4e4f574e186769736f6d657468696e67")


def message(code=Code.GET, path="7", query=(), payload=b"", **options):
    numbers = {name.upper(): value for name, value in options.items()}
    found = [(Option.URI_PATH, part.encode()) for part in path.split("/")] + [(Option.URI_QUERY, pair.encode()) for pair in query]
    found += [(Option[name] if name in Option.__members__ else getattr(mapping, name), value) for name, value in numbers.items()]
    return Message(Type.CON, code, 1, b"", tuple(found), payload)


def read(sent, memory=None):
    return mapping.request_of(sent, memory or Memory())


@pytest.mark.parametrize(("value", "packed"), [(EVENT, EVENT_CBOR), (ERROR, ERROR_CBOR)])
def test_the_vectors_of_the_proposal_hold_both_ways(value, packed):
    memory = Memory(version=1)
    response = Response(200, JSON_TYPE, json.dumps(value).encode())
    assert mapping.message_of(response, memory) == (Code.CONTENT, ((Option.CONTENT_FORMAT, uint(CBOR)),), packed)
    assert json.loads(read(message(Code.PUT, payload=packed, content_format=uint(CBOR))).request.body) == value


def test_a_path_code_and_its_parameters_are_a_path():
    sent = message(Code.PUT, "9/!7mqP7DYBUOmwAweF:localhost/m.room.message/$.AAABeH6obLU")
    assert read(sent).request.target == "/_matrix/client/r0/rooms/!7mqP7DYBUOmwAweF:localhost/send/m.room.message/$.AAABeH6obLU"
    assert read(message(path="_matrix/client/v3/sync")).request.target == "/_matrix/client/v3/sync"
    with pytest.raises(Refused) as refused:
        read(message(path="9/!a:b"))
    assert refused.value.code == Code.BAD_REQUEST


def test_a_method_that_http_does_not_have_is_refused():
    with pytest.raises(Refused) as refused:
        read(Message(Type.CON, 27, 1))
    assert refused.value.code == Code.METHOD_NOT_ALLOWED


def test_a_slash_in_a_segment_and_an_ampersand_in_a_query_stay_what_they_are():
    sent = Message(Type.CON, Code.GET, 1, b"", ((Option.URI_PATH, b"H"), (Option.URI_PATH, b"#a/b:c"), (Option.URI_QUERY, b"via=x&y=z+1")))
    assert read(sent).request.target == "/_matrix/client/r0/directory/room/%23a%2Fb:c?via=x%26y%3Dz%2B1"


@pytest.mark.parametrize("code", list(tables.msc3079_path_codes()))
def test_every_path_of_the_table_goes_there_and_back(code):
    template = tables.msc3079_path_codes()[code]
    path = "/".join("a%20b%2Fc" if part.startswith("{") else part for part in template.split("/"))
    for target in (path, path.replace("/r0/", "/v3/")):
        number, options, _ = mapping.ask_of(Request("GET", target), Told())
        assert options[0] == (Option.URI_PATH, code.encode())
        assert read(Message(Type.CON, number, 1, b"", options)).request.target == path


def test_the_host_is_the_name_that_the_request_is_for():
    assert read(message(uri_host=b"box.gw.example.org")).request.authority == "box.gw.example.org"
    assert read(message()).request.authority == ""


def test_the_access_token_holds_until_another_is_sent():
    memory = Memory()
    assert read(message(), memory).request.header("authorization") is None
    assert read(message(access_token=b"one"), memory).request.header("authorization") == "Bearer one"
    assert read(message(), memory).request.header("authorization") == "Bearer one"
    assert read(message(access_token=b"Bearer two"), memory).request.header("authorization") == "Bearer two"
    assert read(message(), memory).request.header("authorization") == "Bearer two"
    with pytest.raises(Refused):
        read(message(access_token=b"three\r\nhost: elsewhere"), memory)


def test_integer_keys_are_for_who_asks_for_them_or_uses_them():
    answer = Response(200, JSON_TYPE, json.dumps(ERROR).encode())
    plain = mapping.message_of(answer, Memory())[2]
    assert b"errcode" in plain
    asked, used, later = Memory(), Memory(), Memory()
    read(message(cbor_version=uint(1)), asked)
    read(message(Code.PUT, payload=ERROR_CBOR, content_format=uint(CBOR)), used)
    read(message(cbor_version=uint(7)), later)
    read(message(), asked)
    for memory in (asked, used, later):
        assert mapping.message_of(answer, memory)[2] == ERROR_CBOR


def test_who_speaks_json_is_answered_in_json():
    answer = Response(200, JSON_TYPE, b"{}")
    for options in ({"accept": uint(JSON)}, {"content_format": uint(JSON)}):
        asking = read(message(**options))
        assert asking.wants_json
        assert mapping.message_of(answer, Memory(), wants_json=True) == (Code.CONTENT, ((Option.CONTENT_FORMAT, uint(JSON)),), b"{}")
    assert not read(message(content_format=uint(JSON), accept=uint(CBOR))).wants_json
    with pytest.raises(Refused) as refused:
        read(message(accept=uint(41)))
    assert refused.value.code == Code.NOT_ACCEPTABLE


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (message(Code.PUT, payload=b"\xff", content_format=uint(CBOR)), Code.BAD_REQUEST),
        (message(Code.PUT, payload=b"<a/>", content_format=uint(41)), Code.UNSUPPORTED_CONTENT_FORMAT),
        (message(uri_host=b"a\r\nb"), Code.BAD_REQUEST),
        (Message(Type.CON, Code.GET, 1, b"", ((Option.URI_PATH, b"\xff"),)), Code.BAD_REQUEST),
    ],
)
def test_what_is_no_request_is_refused_with_the_code_that_says_why(sent, code):
    with pytest.raises(Refused) as refused:
        read(sent)
    assert refused.value.code == code


@pytest.mark.parametrize("status", [200, 201, 204, 302, 304, 400, 401, 403, 404, 405, 409, 413, 418, 429, 500, 502, 503, 504, 507])
def test_the_exact_status_arrives(status):
    code, options, payload = mapping.message_of(Response(status, JSON_TYPE, json.dumps(ERROR).encode()), Memory())
    canonical = json.dumps(ERROR, separators=(",", ":"), sort_keys=True).encode()
    assert mapping.response_from(code, options, payload) == Response(status, JSON_TYPE, canonical)
    assert code >> 5 == {302: 5, 304: 2}.get(status, status // 100)


def test_the_status_costs_nothing_where_the_code_says_it():
    assert mapping.message_of(Response(200), Memory()) == (Code.CONTENT, (), b"")
    assert mapping.message_of(Response(418), Memory()) == (Code.BAD_REQUEST, ((HTTP_STATUS, uint(418)),), b"")


def test_a_wait_that_is_asked_for_is_the_max_age():
    response = Response(429, (("retry-after", "7"),), b"")
    code, options, payload = mapping.message_of(response, Memory())
    assert (code, options) == (Code.TOO_MANY_REQUESTS, ((Option.MAX_AGE, b"\x07"),))
    assert mapping.response_from(code, options, payload).header("retry-after") == "7"


def test_a_client_tells_its_token_and_version_once():
    told = Told()
    request = Request("GET", "/_matrix/client/v3/sync?since=a%26b", headers=(("authorization", "Bearer t"),))
    _, first, _ = mapping.ask_of(request, told)
    assert {ACCESS_TOKEN, CBOR_VERSION} <= {number for number, _ in first}
    told.heard(request)
    _, second, _ = mapping.ask_of(request, told)
    assert second == ((Option.URI_PATH, b"7"), (Option.URI_QUERY, b"since=a&b"))


def test_an_observed_sync_goes_on_where_the_last_one_ended():
    request = Request("GET", "/_matrix/client/r0/sync?filter=1&since=old&timeout=30000&full_state=true")
    assert syncing.is_sync(request)
    assert syncing.at_once(request).target == "/_matrix/client/r0/sync?filter=1&since=old&full_state=true&timeout=0"
    assert syncing.after(request, syncing.Form.CLASSIC, "a/b").target == "/_matrix/client/r0/sync?filter=1&since=a%2Fb&timeout=300000"
