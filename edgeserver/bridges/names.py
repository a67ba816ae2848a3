"""Asking application services for what is unknown here: users and room aliases that they would make when somebody wants them.

Spec: application service API, "Querying". A service makes the user or the room before it answers, so who asks looks again afterwards.
Names come from strangers too: what a service does not know it is not asked again for a while, and nothing is asked for twice at a time
(a service that looks its own alias up while it is asked for it would wait for itself).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from edgeserver.matrix.identifiers import domain_of, is_room_alias, is_user_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from edgeserver.bridges.calls import ServiceCalls

UNKNOWN_SECONDS: Final = 30.0
MAX_UNKNOWN: Final = 2000


class NameQueries:
    """The queries. `server_name` is ours: nobody is asked for names of others."""

    def __init__(self, calls: Sequence[ServiceCalls], server_name: str) -> None:
        self._calls = [one for one in calls if one.can_be_asked]
        self._server_name = server_name
        self._unknown: dict[str, float] = {}
        self._under_way: set[str] = set()

    async def user(self, user_id: str) -> bool:
        """Whether an application service has made this user of ours now, who was unknown."""
        if not is_user_id(user_id) or domain_of(user_id) != self._server_name:
            return False
        asked = [one.knows_user for one in self._calls if one.service.has_user(user_id) and one.service.sender != user_id]
        return await self._ask(user_id, asked)

    async def alias(self, alias: str) -> bool:
        """Whether an application service has made a room with this alias of ours now, which was unknown."""
        if not is_room_alias(alias) or domain_of(alias) != self._server_name:
            return False
        return await self._ask(alias, [one.knows_alias for one in self._calls if one.service.has_alias(alias)])

    async def _ask(self, name: str, asked: Sequence[Callable[[str], Awaitable[bool]]]) -> bool:
        if not asked or name in self._under_way or self._unknown.get(name, 0.0) > trio.current_time():
            return False
        self._under_way.add(name)
        try:
            for knows in asked:
                if await knows(name):
                    self._unknown.pop(name, None)
                    return True
        finally:
            self._under_way.discard(name)
        self._unknown.pop(name, None)
        if len(self._unknown) >= MAX_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[name] = trio.current_time() + UNKNOWN_SECONDS
        return False
