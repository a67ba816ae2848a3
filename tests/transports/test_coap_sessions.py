"""Whole requests and answers between our two ends of CoAP, over a wire that loses datagrams."""

from itertools import pairwise

import pytest

from tests.transports.coap_rig import World
from transports.coap.blockwise import Allowance
from transports.coap.client import Answered, Failed
from transports.coap.message import Code, Option, Type
from transports.coap.server import MAX_BODY, Forgotten, Taken
from transports.msc3079.session import pace_of

BODY = bytes(range(256)) * 200  # 51,200 bytes: fifty blocks


def echo(asked):
    return Code.CONTENT, (), asked.request.payload


def large(asked):
    return Code.CONTENT, (), BODY


def test_a_quick_answer_comes_with_the_acknowledgement():
    world = World(lambda asked: (Code.CONTENT, (), b"here"))
    world.ask()
    world.run(1)
    assert [(answer.code, answer.payload) for answer in world.answers] == [(Code.CONTENT, b"here")]
    assert [(to, message.type) for _, to, message in world.sent] == [("server", Type.CON), ("client", Type.ACK)]


def test_the_acknowledgement_of_a_long_poll_is_not_held():
    world = World(lambda asked: None)
    world.ask()
    world.run(60)
    world.answer(world.asked[0], (Code.CONTENT, (), b"news"))
    world.run(10)
    assert [answer.payload for answer in world.answers] == [b"news"]
    ack, response, end = world.sent[1:]
    assert (ack[0] < 1, ack[2].type, ack[2].code) == (True, Type.ACK, Code.EMPTY)
    assert (response[2].type, response[2].token) == (Type.CON, world.sent[0][2].token)
    assert (end[1], end[2].type) == ("server", Type.ACK)
    assert len(world.asked) == 1


@pytest.mark.parametrize("quick", [False, True], ids=["blocks", "sets, which a slow wire does not know"])
def test_on_a_slow_wire_blocks_are_no_larger_than_it_likes_both_ways(quick):
    """A client that begins with larger ones is asked for smaller ones (RFC 7959 §2.3), and may go on asking for them."""
    world = World(echo, quick=quick, pace=pace_of(1200, 576))
    world.ask(Code.PUT, payload=BODY)
    world.run(200)
    assert [answer.payload for answer in world.answers] == [BODY]
    assert max(len(message.payload) for _, to, message in world.sent if to == "client") == 256
    assert sum(len(message.payload) > 256 for _, to, message in world.sent if to == "server") == (11 if quick else 1)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_what_is_lost_on_the_way_is_made_good(quick, seed):
    world = World(echo, loss=0.1, seed=seed, quick=quick)
    world.ask(Code.PUT, payload=BODY)
    world.run()
    assert [(type(answer), getattr(answer, "payload", None)) for answer in world.answers] == [(Answered, BODY)]
    assert len(world.asked) == 1


def test_sets_of_blocks_survive_a_third_of_all_datagrams_lost():
    whole = 0
    for seed in range(20):
        world = World(large, loss=0.3, seed=seed, quick=True)
        world.ask()
        world.run()
        assert len(world.asked) <= 1
        whole += [answer.payload for answer in world.answers if isinstance(answer, Answered)] == [BODY]
    assert whole >= 17  # a CON is given up when none of its five transmissions is answered


def test_sets_of_blocks_need_fewer_round_trips_than_single_blocks():
    times = {}
    for quick in (False, True):
        world = World(large, delay=1.0, quick=quick)
        world.ask()
        while not world.answers:
            world.run(1)
        times[quick] = world.now
    assert times[True] < times[False] / 4


def test_a_peer_that_does_not_know_sets_is_sent_single_blocks():
    world = World(large, quick=True)
    world.server._known.pop(Option.Q_BLOCK2)
    world.ask()
    world.run()
    assert [answer.payload for answer in world.answers] == [BODY]


def test_a_message_that_comes_twice_is_carried_out_once_and_answered_twice():
    lost = iter([True])
    world = World(lambda asked: (Code.CONTENT, (), b"done"), loses=lambda to, message: to == "client" and next(lost, False))
    world.ask(Code.POST)
    world.run()
    assert len(world.asked) == 1
    assert [message.type for _, to, message in world.sent if to == "client"] == [Type.ACK, Type.ACK]
    assert [answer.payload for answer in world.answers] == [b"done"]


def test_who_is_never_heard_is_given_up_after_the_rfcs_time():
    world = World(echo, loses=lambda to, message: True)
    world.ask()
    world.run()
    assert [type(answer) for answer in world.answers] == [Failed]
    times = [time for time, _, _ in world.sent]
    assert len(times) == 5
    assert 2 <= times[1] <= 3
    assert [round((b - a) / times[1]) for a, b in pairwise(times)] == [1, 2, 4, 8]


def test_one_message_is_under_way_at_a_time():
    world = World(echo, delay=0.5)
    for _ in range(3):
        world.ask()
    world.run()
    assert [round(time, 1) for time, to, _ in world.sent if to == "server"] == [0.0, 1.0, 2.0]


def test_a_body_beyond_the_bound_is_refused_while_it_comes_in():
    world = World(echo)
    world.ask(Code.PUT, payload=b"x" * (MAX_BODY + 1))
    world.run(3600)
    assert [answer.code for answer in world.answers] == [Code.REQUEST_ENTITY_TOO_LARGE]
    assert not world.asked
    assert world.allowance.left == 1 << 22


@pytest.mark.parametrize("quick", [False, True])
def test_all_peers_together_hold_no_more_than_the_allowance(quick):
    world = World(echo, quick=quick, allowance=Allowance(8000))
    world.ask(Code.PUT, payload=BODY)
    world.run()
    assert [answer.code for answer in world.answers] == [Code.REQUEST_ENTITY_TOO_LARGE]
    world.server.close()
    assert world.allowance.left == 8000


@pytest.mark.parametrize("quick", [False, True])
def test_half_a_body_is_forgotten_after_its_time(quick):
    world = World(echo, quick=quick, loses=lambda to, message: world.now > 0.2)
    world.ask(Code.PUT, payload=BODY)
    world.run(1)
    assert world.allowance.left < 1 << 22
    world.run(600)
    assert world.allowance.left == 1 << 22


def test_an_observer_hears_of_each_news_in_turn():
    world = World(lambda asked: (Code.CONTENT, (), b"0"))
    world.ask(observe=True)
    world.run(1)
    (observer,) = world.asked
    for number in range(1, 4):
        assert world.server.is_free(observer.exchange)
        assert world.notify(observer, (Code.CONTENT, (), b"%d" % number))
        assert not world.server.is_free(observer.exchange)
        world.run(1)
    assert [answer.payload for answer in world.answers] == [b"0", b"1", b"2", b"3"]
    assert [event for event in world.heard if isinstance(event, Taken)] == [Taken(observer.exchange)] * 3
    assert all(message.type is Type.CON for _, to, message in world.sent if to == "client" and message.code and message.type != Type.ACK)


def test_a_large_notification_is_fetched_whole_before_the_next_may_come():
    world = World(lambda asked: (Code.CONTENT, (), b"0"), loss=0.1)
    world.ask(observe=True)
    world.run(60)
    (observer,) = world.asked
    assert world.notify(observer, (Code.CONTENT, (), BODY))
    assert not world.notify(observer, (Code.CONTENT, (), b"too early"))
    world.run(200)
    assert [answer.payload for answer in world.answers] == [b"0", BODY]
    assert world.server.is_free(observer.exchange)


def test_an_observer_that_is_silent_is_forgotten():
    world = World(lambda asked: (Code.CONTENT, (), b"0"), loses=lambda to, message: world.now > 1)
    world.ask(observe=True)
    world.run(2)
    (observer,) = world.asked
    world.notify(observer, (Code.CONTENT, (), b"news"))
    world.run(200)
    assert Forgotten(observer.exchange) in world.heard
    assert not world.notify(observer, (Code.CONTENT, (), b"more news"))


def test_an_observer_that_wants_no_more_is_forgotten_at_the_next_news():
    world = World(lambda asked: (Code.CONTENT, (), b"0"))
    exchange = world.ask(observe=True)
    world.run(1)
    world.client.cancel(exchange)
    world.notify(world.asked[0], (Code.CONTENT, (), b"news"))
    world.run(1)
    assert Forgotten(world.asked[0].exchange) in world.heard
    assert world.sent[-1][2].type is Type.RST


def test_an_error_is_the_last_that_an_observer_hears():
    world = World(lambda asked: (Code.CONTENT, (), b"0"))
    world.ask(observe=True)
    world.run(1)
    assert world.notify(world.asked[0], (Code.UNAUTHORIZED, (), b""))
    world.run(1)
    assert [answer.code for answer in world.answers] == [Code.CONTENT, Code.UNAUTHORIZED]
    assert not world.notify(world.asked[0], (Code.CONTENT, (), b"more"))
