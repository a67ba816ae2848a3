"""Programs driven by lines of JSON: `{"id", "method", "params"}` in, `{"id", "result"}` or `{"id", "error"}` out.

Several calls may be under way at once; the program answers each when it is done.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, Self

import trio

from tests.lab.programs import LabError, Program


class RpcError(LabError):
    """The program answered a call with an error; the text is its own."""


class RpcProgram:
    """Starts a program and calls it: `call` blocks, `acall` is for trio."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        netns: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.program = Program(argv, log=log, netns=netns, env=env, piped=True)
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Any]] = {}
        self._reader: threading.Thread | None = None

    def start(self) -> Self:
        """Returns at once; the first call waits until the program has come up."""
        self.program.start()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def call(self, method: str, /, *, timeout: float = 60, **params: Any) -> Any:
        """Blocks for the result. Raises `RpcError` (its answer was an error) or `LabError` (it ended, or no answer)."""
        answer: Future[Any] = Future()
        with self._lock:
            number = next(self._ids)
            self._waiting[number] = answer
            line = json.dumps({"id": number, "method": method, "params": params}).encode() + b"\n"
            try:
                self.program.stdin.write(line)
                self.program.stdin.flush()
            except (OSError, ValueError) as error:
                self._waiting.pop(number, None)
                raise LabError(f"{method}: the program has ended\n{self.program.tail()}") from error
        try:
            return answer.result(timeout)
        except FutureTimeoutError:
            raise LabError(f"{method}: no answer within {timeout:g} s\n{self.program.tail()}") from None

    async def acall(self, method: str, /, *, timeout: float = 60, **params: Any) -> Any:
        """`call` for trio; cancelling it leaves the program to finish the call alone."""
        blocking = functools.partial(self.call, method, timeout=timeout, **params)
        return await trio.to_thread.run_sync(blocking, abandon_on_cancel=True)

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self.program.stdout:
                answer = json.loads(line)
                waiting = self._waiting.pop(answer["id"], None)
                if waiting is None:
                    continue
                if "error" in answer:
                    waiting.set_exception(RpcError(answer["error"]))
                else:
                    waiting.set_result(answer["result"])
        while self._waiting:
            _, waiting = self._waiting.popitem()
            waiting.set_exception(LabError(f"the program ended\n{self.program.tail()}"))

    def stop(self) -> None:
        """Ends the program; whoever still waits for an answer gets `LabError`."""
        if self.program.running:
            self.program.send_signal(15)
            with contextlib.suppress(Exception):
                self.program.process.wait(5)
        if self._reader is not None and self.program.running:
            self.program.send_signal(9)
        if self._reader is not None:
            self._reader.join(10)
            self.program.kill()
            self._reader = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
