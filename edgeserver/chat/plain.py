"""Lines in, lines out: for screen readers, scripts, paper terminals and whatever knows no cursor.

Nothing is ever written over. A line that begins with `*` is from the program, all others are from the rooms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from edgeserver.chat import view, visible
from edgeserver.chat.model import ENCRYPTED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from edgeserver.chat.conversation import Conversation
    from edgeserver.chat.events import Entry
    from edgeserver.chat.model import Room
    from edgeserver.chat.session import Session

FIRST_SHOWN = 20
"""Entries that are written out when a room is opened."""


class PlainFace:
    """Writes with `put`, one line at a time, reads with `read_line`, which gives None at the end.

    `waits`: a line is carried out to its end before the next is read, and at the end what waits is sent: a script is reading and writing.
    """

    def __init__(self, put: Callable[[str], None], read_line: Callable[[], Awaitable[str | None]], *, waits: bool) -> None:
        self._write = put
        self._read_line = read_line
        self.is_script = waits
        self._stop = trio.Event()
        self._standing = ""
        self._opening: str | None = None
        self._told: dict[str, int] = {}  # how much was unread when it was last looked at, by room
        self.session: Session
        self.conversation: Conversation

    async def run(self) -> None:
        """Runs until the person quits or the input ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_lines)
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    async def _take_lines(self) -> None:
        session = self.session
        if self.is_script:
            await session.wait(lambda: session.is_ready)
            self.show_rooms()
        else:
            self.say("/help tells what there is.")
            self.changed()
        while True:
            line = await self._read_line()
            if line is None:
                break
            self.conversation.enter(line)
            if self.is_script:
                await self.conversation.idle()
        if self.is_script:
            await session.wait(lambda: session.outbox.next() is None)
        self.quit()

    def _put(self, text: str) -> None:
        self._write(visible.printable(text))

    # ---- what happens

    def news(self, room: Room, entries: list[Entry]) -> None:
        if room.room_id != self.session.open_room:
            return
        if room.room_id != self._opening:
            self._write_entries(room, entries)
            self.conversation.saw(room)

    def sent(self, room: Room, entry: Entry) -> None:
        if room.room_id != self._opening:
            self._write_entries(room, [entry])

    def failed(self, room: Room, entry: Entry) -> None:
        self._write_entries(room, [entry])

    def _write_entries(self, room: Room, entries: Sequence[Entry]) -> None:
        before = "" if room.room_id == self.session.open_room else f"[{room.name}] "
        for entry in entries:
            for line in view.entry_lines(room, entry):
                self._put(before + line)

    def changed(self) -> None:
        session = self.session
        standing = session.standing(on_the_way=False)
        if standing != self._standing:
            self.say(standing)
        self._standing = standing
        if not session.is_ready:
            return
        for room in session.model.listed():
            unread = max(room.unread, 1 if room.membership == "invite" else 0)
            if unread and not self._told.get(room.room_id) and room.room_id != session.open_room:
                what = f"invites you ({room.inviter})" if room.membership == "invite" else f"{room.unread} unread"
                self.say(f"{room.number} {room.name}: {what}")
            self._told[room.room_id] = unread

    # ---- answers

    def say(self, sentence: str) -> None:
        self._put(f"* {sentence}")

    def page(self, title: str, rows: Sequence[str]) -> None:
        self._put(f"* {title}:")
        for row in rows:
            self._put(f"  {row}")

    def show_rooms(self) -> None:
        model = self.session.model
        rows = view.list_lines(model)
        if not self.session.is_ready:
            self.say(self.session.standing())
            return
        title = f"{len(rows)} of {model.count} rooms, /rooms more for others" if model.count > len(rows) else "Rooms"
        self.page(title, rows or ["None yet: /join or /create one."])

    def opening(self, room: Room) -> None:
        self._opening = room.room_id

    def opened(self, room: Room) -> None:
        self._opening = None
        self._put(f"* Room {room.number}, {room.name}:")
        if room.is_encrypted:
            self.say(ENCRYPTED)
        self._write_entries(room, room.entries[-FIRST_SHOWN:])

    def shown_more(self, room: Room, count: int) -> None:
        self._put(f"* {count} earlier in {room.name}:")
        self._write_entries(room, room.timeline[:count])

    def quit(self) -> None:
        self._stop.set()
