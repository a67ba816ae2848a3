"""`edgeserver proxy` as a process on a serial line whose far end is dead: killed with messages in its outbox, started again."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from edgeserver.paired.state import open_state
from tests.lab.programs import ROOT, Program, python_module
from tests.lab.ptyline import PtyLine
from tests.lab.synapse import free_port
from tests.lab.web import Answer, answers, arequest
from tests.proxy.rig import BOX, V3, until
from tests.proxy.test_story import BoxEnd
from transports.identity import client_identity
from transports.link.pairing import Paired

COUNT = 6


@pytest.mark.story
@pytest.mark.real_time
async def test_a_proxy_that_is_killed_while_the_box_is_dead_delivers_what_it_held_once_and_in_order(tmp_path) -> None:
    state = open_state(tmp_path / "state", "proxy")
    state.pair(Paired("box.example", BOX.public_key))
    url = f"http://127.0.0.1:{free_port()}"
    with PtyLine(tmp_path, 9600) as cable, trio.fail_after(120):
        words = ("proxy", "--link", f"serial:{cable.a},9600", "--listen", url.removeprefix("http://"), "--state", str(state.file.parent))
        proxy = Program(python_module("edgeserver", *words), log=tmp_path / "proxy.log")
        box = BoxEnd(str(cable.b), 9600)
        box.paired[state.identity.public_key] = client_identity(state.identity.public_key)

        def send(room: str, number: int) -> partial[Answer]:
            target = f"{V3}/rooms/!{room}/send/m.room.message/{room}{number}"
            return partial(arequest, "PUT", url + target, body={"body": f"Message {number} to {room}"}, token="T")

        async def start() -> None:
            proxy.start()
            await until(lambda: answers(url))

        async def hold(room: str, number: int) -> None:
            before = (await arequest("GET", url)).json["held_messages"]
            with pytest.raises(TimeoutError):
                await send(room, number)(timeout=0.1)
            while (await arequest("GET", url)).json["held_messages"] == before:
                await trio.sleep(0.02)

        try:
            await start()
            for number in range(COUNT):
                for room in ("a", "b"):
                    await hold(room, number)
            second = await trio.run_process(proxy.argv, cwd=ROOT, capture_stderr=True, check=False)
            assert second.returncode == 1
            assert b"another edgeserver is at work on" in second.stderr
            for _ in range(2):  # the second time it has the messages from the disk only
                proxy.kill()
                await start()
                assert (await arequest("GET", url)).json["held_messages"] == 2 * COUNT
            async with trio.open_nursery() as nursery:
                nursery.start_soon(box.run)
                await until(lambda: len(box.stand_in.order) > COUNT)
                proxy.kill()  # in the middle of it, wherever that is
                await start()
                joined = await send("a", COUNT - 1)(timeout=100)
                while (await arequest("GET", url)).json["held_messages"]:
                    await trio.sleep(0.1)
                nursery.cancel_scope.cancel()
            assert joined.json == {"event_id": box.stand_in.events["Bearer T", f"{V3}/rooms/!a/send/m.room.message/a{COUNT - 1}"]}
            for room in ("a", "b"):
                assert [each for each in box.stand_in.order if each.startswith(room)] == [f"{room}{number}" for number in range(COUNT)]
            assert proxy.stop() == 0
            assert list((tmp_path / "state" / "outbox").iterdir()) == []
            assert "Traceback" not in proxy.tail()
        finally:
            proxy.stop()
