"""What is shown, as rows of text (pure): the same for a screen and for paper. Local time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edgeserver.chat import visible
from edgeserver.chat.events import Kind, State
from edgeserver.chat.model import ENCRYPTED, called

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.chat.events import Entry
    from edgeserver.chat.model import Model, Room

INDENT = "      | "
"""Before a message's further lines, so that none of them looks like another message."""


def clock(ms: int) -> str:
    """`14:02`; dashes for times that no calendar has."""
    found = _local(ms)
    return "--:--" if found is None else time.strftime("%H:%M", found)


def day(ms: int) -> str:
    """`2026-11-29`; empty for times that no calendar has."""
    found = _local(ms)
    return "" if found is None else time.strftime("%Y-%m-%d", found)


def _local(ms: int) -> time.struct_time | None:
    try:
        return time.localtime(ms / 1000) if 0 < ms < 1 << 47 else None
    except (OverflowError, OSError, ValueError):
        return None


def entry_lines(room: Room, entry: Entry) -> list[str]:
    """One entry in lines of any length."""
    name = room.name_of(entry.sender)
    first, *further = entry.text or ("",)
    said = {Kind.TEXT: f"{name}: {first}", Kind.EMOTE: f"* {name} {first}", Kind.NOTE: f"- {name} {first}"}[entry.kind]
    rows = [f"{clock(entry.at)} {said}", *(INDENT + line for line in further)]
    if entry.state is State.QUEUED:
        rows[-1] += " [waiting]"
    elif entry.state is State.FAILED:
        rows[-1] += f" [NOT SENT: {entry.why}]"
    return [visible.printable(row) for row in rows]


def room_rows(room: Room, columns: int, me: str) -> list[str]:
    """The whole timeline in rows of at most `columns`."""
    if room.is_encrypted:
        return visible.wrapped(ENCRYPTED, columns)
    rows: list[str] = []
    shown_day = ""
    for entry in room.entries:
        today = day(entry.at)
        if today and today != shown_day:
            rows.append(f"--- {today} ---")
            shown_day = today
        for line in entry_lines(room, entry):
            rows += visible.wrapped(line, columns, len(INDENT))
    told = readers_line(room, me)
    if told:
        rows += visible.wrapped(f"{INDENT}{told}", columns, len(INDENT))
    return rows or ["Nothing has been said here yet."]


def last_of(room: Room, user_id: str) -> Entry | None:
    """The last that somebody has said."""
    return next((entry for entry in reversed(room.timeline) if entry.sender == user_id and entry.kind is not Kind.NOTE), None)


def readers_line(room: Room, me: str) -> str:
    """Who has read our last message; empty if nobody has."""
    mine = last_of(room, me)
    names = [] if mine is None else [room.name_of(who) for who in room.readers_of(mine.key)]
    return f"(your last message: read by {', '.join(names[:5])}{' and others' if len(names) > 5 else ''})" if names else ""


def list_lines(model: Model) -> list[str]:
    """The rooms, one a line."""
    return [_room_line(model, room) for room in model.listed()]


def _room_line(model: Model, room: Room) -> str:
    marks = []
    if room.membership == "invite":
        marks.append(f"invite from {room.inviter}: /accept {room.number} or /reject {room.number}")
    if room.highlights:
        marks.append(f"{room.highlights} for you")
    if room.unread:
        marks.append(f"{room.unread} unread")
    waiting = sum(entry.state is State.QUEUED for entry in room.pending.values())
    failed = sum(entry.state is State.FAILED for entry in room.pending.values())
    marks += [f"{waiting} waiting"] if waiting else []
    marks += [f"{failed} NOT SENT"] if failed else []
    marks += ["encrypted: needs a full client"] if room.is_encrypted else []
    line = f"{room.number:>3}  {room.name}" + (f"  ({', '.join(marks)})" if marks else "")
    last = next((entry for entry in reversed(room.entries) if entry.kind is not Kind.NOTE), None)
    if last is not None and room.membership == "join":
        who = "you" if last.sender == model.me else called(last.sender, room.members.get(last.sender, ""), model.home)
        line += f"  {who}: {last.text[0]}"
    return visible.printable(line)


def page(rows: Sequence[str], height: int, back: int = 0, *, in_leaps: bool = False) -> list[str]:
    """The last `height` rows, or those `back` rows before.

    `in_leaps`: a full page begins anew with its last third, and so each row is written once or twice rather than with every new one; on a
    terminal of 2400 baud a screen takes eight seconds.
    """
    height = max(1, height)
    if in_leaps and back <= 0:
        step = max(1, height - height // 3)
        start = 0 if len(rows) <= height else -(-(len(rows) - height) // step) * step
        return list(rows[start:])
    end = max(min(height, len(rows)), len(rows) - max(0, back))
    return list(rows[max(0, end - height) : end])
