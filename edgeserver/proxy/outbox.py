"""Messages on their way to the box: held while the line is down, delivered in order, each once, over a restart of the proxy too.

Spec: client-server API, "Transaction identifiers". A client that has waited too long repeats its PUT with the same transaction id; the
repeat joins the one under way, or gets the answer that came meanwhile. The event id is always the box's.

What counts as held is on disk (`held`). It is removed once the box's final answer has come: a proxy that is killed in between delivers it
again at its next start, under the same transaction id, and the box makes no second event of it. Within a lane one message is under way at
a time, and the next begins only after the answer to the one before; so whatever is delivered again comes in the old order, too.

Not every message is written. As long as its client waits, nobody has been promised anything, and a client that loses its connection
repeats by itself; a disk counts only for what goes on after the client has left. So on a line that is up the answer has `GRACE` seconds to
come, and a message that is through by then costs no write. It is written as soon as one of these is so: the line is down, the grace is
over, its client has left. Files are written in the order of sending, and with a message all that came before it: after a kill no message
is on disk whose forerunner in the lane is not, unless that one has been delivered.

A message that cannot be written goes on while the line is up, like any other request. If the line is down it is refused, with the reason:
whoever sends it again later keeps the order that they see.
"""

from __future__ import annotations

import itertools
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.app.blocking import Hop
from edgeserver.matrix import errors
from edgeserver.paired.line import OutOfPatience
from edgeserver.paired.state import StateError
from edgeserver.proxy.errands import Terms
from edgeserver.proxy.held import HELD_SECONDS, MAX_HELD, MAX_HELD_BYTES, HeldMessage
from edgeserver.proxy.replies import json_object

if TYPE_CHECKING:
    from edgeserver.paired.line import Line
    from edgeserver.proxy.call import Call
    from edgeserver.proxy.errands import Errand, Errands
    from edgeserver.proxy.held import HeldFolder
    from transports.exchange import Response

log = logging.getLogger(__name__)

GRACE: Final = 3.0
"""Seconds: on an idle line of 2400 baud an answer to a message of a sentence or two is there."""
_TERMS: Final = Terms(linger=float("inf"), keep=600.0, keep_untaken=3600.0)  # a message has a deadline of its own
_WRITE_AGAIN: Final = 60.0
_RATE_LIMIT_CAP: Final = 60.0

_Key = tuple[str, str, str]


@dataclass(eq=False)
class _Way:
    """A message on its way. `due`: when it is to be written at the latest; `trouble`: why it was not."""

    message: HeldMessage
    scope: trio.CancelScope
    due: float
    is_saved: bool
    is_done: bool = False
    trouble: str = ""
    passed: trio.Event = field(default_factory=trio.Event)
    errand: Errand | None = None

    @property
    def is_unheard(self) -> bool:
        """Nobody waits for its answer."""
        return self.errand is not None and self.errand.askers == 0


class Outbox:
    """`held` is how many messages are held, on disk; `held_bytes` what all that are on their way would take there. `inline`: see
    `app.blocking`.
    """

    def __init__(self, line: Line, errands: Errands, folder: HeldFolder, *, inline: bool = False) -> None:
        self._line = line
        self._errands = errands
        self._folder = folder
        self._hop = Hop(inline=inline)
        self._ways: dict[_Key, _Way] = {}
        self._newest: dict[tuple[str, str], _Way] = {}  # of each lane
        self._unsaved: dict[int, _Way] = {}  # in order
        self._removable: list[int] = []
        self._wake = trio.Event()
        self._next_number = 1
        self._trouble = ""
        self.held = 0
        self.held_bytes = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Delivers what an earlier run held, and writes and removes files until cancelled; `errands` must be running.

        Raises `StateError` before it is started.
        """
        now_ms = _now_ms()
        found = await self._hop(self._folder.load, now_ms)
        self._next_number = await self._hop(self._folder.free_number)
        for message in found:
            self._resume(message, now_ms)
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_line)
                while True:
                    await self._settle()
        finally:
            _work(self._folder, self._removable, [])

    async def send(self, call: Call) -> Response:
        """The box's answer. Raises M_LIMIT_EXCEEDED when too much is held already."""
        key = ("send", call.authorization, call.request.target)
        errand = self._errands.find(key) or self._take(key, call)
        try:
            return await self._errands.wait(errand)
        finally:
            way = self._ways.get(key)
            if way is not None and way.is_unheard and not way.is_saved:
                way.due = float("-inf")
                self._wake.set()

    def _take(self, key: _Key, call: Call) -> Errand:
        message = HeldMessage(self._next_number, _now_ms(), call.request)
        if len(self._ways) >= MAX_HELD or self.held_bytes + message.size > MAX_HELD_BYTES:
            raise errors.LimitExceeded(60_000, "Too many messages wait for the line already.")
        now = trio.current_time()
        errand = self._begin(key, _Way(message, trio.CancelScope(deadline=now + HELD_SECONDS), now + GRACE, is_saved=False))
        self._next_number += 1
        self._unsaved[message.number] = self._ways[key]
        self._wake.set()
        return errand

    def _resume(self, message: HeldMessage, now_ms: int) -> None:
        key = ("send", message.authorization, message.request.target)
        if key in self._ways:
            self._removable.append(message.number)  # repeated after an answer of the box whose message was still to be removed
            return
        now = trio.current_time()
        scope = trio.CancelScope(deadline=now + HELD_SECONDS - message.age(now_ms))
        self._begin(key, _Way(message, scope, now, is_saved=True))
        self.held += 1

    def _begin(self, key: _Key, way: _Way) -> Errand:
        lane = way.message.lane
        previous = self._newest.get(lane)

        async def deliver() -> Response:
            try:
                return await self._outcome(key, way, previous)
            finally:
                way.passed.set()
                if self._newest.get(lane) is way:
                    del self._newest[lane]

        way.errand = self._errands.begin(key, deliver, _TERMS)
        self._newest[lane] = self._ways[key] = way
        self.held_bytes += way.message.size
        return way.errand

    # ---- delivery

    async def _outcome(self, key: _Key, way: _Way, previous: _Way | None) -> Response:
        """Answer or failure is the end of the message; a cancellation is that of the program, and leaves it on disk."""
        try:
            response = await self._deliver(way, previous)
        except Exception as error:
            self._finish(key, way, "" if way.trouble else str(error))
            raise
        self._finish(key, way, f"the box answered {response.status}" if response.status >= 300 else "")
        return response

    async def _deliver(self, way: _Way, previous: _Way | None) -> Response:
        """A message that the box puts off for its rate limit is repeated here: who comes after it in its lane must not overtake it."""
        with way.scope:
            if previous is not None:
                await previous.passed.wait()
            for tries in itertools.count():
                response = await self._line.carry(way.message.request, repeatable=True, patience=float("inf"))
                if response.status != 429:
                    return response
                await trio.sleep(max(_retry_after(response), min(2.0 ** min(tries, 6), _RATE_LIMIT_CAP)))
        if way.trouble:
            raise errors.Unknown(f"The line to the box is down, and the message cannot be held: {way.trouble}", status=507)
        raise OutOfPatience(f"The line to the box brought no answer within {HELD_SECONDS / 3600:.0f} hours.")

    def _finish(self, key: _Key, way: _Way, why_not: str) -> None:
        if why_not and way.is_unheard:
            log.warning("A message that was held is given up: %s", why_not)
        way.is_done = True
        del self._ways[key]
        self.held_bytes -= way.message.size
        self._unsaved.pop(way.message.number, None)
        if way.is_saved:
            self.held -= 1
            self._removable.append(way.message.number)
            self._wake.set()

    # ---- disk

    async def _watch_line(self) -> None:
        while True:
            await self._line.change()
            self._wake.set()

    def _due(self) -> list[_Way]:
        """What is to be written now, with all that came before it."""
        unsaved = list(self._unsaved.values())
        if not self._line.is_up:
            return unsaved
        now = trio.current_time()
        return unsaved[: max((place for place, way in enumerate(unsaved, 1) if way.due <= now), default=0)]

    async def _settle(self) -> None:
        """Waits until there is something to write or to remove, and does it."""
        due = self._due()
        if not due and not self._removable:
            self._wake = trio.Event()
            with trio.move_on_at(min((way.due for way in self._unsaved.values()), default=float("inf"))):
                await self._wake.wait()
            return
        removable = self._removable[:]
        written, trouble = await self._hop(_work, self._folder, removable, [way.message for way in due])
        del self._removable[: len(removable)]
        for way in due[:written]:
            self._saved(way)
        if trouble and trouble != self._trouble:
            log.warning("%s", trouble)
        self._trouble = trouble
        for way in due[written:]:
            self._unwritable(way, trouble)

    def _saved(self, way: _Way) -> None:
        self._unsaved.pop(way.message.number, None)
        if way.is_done:
            self._removable.append(way.message.number)  # its answer came while it was being written
        else:
            way.is_saved = True
            self.held += 1

    def _unwritable(self, way: _Way, trouble: str) -> None:
        way.due = trio.current_time() + _WRITE_AGAIN
        if not self._line.is_up:
            self._unsaved.pop(way.message.number, None)
            way.trouble = trouble
            way.scope.cancel()


def _work(folder: HeldFolder, removable: list[int], messages: list[HeldMessage]) -> tuple[int, str]:
    """How many messages were written, and what was the matter. Blocks. One that cannot be removed is harmless: it is only sent again."""
    written, trouble = 0, ""
    try:
        for message in messages:
            folder.write(message)
            written += 1
    except StateError as error:
        trouble = str(error)
    for number in removable:
        try:
            folder.remove(number)
        except StateError as error:
            trouble = trouble or str(error)
    return written, trouble


def _now_ms() -> int:
    return int(time.time() * 1000)


def _retry_after(response: Response) -> float:
    """Seconds. Spec: client-server API, "Rate limiting"."""
    told = (json_object(response.body) or {}).get("retry_after_ms")
    return min(told / 1000, _RATE_LIMIT_CAP) if isinstance(told, int) and told > 0 else 1.0
