"""Events: a PDU, the rules of its room, and what follows from both.

Spec: server-server API, "Signing Events" (content hash, reference hash); rooms/v1, v3, v4 and v12 for event and room
ids; client-server API, "Room event format", for what clients see.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeserver.matrix import canonical_json
from edgeserver.matrix.redaction import redact
from edgeserver.matrix.room_versions import EventFormat
from edgeserver.matrix.signatures import encode_base64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.matrix.room_versions import RoomVersion

_NOT_HASHED = frozenset({"unsigned", "signatures", "hashes"})
_CREATE = "m.room.create"
_REDACTION = "m.room.redaction"


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One event. Two are equal if their ids are.

    `pdu` is the event as servers exchange it and must never be changed; `content` is its content. `state_key` is None
    if the event is not a state event. `origin_server_ts` is in milliseconds. `room_id` of a create event of version 12,
    whose PDU has none, is the one that follows from its hash.
    """

    event_id: str
    room_id: str
    type: str
    state_key: str | None
    sender: str
    content: dict[str, Any]
    depth: int
    origin_server_ts: int
    prev_events: tuple[str, ...]
    auth_events: tuple[str, ...]
    pdu: dict[str, Any]
    rules: RoomVersion

    @classmethod
    def from_pdu(cls, pdu: dict[str, Any], rules: RoomVersion, *, event_id: str | None = None) -> Event:
        """An event from a PDU whose shape is sound: one of ours, one from the store, or one past `pdu_checks`.

        `event_id` spares the hash where the id is known already (a row of the store).
        Raises KeyError or CanonicalJSONError if the shape is not sound after all.
        """
        if event_id is None:
            event_id = event_id_of(pdu, rules)
        room_id = pdu.get("room_id")
        if room_id is None:
            if not (rules.room_id_is_create_hash and pdu["type"] == _CREATE):
                raise KeyError("room_id")
            room_id = "!" + event_id[1:]
        prev_events, auth_events = pdu["prev_events"], pdu["auth_events"]
        if rules.event_format is EventFormat.V1:
            prev_events, auth_events = [ref[0] for ref in prev_events], [ref[0] for ref in auth_events]
        return cls(
            event_id,
            room_id,
            pdu["type"],
            pdu.get("state_key"),
            pdu["sender"],
            pdu["content"],
            pdu["depth"],
            pdu["origin_server_ts"],
            tuple(prev_events),
            tuple(auth_events),
            pdu,
            rules,
        )

    @property
    def is_state(self) -> bool:
        """Whether this is a state event: it has a state key, be it empty."""
        return self.state_key is not None

    @property
    def redacts(self) -> str | None:
        """The id of the event that this m.room.redaction redacts; None for any other event."""
        if self.type != _REDACTION:
            return None
        target = (self.content if self.rules.redacts_in_content else self.pdu).get("redacts")
        return target if isinstance(target, str) else None

    def redacted(self) -> Event:
        """This event with everything removed that a redaction removes. Its id stays."""
        return Event.from_pdu(redact(self.pdu, self.rules), self.rules, event_id=self.event_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self.event_id == other.event_id

    def __hash__(self) -> int:
        return hash(self.event_id)


def content_hash(pdu: Mapping[str, Any]) -> str:
    """The hash over the whole event that `hashes.sha256` must state: unpadded standard base64.

    Spec: server-server API, "Calculating the content hash for an event".
    """
    covered = {key: value for key, value in pdu.items() if key not in _NOT_HASHED}
    return encode_base64(hashlib.sha256(canonical_json.encode_lenient(covered)).digest())


def signed_bytes(pdu: Mapping[str, Any], rules: RoomVersion) -> bytes:
    """What a server signs of an event, and what its reference hash is over: the redacted event without signatures.

    Spec: server-server API, "Signing Events" and "Calculating the reference hash for an event".
    """
    kept = redact(pdu, rules)
    kept.pop("signatures", None)
    return canonical_json.encode_lenient(kept)


def reference_hash(pdu: Mapping[str, Any], rules: RoomVersion) -> bytes:
    """The hash that identifies an event: 32 bytes of SHA-256."""
    return hashlib.sha256(signed_bytes(pdu, rules)).digest()


def event_id_of(pdu: Mapping[str, Any], rules: RoomVersion) -> str:
    """The id of the event: stated by the PDU in room versions 1 and 2, its reference hash from 3 on."""
    if rules.events_name_themselves:
        return str(pdu["event_id"])
    digest = reference_hash(pdu, rules)
    if rules.event_format is EventFormat.V3:
        return "$" + encode_base64(digest)
    return "$" + urlsafe_b64encode(digest)[:-1].decode("ascii")


def client_event(
    event: Event, *, unsigned: Mapping[str, Any] | None = None, with_room_id: bool = True
) -> dict[str, Any]:
    """The event as clients see it; without `room_id` for a sync response, which files events by room.

    `redacts` is shown both at the top level and in the content, wherever the room version keeps it (rooms/v11).
    The caller owns the result's top level; `content` may be the event's own. What the PDU's `unsigned` says is not
    shown: `unsigned` is the caller's.
    """
    shown: dict[str, Any] = {
        "content": event.content,
        "event_id": event.event_id,
        "origin_server_ts": event.origin_server_ts,
        "sender": event.sender,
        "type": event.type,
    }
    if with_room_id:
        shown["room_id"] = event.room_id
    if event.state_key is not None:
        shown["state_key"] = event.state_key
    redacts = event.redacts
    if redacts is not None:
        shown["redacts"] = redacts
        shown["content"] = {**event.content, "redacts": redacts}
    if unsigned:
        shown["unsigned"] = dict(unsigned)
    return shown


def stripped_state(event: Event) -> dict[str, Any]:
    """A state event as someone outside the room sees it (client-server API, "Stripped state").

    Between servers stripped state is whole PDUs: `event.pdu` (MSC4311).
    """
    return {
        "content": event.content,
        "sender": event.sender,
        "state_key": event.state_key,
        "type": event.type,
    }
