"""The full-text index against whatever people may write and type."""

from __future__ import annotations

import sqlite3
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
from hypothesis import given
from hypothesis import strategies as st

from edgeserver.matrix import search_text
from edgeserver.store import migrations, search_index
from edgeserver.store.database import Transaction

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text("ab \"*()^:-+'天気ไทยé\u0301ß\0", max_size=30)


CONNECTION = sqlite3.connect(":memory:", isolation_level=None)
migrations.migrate(CONNECTION)


@contextmanager
def index() -> Iterator[Transaction]:
    """A store whose index is empty."""
    tx = Transaction(CONNECTION, 0)
    tx.execute("INSERT INTO search_index (search_index) VALUES ('delete-all')")
    tx.execute("DELETE FROM search_progress")
    yield tx


def message(body: str, **more: object) -> dict[str, object]:
    return {"type": "m.room.message", "content": {"body": body, **more}}


def put(tx: Transaction, stream: int, body: str) -> None:
    tx.execute("INSERT INTO search_index (rowid, body) VALUES (?, ?)", (stream, search_text.spaced(body)))


@given(TEXT, TEXT)
def test_whatever_is_typed_is_a_query_that_runs(said: str, typed: str) -> None:
    wanted = search_text.phrases(" ".join(typed.split(" ")[:8]))[: search_text.MAX_TERMS]
    with index() as tx:
        put(tx, 1, said)
        if wanted:
            assert search_index.hits(tx, search_text.expression(wanted, ["body", "name"]), 10, 10) in ([], [1])


@given(st.lists(st.text("abcdéñß天気ไ", min_size=1, max_size=8), min_size=1, max_size=6))
def test_every_word_of_a_text_finds_it(written: list[str]) -> None:
    with index() as tx:
        put(tx, 5, " ".join(written))
        for word in written:
            wanted = search_text.phrases(word)
            assert search_index.hits(tx, search_text.expression(wanted, ["body"]), 10, 10) == [5], word
            assert search_text.score(wanted, search_text.words(" ".join(written))) > 0


@given(TEXT, TEXT)
def test_what_is_taken_out_leaves_nothing_and_the_rest_alone(gone: str, kept: str) -> None:
    with index() as tx:
        search_index.begin(tx, 0)
        tx.execute("UPDATE search_progress SET high = 10")
        put(tx, 1, f"{gone} mark")
        put(tx, -2, f"{kept} mark")
        search_index.remove(tx, 1, message(f"{gone} mark"))
        assert search_index.hits(tx, '"mark"', 10, 10) == [-2]
        tx.execute("UPDATE search_progress SET low = -10")
        search_index.remove(tx, -2, message(f"{kept} mark"))
        assert search_index.hits(tx, '"mark"', 10, 10) == []


def test_what_was_never_indexed_is_not_taken_out() -> None:
    with index() as tx:
        search_index.remove(tx, 1, message("a"))
        search_index.begin(tx, 5)
        put(tx, 5, "a")
        search_index.remove(tx, 6, message("a"))
        assert search_index.hits(tx, '"a"', 10, 10) == [5]


def test_only_texts_are_taken_out_of_events() -> None:
    assert search_text.texts_of("m.room.message", {"body": 1}) == {}
    assert search_text.texts_of("m.room.topic", {"topic": "t", "body": "b"}) == {"topic": "t"}
    assert search_text.texts_of("m.room.encrypted", {"body": "b"}) == {}
    assert search_text.texts_of("m.room.message", {"body": "* b", "m.new_content": {"body": "b"}}) == {"body": "* b"}
    edit = {"body": "* b", "m.new_content": {"body": "b"}, "m.relates_to": {"rel_type": "m.replace", "event_id": "$e"}}
    assert search_text.texts_of("m.room.message", edit) == {"body": "b"}
    assert search_text.texts_of("m.room.message", {**edit, "m.new_content": 1}) == {"body": "* b"}


def test_a_room_of_any_size_is_taken_out_event_by_event() -> None:
    with index() as tx:
        tx.execute("DELETE FROM events")
        search_index.begin(tx, 0)
        for stream in range(1, 301):
            said = {"type": "m.room.message", "content": {"body": "tide", "format": "x" * 20_000}}
            tx.execute(
                "INSERT INTO events (event_id, room, stream, depth, tie, verdict, pdu) VALUES (?, ?, ?, 1, 1, 0, ?)",
                (f"${stream}", stream % 100 == 0, stream, orjson.dumps(said)),
            )
        while search_index.forwards(tx, search_index.progress(tx) or search_index.Progress(0, 0)):
            pass
        tracemalloc.start()
        try:
            search_index.remove_room(tx, 0)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        tx.execute("DELETE FROM events")
        assert search_index.hits(tx, "body : tide", 1000, 1000) == [300, 200, 100]
        assert peak < 1_000_000  # of 6 MB
