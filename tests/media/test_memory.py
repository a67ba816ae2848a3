"""Large files go through the box in small pieces, in and out."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from edgeserver.api.client import media as section
from edgeserver.media.limits import Limits
from edgeserver.media.resumable import Begun
from edgeserver.media.uploading import Upload
from tests.asgi import section_application
from tests.media.places import ALICE, open_place

SIZE = 40_000_000
BOUND = 2_000_000


async def much() -> AsyncIterator[bytes]:
    for _ in range(SIZE // 40_000):
        yield bytes(40_000)


async def drain(app: object, target: str) -> int:
    """Downloads and throws away; returns how many bytes came."""
    came = 0

    async def receive() -> dict[str, object]:
        await trio.sleep_forever()
        return {}

    async def send(message: dict[str, object]) -> None:
        nonlocal came
        body = message.get("body", b"")
        assert isinstance(body, bytes)
        came += len(body)

    headers = [(b"host", b"test"), (b"authorization", b"Bearer alice")]
    scope = {"type": "http", "method": "GET", "path": target, "raw_path": target.encode(), "query_string": b"", "headers": headers}
    await app(scope, receive, send)  # type: ignore[operator]
    return came


@pytest.mark.alone
async def test_a_large_file_never_lies_in_memory(tmp_path: Path) -> None:
    async with open_place(tmp_path, Limits()) as place:
        app = section_application(section.routes(place.media), {"alice": ALICE})
        tracemalloc.start()
        try:
            uri = await place.media.upload(ALICE, Upload(much(), "video/mp4"))
            begun = await place.media.resumable.begin(ALICE, Begun("video/mp4"))
            await place.media.resumable.append(ALICE, begun.upload_id, 0, much(), complete=True)
            came = await drain(app, "/_matrix/client/v1/media/download/" + uri.removeprefix("mxc://"))
            assert tracemalloc.get_traced_memory()[1] < BOUND
        finally:
            tracemalloc.stop()
        assert came == SIZE
        assert len(place.on_disk()) == 1
