"""Who is in a room: invite, join, leave, kick, ban, unban, forget, as users of this server ask for them.

Client-server API, "Room membership". Where another server must take part (`RemoteRooms`, bound in `app.py`), it is asked first and the
result is placed in the room afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from edgeserver.matrix import errors
from edgeserver.matrix.auth_events import CREATE, POWER_LEVELS
from edgeserver.matrix.event import stripped_state as stripped_event
from edgeserver.matrix.identifiers import domain_of, is_user_id
from edgeserver.matrix.power_levels import PowerLevels
from edgeserver.matrix.verdicts import Accepted
from edgeserver.rooms.guests import can_join
from edgeserver.rooms.placing import Task
from edgeserver.rooms.succession import servers_towards
from edgeserver.rooms.turns import Turns
from edgeserver.store import account_data, accounts, blocked_rooms, events, rooms, server_notices, state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from edgeserver.matrix.event import Event
    from edgeserver.rooms.importing import Importer
    from edgeserver.rooms.placing import Placer
    from edgeserver.rooms.send import Composer
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room

STRIPPED = (
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.tombstone",
)
"""What an invited user is told of the room beside the inviter (client-server API, "Stripped state"; MSC4311 for the create event)."""


class RemoteRooms(Protocol):
    """What membership needs from other servers. Each raises `MatrixError` with what to tell the client."""

    async def join(self, user_id: str, room_id: str, servers: Sequence[str], content: Mapping[str, Any]) -> None:
        """Joins through one of the servers and takes the room in."""
        ...

    async def leave(self, user_id: str, room_id: str, servers: Sequence[str]) -> Event:
        """Declines an invite (or ends a knock) at the room's servers; returns the leave event."""
        ...

    async def knock(
        self, user_id: str, room_id: str, servers: Sequence[str], content: Mapping[str, Any]
    ) -> tuple[Event, list[dict[str, Any]]]:
        """Knocks at one of the servers; returns the knock and the stripped state that the room shows."""
        ...

    async def invite(self, event: Event, stripped: Sequence[Mapping[str, Any]], create: Mapping[str, Any]) -> Event:
        """Has the invited user's server countersign the invite; returns it. `create` is the create event as a PDU."""
        ...


class Memberships:
    """Changes memberships on behalf of local users. Every method raises `MatrixError`.

    What a user does about a room (joins, knocks, leaves) is done one after the other: an invite that was declined through another
    server while a join through it was under way would leave the user out of a room whose state has them in.
    """

    def __init__(
        self,
        db: Database,
        composer: Composer,
        placer: Placer,
        importer: Importer,
        remote: RemoteRooms,
        server_name: str,
        profile: Callable[[Transaction, str], Mapping[str, Any]],
        before_invite: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """`before_invite(user_id)` is run before a user of ours is invited: application services make users when they are wanted."""
        self._db = db
        self._composer = composer
        self._placer = placer
        self._importer = importer
        self._remote = remote
        self._server_name = server_name
        self._profile = profile
        self._before_invite = before_invite
        self._turns = Turns()

    def _turn(self, user_id: str, room_id: str) -> AbstractAsyncContextManager[None]:
        return self._turns.of(f"{user_id} {room_id}")

    async def join(
        self,
        user_id: str,
        room_id: str,
        servers: Sequence[str] = (),
        *,
        reason: str | None = None,
        is_guest: bool = False,
        content: Mapping[str, Any] | None = None,
        ts: int | None = None,
    ) -> None:
        """Joins a room that this server is in, or one that is reached through `servers`.

        `content` is added to that of the event; `ts` (ms) dates it, in a room that this server is in.
        A guest joins only where the room's state lets guests in, so only rooms that this server is in: M_GUEST_ACCESS_FORBIDDEN.
        """
        async with self._turn(user_id, room_id):
            made = {**await self._content(user_id, "join", reason), **(content or {}), "membership": "join"}
            await self._join(user_id, room_id, servers, made, is_guest=is_guest, ts=ts)

    async def _join(
        self, user_id: str, room_id: str, servers: Sequence[str], content: Mapping[str, Any], *, is_guest: bool, ts: int | None
    ) -> None:
        await self._check_blocked(room_id)
        local = await self._db.read(lambda tx: self._local_join(tx, room_id, user_id, content))
        if local is not None:
            await self._change(room_id, user_id, user_id, local, must_be_joined=False, is_guest=is_guest, ts=ts)
            return
        if is_guest:
            raise errors.GuestForbidden("Guests can join only rooms that are open to guests and that this server is in.")
        await self._remote.join(user_id, room_id, await self._candidates(user_id, room_id, servers), content)

    async def knock(
        self, user_id: str, room_id: str, servers: Sequence[str] = (), *, reason: str | None = None
    ) -> None:
        """Asks to be let into a room that this server is in, or one that is reached through `servers`."""
        async with self._turn(user_id, room_id):
            await self._knock(user_id, room_id, servers, await self._content(user_id, "knock", reason))

    async def _knock(self, user_id: str, room_id: str, servers: Sequence[str], content: Mapping[str, Any]) -> None:
        await self._check_blocked(room_id)
        room = await self._db.read(lambda tx: rooms.get(tx, room_id))
        if room is not None and room.snapshot is not None and await self._participates(room):
            await self._change(room_id, user_id, user_id, content, must_be_joined=False)
            return
        candidates = await self._candidates(user_id, room_id, servers)
        event, shown = await self._remote.knock(user_id, room_id, candidates, content)
        await self._importer.invite(event.rules, event, shown)

    async def _content(self, user_id: str, membership: str, reason: str | None) -> dict[str, Any]:
        profile = await self._db.read(lambda tx: dict(self._profile(tx, user_id)))
        return {**profile, "membership": membership, **({} if reason is None else {"reason": reason})}

    async def _candidates(self, user_id: str, room_id: str, servers: Sequence[str]) -> list[str]:
        """Other servers to try, those that the user names first. Raises M_NOT_FOUND if there are none."""
        known = await self._db.read(lambda tx: self._known_servers(tx, room_id, user_id))
        candidates = [name for name in dict.fromkeys([*servers, *known]) if name != self._server_name]
        if not candidates:
            raise errors.NotFound(f"No server is known through which {room_id} could be reached.")
        return candidates

    def _local_join(
        self, tx: Transaction, room_id: str, user_id: str, content: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """The content to join with here, None if it takes another server."""
        room = rooms.get(tx, room_id)
        if room is None or room.snapshot is None or not rooms.local_members(tx, room.number):
            return None
        membership = rooms.membership(tx, user_id, room.number)
        if membership is not None and membership.membership in ("join", "invite"):
            return dict(content)
        authoriser = authorising_user(tx, room, user_id, self._server_name)
        if authoriser is None:
            return dict(content)
        if not authoriser:
            return None
        return {**content, "join_authorised_via_users_server": authoriser}

    def _known_servers(self, tx: Transaction, room_id: str, user_id: str) -> list[str]:
        """Servers that the room's invite, what it showed of the room, or our memory of it, names."""
        membership = rooms.membership_in(tx, user_id, room_id)
        names: list[str] = []
        if membership is not None:
            stored = events.by_number(tx, membership.event)
            if stored is not None:
                names.append(domain_of(stored.event.sender))
            names += [domain_of(one["sender"]) for one in membership.stripped or () if is_user_id(one.get("sender"))]
        room = rooms.get(tx, room_id)
        if room is not None:
            names += rooms.servers(tx, room.number)
        if ":" in room_id:
            names.append(domain_of(room_id))
        if room is None or room.snapshot is None:
            names += servers_towards(tx, user_id, room_id)
        return names

    async def _check_blocked(self, room_id: str) -> None:
        """Raises M_FORBIDDEN for a room that an administrator has blocked."""
        if await self._db.read(lambda tx: blocked_rooms.blocked_by(tx, room_id)) is not None:
            raise errors.Forbidden("This room has been blocked on this server.")

    async def leave(self, user_id: str, room_id: str, *, reason: str | None = None, always: bool = False) -> None:
        """Leaves a room, declines an invite or ends a knock.

        The room in which the user is told server notices is left only if the account has ended, or `always`: else raises
        M_CANNOT_LEAVE_SERVER_NOTICE_ROOM.
        """
        if not always:
            await self.check_may_leave(user_id, room_id)
        async with self._turn(user_id, room_id):
            await self._leave(user_id, room_id, reason)

    async def check_may_leave(self, user_id: str, room_id: str) -> None:
        """Raises M_CANNOT_LEAVE_SERVER_NOTICE_ROOM; see `leave`."""
        if await self._db.read(lambda tx: _is_told_there(tx, user_id, room_id)):
            raise errors.CannotLeaveServerNoticeRoom

    async def _leave(self, user_id: str, room_id: str, reason: str | None) -> None:
        membership = await self._db.read(lambda tx: rooms.membership_in(tx, user_id, room_id))
        if membership is None or membership.membership in ("leave", "ban"):
            if membership is None:
                raise errors.Forbidden(f"You are not in the room {room_id}.")
            return
        content: dict[str, Any] = {"membership": "leave", **({} if reason is None else {"reason": reason})}
        room = await self._db.read(lambda tx: rooms.by_number(tx, membership.room))
        if membership.stripped is None or (room.snapshot is not None and await self._participates(room)):
            await self._change(room_id, user_id, user_id, content, must_be_joined=False)
            return
        servers = await self._db.read(lambda tx: self._known_servers(tx, room_id, user_id))
        event = await self._remote.leave(user_id, room_id, [name for name in servers if name != self._server_name])
        await self._importer.left(event)

    async def _participates(self, room: Room) -> bool:
        return bool(await self._db.read(lambda tx: rooms.local_members(tx, room.number)))

    async def invite(self, sender: str, room_id: str, target: str, *, reason: str | None = None) -> None:
        """Invites somebody, having another server's agreement first if it is one of its users."""
        content = {"membership": "invite", **({} if reason is None else {"reason": reason})}
        await self.invite_with(sender, room_id, target, content)

    async def check_invitable(self, targets: Collection[str]) -> None:
        """Raises M_INVITE_BLOCKED if one of them is a user of ours who takes no invites."""
        ours = [user_id for user_id in targets if domain_of(user_id) == self._server_name]
        if await self._db.read(lambda tx: any(account_data.blocks_invites(tx, user_id) for user_id in ours)):
            raise errors.InviteBlocked

    async def invite_with(
        self, sender: str, room_id: str, target: str, content: Mapping[str, Any], *, ts: int | None = None
    ) -> None:
        """Invites with this content (`is_direct` of a new room, say), and with the profile of one of our users. `ts` (ms) dates the
        event, for one of our users.
        """
        await self._check_blocked(room_id)
        membership = await self._db.read(lambda tx: rooms.membership_in(tx, target, room_id))
        if membership is not None and membership.membership == "ban":
            raise errors.Forbidden(f"{target} is banned from the room.")
        if membership is not None and membership.membership == "join":
            raise errors.Forbidden(f"{target} is in the room already.")
        if domain_of(target) == self._server_name:
            if self._before_invite is not None:
                await self._before_invite(target)
            profile, blocks = await self._db.read(lambda tx: (dict(self._profile(tx, target)), account_data.blocks_invites(tx, target)))
            if blocks:
                raise errors.InviteBlocked
            await self._change(room_id, sender, target, {**profile, **content}, ts=ts)
            return
        event, stripped, create = await self._db.read(lambda tx: self._draft(tx, room_id, sender, target, content))
        event = await self._composer.signed_by_policy(room_id, event)
        signed = await self._remote.invite(event, stripped, create)
        room = await self._db.read(lambda tx: rooms.get(tx, room_id))
        assert room is not None
        verdict = await self._placer.place(Task(room.number, signed, deliver=True))
        if not isinstance(verdict, Accepted):
            raise errors.Forbidden(f"The room does not allow it: {verdict.why}.")

    def _draft(
        self, tx: Transaction, room_id: str, sender: str, target: str, content: Mapping[str, Any]
    ) -> tuple[Event, list[dict[str, Any]], dict[str, Any]]:
        room = self._composer.joined_room(tx, room_id, sender)
        event, _ = self._composer.draft(tx, room, sender, "m.room.member", content, state_key=target)
        self._composer.authorise(tx, room, event)
        assert room.snapshot is not None
        create = state.lookup_event(tx, room.snapshot, "m.room.create")
        assert create is not None
        return event, stripped_state(tx, room, sender), create.event.pdu

    async def kick(self, sender: str, room_id: str, target: str, *, reason: str | None = None) -> None:
        """Removes somebody, or withdraws an invite."""
        if not await self._db.read(lambda tx: _may_be_in(tx, target, room_id)):
            raise errors.Forbidden(f"{target} is not in the room.")
        content = {"membership": "leave", **({} if reason is None else {"reason": reason})}
        await self._change(room_id, sender, target, content)

    async def ban(self, sender: str, room_id: str, target: str, *, reason: str | None = None) -> None:
        content = {"membership": "ban", **({} if reason is None else {"reason": reason})}
        await self._change(room_id, sender, target, content)

    async def unban(self, sender: str, room_id: str, target: str, *, reason: str | None = None) -> None:
        membership = await self._db.read(lambda tx: rooms.membership_in(tx, target, room_id))
        if membership is None or membership.membership != "ban":
            raise errors.Forbidden(f"{target} is not banned.")
        content = {"membership": "leave", **({} if reason is None else {"reason": reason})}
        await self._change(room_id, sender, target, content)

    async def forget(self, user_id: str, room_id: str) -> None:
        """The room is no longer shown to the user, who must have left it."""

        def run(tx: Transaction) -> None:
            membership = rooms.membership_in(tx, user_id, room_id)
            if membership is not None and membership.membership not in ("leave", "ban"):
                raise errors.Unknown(f"You are still in the room {room_id}: leave it first.", status=400)
            if membership is not None and not membership.forgotten:
                rooms.forget(tx, user_id, membership.room, tx.stream())

        await self._db.write(run)

    async def profile_changed(self, user_id: str) -> None:
        """Tells every room of the user's new name or picture."""
        joined = await self._db.read(
            lambda tx: [one for one in rooms.memberships_of(tx, user_id) if one.membership == "join"]
        )
        for one in joined:
            content = await self._db.read(lambda tx: {**self._profile(tx, user_id), "membership": "join"})
            try:
                await self._change(one.room_id, user_id, user_id, content)
            except errors.MatrixError:
                continue  # a room that forbids it, or its policy server, is no reason to refuse the profile

    async def _change(
        self,
        room_id: str,
        sender: str,
        target: str,
        content: Mapping[str, Any],
        *,
        must_be_joined: bool = True,
        is_guest: bool = False,
        ts: int | None = None,
    ) -> None:
        def run(tx: Transaction) -> None:
            if must_be_joined:
                room = self._composer.joined_room(tx, room_id, sender)
            else:
                known = rooms.get(tx, room_id)
                if known is None or known.snapshot is None:
                    raise errors.Forbidden(f"You are not in the room {room_id}.")
                room = known
            assert room.snapshot is not None
            if is_guest and not can_join(tx, room.snapshot):
                raise errors.GuestForbidden("This room is not open to guests.")
            stands = state.lookup_event(tx, room.snapshot, "m.room.member", target)
            if stands is None or stands.event.sender != sender or stands.event.content != content:
                self._composer.compose(tx, room, sender, "m.room.member", content, state_key=target, origin_server_ts=ts)

        await self._composer.write(room_id, sender, run, lambda tx, event, number: None)


def _is_told_there(tx: Transaction, user_id: str, room_id: str) -> bool:
    """Whether an active user is told server notices in that room."""
    if server_notices.room_of(tx, user_id) != room_id:
        return False
    account = accounts.account(tx, user_id)
    return account is not None and account.deactivated_at is None


def _may_be_in(tx: Transaction, user_id: str, room_id: str) -> bool:
    """Whether the user is in the room, invited or knocking, as far as is known: a partial room may have members of whom nobody knows."""
    membership, room = rooms.membership_in(tx, user_id, room_id), rooms.get(tx, room_id)
    if membership is None:
        return room is not None and room.is_partial
    return membership.membership in ("join", "invite", "knock")


def stripped_state(tx: Transaction, room: Room, inviter: str | None = None) -> list[dict[str, Any]]:
    """What is shown of a room to who is not in it."""
    assert room.snapshot is not None
    keys = [(event_type, "") for event_type in STRIPPED]
    if inviter is not None:
        keys.append(("m.room.member", inviter))
    found = state.lookup_events(tx, room.snapshot, keys)
    return [stripped_event(stored.event) for stored in found.values()]


def authorising_user(tx: Transaction, room: Room, user_id: str, server_name: str) -> str | None:
    """For a restricted room: a user of this server who can let `user_id` in; "" if there is none; None if the room asks for nobody.

    Client-server API, "Restricted rooms". Raises M_FORBIDDEN if none of the rooms that we can see into has the user.
    """
    assert room.snapshot is not None
    stored = state.lookup_event(tx, room.snapshot, "m.room.join_rules")
    rule = None if stored is None else stored.event.content.get("join_rule")
    if stored is None or not (
        (rule == "restricted" and room.rules.restricted) or (rule == "knock_restricted" and room.rules.knock_restricted)
    ):
        return None
    if not _meets_a_condition(tx, stored.event.content.get("allow"), user_id):
        raise errors.Forbidden("You are in none of the rooms whose members may join.")
    found = {key: one.event for key, one in state.lookup_events(tx, room.snapshot, [CREATE, POWER_LEVELS]).items()}
    levels = PowerLevels(room.rules, found.get(CREATE), found.get(POWER_LEVELS))
    for member in rooms.local_members(tx, room.number):
        if domain_of(member) == server_name and levels.user(member) >= levels.invite:
            return member
    return ""


def _meets_a_condition(tx: Transaction, allow: object, user_id: str) -> bool:
    for condition in allow if isinstance(allow, list) else []:
        if not isinstance(condition, dict) or condition.get("type") != "m.room_membership":
            continue
        room_id = condition.get("room_id")
        membership = rooms.membership_in(tx, user_id, room_id) if isinstance(room_id, str) else None
        if membership is not None and membership.membership == "join":
            return True
    return False
