"""Classic sync. Spec: client-server API, "Syncing", `GET /_matrix/client/v3/sync`.

An answer is read from the store in one go if few rooms have news, else in pieces of some rooms each. Whoever has nothing to hear waits
for a wake-up and costs nothing meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from edgeserver.rooms.client_view import Viewer
from edgeserver.store import account_data, device_keys, device_lists, events, partial_rooms, receipts, room_views, rooms, to_device
from edgeserver.sync.filters import kept
from edgeserver.sync.sections import News, Sections
from edgeserver.sync.sent_members import SentMembers
from edgeserver.sync.since import Since

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeserver.store.account_data import Item
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Membership
    from edgeserver.sync.filters import SyncFilter
    from edgeserver.users.ephemeral import Typing
    from edgeserver.wakeups import Wakeups

MAX_TIMEOUT_MS: Final = 600_000
MAX_TO_DEVICE: Final = 100
ROOMS_AT_ONCE: Final = 20
"""Rooms that are read in one go."""


class PresenceFeed(Protocol):
    """Who else's presence changed. Versions are those of `Typing.version`."""

    def changed(self, since: int) -> Mapping[str, Mapping[str, Any]]:
        """User id → content of m.presence, after this version."""
        ...


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What a client asks. `since` None: everything; `timeout_ms` is how long it will wait for news."""

    user_id: str
    device_id: str | None
    since: Since | None
    filter: SyncFilter
    full_state: bool = False
    state_after: bool = False
    timeout_ms: int = 0


@dataclass(slots=True)
class _Answer:
    """An answer in the making: rooms still to be read, and how to read them."""

    body: dict[str, Any]
    token: Since
    sections: Sections
    todo: list[Membership]
    is_news: bool
    acknowledged: bool = False
    rooms: dict[str, dict[str, Any]] = field(default_factory=dict)


class ClassicSync:
    """Answers `/v3/sync`. One for the program."""

    def __init__(
        self,
        db: Database,
        wakeups: Wakeups,
        typing: Typing,
        now_ms: Callable[[], int],
        presence: PresenceFeed | None = None,
    ) -> None:
        self._db = db
        self._wakeups = wakeups
        self._typing = typing
        self._now_ms = now_ms
        self._presence = presence
        self._held = SentMembers()

    async def sync(self, request: SyncRequest) -> dict[str, Any]:
        """The response body. Returns once there is news or the timeout is over."""
        deadline = trio.current_time() + min(max(0, request.timeout_ms), MAX_TIMEOUT_MS) / 1000
        with self._wakeups.listening(request.user_id) as listener:
            while True:
                answer = await self._answer(request)
                if answer.is_news or request.since is None or request.full_state:
                    return answer.body
                body = answer.body
                del answer  # what it was made with is not needed while this waits
                with trio.move_on_at(deadline) as waiting:
                    await listener.wait()
                if waiting.cancelled_caught:
                    return body

    async def _answer(self, request: SyncRequest) -> _Answer:
        if request.device_id is not None and request.since is not None and request.since.is_anothers:
            self._held.forget((request.user_id, request.device_id))
        versions = self._typing.version
        typing = {} if request.since is None else self._typing.changed(request.since.typing)
        presence = self._presence_since(request)

        def begin(tx: Transaction) -> _Answer:
            answer = self._begin(tx, request, versions, typing, presence)
            self._some_rooms(tx, answer)
            return answer

        answer = await self._db.read(begin)
        while answer.todo:
            await self._db.read(lambda tx: self._some_rooms(tx, answer))
        if answer.rooms:
            answer.body["rooms"] = answer.rooms
            answer.is_news = True
        had_typing = () if answer.sections.since is None or request.since is None else request.since.typing_rooms
        answer.token = answer.token.with_typing(had_typing, answer.sections.typing)
        answer.body["next_batch"] = str(answer.token)
        if request.device_id is not None:
            await self._conclude(request, request.device_id, answer)
        return answer

    def _presence_since(self, request: SyncRequest) -> Mapping[str, Mapping[str, Any]]:
        if self._presence is None:
            return {}
        return self._presence.changed(0 if request.since is None else self._typing.in_this_run(request.since.typing))

    async def _conclude(self, request: SyncRequest, device_id: str, answer: _Answer) -> None:
        sections = answer.sections
        self._held.sent((request.user_id, device_id), sections.since, answer.token.stream, sections.members, sections.anew)
        if answer.acknowledged and request.since is not None:
            upto = request.since.to_device
            await self._db.write(lambda tx: to_device.acknowledge(tx, request.user_id, device_id, upto))

    # Reading

    def _begin(
        self,
        tx: Transaction,
        request: SyncRequest,
        versions: int,
        typing: dict[str, list[str]],
        presence: Mapping[str, Mapping[str, Any]],
    ) -> _Answer:
        since, user_id, upto = request.since, request.user_id, tx.position
        if since is not None and since.stream > upto:
            since = None  # a token of a later life of this store, which has been restored: begin anew
        items = account_data.changed(tx, user_id, 0 if since is None else since.stream, upto)
        news = News(
            typing=typing, ignored=account_data.ignored_users(tx, user_id), blocks_invites=account_data.blocks_invites(tx, user_id)
        )
        presence = {other: content for other, content in presence.items() if other not in news.ignored}
        for item in items:
            news.account_data.setdefault(item.room_id, []).append(item)
        if since is not None:
            news.whole.update(partial_rooms.became_whole(tx, since.stream, upto))
            for receipt in receipts.changed(tx, user_id, since.stream, upto):
                news.receipts.setdefault(receipt.room, []).append(receipt)
            if not self._typing.knows(since.typing):  # a restart has forgotten who typed: they will not be told of as having stopped
                self._typing_anew(tx, user_id, since, news)
        sections = Sections(
            Viewer(user_id, request.device_id, self._now_ms()),
            request.filter,
            news,
            self._held,
            self._typing.in_room,
            since=None if since is None else since.stream,
            since_token="" if since is None else str(since),
            upto=upto,
            full_state=request.full_state,
            state_after=request.state_after,
        )
        todo = self._rooms(tx, request, since, upto, news)
        answer = _Answer({}, Since(upto, versions, upto), sections, todo, is_news=False)
        self._device_parts(tx, request, since, answer)
        self._global_parts(tx, request, answer, news.account_data.get("", []), presence)
        return answer

    def _typing_anew(self, tx: Transaction, user_id: str, since: Since, news: News) -> None:
        """Who types now in the rooms where the client takes people to be typing."""
        for number in since.typing_rooms:
            member = rooms.membership(tx, user_id, number)
            if member is not None and member.membership == "join":
                news.typing[member.room_id] = self._typing.in_room(member.room_id)

    def _rooms(
        self, tx: Transaction, request: SyncRequest, since: Since | None, upto: int, news: News
    ) -> list[Membership]:
        """The rooms that may have something to tell."""
        wanted, user_id = request.filter.rooms, request.user_id
        if since is None:
            found = [one for one in rooms.memberships_of(tx, user_id) if not one.forgotten]
            if not request.filter.include_leave:
                found = [one for one in found if one.membership not in ("leave", "ban")]
            return [one for one in found if wanted.takes_room(one.room_id)]
        news.invites.update(self._invites_judged_anew(tx, user_id, news))
        if request.full_state:
            return [one for one in rooms.memberships_of(tx, user_id) if wanted.takes_room(one.room_id) and _is_of_now(one, since, news)]
        changed = room_views.changed_rooms(tx, user_id, since.stream)
        numbers = {*events.rooms_with_news(tx, since.stream, upto), *changed, *news.receipts, *news.whole, *news.invites}
        found = [one for number in numbers if (one := rooms.membership(tx, user_id, number)) is not None]
        known = {one.room_id for one in found}
        for room_id in {*news.typing, *news.account_data} - known - {""}:
            member = rooms.membership_in(tx, user_id, room_id)
            if member is not None and member.membership == "join":
                found.append(member)
        return [one for one in found if wanted.takes_room(one.room_id) and _is_of_now(one, since, news)]

    def _invites_judged_anew(self, tx: Transaction, user_id: str, news: News) -> set[int]:
        """Rooms with invites, of a user who has changed whose invites they want to see."""
        if not any(item.type in account_data.OF_INVITES for item in news.account_data.get("", ())):
            return set()
        return {one.room for one in rooms.memberships_of(tx, user_id) if one.membership == "invite"}

    def _some_rooms(self, tx: Transaction, answer: _Answer) -> None:
        batch, answer.todo = answer.todo[:ROOMS_AT_ONCE], answer.todo[ROOMS_AT_ONCE:]
        for member in batch:
            shown = answer.sections.to_be_shown(tx, member)
            if shown is None:
                continue
            if shown.membership == "join":
                section, entry = "join", answer.sections.joined(tx, shown)
            elif shown.membership in ("invite", "knock"):
                section, entry = shown.membership, answer.sections.asked(tx, shown)
            else:
                section, entry = "leave", answer.sections.left(tx, shown)
            if entry is not None:
                answer.rooms.setdefault(section, {})[member.room_id] = entry
                if section != "join":
                    answer.sections.typing[member.room] = False

    def _device_parts(self, tx: Transaction, request: SyncRequest, since: Since | None, answer: _Answer) -> None:
        """Send-to-device messages, device lists and key counts."""
        user_id, device_id, upto = request.user_id, request.device_id, answer.token.stream
        if since is not None:
            changed, gone = device_lists.changed(tx, user_id, since.stream, upto)
            if changed or gone:
                answer.body["device_lists"] = {"changed": changed, "left": gone}
                answer.is_news = True
        if device_id is None:
            return
        start = 0 if since is None else since.to_device
        messages = to_device.pending(tx, user_id, device_id, start, upto, MAX_TO_DEVICE)
        if messages:
            answer.body["to_device"] = {"events": [message for _, message in messages]}
            answer.is_news = True
        if len(messages) == MAX_TO_DEVICE:  # there may be more: the client comes back for them at once
            answer.token = Since(upto, answer.token.typing, messages[-1][0])
        if since is not None:
            answer.acknowledged = to_device.has_acknowledged(tx, user_id, device_id, since.to_device)
            answer.is_news = answer.is_news or device_keys.claims_since(tx, user_id, device_id, since.stream)
        answer.body["device_one_time_keys_count"] = device_keys.one_time_key_counts(tx, user_id, device_id)
        unused = device_keys.unused_fallback_key_types(tx, user_id, device_id)
        answer.body["device_unused_fallback_key_types"] = unused

    def _global_parts(
        self,
        tx: Transaction,
        request: SyncRequest,
        answer: _Answer,
        items: list[Item],
        presence: Mapping[str, Mapping[str, Any]],
    ) -> None:
        if request.since is not None and request.since.stream == 0:  # of a box where nothing had happened: it has them
            items = [item for item in items if item.stream > 0]
        data = kept(request.filter.account_data, [{"type": item.type, "content": item.content} for item in items])
        if data:
            answer.body["account_data"] = {"events": data}
            answer.is_news = True
        found: list[dict[str, Any]] = []
        for other, content in presence.items():
            event = {"type": "m.presence", "sender": other, "content": dict(content)}
            if other == request.user_id or rooms.share_a_room(tx, request.user_id, other):
                found.append(event)
        found = kept(request.filter.presence, found)
        if found:
            answer.body["presence"] = {"events": found}
            answer.is_news = True


def _is_of_now(member: Membership, since: Since, news: News) -> bool:
    """Whether there may be something to tell of the room: of those that the user is not in, only that they are not in it any more."""
    return member.membership == "join" or member.stream > since.stream or member.room in news.invites
