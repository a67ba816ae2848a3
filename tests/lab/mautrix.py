"""A bridge made with mautrix-python as a program, `python -m tests.lab.mautrix FOLDER`, driven by lines of JSON (`tests.lab.rpc`).

What bridges are made of: `mautrix.appservice` for transactions and ghosts, `mautrix.crypto` for a bot that encrypts, with a device that the
as_token made (MSC4190). FOLDER holds its registration.yaml. It is an asyncio library, so it lives in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from mautrix.appservice import AppService
from mautrix.appservice.state_store import FileASStateStore
from mautrix.client import Client
from mautrix.types import EncryptedEvent, EventType, RoomID, StateEvent, UserID

Params = dict[str, Any]


class Bridge:
    """The application service, what it has been told, and one coroutine for each call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._registration = yaml.safe_load((folder / "registration.yaml").read_text())
        self._service: AppService | None = None
        self._crypto: Any = None
        self._opened: dict[str, str] = {}
        self._raw: list[tuple[str, Params]] = []

    @property
    def service(self) -> AppService:
        assert self._service is not None
        return self._service

    async def start(self, homeserver: str, domain: str) -> None:
        """Listens where its registration says."""
        given = self._registration
        self._service = AppService(
            homeserver,
            domain,
            given["as_token"],
            given["hs_token"],
            given["sender_localpart"],
            given["id"],
            state_store=FileASStateStore(path=str(self._folder / "state.json"), binary=False),
            ephemeral_events=True,
            encryption_events=True,
            query_user=self._made,
        )
        self._service.matrix_event_handler(self._on_event)
        self._service.synchronous_handlers = True
        take = self._service.handle_transaction

        async def noted(txn_id: str, **content: Any) -> Any:
            self._raw.append((txn_id, json.loads(json.dumps(content, default=lambda one: one.serialize()))))
            return await take(txn_id, **content)

        self._service.handle_transaction = noted  # what the library was handed is what the test looks at
        await self._service.start("127.0.0.1", urlsplit(given["url"]).port)

    async def _made(self, user_id: str) -> Params | None:
        if "nobody" in user_id:
            return None
        await self.service.intent.user(UserID(user_id)).ensure_registered()
        return {}

    async def _on_event(self, event: Any) -> None:
        if self._crypto is None:
            return
        if isinstance(event, EncryptedEvent):
            found = await self._crypto.wait_for_session(event.room_id, event.content.session_id, timeout=10)
            if found:
                opened = await self._crypto.decrypt_megolm_event(event)
                self._opened[event.event_id] = opened.content.body
        elif isinstance(event, StateEvent) and event.type == EventType.ROOM_MEMBER:
            await self._crypto.handle_member_event(event)

    async def ping(self) -> int:
        return await self.service.ping_self("t1")

    async def register(self, user_id: str, name: str) -> None:
        ghost = self.service.intent.user(UserID(user_id))
        await ghost.ensure_registered()
        await ghost.set_displayname(name)

    async def join(self, room_id: str, user_id: str | None = None) -> None:
        intent = self.service.intent if user_id is None else self.service.intent.user(UserID(user_id))
        await intent.ensure_joined(RoomID(room_id))

    async def send(self, room_id: str, user_id: str, text: str) -> str:
        ghost = self.service.intent.user(UserID(user_id))
        return str(await ghost.send_text(RoomID(room_id), text))

    async def type(self, room_id: str, user_id: str) -> None:
        await self.service.intent.user(UserID(user_id)).set_typing(RoomID(room_id), timeout=5000)

    async def told(self) -> list[tuple[str, Params]]:
        """(transaction id, content) of what has come in, in order."""
        return self._raw

    async def opened(self) -> dict[str, str]:
        """Event id → text of the encrypted messages that could be read."""
        return self._opened

    # End-to-bridge encryption

    async def encrypt(self) -> str:
        """Makes the bot's device and its keys; returns its id."""
        from mautrix.crypto import OlmMachine
        from mautrix.crypto.store import MemoryCryptoStore

        bot = self.service.bot_mxid
        client = Client(mxid=bot, base_url=self.service.server, state_store=self.service.state_store)
        client.api.token = self.service.as_token
        await client.create_device_msc4190(device_id="BRIDGE", initial_display_name="bridge")
        self._crypto = OlmMachine(client, MemoryCryptoStore("bridge", "key"), _Rooms(self.service.state_store))
        await self._crypto.load()
        await self._crypto.share_keys()
        self.service.otk_handler = self._crypto.handle_as_otk_counts
        self.service.device_list_handler = self._crypto.handle_as_device_lists
        self.service.to_device_handler = self._crypto.handle_as_to_device_event
        return str(client.device_id)

    async def send_encrypted(self, room_id: str, users: list[str], text: str) -> str:
        """Sends a text as the bot, to all devices of these users."""
        await self._crypto.share_group_session(RoomID(room_id), [UserID(one) for one in users])
        content = {"msgtype": "m.text", "body": text}
        sealed = await self._crypto.encrypt_megolm_event(RoomID(room_id), EventType.ROOM_MESSAGE, content)
        return str(await self.service.intent.send_message_event(RoomID(room_id), EventType.ROOM_ENCRYPTED, sealed))


class _Rooms:
    """What the crypto machine asks of rooms, from what the bridge has been told."""

    def __init__(self, states: FileASStateStore) -> None:
        self._states = states

    async def is_encrypted(self, room_id: RoomID) -> bool:
        return bool(await self._states.is_encrypted(room_id))

    async def get_encryption_info(self, room_id: RoomID) -> Any:
        return await self._states.get_encryption_info(room_id)

    async def find_shared_rooms(self, user_id: UserID) -> list[RoomID]:
        return [room_id for room_id, members in self._states.members.items() if user_id in members]


async def _answer(bridge: Bridge, line: bytes) -> None:
    call = json.loads(line)
    try:
        answer = {"id": call["id"], "result": await getattr(bridge, call["method"])(**call["params"])}
    except Exception as error:
        logging.exception("%s", call["method"])
        answer = {"id": call["id"], "error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def _main(folder: Path) -> None:
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    bridge = Bridge(folder)
    calls: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        task = asyncio.create_task(_answer(bridge, line))
        calls.add(task)
        task.add_done_callback(calls.discard)
    await bridge.service.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(_main(Path(sys.argv[1])))
