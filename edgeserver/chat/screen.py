"""The full screen: a title, the room or the list of rooms, how things stand, and a line to type in.

Drawn by prompt_toolkit, which writes only what has changed; without colours, for a VT100 has none and they cost bytes. On a slow terminal
(`stty speed` below 19200) the room does not scroll but begins a new page when one is full.
"""

from __future__ import annotations

import termios
from typing import TYPE_CHECKING, Final

import trio_asyncio
from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import BufferControl, FormattedTextControl, HSplit, Layout, VSplit, Window
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style

from edgeserver.chat import view, visible
from edgeserver.chat.session import CONNECTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyPressEvent
    from prompt_toolkit.output import Output

    from edgeserver.chat.conversation import Conversation
    from edgeserver.chat.events import Entry
    from edgeserver.chat.model import Room
    from edgeserver.chat.session import Session

REDRAW_SECONDS: Final = 0.1
SLOW_TERMINAL: Final = 19200
"""Bits a second."""
MAX_PROMPT: Final = 16
_STYLE: Final = Style([("bar", "reverse"), ("status", "underline")])
_SPEEDS: Final = {getattr(termios, name): int(name[1:]) for name in dir(termios) if name[0] == "B" and name[1:].isdecimal()}


def is_slow(terminal: int) -> bool:
    """Whether the terminal behind a file descriptor says that it is slow. A pseudo terminal says 38400."""
    try:
        speed = _SPEEDS.get(termios.tcgetattr(terminal)[5], SLOW_TERMINAL)
    except (termios.error, OSError):
        return False
    return 0 < speed < SLOW_TERMINAL


class ScreenFace:
    """`keyboard` and `terminal` replace the program's own (for tests). `in_leaps`: see `view.page`."""

    is_script = False

    def __init__(self, *, in_leaps: bool = False, keyboard: Input | None = None, terminal: Output | None = None) -> None:
        self._in_leaps = in_leaps
        self._said = ""
        self._page: tuple[str, list[str]] | None = None
        self._back = 0
        self.session: Session
        self.conversation: Conversation
        self._buffer = Buffer(multiline=False, accept_handler=self._accept)
        self._app: Application[None] = Application(
            layout=self._layout(),
            key_bindings=self._keys(),
            style=_STYLE,
            include_default_pygments_style=False,
            full_screen=True,
            color_depth=ColorDepth.DEPTH_1_BIT,
            min_redraw_interval=REDRAW_SECONDS,
            max_render_postpone_time=0.05,
            input=keyboard,
            output=terminal,
        )

    async def run(self) -> None:
        """Runs until the person quits; the terminal is then as it was."""
        async with trio_asyncio.open_loop():
            try:
                await trio_asyncio.aio_as_trio(self._run_app)()
            except EOFError:
                return  # the terminal has gone

    async def _run_app(self) -> None:
        await self._app.run_async(handle_sigint=False, set_exception_handler=False)

    # ---- the picture

    def _layout(self) -> Layout:
        prompt = Window(FormattedTextControl(self._prompt), dont_extend_width=True, height=1)
        line = Window(BufferControl(self._buffer), height=1)
        title = Window(FormattedTextControl(self._title), height=1, style="class:bar")
        body = Window(FormattedTextControl(self._body), wrap_lines=False)
        status = Window(FormattedTextControl(self._status), height=1, style="class:status")
        return Layout(HSplit([title, body, status, VSplit([prompt, line])]), focused_element=line)

    def _size(self) -> tuple[int, int]:
        """Columns, and rows of the middle."""
        size = self._app.output.get_size()
        return size.columns, max(1, size.rows - 3)

    def _prompt(self) -> StyleAndTextTuples:
        room = self.conversation.room
        return [("", visible.cut(visible.one_line("" if room is None else room.name), MAX_PROMPT) + "> ")]

    def _title(self) -> StyleAndTextTuples:
        room, model = self.conversation.room, self.session.model
        if self._page is not None:
            where = f"{self._page[0]} (Enter: back)"
        elif room is not None:
            where = f"{room.number} {room.name}" + (f", {room.joined} people" if room.joined else "")
        else:
            where = "Rooms" + (f", {len(model.listed())} of {model.count}: /rooms more" if model.count > len(model.listed()) else "")
        elsewhere = sum(1 for each in model.listed() if each is not room and (each.unread or each.membership == "invite"))
        news = f"   {elsewhere} elsewhere with news" if elsewhere and room is not None else ""
        return [("", visible.fitted(visible.printable(f"{where}{news}   {model.me}"), self._size()[0]))]

    def _status(self) -> StyleAndTextTuples:
        text = self.conversation.doing or self._said or self.session.standing()
        standing = self.session.standing()
        if text != standing and standing != CONNECTED:
            text = f"{text}  {standing}"
        return [("", visible.fitted(visible.printable(text), self._size()[0]))]

    def _body(self) -> StyleAndTextTuples:
        columns, height = self._size()
        rows = self._rows(columns)
        self._back = max(0, min(self._back, len(rows) - height))
        of_list = rows[self._back : self._back + height]
        shown = view.page(rows, height, self._back, in_leaps=self._in_leaps) if self._is_timeline else of_list
        return [("", "\n".join(visible.fitted(visible.printable(row), columns).rstrip() for row in shown))]

    @property
    def _is_timeline(self) -> bool:
        """What is shown is read from its end; all else from its beginning."""
        return self._page is None and self.conversation.room is not None

    def _rows(self, columns: int) -> list[str]:
        room = self.conversation.room
        if self._page is not None:
            return [part for row in self._page[1] for part in visible.wrapped(row, columns, 4)]
        if room is not None:
            return view.room_rows(room, columns, self.session.model.me)
        listed = view.list_lines(self.session.model)
        return listed or (["No rooms yet: /join or /create one."] if self.session.is_ready else [])

    # ---- the keyboard

    def _accept(self, buffer: Buffer) -> bool:
        """Whether the line stays."""
        self._said = ""
        self._back = 0
        was_page, self._page = self._page is not None, None
        if was_page and not buffer.text.strip():
            return False
        taken = self.conversation.enter(buffer.text)
        self._app.invalidate()
        return not taken

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        is_empty = Condition(lambda: not self._buffer.text)

        @keys.add("c-c")
        @keys.add("c-d", filter=is_empty)
        def _(event: KeyPressEvent) -> None:
            self.quit()

        @keys.add("pageup")
        def _(event: KeyPressEvent) -> None:
            self._turn(1)

        @keys.add("pagedown")
        def _(event: KeyPressEvent) -> None:
            self._turn(-1)

        @keys.add("c-l")
        def _(event: KeyPressEvent) -> None:
            event.app.renderer.clear()

        return keys

    def _turn(self, direction: int) -> None:
        """A page back (1) or forth (-1)."""
        columns, height = self._size()
        most = max(0, len(self._rows(columns)) - height)
        if not self._is_timeline:
            direction = -direction
        elif direction > 0 and self._back >= most:
            self.conversation.enter("/more")
        self._back = max(0, min(most, self._back + direction * max(1, height - 2)))
        self._app.invalidate()

    # ---- what happens

    def news(self, room: Room, entries: list[Entry]) -> None:
        if self._back == 0 and self._page is None:
            self.conversation.saw(room)

    def sent(self, room: Room, entry: Entry) -> None:
        pass

    def failed(self, room: Room, entry: Entry) -> None:
        self.say(f"Not sent to {room.name}: {entry.why}")

    def changed(self) -> None:
        self._app.invalidate()

    # ---- answers

    def say(self, sentence: str) -> None:
        self._said = sentence
        self._app.invalidate()

    def page(self, title: str, rows: Sequence[str]) -> None:
        self._page, self._back = (title, list(rows)), 0
        self._app.invalidate()

    def show_rooms(self) -> None:
        self._back = 0
        self._app.invalidate()

    def opening(self, room: Room) -> None:
        self._page, self._back = None, 0
        self._app.invalidate()

    def opened(self, room: Room) -> None:
        self._app.invalidate()

    def shown_more(self, room: Room, count: int) -> None:
        self.say(f"{count} earlier." if count else "There is nothing before.")

    def quit(self) -> None:
        if self._app.is_running:
            self._app.exit()
