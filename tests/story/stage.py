"""What the story is played with: boxes as processes, the verbs that their owners type, and the steps told as they happen."""

from __future__ import annotations

import functools
import json
import re
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import trio

from tests.lab.box import Box
from tests.lab.programs import LabError, Program, python_module, wait_for, which

PASSWORD = "correct-horse-battery"
STATUS_OK = 0


def toml(sections: dict[str, dict[str, Any]], links: list[dict[str, str]] | None = None) -> str:
    """A configuration file: texts, truth values and lists of texts are the same in JSON."""
    blocks = [(f"[{name}]", values) for name, values in sections.items()] + [("[[links]]", link) for link in links or []]
    return "\n".join(_block(title, values) for title, values in blocks)


def _block(title: str, values: dict[str, Any]) -> str:
    return "\n".join([title, *(f"{key} = {json.dumps(value)}" for key, value in values.items())]) + "\n"


class Station(Box):
    """A box whose owner sits at its terminal. It is ready when its control socket answers, for it may have no listener at all."""

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def server_name(self) -> str:
        """Its name, known once it has been started."""
        return (self.data / "server_name").read_text().strip()

    def wait_ready(self, timeout: float = 30) -> None:
        """Blocks until its control socket takes callers. Raises `LabError` with the end of the log."""
        wait_for(f"{self.name}", functools.partial(_listens, self.data / "control.sock"), timeout=timeout, program=self.program)
        self.started_in = time.monotonic() - self._began

    def cli(self, *words: str, timeout: float = 180) -> str:
        """Types a verb, to its end; returns what it said. Raises `LabError` if it fails."""
        argv = self._argv(*words)
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout)
        if done.returncode != STATUS_OK:
            raise LabError(f"edgeserver {' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}{self.program.tail()}")
        return done.stdout

    async def acli(self, *words: str, timeout: float = 180) -> str:
        """`cli` for trio."""
        return await trio.to_thread.run_sync(functools.partial(self.cli, *words, timeout=timeout), abandon_on_cancel=True)

    async def told(self, *words: str) -> Any:
        """What a verb says with --json."""
        return json.loads(await self.acli(*words, "--json"))

    def _argv(self, *words: str) -> list[str]:
        inside = [which("ip") or "ip", "netns", "exec", self.netns] if self.netns else []
        return [*inside, *python_module("edgeserver", *words, "--config", str(self.config_file))]

    def offer(self, *words: str) -> Offer:
        """`edgeserver pair` without a code: shows one, and waits until somebody has used it."""
        return Offer(self._argv("pair", *words), self.directory)

    async def paired_and_up(self, timeout: float = 120) -> dict[str, Any]:
        """Waits until every paired peer is connected; returns them by name."""
        return await until(f"{self.name}: all pairs up", self._all_up, timeout)

    async def _all_up(self) -> dict[str, Any] | None:
        peers = (await self.told("peers"))["paired"]
        return {one["name"]: one for one in peers} if peers and all(one["up_on"] for one in peers) else None


class Offer:
    """The end that shows a code. `code` is what the other one types; `wait` returns what was said in the end."""

    def __init__(self, argv: list[str], directory: Path) -> None:
        self._log = directory / f"pair-{time.monotonic_ns()}.log"
        self.program = Program(argv, log=self._log)
        self.code = ""

    def __enter__(self) -> Self:
        self.program.start()
        wait_for("the pairing code", self._shown, timeout=30, program=self.program)
        return self

    def _shown(self) -> bool:
        found = re.search(r"The code is\s+(\S+)", self._log.read_text())
        self.code = found[1] if found else ""
        return bool(found)

    async def wait(self, timeout: float = 60) -> str:
        """Until the pairing is made."""
        await until("the pairing ends", self._ended, timeout)
        assert self.program.returncode == STATUS_OK, self._log.read_text()
        return self._log.read_text()

    async def _ended(self) -> bool:
        return not self.program.running

    def __exit__(self, *_: object) -> None:
        self.program.stop()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(1)
        try:
            caller.connect(str(path))
        except OSError:
            return False
    return True


async def until(what: str, holds: Callable[[], Any], timeout: float) -> Any:
    """Asks the coroutine again and again until it gives something; returns that. Raises `LabError` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (found := await holds()):
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout:g} s")
        await trio.sleep(0.2)
    return found


class Teller:
    """Says what happens, with the seconds since the beginning and those that each step took (`make story` shows it)."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.took: list[tuple[str, float]] = []

    def __call__(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:6.1f} s] {text}", flush=True)

    @contextmanager
    def step(self, text: str):
        began = time.monotonic()
        self(text)
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            self.took.append((text, seconds))
            self(f"  … {seconds:.1f} s")
