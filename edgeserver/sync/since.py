"""Sync tokens: `s{stream}_{typing}`, `_{to_device}` after it while messages to the device are still to be fetched, and `~{room}.{room}`
while the client has people typing in these rooms.

`stream` is the position of the global stream up to which the client has been told, `typing` the version of what is kept in memory
only. The first part is also a pagination token (`rooms.tokens`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from edgeserver.matrix import errors

MAX_TYPING_ROOMS: Final = 16
"""Rooms that a token names; of more, those that were told of last."""
_TOKEN = re.compile(
    rf"s(\d{{1,18}})(?:_(\d{{1,18}}))?(?:_(\d{{1,18}}))?(?:~(\d{{1,18}}(?:\.\d{{1,18}}){{0,{MAX_TYPING_ROOMS - 1}}}))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Since:
    """Up to where a client has been told. `to_device` is never beyond `stream`. `typing_rooms`: the numbers of the rooms where it was told
    that people type, and not yet that they have stopped; for when who types has been forgotten by a restart.
    """

    stream: int
    typing: int
    to_device: int
    typing_rooms: tuple[int, ...] = ()

    @property
    def is_anothers(self) -> bool:
        """Whether this device has never had an answer of its own: it begins with what the person's other devices have been told."""
        return self.to_device == 0 < self.stream

    def __str__(self) -> str:
        rest = "" if self.to_device == self.stream else f"_{self.to_device}"
        rooms = "" if not self.typing_rooms else f"~{'.'.join(map(str, self.typing_rooms))}"
        return f"s{self.stream}_{self.typing}{rest}{rooms}"

    def with_typing(self, before: tuple[int, ...], told: dict[int, bool]) -> Since:
        """The same, once a client that had people typing in the rooms `before` was told whether they do in these."""
        rooms = [room for room in before if room not in told] + [room for room, types in told.items() if types]
        return replace(self, typing_rooms=tuple(rooms[-MAX_TYPING_ROOMS:]))


def parse(token: str) -> Since:
    """Raises M_INVALID_PARAM for what is no token of ours."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise errors.InvalidParam("since is no token of this server.")
    stream, typing = int(match[1]), int(match[2] or 0)
    rooms = tuple(map(int, match[4].split("."))) if match[4] else ()
    return Since(stream, typing, min(stream, int(match[3] or stream)), rooms)
