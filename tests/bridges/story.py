"""A box with a bridge and a person, and what they do in one line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trio

from tests.flows.world import BoxInWorld, Person, World, until
from tests.lab.bridge import Bridge

FAST = "[limits]\nrate_limits = false\n"
ENCRYPTING = {"receive_ephemeral": True, "org.matrix.msc3202": True, "io.element.msc4190": True}


@asynccontextmanager
async def bridged(tmp_path: Path, text: str = "", **registration: Any) -> AsyncIterator[tuple[World, BoxInWorld, Bridge, Person]]:
    """A world with one box, its bridge and a person of it."""
    bridge = Bridge(registration=registration)
    async with World(tmp_path) as world:
        bridge.register_in(world, "a")
        a = bridge.box = await world.box("a", bridge.config + text)
        yield world, a, bridge, await a.person("alice")


async def heard(bridge: Bridge, *texts: str) -> None:
    async def all_there() -> bool:
        return bridge.texts == list(texts)

    try:
        await until(all_there, seconds=2000)
    except trio.TooSlowError:
        raise AssertionError(f"{bridge.texts} instead of {list(texts)}") from None


async def portal(bridge: Bridge, alice: Person, ghost: str = "irc_bob") -> tuple[str, str]:
    """A room of Alice's with a ghost in it; returns the room and the ghost."""
    user_id = await bridge.register(ghost)
    room = await alice.create_room(preset="public_chat")
    await bridge.ok("POST", f"/join/{quote(room)}", as_user=user_id)
    return room, user_id


async def say(bridge: Bridge, room: str, text: str, as_user: str, **query: str) -> str:
    content = {"msgtype": "m.text", "body": text}
    sent = await bridge.ok("PUT", f"/rooms/{quote(room)}/send/m.room.message/{text}", content, as_user=as_user, **query)
    return str(sent["event_id"])


async def is_there(value: Any) -> bool:
    """For `until`."""
    return bool(value)
