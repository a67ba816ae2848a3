"""The table of one peer's messages: pace, order and memory, at times that the test chooses."""

import pytest

from transports.coap.exchange import (
    ACK_DELAY,
    FIRST_BURST,
    MAX_QUEUED,
    MAX_REMEMBERED,
    MAX_REMEMBERED_BYTES,
    Congested,
    Delivered,
    Messenger,
    Parameters,
    Received,
    Refused,
    Undelivered,
)
from transports.coap.message import Code, Message, Option, Type, decode, encode

GET = ((Option.URI_PATH, b"x"),)


def messenger(**parameters):
    return Messenger(lambda: 0.0, 100, Parameters(**parameters))


def sent(one):
    return [decode(data) for data in one.take()]


def request(message_id, kind=Type.CON):
    return encode(Message(kind, Code.GET, message_id, b"t", GET))


def ack(message_id):
    return encode(Message(Type.ACK, Code.EMPTY, message_id))


def test_the_times_of_the_specification():
    standard = Parameters()
    assert (standard.exchange_lifetime, standard.max_transmit_wait) == (247.0, 93.0)


def test_the_next_message_goes_out_when_the_one_before_is_acknowledged():
    one = messenger()
    first, second = (one.send(Code.GET, b"t", GET, b"", 0.0) for _ in range(2))
    assert [message.message_id for message in sent(one)] == [first]
    assert one.receive(ack(first), 1.0) == [Delivered(first)]
    assert [message.message_id for message in sent(one)] == [second]


def test_more_may_be_under_way_where_the_parameters_say_so():
    one = messenger(nstart=2)
    for _ in range(3):
        one.send(Code.GET, b"t", GET, b"", 0.0)
    assert len(sent(one)) == 2


def test_who_has_too_much_to_say_is_told_so():
    one = messenger()
    for _ in range(MAX_QUEUED + 1):
        one.send(Code.GET, b"t", GET, b"", 0.0)
    with pytest.raises(Congested):
        one.send(Code.GET, b"t", GET, b"", 0.0)


def test_a_message_is_repeated_at_doubling_distances_and_then_given_up():
    one = messenger()
    message_id = one.send(Code.GET, b"t", GET, b"", 0.0)
    times, events = [], []
    while one.deadline is not None:
        now = one.deadline
        events += one.advance(now)
        times.append(now)
    assert times == [2.0, 6.0, 14.0, 30.0, 62.0]
    assert events == [Undelivered(message_id)]
    assert len(one.take()) == 5


def test_a_reset_ends_the_repeats():
    one = messenger()
    message_id = one.send(Code.GET, b"t", GET, b"", 0.0)
    assert one.receive(encode(Message(Type.RST, Code.EMPTY, message_id)), 1.0) == [Refused(message_id)]
    assert one.deadline is None


def test_an_acknowledgement_of_nothing_is_passed_over():
    assert messenger().receive(ack(7), 0.0) == []


def test_a_response_in_time_goes_with_the_acknowledgement_and_a_late_one_by_itself():
    one = messenger()
    ((early,), (late,)) = (one.receive(request(number), 0.0) for number in (1, 2))
    assert one.deadline == ACK_DELAY
    assert isinstance(early, Received)
    assert one.respond(early.message, Code.CONTENT, (), b"a", 0.1) is None
    one.advance(ACK_DELAY)
    assert one.respond(late.message, Code.CONTENT, (), b"b", 5.0) is not None
    kinds = [(message.type, message.code, message.payload) for message in sent(one)]
    assert kinds == [(Type.ACK, Code.CONTENT, b"a"), (Type.ACK, Code.EMPTY, b""), (Type.CON, Code.CONTENT, b"b")]


def test_a_message_id_is_free_again_after_its_lifetime():
    one = messenger()
    assert len(one.receive(request(1), 0.0)) == 1
    assert one.receive(request(1), 246.0) == []
    assert len(one.receive(request(1), 248.0)) == 1


def test_what_is_remembered_is_bounded_in_number_and_bytes():
    one = messenger()
    for number in range(2 * MAX_REMEMBERED):
        (event,) = one.receive(request(number), 0.0)
        one.respond(event.message, Code.CONTENT, (), b"x" * 1000, 0.0)
    one.take()
    repeated = 0
    for number in reversed(range(2 * MAX_REMEMBERED)):
        if one.receive(request(number), 1.0):
            break
        repeated += 1
    assert MAX_REMEMBERED_BYTES // 1100 <= repeated <= MAX_REMEMBERED


def test_a_silent_peer_gets_non_confirmable_messages_at_the_probing_rate_only():
    one = messenger(probing_rate=100.0)
    size = len(encode(Message(Type.NON, Code.GET, 0, b"t", GET, b"x" * 1000)))
    for _ in range(20):
        one.send(Code.GET, b"t", GET, b"x" * 1000, 1000.0, confirmable=False)
    burst = len(one.take())
    assert burst == -(-FIRST_BURST // size)
    assert one.deadline == pytest.approx(1000.0 + (burst * size - FIRST_BURST) / 100.0)
    one.advance(one.deadline)
    assert len(one.take()) == 1
    one.receive(request(1), 1001.0)
    assert len(one.take()) == 20 - burst - 1


def test_go_coaps_request_in_an_acknowledgement_is_both():
    one = messenger()
    message_id = one.send(Code.CONTENT, b"t", (), b"block 0", 0.0)
    delivered, received = one.receive(encode(Message(Type.ACK, Code.GET, message_id, b"u", GET)), 1.0)
    assert delivered == Delivered(message_id)
    assert isinstance(received, Received)
    assert (received.message.type, received.message.token) == (Type.NON, b"u")


def test_a_reply_that_is_still_on_its_way_over_a_slow_wire_is_not_sent_again():
    one = messenger(travel=5.0)
    (event,) = one.receive(request(1), 10.0)
    one.respond(event.message, Code.CONTENT, (), b"here", 10.0)
    assert len(sent(one)) == 1
    for at, repeated in ((12.0, 0), (14.9, 0), (16.0, 1), (20.0, 0), (22.0, 1)):
        assert one.receive(request(1), at) == []
        assert [message.payload for message in sent(one)] == [b"here"] * repeated
