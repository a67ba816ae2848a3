"""What other servers send, and what is sent to them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeserver.federation.edus import EduHandlers, Edus
from edgeserver.federation.hierarchy import SpaceHierarchy
from edgeserver.federation.history import History as FederationHistory
from edgeserver.federation.inbound import Inbound
from edgeserver.federation.invites import Invites
from edgeserver.federation.presence import PresenceSender
from edgeserver.federation.resident import Resident
from edgeserver.federation.sender import Sender
from edgeserver.federation.third_party_invites import ThirdPartyInvites
from edgeserver.matrix import errors
from edgeserver.rooms.late import LateEvents
from edgeserver.store import account_data as account_data_table
from edgeserver.store import accounts as account_table
from edgeserver.store import profiles as profile_table
from edgeserver.store import rooms as room_table

if TYPE_CHECKING:


    from edgeserver.app.bridging import Bridging
    from edgeserver.app.services.ground import Ground
    from edgeserver.app.services.outward import Out
    from edgeserver.app.services.people import Users
    from edgeserver.app.services.rooms import Rooms
    from edgeserver.federation.peers import Peers


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
