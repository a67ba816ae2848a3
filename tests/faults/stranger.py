"""A server of the world that obeys no rule: it holds a key, answers for it, and sends whatever a test makes up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import isawaitable
from typing import Any
from urllib.parse import quote

import orjson
import trio

from edgeserver.federation import key_response
from edgeserver.federation.calls import path
from edgeserver.matrix import draft, signatures
from edgeserver.matrix.event import Event
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from edgeserver.matrix.signatures import SigningKey
from tests.flows.world import EPOCH, World
from transports.exchange import Request, Response

V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"


class Stranger:
    """`asked` holds the paths of the requests that came in; `answers` maps the begin of a path to what it answers there, at once or in a
    while.
    """

    def __init__(self, world: World, name: str = "evil.test", seed: bytes = b"e" * 32) -> None:
        self.world, self.name = world, name
        self.key = SigningKey(seed, "ed25519:e")
        self.user_id = f"@mallory:{name}"
        self.rules = ROOM_VERSIONS["11"]
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[str], Any]] = {}
        self._sent = 0
        self.appear()

    def appear(self) -> None:
        self.world.internet.plug(self.name, self._app)

    def vanish(self) -> None:
        self.world.internet.unplug(self.name)

    def now(self) -> int:
        return int((EPOCH + trio.current_time()) * 1000)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        target = scope["raw_path"].decode()
        self.asked.append(target)
        answer: Any = {"errcode": "M_UNRECOGNIZED", "error": "no"}
        if target == "/_matrix/key/v2/server":
            answer = key_response.write(self.name, self.key, (), self.now())
        for begin, make in self.answers.items():
            if target.startswith(begin):
                answer = make(target)
                if isawaitable(answer):
                    answer = await answer
        body = answer if isinstance(answer, bytes) else orjson.dumps(answer)
        status = 404 if isinstance(answer, dict) and "errcode" in answer else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    async def raw(self, server: str, method: str, target: str, body: bytes, authorization: str) -> Response:
        headers = (("Authorization", authorization), ("Content-Type", "application/json"))
        return await self.world.internet.carry(self.name, Request(method, target, server, headers, body))

    async def ask(self, server: str, method: str, target: str, content: Any = None) -> tuple[int, Any]:
        """A rightly signed request: (status, the answer's JSON)."""
        body = b"" if content is None else orjson.dumps(content)
        authorization = signatures.sign_request(method, target, self.name, server, self.key, content)
        response = await self.raw(server, method, target, body, authorization)
        return response.status, orjson.loads(response.body)

    async def transaction(self, server: str, pdus: Sequence[Any] = (), edus: Sequence[Any] = (), txn: str | None = None) -> dict[str, Any]:
        """Event id → {} or {"error"}: the answer to one transaction."""
        self._sent += 1
        content = {"origin": self.name, "origin_server_ts": self.now(), "pdus": list(pdus), "edus": list(edus)}
        status, answer = await self.ask(server, "PUT", f"{V1}/send/{txn or f'x{self._sent}'}", content)
        assert status == 200, answer
        pdus_answer: dict[str, Any] = answer["pdus"]
        return pdus_answer

    async def join(self, server: str, room_id: str, version: str = "11") -> Event:
        """The stranger's user joins as any server's would; returns the membership event."""
        status, made = await self.ask(server, "GET", path(f"{V1}/make_join", room_id, self.user_id, ver=[version]))
        assert status == 200, made
        self.rules = ROOM_VERSIONS[version]
        event = draft.complete({**made["event"], "origin_server_ts": self.now()}, self.rules, self.name, self.key)
        target = f"{V2}/send_join/{quote(room_id, safe='')}/{quote(event.event_id, safe='')}"
        status, answer = await self.ask(server, "PUT", target, event.pdu)
        assert status == 200, answer
        self.auth = [*[one for one in event.auth_events if one not in self._replaced(answer)], event.event_id]
        return event

    def _replaced(self, answer: Mapping[str, Any]) -> set[str]:
        made = [Event.from_pdu(pdu, self.rules) for pdu in answer["state"]]
        return {one.event_id for one in made if one.type == "m.room.join_rules"}

    def message(self, room_id: str, prev: Sequence[str], depth: int, text: str, **changes: Any) -> Event:
        """A message of the stranger's user that is right but for `changes`, which are signed with it."""
        proto = {
            "type": "m.room.message",
            "room_id": room_id,
            "sender": self.user_id,
            "content": {"msgtype": "m.text", "body": text},
            "prev_events": list(prev),
            "auth_events": list(self.auth),
            "depth": depth,
            "origin_server_ts": self.now(),
            **changes,
        }
        return draft.complete(proto, self.rules, self.name, self.key)


def targets(world: World) -> list[str]:
    """The names that requests are made of from now on, as they are."""
    found: list[str] = []
    carry = world.internet.carry

    async def noting(origin: str, request: Request) -> Response:
        found.append(request.authority)
        return await carry(origin, request)

    world.internet.carry = noting  # type: ignore[method-assign]
    return found
