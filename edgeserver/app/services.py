"""The services of a box, built in the order in which they need each other. Each function makes one group and names what it needs."""

from __future__ import annotations

import os
import random
from base64 import urlsafe_b64encode
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeserver import wakeups as topics
from edgeserver.app.lasting import contained
from edgeserver.federation.calls import Calls
from edgeserver.federation.client import FederationClient
from edgeserver.federation.edus import EduHandlers, Edus
from edgeserver.federation.hierarchy import SpaceHierarchy
from edgeserver.federation.history import History as FederationHistory
from edgeserver.federation.inbound import Inbound
from edgeserver.federation.invites import Invites
from edgeserver.federation.joins import RemoteRooms
from edgeserver.federation.key_fetch import KeyFetcher
from edgeserver.federation.keyring import Keyring
from edgeserver.federation.notary import Notary
from edgeserver.federation.peer_keys import PeerKeyRoutes
from edgeserver.federation.policy import FederationPolicy
from edgeserver.federation.presence import PresenceSender
from edgeserver.federation.resident import Resident
from edgeserver.federation.sender import Sender
from edgeserver.federation.source import FederationKeys, FederationMedia, FederationQueries, FederationSource, FederationSummaries
from edgeserver.federation.third_party_invites import KeyValidity, ThirdPartyInvites
from edgeserver.matrix import canonical_json, errors
from edgeserver.matrix.identifiers import domain_of
from edgeserver.rooms.completing import Completer
from edgeserver.rooms.create import RoomCreator
from edgeserver.rooms.departing import Departures
from edgeserver.rooms.directory import Directory, PublicRooms
from edgeserver.rooms.guests import leave_where_unwanted
from edgeserver.rooms.hierarchy import Hierarchy, RoomSummaries
from edgeserver.rooms.history import History
from edgeserver.rooms.importing import Importer
from edgeserver.rooms.late import LateEvents
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
from edgeserver.store import account_data as account_data_table
from edgeserver.store import accounts as account_table
from edgeserver.store import dehydrated_devices as dehydrated_table
from edgeserver.store import profiles as profile_table
from edgeserver.store import rooms as room_table
from edgeserver.store import search_index
from edgeserver.sync.classic import ClassicSync
from edgeserver.sync.sliding import deployed
from edgeserver.sync.sliding.engine import SlidingSync
from edgeserver.users.account_data import AccountData
from edgeserver.users.accounts import Accounts
from edgeserver.users.cross_signing import CrossSigning
from edgeserver.users.dehydrated_devices import DehydratedDevices
from edgeserver.users.device_keys import DeviceKeys
from edgeserver.users.device_lists import DeviceLists
from edgeserver.users.devices import Devices
from edgeserver.users.ephemeral import Typing
from edgeserver.users.filters import Filters
from edgeserver.users.key_backup import KeyBackup
from edgeserver.users.notifications import Notifications
from edgeserver.users.openid import OpenIdTokens
from edgeserver.users.passwords import Passwords
from edgeserver.users.presence import Presence
from edgeserver.users.profiles import Profiles
from edgeserver.users.push import UnreadCounts
from edgeserver.users.pushers import Pushers
from edgeserver.users.read_markers import ReadMarkers
from edgeserver.users.receipts import Receipts
from edgeserver.users.registration_tokens import RegistrationTokens
from edgeserver.users.threads import thread_of
from edgeserver.users.to_device import ToDevice
from edgeserver.users.tokens import Tokens
from edgeserver.users.upgraded_rooms import carry_over
from transports.exchange import Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import trio

    from edgeserver.app.bridging import Bridging
    from edgeserver.clock import Clock
    from edgeserver.federation.internet import InternetWeb
    from edgeserver.federation.peers import Peers
    from edgeserver.matrix.signatures import SigningKey
    from edgeserver.store.database import Database, Transaction
    from edgeserver.sync.sliding.wanted import RoomResult
    from edgeserver.users.emails import Emails
    from edgeserver.wakeups import Wakeups


@dataclass(frozen=True, slots=True)
class Ground:
    """What everything stands on."""

    db: Database
    wakeups: Wakeups
    clock: Clock
    server_name: str
    key: SigningKey
    nursery: trio.Nursery
    random_bytes: Callable[[int], bytes] = os.urandom

    @property
    def now_ms(self) -> Callable[[], int]:
        return self.clock.now_ms


@dataclass(frozen=True, slots=True)
class Out:
    """Asking other servers."""

    calls: Calls
    keyring: Keyring
    notary: Notary
    source: FederationSource
    queries: FederationQueries
    keys: FederationKeys
    media: FederationMedia
    summaries: FederationSummaries
    key_validity: KeyValidity
    joining: Turns


def outward(ground: Ground, peers: Peers, web: InternetWeb | None, notaries: list[str], *, trust_clock: bool) -> Out:
    """Who asks other servers, and whose keys are known. `web` fetches media from where a server says that it lies."""
    calls = Calls(FederationClient(ground.server_name, ground.key, peers))
    keyring = Keyring(
        ground.db,
        KeyFetcher(PeerKeyRoutes(peers, notaries)),
        server_name=ground.server_name,
        key=ground.key,
        now_ms=ground.now_ms,
        clock_trusted=lambda: trust_clock or ground.clock.trusted,
    )
    peers.on_return(keyring.route_returned)
    notary = Notary(ground.db, keyring, server_name=ground.server_name, now_ms=ground.now_ms)
    media = FederationMedia(calls, web)
    return Out(
        calls,
        keyring,
        notary,
        FederationSource(calls),
        FederationQueries(calls),
        FederationKeys(calls),
        media,
        FederationSummaries(calls),
        KeyValidity(web),
        Turns(),
    )


@dataclass(frozen=True, slots=True)
class Users:
    """People and their devices."""

    tokens: Tokens
    devices: Devices
    accounts: Accounts
    profiles: Profiles
    account_data: AccountData
    filters: Filters
    pushers: Pushers
    presence: Presence
    openid: OpenIdTokens
    device_lists: DeviceLists
    device_keys: DeviceKeys
    dehydrated: DehydratedDevices
    cross_signing: CrossSigning
    key_backup: KeyBackup
    to_device: ToDevice
    typing: Typing
    unread: UnreadCounts
    receipts: Receipts
    read_markers: ReadMarkers
    notifications: Notifications
    registration_tokens: RegistrationTokens
    emails: Emails | None = None


def users(
    ground: Ground,
    out: Out,
    on_profile_change: Callable[[str], Any],
    *,
    inline: bool,
    emails: Emails | None = None,
    registration_tokens: Collection[str] = (),
    presence: bool = False,
    bridging: Bridging | None = None,
) -> Users:
    """`on_profile_change(user_id)` is run in the background: rooms are told while the client has its answer. `emails`: where this box
    can send mail. `registration_tokens`: those of the configuration. `presence`: people are shown who is there.
    """
    tokens = Tokens(ground.db, ground.now_ms)
    device_lists = DeviceLists(ground.db, ground.server_name, ground.wakeups)
    device_keys = DeviceKeys(ground.db, ground.server_name, ground.wakeups, device_lists, out.keys)
    devices = Devices(
        ground.db,
        tokens,
        on_delete=[device_lists.devices_deleted, dehydrated_table.forget],
        on_rename=[device_lists.devices_renamed],
    )

    async def deactivated(user_id: str) -> None:
        ground.wakeups.notify([topics.DEPARTURES])

    accounts = Accounts(
        ground.db, ground.server_name, ground.now_ms,
        tokens=tokens, devices=devices, passwords=Passwords(inline=inline), on_deactivate=deactivated,
        registration_tokens=registration_tokens,
    )  # fmt: skip

    unread = UnreadCounts(ground.server_name)
    receipts = Receipts(ground.db, ground.wakeups, unread, ground.server_name, ground.now_ms)

    typing = Typing(ground.db, ground.wakeups, ground.server_name, ground.now_ms)

    async def profile_changed(user_id: str) -> None:
        ground.nursery.start_soon(contained, "telling rooms of a new profile", on_profile_change, user_id)

    return Users(
        tokens,
        devices,
        accounts,
        Profiles(
            ground.db,
            ground.server_name,
            remote_profile=out.queries.profile,
            on_change=profile_changed,
            make_user=None if bridging is None else bridging.names.user,
        ),
        AccountData(ground.db, ground.wakeups),
        Filters(ground.db),
        Pushers(ground.db, ground.now_ms),
        Presence(ground.db, ground.wakeups, ground.server_name, typing.next_version, enabled=presence),
        OpenIdTokens(ground.server_name, ground.now_ms),
        device_lists,
        device_keys,
        DehydratedDevices(ground.db, devices, device_keys),
        CrossSigning(ground.db, ground.server_name, device_lists, device_keys),
        KeyBackup(ground.db),
        ToDevice(ground.db, ground.server_name, ground.wakeups, ground.now_ms),
        typing,
        unread,
        receipts,
        ReadMarkers(ground.db, ground.wakeups, receipts),
        Notifications(ground.db),
        RegistrationTokens(ground.db, ground.now_ms),
        emails,
    )


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


@dataclass(frozen=True, slots=True)
class In:
    """Answering other servers, and sending to them."""

    inbound: Inbound
    late: LateEvents
    history: FederationHistory
    spaces: SpaceHierarchy
    resident: Resident
    invites: Invites
    third_party_invites: ThirdPartyInvites
    sender: Sender
    presence: PresenceSender


def inward(ground: Ground, out: Out, users: Users, rooms: Rooms, peers: Peers, bridging: Bridging | None = None) -> In:
    """The follower of the outbox, and what takes in what others send."""

    async def may_invite(sender: str, target: str) -> None:
        account, blocks = await ground.db.read(
            lambda tx: (account_table.account(tx, target), account_data_table.blocks_invites(tx, target))
        )
        is_known = account is not None or (bridging is not None and await bridging.names.user(target))
        if not is_known or (account is not None and account.deactivated_at is not None):
            raise errors.NotFound("There is no such user.")
        if blocks:
            raise errors.InviteBlocked

    handlers = EduHandlers(
        typing=users.typing.received,
        receipts=users.receipts.received,
        presence=users.presence.received if users.presence.enabled else None,
        device_list_update=users.device_lists.receive_update,
        signing_key_update=users.device_lists.receive_signing_keys,
        direct_to_device=users.to_device.receive,
    )
    invites = Invites(ground.db, rooms.importer, rooms.receiver, may_invite, server_name=ground.server_name, key=ground.key)
    sender = Sender(
        ground.db,
        ground.wakeups,
        out.calls,
        server_name=ground.server_name,
        now_ms=ground.now_ms,
        random=random.Random(ground.random_bytes(16)).random,
        neighbours=room_table.all_servers,
        ways_to=peers.ways_to,
    )
    peers.on_return(sender.route_returned)
    late = LateEvents(ground.db, rooms.receiver, out.source, ground.server_name, ground.now_ms)
    peers.on_return(late.heard_from)
    edus = Edus(ground.db, handlers)
    return In(
        Inbound(
            ground.db, rooms.receiver, edus, invites, late, joining=out.joining, now_ms=ground.now_ms, background=ground.nursery
        ),
        late,
        FederationHistory(ground.db),
        SpaceHierarchy(ground.db),
        Resident(ground.db, rooms.composer, rooms.placer, rooms.receiver, server_name=ground.server_name, key=ground.key),
        invites,
        ThirdPartyInvites(
            ground.db,
            rooms.composer,
            rooms.placer,
            out.calls,
            rooms.remote,
            out.key_validity,
            server_name=ground.server_name,
            profile=profile_table.member_fields,
        ),
        sender,
        PresenceSender(
            ground.db,
            ground.wakeups,
            out.calls,
            users.presence,
            server_name=ground.server_name,
            now_ms=ground.now_ms,
            ways_to=peers.ways_to,
        ),
    )


@dataclass(frozen=True, slots=True)
class Syncs:
    """What tells clients what is new: classic sync, and sliding sync in both dialects."""

    classic: ClassicSync
    sliding: SlidingSync


def syncs(ground: Ground, users: Users) -> Syncs:
    """Both read the store for themselves."""

    def size(result: RoomResult) -> int:
        return len(canonical_json.encode_loose(deployed.room(result)))

    sliding = SlidingSync(ground.db, ground.wakeups, users.typing, ground.now_ms, size)

    def forget(tx: Transaction, user_id: str, device_ids: Sequence[str]) -> None:
        tx.on_commit(lambda: sliding.connections.forget(user_id, frozenset(device_ids)))

    users.devices.when_deleted(forget)
    return Syncs(
        ClassicSync(ground.db, ground.wakeups, users.typing, ground.now_ms, users.presence if users.presence.enabled else None),
        sliding,
    )
