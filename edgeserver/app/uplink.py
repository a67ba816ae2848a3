"""Whether the box has its uplink: watched where the kernel tells, probed only while it is believed to be gone.

An idle box with a working uplink spends nothing on this. When a request to the internet cannot be delivered, servers that answered
lately are asked; if none answers, the uplink is down, and is tried again with growing pauses and whenever the kernel reports a change of
links, addresses or routes (rtnetlink). The moment one answers, everybody who waits is told.
"""

from __future__ import annotations

import logging
import socket
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from transports.exchange import ExchangeError, LinkProfile, Priority, Request, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from transports.exchange import Exchange, Response

log = logging.getLogger(__name__)

REMEMBERED = 3
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
PROBE_TIMEOUT = 10.0
SETTLING = 0.2
"""Seconds until routes have settled after a change."""
PROBE_PATH = "/_matrix/federation/v1/version"
_RTMGRP = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE (rtnetlink(7))


class Uplink:
    """An `Exchange` to the internet that notices its coming and going.

    `changed(up)`, set by whoever routes by it, is called on the trio thread; `before_return` before it is told that the uplink is back, so
    that nobody meets what was concluded while it was gone.
    """

    def __init__(self, inner: Exchange, *, before_return: Callable[[], None] = lambda: None) -> None:
        self._inner = inner
        self._before_return = before_return
        self.changed: Callable[[bool], None] = lambda up: None
        self._good: OrderedDict[str, None] = OrderedDict()
        self._doubt = trio.Event()
        self._stirred = trio.Event()
        self._untried = False
        self.is_up = True

    @property
    def profile(self) -> LinkProfile:
        return self._inner.profile

    async def exchange(self, request: Request) -> Response:
        """As the inner exchange; an answer proves the uplink, a request that could not be delivered puts it in doubt."""
        try:
            response = await self._inner.exchange(request)
        except Unreachable:
            self._doubt.set()
            raise
        self._good[request.authority] = None
        self._good.move_to_end(request.authority)
        while len(self._good) > REMEMBERED:
            self._good.popitem(last=False)
        if not self.is_up:
            self._stirred.set()
        return response

    async def run(self) -> None:
        """One task for the life of the box."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            while True:
                await self._doubt.wait()
                self._doubt = trio.Event()
                if not self._good:
                    self._untried = True
                    continue
                self._stirred = trio.Event()
                if not await self._answers():
                    await self._wait_for_return()

    async def _wait_for_return(self) -> None:
        log.info("the uplink is gone")
        self.is_up = False
        self.changed(False)
        pause = FIRST_PAUSE
        while True:
            with trio.move_on_after(pause) as scope:
                await self._stirred.wait()
                await trio.sleep(SETTLING)
            self._stirred = trio.Event()  # what changes from here on, the probe may not see
            if await self._answers():
                break
            pause = min(2 * pause, LONGEST_PAUSE) if scope.cancelled_caught else FIRST_PAUSE
        log.info("the uplink is back")
        self.is_up = True
        self._before_return()
        self.changed(True)

    async def _answers(self) -> bool:
        """Whether any server that answered lately answers now; whatever it says is an answer."""
        for authority in reversed(list(self._good)):  # requests that succeed meanwhile change it
            request = Request("GET", PROBE_PATH, authority, priority=Priority.INTERACTIVE, timeout=PROBE_TIMEOUT)
            try:
                await self._inner.exchange(request)
            except ExchangeError:
                continue
            return True
        return False

    async def _listen(self) -> None:
        """Wakes the probe when the kernel reports a change; without rtnetlink the pauses alone decide."""
        try:
            listener = trio.socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            await listener.bind((0, _RTMGRP))
        except (OSError, AttributeError):
            return
        with listener:
            while True:
                with suppress(OSError):  # messages were lost: as good as one that came
                    await listener.recv(65536)
                await self.stir()

    async def stir(self) -> None:
        """The machine's links, addresses or routes have changed."""
        self._stirred.set()
        if self._untried and not self._good:
            # Nobody has been reached since the start, so there is nobody to probe: whoever has paused is to try again.
            self._untried = False
            await trio.sleep(SETTLING)
            self.changed(False)
            self._before_return()
            self.changed(True)
