"""Held messages as files: what is written is read again, and what is not a whole message is named."""

from __future__ import annotations

import stat
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserver.clock import NEVER_BEFORE_MS
from edgeserver.paired.state import StateError
from edgeserver.proxy.held import HELD_SECONDS, MAX_HELD, HeldFolder, HeldMessage, _message
from transports.exchange import Request

NOW = NEVER_BEFORE_MS + 10 * 86_400_000
DAY_MS = int(HELD_SECONDS * 1000)
FIRST = "0000000000000001.held"


def message(number: int = 1, *, at: int = NOW, body: bytes = b"{}", room: str = "!a") -> HeldMessage:
    headers = (("authorization", "Bearer T"), ("content-type", "application/json"))
    target = f"/_matrix/client/v3/rooms/{room}/send/m.room.message/t{number}"
    return HeldMessage(number, at, Request("PUT", target, headers=headers, body=body, timeout=float("inf")))


def numbers(folder: HeldFolder, now_ms: int = NOW) -> list[int]:
    return [each.number for each in folder.load(now_ms)]


def parsed(content: bytes) -> tuple[HeldMessage, str]:
    head, _, body = content.partition(b"\n")
    return _message(1, orjson.loads(head), body)


@given(st.binary(max_size=300), st.text("abc!:$%2F.-~ü", min_size=1, max_size=20), st.integers(0, 2**53))
def test_any_message_is_read_as_it_was_written(body: bytes, room: str, at: int) -> None:
    written = message(at=at, body=body, room=room)
    read, box = parsed(written.content("BOX"))
    assert (read, box) == (written, "BOX")
    assert read.lane == ("Bearer T", room)


@given(st.binary(max_size=60), st.data())
def test_a_message_that_was_cut_anywhere_is_no_message(body: bytes, data: st.DataObject) -> None:
    content = message(body=body).content("BOX")
    cut = data.draw(st.integers(0, len(content) - 1))
    if content[cut : cut + 1] == b"\n" and not body:
        return  # only the end of the line is missing: the message is whole
    with pytest.raises((KeyError, TypeError, ValueError)):
        parsed(content[:cut])


def test_files_keep_the_order_and_are_nobody_elses_business(tmp_path: Path) -> None:
    path = tmp_path / "state" / "outbox"
    folder = HeldFolder(path, "BOX")
    assert folder.load(NOW) == []
    for number in (9, 10, 100):
        folder.write(message(number))
    assert numbers(HeldFolder(path, "BOX")) == [9, 10, 100]
    assert folder.free_number() == 101
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.iterdir()} == {0o600}
    folder.remove(10)
    folder.remove(10)
    assert numbers(folder) == [9, 100]


def test_a_file_that_was_not_finished_is_removed_and_strange_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "0000000000000001.new").write_bytes(b"half a mess")
    (tmp_path / "notes.txt").write_text("mine")
    assert HeldFolder(tmp_path, "BOX").load(NOW) == []
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\n",
        b"[]\n",
        b'{"at": 1}\n{}',
        message().content("BOX")[:-1],
        message().content("BOX") + b"x",
        message().content("BOX").replace(b'"PUT"', b'"GET"'),
        message().content("BOX").replace(b'"PUT"', b"1"),
        message().content("BOX").replace(b"Bearer T", "Bearer Ω".encode()),
        message().content("BOX").replace(b'"at":', b'"at":"x","was":'),
    ],
)
def test_a_damaged_file_is_named_in_a_sentence_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FIRST).write_bytes(content)
    with pytest.raises(StateError, match=rf"^/.*{FIRST} is damaged \(.*\); move it away, and the message in it is not sent\.$"):
        HeldFolder(tmp_path, "BOX").load(NOW)
    assert (tmp_path / FIRST).read_bytes() == content


def test_a_folder_that_is_none_is_named_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    path.write_text("a file")
    folder = HeldFolder(path, "BOX")
    for work in (lambda: folder.load(NOW), lambda: folder.write(message()), lambda: folder.remove(1)):
        with pytest.raises(StateError, match=r"^/.*outbox.* cannot be (used|written|removed): [A-Z][a-z ]+\.$"):
            work()


def test_more_messages_than_a_proxy_holds_are_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = HeldFolder(tmp_path, "BOX")
    content = message().content("BOX")
    for number in range(MAX_HELD + 1):
        (tmp_path / f"{number:016d}.held").write_bytes(content)
    with pytest.raises(StateError, match="more messages"):
        folder.load(NOW)
    (tmp_path / f"{0:016d}.held").unlink()
    assert len(folder.load(NOW)) == MAX_HELD


def test_a_message_that_is_older_than_a_day_is_given_up_but_not_by_a_clock_that_was_wrong(tmp_path: Path) -> None:
    folder = HeldFolder(tmp_path, "BOX")
    folder.load(NOW)
    ages = {1: NOW - DAY_MS - 1, 2: NOW - DAY_MS + 1, 3: 5_000, 4: NOW + 5 * DAY_MS}  # the third clock was not set
    for number, at in ages.items():
        folder.write(message(number, at=at))
    assert numbers(folder) == [2, 3, 4]
    assert not (tmp_path / FIRST).exists()


def test_what_was_held_for_another_box_is_not_told_to_this_one_and_waits_for_that_one(tmp_path: Path) -> None:
    folder, other = HeldFolder(tmp_path, "BOX"), HeldFolder(tmp_path, "OTHER")
    folder.load(NOW)
    folder.write(message(1))
    assert other.load(NOW) == []
    assert other.free_number() == 2
    other.write(message(2))
    assert (numbers(folder), numbers(other)) == ([1], [2])
    assert other.load(NOW + DAY_MS + 1) == folder.load(NOW) == []
