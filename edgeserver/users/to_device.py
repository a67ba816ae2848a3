"""Send-to-device messages, from our clients to devices here and elsewhere, and from other servers to devices here.

Spec: client-server API, "Send-to-Device messaging"; server-server API, the same (m.direct_to_device).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from edgeserver import wakeups as topics
from edgeserver.matrix import canonical_json, errors
from edgeserver.matrix.identifiers import domain_of, fits, is_user_id
from edgeserver.store import devices as device_table
from edgeserver.store import outbox
from edgeserver.store import to_device as table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeserver.store.database import Database, Transaction
    from edgeserver.wakeups import Wakeups

log = logging.getLogger(__name__)

ALL_DEVICES: Final = "*"
MAX_MESSAGE: Final = 61_440
"""Bytes of one message's content: with what goes around it, it fits the 64 KiB that servers take in one EDU."""
EDU_BYTES: Final = 16_384
"""Messages for one server are put together into EDUs of about this size, so that a thin line can interleave others."""
MAX_RECIPIENTS: Final = 5000
TIDY_EVERY: Final = 200
"""After so many messages of other servers, the ids of the one that sent the last are trimmed."""

Messages = dict[str, dict[str, dict[str, Any]]]
"""User id → device id or `*` → content"""


class ToDevice:
    """Sends and receives messages to devices."""

    def __init__(self, db: Database, server_name: str, wakeups: Wakeups, now_ms: Callable[[], int]) -> None:
        self._db = db
        self._server_name = server_name
        self._wakeups = wakeups
        self._now_ms = now_ms
        self._received = 0

    async def send(self, sender: str, device_id: str, event_type: str, txn_id: str, messages: object) -> None:
        """PUT /sendToDevice/{eventType}/{txnId}; the same once more does nothing.

        Raises M_BAD_JSON, and M_TOO_LARGE for a message of more than 60 KiB or to more than 5,000 devices.
        """
        if not fits(event_type):
            raise errors.InvalidParam("The event type is too long.")
        checked = checked_messages(messages)
        if checked is None:
            raise errors.BadJson("messages must map user ids to devices and contents.")
        if sum(map(len, checked.values())) > MAX_RECIPIENTS:
            raise errors.TooLarge(f"A message goes to at most {MAX_RECIPIENTS} devices at once.")
        if any(size > MAX_MESSAGE for _, _, size in _sized(checked)):
            raise errors.TooLarge(f"A message has at most {MAX_MESSAGE} bytes.")

        def work(tx: Transaction) -> None:
            now = self._now_ms()
            if not table.first_sending(tx, sender, device_id, f"{event_type}/{txn_id}", now):
                return
            self._deliver(tx, sender, event_type, checked)
            remote: dict[str, Messages] = {}
            for user_id, devices in checked.items():
                if domain_of(user_id) != self._server_name:
                    remote.setdefault(domain_of(user_id), {})[user_id] = devices
            for server_name, theirs in remote.items():
                self._queue(tx, server_name, sender, event_type, theirs, now)

        await self._db.write(work)

    async def receive(self, origin: str, sender: str, event_type: str, message_id: str, messages: Messages) -> None:
        """An m.direct_to_device of another server, `sender` being a user of it; what came before is dropped."""
        if not fits(event_type) or sum(map(len, messages.values())) > MAX_RECIPIENTS:
            log.info("%s sent a message to devices beyond what is allowed", origin)
            return
        self._received += 1
        tidy = self._received % TIDY_EVERY == 0

        def work(tx: Transaction) -> None:
            if table.first_receipt(tx, origin, message_id, self._now_ms()):
                self._deliver(tx, sender, event_type, messages)
            if tidy:
                table.keep_newest_ids(tx, origin)

        await self._db.write(work)

    def deliver(self, tx: Transaction, sender: str, event_type: str, messages: Messages) -> None:
        """Hands messages of the server itself to devices here, inside the caller's transaction."""
        self._deliver(tx, sender, event_type, messages)

    def _deliver(self, tx: Transaction, sender: str, event_type: str, messages: Messages) -> None:
        """To devices of this server that exist; a device that is named beside `*` gets what is meant for it alone."""
        woken = set()
        for user_id, by_device in messages.items():
            if domain_of(user_id) != self._server_name:
                continue
            for device in device_table.devices(tx, user_id):
                content = by_device.get(device.device_id, by_device.get(ALL_DEVICES))
                if content is not None:
                    event = {"sender": sender, "type": event_type, "content": content}
                    if table.add(tx, user_id, device.device_id, event):
                        woken.add(user_id)
        if woken:
            tx.on_commit(lambda: self._wakeups.notify(woken))

    def _queue(self, tx: Transaction, server_name: str, sender: str, event_type: str, messages: Messages, now: int) -> None:
        for part in in_parts(messages):
            # The stream position makes it unique, the time keeps it so if an older copy of the database is put back.
            message_id = f"{now:x}.{tx.stream():x}"
            content = {"sender": sender, "type": event_type, "message_id": message_id, "messages": part}
            outbox.queue_edu(tx, [server_name], "m.direct_to_device", content)
        tx.on_commit(lambda: self._wakeups.notify([topics.OUTBOX]))


def checked_messages(value: object) -> Messages | None:
    """`value` if it maps user ids to device ids to objects; else None."""
    if not isinstance(value, dict):
        return None
    for user_id, devices in value.items():
        if not is_user_id(user_id) or not isinstance(devices, dict):
            return None
        if not all(isinstance(content, dict) for content in devices.values()):
            return None
    return value


def in_parts(messages: Messages) -> Iterator[Messages]:
    """Splits messages into parts of about EDU_BYTES; a larger message is a part of its own."""
    part: Messages = {}
    used = 0
    for user_id, device_id, size in _sized(messages):
        if part and used + size > EDU_BYTES:
            yield part
            part, used = {}, 0
        part.setdefault(user_id, {})[device_id] = messages[user_id][device_id]
        used += size
    if part:
        yield part


def _sized(messages: Messages) -> Iterator[tuple[str, str, int]]:
    for user_id, devices in messages.items():
        for device_id, content in devices.items():
            try:
                size = len(canonical_json.encode_loose(content))
            except canonical_json.CanonicalJSONError as error:
                raise errors.BadJson("A message has no canonical form.") from error
            yield user_id, device_id, size + len(user_id) + len(device_id)
