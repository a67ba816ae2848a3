"""Where notifications may go: to this box itself, to the internet, to what the operator has named, and nowhere else."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson
import pytest
import trio

from edgeserver.app.push import OwnNames, PushGateways, is_of_this_machine, web_post
from edgeserver.config import parse
from edgeserver.federation.internet import InternetWeb
from edgeserver.push.gateways import NotAllowed
from edgeserver.push.topics import Topics
from edgeserver.push.unifiedpush import UnifiedPush
from edgeserver.store.database import open_database
from tests.federation.test_discovery import FakeDns
from transports.exchange import Request, Response, Unreachable
from transports.http import HttpPool, Plaintext, Route, VerifiedName

PATH = "/_matrix/push/v1/notify"
TOPIC = "upAbCdEfGhIjKl"
LISTENING = '[http]\nclient = ["0.0.0.0:8008"]\nfederation = ["0.0.0.0:8448"]\n'
NAMES = {
    "push.example": ["198.41.0.4"],
    "lan.example": ["192.168.1.7"],
    "both.example": ["10.0.0.1", "198.41.0.4"],
    "self.example": ["127.0.0.1"],
}


class Pool:
    """Keeps what would have been sent, and where."""

    def __init__(self) -> None:
        self.taken: list[tuple[Request, Route]] = []

    async def exchange(
        self, request: Request, route: Route, *, max_response: int | None = None, allow_plaintext: bool = False
    ) -> Response:
        await trio.lowlevel.checkpoint()
        assert allow_plaintext or not isinstance(route.tls, Plaintext)
        self.taken.append((request, route))
        return Response(200, (), b'{"rejected":[]}')


class Rig:
    """`lan` are the names that the machine's own resolver knows."""

    lan: Mapping[str, list[str]] = MappingProxyType({"edge.router": ["127.0.0.1"], "other.router": ["192.168.1.9"]})

    async def lookup(self, host: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        return self.lan.get(host, [host] if host[:1].isdigit() else [])

    def __init__(self, text: str = "", *, box: UnifiedPush | None = None, internet: bool = True) -> None:
        self.pool: Any = Pool()
        self.is_up = True
        config = parse(LISTENING + text)
        post = web_post(InternetWeb(FakeDns(NAMES), self.pool), lambda: self.is_up) if internet else None
        self.own = OwnNames(config, "box.test")
        self.gateways = PushGateways(config, self.own, box, post, self.pool, self.lookup)

    async def notify(self, url: str, body: bytes = b"{}") -> Response:
        return await self.gateways.notify(url, body)


async def test_a_gateway_on_the_internet_is_told_over_tls() -> None:
    rig = Rig()
    await rig.notify(f"https://push.example{PATH}", b"body")
    await rig.notify(f"https://push.example:8443{PATH}?a=b", b"body")
    (first, route), (second, other) = rig.pool.taken
    assert (first.method, first.target, first.authority, first.body) == ("POST", PATH, "push.example", b"body")
    assert first.header("content-type") == "application/json"
    assert route == Route("push.example", ("198.41.0.4",), 443, VerifiedName("push.example"))
    assert (second.target, second.authority, other.port) == (f"{PATH}?a=b", "push.example:8443", 8443)


@pytest.mark.parametrize(
    "origin",
    [
        "https://10.0.0.1", "https://192.168.1.1:8443", "https://127.0.0.1", "https://127.0.0.1:22", "https://169.254.169.254",
        "https://100.64.0.1", "https://[::1]", "https://[fe80::1]", "https://[fd00::1]", "https://[::ffff:10.0.0.1]", "https://0.0.0.0",
        "https://lan.example", "https://self.example", "http://push.example", "http://192.168.1.20:2586", "http://localhost:9200",
        "http://192.168.1.20:8008", "https://[64:ff9b::a00:1]", "https://224.0.0.1",
    ],
)  # fmt: skip
async def test_a_user_cannot_make_the_box_call_what_is_not_of_the_internet(origin: str) -> None:
    rig = Rig()
    with pytest.raises(NotAllowed):
        await rig.notify(origin + PATH)
    assert rig.pool.taken == []


async def test_of_a_name_with_addresses_of_both_kinds_the_public_ones_are_called() -> None:
    rig = Rig()
    await rig.notify(f"https://both.example{PATH}")
    assert rig.pool.taken[0][1].addresses == ("198.41.0.4",)


async def test_what_the_operator_has_named_is_called_also_without_internet() -> None:
    text = '[push]\nprivate_gateways = ["http://192.168.1.20:2586", "https://192.168.1.21"]\n'
    rig = Rig(text, internet=False)
    await rig.notify(f"http://192.168.1.20:2586{PATH}")
    await rig.notify(f"https://192.168.1.21{PATH}")
    assert [route for _, route in rig.pool.taken] == [
        Route("192.168.1.20:2586", ("192.168.1.20",), 2586, Plaintext()),
        Route("192.168.1.21", ("192.168.1.21",), 443, VerifiedName("192.168.1.21")),
    ]
    for origin in ("http://192.168.1.20", "https://192.168.1.20:2586", "http://192.168.1.21", "https://push.example"):
        with pytest.raises(NotAllowed):
            await rig.notify(origin + PATH)


async def test_the_internet_is_left_alone_where_it_is_not_to_be_used_or_is_not_there() -> None:
    with pytest.raises(NotAllowed):
        await Rig("[push]\ninternet_gateways = false\n").notify(f"https://push.example{PATH}")
    rig = Rig()
    rig.is_up = False
    with pytest.raises(Unreachable) as away:
        await rig.notify(f"https://push.example{PATH}")
    assert not isinstance(away.value, NotAllowed)
    assert rig.pool.taken == []


async def test_plain_http_to_a_named_gateway_goes_over_the_wire() -> None:
    """The pool of the box speaks it to nobody else."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    heard: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            while b"told" not in b"".join(heard):
                heard.append(await stream.receive_some())
            await stream.send_all(b'HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{"rejected":[]}')

    config = parse(f'{LISTENING}[push]\nprivate_gateways = ["http://127.0.0.1:{port}"]\n')
    async with HttpPool() as pool, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        gateways = PushGateways(config, OwnNames(config, "box.test"), None, None, pool)
        with trio.fail_after(10):
            answer = await gateways.notify(f"http://127.0.0.1:{port}{PATH}", b"told")
        nursery.cancel_scope.cancel()
    assert answer.status == 200
    assert b"".join(heard).startswith(f"POST {PATH} HTTP/1.1\r\n".encode())


async def test_the_boxs_own_gateway_is_told_in_the_process(tmp_path: Path) -> None:
    machine = socket.gethostname().lower().partition(".")[0]
    async with open_database(tmp_path / "x.db", inline=True) as db:
        topics = Topics(db, lambda: 1_790_000_000_000)
        text = 'public_url = "https://chat.example"\n[push]\nunifiedpush_urls = ["http://192.168.7.7:8008"]\n'
        origins = ("http://127.0.0.1:8008", "http://box.test", f"http://{machine}.local:8008", "https://chat.example", "http://192.168.7.7:8008")
        origins = (*origins, "http://edge.router:8008")
        rig = Rig(text)
        rig = Rig(text, box=UnifiedPush(topics, rig.own))
        for origin in origins:
            body = orjson.dumps({"notification": {"devices": [{"pushkey": f"{origin}/{TOPIC}?up=1"}]}})
            answer = await rig.notify(origin + PATH, body)
            assert orjson.loads(answer.body) == {"rejected": []}, origin
        assert rig.pool.taken == []
        with pytest.raises(NotAllowed, match="no push gateway"):
            await Rig(text).notify(f"http://127.0.0.1:8008{PATH}")


async def test_a_name_of_the_local_network_is_this_box_or_is_not_called_and_one_that_nobody_knows_now_is_tried_again() -> None:
    rig = Rig()
    with pytest.raises(NotAllowed, match="https"):
        await rig.notify(f"http://other.router:8008{PATH}")
    with pytest.raises(Unreachable) as away:
        await rig.notify(f"http://nobody.router:8008{PATH}")
    assert not isinstance(away.value, NotAllowed)
    assert rig.pool.taken == []


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8009", "http://box.test:9", "https://chat.example:8443", "http://x:y", "ftp://box.test"])
def test_other_ports_of_this_machine_are_not_this_box(origin: str) -> None:
    scheme, _, authority = origin.partition("://")
    assert not Rig('public_url = "https://chat.example"\n').own(scheme, authority)


def test_an_address_is_of_this_machine_if_it_can_be_bound_to() -> None:
    assert is_of_this_machine("127.0.0.1")
    for other in ("192.0.2.7", "0.0.0.0", "::", "localhost", "x", "2001:db8::7"):
        assert not is_of_this_machine(other)
