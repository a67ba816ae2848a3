"""HTTP as it comes from broken, slow and hostile clients to the real listener: each is answered or let go, others are served, and the log
holds no traceback.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from edgeserver.app.connections import OTHER_FILES
from tests.faults.test_disk import register
from tests.interop.boxes import local_box
from tests.lab.box import Box
from tests.lab.programs import wait_for

V3 = "/_matrix/client/v3"
VERSIONS = "/_matrix/client/versions"
LIMITS = "upload_bytes = 1000000"
PLACES = 72
"""Connections that a box holds which may have so few files."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Box, str]]:
    with local_box(tmp_path_factory.mktemp("http"), "a.test", limits=LIMITS) as box:
        yield box, register(box)


@pytest.fixture
def box(running: tuple[Box, str]) -> Iterator[Box]:
    """After each test it serves as before, and has nothing to complain about."""
    box, token = running
    before = len(box.log())
    yield box
    assert box.request("GET", f"{V3}/account/whoami", None, token, timeout=5).status == 200
    assert box.troubles(since=before, levels=("warning", "error", "critical")) == []


@pytest.fixture
def token(running: tuple[Box, str]) -> str:
    return running[1]


def connect(box: Box) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(box.url.rpartition(":")[2])), timeout=10)


def read(connection: socket.socket) -> bytes:
    """Everything until the box closes the connection, or says nothing more for a while."""
    connection.settimeout(1)
    whole = b""
    try:
        while part := connection.recv(65536):
            whole += part
            if b"\r\n\r\n" in whole and (found := _whole(whole)) is not None:
                return found
    except (TimeoutError, ConnectionResetError):
        pass
    return whole


def _whole(answer: bytes) -> bytes | None:
    head, _, body = answer.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
            return answer if len(body) >= length else None
    return None


def say(box: Box, *parts: bytes, pause: float = 0.0) -> bytes:
    """What is answered to these bytes, sent in these pieces."""
    with connect(box) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(pause)
        return read(connection)


def status(answer: bytes) -> int:
    """0 where the connection was closed without a word."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0


def request(method: str, path: str, *headers: str, token: str = "") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: a.test", *([f"Authorization: Bearer {token}"] if token else []), *headers]
    return "\r\n".join([*lines, "", ""]).encode()


FILTER = f"{V3}/user/%40alice%3Aa.test/filter"


def test_a_body_that_comes_byte_by_byte_is_read(box, token):
    body = b'{"room":{}}'
    head = request("POST", FILTER, f"Content-Length: {len(body)}", "Content-Type: application/json", token=token)
    assert status(say(box, head, *(body[at : at + 1] for at in range(len(body))), pause=0.02)) == 200


def test_headers_that_come_byte_by_byte_are_read(box, token):
    head = request("GET", f"{V3}/account/whoami", token=token)
    assert status(say(box, *(head[at : at + 4] for at in range(0, len(head), 4)), pause=0.005)) == 200


@pytest.mark.parametrize("headers", [("Content-Length: 100",), ("Transfer-Encoding: chunked",)])
@pytest.mark.parametrize("abruptly", [True, False])
@pytest.mark.parametrize("path", [FILTER, f"{V3}/login", "/_matrix/media/v3/upload", f"{V3}/nowhere", f"{V3}/rooms/!x/send/m/t"])
def test_bodies_that_are_cut_off_leave_nothing_behind(box, token, headers, abruptly, path):
    method = "PUT" if "/send/" in path else "POST"
    for body in (b"", b"a\r\n{\"room\":{", b"ffffff\r\n" + b"x" * 5000):
        with connect(box) as connection:
            connection.sendall(request(method, path, *headers, token=token) + body)
            if abruptly:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST and no FIN


def test_http_1_0_is_answered_and_closed(box, token):
    known = f"Host: x\r\nAuthorization: Bearer {token}\r\n"
    for head in (f"GET {VERSIONS} HTTP/1.0\r\n\r\n", f"GET {V3}/account/whoami HTTP/1.0\r\n{known}\r\n"):
        with connect(box) as connection:
            connection.sendall(head.encode())
            answer = read(connection)
            assert status(answer) == 200
            assert connection.recv(10) == b""


def test_head_is_get_without_a_body(box, token):
    asked = ((VERSIONS, 200), (f"{V3}/account/whoami", 200), (f"{V3}/devices/none", 404), ("/nowhere", 404), (f"{V3}/login", 200))
    for path, expected in asked:
        got = box.request("GET", path, None, token)
        with connect(box) as connection:
            connection.sendall(request("HEAD", path, "Connection: close", token=token))
            whole = b""
            while part := connection.recv(65536):
                whole += part
        head, _, body = whole.partition(b"\r\n\r\n")
        assert (status(head), got.status, body) == (expected, expected, b"")
        assert f"content-length: {len(got.body)}".encode() in head.lower()


LIES = [
    ("Content-Length: 3",),  # the rest of the body is not a request
    ("Content-Length: -1",),
    ("Content-Length: x",),
    ("Content-Length: 99999999999999999999999999",),
    ("Content-Length: 5", "Content-Length: 11"),
    ("Content-Length: 11", "Transfer-Encoding: chunked"),
    ("Transfer-Encoding: gzip",),
    ("Transfer-Encoding: chunked, chunked",),
    ("Content-Length: 1_1",),
    ("Content-Length: +11",),
]


@pytest.mark.parametrize("headers", LIES, ids=" ".join)
def test_lengths_that_lie_are_refused_or_end_the_connection(box, token, headers):
    answer = say(box, request("POST", FILTER, *headers, token=token) + b'{"room":{}}' + request("GET", VERSIONS))
    assert status(answer) in (0, 400, 413, 501), answer[:300]
    assert answer.count(b"HTTP/1.1 200") == 0, answer[:600]


NONSENSE = [
    b"\r\n\r\n\r\n", b"\x00" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 300, b"GET " + b"/a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(5000)) + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /%00%ff%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"G\xc3\x84T / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://a.test/_matrix/client/versions HTTP/1.1\r\nHost: x\r\n\r\n", b"CONNECT a.test:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", b"* * *", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 9 + b"nonsense",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: %%%\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n",
    b"GET /_matrix/client/versions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    b"GET /_matrix/client/v3/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    b"GET /_matrix/client/v3/sync HTTP/1.1\r\nHost: x\r\nAuthorization: " + b"Bearer " * 2000 + b"\r\n\r\n",
    b"GET /_matrix/client/v3/publicRooms?" + b"&a=b" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(NONSENSE)))
def test_nonsense_is_refused_or_let_go(box, number):
    answer = say(box, NONSENSE[number])
    assert status(answer) < 500 or status(answer) == 501, answer[:300]


def test_bodies_where_none_belongs_and_requests_in_a_row(box, token):
    whoami = request("GET", f"{V3}/account/whoami", "Content-Length: 2", token=token) + b"{}"
    with connect(box) as connection:
        connection.sendall(whoami * 5)
        connection.settimeout(3)
        whole = b""
        while whole.count(b"@alice:a.test") < 5:
            whole += connection.recv(65536)
    assert whole.count(b"HTTP/1.1 200") == 5
    assert status(say(box, request("DELETE", f"{V3}/devices/x", "Content-Length: 7", token=token) + b"[1,2,3]")) in (400, 401, 404)


def test_who_waits_for_100_continue_is_told(box, token):
    body = b'{"room":{}}'
    head = request("POST", FILTER, f"Content-Length: {len(body)}", "Expect: 100-continue", token=token)
    with connect(box) as connection:
        connection.sendall(head)
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert status(read(connection)) == 200


EVERYWHERE = [VERSIONS, f"{V3}/sync", f"{V3}/nowhere", "/", "/_matrix/media/v3/upload", f"{V3}/rooms/%ff/state", "/%zz"]


@pytest.mark.parametrize("path", EVERYWHERE)
def test_browsers_are_let_in_everywhere(box, token, path):
    """Spec: "Web Browser Clients"; errors of every kind too, or the browser hides them from the app."""
    origin = ("Origin: https://app.example.org", "Access-Control-Request-Method: PUT", "Connection: close")
    for method in ("OPTIONS", "GET", "POST", "PUT", "DELETE", "PATCH"):
        answer = say(box, request(method, path, *origin, "Content-Length: 0")).lower()
        assert b"access-control-allow-origin: *" in answer, (method, answer)
        assert b"access-control-allow-methods: get, post, put, patch, delete, options" in answer
        assert b"access-control-allow-headers: x-requested-with, content-type, authorization" in answer
        assert status(answer.upper()) in ((200, 204) if method == "OPTIONS" else (200, 400, 401, 404, 405)), (method, answer)


@contextmanager
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors(box: Box) -> int:
    return len(os.listdir(f"/proc/{box.program.pid}/fd"))


def test_a_thousand_idle_connections_cost_little_and_go_with_their_clients(box, token):
    before, open_before = box.rss(), descriptors(box)
    with many_files(), ExitStack() as stack:
        for number in range(1000):
            one = stack.enter_context(connect(box))
            if number % 100 == 99:
                time.sleep(0.1)  # or the system's queue of those who knock is full, and it makes them wait a second
            if number % 3:
                one.sendall(b"GET / HT" if number % 3 == 1 else request("GET", VERSIONS))
        for _ in range(5):
            assert box.request("GET", f"{V3}/account/whoami", None, token, timeout=5).status == 200
        assert descriptors(box) > open_before + 900
        assert box.rss() - before < 80_000_000
    wait_for("the connections are closed", lambda: descriptors(box) < open_before + 20, timeout=10)


def test_clients_that_come_and_go_leave_no_connection_behind(box, token):
    before = descriptors(box)
    for _ in range(50):
        assert box.request("GET", f"{V3}/account/whoami", None, token).status == 200
    wait_for("the connections are closed", lambda: descriptors(box) <= before + 2, timeout=5)


def test_when_all_places_are_taken_the_longest_idle_makes_room(tmp_path):
    """With few descriptors, more clients than places, and the first of them in the middle of a long poll."""
    limited = ["prlimit", f"--nofile={PLACES + OTHER_FILES}:{PLACES + OTHER_FILES}"]
    with local_box(tmp_path, "a.test", wrapper=limited) as box, ExitStack() as stack:
        token = register(box)
        since = box.request("GET", f"{V3}/sync", None, token).json["next_batch"]
        polling = stack.enter_context(connect(box))
        polling.sendall(request("GET", f"{V3}/sync?timeout=60000&since={since}", token=token))
        idle = [stack.enter_context(connect(box)) for _ in range(300)]
        assert box.request("GET", f"{V3}/account/whoami", None, token, timeout=5).status == 200
        assert box.request("POST", "/_matrix/media/v3/upload", b"x" * 1000, token, timeout=5).status == 200
        room = box.request("POST", f"{V3}/createRoom", {}, token).json["room_id"]
        assert room in read(polling).decode()
        assert idle[0].recv(1) == b""
        busy = [stack.enter_context(connect(box)) for _ in range(100)]
        for one in busy:
            one.sendall(request("POST", f"{V3}/login", "Content-Length: 10", "Expect: 100-continue"))
        wait_for("each is served or let go", lambda: all(is_heard(one) or is_closed(one) for one in busy), timeout=10)
        while not is_closed(busy[-1]):  # who came but has said nothing yet is idle too, and may have been let go for others
            busy.append(stack.enter_context(connect(box)))
            busy[-1].sendall(request("POST", f"{V3}/login", "Content-Length: 10", "Expect: 100-continue"))
            wait_for("it is served or let go", lambda: is_heard(busy[-1]) or is_closed(busy[-1]), timeout=10)
            assert len(busy) < 110
        assert sum(map(is_heard, busy)) == PLACES
        with connect(box) as late:  # nobody is idle: the newcomer is let go
            wait_for("the newcomer is let go", lambda: is_closed(late), timeout=5)
        for one in busy:
            one.close()
        wait_for("others are served", lambda: answers_again(box, token), timeout=5)
        assert box.log().count("places for connections are taken") == 1
        assert box.troubles() == []


def is_closed(connection: socket.socket) -> bool:
    """Whether the box has closed it; it has said nothing before."""
    return next_byte(connection) == b""


def is_heard(connection: socket.socket) -> bool:
    """Whether the box has begun to answer."""
    return bool(next_byte(connection))


def next_byte(connection: socket.socket) -> bytes | None:
    """What the box has said and nobody has read yet; empty if it has closed the connection, None if neither."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""


def answers_again(box: Box, token: str) -> bool:
    try:
        return box.request("GET", f"{V3}/account/whoami", None, token, timeout=2).status == 200
    except OSError:
        return False
