"""State snapshots: any sequence of changes is what a dict says, and chains stay logarithmic."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserver.store import events, rooms, state
from edgeserver.store.database import Transaction, connect
from edgeserver.store.migrations import migrate
from tests.store.places import make_event, make_room, store

Model = dict[tuple[str, str], int]
KEYS = [("m.a", ""), ("m.a", "x"), ("m.b", ""), ("m.b", "x"), ("m.c", "")]
EVENTS = 6

CHANGES = st.dictionaries(st.sampled_from(KEYS), st.one_of(st.none(), st.integers(0, EVENTS - 1)), min_size=1, max_size=3)
# each step: which earlier snapshot (counted from the newest) gets which changes
STEPS = st.lists(st.tuples(st.integers(0, 12), CHANGES), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def tx(tmp_path_factory: pytest.TempPathFactory) -> Transaction:
    connection = connect(tmp_path_factory.mktemp("store") / "x.db")
    migrate(connection)
    tx = Transaction(connection, 0)
    tx.execute("BEGIN")
    return tx


@pytest.fixture(scope="module")
def room(tx: Transaction) -> int:
    return make_room(tx)


@pytest.fixture(scope="module")
def numbers(tx: Transaction, room: int) -> list[int]:
    return [store(tx, room, make_event(f"s{number}", state_key=f"{number}")) for number in range(EVENTS)]


def apply(model: Model, changes: dict[tuple[str, str], int | None]) -> Model:
    after = dict(model)
    for key, number in changes.items():
        if number is None:
            after.pop(key, None)
        else:
            after[key] = number
    return after


def difference(older: Model, newer: Model) -> dict[tuple[str, str], int | None]:
    changes: dict[tuple[str, str], int | None] = {key: number for key, number in newer.items() if older.get(key) != number}
    return changes | {key: None for key in older if key not in newer}


def chain(tx: Transaction, snapshot: int) -> int:
    return len(tx.all(f"{state._CHAIN} SELECT snapshot FROM chain", (snapshot,)))


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_a_tree_of_changes_is_what_a_dict_says_and_differences_too(
    tx: Transaction, room: int, numbers: list[int], steps: list[tuple[int, dict[tuple[str, str], int | None]]]
) -> None:
    made: list[tuple[int, Model]] = [(state.root(tx, room, {KEYS[0]: numbers[0]}), {KEYS[0]: numbers[0]})]
    for back, chosen in steps:
        parent, before = made[-1 - min(back, len(made) - 1)]
        changes = {key: None if number is None else numbers[number] for key, number in chosen.items()}
        made.append((state.derive(tx, room, parent, changes), apply(before, changes)))
    for snapshot, model in made[-4:]:
        assert state.whole(tx, snapshot) == model
        assert sorted(state.ids(tx, snapshot)) == sorted(state.whole_ids(tx, snapshot).values())
        assert {key: state.lookup(tx, snapshot, key) for key in KEYS} == {key: model.get(key) for key in KEYS}
        assert state.lookup_many(tx, snapshot, [*KEYS, ("m.none", "")]) == model
        assert state.of_type(tx, snapshot, "m.a") == {key: number for key, number in model.items() if key[0] == "m.a"}
        for other, other_model in (made[0], made[len(made) // 2], made[-1]):
            assert state.changed_between(tx, snapshot, other) == difference(model, other_model)
            assert state.changed_between(tx, other, snapshot) == difference(other_model, model)


def test_the_chain_of_a_long_history_stays_logarithmic(tx: Transaction, room: int, numbers: list[int]) -> None:
    snapshot = state.root(tx, room, {})
    longest, entries_before = 0, tx.one("SELECT count(*) FROM snapshot_entries")
    for step in range(2000):
        snapshot = state.derive(tx, room, snapshot, {("m.many", str(step)): numbers[step % EVENTS]})
        longest = max(longest, chain(tx, snapshot)) if step % 50 == 0 or step > 1900 else longest
    assert longest <= 2 * (2000).bit_length() + 2
    entries_after = tx.one("SELECT count(*) FROM snapshot_entries")
    assert entries_before is not None
    assert entries_after is not None
    assert entries_after[0] - entries_before[0] <= 2000 * ((2000).bit_length() + 1)
    assert len(state.whole(tx, snapshot)) == 2000


def test_no_change_makes_no_snapshot_and_an_unknown_parent_is_an_error(tx: Transaction, room: int) -> None:
    snapshot = state.root(tx, room, {})
    assert state.derive(tx, room, snapshot, {}) == snapshot
    with pytest.raises(LookupError):
        state.derive(tx, room, 10**9, {KEYS[0]: None})


def test_events_of_a_state_are_read_by_key_and_whole(tx: Transaction, room: int, numbers: list[int]) -> None:
    snapshot = state.root(tx, room, {KEYS[0]: numbers[1], KEYS[1]: numbers[2]})
    found = state.lookup_event(tx, snapshot, *KEYS[0])
    assert found is not None
    assert found.event.event_id == "$s1"
    assert state.lookup_event(tx, snapshot, "m.none") is None
    assert set(state.lookup_events(tx, snapshot, KEYS)) == {KEYS[0], KEYS[1]}
    assert state.whole_ids(tx, snapshot) == {KEYS[0]: "$s1", KEYS[1]: "$s2"}
    assert {key: stored.number for key, stored in state.whole_events(tx, snapshot).items()} == state.whole(tx, snapshot)
    assert events.by_number(tx, numbers[1]) == found


@pytest.mark.parametrize("many", [3, 60])
def test_members_of_a_server_are_found_whether_they_are_few_or_many(tx: Transaction, room: int, many: int) -> None:
    server = f"s{many}.test"
    users = [*(f"@u{number}:{server}" for number in range(many)), f"@{server}:other.test", "@u:8:" + server]
    entries = {
        ("m.room.member", user): store(tx, room, make_event(f"{many}{user}", type="m.room.member", state_key=user)) for user in users
    }
    gone = entries.pop(("m.room.member", users[0]))
    snapshot = state.root(tx, room, {**entries, ("m.test", users[1]): gone})
    for user in users:
        rooms.set_membership(tx, user, room, "join", gone, 1, local=False)
    assert {stored.event.state_key for stored in state.members_of(tx, room, snapshot, server)} == set(users[1:many])
