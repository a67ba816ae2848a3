"""Events, gaps, redactions, transaction ids, memberships, servers, outbox: the tables alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserver.matrix.event import Event, content_hash
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from edgeserver.store import clock_floor, events, outbox, profiles, receipts, rooms, to_device
from edgeserver.store.database import Database, Transaction, open_database
from edgeserver.store.events import Place, Standing, transaction_key
from tests.store.places import ROOM, RULES, make_event, make_room, store


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path / "x.db", inline=True) as opened:
        yield opened


async def test_an_event_is_stored_without_unsigned_and_read_back_as_it_was(db: Database) -> None:
    event = make_event("a", state_key="k", unsigned={"age": 1}, content={"body": "ü"})

    def run(tx: Transaction) -> None:
        number = store(tx, make_room(tx), event)
        stored = events.get(tx, "$a")
        assert stored is not None
        assert stored.number == number
        assert stored.is_outlier
        assert stored.standing is Standing.ACCEPTED
        assert stored.event.pdu == {key: value for key, value in event.pdu.items() if key != "unsigned"}
        assert events.get(tx, "$b") is None
        assert events.held(tx, ["$a", "$b"]) == {"$a": False}
        assert set(events.many(tx, ["$a", "$b", "$a"])) == {"$a"}
        assert events.numbers_by_id(tx, ["$a"]) == {"$a": number}
        assert events.ids_by_number(tx, [number]) == {number: "$a"}

    await db.write(run)


async def test_of_threads_beyond_the_bound_the_receipts_of_those_read_longest_ago_go(db: Database) -> None:
    def run(tx: Transaction) -> None:
        room = make_room(tx)

        def read(user_id: str, thread: str, place: int) -> bool:
            return receipts.put(tx, receipts.Receipt(room, user_id, receipts.READ, thread, "$e", place, 1))

        for thread in (receipts.UNTHREADED, receipts.MAIN):
            read("@a:test", thread, 1)
        read("@b:test", "$0", 1)
        for number in range(receipts.KEPT_THREADS):
            assert read("@a:test", f"${number}", 1)
        assert receipts.put(tx, receipts.Receipt(room, "@a:test", receipts.READ, "$0", "$later", 2, 1))  # so $1 is the oldest now
        assert len(receipts.floors(tx, room, "@a:test")) == receipts.KEPT_THREADS + 2
        read("@a:test", "$more", 1)
        kept = receipts.floors(tx, room, "@a:test")
        assert len(kept) == receipts.KEPT_THREADS + 2
        assert kept.keys() >= {receipts.UNTHREADED, receipts.MAIN, "$0", "$2", "$more"}
        assert "$1" not in kept
        assert receipts.floors(tx, room, "@b:test") == {"$0": 1}

    await db.write(run)


NUMBERS = [1.0, -0.0, 1e16, 2**60, 2**70, -(2**64), 10**400]


async def test_numbers_of_an_old_room_stay_what_they_are_wherever_its_events_go(db: Database) -> None:
    rules = ROOM_VERSIONS["1"]
    pdu = {**make_event("e").pdu, "event_id": "$e:test", "content": {"n": NUMBERS}, "auth_events": [["$a:test", {"sha256": "h"}]]}
    event = Event.from_pdu(pdu, rules)

    def run(tx: Transaction) -> None:
        number = store(tx, rooms.add(tx, ROOM, rules), event, 1)
        outbox.queue_pdu(tx, ["x"], number, tx.stream())
        stored = events.get(tx, "$e:test")
        (waiting,) = outbox.pending(tx, outbox.destination_number(tx, "x"))
        assert stored is not None
        assert waiting.pdu is not None
        for found in (stored.event.pdu, waiting.pdu):
            assert repr(found["content"]["n"]) == repr(NUMBERS)
            assert content_hash(found) == content_hash(pdu)
        assert events.auth_edges(tx, "$e:test") == stored.event.auth_events == ("$a:test",)
        assert clock_floor.newest(tx, "test", before_ms=2) == 1

    await db.write(run)


async def test_what_is_stored_for_devices_and_users_may_hold_any_number(db: Database) -> None:
    content = {"n": NUMBERS}

    def run(tx: Transaction) -> None:
        to_device.add(tx, "@a:test", "D", {"type": "m.x", "sender": "@b:test", "content": content})
        ((_, message),) = to_device.pending(tx, "@a:test", "D", 0, 2**40, 5)
        assert repr(message["content"]) == repr(content)
        outbox.queue_edu(tx, ["x"], "m.direct_to_device", content)
        (waiting,) = outbox.pending(tx, outbox.destination_number(tx, "x"))
        assert waiting.edu is not None
        assert repr(waiting.edu["content"]) == repr(content)
        profiles.set_field(tx, "@a:test", "org.example.n", content)
        assert repr(profiles.profile(tx, "@a:test")) == repr({"org.example.n": content})

    await db.write(run)


async def test_pages_run_by_depth_then_stated_time_and_stop_at_a_position(db: Database) -> None:
    def run(tx: Transaction) -> None:
        room = make_room(tx)
        for name, depth, stream in (("c", 3, 10), ("a", 1, -2), ("b1", 2, 20), ("b2", 2, 30), ("d", 4, 40)):
            store(tx, room, make_event(name, depth=depth, origin_server_ts=abs(stream)), stream)
        b1 = events.get(tx, "$b1")
        assert b1 is not None
        at_b1 = Place(2, events.tie_of(b1.event))

        def back(before: Place, limit: int = 9, upto: int = 99) -> list[str]:
            return [one.event.event_id for one in events.page_backwards(tx, room, before, limit, upto)]

        def forth(after: Place, limit: int = 9, upto: int = 99) -> list[str]:
            return [one.event.event_id for one in events.page_forwards(tx, room, after, limit, upto)]

        assert back(Place(99, 0)) == ["$d", "$c", "$b2", "$b1", "$a"]
        assert back(at_b1) == ["$b1", "$a"]
        assert back(Place(99, 0), upto=20) == ["$c", "$b1", "$a"]
        assert back(Place(99, 0), limit=2) == ["$d", "$c"]
        assert forth(at_b1) == ["$b2", "$c", "$d"]
        assert [one.event.event_id for one in events.timeline_since(tx, room, 10, 40, 2)] == ["$b2", "$d"]
        assert events.newest_stream(tx, room, 25) == 20
        assert events.oldest_stream(tx) == -2
        assert events.rooms_with_news(tx, 35, 99) == {room}
        assert events.rooms_with_news(tx, 40, 99) == set()

    await db.write(run)


async def test_gaps_are_noted_found_by_depth_and_closed(db: Database) -> None:
    def run(tx: Transaction) -> None:
        room = make_room(tx)
        low, high = store(tx, room, make_event("low", depth=2), 1), store(tx, room, make_event("high", depth=9), 2)
        events.note_gaps(tx, room, low, ["$x"])
        events.note_gaps(tx, room, high, ["$x", "$y"])
        assert events.gaps_from(tx, room, 0, 5, 10) == [("$low", "$x")]
        assert {held for held, _ in events.gaps_from(tx, room, 0, 10, 10)} == {"$low", "$high"}
        assert events.is_named(tx, room, "$x")
        events.close_gaps(tx, room, "$x")
        assert events.gaps_from(tx, room, 0, 10, 10) == [("$high", "$y")]

    await db.write(run)


async def test_a_redaction_removes_the_content_from_the_file(db: Database) -> None:
    def run(tx: Transaction) -> None:
        store(tx, make_room(tx), make_event("a", content={"body": "secret"}), 1)
        stored = events.get(tx, "$a")
        assert stored is not None
        events.redact(tx, stored, "$r")
        events.redact(tx, stored, "$again")
        row = tx.one("SELECT redacted_by, pdu FROM events")
        assert row is not None
        assert row[0] == "$r"
        assert b"secret" not in row[1]

    await db.write(run)


@given(room_id=st.text(min_size=1), what=st.text(min_size=1), txn_id=st.text(min_size=1))
def test_a_transaction_id_is_found_again_in_its_key(room_id: str, what: str, txn_id: str) -> None:
    assert transaction_key("send", room_id, what, txn_id).split("/", 3)[-1] == txn_id


async def test_transaction_ids_belong_to_a_device(db: Database) -> None:
    def run(tx: Transaction) -> None:
        number = store(tx, make_room(tx), make_event("a"), 1)
        key = transaction_key("send", ROOM, "m.room/message", "1/2")
        events.record_transaction(tx, "@a:t", "D", key, number)
        assert events.transaction_event(tx, "@a:t", "D", key) == "$a"
        assert events.transaction_event(tx, "@a:t", "E", key) is None
        assert events.transaction_ids(tx, "@a:t", "D", [number]) == {number: "1/2"}
        assert events.transaction_ids(tx, "@a:t", "D", []) == {}

    await db.write(run)


async def test_memberships_and_servers_follow_what_they_are_told(db: Database) -> None:
    def run(tx: Transaction) -> None:
        room = make_room(tx)
        event = store(tx, room, make_event("m", state_key="@a:t"))
        rooms.set_membership(tx, "@a:t", room, "join", event, 5, local=True)
        rooms.set_membership(tx, "@b:x", room, "join", event, 6, local=False)
        assert rooms.members(tx, room) == ["@a:t", "@b:x"]
        assert rooms.local_members(tx, room) == ["@a:t"]
        assert rooms.share_a_room(tx, "@a:t", "@b:x")
        assert rooms.changed_members(tx, room, 5, 6) == ["@b:x"]
        rooms.set_membership(tx, "@a:t", room, "leave", event, 7, local=True)
        rooms.forget(tx, "@a:t", room, 8)
        gone = rooms.membership_in(tx, "@a:t", ROOM)
        assert gone is not None
        assert (gone.membership, gone.forgotten, gone.stream) == ("leave", True, 8)
        assert not rooms.share_a_room(tx, "@a:t", "@b:x")
        rooms.drop_membership(tx, "@b:x", room)
        assert rooms.count(tx, room, "join") == 0
        for server, change in (("x", 1), ("x", 1), ("y", 1), ("y", -1)):
            rooms.server_joined(tx, room, server, change)
        assert rooms.servers(tx, room) == ["x"]
        assert not rooms.server_is_in(tx, room, "y")

    await db.write(run)


async def test_of_pdus_the_outbox_keeps_so_many_and_the_newest_of_each_room_at_any_age(db: Database) -> None:
    def run(tx: Transaction) -> None:
        busy = store(tx, make_room(tx), make_event("a"), 1)
        quiet = store(tx, rooms.add(tx, "!quiet:test", RULES), make_event("b"), 2)
        x, y = outbox.destination_number(tx, "x"), outbox.destination_number(tx, "y")
        rows = [(number, quiet if number < 3 else busy) for number in range(outbox.KEPT_PDUS + 30)]
        for destination in (x, y):
            tx.executemany("INSERT INTO outbox (destination, stream, event) VALUES (?,?,?)", [(destination, *row) for row in rows])
        outbox.trim(tx, x)
        kept = [one.stream for one in outbox.pending(tx, x, pdus=2 * outbox.KEPT_PDUS)]
        assert kept == [2, *range(30, outbox.KEPT_PDUS + 30)]
        assert len(outbox.pending(tx, y, pdus=2 * outbox.KEPT_PDUS)) == len(rows)

    await db.write(run)


async def test_the_outbox_keeps_the_order_and_replaces_edus_with_the_same_key(db: Database) -> None:
    def run(tx: Transaction) -> None:
        number = store(tx, make_room(tx), make_event("a"), 1)
        outbox.queue_edu(tx, ["x", "y"], "m.typing", {"n": 1}, key="k")
        outbox.queue_pdu(tx, ["x"], number, tx.stream())
        outbox.queue_edu(tx, ["x"], "m.typing", {"n": 2}, key="k")
        outbox.queue_edu(tx, [], "m.typing", {"n": 3})
        x = outbox.destination_number(tx, "x")
        waiting = outbox.pending(tx, x)
        assert [one.pdu is not None for one in waiting] == [True, False]
        assert waiting[0].room_id == ROOM
        assert waiting[1].edu == {"edu_type": "m.typing", "content": {"n": 2}}
        assert len(outbox.pending(tx, x, pdus=0)) == 0
        assert {one.server_name for one in outbox.waiting(tx)} == {"x", "y"}
        outbox.failed(tx, x, 100, 200)
        outbox.failed(tx, x, 300, 500)
        (failing,) = outbox.failing(tx)
        assert (failing.failing_since, failing.retry_at, failing.attempts) == (100, 500, 2)
        outbox.recovered(tx, x)
        assert outbox.failing(tx) == []
        outbox.delivered(tx, x, [one.stream for one in waiting])
        assert outbox.pending(tx, x) == []

    await db.write(run)


async def test_what_others_are_judged_by_outlives_a_redaction_where_clients_do_not_see_it(db: Database) -> None:
    content = {"users": {"@alice:test": 100}, "invite": 60, "note": "x"}

    def run(tx: Transaction) -> None:
        number = store(tx, make_room(tx), make_event("levels", type="m.room.power_levels", state_key="", content=content))
        stored = events.by_number(tx, number)
        assert stored is not None
        events.redact(tx, stored, "$r")
        redacted = events.by_number(tx, number)
        assert redacted is not None
        assert redacted.event.content == {"users": {"@alice:test": 100}}
        assert events.for_auth(tx, redacted).content == {"users": {"@alice:test": 100}, "invite": 60}

    await db.write(run)
