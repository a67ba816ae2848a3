"""One SQLite file behind trio: one writer with group commit, a few readers, whole functions on the connection's thread.

`await db.write(fn)` runs `fn(tx)` on the writer's thread inside a savepoint; many callers' functions share one COMMIT and so one fsync.
It returns `fn`'s result once that COMMIT is on disk. If `fn` raises, only its own savepoint is rolled back and the caller gets the error;
if the COMMIT fails (a full disk), every caller of the batch gets `StoreError` and nothing of the batch is kept.
`await db.read(fn)` runs `fn(tx)` on a reader's thread in one snapshot.

The global stream: `tx.stream()` hands out increasing positions from one counter for all tables. There is one writer, so the order of
allocation is the order of commits, and "everything up to `db.position`" is a well-defined prefix. Positions are reserved in blocks, so that
a deleted row's position is never handed out a second time after a restart.

How a function reaches the thread: aiosqlite has no public call for it, but `execute_fetchall(sql, parameters)` does
`connection.execute(sql, parameters).fetchall()` on the thread, so a `sqlite3.Connection` subclass whose `execute` takes a callable gets
there without private names. `tests/store` hold aiosqlite to it.

Needs a running trio-asyncio loop (`app.py` opens it), or `inline=True`, which runs everything in the caller: for tests on a virtual clock.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import trio

from edgeserver.store import migrations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import aiosqlite

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Row = tuple[Any, ...]

MAX_BATCH = 128
READERS = 2
VALUES_AT_ONCE = 500
STREAM_BLOCK = 4096
PAGE_BYTES = 2048
"""A message touches some ten pages, each written whole: half of SQLite's usual size nearly halves what a message writes to the SD card."""
WAL_PAGES = 4096
"""So many pages (8 MiB) of log before they are written to their places, where pages written often meanwhile count once."""


DatabaseError = sqlite3.DatabaseError
"""What a statement raises inside a transaction's function; let through, it becomes `StoreError` where it is the database's fault."""


class StoreError(Exception):
    """The database could not do it (disk full, I/O error, corrupt file); nothing of the call was kept."""


class Transaction:
    """What a store function gets: the connection inside one open transaction.

    `position` is the newest stream position that this snapshot is sure to hold whole; rows beyond it belong to a later answer.
    """

    __slots__ = ("_connection", "_streams", "after_commit", "position")

    def __init__(self, connection: sqlite3.Connection, position: int, streams: StreamCounter | None = None) -> None:
        self._connection = connection
        self._streams = streams
        self.position = position
        self.after_commit: list[Callable[[], None]] = []

    def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        return sqlite3.Connection.execute(self._connection, sql, parameters)

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.executemany(sql, rows)

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """The first row, or None."""
        return cast("Row | None", self.execute(sql, parameters).fetchone())

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self.execute(sql, parameters).fetchall()

    def all_in(self, select: str, values: Iterable[Any], before: Sequence[Any] = ()) -> Iterator[Row]:
        """The rows of a SELECT that ends with IN, for any number of values, each once: some hundreds go in one statement.

        `before` are the parameters before IN: written into the text instead, a number makes a new statement each time.
        """
        wanted = list(dict.fromkeys(values))
        for start in range(0, len(wanted), VALUES_AT_ONCE):
            part = wanted[start : start + VALUES_AT_ONCE]
            yield from self.execute(f"{select} ({','.join('?' * len(part))})", [*before, *part]).fetchall()

    def insert(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Runs an INSERT and returns its row id."""
        return cast("int", self.execute(sql, parameters).lastrowid)

    def stream(self) -> int:
        """The next position of the global stream (write transactions only)."""
        if self._streams is None:
            raise RuntimeError("a read transaction has no stream positions to give")
        return self._streams.next(self)

    @contextmanager
    def part(self) -> Iterator[None]:
        """A part of a write that may fail by itself: if the block raises, what it did is undone, and the rest can go on."""
        assert self._streams is not None
        reserved, callbacks = self._streams.reserved, len(self.after_commit)
        self.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # else SQLite itself gave the whole transaction up
                self.execute("ROLLBACK TO part")
                self.execute("RELEASE part")
            self._streams.reserved = reserved
            del self.after_commit[callbacks:]
            raise
        self.execute("RELEASE part")

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Runs `callback` on the trio side once this transaction is on disk (never when it fails)."""
        self.after_commit.append(callback)


@dataclass(slots=True)
class StreamCounter:
    """Hands out positions; `reserved` is the bound that the file knows, so a restart starts beyond everything ever given."""

    current: int
    reserved: int

    def next(self, tx: Transaction) -> int:
        self.current += 1
        if self.current > self.reserved:
            self.reserved = self.current + STREAM_BLOCK
            tx.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('stream_reserved', ?)", (self.reserved,))
        return self.current


class HopConnection(sqlite3.Connection):
    """A connection whose `execute` also takes a callable: see the module's docstring."""

    def execute(self, sql: Any, parameters: Any = (), /) -> Any:
        if callable(sql):
            return _Answer(sql(self, *parameters))
        return super().execute(sql, parameters)


class _Answer:
    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def fetchall(self) -> object:
        return self._value


@dataclass(slots=True, eq=False)
class _Write(Generic[Result]):
    function: Callable[[Transaction], Result]
    unchecked: bool = False
    along: bool = False
    done: trio.Event = field(default_factory=trio.Event)
    started: bool = False
    result: Result | None = None
    error: BaseException | None = None
    callbacks: list[Callable[[], None]] = field(default_factory=list)


class _Lane:
    """One connection on one thread (or inline)."""

    def __init__(self, connection: sqlite3.Connection | aiosqlite.Connection) -> None:
        self._connection = connection

    async def run(self, function: Callable[..., Result], *args: object) -> Result:
        if isinstance(self._connection, sqlite3.Connection):
            return function(self._connection, *args)
        import trio_asyncio

        call = cast("Any", self._connection.execute_fetchall)
        return cast("Result", await trio_asyncio.aio_as_trio(call)(function, args))

    async def close(self) -> None:
        if isinstance(self._connection, sqlite3.Connection):
            self._connection.close()
        else:
            import trio_asyncio

            await trio_asyncio.aio_as_trio(self._connection.close)()


class Database:
    """The open store; see the module's docstring. Made by `open_database`."""

    def __init__(self, writer: _Lane, readers: list[_Lane], streams: StreamCounter) -> None:
        self._writer = writer
        self._readers = list(readers)
        self._free_readers = list(readers)
        self._reader_limit = trio.CapacityLimiter(max(1, len(readers)))
        self._streams = streams
        self._queue: deque[_Write[Any]] = deque()
        self._along: list[_Write[Any]] = []
        self._queued = trio.Event()
        self.position = streams.current
        self.commits = 0

    async def read(self, function: Callable[[Transaction], Result]) -> Result:
        """Runs `function` in one read snapshot."""
        async with self._reader_limit:
            lane = self._free_readers.pop()
            try:
                with trio.CancelScope(shield=True):
                    answer: Result = await lane.run(_read, function, self.position)
                return answer
            finally:
                self._free_readers.append(lane)

    async def write(self, function: Callable[[Transaction], Result]) -> Result:
        """Runs `function` in the next group commit; returns when it is on disk.

        Cancelled while still queued, it is not run; once it has begun, the caller waits for the truth.
        """
        return await self._run(_Write(function))

    async def write_unchecked(self, function: Callable[[Transaction], Result]) -> Result:
        """As `write`, by itself and without foreign keys being looked after: for the removal of many rows that other rows name,
        which would each be searched for. `function` must leave none that names what is gone.
        """
        return await self._run(_Write(function, unchecked=True))

    def write_along(self, function: Callable[[Transaction], None]) -> None:
        """Has `function` run first in the next group commit, whoever is the one that causes it: no fsync is spent on it.

        For what may be lost, and is if the program ends before or that commit fails; `tx.on_commit` tells that it was not. Whoever
        uses it has a few waiting at most.
        """
        self._along.append(_Write(function, along=True))

    async def _run(self, write: _Write[Result]) -> Result:
        self._queue.append(write)
        self._queued.set()
        try:
            await write.done.wait()
        except trio.Cancelled:
            if not write.started:
                self._queue.remove(write)
                raise
            with trio.CancelScope(shield=True):
                await write.done.wait()
        if write.error is not None:
            raise write.error
        return cast("Result", write.result)

    async def run_writer(self) -> None:
        """The writer: takes whatever is queued, commits it together, tells the callers. One task for the life of the database."""
        while True:
            await self._queued.wait()
            batch: list[_Write[Any]] = []
            while self._queue and len(batch) < MAX_BATCH:
                if batch and (self._queue[0].unchecked or batch[0].unchecked):
                    break
                write = self._queue.popleft()
                write.started = True
                batch.append(write)
            if not self._queue:
                self._queued = trio.Event()
            if batch and not batch[0].unchecked:
                batch, self._along = [*self._along, *batch], []
            with trio.CancelScope(shield=True):
                await self._commit(batch)
            await trio.lowlevel.checkpoint()

    async def _commit(self, batch: list[_Write[Any]]) -> None:
        before = (self._streams.current, self._streams.reserved)
        try:
            await self._writer.run(_write_batch, batch, self.position, self._streams)
        except Exception as error:
            self._streams.current = max(self._streams.current, before[0])
            self._streams.reserved = before[1]  # the row that raised it is gone with the transaction
            for write in batch:
                write.error = StoreError(f"the database could not commit: {error}")
                write.done.set()
            return
        self.commits += 1
        self.position = self._streams.current
        for write in batch:
            if write.error is None:
                for callback in write.callbacks:
                    try:
                        callback()
                    except Exception:  # what was written is written, and the writer serves everybody
                        log.exception("what follows a commit failed")
            elif write.along:
                log.error("what was to be written along failed: %s", write.error)
            write.done.set()

    async def close(self) -> None:
        for lane in [*self._readers, self._writer]:
            await lane.close()


def _read(connection: sqlite3.Connection, function: Callable[[Transaction], Result], position: int) -> Result:
    sqlite3.Connection.execute(connection, "BEGIN")
    try:
        return function(Transaction(connection, position))
    except sqlite3.DatabaseError as error:
        if _is_io(error) and error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR:  # that one is the statement's fault
            raise StoreError(f"the database failed: {error}") from error
        raise
    finally:
        if connection.in_transaction:
            sqlite3.Connection.execute(connection, "ROLLBACK")


def _write_batch(
    connection: sqlite3.Connection, batch: list[_Write[Any]], position: int, streams: StreamCounter
) -> None:
    def execute(sql: str) -> None:
        sqlite3.Connection.execute(connection, sql)

    if batch[0].unchecked:
        execute("PRAGMA foreign_keys = OFF")
    try:
        _write_in_one(connection, batch, position, streams, execute)
    finally:
        if batch[0].unchecked:
            execute("PRAGMA foreign_keys = ON")


def _write_in_one(
    connection: sqlite3.Connection,
    batch: list[_Write[Any]],
    position: int,
    streams: StreamCounter,
    execute: Callable[[str], None],
) -> None:
    execute("BEGIN IMMEDIATE")
    try:
        for write in batch:
            execute("SAVEPOINT caller")
            tx = Transaction(connection, position, streams)
            reserved = streams.reserved
            try:
                write.result = write.function(tx)
                write.callbacks = tx.after_commit
                execute("RELEASE caller")
            except Exception as error:
                if not connection.in_transaction:  # SQLite itself gave the whole transaction up (disk full, I/O error)
                    raise
                execute("ROLLBACK TO caller")
                execute("RELEASE caller")
                streams.reserved = reserved
                write.error = StoreError(f"the database failed: {error}") if _is_io(error) else error
        execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            execute("ROLLBACK")
        raise


def _is_io(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError  # the latter: a corrupt file


def _configure(connection: sqlite3.Connection, *, cache_kib: int) -> None:
    for pragma in (
        "foreign_keys = ON",
        "synchronous = FULL",
        "busy_timeout = 10000",
        f"cache_size = -{cache_kib}",
        "temp_store = MEMORY",
        f"wal_autocheckpoint = {WAL_PAGES}",
        "journal_size_limit = 8388608",
    ):
        sqlite3.Connection.execute(connection, f"PRAGMA {pragma}")


def connect(path: Path | str, *, cache_kib: int = 2048, check_same_thread: bool = True) -> sqlite3.Connection:
    """A plain configured connection, in autocommit mode: transactions are opened by hand."""
    connection = sqlite3.connect(
        path, factory=HopConnection, isolation_level=None, check_same_thread=check_same_thread, cached_statements=256
    )
    _configure(connection, cache_kib=cache_kib)
    return connection


def _prepare(path: Path | str) -> StreamCounter:
    """Migrates the file and reads where its stream stands."""
    connection = connect(path)
    try:
        sqlite3.Connection.execute(connection, f"PRAGMA page_size = {PAGE_BYTES}")  # of a new file; an old one keeps its own
        sqlite3.Connection.execute(connection, "PRAGMA journal_mode = WAL")
        migrations.migrate(connection)
        row = sqlite3.Connection.execute(connection, "SELECT value FROM meta WHERE key = 'stream_reserved'").fetchone()
        start = int(row[0]) if row else 0
        return StreamCounter(start, start)
    finally:
        connection.close()


async def _open_lane(path: Path, *, cache_kib: int, inline: bool) -> _Lane:
    if inline:
        return _Lane(connect(path, cache_kib=cache_kib))
    import aiosqlite
    import trio_asyncio

    async def open_on_thread() -> aiosqlite.Connection:
        connection = await aiosqlite.connect(
            path, factory=HopConnection, isolation_level=None, cached_statements=256
        )
        await connection.execute_fetchall(cast("Any", _configure_hop), (cache_kib,))
        return connection

    return _Lane(await trio_asyncio.aio_as_trio(open_on_thread)())


def _configure_hop(connection: sqlite3.Connection, cache_kib: int) -> None:
    _configure(connection, cache_kib=cache_kib)


@asynccontextmanager
async def open_database(path: Path, *, inline: bool = False) -> AsyncIterator[Database]:
    """Opens (and migrates) the file and runs its writer until the block ends.

    Raises `migrations.NewerFile` when the file was written by a newer release, `sqlite3.DatabaseError` when it is no database.
    """
    streams = _prepare(path) if inline else await trio.to_thread.run_sync(_prepare, path)
    writer = await _open_lane(path, cache_kib=8192, inline=inline)
    readers = [await _open_lane(path, cache_kib=2048, inline=inline) for _ in range(1 if inline else READERS)]
    database = Database(writer, readers, streams)
    # Cancelling the block must not end the writer before what is queued, nor leave the connections' threads behind.
    writing = trio.CancelScope(shield=True)

    async def write_until_closed() -> None:
        with writing:
            await database.run_writer()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_until_closed)
        try:
            yield database
        finally:
            with trio.CancelScope(shield=True):
                while database._queue:
                    await trio.lowlevel.checkpoint()
                writing.cancel()
                await database.close()
