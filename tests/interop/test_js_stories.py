"""What people do with Element, done with its library: matrix-js-sdk and its Rust cryptography on Node, against a box as a process."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from PIL import Image

from tests.interop.boxes import PASSWORD, local_box, register
from tests.lab import jssdk
from tests.lab.box import Box
from tests.lab.jssdk import JsClient

V3 = "/_matrix/client/v3"
_ABSENT = jssdk.unavailable()

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(_ABSENT is not None, reason=_ABSENT or ""),
]


@asynccontextmanager
async def harbour(folder: Path) -> AsyncIterator[tuple[Box, JsClient, JsClient, str]]:
    """A box, Erin and Frank, and a room that they are in; the box has nothing to complain about in the end."""
    with local_box(folder / "box") as box:
        register(box, "erin")
        register(box, "frank")
        with JsClient(folder, box.url, name="erin") as erin, JsClient(folder, box.url, name="frank") as frank:
            await erin.login("erin", PASSWORD)
            other = await frank.login("frank", PASSWORD)
            room = await erin.create_room(name="Harbour", invite=[other["user_id"]])
            await frank.wait_invite(room)
            await frank.join(room)
            yield box, erin, frank, room
        assert box.troubles() == []


async def test_a_lost_phone_is_replaced_by_the_recovery_key_and_another_verified_by_emoji(tmp_path: Path) -> None:
    """Secret storage, cross-signing and key backup; history decrypted on a device that never saw it; SAS between two devices."""
    with local_box(tmp_path / "box") as box:
        register(box, "erin")
        register(box, "frank")
        with JsClient(tmp_path, box.url, name="phone") as phone, JsClient(tmp_path, box.url, name="frank") as frank:
            me = await phone.login("erin", PASSWORD)
            other = await frank.login("frank", PASSWORD)
            made = await phone.do("secure", password=PASSWORD)
            assert made["asked"] is False  # the first upload of cross-signing keys needs no password
            room = await phone.create_room(encrypted=True, invite=[other["user_id"]])
            await frank.wait_invite(room)
            await frank.join(room)
            await phone.wait_member(room, other["user_id"])
            asked = await phone.send(room, "Where is the spare key?")
            await frank.wait_message(room, "Where is the spare key?")
            await frank.wait_member(room, me["user_id"])
            told = await frank.send(room, "Under the third stone")
            await phone.wait_message(room, "Under the third stone")
            with trio.fail_after(60):
                while (await phone.http("GET", f"{V3}/room_keys/version"))["json"]["count"] < 2:  # one session of each of the two
                    await trio.sleep(0.1)
        with JsClient(tmp_path, box.url, name="new phone") as new, JsClient(tmp_path, box.url, name="laptop") as laptop:
            replaced = await new.login("erin", PASSWORD)
            restored = await new.do("recover", recovery_key=made["recovery_key"])
            assert restored["total"] == restored["imported"] >= 2
            for event_id, text in ((asked, "Where is the spare key?"), (told, "Under the third stone")):
                read = await new.wait_event(room, event_id)
                assert (read["content"]["body"], read["decrypted"]) == (text, True)
            assert await new.do("backup_is_trusted")
            assert await new.do("is_verified", user_id=me["user_id"], device_id=replaced["device_id"])
            third = await laptop.login("erin", PASSWORD)
            assert not await new.do("is_verified", user_id=me["user_id"], device_id=third["device_id"])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: new.do("answer_verification"))
                await laptop.do("verify_own")
            with trio.fail_after(60):
                while not await new.do("is_verified", user_id=me["user_id"], device_id=third["device_id"]):
                    await trio.sleep(0.1)
        assert box.troubles() == []


async def test_what_was_sent_while_nobody_was_logged_in_is_read_by_way_of_a_dehydrated_device(tmp_path: Path) -> None:
    with local_box(tmp_path / "box") as box:
        register(box, "erin")
        register(box, "frank")
        with JsClient(tmp_path, box.url, name="frank") as frank:
            other = await frank.login("frank", PASSWORD)
            with JsClient(tmp_path, box.url, name="phone") as phone:
                me = await phone.login("erin", PASSWORD)
                made = await phone.do("secure", password=PASSWORD)
                assert await phone.do("dehydrate")
                room = await phone.create_room(encrypted=True, invite=[other["user_id"]])
                await frank.wait_invite(room)
                await frank.join(room)
                await phone.http("POST", f"{V3}/logout")
            await frank.wait_member(room, me["user_id"])
            sent = await frank.send(room, "The boat is at the second pier")
            with JsClient(tmp_path, box.url, name="new phone") as new:
                await new.login("erin", PASSWORD)
                await new.do("recover", recovery_key=made["recovery_key"])
                assert await new.do("dehydrate")
                read = await new.wait_event(room, sent)
                assert (read["content"]["body"], read["decrypted"]) == ("The boat is at the second pier", True)
        assert box.troubles() == []


async def test_threads_edits_reactions_spaces_search_and_media_are_as_element_shows_them(tmp_path: Path) -> None:
    async with harbour(tmp_path) as (_, erin, frank, room):
        await _threads(erin, frank, room)
        await _edits(erin, frank, room)
        await _spaces(erin, frank, room)
        await _media(erin, frank)


async def _threads(erin: JsClient, frank: JsClient, room: str) -> None:
    root = await erin.send(room, "Who repairs the mast?")
    await frank.wait_event(room, root)
    for text in ("I can on Tuesday", "and I have the ladder"):
        relation = {"rel_type": "m.thread", "event_id": root, "is_falling_back": True, "m.in_reply_to": {"event_id": root}}
        await frank.send_event(room, "m.room.message", {"msgtype": "m.text", "body": text, "m.relates_to": relation})
    assert await erin.do("thread", room_id=room, root=root, length=2) == ["I can on Tuesday", "and I have the ladder"]
    assert await frank.do("threads", room_id=room) == [root]
    assert len(await erin.do("relations", room_id=room, event_id=root, rel_type="m.thread")) == 2


async def _edits(erin: JsClient, frank: JsClient, room: str) -> None:
    sent = await erin.send(room, "We sail at six")
    await frank.wait_event(room, sent)
    content = {"msgtype": "m.text", "body": "* We sail at seven", "m.new_content": {"msgtype": "m.text", "body": "We sail at seven"}}
    relation = {"rel_type": "m.replace", "event_id": sent}
    await erin.send_event(room, "m.room.message", {**content, "m.relates_to": relation})
    await frank.do("wait_edited", room_id=room, event_id=sent, body="We sail at seven", within=30)
    key = {"rel_type": "m.annotation", "event_id": sent, "key": "⛵"}
    reaction = await frank.send_event(room, "m.reaction", {"m.relates_to": key})
    assert await erin.do("relations", room_id=room, event_id=sent, rel_type="m.annotation") == [reaction]
    await frank.do("redact", room_id=room, event_id=reaction)
    assert await erin.do("relations", room_id=room, event_id=sent, rel_type="m.annotation") == []
    found = await frank.do("search", term="mast")
    assert found["count"] == 1
    assert (await frank.do("search", term="seven"))["ids"] != []


async def _spaces(erin: JsClient, frank: JsClient, room: str) -> None:
    space = await erin.create_room(name="Port", creation_content={"type": "m.space"}, preset="public_chat")
    path = f"{V3}/rooms/{space}/state/m.space.child/{room}"
    assert (await erin.http("PUT", path, {"via": ["box.test"]}))["status"] == 200
    assert await erin.do("hierarchy", room_id=space) == [space, room]
    assert await frank.do("hierarchy", room_id=space) == [space, room]


async def _media(erin: JsClient, frank: JsClient) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (1200, 900), "navy").save(picture, "PNG")
    data = base64.b64encode(picture.getvalue()).decode()
    uri = await erin.do("upload", name="harbour.png", type="image/png", data=data)
    assert await frank.do("download", uri=uri) == {"status": 200, "type": "image/png", "data": data}
    small = await frank.do("download", uri=uri, width=320, height=240)
    assert Image.open(io.BytesIO(base64.b64decode(small["data"]))).size == (320, 240)


async def test_a_phone_on_the_network_is_notified_through_the_box_itself(tmp_path: Path) -> None:
    """The box is push server and push gateway; the pusher is set as Element sets it for a UnifiedPush endpoint."""
    async with harbour(tmp_path) as (box, erin, frank, room):
        names = {"app_id": "app", "app_display_name": "App", "device_display_name": "Phone", "lang": "en"}
        place = {"pushkey": f"{box.url}/upSomethingNobodyGuesses?up=1", "data": {"url": f"{box.url}/_matrix/push/v1/notify"}}
        await erin.do("set_pusher", pusher={"kind": "http", **names, **place})
        sent = await frank.send(room, "The boat is back")
        told: list[str] = []
        with trio.fail_after(30):
            while not any(sent in line for line in told):
                kept = await trio.to_thread.run_sync(box.request, "GET", "/upSomethingNobodyGuesses/json?poll=1")
                told = kept.body.decode().splitlines()
                await trio.sleep(0.1)
        await erin.do("wait_unread", room_id=room, total=1, highlight=0, within=30)
        await erin.do("read", room_id=room, event_id=sent)
        await erin.do("wait_unread", room_id=room, total=0, highlight=0, within=30)
