"""The whole program on a real serial line of 2400 baud: pairing, clients over HTTP, a power cut at the box, a cable that is pulled."""

from __future__ import annotations

import os
import random
import re
from urllib.parse import urlencode

import pytest
import trio

from edgeserver.paired.joining import JoinError
from edgeserver.paired.state import open_state
from edgeserver.proxy.program import ProxyOptions, run
from tests.lab.ptyline import PtyLine
from tests.lab.web import Answer, arequest
from tests.proxy.rig import BOX, V3, StandIn, until
from tests.proxy.test_media import Shelf
from transports.client import Multiplexer
from transports.identity import client_identity
from transports.link.connection import Link, LinkDown
from transports.link.pairing import Offer, Paired, PairingFailed, host
from transports.serial import SerialDriver

SEND = f"{V3}/rooms/!a:box/send/m.room.message"


class BoxEnd:
    """The box's end of the cable: pairs with who knows the code of `offer`, answers whom it knows with `stand_in`."""

    def __init__(self, path: str, baud: int) -> None:
        self.stand_in = StandIn()
        self.offer = Offer("box.example", BOX.public_key, now=trio.current_time(), random=os.urandom)
        self.paired: dict[bytes, str] = {}
        self._driver = SerialDriver(path, baud)
        self._scope = trio.CancelScope()

    def cut_power(self) -> None:
        self._scope.cancel()

    async def run(self) -> None:
        with trio.CancelScope() as self._scope:
            link = Link(self._driver, BOX, self.paired.get)
            link.strangers_welcome = not self.paired
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                async for connection in link.connections():
                    if connection.peer_key is not None:
                        nursery.start_soon(Multiplexer(connection).run, self.stand_in)
                        continue
                    try:
                        paired = await host(connection, self.offer, trio.current_time, os.urandom)
                    except (PairingFailed, LinkDown):
                        continue
                    self.paired[paired.public_key] = client_identity(paired.public_key)
                    link.strangers_welcome = False


@pytest.mark.story
@pytest.mark.real_time
async def test_a_proxy_is_paired_by_code_and_its_client_outlives_power_cuts_and_pulled_cables(tmp_path) -> None:
    said: list[str] = []
    with PtyLine(tmp_path, 2400) as cable, trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            box = BoxEnd(str(cable.b), 2400)
            nursery.start_soon(box.run)
            options = ProxyOptions(f"serial:{cable.a},2400", "127.0.0.1:0", box.offer.code, tmp_path / "state", "proxy on a laptop")
            url = await nursery.start(run, options, said.append)
            assert said[0] == "Calling over serial:line-a to pair."
            assert said[1] == "Paired with box.example. From now on start the proxy without --pair."
            saved = open_state(tmp_path / "state", "proxy")
            assert saved.box is not None
            assert (saved.box.name, saved.box.public_key) == ("box.example", BOX.public_key)

            async def ask(method: str, path: str, body: object = None) -> Answer:
                return await arequest(method, url + path, body=body, token="T", timeout=100)

            assert (await ask("GET", "/_matrix/client/versions")).json == {"versions": ["v1.11"]}
            assert (await ask("POST", f"{V3}/login", {"type": "m.login.password"})).json["user_id"] == "@a:box"
            assert (await ask("PUT", f"{SEND}/t0", {"body": "one"})).json == {"event_id": "$event0"}

            box.cut_power()
            answers: dict[str, Answer] = {}

            async def send(transaction: str) -> None:
                answers[transaction] = await ask("PUT", f"{SEND}/{transaction}", {"body": transaction})

            for number in (1, 2, 3):
                nursery.start_soon(send, f"t{number}")
                while (await ask("GET", "/")).json["held_messages"] < number:
                    pass
            nursery.start_soon(box.run)
            await until(lambda: len(answers) == 3)
            assert box.stand_in.order == ["t0", "t1", "t2", "t3"]

            await trio.to_thread.run_sync(cable.cut)
            nursery.start_soon(send, "t4")
            await trio.sleep(2)
            await trio.to_thread.run_sync(cable.restore)
            await until(lambda: "t4" in answers)
            assert answers["t4"].json == {"event_id": "$event4"}
            assert box.stand_in.order[-1] == "t4"
            await trio.to_thread.run_sync(cable.assert_honest)
            nursery.cancel_scope.cancel()
    assert "The line to box.example is up at 2400 bit/s." in said


@pytest.mark.story
@pytest.mark.real_time
async def test_a_person_has_a_picture_fetched_in_a_browser_and_it_is_there_after_a_restart_without_a_line_as_answers_are(tmp_path) -> None:
    file = random.Random(2).randbytes(5000)
    picture = "/_matrix/client/v1/media/download/box/a"
    with PtyLine(tmp_path, 9600) as cable, trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            box = BoxEnd(str(cable.b), 9600)
            box.stand_in = Shelf()
            box.stand_in.files["a"] = file
            nursery.start_soon(box.run)
            code: str | None = box.offer.code
            for is_cut in (False, True):
                async with trio.open_nursery() as program:
                    options = ProxyOptions(f"serial:{cable.a},9600", "127.0.0.1:0", code, tmp_path / "state", "proxy on a laptop")
                    code = None
                    url = await program.start(run, options, lambda sentence: None)

                    async def ask(method: str, path: str, url: str = url, **options: object) -> Answer:
                        return await arequest(method, url + path, **{"token": "T", "timeout": 100, **options})

                    if not is_cut:
                        assert (await ask("GET", f"{V3}/sync?timeout=0")).status == 200
                        assert (await ask("GET", picture)).status == 504
                        page = (await ask("GET", "/", headers={"Accept": "text/html"}, token=None)).body.decode()
                        assert "The line to box.example is up at 9600 bit/s." in page
                        form = urlencode(dict(re.findall(r"name=(\w+) value='([^']*)'", page))).encode()
                        elsewhere = {"Origin": "https://evil.example", "Content-Type": "application/x-www-form-urlencoded"}
                        assert (await ask("POST", "/fetch", body=form, headers=elsewhere)).status == 403
                        assert (await ask("POST", "/fetch", body=form, headers=elsewhere | {"Origin": url})).status == 303
                    assert (await ask("GET", picture)).body == file
                    assert (await ask("GET", f"{V3}/account/whoami")).json == {"user_id": "@a:box"}
                    program.cancel_scope.cancel()
                await trio.to_thread.run_sync(cable.cut)
            nursery.cancel_scope.cancel()
    assert (tmp_path / "state" / "meter.json").exists()


async def test_a_wrong_code_ends_the_program_with_one_sentence(tmp_path) -> None:
    with PtyLine(tmp_path, 115200) as cable, trio.fail_after(60):
        box = BoxEnd(str(cable.b), 115200)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.run)
            options = ProxyOptions(f"serial:{cable.a},115200", "127.0.0.1:0", "AAAA-AAAA", tmp_path / "state")
            with pytest.raises(JoinError, match=r"^The pairing failed: the other end refused: the code was wrong\.$"):
                await run(options, lambda sentence: None)
            nursery.cancel_scope.cancel()
    assert open_state(tmp_path / "state", "proxy").box is None


async def test_a_port_that_is_not_there_to_pair_over_is_told_at_once(tmp_path) -> None:
    said: list[str] = []
    async with trio.open_nursery() as nursery:
        with trio.fail_after(60):
            port = tmp_path / "line-a"
            options = ProxyOptions(f"serial:{port},115200", "127.0.0.1:0", "AAAA-AAAA", tmp_path / "state")
            nursery.start_soon(run, options, said.append)
            await until(lambda: len(said) > 1)
            assert said[1] == f"{port}: No such file or directory. Plug it in or correct --link; it is tried again until then."
            nursery.cancel_scope.cancel()


async def test_a_port_that_vanishes_and_comes_back_is_told_and_survived(tmp_path) -> None:
    said: list[str] = []
    state = open_state(tmp_path / "state", "proxy")
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with PtyLine(tmp_path, 115200) as cable:
                box = BoxEnd(str(cable.b), 115200)
                box.paired[state.identity.public_key] = client_identity(state.identity.public_key)
                state.pair(Paired("box.example", BOX.public_key))
                nursery.start_soon(box.run)
                options = ProxyOptions(f"serial:{cable.a},115200", "127.0.0.1:0", state=tmp_path / "state")
                url = await nursery.start(run, options, said.append)
                assert (await arequest("GET", f"{url}{V3}/account/3pid")).status == 200
            await until(lambda: any("is down: " in sentence for sentence in said))
            with PtyLine(tmp_path, 115200):
                assert (await arequest("GET", f"{url}{V3}/account/3pid?again", timeout=40)).status == 200
                nursery.cancel_scope.cancel()
