from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial

from tests.lab.ptyline import PtyLine


@pytest.fixture
def line(tmp_path: Path) -> Iterator[PtyLine]:
    with PtyLine(tmp_path, rate=9600) as line:
        yield line


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)


def _read(fd: int, size: int, seconds: float = 5) -> bytes:
    data, deadline = b"", time.monotonic() + seconds
    while len(data) < size and select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
        data += os.read(fd, size - len(data))
    return data


@pytest.mark.alone
def test_both_directions_arrive_whole_at_ten_bit_times_a_byte_each_on_its_own_clock(line: PtyLine) -> None:
    a, b = _open(line.a), _open(line.b)
    there, back = os.urandom(960), os.urandom(480)
    started = time.monotonic()
    os.write(a, there)
    os.write(b, back)
    assert _read(a, 480) == back
    assert 0.49 < time.monotonic() - started < 0.7
    assert _read(b, 960) == there
    assert 0.99 < time.monotonic() - started < 1.2
    stats = line.assert_honest()
    assert stats["a_to_b"]["bytes"] == 960
    assert stats["b_to_a"]["bytes"] == 480
    assert 1.0 <= stats["a_to_b"]["span_s"] < 1.1
    os.close(a)
    os.close(b)


def test_a_cut_line_swallows_what_is_sent_and_carries_again_when_restored(line: PtyLine) -> None:
    a, b = _open(line.a), _open(line.b)
    line.cut()
    os.write(a, b"lost")
    assert _read(b, 1, 0.1) == b""
    line.restore()
    os.write(a, b"heard")
    assert _read(b, 5) == b"heard"
    stats = line.assert_honest()
    assert (stats["a_to_b"]["bytes"], stats["a_to_b"]["lost"]) == (9, 4)
    os.close(a)
    os.close(b)


def test_a_program_that_leaves_its_end_and_comes_back_finds_the_line_alive(line: PtyLine) -> None:
    with serial.Serial(str(line.a), 9600, timeout=5) as a:
        with serial.Serial(str(line.b), 9600, timeout=5) as b:
            a.write(b"one")
            assert b.read(3) == b"one"
        with serial.Serial(str(line.b), 9600, timeout=5) as b:
            b.write(b"two")
            assert a.read(3) == b"two"


def test_a_reader_that_does_not_read_loses_what_does_not_fit_and_blocks_nobody(tmp_path: Path) -> None:
    with PtyLine(tmp_path, rate=2_000_000) as line:
        a, b = _open(line.a), _open(line.b)
        os.set_blocking(a, True)
        for _ in range(40):
            os.write(a, bytes(1000))
        os.write(b, b"still alive")
        assert _read(a, 11) == b"still alive"
        deadline = time.monotonic() + 5
        while line.stats()["a_to_b"]["bytes"] < 40_000 and time.monotonic() < deadline:
            select.select([], [], [], 0.01)
        assert line.assert_honest()["a_to_b"]["overrun"] > 0
        os.close(a)
        os.close(b)
