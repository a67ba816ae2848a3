"""The terminal that the program was started in: what it can do, who sits there, and how it was before."""

from __future__ import annotations

import io
import os
import sys
import termios
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.chat.program import ChatError
from edgeserver.chat.typed import TypedLines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeserver.chat.program import Front

NOT_SCREENS: Final = frozenset(("", "dumb", "unknown"))
"""Values of TERM that promise no cursor."""


class Terminal:
    """`user` and `password` were given on the command line (None: ask). `plain`: lines, whatever the terminal can do."""

    def __init__(self, user: str, password: str | None, *, plain: bool) -> None:
        self._user, self._password = user, password
        self._is_watched = sys.stdin.isatty()
        self._plain = plain or not (self._is_watched and sys.stdout.isatty()) or os.environ.get("TERM", "") in NOT_SCREENS
        self._typed = TypedLines(sys.stdin.fileno())

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Puts the terminal back to how it was, whatever ends the block; and lets the output hold what its encoding has not."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        before = None
        with suppress(termios.error):
            before = termios.tcgetattr(sys.stdin.fileno())
        try:
            yield
        finally:
            if before is not None:
                with suppress(termios.error):
                    termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)

    async def ask(self, earlier: str) -> tuple[str, str]:
        """User name and password, for `program.run`. Raises `ChatError` where nobody can be asked."""
        user, password = self._user or earlier, self._password
        if not self._is_watched and (not user or password is None):
            raise ChatError("There is nobody here to ask: name --user and --password-file.")
        while not user:
            self.write("User name: ", end="")
            told = await self._typed.read_line()
            if told is None:
                raise ChatError("Nobody has said who logs in.")
            user = told.strip()
        if password is None:
            import getpass

            password = await trio.to_thread.run_sync(getpass.getpass, f"Password of {user}: ", abandon_on_cancel=True)
        return user, password

    def front(self) -> Front:
        """The face that suits the terminal. The screen's library is imported only for a screen."""
        if self._plain:
            from edgeserver.chat.plain import PlainFace

            return PlainFace(self.write, self._typed.read_line, waits=not self._is_watched)
        from edgeserver.chat.screen import ScreenFace, is_slow

        return ScreenFace(in_leaps=is_slow(sys.stdout.fileno()))

    def write(self, text: str, end: str = "\n") -> None:
        sys.stdout.write(text + end)
        sys.stdout.flush()
