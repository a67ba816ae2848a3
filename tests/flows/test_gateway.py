"""A box without internet behind a gateway, by a thin line: A is paired with G, and C is a stranger's server on the internet."""

from __future__ import annotations

from contextlib import asynccontextmanager

import trio

from edgeserver.federation import key_response
from edgeserver.matrix.signatures import sign_request
from tests.asgi import AsgiClient
from tests.flows.world import BoxInWorld, World, until
from transports.memory import Medium, MemoryCable

KEYS = "/_matrix/key/v2/server"
LINK = '[[links]]\nuri = "serial:/dev/null,9600"\nname = "line"\n'


@asynccontextmanager
async def behind_a_gateway(tmp_path):
    """(world, A, G, C, the cable between A and G); returns when G fronts for A."""
    cable = MemoryCable(Medium(9600), seed=5)
    async with World(tmp_path) as world:
        g = await world.box("g", LINK, {"line": cable.b}, server_name="gw.test")
        offline = '[server]\nsuffix = "gw.test"\n[federation]\ninternet = false\n'
        a = await world.box("a", offline + LINK, {"line": cable.a}, server_name="")
        c = await world.box("c", server_name="c.test")
        code, _ = g.box.links.open_offer(front=True)
        await a.box.links.join_offer("line", code, gateway=True)

        async def fronted() -> bool:
            return g.box.gateway.fronts(a.server_name)

        await until(fronted)
        world.internet.plug(a.server_name, g.box.app)  # the wildcard in DNS
        yield world, a, g, c, cable


async def ask(g: BoxInWorld, host: str, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b""):
    return await AsgiClient(g.box.app).request(method, target, headers={"host": host, **(headers or {})}, body=body)


async def test_people_meet_through_a_gateway(tmp_path, autojump_clock):
    async with behind_a_gateway(tmp_path) as (_, a, _, c, cable):
        alice, carol = await a.person("alice"), await c.person("carol")
        room_id = await alice.create_room(preset="public_chat", name="Hut")
        await carol.join(room_id, via=a.server_name)
        await alice.say(room_id, "from the hut")
        await carol.say(room_id, "from the town")

        async def both() -> bool:
            wanted = ["from the hut", "from the town"]
            return sorted(await alice.texts(room_id)) == wanted == sorted(await carol.texts(room_id))

        await until(both)
        cable.unplug()
        await trio.sleep(300)
        await carol.say(room_id, "are you there?")
        await alice.say(room_id, "cut off")
        await trio.sleep(600)
        assert "are you there?" not in await alice.texts(room_id)
        cable.plug()

        async def whole() -> bool:
            wanted = ["are you there?", "cut off", "from the hut", "from the town"]
            return sorted(await alice.texts(room_id)) == wanted == sorted(await carol.texts(room_id))

        await until(whole, seconds=8000)


async def test_its_keys_are_had_from_the_gateway_while_it_is_away_though_nobody_asked_before(tmp_path, autojump_clock):
    async with behind_a_gateway(tmp_path) as (_, a, g, _, cable):
        name = a.server_name

        async def held() -> bool:
            return g.box.gateway.key_response(name) is not None

        await until(held, seconds=120)
        cable.unplug()
        await trio.sleep(600)
        answer = await ask(g, name, "GET", KEYS)
        assert answer.status == 200
        assert a.box.identity.signing_key.verify_key in key_response.read(answer.json, name).current.values()
        assert (await ask(g, name, "GET", "/_matrix/federation/v1/version")).status == 504


async def test_a_stranger_cannot_speak_as_the_gateway_to_the_box_behind_it(tmp_path, autojump_clock):
    async with behind_a_gateway(tmp_path) as (_, a, g, c, _):
        target = "/_matrix/federation/v1/send/1"
        body = b'{"origin":"gw.test","origin_server_ts":1,"pdus":[]}'
        assert (await ask(g, a.server_name, "PUT", target, body=body)).status == 401
        content = {"origin": "gw.test", "origin_server_ts": 1, "pdus": []}
        forged = sign_request("PUT", target, "gw.test", a.server_name, c.box.identity.signing_key, content)
        assert (await ask(g, a.server_name, "PUT", target, {"authorization": forged}, body)).status == 401


async def test_when_the_uplink_of_the_gateway_returns_the_box_behind_it_reports_at_once(tmp_path, autojump_clock):
    async with behind_a_gateway(tmp_path) as (world, a, _, c, _):
        alice, carol = await a.person("alice"), await c.person("carol")
        room_id = await alice.create_room(preset="public_chat")
        await carol.join(room_id, via=a.server_name)
        world.internet.cut("gw.test", "c.test")
        await alice.say(room_id, "into the storm")
        await trio.sleep(6000)  # by now it waits for most of an hour between its tries
        assert await carol.texts(room_id) == []
        world.internet.heal()

        async def heard() -> bool:
            return await carol.texts(room_id) == ["into the storm"]

        await until(heard, seconds=120)
