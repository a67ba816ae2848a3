"""People who speak plain HTTP to a homeserver, whichever it is: quick, exact, and without a client library's opinions."""

from __future__ import annotations

import functools
import itertools
import secrets
import time
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import trio

from tests.lab.programs import LabError
from tests.lab.web import Answer

Event = dict[str, Any]
PATIENCE = 25.0
_FILTER = '{"room":{"timeline":{"limit":500}},"presence":{"types":[]}}'


class Home(Protocol):
    """A homeserver of the laboratory (`tests.lab.box.Box`, `tests.lab.synapse.Synapse`)."""

    def request(self, method: str, path: str, body: Any = None, token: str | None = None) -> Answer: ...


class Room:
    """What has come down one person's sync of one room."""

    def __init__(self) -> None:
        self.timeline: list[Event] = []
        self.invite: list[Event] | None = None
        self.knock: list[Event] | None = None
        self.left = False
        self.typing: list[str] = []
        self.receipts: dict[str, str] = {}
        """user id → event id of the newest public receipt"""

    def texts(self) -> list[str]:
        return [event["content"]["body"] for event in self.timeline if "body" in event["content"]]


class Person:
    """One logged-in device. Verbs raise `AssertionError` with the server's answer unless it is 200."""

    def __init__(self, home: Home, user_id: str, token: str) -> None:
        self.home, self.user_id, self.token = home, user_id, token
        self.server_name = user_id.partition(":")[2]
        self._since: str | None = None
        self._rooms: dict[str, Room] = {}
        self.changed: set[str] = set()
        """Whose keys the device has been told to ask for anew; tests empty it."""
        self._txns = (f"{secrets.token_hex(4)}.{number}" for number in itertools.count())

    def room(self, room_id: str) -> Room:
        return self._rooms.setdefault(room_id, Room())

    # Asking

    async def request(self, method: str, path: str, body: Any = None) -> Answer:
        if body is None and method in ("PUT", "POST"):
            body = {}
        send = functools.partial(self.home.request, method, path, body, self.token)
        return await trio.to_thread.run_sync(send, abandon_on_cancel=True)

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.request(method, "/_matrix/client/v3" + path, body)
        assert answer.status == 200, (self.user_id, method, path, answer.status, answer.body)
        return answer.json

    async def another_device(self, password: str) -> Person:
        """The same person on a device of their own, which has identity keys."""
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": self.user_id}, "password": password}
        found = await self.ok("POST", "/login", login)
        device = Person(self.home, self.user_id, found["access_token"])
        device_id = found["device_id"]
        keys = {"user_id": self.user_id, "device_id": device_id, "algorithms": ["m.olm.v1.curve25519-aes-sha2"]}
        signed = {"keys": {f"ed25519:{device_id}": secrets.token_urlsafe(32)}, "signatures": {self.user_id: {f"ed25519:{device_id}": "x"}}}
        await device.ok("POST", "/keys/upload", {"device_keys": keys | signed})
        return device

    async def keys_of(self, other: Person) -> Any:
        """The answer to a key query for one person."""
        return await self.ok("POST", "/keys/query", {"device_keys": {other.user_id: []}})

    # Rooms

    async def create_room(self, version: str, **body: Any) -> str:
        return str((await self.ok("POST", "/createRoom", {"room_version": version, **body}))["room_id"])

    async def invite(self, room_id: str, user_id: str) -> None:
        await self.ok("POST", f"/rooms/{quote(room_id)}/invite", {"user_id": user_id})

    async def join(self, room: str, *via: str) -> str:
        query = urlencode([("via", name) for name in via] + [("server_name", name) for name in via])
        return str((await self.ok("POST", f"/join/{quote(room)}?{query}"))["room_id"])

    async def leave(self, room_id: str) -> None:
        await self.ok("POST", f"/rooms/{quote(room_id)}/leave")

    async def say(self, room_id: str, text: str) -> str:
        path = f"/rooms/{quote(room_id)}/send/m.room.message/{next(self._txns)}"
        return str((await self.ok("PUT", path, {"msgtype": "m.text", "body": text}))["event_id"])

    async def set_state(self, room_id: str, kind: str, content: Any, state_key: str = "") -> str:
        path = f"/rooms/{quote(room_id)}/state/{kind}/{quote(state_key)}"
        return str((await self.ok("PUT", path, content))["event_id"])

    async def redact(self, room_id: str, event_id: str) -> str:
        path = f"/rooms/{quote(room_id)}/redact/{quote(event_id, safe='')}/{next(self._txns)}"
        return str((await self.ok("PUT", path, {"reason": "mistaken"}))["event_id"])

    async def state(self, room_id: str) -> dict[tuple[str, str], str]:
        """The current state: (type, state key) → event id."""
        found = await self.ok("GET", f"/rooms/{quote(room_id)}/state")
        return {(event["type"], event["state_key"]): event["event_id"] for event in found}

    async def history(self, room_id: str, limit: int) -> list[Event]:
        """All that /messages gives, from the newest to the oldest."""
        found: list[Event] = []
        start: str | None = None
        while True:
            query = {"dir": "b", "limit": str(limit)} | ({} if start is None else {"from": start})
            page = await self.ok("GET", f"/rooms/{quote(room_id)}/messages?{urlencode(query)}")
            found += page["chunk"]
            if "end" not in page:
                return found
            start = page["end"]

    # Hearing

    async def sync(self, wait_ms: int = 0) -> None:
        """One /sync; what it brings is in `room(…)`."""
        query = {"timeout": str(wait_ms), "filter": _FILTER} | ({} if self._since is None else {"since": self._since})
        answer = await self.ok("GET", f"/sync?{urlencode(query)}")
        self._since = answer["next_batch"]
        self.changed.update(answer.get("device_lists", {}).get("changed", ()))
        rooms = answer.get("rooms", {})
        for room_id, part in rooms.get("invite", {}).items():
            self.room(room_id).invite = part["invite_state"]["events"]
            self.room(room_id).left = False
        for room_id, part in rooms.get("knock", {}).items():
            self.room(room_id).knock = part["knock_state"]["events"]
            self.room(room_id).left = False
        for kind in ("join", "leave"):
            for room_id, part in rooms.get(kind, {}).items():
                self._take(self.room(room_id), part, left=kind == "leave")

    @staticmethod
    def _take(room: Room, part: dict[str, Any], *, left: bool) -> None:
        room.left, room.invite, room.knock = left, None, None
        room.timeline += part.get("timeline", {}).get("events", [])
        for event in part.get("ephemeral", {}).get("events", []):
            if event["type"] == "m.typing":
                room.typing = event["content"]["user_ids"]
            elif event["type"] == "m.receipt":
                for event_id, kinds in event["content"].items():
                    room.receipts.update(dict.fromkeys(kinds.get("m.read", {}), event_id))

    async def until(self, what: str, holds: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """Syncs until `holds()` is true, and returns what it gave. Raises `LabError` after `patience` seconds."""
        deadline = time.monotonic() + patience
        while not (found := holds()):
            if time.monotonic() > deadline:
                known = {room_id: vars(room) for room_id, room in self._rooms.items()}
                raise LabError(f"{self.user_id}: {what}: not within {patience:g} s; {known}")
            await self.sync(wait_ms=2000)
        return found

    async def hears(self, room_id: str, event_id: str, patience: float = PATIENCE) -> Event:
        """Waits for one event of the timeline."""
        room = self.room(room_id)
        found = await self.until(event_id, lambda: [one for one in room.timeline if one["event_id"] == event_id], patience)
        return dict(found[0])

    async def invited(self, room_id: str) -> list[Event]:
        """Waits for an invite; returns its stripped state."""
        return list(await self.until(f"invite to {room_id}", lambda: self.room(room_id).invite))

    async def sees_state(self, room_id: str, key: tuple[str, str], event_id: str) -> None:
        """Waits until that event is the current state under `key`."""
        deadline = time.monotonic() + PATIENCE
        while (found := (await self.state(room_id)).get(key)) != event_id:
            if time.monotonic() > deadline:
                raise LabError(f"{self.user_id}: {key} is {found}, not {event_id}, after {PATIENCE:g} s")
            await self.sync(wait_ms=500)
