from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.lab import recorder
from tests.lab.programs import PYTHON, Program
from tests.lab.recorder import Recorder, Recording

pytestmark = pytest.mark.skipif(recorder.unavailable() is not None, reason=recorder.unavailable() or "")

# Commits a row and then says so over a socket, five times; a commit waits for its sync with FULL, for nothing with OFF.
PROGRAM = """
import socket, sqlite3, sys
directory, synchronous = sys.argv[1:]
database = sqlite3.connect(directory + "/box.db", isolation_level=None)
database.execute("PRAGMA journal_mode = WAL")
database.execute("PRAGMA synchronous = " + synchronous)
database.execute("CREATE TABLE said (line INTEGER)")
server, client = socket.socketpair()
for line in range(5):
    database.execute("INSERT INTO said VALUES (?)", (line,))
    server.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 1\\r\\n\\r\\n")
    server.sendall(b"%d" % line)
server.sendall(b"HTTP/1.1 404 Not Found\\r\\ncontent-length: 0\\r\\n\\r\\n")
with open(directory + "/notes.txt", "w") as notes:
    notes.write("never synced")
database.close()
"""


def _record(tmp_path: Path, synchronous: str) -> tuple[Recording, Path]:
    data = tmp_path / "data"
    data.mkdir()
    (data / "old").write_bytes(b"was there before")
    recording = Recorder(tmp_path / "trace", data)
    command = [*recording.wrapper, PYTHON, "-c", PROGRAM, str(data), synchronous]
    with Program(command, log=tmp_path / "log") as program:
        assert program.process.wait(30) == 0, program.tail()
    return recording.read(), data


def _lines(directory: Path) -> list[int]:
    database = sqlite3.connect(directory / "box.db")
    try:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [line for (line,) in database.execute("SELECT line FROM said")]
    finally:
        database.close()


def test_what_was_answered_with_200_survives_a_power_cut_at_that_moment(tmp_path: Path) -> None:
    recording, data = _record(tmp_path, "FULL")
    responses = recording.responses(200)
    assert [response.body for response in responses] == [b"0", b"1", b"2", b"3", b"4"]
    for line, response in enumerate(responses):
        assert recording.unsynced(data / "box.db-wal", response.start) == []
        crashed = recording.rebuild(response.start, tmp_path / "crashed")
        assert _lines(crashed) == list(range(line + 1))
        assert (crashed / "old").read_bytes() == b"was there before"


def test_a_database_opens_after_a_power_cut_at_any_moment_whatever_unsynced_writes_survive(tmp_path: Path) -> None:
    recording, _ = _record(tmp_path, "FULL")
    for moment in recording.sync_moments():
        said = [response for response in recording.responses(200) if response.start < moment]
        for odd in (0, 1):
            crashed = recording.rebuild(moment, tmp_path / "crashed", keep=lambda write, odd=odd: write.start % 2 == odd)
            if said:
                assert len(_lines(crashed)) >= len(said)
    crashed = recording.rebuild(recording.last + 1, tmp_path / "crashed")
    assert _lines(crashed) == [0, 1, 2, 3, 4]
    assert not (crashed / "box.db-wal").exists()
    assert not (crashed / "notes.txt").exists() or (crashed / "notes.txt").read_bytes() == b""


def test_the_recorder_catches_a_program_that_answers_before_it_has_synced(tmp_path: Path) -> None:
    recording, data = _record(tmp_path, "OFF")
    response = recording.responses(200)[-1]
    assert recording.unsynced(data / "box.db-wal", response.start)
    assert not (recording.rebuild(response.start, tmp_path / "crashed") / "box.db-wal").exists()
