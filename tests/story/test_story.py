"""The story: Alice in a hut at the end of two serial lines, Bob at the station, Carol in town. See `country` for the map.

Real processes, stock clients, lines of 2400 baud. `make story` tells it as it happens, with what the lines carried and how long they took.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
import trio

from edgeserver.matrix import server_names
from tests.lab import netns, synapse
from tests.lab.client import NioClient
from tests.lab.ptyline import PtyLine
from tests.story import records
from tests.story.country import BAUD, GATEWAY, TOWN, Country, raised
from tests.story.stage import PASSWORD, Teller, until

_ABSENT = synapse.unavailable() or netns.unavailable()
pytestmark = [
    pytest.mark.story,
    pytest.mark.interop,
    pytest.mark.netns,
    pytest.mark.real_time,
    pytest.mark.skipif(_ABSENT is not None, reason=_ABSENT or ""),
]

PATIENCE = 240.0


@pytest.fixture
def country(tmp_path: Path) -> Iterator[Country]:
    with raised(tmp_path) as made:
        yield made


def _tell_line(tell: Teller, name: str, line: PtyLine) -> None:
    stats = line.assert_honest()
    there, back = stats["a_to_b"], stats["b_to_a"]
    for wire in (there, back):
        assert wire["bytes"] * 10 / BAUD <= stats["elapsed_s"]
    tell(
        f"  {name}: {there['bytes']} B there ({there['line_s']:.0f} s of line), {back['bytes']} B back ({back['line_s']:.0f} s),"
        f" in {stats['elapsed_s']:.0f} s; lost in cuts {there['lost']}/{back['lost']}, overrun {there['overrun']}/{back['overrun']}"
    )


def _text(body: str) -> dict[str, str]:
    return {"msgtype": "m.text", "body": body}


async def _pair(country: Country, tell: Teller) -> None:
    """As their owners do it: one end shows a code, at the other it is typed. Both lines at the same time."""
    hut, station = country.hut, country.station

    async def valley() -> None:
        with tell.step("the hut and the station, its gateway to be, are paired over the valley's line"), station.offer("--front") as offer:
            said = await hut.acli("pair", offer.code, "--link", "valley", "--gateway")
            assert f"Paired with {GATEWAY}. It is our gateway now." in said
            assert f"Paired with {hut.server_name}. We are its gateway now." in await offer.wait()

    async def desk() -> None:
        with tell.step("Alice's proxy is paired with the hut over the line on her desk"), hut.offer() as offer:
            proxy = country.start_proxy("--pair", offer.code)
            assert "Paired with proxy" in await offer.wait(90)

            async def serves() -> bool:
                assert proxy.running, proxy.tail()
                return "Matrix clients on this machine use" in proxy.tail()

            await until("the proxy serves", serves, 60)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(valley)
        nursery.start_soon(desk)
    with tell.step("both lines come up"):
        await hut.paired_and_up()
        await station.paired_and_up()


class People:
    """Alice, Bob and Carol, and the two rooms that they share."""

    def __init__(self, country: Country) -> None:
        self.country = country
        self.alice, self.bob, self.carol = country.alice(), country.bob(), country.carol()
        self.all = {"alice": self.alice, "bob": self.bob, "carol": self.carol}
        self.rooms: dict[str, str] = {}
        self.ids = {
            "alice": f"@alice:{country.hut.server_name}",
            "bob": f"@bob:{GATEWAY}",
            "carol": f"@carol:{TOWN}",
        }
        self.said: dict[str, list[str]] = {}
        """room id → the event ids of every message, as its sender was told them"""
        self.texts: dict[str, list[str]] = {}
        self.acknowledged: dict[str, list[str]] = {who: [] for who in self.all}

    async def say(self, who: str, room: str, text: str) -> None:
        room_id = self.rooms[room]
        self.texts.setdefault(room_id, []).append(text)
        event_id = await self.all[who].acall("send", room_id=room_id, kind="m.room.message", content=_text(text), timeout=PATIENCE)
        self.said.setdefault(room_id, []).append(event_id)
        self.acknowledged[who].append(event_id)

    async def hear(self, who: str, room: str, text: str, timeout: float = PATIENCE) -> None:
        event = await self.all[who].wait_message(self.rooms[room], text, timeout=timeout)
        assert event["decrypted"] == (room == "sealed"), event

    async def everybody_hears(self, room: str, text: str, timeout: float = PATIENCE) -> None:
        async with trio.open_nursery() as nursery:
            for who in self.all:
                nursery.start_soon(self.hear, who, room, text, timeout)


async def _arrive(people: People, tell: Teller) -> None:
    country = people.country

    async def alice() -> None:
        with tell.step("Alice registers with a stock client, through the proxy"):
            await people.alice.acall("register", **people.alice._server(), user="alice", password=PASSWORD, token=None, timeout=PATIENCE)

    async def others() -> None:
        await country.station.acli("person", "add", "bob", "--password-file", str(country.directory / "word"))
        await people.bob.login("bob", PASSWORD)
        await trio.to_thread.run_sync(country.town.register, "carol", PASSWORD)
        await people.carol.login("carol", PASSWORD)

    (country.directory / "word").write_text(PASSWORD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alice)
        nursery.start_soon(others)


async def _gather(people: People, tell: Teller) -> None:
    """Alice makes both rooms and invites; the others join as soon as they are asked to."""

    async def make(room: str, **more: object) -> None:
        with tell.step(f"Alice makes the {room} room and invites Bob and Carol"):
            body = {"room_version": "12", "preset": "private_chat", "invite": [people.ids["bob"], people.ids["carol"]], **more}
            people.rooms[room] = await people.alice.create_room(**body)
        for who in ("bob", "carol"):
            nursery.start_soon(join, who, room)

    async def join(who: str, room: str) -> None:
        client, room_id = people.all[who], people.rooms[room]
        await client.wait_invite(room_id, timeout=PATIENCE)
        with tell.step(f"{who} has been asked into the {room} room and joins it"):
            await client.join(room_id, timeout=PATIENCE)

    async with trio.open_nursery() as nursery:
        await make("plain", name="Valley")
        await make("sealed", encrypted=True)


async def _acquainted(people: People) -> None:
    """Until everybody knows everybody's devices in the sealed room."""
    async with trio.open_nursery() as nursery:
        for room_id in people.rooms.values():
            for who, client in people.all.items():
                for other, user_id in people.ids.items():
                    if other != who:
                        nursery.start_soon(partial(client.wait_member, room_id, user_id, timeout=PATIENCE))


async def _talk(people: People, tell: Teller) -> None:
    """Each room on its own; in the sealed one a first message carries the keys of its session to everybody's devices first."""

    async def in_turn(room: str) -> None:
        for who in people.all:
            with tell.step(f"{who} speaks in the {room} room, and everybody hears it"):
                await people.say(who, room, f"{who} in the {room} room")
                await people.everybody_hears(room, f"{who} in the {room} room")

    async with trio.open_nursery() as nursery:
        for room in people.rooms:
            nursery.start_soon(in_turn, room)


async def _same_state_everywhere(people: People, tell: Teller) -> None:
    country = people.country
    for room, room_id in people.rooms.items():

        async def agree(room_id: str = room_id) -> bool:
            states = [records.current_state(box, room_id) for box in (country.hut, country.station)]
            return states[0] == states[1] == records.state_in_town(country.town, room_id)

        await until(f"one state of the {room} room", agree, 60)
    seen, near = (records.sight_of(country.town, name) for name in (country.hut.server_name, GATEWAY))
    assert seen == near
    assert set(country.town.keys_of(country.hut.server_name)) == {server_names.key_id_of(country.hut.server_name)}
    tell(f"The town sees the hut as it sees the station: {seen}")


async def _part(people: People, tell: Teller) -> None:
    """The uplink goes, then the valley's line; everybody goes on. The hut loses its power meanwhile."""
    country = people.country
    country.cut_uplink()
    with tell.step("the uplink is cut; Alice and Bob hear each other, Carol speaks to herself"):
        async with trio.open_nursery() as nursery:
            for who in people.all:
                nursery.start_soon(people.say, who, "plain", f"{who} without the uplink")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(people.hear, "alice", "plain", "bob without the uplink")
            nursery.start_soon(people.hear, "bob", "plain", "alice without the uplink")
    country.valley.cut()
    with tell.step("the valley's line is cut too; the hut is killed between what Alice says"):
        await people.say("alice", "sealed", "alice before the power cut")
        country.hut.kill()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(people.say, "alice", "plain", "alice while the hut is dark")
            for who in ("bob", "carol"):
                nursery.start_soon(people.say, who, "sealed", f"{who} all alone")
            country.hut.begin()
            await country.hut.ready()
        assert records.lacks(country.hut, people.acknowledged["alice"]) == []
        tell(f"  all {len(people.acknowledged['alice'])} events that Alice was told of are there after the power cut")


async def _meet_again(people: People, tell: Teller) -> None:
    country = people.country
    country.valley.restore()
    with tell.step("the valley's line is back; Bob and Alice hear what they have missed"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(people.hear, "alice", "sealed", "bob all alone")
            nursery.start_soon(people.hear, "bob", "sealed", "alice before the power cut")
            nursery.start_soon(people.hear, "bob", "plain", "alice while the hut is dark")
    with tell.step("the town gives both names up for a while"):

        async def given_up() -> bool:
            found = [country.town.destination(name) for name in (country.hut.server_name, GATEWAY)]
            return all(one is not None and one["retry_interval"] > 0 for one in found)

        await until("the town backs off", given_up, 120)
    country.restore_uplink()

    async def awake(name: str) -> None:
        async def reset() -> bool:
            found = country.town.destination(name)
            return found is not None and found["retry_interval"] == 0

        with tell.step(f"the town hears from {name[:12]}… and takes it up again"):
            await until(f"the town hears from {name}", reset, 90)

    with tell.step("the uplink is back; everybody hears everything"):
        async with trio.open_nursery() as nursery:
            for name in (country.hut.server_name, GATEWAY):
                nursery.start_soon(awake, name)
            for room, room_id in people.rooms.items():
                for text in people.texts[room_id]:
                    nursery.start_soon(people.everybody_hears, room, text)


async def _history(client: NioClient, room_id: str) -> list[dict]:
    """Every message of the room as the client's server tells it, oldest first."""
    wanted = quote(json.dumps({"types": ["m.room.message", "m.room.encrypted"]}))
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/messages?dir=b&limit=50&filter={wanted}"
    found: list[dict] = []
    more = ""
    while True:
        page = await client.acall("http", method="GET", path=path + more, body=None, timeout=PATIENCE)
        assert page["status"] == 200, page
        found += page["json"]["chunk"]
        if not page["json"]["chunk"] or "end" not in page["json"]:
            return found[::-1]
        more = f"&from={page['json']['end']}"


async def _compare(people: People, tell: Teller) -> None:
    country = people.country
    told: dict[tuple[str, str], list[str]] = {}

    async def read(who: str, room_id: str) -> None:
        told[who, room_id] = [event["event_id"] for event in await _history(people.all[who], room_id)]

    with tell.step("everybody reads both rooms from the beginning"):
        async with trio.open_nursery() as nursery:
            for who in people.all:
                for room_id in people.rooms.values():
                    nursery.start_soon(read, who, room_id)
    for room_id in people.rooms.values():
        for who in people.all:
            assert sorted(told[who, room_id]) == sorted(people.said[room_id]), who
            heard = [one["content"].get("body") for one in await people.all[who].events(room_id)]
            assert sorted(one for one in heard if one) == sorted(people.texts[room_id]), who
        assert told["alice", room_id] == told["bob", room_id]
        at_station = records.order(country.station, room_id)  # what was before Bob joined is not all there
        assert [one for one in records.order(country.hut, room_id) if one in at_station] == at_station
        assert set(people.said[room_id]) <= set(at_station)
        for who in people.all:
            records.assert_ancestors_first(country.town.timeline(room_id), told[who, room_id])
        assert all(one["rejection_reason"] is None for one in country.town.timeline(room_id))


async def test_three_people_talk_over_two_serial_lines_and_lose_nothing(country: Country) -> None:
    tell = Teller()
    with tell.step("two boxes and a Synapse start"):
        await country.hut.ready()
        await country.station.ready()
        await trio.to_thread.run_sync(country.town.wait_ready)
    assert country.hut.server_name.endswith(f".{GATEWAY}")
    assert country.interfaces("hut") == country.interfaces("alice") == ["lo"]
    await _pair(country, tell)
    people = People(country)

    def lines() -> None:
        for name, line in (("desk", country.desk), ("valley", country.valley)):
            _tell_line(tell, name, line)

    with people.alice, people.bob, people.carol:
        lines()
        await _arrive(people, tell)
        lines()
        await _gather(people, tell)
        with tell.step("everybody knows everybody's devices"):
            await _acquainted(people)
        lines()
        await _talk(people, tell)
        lines()
        with tell.step("all three servers hold the same state"):
            await _same_state_everywhere(people, tell)
        await _part(people, tell)
        lines()
        await _meet_again(people, tell)
        lines()
        await _compare(people, tell)
        lines()
    for text, seconds in sorted(tell.took, key=lambda one: -one[1])[:12]:
        tell(f"  {seconds:5.1f} s  {text}")
