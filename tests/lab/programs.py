"""Child processes that cannot outlive the test run, with their output in a file, inside a network namespace or not."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable


class LabError(Exception):
    """Something in the laboratory did not come up or did not answer; the text ends with its last output."""


def missing(*commands: str) -> str | None:
    """Why a test that needs these commands cannot run, or None."""
    absent = [name for name in commands if which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def which(command: str) -> str | None:
    """Like `shutil.which`, but finds what Debian keeps in /usr/sbin too."""
    return shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")


def python_module(name: str, *arguments: str) -> list[str]:
    """The command line that runs a module of this tree with this interpreter."""
    return [PYTHON, "-m", name, *arguments]


def wait_for(what: str, holds: Callable[[], bool], *, timeout: float, program: Program | None = None) -> None:
    """Polls until `holds()`; raises `LabError` after `timeout` seconds, or at once when `program` has ended."""
    deadline = time.monotonic() + timeout
    pause = 0.005
    while not holds():
        if program is not None and not program.running:
            raise LabError(f"{what}: the program ended with status {program.returncode}\n{program.tail()}")
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout:g} s" + (f"\n{program.tail()}" if program else ""))
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


class Program:
    """One child process in its own session. `log` receives stderr, and stdout unless `piped`, appended over restarts.

    Start it from the main thread: the kernel kills it when the thread that started it ends, whatever way that happens.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        netns: str | None = None,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        piped: bool = False,
    ) -> None:
        self.argv = [str(part) for part in argv]
        self.log = log
        self.netns = netns
        self._cwd = cwd
        self._env = env
        self._piped = piped
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Starts it; returns at once."""
        if self.running:
            raise LabError(f"already running: {self.argv[0]}")
        leash = ["setpriv", "--pdeathsig", "KILL"] if threading.current_thread() is threading.main_thread() else []
        inside = [which("ip") or "ip", "netns", "exec", self.netns] if self.netns else []
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*leash, *inside, *self.argv],
                stdin=subprocess.PIPE if self._piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._piped else log,
                stderr=log,
                cwd=self._cwd,
                env={**os.environ, **(self._env or {})},
                start_new_session=True,
            )
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise LabError(f"never started: {self.argv[0]}")
        return self._process

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int:
        """Of the program itself: setpriv and ip replace themselves by it."""
        return self.process.pid

    def rss(self) -> int:
        """Resident memory in bytes, of this process alone."""
        return self._status_kib("VmRSS") * 1024

    def peak_rss(self) -> int:
        """The most resident memory it ever had, in bytes."""
        return self._status_kib("VmHWM") * 1024

    def _status_kib(self, field: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
        raise LabError(f"{self.argv[0]} has ended")

    def cpu_seconds(self) -> float:
        """User and system time that it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def tail(self, size: int = 4000) -> str:
        """The end of its log."""
        with contextlib.suppress(FileNotFoundError), self.log.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - size))
            return log.read().decode(errors="replace")
        return ""

    def send_signal(self, number: int) -> None:
        """To the whole session of the program, so that what it started hears it too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """kill -9, as a power cut does it; returns when it is gone."""
        if self._process is not None:
            self.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._close_pipes()

    def stop(self, timeout: float = 10) -> int:
        """Asks politely (SIGTERM), kills after `timeout` seconds; returns the exit status."""
        if self._process is None:
            return 0
        if self.running:
            self.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self.kill()
        return self._process.wait()

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def run(*command: str | Path, check: bool = True, input_text: str = "", **options: Any) -> str:
    """Runs a short command to its end and returns its output; raises `LabError` with it when it fails."""
    argv = [which(str(command[0])) or str(command[0]), *map(str, command[1:])]
    done = subprocess.run(argv, input=input_text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if check and done.returncode:
        raise LabError(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout}")
    return done.stdout
