"""The cases of ruma-state-res (tests/data/state-resolution, MIT)."""

from __future__ import annotations

import json
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from edgeserver.matrix.auth import check
from edgeserver.matrix.event import Event
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from edgeserver.matrix.state_resolution import resolve
from edgeserver.matrix.verdicts import Accepted

DATA = Path(__file__).parent.parent / "data" / "state-resolution"
CASES = json.loads((DATA / "cases.json").read_text())


def read_events(names: list[str]) -> dict[str, Event]:
    pdus = [pdu for name in names for pdu in json.loads((DATA / "fixtures" / name).read_text())]
    version = next(pdu["content"]["room_version"] for pdu in pdus if pdu["type"] == "m.room.create")
    events = (Event.from_pdu({"depth": 1, **p}, ROOM_VERSIONS[version], event_id=p["event_id"]) for p in pdus)
    return {event.event_id: event for event in events}


def read_snapshot(name: str) -> list[dict[str, Any]]:
    _, _, body = (DATA / name).read_text().split("---\n", 2)
    return json.loads(body)


def states_of_leaves(events: dict[str, Event]) -> list[dict[tuple[str, str], str]]:
    """The state after each event that no other follows."""
    after: dict[str, dict[tuple[str, str], str]] = {}
    for event_id in TopologicalSorter({e.event_id: e.prev_events for e in events.values()}).static_order():
        event = events[event_id]
        state = resolve(event.rules, [after[prev] for prev in event.prev_events], events.get)
        verdict = check(event, {key: events[event_id] for key, event_id in state.items()})
        assert isinstance(verdict, Accepted), verdict
        if event.state_key is not None:
            state[event.type, event.state_key] = event.event_id
        after[event.event_id] = state
    followed = {prev for event in events.values() for prev in event.prev_events}
    return [state for event_id, state in after.items() if event_id not in followed]


def key_of(event: Event) -> tuple[str, str]:
    assert event.state_key is not None
    return event.type, event.state_key


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_states_resolve_as_another_implementation_resolves_them(case: dict[str, Any]) -> None:
    if case["kind"] == "batches":
        events = read_events([name for batch in case["inputs"] for name in batch])
        states = states_of_leaves(events)
    else:
        names, pdus = case["inputs"]
        events = read_events(pdus)
        ids = [json.loads((DATA / "fixtures" / name).read_text()) for name in names]
        states = [{key_of(events[event_id]): event_id for event_id in one} for one in ids]
    rules = next(iter(events.values())).rules
    resolved = resolve(rules, states, events.get)
    assert resolved == resolve(rules, states[::-1], events.get)
    expected = {(e["type"], e["state_key"]): e["event_id"] for e in read_snapshot(case["snapshots"][0])}
    assert resolved == expected
    for event in read_snapshot(case["snapshots"][0]):
        assert events[event["event_id"]].content == event["content"]
