"""The extensions of sliding sync: what is told beside the rooms. Their answers are the same in both dialects.

MSC3885 (to-device), MSC3884 (e2ee), MSC3959 (account data), MSC3960 (receipts), MSC3961 and MSC4508 (typing),
MSC4308 (thread subscriptions).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edgeserver.store import account_data, device_keys, device_lists, receipts, thread_subscriptions, to_device
from edgeserver.store.account_data import Item
from edgeserver.sync.sliding.budget import Budget
from edgeserver.sync.sliding.connections import LIVE
from edgeserver.users.receipts import edu_content

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from edgeserver.store.database import Transaction
    from edgeserver.store.receipts import Receipt
    from edgeserver.store.room_list import ListedRoom
    from edgeserver.sync.sliding.connections import Changes, Told
    from edgeserver.sync.sliding.wanted import RoomResult, Scope, SlidingAnswer, SlidingRequest

_NEVER: Final = 2**62
THREADS: Final = "thread_subscriptions"
DATA, OVERALL = "account_data", "account_data of no room"
MAX_RECEIPTS: Final = 100
"""Receipts of others that a client is given for a room that is new to it."""


@dataclass(slots=True)
class InScope:
    """The rooms that the request is about: number → (room, names of the lists that show it, whether it is subscribed to)."""

    rooms: dict[int, tuple[ListedRoom, list[str], bool]] = field(default_factory=dict)
    _found: dict[Scope, dict[int, ListedRoom]] = field(default_factory=dict)

    def of(self, scope: Scope) -> Mapping[int, ListedRoom]:
        """Those of an extension; rooms that the user is in alone. Most clients want the same rooms of all of them."""
        found = self._found.get(scope)
        if found is None:
            found = self._found[scope] = {
                number: room
                for number, (room, lists, subscribed) in self.rooms.items()
                if room.membership == "join" and scope.takes(lists, room.room_id, subscribed=subscribed)
            }
        return found


class ExtensionsOfAnswer:
    """Composes them for one answer, and notes in `changes` what was told. `is_news`: one of them has something to tell.

    `typing`: who types in those of the user's rooms where anybody does. Of what `ignored` users read and type nothing is told.
    """

    def __init__(
        self,
        tx: Transaction,
        request: SlidingRequest,
        told: Told,
        changes: Changes,
        answer: SlidingAnswer,
        typing: Mapping[int, list[str]],
        ignored: frozenset[str],
    ) -> None:
        self._tx = tx
        self._request = request
        self._told = told
        self._changes = changes
        self._answer = answer
        self._typing_now = typing
        self._ignored = ignored
        self._budget = Budget(request.budget)
        self.is_news = False

    def compose_device(self) -> int:
        """What is of the device alone. Returns how many bytes of a budget it takes."""
        return self._to_device() + self._e2ee()

    def compose_rooms(self, scope: InScope) -> None:
        """What is of rooms, after they have been told."""
        wanted = self._request.extensions
        if wanted.account_data is not None:
            self._account_data(scope.of(wanted.account_data))
        if wanted.receipts is not None:
            self._receipts(scope.of(wanted.receipts))
        if wanted.typing is not None:
            self._typing(scope.of(wanted.typing))
        if wanted.threads is not None and thread_subscriptions.are_on(self._tx):
            self._threads(wanted.threads.limit)

    def _tell(self, name: str, body: dict[str, Any], *, is_news: bool) -> None:
        if body:
            self._answer.extensions[name] = body
        self.is_news = self.is_news or is_news

    def _since(self, name: str) -> int | None:
        """Up to where the extension has told, which rooms that are `LIVE` have been told to as well; notes that it has now."""
        self._changes.extensions[name] = self._changes.position
        return self._told.extensions.get(name)

    # Of the device

    def _to_device(self) -> int:
        wish = self._request.extensions.to_device
        if wish is None:
            return 0
        start = wish.since or 0
        user_id, device_id = self._request.user_id, self._request.device_id
        found = to_device.pending(self._tx, user_id, device_id, start, self._changes.position, wish.limit)
        budget, messages = self._budget.part(2), []
        for _, message in found:
            if not budget.takes(message):
                break
            messages.append(message)
        is_all = len(messages) == len(found) < wish.limit
        upto = max(start, self._changes.position) if is_all else found[len(messages) - 1][0]
        self._tell("to_device", {"next_batch": str(upto), "events": messages}, is_news=bool(messages))
        return budget.spent

    def _e2ee(self) -> int:
        if not self._request.extensions.e2ee:
            return 0
        user_id, device_id = self._request.user_id, self._request.device_id
        since, budget = self._since("e2ee"), self._budget.part(4)
        body: dict[str, Any] = {
            "device_one_time_keys_count": device_keys.one_time_key_counts(self._tx, user_id, device_id),
            "device_unused_fallback_key_types": device_keys.unused_fallback_key_types(self._tx, user_id, device_id),
        }
        is_news = False
        if since is not None:
            lists = self._device_lists(since, budget)
            if lists:
                body["device_lists"] = {kind: [user for user, is_of in lists.items() if is_of == kind] for kind in ("changed", "left")}
            is_news = bool(lists) or device_keys.claims_since(self._tx, user_id, device_id, since)
        self._tell("e2ee", body, is_news=is_news)
        return budget.spent

    def _device_lists(self, since: int, budget: Budget) -> dict[str, str]:
        """User id → `changed` or `left`, as far as it fits. What does not is told from where this ends, before anything newer."""
        found: dict[str, str] = {}
        upto, last = self._told.devices or (self._changes.position, "")
        while True:
            changed, gone = device_lists.changed(self._tx, self._request.user_id, since, upto)
            news = sorted([*((user, "changed") for user in changed), *((user, "left") for user in gone)])
            for user, kind in news[bisect_right(news, (last, "left")) :]:
                if not budget.takes(user):
                    self._changes.devices, self._changes.extensions["e2ee"] = (upto, last), since
                    return found
                found[user] = kind
                last = user
            if upto == self._changes.position:
                self._changes.devices = None
                return found
            since, upto, last = upto, self._changes.position, ""

    # Of rooms

    def _account_data(self, rooms: Mapping[int, ListedRoom]) -> None:
        since, user_id = self._since(DATA), self._request.user_id
        by_room: dict[str, list[Item]] = {}
        for item in [] if since is None else account_data.changed(self._tx, user_id, since, self._changes.position):
            by_room.setdefault(item.room_id, []).append(item)
        budget = self._budget.part(4)
        overall = self._overall(since, by_room.get("", []), budget)
        found: dict[str, list[dict[str, Any]]] = {}
        held: set[int] = set()
        for number, room in _held_first(self._told.data, rooms):
            told = self._told.data.get(number)
            if told == LIVE:
                items = by_room.get(room.room_id, [])
            else:
                items = [one for one in account_data.of_room(self._tx, user_id, room.room_id) if told is None or one.stream > told]
            told_now = _events(items)
            if not told_now:
                continue
            if budget.takes(*told_now):
                found[room.room_id] = told_now
            else:
                held.add(number)
        _follow(self._told.data, self._changes.data, rooms, since, held)
        body: dict[str, Any] = {"global": overall} if overall else {}
        body |= {"rooms": found} if found else {}
        self._tell(DATA, body, is_news=bool(body))

    def _overall(self, since: int | None, changed: list[Item], budget: Budget) -> list[dict[str, Any]]:
        """What is of no room and not told yet, as far as it fits; `changed` is of it since `since`."""
        told = self._told.extensions.get(OVERALL)
        if told is None:
            items = self._all_overall()
        elif told == since:
            items = [item for item in changed if item.stream > told]
        else:
            items = [item for item in account_data.of_room(self._tx, self._request.user_id, "") if item.stream > told]
        found: list[dict[str, Any]] = []
        for event in _events(items):
            if not budget.takes(event):
                break
            found.append(event)
        is_all = len(found) == len(items)
        self._changes.extensions[OVERALL] = self._changes.position if is_all else items[len(found) - 1].stream
        return found

    def _all_overall(self) -> list[Item]:
        """What is of no room, push rules always among it: what rooms have is read of those alone that are in scope."""
        user_id, kind = self._request.user_id, account_data.PUSH_RULES
        items = account_data.of_room(self._tx, user_id, "")
        if not any(item.type == kind for item in items):
            items.insert(0, Item("", kind, account_data.get(self._tx, user_id, "", kind) or {}, 0))
        return items

    def _receipts(self, rooms: Mapping[int, ListedRoom]) -> None:
        """Those of rooms that are new to the connection, or show more than before, go with the rooms; others may have to wait."""
        since, user_id = self._since("receipts"), self._request.user_id
        changed: dict[int, list[Receipt]] = {}
        if since is not None:
            for receipt in receipts.changed(self._tx, user_id, since, self._changes.position):
                changed.setdefault(receipt.room, []).append(receipt)
        budget = self._budget.part(4)
        found: dict[str, Any] = {}
        held: set[int] = set()
        for number, room in _held_first(self._told.receipts, rooms):
            told = self._told.receipts.get(number)
            result = self._answer.rooms.get(room.room_id)
            is_new = told is None or (result is not None and (result.initial or result.expanded))
            if is_new:
                of_room = list({*self._receipts_shown(number, result), *changed.get(number, ())})
            elif told is not None and told != LIVE:
                of_room = receipts.changed_in(self._tx, number, user_id, told)
            else:
                of_room = changed.get(number, [])
            of_room = [one for one in of_room if one.user_id not in self._ignored and (self._request.echoes or one.user_id != user_id)]
            if not of_room:
                continue
            event = {"type": "m.receipt", "content": edu_content(of_room)}
            if budget.takes(event) or is_new:
                found[room.room_id] = event
            else:
                held.add(number)
        _follow(self._told.receipts, self._changes.receipts, rooms, since, held)
        self._tell("receipts", {"rooms": found} if found else {}, is_news=bool(found))

    def _receipts_shown(self, number: int, result: RoomResult | None) -> list[Receipt]:
        """Of a room that is new to the connection, or shows more than before: those of the events that it is given, and the user's own."""
        user_id = self._request.user_id
        shown = {event["event_id"] for event in (() if result is None else result.timeline)}
        known = receipts.of_room(self._tx, number, user_id, MAX_RECEIPTS)
        return [one for one in known if one.user_id == user_id or one.event_id in shown]

    def _typing(self, rooms: Mapping[int, ListedRoom]) -> None:
        """Who types in a room is told if it is not what the connection was told last, be that long ago."""
        found: dict[str, Any] = {}
        told = self._told.typing
        for number in {*self._typing_now, *told}:
            room = rooms.get(number)
            users = tuple(one for one in self._typing_now.get(number, ()) if one not in self._ignored)
            if room is not None and users != told.get(number, ()):
                found[room.room_id] = {"type": "m.typing", "content": {"user_ids": list(users)}}
                self._changes.typing[number] = users
        self._tell("typing", {"rooms": found} if found else {}, is_news=bool(found))

    def _threads(self, limit: int) -> None:
        """The newest changes of thread subscriptions; older ones are paged for from `prev_batch` (MSC4308)."""
        since, budget = self._since(THREADS), self._budget.part(4)
        changes = thread_subscriptions.changes(self._tx, self._request.user_id, since or 0, self._changes.position, limit + 1)
        body: dict[str, Any] = {}
        for number, one in enumerate(changes):
            ended = {"bump_stamp": one.stream}
            content = ended if one.automatic is None else {"automatic": one.automatic, **ended}
            if number == limit or not budget.takes(one.room_id, one.root, content):
                body["prev_batch"] = str(one.stream)
                break
            of_room = body.setdefault("unsubscribed" if one.automatic is None else "subscribed", {}).setdefault(one.room_id, {})
            of_room[one.root] = content
        self._tell(THREADS, body, is_news=bool(body))


def _held_first(told: Mapping[int, int], rooms: Mapping[int, ListedRoom]) -> list[tuple[int, ListedRoom]]:
    """The rooms in their order, but before them those that have been held back, for longest first: what is large gets its turn."""
    return sorted(rooms.items(), key=lambda item: held if (held := told.get(item[0], LIVE)) != LIVE else _NEVER)


def _follow(
    told: Mapping[int, int], changes: dict[int, int], rooms: Mapping[int, ListedRoom], since: int | None, held: Collection[int]
) -> None:
    """Rooms in scope have been told to now, those that have left it, or are held back, up to `since`.

    A poll that waits holds the changes: no others.
    """
    changes.update({number: LIVE for number in rooms if told.get(number) != LIVE and number not in held})
    changes.update({number: since or 0 for number, upto in told.items() if upto == LIVE and (number not in rooms or number in held)})


def _events(items: list[Item]) -> list[dict[str, Any]]:
    return [{"type": item.type, "content": item.content} for item in items]
