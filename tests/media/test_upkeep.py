"""What administrators do to media: deleting, purging, listing, counting, quarantine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeserver.matrix import errors
from edgeserver.store.media import ThumbnailKey
from edgeserver.store.media_upkeep import UserMedia, WantedUsage
from tests.media.places import ALICE, BOB, File, Place, image, open_place, upload

DAY_MS = 86_400_000


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_place(tmp_path) as opened:
        yield opened


async def gone(place: Place, server_name: str, media_id: str) -> bool:
    try:
        await place.media.open(server_name, media_id, fetch=False)
    except errors.NotFound:
        return True
    return False


async def test_deleted_media_is_gone_with_its_thumbnails_and_its_file(place: Place) -> None:
    media_id, kept = await place.upload(image(1000, 500)), await place.upload(b"kept")
    await place.media.thumbnail(ThumbnailKey("test", media_id, 90, 90, "crop"))
    assert len(place.on_disk()) == 3
    assert await place.media.delete("test", media_id)
    assert await gone(place, "test", media_id)
    with pytest.raises(errors.NotFound):
        await place.media.thumbnail(ThumbnailKey("test", media_id, 90, 90, "crop"))
    assert len(place.on_disk()) == 1
    assert not await gone(place, "test", kept)
    assert not await place.media.delete("test", media_id)


async def test_a_file_that_another_upload_needs_stays(place: Place) -> None:
    one, other = await place.upload(b"same"), await place.upload(b"same", user_id=BOB)
    await place.media.delete("test", one)
    assert not await gone(place, "test", other)
    assert len(place.on_disk()) == 1


async def test_several_are_deleted_or_put_into_quarantine_in_one_transaction(place: Place) -> None:
    one, other, third = [await place.upload(body) for body in (b"same", b"same", b"third")]
    commits = place.db.commits
    assert await place.media.delete_several("test", [one, "nothing", other]) == [one, other]
    assert len(place.on_disk()) == 1
    await place.media.quarantine_several([("test", third), ("far", "m1")])
    assert place.db.commits == commits + 2
    assert await gone(place, "test", third)


async def test_a_deleted_copy_of_anothers_media_is_fetched_anew(place: Place) -> None:
    place.far.files["m1"] = File(b"far")
    await place.media.open("far", "m1")
    assert await place.media.delete("far", "m1")
    assert place.on_disk() == []
    await place.media.open("far", "m1")
    assert place.far.asked == ["download m1"] * 2


async def test_all_that_a_user_has_uploaded_can_be_deleted_or_the_older_part_of_it(place: Place) -> None:
    old = await place.upload(b"old")
    place.clock.now += 1000
    new, others = await place.upload(b"new"), await place.upload(b"bob's", user_id=BOB)
    assert await place.media.delete_of_user(ALICE, before_ms=place.clock.now) == 1
    assert await gone(place, "test", old)
    assert not await gone(place, "test", new)
    assert await place.media.delete_of_user(ALICE) == 1
    assert await gone(place, "test", new)
    assert not await gone(place, "test", others)
    assert len(place.on_disk()) == 1


async def test_what_was_not_used_for_long_of_others_media_is_purged(place: Place) -> None:
    place.far.files["m1"], place.far.files["m2"] = File(b"one"), File(b"two")
    place.far.thumbnails["m3"] = File(b"three", "image/png")
    own = await place.upload(b"own")
    await place.media.open("far", "m1")
    await place.media.thumbnail(ThumbnailKey("far", "m3", 90, 90, "crop"))
    place.clock.now += 1000
    await place.media.open("far", "m2")
    assert await place.media.purge_remote(place.clock.now) == 1
    assert await gone(place, "far", "m1")
    assert not await gone(place, "far", "m2")
    assert not await gone(place, "test", own)
    assert len(place.on_disk()) == 2


async def test_the_uploads_of_a_user_are_listed_in_pages_the_newest_first(place: Place) -> None:
    ids = []
    for number in range(5):
        ids.append(await place.upload(b"x" * number, "text/plain"))
        place.clock.now += 1000
    await place.upload(b"bob's", user_id=BOB)
    await place.media.create(ALICE)
    await place.media.quarantine("test", ids[3], on=True)
    listed, total = await place.media.list_of_user(ALICE, 1, 2)
    assert total == 5
    assert [each.media_id for each in listed] == [ids[3], ids[2]]
    assert [each.is_quarantined for each in listed] == [True, False]
    assert (listed[0].size, listed[0].content_type, listed[0].filename) == (3, "text/plain", None)
    assert listed[0].created_at == place.clock.now - 2000
    assert await place.media.list_of_user("@nobody:test", 0, 10) == ([], 0)


async def test_a_use_of_an_upload_is_noted_to_the_day(place: Place) -> None:
    used, unused = await place.upload(b"used"), await place.upload(b"unused")
    place.clock.now += 10 * DAY_MS
    for _ in range(2):
        await place.media.open("test", used)
    listed, _ = await place.media.list_of_user(ALICE, 0, 10)
    assert {one.media_id: one.used_at for one in listed} == {used: place.clock.now, unused: place.clock.now - 10 * DAY_MS}
    assert await place.media.delete_old(place.clock.now, 0, keep_pictures=True) == [unused]


async def test_who_has_uploaded_how_much(place: Place) -> None:
    await place.upload(b"1234")
    await place.upload(b"123456", user_id=BOB)
    await place.upload(b"1")
    await place.media.create(ALICE)
    most_first = await place.media.statistics(WantedUsage(), "media_length", 0, 10, backwards=True)
    assert most_first == ([UserMedia(BOB, None, 1, 6), UserMedia(ALICE, None, 2, 5)], 2)
    assert await place.media.statistics(WantedUsage(), "user_id", 1, 1) == ([UserMedia(BOB, None, 1, 6)], 2)
    assert await place.media.statistics(WantedUsage(name="LIC"), "user_id", 0, 10) == ([UserMedia(ALICE, None, 2, 5)], 1)


async def test_quarantined_media_is_there_for_nobody_until_it_is_released(place: Place) -> None:
    media_id = await place.upload(image(1000, 500))
    key = ThumbnailKey("test", media_id, 90, 90, "crop")
    await place.media.thumbnail(key)
    await place.media.quarantine("test", media_id, on=True)
    with pytest.raises(errors.NotFound):
        await place.media.open("test", media_id)
    with pytest.raises(errors.NotFound):
        await place.media.thumbnail(key)
    await place.media.quarantine("test", media_id, on=False)
    assert not await gone(place, "test", media_id)
    await place.media.thumbnail(key)


async def test_anothers_media_in_quarantine_is_not_fetched_even_if_it_is_not_here(place: Place) -> None:
    place.far.files["m1"] = File(image(9, 9))
    place.far.thumbnails["m1"] = File(image(9, 9))
    await place.media.open("far", "m1")
    await place.media.quarantine("far", "m1", on=True)
    await place.media.purge_remote(place.clock.now + 1)
    place.far.asked.clear()
    for attempt in (place.media.open("far", "m1"), place.media.thumbnail(ThumbnailKey("far", "m1", 90, 90, "crop"))):
        with pytest.raises(errors.NotFound):
            await attempt
    assert place.far.asked == []


async def test_an_id_that_waits_for_its_content_can_be_deleted(place: Place) -> None:
    uri, _ = await place.media.create(ALICE)
    await place.media.delete("test", uri.rpartition("/")[2])
    with pytest.raises(errors.NotFound):
        await place.media.upload_to(ALICE, "test", uri.rpartition("/")[2], upload(b"late"))
