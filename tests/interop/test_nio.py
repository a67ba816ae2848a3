"""matrix-nio, a stock client with end-to-end encryption, on one box over HTTP."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.interop.boxes import PASSWORD, local_box, register
from tests.lab.box import Box
from tests.lab.client import NioClient
from tests.lab.rpc import RpcError

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(importlib.util.find_spec("nio") is None, reason="matrix-nio is not installed in this environment"),
]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with local_box(tmp_path_factory.mktemp("box")) as started:
        yield started
        assert started.troubles() == []


@pytest.fixture
def clients(box: Box, tmp_path: Path) -> Iterator[tuple[NioClient, NioClient]]:
    with (
        NioClient(tmp_path, box.url, name="one") as one,
        NioClient(tmp_path, box.url, name="other") as other,
    ):
        yield one, other


async def test_two_people_register_and_talk_in_an_encrypted_room(clients: tuple[NioClient, NioClient], box: Box, tmp_path: Path) -> None:
    alice, bob = clients
    alice_id = (await alice.register("alice", PASSWORD))["user_id"]
    bob_id = (await bob.register("bob", PASSWORD))["user_id"]
    room = await alice.create_room(encrypted=True, room_version="12", name="Hills")
    await alice.invite(room, bob_id)
    await bob.wait_invite(room)
    assert await bob.join(room) == room
    await alice.wait_member(room, bob_id)
    sent = await alice.send(room, "Do you hear me?")
    heard = await bob.wait_message(room, "Do you hear me?")
    assert (heard["event_id"], heard["decrypted"]) == (sent, True)
    await bob.wait_member(room, alice_id)
    await bob.send(room, "Loud and clear")
    assert (await alice.wait_message(room, "Loud and clear"))["decrypted"]

    with NioClient(tmp_path, box.url, name="second") as second:
        device = (await second.login("alice", PASSWORD))["device_id"]
        await _until_read(bob, second, room)
        assert (await second.http("POST", "/_matrix/client/v3/logout", {}))["status"] == 200
        assert (await second.http("GET", "/_matrix/client/v3/account/whoami"))["status"] == 401
    known = (await bob.http("POST", "/_matrix/client/v3/keys/query", {"device_keys": {alice_id: []}}))["json"]["device_keys"][alice_id]
    assert device not in known
    assert len(known) == 1


async def _until_read(sender: NioClient, device: NioClient, room: str) -> None:
    """Says something again and again until a new device can read it: the sender has to hear of it first."""
    for number in range(10):
        await sender.send(room, f"For all your devices {number}")
        with contextlib.suppress(RpcError):
            assert (await device.wait_message(room, f"For all your devices {number}", timeout=1.5))["decrypted"]
            return
    raise AssertionError("the new device reads nothing")


async def test_a_plain_room_with_joins_leaves_kicks_bans_and_history(clients: tuple[NioClient, NioClient], box: Box) -> None:
    host, guest = clients
    register(box, "host")
    register(box, "guest")
    watcher = register(box, "watcher")
    await host.login("host", PASSWORD)
    guest_id = (await guest.login("guest", PASSWORD))["user_id"]
    room = await host.create_room(preset="public_chat", room_alias_name="square")
    path = f"/_matrix/client/v3/rooms/{quote(room)}"
    assert await guest.join("#square:box.test") == room
    await watcher.join(room)
    said = [await guest.send(room, f"line {number}") for number in range(30)]
    assert (await host.wait_event(room, said[-1]))["sender"] == guest_id

    found: list[str] = []
    start = ""
    while True:
        page = (await host.http("GET", f"{path}/messages?dir=b&limit=7{start}"))["json"]
        found += [event["event_id"] for event in page["chunk"]]
        if "end" not in page:
            break
        start = f"&from={page['end']}"
    assert [event_id for event_id in found if event_id in said] == said[::-1]
    assert len(found) == len(set(found))

    assert (await guest.http("PUT", f"{path}/typing/{quote(guest_id)}", {"typing": True, "timeout": 9000}))["status"] == 200
    await watcher.until("typing", lambda: watcher.room(room).typing == [guest_id])
    assert (await guest.http("POST", f"{path}/receipt/m.read/{quote(said[-1])}", {}))["status"] == 200
    await watcher.until("receipt", lambda: watcher.room(room).receipts.get(guest_id) == said[-1])

    await guest.leave(room)
    await guest.join(room)
    await host.wait_member(room, guest_id)
    for verb in ("kick", "ban"):
        assert (await host.http("POST", f"{path}/{verb}", {"user_id": guest_id, "reason": "noise"}))["status"] == 200
        assert guest_id not in (await host.http("GET", f"{path}/joined_members"))["json"]["joined"]
        if verb == "kick":
            await guest.join(room)
    with pytest.raises(RpcError, match="M_FORBIDDEN"):
        await guest.join(room)


async def test_files_are_uploaded_and_downloaded(box: Box) -> None:
    person, other = register(box, "uploader"), register(box, "downloader")
    letter = bytes(range(256)) * 500
    sent = await person.request("POST", "/_matrix/media/v3/upload?filename=letter.bin", letter)
    assert sent.status == 200
    place = sent.json["content_uri"].removeprefix("mxc://")
    found = await other.request("GET", f"/_matrix/client/v1/media/download/{place}")
    assert (found.status, found.body) == (200, letter)
    assert "letter.bin" in found.headers["content-disposition"]
    assert (await other.request("GET", "/_matrix/client/v1/media/download/box.test/nothing")).status == 404


async def test_room_keys_are_backed_up_and_restored(box: Box) -> None:
    person = register(box, "keeper")
    data = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "a", "signatures": {}}}
    version = (await person.ok("POST", "/room_keys/version", data))["version"]
    key = {"first_message_index": 1, "forwarded_count": 0, "is_verified": True, "session_data": {"ciphertext": "x"}}
    put = await person.ok("PUT", f"/room_keys/keys?version={version}", {"rooms": {"!a:box.test": {"sessions": {"s": key}}}})
    assert put["count"] == 1
    assert (await person.ok("GET", f"/room_keys/keys?version={version}"))["rooms"]["!a:box.test"]["sessions"]["s"] == key
    assert (await person.ok("GET", "/room_keys/version"))["count"] == 1
    await person.ok("DELETE", f"/room_keys/version/{version}")
    assert (await person.request("GET", "/_matrix/client/v3/room_keys/version")).status == 404
