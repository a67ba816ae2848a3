"""A box and a stock Synapse, each in a network namespace of its own, with names without ports by a wildcard in DNS: the laboratory of
the tests that federate with Synapse, and what they ask of both sides alike.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import trio

from tests.interop.boxes import federating_box, register, register_there
from tests.interop.people import Person
from tests.lab import netns, synapse
from tests.lab.box import Box
from tests.lab.ca import Authority
from tests.lab.dns import NameServer
from tests.lab.synapse import Synapse

BOX, SYNAPSE, GATE = "one.fleet.test", "hills.test", "gate.test"
"""The two servers, and a name for a third in the namespace of the name server."""
MEMBER = "m.room.member"


def unavailable() -> str | None:
    """Why the laboratory cannot be set up here, or None."""
    return synapse.unavailable() or netns.unavailable()


class Pair(NamedTuple):
    """Who hosts the room and who comes to it."""

    host: Person
    guest: Person
    version: str


@dataclass
class Lab:
    """The two servers, and the line between them."""

    box: Box
    synapse: Synapse
    lan: netns.Bridge
    space: netns.Namespace
    names: netns.Namespace
    authority: Authority
    alice: Person
    bob: Person
    directory: Path

    def cut(self) -> None:
        self.lan.cut(self.space)

    def restore(self) -> None:
        self.lan.restore(self.space)

    def pair(self, version: str, host: str) -> Pair:
        """Alice (on the box) and Bob (on Synapse) in a room that is hosted by the box ("B") or by Synapse ("S")."""
        return Pair(self.alice, self.bob, version) if host == "B" else Pair(self.bob, self.alice, version)


@contextlib.contextmanager
def paired_lab(directory: Path) -> Iterator[Lab]:
    """Both servers, up and with one person each."""
    authority = Authority(directory / "ca")
    with netns.Network() as net:
        lan = net.bridge("lan", "10.77.0.0/24")
        here, there, names = (net.namespace(label) for label in ("box", "hills", "names"))
        for space in (names, here, there):
            lan.join(space)
            space.nameserver(names.address)
        zone = {"*.fleet.test": {"A": [here.address]}, SYNAPSE: {"A": [there.address]}, GATE: {"A": [names.address]}}
        certificate = authority.issue("*.fleet.test")
        box = federating_box(directory / "box", BOX, here.address, here.name, certificate, authority.certificate, names.address)
        hills = Synapse(directory / "hills", authority, SYNAPSE, federation=(there.address, 8448), netns=there.name)
        with NameServer(directory, zone, space=names):
            try:
                hills.begin()
                box.start()
                hills.wait_ready()
                people = register(box, "alice"), register_there(hills, "bob")
                yield Lab(box, hills, lan, here, names, authority, *people, directory)
            finally:
                box.stop()
                hills.stop()


async def room_of_both(pair: Pair, **body: object) -> str:
    """A public room that the guest has joined."""
    room = await pair.host.create_room(pair.version, preset="public_chat", **body)
    await pair.guest.join(room, pair.host.server_name)
    await hears_join(pair, room)
    return room


async def hears_join(pair: Pair, room: str) -> None:
    await pair.host.until("the guest's join", lambda: last_content(pair.host, room).get("membership") == "join")


async def same_state(pair: Pair, room: str) -> dict[tuple[str, str], str]:
    """Waits until both servers hold the same current state, and returns it."""
    for _ in range(40):
        one, other = await pair.host.state(room), await pair.guest.state(room)
        if one == other:
            return one
        await trio.sleep(0.25)
    raise AssertionError({key: (one.get(key), other.get(key)) for key in one.keys() | other.keys() if one.get(key) != other.get(key)})


def last_content(person: Person, room: str) -> dict[str, Any]:
    """The content of the newest event that has come down."""
    timeline = person.room(room).timeline
    return dict(timeline[-1]["content"]) if timeline else {}


def troubles_between(lab: Lab, *, expected: str | None = None) -> list[str]:
    """What the logs and tables of both tell of trouble with the other: nothing, if all is well.

    `expected` is a pattern of what Synapse is right to complain of.
    """
    complaints = _complaints(lab.synapse.program.log.read_text(errors="replace"))
    found = lab.box.troubles() + [line for line in complaints if expected is None or not re.search(expected, line)]
    found += [f"Synapse rejected {row}" for row in lab.synapse.rows("SELECT event_id, reason FROM rejections")]
    destination = lab.synapse.destination(BOX)
    if destination is None or destination["retry_interval"] != 0:
        found.append(f"Synapse holds the box for unreachable: {destination}")
    with contextlib.closing(sqlite3.connect(lab.directory / "box" / "data" / "edgeserver.db")) as database:
        found += [f"the box rejected {row}" for row in database.execute("SELECT event_id FROM events WHERE verdict = 2")]
    return found


def _complaints(log: str) -> list[str]:
    """The lines of Synapse's log that speak of us as a peer that does wrong, and its errors, but for one about itself."""
    loud = re.compile(rf"^\S+ \S+ (?!synapse\.util\.metrics)\S+ (ERROR|CRITICAL) | WARNING .*{re.escape(BOX)}")
    # The box was killed while Synapse answered; who is banned, or not in the lobby, or knocks in vain is rightly refused.
    expected = re.compile(r"already disconnected|/make_(join|knock)/.*HttpResponseException\('403")
    return [line for line in log.splitlines() if loud.search(line) and not expected.search(line)]


async def decline_and_withdraw(pair: Pair) -> None:
    """The guest declines an invite of the host, who then invites again and takes that back."""
    host, guest, version = pair
    room = await host.create_room(version, preset="private_chat")
    await host.invite(room, guest.user_id)
    await guest.invited(room)
    await guest.leave(room)
    await host.until("declined", lambda: last_content(host, room).get("membership") == "leave")
    await host.invite(room, guest.user_id)
    await guest.invited(room)
    await host.ok("POST", f"/rooms/{quote(room)}/kick", {"user_id": guest.user_id})
    await guest.until("withdrawn", lambda: guest.room(room).left)
