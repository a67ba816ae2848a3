"""A fault in one task of the box is logged and stays there; and a box that was away says that it is back."""

from __future__ import annotations

import logging
import socket
import threading

import pytest
import trio

from edgeserver.app import unread
from edgeserver.app.lasting import contained, lasting
from edgeserver.store.database import StoreError, open_database
from tests.flows.world import World, until


class Failing:
    """Fails the first `times`, then goes on for ever."""

    def __init__(self, times: int, error: BaseException | None = None) -> None:
        self.times, self.error = times, error or RuntimeError("a fault")
        self.began: list[float] = []

    async def run(self) -> None:
        self.began.append(trio.current_time())
        if len(self.began) <= self.times:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                await trio.sleep(0.1)
                raise self.error
        await trio.sleep_forever()


async def test_a_task_that_fails_begins_again_after_growing_pauses_and_each_time_is_logged(caplog, autojump_clock):
    task = Failing(9)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lasting, "the task", task.run)
        await trio.sleep(600)
        nursery.cancel_scope.cancel()
    pauses = [round(later - earlier) for earlier, later in zip(task.began, task.began[1:], strict=False)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert [record.message.split(";")[0] for record in caplog.records] == ["the task failed"] * 9
    assert all(record.exc_info for record in caplog.records)


async def test_a_task_that_ends_is_not_begun_again_and_one_that_is_cancelled_is_cancelled(autojump_clock):
    await lasting("nothing", trio.sleep, 1)
    with trio.move_on_after(5) as scope:
        await lasting("the task", Failing(0).run)
    assert scope.cancelled_caught


async def test_what_is_contained_is_logged_once(caplog, autojump_clock):
    await contained("the errand", Failing(1).run)
    assert [record.message for record in caplog.records] == ["the errand failed"]


@pytest.mark.parametrize("victim", ["sender", "typing", "tokens", "links", "profile"])
async def test_a_fault_in_any_background_task_does_not_end_the_box(tmp_path, caplog, autojump_clock, victim):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, via="a.test")
        db, box = a.box.ground.db, a.box
        read, write = db.read, db.write
        left = 3

        async def failing(function):
            nonlocal left
            if left > 0:
                left -= 1
                raise ArithmeticError("a fault")
            return await (write if victim == "tokens" else read)(function)

        services = {"sender": box.inward.sender, "typing": box.users.typing, "tokens": box.users.tokens, "links": box.links}
        service = services.get(victim, box.rooms.memberships)
        sound = service._db
        service._db = type("Db", (), {"read": staticmethod(failing), "write": staticmethod(failing)})()
        if victim == "profile":
            await alice.ok("PUT", f"/profile/{alice.user_id}/displayname", {"displayname": "Al"})
        elif victim == "typing":
            box.users.typing._note(room_id, alice.user_id, 1000)
        elif victim == "sender":
            box.inward.sender.route_returned(None)
        await trio.sleep(1300)
        service._db = sound
        assert (await alice.request("GET", "/account/whoami")).status == 200
        await alice.say(room_id, "still here")

        async def heard() -> bool:
            return await bob.texts(room_id) == ["still here"]

        await until(heard)
        assert victim == "links" or [record for record in caplog.records if record.levelno >= logging.ERROR and record.exc_info]


async def test_a_callback_that_fails_after_a_commit_does_not_stop_the_writer(tmp_path, caplog):
    def work(tx) -> int:
        tx.on_commit(lambda: 1 // 0)
        return 5

    async with open_database(tmp_path / "x.db", inline=True) as db:
        assert await db.write(work) == 5
        assert await db.write(lambda tx: 6) == 6
    assert "what follows a commit failed" in caplog.text


async def test_a_file_that_has_gone_bad_is_a_store_error_for_readers_too(tmp_path):
    async with open_database(tmp_path / "x.db", inline=True) as db:
        await db.write(lambda tx: tx.execute("CREATE TABLE t (x)").rowcount)
        await db.write(lambda tx: tx.executemany("INSERT INTO t VALUES (?)", [("x" * 3000,)] * 300))
    path = tmp_path / "x.db"
    spoilt = bytearray(path.read_bytes())
    assert len(spoilt) > 200 * 4096
    for at in range(len(spoilt) - 100 * 4096, len(spoilt), 4096):
        spoilt[at : at + 64] = b"\xee" * 64
    path.write_bytes(spoilt)
    async with open_database(path, inline=True) as db:
        with pytest.raises(StoreError):
            await db.read(lambda tx: tx.all("SELECT count(x), max(x) FROM t"))


async def test_a_box_that_was_away_hears_what_it_missed_within_a_minute_of_its_start(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id, via="a.test")
        await b.stop()
        await a.stop()  # a forgets who answered lately, so it cannot look for them either
        await a.start()
        await alice.say(room_id, "missed")
        await trio.sleep(20 * 3600)  # a pauses for an hour between its tries by now
        began = trio.current_time()
        await b.start()

        async def heard() -> bool:
            return await bob.texts(room_id) == ["missed"]

        await until(heard)
        assert trio.current_time() - began < 60


def test_connections_that_were_accepted_are_shut_down_and_no_others():
    with socket.create_server(("127.0.0.1", 0)) as ours, socket.create_server(("127.0.0.1", 0)) as other:
        addresses = unread.prepare([ours])
        pairs = []
        for server in (ours, other):
            client = socket.create_connection(server.getsockname(), timeout=5)
            pairs.append((client, server.accept()[0]))
        unread.shut_down(addresses)
        (client, accepted), (other_client, other_accepted) = pairs
        assert client.recv(1) == b""
        other_accepted.sendall(b"x")
        assert other_client.recv(1) == b"x"
        assert ours.fileno() > 0
        with pytest.raises(BrokenPipeError):
            accepted.sendall(b"x" * 100_000)
        for one in (client, accepted, other_client, other_accepted):
            one.close()


@pytest.mark.full
def test_the_kernel_gives_up_a_client_that_does_not_read():
    with socket.create_server(("127.0.0.1", 0)) as server:
        unread.prepare([server])
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 3000)
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        failed = threading.Event()

        def write() -> None:
            try:
                while True:
                    accepted.sendall(bytes(100_000))
            except OSError:
                failed.set()

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        assert failed.wait(30)
        client.close()
        accepted.close()


async def test_large_answers_are_handed_over_in_pieces_and_arrive_whole():
    sent = []

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ab" * 100_000, "more_body": True})
        await send({"type": "http.response.body", "body": b"c"})

    async def send(message) -> None:
        sent.append(message)

    await unread.in_pieces(app)({"type": "http"}, None, send)
    assert b"".join(message["body"] for message in sent[1:]) == b"ab" * 100_000 + b"c"
    assert max(len(message["body"]) for message in sent[1:]) <= unread.PIECE
    assert [message.get("more_body", False) for message in sent[1:]] == [True] * (len(sent) - 2) + [False]
