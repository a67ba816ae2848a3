"""PUT /rooms/{}/send, /state and /redact. Spec: client-server API, "Sending events to a room", "Redactions", "Transaction identifiers"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors
from edgeserver.matrix.identifiers import is_event_id, is_user_id
from edgeserver.store import events, rooms
from edgeserver.store.events import transaction_key

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.directory import Directory
    from edgeserver.rooms.membership import Memberships
    from edgeserver.rooms.send import Composer
    from edgeserver.store.database import Database, Transaction

ROOMS = "/_matrix/client/v3/rooms/{roomId}"
MEMBER = "m.room.member"
REDACTION = "m.room.redaction"


class RoomEventsSection:
    """The handlers."""

    def __init__(self, db: Database, composer: Composer, memberships: Memberships, directory: Directory) -> None:
        self._db = db
        self._composer = composer
        self._memberships = memberships
        self._directory = directory

    async def send(self, call: Call) -> dict[str, Any]:
        """PUT /rooms/{roomId}/send/{eventType}/{txnId}"""
        event_type, content = call.path["eventType"], await call.json()
        redacts = None
        if event_type == REDACTION:  # where it is kept depends on the room version
            redacts = content.pop("redacts", None)
            if not is_event_id(redacts):
                raise errors.BadJson("redacts is not an event id.")
        return await self._send_once(call, "send", event_type, event_type, content, redacts=redacts, ts=_timestamp(call))

    async def redact(self, call: Call) -> dict[str, Any]:
        """PUT /rooms/{roomId}/redact/{eventId}/{txnId}"""
        event_id, content = call.path["eventId"], await call.json(optional=True)
        if not is_event_id(event_id):
            raise errors.InvalidParam("That is not an event id.")
        if not isinstance(content.get("reason", ""), str):
            raise errors.BadJson("reason is not a string.")
        content.pop("redacts", None)
        return await self._send_once(call, "redact", event_id, REDACTION, content, redacts=event_id)

    async def _send_once(
        self,
        call: Call,
        operation: str,
        what: str,
        event_type: str,
        content: dict[str, Any],
        *,
        redacts: str | None,
        ts: int | None = None,
    ) -> dict[str, Any]:
        room_id = call.path["roomId"]
        event_id = await self._composer.send(
            room_id,
            call.user_id,
            event_type,
            content,
            redacts=redacts,
            device_id=call.requester.device_id or "",
            txn_id=transaction_key(operation, room_id, what, call.path["txnId"]),
            origin_server_ts=ts,
        )
        return {"event_id": event_id}

    async def set_state(self, call: Call) -> dict[str, Any]:
        """PUT /rooms/{roomId}/state/{eventType}[/{stateKey}]"""
        room_id, event_type, state_key = call.path["roomId"], call.path["eventType"], call.path.get("stateKey", "")
        content = await call.json()
        if event_type == MEMBER:
            return {"event_id": await self._set_member(call, room_id, state_key, content)}
        if event_type == "m.room.canonical_alias" and state_key == "":
            await self._directory.check_canonical_alias(room_id, content)
        event_id = await self._composer.send(
            room_id, call.user_id, event_type, content, state_key=state_key, origin_server_ts=_timestamp(call)
        )
        return {"event_id": event_id}

    async def _set_member(self, call: Call, room_id: str, target: str, content: dict[str, Any]) -> str:
        """Membership by way of the state endpoint: what needs more than an event goes the way of the endpoints made for it."""
        membership, sender, is_guest = content.get("membership"), call.user_id, call.requester.is_guest
        if membership not in ("join", "invite", "leave", "ban", "knock"):
            raise errors.BadJson("membership is none of join, invite, leave, ban and knock.")
        if not is_user_id(target):
            raise errors.InvalidParam("The state key of a membership is a user id.")
        if is_guest and not (target == sender and membership in ("join", "leave")):
            raise errors.GuestForbidden("Guests may join and leave, and nothing else of membership.")
        content.pop("join_authorised_via_users_server", None)  # this server decides who authorises a join
        now = await self._db.read(lambda tx: rooms.membership_in(tx, sender, room_id))
        reason = content.get("reason") if isinstance(content.get("reason"), str) else None
        ts = _timestamp(call)
        if membership == "invite":
            await self._memberships.invite_with(sender, room_id, target, content, ts=ts)
        elif target == sender and membership == "join" and (now is None or now.membership != "join"):
            await self._memberships.join(sender, room_id, reason=reason, is_guest=is_guest, content=content, ts=ts)
        elif target == sender and membership == "leave" and (now is None or now.membership != "join"):
            await self._memberships.leave(sender, room_id, reason=reason)
        else:
            return await self._composer.send(
                room_id, sender, MEMBER, content, state_key=target, origin_server_ts=ts
            )
        return await self._db.read(lambda tx: _member_event(tx, room_id, target))


def _member_event(tx: Transaction, room_id: str, user_id: str) -> str:
    membership = rooms.membership_in(tx, user_id, room_id)
    stored = None if membership is None else events.by_number(tx, membership.event)
    if stored is None:
        raise errors.NotFound("The room has no such member.")
    return stored.event.event_id


def _timestamp(call: Call) -> int | None:
    """The time that an application service gives its event, in ms (application service API, "Timestamp massaging")."""
    given = call.query.get("ts")
    if given is None or call.requester.appservice_id is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) < 16):
        raise errors.InvalidParam("ts is not a time in milliseconds.")
    return int(given)


def routes(db: Database, composer: Composer, memberships: Memberships, directory: Directory) -> list[Route]:
    section = RoomEventsSection(db, composer, memberships, directory)
    state = ROOMS + "/state/{eventType}"
    return [
        *endpoint("PUT", ROOMS + "/send/{eventType}/{txnId}", section.send, rate="message"),
        *endpoint("PUT", ROOMS + "/redact/{eventId}/{txnId}", section.redact, rate="message"),
        *endpoint("PUT", state, section.set_state, rate="message"),
        *endpoint("PUT", state + "/", section.set_state, rate="message"),
        *endpoint("PUT", state + "/{stateKey}", section.set_state, rate="message"),
    ]
