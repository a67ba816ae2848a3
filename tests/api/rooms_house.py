"""The room sections of the client-server API over one `House`, and clients of its users."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgeserver.api.client import (
    create_room,
    relations,
    room_directory,
    room_events,
    room_membership,
    room_reading,
    room_upgrade,
    thread_subscriptions,
)
from edgeserver.rooms.thread_subscriptions import ThreadSubscriptions
from edgeserver.users.requester import Requester
from edgeserver.users.threads import thread_of
from tests.asgi import Answer, AsgiClient, section_application
from tests.rooms.house import ALICE, BOB, CAROL, House, Street, open_house

V3 = "/_matrix/client/v3"
USERS = {
    "alice": Requester(ALICE, "PHONE"),
    "alice2": Requester(ALICE, "LAPTOP"),
    "bob": Requester(BOB, "B"),
    "carol": Requester(CAROL, "C"),
    "admin": Requester("@admin:one", "A", is_admin=True),
    "bridge": Requester("@bridge:one", None, appservice_id="bridge"),
}


class Client(AsgiClient):
    """An AsgiClient with paths below /_matrix/client/v3, given as segments that are percent-encoded."""

    async def call(self, method: str, *segments: str, json: Any = None, **query: str) -> Answer:
        return await self.request(method, V3 + "".join("/" + quote(one, safe="") for one in segments), json=json, query=query)

    async def ok(self, method: str, *segments: str, json: Any = None, **query: str) -> Any:
        answer = await self.call(method, *segments, json=json, **query)
        assert answer.status == 200, (answer.status, answer.body)
        return answer.json

    async def refused(self, method: str, *segments: str, json: Any = None, **query: str) -> tuple[int, str]:
        answer = await self.call(method, *segments, json=json, **query)
        return answer.status, answer.json["errcode"]

    async def create(self, **body: Any) -> str:
        return str((await self.ok("POST", "createRoom", json=body))["room_id"])

    async def say(self, room_id: str, body: str, txn_id: str | None = None) -> str:
        path = ("rooms", room_id, "send", "m.room.message", txn_id or f"t{body}")
        return str((await self.ok("PUT", *path, json={"msgtype": "m.text", "body": body}))["event_id"])

    async def chunk(self, room_id: str, **query: str) -> list[str]:
        """Bodies (or types) of a page of /messages."""
        page = await self.ok("GET", "rooms", room_id, "messages", **{"dir": "b", **query})
        return [event["content"].get("body", event["type"]) for event in page["chunk"]]


class Place:
    """A house and clients by token."""

    def __init__(self, house: House) -> None:
        self.house = house
        routes = [
            *create_room.routes(house.creator, house.memberships, house.name),
            *room_events.routes(house.db, house.composer, house.memberships, house.directory),
            *room_membership.routes(house.db, house.memberships, house.directory),
            *room_reading.routes(house.db, house.history, house.now_ms, house.completer.until_whole),
            *relations.routes(house.db, house.now_ms),
            *thread_subscriptions.routes(ThreadSubscriptions(house.db, house.wakeups, thread_of)),
            *room_upgrade.routes(house.upgrader),
            *room_directory.routes(house.directory, house.public_rooms, house.name),
        ]
        self.app = section_application(routes, USERS)

    def client(self, token: str | None) -> Client:
        return Client(self.app, token=token)

    @property
    def alice(self) -> Client:
        return self.client("alice")

    @property
    def bob(self) -> Client:
        return self.client("bob")

    @property
    def carol(self) -> Client:
        return self.client("carol")


@asynccontextmanager
async def open_place(folder: Path, name: str = "one", street: Street | None = None) -> AsyncIterator[Place]:
    async with open_house(folder, name, street) as house:
        yield Place(house)
