"""Sync filters fit for a thin line. Spec: client-server API, "Filtering".

What a client asks for explicitly stays; what it leaves open becomes cheap: members only of those who speak, few events
of each room. Presence and typing never go over a thin line. A filter that stands in the request itself would travel
with every poll, so it is defined at the box once and named by its id from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson
import trio

from edgeserver.proxy.owners import digest_of
from edgeserver.proxy.replies import json_object
from edgeserver.proxy.small_file import SmallFile
from edgeserver.sync.filters import UNBROKEN
from transports.exchange import Priority, Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from edgeserver.proxy.owners import Owners
    from transports.exchange import Response

TIMELINE: Final = 20
"""Events of each room's timeline, where the client does not say; the box closes a gap before what the client has sent (`UNBROKEN`)."""
FIRST_TIMELINE: Final = 5
"""The same in an initial sync."""
MOST_FIRST: Final = 10
"""The most in an initial sync, whatever the client says; it can read back with /messages."""
MAX_KNOWN: Final = 128
MAX_DEFINITION: Final = 8192
"""Bytes; a larger one is not remembered."""


def thinned(given: dict[str, Any], *, initial: bool = False) -> dict[str, Any]:
    """The filter with what it leaves open made cheap. What is not shaped like a filter is left for the box to refuse."""
    room = given.get("room", {})
    if not isinstance(room, dict) or not all(isinstance(room.get(part, {}), dict) for part in ("timeline", "state", "ephemeral")):
        return given
    timeline = room.get("timeline", {})
    if "limit" not in timeline:
        timeline = {**timeline, **({"limit": FIRST_TIMELINE} if initial else {"limit": TIMELINE, UNBROKEN: True})}
    if initial and isinstance(timeline["limit"], int):
        timeline = {**timeline, "limit": min(timeline["limit"], MOST_FIRST)}
    state = {"lazy_load_members": True, **room.get("state", {})}
    silent = room.get("ephemeral", {}).get("not_types", [])
    ephemeral = dict(room.get("ephemeral", {}))
    if isinstance(silent, list) and "m.typing" not in silent:
        ephemeral["not_types"] = [*silent, "m.typing"]
    return {**given, "presence": {"not_types": ["*"]}, "room": {**room, "timeline": timeline, "state": state, "ephemeral": ephemeral}}


class DefinedFilters:
    """The filters that clients have at the box, which never change there. `run` is one task for the life of the proxy.

    `carry` takes a request to the box. The file `path` holds, for `box` (its public key in base64), a list of: the SHA-256 of the access
    token that a filter was defined with, its id, the definition. `inline`: see `app.blocking`.
    """

    def __init__(
        self, owners: Owners, carry: Callable[[Request], Awaitable[Response]], path: Path, box: str, *, inline: bool = False
    ) -> None:
        self._owners = owners
        self._carry = carry
        self._file = SmallFile(path, box, self._told, inline=inline)
        self._ids: dict[tuple[str, bytes], str] = {}
        self._definitions: dict[tuple[str, str], bytes] = {}
        owners.when_replaced.append(self._replace)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reads the file, and from then on writes it, until cancelled."""
        for entry in await self._file.load():
            match entry:
                case [str(digest), str(filter_id), dict(definition)]:
                    self._keep(digest, filter_id, _key(definition))
        task_status.started()
        await self._file.run()

    def _told(self) -> list[tuple[str, str, Any]]:
        return [(digest, filter_id, orjson.loads(key)) for (digest, filter_id), key in self._definitions.items()]

    def learn(self, authorization: str, definition: dict[str, Any], filter_id: Any) -> None:
        """The box has said that the filter has that id."""
        key, digest = _key(definition), digest_of(authorization)
        if isinstance(filter_id, str) and len(key) <= MAX_DEFINITION and self._ids.get((digest, key)) != filter_id:
            self._keep(digest, filter_id, key)
            self._file.change()

    def _keep(self, digest: str, filter_id: str, key: bytes) -> None:
        self._definitions[digest, filter_id] = key
        self._ids[digest, key] = filter_id
        while len(self._definitions) > MAX_KNOWN:
            self._definitions.pop(next(iter(self._definitions)))
        while len(self._ids) > MAX_KNOWN:
            self._ids.pop(next(iter(self._ids)))

    def forget(self, authorization: str) -> None:
        """All that were defined with that token: one of them is not there any more."""
        digest = digest_of(authorization)
        self._definitions = {key: definition for key, definition in self._definitions.items() if key[0] != digest}
        self._ids = {key: filter_id for key, filter_id in self._ids.items() if key[0] != digest}
        self._file.change()

    def _replace(self, token: str, new: str) -> None:
        """The device of the first token has the second one now. Both are `owners.digest_of`."""
        for (digest, filter_id), key in list(self._definitions.items()):
            if digest == token:
                self._keep(new, filter_id, key)
                self._file.change()

    def definition(self, authorization: str, filter_id: str) -> dict[str, Any] | None:
        """What the filter says, if it was defined through this proxy."""
        key = self._definitions.get((digest_of(authorization), filter_id))
        return None if key is None else json_object(key)

    def defined(self, authorization: str, definition: dict[str, Any]) -> str | None:
        """The id under which the box knows this filter, without the line."""
        return self._ids.get((digest_of(authorization), _key(definition)))

    async def id_of(self, authorization: str, definition: dict[str, Any]) -> str | None:
        """The same, defined at the box if need be; None if the box will not have it."""
        known = self.defined(authorization, definition)
        body = _key(definition)
        user = await self._owners.of(authorization) if known is None and len(body) <= MAX_DEFINITION else None
        if user is None:
            return known
        target = f"/_matrix/client/v3/user/{quote(user, safe='')}/filter"
        headers = (("authorization", authorization), ("content-type", "application/json"))
        response = await self._carry(Request("POST", target, headers=headers, body=body, priority=Priority.MESSAGE))
        if response.status == 200:
            self.learn(authorization, definition, (json_object(response.body) or {}).get("filter_id"))
        return self.defined(authorization, definition)


def _key(definition: dict[str, Any]) -> bytes:
    return orjson.dumps(definition, option=orjson.OPT_SORT_KEYS)
