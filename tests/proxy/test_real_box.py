"""The proxy in front of a whole box, and what an ordinary client costs on 2400 baud, in bytes on the wire with all framing."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from urllib.parse import quote

import trio

from edgeserver.paired.facts import HeardFile
from edgeserver.paired.line import Line
from edgeserver.paired.pairing import pair
from edgeserver.paired.state import open_state
from edgeserver.proxy.application import ProxyApplication
from edgeserver.proxy.media import Policy
from tests.flows.world import World
from tests.proxy.rig import V3, HttpClient, until
from transports.link.connection import Link
from transports.memory import Medium, MemoryCable

LINK = '[limits]\nrate_limits = false\n[[links]]\nuri = "serial:/dev/null,2400"\nname = "line"\n'



class Meter:
    """Bytes on the wire, both ways together, since it was read last."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._read = 0
        self.figures: dict[str, int] = {}

    async def read(self, what: str) -> int:
        await trio.sleep(5)  # acknowledgements
        stats = self.link.stats
        total = stats.bytes_in + stats.bytes_out
        self.figures[what], self._read = total - self._read, total
        return self.figures[what]


@asynccontextmanager
async def paired_box(tmp_path, cable):
    """A box, the state of a proxy that has paired with it by code, and the line between, which is up."""
    async with paired_state(tmp_path, cable) as (box, state), line_of(state, cable) as (line, link):
        yield box, state, line, link


@asynccontextmanager
async def paired_state(tmp_path, cable):
    async with World(tmp_path) as world:
        box = await world.box("a", LINK, {"line": cable.b})
        code, _ = box.box.links.open_offer(front=False)
        state = open_state(tmp_path / "proxy", "proxy")
        state.pair(await pair(cable.a, state.identity, code, "proxy on a laptop", lambda sentence: None))
        yield box, state


@asynccontextmanager
async def line_of(state, cable):
    assert state.box is not None
    name, key = state.box.name, state.box.public_key
    link = Link(cable.a, state.identity, {key: name}.get, peer_key=key)
    line = Line(link, name, HeardFile(state.facts_file, state.identity.public_key, inline=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.run)
        while not line.is_up:
            await line.change()
        yield line, link
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def proxy_on(line, state, policy=Policy.NONE):
    app = ProxyApplication(line, state, policy, inline=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(app.run)
        yield app
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def behind_the_proxy(tmp_path, cable=None, policy=Policy.NONE):
    """A box, a client of the proxy that has paired with it by code, and the meter of the line between."""
    async with (
        paired_box(tmp_path, cable or MemoryCable(Medium(2400), seed=3)) as (box, state, line, link),
        proxy_on(line, state, policy) as app,
    ):
        yield box, HttpClient(app, ""), Meter(link)


async def test_a_day_behind_the_proxy_costs_little(tmp_path, autojump_clock) -> None:
    async with behind_the_proxy(tmp_path) as (box, client, meter):
        bob = await box.person("bob")
        alice = await box.person("alice")
        room_id = await bob.create_room(preset="public_chat", name="Harbour")
        await alice.join(room_id)
        await meter.read("connect")

        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "correct horse battery"}
        session = (await client("POST", f"{V3}/login", login)).json
        assert session["user_id"] == alice.user_id
        client.token = session["access_token"]
        await meter.read("login")

        first = await client("GET", f"{V3}/sync?timeout=30000")
        assert room_id in first.json["rooms"]["join"]
        await meter.read("initial sync of one room, with the definition of the filter")

        target = f"{V3}/rooms/{quote(room_id)}/send/m.room.message"
        sent = await client("PUT", f"{target}/m1700000000000.0", {"msgtype": "m.text", "body": "Good morning, is anybody there?"})
        assert sent.json["event_id"].startswith("$")
        await meter.read("first send")
        await client("PUT", f"{target}/m1700000000000.1", {"msgtype": "m.text", "body": "The ferry leaves at nine, they say."})
        await meter.read("send")

        since = first.json["next_batch"]
        since = (await client("GET", f"{V3}/sync?timeout=30000&since={since}")).json["next_batch"]
        await meter.read("sync with two echoes")
        answers = []

        async def poll() -> None:
            answers.append((await client("GET", f"{V3}/sync?timeout=600000&since={since}")).json)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await meter.read("poll begins")
            await bob.say(room_id, "Here I am, what is the news?")
        texts = [event["content"]["body"] for event in answers[0]["rooms"]["join"][room_id]["timeline"]["events"]]
        assert texts == ["Here I am, what is the news?"]
        await meter.read("a message comes down the poll")

        since = answers[0]["next_batch"]
        began = trio.current_time()
        while trio.current_time() < began + 3600:
            since = (await client("GET", f"{V3}/sync?timeout=30000&since={since}")).json["next_batch"]
        await meter.read("idle hour of polls of 30 s")
        figures = meter.figures
        assert figures["connect"] < 500
        assert figures["login"] < 350
        assert figures["send"] < 260
        assert figures["poll begins"] + figures["a message comes down the poll"] < 450
        assert figures["idle hour of polls of 30 s"] < 1500


async def test_what_was_held_over_kills_of_the_proxy_is_said_once_and_in_order_in_a_room_of_the_box(tmp_path, autojump_clock) -> None:
    cable = MemoryCable(Medium(9600), seed=3)
    outbox = tmp_path / "proxy" / "outbox"
    words = [f"Word {number}" for number in range(4)]
    async with paired_box(tmp_path, cable) as (box, state, line, _):
        alice = await box.person("alice")
        room_id = await alice.create_room(name="Harbour")
        target = f"{V3}/rooms/{quote(room_id)}/send/m.room.message/"
        cable.unplug()
        while line.is_up:
            await line.change()
        async with proxy_on(line, state) as app:
            for number, word in enumerate(words):
                said = {"msgtype": "m.text", "body": word}
                assert await HttpClient(app, alice.token)("PUT", f"{target}t{number}", said, patience=1) is None
                await until(lambda: app.outbox.held == number + 1)  # noqa: B023
        shutil.copytree(outbox, tmp_path / "kept")
        cable.plug()
        for _ in range(3):  # the kill comes after the box's answers and before the removals, twice
            async with proxy_on(line, state) as app:
                await until(lambda: app.outbox.held == 0)
            assert list(outbox.iterdir()) == []
            shutil.copytree(tmp_path / "kept", outbox, dirs_exist_ok=True)
        assert await alice.texts(room_id) == words
