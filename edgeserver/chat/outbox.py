"""Our messages on their way, on disk until the server has acknowledged them.

A message is written here with its transaction id before it is shown as waiting, and taken out after the server's answer. A program that is
killed in between sends it again with the same id, and the server, which knows the id, does not make another event of it. Spec:
client-server API, "Transaction identifiers".

`outbox.json` holds the messages in the order of sending and the number of the next transaction id, readable by its owner only. It is
written anew with each change, whole or not at all. The ids are numbers that go on by one, for a line carries those in next to nothing;
where no file is they begin anywhere, since the server may know earlier ids of the same device.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from edgeserver.app.identity import write_durably
from edgeserver.chat.saved import SavedError

if TYPE_CHECKING:
    from pathlib import Path

MAX_MESSAGES: Final = 200
MAX_BYTES: Final = 20_000
"""Bytes of one message."""
_FIRST: Final = 1 << 31
_LAST: Final = 10**15


@dataclass(frozen=True, slots=True)
class Message:
    """`at` is ms since the epoch; `failed` says why the server has refused it (empty: it waits)."""

    transaction: str
    room_id: str
    text: str
    is_emote: bool
    at: int
    failed: str = ""

    def content(self) -> dict[str, Any]:
        """Of the m.room.message event."""
        return {"msgtype": "m.emote" if self.is_emote else "m.text", "body": self.text}


class Full(Exception):
    """The message cannot be taken; one sentence."""


class Outbox:
    """The messages of one account. Raises `SavedError` when the file cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next, self.messages = _read(path)

    def add(self, room_id: str, text: str, *, is_emote: bool, at: int) -> Message:
        """Takes a message; it is on disk when this returns. Raises `Full`."""
        if len(text.encode("utf-8", "replace")) > MAX_BYTES:
            raise Full(f"A message has at most {MAX_BYTES:,} bytes.")
        if len(self.messages) >= MAX_MESSAGES:
            raise Full(f"{MAX_MESSAGES} messages wait already; this one is not taken.")
        message = Message(str(self._next), room_id, text.encode("utf-8", "replace").decode(), is_emote, at)
        self._keep([*self.messages, message], self._next + 1)
        return message

    def next(self) -> Message | None:
        """The first that waits."""
        return next((message for message in self.messages if not message.failed), None)

    def find(self, transaction: str) -> Message | None:
        return next((message for message in self.messages if message.transaction == transaction), None)

    def done(self, transaction: str) -> None:
        """It is sent, or not wanted any more."""
        self._keep([message for message in self.messages if message.transaction != transaction])

    def fail(self, transaction: str, why: str) -> None:
        self._mark(transaction, why or "refused")

    def retry(self, transaction: str) -> None:
        self._mark(transaction, "")

    def _mark(self, transaction: str, failed: str) -> None:
        self._keep([replace(each, failed=failed) if each.transaction == transaction else each for each in self.messages])

    def _keep(self, messages: list[Message], following: int | None = None) -> None:
        if messages == self.messages:
            return
        following = self._next if following is None else following
        kept = {"next": following, "messages": [asdict(message) for message in messages]}
        try:
            write_durably(self._path, orjson.dumps(kept, option=orjson.OPT_INDENT_2))
        except OSError as error:
            raise SavedError(f"{self._path} cannot be written: {error.strerror}.") from error
        self.messages, self._next = messages, following


def _read(path: Path) -> tuple[int, list[Message]]:
    """The number of the next id, and the messages; earlier versions kept these alone."""
    try:
        told = orjson.loads(path.read_bytes())
        kept = told if isinstance(told, dict) else {"next": _somewhere(), "messages": told}
        following, found = kept["next"], [Message(**each) for each in kept["messages"]]
        if type(following) is not int or not 0 <= following <= _LAST:
            raise ValueError("not the number of an id")
        if any(type(value) is not type(default) for one in found for value, default in zip(asdict(one).values(), _SHAPE, strict=True)):
            raise ValueError("not messages")
    except FileNotFoundError:
        return _somewhere(), []
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise SavedError(f"{path} is damaged ({error}); move it away, and what waited in it is not sent.") from error
    return following, found


def _somewhere() -> int:
    return secrets.randbelow(_FIRST)


_SHAPE: Final = ("", "", "", False, 0, "")
