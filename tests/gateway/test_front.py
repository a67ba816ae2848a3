"""What a gateway carries, for whom, and how it arrives."""

from __future__ import annotations

import orjson
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from edgeserver.gateway.front import MAX_BODY, MAX_UNDER_WAY, MAX_UNSIGNED_BODY, GatewayFront
from edgeserver.matrix.signatures import sign_request
from tests.asgi import AsgiClient
from tests.gateway.places import DAY, GATEWAY, NOW, KeyedBox, Line, gateway_of, pair
from transports.exchange import Interrupted, LinkProfile, Response, TimedOut, TooLarge, Unreachable

KEYS = "/_matrix/key/v2/server"
SEND = "/_matrix/federation/v1/send/t%201?x=%2F"


class Own:
    """The gateway's own application: says that it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope, receive, send):
        self.asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"own"})


class Rig:
    """A gateway in front of box `a`, which has announced itself by `line`; `out` is its way to everybody else."""

    def __init__(self, a: KeyedBox, routes, now) -> None:
        self.a, self.routes, self.now = a, routes, now
        self.own, self.line, self.out = Own(), Line(bit_rate=2400, peer=a.name), Line()
        self.ways = [self.out]
        self.keys = {"c.example.org": KeyedBox(9, "c.example.org").public_key, a.name: a.public_key}
        self.front = GatewayFront(self.own, GATEWAY, routes, lambda name: self.ways, self.key_of)
        routes.link_up(a.public_key, self.line)

    async def key_of(self, server_name: str, key_id: str) -> bytes | None:
        return self.keys.get(server_name)

    def away(self) -> None:
        self.routes.link_down(self.a.public_key, self.line)

    async def ask(self, host: str, method: str = "GET", target: str = KEYS, peer: str | None = None, **options):
        link = LinkProfile("line", 2400, None, peer) if peer is not None else None
        headers = {"host": host, **options.pop("headers", {})}
        return await AsgiClient(self.front, link=link).request(method, target, headers=headers, **options)


@pytest.fixture
async def rig(db):
    now = [NOW]
    a = KeyedBox(1)
    routes = await gateway_of(db, a, now_ms=lambda: now[0])
    await routes.accept(a.name, {"routes": [[a.word(GATEWAY)]]})
    return Rig(a, routes, now)


def signed(method: str, target: str, destination: str, content: object = None, *, by: KeyedBox | None = None) -> dict[str, str]:
    author = by or KeyedBox(9, "c.example.org")
    return {"authorization": sign_request(method, target, author.name, destination, author.key, content)}


async def test_a_request_from_the_internet_arrives_as_it_was_sent(rig):
    rig.line.answer = Response(403, (("Content-Type", "application/json"), ("X-Secret", "1")), b'{"errcode":"M_FORBIDDEN"}')
    content = {"pdus": [], "b": 1, "a": "é"}
    body = b'{ "pdus": [], "b": 1,\n "a": "\\u00e9" }'
    headers = {**signed("PUT", SEND, rig.a.name, content), "content-type": "application/json", "cookie": "c", "x-forwarded-for": "1"}
    answer = await rig.ask(rig.a.name, "PUT", SEND, body=body, headers=headers)
    (request,) = rig.line.carried
    assert (request.method, request.target, request.authority, request.body) == ("PUT", SEND, rig.a.name, body)
    assert dict(request.headers) == {"authorization": headers["authorization"], "content-type": "application/json"}
    assert (answer.status, answer.body) == (403, rig.line.answer.body)
    assert answer.headers == {"content-type": "application/json", "content-length": str(len(answer.body))}
    assert rig.own.asked == []


@pytest.mark.parametrize("spelling", ["{}", "{}:443", "{}:8448", "upper"])
async def test_the_name_is_known_in_every_spelling_that_means_it(rig, spelling):
    host = rig.a.name.upper() if spelling == "upper" else spelling.format(rig.a.name)
    await rig.ask(host)
    assert [request.authority for request in rig.line.carried] == [rig.a.name]


@pytest.mark.parametrize(
    "host",
    [
        GATEWAY,
        f"{GATEWAY}:443",
        f"{GATEWAY}:8008",
        GATEWAY.upper(),
        f"{GATEWAY}.",
        "c.example.org",
        "c.example.org:8448",
        "127.0.0.1",
        "127.0.0.1:8008",
        "[::1]:8448",
        "localhost",
        "",
        "a b",
        "x" * 300,
        "unknown." + GATEWAY,
    ],
)
async def test_a_stranger_gets_nothing_carried_to_anybody_who_is_not_fronted(rig, host):
    answer = await rig.ask(host, headers=signed("GET", KEYS, host))
    assert (answer.status, answer.body) == (404, b"own")
    assert (rig.line.carried, rig.out.carried) == ([], [])


async def test_other_names_of_a_fronted_box_are_not_carried(rig):
    for host in (f"{rig.a.name}.", f"{rig.a.name}:8008", f"x{rig.a.name}", f"www.{rig.a.name}"):
        assert (await rig.ask(host)).body == b"own"
    assert rig.line.carried == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/_matrix/client/versions",
        "/_matrix/client/v3/login",
        "/_matrix/media/v3/download/a/b",
        "/_edgeserver/v1/time",
        "/_matrix/federation",
        "/_MATRIX/federation/v1/version",
        "/_matrix/federation/../client/versions",
        "/_matrix/federation/%2e%2e/client/versions",
        "/_matrix/key/v2/..%2f..%2fclient",
        "//_matrix/key/v2/server",
    ],
)
async def test_only_what_servers_say_to_each_other_is_carried(rig, path):
    for host, peer in ((rig.a.name, None), ("c.example.org", rig.a.name)):
        answer = await rig.ask(host, target=path, peer=peer, headers=signed("GET", path, host))
        assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")
    assert (rig.line.carried, rig.out.carried) == ([], [])


async def test_an_unsigned_request_cannot_pass_for_the_gateways_own(rig):
    for headers in ({}, {"authorization": ""}, {"authorization": "Bearer t"}, {"authorization": "X-Matrix"}):
        for host, peer in ((rig.a.name, None), ("c.example.org", rig.a.name)):
            answer = await rig.ask(host, "PUT", SEND, peer=peer, json={}, headers=headers)
            assert (answer.status, answer.json["errcode"]) == (401, "M_UNAUTHORIZED")
    assert (rig.line.carried, rig.out.carried) == ([], [])


async def test_what_needs_no_signature_is_carried_without_one(rig):
    for target in (KEYS, "/_matrix/federation/v1/version", "/_matrix/federation/v1/openid/userinfo?access_token=t"):
        assert (await rig.ask(rig.a.name, target=target)).status == 200
        assert (await rig.ask("c.example.org", target=target, peer=rig.a.name)).status == 200
    assert len(rig.line.carried) == len(rig.out.carried) == 3


async def test_what_is_too_large_is_not_carried(rig):
    target = "/_matrix/key/v2/query"
    assert (await rig.ask(rig.a.name, "POST", target, body=b" " * (MAX_UNSIGNED_BODY + 1))).status == 413
    large = b" " * (MAX_BODY + 1)
    assert (await rig.ask(rig.a.name, "PUT", SEND, body=large, headers=signed("PUT", SEND, rig.a.name))).status == 413
    assert rig.line.carried == []
    rig.line.answer = TooLarge("64 kB at most")
    answer = await rig.ask(rig.a.name, "PUT", SEND, json={}, headers=signed("PUT", SEND, rig.a.name, {}))
    assert (answer.status, answer.json["errcode"]) == (413, "M_TOO_LARGE")


@pytest.mark.parametrize("failure", [None, Unreachable("down"), Interrupted("broke"), TimedOut("late")])
async def test_while_a_box_is_away_the_answer_is_504(rig, failure):
    if failure is None:
        rig.away()
    else:
        rig.line.answer = failure
    answer = await rig.ask(rig.a.name, "PUT", SEND, json={}, headers=signed("PUT", SEND, rig.a.name, {}))
    assert (answer.status, answer.json["errcode"]) == (504, "M_UNKNOWN")
    assert (await rig.ask(rig.a.name)).status == 504, "its keys have never been seen"


async def test_its_keys_are_told_while_it_is_away(rig):
    rig.line.answer = Response(200, (("content-type", "application/json"),), rig.a.key_response())
    await rig.ask(rig.a.name)
    assert len(rig.line.carried) == 1
    assert (await rig.ask(rig.a.name)).json == orjson.loads(rig.a.key_response())
    assert len(rig.line.carried) == 1, "a thin line is not asked for what is known"
    rig.away()
    rig.now[0] += 3 * DAY
    answer = await rig.ask(rig.a.name, target=KEYS + "/")
    assert (answer.status, answer.json) == (200, orjson.loads(rig.a.key_response()))
    assert (await rig.ask(rig.a.name, "POST", KEYS)).status == 504


async def test_keys_that_run_out_are_asked_for_anew_also_on_a_thin_line(rig):
    rig.line.answer = Response(200, (), rig.a.key_response())
    await rig.ask(rig.a.name)
    rig.now[0] += DAY * 3 // 4
    rig.line.answer = Interrupted("broke")
    assert (await rig.ask(rig.a.name)).json == orjson.loads(rig.a.key_response()), "better than nothing"
    newer = rig.a.key_response(NOW + 2 * DAY)
    rig.line.answer = Response(200, (), newer)
    assert (await rig.ask(rig.a.name)).body == newer
    rig.away()
    assert (await rig.ask(rig.a.name)).body == newer


async def test_a_fronted_box_reaches_others_and_what_it_signs_arrives_unchanged(rig):
    content = {"b": 1}
    headers = signed("PUT", SEND, "c.example.org", content, by=rig.a)
    rig.out.answer = Response(200, (("content-type", "application/json"),), b'{"pdus":{}}')
    answer = await rig.ask("c.example.org", "PUT", SEND, peer=rig.a.name, body=b'{"b": 1}', headers=headers)
    (request,) = rig.out.carried
    assert (request.method, request.target, request.authority, request.body) == ("PUT", SEND, "c.example.org", b'{"b": 1}')
    assert request.header("authorization") == headers["authorization"]
    assert (answer.status, answer.body) == (200, b'{"pdus":{}}')


async def test_nobody_else_on_a_line_has_anything_carried(rig, db):
    b = KeyedBox(2)
    await pair(db, b, fronted=False)
    await rig.routes.load()
    for peer in (b.name, "client:abc", "c.example.org"):
        answer = await rig.ask("d.example.org", peer=peer)
        assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")
    assert rig.out.carried == []


@pytest.mark.provokes(404)
async def test_requests_of_a_paired_box_to_the_gateway_itself_are_its_own(rig):
    for host in (GATEWAY, ""):
        assert (await rig.ask(host, target="/_matrix/client/versions", peer=rig.a.name)).body == b"own"


async def test_the_next_way_out_is_tried_only_where_nothing_was_delivered(rig):
    first, second = Line(Unreachable("no route")), Line()
    rig.ways = [first, second]
    assert (await rig.ask("c.example.org", peer=rig.a.name)).status == 200
    assert (len(first.carried), len(second.carried)) == (1, 1)
    first.answer = Interrupted("broke")
    assert (await rig.ask("c.example.org", peer=rig.a.name)).status == 504
    assert (len(first.carried), len(second.carried)) == (2, 1)


async def test_a_request_never_goes_back_where_it_came_from(rig):
    rig.ways = [Line(peer=rig.a.name)]
    assert (await rig.ask("c.example.org", peer=rig.a.name)).status == 504
    assert rig.ways[0].carried == []


async def test_a_crowd_before_a_slow_box_is_bounded(rig):
    class Stuck(Line):
        async def exchange(self, request):
            self.carried.append(request)
            await trio.sleep_forever()

    rig.routes.link_up(rig.a.public_key, Stuck())
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as crowd:
            for _ in range(MAX_UNDER_WAY):
                crowd.start_soon(rig.ask, rig.a.name)
            await wait_all_tasks_blocked()
            answer = await rig.ask(rig.a.name)
            assert (answer.status, answer.json["errcode"]) == (429, "M_LIMIT_EXCEEDED")
            scope.cancel()
    rig.routes.link_up(rig.a.public_key, rig.line)
    assert (await rig.ask(rig.a.name)).status == 200


async def test_a_forged_request_costs_the_line_nothing(rig):
    forger = KeyedBox(8, "c.example.org")
    for headers in (signed("PUT", SEND, rig.a.name, {"pdus": []}, by=forger), signed("PUT", SEND, "elsewhere.example.org", {"pdus": []})):
        answer = await rig.ask(rig.a.name, "PUT", SEND, body=b'{"pdus":[]}', headers=headers)
        assert (answer.status, answer.json["errcode"]) == (401, "M_UNAUTHORIZED")
    headers = signed("PUT", SEND, rig.a.name, {"pdus": []})
    assert (await rig.ask(rig.a.name, "PUT", SEND, body=b'{"pdus":[1]}', headers=headers)).status == 401
    assert rig.line.carried == []
