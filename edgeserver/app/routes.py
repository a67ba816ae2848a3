"""Which endpoints are served, with which services. One list for clients, one for servers."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgeserver import __version__
from edgeserver.api import link_test
from edgeserver.api.admin import devices as admin_devices
from edgeserver.api.admin import federation as admin_federation
from edgeserver.api.admin import media as admin_media
from edgeserver.api.admin import registration_tokens, room_deletion, room_history, server_notices
from edgeserver.api.admin import reports as admin_reports
from edgeserver.api.admin import rooms as admin_rooms
from edgeserver.api.admin import server as admin_server
from edgeserver.api.admin import users as admin_users
from edgeserver.api.client import (
    account,
    account_data,
    application_services,
    auth_fallback,
    capabilities,
    create_room,
    dehydrated_devices,
    devices,
    email_addresses,
    filters,
    key_backup,
    keys,
    login,
    moderation,
    mutual_rooms,
    notifications,
    old_sync,
    openid,
    presence,
    profile,
    push_rules,
    pushers,
    read_markers,
    receipts,
    register,
    register_by_secret,
    relations,
    report,
    room_directory,
    room_events,
    room_membership,
    room_reading,
    room_upgrade,
    screen,
    search,
    sliding_sync,
    spaces,
    sync,
    third_party,
    thread_subscriptions,
    timestamps,
    to_device,
    typing,
    url_previews,
    user_directory,
    versions,
    voip,
    well_known,
)
from edgeserver.api.client import media as client_media
from edgeserver.api.server import authentication, boxes, events, hierarchy, membership, queries, third_party_invites, transactions
from edgeserver.api.server import keys as server_keys
from edgeserver.api.server import media as server_media
from edgeserver.api.server import users as server_users
from edgeserver.api.user_interactive import UserInteractive, standard_stages
from edgeserver.config import host_and_port
from edgeserver.matrix.room_versions import DEFAULT, SUPPORTED
from edgeserver.store.account_data import ignored_users
from edgeserver.sync.filters import FilterReader
from edgeserver.sync.old_stream import OldStream
from edgeserver.users.login_tokens import LoginTokens

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from edgeserver.api.endpoint import Route
    from edgeserver.api.ratelimit import RateLimiter
    from edgeserver.app.bridging import Bridging
    from edgeserver.app.services import Ground, In, Out, Rooms, Syncs, Users
    from edgeserver.config import Config
    from edgeserver.federation.peers import Peers
    from edgeserver.gateway.routes import GatewayRoutes
    from edgeserver.media.previews import UrlPreviews
    from edgeserver.media.repository import MediaRepository

UNSTABLE_FEATURES = {
    "io.element.msc4190": True,
    "org.edgeserver.screen": True,
    "org.matrix.msc3814": True,
    "org.matrix.msc3881": True,
    "org.matrix.msc3916.stable": True,
    "org.matrix.msc4380.stable": True,
    "org.matrix.simplified_msc3575": True,
    "uk.half-shot.msc2666.query_mutual_rooms": True,
    "uk.half-shot.msc2666.query_mutual_rooms.stable": True,
    "uk.tcpip.msc4133.stable": True,
}


def client_routes(
    config: Config,
    ground: Ground,
    users: Users,
    rooms: Rooms,
    media: MediaRepository,
    previews: UrlPreviews | None,
    syncs: Syncs,
    limiter: RateLimiter,
    bridging: Bridging | None = None,
) -> list[Route]:
    """The client-server API."""
    appservices = None if bridging is None else bridging.services
    interactive = UserInteractive(
        ground.now_ms, standard_stages(users.accounts, lambda user_id: limiter.check("login_account", user_id), users.emails)
    )
    policy = register.RegistrationPolicy(
        open=config.accounts.registration == "open",
        with_token=config.accounts.registration == "token",
        guests=config.accounts.guests,
        email="no" if users.emails is None else config.smtp.registration,
    )
    login_tokens = LoginTokens(ground.now_ms) if config.accounts.login_tokens else None
    if login_tokens is not None:
        users.devices.when_deleted(login_tokens.devices_deleted)
    can = {"m.3pid_changes": {"enabled": users.emails is not None}, "m.get_login_token": {"enabled": login_tokens is not None}}
    found = [
        *versions.routes(
            {**UNSTABLE_FEATURES, thread_subscriptions.FEATURE: config.features.thread_subscriptions},
            low_bandwidth=_low_bandwidth(config),
        ),
        *well_known.routes(
            base_url=config.http.public_url or None, server=config.http.well_known_server or None, support=_support(config)
        ),
        *register.routes(users.accounts, interactive, policy, appservices=appservices, tokens=users.tokens, emails=users.emails),
        *login.routes(
            users.accounts,
            users.tokens,
            users.devices,
            limiter=limiter,
            appservices=appservices,
            login_tokens=login_tokens,
            emails=users.emails,
        ),
        *account.routes(users.accounts, interactive, users.emails, registering=policy.takes_email),
        *auth_fallback.routes(interactive, users.emails, limiter),
        *moderation.routes(users.accounts, users.devices, ground.server_name),
        *devices.routes(users.devices, interactive),
        *profile.routes(users.profiles),
        *account_data.routes(users.account_data),
        *filters.routes(users.filters),
        *push_rules.routes(users.account_data),
        *pushers.routes(users.pushers),
        *presence.routes(users.presence, users.profiles),
        *openid.routes(users.openid),
        *user_directory.routes(users.profiles),
        *voip.routes(ground.now_ms, config.turn.uris, config.turn.shared_secret, config.turn.lifetime),
        *capabilities.routes(SUPPORTED, DEFAULT.version, can),
        *third_party.routes(None if bridging is None else bridging.third_party),
        *keys.routes(users.device_keys, users.device_lists, users.cross_signing, interactive),
        *dehydrated_devices.routes(users.dehydrated),
        *key_backup.routes(users.key_backup),
        *to_device.routes(users.to_device),
        *create_room.routes(rooms.creator, rooms.memberships, ground.server_name, appservices),
        *room_upgrade.routes(rooms.upgrader),
        *room_directory.routes(rooms.directory, rooms.public_rooms, ground.server_name, appservices),
        *room_events.routes(ground.db, rooms.composer, rooms.memberships, rooms.directory),
        *room_membership.routes(ground.db, rooms.memberships, rooms.directory),
        *room_reading.routes(ground.db, rooms.history, ground.now_ms, rooms.completer.until_whole),
        *relations.routes(ground.db, ground.now_ms),
        *timestamps.routes(rooms.timestamps),
        *mutual_rooms.routes(ground.db),
        *old_sync.routes(
            OldStream(ground.db, ground.wakeups, users.typing, users.presence if users.presence.enabled else None),
            ground.now_ms,
            rooms.completer.until_whole,
        ),
        *search.routes(ground.db, rooms.indexer, ignored_users, ground.now_ms),
        *spaces.routes(rooms.hierarchy, rooms.summaries, rooms.directory),
        *typing.routes(users.typing),
        *receipts.routes(users.receipts, users.read_markers),
        *read_markers.routes(users.read_markers),
        *notifications.routes(users.notifications),
        *report.routes(rooms.reports),
        *sync.routes(syncs.classic, FilterReader(users.filters), users.presence.syncing),
        *sliding_sync.routes(syncs.sliding, users.presence.syncing),
        *screen.routes(
            ground.db, syncs.sliding, rooms.composer, users.receipts, rooms.history, ground.now_ms, users.presence.syncing
        ),
        *client_media.routes(media),
    ]
    if config.features.thread_subscriptions:
        found += thread_subscriptions.routes(rooms.thread_subscriptions)
    if previews is not None:
        found += url_previews.routes(previews)
    if login_tokens is not None:
        found += login.token_routes(interactive, login_tokens, limiter)
    if users.emails is not None:
        found += email_addresses.routes(users.emails, interactive, limiter, registering=policy.takes_email)
    if config.accounts.registration_shared_secret:
        found += register_by_secret.routes(users.accounts, config.accounts.registration_shared_secret, ground.now_ms)
    if bridging is not None:
        found += application_services.routes(bridging, bridging.third_party)
    return found


def _low_bandwidth(config: Config) -> dict[str, int] | None:
    """What /versions tells of the listener for MSC3079."""
    section = config.low_bandwidth
    if not section.listen:
        return None
    port = section.port or host_and_port(section.listen[0], "[low_bandwidth] listen")[1]
    return {"dtls": port, "cbor_enum_version": 1, "coap_enum_version": 1, "observe": 1}


def _support(config: Config) -> dict[str, Any] | None:
    """/.well-known/matrix/support; the key has the name of MSC4439 before it is in the specification."""
    contacts = [asdict(one) for one in config.contacts]
    for contact in contacts:
        contact["dev.zirco.msc4439.pgp_key"] = contact.pop("pgp_key")
    return well_known.support_document(config.support.page, contacts)


def admin_routes(
    ground: Ground, users: Users, rooms: Rooms, media: MediaRepository, retry: Callable[[str], Awaitable[None]]
) -> list[Route]:
    """Synapse's admin API, for those of our users who are administrators. `retry(server_name)`: try that server now."""
    db, name, now_ms = ground.db, ground.server_name, ground.now_ms
    return [
        *admin_server.routes(users.accounts, __version__),
        *admin_users.routes(db, name, users.accounts, users.profiles, users.pushers, users.emails),
        *admin_devices.routes(name, users.accounts, users.devices, users.dehydrated),
        *admin_rooms.routes(db, name, now_ms, rooms.directory, rooms.removals, rooms.admins),
        *room_history.routes(db, now_ms),
        *room_deletion.routes(db, name, rooms.removals),
        *registration_tokens.routes(users.registration_tokens),
        *admin_reports.routes(db),
        *admin_federation.routes(db, name, now_ms, retry),
        *server_notices.routes(rooms.notices, name),
        *admin_media.routes(db, name, media),
    ]


def server_routes(
    ground: Ground, out: Out, users: Users, rooms: Rooms, inward: In, media: MediaRepository, gateway: GatewayRoutes, peers: Peers
) -> list[Route]:
    """The server-server API, and what paired boxes tell each other."""
    def heard_from(server: str) -> None:
        inward.sender.heard_from(server)
        inward.late.heard_from(server)

    guard = authentication.ServerGuard(ground.server_name, out.keyring.key, heard_from)
    return [
        *server_keys.routes(out.keyring, out.notary, ground.now_ms),
        *transactions.routes(guard, inward.inbound),
        *membership.routes(guard, inward.resident, inward.invites),
        *third_party_invites.routes(guard, inward.third_party_invites),
        *events.routes(guard, inward.history, ground.server_name, ground.now_ms),
        *hierarchy.routes(guard, inward.spaces),
        *queries.routes(
            guard, rooms.directory, ground.server_name, __version__, users.profiles, rooms.public_rooms, users.openid.user_of
        ),
        *server_users.routes(guard, ground.server_name, users.device_keys, users.device_lists),
        *server_media.routes(guard, ground.server_name, media),
        *boxes.routes(gateway, ground.now_ms, lambda: ground.clock.trusted, peers.gateway_returned),
        *link_test.routes(),
    ]
