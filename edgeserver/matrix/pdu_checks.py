"""What can be said of a PDU without knowing its room: its shape, its size, its hash, its signatures.

Spec: server-server API, "Checks performed on receipt of a PDU", steps 1 to 3; client-server API, "Size limits";
rooms/v1, v3, v4 and v12, "Event format". Steps 4 and on need the room's state and are `auth`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import canonical_json, identifiers
from edgeserver.matrix.event import Event, content_hash, signed_bytes
from edgeserver.matrix.room_versions import EventFormat
from edgeserver.matrix.signatures import ALGORITHM, SignatureError, decode_base64, signatures_by, verify
from edgeserver.matrix.verdicts import ACCEPTED, Accepted, Dropped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeserver.matrix.room_versions import RoomVersion

MAX_KEYS_TRIED: Final = 10
"""Signatures by more keys than this of one server are not looked at: each may cost a lookup over a thin line."""

_IS_EVENT_ID: Mapping[EventFormat, Callable[[str], bool]] = {
    EventFormat.V1: identifiers.is_domain_event_id,
    EventFormat.V3: identifiers.is_standard_event_id,
    EventFormat.V4: identifiers.is_url_safe_event_id,
}


class _Malformed(Exception):
    """The PDU breaks the rule that the message names."""


@dataclass(frozen=True, slots=True)
class RequiredSignature:
    """A server that must have signed an event, and the keys (ids) by which it claims to have done so.

    No key ids: it has not signed, and the event is to be dropped.
    """

    server_name: str
    key_ids: tuple[str, ...]


def open_pdu(pdu: Any, rules: RoomVersion) -> Event | Dropped:
    """An event from what another server sent, or why it is none.

    `unsigned` is taken off: it is not signed, so whatever passed it on may have written it.
    Hash and signatures are not yet checked.
    """
    if isinstance(pdu, dict) and "unsigned" in pdu:
        pdu = {key: value for key, value in pdu.items() if key != "unsigned"}
    verdict = check_format(pdu, rules)
    return verdict if isinstance(verdict, Dropped) else Event.from_pdu(pdu, rules)


def check_format(pdu: Any, rules: RoomVersion) -> Accepted | Dropped:
    """Step 1: is this a PDU of the room version, within all limits? `pdu` may be any JSON value."""
    try:
        if not isinstance(pdu, dict):
            raise _Malformed("not an object")
        _check_fields(pdu, rules)
        _check_references(pdu, rules)
        _check_size(pdu, rules)
    except _Malformed as broken:
        return Dropped(str(broken))
    return ACCEPTED


def is_too_large(pdu: Mapping[str, Any], rules: RoomVersion) -> bool:
    """Whether a PDU that has canonical form is beyond the size limits of the whole, its type or its state key.

    `check_format` says so too; this tells a client's fault of size from one of shape.
    """
    limit = rules.limits.field_bytes
    fields = (pdu.get("type"), pdu.get("state_key"))
    if any(isinstance(field, str) and not identifiers.fits(field, limit) for field in fields):
        return True
    encode = canonical_json.encode_checked if rules.strict_canonical_json else canonical_json.encode_lenient
    return len(encode(pdu)) > rules.limits.pdu_bytes


def check_hash(event: Event) -> bool:
    """Step 3: is the content what its author hashed? If not, the event is to be used in its redacted form."""
    stated = event.pdu["hashes"].get("sha256")
    try:
        return isinstance(stated, str) and decode_base64(stated) == decode_base64(content_hash(event.pdu))
    except ValueError:
        return False


def required_signatures(event: Event) -> tuple[RequiredSignature, ...]:
    """Step 2: whose signatures the event needs ("Validating hashes and signatures on received events")."""
    servers: list[str] = []
    membership = event.content.get("membership") if event.type == "m.room.member" else None
    # The sender's server, unless an identity server's invite was turned into this one by another server.
    if not (membership == "invite" and "third_party_invite" in event.content):
        servers.append(identifiers.domain_of(event.sender))
    # Room versions 1 and 2: the server that named the event.
    if event.rules.events_name_themselves:
        servers.append(identifiers.domain_of(event.event_id))
    # Restricted joins: the server of the user who authorises it.
    authoriser = event.content.get("join_authorised_via_users_server")
    if event.rules.restricted and membership == "join" and authoriser is not None:
        servers.append(identifiers.domain_of(authoriser) if isinstance(authoriser, str) else "")
    return tuple(RequiredSignature(server, _key_ids(event, server)) for server in dict.fromkeys(servers))


def check_signatures(event: Event, keys: Mapping[tuple[str, str], bytes]) -> Accepted | Dropped:
    """Step 2: has each required server signed, with a key among `keys`?

    `keys` maps (server name, key id) to the public key (32 bytes). Only keys that were valid at the event's
    `origin_server_ts` belong there if `rules.enforce_key_validity`.
    """
    message = signed_bytes(event.pdu, event.rules)
    for required in required_signatures(event):
        found = signatures_by(event.pdu, required.server_name)
        for key_id in required.key_ids:
            key = keys.get((required.server_name, key_id))
            if key is not None and _is_signed(message, found[key_id], key):
                break
        else:
            return Dropped(f"no valid signature of {required.server_name}")
    return ACCEPTED


def _key_ids(event: Event, server_name: str) -> tuple[str, ...]:
    found = signatures_by(event.pdu, server_name)
    usable = (key for key in found if key.startswith(f"{ALGORITHM}:") and identifiers.is_key_id(key))
    return tuple(usable)[:MAX_KEYS_TRIED]


def _is_signed(message: bytes, signature: str, key: bytes) -> bool:
    try:
        verify(message, signature, key)
    except SignatureError:
        return False
    return True


def _check_fields(pdu: dict[str, Any], rules: RoomVersion) -> None:
    limit = rules.limits.field_bytes
    if not isinstance(pdu.get("type"), str) or not identifiers.fits(pdu["type"], limit):
        raise _Malformed("type is not a string of at most 255 bytes")
    if "state_key" in pdu and not (isinstance(pdu["state_key"], str) and identifiers.fits(pdu["state_key"], limit)):
        raise _Malformed("state_key is not a string of at most 255 bytes")
    if not identifiers.is_user_id(pdu.get("sender")):
        raise _Malformed("sender is not a user id")
    _check_room_id(pdu, rules)
    for name in ("content", "hashes", "signatures"):
        if not isinstance(pdu.get(name), dict):
            raise _Malformed(f"{name} is not an object")
    if not isinstance(pdu["hashes"].get("sha256"), str):
        raise _Malformed("hashes has no sha256")
    if not isinstance(pdu.get("unsigned", {}), dict):
        raise _Malformed("unsigned is not an object")
    if type(pdu.get("origin_server_ts")) is not int:
        raise _Malformed("origin_server_ts is not an integer")
    if type(pdu.get("depth")) is not int or not 0 <= pdu["depth"] <= rules.limits.depth:
        raise _Malformed("depth is out of range")


def _check_room_id(pdu: dict[str, Any], rules: RoomVersion) -> None:
    room_id = pdu.get("room_id")
    if not rules.room_id_is_create_hash:
        if not isinstance(room_id, str) or not identifiers.is_domain_room_id(room_id):
            raise _Malformed("room_id is not a room id")
    # rooms/v12: the room id is the hash of the create event, which cannot state it.
    elif pdu["type"] == "m.room.create":
        if "room_id" in pdu:
            raise _Malformed("a create event has no room_id")
    elif not isinstance(room_id, str) or not identifiers.is_hash_room_id(room_id):
        raise _Malformed("room_id is not a room id")


def _check_references(pdu: dict[str, Any], rules: RoomVersion) -> None:
    is_event_id = _IS_EVENT_ID[rules.event_format]
    if rules.events_name_themselves and not (isinstance(pdu.get("event_id"), str) and is_event_id(pdu["event_id"])):
        raise _Malformed("event_id is not an event id")
    for name, limit in (("prev_events", rules.limits.prev_events), ("auth_events", rules.limits.auth_events)):
        references = pdu.get(name)
        if not isinstance(references, list) or len(references) > limit:
            raise _Malformed(f"{name} is not a list of at most {limit} events")
        for reference in references:
            if rules.events_name_themselves:
                if not (isinstance(reference, list) and len(reference) == 2 and isinstance(reference[1], dict)):
                    raise _Malformed(f"{name} holds something that is not an event id with hashes")
                reference = reference[0]
            if not isinstance(reference, str) or not is_event_id(reference):
                raise _Malformed(f"{name} holds something that is not an event id")


def _check_size(pdu: dict[str, Any], rules: RoomVersion) -> None:
    try:
        if rules.strict_canonical_json:
            canonical_json.check(pdu)
            size = len(canonical_json.encode_checked(pdu))
        else:
            size = len(canonical_json.encode_lenient(pdu))
    except canonical_json.CanonicalJSONError as error:
        raise _Malformed(str(error)) from error
    if size > rules.limits.pdu_bytes:
        raise _Malformed(f"larger than {rules.limits.pdu_bytes} bytes")
