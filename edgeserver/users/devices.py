"""A user's devices. Spec: client-server API, "Device Management"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import errors, identifiers
from edgeserver.store import devices as table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from edgeserver.store.database import Database, Transaction
    from edgeserver.users.tokens import Tokens

    Hook = Callable[[Transaction, str, Sequence[str]], None]

MAX_NAME: Final = 256


class Devices:
    """Lists, renames and deletes devices.

    `on_delete` and `on_rename` are called inside the transaction with (tx, user_id, device_ids): whoever keeps data of
    devices (keys, messages to them, device lists) cleans up or takes note there.
    """

    def __init__(self, db: Database, tokens: Tokens, *, on_delete: Sequence[Hook] = (), on_rename: Sequence[Hook] = ()) -> None:
        self._db = db
        self._tokens = tokens
        self._on_delete = list(on_delete)
        self._on_rename = on_rename

    def when_deleted(self, hook: Hook) -> None:
        """One more for `on_delete`: of whoever is made later."""
        self._on_delete.append(hook)

    async def list(self, user_id: str) -> list[dict[str, Any]]:
        """All devices, as GET /devices gives them."""
        found = await self._db.read(lambda tx: table.devices(tx, user_id))
        return [self._as_json(user_id, device) for device in found]

    async def get(self, user_id: str, device_id: str) -> dict[str, Any]:
        """Raises M_NOT_FOUND."""
        found = await self._db.read(lambda tx: table.device(tx, user_id, device_id))
        if found is None:
            raise errors.NotFound("You have no such device.")
        return self._as_json(user_id, found)

    def _as_json(self, user_id: str, device: table.Device) -> dict[str, Any]:
        seen_at, seen_ip = self._tokens.last_seen(user_id, device.device_id) or (
            device.last_seen_at,
            device.last_seen_ip,
        )
        body = {
            "device_id": device.device_id,
            "display_name": device.display_name,
            "last_seen_ts": seen_at,
            "last_seen_ip": seen_ip or None,
        }
        return {key: value for key, value in body.items() if value is not None}

    async def rename(self, user_id: str, device_id: str, display_name: str) -> None:
        """Raises M_NOT_FOUND; M_INVALID_PARAM for a name of more than 256 characters."""
        check_name(display_name)

        def work(tx: Transaction) -> None:
            if table.device(tx, user_id, device_id) is None:
                raise errors.NotFound("You have no such device.")
            table.rename(tx, user_id, device_id, display_name)
            for hook in self._on_rename:
                hook(tx, user_id, [device_id])

        await self._db.write(work)

    async def create(self, user_id: str, device_id: str, display_name: str | None) -> bool:
        """A device without a session, for an application service (MSC4190); False if it was there, and has the name now.

        Raises M_INVALID_PARAM for a name of more than 256 characters, or an id of more than 255 bytes.
        """
        check_name(display_name)
        if not device_id or not identifiers.fits(device_id):
            raise errors.InvalidParam(f"A device id has 1 to {identifiers.MAX_BYTES} bytes.")

        def work(tx: Transaction) -> bool:
            known = table.device(tx, user_id, device_id)
            if known is None:
                table.ensure(tx, user_id, device_id, display_name)
            elif display_name is not None and known.display_name != display_name:
                table.rename(tx, user_id, device_id, display_name)
                for hook in self._on_rename:
                    hook(tx, user_id, [device_id])
            return known is None

        return await self._db.write(work)

    async def delete(self, user_id: str, device_ids: Collection[str]) -> None:
        """Deletes the devices, their tokens and pushers; those that are not there are passed over."""
        await self._db.write(lambda tx: self.delete_in(tx, user_id, device_ids))

    async def delete_all(self, user_id: str, *, but: str | None = None) -> None:
        """Deletes every device of the user, `but` excepted."""
        await self._db.write(lambda tx: self.delete_all_in(tx, user_id, but=but))

    def delete_in(self, tx: Transaction, user_id: str, device_ids: Collection[str]) -> None:
        """As `delete`, inside the caller's transaction."""
        gone = table.delete(tx, user_id, device_ids)
        if gone:
            for hook in self._on_delete:
                hook(tx, user_id, gone)
        tx.on_commit(lambda: self._tokens.forget(user_id, device_ids))

    def delete_all_in(self, tx: Transaction, user_id: str, *, but: str | None = None) -> None:
        """As `delete_all`, inside the caller's transaction."""
        self.delete_in(tx, user_id, [d.device_id for d in table.devices(tx, user_id) if d.device_id != but])


def check_name(display_name: str | None) -> None:
    """Raises M_INVALID_PARAM for a device's name of more than 256 characters."""
    if display_name is not None and len(display_name) > MAX_NAME:
        raise errors.InvalidParam(f"A device's name has at most {MAX_NAME} characters.")
