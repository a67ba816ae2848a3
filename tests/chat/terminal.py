"""A terminal of 80 by 24 behind a pseudo terminal: it starts the real program, types, and knows what its screen shows.

It understands what a VT100 does as far as programs use it here: cursor moves, erasing, wrapping; all else that begins with an escape is
passed over, so that a test can also look at what was sent (`sent`).
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from typing import Self

from tests.lab.programs import ROOT, LabError

COLUMNS, ROWS = 80, 24
_SEQUENCE = re.compile(r"\x1b(?:\[([?>0-9;]*)([@-~])|\][^\x07]*\x07|[()][A-Z0-9]|[=>78A-Zc])")


class Picture:
    """What stands on the screen."""

    def __init__(self) -> None:
        self.rows = [[" "] * COLUMNS for _ in range(ROWS)]
        self.row = self.column = 0
        self._held = ""

    def feed(self, text: str) -> None:
        text = self._held + text
        self._held = ""
        place = 0
        while place < len(text):
            if text[place] == "\x1b":
                match = _SEQUENCE.match(text, place)
                if match is None:
                    self._held = text[place:]
                    return
                if match[2]:
                    self._move(match[1], match[2])
                place = match.end()
                continue
            self._put(text[place])
            place += 1

    def _move(self, given: str, what: str) -> None:
        numbers = [int(part) for part in given.split(";") if part.isdecimal()]
        count = numbers[0] if numbers else 1
        if what in "ABCD":
            by = {"A": (-count, 0), "B": (count, 0), "C": (0, count), "D": (0, -count)}[what]
            self.row, self.column = self.row + by[0], self.column + by[1]
        elif what == "H":
            self.row, self.column = (numbers[0] - 1, numbers[1] - 1) if len(numbers) == 2 else (0, 0)
        elif what == "J" and given == "2":
            self.rows = [[" "] * COLUMNS for _ in range(ROWS)]
        elif what == "J":
            self._erase_line()
            self.rows[self.row + 1 :] = [[" "] * COLUMNS for _ in self.rows[self.row + 1 :]]
        elif what == "K":
            self._erase_line()
        self.row, self.column = max(0, min(self.row, ROWS - 1)), max(0, min(self.column, COLUMNS - 1))

    def _erase_line(self) -> None:
        self.rows[self.row][self.column :] = [" "] * (COLUMNS - self.column)

    def _put(self, letter: str) -> None:
        if letter == "\r":
            self.column = 0
        elif letter == "\n":
            self.row += 1
            if self.row == ROWS:
                self.rows = [*self.rows[1:], [" "] * COLUMNS]
                self.row -= 1
        elif letter == "\b":
            self.column = max(0, self.column - 1)
        elif letter >= " ":
            self.rows[self.row][min(self.column, COLUMNS - 1)] = letter
            self.column += 1

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.rows]


class Terminal:
    """Runs a command in it. `term` is $TERM."""

    def __init__(self, *command: str, term: str, env: Mapping[str, str] | None = None, baud: int | None = None) -> None:
        self._command, self._term, self._env, self._baud = command, term, dict(env or {}), baud
        self.picture = Picture()
        self.sent = b""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        if self._baud is not None:
            settings = termios.tcgetattr(slave)
            settings[4] = settings[5] = getattr(termios, f"B{self._baud}")
            termios.tcsetattr(slave, termios.TCSANOW, settings)
        env = {**os.environ, "TERM": self._term, "PYTHONUTF8": "1", **self._env}
        command = ["setsid", "--ctty", "setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "edgeserver", *self._command]
        self._process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=env)
        self._slave = slave
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for descriptor in (self._master, self._slave):
            os.close(descriptor)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def ended(self, timeout: float = 20) -> int:
        """Waits for its end and returns the exit status."""
        assert self._process is not None
        deadline = time.monotonic() + timeout
        while self._process.poll() is None and time.monotonic() < deadline:
            self._read(0.05)
        self._read(0)
        return self._process.wait(1)

    def rss(self) -> int:
        """Resident memory in bytes."""
        assert self._process is not None
        with open(f"/proc/{self._process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def terminate(self) -> None:
        assert self._process is not None
        self._process.terminate()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def shows(self, text: str, timeout: float = 30) -> None:
        """Waits until a line of the screen has this in it."""
        self.until(lambda: any(text in line for line in self.picture.lines), repr(text), timeout)

    def until(self, holds: Callable[[], bool], what: str, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > deadline:
                raise LabError(f"{what} is not shown, but\n" + "\n".join(self.picture.lines))
            self._read(0.05)

    def settings(self) -> list[object]:
        """Of the terminal (termios(3))."""
        return termios.tcgetattr(self._slave)

    def _read(self, wait: float) -> None:
        while select.select([self._master], [], [], wait)[0]:
            try:
                piece = os.read(self._master, 65536)
            except OSError:
                return
            self.sent += piece
            self.picture.feed(piece.decode("utf-8", "replace"))
            wait = 0
