"""Device keys: uploading, querying and claiming, for our clients and for other servers.

Spec: client-server API, "End-to-End Encryption" (/keys/upload, /keys/query, /keys/claim); server-server API, the same
under /user/keys.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from edgeserver.matrix import canonical_json, errors
from edgeserver.matrix.identifiers import domain_of, fits, is_user_id
from edgeserver.store import device_keys as table
from edgeserver.store import device_lists as list_table
from edgeserver.store import devices as device_table
from edgeserver.users import key_views, remote_keys
from edgeserver.users.remote_keys import KeysUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.device_keys import UserKeys
    from edgeserver.users.device_lists import DeviceLists
    from edgeserver.users.remote_keys import RemoteKeys
    from edgeserver.wakeups import Wakeups

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_MS: Final = 10_000
MAX_TIMEOUT_MS: Final = 120_000
MAX_ONE_TIME_KEYS: Final = 1000
"""One-time keys that one device may have waiting, and upload at once."""
MAX_KEY_BYTES: Final = 16_384

PARALLEL_SERVERS: Final = 16

Uploaded = list[tuple[str, str, Any]]
"""(algorithm, key id, key)"""


@dataclass(frozen=True, slots=True)
class UploadedKeys:
    """The keys of one upload, checked."""

    device_keys: dict[str, Any] | None
    one_time: Uploaded
    fallback: Uploaded


class DeviceKeys:
    """The keys of devices. `remote` None: this server asks no others."""

    def __init__(
        self,
        db: Database,
        server_name: str,
        wakeups: Wakeups,
        device_lists: DeviceLists,
        remote: RemoteKeys | None = None,
    ) -> None:
        self._db = db
        self._server_name = server_name
        self._wakeups = wakeups
        self._device_lists = device_lists
        self._remote = remote
        self._under_way: dict[str, trio.Event] = {}
        self._limit = trio.CapacityLimiter(PARALLEL_SERVERS)

    # Upload

    async def upload(self, user_id: str, device_id: str, body: Mapping[str, Any]) -> dict[str, int]:
        """POST /keys/upload; returns how many one-time keys of each algorithm can be claimed now.

        Raises M_INVALID_PARAM for keys of somebody else, or another key under the id of a one-time key that waits;
        M_BAD_JSON for what is no key.
        """
        uploaded = self.checked(user_id, device_id, body)
        return await self._db.write(lambda tx: self.keep(tx, user_id, device_id, uploaded))

    def checked(self, user_id: str, device_id: str, body: Mapping[str, Any]) -> UploadedKeys:
        """The keys in the body of an upload. Raises as `upload` does."""
        device_keys = _checked_device_keys(body.get("device_keys"), user_id, device_id)
        one_time = _checked_keys(body.get("one_time_keys"), "one_time_keys")
        fallback = _checked_keys(body.get("fallback_keys"), "fallback_keys")
        if len({algorithm for algorithm, _, _ in fallback}) != len(fallback):
            raise errors.InvalidParam("There can be one fallback key of each algorithm.")
        return UploadedKeys(device_keys, one_time, fallback)

    def keep(self, tx: Transaction, user_id: str, device_id: str, uploaded: UploadedKeys) -> dict[str, int]:
        """As `upload`, inside the caller's transaction."""
        if uploaded.device_keys is not None and table.set_device_keys(tx, user_id, device_id, uploaded.device_keys):
            self._device_lists.device_changed(tx, user_id, device_id)
        for algorithm, key_id, key in uploaded.one_time:
            _add_one_time_key(tx, user_id, device_id, algorithm, key_id, key)
        for algorithm, key_id, key in uploaded.fallback:
            table.set_fallback_key(tx, user_id, device_id, algorithm, key_id, key)
        counts = table.one_time_key_counts(tx, user_id, device_id)
        if uploaded.one_time and sum(counts.values()) > MAX_ONE_TIME_KEYS:
            raise errors.TooLarge(f"At most {MAX_ONE_TIME_KEYS} one-time keys may wait for a device.")
        return counts

    # Query

    async def query(self, viewer: str, wanted: Mapping[str, Sequence[str]], timeout_ms: int = DEFAULT_TIMEOUT_MS) -> dict[str, Any]:
        """POST /keys/query. `wanted`: user id → device ids, none means all.

        Servers that cannot be asked are named in `failures`; what is held of their users' keys is given all the same.
        A list is asked for once at a time: whoever wants it meanwhile waits for that.
        """
        answer: dict[str, Any] = {"device_keys": {}, "failures": {}}
        stale = await self._db.read(lambda tx: self._answer_held(tx, viewer, wanted, answer))
        awaited = {user_id: self._under_way[user_id] for user_id in stale if user_id in self._under_way}
        if awaited:
            with trio.move_on_after(min(max(timeout_ms, 0), MAX_TIMEOUT_MS) / 1000):
                for event in awaited.values():
                    await event.wait()
            again = {user_id: wanted[user_id] for user_id in awaited}
            stale = {name: ids for name, ids in stale.items() if name not in awaited}
            stale |= await self._db.read(lambda tx: self._answer_held(tx, viewer, again, answer))
        if stale:
            fetched = await self._fetch(stale, timeout_ms, answer["failures"])
            await self._db.read(lambda tx: self._answer_fetched(tx, viewer, wanted, fetched, answer))
        return answer

    async def query_for_server(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """POST /_matrix/federation/v1/user/keys/query: what other servers may see of our users' keys."""
        answer: dict[str, Any] = {"device_keys": {}}
        local = {user_id: devices for user_id, devices in wanted.items() if self._is_local(user_id)}
        await self._db.read(lambda tx: self._answer_held(tx, None, local, answer))
        return answer

    def _answer_held(
        self, tx: Transaction, viewer: str | None, wanted: Mapping[str, Sequence[str]], answer: dict[str, Any]
    ) -> dict[str, Sequence[str]]:
        """Answers from what is held; returns the remote users whose lists are not held or stale."""
        stale: dict[str, Sequence[str]] = {}
        for user_id, devices in wanted.items():
            if self._is_local(user_id):
                names = {each.device_id: each.display_name for each in device_table.devices(tx, user_id)}
                keys = table.user_keys(tx, user_id)
                if names or keys.cross_signing:
                    shown = {} if viewer is None else names
                    key_views.describe(answer, user_id, keys, viewer=viewer, wanted=devices, names=shown)
                continue
            held = list_table.remote_list(tx, user_id)
            if held is not None:
                self._describe_remote(tx, answer, user_id, table.user_keys(tx, user_id), viewer, devices)
            if held is None or held[1]:
                stale[user_id] = devices
        return stale

    def _answer_fetched(
        self,
        tx: Transaction,
        viewer: str,
        wanted: Mapping[str, Sequence[str]],
        fetched: Mapping[str, UserKeys],
        answer: dict[str, Any],
    ) -> None:
        for user_id, keys in fetched.items():
            for section in key_views.SECTIONS.values():
                answer.get(section, {}).pop(user_id, None)
            signed = type(keys)(keys.devices, keys.cross_signing, table.signatures_of(tx, user_id))
            self._describe_remote(tx, answer, user_id, signed, viewer, wanted[user_id])

    def _describe_remote(
        self,
        tx: Transaction,
        answer: dict[str, Any],
        user_id: str,
        keys: UserKeys,
        viewer: str | None,
        devices: Sequence[str],
    ) -> None:
        names = {device_id: name for device_id, (_, name) in keys.devices.items()}
        key_views.describe(answer, user_id, keys, viewer=viewer, wanted=devices, names=names)

    async def _fetch(self, stale: Mapping[str, Sequence[str]], timeout_ms: int, failures: dict[str, Any]) -> dict[str, UserKeys]:
        found: dict[str, UserKeys] = {}

        async def ask(remote: RemoteKeys, server_name: str, wanted: dict[str, Sequence[str]]) -> None:
            found.update(await remote_keys.fetch(self._db, remote, server_name, wanted))

        done = trio.Event()
        ours = [user_id for user_id in stale if user_id not in self._under_way]
        self._under_way |= dict.fromkeys(ours, done)
        try:
            await self._ask_each(stale, timeout_ms, failures, ask)
        finally:
            for user_id in ours:
                del self._under_way[user_id]
            done.set()
        return found

    async def refresh(self, user_id: str) -> None:
        """Makes sure that a remote user's keys are held, as far as their server can be asked."""
        held = await self._db.read(lambda tx: list_table.remote_list(tx, user_id))
        if held is None or held[1]:
            await self._fetch({user_id: []}, DEFAULT_TIMEOUT_MS, {})

    # Claim

    async def claim(self, wanted: Mapping[str, Mapping[str, str]], timeout_ms: int = DEFAULT_TIMEOUT_MS) -> dict[str, Any]:
        """POST /keys/claim. `wanted`: user id → device id → algorithm."""
        failures: dict[str, Any] = {}
        found = await self._claim_local(wanted)

        async def ask(remote: RemoteKeys, server_name: str, asked: dict[str, Mapping[str, str]]) -> None:
            found.update(remote_keys.claimed_in(await remote.claim_keys(server_name, asked), asked))

        remote = {user_id: devices for user_id, devices in wanted.items() if not self._is_local(user_id)}
        await self._ask_each(remote, timeout_ms, failures, ask)
        return {"one_time_keys": found, "failures": failures}

    async def claim_for_server(self, wanted: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """POST /_matrix/federation/v1/user/keys/claim: keys of our users' devices for another server."""
        return {"one_time_keys": await self._claim_local(wanted)}

    async def _claim_local(self, wanted: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Any]]:
        local = {user_id: devices for user_id, devices in wanted.items() if self._is_local(user_id)}

        def work(tx: Transaction) -> dict[str, dict[str, Any]]:
            found: dict[str, dict[str, Any]] = {}
            for user_id, devices in local.items():
                for device_id, algorithm in devices.items():
                    claimed = table.claim(tx, user_id, device_id, algorithm)
                    if claimed is not None:
                        key = {f"{algorithm}:{claimed[0]}": claimed[1]}
                        found.setdefault(user_id, {})[device_id] = key
            tx.on_commit(lambda: self._wakeups.notify(found))
            return found

        return await self._db.write(work) if local else {}

    # Other servers

    async def _ask_each(
        self,
        wanted: Mapping[str, Any],
        timeout_ms: int,
        failures: dict[str, Any],
        ask: Callable[[RemoteKeys, str, dict[str, Any]], Awaitable[None]],
    ) -> None:
        """Asks each user's server, all at the same time; those that fail are noted in `failures`."""
        by_server: dict[str, dict[str, Any]] = {}
        for user_id, each in wanted.items():
            by_server.setdefault(domain_of(user_id), {})[user_id] = each

        async def ask_one(server_name: str, asked: dict[str, Any]) -> None:
            try:
                if self._remote is None:
                    raise KeysUnavailable("this server asks no others")
                with trio.fail_after(min(max(timeout_ms, 0), MAX_TIMEOUT_MS) / 1000):
                    async with self._limit:
                        await ask(self._remote, server_name, asked)
            except (KeysUnavailable, trio.TooSlowError) as error:
                log.info("keys of users of %s: %s", server_name, str(error) or "timed out")
                failures[server_name] = {"errcode": "M_UNKNOWN", "error": "The server could not be asked."}

        async with trio.open_nursery() as nursery:
            for server_name, asked in by_server.items():
                nursery.start_soon(ask_one, server_name, asked)

    def _is_local(self, user_id: str) -> bool:
        return domain_of(user_id) == self._server_name


def wanted_devices(value: object) -> dict[str, list[str]]:
    """The `device_keys` of a key query: user id → device ids. Raises M_BAD_JSON."""
    if not isinstance(value, dict):
        raise errors.BadJson("device_keys must map user ids to lists of device ids.")
    found: dict[str, list[str]] = {}
    for user_id, devices in value.items():
        if not is_user_id(user_id) or not isinstance(devices, list) or not all(isinstance(d, str) for d in devices):
            raise errors.BadJson("device_keys must map user ids to lists of device ids.")
        found[user_id] = devices
    return found


def wanted_keys(value: object) -> dict[str, dict[str, str]]:
    """The `one_time_keys` of a claim: user id → device id → algorithm. Raises M_BAD_JSON."""
    if not isinstance(value, dict):
        raise errors.BadJson("one_time_keys must map user ids to devices and algorithms.")
    found: dict[str, dict[str, str]] = {}
    for user_id, devices in value.items():
        if not is_user_id(user_id) or not isinstance(devices, dict):
            raise errors.BadJson("one_time_keys must map user ids to devices and algorithms.")
        if not all(isinstance(algorithm, str) for algorithm in devices.values()):
            raise errors.BadJson("An algorithm is a string.")
        found[user_id] = devices
    return found


def _checked_device_keys(value: object, user_id: str, device_id: str) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise errors.BadJson("device_keys must be an object.")
    if value.get("user_id") != user_id or value.get("device_id") != device_id:
        raise errors.InvalidParam("The device keys are not those of this user and device.")
    shapes = {"algorithms": list, "keys": dict, "signatures": dict}
    if any(not isinstance(value.get(name), shape) for name, shape in shapes.items()):
        raise errors.BadJson("The device keys lack algorithms, keys or signatures.")
    return {name: each for name, each in _bounded(value).items() if name != "unsigned"}


def _checked_keys(value: object, name: str) -> Uploaded:
    """One-time or fallback keys: `<algorithm>:<key id>` → a string, or an object with key and signatures."""
    if value is None:
        return []
    if not isinstance(value, dict) or len(value) > MAX_ONE_TIME_KEYS:
        raise errors.BadJson(f"{name} must be an object of at most {MAX_ONE_TIME_KEYS} keys.")
    found: Uploaded = []
    for full_id, key in value.items():
        algorithm, _, key_id = full_id.partition(":")
        if not algorithm or not key_id or not fits(full_id):
            raise errors.InvalidParam(f"{name}: a key's name is its algorithm, a colon and its id.")
        signed = isinstance(key, dict) and isinstance(key.get("key"), str) and isinstance(key.get("signatures"), dict)
        if not signed and not isinstance(key, str):
            raise errors.BadJson(f"{name}: a key is a string, or an object with key and signatures.")
        _bounded({full_id: key})
        found.append((algorithm, key_id, key))
    return found


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(canonical_json.encode_loose(value))
    except canonical_json.CanonicalJSONError as error:
        raise errors.BadJson("The key has no canonical form.") from error
    if size > MAX_KEY_BYTES:
        raise errors.TooLarge("The key is too large.")
    return value


def _add_one_time_key(tx: Transaction, user_id: str, device_id: str, algorithm: str, key_id: str, key: Any) -> None:
    """The same key once more changes nothing, even if it has been claimed; another key under a waiting id is refused."""
    held = table.one_time_key(tx, user_id, device_id, algorithm, key_id)
    if held is not None and held[0] == key:
        return
    if held is not None and not held[1]:
        raise errors.InvalidParam(f"One-time key {algorithm}:{key_id} has been uploaded with other content.")
    table.add_one_time_key(tx, user_id, device_id, algorithm, key_id, key)
