"""What becomes of what a person types: messages for the outbox, commands for the server or for the screen.

What is done here (a message, another room, the list) happens at once; what needs an answer is done in the background, one after the other,
and said when it is done. `plain` and `screen` are the two `Face`s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import trio

from edgeserver.chat import commands, events, view, visible
from edgeserver.chat.client import Refused
from edgeserver.chat.commands import Mistake, Say
from edgeserver.chat.events import State
from edgeserver.chat.model import ENCRYPTED
from edgeserver.chat.outbox import Full
from edgeserver.chat.saved import SavedError
from transports.exchange import ExchangeError, Interrupted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from edgeserver.chat.model import Room
    from edgeserver.chat.session import Session

MAX_ERRANDS: Final = 16
"""Commands that wait for their turn."""
OPENING_SECONDS: Final = 60.0
"""How long the end of opening a room waits for what the server tells of it."""
MAX_SHOWN: Final = 200


class Face(Protocol):
    """What is in front of the person. Nothing in here waits."""

    def say(self, sentence: str) -> None:
        """An answer of one line."""

    def page(self, title: str, rows: Sequence[str]) -> None:
        """An answer of many lines."""

    def show_rooms(self) -> None:
        """No room is open: the list is to be seen."""

    def opening(self, room: Room) -> None:
        """This room is to be seen from now on."""

    def opened(self, room: Room) -> None:
        """… and what the server tells of it is here, or does not come."""

    def shown_more(self, room: Room, count: int) -> None:
        """So many earlier entries stand before the others."""

    def quit(self) -> None: ...


class Conversation:
    """`session` must be running; `run` carries out what takes its time."""

    def __init__(self, session: Session, face: Face) -> None:
        self._session = session
        self._model = session.model
        self._face = face
        self._put, self._get = trio.open_memory_channel[tuple[str, "Callable[[], Awaitable[None]]"]](MAX_ERRANDS)
        self._under_way = 0
        self._idle = trio.Event()
        self._idle.set()
        self.doing = ""
        """What is being done at the moment, for the status line."""
        self.failures = 0
        """Lines that were not understood or not carried out, for who cannot look."""
        self.actions: dict[str, Callable[[str], bool | None]] = {
            "help": self._help,
            "rooms": self._rooms,
            "room": self._room,
            "back": self._back,
            "more": self._more,
            "read": self._read,
            "readers": self._readers,
            "members": self._members,
            "invite": self._invite,
            "accept": self._accept,
            "reject": self._reject,
            "join": self._join,
            "create": self._create,
            "leave": self._leave,
            "waiting": self._waiting,
            "retry": self._retry,
            "drop": self._drop,
            "logout": self._logout,
            "quit": self._quit,
        }
        """What each verb does with its argument; False: it was not understood."""

    async def run(self) -> None:
        """Runs until cancelled."""
        async for doing, errand in self._get:
            self.doing = doing
            try:
                await errand()
            except Refused as refusal:
                self._say_no(f"No: {refusal}")
            except Interrupted:
                self._say_no("The connection broke, and it is not known whether this was done: look before you repeat it.")
            except ExchangeError as error:
                self._say_no(f"This could not be done, for the server cannot be reached ({visible.one_line(str(error))}).")
            finally:
                self.doing = ""
                self._under_way -= 1
                if not self._under_way:
                    self._idle.set()

    def _say_no(self, sentence: str) -> None:
        self.failures += 1
        self._face.say(sentence)

    async def idle(self) -> None:
        """Returns when everything that was asked for is done."""
        await self._idle.wait()

    @property
    def room(self) -> Room | None:
        """The open one."""
        return self._model.rooms.get(self._session.open_room or "")

    # ---- what is typed

    def enter(self, line: str) -> bool:
        """Carries out a line. False: it was not taken, and should stay to be corrected."""
        try:
            is_taken = self._enter_line(line)
        except (Full, SavedError) as error:
            self._face.say(str(error))
            is_taken = False
        self.failures += not is_taken
        return is_taken

    def _enter_line(self, line: str) -> bool:
        meant = commands.parse(line)
        if meant is None:
            return True
        if isinstance(meant, Mistake):
            self._face.say(meant.sentence)
            return False
        if isinstance(meant, Say):
            return self._say(meant)
        return self.actions[meant.verb](meant.argument) is not False

    def _say(self, meant: Say) -> bool:
        room = self.room
        if room is None and not meant.is_emote and meant.text.strip().isdecimal():
            return self._room(meant.text)
        if room is None:
            self._face.say("Open a room first: type its number, or /help.")
            return False
        if room.is_encrypted:
            self._face.say(ENCRYPTED)
            return False
        if room.membership != "join":
            self._face.say("You are not in this room.")
            return False
        self._session.say(room, meant.text, is_emote=meant.is_emote)
        return True

    def saw(self, room: Room) -> None:
        """What there is of the room has been shown."""
        if room.room_id == self._session.open_room:
            self._session.read(room)

    # ---- done here

    def _help(self, _: str) -> None:
        last = "Anything else is a message for the open room; without one, a number opens it."
        self._face.page("Commands", [*commands.help_lines(), last])

    def _rooms(self, argument: str) -> bool:
        if argument not in ("", "more"):
            self._face.say("Say it as /rooms or /rooms more.")
            return False
        if argument and not self._session.list_more():
            self._face.say("There are no further rooms.")
        self._close()
        return True

    def _back(self, _: str) -> None:
        self._close()

    def _close(self) -> None:
        self._session.open(None)
        self._face.show_rooms()

    def _room(self, argument: str) -> bool:
        room = self._one_room(argument)
        if room is None:
            return False
        if room.membership == "invite":
            self._face.say(f"You are invited to {room.name} by {room.inviter}: /accept {room.number} or /reject {room.number}.")
            return True
        self._open(room)
        return True

    def _open(self, room: Room) -> None:
        self._session.open(room.room_id)
        self._face.opening(room)
        if not self._later(f"Opening {room.name}.", lambda: self._opened(room)):
            self._face.opened(room)

    async def _opened(self, room: Room) -> None:
        session = self._session
        with trio.move_on_after(OPENING_SECONDS):
            await session.wait(lambda: session.has_told_of(room.room_id) or bool(session.trouble) or session.open_room != room.room_id)
        if session.open_room == room.room_id:
            self._face.opened(room)
            session.read(room)

    def _readers(self, _: str) -> bool:
        room = self._open_room()
        if room is None:
            return False
        mine = view.last_of(room, self._model.me)
        names = [] if mine is None else [room.name_of(who) for who in room.readers_of(mine.key)]
        nobody = "Nobody is known to have read your last message." if mine else "You have said nothing here of late."
        self._face.say(f"Read by {', '.join(names)}." if names else nobody)
        return True

    def _read(self, argument: str) -> bool:
        room = self._one_room(argument)
        if room is not None:
            self._session.read(room)
            self._face.say(f"{room.name} is marked as read.")
        return room is not None

    def _waiting(self, _: str) -> None:
        rows = [
            f"{room.name}: {line}"
            for room in self._model.rooms.values()
            for entry in room.pending.values()
            for line in view.entry_lines(room, entry)
        ]
        self._face.page("Not sent yet", rows or ["Nothing waits."])

    def _retry(self, _: str) -> None:
        self._face.say(f"Sent once more: {self._session.retry()}.")

    def _drop(self, _: str) -> None:
        self._face.say(f"Forgotten: {self._session.drop()}.")

    def _quit(self, _: str) -> None:
        self._face.quit()

    # ---- asked of the server

    def _more(self, _: str) -> bool:
        room = self._open_room()
        if room is None:
            return False
        if room.is_encrypted:
            self._face.say(ENCRYPTED)
            return True

        async def fetch() -> None:
            count = await self._session.older(room)
            if count is None:
                self._face.say("There is nothing before.")
                return
            self._face.shown_more(room, count)

        self._later("Fetching earlier messages.", fetch)
        return True

    def _members(self, _: str) -> bool:
        room = self._open_room()
        if room is None:
            return False

        async def fetch() -> None:
            found = await self._session.client.members(room.room_id)
            rows = sorted(
                f"{visible.one_line(name, events.MAX_NAME)}  {visible.one_line(who, events.MAX_ID)}".strip() for who, name in found
            )
            more = [f"… and {len(rows) - MAX_SHOWN} more"] if len(rows) > MAX_SHOWN else []
            self._face.page(f"{len(rows)} in {room.name}", rows[:MAX_SHOWN] + more)

        self._later("Asking who is there.", fetch)
        return True

    def _invite(self, argument: str) -> bool:
        room = self._open_room()
        who = self._full(argument, "@")
        if room is None or who is None:
            return False

        async def invite() -> None:
            await self._session.client.invite(room.room_id, who)
            self._face.say(f"{visible.one_line(who)} is invited to {room.name}.")

        self._later(f"Inviting {visible.one_line(who)}.", invite)
        return True

    def _join(self, argument: str) -> bool:
        address = argument if argument.startswith("!") else self._full(argument, "#")
        if address is None:
            return False
        self._later(f"Joining {visible.one_line(address)}.", lambda: self._enter(self._session.client.join(address), ""))
        return True

    def _create(self, argument: str) -> None:
        self._later("Making the room.", lambda: self._enter(self._session.client.create(argument), argument))

    def _accept(self, argument: str) -> bool:
        room = self._one_invite(argument)
        if room is not None:
            self._later(f"Joining {room.name}.", lambda: self._enter(self._session.client.join(room.room_id), ""))
        return room is not None

    async def _enter(self, joining: Awaitable[str], name: str) -> None:
        """Opens the room that is joined or made, when the server has told of it."""
        room_id = await joining
        session = self._session
        room = self._model.entered(room_id, name)
        if room is None:
            self._face.say("It is done, but there are too many rooms to show it.")
            return
        session.open(room_id)
        self._face.opening(room)
        await self._opened(room)

    def _reject(self, argument: str) -> bool:
        room = self._one_invite(argument)
        if room is not None:
            self._later(f"Declining {room.name}.", lambda: self._go_out(room, f"The invite to {room.name} is declined."))
        return room is not None

    def _leave(self, _: str) -> bool:
        room = self._open_room()
        if room is not None:
            self._later(f"Leaving {room.name}.", lambda: self._go_out(room, f"You have left {room.name}."))
        return room is not None

    async def _go_out(self, room: Room, done: str) -> None:
        await self._session.client.leave(room.room_id)
        room.membership = "leave"
        self._face.say(done)
        if self._session.open_room == room.room_id:
            self._close()

    def _logout(self, _: str) -> bool:
        if any(entry.state is State.QUEUED for room in self._model.rooms.values() for entry in room.pending.values()):
            self._face.say("Messages wait to be sent; log out when they are gone.")
            return False

        async def log_out() -> None:
            await self._session.log_out()
            self._face.quit()

        self._later("Logging out.", log_out)
        return True

    def _later(self, doing: str, errand: Callable[[], Awaitable[None]]) -> bool:
        """False, and said so, if too much waits already."""
        try:
            self._put.send_nowait((doing, errand))
        except trio.WouldBlock:
            self._say_no("Too much is being done already; try it again.")
            return False
        self._under_way += 1
        if self._under_way == 1:
            self._idle = trio.Event()
            self.doing = doing
        return True

    # ---- which one

    def _open_room(self) -> Room | None:
        room = self.room
        if room is None:
            self._face.say("Open a room first: type its number, or /rooms.")
        return room

    def _one_room(self, argument: str) -> Room | None:
        """The room that is meant; the open one if nothing is said."""
        if not argument.strip():
            return self._open_room()
        found = self._model.find(argument)
        return self._chosen(found, argument)

    def _chosen(self, found: list[Room], argument: str) -> Room | None:
        if len(found) == 1:
            return found[0]
        if not found:
            said = "There is no such room here" if self._session.is_ready else "The rooms are not known yet"
            self._face.say(f"{said}: {visible.one_line(argument, 40)}.")
        else:
            self._face.say("Which one: " + ", ".join(f"{room.number} {room.name}" for room in found[:8]) + "?")
        return None

    def _one_invite(self, argument: str) -> Room | None:
        invites = [room for room in self._model.listed() if room.membership == "invite"]
        if argument:
            meant = self._model.find(argument)
            invites = [room for room in invites if room in meant]
        if not invites:
            self._face.say("There is no such invite.")
            return None
        return self._chosen(invites, argument)

    def _full(self, argument: str, sigil: str) -> str | None:
        """An identifier with its sigil and a server name, our own if none is said."""
        name = argument if argument.startswith(sigil) else sigil + argument
        if " " in name or len(name) < 2:
            self._face.say(f"That is no address; it looks like {sigil}name:server.")
            return None
        return name if ":" in name else f"{name}:{self._model.me.partition(':')[2]}"
