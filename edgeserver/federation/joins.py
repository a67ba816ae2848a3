"""Rooms of other servers: joining them, knocking at them, declining their invites, inviting their users. Implements
`rooms.membership.RemoteRooms`.

Spec: server-server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms (Rejecting Invites)", "Inviting to a room".

A join goes through the candidate servers in turn: a template from /make_join, checked and signed; /send_join; what
comes back is verified (signatures in one batch, hashes, the create event and its version) and handed to rooms,
which judge it by its own auth chain.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

from edgeserver.federation import shown_state
from edgeserver.federation.errors import BadAnswer, FederationError, PeerError, PeerUnreachable, as_matrix_error
from edgeserver.federation.resident import public_state
from edgeserver.matrix import draft, server_names, signatures
from edgeserver.matrix.errors import IncompatibleRoomVersion, MatrixError, NotFound
from edgeserver.matrix.identifiers import domain_of
from edgeserver.matrix.redaction import redact
from edgeserver.matrix.room_versions import SUPPORTED
from edgeserver.matrix.signatures import SignatureError
from edgeserver.matrix.verdicts import Dropped, Rejected
from edgeserver.rooms.importing import GivenRoom
from edgeserver.store import events, rooms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from edgeserver.federation.calls import Calls, Pdu
    from edgeserver.federation.keyring import Keyring
    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.matrix.signatures import SigningKey
    from edgeserver.matrix.verdicts import Verdict
    from edgeserver.rooms.turns import Turns
    from edgeserver.store.database import Database, Transaction

log = logging.getLogger(__name__)

MAX_CANDIDATES: Final = 8
MAX_EVENTS: Final = 300_000
MAX_SERVERS: Final = 20_000
_TEMPLATE_KEYS = ("type", "room_id", "sender", "state_key", "content", "prev_events", "auth_events", "depth")


class RoomTaker(Protocol):
    """What takes a joined room in; see `rooms.importing.Importer`."""

    async def join(self, rules: RoomVersion, join: Event, given: GivenRoom) -> None:
        """Raises M_FORBIDDEN if the given state does not allow the join, 502 M_UNKNOWN if it is none of that room."""
        ...


class EventTaker(Protocol):
    """What checks and takes events in; see `rooms.receive.Receiver`."""

    async def opened(self, pdus: Iterable[Any], room_id: str, rules: RoomVersion) -> dict[str, Event]:
        """Those PDUs of the room whose format, signatures and hashes hold (redacted where the hash does not), by id."""
        ...

    async def receive(self, origin: str, pdu: dict[str, Any]) -> Verdict: ...


class RemoteRooms:
    """Membership in rooms of other servers. Every method raises `MatrixError`, with what to tell the client."""

    def __init__(
        self,
        db: Database,
        calls: Calls,
        keyring: Keyring,
        importer: RoomTaker,
        receiver: EventTaker,
        *,
        server_name: str,
        key: SigningKey,
        now_ms: Callable[[], int],
        joining: Turns,
        partial: bool = True,
    ) -> None:
        """`joining` has the turn of each room for as long as it is being joined. `partial`: ask for rooms without their members."""
        self._db = db
        self._calls = calls
        self._keyring = keyring
        self._importer = importer
        self._receiver = receiver
        self._server_name = server_name
        self._key = key
        self._now_ms = now_ms
        self._joining = joining
        self._partial = partial

    # Joining

    async def join(self, user_id: str, room_id: str, servers: Sequence[str], content: Mapping[str, Any]) -> None:
        """Joins through the first of the servers that lets us."""
        async with self._joining.of(room_id):
            failures: list[FederationError | MatrixError] = []
            for server in self._candidates(servers):
                try:
                    await self._join_through(server, user_id, room_id, content)
                except (FederationError, MatrixError) as failure:
                    log.info("joining %s through %s failed: %s", room_id, server, failure)
                    failures.append(failure)
                    continue
                return
        raise most_telling(failures)

    def _candidates(self, servers: Sequence[str]) -> list[str]:
        return [name for name in dict.fromkeys(servers) if name != self._server_name][:MAX_CANDIDATES]

    async def _join_through(self, server: str, user_id: str, room_id: str, content: Mapping[str, Any]) -> None:
        proto, rules = await self._template(server, room_id, user_id, "join")
        authoriser = proto["content"].get("join_authorised_via_users_server")
        said = dict(content) | ({} if authoriser is None else {"join_authorised_via_users_server": authoriser})
        join = self._complete(server, proto, said, rules)
        answer = await self._calls.send_join(server, room_id, join.event_id, join.pdu, omit_members=self._partial)
        join = _with_their_signatures(join, answer.get("event"))
        if await self._db.read(lambda tx: self._is_ours(tx, room_id)):
            await self._receive(server, join)  # somebody of ours is in the room by now: it is an event like any other
            return
        await self._take_room(server, rules, join, answer)

    async def _take_room(self, server: str, rules: RoomVersion, join: Event, answer: Mapping[str, Any]) -> None:
        if len(answer["state"]) + len(answer["auth_chain"]) > MAX_EVENTS:
            raise BadAnswer(server, f"the room has more than {MAX_EVENTS} events of state")
        verified = (await self._receiver.opened([join.pdu], join.room_id, rules)).get(join.event_id)
        if verified is None:
            raise BadAnswer(server, "the join lacks a signature that it needs")
        omitted = answer.get("members_omitted") is True
        told = answer.get("servers_in_room")
        servers = _servers_in_room(server, told if omitted or isinstance(told, list) else [])
        await self._importer.join(rules, verified, GivenRoom(server, answer["state"], answer["auth_chain"], omitted, servers))

    def _is_ours(self, tx: Transaction, room_id: str) -> bool:
        room = rooms.get(tx, room_id)
        return room is not None and room.snapshot is not None and bool(rooms.local_members(tx, room.number))

    async def _receive(self, server: str, event: Event) -> None:
        verdict = await self._receiver.receive(server, event.pdu)
        if isinstance(verdict, (Dropped, Rejected)):
            raise BadAnswer(server, f"the event that it took is not allowed: {verdict.why}")

    # Templates

    async def _template(self, server: str, room_id: str, user_id: str, membership: str) -> tuple[Pdu, RoomVersion]:
        """A template that says what was asked for, and nothing else."""
        proto, version = await self._calls.make_membership(server, room_id, user_id, membership, list(SUPPORTED))
        if version is None and membership == "leave":
            known = await self._db.read(lambda tx: rooms.get(tx, room_id))
            version = None if known is None else known.rules.version
        rules = SUPPORTED.get(version or "1")
        if rules is None:
            raise IncompatibleRoomVersion(version or "1", "This server does not support the room's version.")
        content = proto.get("content")
        meant = (proto.get("type"), proto.get("room_id"), proto.get("sender"), proto.get("state_key"))
        if meant != ("m.room.member", room_id, user_id, user_id) or not isinstance(content, dict):
            raise BadAnswer(server, "the template is not of the event that was asked for")
        if content.get("membership") != membership:
            raise BadAnswer(server, "the template is of another membership")
        return proto, rules

    def _complete(self, server: str, proto: Pdu, content: Mapping[str, Any], rules: RoomVersion) -> Event:
        kept = {name: proto[name] for name in _TEMPLATE_KEYS if name in proto}
        kept |= {"content": dict(content), "origin_server_ts": self._now_ms()}
        try:
            return draft.complete(kept, rules, self._server_name, self._key)
        except MatrixError as error:
            raise BadAnswer(server, f"the template makes no event: {error}") from error

    # Knocking

    async def knock(
        self, user_id: str, room_id: str, servers: Sequence[str], content: Mapping[str, Any]
    ) -> tuple[Event, list[dict[str, Any]]]:
        """Knocks at the first of the servers that hears it: the knock, and what the room shows of itself."""
        failures: list[FederationError | MatrixError] = []
        for server in self._candidates(servers):
            try:
                proto, rules = await self._template(server, room_id, user_id, "knock")
                event = self._complete(server, proto, content, rules)
                state = await self._calls.send_knock(server, room_id, event.event_id, event.pdu)
                return event, await shown_state.after_knock(self._receiver, state, rules, room_id)
            except (FederationError, MatrixError) as failure:
                log.info("knocking at %s through %s failed: %s", room_id, server, failure)
                failures.append(failure)
        raise most_telling(failures)

    # Leaving

    async def leave(self, user_id: str, room_id: str, servers: Sequence[str]) -> Event:
        """Declines an invite or ends a knock at one of the room's servers; the leave event.

        If none of them can be reached or knows of it, the event is made here alone, so that the invite goes away
        all the same.
        """
        for server in self._candidates(servers):
            try:
                proto, rules = await self._template(server, room_id, user_id, "leave")
                event = self._complete(server, proto, {"membership": "leave"}, rules)
                await self._calls.send_leave(server, room_id, event.event_id, event.pdu)
            except (FederationError, MatrixError) as failure:
                log.info("leaving %s through %s failed: %s", room_id, server, failure)
                continue
            return event
        return await self._db.read(lambda tx: self._leave_alone(tx, user_id, room_id))

    def _leave_alone(self, tx: Transaction, user_id: str, room_id: str) -> Event:
        room, membership = rooms.get(tx, room_id), rooms.membership_in(tx, user_id, room_id)
        stored = None if membership is None else events.by_number(tx, membership.event)
        if room is None or stored is None:
            raise NotFound("That room is not known here.")
        proto = draft.template(
            room.rules,
            room_id=room_id,
            sender=user_id,
            event_type="m.room.member",
            state_key=user_id,
            content={"membership": "leave"},
            prev_events=draft.references([stored.event]),
            auth_events=draft.references([stored.event]),
            depth=draft.depth_after([stored.event.depth], room.rules),
            origin_server_ts=self._now_ms(),
        )
        return draft.complete(proto, room.rules, self._server_name, self._key)

    # Inviting

    async def invite(self, event: Event, stripped: Sequence[Mapping[str, Any]], create: Mapping[str, Any]) -> Event:
        """Has the invited user's server sign an invite of ours.

        The server is shown whole PDUs of the room's public state (MSC4311); `stripped` and `create` are what to
        show for a room whose state is not held.
        """
        assert event.state_key is not None
        server = domain_of(event.state_key)

        def read(tx: Transaction) -> list[dict[str, Any]]:
            room = rooms.get(tx, event.room_id)
            if room is not None and room.snapshot is not None:
                return public_state(tx, room, event.sender, whole=True)
            return [dict(create), *(dict(one) for one in stripped if one.get("type") != "m.room.create")]

        shown = await self._db.read(read)
        try:
            signed = await self._calls.invite(server, event.room_id, event.event_id, event.pdu, event.rules.version, shown)
            return await self._countersigned(server, event, signed)
        except FederationError as failure:
            raise as_matrix_error(failure) from failure

    async def _countersigned(self, server: str, event: Event, signed: Mapping[str, Any]) -> Event:
        """Our event with that server's signature: of its answer nothing else is taken."""
        for key_id, signature in list(signatures.signatures_by(signed, server).items())[:4]:
            pdu = signatures.with_signature(event.pdu, server, key_id, signature)
            try:
                await self._keyring.verify_json(redact(pdu, event.rules), server)
            except SignatureError:
                continue
            return type(event).from_pdu(pdu, event.rules, event_id=event.event_id)
        raise BadAnswer(server, "it did not sign the invite")


def most_telling(failures: Sequence[FederationError | MatrixError]) -> MatrixError:
    """Of several failures the one to tell the client: a refusal before any breakdown."""

    def weight(failure: FederationError | MatrixError) -> int:
        if isinstance(failure, MatrixError):
            return 0
        if isinstance(failure, PeerError):
            return 1 if 400 <= failure.status < 500 else 2
        return 4 if isinstance(failure, PeerUnreachable) else 3

    if not failures:
        return NotFound("No server is known through which the room could be reached.")
    told = min(failures, key=weight)
    return told if isinstance(told, MatrixError) else as_matrix_error(told)


def _with_their_signatures(join: Event, answered: Any) -> Event:
    """The join with the signatures that the resident server and a policy server added; nothing else of its answer is
    taken.
    """
    by_server = answered.get("signatures") if isinstance(answered, dict) else None
    pdu = join.pdu
    for name in list(by_server)[:4] if isinstance(by_server, dict) else []:
        if name not in pdu["signatures"]:
            for key_id, signature in list(signatures.signatures_by(answered, name).items())[:4]:
                pdu = signatures.with_signature(pdu, name, key_id, signature)
    return type(join).from_pdu(pdu, join.rules, event_id=join.event_id)


def _servers_in_room(server: str, told: Any) -> tuple[str, ...]:
    """The servers that an answer without members must tell. Raises BadAnswer."""
    if not isinstance(told, list) or len(told) > MAX_SERVERS:
        raise BadAnswer(server, f"members are omitted, but servers_in_room is not a list of at most {MAX_SERVERS} servers")
    named = [one for one in told if isinstance(one, str) and server_names.is_valid(one)]
    return tuple(dict.fromkeys([server, *named]))
