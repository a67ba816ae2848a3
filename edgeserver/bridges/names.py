"""Asking application services for what is unknown here: users and room aliases that they would make when somebody wants them.

Spec: application service API, "Querying". A service makes the user or the room before it answers, so who asks looks again afterwards.
Names come from strangers too: what a service does not know it is not asked again for a while, and nothing is asked for twice at a time
(a service that looks its own alias up while it is asked for it would wait for itself). A service that does not answer leaves it open
whether there is such a name: that is told as 408.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.bridges.calls import ServiceFailed
from edgeserver.matrix import errors
from edgeserver.matrix.identifiers import domain_of, is_room_alias, is_user_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from edgeserver.bridges.calls import ServiceCalls

log = logging.getLogger(__name__)

UNKNOWN_SECONDS: Final = 30.0
MAX_UNKNOWN: Final = 2000


class NameQueries:
    """The queries. `server_name` is ours: nobody is asked for names of others."""

    def __init__(self, calls: Sequence[ServiceCalls], server_name: str) -> None:
        self._calls = [one for one in calls if one.can_be_asked]
        self._server_name = server_name
        self._unknown: dict[str, tuple[float, bool]] = {}  # until when it is not asked for again, and whether nobody answered
        self._under_way: set[str] = set()

    async def user(self, user_id: str) -> bool:
        """Whether an application service has made this user of ours now, who was unknown. Raises 408."""
        if not is_user_id(user_id) or domain_of(user_id) != self._server_name:
            return False
        asked = [one.knows_user for one in self._calls if one.service.has_user(user_id) and one.service.sender != user_id]
        return await self._ask(user_id, asked)

    async def alias(self, alias: str) -> bool:
        """Whether an application service has made a room with this alias of ours now, which was unknown. Raises 408."""
        if not is_room_alias(alias) or domain_of(alias) != self._server_name:
            return False
        return await self._ask(alias, [one.knows_alias for one in self._calls if one.service.has_alias(alias)])

    async def _ask(self, name: str, asked: Sequence[Callable[[str], Awaitable[bool]]]) -> bool:
        if not asked or name in self._under_way:
            return False
        until, is_open = self._unknown.pop(name, (0.0, False))
        if until <= trio.current_time():
            self._under_way.add(name)
            try:
                found = await self._first(name, asked)
            finally:
                self._under_way.discard(name)
            if found:
                return True
            until, is_open = trio.current_time() + UNKNOWN_SECONDS, found is None
        if len(self._unknown) >= MAX_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[name] = until, is_open
        if is_open:
            raise errors.Unknown("The application service that may have this name does not answer.", status=408)
        return False

    async def _first(self, name: str, asked: Sequence[Callable[[str], Awaitable[bool]]]) -> bool | None:
        """Whether one of them knows the name; None if one that might did not answer."""
        found: bool | None = False
        for knows in asked:
            try:
                if await knows(name):
                    return True
            except ServiceFailed as error:
                log.warning("an application service could not be asked for %s: %s", name, error)
                found = None
        return found
