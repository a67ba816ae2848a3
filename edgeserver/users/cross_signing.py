"""Cross-signing: uploading the three keys of a user, and signatures on devices and on others' master keys.

Spec: client-server API, "Cross-signing" (/keys/device_signing/upload, /keys/signatures/upload); MSC3967: uploading the
first set of keys, or the same set again, needs no further authentication.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import errors, signatures
from edgeserver.matrix.errors import MatrixError
from edgeserver.matrix.identifiers import domain_of, is_user_id
from edgeserver.store import device_keys as table
from edgeserver.store import devices as device_table
from edgeserver.store.device_keys import KeySignature
from edgeserver.users.remote_keys import cross_signing_key_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.store.database import Database, Transaction
    from edgeserver.users.device_keys import DeviceKeys
    from edgeserver.users.device_lists import DeviceLists

USAGES: Final = ("master", "self_signing", "user_signing")
MAX_SIGNED: Final = 1000

Keys = dict[str, tuple[str, dict[str, Any]]]
"""Usage → (public key, key)"""


class CrossSigning:
    """The cross-signing keys of our users."""

    def __init__(self, db: Database, server_name: str, device_lists: DeviceLists, device_keys: DeviceKeys) -> None:
        self._db = db
        self._server_name = server_name
        self._device_lists = device_lists
        self._device_keys = device_keys

    # POST /keys/device_signing/upload

    async def needs_authentication(self, user_id: str, body: Mapping[str, Any]) -> bool:
        """Whether the upload would replace keys, so that the user has to authenticate once more."""
        keys = checked_keys(user_id, body)

        def work(tx: Transaction) -> bool:
            if table.public_key(tx, user_id, "master") is None:
                return False
            return any(table.public_key(tx, user_id, usage) != public for usage, (public, _) in keys.items())

        return await self._db.read(work)

    async def upload(self, user_id: str, body: Mapping[str, Any]) -> None:
        """Keeps the keys in `body`.

        Raises M_MISSING_PARAM if there is no master key at all, M_INVALID_SIGNATURE if it has not signed the others,
        M_FORBIDDEN if a public key is the id of one of the user's devices.
        """
        keys = checked_keys(user_id, body)
        await self._db.write(lambda tx: self._keep(tx, user_id, keys))

    def _keep(self, tx: Transaction, user_id: str, keys: Keys) -> None:
        held = table.public_key(tx, user_id, "master")
        master = keys["master"][0] if "master" in keys else held
        if master is None:
            raise errors.MissingParam("There is no master key.")
        device_ids = {device.device_id for device in device_table.devices(tx, user_id)}
        for usage, (public, key) in keys.items():
            if public in device_ids:
                raise errors.Forbidden("A public key is the id of one of your devices.")
            if usage != "master":
                _verify(key, user_id, f"ed25519:{master}", master)
        changed = {usage for usage, each in keys.items() if table.set_cross_signing_key(tx, user_id, usage, *each)}
        if held is not None and held != master:
            for usage in set(USAGES) - set(keys):
                table.remove_cross_signing_key(tx, user_id, usage)
                changed.add(usage)
        if changed & {"master", "self_signing"}:
            self._device_lists.cross_signing_changed(tx, user_id)
        elif changed:
            self._device_lists.changed_for(tx, user_id, user_id)

    # POST /keys/signatures/upload

    async def sign(self, user_id: str, body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Keeps signatures; returns those that failed: user id → key id → error."""
        signed = _signed_objects(body)
        for target in signed:
            if domain_of(target) != self._server_name:
                await self._device_keys.refresh(target)

        def work(tx: Transaction) -> dict[str, dict[str, Any]]:
            failures: dict[str, dict[str, Any]] = {}
            for target, objects in signed.items():
                for key_id, obj in objects.items():
                    try:
                        self._sign_one(tx, user_id, target, key_id, obj)
                    except MatrixError as error:
                        failures.setdefault(target, {})[key_id] = error.as_json()
            return failures

        return await self._db.write(work)

    def _sign_one(self, tx: Transaction, user_id: str, target: str, key_id: str, obj: object) -> None:
        if not isinstance(obj, dict):
            raise errors.InvalidParam("A signed key is an object.")
        is_master = key_id == table.public_key(tx, target, "master")
        if target != user_id:
            if not is_master:
                raise errors.NotFound("The user has no such master key.")
            signing_key = self._signing_key(tx, user_id, "user_signing")
        elif is_master:
            self._sign_own_master(tx, user_id, key_id, obj)
            return
        else:
            signing_key = self._signing_key(tx, user_id, "self_signing")
        held = table.cross_signing_keys(tx, target).get("master") if is_master else table.device_keys(tx, target, key_id)
        _check_same(obj, held)
        if self._add(tx, user_id, target, key_id, obj, f"ed25519:{signing_key}", signing_key):
            if target == user_id:
                self._device_lists.device_changed(tx, user_id, key_id)
            else:
                self._device_lists.changed_for(tx, user_id, target)

    def _sign_own_master(self, tx: Transaction, user_id: str, key_id: str, obj: dict[str, Any]) -> None:
        """A device vouches for its user's master key."""
        _check_same(obj, table.cross_signing_keys(tx, user_id).get("master"))
        added = False
        for signing_key_id in signatures.signatures_by(obj, user_id):
            device_id = signing_key_id.partition(":")[2]
            device = table.device_keys(tx, user_id, device_id) if signing_key_id.startswith("ed25519:") else None
            public = None if device is None else device["keys"].get(signing_key_id)
            if isinstance(public, str):
                added |= self._add(tx, user_id, user_id, key_id, obj, signing_key_id, public)
            elif signing_key_id != f"ed25519:{key_id}":
                raise errors.InvalidSignature("The master key is to be signed by one of your devices.")
        if added:
            self._device_lists.cross_signing_changed(tx, user_id)

    def _signing_key(self, tx: Transaction, user_id: str, usage: str) -> str:
        public = table.public_key(tx, user_id, usage)
        if public is None:
            raise errors.NotFound(f"You have no {usage.replace('_', '-')} key.")
        return public

    def _add(self, tx: Transaction, signer: str, target: str, key_id: str, obj: dict[str, Any], signing_key: str, public: str) -> bool:
        _verify(obj, signer, signing_key, public)
        signature = signatures.signatures_by(obj, signer)[signing_key]
        return table.add_signature(tx, target, KeySignature(key_id, signer, signing_key, signature))


def checked_keys(user_id: str, body: Mapping[str, Any]) -> Keys:
    """The cross-signing keys in a request. Raises M_INVALID_PARAM."""
    keys: Keys = {}
    for usage in USAGES:
        value = body.get(f"{usage}_key")
        if value is None:
            continue
        found = cross_signing_key_in(value, user_id, usage)
        if found is None:
            raise errors.InvalidParam(f"{usage}_key is not a cross-signing key of yours for that usage.")
        keys[usage] = found
    return keys


def _signed_objects(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for target, objects in body.items():
        if not is_user_id(target) or not isinstance(objects, dict):
            raise errors.BadJson("The body must map user ids to key ids and signed keys.")
        found[target] = objects
    if sum(map(len, found.values())) > MAX_SIGNED:
        raise errors.TooLarge("Too many signatures at once.")
    return found


def _check_same(obj: Mapping[str, Any], held: Mapping[str, Any] | None) -> None:
    """The signed object is the key that we hold, but for signatures and what is not signed."""
    if held is None:
        raise errors.NotFound("There is no such key.")
    rest = [{n: v for n, v in each.items() if n not in ("signatures", "unsigned")} for each in (obj, held)]
    if rest[0] != rest[1]:
        raise errors.InvalidParam("The signed key is not the one that was uploaded.")


def _verify(obj: Mapping[str, Any], signer: str, signing_key: str, public: str) -> None:
    try:
        signatures.verify_json(obj, signer, signing_key, signatures.decode_base64(public))
    except ValueError as error:
        raise errors.InvalidSignature from error
