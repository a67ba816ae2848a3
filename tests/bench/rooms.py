"""An account with many rooms, put into a box's database by the program's own write path while the box stands still.

Zipf's law: of n rooms the k-th largest has n/k members. All but the owner are of another server, as in rooms of the wide federation.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
import trio_asyncio

from edgeserver.matrix.signatures import SigningKey
from edgeserver.rooms.create import RoomCreator, parse
from edgeserver.rooms.persist import Persister
from edgeserver.rooms.send import Composer
from edgeserver.store import rooms
from edgeserver.store.database import Database, Transaction, open_database
from edgeserver.users.push import UnreadCounts
from edgeserver.wakeups import Wakeups

MOST_MEMBERS = 5000
MEGOLM = "m.megolm.v1.aes-sha2"
AT_ONCE = 500
"""Events in one transaction."""


class Furnisher:
    """Makes rooms for one user."""

    def __init__(
        self, db: Database, server_name: str, owner: str, chance: random.Random, text: Callable[[], str], encrypted: float
    ) -> None:
        self._text = text
        self._encrypted = encrypted
        self._db, self._owner, self._chance = db, owner, chance
        self._now = 1_790_000_000_000
        key = SigningKey(b"1" * 32, "ed25519:bench")
        persister = Persister(server_name, Wakeups(), [UnreadCounts(server_name).persisted])
        self._composer = Composer(db, persister, server_name, key, self._now_ms)
        names = (f"bench{number}" for number in range(10**6))
        self._creator = RoomCreator(
            db, self._composer, persister, server_name, key, self._now_ms, lambda: next(names), lambda _, user: {"displayname": user[1:6]}
        )

    def _now_ms(self) -> int:
        self._now += 1000
        return self._now

    async def room(self, number: int, members: int) -> str:
        """One room with so many members, of whom the last says something."""
        body: dict[str, Any] = {"preset": "public_chat", "name": f"Room {number}", "topic": "About the weather, and when the boat goes"}
        is_encrypted = self._chance.random() < self._encrypted
        if is_encrypted:
            body["initial_state"] = [{"type": "m.room.encryption", "state_key": "", "content": {"algorithm": MEGOLM}}]
        room_id = await self._creator.create(self._owner, parse(body, ""))
        others = [f"@person{self._chance.randrange(10**9)}:far{self._chance.randrange(40)}.test" for _ in range(members - 1)]
        for start in range(0, len(others), AT_ONCE):
            await self._db.write(lambda tx, part=others[start : start + AT_ONCE]: self._join(tx, room_id, part))
        speaker = others[-1] if others else self._owner
        kind = "m.room.encrypted" if is_encrypted else "m.room.message"
        content = self._sealed() if is_encrypted else {"msgtype": "m.text", "body": self._text()}
        await self._db.write(lambda tx: self._compose(tx, room_id, speaker, kind, content))
        return room_id

    def _sealed(self) -> dict[str, Any]:
        """The content of a short message in Megolm: bytes that nothing makes shorter."""
        device, session, sealed = (base64.b64encode(self._chance.randbytes(size)).decode().rstrip("=") for size in (32, 32, 190))
        return {"algorithm": MEGOLM, "ciphertext": sealed, "device_id": device[:10].upper(), "sender_key": device, "session_id": session}

    def _join(self, tx: Transaction, room_id: str, users: list[str]) -> None:
        for user_id in users:
            content = {"membership": "join", "displayname": user_id[1:].split(":")[0]}
            self._compose(tx, room_id, user_id, "m.room.member", content, state_key=user_id)

    def _compose(self, tx: Transaction, room_id: str, sender: str, kind: str, content: dict[str, Any], **more: Any) -> None:
        room = rooms.get(tx, room_id)
        assert room is not None
        self._composer.compose(tx, room, sender, kind, content, **more)


def furnish(
    database: Path,
    server_name: str,
    owner: str,
    count: int,
    chance: random.Random,
    text: Callable[[], str] = lambda: "Good morning.",
    encrypted: float = 0.0,
) -> str:
    """Makes so many rooms for a local user, with a `text` in each but those that are `encrypted`, a share; returns the last one's id."""

    async def make() -> str:
        sizes = [min(MOST_MEMBERS, max(1, count // rank)) for rank in range(1, count + 1)]
        chance.shuffle(sizes)
        last = ""
        async with trio_asyncio.open_loop(), open_database(database) as db:
            furnisher = Furnisher(db, server_name, owner, chance, text, encrypted)
            for number, members in enumerate(sizes):
                last = await furnisher.room(number, members)
        return last

    return trio.run(make)
