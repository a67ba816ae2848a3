"""What a notification of an observed /sync is (MSC3079, "CoAP OBSERVE"): the answer to the sync that goes on where the last one ended.

The registration is answered at once with what there is. From then on this end polls for the client, and tells it only of answers that
hold news; a client that has lost its registration makes a new one with the `next_batch` that it has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson

if TYPE_CHECKING:
    from transports.exchange import Request

PATHS: Final = ("/_matrix/client/r0/sync", "/_matrix/client/v3/sync")
POLL_MS: Final = 300_000
_ONCE: Final = ("since", "timeout", "full_state")
_COUNTS: Final = ("device_one_time_keys_count", "device_unused_fallback_key_types", "org.matrix.msc2732.device_unused_fallback_key_types")
"""Sections that are always there, and news only if they are not as before."""


def is_sync(request: Request) -> bool:
    """Whether it can be observed."""
    return request.method == "GET" and request.target.partition("?")[0] in PATHS


def at_once(request: Request) -> Request:
    """The same sync, which does not wait."""
    return _with(request, ("timeout",), "timeout=0")


def after(request: Request, batch: str) -> Request:
    """The sync that goes on from that `next_batch` and waits for news."""
    return _with(request, _ONCE, f"since={quote(batch, safe='')}&timeout={POLL_MS}")


def _with(request: Request, without: tuple[str, ...], more: str) -> Request:
    path, _, query = request.target.partition("?")
    kept = [pair for pair in query.split("&") if pair and pair.partition("=")[0] not in without]
    return replace(request, target=f"{path}?{'&'.join([*kept, more])}")


def batch_of(body: bytes) -> str | None:
    """The `next_batch` of an answer; None if it is none."""
    batch = _object(body).get("next_batch")
    return batch if isinstance(batch, str) else None


def counts_of(body: bytes) -> dict[str, Any]:
    """What of an answer is news only when it changes."""
    found = _object(body)
    return {name: found[name] for name in _COUNTS if name in found}


def has_news(body: bytes, counts: dict[str, Any]) -> bool:
    """Whether an answer tells more than that time has passed; `counts` are those of the answer that the client has."""
    found = _object(body)
    if any(found[name] != counts.get(name) for name in _COUNTS if name in found):
        return True
    return any(_is_filled(value) for name, value in found.items() if name != "next_batch" and name not in _COUNTS)


def _is_filled(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_is_filled, value.values()))
    return bool(value)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
