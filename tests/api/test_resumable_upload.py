"""Uploads in parts as HTTP clients speak of them (draft-ietf-httpbis-resumable-upload)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from edgeserver.api.client import media as section
from edgeserver.store import partial_uploads
from tests.asgi import Answer, AsgiClient, section_application
from tests.media.places import ALICE, BOB, Place, open_place
from transports.exchange import LinkProfile

UPLOAD = "/_matrix/media/v3/upload"
DATA = b"0123456789" * 100


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_place(tmp_path) as opened:
        yield opened


@pytest.fixture
def alice(place: Place) -> AsgiClient:
    return AsgiClient(section_application(section.routes(place.media), {"alice": ALICE, "bob": BOB}), token="alice")


async def begin(client: AsgiClient, body: bytes = b"", *, target: str = UPLOAD, method: str = "POST", **headers: str) -> Answer:
    sent = {"Upload-Complete": "?0", "Content-Type": "text/plain", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await client.request(method, target, body=body, headers=sent)


async def append(client: AsgiClient, location: str, offset: object, body: bytes, complete: str = "?0", **options: Any) -> Answer:
    headers = {"Upload-Offset": str(offset), "Upload-Complete": complete, "Content-Type": "application/partial-upload"}
    return await client.request("PATCH", location, body=body, headers={**headers, **options})


async def test_an_upload_in_parts_is_answered_as_the_upload_that_it_is(alice: AsgiClient) -> None:
    begun = await begin(alice, DATA[:300], target=f"{UPLOAD}?filename=a.txt", Upload_Length="1000")
    assert begun.status == 201
    assert (begun.headers["upload-complete"], begun.headers["upload-offset"], begun.headers["upload-length"]) == ("?0", "300", "1000")
    assert begun.headers["upload-limit"] == "max-size=100000, max-age=259200"
    location = begun.headers["location"]
    part = await append(alice, location, 300, DATA[300:600])
    assert (part.status, part.headers["upload-offset"], part.headers["upload-complete"]) == (204, "600", "?0")
    head = await alice.request("HEAD", location)
    assert (head.headers["upload-offset"], head.headers["upload-complete"], head.headers["cache-control"]) == ("600", "?0", "no-store")
    done = await append(alice, location, 600, DATA[600:], "?1")
    assert (done.status, done.headers["upload-complete"]) == (200, "?1")
    found = await alice.get(f"/_matrix/client/v1/media/download/{done.json['content_uri'].removeprefix('mxc://')}")
    assert (found.body, found.headers["content-disposition"]) == (DATA, 'inline; filename="a.txt"')


async def test_who_missed_the_last_answer_can_still_learn_it(alice: AsgiClient) -> None:
    location = (await begin(alice)).headers["location"]
    done = await append(alice, location, 0, DATA, "?1")
    told = await alice.get(location)
    assert told.json == {"received": 1000, "complete": True, "content_uri": done.json["content_uri"]}
    again = await append(alice, location, 1000, b"", "?1")
    assert (again.status, again.json["errcode"]) == (409, "M_CANNOT_OVERWRITE_MEDIA")


async def test_an_id_that_was_created_is_filled_in_parts(alice: AsgiClient) -> None:
    mxc = (await alice.post("/_matrix/media/v1/create")).json["content_uri"].removeprefix("mxc://")
    begun = await begin(alice, target=f"{UPLOAD}/{mxc}", method="PUT")
    done = await append(alice, begun.headers["location"], 0, DATA, "?1")
    assert (done.status, done.json) == (200, {})
    assert (await alice.get(f"/_matrix/client/v1/media/download/{mxc}")).body == DATA
    assert (await begin(alice, target=f"{UPLOAD}/far/{mxc[5:]}", method="PUT")).json["errcode"] == "M_NOT_FOUND"


async def test_a_part_at_the_wrong_place_is_told_the_right_one(alice: AsgiClient) -> None:
    location = (await begin(alice, DATA[:300])).headers["location"]
    answer = await append(alice, location, 200, DATA[200:])
    assert (answer.status, answer.headers["upload-offset"], answer.json["errcode"]) == (409, "300", "M_UNKNOWN")
    assert (answer.json["expected-offset"], answer.json["provided-offset"]) == (300, 200)


async def test_a_part_that_says_too_little_is_refused(alice: AsgiClient) -> None:
    location = (await begin(alice)).headers["location"]
    for offset, complete in (("", "?0"), ("-1", "?0"), ("x", "?0"), ("0", "true"), ("0", "")):
        answer = await append(alice, location, offset, b"x", complete)
        assert (answer.status, answer.json["errcode"]) == (400, "M_MISSING_PARAM"), (offset, complete)
    answer = await append(alice, location, 0, b"x", **{"Content-Type": "text/plain"})
    assert answer.status == 415


async def test_an_upload_is_its_users_and_can_be_given_up(alice: AsgiClient, place: Place) -> None:
    location = (await begin(alice, DATA)).headers["location"]
    for method in ("GET", "DELETE"):
        assert (await alice.request(method, location, token="bob")).status == 404
        assert (await AsgiClient(alice.app).request(method, location)).status == 401
    assert (await alice.delete(location)).status == 204
    assert (await alice.get(location)).json["errcode"] == "M_NOT_FOUND"
    assert place.on_disk() == []


async def test_an_upload_beyond_the_bounds_is_refused_at_its_beginning(alice: AsgiClient, place: Place) -> None:
    answer = await begin(alice, Upload_Length="100001")
    assert (answer.status, answer.json["errcode"]) == (413, "M_TOO_LARGE")
    answer = await begin(alice, DATA, Upload_Length="999")
    assert (answer.status, answer.json["errcode"]) == (413, "M_TOO_LARGE")
    assert place.on_disk() == []
    for _ in range(10):
        await begin(alice)
    answer = await begin(alice)
    assert (answer.status, answer.json["errcode"]) == (429, "M_LIMIT_EXCEEDED")


async def test_an_upload_in_one_go_may_say_so(alice: AsgiClient) -> None:
    answer = await begin(alice, DATA, Upload_Complete="?1")
    assert answer.json["content_uri"].startswith("mxc://test/")


async def test_a_browser_may_send_parts_and_see_how_far_they_are(alice: AsgiClient) -> None:
    asked = await alice.request("OPTIONS", UPLOAD)
    assert "PATCH" in asked.headers["access-control-allow-methods"].split(", ")
    assert {"Upload-Complete", "Upload-Length", "Upload-Offset"} <= set(asked.headers["access-control-allow-headers"].split(", "))
    begun = await begin(alice)
    told = {"location", *(name for name in begun.headers if name.startswith("upload-"))}
    assert told <= set(begun.headers["access-control-expose-headers"].lower().split(", "))


async def test_on_a_thin_line_an_upload_has_no_headers_for_browsers(alice: AsgiClient) -> None:
    thin = AsgiClient(alice.app, token="alice", link=LinkProfile("radio", bit_rate=1200, peer="box.test"))
    assert not [name for name in (await begin(thin)).headers if name.startswith("access-control-")]


async def test_an_upload_whose_first_request_breaks_off_leaves_nothing(alice: AsgiClient, place: Place) -> None:
    reading = trio.Event()

    async def receive() -> dict[str, Any]:
        reading.set()
        await trio.sleep_forever()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        raise AssertionError(message)

    headers = [(b"authorization", b"Bearer alice"), (b"upload-complete", b"?0")]
    scope = {
        "type": "http", "method": "POST", "path": UPLOAD, "raw_path": UPLOAD.encode(), "query_string": b"", "headers": headers,
        "client": ("192.0.2.1", 1),
    }  # fmt: skip
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alice.app, scope, receive, send)
        await reading.wait()
        nursery.cancel_scope.cancel()
    assert await place.db.read(lambda tx: partial_uploads.under_way(tx, ALICE)) == []
    assert place.on_disk() == []
