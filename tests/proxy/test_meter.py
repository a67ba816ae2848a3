"""What the line has carried lately, over restarts and clocks that are wrong."""

import logging

import trio

from edgeserver.proxy.meter import DAY, HOUR, Meter
from transports.link.wire import LinkStats

BEGIN = 1_790_000_000.0


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return BEGIN + trio.current_time() + self.ahead


async def test_hours_and_days_are_told_apart_and_outlive_a_restart(tmp_path, autojump_clock):
    clock, path = Clock(), tmp_path / "meter.json"
    for _ in range(2):
        stats = LinkStats()
        async with trio.open_nursery() as nursery:
            meter = Meter(path, stats, clock, inline=True)
            await nursery.start(meter.run)
            stats.bytes_in, stats.bytes_out = 100, 10
            await trio.sleep(7200)
            stats.bytes_in += 5
            nursery.cancel_scope.cancel()
    stats = LinkStats(7, 8)
    async with trio.open_nursery() as nursery:
        meter = Meter(path, stats, clock, inline=True)
        await nursery.start(meter.run)
        assert meter.last(HOUR) == (5, 0)
        assert meter.last(DAY) == (210, 20)
        await trio.sleep(2 * DAY)
        assert meter.last(DAY) == (0, 0)
        nursery.cancel_scope.cancel()


async def test_a_quiet_line_costs_no_write_and_a_wrong_clock_no_count_for_ever(tmp_path, autojump_clock):
    clock, path, stats = Clock(), tmp_path / "meter.json", LinkStats()
    async with trio.open_nursery() as nursery:
        meter = Meter(path, stats, clock, inline=True)
        await nursery.start(meter.run)
        await trio.sleep(DAY)
        assert not path.exists()
        clock.ahead = 10 * DAY
        stats.bytes_in = 50
        assert meter.last(HOUR) == (50, 0)
        clock.ahead = 0.0
        stats.bytes_in = 51
        assert meter.last(DAY) == (1, 0)
        nursery.cancel_scope.cancel()


async def test_a_damaged_file_is_said_and_begun_anew(tmp_path, autojump_clock, caplog):
    path = tmp_path / "meter.json"
    for damaged in (b"", b"[]", b'{"slots": {"x": 1}}', b'{"slots": 5}'):
        path.write_bytes(damaged)
        caplog.clear()
        async with trio.open_nursery() as nursery:
            meter = Meter(path, LinkStats(), Clock(), inline=True)
            await nursery.start(meter.run)
            assert meter.last(DAY) == (0, 0)
            nursery.cancel_scope.cancel()
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
