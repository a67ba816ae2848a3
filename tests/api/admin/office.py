"""One box with an administrator, ordinary people and a guest: what the tests of the admin API are about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgeserver.users.accounts import DeviceWish
from tests.asgi import Answer, AsgiClient
from tests.flows.world import BoxInWorld, Person, World

ADMIN = "/_synapse/admin"
CONFIG = "[accounts]\nguests = 3\n[limits]\nrate_limits = false\n"


@dataclass
class Office:
    """`admin` calls paths below /_synapse/admin, given as segments that are percent-encoded."""

    world: World
    box: BoxInWorld
    token: str
    guest: str
    alice: Person
    bob: Person

    async def call(self, method: str, *segments: str, json: Any = None, token: str | None = None, **query: str) -> Answer:
        path = ADMIN + "".join("/" + quote(one, safe="") for one in segments)
        client = AsgiClient(self.box.box.app, token=self.token if token is None else token)
        if json is None and method in ("POST", "PUT", "DELETE"):
            json = {}
        return await client.request(method, path, json=json, query=query, headers={"host": "client"})

    async def ok(self, method: str, *segments: str, json: Any = None, status: int = 200, **query: str) -> Any:
        answer = await self.call(method, *segments, json=json, **query)
        assert answer.status == status, (answer.status, answer.body)
        return answer.json

    async def refused(self, method: str, *segments: str, json: Any = None, **query: str) -> tuple[int, str]:
        answer = await self.call(method, *segments, json=json, **query)
        return answer.status, answer.json["errcode"]


@asynccontextmanager
async def open_office(folder: Path, more: str = "") -> AsyncIterator[Office]:
    async with World(folder) as world:
        box = await world.box("a", CONFIG + more)
        accounts = box.box.users.accounts
        _, session = await accounts.create_person("root", "correct horse", admin=True, device=DeviceWish("DESK", "desk"))
        guest = await accounts.create_guest(None, at_most=3)
        assert session is not None
        yield Office(
            world, box, session.tokens.access_token, guest.tokens.access_token, await box.person("alice"), await box.person("bob")
        )
