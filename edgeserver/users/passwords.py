"""Password hashing: argon2id (RFC 9106) with the parameters that OWASP names for small machines, 19 MiB and two passes.

A hash takes tens of milliseconds of a core on a PC and ten times that on a small board, so it runs in a thread, one at
a time: a flood of log-ins must neither fill the memory nor stop the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

MEMORY: Final = 19 * 1024 * 1024
PASSES: Final = 2
MAX_LENGTH: Final = 512


class Passwords:
    """Hashes and verifies. `inline` runs in the caller instead of a thread: for tests on a virtual clock."""

    def __init__(self, *, passes: int = PASSES, memory: int = MEMORY, at_once: int = 1, inline: bool = False) -> None:
        self._passes = passes
        self._memory = memory
        self._limiter = trio.CapacityLimiter(at_once)
        self._inline = inline
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """The hash in argon2's own text form, salt and parameters included."""

        def work() -> str:
            from nacl.pwhash import argon2id

            return argon2id.str(_bytes(password), opslimit=self._passes, memlimit=self._memory).decode("ascii").rstrip("\0")

        return await self._run(work)

    async def verify(self, hashed: str | None, password: str) -> bool:
        """Whether the password is the one. Without a hash it takes as long and says no, so that time tells nothing
        about who exists.
        """
        if hashed is None:
            if self._nobody is None:
                self._nobody = await self.hash("nobody's password")
            known, hashed = False, self._nobody
        else:
            known = True
        if len(password) > MAX_LENGTH:
            return False

        def work() -> bool:
            from nacl.exceptions import InvalidkeyError
            from nacl.pwhash import argon2id

            try:
                return bool(argon2id.verify(hashed.encode("ascii"), _bytes(password)))
            except InvalidkeyError:
                return False

        return await self._run(work) and known

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._inline:
            await trio.lowlevel.checkpoint()
            return work()
        return await trio.to_thread.run_sync(work, limiter=self._limiter)


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")
