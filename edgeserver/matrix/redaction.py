"""Redaction: what is left of an event.

Spec: rooms/v1, "Redactions", and the changes in v6, v8, v9 and v11. The rules are data in `room_versions`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.matrix.room_versions import RoomVersion


def redact(pdu: Mapping[str, Any], rules: RoomVersion) -> dict[str, Any]:
    """A copy of `pdu` with only the keys that its room version protects. `unsigned` goes too."""
    kept_keys = rules.redaction.top_level_keys
    kept = {key: value for key, value in pdu.items() if key in kept_keys}
    kept["content"] = redact_content(pdu["type"], pdu["content"], rules)
    return kept


def redact_content(event_type: str, content: Mapping[str, Any], rules: RoomVersion) -> dict[str, Any]:
    """A copy of `content` with only the keys that survive the redaction of an event of this type."""
    redaction = rules.redaction
    if event_type == "m.room.create" and redaction.keep_create_content:
        return dict(content)
    kept_keys = redaction.content_keys.get(event_type)
    if kept_keys is None:
        return {}
    kept = {key: value for key, value in content.items() if key in kept_keys}
    if event_type == "m.room.member" and redaction.keep_third_party_signed:
        invite = content.get("third_party_invite")
        if isinstance(invite, dict):  # kept even if it is then empty: every server hashes it so
            kept["third_party_invite"] = {key: value for key, value in invite.items() if key == "signed"}
    return kept
