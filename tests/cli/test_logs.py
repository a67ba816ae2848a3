from __future__ import annotations

import io
import logging
import sys
from typing import Any

from edgeserver.cli.logs import LineFormatter, is_journal


def _line(text: str, *arguments: Any, level: int = logging.INFO, error: BaseException | None = None, **how: bool) -> str:
    told = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("edgeserver.app.links", level, __file__, 1, text, arguments, told)
    return LineFormatter(**{"journal": False, "whole": False, **how}).format(record)


def _raised() -> BaseException:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        return error


def test_a_record_is_one_line_with_time_level_and_place() -> None:
    _, _, rest = _line("%s is here", "ridge").partition(" ")
    assert rest.partition(" ")[2] == "info    app.links: ridge is here"


def test_under_systemd_a_record_has_the_journals_priority_and_no_time() -> None:
    assert _line("x", journal=True, level=logging.ERROR) == "<3>app.links: x"
    assert _line("x", journal=True, level=logging.WARNING) == "<4>app.links: x"
    assert _line("x", journal=True) == "<6>app.links: x"
    assert _line("x", journal=True, level=logging.DEBUG) == "<7>app.links: x"


def test_what_the_network_says_cannot_begin_a_line_of_its_own_or_steer_a_terminal() -> None:
    assert _line("%s is here", "a\n<0>app: b\x1b[2J", journal=True) == "<6>app.links: a\\n<0>app: b\\x1b[2J is here"


def test_an_exception_is_told_in_the_same_line_with_its_places() -> None:
    line = _line("it failed", error=_raised(), journal=True)
    assert line.startswith("<6>app.links: it failed: ValueError: two\\nlines [test_logs.py:")
    assert line.endswith(" _raised]")
    assert "\n" not in line


def test_each_member_of_a_group_is_told() -> None:
    line = _line("it failed", error=ExceptionGroup("both", [_raised(), OSError("disk")]))
    assert "ValueError: two\\nlines [" in line
    assert line.endswith(" | OSError: disk")


def test_debugging_shows_whole_tracebacks() -> None:
    assert "Traceback (most recent call last)" in _line("it failed", error=_raised(), whole=True)


def test_a_stream_without_a_file_is_no_journal() -> None:
    assert not is_journal(io.StringIO())
    assert not is_journal(sys.__stderr__ or io.StringIO())
