"""An Android phone on the box's network is notified, with no internet anywhere: real listener, real WebSocket, real time."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import trio

from edgeserver.app.box import Box, Wires, open_box
from edgeserver.app.listeners import serve as serve_http
from edgeserver.config import parse
from edgeserver.users.accounts import DeviceWish
from tests.push.gateway import PATH, pusher
from tests.push.phone import ask, listening, streaming

TOPIC = "upAbCdEfGhIjKl"


class Person:
    """A Matrix app, by HTTP."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self._txn = 0

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"}
        status, answer = await ask(method, f"{self._url}/_matrix/client/v3{path}", orjson.dumps(body or {}), headers)
        assert status == 200, answer
        return answer

    async def say(self, room_id: str, text: str) -> str:
        self._txn += 1
        path = f"/rooms/{room_id.replace('!', '%21')}/send/m.room.message/{self._txn}"
        return (await self.ok("PUT", path, {"msgtype": "m.text", "body": text}))["event_id"]


class Lan:
    """A box that listens on `url`, without internet, with Alice and Bob in a room."""

    def __init__(self, url: str, box: Box, alice: Person, bob: Person, room: str) -> None:
        self.url, self.box, self.alice, self.bob, self.room = url, box, alice, bob, room
        self.socket_url = url.replace("http:", "ws:")
        self.endpoint = f"{url}/{TOPIC}?up=1"

    async def set_pusher(self, pushkey: str) -> None:
        await self.bob.ok("POST", "/pushers/set", pusher(f"{self.url}{PATH}", pushkey, data={"format": "event_id_only"}))


def event_of(message: dict[str, Any]) -> str:
    return orjson.loads(message["message"])["notification"]["event_id"]


async def _person(box: Box, url: str, name: str) -> Person:
    _, session = await box.users.accounts.create_person(name, "correct horse battery", device=DeviceWish(None, "phone"))
    assert session is not None
    return Person(url, session.tokens.access_token)


@asynccontextmanager
async def lan(folder: Path) -> AsyncIterator[Lan]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = parse(f'server.name = "box.test"\nhttp.client = ["{address}"]\nfederation.internet = false\n', folder)
    with trio.fail_after(30):
        async with open_box(config, Wires(inline=True)) as box, trio.open_nursery() as nursery:
            [url] = await nursery.start(serve_http, box.app, [address])
            alice, bob = await _person(box, url, "alice"), await _person(box, url, "bob")
            room = (await alice.ok("POST", "/createRoom", {"preset": "public_chat"}))["room_id"]
            await bob.ok("POST", f"/join/{room.replace('!', '%21')}")
            yield Lan(url, box, alice, bob, room)
            nursery.cancel_scope.cancel()


async def test_a_phone_on_the_network_is_notified_and_misses_nothing_while_it_is_out_of_reach(tmp_path):
    async with lan(tmp_path) as net:
        assert await ask("GET", f"{net.url}{PATH}") == (200, {"unifiedpush": {"gateway": "matrix"}})
        assert await ask("GET", net.endpoint) == (200, {"unifiedpush": {"version": 1}})
        async with listening(f"{net.socket_url}/{TOPIC}/ws?since=none") as phone:
            opened = await phone.next()
            assert (opened["event"], opened["topic"]) == ("open", TOPIC)
            await net.set_pusher(net.endpoint)
            said = await net.alice.say(net.room, "hello")
            got = await phone.message()
            assert (got["topic"], event_of(got)) == (TOPIC, said)
            assert orjson.loads(got["message"])["notification"]["devices"][0]["pushkey"] == net.endpoint
        missed = [await net.alice.say(net.room, str(number)) for number in range(3)]
        await trio.sleep(0.2)
        async with listening(f"{net.socket_url}/{TOPIC}/ws?since={got['id']}") as phone:
            assert [event_of(await phone.message()) for _ in missed] == missed
            said = await net.alice.say(net.room, "and on")
            last = await phone.message()
            assert event_of(last) == said
        assert await ask("GET", f"{net.url}/{TOPIC}/json?poll=1&since={last['id']}") == (200, [])


async def test_what_waits_for_a_phone_survives_the_box(tmp_path):
    async with lan(tmp_path) as net:
        await net.set_pusher(net.endpoint)
        said = await net.alice.say(net.room, "hello")
        topics = net.box.push.topics
        assert topics is not None
        while not topics._unwritten:
            await trio.sleep(0.02)
        token = net.bob._token
    async with lan_again(tmp_path) as (url, _):
        status, messages = await ask("GET", f"{url}/{TOPIC}/json?poll=1")
        assert (status, [event_of(one) for one in messages]) == (200, [said])
        assert len(await Person(url, token).ok("GET", "/pushers")) == 1


@asynccontextmanager
async def lan_again(folder: Path) -> AsyncIterator[tuple[str, Box]]:
    config = parse('server.name = "box.test"\nfederation.internet = false\n', folder)
    async with open_box(config, Wires(inline=True)) as box, trio.open_nursery() as nursery:
        [url] = await nursery.start(serve_http, box.app, ["127.0.0.1:0"])
        yield url, box
        nursery.cancel_scope.cancel()


async def test_a_topic_that_is_not_of_this_box_is_rejected_and_never_called(tmp_path):
    async with lan(tmp_path) as net, trio.open_nursery() as nursery:
        called: list[Any] = []
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, called.append, [listener])
        for pushkey in (f"http://127.0.0.1:{port}/{TOPIC}", "https://ntfy.sh/upAbCdEfGhIjKl?up=1", f"{net.url}/admin", "key"):
            await net.set_pusher(pushkey)
            await net.alice.say(net.room, "hello")
            with trio.fail_after(5):
                while (await net.bob.ok("GET", "/pushers"))["pushers"]:
                    await trio.sleep(0.02)
            body = orjson.dumps({"notification": {"devices": [{"app_id": "x", "pushkey": pushkey}]}})
            assert await ask("POST", f"{net.url}{PATH}", body) == (200, {"rejected": [pushkey]})
        assert called == []
        nursery.cancel_scope.cancel()


async def test_a_stream_tells_that_it_is_open_and_what_is_published(tmp_path):
    async with lan(tmp_path) as net, streaming(f"{net.url}/{TOPIC},{TOPIC}2/json") as lines:
        assert (await lines.next())["topic"] == f"{TOPIC},{TOPIC}2"
        headers = {"Title": "Tide", "Tags": "wave, warning", "X-Priority": "high"}
        status, published = await ask("PUT", f"{net.url}/{TOPIC}2", b"rising", headers)
        assert status == 200
        got = await lines.next()
        assert got == published
        assert (got["event"], got["message"], got["title"], got["priority"]) == ("message", "rising", "Tide", 4)
        assert got["tags"] == ["wave", "warning"]


async def test_a_socket_for_what_is_no_topic_is_refused(tmp_path):
    refusals = {"/upTooShort/ws": 403, "/alerts/ws": 403, "/_matrix/ws": 403, "/x/y/ws": 403, "/ws": 403, f"/{TOPIC}/ws?since=x": 400}
    async with lan(tmp_path) as net:
        for path, status in refusals.items():
            async with listening(f"{net.socket_url}{path}") as phone:
                assert phone.refusal is not None
                assert phone.refusal[0] == status, path
