"""POST /unstable/org.edgeserver.screen/sync, and the short verbs beside it: the client-server API for programs that show text to a person
over a thin line. `edgeserver.thin.screen` says what goes over it; the services behind it are those of the full endpoints.

    POST /sync?pos=…&timeout=…                `Wish` → `Answer`; sliding sync (MSC4186), of which this is a dialect
    PUT  /rooms/{room}/say/{txnId}            {"text"} or {"emote"} → {"number"}; PUT /rooms/{roomId}/send/m.room.message/{txnId}
    POST /rooms/{room}/read                   {"number"}, {"private": true} → {}; POST /rooms/{roomId}/receipt/…
    POST /rooms/{room}/older                  {"before"}, {"limit"} → `Older`; GET /rooms/{roomId}/messages

A room is named by its handle or its id, an event by its number. A transaction id of `say` means the same to `send`.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from edgeserver.api import query
from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.rooms import client_view, history
from edgeserver.rooms.client_view import Viewer
from edgeserver.rooms.tokens import write_place
from edgeserver.store import events, rooms, state, unread
from edgeserver.store.events import transaction_key
from edgeserver.store.receipts import PRIVATE, READ
from edgeserver.sync.sliding import screen as dialect
from edgeserver.thin import entries, screen
from edgeserver.thin.screen import Older, ScreenError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.history import History
    from edgeserver.rooms.send import Composer
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import Place, StoredEvent
    from edgeserver.sync.sliding.engine import SlidingSync
    from edgeserver.users.receipts import Receipts

SECONDS: Final = 15
"""So much of a thin line one answer takes, more or less."""
BITS_PER_BYTE: Final = 10
LEAST_BUDGET: Final = 512
OLDER: Final = 10
MESSAGE: Final = "m.room.message"
MEMBER: Final = "m.room.member"
MAX_BODY: Final = 65_536


class ScreenSection:
    """The handlers."""

    def __init__(
        self,
        db: Database,
        sync: SlidingSync,
        composer: Composer,
        receipts: Receipts,
        past: History,
        now_ms: Callable[[], int],
        syncing: Callable[[str, str | None, str], AbstractContextManager[None]] | None,
    ) -> None:
        self._db = db
        self._sync = sync
        self._composer = composer
        self._receipts = receipts
        self._history = past
        self._now_ms = now_ms
        self._syncing = syncing

    async def sync(self, call: Call) -> dict[str, Any]:
        """POST /sync: whoever looks at a screen is online, as far as presence goes."""
        timeout, pos = query.number(call, "timeout", 0), call.query.get("pos") or None
        wish = await self._asked(call, screen.read_wish)
        whole, opened = await self._db.read(lambda tx: (_ids(tx, wish.whole), _id(tx, wish.open)))
        request = dialect.read(call.user_id, _device(call), pos, timeout, wish.listed, whole, opened)
        if call.link is not None and call.link.is_thin:
            request = replace(request, budget=max(LEAST_BUDGET, SECONDS * (call.link.bit_rate or 0) // BITS_PER_BYTE))
        with nullcontext() if self._syncing is None else self._syncing(call.user_id, call.requester.device_id, "online"):
            answer = await self._sync.sync(request)
        known = await self._db.read(lambda tx: dialect.cited(tx, answer)) if dialect.cites(answer) else dialect.NOTHING_CITED
        return screen.write_answer(dialect.write(answer, known, request.subscriptions))

    async def say(self, call: Call) -> dict[str, Any]:
        """PUT /rooms/{room}/say/{txnId}"""
        body = await call.json()
        kind = "emote" if "emote" in body else "text"
        text = body.get(kind)
        if not isinstance(text, str) or not text:
            raise errors.BadJson("Say {\"text\": …} or {\"emote\": …}.")
        room_id, device_id = await self._room(call), _device(call)
        txn_id = transaction_key("send", room_id, MESSAGE, call.path["txnId"])
        event_id = await self._db.read(lambda tx: _said(tx, room_id, call.user_id, device_id, txn_id))
        if event_id is None:
            content = {"msgtype": f"m.{kind}", "body": text}
            event_id = await self._composer.send(room_id, call.user_id, MESSAGE, content, device_id=device_id, txn_id=txn_id)
        found = await self._db.read(lambda tx: events.streams_by_id(tx, [event_id]))
        return {"number": number} if (number := found.get(event_id)) is not None else {}

    async def read(self, call: Call) -> dict[str, Any]:
        """POST /rooms/{room}/read"""
        body, room_id = await call.json(), await self._room(call)
        number, private = body.get("number"), body.get("private", False)
        if type(number) is not int or type(private) is not bool or abs(number) > screen.MAX_NUMBER:
            raise errors.BadJson("number is an event's number, and private true or false.")
        kind = PRIVATE if private else READ

        def put(tx: Transaction) -> None:
            room = rooms.get(tx, room_id)
            stored = None if room is None else events.at_stream(tx, room.number, number)
            read: list[int] = []
            tx.on_commit(lambda: self._note_read(call, read))  # before those who wait are woken
            self._receipts.put(tx, call.user_id, room_id, kind, "" if stored is None else stored.event.event_id)
            if room is not None and not unread.of_user(tx, room.number, call.user_id):
                read.append(room.number)

        await self._db.write(put)
        return {}

    def _note_read(self, call: Call, read: Sequence[int]) -> None:
        """In these rooms nothing is unread any more, which the device knows that has said so."""
        connection = self._sync.connections.known(call.user_id, _device(call), dialect.CONNECTION)
        if connection is not None:
            for room in read:
                connection.is_read(room)

    async def older(self, call: Call) -> dict[str, Any]:
        """POST /rooms/{room}/older"""
        body, room_id = await call.json(), await self._room(call)
        number, limit = body.get("before"), body.get("limit", OLDER)
        if type(number) is not int or type(limit) is not int or abs(number) > screen.MAX_NUMBER or not 0 < limit <= screen.MAX_OLDER:
            raise errors.BadJson(f"before is an event's number, and limit from 1 to {screen.MAX_OLDER}.")
        start = await self._db.read(lambda tx: _before(tx, room_id, number, call.user_id))
        page = await self._history.page(call.user_id, room_id, start, None, limit, backwards=True)
        viewer = Viewer(call.user_id, call.requester.device_id, self._now_ms())
        return screen.write_older(await self._db.read(lambda tx: _older(tx, room_id, page, viewer)))

    async def _room(self, call: Call) -> str:
        """The id of the room that is named. Raises M_FORBIDDEN where there is none."""
        given = call.path["room"]
        name = int(given) if given.isascii() and given.isdecimal() and len(given) <= query.MAX_DIGITS else given
        room_id = await self._db.read(lambda tx: _id(tx, name))
        if room_id is None:
            raise errors.Forbidden("You are not in this room.")
        return room_id

    async def _asked(self, call: Call, read: Callable[[object], Any]) -> Any:
        try:
            return read(await call.json())
        except ScreenError as error:
            raise errors.BadJson(str(error)) from error


def _device(call: Call) -> str:
    return call.requester.device_id or ""


def _id(tx: Transaction, name: int | str | None) -> str | None:
    """The id of the room with this handle; of an id itself, whatever it is: who may see the room is not looked at here."""
    if not isinstance(name, int):
        return name
    room_id = rooms.id_of(tx, screen.number_of(name))
    return room_id if room_id is not None and screen.is_handle_of(name, screen.number_of(name), room_id) else None


def _ids(tx: Transaction, names: Sequence[int | str]) -> list[str]:
    return [room_id for name in names if (room_id := _id(tx, name)) is not None]


def _said(tx: Transaction, room_id: str, user_id: str, device_id: str, txn_id: str) -> str | None:
    """The event that this transaction id has made, if it has.

    Raises M_FORBIDDEN for a room that is encrypted: the box would write in the open what its members believe to be sealed.
    """
    known = events.transaction_event(tx, user_id, device_id, txn_id)
    if known is not None:
        return known
    membership = rooms.membership_in(tx, user_id, room_id)
    room = rooms.get(tx, room_id)
    if membership is None or membership.membership != "join" or room is None or room.snapshot is None:
        raise errors.Forbidden(f"You are not in the room {room_id}.")
    if state.lookup_event(tx, room.snapshot, *dialect.ENCRYPTION) is not None:
        raise errors.Forbidden("The room is encrypted; what is said there has to come from a client that encrypts.")
    return None


def _before(tx: Transaction, room_id: str, number: int, user_id: str) -> str:
    """The token of the place before that event. Raises M_FORBIDDEN, M_INVALID_PARAM."""
    at = history.view(tx, room_id, user_id)
    stored = events.at_stream(tx, at.room.number, number)
    if stored is None or number > at.upto:
        raise errors.InvalidParam("There is no such event in the room.")
    return write_place(history.before(stored))


def _older(tx: Transaction, room_id: str, page: history.Page, viewer: Viewer) -> Older:
    shown = client_view.timeline(tx, page.chunk, viewer, with_room_id=False)
    places = events.streams_by_id(tx, {entries.target(event) for event in shown} - {""})
    found = [
        entry
        for event, stored in zip(shown, page.chunk, strict=True)
        if (entry := entries.read(event, stored.stream or 0, places)) is not None
    ]
    members = _speakers(tx, page.chunk)
    people = entries.people(client_view.state_events(tx, members, viewer))
    return Older(tuple(reversed(found)), tuple(people), None if page.end is None else _number_after(tx, room_id, page.end, viewer.user_id))


def _number_after(tx: Transaction, room_id: str, place: Place, user_id: str) -> int | None:
    """The number of the first event after a place, be it one that the user may not see."""
    at = history.view(tx, room_id, user_id)
    found = events.page_forwards(tx, at.room.number, place, 1, at.upto)
    return found[0].stream if found else None


def _speakers(tx: Transaction, chunk: Sequence[StoredEvent]) -> list[StoredEvent]:
    """The membership events of who speaks there, as of the newest of these events."""
    after = chunk[0].after if chunk else None
    if after is None:
        return []
    keys = dict.fromkeys((MEMBER, stored.event.sender) for stored in chunk)
    return list(state.lookup_events(tx, after, keys).values())


def routes(
    db: Database,
    sync: SlidingSync,
    composer: Composer,
    receipts: Receipts,
    past: History,
    now_ms: Callable[[], int],
    syncing: Callable[[str, str | None, str], AbstractContextManager[None]] | None = None,
) -> list[Route]:
    """`syncing(user_id, device_id, set_presence)` is entered for as long as a sync takes."""
    section = ScreenSection(db, sync, composer, receipts, past, now_ms, syncing)
    room = f"{screen.BASE}/rooms/{{room}}"
    return [
        *endpoint("POST", f"{screen.BASE}/sync", section.sync, rate="sync", long_poll=True, max_body=MAX_BODY),
        *endpoint("PUT", f"{room}/say/{{txnId}}", section.say, rate="message", max_body=MAX_BODY),
        *endpoint("POST", f"{room}/read", section.read, rate="ephemeral", max_body=4096),
        *endpoint("POST", f"{room}/older", section.older, rate="sync", max_body=4096),
    ]
