"""What clients have been told in their syncs, kept to begin one anew from here, line or no line.

Each sync that goes on is a *feed*, with a file (`feed_file`) in the folder `feeds` of the proxy's state, named for the SHA-256 of whose it
is and of which of theirs, and readable by its owner only. A feed is only read when somebody asks for what is in it, and out of memory a
minute later.
"""

from __future__ import annotations

import hashlib
import logging
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import trio

from edgeserver.app.blocking import Hop
from edgeserver.proxy.feed_file import FeedFile, Record
from edgeserver.proxy.mirror import Mirror, acknowledging_as
from edgeserver.proxy.owners import digest_of
from edgeserver.proxy.replies import json_object
from edgeserver.proxy.timelines import Unmirrorable, of_no_device
from transports.syncing import Answer, Form

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from edgeserver.proxy.asked import Asked
    from edgeserver.proxy.feed_file import Fold
    from edgeserver.proxy.owners import Owners
    from transports.exchange import Response

log = logging.getLogger(__name__)

MAX_FEEDS: Final = 16
MAX_BYTES: Final = 64_000_000
"""Of all files together; the feed that nobody has used for the longest time goes first."""
MAX_WAITING: Final = 16_000_000
"""Bytes of one feed that wait to be written."""
UNLOAD_SECONDS: Final = 60.0
_HALF: Final = 32
"""Hexadecimal digits of either part of a name: whose it is, and which of theirs."""
_NAME: Final = re.compile(r"[0-9a-f]{64}\.feed")

Json = dict[str, Any]


@dataclass(eq=False)
class _Feed:
    """`records` wait to be written, `begins_anew`: instead of what there was. `is_given`: a client begins with it at this moment."""

    file: FeedFile
    records: list[Record] = field(default_factory=list)
    begins_anew: bool = False
    is_given: bool = False
    used_at: float = 0.0
    lock: trio.Lock = field(default_factory=trio.Lock)

    @property
    def name(self) -> str:
        return self.file.path.name


class Feeds:
    """All feeds. `box` is the box's public key in base64. `run` is one task for the life of the proxy."""

    def __init__(self, folder: Path, box: str, owners: Owners, *, inline: bool = False) -> None:
        self._folder = folder
        self._box = box
        self._owner_of = owners.known
        self._hop = Hop(inline=inline)
        self._feeds: dict[str, _Feed] = {}  # by name; the one used last at the end
        self._renamed: list[tuple[str, str]] = []
        self._changed = trio.Event()
        owners.when_replaced.append(self._replace)
        owners.when_forgotten.append(self._forget)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Writes what comes until cancelled."""
        for file in await self._hop(self._found):
            self._feeds[file.path.name] = _Feed(file)
        task_status.started()
        try:
            while True:
                is_loaded = any(feed.file.fold is not None for feed in self._feeds.values())
                with trio.move_on_after(UNLOAD_SECONDS if is_loaded else float("inf")):
                    await self._changed.wait()
                self._changed = trio.Event()
                await self._write_all()
                await self._rename_all()
                self._make_room()
                for feed in self._feeds.values():
                    if trio.current_time() - feed.used_at >= UNLOAD_SECONDS and not feed.lock.locked():
                        feed.file.fold = None
        finally:
            with trio.CancelScope(shield=True):
                await self._write_all()
                await self._rename_all()

    def _found(self) -> list[FeedFile]:
        """Those of an earlier run, the one that was used last at the end."""
        found = []
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            paths = [*self._folder.iterdir()]
        except OSError as error:
            log.warning("%s cannot be used: %s", self._folder, error)
            return []
        for path in paths:
            try:
                file = FeedFile.found(path, self._box) if _NAME.fullmatch(path.name) else None
                if file is None:
                    path.unlink()
                else:
                    found.append((path.stat().st_mtime, file))
            except OSError as error:
                log.warning("%s cannot be used: %s", path, error)
        found.sort(key=lambda pair: pair[0])
        return [file for _, file in found]

    # ---- what the box has said

    def hear(self, authorization: str, asked: Asked, start: str | None, response: Response) -> None:
        """An answer to a sync from `start` on (None: the first)."""
        end = Answer(response.body, asked.form).position if response.status == 200 else None
        feed = self._feeds.get(_name(authorization, asked))
        if end is not None and start is None:
            feed = self._begin(authorization, asked)
        if feed is None:
            return  # how it began is not known
        if end is not None:
            self._add(feed, Record.of_sync(start, response.body, end))
        elif response.status == 400 and asked.form is not Form.CLASSIC:
            self._lose(feed, "")  # the box has forgotten the connection: M_UNKNOWN_POS

    def hear_older(self, authorization: str, room_id: str, start: str, response: Response) -> None:
        """An answer to /messages backwards from `start`."""
        feed = next((feed for feed in self._of(authorization) if _is_of(feed, digest_of(authorization))), None)
        if feed is not None and response.status == 200 and json_object(response.body) is not None:
            self._add(feed, Record.of_older(room_id, start, response.body))

    def _begin(self, authorization: str, asked: Asked) -> _Feed:
        """In the place of an older one, whose lock it needs for the file that both have."""
        name = _name(authorization, asked)
        old = self._feeds.pop(name, None)
        feed = _Feed(FeedFile(self._folder / name, self._box, asked, self._owner_of(authorization) or ""), begins_anew=True)
        if old is not None:
            feed.lock = old.lock
        self._feeds[name] = feed
        self._make_room()
        return feed

    def _make_room(self) -> None:
        while len(self._feeds) > MAX_FEEDS or (len(self._feeds) > 1 and sum(feed.file.size for feed in self._feeds.values()) > MAX_BYTES):
            self._lose(next(iter(self._feeds.values())), "")

    def _add(self, feed: _Feed, record: Record) -> None:
        feed.records.append(record)
        if sum(len(each.data) for each in feed.records) > MAX_WAITING:
            self._lose(feed, "more has come than can be written")
        elif self._feeds.get(feed.name) is feed:
            self._feeds[feed.name] = self._feeds.pop(feed.name)
        self._changed.set()

    def _replace(self, token: str, new: str) -> None:
        """The device of the first token has the second one now. Both are `digest_of`."""
        self._renamed.append((token, new))
        self._changed.set()

    async def _rename_all(self) -> None:
        while self._renamed:
            token, new = self._renamed[0]
            for feed in [feed for feed in self._feeds.values() if _is_of(feed, token)]:
                async with feed.lock:
                    self._rename(feed, self._folder / (new[:_HALF] + feed.name[_HALF:]))
            del self._renamed[0]

    def _rename(self, feed: _Feed, path: Path) -> None:
        """Under its lock."""
        if self._feeds.get(feed.name) is not feed:
            return
        if path.name in self._feeds:
            self._lose(feed, "")  # the device has begun anew since
            return
        try:
            feed.file.path.rename(path)
        except OSError as error:
            self._lose(feed, str(error))
            return
        del self._feeds[feed.name]
        feed.file.path = path
        self._feeds[feed.name] = feed

    def _forget(self, owner: str) -> None:
        """A person of whom no token is known any more, or a token. Its feeds are of use to the person's other devices, if it is known whose
        they are.
        """
        is_replaced = any(token == owner for token, _ in self._renamed)
        for feed in list(self._feeds.values()):
            is_lost = _is_of(feed, owner) and not feed.file.person and not is_replaced
            if is_lost or feed.file.person == owner:
                self._lose(feed, "")

    def _lose(self, feed: _Feed, why: str) -> None:
        """Gives it up. `why`, for the log, unless that is as it should be."""
        if why:
            log.warning("%s is of no use any more: %s", feed.file.path, why)
        if self._feeds.get(feed.name) is not feed:
            return
        del self._feeds[feed.name]
        feed.records.clear()
        self._remove(feed)

    def _remove(self, feed: _Feed) -> None:
        try:
            feed.file.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be removed: %s", feed.file.path, error)

    async def _write_all(self) -> None:
        for feed in [feed for feed in self._feeds.values() if feed.records]:
            async with feed.lock:
                await self._write(feed)

    async def _write(self, feed: _Feed) -> None:
        """Under its lock."""
        records, feed.records = feed.records, []
        begins_anew, feed.begins_anew = feed.begins_anew, False
        if self._feeds.get(feed.name) is not feed:
            return  # it was given up, or another one has taken its place
        with trio.CancelScope(shield=True):  # a client that goes away takes nothing along
            try:
                if begins_anew:
                    await self._hop(feed.file.begin)
                if records:
                    await self._hop(feed.file.write, records)
            except (OSError, Unmirrorable) as error:
                self._lose(feed, str(error))
        if feed.name not in self._feeds:
            self._remove(feed)  # it was given up while it was written

    # ---- what a client is told

    def lacking(self, authorization: str, asked: Asked, since: str) -> str | None:
        """From where on the answers to a classic sync have been lost, so that its feed needs what comes after that; None: they have not.
        It acknowledges no more messages to the device than the client does, which goes on from `since`.
        """
        feed = self._feeds.get(_name(authorization, asked))
        return acknowledging_as(since, feed.file.position) if feed is not None and feed.file.lacks else None

    def went_on(self, authorization: str, asked: Asked) -> None:
        """The client has gone on from what it was told first."""
        if (feed := self._feeds.get(_name(authorization, asked))) is not None:
            feed.is_given = False

    async def first(self, authorization: str, asked: Asked, limit: int, *, is_up: bool) -> tuple[bytes, Json] | None:
        """The body of an answer to a first sync, and what it says of the keys of the device; None if nothing is known here. `limit`: see
        `Mirror.first`.

        While the line `is_up`, who asks once more without having gone on from it is not told the same again: what the box says then helps
        if it was no good.
        """
        if self._owner_of(authorization) is None:
            return None
        feed = self._feeds.get(_name(authorization, asked))
        if feed is None or feed.file.asked != asked:
            feed = await self._from_another_device(authorization, asked)
        if feed is None or (feed.is_given and is_up):
            return None
        async with self._read(feed) as fold:
            told = None if fold is None else (await self._hop(fold.first, limit), fold.counts)
            feed.is_given = told is not None
            return told

    async def full_state(self, authorization: str, asked: Asked, start: str, *, is_up: bool) -> tuple[bytes, Json] | None:
        """As `first`, of an answer with the full state from `start` on. See `Mirror.full_state`."""
        feed = self._feeds.get(_name(authorization, asked)) if self._owner_of(authorization) is not None else None
        if feed is None or (feed.is_given and is_up):
            return None
        async with self._read(feed) as fold:
            body = await self._hop(fold.full_state, start) if isinstance(fold, Mirror) else None
            feed.is_given = body is not None
            return None if fold is None or body is None else (body, fold.counts)

    async def messages(self, authorization: str, room_id: str, start: str | None, limit: int, *, lazy: bool, is_up: bool) -> Json | None:
        """See `Mirror.messages`. While the line is down what is known is better than nothing."""
        for feed in self._of(authorization):
            async with self._read(feed) as fold:
                found = fold.messages(room_id, start, limit, lazy=lazy, at_least=not is_up) if isinstance(fold, Mirror) else None
            if found is not None:
                return found if _is_of(feed, digest_of(authorization)) else {**found, "chunk": [*map(of_no_device, found["chunk"])]}
        return None

    def _of(self, authorization: str) -> list[_Feed]:
        """Feeds of classic syncs: the client's own, then those of the same person's other devices, newest first."""
        person = self._owner_of(authorization)
        if person is None:
            return []
        classic = [feed for feed in reversed(self._feeds.values()) if feed.file.asked.form is Form.CLASSIC]
        own = [feed for feed in classic if _is_of(feed, digest_of(authorization))]
        return own + [feed for feed in classic if person and feed.file.person == person and feed not in own]

    async def _from_another_device(self, authorization: str, asked: Asked) -> _Feed | None:
        """A feed that begins with what another device of the same person has been told."""
        for other in self._of(authorization):
            if other.file.asked != asked:
                continue
            async with self._read(other) as fold:
                mirror = await self._hop(fold.for_another_device) if isinstance(fold, Mirror) else None
            if mirror is not None:
                feed = self._begin(authorization, asked)
                self._add(feed, Record.of_whole(mirror))
                return feed
        return None

    @asynccontextmanager
    async def _read(self, feed: _Feed) -> AsyncIterator[Fold | None]:
        """What is known by it, under its lock; None if nothing is."""
        async with feed.lock:
            await self._write(feed)
            fold = None
            if self._feeds.get(feed.name) is feed:
                self._feeds[feed.name] = self._feeds.pop(feed.name)
                feed.used_at = trio.current_time()
                self._changed.set()  # it is to be out of memory a while from now
                try:
                    fold = await self._hop(feed.file.read)
                except (OSError, Unmirrorable) as error:
                    self._lose(feed, str(error))
            yield fold


def _name(authorization: str, asked: Asked) -> str:
    connection = hashlib.sha256(f"{asked.form.name} {asked.state_after} {asked.connection}".encode()).hexdigest()
    return f"{digest_of(authorization)[:_HALF]}{connection[:_HALF]}.feed"


def _is_of(feed: _Feed, token: str) -> bool:
    """`token`: its `digest_of`."""
    return len(token) >= _HALF and feed.name.startswith(token[:_HALF])
