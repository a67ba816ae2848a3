"""`edgeserver chat`: finds the way to the server, logs in where that is needed, and runs until the person quits."""

from __future__ import annotations

import socket
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import trio

from edgeserver.chat import events, saved
from edgeserver.chat.client import Client, Refused
from edgeserver.chat.conversation import Conversation, Face
from edgeserver.chat.model import Model
from edgeserver.chat.outbox import Outbox
from edgeserver.chat.saved import Saved
from edgeserver.chat.session import Dialect, Session, SessionEnded, Watcher
from transports.exchange import ExchangeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from transports.exchange import Exchange
    from transports.link.wire import Driver


class ChatError(Exception):
    """It cannot run as it was asked to; one sentence for the person in front of the screen."""


class Front(Face, Watcher, Protocol):
    """`PlainFace` or `ScreenFace`."""

    session: Session
    conversation: Conversation

    @property
    def is_script(self) -> bool:
        """Nobody looks: the exit status must say whether all was done."""
        return False

    async def run(self) -> None:
        """Runs until the person quits."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """`server` is a URL or a server name, `link` a line's URI (see `app.wires`); both empty: where one was last. `pair` is a pairing code
    or QR string (None: paired already); `folder` holds all that is kept.
    """

    folder: Path
    server: str = ""
    link: str = ""
    pair: str | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """How to get to the server. `place` is what it is known by: its URL, or the box's name; `line` says why the line is down."""

    exchange: Exchange
    place: str
    link: str = ""
    line: Callable[[], str] = str



async def run(
    options: ChatOptions,
    say: Callable[[str], None],
    ask: Callable[[str], Awaitable[tuple[str, str]]],
    front: Callable[[], Front],
    *,
    driver: Driver | None = None,
    now: Callable[[], float] = time.time,
) -> None:
    """Runs until the person quits. `say` gets plain sentences before and after; `ask` asks for user name and password and is given who was
    logged in last; `front` makes the face; `driver` replaces that of the link's URI.

    Raises `ChatError`, `SavedError`, `JoinError`, `StateError`, `AddressError`, `WireError`, some in groups.
    """
    known = saved.load(options.folder)
    async with _way(_where(options, known), say, driver) as way:
        client = Client(way.exchange)
        account = known
        if account is None or not account.token or account.place != way.place:
            account = await _log_in(client, way, known, ask, options, say)
        client.token = account.token
        face = front()
        ended = await converse(client, account.user_id, options.folder, face, way=way, now=now)
        session = face.session
        if session.is_over:
            session.drop()
            saved.forget(options.folder)
        elif ended:
            saved.keep(options.folder, replace(account, token=""))
            raise ChatError("The server has ended this session. Start again to log in; what waits to be sent is kept.")
        if face.is_script and (face.conversation.failures or any(message.failed for message in session.outbox.messages)):
            raise ChatError("Not everything was done; the lines above say what was not.")
        say("What waits to be sent is sent the next time." if session.outbox.next() is not None else "Good-bye.")


async def converse(
    client: Client, me: str, folder: Path, face: Front, *, way: Way | None = None, now: Callable[[], float] = time.time
) -> bool:
    """Runs a logged-in client until the person quits. True: the server has ended the session. Raises `SavedError` (in groups)."""
    model = Model(me)
    model.counts_are_told = way is not None and bool(way.link)
    dialect = Dialect.COMPACT if way is not None and way.link else None  # at the other end of a line there is a box
    line = str if way is None else way.line
    session = Session(client, model, Outbox(folder / "outbox.json"), face, dialect=dialect, now=now, line=line)
    face.session = session
    face.conversation = Conversation(session, face)
    ended = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            nursery.start_soon(face.conversation.run)
            await face.run()
            nursery.cancel_scope.cancel()
    except* SessionEnded:
        ended = True
    return ended


def _where(options: ChatOptions, known: Saved | None) -> ChatOptions:
    """With the place of the last time where none is named. Raises `ChatError`."""
    if options.server and options.link:
        raise ChatError("Name --server or --link, not both.")
    if not options.server and not options.link:
        if known is None:
            raise ChatError("Say where the server is: --server http://HOST:8008, or --link serial:/dev/ttyUSB0,2400 --pair CODE.")
        return replace(options, server="" if known.link else known.place, link=known.link)
    return options


@asynccontextmanager
async def _way(options: ChatOptions, say: Callable[[str], None], driver: Driver | None) -> AsyncIterator[Way]:
    if options.link:
        from edgeserver.paired.joining import line_to_box
        from edgeserver.paired.line import LineExchange
        from edgeserver.paired.state import open_state

        state = await trio.to_thread.run_sync(open_state, options.folder, "chat")
        line = await line_to_box(options.link, state, "chat", say, pairing=options.pair, driver=driver)
        assert state.box is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.run)
            yield Way(LineExchange(line), state.box.name, options.link, lambda: "" if line.is_up else line.sentence())
            nursery.cancel_scope.cancel()
        return
    from edgeserver.chat.server import ServerExchange, url_of
    from transports.http import HttpPool

    if options.pair is not None:
        raise ChatError("--pair belongs to --link.")
    async with HttpPool(allow_plaintext=True, read_timeout=3600.0) as pool:
        try:
            url = await url_of(pool, options.server)
        except ExchangeError as error:
            raise ChatError(f"{options.server} cannot be reached: {error}.") from error
        yield Way(ServerExchange(pool, url), url)


async def _log_in(
    client: Client,
    way: Way,
    known: Saved | None,
    ask: Callable[[str], Awaitable[tuple[str, str]]],
    options: ChatOptions,
    say: Callable[[str], None],
) -> Saved:
    """Asks who it is and logs in there. Raises `ChatError` also where the folder has another account, or messages of one, in it."""
    waiting = Outbox(options.folder / "outbox.json").messages
    if known is not None and known.place != way.place and (waiting or (known.token and options.pair is None)):
        raise ChatError(
            f"{options.folder} holds the account {known.user_id} at {known.place}. Start without --server and --link to use it, /logout "
            "there, or name another folder with --state."
        )
    earlier = known if known is not None and known.place == way.place else None
    user, password = await ask("" if earlier is None else earlier.user_id)
    say(way.line() or f"Logging in at {way.place}.")
    device_id = None if earlier is None or not is_same(user, earlier.user_id) else earlier.device_id
    try:
        told = await client.log_in(user, password, device_id, f"edgeserver chat on {socket.gethostname()}"[:60])
    except Refused as refusal:
        raise ChatError(f"The server does not log you in: {refusal}") from refusal
    except ExchangeError as error:
        raise ChatError(f"{way.place} cannot be reached: {error}.") from error
    user_id, token = events.identifier(told.get("user_id")), events.text_of(told, "access_token")
    if not user_id or not token or not token.isascii() or not token.isprintable():
        raise ChatError("The server's answer to the login is not one of a Matrix server.")
    account = Saved(way.place, way.link, user_id, events.text_of(told, "device_id"), token)
    if earlier is not None and earlier.user_id != user_id and waiting:
        raise ChatError(f"Messages of {earlier.user_id} wait here. Log in as that user, or name another folder with --state.")
    saved.keep(options.folder, account)
    return account


def is_same(user: str, user_id: str) -> bool:
    """Whether a user name or id is that user."""
    return user in (user_id, user_id[1:].partition(":")[0])
