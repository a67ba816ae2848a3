"""Server-side backup of room keys. Spec: client-server API, "Server-side key backups"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import canonical_json, errors
from edgeserver.matrix.identifiers import fits
from edgeserver.store import key_backup as table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.key_backup import Backup

MAX_AUTH_DATA: Final = 65_536
MAX_SESSION_DATA: Final = 16_384
MAX_INDEX: Final = 2**53 - 1

Rooms = dict[str, dict[str, dict[str, Any]]]
"""Room id → session id → key data"""


class KeyBackup:
    """The backups of our users. Versions are told as strings; one that is no number was never given out."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # Versions

    async def create(self, user_id: str, body: Mapping[str, Any]) -> str:
        """POST /room_keys/version. Raises M_BAD_JSON."""
        algorithm, auth_data = _checked_version(body)
        return str(await self._db.write(lambda tx: table.create(tx, user_id, algorithm, auth_data)))

    async def version(self, user_id: str, version: str | None = None) -> dict[str, Any]:
        """GET /room_keys/version, of the current one or the one that is named. Raises M_NOT_FOUND."""
        backup = await self._db.read(lambda tx: _existing(tx, user_id, version))
        return {
            "algorithm": backup.algorithm,
            "auth_data": backup.auth_data,
            "version": str(backup.version),
            **_state(backup),
        }

    async def update(self, user_id: str, version: str, body: Mapping[str, Any]) -> None:
        """PUT /room_keys/version/{version}. Raises M_INVALID_PARAM if algorithm or version differ, M_NOT_FOUND."""
        algorithm, auth_data = _checked_version(body)
        if body.get("version", version) != version:
            raise errors.InvalidParam("The version in the body is not the one in the path.")

        def work(tx: Transaction) -> None:
            backup = _existing(tx, user_id, version)
            if backup.algorithm != algorithm:
                raise errors.InvalidParam("The algorithm of a backup cannot be changed.")
            table.set_auth_data(tx, user_id, backup.version, auth_data)

        await self._db.write(work)

    async def delete(self, user_id: str, version: str) -> None:
        """DELETE /room_keys/version/{version}; one that was deleted before is well. Raises M_NOT_FOUND."""

        def work(tx: Transaction) -> None:
            backup = table.version(tx, user_id, _number(version))
            if backup is None:
                raise errors.NotFound("You have no such backup version.")
            table.delete_version(tx, user_id, backup.version)

        await self._db.write(work)

    # Keys

    async def put(self, user_id: str, version: str, rooms: Rooms) -> dict[str, Any]:
        """PUT /room_keys/keys…, with `rooms` checked; returns {etag, count}.

        Raises M_WRONG_ROOM_KEYS_VERSION if there is a newer version, M_NOT_FOUND if there is no such version.
        """

        def work(tx: Transaction) -> dict[str, Any]:
            backup = _existing(tx, user_id, version)
            newest = table.newest(tx, user_id)
            if newest is not None and newest.version != backup.version:
                raise errors.WrongRoomKeysVersion(str(newest.version))
            changed, added = False, 0
            for room_id, sessions in rooms.items():
                for session_id, key in sessions.items():
                    is_changed, is_new = table.put_key(tx, user_id, backup.version, room_id, session_id, key)
                    changed |= is_changed
                    added += is_new
            if changed:
                table.touch(tx, user_id, backup.version, added)
            return _state(_existing(tx, user_id, version))

        return await self._db.write(work)

    async def get(self, user_id: str, version: str, room_id: str | None = None, session_id: str | None = None) -> bytes:
        """GET /room_keys/keys…: the body as JSON bytes, since a backup may hold very many keys. Raises M_NOT_FOUND."""

        def work(tx: Transaction) -> bytes:
            backup = _existing(tx, user_id, version)
            found = table.keys(tx, user_id, backup.version, room_id, session_id)
            if room_id is None:
                return b'{"rooms":' + _joined({room: _sessions(keys) for room, keys in found.items()}) + b"}"
            if session_id is None:
                return _sessions(found.get(room_id, {}))
            if room_id not in found:
                raise errors.NotFound("The backup has no such key.")
            return found[room_id][session_id]

        return await self._db.read(work)

    async def delete_keys(self, user_id: str, version: str, room_id: str | None = None, session_id: str | None = None) -> dict[str, Any]:
        """DELETE /room_keys/keys…; returns {etag, count}. Raises M_NOT_FOUND."""

        def work(tx: Transaction) -> dict[str, Any]:
            backup = _existing(tx, user_id, version)
            deleted = table.delete_keys(tx, user_id, backup.version, room_id, session_id)
            if deleted:
                table.touch(tx, user_id, backup.version, -deleted)
            return _state(_existing(tx, user_id, version))

        return await self._db.write(work)


def _number(version: str) -> int:
    """-1 for what cannot be one of our versions."""
    return int(version) if version.isascii() and version.isdecimal() and len(version) < 16 else -1


def _existing(tx: Transaction, user_id: str, version: str | None) -> Backup:
    backup = table.newest(tx, user_id) if version is None else table.version(tx, user_id, _number(version))
    if backup is None or backup.deleted:
        raise errors.NotFound("No current backup version." if version is None else "You have no such backup version.")
    return backup


def _state(backup: Backup) -> dict[str, Any]:
    return {"etag": str(backup.etag), "count": backup.count}


def _joined(members: Mapping[str, bytes]) -> bytes:
    return b"{" + b",".join(canonical_json.encode(name) + b":" + value for name, value in members.items()) + b"}"


def _sessions(keys: Mapping[str, bytes]) -> bytes:
    return b'{"sessions":' + _joined(keys) + b"}"


def _checked_version(body: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    algorithm, auth_data = body.get("algorithm"), body.get("auth_data")
    if not isinstance(algorithm, str) or not fits(algorithm) or not isinstance(auth_data, dict):
        raise errors.BadJson("A backup has an algorithm and auth_data.")
    _bound(auth_data, MAX_AUTH_DATA)
    return algorithm, auth_data


def checked_key(value: object) -> dict[str, Any]:
    """KeyBackupData. Raises M_BAD_JSON, M_TOO_LARGE."""
    if not isinstance(value, dict):
        raise errors.BadJson("Key data is an object.")
    if type(value.get("is_verified")) is not bool or not isinstance(value.get("session_data"), dict):
        raise errors.BadJson("Key data has is_verified and session_data.")
    for name in ("first_message_index", "forwarded_count"):
        number = value.get(name)
        if type(number) is not int or not 0 <= number <= MAX_INDEX:
            raise errors.BadJson(f"{name} is a whole number.")
    _bound(value["session_data"], MAX_SESSION_DATA)
    return value


def checked_sessions(value: object) -> dict[str, dict[str, Any]]:
    """RoomKeyBackup, `{"sessions": {…}}`: session id → key data. Raises M_BAD_JSON, M_TOO_LARGE."""
    sessions = value.get("sessions") if isinstance(value, dict) else None
    if not isinstance(sessions, dict) or not all(fits(session_id) for session_id in sessions):
        raise errors.BadJson("The keys of a room are in its sessions.")
    return {session_id: checked_key(key) for session_id, key in sessions.items()}


def checked_rooms(value: object) -> Rooms:
    """`{"rooms": {…}}`: room id → session id → key data. Raises M_BAD_JSON, M_TOO_LARGE."""
    rooms = value.get("rooms") if isinstance(value, dict) else None
    if not isinstance(rooms, dict) or not all(fits(room_id) for room_id in rooms):
        raise errors.BadJson("The keys are in rooms.")
    return {room_id: checked_sessions(sessions) for room_id, sessions in rooms.items()}


def _bound(value: dict[str, Any], limit: int) -> None:
    try:
        size = len(canonical_json.encode_loose(value))
    except canonical_json.CanonicalJSONError as error:
        raise errors.BadJson("The data has no canonical form.") from error
    if size > limit:
        raise errors.TooLarge
