"""Keys: where they come from, how long they are believed, and whom a change must be signed by."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from edgeserver.federation import key_response
from edgeserver.federation.key_response import BadKeyResponse, KeyResponse, OldKey, read
from edgeserver.federation.keyring import Keyring
from edgeserver.federation.notary import Notary
from edgeserver.matrix import draft, server_names, signatures
from edgeserver.matrix.room_versions import V1, V2, V3, V4, V5, V11, RoomVersion
from edgeserver.matrix.signatures import SigningKey
from edgeserver.matrix.verdicts import Dropped, Unready
from edgeserver.store.database import Database, open_database

NOW = 1_700_000_000_000
DAY = 86_400_000
OLD = SigningKey(b"o" * 32, "ed25519:old")
NEW = SigningKey(b"n" * 32, "ed25519:new")
OURS = SigningKey(b"u" * 32, "ed25519:us")


def response_of(
    key: SigningKey, *, valid_until: int = NOW + DAY, also_by: SigningKey | None = None, server: str = "a.test"
) -> dict[str, Any]:
    response = {
        "server_name": server,
        "verify_keys": {key.key_id: {"key": signatures.encode_base64(key.verify_key)}},
        "old_verify_keys": {},
        "valid_until_ts": valid_until,
    }
    signed = signatures.sign_json(response, server, key)
    return signed if also_by is None else signatures.sign_json(signed, server, also_by)


class Answers:
    """A fetcher with answers prepared: server → (response, proven)."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[dict[str, Any], bool]] = {}
        self.asked: list[set[str]] = []

    async def fetch(
        self, servers: Iterable[str], *, witnesses: Sequence[str] = (), hurried: bool = False
    ) -> dict[str, tuple[KeyResponse, bool]]:
        wanted = set(servers)
        self.asked.append(wanted)
        await trio.sleep(0.1)
        return {name: (read(self.known[name][0], name), self.known[name][1]) for name in wanted & set(self.known)}


class Ring(Keyring):
    def __init__(self, db: Database, answers: Answers) -> None:
        self.now = NOW
        self.trusted = True
        super().__init__(
            db,
            answers,
            server_name="us.test",
            key=OURS,
            old_keys=[OldKey(OLD.key_id, OLD.verify_key, NOW - DAY)],
            now_ms=lambda: self.now,
            clock_trusted=lambda: self.trusted,
        )


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path / "test.db", inline=True) as database:
        yield database


async def test_a_self_certifying_name_needs_no_fetch(db: Database) -> None:
    answers = Answers()
    name = server_names.name_of(NEW.verify_key)
    ring = Ring(db, answers)
    assert await ring.key(name, server_names.key_id_of(name)) == NEW.verify_key
    assert await ring.key(name, "ed25519:other") is None
    assert answers.asked == []


async def test_a_key_is_fetched_once_and_kept_over_a_restart(db: Database, autojump_clock: trio.testing.MockClock) -> None:
    answers = Answers()
    answers.known["a.test"] = (response_of(NEW), True)
    ring = Ring(db, answers)
    found: list[bytes | None] = []

    async def ask() -> None:
        found.append(await ring.key("a.test", NEW.key_id))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
    assert found == [NEW.verify_key] * 3
    assert await Ring(db, Answers()).key("a.test", NEW.key_id) == NEW.verify_key
    assert answers.asked == [{"a.test"}]


async def test_a_server_that_does_not_answer_is_asked_again_after_growing_pauses(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    answers = Answers()
    ring = Ring(db, answers)
    for _ in range(300):
        assert await ring.key("a.test", "ed25519:1") is None
        await trio.sleep(1)
    assert 3 <= len(answers.asked) <= 5
    answers.known["a.test"] = (response_of(NEW), True)
    ring.route_returned("a.test")
    assert await ring.key("a.test", NEW.key_id) == NEW.verify_key


async def test_a_change_through_a_gateway_needs_the_old_key(db: Database, autojump_clock: trio.testing.MockClock) -> None:
    answers = Answers()
    answers.known["a.test"] = (response_of(OLD), False)
    ring = Ring(db, answers)
    assert await ring.key("a.test", OLD.key_id) == OLD.verify_key
    answers.known["a.test"] = (response_of(NEW), False)
    await trio.sleep(60)
    assert await ring.key("a.test", NEW.key_id) is None
    answers.known["a.test"] = (response_of(NEW, also_by=OLD), False)
    await trio.sleep(60)
    assert await ring.key("a.test", NEW.key_id) == NEW.verify_key


async def test_a_change_by_the_server_itself_is_believed_unless_a_key_is_pinned(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    answers = Answers()
    answers.known["a.test"] = (response_of(OLD), False)
    ring = Ring(db, answers)
    assert await ring.key("a.test", OLD.key_id) == OLD.verify_key
    answers.known["a.test"] = (response_of(NEW), True)
    await trio.sleep(60)
    assert await ring.key("a.test", NEW.key_id) == NEW.verify_key
    await ring.pin("a.test", OLD.key_id, OLD.verify_key)
    assert await ring.key("a.test", NEW.key_id) is None
    assert await ring.key("a.test", OLD.key_id, NOW + 1000 * DAY) == OLD.verify_key


def event_of(key: SigningKey, at: int, rules: RoomVersion = V11) -> Any:
    proto = draft.template(
        rules,
        room_id="!r:a.test",
        sender="@alice:a.test",
        event_type="m.room.message",
        content={"body": "x"},
        prev_events=[],
        auth_events=[],
        depth=1,
        origin_server_ts=at,
    )
    return draft.complete(proto, rules, "a.test", key)


async def test_an_event_past_the_keys_validity_is_refused_only_by_a_box_that_knows_the_time(db: Database) -> None:
    answers = Answers()
    answers.known["a.test"] = (response_of(NEW, valid_until=NOW + DAY), True)
    ring = Ring(db, answers)
    late, timely = event_of(NEW, NOW + 2 * DAY), event_of(NEW, NOW)
    first, second = await ring.verify([late, timely])
    assert first is not None
    assert second is None
    ring.trusted = False
    assert await ring.verify([late, timely]) == [None, None]


async def test_a_key_that_was_not_valid_then_is_refused_since_version_5(db: Database) -> None:
    answers = Answers()
    answers.known["a.test"] = (response_of(NEW, valid_until=NOW + DAY), True)
    ring = Ring(db, answers)
    for rules in (V1, V2, V3, V4):
        assert await ring.verify([event_of(NEW, NOW + 2 * DAY, rules)]) == [None]
    (failure,) = await ring.verify([event_of(NEW, NOW + 2 * DAY, V5)])
    assert failure is not None


async def test_events_are_verified_by_keys_that_were_valid_when_they_were_made(db: Database) -> None:
    answers = Answers()
    response = response_of(NEW)
    response = {name: value for name, value in response.items() if name != "signatures"}
    response["old_verify_keys"] = {OLD.key_id: {"key": signatures.encode_base64(OLD.verify_key), "expired_ts": NOW - DAY}}
    answers.known["a.test"] = (signatures.sign_json(response, "a.test", NEW), True)
    ring = Ring(db, answers)
    before, after, now = event_of(OLD, NOW - 2 * DAY), event_of(OLD, NOW), event_of(NEW, NOW)
    first, second, third = await ring.verify([before, after, now])
    assert (first, third) == (None, None)
    assert second is not None


async def test_for_want_of_a_key_an_event_is_unready_and_a_wrong_signature_is_final(db: Database) -> None:
    answers = Answers()
    ring = Ring(db, answers)
    assert [type(one) for one in await ring.verify([event_of(NEW, NOW)])] == [Unready]
    answers.known["a.test"] = (response_of(NEW), True)
    ring.route_returned("a.test")
    forged = event_of(SigningKey(b"f" * 32, NEW.key_id), NOW)
    assert [type(one) for one in await ring.verify([forged])] == [Dropped]


async def test_a_validity_of_years_is_believed_for_a_week(db: Database) -> None:
    answers = Answers()
    answers.known["a.test"] = (response_of(NEW, valid_until=NOW + 1000 * DAY), True)
    ring = Ring(db, answers)
    assert await ring.key("a.test", NEW.key_id, NOW + 6 * DAY) == NEW.verify_key
    assert await ring.key("a.test", NEW.key_id, NOW + 8 * DAY) is None


async def test_events_are_verified_in_one_batch_of_keys(db: Database) -> None:
    answers = Answers()
    answers.known["a.test"] = (response_of(NEW), True)
    ring = Ring(db, answers)
    forged = event_of(SigningKey(b"f" * 32, NEW.key_id), NOW)
    reasons = await ring.verify([event_of(NEW, NOW), forged, event_of(NEW, NOW - 1)])
    assert [reason is None for reason in reasons] == [True, False, True]
    assert answers.asked == [{"a.test"}]


async def test_our_own_response_holds_our_old_keys_and_reads_back(db: Database) -> None:
    parsed = read(Ring(db, Answers()).own_response(), "us.test")
    assert parsed.current == {OURS.key_id: OURS.verify_key}
    assert parsed.old == {OLD.key_id: (OLD.verify_key, NOW - DAY)}


@pytest.mark.parametrize(
    "change",
    [
        {"server_name": "b.test"},
        {"valid_until_ts": "soon"},
        {"verify_keys": {"ed25519:new": {"key": "short"}}},
        {"verify_keys": {}},
        {"signatures": {}},
        {"old_verify_keys": []},
    ],
)
def test_a_malformed_key_response_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadKeyResponse):
        read({**response_of(NEW), **change}, "a.test")


async def test_a_notary_signs_what_it_passes_on_and_keeps_serving_what_it_has(db: Database, autojump_clock: trio.testing.MockClock) -> None:
    answers = Answers()
    answers.known["a.test"] = (response_of(NEW), True)
    ring = Ring(db, answers)
    notary = Notary(db, ring, server_name="us.test", now_ms=lambda: ring.now)
    (answer,) = await notary.query({"a.test": NOW, "gone.test": NOW})
    signatures.verify_json(answer, "us.test", OURS.key_id, OURS.verify_key)
    assert read(answer, "a.test").current == {NEW.key_id: NEW.verify_key}
    answers.known.clear()
    ring.now = NOW + 3 * DAY
    assert len(await notary.query({"a.test": ring.now})) == 1
    (own,) = await notary.query({"us.test": NOW})
    assert key_response.read(own, "us.test").signed_by == {OURS.key_id}
