"""The media endpoints: headers, ranges, names, and who may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeserver.api.client import media as section
from edgeserver.api.ratelimit import Rate, RateLimiter
from tests.asgi import Answer, AsgiClient, section_application
from tests.media.places import ALICE, File, Place, image, moving_image, open_place

NEW, OLD = "/_matrix/client/v1/media", "/_matrix/media/v3"


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_place(tmp_path) as opened:
        yield opened


@pytest.fixture
def alice(place: Place) -> AsgiClient:
    return AsgiClient(section_application(section.routes(place.media), {"alice": ALICE}), token="alice")


async def upload(client: AsgiClient, data: bytes, content_type: str, name: str = "") -> str:
    """Returns `test/<media id>`."""
    target = f"{OLD}/upload" + (f"?filename={name}" if name else "")
    answer = await client.request("POST", target, body=data, headers={"Content-Type": content_type})
    assert answer.status == 200
    return answer.json["content_uri"].removeprefix("mxc://")


def headers(answer: Answer) -> tuple[str, str]:
    return answer.headers["content-type"], answer.headers["content-disposition"]


async def test_a_download_carries_what_keeps_browsers_safe(alice: AsgiClient) -> None:
    mxc = await upload(alice, b"<script>", "text/html", "a%20b.html")
    answer = await alice.get(f"{NEW}/download/{mxc}")
    assert (answer.status, answer.body) == (200, b"<script>")
    assert headers(answer) == ("text/html; charset=utf-8", 'attachment; filename="a b.html"')
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    answer = await alice.get(f"{NEW}/download/{mxc}/other%2Fn%C3%A4me.html")
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''other%2Fn%C3%A4me.html"


RANGES = [
    ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
    ("bytes=7-", 206, b"789", "bytes 7-9/10"),
    ("bytes=-3", 206, b"789", "bytes 7-9/10"),
    ("bytes=-30", 206, b"0123456789", "bytes 0-9/10"),
    ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
    ("Bytes = 0 - 0", 206, b"0", "bytes 0-0/10"),
    ("bytes=10-", 416, None, "bytes */10"),
    ("bytes=-0", 416, None, "bytes */10"),
    ("bytes=0-1,4-5", 200, b"0123456789", None),
    ("bytes=4-2", 200, b"0123456789", None),
    ("bytes=-", 200, b"0123456789", None),
    ("bytes=a-b", 200, b"0123456789", None),
    ("bytes=" + "9" * 30 + "-", 200, b"0123456789", None),
    ("lines=1-2", 200, b"0123456789", None),
]


@pytest.mark.parametrize(("asked", "status", "body", "told"), RANGES)
async def test_a_part_of_a_file_can_be_asked_for(alice: AsgiClient, asked: str, status: int, body: bytes, told: str | None) -> None:
    mxc = await upload(alice, b"0123456789", "audio/ogg")
    answer = await alice.get(f"{NEW}/download/{mxc}", headers={"Range": asked})
    assert (answer.status, answer.headers.get("content-range")) == (status, told)
    if body is None:
        assert answer.json["errcode"] == "M_INVALID_PARAM"
    else:
        assert (answer.body, answer.headers["content-length"]) == (body, str(len(body)))
        assert answer.headers["accept-ranges"] == "bytes"


async def test_a_part_is_given_only_of_the_file_that_the_client_means(alice: AsgiClient) -> None:
    mxc = await upload(alice, b"0123456789", "audio/ogg")
    etag = (await alice.get(f"{NEW}/download/{mxc}")).headers["etag"]
    for told, status in ((etag, 206), ('"other"', 200), (f"W/{etag}", 200), ("Thu, 01 Jan 1970 00:00:00 GMT", 200)):
        answer = await alice.get(f"{NEW}/download/{mxc}", headers={"Range": "bytes=1-2", "If-Range": told})
        assert answer.status == status, told


async def test_what_a_client_has_is_not_sent_again(alice: AsgiClient) -> None:
    mxc = await upload(alice, b"0123456789", "audio/ogg")
    etag = (await alice.get(f"{NEW}/download/{mxc}")).headers["etag"]
    for told in (etag, f'"other", W/{etag}', "*"):
        answer = await alice.get(f"{NEW}/download/{mxc}", headers={"If-None-Match": told})
        assert (answer.status, answer.body) == (304, b""), told
    assert (await alice.get(f"{NEW}/download/{mxc}", headers={"If-None-Match": '"other"'})).status == 200


async def test_the_head_of_a_download_is_told_alone(alice: AsgiClient) -> None:
    mxc = await upload(alice, b"0123456789", "audio/ogg")
    for asked, length in (({}, "10"), ({"Range": "bytes=2-4"}, "3")):
        answer = await alice.request("HEAD", f"{NEW}/download/{mxc}", headers=asked)
        assert (answer.headers["content-length"], answer.body) == (length, b"")
        assert answer.headers["content-type"] == "audio/ogg"


async def test_an_empty_file_can_be_downloaded(alice: AsgiClient) -> None:
    mxc = await upload(alice, b"", "text/plain")
    answer = await alice.get(f"{NEW}/download/{mxc}")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")


async def test_the_bytes_themselves_are_given_whether_redirects_are_allowed_or_not(alice: AsgiClient) -> None:
    mxc = await upload(alice, b"here", "text/plain")
    for allowed in ("true", "false"):
        assert (await alice.get(f"{OLD}/download/{mxc}?allow_redirect={allowed}")).body == b"here"


async def test_created_first_and_uploaded_later(alice: AsgiClient) -> None:
    created = (await alice.post("/_matrix/media/v1/create")).json
    mxc = created["content_uri"].removeprefix("mxc://")
    assert created["unused_expires_at"] > 0
    answer = await alice.get(f"{NEW}/download/{mxc}?timeout_ms=0")
    assert (answer.status, answer.json["errcode"]) == (504, "M_NOT_YET_UPLOADED")
    answer = await alice.request("PUT", f"{OLD}/upload/{mxc}", body=b"here", headers={"Content-Type": "text/plain"})
    assert (answer.status, answer.json) == (200, {})
    answer = await alice.request("PUT", f"{OLD}/upload/{mxc}", body=b"again")
    assert (answer.status, answer.json["errcode"]) == (409, "M_CANNOT_OVERWRITE_MEDIA")
    assert (await alice.get(f"{NEW}/download/{mxc}")).body == b"here"


async def test_thumbnails(alice: AsgiClient) -> None:
    mxc = await upload(alice, image(1000, 500), "image/png")
    answer = await alice.get(f"{NEW}/thumbnail/{mxc}?width=30&height=30&method=crop&animated=true")
    assert headers(answer) == ("image/jpeg", 'inline; filename="thumbnail.jpeg"')
    moving = await upload(alice, moving_image(400, 300, 5), "image/gif")
    answer = await alice.get(f"{NEW}/thumbnail/{moving}?width=30&height=30&method=crop&animated=true")
    assert headers(answer) == ("image/webp", 'inline; filename="thumbnail.webp"')
    answer = await alice.get(f"{NEW}/thumbnail/{moving}?width=30&height=30&method=crop&animated=false")
    assert headers(answer) == ("image/jpeg", 'inline; filename="thumbnail.jpeg"')
    text = await upload(alice, b"no image", "image/png")
    answer = await alice.get(f"{NEW}/thumbnail/{text}?width=30&height=30")
    assert (answer.status, answer.json["errcode"]) == (400, "M_UNKNOWN")
    assert (await alice.get(f"{NEW}/thumbnail/{mxc}?width=30&height=30")).status == 200
    for query in ("width=30", "width=30&height=x", "width=30&height=-1", "width=0&height=3", "width=3&height=3&method=x"):
        assert (await alice.get(f"{NEW}/thumbnail/{mxc}?{query}")).status == 400


async def test_an_upload_beyond_the_limit_is_refused_and_the_limit_is_told(alice: AsgiClient) -> None:
    limit = (await alice.get(f"{NEW}/config")).json["m.upload.size"]
    assert (await alice.get(f"{OLD}/config")).json["m.upload.size"] == limit
    for sent in ({}, {"Content-Length": str(limit + 1)}):
        answer = await alice.request("POST", f"{OLD}/upload", body=b"x" * (limit + 1), headers=sent)
        assert (answer.status, answer.json["errcode"]) == (413, "M_TOO_LARGE")


async def test_a_client_can_tell_how_much_of_its_quota_is_left(alice: AsgiClient) -> None:
    """MSC4034: the limits in the config, what is used of them at an endpoint of its own; both under both names."""
    told = (await alice.get(f"{NEW}/config")).json
    assert told["m.storage.size"] == told["org.matrix.msc4034.storage.size"] == 150_000
    assert told["m.storage.max_files"] == told["org.matrix.msc4034.storage.max_files"] == 100_000
    usage = "/_matrix/media/unstable/org.matrix.msc4034/usage"
    assert (await alice.get(usage)).json["m.storage.used"] == 0
    await upload(alice, b"x" * 700, "text/plain")
    told = (await alice.get(usage)).json
    assert told["m.storage.used"] == told["org.matrix.msc4034.storage.used"] == 700
    assert told["m.storage.files"] == told["org.matrix.msc4034.storage.files"] == 1
    assert (await AsgiClient(alice.app).get(usage)).status == 401
    await upload(alice, b"y" * 99_000, "text/plain")
    answer = await alice.request("POST", f"{OLD}/upload", body=b"z" * 60_000)
    assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")


async def test_the_old_endpoints_are_frozen_for_strangers(alice: AsgiClient, place: Place) -> None:
    """Spec: what came after the freeze answers 404 to who has no token, and nothing is fetched for strangers."""
    place.far.files["m1"] = place.far.files["m2"] = File(image(9, 9))
    old, new = await upload(alice, image(8, 8), "image/png"), await upload(alice, b"new", "text/plain")
    assert (await alice.get(f"{OLD}/download/far/m1")).status == 200
    await place.freeze_after(old.partition("/")[2], "m1")
    stranger = AsgiClient(alice.app)
    for target in (f"download/{old}", f"download/{old}/x.png", f"thumbnail/{old}?width=8&height=8", "download/far/m1"):
        assert (await stranger.get(f"{OLD}/{target}")).status == 200, target
        assert (await stranger.get(f"{OLD.replace('v3', 'r0')}/{target}")).status == 200, target
    for target in (f"download/{new}", f"download/{new}/x.png", f"thumbnail/{new}?width=8&height=8", "download/far/m2"):
        answer = await stranger.get(f"{OLD}/{target}")
        assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND"), target
        assert (await stranger.get(f"{NEW}/{target}")).status == 401
    assert (await stranger.get(f"{OLD}/thumbnail/far/m2?width=8&height=8")).status == 404
    assert place.far.asked == ["download m1"]
    assert (await alice.get(f"{OLD}/download/{new}")).body == b"new"
    assert (await alice.get(f"{OLD}/download/far/m2?allow_remote=false")).status == 404
    assert (await alice.get(f"{OLD}/download/far/m2")).status == 200


async def test_a_lost_file_and_a_preview_are_told_as_what_they_are(alice: AsgiClient, place: Place) -> None:
    mxc = await upload(alice, b"own", "text/plain")
    for file in place.on_disk():
        file.unlink()
    for path in (f"download/{mxc}", f"thumbnail/{mxc}?width=96&height=96"):
        assert (await alice.get(f"{NEW}/{path}")).json["errcode"] == "M_NOT_FOUND"
    assert (await alice.get(f"{NEW}/preview_url?url=https://example.org")).json["errcode"] == "M_UNRECOGNIZED"


@pytest.mark.parametrize(
    ("method", "target", "category"),
    [
        ("POST", "/_matrix/media/v1/create", "media"),
        ("PATCH", "/_matrix/media/unstable/edgeserver.uploads/none", "upload_part"),
    ],
)
async def test_who_asks_too_often_is_told_when_to_come_back(place: Place, method: str, target: str, category: str) -> None:
    limiter = RateLimiter(place.clock, rates={category: Rate(0.1, 1), "other": Rate(100, 100)})
    client = AsgiClient(section_application(section.routes(place.media), {"alice": ALICE}, limiter), token="alice")
    first, second = await client.request(method, target), await client.request(method, target)
    assert first.status != 429
    assert (second.status, second.json["errcode"]) == (429, "M_LIMIT_EXCEEDED")
    assert second.headers["retry-after"] == "11"
