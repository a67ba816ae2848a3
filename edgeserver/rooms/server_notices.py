"""Server notices: what the operator has to say to people, each in a room of their own that they cannot leave.

Client-server API, "Server Notices". The account that speaks and the rooms are made when they are first needed. A room that
somebody has got out of in spite of all (an operator put them out, say) is not used any more: the next notice makes a new one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import errors, identifiers
from edgeserver.rooms.create import NewRoom
from edgeserver.rooms.turns import Turns
from edgeserver.store import account_data, accounts, events, profiles, rooms, server_notices

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeserver.rooms.create import RoomCreator
    from edgeserver.rooms.membership import Memberships
    from edgeserver.rooms.send import Composer
    from edgeserver.store.accounts import Account
    from edgeserver.store.database import Database, Transaction
    from edgeserver.wakeups import Wakeups

log = logging.getLogger(__name__)

TAG: Final = "m.server_notice"
TAGS: Final = "m.tag"
ANNOUNCEMENT: Final = "edgeserver.announcement"
MESSAGE: Final = "m.room.message"
READERS_LEVEL: Final = -10
"""Who is told may read and not answer: as low as Synapse sets it."""


@dataclass(frozen=True, slots=True)
class Voice:
    """Who speaks: a local part ("" for nobody), the name of that user and of the rooms, the user's picture (mxc://…, or "")."""

    localpart: str
    name: str = "Server Notices"
    avatar_url: str = ""
    auto_join: bool = False


class ServerNotices:
    """Sends notices. Every method raises `MatrixError`."""

    def __init__(
        self,
        db: Database,
        wakeups: Wakeups,
        creator: RoomCreator,
        memberships: Memberships,
        composer: Composer,
        voice: Voice,
        server_name: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._db = db
        self._wakeups = wakeups
        self._creator = creator
        self._memberships = memberships
        self._composer = composer
        self._voice = voice
        self._user_id = identifiers.user_id(voice.localpart, server_name) if voice.localpart else None
        self._now_ms = now_ms
        self._turns = Turns()

    async def announce(self, text: str, to: str | None = None) -> list[str]:
        """Tells one of our people, or all (None), a text as m.server_notice; returns who was told.

        Of all, those are left out who take no invites into a room of notices, and who have gone meanwhile.
        """
        people = [to] if to is not None else await self._db.read(_everybody)
        content = {"msgtype": TAG, "body": text, "server_notice_type": ANNOUNCEMENT}
        told = []
        for user_id in people:
            if user_id == self._user_id:
                continue
            try:
                await self.send(user_id, content)
            except (errors.InviteBlocked, errors.NotFound) as error:
                if to is not None:
                    raise
                log.warning("%s could not be told what all are told: %s", user_id, error)
            else:
                told.append(user_id)
        return told

    async def send(
        self,
        user_id: str,
        content: Mapping[str, Any],
        *,
        event_type: str = MESSAGE,
        state_key: str | None = None,
        transaction: tuple[str, str] | None = None,
    ) -> str:
        """Sends any event to one of our people; returns its id. `transaction`: who asks, and their id of the request; a repeat
        returns the first event.

        Raises M_NOT_FOUND if there is no such active person, 400 M_UNKNOWN if there are no notices here.
        """
        speaker = self._user_id
        if speaker is None:
            raise errors.Unknown("Server notices are not enabled on this server", status=400)
        await self._db.read(lambda tx: _person(tx, user_id))
        device_id = txn_id = None
        if transaction is not None:
            device_id = transaction[0]
            txn_id = events.transaction_key("send_server_notice", "", user_id, transaction[1])
        async with self._turns.of(user_id):
            room_id = await self._room_of(user_id, speaker)
            return await self._composer.send(
                room_id, speaker, event_type, content, state_key=state_key, device_id=device_id, txn_id=txn_id
            )

    async def _room_of(self, user_id: str, speaker: str) -> str:
        room_id = await self._db.read(lambda tx: _usable_room(tx, user_id, speaker))
        if room_id is None:
            await self._db.write(lambda tx: self._ensure_speaker(tx, speaker))
            new = NewRoom(name=self._voice.name, power_level_overrides={"users_default": READERS_LEVEL})
            room_id = made = await self._creator.create(speaker, new)
            await self._db.write(lambda tx: self._give(tx, user_id, made))
        if await self._db.read(lambda tx: _is_outside(tx, user_id, room_id)):
            await self._memberships.invite(speaker, room_id, user_id)
            if self._voice.auto_join:
                await self._memberships.join(user_id, room_id)
        return room_id

    def _ensure_speaker(self, tx: Transaction, speaker: str) -> None:
        """Raises M_USER_IN_USE if somebody has the name."""
        account = accounts.account(tx, speaker)
        if account is None:
            accounts.insert(tx, accounts.Account(speaker, None, False, None, self._now_ms(), None))
        elif account.password is not None or account.guest or account.appservice_id or account.deactivated_at is not None:
            raise errors.UserInUse(f"{speaker} is a person: take another name for the notices of this server.")
        wanted = {"displayname": self._voice.name, "avatar_url": self._voice.avatar_url}
        found = profiles.profile(tx, speaker)
        for field, value in wanted.items():
            if value and found.get(field) != value:
                profiles.set_field(tx, speaker, field, value)

    def _give(self, tx: Transaction, user_id: str, room_id: str) -> None:
        """The room is the user's room of server notices, and tagged as such."""
        server_notices.set_room(tx, user_id, room_id)
        account_data.put(tx, user_id, room_id, TAGS, {"tags": {TAG: {}}})
        tx.on_commit(lambda: self._wakeups.notify([user_id]))


def _person(tx: Transaction, user_id: str) -> Account:
    account = accounts.account(tx, user_id)
    if account is None or account.deactivated_at is not None:
        raise errors.NotFound("There is no such person on this server.")
    return account


def _everybody(tx: Transaction) -> list[str]:
    """Whoever has an account of their own: neither guests nor users of application services."""
    everybody = accounts.all_accounts(tx)
    return [one.user_id for one in everybody if one.deactivated_at is None and not one.guest and one.appservice_id is None]


def _usable_room(tx: Transaction, user_id: str, speaker: str) -> str | None:
    """The user's room of notices, unless they are out of it or the speaker is (the name was changed)."""
    room_id = server_notices.room_of(tx, user_id)
    room = None if room_id is None else rooms.get(tx, room_id)
    if room is None:
        return None
    speaks, hears = rooms.membership(tx, speaker, room.number), rooms.membership(tx, user_id, room.number)
    if speaks is None or speaks.membership != "join" or (hears is not None and hears.membership not in ("join", "invite")):
        return None
    return room_id


def _is_outside(tx: Transaction, user_id: str, room_id: str) -> bool:
    found = rooms.membership_in(tx, user_id, room_id)
    return found is None or found.membership not in ("join", "invite")
