"""The low-bandwidth API on a serial line: an app with nothing but DTLS records as frames, a whole box, and a wire that takes its time."""

from __future__ import annotations

import json
import random
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest
import trio

from edgeserver.app.box import _make_certificate
from edgeserver.app.listeners import Tls
from edgeserver.app.low_bandwidth import serve_low_bandwidth
from edgeserver.config import parse
from tests.faults.test_disk import register
from tests.flows.test_low_bandwidth import CLIENT, LOGIN, texts
from tests.flows.world import World
from tests.lab.box import Box
from tests.lab.programs import PYTHON, ROOT
from tests.lab.ptyline import PtyLine
from tests.lab.synapse import free_port
from tests.transports.coap_client import CoapClient
from tests.transports.dtls_client import dtls_client
from transports.dtls import MTU
from transports.dtls_line import FrameSocket, sending_mtu
from transports.framing import hdlc
from transports.link.wire import Driver
from transports.memory import Medium, MemoryCable
from transports.msc3079.session import pace_of
from transports.serial import SerialDriver

URI = "serial:/dev/ttyUSB1,9600"
KEY = bytes(range(16))
PSK = (b"rover", KEY)
CONFIG = f'[low_bandwidth]\nlines = ["{URI}"]\npre_shared_keys = ["rover:{KEY.hex()}"]\n'


def cable_of(bit_rate: int, **how) -> MemoryCable:
    return MemoryCable(Medium(bit_rate, mtu=MTU, **how), seed=3)


def certificate_of(box, folder) -> Tls:
    tls = Tls(folder / "dtls.pem", folder / "dtls.key")
    _make_certificate(tls, box.box.identity, p256=True)
    return tls


@asynccontextmanager
async def line_of(box, cable: MemoryCable, tls: Tls | None = None):
    """The box's end, on `cable.a`."""
    async with trio.open_nursery() as nursery:
        listening = await nursery.start(
            lambda task_status: serve_low_bandwidth(
                box.box.app, parse(CONFIG).low_bandwidth, tls, drivers={URI: cable.a}, task_status=task_status
            )
        )
        yield listening.lines[0]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def app_on(cable: MemoryCable, *, tls: Tls | None = None, paced: bool = True):
    """An app at the other end: with the pre-shared key, or with the box's certificate."""
    async with app_at(cable.b, cable.medium.bit_rate, tls=tls, paced=paced) as client:
        yield client


@asynccontextmanager
async def app_at(driver: Driver, rate: int, *, tls: Tls | None = None, paced: bool = True):
    """`client.socket` is its port."""
    socket = FrameSocket(driver)
    how = {"psk": PSK, "cipher": "PSK-AES128-CCM8"} if tls is None else {"trusted": tls.certificate, "cipher": "ECDHE-ECDSA-AES128-CCM8"}
    async with trio.open_nursery() as nursery:
        await nursery.start(socket.run)
        async with dtls_client(socket.address, socket=socket, mtu=sending_mtu(rate), **how) as channel:
            client = CoapClient(channel, seed=5, pace=pace_of(rate, sending_mtu(rate)) if paced else None)
            client.socket, client.channel = socket, channel.channel
            with trio.fail_after(300):
                await client.channel.do_handshake(initial_retransmit_timeout=1 + 20 * sending_mtu(rate) / rate if paced else 1.0)
            await nursery.start(client.run)
            yield client
            nursery.cancel_scope.cancel()


async def log_in(client: CoapClient) -> str:
    answer = await client.request("POST", f"{CLIENT}/login", json.dumps(LOGIN).encode())
    return json.loads(answer.body)["access_token"]


def message(text: str) -> bytes:
    return json.dumps({"msgtype": "m.text", "body": text}).encode()


@pytest.mark.parametrize("paced", [True, False], ids=["paced", "with the internet's times"])
@pytest.mark.parametrize("certified", [False, True], ids=["psk", "certificate"])
@pytest.mark.parametrize("rate", [1200, 9600])
async def test_an_app_on_a_serial_line_logs_in_talks_and_is_told_of_what_others_say(tmp_path, autojump_clock, rate, certified, paced):
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id)
        tls = certificate_of(box, tmp_path) if certified else None
        cable = cable_of(rate)
        sizes: list[int] = []
        cable.watch = lambda end, sent, arriving: sizes.append(len(sent)) if end == cable.a.name else None
        async with line_of(box, cable, tls) as line, app_on(cable, tls=tls, paced=paced) as client:
            token = await log_in(client)
            path = f"{CLIENT}/rooms/{quote(room_id)}"
            answer = await client.request("PUT", f"{path}/send/m.room.message/1", message("Hello World"), token)
            assert answer.status == 200
            letter = " ".join(random.Random(1).choices(["long", "letter", "of", "many", "words", "about", "boats", "weather"], k=400))
            assert (await client.request("PUT", f"{path}/send/m.room.message/2", message(letter))).status == 200
            assert await bob.texts(room_id) == ["Hello World", letter]
            async with client.asking("GET", f"{CLIENT}/sync") as syncs:
                assert texts(await anext(syncs)) == ["Hello World", letter]
                for text in ("one", "two " * 500, "three"):
                    await bob.say(room_id, text)
                heard = []
                while len(heard) < 3:
                    heard += texts(await anext(syncs))
                assert heard == ["one", "two " * 500, "three"]
                await trio.sleep(60)
                spent = client.socket.stats.bytes_in + client.socket.stats.bytes_out
                await trio.sleep(7200)
                assert client.socket.stats.bytes_in + client.socket.stats.bytes_out == spent
                await bob.say(room_id, "still there?")
                assert texts(await anext(syncs)) == ["still there?"]
            assert (line.peers, line.trouble, line.stats.crc_errors) == (["an app"], None, 0)
        assert max(sizes) <= 1.1 * sending_mtu(rate) + hdlc.OVERHEAD


async def test_what_a_connection_and_a_message_cost_at_2400_baud(tmp_path, autojump_clock):
    """The README says so. Both directions and the framing are counted."""
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice = await box.person("alice")
        room_id = await alice.create_room()
        cable = cable_of(2400)
        spent = [0]

        def count(end, sent, arriving):
            spent[0] += len(sent)

        cable.watch = count
        async with line_of(box, cable):
            await trio.sleep(1)
            began = trio.current_time()
            async with app_on(cable) as client:
                connected, took = spent[0], trio.current_time() - began
                assert connected < 680
                assert took < 2.9
                path = f"{CLIENT}/rooms/{quote(room_id)}/send/m.room.message"
                await client.request("PUT", f"{path}/1", message("Hello World"), alice.token)
                before, began = spent[0], trio.current_time()
                assert (await client.request("PUT", f"{path}/2", message("Boats are back, all well."))).status == 200
                assert spent[0] - before < 250
                assert trio.current_time() - began < 1.1


async def test_sessions_outlive_noise_and_a_port_that_is_pulled(tmp_path, autojump_clock, caplog):
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id)
        cable = cable_of(9600, bit_errors=2e-5)
        chance = random.Random(7)
        async with line_of(box, cable) as line, app_on(cable) as client:
            async with client.asking("GET", f"{CLIENT}/sync", token=alice.token) as syncs:
                await anext(syncs)
                heard = []
                for number in range(6):
                    await bob.say(room_id, f"message {number}")
                    for end in (cable.a, cable.b):
                        noise = chance.randbytes(chance.randrange(1, 3000))
                        end.inject(noise)  # nobody's
                        end.inject(hdlc.encode(noise[:1000]))  # a frame of somebody who speaks something else
                        end.inject(hdlc.encode(b"\x16\xfe\xfd" + noise[:200]))  # what looks like a handshake
                    if number % 2:
                        cable.unplug()
                        await trio.sleep(40)
                        assert line.trouble is not None
                        cable.plug()
                    heard += texts(await anext(syncs))
                    assert line.trouble is None
                assert heard == [f"message {number}" for number in range(6)]
            assert line.peers == ["an app"]
        assert line.stats.refused_frames > 0
        told = [record.getMessage() for record in caplog.records if record.name == "transports.dtls_line"]
        assert sum("the port vanished" in text for text in told) == 6  # once for each end and time
        assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_an_app_that_restarts_in_the_middle_of_a_handshake_or_of_a_session_is_served(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a")
        await box.person("alice")
        tls = certificate_of(box, tmp_path)
        cable = cable_of(2400)
        async with line_of(box, cable, tls) as line:
            for patience in (0.1, 0.7, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0):
                with trio.move_on_after(patience):
                    async with app_on(cable, tls=tls) as client:
                        await trio.sleep_forever()
            async with app_on(cable, tls=tls) as client:
                assert await log_in(client)
            async with app_on(cable) as client:  # and with a key instead
                assert await log_in(client)
                await trio.sleep(1)
                assert line.peers == ["an app"]


async def test_a_handshake_that_comes_to_nothing_leaves_nothing_behind(tmp_path, autojump_clock, caplog):
    async with World(tmp_path) as world:
        box = await world.box("a")
        cable = cable_of(2400)
        async with line_of(box, cable) as line:
            socket = FrameSocket(cable.b)
            async with trio.open_nursery() as nursery:
                await nursery.start(socket.run)
                async with dtls_client(socket.address, socket=socket, psk=(b"rover", bytes(16)), cipher="PSK-AES128-CCM8") as client:
                    with trio.move_on_after(200):
                        await client.channel.do_handshake()
                nursery.cancel_scope.cancel()
            await trio.sleep(300)
            assert line.peers == []
            assert line._line.sessions == 0
        assert not [record for record in caplog.records if record.levelname == "ERROR"]


SERVED = """
[server]
name = "a.test"
[http]
client = ["127.0.0.1:{port}"]
federation = []
[accounts]
registration = "open"
[federation]
internet = false
[discovery]
mdns = false
[low_bandwidth]
lines = ["serial:{path},9600"]
certificate = false
pre_shared_keys = ["rover:000102030405060708090a0b0c0d0e0f"]
"""


@pytest.mark.real_time
async def test_the_program_serves_an_app_on_a_serial_port_that_comes_late_and_whose_cable_is_cut(tmp_path):
    """A real port (a pty at its true rate), and a box that is started before there is one."""
    port = free_port()
    path = tmp_path / "line-a"
    box = Box(tmp_path / "box", SERVED.format(port=port, path=path), f"http://127.0.0.1:{port}")
    with box, PtyLine(tmp_path, 9600) as line:
        assert line.a == path
        token = register(box)
        room = box.request("POST", f"{CLIENT}/createRoom", {}, token).json["room_id"]
        with trio.fail_after(60):
            async with app_at(SerialDriver(str(line.b), 9600, mtu=MTU), 9600) as client:
                began = trio.current_time()
                path = f"{CLIENT}/rooms/{quote(room)}/send/m.room.message"
                assert (await client.request("PUT", f"{path}/1", message("over the port"), token)).status == 200
                assert 0.15 < trio.current_time() - began < 5
                async with client.asking("GET", f"{CLIENT}/sync") as syncs:
                    assert texts(await anext(syncs)) == ["over the port"]
                    line.cut()
                    said = trio.to_thread.run_sync
                    await said(lambda: box.request("PUT", f"{path}/2", {"msgtype": "m.text", "body": "during the cut"}, token))
                    await trio.sleep(3)
                    line.restore()
                    assert texts(await anext(syncs)) == ["during the cut"]
                command = [PYTHON, "-m", "edgeserver", "link", "status", "--json", "--config", str(box.config_file)]
                status = await trio.run_process(command, cwd=ROOT, capture_stdout=True)
        (told,) = json.loads(status.stdout)["client_lines"]
        assert (told["peers"], told["trouble"]) == (["an app"], None)
        line.assert_honest()
        assert box.stop() == 0
        assert box.troubles() == []


@pytest.mark.parametrize("seed", range(3))
async def test_damaged_and_repeated_handshakes_stop_nobody(tmp_path, autojump_clock, caplog, seed):
    """Records of real handshakes, cut, doubled, overwritten and out of their order, each a whole frame with a right CRC."""
    async with World(tmp_path) as world:
        box = await world.box("a")
        await box.person("alice")
        tls = certificate_of(box, tmp_path)
        cable = cable_of(115_200)
        frames: list[bytes] = []
        async with line_of(box, cable, tls) as line:
            cable.watch = lambda end, sent, arriving: frames.append(sent) if end == cable.b.name else None
            for how in ({"tls": tls}, {}):
                async with app_on(cable, **how) as client:
                    assert await log_in(client)
            cable.watch = lambda end, sent, arriving: None
            decoder, chance = hdlc.Decoder(MTU), random.Random(seed)
            records = [record for frame in frames for record in decoder.feed(frame)]
            before = line.stats.frames_in
            for _ in range(300):
                spoilt = bytearray(chance.choice(records))
                for _ in range(chance.randrange(3)):
                    spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
                if chance.random() < 0.3:
                    del spoilt[chance.randrange(1, len(spoilt)) :]
                if chance.random() < 0.2:
                    spoilt += chance.choice(records)
                cable.b.inject(hdlc.encode(bytes(spoilt[:MTU])))
                await trio.sleep(chance.random())
            assert line.stats.frames_in > before + 290
            async with app_on(cable, tls=tls) as client:
                assert await log_in(client)
                assert line.peers == ["an app"]
        assert not [record for record in caplog.records if record.levelname == "ERROR"]
