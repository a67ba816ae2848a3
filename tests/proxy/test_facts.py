"""Over the line each event goes once: what that saves a second client, one that comes back, and whoever scrolls back, in bytes on 2400 baud
with all framing; and that everybody gets what the box has, whatever is killed or damaged.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from urllib.parse import quote

import trio

from tests.proxy.rig import V3, HttpClient, until
from tests.proxy.test_real_box import Meter, line_of, paired_state, proxy_on
from transports.memory import Medium, MemoryCable

ROOMS = 10
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
LEFT_TOO = '{"room":{"include_leave":true}}'
SCREEN = {"lists": {"all": {"ranges": [[0, 19]], "timeline_limit": 3, "required_state": [["m.room.name", ""]]}}}


class Reader:
    """A client that looks at its rooms, and makes sure that it gets each event as the box has it. It asks in such ways that the proxy has
    to ask the box, though it has told it before.
    """

    def __init__(self, person, link, app, token: str) -> None:
        self.person, self.meter, self.client = person, Meter(link), HttpClient(app, token)

    async def first_screen(self) -> int:
        return await self._look("POST", SLIDING, SCREEN | {"conn_id": f"{trio.current_time()}"})

    async def sync(self) -> int:
        return await self._look("GET", f"{V3}/sync?filter={quote(LEFT_TOO)}")

    async def scroll_back(self, room_id: str) -> int:
        return await self._look("GET", f"{V3}/rooms/{quote(room_id)}/messages?dir=b&limit=20")

    async def _look(self, method: str, target: str, json=None) -> int:
        """Bytes on the wire, both ways."""
        await self.meter.read("before")
        answer = await self.client(method, target, json)
        assert answer is not None
        assert answer.status == 200, answer.body
        cost = await self.meter.read("it")
        events = list(events_in(answer.json, ""))
        assert len(events) > 10
        for room_id, event in events:
            direct = await self.person.ok("GET", f"/rooms/{quote(room_id)}/event/{quote(event['event_id'])}")
            assert alike(event) == alike(direct)
            now = direct["unsigned"]["age"]
            assert now - 600_000 < event.get("unsigned", {}).get("age", now) <= now
        return cost


def events_in(value, room_id: str):
    """Each with its room."""
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from events_in(one, key if isinstance(key, str) and key.startswith("!") else room_id)
    if isinstance(value, dict) and "event_id" in value and "content" in value:
        yield value.get("room_id", room_id), value


def alike(event):
    return {key: one for key, one in event.items() if key not in ("unsigned", "room_id")}


@asynccontextmanager
async def world(tmp_path):
    """A paired box, and Alice, twice logged in there, in some rooms with Bob's messages."""
    cable = MemoryCable(Medium(2400), seed=3)
    async with paired_state(tmp_path, cable) as (box, state):
        bob, alice = await box.person("bob"), await box.person("alice")
        rooms = [await bob.create_room(preset="public_chat", name=f"Room {number}") for number in range(ROOMS)]
        for number, room_id in enumerate(rooms):
            await alice.join(room_id)
            for hour in range(6):
                await bob.say(room_id, f"The boat of {hour} o'clock brings {number} crates of apples")
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "correct horse battery"}
        other = (await alice.ok("POST", "/login", login))["access_token"]
        yield box, state, cable, alice, other, rooms


@asynccontextmanager
async def reader_on(state, cable, alice, token=None):
    """A client of a proxy that has just been started."""
    async with line_of(state, cable) as (line, link), proxy_on(line, state) as app:
        yield Reader(alice, link, app, token or alice.token)


async def test_a_second_client_and_what_was_seen_before_cost_next_to_nothing(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (_, state, cable, alice, other, rooms), reader_on(state, cable, alice) as first:
        second = Reader(alice, first.meter.link, first.client.app, other)
        seen = {"first screen": await first.first_screen(), "sync": await first.sync(), "scrolled back": await first.scroll_back(rooms[0])}
        assert seen["first screen"] > 100 * ROOMS
        assert seen["sync"] > 200 * ROOMS
        assert await second.first_screen() < seen["first screen"] / 6
        assert await second.sync() < seen["sync"] / 4
        assert await second.scroll_back(rooms[0]) < 120
        assert await first.scroll_back(rooms[0]) < 120
        assert await first.first_screen() < seen["first screen"] / 6


async def test_a_proxy_that_was_stopped_or_killed_comes_back_for_little(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (box, state, cable, alice, _, _):
        async with reader_on(state, cable, alice) as reader:
            told = await reader.first_screen()
        async with reader_on(state, cable, alice) as reader:
            assert await reader.first_screen() < told / 2
            written = state.facts_file.stat().st_size
            await reader.sync()
            await until(lambda: state.facts_file.stat().st_size > written)
            shutil.copy(state.facts_file, tmp_path / "as it was")
        shutil.copy(tmp_path / "as it was", state.facts_file)
        async with reader_on(state, cable, alice) as reader:
            assert await reader.first_screen() < told / 2
        await box.kill()
        await box.start()
        async with reader_on(state, cable, alice) as reader:
            assert await reader.first_screen() < told / 2


async def test_what_one_end_has_lost_costs_bytes_and_nothing_else(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (box, state, cable, alice, _, _):
        async with reader_on(state, cable, alice) as reader:
            told = await reader.first_screen()
        state.facts_file.unlink()  # a kill before anything was written
        async with reader_on(state, cable, alice) as reader:
            assert await reader.first_screen() > told / 2
        content = bytearray(state.facts_file.read_bytes())
        content[len(content) // 2] ^= 1
        state.facts_file.write_bytes(content)
        async with reader_on(state, cable, alice) as reader:
            await reader.first_screen()
        await box.kill()
        shutil.rmtree(tmp_path / "a" / "data" / "facts")
        await box.start()
        async with reader_on(state, cable, alice) as reader:
            assert await reader.first_screen() > told / 2
            assert await reader.first_screen() < told / 6


async def test_a_file_that_goes_bad_under_a_running_proxy_is_not_noticed_by_its_clients(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (_, state, cable, alice, _, rooms), reader_on(state, cable, alice) as reader:
        await reader.first_screen()
        await until(state.facts_file.exists)
        state.facts_file.write_bytes(bytes(state.facts_file.stat().st_size))
        await reader.scroll_back(rooms[0])
        await reader.first_screen()
        assert await reader.scroll_back(rooms[0]) < 120


async def test_a_proxy_that_cannot_write_down_what_it_hears_remembers_it_until_it_ends(tmp_path, autojump_clock, caplog) -> None:
    async with world(tmp_path) as (_, state, cable, alice, _, rooms), reader_on(state, cable, alice) as reader:
        state.facts_file.with_suffix(".new").mkdir()
        seen = await reader.first_screen()
        await until(lambda: "cannot be written down" in caplog.text)
        assert await reader.first_screen() < seen / 6
        state.facts_file.with_suffix(".new").rmdir()
        await reader.scroll_back(rooms[0])
        await until(state.facts_file.exists)
        assert await reader.first_screen() < seen / 6


async def test_who_is_no_longer_paired_leaves_nothing_behind(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (box, state, cable, alice, _, _):
        folder = tmp_path / "a" / "data" / "facts"
        async with reader_on(state, cable, alice) as reader:
            await reader.first_screen()
            await until(folder.exists)
            assert [path.name for path in folder.iterdir()] == [state.identity.public_key.hex()]
            assert await box.box.links.unpair("proxy on a laptop")
            await until(lambda: list(folder.iterdir()) == [])
        assert list(folder.iterdir()) == []
        assert state.facts_file.stat().st_mode & 0o77 == 0
        assert state.box is not None
        state.pair(state.box)
        assert not state.facts_file.exists()
