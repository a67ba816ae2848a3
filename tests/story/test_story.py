"""The story: Alice in a hut at the end of two serial lines, Bob at the station, Carol in town. See `country` for the map.

Real processes, stock clients, lines of 2400 baud. `make story` tells it as it happens, with what the lines carried and how long they took.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.lab import netns, synapse
from tests.lab.client import NioClient
from tests.lab.ptyline import PtyLine
from tests.story.country import BAUD, GATEWAY, TOWN, Country, raised
from tests.story.stage import PASSWORD, Teller, until

_ABSENT = synapse.unavailable() or netns.unavailable()
pytestmark = [
    pytest.mark.story,
    pytest.mark.interop,
    pytest.mark.netns,
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


async def _pair(country: Country, tell: Teller) -> None:
    """As their owners do it: one end shows a code, at the other it is typed."""
    hut, station = country.hut, country.station
    with tell.step("the hut and the station are paired over the valley's line, the station to be the gateway"), station.offer("--front") as offer:
        said = await hut.acli("pair", offer.code, "--link", "valley", "--gateway")
        assert f"Paired with {GATEWAY}. It is our gateway now." in said
        assert f"Paired with {hut.server_name}. We are its gateway now." in await offer.wait()
    with tell.step("Alice's proxy is paired with the hut over the line on her desk"), hut.offer() as offer:
        proxy = country.start_proxy("--pair", offer.code)
        assert "Paired with " in await offer.wait(90)

        async def serves() -> bool:
            assert proxy.running, proxy.tail()
            return "Matrix clients on this machine use" in proxy.tail()

        await until("the proxy serves", serves, 60)
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

    async def say(self, who: str, room: str, text: str) -> str:
        event_id = await self.all[who].send(self.rooms[room], text)
        self.said.setdefault(self.rooms[room], []).append(event_id)
        return event_id

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
            people.rooms[room] = await people.alice.create_room(
                room_version="12", preset="private_chat", invite=[people.ids["bob"], people.ids["carol"]], **more
            )

    async def join(who: str, room: str) -> None:
        client, room_id = people.all[who], people.rooms[room]
        with tell.step(f"{who} is asked into the {room} room"):
            await client.wait_invite(room_id, timeout=PATIENCE)
        with tell.step(f"{who} joins the {room} room"):
            await client.join(room_id, timeout=PATIENCE)

    async with trio.open_nursery() as nursery:
        for room, more in (("plain", {}), ("sealed", {"encrypted": True})):
            await make(room, **more)
            for who in ("bob", "carol"):
                nursery.start_soon(join, who, room)


async def _acquainted(people: People) -> None:
    """Until everybody knows everybody's devices in the sealed room."""
    async with trio.open_nursery() as nursery:
        for room_id in people.rooms.values():
            for who, client in people.all.items():
                for other, user_id in people.ids.items():
                    if other != who:
                        nursery.start_soon(partial(client.wait_member, room_id, user_id, timeout=PATIENCE))


async def _talk(people: People, tell: Teller) -> None:
    for room in ("plain", "sealed"):
        for who in people.all:
            with tell.step(f"{who} speaks in the {room} room, and everybody hears it"):
                await people.say(who, room, f"{who} in the {room} room")
                await people.everybody_hears(room, f"{who} in the {room} room")


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
