"""Every bound on media, and the error that whoever meets it gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from edgeserver.matrix import errors
from edgeserver.matrix.errors import MatrixError
from edgeserver.media.fetching import MAX_FETCHES, MAX_OF_ONE
from edgeserver.media.limits import Limits
from edgeserver.media.sharing import FAILURE_SECONDS, MAX_FAILURES, Shared
from edgeserver.store.media import ThumbnailKey
from tests.media.places import ALICE, BOB, File, Place, open_place, upload


async def refusal(place: Place, data: bytes, user_id: str = ALICE) -> tuple[int, str]:
    before = place.on_disk()
    with pytest.raises(MatrixError) as caught:
        await place.upload(data, user_id=user_id)
    assert place.on_disk() == before
    return caught.value.status, caught.value.errcode


async def test_a_user_may_have_so_many_files(tmp_path: Path) -> None:
    async with open_place(tmp_path, Limits(files=2)) as place:
        await place.upload(b"1")
        uri, _ = await place.media.create(ALICE)
        assert await refusal(place, b"3") == (403, "M_FORBIDDEN")
        with pytest.raises(errors.Forbidden):
            await place.media.create(ALICE)
        await place.media.upload_to(ALICE, "test", uri.rpartition("/")[2], upload(b"2"))
        await place.upload(b"bob's", user_id=BOB)
        await place.media.delete_of_user(ALICE)
        await place.upload(b"1")


@pytest.mark.parametrize(("contact", "errcode"), [("", "M_FORBIDDEN"), ("mailto:a@example.org", "M_RESOURCE_LIMIT_EXCEEDED")])
async def test_all_users_together_may_have_so_many_bytes(tmp_path: Path, contact: str, errcode: str) -> None:
    async with open_place(tmp_path, Limits(total=1000, contact=contact)) as place:
        await place.upload(b"a" * 600)
        assert await refusal(place, b"b" * 600, BOB) == (403, errcode)
        await place.upload(b"b" * 400, user_id=BOB)
        assert await refusal(place, b"c", BOB) == (403, errcode)


async def test_who_says_that_the_server_is_full_says_whom_to_ask(tmp_path: Path) -> None:
    full = Limits(contact="mailto:a@example.org").full()
    assert full.as_json()["admin_contact"] == "mailto:a@example.org"


async def test_so_much_of_the_disk_stays_free(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    async with open_place(tmp_path, free_disk=disk.f_blocks * disk.f_frsize) as place:
        place.far.files["m1"] = File(b"far")
        assert await refusal(place, b"1") == (403, "M_FORBIDDEN")
        with pytest.raises(errors.Forbidden):
            await place.media.open("far", "m1")
        assert place.on_disk() == []


# What is asked for by many at once


async def test_who_asks_while_something_is_fetched_gets_its_error_too(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        place.far.before_answer = trio.lowlevel.checkpoint
        refused = []

        async def ask() -> None:
            try:
                await place.media.open("far", "none")
            except errors.NotFound as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert len(refused) == 5
        assert place.far.asked == ["download none"]


async def test_a_server_that_does_not_answer_keeps_nobody_from_the_media_of_others(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place, trio.open_nursery() as nursery:
        place.far.files["quick"] = File(b"here")

        async def hang() -> None:
            if "slow" in place.far.asked[-1]:
                await trio.sleep_forever()

        place.far.before_answer = hang
        for number in range(MAX_FETCHES + 10):
            nursery.start_soon(place.media.open, "dead", f"slow{number}")
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert len(place.far.asked) == MAX_OF_ONE
        assert (await place.media.open("alive", "quick")).size == 4
        nursery.cancel_scope.cancel()


async def test_of_thumbnails_of_another_server_only_some_are_fetched_at_a_time(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place, trio.open_nursery() as nursery:
        place.far.before_answer = trio.sleep_forever
        for number in range(20):
            nursery.start_soon(place.media.thumbnail, ThumbnailKey("dead", f"slow{number}", 96, 96, "crop"))
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert len(place.far.asked) == MAX_OF_ONE
        nursery.cancel_scope.cancel()


async def test_media_is_one_commit_also_where_something_older_goes_for_it(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        before = place.db.commits
        await place.upload(b"ours")
        for number in range(8):
            place.far.files[f"m{number}"] = File(bytes([number]) * 10_000)
            await place.media.open("far", f"m{number}")
        assert place.db.commits == before + 9
        assert len(place.on_disk()) == 1 + 6


async def test_a_failure_is_told_again_for_a_while_but_not_that_an_upload_is_awaited(autojump_clock: object) -> None:
    shared: Shared[int] = Shared()
    for failure, tries in ((errors.NotFound(), 1), (errors.NotYetUploaded(), 3)):
        tried = 0

        async def fail(failure: MatrixError = failure) -> int:
            nonlocal tried
            tried += 1
            raise failure

        for _ in range(3):
            with pytest.raises(type(failure)):
                await shared.run(failure.errcode, fail)
        assert tried == tries
        await trio.sleep(FAILURE_SECONDS)
        with pytest.raises(type(failure)):
            await shared.run(failure.errcode, fail)
        assert tried == tries + 1


async def test_the_work_of_who_is_cancelled_is_done_by_who_waits() -> None:
    shared: Shared[int] = Shared()
    results = []

    async def slow() -> int:
        await trio.sleep_forever()
        return 0

    async def quick() -> int:
        return 7

    async def wait() -> None:
        results.append(await shared.run("key", quick))

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(wait)

            async def give_up() -> None:
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()

            nursery.start_soon(give_up)
            await shared.run("key", slow)
    assert results == [7]


async def test_so_many_failures_are_remembered() -> None:
    shared: Shared[int] = Shared()

    async def fail() -> int:
        raise errors.NotFound

    for number in range(MAX_FAILURES + 50):
        with pytest.raises(errors.NotFound):
            await shared.run(number, fail)
    assert len(shared._failures) == MAX_FAILURES
