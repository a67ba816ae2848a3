"""Held messages on disk: a file for each, in the folder `outbox` of the proxy's state, readable by its owner only.

A file is named for the message's number, sixteen digits, so that the order of names is the order of sending. It begins with a line of JSON:
`at` (ms since the epoch), `box` (the public key of the box that it is for, unpadded base64), `method`, `target`, `headers` (pairs;
Authorization is among them) and `bytes`, the length of the body, which follows as it is. The lane follows from authorization and target.

A file for each needs two syncs to write and none to remove, touches no other message when it is torn, and never has to be tidied. A removal
that a power cut undoes means that the message is delivered once more, under the same transaction id.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import orjson

from edgeserver.app.identity import write_durably
from edgeserver.clock import NEVER_BEFORE_MS
from edgeserver.paired.state import StateError
from edgeserver.proxy.paths import Kind, treatment_of
from transports.exchange import Request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

HELD_SECONDS: Final = 24 * 3600.0
MAX_HELD: Final = 800
"""Messages. It is less than `errands.MAX_UNDER_WAY`, so that a full outbox does not keep out everything else."""
MAX_HELD_BYTES: Final = 8_000_000
"""Of all files together."""
_NAME: Final = re.compile(r"(\d{16})\.(held|new)")


@dataclass(frozen=True)
class HeldMessage:
    """A request to send something; `number` gives its place, `at` is when it came (ms since the epoch)."""

    number: int
    at: int
    request: Request

    @property
    def authorization(self) -> str:
        return self.request.header("authorization") or ""

    @property
    def lane(self) -> tuple[str, str]:
        """What must be delivered in order shares a lane: whose it is, and where to."""
        path = self.request.target.partition("?")[0]
        return self.authorization, treatment_of(self.request.method, path).lane or ""

    @cached_property
    def size(self) -> int:
        """Bytes that it takes on disk, to within the key of its box."""
        return len(self.content(""))

    def age(self, now_ms: int) -> float:
        """Seconds, 0 if the machine did not know the time when it came, or does not now."""
        return max(0, now_ms - self.at) / 1000 if self.at >= NEVER_BEFORE_MS else 0.0

    def content(self, box: str) -> bytes:
        """The file."""
        told = {
            "at": self.at,
            "box": box,
            "method": self.request.method,
            "target": self.request.target,
            "headers": self.request.headers,
            "bytes": len(self.request.body),
        }
        return orjson.dumps(told) + b"\n" + self.request.body


class HeldFolder:
    """The files for `box` (a public key in base64) in the folder `path`. All methods block, and raise `StateError`."""

    def __init__(self, path: Path, box: str) -> None:
        self._path = path
        self._box = box

    def load(self, now_ms: int) -> list[HeldMessage]:
        """What an earlier run held, in order, after too old ones and unfinished files are removed. Makes the folder.

        Messages for another box stay where they are until they are too old: they are none of this one's business, nor is the access token
        in them.
        """
        found, size, others = [], 0, 0
        for number, path in self._files():
            message, box = _read(number, path)
            if message.age(now_ms) > HELD_SECONDS:
                log.warning("A message that was held for longer than %.0f hours is given up.", HELD_SECONDS / 3600)
                self.remove(number)
            elif box != self._box:
                others += 1
            else:
                found.append(message)
                size += message.size
        if len(found) > MAX_HELD or size > MAX_HELD_BYTES:
            raise StateError(f"{self._path} holds more messages than this program holds; move some of them away, and they are not sent.")
        if others:
            log.warning("%d held messages are for another box than this one; they are not sent.", others)
        return found

    def free_number(self) -> int:
        """One above all that are there, whomever they are for."""
        return max((number for number, _ in self._files()), default=0) + 1

    def write(self, message: HeldMessage) -> None:
        """It is on disk when this returns."""
        path = self._file(message.number)
        try:
            write_durably(path, message.content(self._box))
        except OSError as error:
            raise StateError(f"{path} cannot be written: {error.strerror}.") from error

    def remove(self, number: int) -> None:
        path = self._file(number)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"{path} cannot be removed: {error.strerror}.") from error

    def _file(self, number: int) -> Path:
        return self._path / f"{number:016d}.held"

    def _files(self) -> Iterator[tuple[int, Path]]:
        try:
            if not self._path.is_dir():
                self._path.mkdir(parents=True, mode=0o700)
                _sync(self._path.parent)
            names = sorted(os.listdir(self._path))
            for name in names:
                if name.endswith(".new") and _NAME.fullmatch(name):
                    (self._path / name).unlink()  # not whole: its sender was told nothing, and sends it again
        except OSError as error:
            raise StateError(f"{self._path} cannot be used: {error.strerror}.") from error
        for name in names:
            match = _NAME.fullmatch(name)
            if match is not None and match[2] == "held":
                yield int(match[1]), self._path / name


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(number: int, path: Path) -> tuple[HeldMessage, str]:
    """The message and whom it is for."""
    try:
        if path.stat().st_size > MAX_HELD_BYTES:
            raise ValueError("too large")
        head, _, body = path.read_bytes().partition(b"\n")
        return _message(number, orjson.loads(head), body)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} is damaged ({error!r}); move it away, and the message in it is not sent.") from error


def _message(number: int, told: Any, body: bytes) -> tuple[HeldMessage, str]:
    """Raises KeyError, TypeError or ValueError if this is none."""
    at, box, method, target = told["at"], told["box"], told["method"], told["target"]
    headers = tuple((name, value) for name, value in told["headers"])
    "".join((box, method, target, *(word for pair in headers for word in pair))).encode("latin-1")
    if type(at) is not int:
        raise TypeError("no time")
    if len(body) != told["bytes"]:
        raise ValueError(f"{len(body)} bytes of {told['bytes']}")
    treatment = treatment_of(method, target.partition("?")[0])
    if treatment.kind is not Kind.SEND:
        raise ValueError(f"{method} {target[:80]} sends nothing")
    request = Request(method, target, headers=headers, body=body, priority=treatment.priority, timeout=float("inf"))
    return HeldMessage(number, at, request), box
