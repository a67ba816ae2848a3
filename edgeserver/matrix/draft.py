"""New events: from what somebody wants to say to a hashed and signed PDU.

Spec: server-server API, "Signing Events" and "Joining Rooms" (templates); rooms/v1, v3, v4, v11 and v12, "Event format".
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Any

from edgeserver.matrix import canonical_json, pdu_checks
from edgeserver.matrix.errors import BadJson, TooLarge
from edgeserver.matrix.event import Event, content_hash, reference_hash, signed_bytes
from edgeserver.matrix.signatures import encode_base64, with_signature
from edgeserver.matrix.verdicts import Dropped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.matrix.signatures import SigningKey


def depth_after(depths: Iterable[int], rules: RoomVersion) -> int:
    """The depth of an event whose `prev_events` have these depths: one more than the greatest; 1 for none."""
    return min(max(depths, default=0) + 1, rules.limits.drafted_depth)


def references(found: Iterable[Event]) -> list[Any]:
    """`prev_events` or `auth_events` that name these events of one room, as its version writes them.

    An id each; in versions 1 and 2 `[event_id, {"sha256": …}]` with the reference hash, which stays when the event is
    redacted.
    """
    return [
        [event.event_id, {"sha256": encode_base64(reference_hash(event.pdu, event.rules))}]
        if event.rules.events_name_themselves
        else event.event_id
        for event in found
    ]


def template(
    rules: RoomVersion,
    *,
    room_id: str | None,
    sender: str,
    event_type: str,
    content: Mapping[str, Any],
    prev_events: Sequence[Any],
    auth_events: Sequence[Any],
    depth: int,
    origin_server_ts: int,
    state_key: str | None = None,
    redacts: str | None = None,
    unsigned: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An event without hash and signatures, as `/make_join` and its kin answer it.

    `origin_server_ts` is in milliseconds. `room_id` is None for the create event of a version 12 room and only there.
    `prev_events` and `auth_events` are `references`. `redacts` goes where the room version keeps it.
    """
    pdu: dict[str, Any] = {
        "type": event_type,
        "sender": sender,
        "content": dict(content),
        "prev_events": list(prev_events),
        "auth_events": list(auth_events),
        "depth": depth,
        "origin_server_ts": origin_server_ts,
    }
    if room_id is not None:
        pdu["room_id"] = room_id
    if state_key is not None:
        pdu["state_key"] = state_key
    if redacts is not None:
        (pdu["content"] if rules.redacts_in_content else pdu)["redacts"] = redacts
    if unsigned:
        pdu["unsigned"] = dict(unsigned)
    return pdu


def complete(proto: Mapping[str, Any], rules: RoomVersion, server_name: str, key: SigningKey) -> Event:
    """Hash and sign a template, ours or one that another server answered to `/make_join`.

    Hashes, signatures and an event id that it may have already are thrown away; an event of room versions 1 and 2 is
    named anew, by this server. Whether it says what we mean to sign (sender, room, membership) is for the caller to have
    checked.
    Raises TooLarge if the event, its type or its state key is beyond a size limit, BadJson if it is no PDU of this room
    version: floats (from version 6 on), a sender that is not a user id, and so on.
    """
    pdu = {name: value for name, value in proto.items() if name not in ("hashes", "signatures", "event_id")}
    try:
        if rules.strict_canonical_json:
            canonical_json.check(pdu)
        if rules.events_name_themselves:
            pdu["event_id"] = _own_name(pdu, server_name)
        pdu["hashes"] = {"sha256": content_hash(pdu)}
        message = signed_bytes(pdu, rules)
    except canonical_json.CanonicalJSONError as error:
        raise BadJson(f"The event is not valid: {error}.") from error
    except (KeyError, AttributeError, TypeError) as error:
        raise BadJson("The event lacks its type or its content.") from error
    signed = with_signature(pdu, server_name, key.key_id, encode_base64(key.sign(message)))
    if pdu_checks.is_too_large(signed, rules):
        raise TooLarge("The event is too large.")
    verdict = pdu_checks.check_format(signed, rules)
    if isinstance(verdict, Dropped):
        raise BadJson(f"The event is not valid: {verdict.why}.")
    return Event.from_pdu(signed, rules)


def _own_name(pdu: Mapping[str, Any], server_name: str) -> str:
    """An event id of room versions 1 and 2, `$opaque:domain`.

    Nothing is said of the opaque part but that it must be unique. A hash over all that the event says is: no randomness
    is needed, and the same event made twice is one event, as in every later version.
    """
    said = {name: value for name, value in pdu.items() if name != "unsigned"}
    digest = hashlib.sha256(canonical_json.encode_lenient(said)).digest()
    return f"${urlsafe_b64encode(digest)[:-1].decode('ascii')}:{server_name}"


def countersign(event: Event, server_name: str, key: SigningKey) -> Event:
    """The event with our signature beside those it has: an invite to one of our users, a restricted join we authorise.

    Signatures are not part of the hash, so the event id stays.
    """
    signature = encode_base64(key.sign(signed_bytes(event.pdu, event.rules)))
    pdu = with_signature(event.pdu, server_name, key.key_id, signature)
    return Event.from_pdu(pdu, event.rules, event_id=event.event_id)
