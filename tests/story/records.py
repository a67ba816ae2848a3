"""What the servers of the story hold, read from their databases while they run."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing, contextmanager
from typing import Any

from edgeserver.store import rooms, state
from edgeserver.store.database import Transaction
from tests.lab.synapse import Synapse
from tests.story.stage import Station


@contextmanager
def _reading(box: Station):
    with closing(sqlite3.connect(f"file:{box.data / 'edgeserver.db'}?mode=ro", uri=True, timeout=10, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        yield Transaction(connection, 0)


def order(box: Station, room_id: str) -> list[str]:
    """The event ids of a room's whole timeline, in the order in which the box tells it."""
    with _reading(box) as tx:
        sql = (
            "SELECT event_id FROM events JOIN rooms USING (room) WHERE room_id = ? AND stream IS NOT NULL AND verdict = 0"
            " ORDER BY depth, tie, event_id"
        )
        return [event_id for (event_id,) in tx.all(sql, (room_id,))]


def lacks(box: Station, event_ids: Iterable[str]) -> list[str]:
    """Those of the events that the box does not hold."""
    with _reading(box) as tx:
        return [one for one in event_ids if tx.one("SELECT 1 FROM events WHERE event_id = ? AND stream IS NOT NULL", (one,)) is None]


def current_state(box: Station, room_id: str) -> dict[tuple[str, str], str]:
    """(type, state key) → event id."""
    with _reading(box) as tx:
        room = rooms.get(tx, room_id)
        assert room is not None
        assert room.snapshot is not None
        return state.whole_ids(tx, room.snapshot)


def state_in_town(town: Synapse, room_id: str) -> dict[tuple[str, str], str]:
    return {key: event["event_id"] for key, event in town.state(room_id).items()}


def sight_of(town: Synapse, server_name: str) -> dict[str, Any]:
    """How the town sees a peer, without what differs between any two peers: its keys, and whether it can be reached."""
    destination = town.destination(server_name)
    assert destination is not None, server_name
    responses = town.key_responses_from(server_name)
    return {
        "back-off": (destination["retry_interval"], destination["retry_last_ts"], destination["failure_ts"]),
        "key ids told by itself": {one["from_server"] == server_name for one in responses},
        "key types": {key_id.partition(":")[0] for key_id in town.keys_of(server_name)},
        "keys": len(town.keys_of(server_name)),
        "signed by itself": all(server_name in one["key_json"]["signatures"] for one in responses),
        "columns": set(destination),
    }


def assert_ancestors_first(events: list[dict[str, Any]], told: list[str]) -> None:
    """`told`, oldest first, never has an event before one that it builds on. `events` are the whole PDUs with their ids."""
    parents = {one["event_id"]: one["prev_events"] for one in events}
    place = {event_id: number for number, event_id in enumerate(told)}
    for event_id in told:
        for parent in parents[event_id]:
            assert place.get(parent, -1) < place[event_id], (parent, event_id)
