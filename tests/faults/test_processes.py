"""The box as a process: told to stop, given a database that it cannot use, and served to clients that never read."""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from contextlib import ExitStack

import pytest

from tests.faults.test_disk import register
from tests.lab.box import Box

V3 = "/_matrix/client/v3"
MESSAGE = {"msgtype": "m.text", "body": "x" * 20_000}


def poll(box: Box, token: str) -> socket.socket:
    """A sync that hangs for five minutes, its connection left open."""
    since = box.request("GET", f"{V3}/sync", None, token).json["next_batch"]
    port = int(box.url.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(f"GET {V3}/sync?timeout=300000&since={since} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    return connection


def unread(box: Box, room_id: str, token: str) -> socket.socket:
    """A connection by which two megabytes are asked for twenty times, and never read."""
    target = f"{V3}/rooms/{room_id.replace('!', '%21')}/messages?dir=b&limit=100"
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", int(box.url.rpartition(":")[2])))
    connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode() * 20)
    return connection


def test_sigterm_ends_the_box_within_five_seconds_with_status_0_although_people_wait(small_box):
    token = register(small_box)
    room_id = small_box.request("POST", f"{V3}/createRoom", {}, token).json["room_id"]
    sent: list[str] = []
    stopping = threading.Event()

    def keep_sending() -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            try:
                answer = small_box.request("PUT", f"{V3}/rooms/{room_id}/send/m.room.message/{number}", MESSAGE, token)
            except OSError:
                return
            if answer.status == 200:
                sent.append(answer.json["event_id"])

    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(poll(small_box, token))
        sender = threading.Thread(target=keep_sending)
        sender.start()
        time.sleep(1)
        began = time.monotonic()
        status = small_box.stop(10)
        took = time.monotonic() - began
        stopping.set()
        sender.join()
    assert (status, took < 5) == (0, True), (status, took, small_box.log()[-2000:])
    assert "stopped in good order" in small_box.log()
    assert small_box.troubles() == []
    small_box.start()
    assert len(sent) > 3
    for event_id in sent:
        assert small_box.request("GET", f"{V3}/rooms/{room_id}/event/{event_id}", None, token).status == 200


def test_a_box_that_was_killed_has_every_message_that_it_acknowledged(small_box):
    token = register(small_box)
    room_id = small_box.request("POST", f"{V3}/createRoom", {}, token).json["room_id"]
    sent: dict[int, str] = {}
    for round_ in range(2):
        for number in range(20 * round_, 20 * round_ + 20):
            sent[number] = small_box.request("PUT", f"{V3}/rooms/{room_id}/send/m.room.message/{number}", MESSAGE, token).json["event_id"]
        small_box.kill()
        small_box.start()
    for number, event_id in sent.items():
        assert small_box.request("PUT", f"{V3}/rooms/{room_id}/send/m.room.message/{number}", MESSAGE, token).json["event_id"] == event_id
    assert small_box.troubles() == []


def spoil_header(path) -> None:
    path.write_bytes(b"this is no database, it is a poem" * 400)


def spoil_schema(path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()


def spoil_pages(path) -> None:
    for rest in path.parent.glob(path.name + "-*"):
        rest.unlink()
    data = bytearray(path.read_bytes())
    data[100:] = b"\xee" * (len(data) - 100)
    path.write_bytes(data)


@pytest.mark.parametrize(("spoil", "said"), [(spoil_header, "not a database"), (spoil_schema, "schema 9999"), (spoil_pages, "malformed")])
def test_a_database_that_cannot_be_used_is_one_plain_sentence_and_is_left_alone(small_box, tmp_path, spoil, said):
    small_box.stop()
    path = tmp_path / "data" / "edgeserver.db"
    spoil(path)
    before, log = path.read_bytes(), len(small_box.log())
    small_box.begin()
    status = small_box.program.process.wait(20)
    words = small_box.log()[log:]
    assert status not in (0, None)
    assert said in words
    assert small_box.troubles(since=log) == []
    assert len(words.strip().splitlines()) <= 2, words
    assert path.read_bytes() == before


@pytest.mark.full
def test_a_database_that_somebody_else_holds_locked_is_one_plain_sentence(small_box, tmp_path):
    small_box.stop()
    log = len(small_box.log())
    holder = sqlite3.connect(tmp_path / "data" / "edgeserver.db", isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        small_box.begin()
        status = small_box.program.process.wait(40)
    finally:
        holder.close()
    words = small_box.log()[log:]
    assert status not in (0, None)
    assert "locked" in words
    assert small_box.troubles(since=log) == []
    assert len(words.strip().splitlines()) <= 2, words


@pytest.mark.alone
def test_clients_that_never_read_their_answers_cost_bounded_memory_and_others_are_served(small_box):
    token = register(small_box)
    room_id = small_box.request("POST", f"{V3}/createRoom", {}, token).json["room_id"]
    for number in range(100):
        small_box.request("PUT", f"{V3}/rooms/{room_id}/send/m.room.message/{number}", MESSAGE, token)
    grown = []
    with ExitStack() as stack:
        for _ in range(3):
            before = small_box.rss()
            for _ in range(20):
                stack.enter_context(unread(small_box, room_id, token))
            for _ in range(20):
                time.sleep(0.1)
                assert small_box.request("GET", f"{V3}/account/whoami", None, token, timeout=5).status == 200
            grown.append(small_box.rss() - before)
    assert grown[0] < 150_000_000, grown  # the work of answering twenty at a time, too
    assert max(grown[1:]) < 20 * 3_000_000, grown  # an answer of two megabytes each waits to be read, and no more
    assert small_box.request("GET", f"{V3}/account/whoami", None, token).status == 200
    assert small_box.troubles() == []


def test_a_body_that_is_too_large_is_413_announced_or_not(small_box):
    token = register(small_box)
    room_id = small_box.request("POST", f"{V3}/createRoom", {}, token).json["room_id"]
    path = f"{V3}/rooms/{room_id}/send/m.room.message"
    big = {"msgtype": "m.text", "body": "x" * 3_000_000}
    answer = small_box.request("PUT", f"{path}/1", big, token)
    assert (answer.status, answer.json["errcode"]) == (413, "M_TOO_LARGE")
    assert small_box.request("PUT", f"{path}/2", {"msgtype": "m.text", "body": "x" * 70_000}, token).status == 413
    port = int(small_box.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = f"PUT {path.replace('!', '%21')}/3 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        head += "Transfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        for _ in range(300):
            connection.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")
    assert small_box.request("PUT", f"{path}/4", {"msgtype": "m.text", "body": "fits"}, token).status == 200
    assert small_box.troubles() == []


def test_sigterm_ends_the_box_although_clients_never_read_their_answers(small_box):
    token = register(small_box)
    room_id = small_box.request("POST", f"{V3}/createRoom", {}, token).json["room_id"]
    for number in range(100):
        small_box.request("PUT", f"{V3}/rooms/{room_id}/send/m.room.message/{number}", MESSAGE, token)
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(unread(small_box, room_id, token))
        time.sleep(1)
        began = time.monotonic()
        status = small_box.stop(10)
        took = time.monotonic() - began
    assert (status, took < 5) == (0, True), (status, took, small_box.log()[-2000:])
    assert small_box.troubles() == []
