"""What a client was told is on disk before it is told: a box under strace, and its files as every power cut would have left them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import trio

from edgeserver.store.integrity import inspect
from tests.interop.boxes import register
from tests.interop.people import Person
from tests.lab import recorder
from tests.lab.box import Box
from tests.lab.recorder import Recorder, Recording, Response
from tests.lab.synapse import free_port
from tests.story.stage import Teller, toml

pytestmark = [pytest.mark.story, pytest.mark.skipif(recorder.unavailable() is not None, reason=recorder.unavailable() or "")]

MESSAGES = 12
DATABASE = "edgeserver.db"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One life of a box: what it wrote, synced and answered, and how it ended."""

    recording: Recording
    data: Path
    server_name: str


def _config(port: int) -> str:
    return toml(
        {
            "server": {"name": "box.test"},
            "http": {"client": [f"127.0.0.1:{port}"], "federation": []},
            "accounts": {"registration_shared_secret": "lab"},
            "limits": {"rate_limits": False},
            "federation": {"internet": False},
            "discovery": {"mdns": False},
        }
    )


async def _lives(box: Box) -> None:
    """Everything that a client may be told, one after the other and several at a time."""
    alice, bob = [await trio.to_thread.run_sync(register, box, name) for name in ("alice", "bob")]
    room = await alice.create_room("12", name="The cellar", preset="public_chat")
    await bob.join(room)
    for number in range(MESSAGES):
        await (alice, bob)[number % 2].say(room, f"one by one {number}")
    async with trio.open_nursery() as nursery:
        for number in range(MESSAGES):
            nursery.start_soon((alice, bob)[number % 2].say, room, f"all at once {number}")
    await _speak_of_other_things(alice, bob, room)


async def _speak_of_other_things(alice: Person, bob: Person, room: str) -> None:
    await alice.set_state(room, "m.room.topic", {"topic": "Below"})
    await alice.ok("PUT", f"/user/{quote(alice.user_id)}/account_data/org.example.note", {"kept": True})
    await bob.ok("PUT", f"/profile/{quote(bob.user_id)}/displayname", {"displayname": "Bob"})
    said = await bob.say(room, "A slip of the tongue")
    await bob.redact(room, said)
    await bob.ok("POST", f"/rooms/{quote(room)}/receipt/m.read/{quote(said)}")
    letter = await alice.request("POST", "/_matrix/media/v3/upload?filename=letter.txt", b"kept in the cellar")
    assert letter.status == 200


@pytest.fixture
async def recorded(tmp_path: Path) -> Recorded:
    home = tmp_path / "box"
    data = home / "data"
    data.mkdir(parents=True)
    watcher = Recorder(tmp_path / "trace", data)
    port = free_port()
    box = Box(home, _config(port), f"http://127.0.0.1:{port}", wrapper=watcher.wrapper)
    try:
        box.begin()
        await box.ready(60)
        await _lives(box)
    finally:
        box.kill()
    return Recorded(watcher.read(), data, "box.test")


def _events_told(recording: Recording) -> Iterator[tuple[Response, str]]:
    import orjson

    for response in recording.responses(200):
        body = response.body
        if b'"event_id"' in body and b'"next_batch"' not in body:
            told = orjson.loads(body)
            if isinstance(told, dict) and set(told) == {"event_id"}:
                yield response, told["event_id"]


def _events_held(directory: Path) -> set[str]:
    """Empty for a file that has no tables yet. Raises `sqlite3.DatabaseError` if it is no sound database."""
    database = sqlite3.connect(directory / DATABASE)
    try:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'events'").fetchone():
            return set()
        return {event_id for (event_id,) in database.execute("SELECT event_id FROM events")}
    finally:
        database.close()


async def test_no_client_is_told_what_is_not_synced_and_every_power_cut_leaves_a_sound_database(recorded: Recorded, tmp_path: Path) -> None:
    tell = Teller()
    recording = recorded.recording
    told = list(_events_told(recording))
    assert len(told) >= 2 * MESSAGES + 3
    wal = recorded.data / f"{DATABASE}-wal"
    for response, event_id in told:
        assert recording.unsynced(wal, response.start) == [], event_id
    tell(f"{len(told)} events were acknowledged, {len(recording.syncs)} syncs lay between them")
    moments = recording.sync_moments()
    crashed = tmp_path / "crashed"
    previous: set[str] = set()
    for number, moment in enumerate(moments):
        for keep in (None, 0, 1):  # of what was not synced: nothing, and either half of the writes
            if keep is None:
                recording.rebuild(moment, crashed)
            elif number % 4 == 0:
                recording.rebuild(moment, crashed, keep=lambda write, keep=keep: write.start % 2 == keep)
            else:
                continue
            acknowledged = {event_id for response, event_id in told if response.start < moment}
            assert acknowledged <= _events_held(crashed)
            previous = acknowledged
    assert len(previous) == len(told)
    assert inspect(recording.rebuild(recording.last + 1, crashed) / DATABASE, recorded.server_name).findings == []
    tell(f"the database was opened after power cuts at {len(moments)} moments and held every acknowledged event")


async def test_a_box_starts_again_from_what_a_power_cut_has_left(recorded: Recorded, tmp_path: Path) -> None:
    """The box itself, not only its database: at its last acknowledged message, with nothing but synced writes."""
    recording = recorded.recording
    response, event_id = list(_events_told(recording))[-1]
    home = tmp_path / "again"
    recording.rebuild(response.start, home / "data")
    port = free_port()
    box = Box(home, _config(port), f"http://127.0.0.1:{port}")
    try:
        box.begin()
        await box.ready()
        assert event_id in _events_held(home / "data")
        carol = await trio.to_thread.run_sync(register, box, "carol")
        assert carol.server_name == recorded.server_name
    finally:
        box.stop()
