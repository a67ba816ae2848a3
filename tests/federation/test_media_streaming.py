"""Media of other servers in pieces: from the wire to the disk, and never whole in memory."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from edgeserver.federation.calls import Calls
from edgeserver.federation.client import Ask, FederationClient
from edgeserver.federation.errors import BadAnswer
from edgeserver.federation.multipart import MAX_HEAD, MediaReader, MediaSink, decode_media
from edgeserver.federation.peers import Peers
from edgeserver.matrix import errors
from edgeserver.matrix.signatures import SigningKey
from edgeserver.media.files import FileStore
from edgeserver.media.multipart import frame
from edgeserver.media.open_files import Received
from tests.transports.test_http import ok, plain, serving
from transports.exchange import LinkProfile, Request, Response, TooLarge
from transports.http import HttpPool

KEY = SigningKey(b"k" * 32, "ed25519:k")
AROUND = frame("image/png", 'inline; filename="a.png"', "0" * 64)


def pieces(body: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    return [body[start:stop] for start, stop in pairwise(places)]


@given(
    st.one_of(st.binary(max_size=300), st.sampled_from([b"\r\n--edge-", b"\r\n--edge-" + b"0" * 63, b"\r\n", b"\r\n\r\n"])),
    st.lists(st.integers(0, 900), max_size=12),
)
def test_in_whatever_pieces_it_comes_it_is_the_same(data: bytes, cuts: list[int]) -> None:
    reader = MediaReader(AROUND.content_type)
    whole = AROUND.head + data + AROUND.tail
    came = b"".join(reader.feed(piece) for piece in pieces(whole, cuts))
    told = reader.finish()
    assert (came, told.content_type, told.content_disposition) == (data, "image/png", 'inline; filename="a.png"')
    assert decode_media(AROUND.content_type, whole).body == data


def test_what_never_begins_is_not_waited_for() -> None:
    reader = MediaReader("multipart/mixed; boundary=x")
    reader.feed(b"y" * MAX_HEAD)
    with pytest.raises(ValueError, match="no beginning"):
        reader.feed(b"y")
    reader = MediaReader("multipart/mixed; boundary=x")
    with pytest.raises(ValueError, match="no beginning"):
        reader.feed(b"--x\r\n\r\n{}\r\n--x\r\n" + b"a: b\r\n" * 5000)


class Line:
    """One way to all servers, which gives bodies whole, as links do."""

    profile = LinkProfile("line")

    def __init__(self, *answers: Response) -> None:
        self.answers = list(answers)

    async def exchange(self, request: Request) -> Response:
        return self.answers.pop(0)


def calls_over(*answers: Response) -> Calls:
    return Calls(FederationClient("us.test", KEY, Peers("us.test", Line(*answers), internet_up=True)))


def wrapped(body: bytes, content_type: str = AROUND.content_type) -> Response:
    return Response(200, (("Content-Type", content_type),), AROUND.head + body + AROUND.tail)


async def received(files: FileStore, calls: Calls, limit: int = 1000) -> Received:
    async with files.incoming(limit) as incoming:
        await calls.download("a.test", "id", max_bytes=limit, into=incoming)
        return await incoming.finish()


@pytest.fixture
async def files(tmp_path: Path) -> FileStore:
    store = FileStore(tmp_path)
    await store.open()
    return store


async def test_a_body_that_comes_whole_goes_the_same_way(files: FileStore) -> None:
    got = await received(files, calls_over(wrapped(b"hello")))
    assert got.path.read_bytes() == b"hello"


@pytest.mark.parametrize(
    "answer",
    [
        wrapped(b"x", "text/plain"),
        Response(200, (("Content-Type", AROUND.content_type),), AROUND.head + b"broken off"),
        Response(200, (("Content-Type", AROUND.content_type),), b""),
        Response(200, (("Content-Type", AROUND.content_type),), b"z" * 9000),
    ],
)
async def test_a_malformed_answer_leaves_nothing(files: FileStore, tmp_path: Path, answer: Response) -> None:
    with pytest.raises(BadAnswer):
        await received(files, calls_over(answer))
    assert left_over(tmp_path) == []


async def test_media_beyond_the_limit_is_not_written(files: FileStore, tmp_path: Path) -> None:
    with pytest.raises(errors.TooLarge):
        await received(files, calls_over(wrapped(b"x" * 1001)))
    assert left_over(tmp_path) == []


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# Over HTTP


class Taken:
    """A `BodySink` that notes."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.began, self.chunks, self.failure = 0, [], failure

    async def begin(self, headers: object) -> None:
        self.began += 1
        self.chunks = []

    async def write(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        if self.failure is not None:
            raise self.failure


async def test_the_body_of_a_success_goes_to_the_sink_and_that_of_an_error_does_not() -> None:
    async with serving(ok(b"hello"), ok(b"no", b"404 Not Found"), ok(b"")) as server, HttpPool(allow_plaintext=True) as pool:
        sink = Taken()
        response = await pool.exchange(Request("GET", "/", sink=sink), plain(server))
        assert (response.body, b"".join(sink.chunks), sink.began) == (b"", b"hello", 1)
        response = await pool.exchange(Request("GET", "/", sink=sink), plain(server))
        assert (response.status, response.body, sink.began) == (404, b"no", 1)
        await pool.exchange(Request("GET", "/", sink=sink), plain(server))
        assert (sink.began, sink.chunks) == (2, [])


async def test_a_sink_that_fails_ends_the_exchange_and_the_next_one_works() -> None:
    async with serving(ok(b"x" * 300_000)) as server, HttpPool(allow_plaintext=True) as pool:
        with pytest.raises(OSError, match="full"):
            await pool.exchange(Request("GET", "/", sink=Taken(OSError("full"))), plain(server))
        server.answers = [ok(b"x" * 300_000)]
        with pytest.raises(TooLarge):
            await pool.exchange(Request("GET", "/", sink=Taken(), max_response=1000), plain(server))
        assert (await pool.exchange(Request("GET", "/"), plain(server))).body == b"hello"


@pytest.mark.alone
async def test_a_large_file_of_another_server_never_lies_in_memory(files: FileStore) -> None:
    size = 40_000_000

    async def answer(stream: trio.SocketStream) -> None:
        length = len(AROUND.head) + size + len(AROUND.tail)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {AROUND.content_type}\r\nContent-Length: {length}\r\n\r\n"
        await stream.send_all(head.encode() + AROUND.head)
        for _ in range(size // 40_000):
            await stream.send_all(bytes(40_000))
        await stream.send_all(AROUND.tail)

    async with serving(answer) as server, HttpPool(allow_plaintext=True) as pool, files.incoming(size) as incoming:
        client = FederationClient("us.test", KEY, Peers("us.test", pool.peer(plain(server)), internet_up=True))
        sink = MediaSink(incoming)
        tracemalloc.start()
        try:
            await client.response("a.test", Ask("GET", "/", max_answer=size + 8192, sink=sink))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert sink.media().content_type == "image/png"
        assert (await incoming.finish()).size == size
        assert peak < 3_000_000
