"""What rooms ask of other servers: raw PDUs, unverified; and how much of it one of them may make us ask.

`EventSource` is implemented by the federation client (`federation/source.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP_LIMIT: Final = 500
"""At most so many missing events are fetched before an event; what is beyond stays a gap and is filled by paging back."""
MAX_REQUESTS: Final = 400
"""Requests that one event, or one transaction's events of one room, may cause."""


class SourceFailed(Exception):
    """The other server could not be asked, or did not give it."""


class EventSource(Protocol):
    """Each method raises `SourceFailed`. Lists may be decoded element by element, each time anew."""

    async def missing_events(
        self, server: str, room_id: str, earliest: Sequence[str], latest: Sequence[str], limit: int, min_depth: int
    ) -> list[dict[str, Any]]: ...

    async def event(self, server: str, event_id: str) -> dict[str, Any]: ...

    async def state_ids(self, server: str, room_id: str, event_id: str) -> tuple[list[str], list[str]]: ...

    async def state(self, server: str, room_id: str, event_id: str) -> tuple[Sequence[Any], Sequence[Any]]: ...

    async def event_auth(self, server: str, room_id: str, event_id: str) -> list[dict[str, Any]]: ...

    async def backfill(self, server: str, room_id: str, from_ids: Sequence[str], limit: int) -> list[dict[str, Any]]: ...


@dataclass(slots=True)
class Allowance:
    """What one server may still make us ask and take in."""

    requests: int = MAX_REQUESTS
    gap_events: int = GAP_LIMIT

    def ask(self) -> None:
        """One request more. Raises `SourceFailed` when there have been enough."""
        if self.requests <= 0:
            raise SourceFailed(f"{MAX_REQUESTS} requests did not complete it")
        self.requests -= 1
