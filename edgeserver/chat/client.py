"""The client-server API as far as this client needs it, over any `Exchange`: one method for each thing that it asks of the server.

Each raises `Refused` where the server says no, and `ExchangeError` where there is no answer (see `transports.exchange`).
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, urlencode

import orjson

from edgeserver.chat import classic, events, sliding, visible
from edgeserver.thin import screen
from transports.exchange import Observable, Priority, Request, Response, TooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping

    from edgeserver.thin.screen import Answer, Older, Wish
    from transports.exchange import Exchange, LinkProfile, Observation

T = TypeVar("T")

V3: Final = "/_matrix/client/v3"
MAX_ANSWER: Final = 16_000_000
"""Bytes of an answer; a first classic sync of somebody in many rooms is the largest."""
MAX_TARGET: Final = 8000
OLDER_EVENTS: Final = 10
PATIENCE: Final = 120.0
"""Seconds for a request over a fast wire; a thin one gets five times as long."""
GRACE: Final = 120.0
"""Seconds that a poll may take beyond the time for which the server holds it."""
_SAFE: Final = "!:@#$-._~"


class Refused(Exception):
    """The server has answered with an error: its HTTP status, errcode, one sentence for people, and after how many seconds to ask again."""

    def __init__(self, status: int, errcode: str, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.status, self.errcode, self.retry_after = status, errcode, retry_after

    @property
    def passes(self) -> bool:
        """Whether the same request may be answered otherwise later: the server is busy or in trouble."""
        return self.status in (408, 425, 429) or self.status >= 500

    @property
    def ends_session(self) -> bool:
        """The access token is no more."""
        return self.status == 401 and self.errcode in ("M_UNKNOWN_TOKEN", "M_MISSING_TOKEN")


class Client:
    """`token` is the access token, None before login."""

    def __init__(self, exchange: Exchange, token: str | None = None) -> None:
        self._exchange = exchange
        self.token = token

    @property
    def profile(self) -> LinkProfile:
        return self._exchange.profile

    # ---- the account

    async def versions(self) -> dict[str, Any]:
        return await self._call("GET", "/_matrix/client/versions", priority=Priority.INTERACTIVE)

    async def log_in(self, user: str, password: str, device_id: str | None, device_name: str) -> dict[str, Any]:
        """POST /login with a password; the answer has `user_id`, `access_token` and `device_id`."""
        wanted: dict[str, Any] = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": password,
            "initial_device_display_name": device_name,
        }
        if device_id:
            wanted["device_id"] = device_id
        return await self._call("POST", f"{V3}/login", wanted, priority=Priority.INTERACTIVE)

    async def log_out(self) -> None:
        await self._call("POST", f"{V3}/logout", {}, priority=Priority.INTERACTIVE)

    # ---- news

    async def sliding_sync(
        self, pos: str | None, hold: float, listed: int, rooms: Collection[str], open_room: str | None, *, all_receipts: bool
    ) -> dict[str, Any]:
        """`hold` in seconds is how long the server may wait for news; see `sliding`."""
        query = {"timeout": str(int(hold * 1000)), **({} if pos is None else {"pos": pos})}
        asked = sliding.body(listed, rooms, open_room, all_receipts=all_receipts)
        return await self._call("POST", sliding.PATH, asked, query=query, hold=hold)

    async def classic_sync(self, since: str | None, hold: float) -> dict[str, Any]:
        return await self._call("GET", classic.PATH, query=classic.query(since, int(hold * 1000)), hold=hold)

    async def screen(self, pos: int | None, hold: float, wish: Wish) -> Answer:
        """The compact screen of a box."""
        query = {**({} if pos is None else {"pos": str(pos)}), "timeout": str(int(hold * 1000))}
        told = await self._call("POST", f"{screen.BASE}/sync", screen.write_wish(wish), query=query, hold=hold)
        return _read(screen.read_answer, told)

    @property
    def observes(self) -> bool:
        """Whether the wire brings the screen's news without being asked each time."""
        return isinstance(self._exchange, Observable)

    @asynccontextmanager
    async def observe_screen(self, pos: int | None, wish: Wish) -> AsyncIterator[ScreenNews]:
        """The answers that follow, one for each news; without `pos` the first one at once."""
        target = f"{screen.BASE}/sync" if pos is None else f"{screen.BASE}/sync?pos={pos}"
        request = self._request("POST", target, screen.write_wish(wish), Priority.MESSAGE, float("inf"))
        assert isinstance(self._exchange, Observable)
        async with self._exchange.observe(request) as observation:
            yield ScreenNews(observation)

    async def screen_older(self, room: int | str, before: int) -> Older:
        asked = {"before": before, "limit": OLDER_EVENTS}
        told = await self._call("POST", f"{_on_screen(room)}/older", asked, priority=Priority.HISTORY)
        return _read(screen.read_older, told)

    async def older(self, room_id: str, start: str) -> tuple[list[Mapping[str, Any]], str]:
        """Some events before that place, newest first, and the next place (empty: there are none before)."""
        query = {"dir": "b", "from": start, "limit": str(OLDER_EVENTS), "filter": '{"lazy_load_members":true}'}
        answer = await self._call("GET", f"{_room(room_id)}/messages", query=query, priority=Priority.HISTORY)
        return sliding.objects(answer, "chunk"), events.text_of(answer, "end")

    # ---- rooms

    async def send(self, room_id: str, transaction: str, content: Mapping[str, Any]) -> str:
        """The event's id. Repeating it with the same transaction id does no harm."""
        target = f"{_room(room_id)}/send/m.room.message/{quote(transaction, safe='')}"
        return events.identifier((await self._call("PUT", target, content)).get("event_id"))

    async def say(self, room: int, transaction: str, text: str, *, is_emote: bool) -> int | None:
        """`send` by way of the screen; the event's number."""
        target = f"{_on_screen(room)}/say/{quote(transaction, safe='')}"
        number = (await self._call("PUT", target, {"emote" if is_emote else "text": text})).get("number")
        return number if type(number) is int else None

    async def is_encrypted(self, room_id: str) -> bool:
        """Raises `Refused` with 403 for a room that we are not in."""
        try:
            await self._call("GET", f"{_room(room_id)}/state/m.room.encryption")
        except Refused as refusal:
            if refusal.status == 404:
                return False
            raise
        return True

    async def mark_read(self, room_id: str, event_id: str) -> None:
        await self._call("POST", f"{_room(room_id)}/receipt/m.read/{quote(event_id, safe=_SAFE)}", {}, priority=Priority.RECEIPT)

    async def screen_read(self, room: int | str, number: int) -> None:
        await self._call("POST", f"{_on_screen(room)}/read", {"number": number}, priority=Priority.RECEIPT)

    async def join(self, address: str) -> str:
        """The room's id. `address` is an alias or a room id."""
        answer = await self._call("POST", f"{V3}/join/{quote(address, safe=_SAFE)}", {}, priority=Priority.INTERACTIVE)
        return events.identifier(answer.get("room_id"))

    async def create(self, name: str) -> str:
        """The room's id: it is for those who are invited."""
        answer = await self._call("POST", f"{V3}/createRoom", {"name": name, "preset": "private_chat"}, priority=Priority.INTERACTIVE)
        return events.identifier(answer.get("room_id"))

    async def invite(self, room_id: str, user_id: str) -> None:
        await self._call("POST", f"{_room(room_id)}/invite", {"user_id": user_id}, priority=Priority.INTERACTIVE)

    async def leave(self, room_id: str) -> None:
        """Also declines an invite."""
        await self._call("POST", f"{_room(room_id)}/leave", {}, priority=Priority.INTERACTIVE)

    async def members(self, room_id: str) -> list[tuple[str, str]]:
        """User id and display name (empty if there is none) of who is in the room, as they came: hostile."""
        joined = sliding.table(await self._call("GET", f"{_room(room_id)}/joined_members"), "joined")
        return [(who, events.text_of(told, "display_name")) for who, told in joined.items() if isinstance(told, dict)]

    # ---- one request

    async def _call(
        self,
        method: str,
        path: str,
        content: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        priority: Priority = Priority.MESSAGE,
        hold: float | None = None,
    ) -> dict[str, Any]:
        target = f"{path}?{urlencode(query, quote_via=quote)}" if query else path
        patience = (PATIENCE if hold is None else hold + GRACE) * (5 if self.profile.is_thin else 1)
        return _answer(await self._exchange.exchange(self._request(method, target, content, priority, patience)))

    def _request(self, method: str, target: str, content: Mapping[str, Any] | None, priority: Priority, patience: float) -> Request:
        if len(target) > MAX_TARGET:
            raise TooLarge("this address is too long")
        headers = [] if self.token is None else [("authorization", f"Bearer {self.token}")]
        if content is not None:
            headers.append(("content-type", "application/json"))
        return Request(
            method,
            target,
            headers=tuple(headers),
            body=b"" if content is None else orjson.dumps(content),
            priority=priority,
            timeout=patience,
            max_response=MAX_ANSWER,
        )


class ScreenNews:
    """The screen as the box tells of it by itself. `is_over`: what follows has to be asked for."""

    def __init__(self, observation: Observation) -> None:
        self._observation = observation

    @property
    def is_over(self) -> bool:
        return self._observation.is_over

    async def next(self) -> Answer:
        """Waits for news. Raises `Refused` and `ExchangeError`."""
        return _read(screen.read_answer, _answer(await self._observation.receive()))

    def arrived(self) -> Answer | None:
        """The next answer if it is here already; None also of what is no answer."""
        response = self._observation.arrived()
        try:
            return None if response is None else _read(screen.read_answer, _answer(response))
        except Refused:
            return None


def _room(room_id: str) -> str:
    return f"{V3}/rooms/{quote(room_id, safe=_SAFE)}"


def _on_screen(room: int | str) -> str:
    return f"{screen.BASE}/rooms/{quote(str(room), safe=_SAFE)}"


def _read(read: Callable[[object], T], told: object) -> T:
    try:
        return read(told)
    except screen.ScreenError as error:
        raise Refused(502, "", f"The answer is not one of a box: {error}") from error


def _answer(response: Response) -> dict[str, Any]:
    """The JSON object of a success. Raises `Refused`."""
    try:
        told = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        told = None
    if 200 <= response.status < 300 and isinstance(told, dict):
        return told
    error: dict[str, Any] = told if isinstance(told, dict) else {}
    sentence = visible.one_line(error.get("error")) or f"The server answered {response.status} without a reason."
    status = response.status if response.status >= 300 else 502  # a success that is no JSON is not from a Matrix server
    raise Refused(status, events.text_of(error, "errcode"), sentence, _retry_after(response, error))


def _retry_after(response: Response, error: Mapping[str, Any]) -> float | None:
    """Seconds. Spec: client-server API, "Rate limiting"; RFC 9110, 10.2.3."""
    told = response.header("retry-after") or ""
    if told.isascii() and told.isdecimal() and len(told) < 7:
        return float(told)
    ms = error.get("retry_after_ms")
    return ms / 1000 if isinstance(ms, int) and 0 < ms < 1 << 31 else None
