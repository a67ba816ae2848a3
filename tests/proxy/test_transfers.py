"""Files of ordinary clients over a line that is cut: what came over need not come again, up and down."""

from __future__ import annotations

import random

import orjson
import trio

from edgeserver.proxy.application import MAX_UPLOAD
from edgeserver.proxy.media import Policy
from edgeserver.proxy.transfers import MAX_UNFINISHED
from tests.proxy.rig import HttpClient, StandIn, proxied
from tests.proxy.test_real_box import behind_the_proxy
from transports.exchange import Request, Response
from transports.memory import Medium, MemoryCable

UPLOAD = "/_matrix/media/v3/upload"
DOWNLOAD = "/_matrix/client/v1/media/download"
IMAGE = {"content-type": "image/png"}
FILE = random.Random(4).randbytes(100_000)


async def cut(cable: MemoryCable, after: float, away: float) -> None:
    await trio.sleep(after)
    cable.unplug()
    await trio.sleep(away)
    cable.plug()


async def logged_in(box, client: HttpClient) -> None:
    client.token = (await box.person("alice")).token


async def test_a_file_goes_on_from_where_it_was_after_each_cut(tmp_path, autojump_clock) -> None:
    """At 9600 baud the file takes some 110 s each way; it is cut three times, and little of it is sent twice."""
    cable = MemoryCable(Medium(9600), seed=5)
    async with behind_the_proxy(tmp_path, cable, Policy.ALL) as (box, client, meter):
        await logged_in(box, client)
        await meter.read("connect")
        answers = []

        async def upload() -> None:
            answers.append(await client("POST", f"{UPLOAD}?filename=a.png", FILE, headers=IMAGE))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            for after in (40, 50, 55):
                await cut(cable, after, 30)
        (sent,) = answers
        assert (sent.status, list(sent.json)) == (200, ["content_uri"])
        assert sent.header("upload-offset") == []
        up = await meter.read("upload")
        assert up < 1.8 * len(FILE)

        found = []

        async def download() -> None:
            found.append(await client("GET", f"{DOWNLOAD}/{sent.json['content_uri'].removeprefix('mxc://')}"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(download)
            for after in (40, 50, 55):
                await cut(cable, after, 30)
        assert (found[0].status, found[0].body) == (200, FILE)
        assert found[0].header("content-disposition") == ['inline; filename="a.png"']
        assert found[0].header("content-range") == []
        assert found[0].header("content-length") == [str(len(FILE))]
        down = await meter.read("download")
        assert down < 1.8 * len(FILE)


async def test_an_empty_file_and_one_that_is_not_there_come_as_they_are(tmp_path, autojump_clock) -> None:
    async with behind_the_proxy(tmp_path, MemoryCable(Medium(9600), seed=5), Policy.ALL) as (box, client, _):
        await logged_in(box, client)
        uri = (await client("POST", UPLOAD, b"", headers=IMAGE)).json["content_uri"].removeprefix("mxc://")
        found = await client("GET", f"{DOWNLOAD}/{uri}")
        assert (found.status, found.body) == (200, b"")
        assert (await client("GET", f"{DOWNLOAD}/{box.server_name}/none")).json["errcode"] == "M_NOT_FOUND"


async def test_an_upload_survives_a_power_cut_of_the_box(tmp_path, autojump_clock) -> None:
    cable = MemoryCable(Medium(9600), seed=5)
    async with behind_the_proxy(tmp_path, cable, Policy.ALL) as (box, client, _):
        await logged_in(box, client)
        answers = []

        async def upload() -> None:
            answers.append(await client("POST", UPLOAD, FILE, headers=IMAGE))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            await trio.sleep(90)
            await box.stop()
            await trio.sleep(60)
            await box.start()
            began = trio.current_time()
        assert answers[0].status == 200
        assert trio.current_time() - began < 120  # all of it again would take longer


async def test_a_client_that_gave_up_and_tries_again_goes_on(tmp_path, autojump_clock) -> None:
    cable = MemoryCable(Medium(9600), seed=5)
    async with behind_the_proxy(tmp_path, cable, Policy.ALL) as (box, client, meter):
        await logged_in(box, client)
        await meter.read("connect")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut, cable, 90, 600)
            assert await client("POST", UPLOAD, FILE, headers=IMAGE, patience=100) is None
        assert (await client("POST", UPLOAD, FILE, headers=IMAGE)).status == 200
        assert await meter.read("upload") < 1.6 * len(FILE)


# Boxes that do not do as they should: of an older release, or out of their wits


class OldBox(StandIn):
    """It knows of no uploads in parts and of no ranges, or answers what it is told to."""

    def __init__(self, answers: list[Response] | None = None) -> None:
        super().__init__()
        self.answers = answers or []

    async def __call__(self, request: Request, gone: trio.Event) -> Response:
        if self.answers:
            self.asked.append(request)
            return self.answers.pop(0)
        if request.target.startswith(UPLOAD):
            self.asked.append(request)
            return Response(200, (("content-type", "application/json"),), orjson.dumps({"content_uri": f"mxc://box/{len(request.body)}"}))
        return await super().__call__(request, gone)


def part(start: int, total: int, body: bytes) -> Response:
    return Response(206, (("content-range", f"bytes {start}-{start + len(body) - 1}/{total}"),), body)


async def test_a_box_of_an_older_release_gets_and_gives_files_whole(tmp_path, autojump_clock) -> None:
    cable = MemoryCable(Medium(115_200), seed=1)
    async with proxied(tmp_path, cable.a, cable.b, OldBox()) as rig:
        rig.far.start()
        await rig.up()
        body = bytes(600_000)
        assert (await rig.client("POST", UPLOAD, body, headers=IMAGE)).json == {"content_uri": "mxc://box/600000"}
        assert [len(each.body) for each in rig.box.asked] == [0, 600_000]
        assert (await rig.client("GET", f"{DOWNLOAD}/box/a")).status == 200


async def test_nonsense_of_the_box_ends(tmp_path, autojump_clock) -> None:
    cable = MemoryCable(Medium(115_200), seed=1)
    nonsense = [
        [part(7, 10, b"x")] * 20,
        [Response(206, (), b"x")] * 20,
        [part(0, 10**9, b"x")],
    ]
    async with proxied(tmp_path, cable.a, cable.b, OldBox()) as rig:
        rig.far.start()
        await rig.up()
        for number, answers in enumerate(nonsense):
            rig.box.answers = list(answers)
            answer = await rig.client("GET", f"{DOWNLOAD}/box/{number}")
            assert answer.status in (413, 502), answers[0]
            rig.box.answers = []
        created = Response(201, (("location", "/there"),))
        for answers in ([created, Response(409)], [created, Response(500), Response(200, (), b'{"received": -1}')]):
            rig.box.answers = list(answers)
            answer = await rig.client("POST", UPLOAD, bytes(600_000 + len(answers)), headers=IMAGE)
            assert answer.status in (500, 502)
            rig.box.answers = []


async def test_so_many_unfinished_uploads_are_remembered(tmp_path, autojump_clock) -> None:
    cable = MemoryCable(Medium(115_200), seed=1)
    async with proxied(tmp_path, cable.a, cable.b, OldBox()) as rig:
        rig.far.start()
        await rig.up()
        for number in range(MAX_UNFINISHED + 5):
            location = Response(201, (("location", f"/{number}"),))
            rig.box.answers = [location, Response(409), Response(404)]
            await rig.client("POST", UPLOAD, bytes(600_000 + number), headers=IMAGE)
        assert len(rig.app._transfers._unfinished) <= MAX_UNFINISHED


async def test_parts_cost_little_on_a_line_that_holds(tmp_path, autojump_clock) -> None:
    cable = MemoryCable(Medium(9600), seed=5)
    async with behind_the_proxy(tmp_path, cable, Policy.ALL) as (box, client, meter):
        await logged_in(box, client)
        await meter.read("connect")
        uri = (await client("POST", UPLOAD, FILE, headers=IMAGE)).json["content_uri"].removeprefix("mxc://")
        up = await meter.read("upload")
        assert (await client("GET", f"{DOWNLOAD}/{uri}")).body == FILE
        assert up < 1.1 * len(FILE)
        assert await meter.read("download") < 1.1 * len(FILE)


async def test_a_file_larger_than_any_message_goes_over_a_quick_line_both_ways(tmp_path, autojump_clock) -> None:
    cable = MemoryCable(Medium(460_800), seed=5)
    large = random.Random(9).randbytes(1_300_000)
    async with behind_the_proxy(tmp_path, cable, Policy.ALL) as (box, client, _):
        await logged_in(box, client)
        assert (await client("GET", "/_matrix/client/v1/media/config")).json["m.upload.size"] == MAX_UPLOAD
        sent = await client("POST", UPLOAD, large, headers=IMAGE)
        assert sent.status == 200
        found = await client("GET", f"{DOWNLOAD}/{sent.json['content_uri'].removeprefix('mxc://')}")
        assert found.body == large
        refused = await client("POST", UPLOAD, bytes(MAX_UPLOAD + 1), headers=IMAGE)
        assert (refused.status, refused.json["errcode"]) == (413, "M_TOO_LARGE")
