"""What the program keeps on disk: messages on their way, and the session."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edgeserver.chat import saved
from edgeserver.chat.outbox import MAX_BYTES, MAX_MESSAGES, Full, Outbox
from edgeserver.chat.saved import Saved, SavedError


def test_a_message_is_on_disk_as_soon_as_it_is_taken_and_until_it_is_done_with(tmp_path: Path) -> None:
    path = tmp_path / "outbox.json"
    outbox = Outbox(path)
    first = outbox.add("!a:b", "one", is_emote=False, at=1)
    second = outbox.add("!a:b", "two \ud800", is_emote=True, at=2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first.transaction != second.transaction
    assert Outbox(path).messages == outbox.messages == [first, second]
    assert second.content() == {"msgtype": "m.emote", "body": "two ?"}
    outbox.fail(first.transaction, "no")
    assert Outbox(path).next() == second
    outbox.done(second.transaction)
    assert Outbox(path).next() is None
    outbox.retry(first.transaction)
    assert Outbox(path).next() == first
    assert outbox.find("none") is None


def test_transaction_ids_go_on_by_one_over_all_runs_of_the_program_and_begin_elsewhere_in_a_new_folder(tmp_path: Path) -> None:
    ids = []
    for _ in range(3):
        outbox = Outbox(tmp_path / "outbox.json")
        ids.append(int(outbox.add("!a:b", "one", is_emote=False, at=1).transaction))
        outbox.done(str(ids[-1]))
    assert ids == [ids[0], ids[0] + 1, ids[0] + 2]
    other = Outbox(tmp_path / "other.json").add("!a:b", "one", is_emote=False, at=1)
    assert other.transaction not in map(str, ids)


def test_an_outbox_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "outbox.json"
    told = b'[{"transaction": "chat0f", "room_id": "!a:b", "text": "one", "is_emote": false, "at": 1, "failed": ""}]'
    path.write_bytes(told)
    outbox = Outbox(path)
    assert [message.transaction for message in outbox.messages] == ["chat0f"]
    assert outbox.add("!a:b", "two", is_emote=False, at=2).transaction.isdecimal()


def test_what_is_too_much_is_not_taken(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.json")
    with pytest.raises(Full, match="at most 20,000 bytes"):
        outbox.add("!a:b", "ü" * (MAX_BYTES // 2 + 1), is_emote=False, at=1)
    for number in range(MAX_MESSAGES):
        outbox.add("!a:b", str(number), is_emote=False, at=1)
    with pytest.raises(Full, match="200 messages wait already"):
        outbox.add("!a:b", "one more", is_emote=False, at=1)


def test_a_message_that_cannot_be_written_is_not_taken(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "missing" / "outbox.json")
    with pytest.raises(SavedError, match="cannot be written"):
        outbox.add("!a:b", "one", is_emote=False, at=1)
    assert outbox.messages == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{}x", b"[1]", b'[{"transaction": "t"}]', b"5", b"{}", b'{"next": -1, "messages": []}', b'{"next": "1", "messages": []}'],
)
def test_a_damaged_outbox_is_named_rather_than_emptied(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "outbox.json"
    path.write_bytes(content)
    with pytest.raises(SavedError, match=r"outbox\.json is damaged"):
        Outbox(path)
    assert path.read_bytes() == content


def test_the_session_is_kept_for_its_owner_alone_until_it_is_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    session = Saved("http://127.0.0.1:8008", "", "@a:b", "D", "secret")
    assert saved.load(folder) is None
    saved.keep(folder, session)
    assert saved.load(folder) == session
    assert stat.S_IMODE((folder / "session.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    saved.forget(folder)
    saved.forget(folder)
    assert saved.load(folder) is None


@pytest.mark.parametrize("content", [b"", b"[]", b'{"place": 1}', b'{"place": "", "link": "", "user_id": "", "device_id": "", "token": 5}'])
def test_a_damaged_session_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "session.json").write_bytes(content)
    with pytest.raises(SavedError, match=r"session\.json is damaged"):
        saved.load(tmp_path)


def test_state_belongs_where_the_desktop_says() -> None:
    assert saved.default_folder({"XDG_STATE_HOME": "/state"}) == Path("/state/edgeserver/chat")
    assert saved.default_folder({"XDG_STATE_HOME": "state", "HOME": "/home/a"}) == Path("/home/a/.local/state/edgeserver/chat")
