"""Room aliases and the published room directory. Client-server API, "Room aliases" and "Published room directory"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from edgeserver.matrix import errors, visibility
from edgeserver.matrix.auth_events import CREATE, POWER_LEVELS
from edgeserver.matrix.identifiers import domain_of, is_room_alias
from edgeserver.matrix.power_levels import PowerLevels
from edgeserver.rooms import history
from edgeserver.rooms.read_summary import read_summary
from edgeserver.store import bridges, rooms, state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room

MAX_SERVERS = 50
MAX_PAGE = 100
CANONICAL_ALIAS = "m.room.canonical_alias"

_SHOWN = (
    "m.room.canonical_alias",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.create",
)


class RemoteDirectory(Protocol):
    """The directories of other servers. Each method raises `MatrixError` with what to tell the client."""

    async def directory(self, server: str, alias: str) -> tuple[str, list[str]]:
        """The room id of an alias of that server, and servers that are in the room. Raises M_NOT_FOUND."""
        ...

    async def public_rooms(self, server: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """That server's answer to POST /publicRooms with this body."""
        ...


class Directory:
    """Aliases: ours, and those of others by asking their server.

    `make_alias(alias)` asks whoever may make one of ours that is unknown (application services), and tells whether it is there now.
    """

    def __init__(
        self,
        db: Database,
        server_name: str,
        remote: RemoteDirectory,
        make_alias: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        self._db = db
        self._server_name = server_name
        self._remote = remote
        self._make_alias = make_alias

    async def resolve(self, alias: str, *, ask_others: bool = True) -> tuple[str, list[str]]:
        """The room id of an alias, and servers through which the room can be reached, the likeliest first.

        `ask_others`: False keeps it to our own aliases that are there. Raises M_INVALID_PARAM if that is no alias, M_NOT_FOUND.
        """
        server = domain_of(_checked(alias))
        if server != self._server_name:
            if not ask_others:
                raise errors.NotFound(f"The alias {alias} is of another server.")
            room_id, servers = await self._remote.directory(server, alias)
            return room_id, list(dict.fromkeys([*servers, server]))[:MAX_SERVERS]
        try:
            return await self._db.read(lambda tx: self._local(tx, alias))
        except errors.NotFound:
            if not ask_others or self._make_alias is None or not await self._make_alias(alias):
                raise
        return await self._db.read(lambda tx: self._local(tx, alias))

    def _local(self, tx: Transaction, alias: str) -> tuple[str, list[str]]:
        room_id = rooms.alias_target(tx, alias)
        if room_id is None:
            raise errors.NotFound(f"There is no alias {alias}.")
        room = rooms.get(tx, room_id)
        servers = [] if room is None else rooms.servers(tx, room.number)
        return room_id, list(dict.fromkeys([self._server_name, *servers]))[:MAX_SERVERS]

    async def add(self, user_id: str, alias: str, room_id: str, *, must_be_joined: bool = True) -> None:
        """Makes an alias of this server for a room that the user is in (unless it is an application service's own to give).

        Raises M_INVALID_PARAM (no alias, or another server's), M_FORBIDDEN, 409 M_UNKNOWN (taken).
        """
        if domain_of(_checked(alias)) != self._server_name:
            raise errors.InvalidParam("An alias of another server cannot be made here.")

        def run(tx: Transaction) -> None:
            if must_be_joined and not _is_joined(tx, rooms.get(tx, room_id), user_id):
                raise errors.Forbidden(f"You are not in the room {room_id}.")
            if rooms.alias_target(tx, alias) is not None:
                raise errors.Unknown(f"The alias {alias} exists already.", status=409)
            rooms.add_alias(tx, alias, room_id, user_id)

        await self._db.write(run)

    async def remove(self, user_id: str, alias: str, *, is_admin: bool = False) -> None:
        """Removes an alias: who made it may, and who may set the room's canonical alias. Raises M_NOT_FOUND, M_FORBIDDEN."""
        _checked(alias)

        def run(tx: Transaction) -> None:
            room_id = rooms.alias_target(tx, alias)
            if room_id is None:
                raise errors.NotFound(f"There is no alias {alias} of this server.")
            is_creator = rooms.alias_creator(tx, alias) == user_id
            if not (is_admin or is_creator or may_publish(tx, rooms.get(tx, room_id), user_id)):
                raise errors.Forbidden("Only who made the alias, or a moderator of its room, may remove it.")
            rooms.remove_alias(tx, alias)

        await self._db.write(run)

    async def aliases(self, user_id: str, room_id: str) -> list[str]:
        """This server's aliases of a room that the user is in, or that anybody may read. Raises M_FORBIDDEN."""

        def read(tx: Transaction) -> list[str]:
            at = history.view(tx, room_id, user_id)
            is_joined = at.membership is not None and at.membership.membership == "join"
            if not (is_joined or history.is_world_readable(tx, at.snapshot)):
                raise errors.Forbidden(f"You are not in the room {room_id}.")
            return rooms.aliases_of(tx, room_id)

        return await self._db.read(read)

    async def check_canonical_alias(self, room_id: str, content: Mapping[str, Any]) -> None:
        """Holds a new m.room.canonical_alias to what the spec asks of PUT /state: aliases that it adds must point at the room.

        Raises M_INVALID_PARAM (not an alias), M_BAD_ALIAS (points elsewhere, or nowhere).
        """
        stands = await self._db.read(lambda tx: _canonical_alias(tx, room_id))
        for alias in [each for each in aliases_in(content) if each not in stands]:
            try:
                target, _ = await self.resolve(alias)
            except errors.InvalidParam:
                raise
            except errors.MatrixError as error:
                raise errors.BadAlias(f"The alias {alias} cannot be resolved: {error.error}") from error
            if target != room_id:
                raise errors.BadAlias(f"The alias {alias} does not point at this room.")


def aliases_in(content: Mapping[str, Any]) -> list[str]:
    """The aliases that an m.room.canonical_alias names. Raises M_INVALID_PARAM if they are not even strings."""
    alias, others = content.get("alias"), content.get("alt_aliases", [])
    named = [*([] if alias in (None, "") else [alias]), *(others if isinstance(others, list) else [others])]
    if not all(isinstance(each, str) for each in named):
        raise errors.InvalidParam("alias is not a string, or alt_aliases not a list of strings.")
    return named


def _canonical_alias(tx: Transaction, room_id: str) -> set[str]:
    room = rooms.get(tx, room_id)
    stored = None if room is None or room.snapshot is None else state.lookup_event(tx, room.snapshot, CANONICAL_ALIAS)
    if stored is None:
        return set()
    named = [stored.event.content.get("alias")]
    others = stored.event.content.get("alt_aliases")
    named += others if isinstance(others, list) else []
    return {each for each in named if isinstance(each, str)}


def _checked(alias: str) -> str:
    if not is_room_alias(alias):
        raise errors.InvalidParam(f"{alias[:100]!r} is not a room alias.")
    return alias


def _is_joined(tx: Transaction, room: Room | None, user_id: str) -> bool:
    membership = None if room is None else rooms.membership(tx, user_id, room.number)
    return membership is not None and membership.membership == "join"


def may_publish(tx: Transaction, room: Room | None, user_id: str) -> bool:
    """Whether the user is in the room and may set its canonical alias: whoever may say how the room is called in public."""
    if room is None or room.snapshot is None or not _is_joined(tx, room, user_id):
        return False
    found = {key: one.event for key, one in state.lookup_events(tx, room.snapshot, [CREATE, POWER_LEVELS]).items()}
    levels = PowerLevels(room.rules, found.get(CREATE), found.get(POWER_LEVELS))
    return levels.user(user_id) >= levels.to_send(CANONICAL_ALIAS, is_state=True)


@dataclass(frozen=True, slots=True)
class _Filter:
    """What to look for: `term` in the room's name, topic or alias; `room_types` (None: a room without a type)."""

    term: str
    room_types: frozenset[str | None] | None

    def takes(self, shown: Mapping[str, Any]) -> bool:
        if self.room_types is not None and shown.get("room_type") not in self.room_types:
            return False
        texts = (shown.get(key, "") for key in ("name", "topic", "canonical_alias", "room_id"))
        return not self.term or any(self.term in text.casefold() for text in texts)


@dataclass(frozen=True, slots=True)
class Networks:
    """Whose rooms are asked for: those of the homeserver itself (neither is given), of all bridged networks too, or of one of them."""

    all: bool = False
    instance_id: str | None = None

    def listed(self, tx: Transaction) -> list[Room]:
        """The rooms that are listed in these networks. An instance id is that of an application service, `|`, and a network's id."""
        if self.instance_id and not self.all:
            service, _, network_id = self.instance_id.partition("|")
            return _known(tx, bridges.listed_rooms(tx, service, network_id))
        published = rooms.published(tx)
        if not self.all:
            return published
        named = {room.room_id for room in published}
        return [*published, *_known(tx, [one for one in bridges.listed_rooms(tx) if one not in named])]

    def asked(self) -> dict[str, Any]:
        """As the keys of a request."""
        if self.all:
            return {"include_all_networks": True}
        return {"third_party_instance_id": self.instance_id} if self.instance_id else {}


def _known(tx: Transaction, room_ids: Sequence[str]) -> list[Room]:
    found = [rooms.get(tx, room_id) for room_id in room_ids]
    return [room for room in found if room is not None and room.snapshot is not None]


def networks(all_: object, instance_id: object) -> Networks:
    """From the keys `include_all_networks` and `third_party_instance_id` of a request. Raises M_BAD_JSON."""
    if not (all_ is None or isinstance(all_, bool)) or not (instance_id is None or isinstance(instance_id, str)):
        raise errors.BadJson("include_all_networks is not a boolean, or third_party_instance_id not a string.")
    return Networks(bool(all_), instance_id)


class PublicRooms:
    """The published room directory: ours, and others' by asking them."""

    def __init__(self, db: Database, server_name: str, remote: RemoteDirectory) -> None:
        self._db = db
        self._server_name = server_name
        self._remote = remote

    async def is_published(self, room_id: str) -> bool:
        """Raises M_NOT_FOUND for a room that is not known here."""
        room = await self._db.read(lambda tx: rooms.get(tx, room_id))
        if room is None or room.snapshot is None:
            raise errors.NotFound("That room is not known here.")
        return room.published

    async def publish(self, user_id: str, room_id: str, published: bool, *, is_admin: bool = False) -> None:
        """Puts the room into the directory or takes it out. Raises M_NOT_FOUND, M_FORBIDDEN."""

        def run(tx: Transaction) -> None:
            room = rooms.get(tx, room_id)
            if room is None or room.snapshot is None:
                raise errors.NotFound("That room is not known here.")
            if not (is_admin or may_publish(tx, room, user_id)):
                raise errors.Forbidden("You may not change whether the room is in the directory.")
            if room.published != published:
                rooms.set_published(tx, room.number, published)

        await self._db.write(run)

    async def page(
        self, *, limit: int | None, since: str | None, filter_: Mapping[str, Any], networks: Networks | None = None
    ) -> dict[str, Any]:
        """One page of this server's directory, the largest rooms first, as POST /publicRooms answers it.

        `limit` None: as many as fit one page. Raises M_INVALID_PARAM for a `since` that is none of ours, M_BAD_JSON.
        """
        size = MAX_PAGE if limit is None else max(1, min(limit, MAX_PAGE))
        start = _offset(since)
        wanted = _filter(filter_)
        listed = await self._db.read(lambda tx: _listed(tx, self._server_name, networks or Networks()))
        found = [shown for shown in listed if wanted.takes(shown)]
        answer: dict[str, Any] = {"chunk": found[start : start + size], "total_room_count_estimate": len(found)}
        if start + size < len(found):
            answer["next_batch"] = f"p{start + size}"
        if start > 0:
            answer["prev_batch"] = f"p{max(0, start - size)}"
        return answer

    async def page_of(
        self,
        server: str,
        *,
        limit: int | None,
        since: str | None,
        filter_: Mapping[str, Any],
        networks: Networks | None = None,
    ) -> dict[str, Any]:
        """The same of any server; `networks` are those of its application services."""
        chosen = networks or Networks()
        if server == self._server_name:
            return await self.page(limit=limit, since=since, filter_=filter_, networks=chosen)
        content = {"limit": limit, "since": since, "filter": dict(filter_) or None, **chosen.asked()}
        answer = await self._remote.public_rooms(server, {key: value for key, value in content.items() if value is not None})
        return _as_told(answer)


def _as_told(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What another server answers, of which the parts that a client could not read are left out."""
    shown: dict[str, Any] = {"chunk": [room for one in answer["chunk"] if (room := read_summary(one)) is not None]}
    shown |= {key: answer[key] for key in ("next_batch", "prev_batch") if isinstance(answer.get(key), str)}
    if type(answer.get("total_room_count_estimate")) is int:
        shown["total_room_count_estimate"] = answer["total_room_count_estimate"]
    return shown


def _offset(since: str | None) -> int:
    if since is None:
        return 0
    if not (since[:1] == "p" and since[1:].isascii() and since[1:].isdecimal() and len(since) < 12):
        raise errors.InvalidParam("since is no token of this directory.")
    return int(since[1:])


def _filter(given: Mapping[str, Any]) -> _Filter:
    term, types = given.get("generic_search_term"), given.get("room_types")
    if not (term is None or isinstance(term, str)):
        raise errors.BadJson("generic_search_term is not a string.")
    if not (types is None or (isinstance(types, list) and all(each is None or isinstance(each, str) for each in types))):
        raise errors.BadJson("room_types is not a list of strings.")
    return _Filter((term or "").strip().casefold(), None if types is None else frozenset(types))


def _listed(tx: Transaction, server_name: str, networks: Networks) -> list[dict[str, Any]]:
    """The directory, largest room first. Rooms that nobody of this server is in any more are not ours to show."""
    shown = [summary(tx, room) for room in networks.listed(tx) if rooms.server_is_in(tx, room.number, server_name)]
    return sorted(shown, key=lambda each: (-each["num_joined_members"], each["room_id"]))


def summary(tx: Transaction, room: Room) -> dict[str, Any]:
    """A room as a directory shows it (PublishedRoomsChunk). The room must have a state."""
    assert room.snapshot is not None
    known = {key[0]: one.event for key, one in state.lookup_events(tx, room.snapshot, [(kind, "") for kind in _SHOWN]).items()}

    def text(event_type: str, key: str) -> str | None:
        event = known.get(event_type)
        value = None if event is None else event.content.get(key)
        return value if isinstance(value, str) and value else None

    optional = {
        "canonical_alias": text("m.room.canonical_alias", "alias"),
        "name": text("m.room.name", "name"),
        "topic": text("m.room.topic", "topic"),
        "avatar_url": text("m.room.avatar", "url"),
        "join_rule": text("m.room.join_rules", "join_rule"),
        "room_type": text("m.room.create", "type"),
    }
    return {
        "room_id": room.room_id,
        "num_joined_members": rooms.count(tx, room.number, "join"),
        "world_readable": visibility.visibility_of(known.get("m.room.history_visibility")) == "world_readable",
        "guest_can_join": text("m.room.guest_access", "guest_access") == "can_join",
        **{key: value for key, value in optional.items() if value is not None},
    }
