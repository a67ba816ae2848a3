"""The way to a server over HTTP, and what the server's answers are taken for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from edgeserver.chat.client import Client, Refused
from edgeserver.chat.server import AddressError, ServerExchange, url_of
from transports.exchange import LinkProfile, Request, Response, Unreachable
from transports.http import HttpPool


@asynccontextmanager
async def listening(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """An HTTP server of one answer; its port, and the heads of the requests that it got."""
    heads: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            heads.append(await stream.receive_some(65536))
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1], heads
        nursery.cancel_scope.cancel()


async def test_a_server_behind_a_path_is_asked_there_and_under_its_name() -> None:
    async with listening(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as (port, heads), HttpPool(allow_plaintext=True) as pool:
        exchange = ServerExchange(pool, f"http://localhost:{port}/base/")
        assert (await exchange.exchange(Request("GET", "/_matrix/client/versions"))).body == b"{}"
        assert heads[0].startswith(b"GET /base/_matrix/client/versions HTTP/1.1\r\n")
        assert f"Host: localhost:{port}\r\n".encode() in heads[0]
        assert not exchange.profile.is_thin


async def test_a_server_that_nobody_knows_is_unreachable() -> None:
    async with HttpPool() as pool:
        with pytest.raises(Unreachable):
            await ServerExchange(pool, "https://nobody.invalid").exchange(Request("GET", "/"))


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:b", "http://a:99999", "http://a/?q", "https://bücher.example", "a"])
async def test_what_is_no_address_is_said_to_be_none(url: str) -> None:
    async with HttpPool() as pool:
        with pytest.raises(AddressError, match="is no address of a server"):
            ServerExchange(pool, url)


async def test_a_url_is_taken_as_it_is() -> None:
    async with HttpPool() as pool:
        assert await url_of(pool, "http://10.0.0.1:8008/") == "http://10.0.0.1:8008"


class Saying:
    """An exchange of one answer."""

    profile = LinkProfile("test")

    def __init__(self, response: Response) -> None:
        self.response = response

    async def exchange(self, request: Request) -> Response:
        return self.response


@pytest.mark.parametrize(
    ("response", "status", "sentence", "retry_after", "passes"),
    [
        (Response(403, (), b'{"errcode":"M_FORBIDDEN","error":"no\\u001b[2J"}'), 403, "no\ufffd[2J", None, False),
        (Response(429, (("retry-after", "7"),), b"{}"), 429, "The server answered 429 without a reason.", 7.0, True),
        (Response(429, (), b'{"error":"slowly","retry_after_ms":1500}'), 429, "slowly", 1.5, True),
        (Response(429, (("retry-after", "never"),), b'{"error":"slowly","retry_after_ms":"x"}'), 429, "slowly", None, True),
        (Response(502, (), b"<html>"), 502, "The server answered 502 without a reason.", None, True),
        (Response(200, (), b"<html>a portal</html>"), 502, "The server answered 200 without a reason.", None, True),
        (Response(200, (), b"[]"), 502, "The server answered 200 without a reason.", None, True),
    ],
)
async def test_refusals_are_understood(response: Response, status: int, sentence: str, retry_after: float | None, passes: bool) -> None:
    with pytest.raises(Refused) as caught:
        await Client(Saying(response)).versions()
    told = caught.value
    assert (told.status, str(told), told.retry_after, told.passes) == (status, sentence, retry_after, passes)
    assert not told.ends_session
