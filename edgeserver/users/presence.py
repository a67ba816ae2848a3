"""Who is there: presence, kept in memory only. Spec: client-server API, "Presence".

A restart forgets it, and that is right: whoever is there says so again with the next sync.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import errors

if TYPE_CHECKING:
    from collections.abc import Callable

STATES: Final = frozenset({"online", "offline", "unavailable"})
MAX_STATUS: Final = 1000
KEPT: Final = 1000
ACTIVE_MS: Final = 60_000


@dataclass(slots=True)
class _Presence:
    state: str
    status: str | None
    active_at: int


class Presence:
    """The presence of our users."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._known: dict[str, _Presence] = {}

    def set(self, user_id: str, state: Any, status: Any = None) -> None:
        """Raises M_INVALID_PARAM for a state that is none or a status message that is no text of at most 1,000
        characters.
        """
        if type(state) is not str or state not in STATES:
            raise errors.InvalidParam("presence is one of online, offline, unavailable.")
        if status is not None and (type(status) is not str or len(status) > MAX_STATUS):
            raise errors.InvalidParam("status_msg is not a text, or too long.")
        self._known.pop(user_id, None)
        if len(self._known) >= KEPT:
            del self._known[next(iter(self._known))]
        self._known[user_id] = _Presence(state, status, self._now_ms())

    def get(self, user_id: str) -> dict[str, Any]:
        """The content of GET /presence/{userId}/status; offline for whom nothing is known of."""
        known = self._known.get(user_id)
        if known is None:
            return {"presence": "offline"}
        ago = max(0, self._now_ms() - known.active_at)
        body: dict[str, Any] = {"presence": known.state, "last_active_ago": ago}
        if known.status is not None:
            body["status_msg"] = known.status
        if known.state == "online":
            body["currently_active"] = ago < ACTIVE_MS
        return body
