"""Creating a room: all its first events in one transaction, so that a room exists whole or not at all.

Client-server API, `POST /_matrix/client/v3/createRoom`: the order of events, the presets and what overrides what.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeserver.matrix import errors
from edgeserver.matrix.draft import complete, template
from edgeserver.matrix.identifiers import is_room_alias, is_user_id
from edgeserver.matrix.power_levels import parse_level
from edgeserver.matrix.room_versions import DEFAULT, SUPPORTED
from edgeserver.rooms.persist import Placement
from edgeserver.store import rooms, state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.matrix.signatures import SigningKey
    from edgeserver.rooms.persist import Persister
    from edgeserver.rooms.send import Composer
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room

PRESETS: Mapping[str, Mapping[str, str]] = {
    "private_chat": {"join_rule": "invite", "history_visibility": "shared", "guest_access": "can_join"},
    "trusted_private_chat": {"join_rule": "invite", "history_visibility": "shared", "guest_access": "can_join"},
    "public_chat": {"join_rule": "public", "history_visibility": "shared", "guest_access": "forbidden"},
}
TOMBSTONE = "m.room.tombstone"
CREATORS_TOMBSTONE_LEVEL = 150
"""In rooms with privileged creators admins (100) do not replace the room by themselves (rooms/v12; createRoom, step 3)."""
MAX_INVITES = 100
MAX_INITIAL_STATE = 200


@dataclass(frozen=True, slots=True)
class NewRoom:
    """What the client asked for, checked; see the endpoint's request schema."""

    rules: RoomVersion = DEFAULT
    preset: str = "private_chat"
    visibility: str = "private"
    name: str | None = None
    topic: str | None = None
    alias: str | None = None
    creation_content: Mapping[str, Any] = field(default_factory=dict)
    initial_state: Sequence[Mapping[str, Any]] = ()
    power_level_overrides: Mapping[str, Any] = field(default_factory=dict)
    invite: Sequence[str] = ()
    is_direct: bool = False


def parse(body: Mapping[str, Any], server_name: str) -> NewRoom:
    """Checks the body of a createRoom request. Raises M_BAD_JSON, M_INVALID_PARAM, M_UNSUPPORTED_ROOM_VERSION."""

    def text(name: str) -> str | None:
        value = body.get(name)
        if value is not None and not isinstance(value, str):
            raise errors.BadJson(f"{name} is not a string.")
        return value

    def mapping(name: str) -> dict[str, Any]:
        value = body.get(name, {})
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise errors.BadJson(f"{name} is not an object.")
        return value

    version = text("room_version") or DEFAULT.version
    if version not in SUPPORTED:
        raise errors.UnsupportedRoomVersion(f"This server does not make rooms of version {version}.")
    visibility = text("visibility") or "private"
    if visibility not in ("public", "private"):
        raise errors.InvalidParam("visibility is neither public nor private.")
    preset = text("preset") or ("public_chat" if visibility == "public" else "private_chat")
    if preset not in PRESETS:
        raise errors.InvalidParam(f"There is no preset {preset}.")
    alias = _alias(text("room_alias_name"), server_name)
    invite = body.get("invite", [])
    if not isinstance(invite, list) or not all(is_user_id(user) for user in invite):
        raise errors.InvalidParam("invite is not a list of user ids.")
    if len(invite) > MAX_INVITES:
        raise errors.InvalidParam(f"At most {MAX_INVITES} people can be invited at once.")
    return NewRoom(
        SUPPORTED[version],
        preset,
        visibility,
        text("name"),
        text("topic"),
        alias,
        mapping("creation_content"),
        _initial_state(body.get("initial_state", [])),
        mapping("power_level_content_override"),
        list(dict.fromkeys(invite)),
        body.get("is_direct") is True,
    )


def _alias(localpart: str | None, server_name: str) -> str | None:
    if localpart is None:
        return None
    alias = f"#{localpart}:{server_name}"
    if not localpart or ":" in localpart or not is_room_alias(alias):
        raise errors.InvalidParam("room_alias_name is not the local part of an alias.")
    return alias


def _initial_state(given: object) -> list[Mapping[str, Any]]:
    if not isinstance(given, list) or len(given) > MAX_INITIAL_STATE:
        raise errors.BadJson(f"initial_state is not a list of at most {MAX_INITIAL_STATE} events.")
    for event in given:
        if not (
            isinstance(event, dict)
            and isinstance(event.get("type"), str)
            and isinstance(event.get("state_key", ""), str)
            and isinstance(event.get("content"), dict)
        ):
            raise errors.BadJson("initial_state holds something that is not a state event.")
        if event["type"] == "m.room.member" and event["content"].get("membership") == "invite":
            raise errors.InvalidParam("initial_state holds an invite, which nobody's server has agreed to: that is for invite.")
    return given


class RoomCreator:
    """Makes rooms."""

    def __init__(
        self,
        db: Database,
        composer: Composer,
        persister: Persister,
        server_name: str,
        key: SigningKey,
        now_ms: Callable[[], int],
        new_localpart: Callable[[], str],
        profile: Callable[[Transaction, str], Mapping[str, Any]],
    ) -> None:
        """`new_localpart` gives a fresh opaque room id (before v12); `profile` what a member event says of a local user."""
        self._db = db
        self._composer = composer
        self._persister = persister
        self._server_name = server_name
        self._key = key
        self._now_ms = now_ms
        self._new_localpart = new_localpart
        self._profile = profile

    async def create(self, creator: str, new: NewRoom) -> str:
        """Makes the room with everything but its invites; returns its id.

        Raises M_ROOM_IN_USE (alias taken), M_INVALID_ROOM_STATE or M_BAD_JSON (content that the auth rules refuse).
        """
        return await self._db.write(lambda tx: self._create(tx, creator, new))

    def _create(self, tx: Transaction, creator: str, new: NewRoom) -> str:
        if new.alias is not None and rooms.alias_target(tx, new.alias) is not None:
            raise errors.RoomInUse(f"The alias {new.alias} is taken.")
        try:
            room = self._create_event(tx, creator, new)
            for event_type, state_key, content in self._first_state(tx, creator, new):
                current = rooms.by_number(tx, room.number)
                self._composer.compose(tx, current, creator, event_type, content, state_key=state_key)
        except errors.Forbidden as error:
            raise errors.InvalidRoomState(f"The room's first events contradict each other. {error.error}") from error
        if new.alias is not None:
            rooms.add_alias(tx, new.alias, room.room_id, creator)
        if new.visibility == "public":
            rooms.set_published(tx, room.number, True)
        return room.room_id

    def _create_event(self, tx: Transaction, creator: str, new: NewRoom) -> Room:
        content = {key: value for key, value in new.creation_content.items() if key not in ("room_version", "creator")}
        if new.rules.privileged_creators and new.preset == "trusted_private_chat":
            named = content.get("additional_creators", [])
            if not isinstance(named, list):
                raise errors.BadJson("additional_creators is not a list.")
            content["additional_creators"] = list(dict.fromkeys([*named, *new.invite]))
        return self.begin(tx, creator, new.rules, content, self.new_room_id(new.rules))

    def new_room_id(self, rules: RoomVersion) -> str | None:
        """A fresh room id; None where the create event's hash will be it."""
        return None if rules.room_id_is_create_hash else f"!{self._new_localpart()}:{self._server_name}"

    def begin(
        self, tx: Transaction, creator: str, rules: RoomVersion, more_content: Mapping[str, Any], room_id: str | None
    ) -> Room:
        """Makes a room of nothing but its create event. `more_content` is what that says beside version and creator.

        Raises M_FORBIDDEN (the auth rules refuse that content), M_BAD_JSON, M_TOO_LARGE.
        """
        content = {**more_content, "room_version": rules.version, **({} if rules.implicit_room_creator else {"creator": creator})}
        proto = template(
            rules,
            room_id=room_id,
            sender=creator,
            event_type="m.room.create",
            state_key="",
            content=content,
            prev_events=[],
            auth_events=[],
            depth=1,
            origin_server_ts=self._now_ms(),
        )
        event = complete(proto, rules, self._server_name, self._key)
        while rooms.get(tx, event.room_id) is not None:  # the id is a hash: the same room was made within this millisecond
            proto["origin_server_ts"] += 1
            event = complete(proto, rules, self._server_name, self._key)
        number = rooms.add(tx, event.room_id, rules)
        empty = state.root(tx, number, {})
        rooms.move(tx, number, [], empty)
        room = rooms.by_number(tx, number)
        self._composer.authorise(tx, room, event)
        self._persister.persist(tx, room, event, Placement(empty, (event.event_id,)), deliver=False)
        return rooms.by_number(tx, number)

    def _first_state(
        self, tx: Transaction, creator: str, new: NewRoom
    ) -> list[tuple[str, str, Mapping[str, Any]]]:
        """The events after the create event, in the spec's order; later ones under the same key replace earlier ones."""
        preset = PRESETS[new.preset]
        made: dict[tuple[str, str], Mapping[str, Any]] = {
            ("m.room.member", creator): {**self._profile(tx, creator), "membership": "join"},
            ("m.room.power_levels", ""): self._power_levels(creator, new),
        }
        if new.alias is not None:
            made["m.room.canonical_alias", ""] = {"alias": new.alias}
        made["m.room.join_rules", ""] = {"join_rule": preset["join_rule"]}
        made["m.room.history_visibility", ""] = {"history_visibility": preset["history_visibility"]}
        made["m.room.guest_access", ""] = {"guest_access": preset["guest_access"]}
        for event in new.initial_state:
            made[event["type"], event.get("state_key", "")] = event["content"]
        if new.name is not None:
            made["m.room.name", ""] = {"name": new.name}
        if new.topic is not None:
            made["m.room.topic", ""] = {
                "topic": new.topic,
                "m.topic": {"m.text": [{"body": new.topic, "mimetype": "text/plain"}]},
            }
        return [(event_type, state_key, content) for (event_type, state_key), content in made.items()]

    def _power_levels(self, creator: str, new: NewRoom) -> dict[str, Any]:
        users: dict[str, int] = {} if new.rules.privileged_creators else {creator: 100}
        if new.preset == "trusted_private_chat" and not new.rules.privileged_creators:
            users.update(dict.fromkeys(new.invite, 100))
        levels = default_power_levels(users)
        if new.rules.privileged_creators:
            del levels["events"][TOMBSTONE]
        levels.update(new.power_level_overrides)
        return with_tombstone_level(levels, new.rules) if new.rules.privileged_creators else levels


def default_power_levels(users: Mapping[str, int]) -> dict[str, Any]:
    """The m.room.power_levels of a new room."""
    return {
        "users": dict(users),
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.history_visibility": 100,
            "m.room.canonical_alias": 50,
            "m.room.avatar": 50,
            TOMBSTONE: 100,
            "m.room.server_acl": 100,
            "m.room.encryption": 100,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0,
        "historical": 100,
    }


def with_tombstone_level(levels: Mapping[str, Any], rules: RoomVersion, *, at_least: bool = False) -> dict[str, Any]:
    """The levels with one for m.room.tombstone above `state_default`, as rooms with privileged creators must state it.

    A level that somebody has chosen stands, unless the new one is to be `at_least` there. What is malformed is left to
    the auth rules.
    """
    events, default = levels.get("events"), parse_level(levels.get("state_default", 50), rules)
    if not isinstance(events, dict) or default is None:
        return dict(levels)
    wanted = max(CREATORS_TOMBSTONE_LEVEL, default + 1)
    chosen = parse_level(events.get(TOMBSTONE), rules)
    if chosen is not None and at_least:
        wanted = max(wanted, chosen)
    elif TOMBSTONE in events:
        return dict(levels)
    return {**levels, "events": {**events, TOMBSTONE: wanted}}
