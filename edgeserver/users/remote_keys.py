"""The public keys of remote users: asking their servers, judging what they say, and keeping it where it can be kept
current.

Spec: server-server API, "End-to-End Encryption" and "Device Management".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from edgeserver.matrix import canonical_json
from edgeserver.matrix.identifiers import fits
from edgeserver.store import device_keys, device_lists
from edgeserver.store.device_keys import UserKeys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.store.database import Database, Transaction

MAX_DEVICES: Final = 1000
MAX_KEY_BYTES: Final = 16_384
MAX_NAME: Final = 256


class KeysUnavailable(Exception):
    """The other server could not be asked, or did not answer with keys. The text is one sentence for the log."""


class RemoteKeys(Protocol):
    """What users need from the network. Each method raises `KeysUnavailable`; answers are not checked yet."""

    async def query_keys(self, server: str, device_keys: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """POST /_matrix/federation/v1/user/keys/query: the whole answer."""
        ...

    async def claim_keys(self, server: str, one_time_keys: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """POST /_matrix/federation/v1/user/keys/claim: `one_time_keys` of the answer."""
        ...

    async def user_devices(self, server: str, user_id: str) -> dict[str, Any]:
        """GET /_matrix/federation/v1/user/devices/{userId}: the whole answer."""
        ...


@dataclass(frozen=True, slots=True)
class RemoteList:
    """A remote user's keys as their server told them. `stream_id` is None where it did not say."""

    stream_id: int | None
    keys: UserKeys
    public_keys: Mapping[str, str]


# Judging


def device_keys_in(value: object, user_id: str, device_id: str) -> dict[str, Any] | None:
    """`value` if it is the identity keys of this device, of bounded size; else None."""
    if not isinstance(value, dict) or value.get("user_id") != user_id or value.get("device_id") != device_id:
        return None
    keys, algorithms = value.get("keys"), value.get("algorithms")
    if not isinstance(keys, dict) or not isinstance(algorithms, list) or not fits(device_id):
        return None
    return _bounded({name: each for name, each in value.items() if name != "unsigned"})


def cross_signing_key_in(value: object, user_id: str, usage: str) -> tuple[str, dict[str, Any]] | None:
    """(public key, key) if `value` is a cross-signing key of this user and usage; else None.

    Spec: CrossSigningKey has exactly one key, `ed25519:<public key>` → the same public key.
    """
    if not isinstance(value, dict) or value.get("user_id") != user_id:
        return None
    usages, keys = value.get("usage"), value.get("keys")
    if not isinstance(usages, list) or usage not in usages or not isinstance(keys, dict) or len(keys) != 1:
        return None
    [(key_id, public)] = keys.items()
    if not isinstance(public, str) or key_id != f"ed25519:{public}" or not fits(public):
        return None
    key = _bounded({name: each for name, each in value.items() if name != "unsigned"})
    return None if key is None else (public, key)


def display_name_in(value: object) -> str | None:
    """A device's display name, shortened where somebody overdid it."""
    return value[:MAX_NAME] if isinstance(value, str) else None


def _bounded(value: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return value if len(canonical_json.encode_loose(value)) <= MAX_KEY_BYTES else None
    except canonical_json.CanonicalJSONError:
        return None


def from_query(answer: dict[str, Any], user_id: str) -> RemoteList | None:
    """What the answer to a key query says of one user; None if it leaves the user out."""
    devices = _of_user(answer.get("device_keys"), user_id)
    sections = {usage: _of_user(answer.get(f"{usage}_keys"), user_id, whole=True) for usage in ("master", "self_signing")}
    if devices is None and not any(sections.values()):
        return None
    listed = []
    for device_id, keys in (devices or {}).items():
        unsigned = keys.get("unsigned") if isinstance(keys, dict) else None
        name = unsigned.get("device_display_name") if isinstance(unsigned, dict) else None
        listed.append((device_id, keys, name))
    return _list(None, user_id, listed, sections)


def from_user_devices(answer: dict[str, Any], user_id: str) -> RemoteList:
    """What the answer to GET /user/devices says. Raises `KeysUnavailable` if it is no such answer."""
    devices, stream_id = answer.get("devices"), answer.get("stream_id")
    if answer.get("user_id") != user_id or not isinstance(devices, list):
        raise KeysUnavailable("the answer is not a list of devices")
    listed = [(each.get("device_id"), each.get("keys"), each.get("device_display_name")) for each in devices if isinstance(each, dict)]
    sections = {usage: answer.get(f"{usage}_key") for usage in ("master", "self_signing")}
    return _list(stream_id if type(stream_id) is int else None, user_id, listed, sections)


def _of_user(section: object, user_id: str, *, whole: bool = False) -> dict[str, Any] | None:
    found = section.get(user_id) if isinstance(section, dict) else None
    return found if isinstance(found, dict) and (whole or len(found) <= MAX_DEVICES) else None


def _list(stream_id: int | None, user_id: str, listed: Sequence[tuple[Any, Any, Any]], sections: Mapping[str, Any]) -> RemoteList:
    devices = {}
    for device_id, value, name in listed[:MAX_DEVICES]:
        keys = device_keys_in(value, user_id, device_id) if isinstance(device_id, str) else None
        if keys is not None:
            devices[device_id] = (keys, display_name_in(name))
    cross = {usage: found for usage, value in sections.items() if (found := cross_signing_key_in(value, user_id, usage)) is not None}
    keys_of_user = UserKeys(devices, {usage: key for usage, (_, key) in cross.items()})
    return RemoteList(stream_id, keys_of_user, {usage: public for usage, (public, _) in cross.items()})


def claimed_in(answer: dict[str, Any], asked: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    """Of what a server gave for a claim: user id → device id → {key id: key}, only what was asked for, one key each."""
    found: dict[str, dict[str, Any]] = {}
    for user_id, devices in asked.items():
        given = answer.get(user_id)
        for device_id, algorithm in devices.items():
            keys = given.get(device_id) if isinstance(given, dict) else None
            if not isinstance(keys, dict) or len(keys) != 1:
                continue
            [(key_id, key)] = keys.items()
            if key_id.startswith(f"{algorithm}:") and _bounded({key_id: key}) is not None:
                found.setdefault(user_id, {})[device_id] = {key_id: key}
    return found


# Keeping


async def fetch(db: Database, remote: RemoteKeys, server_name: str, wanted: Mapping[str, Sequence[str]]) -> dict[str, UserKeys]:
    """Asks a server for its users' keys and keeps the lists of those with whom a local user shares a room.

    A single list is asked for with its stream id, so that updates can be applied to it; many at once are asked for in
    one request, and the first update of each asks again. An update that comes meanwhile leaves the list stale.
    Raises `KeysUnavailable`.
    """
    before = await db.read(lambda tx: {user_id: _state(tx, user_id) for user_id in wanted})
    shared = [user_id for user_id, (is_shared, _) in before.items() if is_shared]
    if len(wanted) == 1 and shared:
        answer = await remote.user_devices(server_name, shared[0])
        found: dict[str, RemoteList | None] = {shared[0]: from_user_devices(answer, shared[0])}
    else:
        asked = {user_id: [] if user_id in shared else list(devices) for user_id, devices in wanted.items()}
        answer = await remote.query_keys(server_name, asked)
        found = {user_id: from_query(answer, user_id) for user_id in wanted}
    told = {user_id: each for user_id, each in found.items() if each is not None}
    kept = [user_id for user_id in shared if user_id in told]

    def keep(tx: Transaction) -> None:
        for user_id in kept:
            _keep(tx, user_id, told[user_id], before[user_id][1])

    if kept:
        await db.write(keep)
    return {user_id: each.keys for user_id, each in told.items()}


def _state(tx: Transaction, user_id: str) -> tuple[bool, int | None]:
    return bool(device_lists.local_sharers(tx, user_id)), device_lists.last_change(tx, user_id)


def _keep(tx: Transaction, user_id: str, told: RemoteList, change_before: int | None) -> None:
    if not device_lists.local_sharers(tx, user_id):
        return
    for device_id in device_keys.device_ids(tx, user_id):
        if device_id not in told.keys.devices:
            device_keys.remove_device(tx, user_id, device_id)
    for device_id, (keys, name) in told.keys.devices.items():
        device_keys.set_device_keys(tx, user_id, device_id, keys, name)
    for usage in ("master", "self_signing"):
        if usage in told.public_keys:
            public, key = told.public_keys[usage], told.keys.cross_signing[usage]
            device_keys.set_cross_signing_key(tx, user_id, usage, public, key)
        else:
            device_keys.remove_cross_signing_key(tx, user_id, usage)
    interrupted = device_lists.last_change(tx, user_id) != change_before
    device_lists.set_remote_list(tx, user_id, told.stream_id, stale=interrupted)
