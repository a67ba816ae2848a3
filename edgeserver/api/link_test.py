"""Measuring a line: GET and POST /_edgeserver/v1/link_test, which paired peers serve each other over links alone.

`GET …?bytes=N` answers with N random bytes, which nothing on the way can make smaller; `POST` takes bytes and drops them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio
from starlette.responses import Response

from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.matrix import errors
from transports.exchange import Priority, Request

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from transports.exchange import Exchange

PATH = "/_edgeserver/v1/link_test"
MAX_BYTES = 64 * 1024
ROUND_TRIPS = 3
_SECONDS = 5  # that the bytes of one direction take on an idle line
_LEAST_BYTES = 256
_TIMEOUT = 120.0  # s: on a busy line others go first


@dataclass(frozen=True, slots=True)
class Measured:
    """`round_trip` is the best of `ROUND_TRIPS` empty exchanges, in s; `down` and `up` are what a body of `size` bytes made of the line,
    in bits a second (None: the other end is of a release that does not serve the test).
    """

    peer: str | None
    bit_rate: int | None
    round_trip: float
    size: int
    down: float | None
    up: float | None


async def measure(exchange: Exchange) -> Measured:
    """Measures a line while it is in use: others' traffic goes first. Raises `ExchangeError`."""
    profile = exchange.profile
    size = MAX_BYTES if profile.bit_rate is None else max(_LEAST_BYTES, min(MAX_BYTES, profile.bit_rate // 10 * _SECONDS))
    trips = [await _timed(exchange, "GET", f"{PATH}?bytes=0") for _ in range(ROUND_TRIPS)]
    round_trip = min(seconds for seconds, _ in trips)
    down = up = None
    if all(served for _, served in trips):
        took, served = await _timed(exchange, "GET", f"{PATH}?bytes={size}")
        down = _rate(size, took, round_trip) if served else None
        took, served = await _timed(exchange, "POST", PATH, os.urandom(size))
        up = _rate(size, took, round_trip) if served else None
    return Measured(profile.peer, profile.bit_rate, round_trip, size, down, up)


async def _timed(exchange: Exchange, method: str, target: str, body: bytes = b"") -> tuple[float, bool]:
    """Seconds that an exchange took, and whether the other end serves it. A refusal is a round trip all the same."""
    started = trio.current_time()
    headers = (("content-type", "application/octet-stream"),) if body else ()
    response = await exchange.exchange(Request(method, target, "", headers, body, Priority.HISTORY, _TIMEOUT))
    return trio.current_time() - started, response.status == 200


def _rate(size: int, took: float, round_trip: float) -> float:
    """Bits a second of the time beyond an empty exchange's."""
    return size * 8 / max(took - round_trip, 1e-3)


def routes() -> list[Route]:
    """The other end's side."""

    async def give(call: Call) -> Response:
        _check_link(call)
        wanted = call.query.get("bytes", "0")
        if not wanted.isdecimal() or len(wanted) > 6 or int(wanted) > MAX_BYTES:
            raise errors.InvalidParam(f"bytes is a number from 0 to {MAX_BYTES}.")
        return Response(os.urandom(int(wanted)), media_type="application/octet-stream")

    async def take(call: Call) -> dict[str, Any]:
        _check_link(call)
        return {"bytes": len(await call.body())}

    return [
        *endpoint("GET", PATH, give, auth=Auth.NONE),
        *endpoint("POST", PATH, take, auth=Auth.NONE, max_body=MAX_BYTES),
    ]


def _check_link(call: Call) -> None:
    if call.link is None or call.link.peer is None:
        raise errors.Unrecognized
