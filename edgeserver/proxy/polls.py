"""GET /_matrix/client/v3/sync, and simplified sliding sync's POST. Spec: client-server API, "Syncing"; MSC4186.

On a thin line a poll waits at the box, where it costs nothing, for much longer than the client asks for. A client whose
own timeout is over gets an empty answer from here, and its next poll joins the one that waits. An answer that comes too
late for the client that asked (an initial sync may take an hour) is there when it asks again. A newer sync of the same
device, from another point, takes the place of the older one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
import trio

from edgeserver.proxy.errands import Terms
from edgeserver.proxy.filters import thinned
from edgeserver.proxy.replies import json_object, json_response

if TYPE_CHECKING:
    from edgeserver.paired.line import Line
    from edgeserver.proxy.call import Call
    from edgeserver.proxy.errands import Errands
    from edgeserver.proxy.filters import DefinedFilters
    from transports.exchange import Request, Response

HOLD_MS: Final = 30 * 60_000
"""How long a poll is left at the box, on a thin line."""
LEAST_WAIT: Final = 20.0
"""Seconds that the line has at least, before a client gets an empty answer to a poll that has only just left."""
PATIENCE: Final = 12 * 3600.0
MAX_DEVICES: Final = 64
_TERMS: Final = Terms(linger=600.0, keep=600.0)
_TOLD_EVERY_TIME: Final = ("device_one_time_keys_count", "device_unused_fallback_key_types")


@dataclass(slots=True)
class _Device:
    """`key`: its poll under way. `counts`: what every answer says of its keys (None: no answer has been seen)."""

    key: Any = None
    counts: dict[str, Any] | None = None


class Polls:
    """The syncs of all clients."""

    def __init__(self, line: Line, errands: Errands, filters: DefinedFilters) -> None:
        self._line = line
        self._errands = errands
        self._filters = filters
        self._devices: dict[tuple[str, str], _Device] = {}

    async def sync(self, call: Call) -> Response:
        asked = call.parameters
        device = self._device(call.authorization, "")
        key = ("sync", call.authorization, tuple(sorted((name, value) for name, value in asked.items() if name != "timeout")))
        joins = self._take_place(device, key)
        timeout_ms = _milliseconds(asked.get("timeout"))
        errand = self._errands.begin(key, lambda: self._fetch(call, device, asked, timeout_ms), _TERMS)
        wait = float("inf")
        if self._line.is_thin and "since" in asked and device.counts is not None:
            wait = timeout_ms / 1000 if joins else max(timeout_ms / 1000, LEAST_WAIT)
        if errand.done.is_set():
            wait = float("inf")
        with trio.move_on_after(wait):
            response = await self._errands.wait(errand)
            if not _goes_on(response, asked.get("since")):
                self._errands.drop(key, errand)
            return response
        return json_response({"next_batch": asked["since"], **(device.counts or {})})

    async def sliding_sync(self, call: Call) -> Response:
        """Held at the box for as long as the client says; every position is asked for until it has been answered."""
        body = json_object(call.request.body) or {}
        device = self._device(call.authorization, str(body.get("conn_id", "")) + "/")
        key = ("sliding sync", *call.identity())
        self._take_place(device, key)
        patience = PATIENCE + _milliseconds(call.parameters.get("timeout")) / 1000

        async def fetch() -> Response:
            return await self._carry(call.request, patience)

        errand = self._errands.begin(key, fetch, _TERMS)
        response = await self._errands.wait(errand)
        told = json_object(response.body)
        if response.status != 200 or told is None or told.get("pos") == call.parameters.get("pos"):
            self._errands.drop(key, errand)
        return response

    def _device(self, authorization: str, connection: str) -> _Device:
        device = self._devices.pop((authorization, connection), None) or _Device()
        self._devices[authorization, connection] = device  # the newest last
        if len(self._devices) > MAX_DEVICES:
            oldest = next(iter(self._devices))
            self._errands.drop(self._devices.pop(oldest).key)
        return device

    def _take_place(self, device: _Device, key: Any) -> bool:
        """Ends the device's other poll, if it has one; True if this one is under way already."""
        if device.key is not None and device.key != key:
            self._errands.drop(device.key)
        device.key = key
        return self._errands.find(key) is not None

    async def _fetch(self, call: Call, device: _Device, asked: dict[str, str], timeout_ms: int) -> Response:
        request = call.request
        if self._line.is_thin:
            if "since" in asked and timeout_ms:
                timeout_ms = max(timeout_ms, HOLD_MS)
            request = call.with_parameters(await self._thin_parameters(call, asked, timeout_ms))
        response = await self._carry(request, PATIENCE + timeout_ms / 1000)
        told = json_object(response.body) if response.status == 200 else None
        if told is not None:
            device.counts = {name: told[name] for name in _TOLD_EVERY_TIME if name in told}
        return response

    async def _thin_parameters(self, call: Call, asked: dict[str, str], timeout_ms: int) -> dict[str, str]:
        """The same question, asked cheaply: the hold, the filter, and no presence of our own."""
        wanted = {name: value for name, value in asked.items() if name not in ("timeout", "filter", "set_presence")}
        if timeout_ms:
            wanted["timeout"] = str(timeout_ms)
        if asked.get("set_presence", "online") != "online":
            wanted["set_presence"] = asked["set_presence"]
        chosen = await self._filter(call.authorization, asked.get("filter", ""), initial="since" not in asked)
        if chosen:
            wanted["filter"] = chosen
        return wanted

    async def _filter(self, authorization: str, given: str, *, initial: bool) -> str:
        inline = json_object(given.encode()) if given.startswith("{") else None
        if given and inline is None:
            definition = self._filters.definition(authorization, given)
            if not initial or definition is None or thinned(definition, initial=True) == definition:
                return given
            return orjson.dumps(thinned(definition, initial=True)).decode()
        thin = thinned(inline or {}, initial=initial)
        known = await self._filters.id_of(authorization, thin) if authorization else None
        return known or orjson.dumps(thin).decode()

    async def _carry(self, request: Request, patience: float) -> Response:
        return await self._line.carry(request, repeatable=True, patience=patience, poll=True)


def _milliseconds(text: str | None) -> int:
    return min(int(text), 3_600_000) if text is not None and text.isascii() and text.isdigit() and len(text) < 12 else 0


def _goes_on(response: Response, since: str | None) -> bool:
    """Whether the client's next sync will be another one than this."""
    told = json_object(response.body) if response.status == 200 else None
    return told is not None and told.get("next_batch") != since
