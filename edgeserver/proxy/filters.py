"""Sync filters fit for a thin line. Spec: client-server API, "Filtering".

What a client asks for explicitly stays; what it leaves open becomes cheap: members only of those who speak, few events
of each room. Presence and typing never go over a thin line. A filter that stands in the request itself would travel
with every poll, so it is defined at the box once and named by its id from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson

from edgeserver.proxy.replies import json_object
from transports.exchange import Priority, Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from transports.exchange import Response

TIMELINE: Final = 20
"""Events of each room's timeline, where the client does not say. Fewer would cost less after an outage, but matrix-js-sdk takes no
notice of the gap before them if it knows one of them already, as it does its own.
"""
FIRST_TIMELINE: Final = 5
"""The same in an initial sync."""
MOST_FIRST: Final = 10
"""The most in an initial sync, whatever the client says; it can read back with /messages."""
MAX_KNOWN: Final = 256
WHOAMI: Final = "/_matrix/client/v3/account/whoami"


def thinned(given: dict[str, Any], *, initial: bool = False) -> dict[str, Any]:
    """The filter with what it leaves open made cheap. What is not shaped like a filter is left for the box to refuse."""
    room = given.get("room", {})
    if not isinstance(room, dict) or not all(isinstance(room.get(part, {}), dict) for part in ("timeline", "state", "ephemeral")):
        return given
    timeline = {"limit": FIRST_TIMELINE if initial else TIMELINE, **room.get("timeline", {})}
    if initial and isinstance(timeline["limit"], int):
        timeline["limit"] = min(timeline["limit"], MOST_FIRST)
    state = {"lazy_load_members": True, **room.get("state", {})}
    silent = room.get("ephemeral", {}).get("not_types", [])
    ephemeral = dict(room.get("ephemeral", {}))
    if isinstance(silent, list) and "m.typing" not in silent:
        ephemeral["not_types"] = [*silent, "m.typing"]
    return {**given, "presence": {"not_types": ["*"]}, "room": {**room, "timeline": timeline, "state": state, "ephemeral": ephemeral}}


class DefinedFilters:
    """The filters that clients have at the box, by authorization. `carry` takes a request to the box."""

    def __init__(self, carry: Callable[[Request], Awaitable[Response]]) -> None:
        self._carry = carry
        self._users: dict[str, str] = {}
        self._ids: dict[tuple[str, bytes], str] = {}
        self._definitions: dict[tuple[str, str], dict[str, Any]] = {}

    def learn(self, authorization: str, definition: dict[str, Any], response: Response) -> None:
        """The box has answered a client that defined a filter."""
        told = json_object(response.body) if response.status == 200 else None
        if told is not None and isinstance(told.get("filter_id"), str):
            self._ids[authorization, _key(definition)] = told["filter_id"]
            self._definitions[authorization, told["filter_id"]] = definition
            _bound(self._ids)
            _bound(self._definitions)

    def definition(self, authorization: str, filter_id: str) -> dict[str, Any] | None:
        """What the filter says, if it was defined through this proxy."""
        return self._definitions.get((authorization, filter_id))

    async def id_of(self, authorization: str, definition: dict[str, Any]) -> str | None:
        """The id under which the box knows this filter, defined there if need be; None if the box will not have it."""
        known = self._ids.get((authorization, _key(definition)))
        user = None if known is not None else await self._user(authorization)
        if user is None:
            return known
        target = f"/_matrix/client/v3/user/{quote(user, safe='')}/filter"
        headers = (("authorization", authorization), ("content-type", "application/json"))
        response = await self._carry(Request("POST", target, headers=headers, body=_key(definition), priority=Priority.MESSAGE))
        self.learn(authorization, definition, response)
        return self._ids.get((authorization, _key(definition)))

    async def _user(self, authorization: str) -> str | None:
        if authorization not in self._users:
            response = await self._carry(Request("GET", WHOAMI, headers=(("authorization", authorization),), priority=Priority.MESSAGE))
            told = json_object(response.body) if response.status == 200 else None
            if told is None or not isinstance(told.get("user_id"), str):
                return None
            self._users[authorization] = told["user_id"]
            _bound(self._users)
        return self._users[authorization]


def _key(definition: dict[str, Any]) -> bytes:
    return orjson.dumps(definition, option=orjson.OPT_SORT_KEYS)


def _bound(known: dict[Any, Any]) -> None:
    while len(known) > MAX_KNOWN:
        del known[next(iter(known))]
