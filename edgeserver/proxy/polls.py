"""GET /_matrix/client/v3/sync, and simplified sliding sync's POST. Spec: client-server API, "Syncing"; MSC4186.

On a thin line a sync that goes on is observed at the box (`watch`): polls end here, and news come as they happen. A client whose own
timeout is over gets an empty answer. What begins a sync that has been told before is answered from here (`feeds`), and goes on at the box.
What else begins a classic sync, and whatever comes over a fat line, is asked for as it is, and an answer that comes too late for the client
that asked (an initial sync may take an hour) is there when it asks again. A newer sync of the same device, from another point, takes the
place of the older one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson
import trio

from edgeserver.proxy import mirror, sliding_mirror
from edgeserver.proxy.asked import Asked, without_progress
from edgeserver.proxy.errands import Terms
from edgeserver.proxy.filters import thinned
from edgeserver.proxy.owners import digest_of
from edgeserver.proxy.replies import json_object, json_response, kept_response
from edgeserver.proxy.watch import Watch
from transports import syncing
from transports.exchange import ExchangeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.paired.line import Line
    from edgeserver.proxy.call import Call
    from edgeserver.proxy.errands import Errands
    from edgeserver.proxy.feeds import Feeds
    from edgeserver.proxy.filters import DefinedFilters
    from transports.exchange import Request, Response

log = logging.getLogger(__name__)

LEAST_WAIT: Final = 20.0
"""Seconds that the line has at least, before a client gets an empty answer to a poll that has only just left."""
AT_LEAST: Final = 5.0
"""Seconds for a sliding sync that goes on: clients ask without any timeout as long as their lists are not whole, and again at once."""
PATIENCE: Final = 12 * 3600.0
MAX_DEVICES: Final = 64
_TERMS: Final = Terms(linger=600.0, keep=600.0)
_ONE_TIME, _FALLBACK = "device_one_time_keys_count", "device_unused_fallback_key_types"
_TOLD_EVERY_TIME: Final = (_ONE_TIME, _FALLBACK)


@dataclass(slots=True)
class _Device:
    """One sync of a device. `key`: its request under way. `counts`: what every answer says of its keys (None: no answer has been seen)."""

    key: Any = None
    counts: dict[str, Any] | None = None
    watch: Watch | None = None
    asked: Any = None
    """What the watch asks for: whoever asks for something else begins anew."""
    catches_up: bool = False

    def close(self) -> None:
        if self.watch is not None:
            self.watch.close()
            self.watch = None


class Polls:
    """The syncs of all clients; `run` is one task for the life of the proxy."""

    def __init__(self, line: Line, errands: Errands, filters: DefinedFilters, feeds: Feeds) -> None:
        self._line = line
        self._errands = errands
        self._filters = filters
        self._feeds = feeds
        self._devices: dict[tuple[str, str], _Device] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    async def sync(self, call: Call) -> Response:
        asked = call.parameters
        device = self._device(call.authorization, "")
        begins = not asked.get("since") or asked.get("full_state") == "true"
        if self._line.is_thin and begins and (told := await self._begun_here(call, device, asked)) is not None:
            return told
        if self._line.is_thin and asked.get("since") and device.counts is not None and asked.get("full_state") != "true":
            return await self._watched_sync(call, device, asked)
        device.close()
        key = ("sync", call.authorization, tuple(sorted((name, value) for name, value in asked.items() if name != "timeout")))
        self._take_place(device, key)
        errand = self._errands.begin(key, lambda: self._fetch(call, device, asked), _TERMS)
        response = await self._errands.wait(errand)
        if not _goes_on(response, asked.get("since")):
            self._errands.drop(key, errand)
        return response

    async def _begun_here(self, call: Call, device: _Device, asked: dict[str, str]) -> Response | None:
        """What the sync of this device, or of another one of the same person, has told before."""
        feed, since, is_up = self._feed(call, asked), asked.get("since"), self._line.is_up
        if feed is None:
            return None
        if since:
            told = await self._feeds.full_state(call.authorization, feed, since, is_up=is_up)
        else:
            told = await self._feeds.first(call.authorization, feed, min(feed.limit, mirror.FIRST_EVENTS), is_up=is_up)
        if told is None:
            return None
        body, counts = told
        device.counts = counts or device.counts
        return kept_response(body)

    def _feed(self, call: Call, asked: dict[str, str]) -> Asked | None:
        """None if the answers are of no use to who begins anew. An application service may ask for several people."""
        given = asked.get("filter", "")
        is_inline = not given or given.startswith("{")
        definition = thinned(json_object(given.encode()) or {}) if is_inline else self._filters.definition(call.authorization, given)
        return None if definition is None or call.speaks_for_another else Asked.classic(definition, asked)

    def _hear(self, call: Call, feed: Asked | None, start: str | None, response: Response) -> None:
        if feed is not None and self._line.is_thin:
            self._feeds.hear(call.authorization, feed, start, response)

    def _catch_up(self, call: Call, device: _Device, feed: Asked | None, since: str, template: Request) -> None:
        """Asks for what the feed lacks, if answers were lost on their way to the disk. The client goes on from `since`."""
        position = None if feed is None else self._feeds.lacking(call.authorization, feed, since)
        if feed is not None and position is not None and not device.catches_up and self._nursery is not None:
            device.catches_up = True
            self._nursery.start_soon(self._fetch_lacking, call.authorization, device, feed, position, template)

    async def _fetch_lacking(self, authorization: str, device: _Device, feed: Asked, position: str, template: Request) -> None:
        try:
            response = await self._carry(syncing.at(template, syncing.Form.CLASSIC, position), PATIENCE)
        except ExchangeError as error:
            log.info("what was lost of a sync has not come: %s", error)
        else:
            self._feeds.hear(authorization, feed, position, response)
        device.catches_up = False

    async def _watched_sync(self, call: Call, device: _Device, asked: dict[str, str]) -> Response:
        since, timeout = asked["since"], _milliseconds(asked.get("timeout")) / 1000
        template = call.with_parameters(await self._thin_parameters(call, asked))
        form, feed = syncing.Form.CLASSIC, self._feed(call, asked)
        if feed is not None:
            self._feeds.went_on(call.authorization, feed)
        self._catch_up(call, device, feed, since, template)
        hear = partial(self._hear, call, feed)
        response, _ = await self._watched(device, template, form, syncing.at(template, form, None), since, timeout, hear)
        if response is None:
            return json_response({"next_batch": since, **(device.counts or {})})
        self._learn_counts(device, response)
        return response

    def forget(self, token: str) -> None:
        """Whoever has logged out, or been logged out by the box, is told nothing more. `token`: its `owners.digest_of`."""
        for key in [key for key in self._devices if digest_of(key[0]) == token]:
            device = self._devices.pop(key)
            device.close()
            self._errands.drop(device.key)

    def hear_of_keys(self, call: Call, response: Response) -> None:
        """The answer to POST /keys/upload. It says how many the box now has, of which a sync would say nothing before somebody takes one:
        an app that went on hearing how few there were would make some more after each of its polls.
        """
        told = json_object(response.body) if response.status == 200 and not call.speaks_for_another else None
        left = None if told is None else told.get("one_time_key_counts")
        if not isinstance(left, dict):
            return
        keys = (json_object(call.request.body) or {}).get("fallback_keys")
        unused = {name.partition(":")[0] for name in keys} if isinstance(keys, dict) else set()
        for (authorization, _), device in self._devices.items():
            for counts in (device.counts, None if device.watch is None else device.watch.counts):
                if authorization == call.authorization and counts is not None and _ONE_TIME in counts:
                    counts[_ONE_TIME] = left
                    counts[_FALLBACK] = sorted(unused.union(counts.get(_FALLBACK, ())))

    async def sliding_sync(self, call: Call) -> Response:
        body = json_object(call.request.body) or {}
        device = self._device(call.authorization, f"{call.path} {body.get('conn_id', '')}")
        form = syncing.form_of(call.request)
        if form is None or not self._line.is_thin:
            return await self._forwarded_sliding(call, device)
        position = syncing.position_of(call.request, form)
        timeout = _milliseconds(str(body.get("timeout", 0)) if form is syncing.Form.IN_BODY else call.parameters.get("timeout")) / 1000
        asked = without_progress(call.request, form)
        patience = timeout if position is not None else PATIENCE
        feed = None if call.speaks_for_another else Asked.sliding(call.request, form)
        if feed is not None and position is None:
            told = await self._feeds.first(call.authorization, feed, sliding_mirror.FIRST_EVENTS, is_up=self._line.is_up)
            if told is not None:
                return kept_response(told[0])
        elif feed is not None:
            self._feeds.went_on(call.authorization, feed)
        response, watch = await self._watched(device, call.request, form, asked, position, patience, partial(self._hear, call, feed))
        return json_response(_nothing_new(form, position, watch.counts)) if response is None else response

    async def _watched(
        self,
        device: _Device,
        template: Request,
        form: syncing.Form,
        asked: Any,
        position: str | None,
        timeout: float,
        hear: Callable[[str | None, Response], None],
    ) -> tuple[Response | None, Watch]:
        """What follows that position of the sync that is asked for; None if nothing does in time. `hear`: see `Watch`."""
        watch = device.watch
        if watch is not None and device.asked != asked and form is not syncing.Form.CLASSIC and watch.holds(position):
            return await watch.answer(position, 0), watch  # the box knows that it has arrived: what else is asked for follows it
        joins = watch is not None and device.asked == asked and watch.goes_on_from(position)
        if watch is None or not joins:
            counts = watch.counts if watch is not None and device.asked == asked else {}
            device.close()
            self._take_place(device, None)
            watch = device.watch = Watch(self._line, form, template, position, hear, counts)
            device.asked = asked
            assert self._nursery is not None
            self._nursery.start_soon(watch.run)
        watch.template = template  # what it acknowledges is the client's newest word
        least = LEAST_WAIT if not joins else AT_LEAST if form is not syncing.Form.CLASSIC else 0.0
        return await watch.answer(position, max(timeout, least)), watch

    async def _forwarded_sliding(self, call: Call, device: _Device) -> Response:
        """Held at the box for as long as the client says; every position is asked for until it has been answered."""
        device.close()
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
            oldest = self._devices.pop(next(iter(self._devices)))
            oldest.close()
            self._errands.drop(oldest.key)
        return device

    def _learn_counts(self, device: _Device, response: Response) -> None:
        told = json_object(response.body) if response.status == 200 else None
        if told is not None:
            device.counts = {name: told[name] for name in _TOLD_EVERY_TIME if name in told}

    def _take_place(self, device: _Device, key: Any) -> None:
        """Ends the device's other request, if it has one."""
        if device.key is not None and device.key != key:
            self._errands.drop(device.key)
        device.key = key

    async def _fetch(self, call: Call, device: _Device, asked: dict[str, str]) -> Response:
        """On a thin line it does not wait: where the client stands is known at once, and from then on it is observed."""
        request, timeout = call.request, _milliseconds(asked.get("timeout")) / 1000
        if self._line.is_thin:
            request = call.with_parameters(await self._thin_parameters(call, asked))
        feed, since = self._feed(call, asked), asked.get("since") or None
        is_repeated = since is not None and asked.get("full_state") == "true"
        if feed is not None and since is not None and not is_repeated:
            self._feeds.went_on(call.authorization, feed)
        response = await self._carry(request, PATIENCE + timeout)
        self._learn_counts(device, response)
        if not is_repeated:  # else it looks as if the rooms began where the client goes on
            self._hear(call, feed, since, response)
        return response

    async def _thin_parameters(self, call: Call, asked: dict[str, str]) -> dict[str, str]:
        """The same question, asked cheaply: without a timeout, by a filter that the box knows, and with no presence of our own."""
        wanted = {name: value for name, value in asked.items() if name not in ("timeout", "filter", "set_presence")}
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
        thin = thinned(inline or {})
        known = await self._filters.id_of(authorization, thin) if authorization else None  # before the first sync, for all that follow
        first = thinned(inline or {}, initial=True) if initial else thin
        return known if known is not None and first == thin else orjson.dumps(first).decode()

    async def _carry(self, request: Request, patience: float) -> Response:
        return await self._line.carry(request, repeatable=True, patience=patience, poll=True)


def _milliseconds(text: str | None) -> int:
    return min(int(text), 3_600_000) if text is not None and text.isascii() and text.isdigit() and len(text) < 12 else 0


def _goes_on(response: Response, since: str | None) -> bool:
    """Whether the client's next sync will be another one than this."""
    told = json_object(response.body) if response.status == 200 else None
    return told is not None and told.get("next_batch") != since


def _nothing_new(form: syncing.Form, position: str | None, counts: dict[str, Any]) -> dict[str, Any]:
    """A sliding sync's answer of no news, which stays where the client is."""
    e2ee = {name: value for name, value in counts.items() if name != "lists"}
    extensions = {"e2ee": e2ee} if e2ee else {}
    return {"pos": position, "lists": counts.get("lists", {}), "rooms": {}, "extensions": extensions}
