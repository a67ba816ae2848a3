"""Dehydrated devices: a device that nobody holds, kept here for its owner, so that keys reach who is logged in nowhere.

MSC3814. A user has one at most. It is a device like any other to who encrypts to it; what makes it special is that it has no
session, and that whoever owns it may read the messages for it as often as they like: what wakes it may fail half way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import canonical_json, errors
from edgeserver.matrix.identifiers import fits
from edgeserver.store import dehydrated_devices as table
from edgeserver.store import devices as device_table
from edgeserver.store import to_device
from edgeserver.users.devices import check_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.store.database import Database, Transaction
    from edgeserver.users.device_keys import DeviceKeys
    from edgeserver.users.devices import Devices

MAX_DATA: Final = 256 * 1024
"""Bytes of `device_data`: the private keys of a thousand one-time keys, and room to spare."""
MAX_LIMIT: Final = 100
"""Messages in one batch."""
_FAR: Final = 2**62


class DehydratedDevices:
    """Keeps them. Deleting one is deleting a device: its data goes with it (`store.devices.delete`)."""

    def __init__(self, db: Database, devices: Devices, device_keys: DeviceKeys) -> None:
        self._db = db
        self._devices = devices
        self._device_keys = device_keys

    async def put(self, user_id: str, body: Mapping[str, Any]) -> str:
        """PUT /dehydrated_device; returns the device's id. An older one is deleted.

        Raises M_MISSING_PARAM, M_BAD_JSON, M_TOO_LARGE, what /keys/upload raises, and M_INVALID_PARAM for the id of a device that
        somebody is logged in with.
        """
        device_id, name, data = _checked(body)
        uploaded = self._device_keys.checked(user_id, device_id, body)

        def work(tx: Transaction) -> None:
            held = table.device_id(tx, user_id)
            if held != device_id and device_table.device(tx, user_id, device_id) is not None:
                raise errors.InvalidParam("There is a device of that id already.")
            if held is not None:
                self._devices.delete_in(tx, user_id, [held])
            device_table.ensure(tx, user_id, device_id, name)
            table.put(tx, user_id, device_id, data)
            self._device_keys.keep(tx, user_id, device_id, uploaded)

        await self._db.write(work)
        return device_id

    async def get(self, user_id: str) -> tuple[str, dict[str, Any]]:
        """GET /dehydrated_device: id and data. Raises M_NOT_FOUND."""
        found = await self._db.read(lambda tx: table.get(tx, user_id))
        if found is None:
            raise errors.NotFound("There is no dehydrated device.")
        return found

    async def device_id(self, user_id: str) -> str | None:
        """The id of the user's dehydrated device, if there is one."""
        return await self._db.read(lambda tx: table.device_id(tx, user_id))

    async def delete(self, user_id: str) -> str:
        """DELETE /dehydrated_device; returns its id. Raises M_NOT_FOUND."""

        def work(tx: Transaction) -> str:
            held = table.device_id(tx, user_id)
            if held is None:
                raise errors.NotFound("There is no dehydrated device.")
            self._devices.delete_in(tx, user_id, [held])
            return held

        return await self._db.write(work)

    async def events(self, user_id: str, device_id: str, after: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        """The messages for the device after a stream position, and the position of the last of them. Nothing is deleted.

        Raises M_FORBIDDEN unless that is the user's dehydrated device.
        """

        def work(tx: Transaction) -> list[tuple[int, dict[str, Any]]]:
            if table.device_id(tx, user_id) != device_id:
                raise errors.Forbidden("That is not your dehydrated device.")
            return to_device.pending(tx, user_id, device_id, after, _FAR, max(1, min(limit, MAX_LIMIT)))

        found = await self._db.read(work)
        return [message for _, message in found], found[-1][0] if found else after


def _checked(body: Mapping[str, Any]) -> tuple[str, str | None, dict[str, Any]]:
    device_id, name, data = (body.get(key) for key in ("device_id", "initial_device_display_name", "device_data"))
    if device_id is None or data is None or body.get("device_keys") is None:
        raise errors.MissingParam("device_id, device_data and device_keys are required.")
    if type(device_id) is not str or not device_id or not fits(device_id):
        raise errors.InvalidParam("device_id is not a text of at most 255 bytes.")
    if name is not None and type(name) is not str:
        raise errors.BadJson("initial_device_display_name is not a string.")
    check_name(name)
    if type(data) is not dict or type(data.get("algorithm")) is not str:
        raise errors.BadJson("device_data is not an object with an algorithm.")
    try:
        size = len(canonical_json.encode_loose(data))
    except canonical_json.CanonicalJSONError as error:
        raise errors.BadJson("device_data has no canonical form.") from error
    if size > MAX_DATA:
        raise errors.TooLarge(f"device_data has at most {MAX_DATA} bytes.")
    return device_id, name, data
