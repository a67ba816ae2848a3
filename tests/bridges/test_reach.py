"""The way to an application service's URL, over real sockets."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from edgeserver.bridges.calls import ServiceCalls, ServiceFailed
from edgeserver.bridges.reach import UrlExchange
from edgeserver.bridges.registration import Registration
from edgeserver.bridges.services import Service
from transports.exchange import Request, Unreachable
from transports.http import HttpPool


async def test_a_transaction_goes_in_the_clear_below_the_urls_path_with_the_hs_token() -> None:
    heard: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        data = b""
        async for chunk in stream:
            data += chunk
            if data.endswith(b"}"):
                heard.append(data)
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                data = b""

    async with trio.open_nursery() as nursery, HttpPool(allow_plaintext=True) as pool:
        [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        url = f"http://localhost:{port}/bridge"
        service = Service(Registration("irc", url, "a", "hs-secret", "bot"), "a.test")
        calls = ServiceCalls(service, UrlExchange(pool, url))
        await calls.send("a/b", {"events": []})
        await calls.send("2", {"events": []})
        nursery.cancel_scope.cancel()
    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /bridge/_matrix/app/v1/transactions/a%2Fb HTTP/1.1\r\n")
    assert f"Host: localhost:{port}\r\n".encode() in head
    assert b"Authorization: Bearer hs-secret\r\n" in head
    assert body == b'{"events":[]}'
    assert len(heard) == 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://nowhere.invalid:9", "https://127.0.0.1:1"])
async def test_nobody_there_is_said_and_no_more(url: str) -> None:
    async with HttpPool(allow_plaintext=True) as pool:
        exchange = UrlExchange(pool, url)
        with pytest.raises(Unreachable):
            await exchange.exchange(Request("GET", "/"))
        service = Service(Registration("irc", url, "a", "h", "bot"), "a.test")
        with pytest.raises(ServiceFailed):
            await ServiceCalls(service, exchange).send("1", {})
