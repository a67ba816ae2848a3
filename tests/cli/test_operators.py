"""`token` and `notice`, to a box that runs."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from edgeserver.app.box import open_box, serve_control
from edgeserver.config import parse
from tests.cli.conftest import Terminal

CONFIG = '[server]\nname = "a.test"\n[accounts]\nregistration = "token"\n[federation]\ninternet = false\n'


@pytest.fixture
def box(run: Terminal) -> Iterator[Terminal]:
    """A box with alice and bob, in a thread of its own, with nothing but its control socket."""
    (run.folder / "edgeserver.toml").write_text(CONFIG)
    config = parse(CONFIG, run.folder)
    started: queue.Queue[trio.lowlevel.TrioToken | BaseException] = queue.Queue()
    scope = trio.CancelScope()

    async def main() -> None:
        with scope:
            async with open_box(config) as opened, trio.open_nursery() as nursery:
                for name in ("alice", "bob"):
                    await opened.users.accounts.create_person(name, "correct horse")
                await serve_control(nursery, opened, [], [], None)
                started.put(trio.lowlevel.current_trio_token())
                await trio.sleep_forever()

    def begin() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            started.put(error)

    thread = threading.Thread(target=begin)
    thread.start()
    token = started.get(timeout=30)
    if isinstance(token, BaseException):
        raise token
    yield run
    token.run_sync_soon(scope.cancel)
    thread.join()


def test_tokens_are_made_listed_and_taken_back_and_people_are_told(box: Terminal) -> None:
    assert box("token", "list") == 0
    assert box.out == "There is no token yet. Make one with: edgeserver token add\n"
    assert box("token", "add", "harbour", "--uses", "1", "--days", "7") == 0
    assert box.out.startswith("The registration token is  harbour\nIt is good for 1 person, until 20")
    assert box("token", "add", "--json") == 0
    made = json.loads(box.out)
    assert (len(made["token"]), made["uses_allowed"], made["expiry_time"]) == (16, None, None)
    assert box("token", "list") == 0
    assert "harbour" in box.out
    assert "0 of any number of people" in box.out
    assert box.out.endswith("2 tokens.\n")
    assert box("token", "remove", "harbour") == 0
    assert box.out == "Nobody can register with harbour any more.\n"
    assert box("token", "remove", "harbour") == 1
    assert box("token", "add", "a b") == 1
    assert "1 to 64 characters" in box.error
    assert box("notice", "alice", "Hello", "there") == 0
    assert box.out == "1 person has been told.\n"
    assert box("notice", "--all", "The box restarts.", "--json") == 0
    assert json.loads(box.out) == {"told": ["@alice:a.test", "@bob:a.test"]}
    assert box("notice", "carol", "Hello") == 1
    assert "no such person" in box.error
    assert box("notice", "alice") == 2


def test_without_a_box_there_is_nobody_to_ask(run: Terminal) -> None:
    assert not Path(run.folder / "data").exists()
    assert run("token", "add") == 1
    assert "no box runs" in run.error
