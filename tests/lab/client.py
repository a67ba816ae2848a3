"""What a test says to a stock Matrix client, whichever library it is made of. Every verb is a coroutine for trio.

The programs behind it are `tests.lab.nio` and `tests/lab/js/client.mjs`; both understand the same calls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.lab.programs import python_module
from tests.lab.rpc import RpcProgram

Event = dict[str, Any]


class Client(RpcProgram):
    """One device of one person. Events are the JSON of the spec's client events, after decryption, with two more keys:
    `decrypted` (it came encrypted and could be read) and `room_id`.
    """

    homeserver: str
    ca: Path | None

    async def login(self, user: str, password: str) -> dict[str, str]:
        """Logs in as a new device, uploads its keys and begins to sync; returns after the first sync.

        Returns `{"user_id", "device_id", "access_token"}`.
        """
        return await self.acall("login", **self._server(), user=user, password=password)

    async def register(self, user: str, password: str, token: str | None = None) -> dict[str, str]:
        """Registers an account (with a registration token where one is wanted), then does what `login` does."""
        return await self.acall("register", **self._server(), user=user, password=password, token=token)

    async def session(self) -> dict[str, str]:
        """What `login` returned."""
        return await self.acall("session")

    async def resume(self, session: dict[str, str]) -> dict[str, str]:
        """Goes on with what `login` returned, as an app that is started again after its data were cleared; js-sdk's without its keys."""
        return await self.acall("resume", **self._server(), session=session)

    def _server(self) -> dict[str, str | None]:
        return {"homeserver": self.homeserver, "ca": str(self.ca) if self.ca else None}

    async def create_room(self, *, encrypted: bool = False, room_version: str | None = None, **more: Any) -> str:
        """Returns the room id; `more` is the body of POST /createRoom (`name`, `invite`, `preset`, …)."""
        return await self.acall("create_room", encrypted=encrypted, room_version=room_version, body=more)

    async def invite(self, room_id: str, user_id: str) -> None:
        await self.acall("invite", room_id=room_id, user_id=user_id)

    async def join(self, room: str, via: tuple[str, ...] = (), timeout: float = 120) -> str:
        """By id or alias; returns the room id when the room has come down the sync."""
        return await self.acall("join", room=room, via=list(via), timeout=timeout)

    async def leave(self, room_id: str) -> None:
        await self.acall("leave", room_id=room_id)

    async def send(self, room_id: str, body: str) -> str:
        """Sends a text, encrypted where the room is, to every device (all are trusted); returns the event id."""
        return await self.acall("send", room_id=room_id, kind="m.room.message", content=_text(body))

    async def send_event(self, room_id: str, kind: str, content: dict[str, Any]) -> str:
        return await self.acall("send", room_id=room_id, kind=kind, content=content)

    async def wait_message(self, room_id: str, body: str, timeout: float = 60) -> Event:
        """Waits until a message with that body has come down the sync, in clear or decrypted."""
        return await self.acall("wait_message", room_id=room_id, body=body, timeout=timeout)

    async def wait_event(self, room_id: str, event_id: str, timeout: float = 60) -> Event:
        """Waits for one event of the timeline, decrypted if it can be."""
        return await self.acall("wait_event", room_id=room_id, event_id=event_id, timeout=timeout)

    async def wait_invite(self, room_id: str, timeout: float = 60) -> None:
        await self.acall("wait_invite", room_id=room_id, timeout=timeout)

    async def wait_member(self, room_id: str, user_id: str, timeout: float = 60) -> None:
        """Waits until that user is joined, and in an encrypted room until the devices of all members are known."""
        await self.acall("wait_member", room_id=room_id, user_id=user_id, timeout=timeout)

    async def events(self, room_id: str) -> list[Event]:
        """All timeline events that have come down the sync so far, in order."""
        return await self.acall("events", room_id=room_id)

    async def members(self, room_id: str) -> list[str]:
        """The joined members that the client knows of, sorted."""
        return await self.acall("members", room_id=room_id)

    async def http(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """A request of your own with the client's token: `{"status", "json"}`."""
        return await self.acall("http", method=method, path=path, body=body)

    async def acall(self, method: str, /, *, timeout: float = 60, **params: Any) -> Any:
        if method.startswith("wait_") or method == "join":
            params["within"] = timeout
        return await super().acall(method, timeout=timeout + 10, **params)


def _text(body: str) -> dict[str, str]:
    return {"msgtype": "m.text", "body": body}


class NioClient(Client):
    """matrix-nio with end-to-end encryption; its store is in `directory`. `timeline_limit`: of its sync filter (None: it has none)."""

    def __init__(
        self,
        directory: Path,
        homeserver: str,
        *,
        name: str,
        netns: str | None = None,
        ca: Path | None = None,
        timeline_limit: int | None = None,
    ) -> None:
        self.homeserver, self.ca = homeserver, ca
        store = directory / f"{name}.nio"
        store.mkdir(parents=True, exist_ok=True)
        limit = [] if timeline_limit is None else ["--timeline-limit", str(timeline_limit)]
        argv = python_module("tests.lab.nio", "--store", str(store), *limit)
        super().__init__(argv, log=directory / f"{name}.log", netns=netns)
