"""MSC3079 spoken by CoAP clients that others have written: aiocoap over UDP and DTLS, and libcoap's command line over DTLS.

Sets of blocks (RFC 9177) are told between our own ends (`tests.transports`): the libcoap of Debian is built without them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import socket
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiocoap
import cbor2
import pytest
import trio

from edgeserver.app.low_bandwidth import PROFILE, serve_low_bandwidth
from edgeserver.config import parse
from tests.flows.world import World
from tests.interop.boxes import local_box, register
from tests.lab.box import Box
from tests.transports.coap_client import CoapClient
from tests.transports.dtls_client import dtls_client
from transports.coap.blockwise import Allowance
from transports.msc3079 import session
from transports.server import AsgiHandler

pytestmark = pytest.mark.interop

LOGIN = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "correct horse battery"}
KEYS = {"access_token": 73, "next_batch": 19, "event_id": 1}
TOKEN, VERSION = 256, 257
DTLS = '[low_bandwidth]\nlisten = ["127.0.0.1:0"]\ncertificate = false\npre_shared_keys = ["rover:000102030405060708090a0b0c0d0e0f"]\n'
LIBCOAP = next(filter(None, map(shutil.which, ("coap-client", "coap-client-openssl", "coap-client-gnutls"))), None)


@asynccontextmanager
async def plain_udp(app: Any):
    """The box's end of MSC3079 on a UDP socket, without DTLS: one session for each address."""
    udp = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
    await udp.bind(("127.0.0.1", 0))
    peers: dict[Any, trio.MemorySendChannel[bytes]] = {}

    class Peer:
        def __init__(self, address: Any, incoming: trio.MemoryReceiveChannel[bytes]) -> None:
            self.address = address
            self.incoming = incoming

        async def send(self, data: bytes) -> None:
            await udp.sendto(data, self.address)

        async def receive(self) -> bytes:
            return await self.incoming.receive()

    async def listen(nursery: trio.Nursery) -> None:
        while True:
            data, address = await udp.recvfrom(2048)
            if address not in peers:
                peers[address], get = trio.open_memory_channel[bytes](100)
                handler = AsgiHandler(app, PROFILE, client=address)
                nursery.start_soon(session.serve, Peer(address, get), handler, Allowance(1 << 24))
            peers[address].send_nowait(data)

    with udp:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, nursery)
            yield udp.getsockname()[1]
            nursery.cancel_scope.cancel()


def asked(code: aiocoap.Code, uri: str, body: Any = None, token: str | None = None, **more: Any) -> aiocoap.Message:
    message = aiocoap.Message(code=code, uri=uri, **more)
    if body is not None:
        message.payload = cbor2.dumps(body)
        message.opt.content_format = 60
    if token is not None:
        message.opt.add_option(aiocoap.optiontypes.OpaqueOption(TOKEN, token.encode()))
    message.opt.add_option(aiocoap.optiontypes.UintOption(VERSION, 1))
    return message


def texts(answer: aiocoap.Message) -> list[str]:
    """The messages in an answer to a sync whose keys are integers (rooms 23, join 24, timeline 12, events 13, content 3, body 27)."""
    rooms = cbor2.loads(answer.payload).get(23, {}).get(24, {})
    return [event[3][27] for room in rooms.values() for event in room[12][13] if 27 in event[3]]


async def _talk(base: str, room_id: str, said: list[Any], credentials: Any = None) -> None:
    """In aiocoap: log in, send, sync by OBSERVE, and a large answer. `said` gets what was heard; the test answers meanwhile."""
    context = await aiocoap.Context.create_client_context()
    if credentials is not None:
        context.client_credentials.load_from_dict({f"{base}/*": {"dtls": credentials}})
    try:
        answer = await context.request(asked(aiocoap.POST, f"{base}/1", LOGIN)).response
        assert answer.code == aiocoap.CONTENT, answer
        token = cbor2.loads(answer.payload)[KEYS["access_token"]]
        event = {28: "m.text", 27: "Hello World"}
        answer = await context.request(asked(aiocoap.PUT, f"{base}/9/{room_id}/m.room.message/1", event, token)).response
        assert set(cbor2.loads(answer.payload)) == {KEYS["event_id"]}
        letter = {28: "m.text", 27: "a long letter " * 500}
        answer = await context.request(asked(aiocoap.PUT, f"{base}/9/{room_id}/m.room.message/2", letter)).response
        assert answer.code == aiocoap.CONTENT, answer
        answer = await context.request(asked(aiocoap.GET, f"{base}/E/{room_id}?dir=b&limit=5")).response
        assert len(answer.payload) > 6000
        sync = context.request(asked(aiocoap.GET, f"{base}/7", observe=0))
        first = await sync.response
        assert first.opt.observe is not None
        said.append(texts(first))
        async for notification in sync.observation:
            heard = texts(notification)
            if heard:
                said.append(heard)
            if heard == ["over"]:
                break
    finally:
        await context.shutdown()


async def conversation(tmp_path: Any, text: str, connect: Any) -> None:
    """`connect(box)` opens the way in and gives the base URI and credentials of aiocoap."""
    async with World(tmp_path) as world:
        box = await world.box("a", text)
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await bob.create_room(preset="public_chat")
        await alice.join(room_id)
        said: list[Any] = []
        lines = ["news", "more news " * 300, "over"]
        async with connect(box) as (base, credentials), trio.open_nursery() as nursery:
            talk = trio.to_thread.run_sync
            nursery.start_soon(talk, lambda: asyncio.run(_talk(base, room_id, said, credentials)))
            with trio.fail_after(60):
                for number, line in enumerate(lines):
                    while len(said) <= number:
                        await trio.sleep(0.02)
                    await bob.say(room_id, line)
        assert said == [["Hello World", "a long letter " * 500], *[[line] for line in lines]]
        assert await bob.texts(room_id) == ["Hello World", "a long letter " * 500, *lines]


async def test_aiocoap_talks_and_observes_over_plain_udp(tmp_path):
    @asynccontextmanager
    async def connect(box: Any):
        async with plain_udp(box.box.app) as port:
            yield f"coap://127.0.0.1:{port}", None

    await conversation(tmp_path, "", connect)


@asynccontextmanager
async def listener(box: Any, text: str = DTLS):
    async with trio.open_nursery() as nursery:
        listening = await nursery.start(serve_low_bandwidth, box.box.app, parse(text).low_bandwidth, None)
        yield listening.ports[0]
        nursery.cancel_scope.cancel()


@pytest.mark.skipif(importlib.util.find_spec("DTLSSocket") is None, reason="aiocoap's DTLS (DTLSSocket, the extra dtls) is not installed")
async def test_aiocoap_talks_and_observes_over_dtls_with_a_pre_shared_key(tmp_path):
    @asynccontextmanager
    async def connect(box: Any):
        async with listener(box) as port:
            yield f"coaps://127.0.0.1:{port}", {"psk": {"hex": bytes(range(16)).hex()}, "client-identity": b"rover"}

    await conversation(tmp_path, DTLS, connect)


async def libcoap(*arguments: str) -> str:
    """What libcoap's client prints. The key is one of printable bytes, for it goes through the command line."""
    assert LIBCOAP is not None
    argv = [LIBCOAP, "-v", "3", "-B", "10", "-u", "rover", "-k", "0123456789abcdef", *arguments]
    done = await trio.run_process(argv, capture_stdout=True, stderr=subprocess.STDOUT)
    return done.stdout.decode()


PRINTABLE = DTLS.replace(bytes(range(16)).hex(), b"0123456789abcdef".hex())


@pytest.mark.skipif(LIBCOAP is None, reason="libcoap's client is not installed (Debian: libcoap3-bin)")
async def test_libcoap_reads_a_small_and_a_large_answer_over_dtls(tmp_path):
    async with World(tmp_path) as world:
        box = await world.box("a", PRINTABLE)
        bob = await box.person("bob")
        room_id = await bob.create_room(preset="public_chat")
        await bob.say(room_id, "a long letter " * 500)
        async with listener(box, PRINTABLE) as port:
            base = f"coaps://127.0.0.1:{port}"
            assert "versions" in json.loads(await libcoap("-A", "50", f"{base}/0"))
            found = await libcoap("-A", "50", "-O", f"{TOKEN},{bob.token}", f"{base}/E/{room_id}?dir=b&limit=1")
            assert json.loads(found)["chunk"][0]["content"]["body"] == "a long letter " * 500


# A box as a process


def box_with_listener(directory: Path, port: int) -> Box:
    box = local_box(directory)
    box.configure(box.config_file.read_text() + f'\n[low_bandwidth]\nlisten = ["127.0.0.1:{port}"]\n')
    return box


async def test_a_box_makes_itself_a_certificate_and_serves_who_trusts_it(tmp_path):
    port = free_udp_port()
    with box_with_listener(tmp_path, port) as box:
        person = register(box, "alice")
        told = (await box.arequest("GET", "/_matrix/client/versions")).json["m.low_bandwidth"]
        cipher = "ECDHE-ECDSA-AES128-GCM-SHA256"
        async with dtls_client(("127.0.0.1", told["dtls"]), trusted=tmp_path / "data" / "dtls.pem", cipher=cipher) as channel:
            with trio.fail_after(30):
                await channel.channel.do_handshake()
                client = CoapClient(channel)
                async with trio.open_nursery() as nursery:
                    await nursery.start(client.run)
                    answer = await client.request("GET", "/_matrix/client/v3/account/whoami", token=person.token)
                    nursery.cancel_scope.cancel()
        assert json.loads(answer.body)["user_id"] == person.user_id
        assert box.troubles() == []


def free_udp_port() -> int:
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
