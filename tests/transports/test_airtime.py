"""Priorities and duty cycle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.transports.rigs import MemoryRig, both_up
from transports.exchange import Priority
from transports.link.airtime import DutyCycle, Schedule
from transports.link.fragments import Outgoing
from transports.link.lora import MESHTASTIC_LONG_FAST, LoRa
from transports.memory import Air, Medium


def message(priority: Priority, size: int = 10_000) -> Outgoing:
    return Outgoing(bytes(size), priority)


def serve(schedule: Schedule, frames: int, size: int = 100) -> list[Priority]:
    order = []
    for _ in range(frames):
        outgoing = schedule.pick()
        if outgoing is None:
            break
        outgoing.cut(0, size, 1 << 30)
        schedule.charge(outgoing.priority, size)
        order.append(outgoing.priority)
    return order


def test_an_interactive_message_goes_next_even_after_hours_of_media() -> None:
    schedule = Schedule()
    schedule.add(message(Priority.MEDIA, 10**6))
    serve(schedule, 5000)
    schedule.add(message(Priority.INTERACTIVE, 200))
    assert serve(schedule, 1) == [Priority.INTERACTIVE]


@given(st.sets(st.sampled_from(list(Priority)), min_size=2))
def test_every_priority_that_waits_gets_its_share(waiting: set[Priority]) -> None:
    schedule = Schedule()
    for priority in waiting:
        schedule.add(message(priority, 10**6))
    served = serve(schedule, 400)
    assert set(served) == waiting
    counts = [served.count(priority) for priority in sorted(waiting)]
    assert counts == sorted(counts, reverse=True)


def test_messages_of_one_priority_go_in_order_and_what_was_lost_goes_first() -> None:
    schedule = Schedule()
    first, second = message(Priority.MESSAGE, 50), message(Priority.MESSAGE, 50)
    first.cut(0, 100, 1000)
    schedule.add(second)
    second.cut(1, 20, 1000)
    first.lost(0, 51)
    schedule.again(first)
    assert schedule.pick() is first


def test_a_cancelled_message_is_not_picked() -> None:
    schedule = Schedule()
    outgoing = message(Priority.MESSAGE)
    schedule.add(outgoing)
    outgoing.cancelled = True
    assert schedule.pick() is None


def test_a_removed_message_does_not_wait_in_memory() -> None:
    schedule = Schedule()
    first, second = message(Priority.MESSAGE), message(Priority.MESSAGE)
    schedule.add(first)
    schedule.add(second)
    schedule.remove(second)
    assert list(schedule._queues[Priority.MESSAGE]) == [first]


def test_the_duty_cycle_is_kept_over_an_hour() -> None:
    duty, now, sent = DutyCycle(0.1), 0.0, 0.0
    while now < 7200:
        now = max(now, duty.ready_at(now, 1.0))
        duty.charge(now, 1.0)
        sent += 1.0
        now += 1.0
    assert sent <= 0.1 * 7200 + 0.1 * 3600 + 2


def test_history_and_media_leave_a_quarter_of_the_budget_to_messages() -> None:
    duty = DutyCycle(0.01)
    for _ in range(27):
        assert duty.ready_at(0.0, 1.0, Priority.MEDIA) == 0.0
        duty.charge(0.0, 1.0)
    assert duty.ready_at(0.0, 1.0, Priority.MEDIA) > 0.0
    assert duty.ready_at(0.0, 1.0, Priority.MESSAGE) == 0.0


async def test_a_link_with_a_duty_cycle_stays_within_it_and_still_delivers(autojump_clock, nursery) -> None:
    import trio

    rig = MemoryRig(Medium(9600))
    duty = DutyCycle(0.01, period=600)
    alice, bob = rig.start_alice(nursery, duty=duty), rig.start_bob(nursery)
    a, b = await both_up(alice, bob)
    nursery.start_soon(lambda: a.send(bytes(12_000), priority=Priority.MEDIA))
    assert await b.receive() == bytes(12_000)
    assert alice.link.stats.airtime <= 0.01 * trio.current_time() + 0.01 * 600 + 1
    assert a.stats.bytes_by_priority[Priority.MEDIA] > 12_000
    nursery.cancel_scope.cancel()


def test_a_lora_packet_takes_the_time_that_its_datasheet_and_meshtastic_say() -> None:
    assert abs(LoRa(9, 125_000).seconds(13) - 0.164864) < 1e-9
    assert [round(MESHTASTIC_LONG_FAST.seconds(size), 3) for size in (50, 100, 255)] == [0.641, 1.010, 2.157]
    assert LoRa(7, 125_000).bit_rate == 5469
    assert LoRa(12, 125_000).seconds(50) > 0.9 * 8 * 50 / LoRa(12, 125_000).bit_rate  # symbols so long carry two bits less
    assert MESHTASTIC_LONG_FAST.mtu == 233


async def test_frames_on_a_radio_are_packets_with_its_time_and_its_headers(autojump_clock, nursery) -> None:
    import trio

    from transports.link.wire import LinkStats

    air = Air(Medium.radio(MESHTASTIC_LONG_FAST))
    stats = LinkStats()
    speaker, hearer = await air.station("a").open(stats), await air.station("b").open(LinkStats())
    began = trio.current_time()
    nursery.start_soon(speaker.send, bytes(range(100)))
    assert await hearer.receive() == bytes(range(100))
    assert air.bytes_sent == stats.bytes_out == 122
    assert 0 < trio.current_time() - began - MESHTASTIC_LONG_FAST.seconds(122) < 0.2  # a turn is drawn first
    assert speaker.time_on_air(100) == air.busy_seconds == MESHTASTIC_LONG_FAST.seconds(122)
    air.medium = Medium(1074, bit_errors=0.01, mtu=233, lora=MESHTASTIC_LONG_FAST)
    await speaker.send(bytes(200))
    with trio.move_on_after(5):
        raise AssertionError(await hearer.receive())
