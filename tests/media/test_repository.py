"""Uploads, quotas, media of other servers, the cache, and what is found at the next start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from edgeserver.matrix import errors
from edgeserver.matrix.errors import MatrixError
from edgeserver.media.limits import Limits
from edgeserver.media.repository import MediaRepository
from edgeserver.media.uploading import DAY_MS, MAX_PENDING, Upload
from edgeserver.store import media as table
from edgeserver.store.media import ThumbnailKey
from tests.media.places import ALICE, BOB, File, Place, image, open_place, upload


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_place(tmp_path) as opened:
        yield opened


async def test_what_is_uploaded_can_be_read(place: Place) -> None:
    media_id = await place.upload(b"x" * 70_000, "text/plain")
    found = await place.media.open("test", media_id)
    assert found.path.read_bytes() == b"x" * 70_000
    assert (found.size, found.content_type, found.filename) == (70_000, "text/plain", None)


async def test_the_same_bytes_lie_on_the_disk_once(place: Place) -> None:
    first, second = await place.upload(b"same"), await place.upload(b"same", user_id=BOB)
    assert first != second
    assert len(place.on_disk()) == 1


async def test_an_empty_file_is_a_file(place: Place) -> None:
    assert (await place.media.open("test", await place.upload(b""))).size == 0


async def test_an_upload_beyond_the_limit_leaves_nothing_behind(place: Place) -> None:
    with pytest.raises(errors.TooLarge):
        await place.upload(b"x" * 100_001)
    with pytest.raises(errors.TooLarge):
        await place.media.upload(ALICE, Upload(upload(b"x").chunks, length=10**9))
    assert place.on_disk() == []


async def test_an_upload_that_breaks_off_leaves_nothing_behind(place: Place) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 70_000
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await place.media.upload(ALICE, Upload(broken()))
    assert place.on_disk() == []


async def test_a_user_has_a_quota_and_others_have_theirs(place: Place) -> None:
    await place.upload(b"a" * 90_000)
    with pytest.raises(errors.Forbidden):
        await place.upload(b"b" * 90_000)
    assert len(place.on_disk()) == 1
    await place.upload(b"b" * 90_000, user_id=BOB)


@pytest.mark.parametrize("media_id", ["..", "a/b", "", "ä", "a.b", "x" * 256])
async def test_ids_outside_the_grammar_are_of_no_media(place: Place, media_id: str) -> None:
    for server_name in ("test", "far"):
        with pytest.raises(errors.NotFound):
            await place.media.open(server_name, media_id)
    with pytest.raises(errors.NotFound):
        await place.media.open("../etc", "passwd")
    assert place.far.asked == []


# Created first, uploaded later


def parts(uri: str) -> tuple[str, str]:
    return uri.split("/")[2], uri.split("/")[3]


async def test_a_created_id_takes_content_once_from_who_created_it(place: Place) -> None:
    uri, expires_at = await place.media.create(ALICE)
    assert expires_at == place.clock.now + DAY_MS
    with pytest.raises(errors.Forbidden):
        await place.media.upload_to(BOB, *parts(uri), upload(b"no"))
    with pytest.raises(errors.NotFound):
        await place.media.upload_to(ALICE, "test", "unknown", upload(b"no"))
    with pytest.raises(errors.NotFound):
        await place.media.upload_to(ALICE, "far", parts(uri)[1], upload(b"no"))
    await place.media.upload_to(ALICE, *parts(uri), upload(b"yes"))
    assert (await place.media.open(*parts(uri))).size == 3
    with pytest.raises(errors.CannotOverwriteMedia):
        await place.media.upload_to(ALICE, *parts(uri), upload(b"again"))


async def test_whoever_asks_early_waits_for_the_upload(place: Place) -> None:
    uri, _ = await place.media.create(ALICE)
    with pytest.raises(errors.NotYetUploaded):
        await place.media.open(*parts(uri), timeout_ms=0)
    sizes = []

    async def ask() -> None:
        sizes.append((await place.media.open(*parts(uri))).size)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await place.media.upload_to(ALICE, *parts(uri), upload(b"here"))
    assert sizes == [4]


async def test_who_does_not_wait_gets_what_is_there(place: Place) -> None:
    media_id = await place.upload(b"here")
    assert (await place.media.open("test", media_id, timeout_ms=0)).size == 4


async def test_waiting_ends_with_its_timeout(place: Place, autojump_clock: trio.testing.MockClock) -> None:
    uri, _ = await place.media.create(ALICE)
    with pytest.raises(errors.NotYetUploaded):
        await place.media.open(*parts(uri), timeout_ms=30_000)
    assert trio.current_time() == pytest.approx(30)


async def test_an_unused_id_expires(place: Place) -> None:
    uri, _ = await place.media.create(ALICE)
    place.clock.now += DAY_MS
    for attempt in (place.media.open(*parts(uri)), place.media.upload_to(ALICE, *parts(uri), upload(b"late"))):
        with pytest.raises(errors.NotFound):
            await attempt


async def test_so_many_unused_ids_and_no_more(place: Place) -> None:
    for _ in range(MAX_PENDING):
        await place.media.create(ALICE)
    with pytest.raises(errors.LimitExceeded):
        await place.media.create(ALICE)
    await place.media.create(BOB)
    place.clock.now += DAY_MS
    await place.media.create(ALICE)


# Other servers


async def test_media_of_another_server_is_fetched_once_however_many_ask(place: Place) -> None:
    place.far.files["m1"] = File(b"far away")
    place.far.before_answer = trio.lowlevel.checkpoint
    found = []

    async def ask() -> None:
        found.append(await place.media.open("far", "m1"))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert place.far.asked == ["download m1"]
    assert {(each.filename, each.content_type, each.path.read_bytes()) for each in found} == {
        ("far.png", "image/png", b"far away")
    }


async def test_who_must_not_fetch_gets_what_is_here(place: Place) -> None:
    place.far.files["m1"] = File(b"far away")
    with pytest.raises(errors.NotFound):
        await place.media.open("far", "m1", fetch=False)
    await place.media.open("far", "m1")
    assert (await place.media.open("far", "m1", fetch=False)).size == 8


@pytest.mark.parametrize(
    ("errcode", "status"), [("M_NOT_FOUND", 404), ("M_TOO_LARGE", 502), ("M_NOT_YET_UPLOADED", 504), ("M_UNKNOWN", 502)]
)
async def test_what_another_server_does_not_give_is_an_error(place: Place, errcode: str, status: int) -> None:
    place.far.errcode = errcode
    with pytest.raises(MatrixError) as caught:
        await place.media.open("far", "m1")
    assert (caught.value.status, caught.value.errcode) == (status, errcode)


async def test_a_location_is_followed_if_it_is_https(place: Place) -> None:
    place.far.files["m1"] = File(b"", location="https://cdn.example/x")
    place.far.files["m2"] = File(b"", location="http://127.0.0.1/x")
    place.far.locations["https://cdn.example/x"] = File(b"from there")
    assert (await place.media.open("far", "m1")).size == 10
    with pytest.raises(errors.Unknown):
        await place.media.open("far", "m2")


async def test_the_cache_drops_what_was_unused_longest(place: Place) -> None:
    for n in range(4):
        place.far.files[f"m{n}"] = File(bytes([n]) * 25_000)
    own = await place.upload(b"o" * 50_000)
    for name in ("m0", "m1"):
        await place.media.open("far", name)
        place.clock.now += 1
    place.clock.now += 2 * table.TOUCH_AFTER
    await place.media.open("far", "m0")
    place.clock.now += 1
    await place.media.open("far", "m2")
    held = [name for name in ("m0", "m1", "m2") if await is_here(place, name)]
    assert held == ["m0", "m2"]
    assert len(place.on_disk()) == 3
    assert (await place.media.open("test", own)).size == 50_000


async def is_here(place: Place, media_id: str) -> bool:
    return await place.db.read(lambda tx: table.get(tx, "far", media_id)) is not None


async def test_what_an_upload_shares_with_the_cache_stays_on_the_disk(place: Place) -> None:
    data = b"s" * 40_000
    place.far.files |= {"m1": File(data), "m2": File(b"t" * 40_000)}
    own = await place.upload(data)
    await place.media.open("far", "m1")
    place.clock.now += 1
    await place.media.open("far", "m2")
    assert not await is_here(place, "m1")
    assert (await place.media.open("test", own)).path.exists()


# Thumbnails


def key(media_id: str, width: int, height: int, method: str = "scale", server_name: str = "test") -> ThumbnailKey:
    return ThumbnailKey(server_name, media_id, width, height, method)


async def test_a_thumbnail_is_made_once(place: Place) -> None:
    media_id = await place.upload(image(1000, 500))
    first = await place.media.thumbnail(key(media_id, 300, 200))
    assert (first.content_type, first.filename) == ("image/jpeg", "thumbnail.jpeg")
    count = len(place.on_disk())
    assert await place.media.thumbnail(key(media_id, 310, 230)) == first
    assert len(place.on_disk()) == count == 2


async def test_what_is_no_image_has_no_thumbnail(place: Place) -> None:
    media_id = await place.upload(b"\x89PNG\r\n\x1a\nnot really")
    with pytest.raises(errors.Unknown) as caught:
        await place.media.thumbnail(key(media_id, 32, 32, "crop"))
    assert caught.value.status == 400


async def test_a_thumbnail_of_another_server_does_not_cost_the_whole_image(place: Place) -> None:
    place.far.thumbnails["m1"] = File(b"small", "image/webp")
    found = await place.media.thumbnail(key("m1", 90, 90, "crop", "far"))
    assert await place.media.thumbnail(key("m1", 90, 90, "crop", "far")) == found
    assert place.far.asked == ["thumbnail m1 96x96 crop"]
    assert found.path.read_bytes() == b"small"


async def test_a_thumbnail_that_is_here_is_given_to_who_must_not_fetch(place: Place) -> None:
    place.far.thumbnails["m1"] = File(b"small", "image/webp")
    asked = key("m1", 90, 90, "crop", "far")
    with pytest.raises(errors.NotFound):
        await place.media.thumbnail(asked, fetch=False)
    found = await place.media.thumbnail(asked)
    assert await place.media.thumbnail(asked, fetch=False) == found
    with pytest.raises(errors.NotFound):
        await place.media.thumbnail(asked, fetch=False, frozen=True)


async def test_a_thumbnail_that_another_server_does_not_give_is_made_of_its_image(place: Place) -> None:
    place.far.files["m1"] = place.far.files["m2"] = File(image(1000, 500))
    place.far.thumbnails["m2"] = File(b"<script>", "text/html")
    for name in ("m1", "m2"):
        assert (await place.media.thumbnail(key(name, 90, 90, "crop", "far"))).content_type == "image/jpeg"


async def test_a_remote_image_that_is_here_already_is_not_asked_for(place: Place) -> None:
    place.far.files["m1"] = File(image(1000, 500))
    await place.media.open("far", "m1")
    await place.media.thumbnail(key("m1", 90, 90, "crop", "far"))
    assert place.far.asked == ["download m1"]


# At start


async def test_what_nothing_names_is_removed_at_start(place: Place) -> None:
    media_id = await place.upload(b"kept")
    for name in ("orphan", "half"):
        received = await place.files.receive_bytes(name.encode())
        if name == "orphan":
            await place.files.publish(received)
    await place.files.open()
    assert (await place.media.check()).orphans == 1
    assert len(place.on_disk()) == 1
    assert (await place.media.open("test", media_id)).size == 4


async def test_an_empty_index_removes_nothing(place: Place) -> None:
    await place.files.publish(await place.files.receive_bytes(b"of another index"))
    assert (await place.media.check()).orphans == 0
    assert len(place.on_disk()) == 1


async def test_missing_files_of_others_are_forgotten_and_ours_are_told_of(place: Place) -> None:
    place.far.files["m1"] = File(b"far")
    own = await place.upload(b"own")
    await place.media.open("far", "m1")
    for path in place.on_disk():
        path.unlink()
    checked = await place.media.check()
    assert (checked.orphans, checked.lost) == (0, 1)
    assert not await is_here(place, "m1")
    assert await place.db.read(lambda tx: table.get(tx, "test", own)) is not None


async def test_without_a_network_there_is_only_what_is_here(place: Place) -> None:
    alone = MediaRepository(place.db, "test", place.files, place.clock, limits=Limits())
    with pytest.raises(errors.NotFound):
        await alone.open("far", "m1")
