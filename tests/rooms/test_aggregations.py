"""Aggregations, pages of relations and lists of threads against a model that looks at every event; and how the rows come to be there."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserver.matrix.relations import is_replacement, relation_of
from edgeserver.matrix.verdicts import Accepted, Rejected, SoftFailed
from edgeserver.rooms import completing, related
from edgeserver.rooms.aggregations import LOOKED_AT, MAX_REFERENCES, aggregated
from edgeserver.rooms.placing import Task
from edgeserver.rooms.related import Paging
from edgeserver.store import account_data, events, migrations, relations, rooms
from edgeserver.store.database import Transaction
from edgeserver.store.events import StoredEvent
from edgeserver.store.integrity import inspect
from edgeserver.store.relations import Wanted
from tests.rooms.house import ALICE, BOB, CAROL, House, Street, open_house

KINDS = ("m.thread", "m.replace", "m.reference", "m.annotation", "org.example")
PEOPLE = (ALICE, BOB, "@carol:one")
FAR = 2**62

said = st.tuples(st.just("say"), st.sampled_from(PEOPLE))
relating = st.tuples(st.just("relate"), st.sampled_from(PEOPLE), st.integers(0, 30), st.sampled_from(KINDS), st.booleans())
redacting = st.tuples(st.just("redact"), st.integers(0, 30))
stories = st.lists(st.one_of(said, relating, relating, relating, redacting), min_size=3, max_size=25)


async def tell(house: House, room_id: str, story: list[Any]) -> None:
    """Makes it happen, without the checks of what local users may not send: other servers' users may."""
    told: list[str] = [await house.say(room_id, ALICE, "first")]

    def compose(tx: Transaction, sender: str, content: dict[str, Any]) -> str:
        room = rooms.get(tx, room_id)
        assert room is not None
        return house.composer.compose(tx, room, sender, "m.room.message", content).event.event_id

    for what in story:
        if what[0] == "say":
            told.append(await house.say(room_id, what[1], "text"))
        elif what[0] == "redact":
            target = told[what[1] % len(told)]
            await house.composer.send(room_id, ALICE, "m.room.redaction", {}, redacts=target)
        else:
            _, sender, at, kind, whole = what
            content = {"body": "x", "m.relates_to": {"rel_type": kind, "event_id": told[at % len(told)], "key": "k"}}
            content |= {"m.new_content": {"body": "y"}} if whole else {}
            told.append(await house.db.write(lambda tx, sender=sender, content=content: compose(tx, sender, content)))


Children = dict[str, list[StoredEvent]]


def children_of(listed: list[StoredEvent]) -> Children:
    found: Children = {}
    for one in listed:
        relation = relation_of(one.event.content)
        if relation is not None:
            found.setdefault(relation.event_id, []).append(one)
    return found


def kind_of(one: StoredEvent) -> str | None:
    relation = relation_of(one.event.content)
    return None if relation is None else relation.rel_type


def naive(one: StoredEvent, children: Children, user_id: str, ignored: set[str]) -> Any:
    """What is bundled with one event: the edit's id, (latest, count, participated) of the thread, ids of references."""
    mine = [child for child in children.get(one.event.event_id, []) if child.event.sender not in ignored]
    edits = [child.event for child in mine if kind_of(child) == "m.replace" and is_replacement(child.event, one.event)]
    newest = max(edits, key=lambda event: (event.origin_server_ts, event.event_id), default=None)
    replies = [child for child in mine if kind_of(child) == "m.thread"] if kind_of(one) is None else []
    thread = None
    if replies:
        spoken = user_id in {one.event.sender, *(reply.event.sender for reply in replies)}
        thread = (replies[-1].event.event_id, len(replies), spoken)
    references = [child.event.event_id for child in mine if kind_of(child) == "m.reference"]
    return None if newest is None or one.redacted_by else newest.event_id, thread, references


def descend(event_id: str, children: Children, levels: int) -> list[StoredEvent]:
    direct = children.get(event_id, []) if levels else []
    return [*direct, *(further for child in direct for further in descend(child.event.event_id, children, levels - 1))]


async def all_pages(house: House, ask: Any) -> list[str]:
    found: list[str] = []
    token = None
    while True:
        page = await house.db.read(lambda tx, token=token: ask(tx, token))
        found += [one.event.event_id for one in page.chunk]
        token = page.next_batch
        if token is None:
            return found


async def compare(story: list[Any], ignored: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with open_house(Path(folder)) as house:
            room_id = await house.room()
            for user_id in PEOPLE[1:]:
                await house.memberships.join(user_id, room_id)
            await tell(house, room_id, story)
            people = {"ignored_users": {user_id: {} for user_id in ignored}}
            await house.db.write(lambda tx: account_data.put(tx, BOB, "", "m.ignored_user_list", people))
            listed = await house.db.read(lambda tx: events.timeline_since(tx, 1, 0, FAR, 1000))
            children = children_of(listed)
            found = await house.db.read(lambda tx: aggregated(tx, listed, BOB))
            for one in listed:
                got = found.get(one.number)
                thread = got and got.thread
                shown = (None, None, []) if got is None else (
                    got.edit and got.edit.event.event_id,
                    thread and (thread.latest.event.event_id, thread.count, thread.participated),
                    got.references,
                )  # fmt: skip
                assert shown == naive(one, children, BOB, ignored)
            await compare_pages(house, room_id, listed, ignored)
        await migrated_rows_are_those_of_the_write_path(Path(folder))


async def compare_pages(house: House, room_id: str, listed: list[StoredEvent], ignored: set[str]) -> None:
    children = children_of(listed)
    first = next(one for one in listed if one.event.type == "m.room.message")
    order = [one.event.event_id for one in listed]
    for levels in (1, 3):
        wanted = {one.event.event_id for one in descend(first.event.event_id, children, levels) if one.event.sender not in ignored}

        def ask(tx: Transaction, token: str | None, levels: int = levels) -> Any:
            return related.children(tx, room_id, first.event.event_id, BOB, Wanted(levels=levels), Paging(token, None, 2))

        assert await all_pages(house, ask) == [one for one in reversed(order) if one in wanted]
    latest = {
        one.event.event_id: thread[0] for one in listed if (thread := naive(one, children, BOB, ignored)[1]) is not None
    }
    roots = await all_pages(house, lambda tx, token: related.threads(tx, room_id, BOB, token, 2, participated=False))
    assert roots == sorted(latest, key=lambda root: -order.index(latest[root]))


async def migrated_rows_are_those_of_the_write_path(folder: Path) -> None:
    assert inspect(folder / "one.db", "one").findings == []
    connection = sqlite3.connect(folder / "one.db", isolation_level=None)
    kept = connection.execute("SELECT * FROM relations").fetchall()
    connection.execute("DELETE FROM relations")
    (sql,) = [sql for number, sql in migrations.steps() if number == 13]
    (insert,) = [one for one in migrations._statements(sql) if "INSERT INTO relations" in one]
    connection.execute(insert)
    assert connection.execute("SELECT * FROM relations").fetchall() == kept
    connection.close()


@settings(max_examples=20, deadline=None)
@given(stories, st.sets(st.sampled_from([ALICE, PEOPLE[2]]), max_size=1))
def test_aggregations_are_what_a_look_at_every_event_tells(story: list[Any], ignored: set[str]) -> None:
    trio.run(compare, story, ignored)


async def test_an_edit_that_comes_before_its_event_shows_once_that_is_here(one: House, two: House) -> None:
    room_id = await one.room()
    await two.memberships.join(CAROL, room_id, ["one"])
    await one.tell(two, *(await one.heads(room_id)))
    said = await one.say(room_id, ALICE, "old")
    related_to = {"rel_type": "m.replace", "event_id": said}
    edit = await one.composer.send(
        room_id, ALICE, "m.room.message", {"body": "*", "m.new_content": {"body": "new"}, "m.relates_to": related_to}
    )
    event = (await one.get(edit)).event
    # The edit is placed with a state of its own, as after a gap that nobody could fill
    before = (await two.get((await two.heads(room_id))[0])).after
    await two.placer.place(Task(1, event, before=before))
    assert await two.db.read(lambda tx: events.get(tx, said)) is None
    await one.tell(two, said)
    stored = await two.get(said)
    found = await two.db.read(lambda tx: aggregated(tx, [stored], CAROL))
    assert found[stored.number].edit is not None
    assert found[stored.number].edit.event.event_id == edit


async def test_backfilled_events_bring_their_relations(street: Street, one: House, two: House) -> None:
    room_id = await one.room()
    root = await one.say(room_id, ALICE, "root")
    content = {"body": "in", "m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    inside = await one.composer.send(room_id, ALICE, "m.room.message", content)
    await two.memberships.join(CAROL, room_id, ["one"])
    assert await two.db.read(lambda tx: events.get(tx, root)) is None
    await two.bodies(CAROL, room_id)
    stored = await two.get(root)
    assert (stored.stream or 0) < 0
    thread = (await two.db.read(lambda tx: aggregated(tx, [stored], CAROL)))[stored.number].thread
    assert thread is not None
    assert (thread.latest.event.event_id, thread.count, thread.participated) == (inside, 1, False)


async def test_a_redaction_that_comes_before_the_related_event_leaves_no_relation(one: House, two: House) -> None:
    room_id = await one.room()
    await two.memberships.join(CAROL, room_id, ["one"])
    said = await one.say(room_id, ALICE, "said")
    content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": said, "key": "k"}}
    reaction = await one.composer.send(room_id, ALICE, "m.reaction", content)
    original = (await one.get(reaction)).event.pdu
    gone = await one.composer.send(room_id, ALICE, "m.room.redaction", {}, redacts=reaction)
    await one.tell(two, said)
    last = await two.get(said)
    await two.placer.place(Task(1, (await one.get(gone)).event, before=last.after))
    await two.receiver.receive("one", original)
    assert (await two.get(reaction)).redacted_by == gone
    assert await two.db.read(lambda tx: relations.by_sender(tx, last.room, said, "m.annotation", ALICE, 10)) == []


async def test_of_many_references_the_first_are_bundled_and_of_many_edits_the_newest_are_tried(one: House) -> None:
    room_id = await one.room()
    said = await one.say(room_id, ALICE, "poll")
    room = await one.db.read(lambda tx: rooms.get(tx, room_id))
    assert room is not None

    def answer(tx: Transaction, rel_type: str, **content: Any) -> str:
        now = rooms.by_number(tx, room.number)
        content |= {"m.relates_to": {"rel_type": rel_type, "event_id": said}}
        return one.composer.compose(tx, now, ALICE, "m.room.message", content).event.event_id

    told = await one.db.write(lambda tx: [answer(tx, "m.reference") for _ in range(MAX_REFERENCES + 5)])
    first = await one.db.write(lambda tx: answer(tx, "m.replace", **{"m.new_content": {}}))
    await one.db.write(lambda tx: [answer(tx, "m.replace") for _ in range(LOOKED_AT - 1)])
    stored = await one.get(said)
    found = (await one.db.read(lambda tx: aggregated(tx, [stored], ALICE)))[stored.number]
    assert found.references == told[:MAX_REFERENCES]
    assert found.edit is not None
    assert found.edit.event.event_id == first
    await one.db.write(lambda tx: answer(tx, "m.replace"))
    found = (await one.db.read(lambda tx: aggregated(tx, [stored], ALICE)))[stored.number]
    assert found.edit is None


async def test_a_page_has_so_many_relations_at_most(one: House) -> None:
    room_id = await one.room()
    said = await one.say(room_id, ALICE, "said")

    def answer(tx: Transaction) -> None:
        room = rooms.get(tx, room_id)
        assert room is not None
        content = {"m.relates_to": {"rel_type": "m.thread", "event_id": said}}
        one.composer.compose(tx, room, ALICE, "m.room.message", content)

    await one.db.write(lambda tx: [answer(tx) for _ in range(related.MAX_LIMIT + 1)])
    page = await one.db.read(lambda tx: related.children(tx, room_id, said, ALICE, Wanted(), Paging(None, None, 10**9)))
    assert len(page.chunk) == related.MAX_LIMIT
    assert page.next_batch is not None


async def test_an_event_that_proves_to_be_forbidden_takes_its_relation_with_it_and_brings_it_back(one: House) -> None:
    room_id = await one.room()
    said = await one.say(room_id, ALICE, "said")
    content = {"m.relates_to": {"rel_type": "m.thread", "event_id": said}}
    reply = await one.get(await one.composer.send(room_id, ALICE, "m.room.message", content))
    assert reply.before is not None
    for verdict, count in ((Rejected("it was by nobody"), 0), (Accepted(), 1)):
        again = await one.get(reply.event.event_id)
        settled = completing._Settled(reply.before, verdict)
        await one.db.write(lambda tx, again=again, settled=settled: completing._place_again(tx, again, settled))
        assert len(await one.db.read(lambda tx: relations.by_sender(tx, reply.room, said, "m.thread", ALICE, 10))) == count


async def test_soft_failed_events_relate_to_nothing(one: House, two: House) -> None:
    room_id = await one.room()
    await two.memberships.join(CAROL, room_id, ["one"])
    await one.tell(two, *(await one.heads(room_id)))
    said = await one.say(room_id, ALICE, "said")
    await one.tell(two, said)
    # Banned by the one server, not yet by her own
    content = {"m.relates_to": {"rel_type": "m.thread", "event_id": said}}
    late = await two.composer.send(room_id, CAROL, "m.room.message", content)
    await one.memberships.ban(ALICE, room_id, CAROL)
    (verdict,) = await two.tell(one, late)
    assert isinstance(verdict, SoftFailed)
    stored = await one.get(said)
    assert await one.db.read(lambda tx: aggregated(tx, [stored], ALICE)) == {}
