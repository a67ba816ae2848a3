"""Text from the network, made harmless for a terminal (pure).

A name or a message may hold escape sequences that move the cursor, retitle the window or make the terminal type, and bidi overrides
that make a line say the contrary of what it says. Nothing that this module has returned holds a character that steers (Unicode
categories Cc, Cf, Cs, Co, Cn, Zl, Zp), but for the two joiners that scripts and emoji are written with.

Sources: ECMA-48 (control functions), UAX #9 and UTR #36, 3.2 (bidirectional text), UAX #11 (width).
"""

from __future__ import annotations

import unicodedata
from typing import Final

REPLACED: Final = "\N{REPLACEMENT CHARACTER}"
MAX_MARKS: Final = 4
"""Marks on one letter; more of them grow over other lines."""
TAB: Final = "    "
_JOINERS: Final = frozenset("\u200c\u200d")
_STEERING: Final = frozenset(("Cc", "Cs", "Co", "Cn", "Zl", "Zp"))
_MARKS: Final = frozenset(("Mn", "Me"))


def one_line(text: object, most: int = 200) -> str:
    """The text in one line of at most `most` characters; what is no text is none. Runs of blanks are one blank."""
    if not isinstance(text, str):
        return ""
    return cut(" ".join(printable(text[: 4 * most].replace("\n", " ")).split()), most)


def lines(text: object, most_lines: int, most: int) -> tuple[str, ...]:
    """The lines of a text, with what is beyond `most_lines` lines or `most` characters cut off and marked."""
    if not isinstance(text, str):
        return ()
    shown = text[:most].replace("\r\n", "\n").split("\n")
    found = [printable(line).rstrip() for line in shown[:most_lines]]
    while found and not found[-1]:
        found.pop()
    if found and (len(text) > most or len(shown) > most_lines):
        found[-1] += " […]"
    return tuple(found)


def printable(text: str) -> str:
    """The text without what steers: a tab is blanks, marks that pile up and invisible formatting are left out, the rest is replaced."""
    if text.isascii() and text.isprintable():
        return text
    found: list[str] = []
    marks = 0
    for letter in text:
        kind = unicodedata.category(letter)
        marks = marks + 1 if kind in _MARKS else 0
        if letter == "\t":
            found.append(TAB)
        elif kind in _STEERING:
            found.append(REPLACED)
        elif kind == "Zs":
            found.append(" ")
        elif (kind != "Cf" or letter in _JOINERS) and marks <= MAX_MARKS:
            found.append(letter)
    return "".join(found)


def width(text: str) -> int:
    """Columns that a terminal gives it."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(letter: str) -> int:
    if letter in _JOINERS or unicodedata.category(letter) in _MARKS:
        return 0
    return 2 if unicodedata.east_asian_width(letter) in ("W", "F") else 1


def cut(text: str, most: int) -> str:
    """At most `most` characters, marked where some are left out."""
    return text if len(text) <= most else text[: max(0, most - 1)] + "…"


def fitted(text: str, columns: int) -> str:
    """Cut to, or filled with blanks up to, so many columns."""
    found, used = [], 0
    for letter in text:
        taken = _columns(letter)
        if used + taken > columns:
            break
        found.append(letter)
        used += taken
    return "".join(found) + " " * (columns - used)


def wrapped(text: str, columns: int, indent: int = 0) -> list[str]:
    """Rows of at most `columns`, broken at blanks where there are some; rows after the first are indented."""
    columns = max(columns, 2)
    indent = min(indent, columns // 2, columns - 2)
    rows: list[str] = []
    row, used, blank = "", 0, 0  # `blank`: where the row may be broken
    for letter in text:
        taken = _columns(letter)
        if used + taken > columns:
            if letter == " ":
                rows.append(row)
                row, used, blank = " " * indent, indent, 0
                continue
            kept, rest = (row[:blank].rstrip(), row[blank:]) if blank else (row, "")
            if indent + width(rest) + taken > columns:
                kept, rest = row, ""
            rows.append(kept)
            row, blank = " " * indent + rest, 0
            used = width(row)
        row += letter
        used += taken
        if letter == " " and len(row) > indent and row.strip():
            blank = len(row)
    rows.append(row)
    return rows
