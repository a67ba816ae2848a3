"""One edgeserver as a process of its own: started, watched, killed, started again."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import trio

from tests.lab.programs import Program, python_module, wait_for
from tests.lab.web import Answer, answers, request


class Box:
    """`edgeserver serve --config FILE` in a namespace or not; the text of the configuration is the caller's.

    `url` is where clients reach it over HTTP(S). `wrapper` goes before the command (see `tests.lab.recorder`), and
    `command` replaces it. The log is appended to over restarts.
    """

    def __init__(
        self,
        directory: Path,
        config: str = "",
        url: str = "http://127.0.0.1:8008",
        *,
        name: str = "box",
        netns: str | None = None,
        ca: Path | None = None,
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        command: Sequence[str] | None = None,
    ) -> None:
        self.directory, self.url, self.name, self.netns = directory, url, name, netns
        self.config_file = directory / f"{name}.toml"
        self.started_in: float | None = None
        self._ca = ca
        directory.mkdir(parents=True, exist_ok=True)
        self.configure(config)
        argv = command or python_module("edgeserver", "serve", "--config", str(self.config_file))
        self.program = Program([*wrapper, *argv], log=directory / f"{name}.log", netns=netns, env=env)

    def configure(self, config: str) -> None:
        """Counts from the next start on."""
        self.config_file.write_text(config)

    def start(self) -> Self:
        """Starts it and returns when it answers clients; `started_in` then says how many seconds that took."""
        self.begin()
        self.wait_ready()
        return self

    def begin(self) -> Self:
        """Starts it and returns at once."""
        self._began = time.monotonic()
        self.program.start()
        return self

    def wait_ready(self, timeout: float = 30) -> None:
        """Blocks until GET /_matrix/client/versions is answered. Raises `LabError` with the end of the log."""
        ready = functools.partial(answers, f"{self.url}/_matrix/client/versions", netns=self.netns, ca=self._ca)
        wait_for(f"{self.name} at {self.url}", ready, timeout=timeout, program=self.program)
        self.started_in = time.monotonic() - self._began

    async def ready(self, timeout: float = 30) -> None:
        """`wait_ready` for trio."""
        await trio.to_thread.run_sync(self.wait_ready, timeout, abandon_on_cancel=True)

    def kill(self) -> None:
        """kill -9: nothing is flushed, nobody is told."""
        self.program.kill()

    def stop(self, timeout: float = 10) -> int:
        """SIGTERM, and kill after `timeout` seconds; returns the exit status (0: it ended in good order)."""
        return self.program.stop(timeout)

    def restart(self) -> None:
        self.stop()
        self.start()

    def rss(self) -> int:
        """Resident memory in bytes. Meaningless under a wrapper."""
        return self.program.rss()

    def log(self) -> str:
        """All that it has written to stdout and stderr so far."""
        return self.program.log.read_text(errors="replace") if self.program.log.exists() else ""

    def troubles(self, *, since: int = 0, expected: str | None = None, levels: Sequence[str] = ("error", "critical")) -> list[str]:
        """The lines of the log after its first `since` characters that tell of faults of its own: records of these `levels` (an exception
        that nobody foresaw is one line of them, see `edgeserver.cli.logs`) and tracebacks, but for lines in which `expected` is found.
        """
        fault = re.compile(rf"^\S+ \S+ ({'|'.join(levels)}) |Traceback \(most recent call last\)")
        found = [line for line in self.log()[since:].splitlines() if fault.search(line)]
        return [line for line in found if expected is None or not re.search(expected, line)]

    def request(self, method: str, path: str, body: Any = None, token: str | None = None, **more: Any) -> Answer:
        """A request to its client address (options of `tests.lab.web.request`)."""
        options = {"body": body, "token": token, "netns": self.netns, "ca": self._ca, **more}
        return request(method, self.url + path, **options)

    async def arequest(self, method: str, path: str, body: Any = None, token: str | None = None, **more: Any) -> Answer:
        """`request` for trio."""
        send = functools.partial(self.request, method, path, body, token, **more)
        return await trio.to_thread.run_sync(send, abandon_on_cancel=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
