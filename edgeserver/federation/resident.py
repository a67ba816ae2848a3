"""Our side of other servers' joins, leaves and knocks: we are in the room and take them in.

GET /make_join, /make_leave, /make_knock; PUT /send_join, /send_leave, /send_knock. Spec: server-server API,
"Joining Rooms", "Leaving Rooms (Rejecting Invites)", "Knocking upon a room".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import orjson

from edgeserver.federation.participation import our_room
from edgeserver.matrix import errors
from edgeserver.matrix.draft import countersign
from edgeserver.matrix.event import stripped_state as stripped_event
from edgeserver.matrix.identifiers import domain_of, is_user_id
from edgeserver.matrix.pdu_checks import open_pdu
from edgeserver.matrix.verdicts import Accepted, Dropped
from edgeserver.rooms.membership import STRIPPED, authorising_user
from edgeserver.rooms.placing import Task
from edgeserver.store import auth_chain, events, rooms, state
from edgeserver.store.events import Standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.matrix.signatures import SigningKey
    from edgeserver.matrix.verdicts import Verdict
    from edgeserver.rooms.send import Composer
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent
    from edgeserver.store.rooms import Room
    from edgeserver.store.state import StateKey

HEROES = 5
SMALL_ROOM = 20
"""Up to so many members are never omitted: to fetch them afterwards costs more than to send them at once."""


class Placing(Protocol):
    """What gives an event its place; see `rooms.placing.Placer`."""

    async def place(self, task: Task) -> Verdict: ...


class Checking(Protocol):
    """What verifies signatures and hashes; see `rooms.receive.Receiver`."""

    async def checked(self, found: Sequence[Event]) -> list[Event | Dropped]: ...

    async def opened(self, pdus: Iterable[Any], room_id: str, rules: RoomVersion) -> dict[str, Event]: ...

    async def judged_by_policy(self, room: int, found: Sequence[Event]) -> list[tuple[Event, str | None]]: ...


class Resident:
    """Drafts membership events for other servers' users and takes in the signed ones. Every method raises
    `MatrixError`.
    """

    def __init__(
        self,
        db: Database,
        composer: Composer,
        placer: Placing,
        checks: Checking,
        *,
        server_name: str,
        key: SigningKey,
    ) -> None:
        self._db = db
        self._composer = composer
        self._placer = placer
        self._checks = checks
        self._server_name = server_name
        self._key = key

    # Templates

    async def make(self, origin: str, room_id: str, user_id: str, membership: str, versions: Sequence[str]) -> dict[str, Any]:
        """`{event, room_version}`: the template of a `join`, `leave` or `knock` for that server's user."""
        if not is_user_id(user_id) or domain_of(user_id) != origin:
            raise errors.Forbidden("That is not a user of your server.")

        def read(tx: Transaction) -> dict[str, Any]:
            room = our_room(tx, room_id, origin)
            version = room.rules.version
            if membership != "leave" and version not in (versions or ("1",)):
                raise errors.IncompatibleRoomVersion(version)
            content = self._content(tx, room, user_id, membership)
            event, _ = self._composer.draft(tx, room, user_id, "m.room.member", content, state_key=user_id)
            self._composer.authorise(tx, room, event)
            template = {name: value for name, value in event.pdu.items() if name not in ("hashes", "signatures")}
            return {"event": {**template, "origin": self._server_name}, "room_version": version}

        return await self._db.read(read)

    def _content(self, tx: Transaction, room: Room, user_id: str, membership: str) -> dict[str, Any]:
        if membership != "join" or not self._needs_authoriser(tx, room, user_id):
            return {"membership": membership}
        authoriser = authorising_user(tx, room, user_id, self._server_name)
        if authoriser == "":
            raise errors.UnableToGrantJoin
        return {"membership": membership} | ({} if authoriser is None else {"join_authorised_via_users_server": authoriser})

    def _needs_authoriser(self, tx: Transaction, room: Room, user_id: str) -> bool:
        standing = rooms.membership(tx, user_id, room.number)
        return standing is None or standing.membership not in ("join", "invite")

    # Signed events

    async def send_join(self, origin: str, room_id: str, event_id: str, pdu: Any, *, omit_members: bool = False) -> dict[str, Any]:
        """Takes in a join; answers as v2 does: `{state, auth_chain, event, …}`."""
        event = await self._take(origin, room_id, event_id, pdu, "join")

        def read(tx: Transaction) -> dict[str, Any]:
            stored = events.get(tx, event_id)
            assert stored is not None
            assert stored.before is not None
            return self._join_answer(tx, stored, omit_members=omit_members) | {"event": _raw(tx, [event.event_id])[0]}

        return await self._db.read(read)

    def _join_answer(self, tx: Transaction, join: StoredEvent, *, omit_members: bool) -> dict[str, Any]:
        assert join.before is not None
        whole = state.whole_ids(tx, join.before)
        members = sum(key[0] == "m.room.member" for key in whole)
        omitted = omit_members and members > SMALL_ROOM
        if omitted:
            heroes = _heroes(tx, join.before, whole)
            whole = {key: event_id for key, event_id in whole.items() if key[0] != "m.room.member" or key[1] in heroes}
        chain = auth_chain.chain_ids(tx, [join.event.event_id, *whole.values()])
        if omitted:
            told = set(whole.values())
            chain = [event_id for event_id in chain if event_id not in told]
        return {
            "origin": self._server_name,
            "state": _raw(tx, list(whole.values())),
            "auth_chain": _raw(tx, chain),
            "members_omitted": omitted,
            "servers_in_room": rooms.servers(tx, join.room),
        }

    async def send_leave(self, origin: str, room_id: str, event_id: str, pdu: Any) -> None:
        """Takes in a leave: of a member, or of somebody invited."""
        await self._take(origin, room_id, event_id, pdu, "leave")

    async def send_knock(self, origin: str, room_id: str, event_id: str, pdu: Any) -> list[dict[str, Any]]:
        """Takes in a knock; answers with the `knock_room_state`."""
        await self._take(origin, room_id, event_id, pdu, "knock")
        return await self._db.read(lambda tx: public_state(tx, our_room(tx, room_id, origin), whole=True))

    async def _take(self, origin: str, room_id: str, event_id: str, pdu: Any, membership: str) -> Event:
        room = await self._db.read(lambda tx: our_room(tx, room_id, origin))
        opened = open_pdu(pdu, room.rules)
        if isinstance(opened, Dropped):
            raise errors.InvalidParam(f"That is not an event of the room: {opened.why}.")
        check_member_event(opened, room_id, event_id, membership)
        if domain_of(opened.sender) != origin or opened.state_key != opened.sender:
            raise errors.InvalidParam("The event does not speak for a user of your server.")
        known = await self._db.read(lambda tx: events.get(tx, event_id))
        if known is not None and not known.is_outlier and known.standing is Standing.ACCEPTED:
            return known.event  # a repeat, whose first answer was lost: with our signature, if it needs one
        event = await self._db.read(lambda tx: self._authorised(tx, room, opened))
        (checked,) = await self._checks.checked([event])
        if isinstance(checked, Dropped) or checked.pdu != event.pdu:
            raise errors.InvalidParam("The event's signature or hash is wrong.")
        ((event, not_recommended),) = await self._checks.judged_by_policy(room.number, [event])
        if not_recommended is not None:
            raise errors.Forbidden(f"The room does not allow it: {not_recommended}.")
        verdict = await self._placer.place(Task(room.number, event, deliver=True))
        if not isinstance(verdict, Accepted):
            raise errors.Forbidden(f"The room does not allow it: {verdict.why}.")
        return event

    def _authorised(self, tx: Transaction, room: Room, event: Event) -> Event:
        """The event with our signature, if it is a restricted join by word of a user of ours; what it cites must be
        held.
        """
        held = events.held(tx, [*event.prev_events, *event.auth_events])
        if not event.prev_events or not all(held.get(one) for one in event.prev_events):
            raise errors.InvalidParam("The event cites prev events that are not known here.")
        if not all(one in held for one in event.auth_events):
            raise errors.InvalidParam("The event cites auth events that are not known here.")
        authoriser = event.content.get("join_authorised_via_users_server")
        if event.content["membership"] != "join" or not isinstance(authoriser, str):
            return event
        if domain_of(authoriser) != self._server_name or not room.rules.restricted:
            return event
        if self._needs_authoriser(tx, room, event.sender):
            authorising_user(tx, room, event.sender, self._server_name)  # raises if no condition is met
        return countersign(event, self._server_name, self._key)


def check_member_event(event: Event, room_id: str, event_id: str, membership: str) -> None:
    """Raises M_INVALID_PARAM unless this is that membership event of that room."""
    if event.event_id != event_id:
        raise errors.InvalidParam("The event has another id than the request.")
    if event.room_id != room_id:
        raise errors.InvalidParam("The event is of another room.")
    if event.type != "m.room.member" or event.content.get("membership") != membership:
        raise errors.InvalidParam(f"The event is not a membership event with {membership}.")


def public_state(tx: Transaction, room: Room, inviter: str | None = None, *, whole: bool) -> list[dict[str, Any]]:
    """What somebody who is not in the room is shown of it: whole PDUs for servers (MSC4311), else stripped state."""
    assert room.snapshot is not None
    keys = [(event_type, "") for event_type in STRIPPED]
    if inviter is not None:
        keys.append(("m.room.member", inviter))
    found = state.lookup_events(tx, room.snapshot, keys).values()
    return [stored.event.pdu if whole else stripped_event(stored.event) for stored in found]


def _raw(tx: Transaction, event_ids: Sequence[str]) -> list[orjson.Fragment]:
    """The events as they are stored: a whole room's as objects would take many times the memory."""
    return [orjson.Fragment(pdu) for pdu in auth_chain.pdus(tx, event_ids)]


def _heroes(tx: Transaction, snapshot: int, whole: Mapping[StateKey, str]) -> set[str]:
    """The members after whom a room without name and alias is called."""
    for event_type, name in (("m.room.name", "name"), ("m.room.canonical_alias", "alias")):
        stored = state.lookup_event(tx, snapshot, event_type)
        if stored is not None and stored.event.content.get(name):
            return set()
    found: set[str] = set()
    for event_type, user_id in sorted(whole):
        if event_type == "m.room.member" and len(found) < HEROES:
            stored = state.lookup_event(tx, snapshot, event_type, user_id)
            if stored is not None and stored.event.content.get("membership") in ("join", "invite"):
                found.add(user_id)
    return found
