"""The database: group commit, failures, cancellation, the stream, and how a call reaches the thread."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trio_asyncio

from edgeserver.store.database import VALUES_AT_ONCE, Database, StoreError, Transaction, open_database


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path / "x.db", inline=True) as opened:
        await opened.write(lambda tx: tx.execute("CREATE TABLE things (thing INTEGER PRIMARY KEY, name TEXT UNIQUE)").rowcount)
        yield opened


def put(name: str) -> Any:
    return lambda tx: tx.insert("INSERT INTO things (name) VALUES (?)", (name,))


def names(tx: Transaction) -> list[str]:
    return [name for (name,) in tx.all("SELECT name FROM things ORDER BY name")]


async def test_many_writes_at_once_share_one_commit(db: Database) -> None:
    before = db.commits
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(db.write, put(f"{number:02}"))
    assert db.commits - before <= 2
    assert await db.read(names) == [f"{number:02}" for number in range(50)]


async def test_one_write_that_fails_takes_nothing_with_it(db: Database) -> None:
    outcomes: dict[str, str] = {}

    async def write(name: str, *parts: str) -> None:
        def run(tx: Transaction) -> None:
            for part in parts:
                put(part)(tx)

        try:
            await db.write(run)
        except Exception as error:
            outcomes[name] = type(error).__name__
        else:
            outcomes[name] = "done"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, "first", "a")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(write, "broken", "b", "a")
        nursery.start_soon(write, "last", "c")
    assert outcomes == {"first": "done", "broken": "IntegrityError", "last": "done"}
    assert await db.read(names) == ["a", "c"]


async def test_an_error_of_the_function_reaches_its_caller_as_it_is(db: Database) -> None:
    def fail(tx: Transaction) -> None:
        put("a")(tx)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await db.write(fail)
    with pytest.raises(StoreError):
        await db.write(lambda tx: tx.execute("SELECT * FROM nowhere").fetchall())
    assert await db.read(names) == []


async def test_when_the_commit_fails_every_caller_is_told_and_nothing_is_kept(db: Database) -> None:
    await db.write(lambda tx: tx.execute("CREATE TABLE parents (parent INTEGER PRIMARY KEY)").rowcount)
    await db.write(
        lambda tx: tx.execute(
            "CREATE TABLE children (parent INTEGER REFERENCES parents (parent) DEFERRABLE INITIALLY DEFERRED)"
        ).rowcount
    )
    told: list[str] = []
    position = db.position

    async def write(function: Any) -> None:
        with pytest.raises(StoreError):
            await db.write(function)
        told.append("failed")

    def orphan(tx: Transaction) -> None:
        tx.stream()
        tx.on_commit(lambda: told.append("committed"))
        tx.execute("INSERT INTO children VALUES (99)")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, put("a"))
        nursery.start_soon(write, orphan)
    assert told == ["failed", "failed"]
    assert await db.read(names) == []
    assert db.position == position
    await db.write(put("b"))
    assert await db.read(names) == ["b"]


async def test_a_write_cancelled_while_it_waits_is_not_run_and_one_that_has_begun_is(tmp_path: Path) -> None:
    async with open_database(tmp_path / "x.db", inline=True) as db:
        await db.write(lambda tx: tx.execute("CREATE TABLE things (thing INTEGER PRIMARY KEY, name TEXT)").rowcount)
        idle = Database(db._writer, db._readers, db._streams)  # its writer does not run
        with trio.move_on_after(0) as scope:
            await idle.write(put("never"))
        assert scope.cancelled_caught
        assert not idle._queue
        async with trio.open_nursery() as nursery:

            def cancel_all(tx: Transaction) -> None:
                put("begun")(tx)
                nursery.cancel_scope.cancel()

            nursery.start_soon(db.write, cancel_all)
        assert await db.read(names) == ["begun"]


async def test_callbacks_run_after_the_commit_in_the_order_of_the_writes(db: Database) -> None:
    seen: list[tuple[str, bool]] = []

    def write(name: str) -> Any:
        def run(tx: Transaction) -> None:
            position = tx.stream()
            tx.on_commit(lambda: seen.append((name, db.position >= position)))

        return run

    async with trio.open_nursery() as nursery:
        await db.write(write("a"))
        nursery.start_soon(db.write, write("b"))
    assert seen == [("a", True), ("b", True)]


async def test_what_is_written_along_waits_for_the_next_commit_and_comes_first_in_it(db: Database) -> None:
    told: list[str] = []

    def along(tx: Transaction) -> None:
        put("along")(tx)
        tx.on_commit(lambda: told.append("on disk"))

    before = db.commits
    db.write_along(along)
    await trio.testing.wait_all_tasks_blocked()
    assert (db.commits, told) == (before, [])
    assert await db.write(names) == ["along"]
    assert (db.commits, told) == (before + 1, ["on disk"])


async def test_what_is_written_along_and_fails_takes_nobody_with_it(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    await db.write(put("a"))
    db.write_along(put("a"))
    await db.write(put("b"))
    assert await db.read(names) == ["a", "b"]
    assert "written along failed: UNIQUE" in caplog.text


async def test_positions_grow_and_none_is_given_twice_even_after_a_restart(tmp_path: Path) -> None:
    given: list[int] = []
    for _ in range(3):
        async with open_database(tmp_path / "x.db", inline=True) as db:
            assert db.position >= max(given, default=0)
            given += [await db.write(Transaction.stream) for _ in range(3)]
            assert db.position == given[-1]
    assert given == sorted(set(given))


async def test_a_read_gives_no_positions_and_sees_one_snapshot(db: Database) -> None:
    with pytest.raises(RuntimeError):
        await db.read(Transaction.stream)
    with pytest.raises(sqlite3.OperationalError):
        await db.read(lambda tx: tx.execute("SELECT * FROM nowhere").fetchall())
    assert await db.read(names) == []


def test_a_function_reaches_the_thread_of_aiosqlite_and_comes_back_whole(tmp_path: Path) -> None:
    async def main() -> None:
        async with trio_asyncio.open_loop(), open_database(tmp_path / "x.db") as db:
            here = threading.get_ident()
            assert await db.read(lambda tx: threading.get_ident()) != here
            assert await db.write(lambda tx: [{"any": object}]) == [{"any": object}]
            await db.write(lambda tx: tx.execute("CREATE TABLE things (thing INTEGER PRIMARY KEY, name TEXT UNIQUE)").rowcount)
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(db.write, put(f"{number:02}"))
            assert len(await db.read(names)) == 20
            with pytest.raises(sqlite3.IntegrityError):
                await db.write(put("00"))
            with pytest.raises(LookupError):
                await db.read(lambda tx: {}[0])  # type: ignore[index]
            assert len(await db.read(names)) == 20

    trio.run(main)


def test_the_file_is_durable_and_small_on_its_medium(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_database(tmp_path / "x.db", inline=True) as db:
            def pragma(name: str) -> Any:
                return lambda tx: tx.one(f"PRAGMA {name}")[0]

            assert await db.read(pragma("journal_mode")) == "wal"
            assert await db.read(pragma("synchronous")) == 2
            assert await db.read(pragma("foreign_keys")) == 1

    trio.run(main)


async def test_a_block_that_is_cancelled_closes_its_connections_and_ends_their_threads(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    async with trio_asyncio.open_loop():
        with trio.CancelScope() as scope:
            async with open_database(tmp_path / "x.db") as opened:
                assert await opened.read(lambda tx: 1) == 1
                scope.cancel()
                await trio.sleep_forever()
    workers = [thread for thread in set(threading.enumerate()) - before if "_connection_worker" in thread.name]
    for thread in workers:
        thread.join(5)
    assert not any(thread.is_alive() for thread in workers)


async def test_an_unchecked_write_is_alone_in_its_commit_and_foreign_keys_are_looked_after_again(db: Database) -> None:
    def orphan(tx: Transaction) -> None:
        tx.execute("INSERT INTO gaps (room, missing, event) VALUES (77, 'x', 77)")

    before = db.commits
    async with trio.open_nursery() as nursery:
        nursery.start_soon(db.write, put("a"))
        nursery.start_soon(db.write_unchecked, orphan)
        nursery.start_soon(db.write, put("b"))
    assert db.commits - before >= 2  # the two others may share one
    assert await db.read(names) == ["a", "b"]
    assert await db.read(lambda tx: tx.one("SELECT count(*) FROM gaps")) == (1,)
    with pytest.raises(sqlite3.IntegrityError):
        await db.write(lambda tx: tx.execute("INSERT INTO gaps (room, missing, event) VALUES (78, 'x', 78)"))

    def fails(tx: Transaction) -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        await db.write_unchecked(fails)
    with pytest.raises(sqlite3.IntegrityError):
        await db.write(orphan)


async def test_any_number_of_values_is_asked_for_each_once(db: Database) -> None:
    every = [f"{number:04}" for number in range(2 * VALUES_AT_ONCE + 1)]
    await db.write(lambda tx: tx.executemany("INSERT INTO things (name) VALUES (?)", [(name,) for name in every]))

    def look(tx: Transaction, least: str) -> list[str]:
        return [name for (name,) in tx.all_in("SELECT name FROM things WHERE name >= ? AND name IN", [*every, *every], (least,))]

    assert await db.read(lambda tx: look(tx, "0000")) == every
    assert await db.read(lambda tx: look(tx, "0003")) == every[3:]
