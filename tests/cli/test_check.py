"""`check` on a box whose rooms were made by the rooms code, whole and damaged on purpose."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from edgeserver.app import identity
from edgeserver.doctor import examine
from edgeserver.store import accounts, migrations, outbox
from edgeserver.store.accounts import Account
from edgeserver.store.database import open_database
from edgeserver.store.integrity import inspect
from tests.cli.conftest import Terminal
from tests.rooms.house import ALICE, BOB, CAROL, House, Street


async def _live(folder: Path) -> None:
    """Two servers and what happens between people: the box `one` is what is left in the folder."""
    street = Street()
    async with open_database(folder / "edgeserver.db", inline=True) as db, open_database(folder / "other.db", inline=True) as other:
        one, two = House(db, "one", street), House(other, "two", street)
        await db.write(lambda tx: accounts.insert(tx, Account(ALICE, None, True, None, 1, None)))
        room = await one.room(name="Harbour")
        await one.memberships.join(BOB, room)
        await one.memberships.invite(ALICE, room, CAROL)
        await two.memberships.join(CAROL, room)
        spoken = await one.say(room, ALICE, "hello")
        related = {"m.relates_to": {"rel_type": "m.thread", "event_id": spoken}}
        for _ in range(2):
            answered = await one.composer.send(room, ALICE, "m.room.message", {"msgtype": "m.text", "body": "in a thread", **related})
        await one.composer.send(room, ALICE, "m.room.redaction", {"redacts": answered}, redacts=answered)
        # Two heads at once: each server speaks before it hears the other.
        ours, theirs = await one.say(room, BOB, "from one"), await two.say(room, CAROL, "from two")
        await two.tell(one, theirs)
        await one.tell(two, ours)
        await one.composer.send(room, ALICE, "m.room.redaction", {"redacts": spoken}, redacts=spoken)
        await one.memberships.leave(BOB, room)
        # A room of the other server: joined, left, and an invite to come back.
        far = await two.room(CAROL, preset="public_chat")
        await one.memberships.join(ALICE, far, ["two"])
        await one.memberships.leave(ALICE, far)
        await one.tell(two, *(await one.heads(far)))
        await two.memberships.invite(CAROL, far, ALICE)
        # An invite to a room that this server has never been in.
        await two.memberships.invite(CAROL, await two.room(CAROL, preset="private_chat"), ALICE)
        await db.write(lambda tx: outbox.queue_edu(tx, ["two"], "m.typing", {"room_id": room}))


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("box")
    identity.load_or_make(folder, "one", "mesh")
    trio.run(_live, folder)
    return folder


@pytest.fixture
def data(lived_in: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lived_in, tmp_path / "data"))


def _damage(data: Path, *statements: str) -> None:
    connection = sqlite3.connect(data / "edgeserver.db", isolation_level=None)
    for statement in statements:
        assert connection.execute(statement).rowcount != 0, f"{statement} changed nothing"
    connection.close()


def test_a_healthy_box_is_found_healthy_and_left_as_it_was(run: Terminal, data: Path) -> None:
    before = {path.name: path.read_bytes() for path in data.iterdir() if path.is_file()}
    assert run("check", "--data", str(data)) == 0
    assert run.out.startswith(f"Nothing is wrong with {data}: server name, key, schema, pages and indexes, references,")
    assert {path.name: path.read_bytes() for path in data.iterdir() if path.is_file()} == before


def test_a_box_can_be_checked_while_it_runs(data: Path) -> None:
    async def check_while_open() -> list[str]:
        async with open_database(data / "edgeserver.db", inline=True) as db:
            await db.write(lambda tx: accounts.insert(tx, Account("@eve:three", None, False, None, 1, None)))
            return inspect(data / "edgeserver.db", "one").findings

    assert trio.run(check_while_open) == ["the account @eve:three is not of this box, which is one"]  # read from the write-ahead log


def test_the_box_that_is_damaged_below_has_everything_that_can_be(data: Path) -> None:
    connection = sqlite3.connect(data / "edgeserver.db")
    for table in ("rooms", "events", "snapshots", "memberships", "relations", "room_servers", "outbox", "destinations", "accounts"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] > 0, table
    assert connection.execute("SELECT count(*) FROM memberships WHERE stripped IS NOT NULL").fetchone()[0] == 2
    connection.close()


LARGEST_ROOM = "(SELECT room FROM memberships GROUP BY room ORDER BY count(*) DESC LIMIT 1)"
DAMAGES: dict[str, tuple[list[str], str]] = {
    "a row names one that is gone": (["DELETE FROM destinations"], "name a row of destinations that is not there"),
    "positions beyond the bound": (["UPDATE meta SET value = 3 WHERE key = 'stream_reserved'"], "only those up to 3 have been given out"),
    "an event with half a state": (
        ["UPDATE events SET after = NULL WHERE stream = (SELECT max(stream) FROM events)"],
        "one side of it only",
    ),
    "a timeline event without state": (
        ["UPDATE events SET before = NULL, after = NULL WHERE stream = (SELECT max(stream) FROM events)"],
        "is in the timeline without a state before it",
    ),
    "an event with another room's state": (
        ["UPDATE events SET before = (SELECT s.snapshot FROM snapshots s WHERE s.room <> events.room LIMIT 1) WHERE stream > 0"],
        "has a state of another room",
    ),
    "a gap that is none": (
        ["INSERT INTO gaps (room, missing, event) SELECT room, event_id, event FROM events WHERE stream > 0 LIMIT 1"],
        "is noted as missing, but is there",
    ),
    "a relation that is lost": (["DELETE FROM relations"], "is not filed"),
    "a relation to another event": (["UPDATE relations SET parent = '$other'"], "is filed that is not its own"),
    "a relation of another kind": (["UPDATE relations SET rel_type = 'm.reference'"], "is filed that is not its own"),
    "a relation of an event that is out of the timeline": (
        ["UPDATE events SET stream = NULL WHERE event IN (SELECT event FROM relations)"],
        "is filed that is not its own",
    ),
    "no heads": (["UPDATE rooms SET heads = '[]' WHERE snapshot IS NOT NULL"], "has no head"),
    "heads that are no JSON": (["UPDATE rooms SET heads = '[' WHERE snapshot IS NOT NULL"], "cannot be read"),
    "heads without a state": (["UPDATE rooms SET snapshot = NULL"], "has heads but no state"),
    "a head that is not held": (["UPDATE rooms SET heads = '[\"$gone\"]' WHERE snapshot IS NOT NULL"], "the head $gone of the room"),
    "a head of another room": (
        ["UPDATE rooms SET heads = (SELECT r.heads FROM rooms r WHERE r.room <> rooms.room AND r.heads <> '[]')"],
        "is an event of another room",
    ),
    "a head that was rejected": (["UPDATE events SET verdict = 2"], "has no place in the timeline"),
    "an unknown room version": (["UPDATE rooms SET version = '99'"], "has the version '99', which this release does not know"),
    "a chain that runs in a circle": (["UPDATE snapshots SET height = 0 WHERE height > 0"], "builds on one that does not come before it"),
    "a chain that has lost its base": (["UPDATE snapshots SET base = NULL WHERE height > 0"], "has lost what it builds on"),
    "another room's state": (
        ["UPDATE rooms SET snapshot = (SELECT r.snapshot FROM rooms r WHERE r.room <> rooms.room AND r.snapshot IS NOT NULL)"],
        "is another room's",
    ),
    "a state without the create event": (
        ["DELETE FROM snapshot_entries WHERE key = (SELECT key FROM state_keys WHERE type = 'm.room.create')"],
        "lacks the event that made the room",
    ),
    "a state that names a wrong event": (
        ["UPDATE snapshot_entries SET event = 1 WHERE key = (SELECT key FROM state_keys WHERE type = 'm.room.name')"],
        "has a wrong event, or none, as m.room.name ''",
    ),
    "a membership that says something else": (
        ["UPDATE memberships SET membership = 'ban' WHERE user_id = '@carol:two'"],
        "@carol:two in the room",
    ),
    "a membership by an older event": (
        ["UPDATE memberships SET event = (SELECT min(event) FROM events) WHERE user_id = '@bob:one'"],
        "by another event than the current state's",
    ),
    "a membership that is gone": (["DELETE FROM memberships WHERE user_id = '@bob:one'"], "@bob:one in the room"),
    "a membership that nobody gave": (
        [f"INSERT INTO memberships SELECT '@eve:one', room, 'join', 1, 1, 1, 0, NULL FROM rooms WHERE room = {LARGEST_ROOM}"],
        "current state does not know them",
    ),
    "a remote user filed as local": (["UPDATE memberships SET local = 1 WHERE user_id = '@carol:two'"], "which is not so"),
    "a server counted twice": (["UPDATE room_servers SET joined = joined + 1"], "member(s) of"),
    "a server forgotten": (["DELETE FROM room_servers"], "counts 0 member(s) of"),
    "an outbox row without content": (["UPDATE outbox SET event = NULL, edu_type = NULL, edu = NULL"], "neither an event nor an EDU"),
    "an outbox event that has no place": (
        ["UPDATE outbox SET event = (SELECT event FROM events WHERE before IS NULL LIMIT 1) WHERE event IS NOT NULL"],
        "event(s) that are not held",
    ),
    "an outbox for ourselves": (["UPDATE destinations SET server_name = 'one'"], "something for this box itself"),
    "somebody else's accounts": (["UPDATE accounts SET user_id = '@alice:three'"], "is not of this box, which is one"),
    "a newer schema": (["PRAGMA user_version = 9999"], "install the newer release again"),
    "another program's database": (["PRAGMA application_id = 7"], "but not one of edgeserver"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_found_and_told(run: Terminal, data: Path, damage: str) -> None:
    statements, told = DAMAGES[damage]
    _damage(data, *statements)
    assert run("check", "--data", str(data)) == 1
    assert told in run.out
    assert "Traceback" not in run.out + run.error


def _overwrite_pages(data: Path) -> None:
    with (data / "edgeserver.db").open("r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(4096 * 40))


def _truncate(data: Path) -> None:
    os.truncate(data / "edgeserver.db", 50_000)


def _no_database(data: Path) -> None:
    (data / "edgeserver.db").write_bytes(b"this is a text" * 1000)


@pytest.mark.parametrize("spoil", [_overwrite_pages, _truncate, _no_database])
def test_a_damaged_file_is_found_without_a_traceback(run: Terminal, data: Path, spoil: Callable[[Path], None]) -> None:
    spoil(data)
    assert run("check", "--data", str(data)) == 1
    assert "damaged" in run.out or "cannot be read" in run.out
    assert run.error == ""


def test_an_older_schema_is_a_note_and_no_finding(data: Path) -> None:
    newest = migrations.steps()[-1][0]
    _damage(data, f"PRAGMA user_version = {newest - 1}")
    found = inspect(data / "edgeserver.db", "one")
    assert found.findings == []
    assert f"the next start brings it to {newest}" in found.notes[0]


def test_more_findings_of_a_kind_than_anybody_reads_are_counted(data: Path) -> None:
    _damage(data, "UPDATE events SET after = NULL WHERE before IS NOT NULL")
    found = inspect(data / "edgeserver.db", "one").findings
    assert len([finding for finding in found if "one side of it only" in finding]) <= 20


def _loosen(data: Path) -> None:
    (data / "identity.key").chmod(0o644)


def _lose_key(data: Path) -> None:
    (data / "identity.key").unlink()


def _shorten_key(data: Path) -> None:
    (data / "identity.key").write_text("AAAA\n")


def _lose_name(data: Path) -> None:
    (data / "server_name").unlink()


def _take_a_name(data: Path) -> None:
    (data / "server_name").write_text(f"{'a' * 52}.mesh\n")


def _lose_database(data: Path) -> None:
    (data / "edgeserver.db").unlink()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_loosen, "can be read or written by others (mode 644): run chmod 600"),
        (_lose_key, "without it the box would become another one"),
        (_shorten_key, "does not hold a 32-byte key"),
        (_lose_name, "server_name is missing"),
        (_take_a_name, "is not the key that the name"),
        (_lose_database, "there is no database at"),
    ],
)
def test_what_is_wrong_with_key_name_and_files_is_told(data: Path, spoil: Callable[[Path], None], told: str) -> None:
    spoil(data)
    before = sorted(path.name for path in data.iterdir())
    assert any(told in finding for finding in examine(data).findings)
    assert sorted(path.name for path in data.iterdir()) == before  # it looks and makes nothing


def test_a_name_that_the_configuration_has_changed_is_found(data: Path) -> None:
    assert examine(data, "one").findings == []
    assert any("names are permanent" in finding for finding in examine(data, "two").findings)


def test_the_report_can_be_read_by_a_machine(run: Terminal, data: Path) -> None:
    _damage(data, "DELETE FROM room_servers")
    assert run("check", "--data", str(data), "--json") == 1
    told = json.loads(run.out)
    assert set(told) == {"data", "checked", "findings", "notes"}
    assert all("member(s) of" in finding for finding in told["findings"])


def test_a_folder_that_is_not_there_is_a_finding(run: Terminal) -> None:
    assert run("check", "--data", "nowhere") == 1
    assert "there is no data folder at" in run.out
