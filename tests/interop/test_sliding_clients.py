"""Sliding sync as clients speak it: matrix-js-sdk's own SlidingSync with its Rust cryptography. (matrix-nio has none.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.boxes import PASSWORD, local_box, register
from tests.lab import jssdk
from tests.lab.jssdk import JsClient

V3 = "/_matrix/client/v3"
_ABSENT = jssdk.unavailable()

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(_ABSENT is not None, reason=_ABSENT or ""),
]


async def test_js_sdk_lives_on_sliding_sync_alone(tmp_path: Path) -> None:
    """Rooms with their names, an invite, encrypted messages in both directions, unread counts, a list that grows, a room that is opened."""
    with local_box(tmp_path / "box") as box:
        register(box, "erin")
        frank = register(box, "frank")
        old = [await frank.create_room("12", name=f"Old room {number}") for number in range(22)]
        with JsClient(tmp_path, box.url, name="erin") as erin, JsClient(tmp_path, box.url, name="frank") as phone:
            me = await erin.login("erin", PASSWORD)
            him = await phone.login_sliding("frank", PASSWORD)
            await phone.do("wait_named", room_id=old[-1], name="Old room 21", within=30)
            assert await phone.do("list_count") == 22
            await phone.do("list_range", last=99)
            await phone.do("wait_named", room_id=old[0], name="Old room 0", within=30)
            room = await erin.create_room(encrypted=True, name="Harbour", invite=[him["user_id"]])
            await phone.wait_invite(room)
            await phone.join(room)
            await erin.wait_member(room, him["user_id"])
            await phone.wait_member(room, me["user_id"])
            await _talk(erin, phone, room)
            await _unread_encrypted(erin, phone, room)
            plain = await erin.create_room(name="Jetty", invite=[him["user_id"]])
            await phone.wait_invite(plain)
            await phone.join(plain)
            await _unread(erin, phone, plain)
        assert box.troubles() == []


async def _talk(erin: JsClient, phone: JsClient, room: str) -> None:
    asked = await erin.send(room, "Where is the spare key?")
    read = await phone.wait_event(room, asked)
    assert (read["content"]["body"], read["decrypted"]) == ("Where is the spare key?", True)
    told = await phone.send(room, "Under the third stone")
    read = await erin.wait_event(room, told)
    assert (read["content"]["body"], read["decrypted"]) == ("Under the third stone", True)
    await phone.wait_event(room, told)


async def _unread_encrypted(erin: JsClient, phone: JsClient, room: str) -> None:
    """The server's counts alone are looked at while something is unread: for encrypted rooms this client counts twice. Its SlidingSyncSdk
    takes over `notification_count`, and then each event counts once more when it is decrypted; of classic sync the SDK takes no count of
    an encrypted room but 0.
    """
    before = await _counted(phone, room)
    last = [await erin.send(room, text) for text in ("Found it", "Thank you")][-1]
    await phone.wait_event(room, last)
    assert await _counted(phone, room) == before + 2
    await phone.do("read", room_id=room, event_id=last)
    await phone.do("wait_unread", room_id=room, total=0, highlight=0, within=30)
    assert await _counted(phone, room) == 0


async def _counted(phone: JsClient, room: str) -> int:
    """What the server counts as unread in a room."""
    answer = await phone.do("http", method="GET", path=f"{V3}/sync", body=None)
    return int(answer["json"]["rooms"]["join"][room]["unread_notifications"]["notification_count"])


async def _unread(erin: JsClient, phone: JsClient, room: str) -> None:
    first = await erin.send(room, "One")
    second = await erin.send(room, "Two")
    await phone.wait_event(room, second)
    await phone.do("wait_unread", room_id=room, total=2, highlight=0, within=30)
    await phone.do("open_room", room_id=room)
    await phone.do("read", room_id=room, event_id=second)
    await phone.do("wait_unread", room_id=room, total=0, highlight=0, within=30)
    ids = [event["event_id"] for event in await phone.events(room)]
    assert len(ids) == len(set(ids))
    assert ids.index(first) < ids.index(second)
