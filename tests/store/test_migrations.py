"""Migrations: from nothing to the newest, once; and never an older program on a newer file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from edgeserver.store import migrations
from edgeserver.store.database import connect, open_database
from edgeserver.store.migrations import APPLICATION_ID, NewerFile, migrate, steps


def test_steps_are_numbered_without_gaps_and_build_the_schema(tmp_path: Path) -> None:
    numbers = [number for number, _ in steps()]
    assert numbers == list(range(1, len(numbers) + 1))
    connection = connect(tmp_path / "x.db")
    try:
        assert migrate(connection) == numbers[-1]
        assert connection.execute("PRAGMA user_version").fetchone()[0] == numbers[-1]
        assert connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        before = connection.execute("SELECT sql FROM sqlite_master").fetchall()
        assert migrate(connection) == numbers[-1]
        assert connection.execute("SELECT sql FROM sqlite_master").fetchall() == before
    finally:
        connection.close()


async def test_a_file_of_a_newer_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    newest = steps()[-1][0]
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {newest + 1}")
    connection.close()
    with pytest.raises(NewerFile) as refused:
        async with open_database(path, inline=True):
            pass
    assert (refused.value.found, refused.value.known) == (newest + 1, newest)


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    connection = connect(tmp_path / "x.db")
    try:
        connection.execute("CREATE TABLE rooms (x)")
        with pytest.raises(sqlite3.OperationalError):
            migrate(connection)
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 0
        assert connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("rooms",)]
    finally:
        connection.close()


def test_statements_are_split_where_they_end_and_triggers_stay_whole() -> None:
    sql = "-- a; b\nCREATE TABLE a (x); -- c;\nCREATE TRIGGER t AFTER INSERT ON a BEGIN\n DELETE FROM a;\nEND;\n-- end\n"
    found = migrations._statements(sql)
    assert len(found) == 2
    with pytest.raises(ValueError, match="middle"):
        migrations._statements("CREATE TABLE a (")
