"""Media behind a thin line: refused until a person wishes for it, fetched once, and from where it broke off."""

from __future__ import annotations

import io
import random
import re
import shutil
from contextlib import asynccontextmanager
from html import unescape
from urllib.parse import quote, urlencode

import pytest
import trio
from PIL import Image

from edgeserver.proxy.kept_media import KeptMedia, MediaFolder, MediaKey, media_key
from edgeserver.proxy.media import MAX_LISTED, Policy
from tests.asgi import AsgiClient
from tests.proxy.rig import V3, HttpClient, StandIn, rig_in_memory, until
from tests.proxy.test_real_box import Meter, paired_box, proxy_on
from transports.exchange import Request, Response
from transports.memory import Medium, MemoryCable

MEDIA = "/_matrix/client/v1/media"
FILE = random.Random(4).randbytes(40_000)
BROWSER = {"accept": "text/html,application/xhtml+xml", "sec-fetch-site": "none"}


async def upload(box, person, body: bytes, content_type: str = "image/png") -> str:
    client = AsgiClient(box.box.app, token=person.token)
    answer = await client.request("POST", "/_matrix/media/v3/upload", body=body, headers={"host": "a.test", "content-type": content_type})
    return answer.json["content_uri"].removeprefix("mxc://")


class Browser:
    """A person in front of the page: what it says, and its buttons."""

    def __init__(self, app) -> None:
        self._client = HttpClient(app, "")

    async def page(self) -> str:
        answer = await self._client("GET", "/", headers=BROWSER)
        assert answer.status == 200
        assert answer.header("content-type") == ["text/html; charset=utf-8"]
        assert answer.header("access-control-allow-origin") == []
        return answer.body.decode()

    async def seen(self) -> str:
        """The page's text."""
        return unescape(re.sub(r"<[^>]*>", " ", await self.page()))

    async def press(self, verb: str, number: int = 0, **headers: str):
        page = await self.page()
        (action, fields) = re.findall(rf"<form method=post action=(/{verb})>(.*?)</form>", page)[number]
        values = dict(re.findall(r"name=(\w+) value='([^']*)'", fields))
        sent = {"content-type": "application/x-www-form-urlencoded", "origin": "http://localhost:8008", "sec-fetch-site": "same-origin"}
        return await self._client("POST", action, urlencode(values).encode(), headers=sent | headers)

    async def told(self) -> dict:
        return (await self._client("GET", "/", headers={"accept": "application/json"})).json


async def test_a_picture_is_refused_and_fetched_on_a_wish_through_cuts_and_restarts_and_comes_but_once(tmp_path, autojump_clock):
    cable = MemoryCable(Medium(9600), seed=5)
    async with paired_box(tmp_path, cable) as (box, state, line, link):
        alice, bob = await box.person("alice"), await box.person("bob")
        room = await alice.create_room(preset="public_chat")
        await bob.join(room)
        uri = await upload(box, bob, FILE)
        content = {"msgtype": "m.image", "body": "the <b>harbour</b>.png", "url": f"mxc://{uri}", "info": {"size": len(FILE)}}
        await bob.ok("PUT", f"/rooms/{quote(room)}/send/m.room.message/1", content)
        meter = Meter(link)
        async with proxy_on(line, state) as app:
            client, browser = HttpClient(app, alice.token), Browser(app)
            assert (await client("GET", f"{V3}/sync?timeout=0")).status == 200
            await meter.read("sync")
            for _ in range(3):
                refused = await client("GET", f"{MEDIA}/download/{uri}")
                assert (refused.status, refused.json["errcode"]) == (504, "M_NOT_YET_UPLOADED")
            assert await meter.read("refusals") < 200  # the sync that is observed
            assert "the <b>harbour</b>.png" in await browser.seen()
            assert "<b>harbour" not in await browser.page()
            assert "40 kB" in await browser.seen()
            assert "about 42 s" in await browser.seen()
            assert (await browser.press("fetch")).header("location") == ["/"]
            await trio.sleep(22)
            cable.unplug()
            await trio.sleep(30)
            assert "left" in await browser.seen()
        held = next((tmp_path / "proxy" / "media").glob("*.body"))
        assert 10_000 < held.stat().st_size < len(FILE)
        assert held.stat().st_mode & 0o077 == 0
        cable.plug()
        async with proxy_on(line, state) as app:
            client, browser = HttpClient(app, alice.token), Browser(app)
            (under_way,) = (await browser.told())["media"]["under_way"]
            assert under_way["name"] == "the <b>harbour</b>.png"
            assert under_way["received"] == held.stat().st_size
            found = await client("GET", f"{MEDIA}/download/{uri}")  # waits for it
            assert (found.status, found.body) == (200, FILE)
            assert found.header("content-type") == ["image/png"]
            assert await meter.read("file") < 1.6 * len(FILE)  # a part of 20 s was cut
            assert "None that an app has asked for" in await browser.seen()
            assert not any(alice.token.encode() in file.read_bytes() for file in (tmp_path / "proxy" / "media").iterdir())
        async with proxy_on(line, state) as app:
            cable.unplug()
            while line.is_up:
                await line.change()
            assert (await HttpClient(app, alice.token)("GET", f"{MEDIA}/download/{uri}/name.png")).body == FILE
            assert (await HttpClient(app, "stranger")("GET", f"{MEDIA}/download/{uri}")).status == 504
            assert (await HttpClient(app, "")("GET", f"/_matrix/media/v3/download/{uri}")).status == 504
            cable.plug()
            while not line.is_up:
                await line.change()
            await meter.read("down and up")
            for _ in range(3):
                assert (await HttpClient(app, bob.token)("GET", f"{MEDIA}/download/{uri}")).body == FILE
                assert (await HttpClient(app, "stranger")("GET", f"{MEDIA}/download/{uri}")).status == 504
            assert await meter.read("others") < 1200  # who they are was asked for
            assert (await Browser(app).told())["bytes_lately"]["day"]["in"] > len(FILE)


async def test_small_previews_come_by_themselves_and_what_is_larger_is_tasted_once(tmp_path, autojump_clock):
    cable = MemoryCable(Medium(2400), seed=5)
    picture = io.BytesIO()
    Image.frombytes("RGB", (300, 300), random.Random(1).randbytes(270_000)).save(picture, "PNG")
    async with paired_box(tmp_path, cable) as (box, state, line, link), proxy_on(line, state, Policy.SMALL) as app:
        alice = await box.person("alice")
        uri = await upload(box, alice, picture.getvalue())
        note = await upload(box, alice, b"tides", "text/plain")
        client, meter = HttpClient(app, alice.token), Meter(link)
        thumbnail = await client("GET", f"{MEDIA}/thumbnail/{uri}?width=32&height=32&method=crop")
        assert (thumbnail.status, thumbnail.body[:3]) == (200, b"\xff\xd8\xff")
        assert len(thumbnail.body) <= 7200
        assert (await client("GET", f"{MEDIA}/download/{note}")).body == b"tides"
        await meter.read("small ones")
        assert (await client("GET", f"{MEDIA}/thumbnail/{uri}?width=32&height=32&method=crop")).body == thumbnail.body
        assert await meter.read("again") == 0
        assert (await client("GET", f"{MEDIA}/download/{uri}")).status == 504
        assert await meter.read("a taste") < 1200  # with all headers
        assert (await client("GET", f"{MEDIA}/download/{uri}")).status == 504
        assert await meter.read("and no more") == 0
        (refused,) = (await Browser(app).told())["media"]["refused"]
        assert (refused["size"], refused["received"]) == (len(picture.getvalue()), 512)
        missing = await client("GET", f"{MEDIA}/download/{box.server_name}/none")
        assert (missing.status, missing.json["errcode"]) == (404, "M_NOT_FOUND")  # the box has said so


async def test_a_fetch_can_be_stopped_and_goes_on_later(tmp_path, autojump_clock):
    cable = MemoryCable(Medium(9600), seed=5)
    async with paired_box(tmp_path, cable) as (box, state, line, link), proxy_on(line, state) as app:
        alice = await box.person("alice")
        uri = await upload(box, alice, FILE)
        client, browser, meter = HttpClient(app, alice.token), Browser(app), Meter(link)
        await client("GET", f"{V3}/sync?timeout=0")
        await client("GET", f"{MEDIA}/download/{uri}")
        await browser.press("fetch")
        await trio.sleep(25)
        await browser.press("stop")
        await trio.sleep(25)
        await meter.read("first")
        await trio.sleep(100)
        assert await meter.read("quiet") < 300
        assert "are here" in await browser.seen()
        await browser.press("fetch")
        assert (await client("GET", f"{MEDIA}/download/{uri}")).body == FILE
        assert await meter.read("rest") < 0.3 * len(FILE)  # two parts of 20 s had come


async def test_with_all_a_picture_that_nobody_waits_for_any_longer_does_not_keep_the_line(tmp_path, autojump_clock):
    cable = MemoryCable(Medium(2400), seed=5)
    async with paired_box(tmp_path, cable) as (box, state, line, link), proxy_on(line, state, Policy.ALL) as app:
        alice = await box.person("alice")
        uri = await upload(box, alice, FILE)
        client, meter = HttpClient(app, alice.token), Meter(link)
        assert await client("GET", f"{MEDIA}/download/{uri}", patience=10) is None
        await trio.sleep(160)
        await meter.read("until it was let go")
        await trio.sleep(100)
        assert await meter.read("afterwards") == 0
        assert (await client("GET", f"{MEDIA}/download/{uri}")).body == FILE
        assert await meter.read("the rest") < 0.6 * len(FILE)


# ---- a box of the test's own


class Shelf(StandIn):
    """Gives ranges of `files` by media id, each with its ETag."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}

    async def __call__(self, request: Request, gone: trio.Event) -> Response:
        name = request.target.partition("?")[0].rpartition("/")[2]
        body = self.files.get(name)
        if body is None or "/media/" not in request.target:
            return await super().__call__(request, gone)
        self.asked.append(request)
        first, last = map(int, (request.header("range") or "bytes=0-0").removeprefix("bytes=").split("-"))
        if first >= len(body):
            return Response(416, (("content-range", f"bytes */{len(body)}"),))
        part = body[first : last + 1]
        headers = (("content-range", f"bytes {first}-{first + len(part) - 1}/{len(body)}"), ("etag", f'"{hash(body)}"'))
        return Response(206, headers, part)


@asynccontextmanager
async def shelf(tmp_path, **how):
    async with rig_in_memory(tmp_path, Medium(9600), box=Shelf(), **how) as rig:
        await rig.up()
        await rig.client("GET", f"{V3}/sync?timeout=0")
        yield rig, Browser(rig.app)


async def test_a_file_that_has_become_another_one_is_fetched_from_its_beginning(tmp_path, autojump_clock):
    for new in (bytes(30_000), bytes(3_000)):
        folder = tmp_path / str(len(new))
        folder.mkdir()
        async with shelf(folder) as (rig, browser):
            rig.box.files["a"] = FILE
            await rig.client("GET", f"{MEDIA}/download/box/a")
            await browser.press("fetch")
            await until(lambda rig=rig: any(item.received for item in rig.app.media.under_way))
            rig.box.files["a"] = new
            assert (await rig.client("GET", f"{MEDIA}/download/box/a")).body == new


@pytest.mark.parametrize(
    ("headers", "host", "client"),
    [
        ({"origin": "https://evil.example"}, "localhost:8008", "127.0.0.1"),
        ({"origin": "null"}, "localhost:8008", "127.0.0.1"),
        ({"sec-fetch-site": "cross-site"}, "localhost:8008", "127.0.0.1"),
        ({"sec-fetch-site": "same-site"}, "localhost:8008", "127.0.0.1"),
        ({"origin": "http://evil.example:8008"}, "evil.example:8008", "127.0.0.1"),  # a name that leads here now
        ({}, "localhost:8008", "192.168.1.7"),
        ({"token": "guess"}, "localhost:8008", "127.0.0.1"),
    ],
)
async def test_no_other_page_and_no_other_machine_makes_the_proxy_fetch_or_reads_its_list(tmp_path, autojump_clock, headers, host, client):
    async with shelf(tmp_path) as (rig, browser):
        rig.box.files["a"] = b"x"
        await rig.client("GET", f"{MEDIA}/download/box/a")
        (item,) = rig.app.media.refused
        token = headers.get("token") or re.search(r"name=token value='([^']+)'", await browser.page())[1]
        sent = {name: value for name, value in headers.items() if name != "token"}

        async def app(scope, receive, send):
            await rig.app(scope | {"client": (client, 5)}, receive, send)

        attacker = HttpClient(app, "")
        form = urlencode({"token": token, "media": item.key.digest}).encode()
        answer = await attacker("POST", "/fetch", form, headers={"host": host, **sent})
        assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")
        assert answer.header("access-control-allow-origin") == []
        assert (await attacker("GET", "/fetch?" + form.decode(), headers={"host": host, **sent})).status == 405
        if host != "localhost:8008" or client != "127.0.0.1":
            seen = await attacker("GET", "/", headers={"host": host, **BROWSER})
            assert "media" not in seen.json
        await trio.sleep(60)
        assert rig.box.count("GET", "/download/") == 0


async def test_the_page_bounds_what_it_takes_and_refuses_what_it_does_not_know(tmp_path, autojump_clock):
    async with shelf(tmp_path) as (rig, browser):
        client = HttpClient(rig.app, "")
        assert (await client("POST", "/fetch", b"x" * 5000)).status == 413
        assert (await client("POST", "/fetch", b"&" * 4000)).status == 403
        assert (await client("POST", "/fetch", b"\xff=%ff&token=%E2%80%BD")).status == 403
        assert (await client("PUT", "/", b"x")).status == 405
        assert (await client("OPTIONS", "/fetch")).header("access-control-allow-origin") == []
        assert (await client("HEAD", "/", headers=BROWSER)).body == b""
        page = await browser.page()
        assert "<script" not in page
        for number in range(MAX_LISTED + 20):
            await rig.client("GET", f"{MEDIA}/download/box/{number}")
        assert len(rig.app.media.listed) == MAX_LISTED
        before = set(rig.app.media.listed)
        for number in range(MAX_LISTED):
            await HttpClient(rig.app, "stranger")("GET", f"{MEDIA}/download/evil/{number}")
        assert set(rig.app.media.listed) == before
        assert (await rig.client("GET", f"{MEDIA}/download/box")).status == 404


@pytest.mark.parametrize("path", ["..%2F..%2Fetc/passwd", "box/%2e%2e%2f%2e%2e%2fkey", "box/a%00b", "%ff/%fe"])
async def test_names_lead_nowhere_but_into_the_folder(tmp_path, autojump_clock, path):
    async with shelf(tmp_path) as (rig, browser):
        rig.box.files[path.rpartition("/")[2]] = b"whatever"
        await rig.client("GET", f"{MEDIA}/download/{path}")
        await browser.press("fetch")
        assert (await rig.client("GET", f"{MEDIA}/download/{path}")).body == b"whatever"
    names = {file.name for file in (tmp_path / "media").iterdir()}
    assert all(re.fullmatch(r"[0-9a-f]{64}\.(json|body)", name) for name in names)
    assert {file.name for file in tmp_path.iterdir()} <= {"media", "outbox", "meter.json", "proxy.json", "proxy.told"}


async def test_the_box_s_no_to_one_client_is_not_told_to_another(tmp_path, autojump_clock):
    """An app that is told 401 logs out."""

    class Strict(Shelf):
        async def __call__(self, request: Request, gone: trio.Event) -> Response:
            if request.header("authorization") == "Bearer stranger":
                await trio.sleep(5)
                return Response(401, (("content-type", "application/json"),), b'{"errcode":"M_UNKNOWN_TOKEN","error":"No."}')
            return await super().__call__(request, gone)

    async with rig_in_memory(tmp_path, Medium(9600), box=Strict(), policy=Policy.ALL) as rig:
        await rig.up()
        rig.box.files["a"] = FILE
        await rig.client("GET", f"{V3}/sync?timeout=0")
        answers = {}

        async def ask(token: str) -> None:
            answers[token] = await HttpClient(rig.app, token)("GET", f"{MEDIA}/download/box/a")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "stranger")
            await trio.sleep(1)
            nursery.start_soon(ask, "T")
        assert [answers[token].status for token in ("stranger", "T")] == [401, 504]
        assert (await rig.client("GET", f"{MEDIA}/download/box/a")).body == FILE
        assert (await HttpClient(rig.app, "stranger")("GET", f"{MEDIA}/download/box/a")).status == 504


async def test_a_stranger_does_not_put_a_token_of_theirs_into_what_somebody_has_asked_for(tmp_path, autojump_clock):
    async with shelf(tmp_path) as (rig, browser):
        rig.box.files["a"] = b"x" * 100
        await rig.client("GET", f"{MEDIA}/download/box/a")
        await HttpClient(rig.app, "stranger")("GET", f"{MEDIA}/download/box/a")
        await browser.press("fetch")
        assert (await rig.client("GET", f"{MEDIA}/download/box/a")).body == b"x" * 100
        assert {each.header("authorization") for each in rig.box.asked if "/media/" in each.target} == {"Bearer T"}


async def test_avatars_do_not_push_a_file_off_the_list(tmp_path, autojump_clock):
    async with shelf(tmp_path) as (rig, browser):
        await rig.client("GET", f"{MEDIA}/download/box/a")
        for number in range(MAX_LISTED + 5):
            await rig.client("GET", f"{MEDIA}/thumbnail/box/{number}?width=32&height=32")
        refused = (await browser.told())["media"]["refused"]
        assert (len(refused), refused[0]["thumbnail"], refused[0]["uri"]) == (MAX_LISTED, False, "mxc://box/a")


async def test_a_disk_that_is_full_is_said_on_the_page(tmp_path, autojump_clock):
    async with shelf(tmp_path) as (rig, browser):
        rig.box.files["a"] = b"x" * 100
        await rig.client("GET", f"{MEDIA}/download/box/a")
        shutil.rmtree(tmp_path / "media")
        (tmp_path / "media").write_bytes(b"")
        await browser.press("fetch")
        assert (await rig.client("GET", f"{MEDIA}/download/box/a")).status == 504
        assert "cannot be written" in await browser.seen()


# ---- the folder


def test_keys_tell_files_and_thumbnails_apart():
    assert media_key("/_matrix/media/v3/download/box/a/name.png", "") == MediaKey("box", "a")
    assert media_key("/_matrix/client/v1/media/download/box%3A8448/a", "allow_redirect=true") == MediaKey("box:8448", "a")
    small, large = (media_key(f"{MEDIA}/thumbnail/box/a", f"width={width}&height=32") for width in (32, 64))
    assert small is not None
    assert small != large
    assert media_key(f"{MEDIA}/config", "") is None
    assert media_key(f"{MEDIA}/thumbnail/box/a", "&".join("a=b" for _ in range(99))) is None


def keep(folder: MediaFolder, name: str, size: int, *, used_at: float, wanted: bool = False) -> KeptMedia:
    media = KeptMedia(MediaKey("box", name), f"{MEDIA}/download/box/{name}", "Bearer T", wanted=wanted)
    folder.begin(media)
    media.total = size if not wanted else size + 1
    folder.add(media, bytes(size))
    folder.say(media)
    media.used_at = used_at
    return media


def test_the_folder_is_bounded_and_what_was_not_used_for_longest_goes_first(tmp_path):
    folder = MediaFolder(tmp_path / "media", "k", max_bytes=100, max_files=4)
    folder.load()
    wished = keep(folder, "wished", 40, used_at=1.0, wanted=True)
    old, new = keep(folder, "old", 30, used_at=2.0), keep(folder, "new", 30, used_at=3.0)
    newest = keep(folder, "newest", 30, used_at=4.0)
    assert [folder.get(each.key) is not None for each in (wished, old, new, newest)] == [True, False, True, True]
    for number in range(9):
        keep(folder, f"tiny {number}", 1, used_at=10.0 + number)
    assert len(folder.all()) <= 5
    assert sum(file.stat().st_size for file in (tmp_path / "media").glob("*.body")) <= 100


def test_a_folder_outlives_a_restart_and_what_is_damaged_or_anothers_is_removed(tmp_path):
    path = tmp_path / "media"
    folder = MediaFolder(path, "k")
    folder.load()
    whole, part = keep(folder, "whole", 30, used_at=1.0), keep(folder, "part", 30, used_at=1.0, wanted=True)
    torn, odd = keep(folder, "torn", 30, used_at=1.0), keep(folder, "odd", 30, used_at=1.0)
    (path / f"{torn.key.digest}.body").write_bytes(bytes(31))
    (path / f"{odd.key.digest}.json").write_bytes(b'{"key": 5}')
    (path / ("0" * 64 + ".body")).write_bytes(b"nobody's")
    again = MediaFolder(path, "k")
    again.load()
    found = {media.key.media_id: media for media in again.all()}
    assert set(found) == {"whole", "part"}
    assert again.read(found["whole"]) == bytes(30)
    assert (found["whole"].authorization, found["part"].authorization) == ("", "Bearer T")
    assert (found["part"].size, found["part"].total, found["part"].wanted) == (30, 31, True)
    assert len(list(path.iterdir())) == 4
    other = MediaFolder(path, "another box")
    other.load()
    assert [media.key for media in other.all()] == [whole.key]
    assert not (path / f"{part.key.digest}.json").exists()  # its token is none of that box's business
