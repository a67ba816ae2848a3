"""Who is there. Spec: client-server API, "Presence"; server-server API, the EDU `m.presence`.

Kept in memory only, nothing of it is written, and a restart forgets it: whoever is there says so again with the next sync. A user is
as present as the most present of their devices. A device is there while it syncs and for `GONE_S` after; one that is online without
the user doing anything (sending, or saying that they are online) for `IDLE_S` counts as unavailable.

Changes have versions, from the same counter as those of `ephemeral.Typing`. Switched off, nothing is kept, told or taken in.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import trio

from edgeserver import wakeups as topics
from edgeserver.matrix import errors
from edgeserver.matrix.identifiers import domain_of
from edgeserver.store import rooms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from edgeserver.store.database import Database, Transaction
    from edgeserver.wakeups import Wakeups

STATES: Final = frozenset({"online", "offline", "unavailable"})
OFFLINE: Final[Mapping[str, Any]] = {"presence": "offline"}
MAX_STATUS: Final = 1000
KEPT: Final = 2000
"""Users, ours and others, of whom something is known at once."""
MAX_DEVICES: Final = 20
ACTIVE_S: Final = 60.0
IDLE_S: Final = 300.0
GONE_S: Final = 30.0
REPEAT_S: Final = 25 * 60.0
"""Other servers are told again of somebody who is still there: they forget it after `REMOTE_S`, as we do."""
REMOTE_S: Final = 30 * 60.0


@dataclass(slots=True)
class _Device:
    """`seen` is when it last ended a sync, on trio's clock; `syncs` are under way."""

    state: str
    seen: float
    syncs: int = 0


@dataclass(slots=True)
class _Known:
    """What is known of a user. `devices` of ours; of others `until`: then they count as gone. `told`: when servers last were."""

    state: str = "offline"
    status: str | None = None
    active: float = float("-inf")
    devices: dict[str | None, _Device] = field(default_factory=dict)
    until: float = float("inf")
    told: float = float("inf")


class Presence:
    """The presence of our users, and of those of other servers who share a room with them. `run` lets time pass for them; it has to run
    for as long as the object is in use.
    """

    def __init__(
        self, db: Database, wakeups: Wakeups, server_name: str, next_version: Callable[[], int], *, enabled: bool
    ) -> None:
        self._db = db
        self._wakeups = wakeups
        self._server_name = server_name
        self._next_version = next_version
        self.enabled = enabled
        self._known: dict[str, _Known] = {}
        self._versions: dict[str, int] = {}  # the most recently changed last
        self._news: set[str] = set()
        self._joined: set[tuple[str, int]] = set()
        self._untold: set[str] = set()
        self._rescheduled = trio.Event()
        self._sleeps_until = float("inf")

    # Our users

    def set(self, user_id: str, device_id: str | None, state: Any, status: Any = None) -> None:
        """PUT /presence/{userId}/status. Raises M_INVALID_PARAM for a state that is none or a status message that is no text of at
        most 1,000 characters.
        """
        if type(state) is not str or state not in STATES:
            raise errors.InvalidParam("presence is one of online, offline, unavailable.")
        if status is not None and (type(status) is not str or len(status) > MAX_STATUS):
            raise errors.InvalidParam("status_msg is not a text, or too long.")
        if not self.enabled:
            return
        known, device = self._device(user_id, device_id)
        device.state = state
        device.seen = trio.current_time()
        if state == "online":
            known.active = device.seen
        is_news, known.status = known.status != status, status
        self._look_again(user_id, is_news=is_news)

    @contextmanager
    def syncing(self, user_id: str, device_id: str | None, state: str) -> Iterator[None]:
        """A device syncs, for the length of the block, with this `set_presence`; `offline` says nothing either way."""
        if not self.enabled or state == "offline":
            yield
            return
        known, device = self._device(user_id, device_id)
        if state == "online" and (device.state != "online" or not _is_there(device)):
            known.active = trio.current_time()
        device.state = state
        device.syncs += 1
        self._look_again(user_id)
        try:
            yield
        finally:
            device.syncs -= 1
            device.seen = trio.current_time()
            self._look_at(known)

    def active(self, user_id: str) -> None:
        """A user of ours has done something that shows that they are there, such as sending a message."""
        known = self._known.get(user_id)
        if known is None or not known.devices:
            return
        was_idle = trio.current_time() - known.active >= ACTIVE_S
        known.active = trio.current_time()
        for device in known.devices.values():
            if device.state == "unavailable":
                device.state = "online"
        self._look_again(user_id)
        if was_idle and known.state == "online":
            self._note(user_id)  # `currently_active` again: clients hear of it with whatever wakes them

    def joined(self, user_id: str, room: int) -> None:
        """Somebody has joined a room: who is there and they are to know of each other."""
        if self.enabled:
            self._joined.add((user_id, room))
            self._rescheduled.set()

    # What others see

    def get(self, user_id: str) -> dict[str, Any]:
        """The content of m.presence, and of GET /presence/{userId}/status; offline for whom nothing is known of."""
        known = self._known.get(user_id)
        if known is None:
            return dict(OFFLINE)
        body: dict[str, Any] = {"presence": known.state}
        ago = trio.current_time() - known.active
        if known.active > float("-inf"):
            body["last_active_ago"] = int(ago * 1000)
        if known.status is not None:
            body["status_msg"] = known.status
        if known.state == "online":
            body["currently_active"] = ago < ACTIVE_S
        return body

    def changed(self, since: int) -> dict[str, dict[str, Any]]:
        """User id → content of m.presence, of those whose presence changed after this version; at the beginning (0) of who is there."""
        found: dict[str, dict[str, Any]] = {}
        for user_id in reversed(self._versions):
            if self._versions[user_id] <= since:
                break
            if since or self._known[user_id].state != "offline":
                found[user_id] = self.get(user_id)
        return found

    def take_untold(self) -> dict[str, dict[str, Any]]:
        """Of our users, what other servers have not been told; the caller tells them. User id → content as in the EDU's `push`."""
        untold, self._untold = self._untold, set()
        for user_id in untold & self._known.keys():
            self._known[user_id].told = trio.current_time()
            self._look_at(self._known[user_id])
        return {user_id: {"user_id": user_id, "currently_active": False, "last_active_ago": 0, **self.get(user_id)} for user_id in untold}

    # Users of other servers

    async def received(self, updates: Sequence[Mapping[str, Any]]) -> None:
        """Contents of an EDU's `push`, each of a user of the server that sent it. Of strangers nothing is kept."""
        wanted = {one["user_id"]: one for one in updates if one.get("presence") in STATES}

        def read(tx: Transaction) -> dict[str, list[str]]:
            return {user_id: rooms.local_users_near(tx, user_id) for user_id in wanted}

        near = await self._db.read(read)
        for user_id, watchers in near.items():
            if watchers and self._take(user_id, wanted[user_id]):
                self._wakeups.notify(watchers)

    def _take(self, user_id: str, update: Mapping[str, Any]) -> bool:
        known, now = self._entry(user_id), trio.current_time()
        status, ago = update.get("status_msg"), update.get("last_active_ago")
        status = status if type(status) is str and len(status) <= MAX_STATUS else None
        is_news = (known.state, known.status) != (update["presence"], status)
        known.state, known.status = update["presence"], status
        known.until = float("inf") if known.state == "offline" else now + REMOTE_S
        if type(ago) is int and ago >= 0:
            known.active = now - min(ago, 2**53) / 1000
        if is_news:
            self._note(user_id)
        self._look_at(known)
        return is_news

    # The passing of time

    async def run(self) -> None:
        """Notices who has gone or is idle, and wakes those whom it concerns. Sleeps while nobody is there."""
        while True:
            self._sleeps_until = min(map(_deadline, self._known.values()), default=float("inf"))
            with trio.move_on_at(self._sleeps_until):
                await self._rescheduled.wait()
            self._rescheduled = trio.Event()
            now = trio.current_time()
            for user_id, known in list(self._known.items()):
                if _deadline(known) <= now:
                    self._pass_time(user_id, known, now)
            await self._meet()
            await self._wake()

    def _pass_time(self, user_id: str, known: _Known, now: float) -> None:
        if known.until <= now:
            known.state, known.until = "offline", float("inf")
            self._note(user_id)
            self._news.add(user_id)
        known.devices = {one: device for one, device in known.devices.items() if _is_there(device)}
        if domain_of(user_id) == self._server_name:
            self._look_again(user_id, is_new_to_servers=known.told + REPEAT_S <= now)

    async def _meet(self) -> None:
        met, self._joined = self._joined, set()
        if not met:
            return
        there = [user_id for user_id, known in self._known.items() if known.state != "offline"]

        def read(tx: Transaction) -> set[str]:
            return {one for user_id, room in met for one in {*there, user_id} if rooms.is_joined(tx, one, room)}

        for user_id in sorted(await self._db.read(read) & self._known.keys()):
            self._announce(user_id, self._known[user_id])

    async def _wake(self) -> None:
        news, self._news = self._news, set()
        if news:
            near = await self._db.read(lambda tx: {one for user_id in news for one in rooms.local_users_near(tx, user_id)})
            self._wakeups.notify({*near, *news})
        if self._untold:
            self._wakeups.notify([topics.PRESENCE])

    # Keeping

    def _look_again(self, user_id: str, *, is_news: bool = False, is_new_to_servers: bool = False) -> None:
        """A user of ours may be more or less present than before."""
        known = self._known[user_id]
        state = _state(known, trio.current_time())
        if state != known.state or is_news:
            known.state = state
            self._announce(user_id, known)
        elif is_new_to_servers and state != "offline":
            self._untold.add(user_id)
            known.told = float("inf")
        self._look_at(known)

    def _look_at(self, known: _Known) -> None:
        """Lets `run` look in time."""
        if _deadline(known) < self._sleeps_until:
            self._rescheduled.set()

    def _announce(self, user_id: str, known: _Known) -> None:
        self._note(user_id)
        self._news.add(user_id)
        self._rescheduled.set()
        if domain_of(user_id) == self._server_name:
            self._untold.add(user_id)
            known.told = float("inf")

    def _note(self, user_id: str) -> None:
        self._versions.pop(user_id, None)
        self._versions[user_id] = self._next_version()

    def _entry(self, user_id: str) -> _Known:
        known = self._known.get(user_id)
        if known is None:
            if len(self._known) >= KEPT:
                gone = next((one for one, other in self._known.items() if other.state == "offline"), next(iter(self._known)))
                del self._known[gone]
                self._versions.pop(gone, None)
            known = self._known[user_id] = _Known()
        return known

    def _device(self, user_id: str, device_id: str | None) -> tuple[_Known, _Device]:
        known = self._entry(user_id)
        if device_id not in known.devices and len(known.devices) >= MAX_DEVICES:
            del known.devices[min(known.devices, key=lambda one: (known.devices[one].syncs, known.devices[one].seen))]
        return known, known.devices.setdefault(device_id, _Device("offline", float("-inf")))


def _is_there(device: _Device) -> bool:
    return device.syncs > 0 or trio.current_time() < device.seen + GONE_S


def _state(known: _Known, now: float) -> str:
    """The presence of a user of ours by their devices."""
    states = {device.state for device in known.devices.values() if _is_there(device)}
    if "online" in states:
        return "online" if now < known.active + IDLE_S else "unavailable"
    return "unavailable" if "unavailable" in states else "offline"


def _deadline(known: _Known) -> float:
    """When this one is to be looked at again, on trio's clock."""
    ends = [known.until]
    if known.devices:
        ends += [device.seen + GONE_S for device in known.devices.values() if not device.syncs]
        if known.state == "online":
            ends.append(known.active + IDLE_S)
        if known.state != "offline":
            ends.append(known.told + REPEAT_S)
    return min(ends)
