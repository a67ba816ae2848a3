"""Device lists: telling our users and other servers whose keys changed, and following the lists of remote users.

Spec: server-server API, "Device Management" (m.device_list_update) and "End-to-End Encryption" (m.signing_key_update);
client-server API, "Tracking the device list for a user".

A remote list is held only while some local user shares a room with its owner, since only then updates come. Updates
form a chain by `stream_id` and `prev_id`. Whatever breaks the chain marks the list stale, and the next key query asks for the
whole of it: a gap, ids that run backwards (the other server has been put back to an older copy of itself), a new master key
without a self-signing key, an owner who has come back to the only room that we share. Our clients are told of a change
each time, so that query comes, and what was lost on the way is healed by whatever comes next.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from edgeserver import wakeups as topics
from edgeserver.matrix.identifiers import domain_of, fits
from edgeserver.store import device_keys, device_lists, devices, outbox, rooms, to_device
from edgeserver.users import key_views, remote_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.store.database import Database, Transaction
    from edgeserver.wakeups import Wakeups

log = logging.getLogger(__name__)

MAX_PREVIOUS: Final = 100


class DeviceLists:
    """Changes of device lists. Methods that take `tx` run inside the transaction of what changed.

    `tell_names`: other servers are told the display names of our users' devices.
    """

    def __init__(self, db: Database, server_name: str, wakeups: Wakeups, *, tell_names: bool = False) -> None:
        self._db = db
        self._server_name = server_name
        self._wakeups = wakeups
        self._tell_names = tell_names

    # Our own users

    def device_changed(self, tx: Transaction, user_id: str, device_id: str, *, deleted: bool = False) -> None:
        """One device has new keys, signatures or another name, or is gone."""
        previous, stream_id = device_lists.note_update(tx, user_id)
        content = {} if deleted else self._device(tx, user_id, device_id)
        content |= {"user_id": user_id, "device_id": device_id, "stream_id": stream_id}
        content["prev_id"] = [] if previous is None else [previous]
        if deleted:
            content["deleted"] = True
        self._send(tx, rooms.servers_of_user(tx, user_id), "m.device_list_update", content)
        self._wake_sharers(tx, user_id)

    def devices_deleted(self, tx: Transaction, user_id: str, device_ids: Sequence[str]) -> None:
        """Hook for the deletion of devices: their keys and messages go; who held their keys is told."""
        for device_id in device_ids:
            to_device.forget_device(tx, user_id, device_id)
            if device_keys.remove_device(tx, user_id, device_id):
                self.device_changed(tx, user_id, device_id, deleted=True)

    def devices_renamed(self, tx: Transaction, user_id: str, device_ids: Sequence[str]) -> None:
        """Hook for new display names of devices: told if the devices have keys, since names go with them."""
        for device_id in device_ids:
            if device_keys.device_keys(tx, user_id, device_id) is not None:
                self.device_changed(tx, user_id, device_id)

    def cross_signing_changed(self, tx: Transaction, user_id: str) -> None:
        """The master or self-signing key has changed, or the owner's signatures on the master key."""
        device_lists.note_change(tx, user_id)
        keys = device_keys.user_keys(tx, user_id)
        content: dict[str, Any] = {"user_id": user_id}
        for usage in ("master", "self_signing"):
            key = key_views.cross_signing_key(user_id, keys, usage, None)
            if key is not None:
                content[f"{usage}_key"] = key
        self._send(tx, rooms.servers_of_user(tx, user_id), "m.signing_key_update", content, key=user_id)
        self._wake_sharers(tx, user_id)

    def changed_for(self, tx: Transaction, user_id: str, target: str) -> None:
        """What one user sees of the keys of `target` has changed, and nobody else sees it."""
        device_lists.note_private_change(tx, user_id, target)
        tx.on_commit(lambda: self._wakeups.notify([user_id]))

    def membership_changed(self, tx: Transaction, room: int, event: Event, number: int) -> None:
        """Hook for an event that became part of a room's state, `number` its numeric id; others than memberships pass.

        A local user who joins is made known to servers that did not share a room with them yet; remote lists that
        nobody here has a use for any more are dropped.
        """
        user_id = event.state_key
        if event.type != "m.room.member" or user_id is None:
            return
        joined = event.content.get("membership") == "join"
        if domain_of(user_id) != self._server_name:
            if not joined:
                device_lists.forget_unshared(tx, [user_id])
            elif not device_lists.shares_another_room(tx, user_id, room):  # what changed while no room was shared we were not told
                device_lists.mark_stale(tx, user_id)
        elif not joined:
            if not rooms.local_members(tx, room):
                device_lists.forget_unshared(tx, device_lists.remote_members_held(tx, room))
        elif not device_lists.was_joined_before(tx, number, user_id):
            self._introduce(tx, user_id, device_lists.new_servers(tx, user_id, room))

    def _introduce(self, tx: Transaction, user_id: str, servers: Sequence[str]) -> None:
        """One update without a predecessor: whoever needs the list will ask for the whole of it."""
        held = devices.devices(tx, user_id)
        if not servers or not held:
            return
        stream_id = device_lists.stream_id(tx, user_id)
        if stream_id is None:
            _, stream_id = device_lists.note_update(tx, user_id)
        with_keys = set(device_keys.device_ids(tx, user_id))
        device_id = next((each.device_id for each in held if each.device_id in with_keys), held[0].device_id)
        content = self._device(tx, user_id, device_id)
        content |= {"user_id": user_id, "device_id": device_id, "stream_id": stream_id, "prev_id": []}
        self._send(tx, servers, "m.device_list_update", content)

    def _device(self, tx: Transaction, user_id: str, device_id: str) -> dict[str, Any]:
        content: dict[str, Any] = {}
        keys = key_views.device(user_id, device_keys.user_keys(tx, user_id), device_id)
        if keys is not None:
            content["keys"] = keys
        known = devices.device(tx, user_id, device_id) if self._tell_names else None
        if known is not None and known.display_name is not None:
            content["device_display_name"] = known.display_name
        return content

    def _send(self, tx: Transaction, servers: Sequence[str], edu_type: str, content: dict[str, Any], key: str | None = None) -> None:
        others = [name for name in servers if name != self._server_name]
        if others:
            outbox.queue_edu(tx, others, edu_type, content, key)
            tx.on_commit(lambda: self._wakeups.notify([topics.OUTBOX]))

    def _wake_sharers(self, tx: Transaction, user_id: str) -> None:
        woken = {*device_lists.local_sharers(tx, user_id), user_id}
        tx.on_commit(lambda: self._wakeups.notify(woken))

    # Answers

    async def changes(self, user_id: str, since: int, upto: int | None = None) -> dict[str, list[str]]:
        """GET /keys/changes: {changed, left} between two sync tokens."""
        end = self._db.position if upto is None else upto
        changed, left = await self._db.read(lambda tx: device_lists.changed(tx, user_id, since, end))
        return {"changed": changed, "left": left}

    async def for_server(self, user_id: str) -> dict[str, Any]:
        """GET /_matrix/federation/v1/user/devices/{userId}: the whole list of one of our users."""

        def work(tx: Transaction) -> dict[str, Any]:
            keys = device_keys.user_keys(tx, user_id)
            listed = []
            for device_id in keys.devices:
                told = self._device(tx, user_id, device_id)
                listed.append({"device_id": device_id, **told})
            answer = {
                "user_id": user_id,
                "stream_id": device_lists.stream_id(tx, user_id) or 0,
                "devices": listed,
                "master_key": key_views.cross_signing_key(user_id, keys, "master", None),
                "self_signing_key": key_views.cross_signing_key(user_id, keys, "self_signing", None),
            }
            return {name: value for name, value in answer.items() if value is not None}

        return await self._db.read(work)

    # Remote users

    async def receive_update(self, user_id: str, content: dict[str, Any]) -> None:
        """An m.device_list_update from the user's own server; what is malformed is dropped."""
        device_id, stream_id = content.get("device_id"), content.get("stream_id")
        if not isinstance(device_id, str) or not fits(device_id) or type(stream_id) is not int:
            log.info("a malformed device list update for %s", user_id)
            return
        await self._db.write(lambda tx: self._follow(tx, user_id, device_id, stream_id, content))

    def _follow(self, tx: Transaction, user_id: str, device_id: str, stream_id: int, content: dict[str, Any]) -> None:
        if not device_lists.local_sharers(tx, user_id):
            return
        held = device_lists.remote_list(tx, user_id)
        if held is not None and not held[1]:
            if stream_id == held[0]:
                return
            if follows(held[0], stream_id, content.get("prev_id")):
                self._apply(tx, user_id, device_id, content)
                device_lists.set_remote_list(tx, user_id, stream_id)
            else:
                device_lists.mark_stale(tx, user_id)
        device_lists.note_change(tx, user_id)
        self._wake_sharers(tx, user_id)

    def _apply(self, tx: Transaction, user_id: str, device_id: str, content: dict[str, Any]) -> None:
        keys = remote_keys.device_keys_in(content.get("keys"), user_id, device_id)
        if content.get("deleted") is True or keys is None:
            device_keys.remove_device(tx, user_id, device_id)
        else:
            name = remote_keys.display_name_in(content.get("device_display_name"))
            device_keys.set_device_keys(tx, user_id, device_id, keys, name)

    async def receive_signing_keys(self, user_id: str, content: dict[str, Any]) -> None:
        """An m.signing_key_update from the user's own server; what is malformed is dropped."""
        found = {
            usage: remote_keys.cross_signing_key_in(content.get(f"{usage}_key"), user_id, usage) for usage in ("master", "self_signing")
        }

        def work(tx: Transaction) -> None:
            if not device_lists.local_sharers(tx, user_id):
                return
            if device_lists.remote_list(tx, user_id) is not None:
                before = device_keys.public_key(tx, user_id, "master")
                for usage, key in found.items():
                    if key is not None:
                        device_keys.set_cross_signing_key(tx, user_id, usage, *key)
                if found["self_signing"] is None and before not in (None, device_keys.public_key(tx, user_id, "master")):
                    device_keys.remove_cross_signing_key(tx, user_id, "self_signing")  # it was the old master key's
                    device_lists.mark_stale(tx, user_id)
            device_lists.note_change(tx, user_id)
            self._wake_sharers(tx, user_id)

        await self._db.write(work)


def follows(known: int | None, stream_id: int, previous: object) -> bool:
    """Whether an update with this `stream_id` and `prev_id` comes next after stream id `known`.

    Stream ids of a user grow, so whatever is not beyond `known` has been seen. Without a predecessor nothing can be
    said.
    """
    if known is None or stream_id < known or not isinstance(previous, list) or not 0 < len(previous) <= MAX_PREVIOUS:
        return False
    return all(type(each) is int and each <= known for each in previous)
