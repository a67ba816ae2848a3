"""Hydrogen, a web client, built from its SDK's npm package and driven in headless Chromium."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.lab import npm
from tests.lab.programs import missing, which
from tests.lab.rpc import RpcProgram

_SOURCE = Path(__file__).with_name("webclient")


@functools.cache
def unavailable() -> str | None:
    """Why it cannot be run here, or None."""
    return npm.unavailable() or missing("chromium")


class WebClient(RpcProgram):
    """One browser with one page, beginning at the client's log-in for the given homeserver."""

    def __init__(self, directory: Path, homeserver: str, *, name: str) -> None:
        self.homeserver = homeserver
        super().__init__([which("node") or "node", npm.install(_SOURCE) / "driver.mjs"], log=directory / f"{name}.log")

    async def open(self) -> None:
        """Builds the client if this is the first time, and loads it."""
        await self.acall("open", homeserver=self.homeserver, executable=which("chromium"), timeout=120)

    async def login(self, user: str, password: str) -> None:
        """Fills in the log-in; returns when the room list is there."""
        await self.acall("login", user=user, password=password, timeout=120)

    async def open_room(self, name: str) -> None:
        await self.acall("open_room", name=name)

    async def send(self, body: str) -> None:
        """Types into the composer of the open room and presses Enter."""
        await self.acall("send", body=body)

    async def wait_text(self, text: str) -> None:
        """Waits until the open room's timeline shows this text."""
        await self.acall("wait_text", text=text)

    async def screenshot(self, path: Path) -> None:
        """A PNG of what the person sees."""
        await self.acall("screenshot", path=str(path))
