"""What a person types."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserver.chat.commands import VERBS, Command, Mistake, Say, help_lines, parse
from tests.chat.rig import Chat


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("hello", Say("hello")),
        ("  indented", Say("  indented")),
        ("//etc/passwd is a file", Say("/etc/passwd is a file")),
        ("/me waves", Say("waves", is_emote=True)),
        ("/room Harbour  master ", Command("room", "Harbour  master")),
        ("/ROOMS more", Command("rooms", "more")),
        ("/rooms", Command("rooms")),
        ("/inv @bob:b", Command("invite", "@bob:b")),
        ("/q", Command("quit")),
        ("", None),
        ("   \n", None),
        ("/", Mistake("There is no /; /help tells what there is. A message may begin with //.")),
        ("/room", Mistake("Say it as /room NUMBER or NAME.")),
        ("/l", Mistake("Which one: /leave, /logout?")),
        ("/quit now", Mistake("/quit stands alone.")),
        ("/\x1b[2J", Mistake("There is no /\ufffd[2j; /help tells what there is. A message may begin with //.")),
    ],
)
def test_lines_are_understood(line: str, meant: object) -> None:
    assert parse(line) == meant


@given(st.text())
def test_whatever_is_typed_is_understood_or_a_mistake_that_can_be_shown(line: str) -> None:
    meant = parse(line)
    if isinstance(meant, Mistake):
        assert meant.sentence.isprintable()
    if not line.strip("\r\n").startswith("/") and line.strip():
        assert isinstance(meant, Say)


def test_the_help_names_every_verb_and_fits_a_screen() -> None:
    rows = help_lines()
    assert [row.split()[0] for row in rows] == [f"/{verb}" for verb in VERBS]
    assert len(rows) + 1 <= 21
    assert max(map(len, rows)) <= 80


async def test_every_verb_is_carried_out_by_somebody(tmp_path) -> None:
    from edgeserver.chat.conversation import Conversation
    from edgeserver.chat.model import Model
    from edgeserver.chat.session import Dialect, Session

    session = Session(None, Model("@a:a"), _outbox(tmp_path), Chat(waits=False).face, dialect=Dialect.SLIDING, now=float)  # type: ignore[arg-type]
    assert {*Conversation(session, session._watcher).actions, "me"} == set(VERBS)


def _outbox(folder):
    from edgeserver.chat.outbox import Outbox

    return Outbox(folder / "outbox.json")
