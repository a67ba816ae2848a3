"""The follower that tells push gateways what notifies people. Spec: client-server API, "Push Notifications"; Push Gateway API.

Each pusher has a position in the stream up to which its gateway has been told. When an event notifies a user, the lanes of the user's
pushers are opened: each reads what lies beyond its position (`unsent.py`), tells the gateway one notification after the other, and is
closed again. A box where nothing happens has no lane and no timer.

A gateway that does not answer, or answers with anything but 200, is tried again after 2 s, doubling to an hour (later if it asks for
that), and at once when the way to the internet returns. What there is to tell is read anew each time, then only the newest of each
room. After a day it is given up: what happened until then is not told, and what happens next is tried.

Positions are in memory, and on disk a little later: if they are few, with the next event that notifies somebody here, in that event's
transaction; else within a minute of a notification; or at the end. A box that loses power tells once again what it had told since, the
newest of each room, and loses nothing. Whatever must be on disk before the positions are (`keep`) is written with them.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.matrix import canonical_json
from edgeserver.push import notification
from edgeserver.push.gateways import NotAllowed, rejected, retry_after
from edgeserver.push.unsent import unsent
from edgeserver.store import pushers
from edgeserver.store.database import StoreError
from transports.exchange import ExchangeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from edgeserver.push.gateways import Gateways
    from edgeserver.push.unsent import Unsent
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.pushers import Pusher, PusherKey
    from transports.exchange import Response

log = logging.getLogger(__name__)

FIRST_BACKOFF: Final = 2.0
MAX_BACKOFF: Final = 3600.0
GIVE_UP: Final = 24 * 3600.0
BADGE_PAUSE: Final = 5.0
"""So long after a person has read something the count is told: reading goes on, and a message that comes meanwhile carries it."""
NOTE_PAUSE: Final = 60.0
NOTED_WITH_EVENT: Final = 8
"""So many positions lie on a page or two, which are written along; those of a crowd wait for the minute to end."""
STORE_PAUSE: Final = 30.0


@dataclass(slots=True, eq=False)
class _Lane:
    """One pusher. `unread` is the count that its gateway knows, None if that is not known; `behind`: something may lie beyond `position`;
    `failing` counts tries in a row, the first of them at `failing_since`; `fresh`: nothing was told since the box has started.
    """

    key: PusherKey
    position: int
    behind: bool = True
    badge: bool = False
    fresh: bool = True
    warned: bool = False
    unread: int | None = None
    failing: int = 0
    failing_since: float = 0.0
    is_open: bool = False
    wake: trio.Event = field(default_factory=trio.Event)


class PushFollower:
    """Runs as one task (`run`). `random()` is in [0, 1); `keep(tx)` writes what must be on disk before positions are noted."""

    def __init__(
        self,
        db: Database,
        gateways: Gateways,
        *,
        random: Callable[[], float],
        keep: Callable[[Transaction], None] = lambda tx: None,
    ) -> None:
        self._db = db
        self._gateways = gateways
        self._random = random
        self._keep = keep
        self._lanes: dict[str, dict[PusherKey, _Lane]] = {}
        self._unnoted: dict[PusherKey, int] = {}
        self._to_note = trio.Event()
        self._nursery: trio.Nursery | None = None

    # What happens elsewhere; hooks run inside its transaction

    def notified(self, tx: Transaction, stream: int, users: Collection[str]) -> None:
        """An event that is being written, at this position, notifies these users."""
        if len(self._unnoted) <= NOTED_WITH_EVENT:
            self._note_in(tx)
        concerned = [user_id for user_id in users if user_id in self._lanes]
        if concerned:
            tx.on_commit(lambda: self._stir(stream, concerned))

    def read(self, tx: Transaction, user_id: str) -> None:
        """The user has read something."""
        if user_id in self._lanes:
            tx.on_commit(lambda: self._stir_badge(user_id))

    def changed(self, key: PusherKey) -> None:
        """A pusher has been set, switched or deleted."""
        if self._nursery is not None:
            self._nursery.start_soon(self._take_up, key)

    def route_returned(self, server_name: str | None) -> None:
        """The way to the internet is back (None): whoever waits tries again."""
        if server_name is None:
            for lanes in self._lanes.values():
                for lane in lanes.values():
                    lane.wake.set()

    # The task

    async def run(self) -> None:
        """Tells gateways for as long as the box runs; notes positions at the end."""
        for key, position in await self._db.read(pushers.active):
            self._lanes.setdefault(key.user_id, {}).setdefault(key, _Lane(key, position))
        try:
            async with trio.open_nursery() as self._nursery:
                for lanes in list(self._lanes.values()):
                    for lane in list(lanes.values()):
                        self._open(lane)
                while True:
                    await self._to_note.wait()
                    await trio.sleep(NOTE_PAUSE)
                    self._to_note = trio.Event()
                    with suppress(StoreError):
                        await self._db.write(self._note_in)
        finally:
            self._nursery = None
            await self._note_at_the_end()

    async def _note_at_the_end(self) -> None:
        """Who has nothing to tell is where the stream is."""
        for lanes in self._lanes.values():
            for lane in lanes.values():
                if not lane.behind and not lane.failing and not lane.is_open and lane.position < self._db.position:
                    self._unnoted[lane.key] = self._db.position
                lane.is_open = False
        self._lanes.clear()
        with suppress(StoreError), trio.move_on_after(5, shield=True):
            await self._db.write(self._note_in)

    def _note_in(self, tx: Transaction) -> None:
        """Runs on the writer's thread. Positions are taken first: what `keep` then writes is all that they stand for."""
        positions = list(self._unnoted.items())
        self._keep(tx)
        if positions:
            pushers.note(tx, positions)
            tx.on_commit(lambda: self._noted(positions))

    def _noted(self, positions: list[tuple[PusherKey, int]]) -> None:
        for key, position in positions:
            if self._unnoted.get(key) == position:
                del self._unnoted[key]

    def _stir(self, stream: int, users: Collection[str]) -> None:
        for user_id in users:
            for lane in self._lanes.get(user_id, {}).values():
                if not lane.behind and not lane.is_open:
                    self._advance(lane, stream - 1)  # what came before did not notify then, whatever the rules say now
                lane.behind = True
                if not lane.failing:
                    lane.wake.set()
                self._open(lane)

    def _stir_badge(self, user_id: str) -> None:
        for lane in self._lanes.get(user_id, {}).values():
            lane.badge = True
            self._open(lane)

    async def _take_up(self, key: PusherKey) -> None:
        try:
            pusher = await self._db.read(lambda tx: pushers.get(tx, key))
        except StoreError as error:
            log.error("a pusher of %s is taken up at the next start: %s", key.user_id, error)
            return
        held = self._lanes.get(key.user_id, {}).get(key)
        if pusher is None or not pusher.enabled:
            self._forget(key)
            return
        if held is None:
            held = self._lanes.setdefault(key.user_id, {}).setdefault(key, _Lane(key, pusher.position, fresh=False))
        else:
            held.failing = 0  # it may have another gateway now
            held.wake.set()
        held.behind = True
        self._open(held)

    def _forget(self, key: PusherKey) -> None:
        lanes = self._lanes.get(key.user_id, {})
        lanes.pop(key, None)
        if not lanes:
            self._lanes.pop(key.user_id, None)
        self._unnoted.pop(key, None)

    # A lane

    def _open(self, lane: _Lane) -> None:
        if self._nursery is not None and not lane.is_open:
            lane.is_open = True
            self._nursery.start_soon(self._serve, lane)

    async def _serve(self, lane: _Lane) -> None:
        try:
            while (lane.behind or lane.badge) and self._is_kept(lane):
                try:
                    await self._serve_once(lane)
                except StoreError as error:
                    log.error("a pusher of %s cannot be served: %s", lane.key.user_id, error)
                    await trio.sleep(STORE_PAUSE)
        except Exception:  # one pusher's trouble is not the others'; it is tried again when there is more to tell
            log.exception("serving a pusher of %s failed", lane.key.user_id)
        finally:
            lane.is_open = False

    def _is_kept(self, lane: _Lane) -> bool:
        return self._lanes.get(lane.key.user_id, {}).get(lane.key) is lane

    async def _serve_once(self, lane: _Lane) -> None:
        if not lane.behind:
            await self._wait(lane, BADGE_PAUSE)
        lane.behind = False
        try:
            await self._look(lane)
        except BaseException:  # the box stops, say
            lane.behind = True
            raise

    async def _look(self, lane: _Lane) -> None:
        """Reads what there is to tell, and tells it."""
        newest_only = lane.failing > 0 or lane.fresh
        badge, lane.badge = lane.badge, False
        found = await self._db.read(lambda tx: unsent(tx, lane.key, lane.position, newest_only=newest_only))
        if found is None:
            self._forget(lane.key)
            return
        try:
            failed = await self._tell(lane, found, badge=badge)
        except NotAllowed as error:
            log.log(logging.DEBUG if lane.warned else logging.WARNING, "a push gateway of %s is not called: %s", lane.key.user_id, error)
            lane.warned, lane.fresh = True, False
            self._advance(lane, found.upto)
            return
        if failed is None:
            lane.failing, lane.fresh = 0, False
            self._advance(lane, found.upto)
        else:
            lane.badge |= badge
            await self._failed(lane, found, failed)

    async def _tell(self, lane: _Lane, found: Unsent, *, badge: bool) -> float | None:
        """Tells all of it; None when that is done, else for how long (s) the gateway wants to be left alone."""
        for notice in found.notices:
            asked = await self._post(lane, found.pusher, notification.of_event(found.pusher, notice, found.unread))
            if asked is not None:
                return asked
            lane.unread = found.unread
            self._advance(lane, notice.stream)
            if not self._is_kept(lane):
                return None
        if badge and lane.unread != found.unread and notification.wants_badge(found.pusher):
            asked = await self._post(lane, found.pusher, notification.of_badge(found.pusher, found.unread))
            if asked is not None:
                return asked
            lane.unread = found.unread
        return None

    async def _post(self, lane: _Lane, pusher: Pusher, body: dict[str, object]) -> float | None:
        response: Response | None = None
        why = ""
        try:
            response = await self._gateways.notify(pusher.content["data"]["url"], canonical_json.encode_loose(body))
        except NotAllowed:
            raise
        except ExchangeError as error:
            why = str(error)
        refused = None if response is None else rejected(response)
        if refused is None:
            log.info("a push gateway of %s: %s", lane.key.user_id, why or f"status {response.status if response else 0}")
            return retry_after(response)
        if lane.key.pushkey in refused:
            log.info("a pusher of %s is gone: its gateway knows it no more", lane.key.user_id)
            await self._db.write(lambda tx: pushers.delete(tx, lane.key))
            self._forget(lane.key)
        return None

    async def _failed(self, lane: _Lane, found: Unsent, asked: float) -> None:
        now = trio.current_time()
        if lane.failing == 0:
            lane.failing_since = now
        lane.failing += 1
        if now - lane.failing_since > GIVE_UP:
            log.warning("a push gateway of %s has not answered for a day: what happened is not told", lane.key.user_id)
            self._advance(lane, found.upto)
            lane.badge = False
            lane.failing_since = now
            return
        lane.behind = True
        pause = min(FIRST_BACKOFF * 2 ** min(lane.failing - 1, 16), MAX_BACKOFF) * (0.75 + self._random() / 4)
        await self._wait(lane, max(pause, asked))

    async def _wait(self, lane: _Lane, seconds: float) -> None:
        lane.wake = trio.Event()
        with trio.move_on_after(seconds):
            await lane.wake.wait()

    def _advance(self, lane: _Lane, position: int) -> None:
        if position > lane.position:
            lane.position = position
            if self._is_kept(lane):
                self._unnoted[lane.key] = position
                self._to_note.set()
