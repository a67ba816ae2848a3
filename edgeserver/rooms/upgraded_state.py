"""What of a room's state goes over into the room that replaces it, and how it is made to fit the new version.

Client-server API, "Room Upgrades", server behaviour, step 3 (the recommended list); beyond that, what people expect to
find again: the bans, `m.federate`, and in a space its rooms. Left behind is what says something about who sent it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeserver.matrix.auth_events import CREATE
from edgeserver.matrix.identifiers import is_user_id
from edgeserver.matrix.power_levels import DEFAULTS, creators, parse_level
from edgeserver.rooms.create import default_power_levels, with_tombstone_level
from edgeserver.store import events, rooms, state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.store.database import Transaction
    from edgeserver.store.rooms import Room
    from edgeserver.store.state import StateKey

TRANSFERRED = (
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.encryption",
    "m.room.server_acl",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
)
SPACE = "m.space"
OF_SPACES = ("m.space.child", "m.space.parent")
QUIET_LEVEL = 50
ADMIN_LEVEL = 100


@dataclass(frozen=True, slots=True)
class Carried:
    """What is known of the old room. `levels` is its m.room.power_levels with integers only (None: it has none)."""

    room_id: str
    rules: RoomVersion
    creators: frozenset[str]
    create: Mapping[str, Any]
    state: Mapping[StateKey, Mapping[str, Any]]
    bans: Mapping[str, Mapping[str, Any]]
    levels: Mapping[str, Any] | None


def read(tx: Transaction, old: Room) -> Carried:
    """The old room as it is now."""
    assert old.snapshot is not None
    power = ("m.room.power_levels", "")
    wanted = [CREATE, power, *((event_type, "") for event_type in TRANSFERRED)]
    found = {key: stored.event for key, stored in state.lookup_events(tx, old.snapshot, wanted).items()}
    create, levels = found.pop(CREATE), found.pop(power, None)
    kept: dict[StateKey, Mapping[str, Any]] = {key: event.content for key, event in found.items()}
    if create.content.get("type") == SPACE:
        kept.update(_of_space(tx, old.snapshot))
    bans = events.many_by_number(tx, rooms.member_events(tx, old.number, "ban"))
    return Carried(
        old.room_id,
        old.rules,
        creators(create),
        {key: create.content[key] for key in ("type", "m.federate") if key in create.content},
        kept,
        {stored.event.state_key or "": stored.event.content for stored in bans.values()},
        None if levels is None else readable_levels(levels.content, old.rules),
    )


def _of_space(tx: Transaction, snapshot: int) -> dict[StateKey, Mapping[str, Any]]:
    """A space's rooms and parents; an empty content is one that was taken out."""
    numbers = {key: number for kind in OF_SPACES for key, number in state.of_type(tx, snapshot, kind).items()}
    loaded = events.many_by_number(tx, numbers.values())
    return {key: loaded[number].event.content for key, number in numbers.items() if loaded[number].event.content}


def transferred(carried: Carried, rules: RoomVersion) -> dict[StateKey, Mapping[str, Any]]:
    """The state to send in the new room after its power levels, in this order."""
    found = dict(carried.state)
    stated = found.get(("m.room.join_rules", ""))
    if stated is not None:
        found["m.room.join_rules", ""] = _join_rules(stated, rules)
    return found


def _join_rules(content: Mapping[str, Any], rules: RoomVersion) -> Mapping[str, Any]:
    """A rule that the version does not know would shut everybody out: the next stricter one that it knows."""
    rule = content.get("join_rule")
    if rule == "knock_restricted" and not rules.knock_restricted:
        rule = "restricted"
    if (rule == "restricted" and not rules.restricted) or (rule == "knock" and not rules.knocking):
        rule = "invite"
    return {**content, "join_rule": rule} if rule != content.get("join_rule") else content


# Power levels


def readable_levels(content: Mapping[str, Any], rules: RoomVersion) -> dict[str, Any]:
    """The content of an m.room.power_levels as every version takes it: integers for what old versions let be strings."""
    levels: dict[str, Any] = {key: value for key, value in content.items() if key not in DEFAULTS}
    for key in DEFAULTS:
        if (level := parse_level(content.get(key), rules)) is not None:
            levels[key] = level
    for key in ("users", "events", "notifications"):
        table = content.get(key)
        if key in levels:
            known = {name: parse_level(value, rules) for name, value in table.items()} if isinstance(table, dict) else {}
            levels[key] = {name: level for name, level in known.items() if level is not None and (key != "users" or is_user_id(name))}
    return levels


def final_levels(carried: Carried, rules: RoomVersion, user_id: str, additional_creators: Sequence[str]) -> dict[str, Any]:
    """The power levels that the new room shall have.

    Creators of the new room stand above all levels and are not among them. Those of an old room that are no such
    creators in a version that has none keep what they could do as admins.
    """
    levels = dict(carried.levels) if carried.levels is not None else default_power_levels({})
    users = dict(levels.get("users", {}))
    if carried.levels is None and not carried.rules.privileged_creators:
        users.update(dict.fromkeys(carried.creators, ADMIN_LEVEL))
    if carried.rules.privileged_creators and not rules.privileged_creators:
        users.update(dict.fromkeys(carried.creators, max(ADMIN_LEVEL, _highest(levels))))
    if rules.privileged_creators:
        users = {name: level for name, level in users.items() if name not in {user_id, *additional_creators}}
        return with_tombstone_level({"events": {}, **levels, "users": users}, rules, at_least=True)
    return {**levels, "users": users}


def first_levels(carried: Carried, rules: RoomVersion, user_id: str, additional_creators: Sequence[str]) -> dict[str, Any]:
    """Those to begin with: the user is lent the power to send all that is carried over, without being a creator of v12."""
    levels = final_levels(carried, rules, user_id, additional_creators)
    if rules.privileged_creators:
        return levels
    users = levels["users"]
    banned = [users.get(name, levels.get("users_default", 0)) + 1 for name in carried.bans]
    needed = max(_highest(levels), *banned, ADMIN_LEVEL)
    has = users.get(user_id, levels.get("users_default", 0))
    return levels if has >= needed else {**levels, "users": {**users, user_id: needed}}


def _highest(levels: Mapping[str, Any]) -> int:
    """What it takes to send any state, and to ban."""
    stated: list[int] = [levels.get(key, DEFAULTS[key]) for key in ("state_default", "ban")]
    stated += levels.get("events", {}).values()
    return max(stated)


def raised_levels(content: Mapping[str, Any], rules: RoomVersion) -> dict[str, int]:
    """What to change in the old room's power levels so that people do not talk on in it, or invite to it (step 6)."""
    levels = {**DEFAULTS, **readable_levels(content, rules)}
    floor = max(QUIET_LEVEL, levels["users_default"] + 1)
    return {key: floor for key in ("events_default", "invite") if levels[key] < floor}


# Aliases


def parted_aliases(content: Mapping[str, Any], moved: Callable[[str], bool]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An m.room.canonical_alias as (what the new room says, what is left to the old): aliases go where they point now."""
    ours: dict[str, Any] = {}
    theirs = dict(content)
    alias, others = content.get("alias"), content.get("alt_aliases")
    if isinstance(alias, str) and moved(alias):
        ours["alias"] = theirs.pop("alias")
    if isinstance(others, list):
        gone = [one for one in others if isinstance(one, str) and moved(one)]
        left = [one for one in others if one not in gone]
        ours |= {"alt_aliases": gone} if gone else {}
        theirs.pop("alt_aliases")
        theirs |= {"alt_aliases": left} if left else {}
    return ours, theirs
