"""Logging: one line a record on stderr, whatever is in it. Under systemd the lines carry the journal's priorities and no time of their own.

An exception that was logged is told in the same line: what it was and where; `log_level = "debug"` shows whole tracebacks.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING, TextIO

from edgeserver.cli.console import one_line

if TYPE_CHECKING:
    from types import TracebackType

_CHATTY = ("aiosqlite", "asyncio", "hpack", "httpcore", "hypercorn", "PIL", "zeroconf")
_FRAMES = 4


def set_up(level: str, stream: TextIO | None = None) -> None:
    """Logs to stderr (or `stream`) from this level on: debug, info, warning, error."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(journal=is_journal(stream), whole=level == "debug"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


def is_journal(stream: TextIO) -> bool:
    """Whether the stream leads to the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    named = os.environ.get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


class LineFormatter(logging.Formatter):
    """`journal`: sd-daemon(3) priorities instead of times. `whole`: exceptions with their traceback, over many lines."""

    def __init__(self, *, journal: bool, whole: bool) -> None:
        super().__init__()
        self._journal = journal
        self._whole = whole

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix("edgeserver.")
        text = one_line(record.getMessage())
        if record.exc_info and record.exc_info[1] is not None and not self._whole:
            text = f"{text}: {told(record.exc_info[1])}"
        if self._journal:
            line = f"<{_priority(record.levelno)}>{name}: {text}"
        else:
            line = f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} {record.levelname.lower():7} {name}: {text}"
        if record.exc_info and self._whole:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


def told(error: BaseException) -> str:
    """An exception in one line: type, text and the innermost places; of a group, each of its members."""
    if isinstance(error, BaseExceptionGroup):
        return " | ".join(told(one) for one in error.exceptions)
    text = one_line(str(error))
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{what} [{_places(error.__traceback__)}]" if error.__traceback__ is not None else what


def _places(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)[-_FRAMES:]
    return " > ".join(f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)


def _priority(level: int) -> int:
    """The syslog priority of a level."""
    return 3 if level >= logging.ERROR else 4 if level >= logging.WARNING else 6 if level >= logging.INFO else 7
