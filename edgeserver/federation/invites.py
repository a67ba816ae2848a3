"""Invites that other servers send to our users.

PUT /v1/invite and /v2/invite. Spec: server-server API, "Inviting to a room": the invited user's server checks that
it is an invite and signs it; it need not be in the room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from edgeserver.federation import acl, shown_state
from edgeserver.federation.resident import Checking, check_member_event
from edgeserver.matrix import errors
from edgeserver.matrix.draft import countersign
from edgeserver.matrix.identifiers import domain_of, is_user_id
from edgeserver.matrix.pdu_checks import open_pdu
from edgeserver.matrix.room_versions import SUPPORTED
from edgeserver.matrix.verdicts import Dropped
from edgeserver.store import blocked_rooms, events, rooms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.matrix.signatures import SigningKey
    from edgeserver.store.database import Database, Transaction

class InviteTaker(Protocol):
    """What stores an invite; see `rooms.importing.Importer`."""

    async def invite(self, rules: RoomVersion, event: Event, stripped: Sequence[Mapping[str, Any]]) -> None: ...

    async def left(self, event: Event) -> None: ...


class Invites:
    """Checks, countersigns and stores. `may_invite(sender, target)` raises the `MatrixError` of a refusal: no such
    user, invites blocked.
    """

    def __init__(
        self,
        db: Database,
        importer: InviteTaker,
        checks: Checking,
        may_invite: Callable[[str, str], Awaitable[None]],
        *,
        server_name: str,
        key: SigningKey,
    ) -> None:
        self._db = db
        self._importer = importer
        self._checks = checks
        self._may_invite = may_invite
        self._server_name = server_name
        self._key = key

    async def take(self, origin: str, room_id: str, event_id: str, pdu: Any, room_version: Any, state: Any) -> dict[str, Any]:
        """The invite with our signature added, as a PDU. Raises `MatrixError`."""
        rules = SUPPORTED.get(room_version) if isinstance(room_version, str) else None
        if rules is None:
            raise errors.IncompatibleRoomVersion(str(room_version)[:64])
        event = open_pdu(pdu, rules)
        if isinstance(event, Dropped):
            raise errors.InvalidParam(f"That is not an event: {event.why}.")
        check_member_event(event, room_id, event_id, "invite")
        if domain_of(event.sender) != origin:
            raise errors.InvalidParam("The event's sender is not a user of your server.")
        target = event.state_key
        if target is None or not is_user_id(target) or domain_of(target) != self._server_name:
            raise errors.InvalidParam("The invited user is not of this server.")
        await self._db.read(lambda tx: _check_room(tx, room_id, origin, rules))
        (checked,) = await self._checks.checked([event])
        if isinstance(checked, Dropped) or checked.pdu != event.pdu:
            raise errors.InvalidParam("The event's signature or hash is wrong.")
        shown = await shown_state.of_invite(self._checks, state, rules, room_id)
        await self._may_invite(event.sender, target)
        signed = countersign(event, self._server_name, self._key)
        await self._importer.invite(rules, signed, shown)
        return signed.pdu

    async def withdrawn(self, origin: str, event: Event) -> bool:
        """A kick or ban, out of a room that we are not in, of a user of ours who was invited or has knocked: that
        ends.

        The room's state is not known here, so the word of the server that invited is taken, and for a knock that of
        any server that has seen it, as long as the event cites the invite or knock.
        """
        target = event.state_key
        if event.type != "m.room.member" or target is None or event.content.get("membership") not in ("leave", "ban"):
            return False
        pending = await self._db.read(lambda tx: _pending(tx, event.room_id, target))
        if pending is None or pending.event_id not in event.auth_events or domain_of(event.sender) != origin:
            return False
        if domain_of(pending.sender) not in (origin, self._server_name):
            return False
        (checked,) = await self._checks.checked([event])
        if isinstance(checked, Dropped):
            return False
        await self._importer.left(checked)
        return True


def _check_room(tx: Transaction, room_id: str, origin: str, rules: RoomVersion) -> None:
    """Of a room whose state is known, so is the version; an event that was read by another's rules is none of that room.

    Versions 1 and 2, which PUT /v1/invite does not tell apart, write events alike.
    """
    if blocked_rooms.blocked_by(tx, room_id) is not None:
        raise errors.Forbidden("This room has been blocked on this server.")
    room = rooms.get(tx, room_id)
    if room is None:
        return
    acl.check(tx, room, origin)
    if room.snapshot is None or (room.rules.events_name_themselves and rules.events_name_themselves):
        return
    if room.rules is not rules:
        raise errors.InvalidParam(f"The room is of version {room.rules.version}.")


def _pending(tx: Transaction, room_id: str, user_id: str) -> Event | None:
    """The invite or knock of a user in a room that we are not in."""
    membership = rooms.membership_in(tx, user_id, room_id)
    if membership is None or membership.membership not in ("invite", "knock") or membership.stripped is None:
        return None
    stored = events.by_number(tx, membership.event)
    return None if stored is None else stored.event


def told_version(state: Any) -> str:
    """The room version of an invite that does not state it (PUT /v1/invite: version 1 or 2), as far as its shown state tells."""
    for entry in state[: shown_state.MAX_STATE] if isinstance(state, list) else []:
        content = entry.get("content") if isinstance(entry, dict) and entry.get("type") == "m.room.create" else None
        version = content.get("room_version") if isinstance(content, dict) else None
        if isinstance(version, str) and version in SUPPORTED and SUPPORTED[version].events_name_themselves:
            return version
    return "1"
