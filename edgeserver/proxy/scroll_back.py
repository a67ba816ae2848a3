"""GET /rooms/{roomId}/messages, backwards: what syncs and earlier pages have told is not asked for once more.

While the line is up that is so of what the box would say just the same; while it is down, what is known is better than nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from edgeserver.proxy.replies import json_object, json_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from edgeserver.paired.line import Line
    from edgeserver.proxy.call import Call
    from edgeserver.proxy.feeds import Feeds
    from transports.exchange import Response

DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 100
_PATH: Final = re.compile(r"/_matrix/client/(?:r0|v3)/rooms/([^/]+)/messages")
_ABOUT_MEMBERS: Final = frozenset(("lazy_load_members", "include_redundant_members"))


@dataclass(frozen=True, slots=True)
class _Page:
    """Events before `start` (None: the newest). `lazy`: with the members who sent them."""

    room_id: str
    start: str | None
    limit: int
    lazy: bool


class ScrollBack:
    """`forward` takes a request to the box."""

    def __init__(self, line: Line, feeds: Feeds, forward: Callable[[Call], Awaitable[Response]]) -> None:
        self._line = line
        self._feeds = feeds
        self._forward = forward

    async def answer(self, call: Call) -> Response:
        """From here if possible, else the box's answer, which is remembered. Raises `MatrixError`."""
        page, is_up = _page(call), self._line.is_up
        if page is None or not self._line.is_thin:
            return await self._forward(call)
        if page.start is not None or not is_up:  # what is newest the box knows
            told = await self._feeds.messages(call.authorization, page.room_id, page.start, page.limit, lazy=page.lazy, is_up=is_up)
            if told is not None:
                return json_response(told)
        response = await self._forward(call)
        if page.start is not None:
            self._feeds.hear_older(call.authorization, page.room_id, page.start, response)
        return response


def _page(call: Call) -> _Page | None:
    """None for what is not a page of all events, backwards."""
    path, asked = _PATH.fullmatch(call.path), call.parameters
    chosen = json_object(asked.get("filter", "{}").encode())
    limit = asked.get("limit", str(DEFAULT_LIMIT))
    if path is None or asked.get("dir") != "b" or chosen is None or not chosen.keys() <= _ABOUT_MEMBERS:
        return None
    if not asked.keys() <= {"dir", "from", "limit", "filter"} or not (limit.isascii() and limit.isdigit() and len(limit) < 9):
        return None
    lazy = chosen.get("lazy_load_members") is True
    return _Page(unquote(path[1]), asked.get("from") or None, min(int(limit), MAX_LIMIT), lazy)
