"""Which of a station's links a caller is put through to, where several links share one channel.

All links of a station hear every call. Were each to answer whoever is known, a box with three neighbours would
answer one of them three times over, and a call could take the session of somebody else. So each caller has one seat::

    a link that calls this very peer          is its seat
    the link that the peer was put through to stays its seat, also over a restart of the peer
    else the first link that calls nobody     becomes its seat; one that nobody ever took before one whose peer is away
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(eq=False)
class Seat:
    """One link's place. `calls` is the key of the peer that it calls, None if it waits; `holder` who was put through
    to it last; `is_up` tells whether it has a session now."""

    calls: bytes | None
    is_up: Callable[[], bool]
    holder: bytes | None = None


class Switchboard:
    """One for each transmitter on a shared channel; its links take seats while they run."""

    def __init__(self) -> None:
        self._seats: list[Seat] = []
        self._woke: tuple[float, Seat | None] = (float("-inf"), None)

    def add(self, seat: Seat) -> None:
        self._seats.append(seat)

    def remove(self, seat: Seat) -> None:
        self._seats.remove(seat)

    def admits(self, seat: Seat, key: bytes | None) -> bool:
        """Whether the caller with that key (None: a stranger) is for this link; a free link is then taken for it."""
        chosen = self._of(key) if key is not None else None
        chosen = chosen or self._free()
        if chosen is not None and key is not None:
            chosen.holder = key
        return chosen is seat

    def wakes(self, seat: Seat, now: float, pause: float) -> bool:
        """Whether this link sends the WAKE that it thinks due. One asks for calls to any of the links, as all stations hear
        it: none is due within half of that pause of one that another link has sent."""
        when, by = self._woke
        if by is not seat and now - when < pause / 2:
            return False
        self._woke = now, seat
        return True

    def _of(self, key: bytes) -> Seat | None:
        calling = next((each for each in self._seats if each.calls == key), None)
        return calling or next((each for each in self._seats if each.calls is None and each.holder == key), None)

    def _free(self) -> Seat | None:
        waiting = [each for each in self._seats if each.calls is None and not each.is_up()]
        return next((each for each in waiting if each.holder is None), waiting[0] if waiting else None)
