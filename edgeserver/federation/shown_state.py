"""The state of a room that another server shows us with an invite, or in answer to a knock.

Spec: server-server API, PUT /v2/invite (`invite_room_state`) and PUT /v1/send_knock (`knock_room_state`), since v1.16 (MSC4311):
whole PDUs, the room's m.room.create among them.

Servers are to refuse an invite whose shown state is not sound, in rooms of version 12 at least, and to leave what is not sound
out of the answer to a knock, which has happened by then. Two things are forgiven, for else people could not be invited:

- Entries that are stripped already, as all servers sent them until lately. They are shown as they are.
- Entries whose signature cannot be verified are left out, and do not bring the invite down: the key of a third server may be out
  of this box's reach. But the create event, which says whose room it is, must verify.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from edgeserver.matrix.errors import InvalidParam
from edgeserver.matrix.event import stripped_state
from edgeserver.matrix.pdu_checks import open_pdu
from edgeserver.matrix.verdicts import Dropped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion

MAX_STATE: Final = 100
CREATE: Final = "m.room.create"
_STRIPPED: Final = ("content", "sender", "state_key", "type")


class Opening(Protocol):
    """What checks PDUs; see `rooms.receive.Receiver`."""

    async def opened(self, pdus: Iterable[Any], room_id: str, rules: RoomVersion) -> dict[str, Event]:
        """Those PDUs of the room whose format, signatures and hashes hold, by id."""
        ...


async def of_invite(checks: Opening, state: object, rules: RoomVersion, room_id: str) -> list[dict[str, Any]]:
    """Stripped state for the invited user. Raises M_INVALID_PARAM."""
    entries, broken = _sorted_out(state, rules, room_id)
    if broken is not None:
        raise InvalidParam(f"The shown state is not sound: {broken}.")
    shown = await _verified(checks, entries, rules, room_id)
    if rules.room_id_is_create_hash and not any(one["type"] == CREATE for one in shown):
        raise InvalidParam("The shown state lacks the room's m.room.create event, or its signature is wrong.")
    return shown


async def after_knock(checks: Opening, state: object, rules: RoomVersion, room_id: str) -> list[dict[str, Any]]:
    """Stripped state for the user who has knocked; what is not sound is left out."""
    entries, _ = _sorted_out(state, rules, room_id)
    return await _verified(checks, entries, rules, room_id)


def _sorted_out(state: object, rules: RoomVersion, room_id: str) -> tuple[list[Any], str | None]:
    """The entries of the right format, and what is wrong with another, if it is a whole PDU."""
    kept: list[Any] = []
    broken: str | None = None
    for entry in state[:MAX_STATE] if isinstance(state, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), dict):
            continue
        if not all(isinstance(entry.get(name), str) for name in ("type", "state_key", "sender")):
            continue
        if is_whole(entry):
            event = open_pdu(entry, rules)
            if isinstance(event, Dropped):
                broken = f"an {entry['type'][:80]} event is malformed: {event.why}"
                continue
            if event.room_id != room_id:
                broken = f"an {entry['type'][:80]} event is of another room"
                continue
        kept.append(entry)
    return kept, broken


async def _verified(checks: Opening, entries: list[Any], rules: RoomVersion, room_id: str) -> list[dict[str, Any]]:
    verified = await checks.opened([entry for entry in entries if is_whole(entry)], room_id, rules)
    stripped = [{name: entry[name] for name in _STRIPPED} for entry in entries if not is_whole(entry)]
    return [*(stripped_state(event) for event in verified.values()), *stripped]


def is_whole(entry: dict[str, Any]) -> bool:
    """Whether an entry means to be a PDU."""
    return "signatures" in entry and "auth_events" in entry
