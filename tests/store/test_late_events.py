"""Events to be asked for again: so many of each origin, in the order of their times."""

from __future__ import annotations

from pathlib import Path

from edgeserver.store import late_events
from edgeserver.store.database import Transaction, open_database
from tests.store.places import make_room


async def test_no_origin_has_more_than_its_share_and_all_have_no_more_than_there_is(tmp_path: Path) -> None:
    def run(tx: Transaction) -> None:
        room = make_room(tx)
        share = late_events.MOST_OF_ORIGIN
        flood = [(f"$flood{number}", "x.test") for number in range(share + 50)]
        assert late_events.put(tx, room, "evil.test", flood, 1) == 50
        assert late_events.put(tx, room, "evil.test", flood[:10], 1) == 10
        assert late_events.put(tx, room, "good.test", [("$good", "good.test")], 2) == 0
        refused = sum(
            late_events.put(tx, room, f"{origin}.test", [(f"$e{origin}-{number}", "x.test") for number in range(share)], 3)
            for origin in range(late_events.MOST // share)
        )
        assert refused == share + 1

    async with open_database(tmp_path / "x.db", inline=True) as db:
        await db.write(run)


async def test_they_are_due_in_turn_sooner_for_those_who_are_heard_of_and_gone_when_settled(tmp_path: Path) -> None:
    def run(tx: Transaction) -> None:
        room = make_room(tx)
        late_events.put(tx, room, "a.test", [("$1", "author.test"), ("$2", "a.test")], 100)
        late_events.put(tx, room, "b.test", [("$3", "author.test")], 50)
        assert late_events.due(tx, 10, 9) == []
        assert late_events.next_time(tx) == 50
        assert [late.event_id for late in late_events.due(tx, 100, 9)] == ["$3", "$1", "$2"]
        assert late_events.awaited(tx) == {"a.test", "b.test", "author.test"}
        late_events.hasten(tx, "author.test", 10)
        assert {late.event_id for late in late_events.due(tx, 10, 9)} == {"$1", "$3"}
        late_events.postpone(tx, "$1", 500)
        assert [(late.event_id, late.tries) for late in late_events.due(tx, 500, 9)] == [("$3", 0), ("$2", 0), ("$1", 1)]
        late_events.remove(tx, ["$1", "$2", "$3"])
        assert late_events.next_time(tx) is None

    async with open_database(tmp_path / "x.db", inline=True) as db:
        await db.write(run)
