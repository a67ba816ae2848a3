"""People and their devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeserver import wakeups as topics
from edgeserver.app.lasting import contained
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
from edgeserver.users.to_device import ToDevice
from edgeserver.users.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from edgeserver.app.bridging import Bridging
    from edgeserver.app.services.ground import Ground
    from edgeserver.app.services.outward import Out
    from edgeserver.users.emails import Emails


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
        on_delete=[device_lists.devices_deleted],
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

    typing = Typing(ground.db, ground.wakeups, ground.server_name, 1 + int.from_bytes(ground.random_bytes(5)))

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
        OpenIdTokens(ground.db, ground.server_name, ground.now_ms),
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
