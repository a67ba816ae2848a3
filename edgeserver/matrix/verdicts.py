"""Verdicts on an event, as values.

Spec: server-server API, "Checks performed on receipt of a PDU".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accepted:
    """The event passes."""


@dataclass(frozen=True, slots=True)
class SoftFailed:
    """The event was allowed where it was sent, but not by the room's current state: kept, never shown to clients."""

    why: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The event is not allowed: kept, so that events after it can be judged, but no part of any state."""

    why: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """The event is not one at all, or not by its sender: forgotten."""

    why: str


@dataclass(frozen=True, slots=True)
class Unready(Dropped):
    """What the event is judged by could not be had now, keys or other events: it is not kept, but may be asked for again."""


Verdict = Accepted | SoftFailed | Rejected | Dropped

ACCEPTED = Accepted()
"""The one value of Accepted that is ever needed."""
