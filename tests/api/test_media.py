"""The media endpoints: headers, ranges, names, and who may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeserver.api.client import media as section
from tests.asgi import Answer, AsgiClient, section_application
from tests.media.places import ALICE, File, Place, image, open_place

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


async def test_parts_of_a_file_can_be_asked_for(alice: AsgiClient) -> None:
    mxc = await upload(alice, b"0123456789", "audio/ogg")
    answer = await alice.get(f"{NEW}/download/{mxc}", headers={"Range": "bytes=2-4"})
    assert (answer.status, answer.body) == (206, b"234")
    assert answer.headers["content-range"] == "bytes 2-4/10"
    assert (await alice.get(f"{NEW}/download/{mxc}", headers={"Range": "bytes=20-"})).status == 416


async def test_what_a_client_has_is_not_sent_again(alice: AsgiClient) -> None:
    mxc = await upload(alice, b"0123456789", "audio/ogg")
    etag = (await alice.get(f"{NEW}/download/{mxc}")).headers["etag"]
    answer = await alice.get(f"{NEW}/download/{mxc}", headers={"If-None-Match": etag})
    assert (answer.status, answer.body) == (304, b"")


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
    assert (await alice.get(f"{NEW}/thumbnail/{mxc}?width=30&height=30")).status == 200
    for query in ("width=30", "width=30&height=x", "width=30&height=-1", "width=0&height=3", "width=3&height=3&method=x"):
        assert (await alice.get(f"{NEW}/thumbnail/{mxc}?{query}")).status == 400


async def test_an_upload_beyond_the_limit_is_refused_and_the_limit_is_told(alice: AsgiClient) -> None:
    limit = (await alice.get(f"{NEW}/config")).json["m.upload.size"]
    assert (await alice.get(f"{OLD}/config")).json == {"m.upload.size": limit}
    for sent in ({}, {"Content-Length": str(limit + 1)}):
        answer = await alice.request("POST", f"{OLD}/upload", body=b"x" * (limit + 1), headers=sent)
        assert (answer.status, answer.json["errcode"]) == (413, "M_TOO_LARGE")


async def test_the_old_endpoints_need_no_token_but_do_not_fetch_for_strangers(alice: AsgiClient, place: Place) -> None:
    place.far.files["m1"] = File(b"far")
    mxc = await upload(alice, b"own", "text/plain")
    stranger = AsgiClient(alice.app)
    assert (await stranger.get(f"{NEW}/download/{mxc}")).status == 401
    assert (await stranger.get(f"{OLD}/download/{mxc}")).body == b"own"
    assert (await stranger.get(f"/_matrix/media/r0/download/{mxc}/x.txt")).body == b"own"
    assert (await stranger.get(f"{OLD}/download/far/m1")).status == 404
    assert (await alice.get(f"{OLD}/download/far/m1?allow_remote=false")).status == 404
    assert place.far.asked == []
    assert (await alice.get(f"{OLD}/download/far/m1")).body == b"far"


async def test_the_old_endpoints_can_be_closed(place: Place) -> None:
    app = section_application(section.routes(place.media, open_to_all=False), {"alice": ALICE})
    mxc = await upload(AsgiClient(app, token="alice"), b"own", "text/plain")
    assert (await AsgiClient(app).get(f"{OLD}/download/{mxc}")).json["errcode"] == "M_NOT_FOUND"
    assert (await AsgiClient(app, token="alice").get(f"{OLD}/download/{mxc}")).status == 200


async def test_a_lost_file_and_a_preview_are_told_as_what_they_are(alice: AsgiClient, place: Place) -> None:
    mxc = await upload(alice, b"own", "text/plain")
    for path in place.on_disk():
        path.unlink()
    assert (await alice.get(f"{NEW}/download/{mxc}")).json["errcode"] == "M_NOT_FOUND"
    assert (await alice.get(f"{NEW}/preview_url?url=https://example.org")).json["errcode"] == "M_UNRECOGNIZED"
