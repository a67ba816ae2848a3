"""Media on a thin line: nothing comes that nobody has asked for, what comes comes once, and what broke off goes on.

Clients fetch pictures by themselves, so what they ask for is no person's wish: unless `Policy` says otherwise it is refused and listed,
and a person may have it fetched (`proxy.front_page`). What has come lies in `proxy.kept_media` for whichever client asks next. A fetch that
the line, a restart or a power cut has broken goes on where it was.

The refusal is 504 with M_NOT_YET_UPLOADED, which the specification has for media that is not available yet, and is never stored. A 404
would be final: matrix-rust-sdk (Element X) gives up at once on a 4xx, browsers may keep a 404 (RFC 9110 §15.1), and it says that the file
does not exist. On a 5xx matrix-rust-sdk asks again for a quarter of an hour, on this machine only, so that a picture appears by itself when
it has come. 429 would do that as well, but says that the client has done too much.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from edgeserver.app.blocking import Hop
from edgeserver.matrix import errors
from edgeserver.paired.line import OutOfPatience
from edgeserver.paired.state import StateError
from edgeserver.proxy.kept_media import KeptMedia, MediaKey, media_key
from edgeserver.proxy.replies import error_response, json_object
from edgeserver.proxy.transfers import MAX_DOWNLOAD, OverLimit
from transports.exchange import ExchangeError, Priority, Request, Response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeserver.paired.line import Line
    from edgeserver.proxy.call import Call
    from edgeserver.proxy.kept_media import MediaFolder
    from edgeserver.proxy.owners import Owners
    from edgeserver.proxy.transfers import Transfers
    from transports.exchange import Headers

log = logging.getLogger(__name__)

SMALL_SECONDS: Final = 30.0
"""What the line carries in so long is small."""
MAX_LISTED: Final = 100
MAX_UNDER_WAY: Final = 64
MAX_NAMES: Final = 1000
LINGER: Final = 120.0
"""Seconds for which a fetch that no person has asked for goes on after the last client has gone away."""
_AT_ONCE: Final = 3
_WHOAMI_SECONDS: Final = 60.0
_AUTHENTICATED: Final = "/_matrix/client/v1/media/"
_LEARN_FROM: Final = 1_000_000


class Policy(Enum):
    """Which media clients get over a thin line without a person's wish."""

    NONE = "none"
    SMALL = "small"
    ALL = "all"


@dataclass(eq=False)
class Item:
    """Media that was refused, or is under way. `size` in bytes as far as known; `request` is that of the client that asked last."""

    key: MediaKey
    request: Request
    name: str = ""
    size: int | None = None
    trouble: str = ""
    is_wish: bool = False
    limit: int | None = None
    kept: KeptMedia | None = None
    scope: trio.CancelScope | None = None
    done: trio.Event = field(default_factory=trio.Event)
    response: Response | None = None
    askers: int = 0
    is_stopping: bool = False
    """It ends when the part that is on the line has come."""

    @property
    def is_under_way(self) -> bool:
        return self.scope is not None

    @property
    def received(self) -> int:
        return 0 if self.kept is None else self.kept.size


class _Stopped(Exception):
    """Nobody wishes for it any longer."""


class Media:
    """`listed` maps digests to what was refused or is under way, the newest last. `run` is one task for the life of the proxy."""

    def __init__(
        self, line: Line, transfers: Transfers, folder: MediaFolder, owners: Owners, policy: Policy, *, inline: bool = False
    ) -> None:
        """`inline`: see `app.blocking`."""
        self.policy = policy
        self.listed: OrderedDict[str, Item] = OrderedDict()
        self._line = line
        self._transfers = transfers
        self._folder = folder
        self._owners = owners
        self._names: OrderedDict[tuple[str, str], tuple[str, int | None]] = OrderedDict()
        self._limiter = trio.CapacityLimiter(_AT_ONCE)
        self._disk = Hop(inline=inline, in_turn=True)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetches until cancelled, first of all what an earlier run has not finished. Raises `StateError` before it is started."""
        await self._disk(self._folder.load)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for kept in self._folder.all():
                if kept.wanted and not kept.is_whole:
                    self._go_on(kept)
            task_status.started()
            await trio.sleep_forever()

    def _go_on(self, kept: KeptMedia) -> None:
        headers = (("authorization", kept.authorization),) if kept.authorization else ()
        request = Request("GET", kept.target, headers=headers, priority=Priority.MEDIA, timeout=math.inf)
        self._begin(Item(kept.key, request, kept.name, kept.total, kept=kept), is_wish=True, limit=None)

    # ---- clients

    async def answer(self, call: Call) -> Response:
        """The media, or why it does not come."""
        key = media_key(call.path, call.query)
        if key is None:
            return error_response(errors.NotFound("That is no media."))
        kept = self._folder.get(key)
        if kept is not None and kept.is_whole:
            response = await self._read(kept) if await self._may_see(call) else _refusal(self._why_not(None))
            if response is not None:
                return response
        item = self._item(key, call)
        if not item.is_under_way:
            if self._is_accepted(call) or item.key.digest not in self.listed:
                item.request = call.request  # with a newer token, but not with a stranger's
            reason = self._refuses(item)
            if reason:
                self._list(item, call)
                return _refusal(reason)
            if not self._begin(item, is_wish=False, limit=self._limit):
                return _refusal("So many media are on their way already that there is no room for more.")
        return await self._wait(item, call)

    def _item(self, key: MediaKey, call: Call) -> Item:
        found = self.listed.get(key.digest)
        if found is not None:
            return found
        name, size = self._names.get((key.server, key.media_id), ("", None))
        if key.variant:
            size = None
        return Item(key, call.request, name, size, kept=self._folder.get(key))

    @property
    def _limit(self) -> int | None:
        """Bytes of what may come without a wish; None for any."""
        if self.policy is Policy.ALL:
            return None
        profile = self._line.profile
        rate = None if profile is None else profile.bit_rate
        return 0 if self.policy is Policy.NONE or rate is None else int(rate / 10 * SMALL_SECONDS)

    def _refuses(self, item: Item) -> str:
        """Why it is not fetched without a wish; empty if it is."""
        limit = self._limit
        if limit is None or (limit and (item.size is None or item.size <= limit) and self._line.is_up):
            return ""
        return self._why_not(item)

    def _why_not(self, item: Item | None) -> str:
        if item is None:
            return "The proxy gives it once it knows that this client is one of the box's; it has no line to ask over now."
        return "Media does not come over this thin line by itself. The page of the proxy, its address in a browser, has it fetched."

    def _list(self, item: Item, call: Call) -> None:
        """Strangers do not get onto the list: a web page may ask for anything, but it has no token."""
        if not self._is_accepted(call):
            return
        self.listed[item.key.digest] = item
        self.listed.move_to_end(item.key.digest)
        self._shorten_list()

    def _shorten_list(self) -> None:
        idle = [digest for digest, each in self.listed.items() if not each.is_under_way]
        idle.sort(key=lambda digest: not self.listed[digest].key.variant)  # everybody's avatar must not push out the one file
        for digest in idle[: max(0, len(self.listed) - MAX_LISTED)]:
            del self.listed[digest]

    async def _wait(self, item: Item, call: Call) -> Response:
        item.askers += 1
        scope = item.scope
        if scope is not None:
            scope.deadline = math.inf
        try:
            await item.done.wait()
        finally:
            item.askers -= 1
            if not item.askers and scope is not None and not item.is_wish:
                scope.deadline = trio.current_time() + LINGER
        kept = self._folder.get(item.key)
        if kept is not None and kept.is_whole and await self._may_see(call):
            response = await self._read(kept)
            if response is not None:
                return response
        if item.response is not None and item.request.header("authorization") == call.request.header("authorization"):
            return item.response  # what the box says to one of them (that a token is not valid any more) is not for the other
        return _refusal(item.trouble or self._why_not(item))

    async def _read(self, kept: KeptMedia) -> Response | None:
        """None if it is damaged, and then not there any longer."""
        try:
            body = await self._disk(self._folder.read, kept)
        except StateError as error:
            log.warning("%s", error)
            await self._remove(kept)
            return None
        return Response(200, kept.headers, body)

    async def _remove(self, kept: KeptMedia) -> None:
        try:
            await self._disk(self._folder.remove, kept)
        except StateError as error:
            log.warning("%s", error)

    # ---- who may see what has come

    def _is_accepted(self, call: Call) -> bool:
        return self._owners.known(call.authorization) is not None

    async def _may_see(self, call: Call) -> bool:
        """Whether the box knows this client; it is asked once for each token."""
        if not self._is_accepted(call) and self._line.is_up:
            with trio.move_on_after(_WHOAMI_SECONDS):
                await self._owners.of(call.authorization)
        return self._is_accepted(call)

    # ---- what a person wishes

    def wish(self, digest: str) -> bool:
        """Fetches what was refused; False if it is not on the list, or too much is under way."""
        item = self.listed.get(digest)
        if item is None:
            return False
        if item.scope is None:
            return self._begin(item, is_wish=True, limit=None)
        item.is_wish, item.is_stopping = True, False
        item.scope.deadline = math.inf
        if item.kept is not None and self._nursery is not None:
            self._nursery.start_soon(partial(self._note_wish, item.kept, wanted=True))
        return True

    def stop(self, digest: str) -> bool:
        """Ends a fetch, once the part that the box is sending has come; what has come stays for the next. False if it is not under way."""
        item = self.listed.get(digest)
        if item is None or item.scope is None:
            return False
        item.is_wish, item.is_stopping = False, True
        if item.kept is None or not self._line.is_up:
            item.scope.cancel()
        return True

    @property
    def under_way(self) -> list[Item]:
        return [item for item in self.listed.values() if item.is_under_way]

    @property
    def refused(self) -> list[Item]:
        """The newest first, files before thumbnails."""
        found = [item for item in reversed(self.listed.values()) if not item.is_under_way]
        return sorted(found, key=lambda item: bool(item.key.variant))

    def seconds_left(self, item: Item) -> float | None:
        """Until it is there, if nothing else is said and the line stays up; None where that is not known."""
        profile = self._line.profile
        rate = None if profile is None else profile.bit_rate
        if item.size is None or rate is None:
            return None
        return max(0, item.size - item.received) * 10 / rate * max(1, min(_AT_ONCE, len(self.under_way)))

    # ---- fetching

    def _begin(self, item: Item, *, is_wish: bool, limit: int | None) -> bool:
        if self._nursery is None or len(self.under_way) >= MAX_UNDER_WAY:
            return False
        item.is_wish, item.limit, item.trouble, item.response, item.is_stopping = is_wish, limit, "", None, False
        item.scope, item.done = trio.CancelScope(), trio.Event()
        self.listed[item.key.digest] = item
        self._nursery.start_soon(self._fetch, item, item.scope)
        return True

    async def _fetch(self, item: Item, scope: trio.CancelScope) -> None:
        ended = goes_on = False
        try:
            with scope:
                async with self._limiter:
                    await self._bring(item)
                ended = True
        except _Stopped:
            pass
        except OverLimit as error:
            item.size = error.total
            goes_on = item.is_wish  # somebody has wished for it meanwhile
        except (StateError, ExchangeError) as error:
            item.trouble = str(error) or "The line did not bring it."
        except Exception:
            log.exception("media could not be fetched")
            item.trouble = "Internal error."
        finally:
            item.scope = None
            if item.kept is not None and not ended and (scope.cancelled_caught or item.is_stopping):
                await self._note_wish(item.kept, wanted=False)
            if (item.kept is not None and item.kept.is_whole) or (item.response is not None and not item.is_wish):
                self.listed.pop(item.key.digest, None)
            self._shorten_list()
            item.done.set()
        if goes_on:
            self._begin(item, is_wish=True, limit=None)

    async def _note_wish(self, kept: KeptMedia, *, wanted: bool) -> None:
        if kept.wanted == wanted or kept.is_whole:
            return
        kept.wanted = wanted
        try:
            await self._disk(self._folder.say, kept)
        except StateError as error:
            log.warning("%s", error)

    async def _bring(self, item: Item) -> None:
        landing = await self._landing(item)
        request = replace(item.request, priority=Priority.MEDIA)
        try:
            response = await self._transfers.fetch(request, landing, limit=item.limit)
        except OutOfPatience as error:
            raise StateError("The line to the box did not bring it in time.") from error
        finally:
            item.size = landing.total if landing.total is not None else item.size
        if response is not None and response.status == 200 and len(response.body) <= MAX_DOWNLOAD:
            await landing.begin()  # the box gives the file whole: an older release, or there is nothing in it
            await landing.add(response.body, len(response.body), response.header("etag") or "", response.headers)
            response = None
        if response is not None:
            item.response = response
            item.trouble = str((json_object(response.body) or {}).get("error", "The box does not give it."))[:200]
            if item.kept is not None:
                await self._note_wish(item.kept, wanted=False)
            return
        await landing.finish()
        if item.request.target.startswith(_AUTHENTICATED):
            self._owners.learn(item.request.header("authorization") or "", "")

    async def _landing(self, item: Item) -> _Landing:
        authorization = item.request.header("authorization") or ""
        kept = self._folder.get(item.key)
        is_new = kept is None
        if kept is None:
            kept = KeptMedia(item.key, item.request.target, authorization, item.name)
        kept.target, kept.authorization, kept.wanted = item.request.target, authorization, item.is_wish
        item.kept = kept
        landing = _Landing(self._folder, kept, self._disk, item)
        if is_new:
            await landing.begin()
        else:
            await landing.say()
        return landing

    # ---- names

    def learn(self, response: Response) -> None:
        """Looks for the names and sizes of media in events that have come anyway."""
        if response.status != 200 or len(response.body) > _LEARN_FROM or b'"mxc://' not in response.body:
            return
        for uri, name, size in _media_in(json_object(response.body)):
            server, _, media_id = uri.removeprefix("mxc://").partition("/")
            self._names[server, media_id] = (name[:100], size)
            self._names.move_to_end((server, media_id))
        while len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)


class _Landing:
    """The file on disk."""

    def __init__(self, folder: MediaFolder, kept: KeptMedia, disk: Hop, item: Item) -> None:
        self._item = item
        self._folder = folder
        self._kept = kept
        self._disk = disk
        self.size, self.total = kept.size, kept.total

    def is_other(self, total: int, etag: str) -> bool:
        return (total, etag) != (self._kept.total, self._kept.etag)

    async def begin(self) -> None:
        await self._disk(self._folder.begin, self._kept)
        self.size, self.total = 0, None

    async def add(self, part: bytes, total: int, etag: str, headers: Headers) -> None:
        kept = self._kept
        is_first = kept.total is None
        kept.total, kept.etag = total, etag
        kept.headers = headers
        await self._disk(self._folder.add, kept, part)
        self.size, self.total = kept.size, total
        if is_first and not kept.is_whole:
            await self.say()
        if self._item.is_stopping and not kept.is_whole:
            raise _Stopped

    async def say(self) -> None:
        await self._disk(self._folder.say, self._kept)

    async def finish(self) -> None:
        await self.say()


def _refusal(reason: str) -> Response:
    refused = error_response(errors.NotYetUploaded(reason))
    return replace(refused, headers=(*refused.headers, ("cache-control", "no-store")))


def _media_in(content: Any) -> Iterator[tuple[str, str, int | None]]:
    """URI, name and size of each unencrypted or encrypted media that an answer tells of.

    Spec: client-server API, "m.room.message msgtypes": `url` or `file.url`, `body` or `filename`, `info.size`.
    """
    rest = [content]
    while rest:
        found = rest.pop()
        if isinstance(found, list):
            rest += found
        if not isinstance(found, dict):
            continue
        rest += found.values()
        inner = found.get("file")
        uri = inner.get("url") if isinstance(inner, dict) else found.get("url")
        if isinstance(uri, str) and uri.startswith("mxc://"):
            name = found.get("filename") or found.get("body")
            info = found.get("info")
            size = info.get("size") if isinstance(info, dict) else None
            yield uri, name if isinstance(name, str) else "", size if type(size) is int and size >= 0 else None
