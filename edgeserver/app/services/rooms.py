"""Rooms, ours and those of others that we are in."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeserver.federation.joins import RemoteRooms
from edgeserver.federation.policy import FederationPolicy
from edgeserver.federation.source import FederationSource
from edgeserver.matrix import errors
from edgeserver.matrix.identifiers import domain_of
from edgeserver.rooms.completing import Completer
from edgeserver.rooms.create import RoomCreator
from edgeserver.rooms.departing import Departures
from edgeserver.rooms.directory import Directory, PublicRooms
from edgeserver.rooms.guests import leave_where_unwanted
from edgeserver.rooms.hierarchy import Hierarchy, RoomSummaries
from edgeserver.rooms.history import History
from edgeserver.rooms.importing import Importer
from edgeserver.rooms.membership import Memberships
from edgeserver.rooms.outliers import OutlierIntake
from edgeserver.rooms.persist import Persister
from edgeserver.rooms.placing import Placer
from edgeserver.rooms.policy import PolicyGate
from edgeserver.rooms.receive import Receiver
from edgeserver.rooms.remote_state import RemoteState
from edgeserver.rooms.remote_summaries import RemoteSummaries
from edgeserver.rooms.removal import RoomRemovals
from edgeserver.rooms.reports import Reports
from edgeserver.rooms.room_admins import RoomAdmins
from edgeserver.rooms.search import Indexer
from edgeserver.rooms.send import Composer
from edgeserver.rooms.server_notices import ServerNotices, Voice
from edgeserver.rooms.succession import move_names, succession
from edgeserver.rooms.thread_subscriptions import ThreadSubscriptions
from edgeserver.rooms.timestamps import Timestamps
from edgeserver.rooms.turns import Turns
from edgeserver.rooms.upgrade import RoomUpgrader
from edgeserver.store import accounts as account_table
from edgeserver.store import profiles as profile_table
from edgeserver.store import search_index
from edgeserver.users.threads import thread_of
from edgeserver.users.upgraded_rooms import carry_over
from transports.exchange import Priority

if TYPE_CHECKING:


    from edgeserver.app.bridging import Bridging
    from edgeserver.app.services.ground import Ground
    from edgeserver.app.services.outward import Out
    from edgeserver.app.services.people import Users
    from edgeserver.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Rooms:
    """Rooms, ours and those of others that we are in."""

    composer: Composer
    placer: Placer
    receiver: Receiver
    remote: RemoteRooms
    importer: Importer
    creator: RoomCreator
    upgrader: RoomUpgrader
    memberships: Memberships
    history: History
    timestamps: Timestamps
    directory: Directory
    public_rooms: PublicRooms
    completer: Completer
    hierarchy: Hierarchy
    summaries: RoomSummaries
    thread_subscriptions: ThreadSubscriptions
    reports: Reports
    notices: ServerNotices
    removals: RoomRemovals
    admins: RoomAdmins
    departures: Departures
    indexer: Indexer


def rooms(
    ground: Ground,
    out: Out,
    users: Users,
    voice: Voice,
    *,
    partial_joins: bool,
    metered: bool,
    bridging: Bridging | None = None,
) -> Rooms:
    """The one write path and what leads to it. `metered`: members that a join left out are fetched only when asked for. `voice`
    speaks the server notices.
    """

    def follow_members(tx: Transaction, written: Any) -> None:
        if written.event.type == "m.room.member" and written.is_news:
            users.device_lists.membership_changed(tx, written.room.number, written.event, written.number)

    def follow_upgrades(tx: Transaction, written: Any) -> None:
        found = succession(tx, written)
        if found is not None:
            move_names(tx, found.old, found.new)
            for user_id in found.users:
                carry_over(tx, ground.wakeups, user_id, found.old.room_id, found.new.room_id)

    def follow_guest_access(tx: Transaction, written: Any) -> None:
        leave_where_unwanted(tx, composer, written)

    def count_unread(tx: Transaction, written: Any) -> None:
        if bridging is not None:  # a bridge's users may be hundreds in a room, and nobody reads for them
            written = replace(written, local_members=bridging.services.readers(tx, written.local_members))
        users.unread.persisted(tx, written)

    async def before_invite(target: str) -> None:
        if bridging is not None and await ground.db.read(lambda tx: account_table.account(tx, target)) is None:
            with suppress(errors.MatrixError):  # the invite waits for a service that is away
                await bridging.names.user(target)

    def follow_presence(tx: Transaction, written: Any) -> None:
        event = written.event
        if written.is_news and domain_of(event.sender) == ground.server_name:
            tx.on_commit(lambda: users.presence.active(event.sender))
        if written.is_news and event.type == "m.room.member" and event.content.get("membership") == "join":
            tx.on_commit(lambda: users.presence.joined(event.state_key, written.room.number))

    hooks = [count_unread, follow_members, follow_upgrades, follow_guest_access]
    if users.presence.enabled:
        hooks.append(follow_presence)
    persister = Persister(ground.server_name, ground.wakeups, hooks)
    placer = Placer(ground.db, persister)
    policy = PolicyGate(ground.db, placer, FederationPolicy(out.calls), ground.server_name, Turns())
    composer = Composer(ground.db, persister, ground.server_name, ground.key, ground.now_ms, policy)
    outliers = OutlierIntake(ground.db, persister, out.keyring)
    remote_state = RemoteState(ground.db, out.source, outliers)
    receiver = Receiver(ground.db, placer, out.source, out.keyring, remote_state, policy)
    importer = Importer(ground.db, persister, outliers, ground.wakeups)
    importer.invited = lambda tx, stream, user_id: users.unread.notified(tx, stream, [user_id])
    remote = RemoteRooms(
        ground.db,
        out.calls,
        out.keyring,
        importer,
        receiver,
        server_name=ground.server_name,
        key=ground.key,
        now_ms=ground.now_ms,
        joining=out.joining,
        partial=partial_joins,
    )
    creator = RoomCreator(
        ground.db,
        composer,
        persister,
        ground.server_name,
        ground.key,
        ground.now_ms,
        lambda: urlsafe_b64encode(ground.random_bytes(15)).decode().replace("-", "x").replace("_", "y"),
        profile_table.member_fields,
    )
    memberships = Memberships(
        ground.db, composer, placer, importer, remote, ground.server_name, profile_table.member_fields, before_invite
    )
    history = History(ground.db, receiver, placer, out.source, ground.server_name)
    elsewhere = RemoteSummaries(out.summaries, ground.server_name, ground.now_ms)
    return Rooms(
        composer,
        placer,
        receiver,
        remote,
        importer,
        creator,
        RoomUpgrader(ground.db, composer, creator, profile_table.member_fields),
        memberships,
        history,
        Timestamps(ground.db, history, out.source, ground.server_name),
        Directory(ground.db, ground.server_name, out.queries, None if bridging is None else bridging.names.alias),
        PublicRooms(ground.db, ground.server_name, out.queries),
        Completer(
            ground.db,
            persister,
            RemoteState(ground.db, FederationSource(out.calls, Priority.HISTORY), outliers),
            ground.wakeups,
            ground.server_name,
            at_once=not metered,
        ),
        Hierarchy(ground.db, elsewhere, lambda: urlsafe_b64encode(ground.random_bytes(12)).decode()),
        RoomSummaries(ground.db, elsewhere),
        ThreadSubscriptions(ground.db, ground.wakeups, thread_of),
        Reports(ground.db, ground.now_ms),
        ServerNotices(ground.db, ground.wakeups, creator, memberships, composer, voice, ground.server_name, ground.now_ms),
        RoomRemovals(
            ground.db,
            creator,
            memberships,
            composer,
            ground.now_ms,
            before_purge=(lambda tx, room, room_id: search_index.remove_room(tx, room),),
        ),
        RoomAdmins(ground.db, composer, memberships),
        Departures(ground.db, ground.wakeups, memberships),
        Indexer(ground.db),
    )
