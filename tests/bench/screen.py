"""A person at the end of the line with `edgeserver chat`: its own session, client and line, without a face.

`Visit` is that in trio. `AtTheLine` runs one on a thread of its own, so that what it costs can be counted from outside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from edgeserver.chat.client import Client
from edgeserver.chat.model import Model
from edgeserver.chat.outbox import Outbox
from edgeserver.chat.session import Dialect, Session
from edgeserver.paired.joining import line_to_box
from edgeserver.paired.line import Line, LineExchange
from edgeserver.paired.state import open_state
from tests.bench.servers import PASSWORD

PATIENCE = 120.0


class _Reader:
    """In place of a face: notes when what happens would be on the screen."""

    def __init__(self) -> None:
        self.texts: set[str] = set()
        self.sent_count = 0
        self.session: Session | None = None

    def news(self, room: Any, entries: list[Any]) -> None:
        self.texts.update(entry.text[0] for entry in entries)
        if self.session is not None and self.session.open_room == room.room_id:
            self.session.read(room)  # as a face does with what it shows

    def sent(self, room: Any, entry: Any) -> None:
        self.sent_count += 1

    def failed(self, room: Any, entry: Any) -> None:
        raise AssertionError(f"refused: {entry.why}")

    def changed(self) -> None:
        pass


class Visit:
    """One connection of alice's, over a `line` that is not running yet; `folder` is the program's. `run` is one task."""

    def __init__(self, line: Line, folder: Path) -> None:
        self._line, self._folder = line, folder
        self._reader = _Reader()
        self._look = trio.Event()
        self._looking = trio.CancelScope()
        self.session: Session

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Has started when the line is up and alice has logged in, for whom nothing was asked yet."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._line.run)
            client = Client(LineExchange(self._line))
            told = await client.log_in("alice", PASSWORD, None, "bench")
            client.token = told["access_token"]
            outbox = Outbox(self._folder / "outbox.json")
            self.session = Session(client, Model(told["user_id"]), outbox, self._reader, dialect=Dialect.COMPACT, now=time.time)
            self._reader.session = self.session
            task_status.started()
            while True:
                await self._look.wait()
                self._look = trio.Event()
                with trio.CancelScope() as self._looking:
                    await self.session.run()

    # What the person does

    def look(self) -> None:
        """At the list of rooms; what is new of them is shown from now on."""
        self._look.set()

    def look_away(self) -> None:
        """Asks for nothing from now on, and sends nothing."""
        self._looking.cancel()

    def open(self, room_id: str) -> None:
        self.session.open(room_id)

    def say(self, room_id: str, text: str) -> None:
        self.session.say(self.session.model.rooms[room_id], text)

    # What there is to see

    @property
    def has_list(self) -> bool:
        return self.session.is_ready

    def has_opened(self, room_id: str) -> bool:
        return self.session.has_told_of(room_id)

    def has_read(self, *texts: str) -> bool:
        return self._reader.texts.issuperset(texts)

    @property
    def sent_count(self) -> int:
        """How many messages were shown as accepted."""
        return self._reader.sent_count


class AtTheLine:
    """`uri` is the line's, `folder` the program's. Every method waits until it is done; none may be called before `connect`."""

    def __init__(self, uri: str, folder: Path) -> None:
        self._uri, self._folder = uri, folder
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._visit: Visit

    def pair(self, code: str) -> None:
        async def pairing() -> None:
            state = await trio.to_thread.run_sync(open_state, self._folder, "chat")
            await line_to_box(self._uri, state, "chat", lambda _: None, pairing=code)

        trio.run(pairing)

    def connect(self) -> None:
        """Calls the box; returns when the line is up and somebody has logged in, for whom nothing was asked yet."""
        up = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(up,), daemon=True)
        self._thread.start()
        if not up.wait(PATIENCE) or self._error is not None:
            raise AssertionError("the line did not come up") from self._error

    def _run(self, up: threading.Event) -> None:
        async def whole() -> None:
            with trio.CancelScope() as self._everything:
                await self._main(up)

        try:
            trio.run(whole)
        except BaseException as error:
            self._error = error
            up.set()

    async def _main(self, up: threading.Event) -> None:
        self._trio = trio.lowlevel.current_trio_token()
        state = open_state(self._folder, "chat")
        line = await line_to_box(self._uri, state, "chat", lambda _: None, pairing=None)
        self._visit = Visit(line, self._folder)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._visit.run)
            up.set()

    def hang_up(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            self._do(lambda: self._everything.cancel())
            self._thread.join(PATIENCE)
            self._thread = None

    def _do(self, step: Callable[[], Any]) -> Any:
        return trio.from_thread.run_sync(step, trio_token=self._trio)

    def wait(self, holds: Callable[[], bool]) -> float:
        """Returns, in seconds, when it holds."""
        began = time.perf_counter()
        while not holds():
            if time.perf_counter() - began > PATIENCE or self._error is not None:
                raise AssertionError("it does not come about") from self._error
            time.sleep(0.005)
        return time.perf_counter() - began

    def look(self) -> float:
        """The first screen."""
        self._do(self._visit.look)
        return self.wait(lambda: self._visit.has_list)

    def look_away(self) -> None:
        """Asks for nothing from now on, and sends nothing."""
        self._do(self._visit.look_away)

    def look_again(self, texts: set[str]) -> float:
        """Until these are on the screen."""
        self._do(self._visit.look)
        return self.wait(lambda: self._visit.has_read(*texts))

    def open(self, room_id: str) -> None:
        self._do(lambda: self._visit.open(room_id))
        self.wait(lambda: self._visit.has_opened(room_id))

    def reads(self, text: str) -> float:
        """Until this text is on the screen."""
        return self.wait(lambda: self._visit.has_read(text))

    def say(self, room_id: str, text: str) -> float:
        """Until it is shown as accepted."""
        before = self._visit.sent_count
        self._do(lambda: self._visit.say(room_id, text))
        return self.wait(lambda: self._visit.sent_count > before)
