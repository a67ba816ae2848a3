"""A full disk: a plain error, nothing lost that was acknowledged, no orphans, and all is well again when there is room."""

from __future__ import annotations

import resource

import pytest
import trio

from tests.faults.stranger import Stranger
from tests.flows.world import World, until
from tests.lab.box import Box

PLAIN = "The server could not store or read it: its disk is full or failing."
MESSAGE = {"msgtype": "m.text", "body": "x" * 2000}
UPLOAD = "/_matrix/media/v3/upload"


async def limit_pages(box, more: int | None) -> None:
    """Lets the database file grow by so many pages only; None: freely."""

    def work(tx) -> None:
        (now,) = tx.one("PRAGMA page_count")
        tx.one(f"PRAGMA max_page_count = {2**31 if more is None else now + more}")

    await box.box.ground.db.write(work)


def tracebacks(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.exc_info]


@pytest.mark.provokes(500)
async def test_sends_fail_plainly_on_a_full_disk_and_work_again_when_there_is_room(tmp_path, caplog, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", "[limits]\nrate_limits = false\n")
        alice = await box.person("alice")
        room_id = await alice.create_room()
        await limit_pages(box, 5)
        acknowledged, refused = [], 0
        for number in range(60):
            answer = await alice.request("PUT", f"/rooms/{room_id}/send/m.room.message/{number}", {**MESSAGE, "n": number})
            if answer.status == 200:
                acknowledged.append(number)
            else:
                refused += 1
                assert (answer.status, answer.json) == (500, {"errcode": "M_UNKNOWN", "error": PLAIN})
        assert acknowledged
        assert refused > 20
        await alice.sync()  # reading goes on
        assert tracebacks(caplog) == []
        assert len(await alice.texts(room_id)) == len(acknowledged)
        await limit_pages(box, None)
        for number in range(60):  # clients repeat what was refused, and what was not
            await alice.ok("PUT", f"/rooms/{room_id}/send/m.room.message/{number}", {**MESSAGE, "n": number})
        assert len(await alice.texts(room_id)) == 60
        await box.stop()
        await box.start()
        assert len(await alice.texts(room_id)) == 60


@pytest.mark.provokes(500)
async def test_many_who_send_at_once_each_learn_the_truth(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", "[limits]\nrate_limits = false\n")
        alice = await box.person("alice")
        room_id = await alice.create_room()
        await limit_pages(box, 5)
        taken = 0

        async def send(number: int) -> None:
            nonlocal taken
            answer = await alice.request("PUT", f"/rooms/{room_id}/send/m.room.message/{number}", MESSAGE)
            taken += answer.status == 200

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(send, number)
        assert len(await alice.texts(room_id)) == taken


async def test_a_transaction_that_cannot_be_kept_is_not_acknowledged_and_taken_when_it_comes_again(tmp_path, caplog, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, via="a.test")
        await limit_pages(a, 0)
        said = [f"{number} " + "x" * 3000 for number in range(12)]
        for text in said:
            await bob.say(room_id, text)
        await trio.sleep(60)
        assert len(await alice.texts(room_id)) < 12
        await limit_pages(a, None)

        async def whole() -> bool:
            return await alice.texts(room_id) == said

        await until(whole, seconds=8000)
        assert tracebacks(caplog) == []


@pytest.mark.provokes(500)
async def test_the_outbox_of_a_full_disk_is_emptied_and_nobody_hears_twice(tmp_path, caplog, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, via="a.test")
        world.internet.cut("a.test", "b.test")
        for number in range(5):
            await alice.say(room_id, f"{number}")
        await limit_pages(a, 0)
        world.internet.heal()
        await trio.sleep(4000)
        await limit_pages(a, None)

        async def whole() -> bool:
            return await bob.texts(room_id) == [f"{number}" for number in range(5)]

        await until(whole, seconds=8000)
        assert tracebacks(caplog) == []


async def test_a_stranger_whose_transaction_fails_is_told_500(tmp_path, caplog, autojump_clock):
    async with World(tmp_path) as world:
        box = await world.box("a", "[limits]\nrate_limits = false\n")
        alice = await box.person("alice")
        room_id = await alice.create_room(preset="public_chat", room_version="11")
        stranger = Stranger(world)
        joined = await stranger.join("a.test", room_id)
        await limit_pages(box, 0)
        prev, statuses = joined.event_id, set()
        for number in range(10):
            event = stranger.message(room_id, [prev], joined.depth + 1 + number, "x" * 20_000)
            status, answer = await stranger.ask(
                "a.test", "PUT", f"/_matrix/federation/v1/send/{number}", {"origin": "evil.test", "pdus": [event.pdu], "edus": []}
            )
            statuses.add((status, answer.get("errcode")))
        assert (500, "M_UNKNOWN") in statuses
        assert tracebacks(caplog) == []


def register(box: Box, name: str = "alice") -> str:
    body = {"username": name, "password": "correct horse battery", "auth": {"type": "m.login.dummy"}}
    path = "/_matrix/client/v3/register"
    answer = box.request("POST", path, body)
    if answer.status == 401:
        answer = box.request("POST", path, {**body, "auth": {"type": "m.login.dummy", "session": answer.json["session"]}})
    assert answer.status == 200, answer.body
    return answer.json["access_token"]


def limit_files(box: Box, size: int) -> None:
    """No file of the running box may grow beyond `size` bytes."""
    hard = resource.prlimit(box.program.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(box.program.pid, resource.RLIMIT_FSIZE, (size, hard))


def test_a_running_box_outlives_a_full_disk_and_an_upload_that_finds_none_leaves_nothing(small_box, tmp_path):
    token = register(small_box)
    room_id = small_box.request("POST", "/_matrix/client/v3/createRoom", {}, token).json["room_id"]
    path = f"/_matrix/client/v3/rooms/{room_id}/send/m.room.message"
    limit_files(small_box, 300_000)
    upload = small_box.request("POST", UPLOAD, b"\x89" * 2_000_000, token, headers={"content-type": "image/png"})
    assert (upload.status, upload.json) == (500, {"errcode": "M_UNKNOWN", "error": PLAIN})
    assert [file for file in (tmp_path / "data" / "media").rglob("*") if file.is_file()] == []
    acknowledged = []
    for number in range(400):
        answer = small_box.request("PUT", f"{path}/{number}", {**MESSAGE, "n": number}, token)
        if answer.status != 200:
            assert (answer.status, answer.json) == (500, {"errcode": "M_UNKNOWN", "error": PLAIN})
            break
        acknowledged.append(answer.json["event_id"])
    else:
        raise AssertionError("the limit was never reached")
    limit_files(small_box, resource.RLIM_INFINITY)
    assert small_box.request("PUT", f"{path}/again", MESSAGE, token).status == 200
    assert small_box.request("POST", UPLOAD, b"\x89" * 2_000_000, token).status == 200
    small_box.kill()
    small_box.start()
    for event_id in acknowledged:
        assert small_box.request("GET", f"/_matrix/client/v3/rooms/{room_id}/event/{event_id}", None, token).status == 200
    assert small_box.troubles(expected=r"failed: (\[Errno 27\] File too large|.*disk I/O error)") == []
