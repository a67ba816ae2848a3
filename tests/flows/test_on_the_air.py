"""Whole boxes on thin lines: joins and talk on one shared channel, a box killed in the middle of a request, a line that breaks while
pairing.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from edgeserver.app import identity as identities
from edgeserver.matrix.errors import MatrixError
from edgeserver.store import database, pairings
from edgeserver.store.pairings import Pairing
from tests.flows.world import BoxInWorld, Person, World, until
from transports.memory import Air, Medium, MemoryCable

CONFIG = """
[server]
data = "."
[federation]
internet = false
[limits]
rate_limits = false
[discovery]
mdns = false
"""


async def paired(folder: Path, names: list[str]) -> None:
    """Writes down, for each box, that it is paired with all others; of two the first calls."""
    found = {}
    for name in names:
        (folder / name).mkdir(parents=True)
        found[name] = identities.load_or_make(folder / name, f"{name}.test", "mesh")
    for name in names:

        def write(tx: database.Transaction, name: str = name) -> None:
            for other in names:
                if other != name:
                    calls = f"to-{other}" if name < other else None
                    pairings.put(tx, Pairing(found[other].signing_key.verify_key, f"{other}.test", True, calls, False, False, 0))

        async with database.open_database(folder / name / "edgeserver.db", inline=True) as db:
            await db.write(write)


def lines(*others: str) -> str:
    return CONFIG + "".join(f'[[links]]\nuri = "radio"\nname = "to-{other}"\n' for other in others)


async def meet(one: BoxInWorld, other: BoxInWorld) -> None:
    async def up() -> bool:
        return other.server_name in one.box.peers.links() and one.server_name in other.box.peers.links()

    await until(up, seconds=60, step=0.05)


async def heard_by(people: list[Person], room_id: str, text: str) -> None:
    async def all_have() -> bool:
        return all([text in await person.texts(room_id) for person in people])

    await until(all_have, seconds=120, step=0.25)


@pytest.mark.parametrize(("size", "loss"), [(3, 0.0), (3, 0.05), (3, 0.1), (4, 0.05)])
def test_joins_and_talk_on_one_shared_channel(tmp_path, size: int, loss: float) -> None:
    async def story(seed: int) -> None:
        folder, names = tmp_path / str(seed), list("abcd")[:size]
        await paired(folder, names)
        air = Air(Medium(38_400, loss=loss, mtu=200), seed=seed)
        async with World(folder, seed=seed) as world:
            boxes, people = [], []
            for name in names:
                others = [other for other in names if other != name]
                station = air.station(name)
                boxes.append(await world.box(name, lines(*others), {f"to-{other}": station for other in others}))
                people.append(await boxes[-1].person(f"p{name}"))
            for one in boxes:
                for other in boxes:
                    if one is not other:
                        await meet(one, other)
            room_id = await people[0].create_room(preset="public_chat")
            for person in people[1:]:
                with trio.fail_after(60):
                    await person.join(room_id, via="a.test")
                    await person.say(room_id, f"{person.user_id} is in")
                    await heard_by(people[: people.index(person) + 1], room_id, f"{person.user_id} is in")
            handshakes = [line.link.stats.handshakes for box in boxes for line in box.box.links.lines if line.link]
            assert handshakes == [1] * (size * (size - 1))

    for seed in range(2):
        trio.run(story, seed, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("killed", ["a", "b"])
@pytest.mark.parametrize("after", [0.5, 3.0, 8.0, 8.5, 9.5, 10.0])
async def test_a_join_survives_that_either_box_is_killed_in_the_middle(tmp_path, autojump_clock, killed: str, after: float) -> None:
    """At 2400 baud, point to point. Seconds after the killed box is up again the line is up, and a join that it was asked for goes on."""
    await paired(tmp_path, ["a", "b"])
    cable = MemoryCable(Medium(2400))
    async with World(tmp_path) as world:
        a = await world.box("a", lines("b"), {"to-b": cable.a})
        b = await world.box("b", lines("a"), {"to-a": cable.b})
        alice, bob = await a.person("alice"), await b.person("bob")
        room_id = await alice.create_room(preset="public_chat")
        await meet(a, b)
        victim, end = (a, cable.a) if killed == "a" else (b, cable.b)
        unanswered = trio.CancelScope()

        async def ask() -> None:
            with unanswered:
                await bob.request("POST", f"/join/{room_id}?server_name=a.test")

        with trio.fail_after(100):
            async with trio.open_nursery() as nursery:
                if killed == "a":
                    nursery.start_soon(bob.join, room_id, "a.test")
                else:
                    nursery.start_soon(ask)
                await trio.sleep(after)
                end.wire = None  # not a byte more
                unanswered.cancel()
                await victim.stop()
                await trio.sleep(1)
                await victim.start()
                started = trio.current_time()
                await meet(a, b)
                assert trio.current_time() - started < 8
            if killed == "b":
                await bob.join(room_id, "a.test")
            await bob.say(room_id, "here")
            await heard_by([alice, bob], room_id, "here")


async def test_two_boxes_never_disagree_whether_they_are_paired(tmp_path, autojump_clock) -> None:
    """The line breaks at any moment of the pairing; both know each other afterwards, or a new try succeeds."""
    for number in range(12):
        cable = MemoryCable(Medium(2400), seed=number)
        async with World(tmp_path) as world:
            host = await world.box(f"h{number}", lines("guest"), {"to-guest": cable.a})
            guest = await world.box(f"g{number}", lines("host"), {"to-host": cable.b})
            await trio.sleep(20)
            code, _ = host.box.links.open_offer(front=False)

            async def pair(guest: BoxInWorld = guest, code: str = code) -> None:
                with suppress(MatrixError):
                    await guest.box.links.join_offer("to-host", code, gateway=False)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(pair)
                await trio.sleep(0.4 + number / 4)
                cable.unplug()
                await trio.sleep(1)
                cable.plug()
            known = [[one.name for one in box.box.links.pairings()] for box in (host, guest)]
            assert known == [[guest.server_name], [host.server_name]], number
            await meet(host, guest)
