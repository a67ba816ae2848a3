"""Talking to the person at the terminal, or to the program that reads us."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class CommandError(Exception):
    """A verb could not be carried out: one plain sentence. `status` is the exit code: 1, or 2 for a wrong command line or configuration."""

    def __init__(self, sentence: str, *, status: int = 1) -> None:
        super().__init__(sentence)
        self.status = status


def say(text: str = "") -> None:
    """One line (or several) on stdout, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_json(value: Any) -> None:
    """One line of JSON on stdout, at once."""
    import json

    say(json.dumps(value, ensure_ascii=False))


def complain(sentence: str) -> None:
    """One line on stderr, under the program's name."""
    sys.stderr.write(f"edgeserver: {one_line(sentence)}\n")
    sys.stderr.flush()


def one_line(text: str) -> str:
    """The text with whatever would end the line or steer a terminal spelt out: names come from the network."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, each as wide as its widest cell."""
    cells = [list(titles), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 room`, `2 rooms`."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def day_of(ms: int) -> str:
    """A date in local time from ms since the epoch."""
    from datetime import datetime

    return datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d")
