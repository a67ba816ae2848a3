"""The notary: what it passes on, and that a flood of questions costs little."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from edgeserver.api.application import Application
from edgeserver.api.authentication import AccessTokens, FixedTokens
from edgeserver.api.endpoint import Gate
from edgeserver.api.server import keys as keys_api
from edgeserver.federation.key_response import KeyResponse, read
from edgeserver.federation.notary import MAX_SERVERS, MAX_STRANGERS, MAX_UNDER_WAY, PATIENCE, Notary
from edgeserver.matrix import signatures
from edgeserver.matrix.errors import LimitExceeded
from edgeserver.store import server_keys
from edgeserver.store.database import Database, Transaction, open_database
from edgeserver.store.server_keys import PINNED, StoredKey
from tests.asgi import AsgiClient
from tests.federation.test_keyring import DAY, NEW, NOW, OLD, OURS, Answers, Ring, response_of

Clock = trio.testing.MockClock


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path / "test.db", inline=True) as database:
        yield database


class Slow(Answers):
    """Some servers hang for an hour."""

    def __init__(self) -> None:
        super().__init__()
        self.hanging: set[str] = set()

    async def fetch(
        self, servers: Iterable[str], *, witnesses: Sequence[str] = (), hurried: bool = False
    ) -> dict[str, tuple[KeyResponse, bool]]:
        wanted = set(servers)
        if wanted & self.hanging:
            await trio.sleep(3600)
        return await super().fetch(wanted)


class Site:
    def __init__(self, db: Database) -> None:
        self.db = db
        self.answers = Slow()
        self.ring = Ring(db, self.answers)
        self.notary = Notary(db, self.ring, server_name="us.test", now_ms=lambda: self.ring.now)
        app = Application(keys_api.routes(self.ring, self.notary, lambda: self.ring.now), Gate(AccessTokens(FixedTokens({}))))
        self.client = AsgiClient(app)

    def knows(self, *names: str) -> None:
        self.answers.known |= {name: (response_of(NEW, server=name), True) for name in names}

    async def ask(self, wanted: Any) -> list[Any]:
        answer = await self.client.post("/_matrix/key/v2/query", {"server_keys": wanted})
        assert answer.status == 200
        found: list[Any] = answer.json["server_keys"]
        return found


async def test_one_or_many_are_asked_for_with_our_signature_beside_theirs(db: Database, autojump_clock: Clock) -> None:
    site = Site(db)
    site.knows("a.test", "b.test")
    one = await site.client.get("/_matrix/key/v2/query/a.test")
    many = await site.ask({"a.test": {}, "b.test": {"ed25519:new": {}}, "gone.test": {}, "us.test": {}})
    assert [each["server_name"] for each in one.json["server_keys"]] == ["a.test"]
    assert sorted(each["server_name"] for each in many) == ["a.test", "b.test", "us.test"]
    for each in many:
        signatures.verify_json(each, "us.test", OURS.key_id, OURS.verify_key)
    assert read(next(each for each in many if each["server_name"] == "us.test"), "us.test").old.keys() == {OLD.key_id}
    assert await site.ask({}) == []


async def test_the_time_that_is_wanted_decides_whether_the_server_is_asked_again(db: Database, autojump_clock: Clock) -> None:
    site = Site(db)
    site.knows("a.test")
    await site.ask({"a.test": {}})
    await trio.sleep(60)
    await site.ask({"a.test": {"ed25519:new": {"minimum_valid_until_ts": NOW + DAY}}})
    assert len(site.answers.asked) == 1
    await site.ask({"a.test": {"ed25519:new": {"minimum_valid_until_ts": NOW + DAY + 1}}})
    assert len(site.answers.asked) == 2
    await trio.sleep(60)
    assert (await site.client.get(f"/_matrix/key/v2/query/a.test?minimum_valid_until_ts={NOW + 2 * DAY}")).status == 200
    assert len(site.answers.asked) == 3
    await trio.sleep(60)
    site.ring.now = NOW + 2 * DAY  # a key for which no time is told has to be valid now
    await site.ask({"a.test": {"ed25519:new": {"minimum_valid_until_ts": 1}, "ed25519:other": {}}})
    assert len(site.answers.asked) == 4


@pytest.mark.parametrize(
    "path", ["query/not a name", "query/a.test?minimum_valid_until_ts=soon", f"query/{'x' * 300}"], ids=["name", "time", "length"]
)
async def test_malformed_questions_are_refused(db: Database, path: str) -> None:
    answer = await Site(db).client.get("/_matrix/key/v2/" + path.replace(" ", "%20"))
    assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")


async def test_too_many_names_are_refused_and_garbage_as_well(db: Database) -> None:
    site = Site(db)
    for body in ({"server_keys": {f"s{n}.test": {} for n in range(MAX_SERVERS + 1)}}, {"server_keys": []}, {}):
        assert (await site.client.post("/_matrix/key/v2/query", body)).status == 400
    assert await site.ask({"a.test": {"ed25519:x": 5}, "b.test": [], "c.test": {"ed25519:x": {"minimum_valid_until_ts": "x"}}}) == []


async def test_who_hangs_does_not_take_the_others_along(db: Database, autojump_clock: Clock) -> None:
    site = Site(db)
    names = [f"s{number}.test" for number in range(40)]
    site.knows(*names)
    site.answers.hanging = {"s7.test"}
    began = trio.current_time()
    found = await site.ask({name: {} for name in names})
    assert len(found) == 30
    assert trio.current_time() - began <= PATIENCE + 1


async def test_a_flood_is_answered_from_what_is_held_and_else_put_off(db: Database, autojump_clock: Clock) -> None:
    site = Site(db)
    site.knows("a.test")
    await site.ask({"a.test": {}})
    site.answers.hanging = {f"h{number}.test" for number in range(MAX_UNDER_WAY)}
    async with trio.open_nursery() as nursery:
        for name in site.answers.hanging:
            nursery.start_soon(site.notary.query, {name: NOW})
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(LimitExceeded):
            await site.notary.query({"other.test": NOW})
        assert len(await site.notary.query({"a.test": NOW, "us.test": NOW})) == 2


async def test_of_strangers_only_so_many_are_remembered(db: Database) -> None:
    def fill(tx: Transaction) -> None:
        for number in range(MAX_STRANGERS + 20):
            server_keys.put_response(tx, f"s{number}.test", b"{}", number, NOW)
        server_keys.put(tx, "s0.test", [StoredKey("ed25519:1", b"k" * 32, NOW, PINNED)])
        tx.execute("INSERT INTO rooms (room, room_id, version) VALUES (1, '!r', '12')")
        tx.execute("INSERT INTO room_servers (room, server_name, joined) VALUES (1, 's1.test', 1)")
        server_keys.forget_strangers(tx, MAX_STRANGERS)
        left = {name for (name,) in tx.all("SELECT server_name FROM server_key_responses")}
        assert {"s0.test", "s1.test"} <= left
        assert len(left) == MAX_STRANGERS + 2
        assert "s2.test" not in left

    await db.write(fill)
