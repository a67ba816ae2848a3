"""The authorization rules for m.room.member: join, invite, leave, ban, knock.

Spec: rooms/v12, "Authorisation rules", rule 5; rule 4 of rooms/v6 to v11, rule 5 of rooms/v1 to v5. Rules are numbered
as in room version 12.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix.power_levels import creators
from edgeserver.matrix.signatures import SignatureError, decode_base64, verify_json
from edgeserver.matrix.verdicts import ACCEPTED, Rejected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeserver.matrix.auth_state import AuthState
    from edgeserver.matrix.event import Event
    from edgeserver.matrix.verdicts import Verdict

MAX_INVITE_SIGNATURES: Final = 256
"""Pairs of a signature and a public key of a third-party invite that are tried: verifying costs, and both lists are the
sender's to write."""


def check_member(event: Event, state: AuthState) -> Verdict:
    """Apply the rules for membership to an m.room.member event. Answers Accepted or Rejected."""
    # Rule 5.1: there is no state_key, or no membership in content
    if event.state_key is None or "membership" not in event.content:
        return Rejected("m.room.member has a state key and states a membership")
    membership = event.content["membership"]
    # Rule 5.2 (v8), the signature of the authorising server, is checked with the other signatures
    # Rule 5.3: join
    if membership == "join":
        return _check_join(event, state, event.state_key)
    # Rule 5.4: invite
    if membership == "invite":
        return _check_invite(event, state, event.state_key)
    # Rule 5.5: leave
    if membership == "leave":
        return _check_leave(event, state, event.state_key)
    # Rule 5.6: ban
    if membership == "ban":
        return _check_ban(event, state, event.state_key)
    # Rule 5.7 (v7): knock
    if membership == "knock" and event.rules.knocking:
        return _check_knock(event, state, event.state_key)
    # Rule 5.8: otherwise, the membership is unknown
    return Rejected("the membership is unknown")


def _check_join(event: Event, state: AuthState, target: str) -> Verdict:
    rules = event.rules
    # Rule 5.3.1: the creator joins right after m.room.create
    if event.prev_events == (state.create.event_id,) and target == _first_creator(state.create):
        return ACCEPTED
    # Rule 5.3.2: the sender is not the target
    if event.sender != target:
        return Rejected("nobody joins for somebody else")
    membership, join_rule = state.membership(target), state.join_rule
    # Rule 5.3.3: the sender is banned
    if membership == "ban":
        return Rejected("the sender is banned")
    # Rule 5.3.4: the join rule is invite, or (v7) knock: allow who is invited or joined
    if join_rule == "invite" or (join_rule == "knock" and rules.knocking):
        return ACCEPTED if membership in ("invite", "join") else Rejected("the sender is not invited")
    # Rule 5.3.5: the join rule is restricted (v8) or knock_restricted (v10)
    if (join_rule == "restricted" and rules.restricted) or (join_rule == "knock_restricted" and rules.knock_restricted):
        return _check_restricted_join(event, state, membership)
    # Rule 5.3.6: the join rule is public
    if join_rule == "public":
        return ACCEPTED
    # Rule 5.3.7: otherwise, reject
    return Rejected("the join rule does not let the sender join")


def _first_creator(create: Event) -> str | None:
    """The user who may join first: the create event's sender, before v11 its `creator`. Not an additional creator."""
    if create.rules.implicit_room_creator:
        return create.sender
    return next(iter(creators(create)), None)


def _check_restricted_join(event: Event, state: AuthState, membership: str) -> Verdict:
    # Rule 5.3.5.1: allow who is joined or invited
    if membership in ("join", "invite"):
        return ACCEPTED
    # Rule 5.3.5.2: the authorising user is not joined, or may not invite
    authoriser = event.content.get("join_authorised_via_users_server")
    if not isinstance(authoriser, str):
        return Rejected("no user authorised the join")
    if state.membership(authoriser) != "join":
        return Rejected("the user who authorised the join is not joined")
    if state.power.user(authoriser) < state.power.invite:
        return Rejected("the user who authorised the join may not invite")
    # Rule 5.3.5.3: otherwise, allow
    return ACCEPTED


def _check_invite(event: Event, state: AuthState, target: str) -> Verdict:
    # Rule 5.4.1: content has a third_party_invite
    if "third_party_invite" in event.content:
        return _check_third_party_invite(event, state, target)
    # Rule 5.4.2: the sender is not joined
    if state.membership(event.sender) != "join":
        return Rejected("the sender is not joined")
    # Rule 5.4.3: the target is joined or banned
    if state.membership(target) in ("join", "ban"):
        return Rejected("the invited user is joined already, or banned")
    # Rule 5.4.4: allow who has the invite level
    if state.power.user(event.sender) >= state.power.invite:
        return ACCEPTED
    # Rule 5.4.5: otherwise, reject
    return Rejected("the sender's power level is too low to invite")


def _check_third_party_invite(event: Event, state: AuthState, target: str) -> Verdict:
    # Rule 5.4.1.1: the target is banned
    if state.membership(target) == "ban":
        return Rejected("the invited user is banned")
    # Rule 5.4.1.2: third_party_invite has no signed
    invite = event.content["third_party_invite"]
    signed = invite.get("signed") if isinstance(invite, dict) else None
    if not isinstance(signed, dict):
        return Rejected("the third-party invite is not signed")
    # Rule 5.4.1.3: signed has no mxid or no token
    mxid, token = signed.get("mxid"), signed.get("token")
    if not isinstance(mxid, str) or not isinstance(token, str):
        return Rejected("the third-party invite has no mxid, or no token")
    # Rule 5.4.1.4: mxid is not the target
    if mxid != target:
        return Rejected("the third-party invite is for another user")
    # Rule 5.4.1.5: the room has no such m.room.third_party_invite
    offer = state.get("m.room.third_party_invite", token)
    if offer is None:
        return Rejected("the room has no third-party invite of this token")
    # Rule 5.4.1.6: the sender is not who made it
    if event.sender != offer.sender:
        return Rejected("the third-party invite was made by another user")
    # Rule 5.4.1.7: a signature matches a public key
    if _is_signed_by_offer(signed, offer.content):
        return ACCEPTED
    # Rule 5.4.1.8: otherwise, reject
    return Rejected("no signature of the third-party invite matches a key of the room")


def _is_signed_by_offer(signed: dict[str, Any], offer: dict[str, Any]) -> bool:
    keys = list(_offered_keys(offer))
    for server_name, key_id, key in islice(_attempts(signed.get("signatures"), keys), MAX_INVITE_SIGNATURES):
        try:
            verify_json(signed, server_name, key_id, key)
        except SignatureError:
            continue
        return True
    return False


def _attempts(signatures: Any, keys: list[bytes]) -> Iterator[tuple[str, str, bytes]]:
    """Every signature, as its server and key id, with every key it might be of."""
    for server_name, by_key in signatures.items() if isinstance(signatures, dict) else ():
        for key_id in by_key if isinstance(by_key, dict) else ():
            if key_id.startswith("ed25519:"):
                for key in keys:
                    yield server_name, key_id, key


def _offered_keys(offer: dict[str, Any]) -> Iterator[bytes]:
    """The public keys (32 bytes) of an m.room.third_party_invite: one in `public_key`, more in `public_keys`."""
    more = offer.get("public_keys")
    for entry in (offer, *(more if isinstance(more, list) else ())):
        text = entry.get("public_key") if isinstance(entry, dict) else None
        try:
            key = decode_base64(text) if isinstance(text, str) else b""
        except ValueError:
            continue
        if len(key) == 32:
            yield key


def _check_leave(event: Event, state: AuthState, target: str) -> Verdict:
    membership = state.membership(target)
    # Rule 5.5.1: who leaves was invited, joined, or (v7) knocking
    if event.sender == target:
        if membership in ("invite", "join") or (membership == "knock" and event.rules.knocking):
            return ACCEPTED
        return Rejected("the sender is not in the room")
    # Rule 5.5.2: the sender is not joined
    if state.membership(event.sender) != "join":
        return Rejected("the sender is not joined")
    level = state.power.user(event.sender)
    # Rule 5.5.3: the target is banned, and the sender has not the ban level
    if membership == "ban" and level < state.power.ban:
        return Rejected("the sender's power level is too low to lift a ban")
    # Rule 5.5.4: allow who has the kick level and stands above the target
    if level >= state.power.kick and state.power.user(target) < level:
        return ACCEPTED
    # Rule 5.5.5: otherwise, reject
    return Rejected("the sender's power level is too low to remove this user")


def _check_ban(event: Event, state: AuthState, target: str) -> Verdict:
    # Rule 5.6.1: the sender is not joined
    if state.membership(event.sender) != "join":
        return Rejected("the sender is not joined")
    level = state.power.user(event.sender)
    # Rule 5.6.2: allow who has the ban level and stands above the target
    if level >= state.power.ban and state.power.user(target) < level:
        return ACCEPTED
    # Rule 5.6.3: otherwise, reject
    return Rejected("the sender's power level is too low to ban this user")


def _check_knock(event: Event, state: AuthState, target: str) -> Verdict:
    # Rule 5.7.1: the join rule is neither knock nor (v10) knock_restricted
    join_rule = state.join_rule
    if join_rule != "knock" and not (join_rule == "knock_restricted" and event.rules.knock_restricted):
        return Rejected("the join rule does not let anybody knock")
    # Rule 5.7.2: the sender is not the target
    if event.sender != target:
        return Rejected("nobody knocks for somebody else")
    # Rule 5.7.3: allow who is not banned, invited or joined
    if state.membership(target) not in ("ban", "invite", "join"):
        return ACCEPTED
    # Rule 5.7.4: otherwise, reject
    return Rejected("the sender is banned, invited or joined")
