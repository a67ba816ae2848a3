"""`person` on a data folder whose box does not run."""

from __future__ import annotations

import io
import json
import socket
import sys
from pathlib import Path

import pytest
import trio

from edgeserver.app import identity
from edgeserver.cli.folder_lock import sole_user_of
from edgeserver.store import accounts, departures, devices
from edgeserver.store.database import open_database
from edgeserver.users.passwords import Passwords
from tests.cli.conftest import Terminal


async def _make(database: Path) -> None:
    async with open_database(database, inline=True):
        pass


@pytest.fixture
def box(run: Terminal) -> Terminal:
    (run.folder / "edgeserver.toml").write_text('[server]\nname = "box.example.org"\n')
    identity.load_or_make(run.folder / "data", "box.example.org", "mesh")
    trio.run(_make, run.folder / "data" / "edgeserver.db")
    return run


def _password_is(box: Terminal, user_id: str, password: str) -> bool:
    async def look() -> bool:
        async with open_database(box.folder / "data" / "edgeserver.db", inline=True) as db:
            account = await db.read(lambda tx: accounts.account(tx, user_id))
            return account is not None and await Passwords(inline=True).verify(account.password, password)

    return trio.run(look)


def test_an_account_is_made_with_the_password_of_a_file(box: Terminal) -> None:
    (box.folder / "word").write_text("correct horse\nanother line\n")
    assert box("person", "add", "Alice", "--admin", "--password-file", "word") == 0
    assert box.out == "@alice:box.example.org has an account and may administer the box.\nNext: log in with it in a Matrix app.\n"
    assert _password_is(box, "@alice:box.example.org", "correct horse")


def test_a_password_that_nobody_gave_is_made_up_and_told_once(box: Terminal) -> None:
    assert box("person", "add", "bob", "--json") == 0
    told = json.loads(box.out)
    assert told["user_id"] == "@bob:box.example.org"
    assert _password_is(box, "@bob:box.example.org", told["password"])


def test_a_password_comes_from_standard_input(box: Terminal) -> None:
    before, sys.stdin = sys.stdin, io.StringIO("correct horse\n")
    try:
        assert box("person", "add", "bob", "--password-file", "-", "--json") == 0
    finally:
        sys.stdin = before
    assert json.loads(box.out) == {"user_id": "@bob:box.example.org", "admin": False}
    assert _password_is(box, "@bob:box.example.org", "correct horse")


def test_accounts_are_listed(box: Terminal) -> None:
    assert box("person", "list") == 0
    assert "no account yet" in box.out
    box("person", "add", "bob")
    box("person", "add", "alice", "--admin")
    assert box("person", "list") == 0
    rows = [line.split()[:2] for line in box.out.splitlines()]
    assert rows[1][0] == "@alice:box.example.org"
    assert rows[1][1] == "admin"
    assert box.out.endswith("2 accounts.\n")
    assert box("person", "list", "--json") == 0
    assert [one["user_id"] for one in json.loads(box.out)["people"]] == ["@alice:box.example.org", "@bob:box.example.org"]


def test_a_new_password_leaves_sessions_alone_unless_told_otherwise(box: Terminal) -> None:
    user_id = "@bob:box.example.org"
    box("person", "add", "bob")

    async def log_in() -> None:
        async with open_database(box.folder / "data" / "edgeserver.db", inline=True) as db:
            await db.write(lambda tx: devices.ensure(tx, user_id, "PHONE", None))
            keys = "INSERT INTO device_keys (user_id, device_id, keys) VALUES (?, 'PHONE', '{}')"
            await db.write(lambda tx: tx.execute(keys, (user_id,)))

    async def look() -> tuple[int, bool]:
        async with open_database(box.folder / "data" / "edgeserver.db", inline=True) as db:
            held = await db.read(lambda tx: devices.devices(tx, user_id))
            changed = await db.read(lambda tx: tx.one("SELECT 1 FROM device_list_changes WHERE user_id = ?", (user_id,)))
            return len(held), changed is not None

    trio.run(log_in)
    assert box("person", "password", user_id, "--json") == 0
    assert _password_is(box, user_id, json.loads(box.out)["password"])
    assert trio.run(look) == (1, False)
    assert box("person", "password", "bob", "--log-out") == 0
    assert "All devices have been logged out." in box.out
    assert trio.run(look) == (0, True)  # and whoever shares a room with them will be told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["add", "b@d"], "A user name consists of a-z"),
        (["add", "@bob:elsewhere.org"], "not a user of this server"),
        (["add", "taken"], "taken"),
        (["password", "nobody"], "There is no account @nobody:box.example.org. edgeserver person list shows those that there are."),
        (["add", "x", "--password-file", "nowhere"], "nowhere cannot be read: No such file or directory."),
        (["add", "x", "--password-file", "short"], "A password needs at least 8 characters."),
        (["add", "x", "--password-file", "empty"], "the password is empty"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(box: Terminal, words: list[str], told: str) -> None:
    (box.folder / "short").write_text("abc\n")
    (box.folder / "empty").write_text("\n")
    if words[1] == "taken":
        box("person", "add", "taken")
    assert box("person", *words) == 1
    assert told in box.error
    assert box.error.count("\n") == 1
    assert "Traceback" not in box.error


def test_no_box_is_made_in_a_folder_where_there_was_none(run: Terminal) -> None:
    assert run("person", "add", "alice") == 1
    assert "there is no box in data yet" in run.error
    assert list(run.folder.iterdir()) == []


def test_a_name_that_the_configuration_has_changed_is_refused(box: Terminal) -> None:
    (box.folder / "edgeserver.toml").write_text('[server]\nname = "other.example.org"\n')
    assert box("person", "list") == 1
    assert "names are permanent" in box.error


def test_a_socket_that_nobody_listens_on_any_more_is_no_hindrance(box: Terminal) -> None:
    left_behind = socket.socket(socket.AF_UNIX)
    left_behind.bind(str(box.folder / "data" / "control.sock"))
    left_behind.close()
    assert box("person", "add", "alice") == 0
    assert box("peers") == 1
    assert "no box answers on data/control.sock" in box.error


def test_a_folder_that_another_program_has_locked_is_left_alone(box: Terminal) -> None:
    with sole_user_of(box.folder / "data"):
        assert box("person", "add", "alice") == 1
    assert "another edgeserver is at work on data" in box.error
    assert box("person", "add", "alice") == 0


def test_somebody_is_locked_out_suspended_and_let_in_again(box: Terminal) -> None:
    box("person", "add", "bob")
    for verb, role in (("lock", "locked"), ("unlock", ""), ("suspend", "suspended"), ("unsuspend", "")):
        assert box("person", verb, "bob") == 0, box.error
        assert "@bob:box.example.org is " in box.out
        assert box("person", "list") == 0
        shown = [word for word in ("locked", "suspended") if word in box.out]
        assert shown == ([role] if role else [])
    assert box("person", "lock", "bob", "--json") == 0
    assert json.loads(box.out) == {"user_id": "@bob:box.example.org", "locked": True}
    assert box("person", "lock", "nobody") == 1
    assert box.error == "edgeserver: There is no account @nobody:box.example.org. edgeserver person list shows those that there are.\n"


def test_an_account_is_ended_only_if_that_is_meant_and_its_rooms_are_left_later(box: Terminal) -> None:
    box("person", "add", "bob")
    assert box("person", "deactivate", "bob") == 1
    assert "say --yes if it is meant" in box.error
    assert box("person", "deactivate", "bob", "--erase", "--yes") == 0
    assert "@bob:box.example.org is deactivated for good." in box.out
    assert box("person", "list") == 0
    assert "deactivated" in box.out

    async def look() -> tuple[list[tuple[str, int]], dict[str, int]]:
        async with open_database(box.folder / "data" / "edgeserver.db", inline=True) as db:
            erased = await db.read(lambda tx: departures.erased(tx, ["@bob:box.example.org"]))
            return await db.read(departures.pending), erased

    pending, erased = trio.run(look)
    assert pending == [("@bob:box.example.org", 0)]
    assert erased.keys() == {"@bob:box.example.org"}
    assert box("person", "deactivate", "nobody", "--yes") == 1
    assert box("person", "suspend", "bob") == 1
