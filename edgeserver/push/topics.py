"""Topics: who publishes to one hands a message to whoever listens, and to whoever comes for it within two days.

Anybody who knows a topic's name may publish to it and listen to it; the name, which a phone makes up (`up` and random characters), is
the secret. Topics come to be when they are used, and go when nobody has listened for long.

What waits is on disk. `publish` returns once it is there; `hand_over` does not wait for that: the message is written with the next
`flush`, in the same transaction as the position of whoever would else tell it again.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import orjson
import trio

from edgeserver.push import topic_errors as errors
from edgeserver.push.topic_errors import TopicError
from edgeserver.push.topic_message import NOTHING_OLD, Since, id_of
from edgeserver.store import topics as table
from edgeserver.store.topics import Kept, Topic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edgeserver.store.database import Database, Transaction

KEPT_SECONDS: Final = 48 * 3600
KEPT_OF_TOPIC: Final = 50
KEPT_OF_SUBJECT_SECONDS: Final = 600
"""Of one room what is no more than this older than its newest: who was out of reach for minutes misses nothing, who was away for a day
is not told five hundred times.
"""
KEPT_MESSAGES: Final = 2000
"""Of 10 kB at the very most with all parameters, and usually of half a kB: a few MB."""
MAX_TOPICS: Final = 1000
MAX_SUBSCRIPTIONS: Final = 300
MAX_SUBSCRIPTIONS_OF_ADDRESS: Final = 100
UNREAD: Final = 100
"""So many messages are held for a subscriber that does not take them; then it is let go, and comes back for what it has missed."""
UNUSED_SECONDS: Final = 12 * 3600
"""A topic that nobody has ever listened to is kept so long …"""
FORSAKEN_SECONDS: Final = 30 * 86400
"""… and one that nobody listens to any more so long."""
DAY: Final = 86400


class Subscription:
    """Somebody who listens to some topics. Iterate over it for messages (JSON); it ends when they are not taken."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[tuple[int, bytes]](UNREAD)

    def hand(self, number: int, body: bytes) -> bool:
        """False if the subscriber has fallen behind, and is let go."""
        try:
            self._send.send_nowait((number, body))
        except (trio.WouldBlock, trio.ClosedResourceError):
            self._send.close()
            return False
        return True

    async def next(self) -> tuple[int, bytes]:
        """Number and body of the next message. Raises `trio.EndOfChannel` when the subscriber has been let go."""
        return await self._receive.receive()


class Topics:
    """The topics of this box. `now_ms()` is the time; `load` is to be called first."""

    def __init__(self, db: Database, now_ms: Callable[[], int]) -> None:
        self._db = db
        self._now_ms = now_ms
        self._topics: dict[str, Topic] = {}
        self._listening: dict[str, set[Subscription]] = {}
        self._of_address: Counter[str] = Counter()
        self._unwritten: list[Kept] = []
        self._due: dict[int, Kept | None] = {}  # not handed out yet, by number; None: on its way to the disk, and those after it wait
        self._newest = 0

    async def load(self) -> None:
        """Takes up the topics that are on disk."""
        found, self._newest = await self._db.read(lambda tx: (table.topics(tx), table.newest_number(tx)))
        self._topics = {one.name: one for one in found}

    # Publishing

    async def publish(self, topic: str, said: dict[str, Any], *, keep: bool = True) -> dict[str, Any]:
        """Publishes a message, which is on disk then (unless it is not to be kept). Returns it as subscribers see it.

        Raises `TopicError` where there are too many topics.
        """
        message, kept = await self._message(topic, said, None)
        if keep:
            self._due[kept.number] = None
            try:
                await self._db.write(lambda tx: self._write(tx, [kept]))
            except BaseException:
                del self._due[kept.number]
                self._hand_out_due()
                raise
        self._hand_out(kept)
        return message

    async def hand_over(self, topic: str, said: dict[str, Any], subject: str | None) -> None:
        """As `publish`, to be written with the next `flush`; of messages about the same subject the newest are kept."""
        _, kept = await self._message(topic, said, subject)
        self._unwritten.append(kept)
        self._hand_out(kept)

    async def settle(self) -> None:
        """Returns when everything that was handed over is on disk."""
        if self._unwritten:
            await self._db.write(self.flush)

    def flush(self, tx: Transaction) -> None:
        """Writes what is not written yet, in the caller's transaction (on the writer's thread)."""
        messages = list(self._unwritten)
        if messages:
            self._write(tx, messages)
            tx.on_commit(lambda: self._written(messages))

    def _written(self, messages: Sequence[Kept]) -> None:
        done = {one.number for one in messages}
        self._unwritten = [one for one in self._unwritten if one.number not in done]

    def _write(self, tx: Transaction, messages: Sequence[Kept]) -> None:
        table.add(tx, messages, most=KEPT_OF_TOPIC, fresh=KEPT_OF_SUBJECT_SECONDS)
        table.trim(tx, self._now(), KEPT_MESSAGES)

    async def _message(self, topic: str, said: dict[str, Any], subject: str | None) -> tuple[dict[str, Any], Kept]:
        if topic not in self._topics:
            await self._use(topic, subscribed=False)
        now = self._now()
        self._newest = max(self._newest + 1, self._now_ms())
        expires = now + KEPT_SECONDS
        message = {"id": id_of(self._newest), "time": now, "expires": expires, "event": "message", "topic": topic, **said}
        return message, Kept(self._newest, topic, subject, expires, orjson.dumps(message))

    def _hand_out(self, kept: Kept) -> None:
        self._due[kept.number] = kept
        self._hand_out_due()

    def _hand_out_due(self) -> None:
        """In the order of their numbers: a subscriber comes back for what lies beyond the last one that it was handed."""
        for number, kept in list(self._due.items()):
            if kept is None:
                return
            del self._due[number]
            self._hand_to_listeners(kept)

    def _hand_to_listeners(self, kept: Kept) -> None:
        for subscription in list(self._listening.get(kept.topic, ())):
            if not subscription.hand(kept.number, kept.body):
                self._leave(subscription, [kept.topic])

    # Listening

    @contextmanager
    def listening(self, names: Sequence[str], address: str) -> Iterator[Subscription]:
        """Listens to the topics for the length of the block: call `waiting` inside it. Raises `TopicError` beyond the bounds."""
        total = sum(self._of_address.values())
        if total >= MAX_SUBSCRIPTIONS or self._of_address[address] >= MAX_SUBSCRIPTIONS_OF_ADDRESS:
            raise TopicError(*errors.SUBSCRIPTIONS, retry_after=60)
        self._of_address[address] += 1
        subscription = Subscription()
        for name in names:
            self._listening.setdefault(name, set()).add(subscription)
        try:
            yield subscription
        finally:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]
            self._leave(subscription, names)

    def _leave(self, subscription: Subscription, names: Sequence[str]) -> None:
        for name in names:
            listening = self._listening.get(name, set())
            listening.discard(subscription)
            if not listening:
                self._listening.pop(name, None)

    async def waiting(self, names: Sequence[str], since: Since) -> list[tuple[int, bytes]]:
        """What waits in the topics for who has everything up to `since`: number and body, oldest first.

        Raises `TopicError` where there are too many topics.
        """
        for name in names:
            await self._use(name, subscribed=True)
        if since == NOTHING_OLD:
            return []
        after = 0 if since.number > self._newest else since.number  # an id of another life: everything is new to its owner
        if any(one.topic in names for one in self._unwritten):
            await self.settle()
        now = self._now()
        found = await self._db.read(lambda tx: table.kept(tx, names, after, now))
        found = [one for one in found if one.expires - KEPT_SECONDS >= since.time]
        return [(one.number, one.body) for one in (found[-1:] if since.latest else found)]

    def is_known(self, topic: str) -> bool:
        """Whether somebody listens, or has listened lately; a topic that is new has some time for that."""
        found = self._topics.get(topic)
        return found is None or not self._is_over(found)

    # Topics come and go

    def _is_over(self, topic: Topic) -> bool:
        now = self._now()
        if topic.name in self._listening:
            return False
        if topic.subscribed_at is None:
            return now - topic.created_at > UNUSED_SECONDS
        return now - topic.subscribed_at > FORSAKEN_SECONDS

    async def _use(self, name: str, *, subscribed: bool) -> None:
        """Notes that a topic is there, and (once a day) that somebody listens."""
        now, held = self._now(), self._topics.get(name)
        if held is not None and (not subscribed or (held.subscribed_at is not None and 0 <= now - held.subscribed_at < DAY)):
            return
        over = [] if held is not None or len(self._topics) < MAX_TOPICS else self._all_over()
        if held is None and len(self._topics) - len(over) >= MAX_TOPICS:
            over = self._oldest_unused()
        if held is None and len(self._topics) - len(over) >= MAX_TOPICS:
            raise TopicError(*errors.TOPICS, retry_after=3600)
        topic = Topic(name, now if held is None else held.created_at, now if subscribed else None)
        for one in over:
            del self._topics[one]
        self._topics[name] = topic

        def work(tx: Transaction) -> None:
            table.delete_topics(tx, over)
            table.put_topic(tx, topic)

        await self._db.write(work)

    def _all_over(self) -> list[str]:
        return [one.name for one in self._topics.values() if self._is_over(one)]

    def _oldest_unused(self) -> list[str]:
        """One that nobody has ever listened to gives its place."""
        unused = [one for one in self._topics.values() if one.subscribed_at is None and one.name not in self._listening]
        return [min(unused, key=lambda one: one.created_at).name] if unused else []

    def _now(self) -> int:
        return self._now_ms() // 1000
