"""PUT /sendToDevice, and messages to devices between servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserver.api.client import to_device as section
from edgeserver.store import devices, outbox
from edgeserver.store import to_device as table
from edgeserver.store.database import Database, Transaction, open_database
from edgeserver.users.requester import Requester
from edgeserver.users.to_device import EDU_BYTES, TIDY_EVERY, ToDevice, in_parts
from edgeserver.wakeups import Wakeups
from tests.asgi import Answer, AsgiClient, section_application

ALICE, BOB, ZOE = "@alice:test", "@bob:test", "@zoe:far"
LAST = 2**60


class Site:
    def __init__(self, db: Database) -> None:
        self.db = db
        self.now = 1_700_000_000_000
        self.to_device = ToDevice(db, "test", Wakeups(), lambda: self.now)
        self.client = AsgiClient(
            section_application(section.routes(self.to_device), {"alice": Requester(ALICE, "A")}), token="alice"
        )

    async def send(self, messages: Any, txn_id: str = "t") -> Answer:
        return await self.client.put(f"/_matrix/client/v3/sendToDevice/m.test/{txn_id}", {"messages": messages})

    async def pending(self, user_id: str, device_id: str, since: int = 0, limit: int = 100) -> list[Any]:
        found = await self.db.read(lambda tx: table.pending(tx, user_id, device_id, since, LAST, limit))
        return [event["content"]["n"] for _, event in found]

    async def queued(self, server_name: str) -> list[dict[str, Any]]:
        def work(tx: Transaction) -> list[dict[str, Any]]:
            found = outbox.destination(tx, server_name)
            return [] if found is None else [each.edu for each in outbox.pending(tx, found.number) if each.edu]

        return await self.db.read(work)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_database(tmp_path / "store.db", inline=True) as db:

        def people(tx: Transaction) -> None:
            for device_id in ("B1", "B2"):
                devices.ensure(tx, BOB, device_id, None)
            devices.ensure(tx, ALICE, "A", None)

        await db.write(people)
        yield Site(db)


async def test_a_message_waits_for_each_device_until_it_is_acknowledged(site: Site) -> None:
    assert (await site.send({BOB: {"B1": {"n": 1}}}, "1")).json == {}
    assert (await site.send({BOB: {"*": {"n": 2}, "B2": {"n": 3}}, "@nobody:test": {"*": {}}}, "2")).json == {}
    assert await site.pending(BOB, "B1") == [1, 2]
    assert await site.pending(BOB, "B2") == [3]
    [(first, event)] = await site.db.read(lambda tx: table.pending(tx, BOB, "B1", 0, LAST, 1))
    assert event == {"sender": ALICE, "type": "m.test", "content": {"n": 1}}
    assert await site.pending(BOB, "B1", since=first) == [2]
    await site.db.write(lambda tx: table.acknowledge(tx, BOB, "B1", first))
    assert await site.pending(BOB, "B1") == [2]


async def test_the_same_transaction_sends_once(site: Site) -> None:
    for _ in range(2):
        await site.send({BOB: {"B1": {"n": 1}}, ZOE: {"Z": {"n": 2}}})
    assert await site.pending(BOB, "B1") == [1]
    assert len(await site.queued("far")) == 1


async def test_messages_for_another_server_go_out_in_parts_that_stay_small(site: Site) -> None:
    text = "x" * 6000
    await site.send({ZOE: {f"Z{n}": {"n": n, "text": text} for n in range(5)}, "@yan:far": {"*": {"n": 9}}})
    edus = await site.queued("far")
    assert len(edus) == 3
    assert len({edu["content"]["message_id"] for edu in edus}) == 3
    assert all(len(edu["content"]["message_id"]) <= 32 for edu in edus)
    assert all(len(orjson.dumps(edu)) < EDU_BYTES + 1000 for edu in edus)
    assert sum(len(edu["content"]["messages"].get(ZOE, {})) for edu in edus) == 5


async def test_a_message_of_another_server_arrives_once(site: Site) -> None:
    for _ in range(2):
        await site.to_device.receive("far", ZOE, "m.test", "id", {BOB: {"*": {"n": 1}}, "@elsewhere:x": {"*": {}}})
    await site.to_device.receive("other", "@o:other", "m.test", "id", {BOB: {"B1": {"n": 2}}})
    assert await site.pending(BOB, "B1") == [1, 2]
    assert await site.pending(BOB, "B2") == [1]


async def test_what_keeps_repetitions_out_is_forgotten_in_time(site: Site) -> None:
    await site.send({BOB: {"B1": {"n": 1}}}, "1")
    await site.to_device.receive("far", ZOE, "m.test", "id", {})
    site.now += table.RECEIVED_KEPT + 1
    await site.send({BOB: {"B1": {"n": 2}}}, "2")
    await site.to_device.receive("far", ZOE, "m.test", "id2", {})
    for rows in ("to_device_sent", "to_device_received"):
        assert await site.db.read(lambda tx, rows=rows: tx.one(f"SELECT count(*) FROM {rows}")) == (1,)


async def test_what_is_malformed_or_too_large_is_refused(site: Site) -> None:
    for messages in (None, [], {"bob": {}}, {BOB: []}, {BOB: {"B1": 1}}):
        assert (await site.send(messages)).json["errcode"] == "M_BAD_JSON"
    assert (await site.send({BOB: {"B1": {"n": "x" * 70_000}}})).status == 413
    assert (await site.send({BOB: {str(n): {} for n in range(6000)}})).status == 413


def messages(tx: Transaction, sender: str, numbers: range, size: int = 0) -> None:
    for n in numbers:
        table.add(tx, BOB, "B1", {"sender": sender, "content": {"n": n, "text": "x" * size}})


async def test_a_device_that_never_syncs_keeps_the_newest_messages(site: Site) -> None:
    most = table.MAX_WAITING // table.LEAST_SIZE
    await site.db.write(lambda tx: messages(tx, ZOE, range(most + 2 * table.LOOK_EVERY)))
    kept = await site.pending(BOB, "B1", limit=LAST)
    assert most * 8 // 10 < len(kept) <= most + table.LOOK_EVERY
    assert kept == list(range(kept[0], most + 2 * table.LOOK_EVERY))


async def test_a_server_that_floods_a_device_drops_its_own_messages(site: Site) -> None:
    await site.db.write(lambda tx: messages(tx, ALICE, range(100)))
    for start in range(1000, 3000, 100):
        await site.db.write(lambda tx, start=start: messages(tx, ZOE, range(start, start + 100), 60_000))
        held = await site.db.read(lambda tx: tx.one("SELECT sum(length(message)) FROM to_device"))
        assert held is not None
        assert held[0] < table.MAX_WAITING + (table.LOOK_EVERY + 100) * table.LARGEST
    kept = await site.pending(BOB, "B1", limit=LAST)
    assert [n for n in kept if n < 1000] == list(range(100))
    assert kept[-1] == 2999


async def test_a_message_that_no_sender_may_make_is_dropped(site: Site) -> None:
    await site.to_device.receive("far", ZOE, "m.test", "id", {BOB: {"B1": {"n": "x" * table.LARGEST}, "B2": {"n": 2}}})
    assert await site.pending(BOB, "B1") == []
    assert await site.pending(BOB, "B2") == [2]


async def test_the_message_ids_of_a_server_are_trimmed(site: Site) -> None:
    await site.to_device.receive("other", "@o:other", "m.test", "theirs", {BOB: {"B1": {"n": 1}}})

    def fill(tx: Transaction) -> None:
        for n in range(table.KEPT_IDS + 50):
            table.first_receipt(tx, "far", f"old{n}", site.now)

    await site.db.write(fill)
    site.now += 1
    for n in range(TIDY_EVERY):
        await site.to_device.receive("far", ZOE, "m.test", f"new{n}", {"@nobody:test": {"*": {}}})
    held = await site.db.read(lambda tx: tx.all("SELECT origin, count(*) FROM to_device_received GROUP BY origin"))
    assert dict(held)["other"] == 1
    assert dict(held)["far"] <= table.KEPT_IDS + TIDY_EVERY
    await site.to_device.receive("far", ZOE, "m.test", "new0", {BOB: {"B2": {"n": 5}}})
    assert await site.pending(BOB, "B2") == []


@given(
    st.dictionaries(
        st.sampled_from(["@a:far", "@b:far", "@c:far"]),
        st.dictionaries(st.text("abcdef", max_size=3), st.builds(lambda n: {"n": "x" * n}, st.integers(0, 9000))),
    )
)
def test_the_parts_together_are_the_whole(messages: dict[str, Any]) -> None:
    together: dict[str, Any] = {}
    for part in in_parts(messages):
        for user_id, by_device in part.items():
            assert not together.get(user_id, {}).keys() & by_device.keys()
            together.setdefault(user_id, {}).update(by_device)
    assert together == {user_id: by_device for user_id, by_device in messages.items() if by_device}
