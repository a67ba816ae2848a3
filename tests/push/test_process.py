"""The box as a process: what it owes a phone after kill -9, and what a hundred phones that wait cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest
import trio

from tests.faults.test_disk import register
from tests.interop.boxes import local_box
from tests.lab.box import Box
from tests.push.gateway import PATH, pusher
from tests.push.phone import ask, listening

V3 = "/_matrix/client/v3"
TOPIC = "upAbCdEfGhIjKl"
PHONES = 100


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with local_box(tmp_path, "a.test") as started:
        yield started


async def waiting(box: Box) -> list[str]:
    """The ids of the events that wait in the topic."""
    _, messages = await ask("GET", f"{box.url}/{TOPIC}/json?poll=1")
    return [orjson.loads(one["message"])["notification"]["event_id"] for one in messages]


async def test_what_was_acknowledged_is_notified_though_the_box_is_killed_at_once(box: Box) -> None:
    alice, bob = register(box, "alice"), register(box, "bob")
    room_id = box.request("POST", f"{V3}/createRoom", {"preset": "public_chat"}, alice).json["room_id"].replace("!", "%21")
    box.request("POST", f"{V3}/join/{room_id}", {}, bob)
    body = pusher(f"{box.url}{PATH}", f"{box.url}/{TOPIC}?up=1")
    assert box.request("POST", f"{V3}/pushers/set", body, bob).status == 200
    said = []
    for number in range(3):
        message = {"msgtype": "m.text", "body": str(number)}
        said.append(box.request("PUT", f"{V3}/rooms/{room_id}/send/m.room.message/{number}", message, alice).json["event_id"])
        box.kill()
        box.start()
        with trio.fail_after(20):
            while said[-1] not in await waiting(box):
                await trio.sleep(0.1)


@pytest.mark.alone
async def test_a_hundred_phones_that_wait_cost_little_memory_and_no_time(box: Box) -> None:
    async with listening(f"{box.url.replace('http', 'ws')}/{TOPIC}/ws") as phone:
        await phone.next()
    before = box.rss()
    async with AsyncExitStack() as stack:
        phones = []
        for number in range(PHONES):
            line = await stack.enter_async_context(listening(f"{box.url.replace('http', 'ws')}/upPhone{number:07}/ws"))
            await line.next()
            phones.append(line)
        await ask("PUT", f"{box.url}/upPhone0000042", b"hello")
        assert (await phones[42].message())["message"] == "hello"
        assert (box.rss() - before) / PHONES < 250 * 1024
        cpu, began = box.program.cpu_seconds(), time.monotonic()
        await trio.sleep(5)
        assert box.program.cpu_seconds() - cpu < 0.02 * (time.monotonic() - began)
