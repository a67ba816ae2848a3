"""What runs behind the screen: the news come in, messages go out, and both go on by themselves after an outage.

Three tasks. *Sync* asks for news and feeds the model. *Sending* takes the messages of the outbox one after the other, each until the server
has taken or refused it. *Receipts* tells how far the person has read. What fails is tried again after a pause that grows; a server that
names a pause gets it (429), and when the news flow again nobody waits any longer.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from edgeserver.chat import classic, compact, sliding
from edgeserver.chat.client import Refused
from edgeserver.chat.compact import Compact
from edgeserver.chat.events import Kind
from transports.exchange import ExchangeError, TooLarge

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.chat.client import Client
    from edgeserver.chat.events import Entry
    from edgeserver.chat.model import Model, Room, RoomUpdate
    from edgeserver.chat.outbox import Message, Outbox
    from edgeserver.thin.screen import Answer, Wish

HOLD: Final = 50.0
"""Seconds for which a server holds a poll without news: less than proxies on the way wait."""
HOLD_THIN: Final = 600.0
"""The same over a thin line, where nothing is on the way and each poll costs."""
LISTED: Final = 20
"""Rooms of the list that are asked for at first, and further ones at a time."""
MAX_LISTED: Final = 500
CONNECTED: Final = "Connected."
MAX_SUBSCRIBED: Final = 50
"""Rooms with messages on their way that the first answer is to tell of in full."""
PAUSE_FIRST: Final = 1.0
PAUSE_CAP: Final = 60.0
PAUSE_MOST: Final = 900.0
"""Seconds; a server may ask for a pause of that, not of a day."""
LEAST_POLL: Final = 1.0
"""Seconds between empty answers of a server that does not hold its polls."""
_UNKNOWN_POS: Final = "M_UNKNOWN_POS"


class Dialect(Enum):
    """How the news are asked for."""

    COMPACT = "compact"
    """The screen of a box, over a thin line."""
    SLIDING = "sliding"
    CLASSIC = "classic"


class SessionEnded(Exception):
    """The server does not know the access token (any more)."""


class Watcher(Protocol):
    """Who is told what happens. All of it is called between two steps of a task and must return at once."""

    def news(self, room: Room, entries: list[Entry]) -> None:
        """These entries were not there before, oldest first."""

    def sent(self, room: Room, entry: Entry) -> None:
        """A message of ours was acknowledged."""

    def failed(self, room: Room, entry: Entry) -> None:
        """A message of ours was refused."""

    def changed(self) -> None:
        """Something is not as it was, the standing included."""


class Pause:
    """How long to wait before the next try."""

    def __init__(self) -> None:
        self._next = PAUSE_FIRST

    def take(self, asked: float | None = None) -> float:
        """Seconds; `asked` is what the server has said."""
        pause, self._next = self._next, min(2 * self._next, PAUSE_CAP)
        return pause if asked is None else min(max(asked, 0.1), PAUSE_MOST)

    def reset(self) -> None:
        self._next = PAUSE_FIRST


class Session:
    """`dialect`: which sync the server has, None to ask it. `now` gives seconds since the epoch. `line` says of a line why it is
    down (empty: it is up, or there is none). Messages left in the outbox are sent, too.
    """

    def __init__(
        self,
        client: Client,
        model: Model,
        outbox: Outbox,
        watcher: Watcher,
        *,
        dialect: Dialect | None,
        now: Callable[[], float],
        line: Callable[[], str] = str,
    ) -> None:
        self.client, self.model, self.outbox = client, model, outbox
        self._watcher = watcher
        self._dialect = dialect
        self._screen = Compact()
        self._now = now
        self._line = line
        self._position: str | None = None
        self._poll = trio.CancelScope()
        self._listed = LISTED
        self._open: str | None = None
        self._told_of: frozenset[str] = frozenset()
        self._changed = trio.Event()
        self._work = trio.Event()
        self._unread: dict[str, str] = {}
        self._receipted: dict[str, str] = {}
        self.is_over = False
        """The person has logged out."""
        self.is_ready = False
        """The first answer has come."""
        self.trouble = "Connecting."
        """Why there are no news at the moment; empty while there are."""
        for message in outbox.messages:
            model.queued(message.room_id, message.transaction, _kind(message), message.text, message.at)
            if message.failed:
                model.failed(message.room_id, message.transaction, message.failed)

    async def run(self) -> None:
        """Runs until cancelled. Raises `SessionEnded` (in a group)."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sync)
            nursery.start_soon(self._send)
            nursery.start_soon(self._tell_read)

    # ---- what the person does

    @property
    def open_room(self) -> str | None:
        return self._open

    def open(self, room_id: str | None) -> None:
        """The room that is looked at from now on."""
        if room_id != self._open:
            self._open = room_id
            self._ask_anew()

    def list_more(self) -> bool:
        """Asks for further rooms of the list; False if there are none."""
        if self._dialect in (None, Dialect.CLASSIC) or self._listed >= min(self.model.count, MAX_LISTED):
            return False
        self._listed = min(self._listed + LISTED, MAX_LISTED)
        self._ask_anew()
        return True

    def say(self, room: Room, text: str, *, is_emote: bool = False) -> None:
        """Takes a message; it is on disk when this returns. Raises `outbox.Full` and `SavedError`."""
        message = self.outbox.add(room.room_id, text, is_emote=is_emote, at=int(self._now() * 1000))
        self.model.queued(room.room_id, message.transaction, _kind(message), message.text, message.at)
        self._set_work()
        self._tell()

    def retry(self) -> int:
        """What was refused waits again; returns how many messages."""
        failed = [message for message in self.outbox.messages if message.failed]
        for message in failed:
            self.outbox.retry(message.transaction)
            self.model.again(message.room_id, message.transaction)
        self._set_work()
        self._tell()
        return len(failed)

    def drop(self) -> int:
        """What was refused is forgotten; returns how many messages."""
        failed = [message for message in self.outbox.messages if message.failed]
        for message in failed:
            self.outbox.done(message.transaction)
            self.model.dropped(message.room_id, message.transaction)
        self._tell()
        return len(failed)

    def read(self, room: Room) -> None:
        """The person has seen what there is of the room."""
        room.unread = room.highlights = 0
        room.read_upto = room.newest
        newest = room.timeline[-1] if room.timeline else None
        if newest is None or room.is_encrypted or self._receipted.get(room.room_id) == newest.key:
            return
        if newest.sender != self.model.me:
            self._unread[room.room_id] = newest.key
            self._set_work()

    async def log_out(self) -> None:
        """Ends the session at the server. Raises `Refused` and `ExchangeError`."""
        self.is_over = True
        try:
            await self.client.log_out()
        except Refused as refusal:
            if not refusal.ends_session:
                self.is_over = False
                raise
        except ExchangeError:
            self.is_over = False
            raise

    async def wait(self, holds: Callable[[], bool]) -> None:
        """Returns when it holds; looked at whenever something has changed."""
        while not holds():
            await self._changed.wait()

    def has_told_of(self, room_id: str) -> bool:
        """Whether what the server was to tell of the open room is here; for ever true where the server is not asked by room."""
        return self._dialect is Dialect.CLASSIC or room_id in self._told_of

    # ---- news

    async def _sync(self) -> None:
        pause = Pause()
        while True:
            seconds = None
            with trio.CancelScope() as self._poll:
                seconds = await self._one_sync(pause)
            if seconds is not None:
                self._tell()
                await trio.sleep(seconds)

    async def _one_sync(self, pause: Pause) -> float | None:
        """How many seconds to wait, None if not at all."""
        began, position = trio.current_time(), self._position or self._screen.pos
        try:
            had_news = await self._ask()
        except Refused as refusal:
            if refusal.ends_session:
                raise SessionEnded from refusal
            if refusal.errcode == _UNKNOWN_POS:
                self._position = None
                self._screen.begin_anew()
                if position is not None:
                    return None
            if refusal.errcode == "M_UNRECOGNIZED" and self._dialect is not Dialect.CLASSIC:
                self._dialect = None
            self.trouble = "The server asks us to wait." if refusal.status == 429 else f"The server is in trouble: {refusal}"
            return pause.take(refusal.retry_after)
        except TooLarge:
            self.trouble = "The server's answer is larger than this client takes."
            return pause.take()
        except ExchangeError:
            self.trouble = "The server cannot be reached; it is tried again."
            return pause.take()
        pause.reset()
        return None if had_news or trio.current_time() - began >= LEAST_POLL else LEAST_POLL

    async def _ask(self) -> bool:
        """One request, and its answer into the model; whether there was news. A poll after trouble is not held: its end is soon known."""
        hold = 0.0 if self.trouble else HOLD_THIN if self.client.profile.is_thin else HOLD
        if self._dialect is None:
            self._dialect = offered(await self.client.versions(), is_thin=self.client.profile.is_thin)
        was_in_trouble = bool(self.trouble)
        if self._dialect is Dialect.COMPACT and self.client.observes and (not was_in_trouble or self._screen.pos is None):
            await self._watch()
            return True
        if self._dialect is Dialect.COMPACT:
            updates = await self._look(hold)
            self._take_in(updates)
            return bool(updates) or was_in_trouble
        if self._dialect is Dialect.SLIDING:
            rooms = self._rooms_in_full(is_first=self._position is None)
            guesses = not self.model.counts_are_told
            answer = await self.client.sliding_sync(self._position, hold, self._listed, rooms, self._open, all_receipts=guesses)
            position, updates = sliding.position(answer), sliding.updates(answer, self.model.me)
            self.model.count = sliding.count(answer) or self.model.count
            self._told_of = frozenset(rooms)
        else:
            answer = await self.client.classic_sync(self._position, hold)
            position, updates = classic.position(answer), classic.updates(answer, self.model.me, int(self._now() * 1000))
        if position is None:
            raise Refused(502, "", "The server's answer to a sync has no position.")
        self._position = position
        self._take_in(updates)
        return bool(updates) or was_in_trouble

    async def _look(self, hold: float) -> list[RoomUpdate]:
        """The next answer of the screen: one poll."""
        rooms = self._rooms_in_full(is_first=self._screen.pos is None)
        return self._seen(await self.client.screen(self._screen.pos, hold, self._wish(rooms)), rooms)

    async def _watch(self) -> None:
        """The screen as the box tells of it by itself, until that ends or something else is to be asked."""
        rooms = self._rooms_in_full(is_first=self._screen.pos is None)
        async with self.client.observe_screen(self._screen.pos, self._wish(rooms)) as news:
            try:
                while not news.is_over:
                    self._take_in(self._seen(await news.next(), rooms))
            finally:
                while (answer := news.arrived()) is not None:
                    self._take_in(self._seen(answer, rooms))

    def _wish(self, rooms: set[str]) -> Wish:
        """Of what is encrypted there is nothing to be shown."""
        sealed = {room_id for room_id in rooms if (room := self.model.rooms.get(room_id)) is not None and room.is_encrypted}
        return self._screen.wish(self._listed, rooms - sealed, None if self._open in sealed else self._open)

    def _seen(self, answer: Answer, rooms: set[str]) -> list[RoomUpdate]:
        self.model.counts_are_told = True
        self.model.count = self.model.count if answer.count is None else answer.count
        self._told_of = frozenset(rooms)
        return self._screen.updates(answer)

    def _rooms_in_full(self, *, is_first: bool) -> set[str]:
        """The open one; with the first question those, too, in which messages of an earlier run may stand already."""
        waiting = dict.fromkeys(message.room_id for message in self.outbox.messages) if is_first else {}
        return {*list(waiting)[:MAX_SUBSCRIBED], *([] if self._open is None else [self._open])}

    def _take_in(self, updates: list[RoomUpdate]) -> None:
        was_in_trouble, self.trouble, self.is_ready = bool(self.trouble), "", True
        for update in updates:
            waiting = set(self._pending_of(update.room_id))
            entries = self.model.apply(update)
            room = self.model.rooms.get(update.room_id)
            if room is None:
                continue
            for transaction in waiting - room.pending.keys():
                self.outbox.done(transaction)  # it came back before the answer to its sending
            if entries:
                self._watcher.news(room, entries)
        if was_in_trouble:
            self._set_work()
        self._tell()

    def _pending_of(self, room_id: str) -> list[str]:
        room = self.model.rooms.get(room_id)
        return [] if room is None else list(room.pending)

    def _ask_anew(self) -> None:
        """Ends the poll under way, for another question is to be asked. The first answer, which is the largest, is waited for."""
        if (self._position or self._screen.pos) is not None and not self.trouble:
            self._poll.cancel()
        self._tell()

    # ---- messages

    async def _send(self) -> None:
        await self.wait(lambda: self.is_ready)  # what was sent by an earlier run of the program comes back with it
        pause = Pause()
        while True:
            work = self._work
            message = self.outbox.next()
            if message is None:
                await work.wait()
                continue
            seconds = await self._send_one(message, pause)
            if seconds is not None:
                with trio.move_on_after(seconds):
                    await work.wait()

    async def _send_one(self, message: Message, pause: Pause) -> float | None:
        """How many seconds to wait before it is tried again, None when it is done with."""
        try:
            if await self._is_encrypted(message.room_id):
                self._fail(message, "the room is encrypted")
                return None
            key = await self._deliver(message)
        except Refused as refusal:
            if refusal.ends_session:
                raise SessionEnded from refusal
            if refusal.passes:
                return pause.take(refusal.retry_after)
            self._fail(message, str(refusal))
            return None
        except TooLarge:
            self._fail(message, "it is larger than the line carries")
            return None
        except ExchangeError:
            return pause.take()
        pause.reset()
        self.outbox.done(message.transaction)
        entry = self.model.acknowledged(message.room_id, message.transaction, key)
        if entry is not None:
            self._watcher.sent(self.model.rooms[message.room_id], entry)
        self._tell()
        return None

    async def _deliver(self, message: Message) -> str:
        """The key of the entry. In trouble handles are not to be relied upon, for the box may have begun anew."""
        if self._dialect is not Dialect.COMPACT:
            return await self.client.send(message.room_id, message.transaction, message.content())
        handle = None if self.trouble else self._screen.handle(message.room_id)
        if handle is None:
            await self.client.send(message.room_id, message.transaction, message.content())
            return ""
        number = await self.client.say(handle, message.transaction, message.text, is_emote=message.is_emote)
        room = self.model.rooms.get(message.room_id)
        if number is None:
            return ""
        if room is not None:
            room.stamp = max(room.stamp, number)
        return str(number)

    async def _is_encrypted(self, room_id: str) -> bool:
        """What the news have said of the room, or else the server is asked."""
        room = self.model.rooms.get(room_id)
        if room is not None and (room.is_encrypted or room.stamp or room.timeline):
            return room.is_encrypted
        return await self.client.is_encrypted(room_id)

    def _fail(self, message: Message, why: str) -> None:
        if self.outbox.find(message.transaction) is None:
            return  # dropped meanwhile, or known to have arrived
        self.outbox.fail(message.transaction, why)
        entry = self.model.failed(message.room_id, message.transaction, why)
        if entry is not None:
            self._watcher.failed(self.model.rooms[message.room_id], entry)
        self._tell()

    # ---- receipts

    async def _tell_read(self) -> None:
        pause = Pause()
        while True:
            work = self._work
            if not self._unread:
                await work.wait()
                continue
            room_id, key = next(iter(self._unread.items()))
            try:
                await self._mark_read(room_id, key)
            except Refused as refusal:
                if refusal.ends_session:
                    raise SessionEnded from refusal
                if refusal.passes:
                    await trio.sleep(pause.take(refusal.retry_after))
                    continue
            except ExchangeError:
                with trio.move_on_after(pause.take()):
                    await work.wait()
                continue
            pause.reset()
            self._receipted[room_id] = key
            if self._unread.get(room_id) == key:
                del self._unread[room_id]

    async def _mark_read(self, room_id: str, key: str) -> None:
        if self._dialect is not Dialect.COMPACT:
            await self.client.mark_read(room_id, key)
            return
        number = compact.number(key)
        handle = None if self.trouble else self._screen.handle(room_id)
        if number is not None:
            await self.client.screen_read(room_id if handle is None else handle, number)

    # ---- earlier entries

    async def older(self, room: Room) -> int | None:
        """Fetches entries before those that are there; returns how many came, None if there is nothing before.

        Raises `Refused` and `ExchangeError`.
        """
        if not room.prev_batch:
            return None
        if self._dialect is not Dialect.COMPACT:
            events, prev_batch = await self.client.older(room.room_id, room.prev_batch)
            return self.model.prepend(room, events, prev_batch if events else "")
        start = compact.number(room.prev_batch)
        if start is None:
            return None
        handle = None if self.trouble else self._screen.handle(room.room_id)
        answer = await self.client.screen_older(room.room_id if handle is None else handle, start)
        entries, before = compact.older(answer)
        for user_id, name in compact.names(answer.people):
            room.members.setdefault(user_id, name)
        return self.model.prepend_said(room, entries, before)

    # ---- telling

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        self._watcher.changed()

    def _set_work(self) -> None:
        work, self._work = self._work, trio.Event()
        work.set()

    def standing(self, *, on_the_way: bool = True) -> str:
        """How things are, in a sentence or two; with what is only on its way or without."""
        waiting = sum(not message.failed for message in self.outbox.messages)
        failed = len(self.outbox.messages) - waiting
        trouble = self._line() or self.trouble
        parts = [trouble] if trouble else [CONNECTED] if failed else []
        if waiting and (on_the_way or trouble):
            parts.append(f"{waiting} {'message waits' if waiting == 1 else 'messages wait'}.")
        parts += [f"{failed} not sent: /retry or /drop."] if failed else []
        return " ".join(parts) or CONNECTED


def _kind(message: Message) -> Kind:
    return Kind.EMOTE if message.is_emote else Kind.TEXT


def offered(versions: dict[str, Any], *, is_thin: bool) -> Dialect:
    """The best of what an answer of /versions names for this wire."""
    features = sliding.table(versions, "unstable_features")
    if is_thin and features.get(compact.FEATURE) is True:
        return Dialect.COMPACT
    return Dialect.SLIDING if features.get(sliding.FEATURE) is True else Dialect.CLASSIC
