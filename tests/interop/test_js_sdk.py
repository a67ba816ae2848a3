"""matrix-js-sdk with its Rust cryptography, as Element Web has it, talks with matrix-nio on a box."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.interop.boxes import PASSWORD, local_box, register
from tests.lab import jssdk
from tests.lab.client import NioClient
from tests.lab.jssdk import JsClient

_ABSENT = jssdk.unavailable() or (None if importlib.util.find_spec("nio") else "matrix-nio is not installed in this environment")

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(_ABSENT is not None, reason=_ABSENT or ""),
]


@pytest.mark.parametrize("version", ["12", "11"])
async def test_matrix_js_sdk_and_nio_read_each_other_on_a_box(tmp_path: Path, version: str) -> None:
    with local_box(tmp_path / "box") as box:
        register(box, "erin")
        register(box, "frank")
        with (
            JsClient(tmp_path, box.url, name="erin") as erin,
            NioClient(tmp_path, box.url, name="frank") as frank,
        ):
            erin_id = (await erin.login("erin", PASSWORD))["user_id"]
            frank_id = (await frank.login("frank", PASSWORD))["user_id"]
            room = await erin.create_room(encrypted=True, room_version=version, invite=[frank_id])
            await frank.wait_invite(room)
            await frank.join(room)
            await erin.wait_member(room, frank_id)
            sent = await erin.send(room, "From a browser's heart")
            heard = await frank.wait_message(room, "From a browser's heart")
            assert (heard["event_id"], heard["decrypted"]) == (sent, True)
            await frank.wait_member(room, erin_id)
            replied = await frank.send(room, "From Python's")
            assert (await erin.wait_event(room, replied))["content"]["body"] == "From Python's"
            assert (await erin.wait_message(room, "From Python's"))["decrypted"]
            assert await erin.members(room) == await frank.members(room) == sorted([erin_id, frank_id])
        assert box.troubles() == []
