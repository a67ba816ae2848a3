"""CoAP messages as bytes: what goes in comes out, and noise is refused without harm."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transports.coap import blockwise, message, observe, qblock
from transports.coap.exchange import Messenger
from transports.coap.message import LENGTHS, Code, Message, MessageError, Option, Type, decode, encode

OPTIONS = st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=300)), max_size=6)


@settings(max_examples=300)
@given(st.sampled_from(Type), st.integers(1, 255), st.integers(0, 0xFFFF), st.binary(max_size=8), OPTIONS, st.binary(max_size=100))
def test_a_message_comes_out_as_it_went_in(kind, code, message_id, token, options, payload):
    ordered = tuple(sorted(options, key=lambda option: option[0]))
    sent = Message(kind, code, message_id, token, ordered, payload)
    data = encode(sent)
    if len(data) <= message.MAX_MESSAGE:
        assert decode(data) == sent


@settings(max_examples=500)
@given(st.binary(max_size=64))
def test_noise_is_a_message_or_a_message_error(data):
    try:
        found = decode(data)
    except MessageError:
        return
    assert decode(encode(found)) == found


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=40), max_size=20))
def test_a_peer_that_sends_noise_is_answered_with_no_more_than_a_reset_each(datagrams):
    messenger = Messenger(lambda: 0.5, 0)
    for data in datagrams:
        messenger.receive(data, 0.0)
        assert all(len(reply) == 4 for reply in messenger.take())


@pytest.mark.parametrize(
    "data",
    ["40010001ff", "49010001", "400100", "80010001", "4001000101", "40010001dd", "40010001f0", "400000010a", "41010001"],
    ids=["marker alone", "long token", "short", "version 2", "option cut", "delta cut", "reserved", "empty that is not", "token cut"],
)
def test_malformed_messages_are_refused(data):
    with pytest.raises(MessageError):
        decode(bytes.fromhex(data))


def test_a_malformed_confirmable_message_is_reset_and_a_ping_is_too():
    messenger = Messenger(lambda: 0.5, 0)
    for data in ("40010001ff", "40000002"):
        messenger.receive(bytes.fromhex(data), 0.0)
    assert messenger.take() == [bytes.fromhex("70000001"), bytes.fromhex("70000002")]


def test_the_example_of_the_specification_is_read():
    # RFC 7252, Figure 16: a GET of /temperature with a piggybacked answer.
    got = decode(bytes.fromhex("40017d34bb") + b"temperature")
    assert (got.type, got.code, got.message_id, got.values(Option.URI_PATH)) == (Type.CON, Code.GET, 0x7D34, [b"temperature"])
    answer = decode(bytes.fromhex("60457d34ff") + b"22.3 C")
    assert (answer.type, answer.code, answer.payload) == (Type.ACK, Code.CONTENT, b"22.3 C")


def test_an_option_of_a_length_that_it_cannot_have_counts_as_not_known():
    options = ((Option.ETAG, b""), (Option.URI_PATH, b"x"), (Option.MAX_AGE, bytes(5)))
    assert message.unknown_critical(options, LENGTHS) is None
    assert message.recognised(options, LENGTHS) == ((Option.URI_PATH, b"x"),)
    assert message.unknown_critical(((Option.URI_PATH, bytes(256)),), LENGTHS) == Option.URI_PATH
    assert message.unknown_critical(((9, b""),), LENGTHS) == 9
    assert message.unknown_critical(((Option.URI_PORT, b""), (Option.URI_PORT, b"")), LENGTHS) == Option.URI_PORT


@given(st.integers(0, (1 << 20) - 1), st.booleans(), st.integers(0, 6))
def test_block_options_come_back(number, more, exponent):
    block = blockwise.Block(number, more, exponent)
    assert blockwise.block(block.encode()) == block


@given(st.binary(max_size=3))
def test_any_block_option_is_one_or_refused(value):
    try:
        assert blockwise.block(value).exponent < 7
    except blockwise.BlockError:
        assert int.from_bytes(value, "big") & 7 == 7


@given(st.lists(st.integers(0, (1 << 32) - 1), max_size=50))
def test_lists_of_missing_blocks_come_back(numbers):
    assert qblock.decode_missing(qblock.encode_missing(numbers)) == numbers


@given(st.binary(max_size=60))
def test_noise_is_a_list_of_missing_blocks_or_refused(data):
    try:
        assert len(qblock.decode_missing(data)) <= 100
    except blockwise.BlockError:
        return


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=500), st.integers(0, 3), st.data())
def test_blocks_may_come_in_any_order_and_again(body, exponent, data):
    count = -(-len(body) // (1 << exponent + 4))
    order = data.draw(st.permutations(range(count))) + data.draw(st.lists(st.integers(0, count - 1), max_size=5))
    receiver = qblock.BlockReceiver(exponent, 1000, 0.0)
    for number in order:
        receiver.add(*blockwise.piece(body, number, exponent), 0.0)
    assert receiver.body == body
    assert receiver.missing() == []


def test_blocks_that_contradict_each_other_are_refused():
    receiver = qblock.BlockReceiver(0, 100, 0.0)
    receiver.add(blockwise.Block(1, False, 0), b"end", 0.0)
    for block, payload in (
        (blockwise.Block(2, False, 0), b"another end"),
        (blockwise.Block(0, True, 1), bytes(32)),
        (blockwise.Block(0, True, 0), b"short"),
        (blockwise.Block(7, True, 0), bytes(16)),
    ):
        with pytest.raises(blockwise.BlockError):
            receiver.add(block, payload, 0.0)


def test_which_notification_is_newer_goes_by_number_and_then_by_time():
    assert observe.is_newer(1, 0.0, 2, 0.0)
    assert not observe.is_newer(2, 0.0, 1, 0.0)
    assert observe.is_newer((1 << 24) - 1, 0.0, 0, 0.0)
    assert observe.is_newer(2, 0.0, 1, 129.0)
