"""Uploads in parts: cut, taken over, resumed, refused, after a crash at each of their steps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from edgeserver.matrix import errors
from edgeserver.matrix.errors import MatrixError
from edgeserver.media.files import SYNC_EVERY, FileStore
from edgeserver.media.limits import Limits
from edgeserver.media.repository import MediaRepository
from edgeserver.media.resumable import COMPLETE_MS, LIFETIME_MS, MAX_UNDER_WAY, Begun, OffsetMismatch
from tests.media.places import ALICE, BOB, Place, open_place, upload

DATA = bytes(range(256)) * 40


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_place(tmp_path) as opened:
        yield opened


async def some(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]


async def cut_after(data: bytes) -> AsyncIterator[bytes]:
    async for chunk in some(data):
        yield chunk
    raise ConnectionError


async def begin(place: Place, length: int | None = None, media_id: str | None = None) -> str:
    begun = Begun("text/plain", "a.txt", length, media_id)
    return (await place.media.resumable.begin(ALICE, begun)).upload_id


async def received(place: Place, upload_id: str) -> int:
    return (await place.media.resumable.look(ALICE, upload_id)).received


async def test_parts_become_the_media_when_the_last_one_is_there(place: Place) -> None:
    upload_id = await begin(place)
    await place.media.resumable.append(ALICE, upload_id, 0, some(DATA[:5000]), complete=False)
    done = await place.media.resumable.append(ALICE, upload_id, 5000, some(DATA[5000:]), complete=True)
    assert done.is_complete
    found = await place.media.open("test", done.media_id)
    assert (found.path.read_bytes(), found.content_type, found.filename) == (DATA, "text/plain", "a.txt")
    assert place.on_disk() == [found.path]


async def test_what_came_before_the_line_was_cut_need_not_come_again(place: Place) -> None:
    upload_id = await begin(place, len(DATA))
    with pytest.raises(ConnectionError):
        await place.media.resumable.append(ALICE, upload_id, 0, cut_after(DATA[:7000]), complete=True)
    assert await received(place, upload_id) == 7000
    done = await place.media.resumable.append(ALICE, upload_id, 7000, some(DATA[7000:]), complete=True)
    assert (await place.media.open("test", done.media_id)).path.read_bytes() == DATA


async def test_an_upload_of_nothing_is_an_empty_file(place: Place) -> None:
    done = await place.media.resumable.append(ALICE, await begin(place), 0, some(b""), complete=True)
    assert (await place.media.open("test", done.media_id)).size == 0


async def test_an_id_that_was_created_is_filled_by_parts(place: Place) -> None:
    uri, _ = await place.media.create(ALICE)
    media_id = uri.rpartition("/")[2]
    upload_id = await begin(place, media_id=media_id)
    await place.media.resumable.append(ALICE, upload_id, 0, some(DATA), complete=True)
    assert (await place.media.open("test", media_id)).size == len(DATA)
    with pytest.raises(errors.CannotOverwriteMedia):
        await begin(place, media_id=media_id)
    with pytest.raises(errors.NotFound):
        await begin(place, media_id="never")


async def test_who_waits_for_the_content_of_an_id_gets_it_from_parts_too(place: Place) -> None:
    uri, _ = await place.media.create(ALICE)
    sizes = []

    async def ask() -> None:
        sizes.append((await place.media.open("test", uri.rpartition("/")[2])).size)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await place.media.resumable.append(ALICE, await begin(place, media_id=uri.rpartition("/")[2]), 0, some(DATA), complete=True)
    assert sizes == [len(DATA)]


async def test_a_part_must_begin_where_the_last_one_ended(place: Place) -> None:
    upload_id = await begin(place)
    await place.media.resumable.append(ALICE, upload_id, 0, some(DATA[:5000]), complete=False)
    for offset in (0, 4999, 5001):
        with pytest.raises(OffsetMismatch) as caught:
            await place.media.resumable.append(ALICE, upload_id, offset, some(b"x"), complete=False)
        assert (caught.value.status, caught.value.offset) == (409, 5000)
    assert await received(place, upload_id) == 5000


async def test_an_upload_that_is_complete_stays_as_it_is_and_is_remembered_for_a_while(place: Place) -> None:
    upload_id = await begin(place)
    await place.media.resumable.append(ALICE, upload_id, 0, some(DATA), complete=True)
    for offset in (0, len(DATA)):
        with pytest.raises(errors.CannotOverwriteMedia):
            await place.media.resumable.append(ALICE, upload_id, offset, some(b"x"), complete=True)
    told = await place.media.resumable.look(ALICE, upload_id)
    assert (told.is_complete, told.received) == (True, len(DATA))
    place.clock.now += COMPLETE_MS
    with pytest.raises(errors.NotFound):
        await place.media.resumable.look(ALICE, upload_id)


async def test_lengths_must_agree(place: Place) -> None:
    resumable = place.media.resumable
    upload_id = await begin(place)
    await resumable.append(ALICE, upload_id, 0, some(DATA[:5000]), complete=False)
    for length in (4999, 200_000):
        with pytest.raises(MatrixError):
            await resumable.append(ALICE, upload_id, 5000, some(b""), length=length, complete=False)
    await resumable.append(ALICE, upload_id, 5000, some(b""), length=6000, complete=False)
    with pytest.raises(errors.InvalidParam):
        await resumable.append(ALICE, upload_id, 5000, some(b""), length=6001, complete=False)
    with pytest.raises(errors.InvalidParam):
        await resumable.append(ALICE, upload_id, 5000, some(b"x" * 999), complete=True)
    assert await received(place, upload_id) == 5999
    with pytest.raises(errors.TooLarge):
        await resumable.append(ALICE, upload_id, 5999, some(b"xx"), complete=True)
    assert place.on_disk() == []


async def test_an_upload_is_its_users_alone(place: Place) -> None:
    upload_id = await begin(place)
    for attempt in (
        place.media.resumable.look(BOB, upload_id),
        place.media.resumable.append(BOB, upload_id, 0, some(b"x"), complete=True),
        place.media.resumable.cancel(BOB, upload_id),
        place.media.resumable.look(ALICE, "../store.db"),
    ):
        with pytest.raises(errors.NotFound):
            await attempt


async def test_an_upload_that_is_given_up_leaves_nothing(place: Place) -> None:
    upload_id = await begin(place)
    await place.media.resumable.append(ALICE, upload_id, 0, some(DATA), complete=False)
    await place.media.resumable.cancel(ALICE, upload_id)
    assert place.on_disk() == []
    with pytest.raises(errors.NotFound):
        await place.media.resumable.look(ALICE, upload_id)


async def test_who_resumes_ends_the_part_whose_line_is_dead(place: Place) -> None:
    upload_id = await begin(place)

    async def stalled() -> AsyncIterator[bytes]:
        yield DATA[:3000]
        await trio.sleep_forever()

    ended = []

    async def first() -> None:
        with pytest.raises(MatrixError) as caught:
            await place.media.resumable.append(ALICE, upload_id, 0, stalled(), complete=True)
        ended.append(caught.value.status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert await received(place, upload_id) == 3000
    assert ended == [409]
    await place.media.resumable.append(ALICE, upload_id, 3000, some(DATA[3000:]), complete=True)


# Bounds


async def test_uploads_expire(place: Place) -> None:
    upload_id = await begin(place)
    await place.media.resumable.append(ALICE, upload_id, 0, some(DATA), complete=False)
    place.clock.now += LIFETIME_MS
    with pytest.raises(errors.NotFound):
        await place.media.resumable.append(ALICE, upload_id, len(DATA), some(b"x"), complete=True)
    await begin(place)
    assert [path.name for path in place.on_disk() if path.stat().st_size] == []


async def test_uploads_that_expired_while_the_box_was_off_are_gone_when_it_starts(place: Place) -> None:
    upload_id = await begin(place)
    await place.media.resumable.append(ALICE, upload_id, 0, some(DATA), complete=False)
    place.clock.now += LIFETIME_MS
    await place.media.check()
    assert place.on_disk() == []


async def test_a_user_may_have_so_many_under_way(place: Place) -> None:
    for _ in range(MAX_UNDER_WAY):
        await begin(place)
    with pytest.raises(errors.LimitExceeded):
        await begin(place)
    await place.media.resumable.begin(BOB, Begun())


async def test_what_is_under_way_counts_toward_the_quota(place: Place) -> None:
    with pytest.raises(errors.TooLarge):
        await begin(place, 100_001)
    await begin(place, 90_000)
    with pytest.raises(errors.Forbidden):
        await begin(place, 90_000)
    unsaid = await begin(place)
    with pytest.raises(errors.Forbidden):
        await place.media.resumable.append(ALICE, unsaid, 0, some(b"x" * 61_000), complete=True)
    with pytest.raises(errors.NotFound):
        await place.media.resumable.look(ALICE, unsaid)


async def test_an_upload_without_a_length_is_bounded_too(place: Place) -> None:
    upload_id = await begin(place)
    with pytest.raises(errors.TooLarge):
        await place.media.resumable.append(ALICE, upload_id, 0, some(b"x" * 100_001), complete=True)
    assert place.on_disk() == []


async def test_the_uploads_of_who_is_deleted_go_with_the_media(place: Place) -> None:
    upload_id = await begin(place)
    await place.media.resumable.append(ALICE, upload_id, 0, some(DATA), complete=False)
    await place.media.delete_of_user(ALICE)
    assert place.on_disk() == []


# Crashes: each step of an upload may be the last that the box did. Then it starts again.


class Crash(BaseException):
    """The power is cut."""


class DyingFiles(FileStore):
    """A folder whose box dies before or after the step of that name is done."""

    def __init__(self, root: Path, step: str, *, done: bool) -> None:
        super().__init__(root)
        self._step, self._done = step, done

    async def _dying(self, name: str, work: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if name == self._step and not self._done:
            raise Crash
        result = await work(*args, **options)
        if name == self._step:
            raise Crash
        return result

    async def append(self, *args: Any, **options: Any) -> Any:
        return await self._dying("append", super().append, *args, **options)

    async def whole(self, *args: Any, **options: Any) -> Any:
        return await self._dying("whole", super().whole, *args, **options)

    async def publish(self, *args: Any, **options: Any) -> Any:
        return await self._dying("publish", super().publish, *args, **options)

    async def remove_partial(self, names: Any) -> Any:
        names = list(names)
        return await self._dying("remove_partial" if names else "", super().remove_partial, names)

    async def remove(self, digests: list[str]) -> None:
        """What the failing program would still tidy up: a dead one does not."""
        if self._step != "publish":
            await super().remove(digests)


def repository(place: Place, files: FileStore) -> MediaRepository:
    return MediaRepository(place.db, "test", files, place.clock, limits=Limits())


STEPS = [(step, done) for step in ("append", "whole", "publish") for done in (False, True)] + [("remove_partial", False)]


@pytest.mark.parametrize(("step", "done"), STEPS)
async def test_after_a_crash_at_any_step_the_upload_goes_on_and_disk_and_index_agree(place: Place, step: str, done: bool) -> None:
    upload_id = await begin(place)
    await place.media.resumable.append(ALICE, upload_id, 0, some(DATA[:5000]), complete=False)
    dying = DyingFiles(place.root, step, done=done)
    with pytest.raises(Crash):
        await repository(place, dying).resumable.append(ALICE, upload_id, 5000, some(DATA[5000:]), complete=True)

    files = FileStore(place.root)
    await files.open()
    again = repository(place, files)
    await again.check()
    told = await again.resumable.look(ALICE, upload_id)
    assert told.received >= 5000
    if not told.is_complete:
        told = await again.resumable.append(ALICE, upload_id, told.received, some(DATA[told.received :]), complete=True)
    found = await again.open("test", told.media_id)
    assert found.path.read_bytes() == DATA
    assert place.on_disk() == [found.path]


@pytest.mark.parametrize("step", ["publish"])
@pytest.mark.parametrize("done", [False, True])
async def test_after_a_crash_in_an_upload_in_one_go_nothing_is_left_over(place: Place, step: str, done: bool) -> None:
    kept = await place.upload(b"kept")
    with pytest.raises(Crash):
        await repository(place, DyingFiles(place.root, step, done=done)).upload(ALICE, upload(DATA))
    files = FileStore(place.root)
    await files.open()
    await repository(place, files).check()
    assert [path.read_bytes() for path in place.on_disk()] == [b"kept"]
    assert (await repository(place, files).open("test", kept)).size == 4


async def test_bytes_that_were_not_noted_are_written_again(place: Place) -> None:
    """After a power cut the file may be longer than what is surely on the disk, with anything in it."""
    upload_id = await begin(place)
    await place.media.resumable.append(ALICE, upload_id, 0, some(DATA[:5000]), complete=False)
    with place.files.partial_path(upload_id).open("ab") as file:
        file.write(b"\0" * 3000)
    await place.media.check()
    assert await received(place, upload_id) == 5000
    done = await place.media.resumable.append(ALICE, upload_id, 5000, some(DATA[5000:]), complete=True)
    assert (await place.media.open("test", done.media_id)).path.read_bytes() == DATA


async def test_an_upload_whose_file_is_lost_ends_and_a_file_without_an_upload_goes(place: Place) -> None:
    upload_id = await begin(place)
    await place.media.resumable.append(ALICE, upload_id, 0, some(DATA[:5000]), complete=False)
    place.files.partial_path(upload_id).write_bytes(DATA[:4000])
    place.files.partial_path("stray").write_bytes(b"x")
    await place.media.check()
    with pytest.raises(errors.NotFound):
        await place.media.resumable.look(ALICE, upload_id)
    assert place.on_disk() == []


async def test_of_a_long_part_no_more_than_a_mebibyte_is_lost(tmp_path: Path) -> None:
    async with open_place(tmp_path, Limits()) as place:
        upload_id = await begin(place)
        noted = []

        async def watched() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield bytes(100_000)
                noted.append(await place.db.read(lambda tx: tx.one("SELECT received FROM partial_uploads")[0]))

        await place.media.resumable.append(ALICE, upload_id, 0, watched(), complete=False)
        for number, so_far in enumerate(noted):
            assert (number + 1) * 100_000 - so_far <= SYNC_EVERY + 200_000
