"""Schema migrations: numbered SQL files, applied in order, each in its own transaction, recorded in `user_version`.

A file whose `user_version` is beyond what this release knows is refused: an older program must not write to it.
"""

from __future__ import annotations

import sqlite3
from importlib import resources

APPLICATION_ID = 0x45444745  # "EDGE": what `file` and `edgeserver check` recognise


class NewerFile(Exception):
    """The database was written by a newer release; `found` and `known` are schema numbers."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(
            f"the database has schema {found}, but this release knows only up to {known}: "
            "install the newer release again, or restore a backup made by this one"
        )
        self.found = found
        self.known = known


def steps() -> list[tuple[int, str]]:
    """All migrations as (number, SQL), in order."""
    folder = resources.files("edgeserver.store") / "schema"
    found = [(int(item.name.split("_", 1)[0]), item.read_text()) for item in folder.iterdir() if item.name.endswith(".sql")]
    return sorted(found)


def migrate(connection: sqlite3.Connection) -> int:
    """Brings the file to the newest schema; returns its number."""

    def execute(sql: str) -> sqlite3.Cursor:
        return sqlite3.Connection.execute(connection, sql)

    all_steps = steps()
    known = all_steps[-1][0]
    found = execute("PRAGMA user_version").fetchone()[0]
    if found > known:
        raise NewerFile(found, known)
    for number, sql in all_steps:
        if number <= found:
            continue
        execute("BEGIN IMMEDIATE")
        try:
            if number == 1:
                execute(f"PRAGMA application_id = {APPLICATION_ID}")
                execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID")
            for statement in _statements(sql):
                execute(statement)
            execute(f"PRAGMA user_version = {number}")
            execute("COMMIT")
        except BaseException:
            execute("ROLLBACK")
            raise
    return known


def _statements(sql: str) -> list[str]:
    statements, pending = [], ""
    for line in sql.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    if any(line.strip() and not line.strip().startswith("--") for line in pending.splitlines()):
        raise ValueError("a migration ends in the middle of a statement")
    return statements
