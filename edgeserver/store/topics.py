"""Topics that phones listen to, and the messages that wait in them: the tables `topics` and `topic_messages`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeserver.store.database import Transaction


class Topic(NamedTuple):
    """One topic; times in s. `subscribed_at` is None if nobody has ever listened."""

    name: str
    created_at: int
    subscribed_at: int | None


class Kept(NamedTuple):
    """One message. A newer one about the same `subject` (None: about nothing else) takes its place after a while; `expires` in s."""

    number: int
    topic: str
    subject: str | None
    expires: int
    body: bytes


def topics(tx: Transaction) -> list[Topic]:
    return [Topic(*row) for row in tx.all("SELECT topic, created_at, subscribed_at FROM topics")]


def put_topic(tx: Transaction, topic: Topic) -> None:
    tx.execute("INSERT OR REPLACE INTO topics (topic, created_at, subscribed_at) VALUES (?, ?, ?)", topic)


def delete_topics(tx: Transaction, names: Iterable[str]) -> None:
    """Deletes them with what waits in them."""
    for name in names:
        tx.execute("DELETE FROM topic_messages WHERE topic = ?", (name,))
        tx.execute("DELETE FROM topics WHERE topic = ?", (name,))


def newest_number(tx: Transaction) -> int:
    row = tx.one("SELECT coalesce(max(message), 0) FROM topic_messages")
    return int(row[0]) if row else 0


def add(tx: Transaction, messages: Iterable[Kept], *, most: int, fresh: int) -> None:
    """Keeps them, oldest first. A topic keeps its newest `most`, of one subject what is not `fresh` s older than the newest."""
    names = set()
    for one in messages:
        if one.subject is not None:
            tx.execute(
                "DELETE FROM topic_messages WHERE topic = ? AND subject = ? AND expires < ?",
                (one.topic, one.subject, one.expires - fresh),
            )
        tx.execute("INSERT OR REPLACE INTO topic_messages (message, topic, subject, expires, body) VALUES (?, ?, ?, ?, ?)", one)
        names.add(one.topic)
    for name in names:
        tx.execute(
            "DELETE FROM topic_messages WHERE message IN"
            " (SELECT message FROM topic_messages WHERE topic = ? ORDER BY message DESC LIMIT -1 OFFSET ?)",
            (name, most),
        )


def trim(tx: Transaction, now: int, most: int) -> None:
    """Deletes what has expired, and of all topics together the oldest beyond `most`."""
    tx.execute("DELETE FROM topic_messages WHERE expires <= ?", (now,))
    tx.execute(
        "DELETE FROM topic_messages WHERE message IN"
        " (SELECT message FROM topic_messages ORDER BY message DESC LIMIT -1 OFFSET ?)",
        (most,),
    )


def kept(tx: Transaction, names: Sequence[str], after: int, now: int) -> list[Kept]:
    """What waits in these topics beyond the number, oldest first."""
    marks = ",".join("?" * len(names))
    rows = tx.all(
        f"SELECT message, topic, subject, expires, body FROM topic_messages WHERE topic IN ({marks})"
        " AND message > ? AND expires > ? ORDER BY message",
        (*names, after, now),
    )
    return [Kept(*row) for row in rows]
