"""Sync tokens: `s{stream}_{typing}`, and `_{to_device}` after it while messages to the device are still to be fetched.

`stream` is the position of the global stream up to which the client has been told, `typing` the version of what is kept in memory
only. The first part is also a pagination token (`rooms.tokens`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeserver.matrix import errors

_TOKEN = re.compile(r"s(\d{1,18})(?:_(\d{1,18}))?(?:_(\d{1,18}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Since:
    """Up to where a client has been told. `to_device` is never beyond `stream`."""

    stream: int
    typing: int
    to_device: int

    def __str__(self) -> str:
        rest = "" if self.to_device == self.stream else f"_{self.to_device}"
        return f"s{self.stream}_{self.typing}{rest}"


def parse(token: str) -> Since:
    """Raises M_INVALID_PARAM for what is no token of ours."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise errors.InvalidParam("since is no token of this server.")
    stream, typing = int(match[1]), int(match[2] or 0)
    return Since(stream, typing, min(stream, int(match[3] or stream)))
