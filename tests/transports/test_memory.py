"""What two ends of a thin connection remember: requests and answers come back as they were, in order, for a few bytes."""

from __future__ import annotations

import base64
import hashlib
import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transports.exchange import Priority, Request, Response
from transports.lowband import memory
from transports.lowband.documents import DocumentError
from transports.lowband.messages import Cancel, Kind, MemoryLost, MessageError, RequestMessage, ResponseMessage, Session

TOKEN = "Bearer syt_YWxpY2U_abcdefghijklmnop_1a2b3c"
ROOM = "!IFC2eG3rC-5XnQzQG55I1cKc5ZeCXmDU7zqe__Q3P74"


def pair() -> tuple[Session, Session]:
    """Two ends that have greeted each other."""
    one, other = Session(remembers=True), Session(remembers=True)
    [_] = one.receive(other.encode_hello())
    [_] = other.receive(one.encode_hello())
    return one, other


def send(number: int, body: str, token: str = TOKEN) -> Request:
    target = f"/_matrix/client/v3/rooms/{ROOM.replace('!', '%21')}/send/m.room.message/m{number}"
    content = orjson.dumps({"body": body, "msgtype": "m.text"})
    return Request("PUT", target, headers=(("authorization", token), ("content-type", "application/json")), body=content)


def answer(number: int) -> Response:
    event_id = "$" + base64.urlsafe_b64encode(hashlib.sha256(str(number).encode()).digest()).decode().rstrip("=")
    return Response(200, (("content-type", "application/json"),), orjson.dumps({"event_id": event_id}))


def only(messages: Any) -> Any:
    [message] = messages
    return message


def test_a_request_and_its_answer_come_back_as_they_were() -> None:
    asking, answering = pair()
    for number in range(3):
        request = send(number, "low tide")
        assert only(answering.receive(asking.encode_request(5, request))) == RequestMessage(5, request)
        response = answering.encode_response(5, answer(number), target=request.target)
        assert only(asking.receive(response)) == ResponseMessage(5, answer(number))


def test_the_second_message_into_a_room_costs_little_but_its_text_and_the_hash() -> None:
    asking, answering = pair()
    request, response = send(1, "low tide at noon"), answer(1)
    asking.encode_request(1, request)
    answering.encode_response(1, response, target=request.target)
    again = send(2, "high tide at dusk")
    assert len(asking.encode_request(2, again)) < len("high tide at dusk") + 15
    assert len(answering.encode_response(2, answer(2), target=again.target)) <= 32 + 6


def in_any_order(request: Request) -> Request:
    """With its headers sorted: of different headers the order says nothing."""
    return replace(request, headers=tuple(sorted(request.headers)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)
bodies = st.one_of(st.just(b""), json_values.map(orjson.dumps), st.binary(max_size=60))
paths = st.sampled_from(
    ["/_matrix/client/v3/sync", f"/_matrix/client/v3/rooms/{ROOM}/messages", "/_matrix/client/versions", "/nowhere",
     "/_matrix/client/v3/profile/%40a%3Ab", "/_matrix/media/v3/config"]
)  # fmt: skip
queries = st.sampled_from(["", "?", "?a=1", "?since=s1_2&timeout=30000", "?a=1&a=1", "?flag", "?a==", "?a=&b=", "?filter=%7B%22x%22:1%7D"])
tokens = st.sampled_from(
    ["", TOKEN, "Bearer other", 'X-Matrix origin="a",key="ed25519:1",sig="' + base64.b64encode(bytes(range(64))).decode().rstrip("=") + '"']
)
types = st.sampled_from([None, "application/json", "application/json; charset=utf-8", "text/plain"])
requests = st.builds(
    lambda method, path, query, token, kind, body, priority, authority: Request(
        method, path + query, authority,
        ((("authorization", token),) if token else ()) + ((("content-type", kind),) if kind else ()) + (("x-more", "1"),),
        body, priority,
    ),
    st.sampled_from(["GET", "PUT", "POST", "DELETE", "PATCH"]), paths, queries, tokens, types, bodies, st.sampled_from(Priority),
    st.sampled_from(["", "b.example"]),
)  # fmt: skip


@given(st.lists(requests, min_size=1, max_size=6))
@settings(deadline=None)
def test_whatever_is_asked_comes_as_it_does_without_a_memory(asked: list[Request]) -> None:
    asking, answering = pair()
    plain = Session(peer=answering.peer), Session(peer=asking.peer)
    for number, request in enumerate(asked):
        found, expected = (
            only(there.receive(here.encode_request(number, request))) for here, there in ((asking, answering), plain)
        )
        assert (found.exchange_id, in_any_order(found.request)) == (expected.exchange_id, in_any_order(expected.request))


@given(st.binary(max_size=120))
@settings(deadline=None)
def test_documents_that_nobody_wrote_do_no_harm(junk: bytes) -> None:
    asking, answering = pair()
    list(answering.receive(asking.encode_request(1, send(1, "low tide"))))
    with suppress(MemoryLost):
        for number in range(1, 10):
            told = answering.receive(bytes((Kind.DOCUMENT << 5 | number,)) + junk)
            assert all(isinstance(one, RequestMessage | ResponseMessage) for one in told)


def test_what_has_overtaken_others_waits_for_them() -> None:
    asking, answering = pair()
    told = [asking.encode_request(number, send(number, f"tide {number}")) for number in range(10)]
    withdrawn = asking.encode_cancel(3)
    assert list(answering.receive(told[2])) == []
    assert list(answering.receive(told[1])) == []
    assert only(answering.receive(withdrawn)) == Cancel(3)
    assert [one.exchange_id for one in answering.receive(told[0])] == [0, 1, 2]
    rest = [one for number in (9, 8, 7, 6, 5, 4, 3) for one in answering.receive(told[number])]
    assert [(one.exchange_id, one.request) for one in rest] == [(number, send(number, f"tide {number}")) for number in range(3, 10)]


def test_numbers_go_round() -> None:
    asking, answering = pair()
    for number in range(2 * memory.NUMBERS + 3):
        told = asking.encode_request(number % 100, send(1, "tide"))
        assert only(answering.receive(told)).exchange_id == number % 100
        assert told[0] & 0x1F == number % memory.SHORT
        asking.arrived(told)


@given(st.lists(st.sampled_from(["write", "write", "write", "read", "acknowledge"]), max_size=300), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_documents_are_read_in_order_however_late_some_of_them_come_and_are_acknowledged(acts: list[str], chance: random.Random) -> None:
    asking, answering = pair()
    on_their_way: list[bytes] = []
    unacknowledged: list[bytes] = []
    told = found = 0
    for act in [*acts, *["read"] * len(acts)]:
        if act == "write":
            message = asking.encode_request(told, send(1, "tide"))
            if asking.is_final(message):  # else too many are under way, and it travels otherwise
                told += 1
                on_their_way.append(message)
        elif act == "read" and on_their_way:
            message = on_their_way.pop(chance.randrange(len(on_their_way)))
            unacknowledged.append(message)
            for one in answering.receive(message):
                assert isinstance(one, RequestMessage)
                assert one.exchange_id == found
                found += 1
        elif act == "acknowledge" and unacknowledged:
            asking.arrived(unacknowledged.pop(chance.randrange(len(unacknowledged))))
    assert found == told


def test_a_bounded_count_of_documents_is_under_way() -> None:
    asking, answering = pair()
    told = [asking.encode_request(number, send(number, "tide")) for number in range(memory.MAX_HELD + 2)]
    assert [asking.is_final(message) for message in told] == [True] * memory.MAX_HELD + [False] * 2
    assert [only(answering.receive(message)).exchange_id for message in told[-2:]] == [memory.MAX_HELD, memory.MAX_HELD + 1]
    asking.arrived(told[0])
    assert asking.is_final(asking.encode_request(1, send(1, "tide")))
    assert not asking.is_final(asking.encode_request(1, send(1, "tide")))


def test_a_document_that_came_twice_or_without_its_number_ends_the_memory() -> None:
    asking, answering = pair()
    told = [asking.encode_request(number, send(number, "tide")) for number in range(memory.MAX_HELD)]
    list(answering.receive(told[-1]))
    with pytest.raises(MemoryLost):
        list(answering.receive(told[-1]))
    asking, answering = pair()
    with pytest.raises(MemoryLost):
        list(answering.receive(b"\xff"))


def test_ends_that_remember_different_things_speak_without_a_memory() -> None:
    for one, other in ((Session(remembers=True), Session()), (Session(), Session(remembers=True))):
        list(one.receive(other.encode_hello()))
        list(other.receive(one.encode_hello()))
        request = send(1, "low tide")
        message = one.encode_request(1, request)
        assert not one.is_final(message)
        assert in_any_order(only(other.receive(message)).request) == in_any_order(request)


def test_what_others_build_upon_may_not_be_withdrawn() -> None:
    asking, _ = pair()
    assert asking.is_final(asking.encode_request(1, send(1, "low tide")))
    assert not asking.is_final(asking.encode_cancel(1))
    large = Request("PUT", send(1, "").target, body=orjson.dumps({"body": "x" * (memory.LARGEST_BODY + 1)}))
    assert not asking.is_final(asking.encode_request(2, large))


def test_what_is_neither_a_request_nor_an_answer_is_refused() -> None:
    wrong = ({"i": 1}, {"0": {"m": 1}}, {"0": 1, "i": 1}, {"x": {}, "i": 1}, {"0r": {"i": -1}}, {"0r": {}}, {"0r": {}, "i": 1}, [], 1)
    for document in wrong:
        told = memory._fresh(memory._Texts()).encode(document)
        with pytest.raises(DocumentError):
            memory.Memory().decode(told)
    _, answering = pair()
    beyond = memory._fresh(memory._Texts()).encode({"0r": {"i": 1 << 16}})
    with pytest.raises(MemoryLost):
        list(answering.receive(bytes((Kind.DOCUMENT << 5,)) + beyond))


def test_a_document_is_refused_where_no_memory_was_agreed() -> None:
    asking, _ = pair()
    with pytest.raises(MessageError):
        list(Session().receive(asking.encode_request(1, send(1, "low tide"))))


def test_texts_cost_less_after_others_in_the_same_words() -> None:
    texts = [f"The boat with the batteries for Kirkegrund comes at {hour}" for hour in ("seven", "noon", "nine")]
    asking, answering = pair()
    sizes = []
    for number, text in enumerate(texts):
        told = asking.encode_request(number, send(number, text))
        assert only(answering.receive(told)).request == send(number, text)
        sizes.append(len(told))
    alone = len(pair()[0].encode_request(2, send(2, texts[2]))) - len(pair()[0].encode_request(2, send(2, "")))
    assert sizes[2] < alone / 2


def test_what_has_been_coded_is_never_larger_than_a_link_that_remembers_must_carry() -> None:
    asking, _ = pair()
    shake = hashlib.shake_128(b"unlikely")
    for length in (1, 100, memory.LARGEST_BODY // 2):
        unlikely = shake.digest(length).decode("latin-1")
        body = orjson.dumps({"body": unlikely})[: memory.LARGEST_BODY]
        target = f"/_matrix/client/v3/rooms/{shake.hexdigest(4000)}/messages"
        message = asking.encode_request(1, Request("POST", target, "x" * 255, (("x-more", unlikely[:4000]),), body))
        assert len(message) < memory.LEAST_MESSAGE


def test_of_a_long_document_only_a_part_goes_through_the_model_of_texts() -> None:
    words = "the road is open again and the boat goes at noon, bring the batteries and the radio".split()  # noqa: SIM905
    chance = random.Random(1)
    lines = [" ".join(chance.sample(words, len(words))) for _ in range(160)]

    def size(count: int) -> int:
        body = orjson.dumps({"a": lines[:count]})
        return len(pair()[0].encode_request(1, Request("PUT", send(1, "").target, body=body)))

    assert size(160) - size(120) > 1.4 * size(40), "forty lines behind the part that goes through it cost more than the first forty"
