"""Topics: what waits, for how long, and who makes room for whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import trio
import trio.lowlevel
from hypothesis import given
from hypothesis import strategies as st

from edgeserver.push.topic_errors import TopicError
from edgeserver.push.topic_message import NOTHING_OLD, Since, id_of, number_of
from edgeserver.push.topics import (
    FORSAKEN_SECONDS,
    KEPT_OF_SUBJECT_SECONDS,
    KEPT_OF_TOPIC,
    KEPT_SECONDS,
    MAX_TOPICS,
    UNREAD,
    UNUSED_SECONDS,
    Topics,
)
from edgeserver.store import topics as table
from edgeserver.store.database import Database, open_database

TOPIC = "upAbCdEfGhIjKl"
ALL = Since()


class Place:
    def __init__(self, db: Database) -> None:
        self.db = db
        self.now = 1_790_000_000
        self.topics = Topics(db, lambda: self.now * 1000)

    async def again(self) -> Topics:
        """The topics as a box has them that has just lost power."""
        self.topics = Topics(self.db, lambda: self.now * 1000)
        await self.topics.load()
        return self.topics

    async def texts(self, topic: str = TOPIC, since: Since = ALL) -> list[str]:
        return [orjson.loads(body)["message"] for _, body in await self.topics.waiting([topic], since)]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_database(tmp_path / "x.db", inline=True) as db:
        yield Place(db)


@given(st.integers(0, 62**12 - 1), st.integers(0, 62**12 - 1))
def test_ids_are_numbers_and_keep_their_order(one: int, other: int) -> None:
    assert number_of(id_of(one)) == one
    assert len(id_of(one)) == 12
    assert (id_of(one) < id_of(other)) == (one < other)


async def test_what_is_published_is_on_disk_and_what_is_handed_over_is_with_the_next_flush(place: Place) -> None:
    await place.topics.publish(TOPIC, {"message": "published"})
    await place.topics.hand_over(TOPIC, {"message": "lost with the power"}, "!r")
    assert await (await place.again()).waiting([TOPIC], NOTHING_OLD) == []
    assert await place.texts() == ["published"]
    await place.topics.hand_over(TOPIC, {"message": "flushed"}, "!r")
    await place.db.write(place.topics.flush)
    await place.again()
    assert await place.texts() == ["published", "flushed"]
    await place.topics.hand_over(TOPIC, {"message": "asked for"}, "!r")
    assert await place.texts() == ["published", "flushed", "asked for"]


async def test_ids_grow_over_a_restart_and_though_the_clock_is_set_back(place: Place) -> None:
    first = (await place.topics.publish(TOPIC, {}))["id"]
    await place.again()
    place.now -= 86400
    second = (await place.topics.publish(TOPIC, {}))["id"]
    assert first < second


async def test_a_message_waits_two_days(place: Place) -> None:
    await place.topics.publish(TOPIC, {"message": "x"})
    place.now += KEPT_SECONDS - 1
    assert await place.texts() == ["x"]
    place.now += 1
    assert await place.texts() == []
    await place.topics.publish(TOPIC, {"message": "y"})
    rows = await place.db.read(lambda tx: tx.all("SELECT count(*) FROM topic_messages"))
    assert rows == [(1,)]


async def test_of_a_room_the_newest_waits_and_what_came_shortly_before(place: Place) -> None:
    for minute in range(0, 600, 5):
        await place.topics.hand_over(TOPIC, {"message": str(minute)}, "!busy")
        if minute == 100:
            await place.topics.hand_over(TOPIC, {"message": "quiet"}, "!quiet")
        place.now += 300
    assert KEPT_OF_SUBJECT_SECONDS == 600
    assert await place.texts() == ["quiet", "585", "590", "595"]


async def test_a_topic_keeps_its_newest_and_all_topics_together_theirs(place: Place) -> None:
    for number in range(KEPT_OF_TOPIC + 10):
        await place.topics.publish(TOPIC, {"message": str(number)})
    assert await place.texts() == [str(number) for number in range(10, KEPT_OF_TOPIC + 10)]
    await place.topics.publish(f"{TOPIC}2", {"message": "other"})
    await place.db.write(lambda tx: table.trim(tx, place.now, 3))
    assert await place.texts() == [str(KEPT_OF_TOPIC + 8), str(KEPT_OF_TOPIC + 9)]


async def test_who_does_not_take_what_comes_is_let_go_and_can_come_back_for_it(place: Place) -> None:
    with place.topics.listening([TOPIC], "phone") as subscription:
        for number in range(UNREAD + 1):
            await place.topics.publish(TOPIC, {"message": str(number)}, keep=number == UNREAD)
        taken = [await subscription.next() for _ in range(UNREAD)]
        with pytest.raises(trio.EndOfChannel):
            await subscription.next()
    assert await place.texts(since=Since(number=taken[-1][0])) == [str(UNREAD)]


async def test_messages_come_in_the_order_of_their_ids_however_long_the_disk_takes(place: Place) -> None:
    other = f"{TOPIC}2"
    await place.topics.waiting([TOPIC, other], NOTHING_OLD)
    with place.topics.listening([TOPIC, other], "phone") as phone:
        async with trio.open_nursery() as nursery:
            for text in ("1", "2", "3"):
                nursery.start_soon(place.topics.publish, TOPIC, {"message": text})
            while place.topics._newest < place.now * 1000 + 2:
                await trio.lowlevel.checkpoint()
            await place.topics.hand_over(other, {"message": "4"}, "!r")
        numbers = [(await phone.next())[0] for _ in range(4)]
    assert numbers == sorted(numbers)


async def test_a_message_that_cannot_be_kept_holds_no_other_up(place: Place) -> None:
    await place.topics.waiting([TOPIC], NOTHING_OLD)
    with place.topics.listening([TOPIC], "phone") as phone:
        with trio.CancelScope() as scope:
            scope.cancel()
            await place.topics.publish(TOPIC, {"message": "withdrawn"})
        await place.topics.publish(TOPIC, {"message": "next"})
        heard = orjson.loads((await phone.next())[1])["message"]
        if heard == "withdrawn":  # its write had begun before, and was not given up
            heard = orjson.loads((await phone.next())[1])["message"]
        assert heard == "next"


async def test_who_is_let_go_of_one_topic_leaves_nothing_behind_in_the_others(place: Place) -> None:
    other = f"{TOPIC}2"
    with place.topics.listening([TOPIC, other], "slow phone"), place.topics.listening([TOPIC], "phone") as phone:
        for _ in range(UNREAD + 1):
            await place.topics.publish(TOPIC, {}, keep=False)
            await phone.next()
    await place.topics.waiting([other], NOTHING_OLD)
    place.now += FORSAKEN_SECONDS + 1
    assert not place.topics.is_known(other)


async def test_a_topic_that_nobody_listens_to_is_known_for_a_while(place: Place) -> None:
    assert place.topics.is_known(TOPIC)
    await place.topics.publish(TOPIC, {})
    place.now += UNUSED_SECONDS
    assert place.topics.is_known(TOPIC)
    place.now += 1
    assert not place.topics.is_known(TOPIC)
    await place.topics.waiting([TOPIC], NOTHING_OLD)
    place.now += FORSAKEN_SECONDS
    assert (await place.again()).is_known(TOPIC)
    place.now += 1
    assert not place.topics.is_known(TOPIC)
    with place.topics.listening([TOPIC], "phone"):
        assert place.topics.is_known(TOPIC)


async def test_that_somebody_listens_is_written_once_a_day(place: Place) -> None:
    commits = []
    for _ in range(50):
        await place.topics.waiting([TOPIC], NOTHING_OLD)
        place.now += 3600
        commits.append(place.db.commits)
    assert commits[-1] - commits[0] == 2


async def test_topics_make_room_for_others_and_those_in_use_stay(place: Place) -> None:
    await place.topics.waiting([TOPIC], NOTHING_OLD)
    for number in range(MAX_TOPICS - 1):
        place.topics._topics[f"upUnused{number:06}"] = table.Topic(f"upUnused{number:06}", place.now + number, None)
    await place.topics.publish("upNewcomer0001", {})
    assert not {"upUnused000000"} & set(place.topics._topics)
    for name, one in list(place.topics._topics.items()):
        place.topics._topics[name] = one._replace(subscribed_at=place.now)
    with pytest.raises(TopicError) as refused:
        await place.topics.publish("upNewcomer0002", {})
    assert refused.value.code == 42904
    place.now += FORSAKEN_SECONDS + 1
    await place.topics.publish("upNewcomer0002", {})
    assert len(place.topics._topics) == 1
