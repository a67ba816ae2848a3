"""The authorization rules: may this event be, given that state?

Spec: rooms/v1 to rooms/v12, "Authorisation rules"; server-server API, "Checks performed on receipt of a PDU" (checks
4, 5 and 6 apply these rules to three different states). Rules are numbered as in room version 12; versions before
count one less from rule 3 on (they have no rule 2), and a rule that not every version has says so.

Signatures need keys and are verified where those are, in `pdu_checks`; so is rule 5.2, the signature of the server that
authorised a restricted join.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeserver.matrix.auth_events import CREATE, auth_types_of
from edgeserver.matrix.auth_member import check_member
from edgeserver.matrix.auth_power_levels import check_power_levels
from edgeserver.matrix.auth_state import AuthState
from edgeserver.matrix.identifiers import domain_of, is_user_id
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from edgeserver.matrix.verdicts import ACCEPTED, Accepted, Rejected

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from edgeserver.matrix.auth_events import StateKey
    from edgeserver.matrix.event import Event
    from edgeserver.matrix.verdicts import Verdict


def check(event: Event, auth_state: Mapping[StateKey, Event], *, create: Event | None = None) -> Verdict:
    """Apply every rule but the one about the event's `auth_events` (rule 3, `check_auth_events`) to an event.

    `auth_state` holds at least the room's events at `auth_types_of(event)`. `create` is the room's create event; it
    may be left out where `auth_state` has it, as every full state does. Answers Accepted or Rejected.
    """
    # Rule 1: if type is m.room.create
    if event.type == "m.room.create":
        return _check_create(event)
    if create is None:
        create = auth_state.get(CREATE)
    if create is None:
        return Rejected("the room has no m.room.create event")
    # Rule 2 (v12): the room id must be the id of an m.room.create event
    if event.rules.room_id_is_create_hash and not _is_created_by(event, create):
        return Rejected("the room id does not name the room's m.room.create event")
    # Rule 4: a room with m.federate false is for the creator's server alone
    if create.content.get("m.federate") is False and domain_of(event.sender) != domain_of(create.sender):
        return Rejected("the room is not federated, and the sender is of another server")
    # Room versions 1 to 5: if type is m.room.aliases
    if event.type == "m.room.aliases" and event.rules.aliases_auth:
        return _check_aliases(event)
    state = AuthState(create, auth_state)
    # Rule 5: if type is m.room.member
    if event.type == "m.room.member":
        return check_member(event, state)
    return _check_by_member(event, state)


def check_auth_events(event: Event, auth_events: Sequence[Event], *, rejected: Container[str] = (), create: Event | None = None) -> Verdict:
    """Rules 2 and 3: check the list of an event's `auth_events` itself. Answers Accepted or Rejected.

    `auth_events` are the events that the list names, all of them; `rejected` are the ids of those among them, or of the
    create event, that were rejected. From v12 on `create` is the event that the room id names, which the list must not.
    """
    if event.type == "m.room.create":
        return ACCEPTED
    # Rule 2 (v12): the room id must be the id of an accepted m.room.create event
    if event.rules.room_id_is_create_hash and (create is None or not _is_created_by(event, create) or create.event_id in rejected):
        return Rejected("the room id does not name an accepted m.room.create event")
    expected = frozenset[tuple[str, str | None]](auth_types_of(event))
    seen: set[tuple[str, str | None]] = set()
    for auth_event in auth_events:
        key = (auth_event.type, auth_event.state_key)
        # Rule 3.1: duplicate entries
        if key in seen:
            return Rejected(f"auth_events name two events of type {key[0]} with the same state key")
        seen.add(key)
        # Rule 3.2: entries that the auth events selection does not name (from v12 on, m.room.create)
        if key not in expected:
            return Rejected(f"auth_events name an {key[0]} event that has no part in authorising this one")
        # Rule 3.3: entries that were rejected
        if auth_event.event_id in rejected:
            return Rejected(f"auth_events name {auth_event.event_id}, which was rejected")
        # Rule 3.5: entries of another room
        if auth_event.room_id != event.room_id:
            return Rejected(f"auth_events name {auth_event.event_id}, which is of another room")
    # Rule 3.4 (v1 to v11): no m.room.create event among the entries
    if not event.rules.auth_events_exclude_create and CREATE not in seen:
        return Rejected("auth_events name no m.room.create event")
    return ACCEPTED


def check_by_auth_events(
    event: Event, auth_events: Sequence[Event], *, rejected: Container[str] = (), create: Event | None = None
) -> Verdict:
    """All rules, given the state that the event itself cites: check 4 on receipt of a PDU.

    Arguments as for `check_auth_events`. Answers Accepted or Rejected.
    """
    verdict = check_auth_events(event, auth_events, rejected=rejected, create=create)
    if not isinstance(verdict, Accepted):
        return verdict
    cited = {(auth_event.type, auth_event.state_key or ""): auth_event for auth_event in auth_events}
    return check(event, cited, create=create)


def _is_created_by(event: Event, create: Event) -> bool:
    return create.type == "m.room.create" and create.event_id[1:] == event.room_id[1:]


def _check_create(event: Event) -> Verdict:
    rules, content = event.rules, event.content
    # Rule 1.1: it has prev_events
    if event.prev_events:
        return Rejected("an m.room.create event has no prev_events")
    # Rule 1.2: it has a room_id (v12); its room id is of another domain than its sender (v1 to v11)
    if rules.room_id_is_create_hash:
        if "room_id" in event.pdu:
            return Rejected("an m.room.create event of this room version has no room_id")
    elif domain_of(event.room_id) != domain_of(event.sender):
        return Rejected("the room id is of another domain than its creator")
    # Rule 1.3: content.room_version is not a recognised version
    version = content.get("room_version", "1")
    if not isinstance(version, str) or version not in ROOM_VERSIONS:
        return Rejected("the room version is not recognised")
    # Rule 1.4 (v12): additional_creators is not an array of user ids
    if rules.privileged_creators and "additional_creators" in content:
        additional = content["additional_creators"]
        if not isinstance(additional, list) or not all(is_user_id(user) for user in additional):
            return Rejected("additional_creators is not an array of user ids")
    # Rule 1.4 (v1 to v10): content has no creator
    if not rules.implicit_room_creator and "creator" not in content:
        return Rejected("an m.room.create event of this room version states its creator")
    # Rule 1.5: otherwise, allow
    return ACCEPTED


def _check_aliases(event: Event) -> Verdict:
    # v1 to v5, rule 4.1: the event has no state_key
    if event.state_key is None:
        return Rejected("m.room.aliases is a state event")
    # v1 to v5, rule 4.2: the sender's domain is not the state_key
    if domain_of(event.sender) != event.state_key:
        return Rejected("the state key of m.room.aliases is the sender's domain")
    return ACCEPTED


def _check_by_member(event: Event, state: AuthState) -> Verdict:
    # Rule 6: the sender is not joined
    if state.membership(event.sender) != "join":
        return Rejected("the sender is not joined")
    level = state.power.user(event.sender)
    # Rule 7: if type is m.room.third_party_invite, allow if and only if the sender may invite
    if event.type == "m.room.third_party_invite":
        return ACCEPTED if level >= state.power.invite else Rejected("the sender's power level is too low to invite")
    # Rule 8: the required power level is greater than the sender's
    required = state.power.to_send(event.type, is_state=event.is_state)
    if required > level:
        return Rejected(f"the sender's power level is too low: {event.type} requires {required}")
    # Rule 9: the state_key starts with @ and is not the sender
    if event.state_key is not None and event.state_key.startswith("@") and event.state_key != event.sender:
        return Rejected("the state key is the id of another user")
    # Rule 10: if type is m.room.power_levels
    if event.type == "m.room.power_levels":
        return check_power_levels(event, state)
    # v1 and v2, rule 11: if type is m.room.redaction
    if event.type == "m.room.redaction" and event.rules.redaction_auth_by_event_id:
        return _check_redaction(event, state, level)
    # Rule 11: otherwise, allow
    return ACCEPTED


def _check_redaction(event: Event, state: AuthState, level: float) -> Verdict:
    # v1 and v2, rule 11.1: the sender has the redact level
    if level >= state.power.redact:
        return ACCEPTED
    # v1 and v2, rule 11.2: the redacted event's id is of the same domain as the redaction's
    if event.redacts is not None and domain_of(event.redacts) == domain_of(event.event_id):
        return ACCEPTED
    return Rejected("the sender's power level is too low to redact another server's event")
