"""A matrix-nio client as a program, `python -m tests.lab.nio --store DIR`, driven by lines of JSON (`tests.lab.rpc`).

nio is an asyncio library: in a process of its own it can live in any network namespace and be killed like a real one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import ssl
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import nio
from aiohttp import ClientPayloadError
from nio.crypto.memorystores import GroupSessionStore
from nio.crypto.sessions import InboundGroupSession

Params = dict[str, Any]
_ENCRYPTION = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}


class CallError(Exception):
    """What the caller gets as the answer."""


def _good(response: Any) -> Any:
    if isinstance(response, nio.ErrorResponse):
        raise CallError(f"{type(response).__name__}: {response.status_code} {response.message}")
    return response


class RoomKeys(GroupSessionStore):
    """The keys that were received. A sender may share a key again, from a later message on; matrix-js-sdk does so as soon as the other side
    has opened an Olm session of its own. nio puts the later one in the place of the first, and cannot read what is between them where both
    come before it, as they do after an outage.
    """

    def add(self, session: InboundGroupSession) -> bool:
        known = self.get(session.room_id, session.sender_key, session.id)
        return (known is None or session.first_known_index < known.first_known_index) and super().add(session)


class Driver:
    """The client, all events that it has seen, and one coroutine for each call."""

    def __init__(self, store: Path, timeline_limit: int | None) -> None:
        self._store = store
        self._filter = None if timeline_limit is None else {"room": {"timeline": {"limit": timeline_limit}}}
        self._client: nio.AsyncClient | None = None
        self._timelines: dict[str, dict[str, Params]] = {}
        self._unreadable: dict[str, nio.MegolmEvent] = {}
        self._invites: set[str] = set()
        self._moved = asyncio.Event()
        self._syncing: asyncio.Task[None] | None = None

    @property
    def client(self) -> nio.AsyncClient:
        if self._client is None:
            raise CallError("not logged in")
        return self._client

    # --- Coming and going

    def _open(self, homeserver: str, user: str, ca: str | None) -> nio.AsyncClient:
        config = nio.AsyncClientConfig(store_sync_tokens=True, encryption_enabled=True, max_limit_exceeded=100)
        context = ssl.create_default_context(cafile=ca) if ca else None
        self._client = nio.AsyncClient(homeserver, user, store_path=str(self._store), config=config, ssl=context)
        self._client.add_event_callback(self._on_event, nio.Event)
        self._client.add_event_callback(self._on_invite, nio.InviteMemberEvent)
        self._client.add_response_callback(self._on_sync, nio.SyncResponse)
        return self._client

    async def login(self, homeserver: str, ca: str | None, user: str, password: str) -> Params:
        client = self._open(homeserver, user, ca)
        _good(await client.login(password, device_name="edge lab"))
        return await self._begin()

    async def resume(self, homeserver: str, ca: str | None, session: Params) -> Params:
        """A session that was kept, with its keys, and nothing of its rooms."""
        client = self._open(homeserver, session["user_id"], ca)
        client.restore_login(session["user_id"], session["device_id"], session["access_token"])
        client.loaded_sync_token = ""
        self._syncing = asyncio.create_task(client.sync_forever(timeout=30_000, sync_filter=self._filter, full_state=True))
        await self._until("the first sync", lambda: client.next_batch, 60)  # what it asks for besides may wait for a line
        return await self.session()

    async def register(self, homeserver: str, ca: str | None, user: str, password: str, token: str | None) -> Params:
        client = self._open(homeserver, user, ca)
        if token is None:
            _good(await client.register(user, password, device_name="edge lab"))
        else:
            _good(await client.register_with_token(user, password, token, device_name="edge lab"))
        return await self._begin()

    async def _begin(self) -> Params:
        assert self.client.olm is not None
        self.client.olm.inbound_group_store = RoomKeys()
        self._syncing = asyncio.create_task(self._sync())
        synced = asyncio.create_task(self.client.synced.wait())
        await asyncio.wait((self._syncing, synced), return_when=asyncio.FIRST_COMPLETED)
        synced.cancel()
        if self._syncing.done():
            await self._syncing
            raise CallError("sync ended")
        return await self.session()

    async def session(self) -> Params:
        """For `resume`."""
        client = self.client
        return {"user_id": client.user_id, "device_id": client.device_id, "access_token": client.access_token}

    async def _sync(self) -> None:
        """Until cancelled. A server that is killed within an answer ends nio's own loop, which tries again after any other failure."""
        while True:
            is_first = self.client.next_batch == ""
            with contextlib.suppress(ClientPayloadError):
                await self.client.sync_forever(timeout=30_000, sync_filter=self._filter, full_state=is_first)

    async def close(self) -> None:
        if self._syncing is not None:
            self._syncing.cancel()
        if self._client is not None:
            await self._client.close()

    # --- What comes down the sync

    async def _on_event(self, room: nio.MatrixRoom, event: nio.Event) -> None:
        source = {**event.source, "room_id": room.room_id, "decrypted": event.decrypted}
        self._timelines.setdefault(room.room_id, {})[event.event_id] = source
        if isinstance(event, nio.MegolmEvent):
            self._unreadable[event.event_id] = event

    async def _on_invite(self, room: nio.MatrixRoom, event: nio.InviteMemberEvent) -> None:
        if event.state_key == self.client.user_id and event.membership == "invite":
            self._invites.add(room.room_id)

    async def _on_sync(self, _: nio.SyncResponse) -> None:
        for event_id, sealed in list(self._unreadable.items()):
            try:
                opened = self.client.decrypt_event(sealed)
            except nio.EncryptionError:
                continue
            del self._unreadable[event_id]
            if isinstance(opened, nio.Event):
                source = {**opened.source, "room_id": sealed.room_id, "decrypted": True}
                self._timelines[sealed.room_id][event_id] = source
        self._moved.set()
        self._moved = asyncio.Event()

    async def _until(self, what: str, find: Callable[[], Any], timeout: float) -> Any:
        """Looks again after every sync; raises with what there was when the time is up, or when sync has died."""
        deadline = asyncio.get_running_loop().time() + timeout
        while (found := find()) in (None, False):
            if self._syncing is not None and self._syncing.done():
                raise CallError(f"{what}: sync ended: {self._syncing.exception()!r}")
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                raise CallError(f"{what}: not within {timeout:g} s; seen: {self._timelines}; sealed: {self._unreadable}")
            moved = self._moved
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(moved.wait(), min(left, 1))
        return found

    # --- What a person does

    async def create_room(self, encrypted: bool, room_version: str | None, body: Params) -> str:
        body = dict(body)
        if encrypted:
            body["initial_state"] = [*body.get("initial_state", []), _ENCRYPTION]
        if room_version is not None:
            body["room_version"] = room_version
        answer = await self.http("POST", "/_matrix/client/v3/createRoom", body)
        if answer["status"] != 200:
            raise CallError(f"createRoom: {answer}")
        room_id = str(answer["json"]["room_id"])
        await self._until("create_room", lambda: room_id in self.client.rooms, 60)
        return room_id

    async def invite(self, room_id: str, user_id: str) -> None:
        _good(await self.client.room_invite(room_id, user_id))

    async def join(self, room: str, via: list[str], within: float) -> str:
        query = "&".join(f"via={server}&server_name={server}" for server in via)
        path = f"/_matrix/client/v3/join/{_quoted(room)}" + (f"?{query}" if query else "")
        answer = await self.http("POST", path, {}, timeout=within)
        if answer["status"] != 200:
            raise CallError(f"join {room}: {answer}")
        room_id = str(answer["json"]["room_id"])
        await self._until("join", lambda: room_id in self.client.rooms, within)
        return room_id

    async def leave(self, room_id: str) -> None:
        _good(await self.client.room_leave(room_id))

    async def send(self, room_id: str, kind: str, content: Params) -> str:
        if self.client.should_query_keys:
            _good(await self.client.keys_query())
        transaction = str(uuid4())
        while True:
            with contextlib.suppress(ClientPayloadError):  # the server was killed within its answer
                sent = await self.client.room_send(room_id, kind, content, transaction, ignore_unverified_devices=True)
                return str(_good(sent).event_id)

    async def wait_message(self, room_id: str, body: str, within: float) -> Params:
        def find() -> Params | None:
            seen = self._timelines.get(room_id, {}).values()
            return next((event for event in seen if event.get("content", {}).get("body") == body), None)

        return await self._until(f"wait_message {body!r}", find, within)  # type: ignore[no-any-return]

    async def wait_event(self, room_id: str, event_id: str, within: float) -> Params:
        def find() -> Params | None:
            return None if event_id in self._unreadable else self._timelines.get(room_id, {}).get(event_id)

        return await self._until(f"wait_event {event_id}", find, within)  # type: ignore[no-any-return]

    async def wait_invite(self, room_id: str, within: float) -> None:
        await self._until(f"wait_invite {room_id}", lambda: room_id in self._invites, within)

    async def wait_member(self, room_id: str, user_id: str, within: float) -> None:
        def joined() -> bool:
            room = self.client.rooms.get(room_id)
            return room is not None and user_id in room.users and user_id not in room.invited_users

        await self._until(f"wait_member {user_id}", joined, within)
        if self.client.rooms[room_id].encrypted:

            def known() -> bool:
                return any(True for _ in self.client.device_store.active_user_devices(user_id))

            await self._until(f"wait_member: the devices of {user_id}", known, within)

    async def events(self, room_id: str) -> list[Params]:
        return list(self._timelines.get(room_id, {}).values())

    async def members(self, room_id: str) -> list[str]:
        room = self.client.rooms.get(room_id)
        return sorted(set(room.users) - set(room.invited_users)) if room else []

    async def http(self, method: str, path: str, body: Any = None, timeout: float = 60) -> Params:
        data = None if body is None else json.dumps(body)
        headers = {"Authorization": f"Bearer {self.client.access_token}"}
        response = await self.client.send(method, path, data, headers, timeout=timeout)
        try:
            return {"status": response.status, "json": await response.json(content_type=None)}
        finally:
            response.release()


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


async def _answer(driver: Driver, line: bytes) -> None:
    call = json.loads(line)
    try:
        method = getattr(driver, call["method"], None)
        if method is None or call["method"].startswith("_"):
            raise CallError(f"no such call: {call['method']}")
        answer = {"id": call["id"], "result": await method(**call["params"])}
    except Exception as error:
        logging.exception("%s", call["method"])
        text = str(error) if isinstance(error, CallError) else f"{type(error).__name__}: {error}"
        answer = {"id": call["id"], "error": text}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def _main(store: Path, timeline_limit: int | None) -> None:
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    driver = Driver(store, timeline_limit)
    calls: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        task = asyncio.create_task(_answer(driver, line))
        calls.add(task)
        task.add_done_callback(calls.discard)
    await driver.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A matrix-nio client driven by lines of JSON on stdin.")
    parser.add_argument("--store", type=Path, required=True, help="an existing directory for its keys")
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    parser.add_argument("--timeline-limit", type=int, help="events of a room in one answer; nio asks for none that are left out")
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.store, arguments.timeline_limit))
