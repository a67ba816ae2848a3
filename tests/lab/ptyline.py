"""A serial cable: two pseudo-terminals joined at a true bit rate.

Every byte costs ten bit times (8N1) on the clock of its direction and arrives when its stop bit has passed; the two
directions share nothing. A cut line swallows what is sent, at the same speed. A reader that does not read loses what no
longer fits its buffer, as with a UART. The slaves are held open, so that a program that closes its end causes no error
at the other one.

As a program, for processes in different network namespaces::

    python -m tests.lab.ptyline --rate 2400 A B [--control SOCKET]

makes the symlinks A and B, says `ready`, and obeys `cut`, `restore`, `stats` and `quit` as lines on stdin or on the
socket; the answer to each is one line of JSON, printed once more at the end. In those statistics
`bytes * 10 / rate <= span_s` holds for each direction.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import pty
import selectors
import signal
import socket
import sys
import time
import tty
from collections import deque
from pathlib import Path
from typing import Any, Self

from tests.lab.programs import LabError, Program, python_module, wait_for

BITS_A_BYTE = 10
_FIFO = 256  # bytes taken from the sender ahead of time, as a UART's driver does; the rest waits in the kernel
_TICK = 0.002  # seconds between deliveries while something is on the line


class Direction:
    """One wire: from the master of one pty to the master of the other."""

    def __init__(self, source: int, target: int, rate: int) -> None:
        self.source, self.target, self.byte_time = source, target, BITS_A_BYTE / rate
        self._queue: deque[int] = deque()
        self._free_at = 0.0  # when the stop bit of the last byte passes
        self.bytes = self.lost = self.overrun = 0
        self.first_start: float | None = None
        self.last_end: float | None = None

    @property
    def busy(self) -> bool:
        return bool(self._queue)

    @property
    def has_room(self) -> bool:
        return len(self._queue) < _FIFO

    def take(self, now: float) -> None:
        """Reads what the sender has written, as far as the FIFO goes."""
        try:
            data = os.read(self.source, _FIFO - len(self._queue))
        except BlockingIOError:
            return
        if data and not self._queue:
            self._free_at = max(self._free_at, now)
            if self.first_start is None:
                self.first_start = self._free_at
        self._queue.extend(data)

    def deliver(self, now: float, *, cut: bool) -> None:
        """Hands over every byte whose stop bit has passed."""
        due = min(len(self._queue), int((now - self._free_at) / self.byte_time))
        if due <= 0:
            return
        data = bytes(self._queue.popleft() for _ in range(due))
        self._free_at += due * self.byte_time
        self.bytes += due
        self.last_end = now
        if cut:
            self.lost += due
            return
        try:
            written = os.write(self.target, data)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EIO):
                raise
            written = 0
        self.overrun += due - written

    def stats(self) -> dict[str, Any]:
        span = 0.0 if self.first_start is None or self.last_end is None else self.last_end - self.first_start
        return {
            "bytes": self.bytes,
            "lost": self.lost,
            "overrun": self.overrun,
            "line_s": round(self.bytes * self.byte_time, 6),
            "span_s": round(span, 6),
        }


class Line:
    """Both wires and their ptys, served by one thread that calls `serve`."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.cut = False
        self._started = time.monotonic()
        self._a, self._a_slave = _raw_pty()
        self._b, self._b_slave = _raw_pty()
        self.names = (os.ttyname(self._a_slave), os.ttyname(self._b_slave))
        self.directions = {"a_to_b": Direction(self._a, self._b, rate), "b_to_a": Direction(self._b, self._a, rate)}

    def stats(self) -> dict[str, Any]:
        elapsed = round(time.monotonic() - self._started, 6)
        wires = {name: wire.stats() for name, wire in self.directions.items()}
        return {"rate": self.rate, "cut": self.cut, "elapsed_s": elapsed, **wires}

    def close(self) -> None:
        for fd in (self._a, self._a_slave, self._b, self._b_slave):
            os.close(fd)

    def obey(self, command: str) -> dict[str, Any]:
        if command in ("cut", "restore"):
            self.cut = command == "cut"
        elif command not in ("stats", "quit"):
            return {"error": f"unknown command {command!r}: cut, restore, stats or quit"}
        return self.stats()


def _raw_pty() -> tuple[int, int]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    return master, slave


class _Service:
    """The loop of the program: wires, signals, stdin and the control socket in one selector."""

    def __init__(self, line: Line, control: Path | None) -> None:
        self.line = line
        self.ended = False
        self._selector = selectors.DefaultSelector()
        self._watched: set[int] = set()
        with contextlib.suppress(OSError):  # a plain file or /dev/null cannot be polled, nor does it command
            self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._on_stdin)
        if control is not None:
            control.unlink(missing_ok=True)
            server = socket.socket(socket.AF_UNIX)
            server.bind(str(control))
            server.listen()
            self._selector.register(server, selectors.EVENT_READ, lambda: self._on_caller(server))

    def run(self) -> None:
        wires = self.line.directions.values()
        while not self.ended:
            for wire in wires:
                self._watch(wire)
            for key, _ in self._selector.select(_TICK if any(wire.busy for wire in wires) else None):
                if isinstance(key.data, Direction):
                    key.data.take(time.monotonic())
                else:
                    key.data()
            for wire in wires:
                wire.deliver(time.monotonic(), cut=self.line.cut)

    def _watch(self, wire: Direction) -> None:
        if wire.has_room and wire.source not in self._watched:
            self._selector.register(wire.source, selectors.EVENT_READ, wire)
            self._watched.add(wire.source)
        elif not wire.has_room and wire.source in self._watched:
            self._selector.unregister(wire.source)
            self._watched.discard(wire.source)

    def _on_stdin(self) -> None:
        text = os.read(sys.stdin.fileno(), 4096).decode()
        if not text:
            self._selector.unregister(sys.stdin.fileno())
        for command in text.split():
            self._obey(command, sys.stdout.fileno())

    def _on_caller(self, server: socket.socket) -> None:
        caller, _ = server.accept()
        with caller:
            caller.settimeout(1)
            with contextlib.suppress(OSError):
                self._obey(caller.recv(100).decode().strip(), caller.fileno())

    def _obey(self, command: str, answer_to: int) -> None:
        os.write(answer_to, json.dumps(self.line.obey(command)).encode() + b"\n")
        self.ended = self.ended or command == "quit"


def _symlink(link: Path, target: str) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Two pseudo-terminals joined at a true bit rate.")
    parser.add_argument("--rate", type=int, required=True, help="bits a second; ten bits make a byte")
    parser.add_argument("--control", type=Path, help="a Unix socket that takes cut, restore, stats and quit")
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    options = parser.parse_args()
    line = Line(options.rate)
    service = _Service(line, options.control)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _symlink(options.a, line.names[0])
    _symlink(options.b, line.names[1])
    print("ready", flush=True)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            service.run()
    finally:
        options.a.unlink(missing_ok=True)
        options.b.unlink(missing_ok=True)
        print(json.dumps(line.stats()), flush=True)
        line.close()


class PtyLine:
    """The program above for a test: `with PtyLine(tmp_path, rate=2400) as line:` gives the paths `line.a`, `line.b`."""

    def __init__(self, directory: Path, rate: int, name: str = "line") -> None:
        self.rate = rate
        self.a, self.b = directory / f"{name}-a", directory / f"{name}-b"
        self._control = directory / f"{name}.control"
        self.program = Program(
            python_module("tests.lab.ptyline", "--rate", str(rate), "--control", str(self._control), str(self.a), str(self.b)),
            log=directory / f"{name}.log",
        )

    def start(self) -> Self:
        self.program.start()
        wait_for("the pty line", self.b.is_symlink, timeout=20, program=self.program)
        return self

    def stop(self) -> None:
        self.program.stop()

    def cut(self) -> dict[str, Any]:
        """Pulls the cable: whatever is sent from now on is lost."""
        return self._ask("cut")

    def restore(self) -> dict[str, Any]:
        return self._ask("restore")

    def stats(self) -> dict[str, Any]:
        """`{"rate", "cut", "elapsed_s", "a_to_b": {"bytes", "lost", "overrun", "line_s", "span_s"}, "b_to_a": …}`."""
        return self._ask("stats")

    def assert_honest(self) -> dict[str, Any]:
        """No direction was faster than its bit rate; returns the statistics."""
        stats = self.stats()
        for wire in (stats["a_to_b"], stats["b_to_a"]):
            assert wire["bytes"] * BITS_A_BYTE / self.rate <= wire["span_s"] + 1e-5, stats
        return stats

    def _ask(self, command: str) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(10)
            caller.connect(str(self._control))
            caller.sendall(command.encode() + b"\n")
            answer = caller.makefile("rb").readline()
        if not answer:
            raise LabError(f"the pty line did not answer {command!r}\n{self.program.tail()}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


if __name__ == "__main__":
    main()
