"""Room versions 1 to 12 as data.

Spec: rooms/v1 to rooms/v12. Each version is the one before it with some rules replaced; algorithms read the rules
(`rules.knocking`), never the version's name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class EventFormat(Enum):
    """How an event is named and refers to others."""

    V1 = "v1"
    """The PDU carries `event_id` (`$opaque:domain`); references are pairs `[event_id, {"sha256": …}]`."""
    V3 = "v3"
    """The id is `$` + the reference hash in unpadded base64; references are ids."""
    V4 = "v4"
    """As V3, in URL-safe base64."""


class RoomIdFormat(Enum):
    """How a room is named."""

    DOMAIN = "domain"
    """`!opaque:domain`, carried by every PDU."""
    CREATE_HASH = "create_hash"
    """`!` + the reference hash of the create event, which itself carries no `room_id` (MSC4291)."""


class StateResolution(Enum):
    """Which state resolution algorithm a room uses."""

    V1 = "v1"
    V2 = "v2"
    V2_1 = "v2.1"
    """From the empty state, and with the conflicted state subgraph (MSC4297)."""


@dataclass(frozen=True, slots=True)
class RedactionRules:
    """What survives a redaction.

    `content_keys` maps an event type to the keys of `content` that stay; a type that is missing keeps none.
    """

    top_level_keys: frozenset[str]
    content_keys: Mapping[str, frozenset[str]]
    keep_create_content: bool = False
    """The whole content of m.room.create stays (v11)."""
    keep_third_party_signed: bool = False
    """`third_party_invite.signed` of m.room.member stays (v11)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Size limits of a PDU. Sizes in bytes of UTF-8; a whole PDU in canonical JSON."""

    pdu_bytes: int = 65_536
    field_bytes: int = 255
    prev_events: int = 20
    auth_events: int = 10
    depth: int = 2**53 - 1
    drafted_depth: int = 2**53 - 1
    """What our own events do not exceed, even where more is allowed: widespread servers take no PDU that does."""


@dataclass(frozen=True, slots=True)
class RoomVersion:
    """The rules of one room version. Data only."""

    version: str
    event_format: EventFormat
    room_id_format: RoomIdFormat
    redaction: RedactionRules
    redacts_in_content: bool
    """`redacts` is a key of an m.room.redaction's content, not of the event (v11)."""
    strict_canonical_json: bool
    """Floats and integers outside ±(2^53 - 1) make an event invalid (v6); before, they are hashed as Python writes them."""
    enforce_key_validity: bool
    """A signing key must have been valid at the event's origin_server_ts (v5)."""
    state_resolution: StateResolution
    redaction_auth_by_event_id: bool
    """Auth rules weigh m.room.redaction by power level or the domain of the redacted event's id (v1, v2)."""
    aliases_auth: bool
    """Auth rules have the special case for m.room.aliases (v1 to v5)."""
    notifications_power_level: bool
    """A change of `notifications` in power levels is checked (v6)."""
    knocking: bool
    """Membership and join rule `knock` (v7)."""
    restricted: bool
    """Join rule `restricted`, with `join_authorised_via_users_server` (v8)."""
    knock_restricted: bool
    """Join rule `knock_restricted` (v10)."""
    integer_power_levels: bool
    """Power levels must be integers; before, strings that hold one were read too (v10)."""
    implicit_room_creator: bool
    """The creator is the create event's sender, and `content.creator` means nothing (v11)."""
    privileged_creators: bool
    """The creators, `additional_creators` included, stand above all power levels (v12, MSC4289)."""
    auth_events_exclude_create: bool
    """The room id names the create event, so `auth_events` must not (v12, MSC4291)."""
    limits: Limits = Limits()

    @property
    def events_name_themselves(self) -> bool:
        """Whether a PDU states its id, and is referred to by it and its reference hash (v1, v2)."""
        return self.event_format is EventFormat.V1

    @property
    def room_id_is_create_hash(self) -> bool:
        """Whether a room is named after its create event (v12)."""
        return self.room_id_format is RoomIdFormat.CREATE_HASH


def _content_keys(**changes: str) -> Mapping[str, frozenset[str]]:
    """`content_keys` from `member="membership other"`: the event type without `m.room.` and its keys."""
    return MappingProxyType({f"m.room.{name}": frozenset(keys.split()) for name, keys in changes.items()})


_CONTENT_V1 = _content_keys(
    member="membership",
    create="creator",
    join_rules="join_rule",
    power_levels="ban events events_default kick redact state_default users users_default",
    aliases="aliases",
    history_visibility="history_visibility",
)
_CONTENT_V6 = MappingProxyType({kind: keys for kind, keys in _CONTENT_V1.items() if kind != "m.room.aliases"})
_CONTENT_V8 = MappingProxyType({**_CONTENT_V6, **_content_keys(join_rules="join_rule allow")})
_CONTENT_V9 = MappingProxyType({**_CONTENT_V8, **_content_keys(member="membership join_authorised_via_users_server")})
_CONTENT_V11 = MappingProxyType(
    {
        **_CONTENT_V9,
        "m.room.power_levels": _CONTENT_V9["m.room.power_levels"] | {"invite"},
        "m.room.redaction": frozenset({"redacts"}),
    }
)

_REQUIRED = frozenset({"type", "room_id", "sender", "content", "hashes", "signatures", "depth", "origin_server_ts"})
_TOP_LEVEL_V11 = _REQUIRED | {"event_id", "state_key", "prev_events", "auth_events"}
_TOP_LEVEL_V1 = _TOP_LEVEL_V11 | {"origin", "prev_state", "membership"}

V1: Final = RoomVersion(
    version="1",
    event_format=EventFormat.V1,
    room_id_format=RoomIdFormat.DOMAIN,
    redaction=RedactionRules(_TOP_LEVEL_V1, _CONTENT_V1),
    redacts_in_content=False,
    strict_canonical_json=False,
    enforce_key_validity=False,
    state_resolution=StateResolution.V1,
    redaction_auth_by_event_id=True,
    aliases_auth=True,
    notifications_power_level=False,
    knocking=False,
    restricted=False,
    knock_restricted=False,
    integer_power_levels=False,
    implicit_room_creator=False,
    privileged_creators=False,
    auth_events_exclude_create=False,
    limits=Limits(depth=2**63 - 1),
)
V2: Final = replace(V1, version="2", state_resolution=StateResolution.V2)
V3: Final = replace(V2, version="3", event_format=EventFormat.V3, redaction_auth_by_event_id=False)
V4: Final = replace(V3, version="4", event_format=EventFormat.V4)
V5: Final = replace(V4, version="5", enforce_key_validity=True)
V6: Final = replace(
    V5,
    version="6",
    redaction=replace(V5.redaction, content_keys=_CONTENT_V6),
    strict_canonical_json=True,
    aliases_auth=False,
    notifications_power_level=True,
    limits=Limits(),
)
V7: Final = replace(V6, version="7", knocking=True)
V8: Final = replace(V7, version="8", redaction=replace(V7.redaction, content_keys=_CONTENT_V8), restricted=True)
V9: Final = replace(V8, version="9", redaction=replace(V8.redaction, content_keys=_CONTENT_V9))
V10: Final = replace(V9, version="10", knock_restricted=True, integer_power_levels=True)
V11: Final = replace(
    V10,
    version="11",
    redaction=RedactionRules(_TOP_LEVEL_V11, _CONTENT_V11, keep_create_content=True, keep_third_party_signed=True),
    redacts_in_content=True,
    implicit_room_creator=True,
)
V12: Final = replace(
    V11,
    version="12",
    room_id_format=RoomIdFormat.CREATE_HASH,
    state_resolution=StateResolution.V2_1,
    privileged_creators=True,
    auth_events_exclude_create=True,
)

ROOM_VERSIONS: Final[Mapping[str, RoomVersion]] = MappingProxyType(
    {rules.version: rules for rules in (V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12)}
)
"""Every version whose rules are known, by its identifier in `m.room.create`."""

SUPPORTED: Final[Mapping[str, RoomVersion]] = ROOM_VERSIONS
"""The versions of rooms that are created, joined and served here: all."""

DEFAULT: Final = V12
"""The version of a new room when nobody asked for another (spec: rooms, "Feature matrix", as of v1.16)."""
