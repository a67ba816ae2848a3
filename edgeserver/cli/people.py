"""`person`: accounts, through the running box if there is one, else in its data folder."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from edgeserver.cli import moderating
from edgeserver.cli.configured import configuration
from edgeserver.cli.console import CommandError, day_of, plural, say, say_json, table
from edgeserver.cli.verbs import Verbs

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from edgeserver.cli.control_client import ControlClient
    from edgeserver.config import Config
    from edgeserver.users.accounts import Accounts

MADE_UP_BYTES = 9


def add(verbs: Verbs) -> None:
    person = verbs.verb(
        "person",
        "add, list, lock and end accounts, and set passwords",
        None,
        ["person add alice", "person list", "person password alice", "person lock alice"],
        more="Works while the box runs and while it does not.",
    )
    below = Verbs(person)
    new = below.verb(
        "add",
        "make an account",
        add_person,
        ["person add alice", "person add bob --admin --password-file /run/secrets/bob", "person add eve --password-file - < word"],
        more="Asks for a password, or makes one up where nobody can be asked.",
        config=True,
        json=True,
    )
    new.add_argument("name", metavar="NAME", help="a user name such as alice, or a whole user id of this box")
    new.add_argument("--admin", action="store_true", help="may administer the box")
    _password_option(new)
    below.verb("list", "show the accounts", list_people, ["person list", "person list --json"], config=True, json=True)
    change = below.verb(
        "password",
        "set somebody's password",
        set_password,
        ["person password alice", "person password alice --log-out --password-file -"],
        more="Asks for the new password, or makes one up where nobody can be asked.",
        config=True,
        json=True,
    )
    change.add_argument("name", metavar="NAME", help="a user name such as alice, or a whole user id of this box")
    change.add_argument(
        "--log-out", action="store_true", help="log all devices out, too: encryption keys that are not backed up go with them"
    )
    _password_option(change)
    moderating.add(below)


def _password_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--password-file", metavar="F", help="read the password from this file, or from standard input with -")


# The verbs


def add_person(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    password, made_up = password_from(arguments)
    wish = {"name": arguments.name, "password": password, "admin": arguments.admin}

    async def make(accounts: Accounts) -> str:
        user_id, _ = await accounts.create_person(arguments.name, password, admin=arguments.admin)
        return user_id

    user_id = on_accounts(config, lambda box: box.call("POST", "people", wish)["user_id"], make)
    if arguments.json:
        say_json({"user_id": user_id, "admin": arguments.admin, **({"password": password} if made_up else {})})
        return 0
    say(f"{user_id} has an account{' and may administer the box' if arguments.admin else ''}.")
    _tell_password(password, made_up)
    say("Next: log in with it in a Matrix app.")
    return 0


def list_people(arguments: argparse.Namespace) -> int:
    async def read(accounts: Accounts) -> list[dict[str, Any]]:
        from edgeserver.api.control import person

        return [person(one) for one in await accounts.people()]

    people = on_accounts(configuration(arguments), lambda box: box.call("GET", "people")["people"], read)
    if arguments.json:
        say_json({"people": people})
        return 0
    rows = [(one["user_id"], _role(one), day_of(one["created_at"])) for one in people]
    if rows:
        say(table(("person", "", "since"), rows))
    say(f"{plural(len(rows), 'account')}." if rows else "There is no account yet. Make one with: edgeserver person add NAME")
    return 0


def _role(person: dict[str, Any]) -> str:
    if person["deactivated"]:
        return "deactivated"
    if person.get("guest"):  # a box of an earlier release does not say
        return "guest"
    if person.get("locked"):
        return "locked"
    if person.get("suspended"):
        return "suspended"
    return "admin" if person["admin"] else ""


def set_password(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    password, made_up = password_from(arguments)
    wish = {"password": password, "log_out": arguments.log_out}

    async def change(accounts: Accounts) -> str:
        user_id = accounts.user_id(arguments.name)
        await accounts.set_password(user_id, password, log_out=arguments.log_out)
        return user_id

    user_id = on_accounts(config, lambda box: box.call("POST", ("people", arguments.name, "password"), wish)["user_id"], change)
    if arguments.json:
        say_json({"user_id": user_id, "logged_out": arguments.log_out, **({"password": password} if made_up else {})})
        return 0
    say(f"The password of {user_id} has been changed.")
    _tell_password(password, made_up)
    if arguments.log_out:
        say("All devices have been logged out.")
    else:
        say("Devices that are logged in stay so; --log-out ends their sessions.")
    return 0


def _tell_password(password: str, made_up: bool) -> None:
    if made_up:
        say(f"The password, shown only now, is  {password}")


# Passwords


def password_from(arguments: argparse.Namespace) -> tuple[str, bool]:
    """The password and whether it was made up. Raises `CommandError`."""
    if arguments.password_file is not None:
        return read_password(arguments.password_file), False
    if sys.stdin.isatty() and not arguments.json:
        import getpass

        password = getpass.getpass(f"Password for {arguments.name} (empty: one is made up): ")
        if password:
            if getpass.getpass("The same again: ") != password:
                raise CommandError("the two passwords differ; nothing has been changed.")
            return password, False
    import secrets

    return secrets.token_urlsafe(MADE_UP_BYTES), True


def read_password(path: str) -> str:
    """The first line of a file, or of standard input for `-`. Raises `CommandError`."""
    try:
        if path == "-":
            text = sys.stdin.readline()
        else:
            with open(path, encoding="utf-8") as file:
                text = file.readline()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not UTF-8 text.") from error
    password = text.rstrip("\r\n")
    if not password:
        raise CommandError("the password is empty: its first line is what counts.")
    return password


# Through the running box, or in the data folder


def on_accounts(config: Config, running: Callable[[ControlClient], Any], resting: Callable[[Accounts], Awaitable[Any]]) -> Any:
    """Asks the running box, or works on the database of one that does not run. Raises `CommandError`."""
    from edgeserver.cli.control_client import NotRunning, NotThere, client_of

    try:
        client = client_of(config.data)
    except NotRunning:
        client = None
    try:
        return _resting(config, resting) if client is None else running(client)
    except NotThere as error:
        raise CommandError(f"{error} edgeserver person list shows those that there are.") from error


def _resting(config: Config, work: Callable[[Accounts], Awaitable[Any]]) -> Any:
    import trio

    from edgeserver.cli.control_client import NotThere
    from edgeserver.cli.folder_lock import sole_user_of
    from edgeserver.cli.reasons import reasons
    from edgeserver.matrix.errors import NotFound

    database = used_database(config.data)

    async def run() -> tuple[Any, NotFound | None]:
        async with _open_accounts(config, database) as accounts:
            try:
                return await work(accounts), None
            except NotFound as error:  # out of there it would come in a group
                return None, error

    try:
        with sole_user_of(config.data):
            answer, absent = trio.run(run)
    except CommandError:
        raise
    except Exception as error:
        known = reasons(error)
        if known is None:
            raise
        raise CommandError("; ".join(known) + ".") from error
    if absent is not None:
        raise NotThere(absent.error) from absent
    return answer


@asynccontextmanager
async def _open_accounts(config: Config, database: Path) -> AsyncIterator[Accounts]:
    """The accounts of a data folder, bound together as in a running box."""
    from edgeserver.app import identity
    from edgeserver.clock import Clock, system_time
    from edgeserver.store.database import open_database
    from edgeserver.users.accounts import Accounts
    from edgeserver.users.device_lists import DeviceLists
    from edgeserver.users.devices import Devices
    from edgeserver.users.passwords import Passwords
    from edgeserver.users.tokens import Tokens
    from edgeserver.wakeups import Wakeups

    box = identity.load_or_make(config.data, config.server.name, config.server.suffix)
    async with open_database(database, inline=True) as db:
        now_ms = Clock(system_time()).now_ms
        tokens = Tokens(db, now_ms)
        lists = DeviceLists(db, box.server_name, Wakeups())
        devices = Devices(db, tokens, on_delete=[lists.devices_deleted], on_rename=[lists.devices_renamed])
        yield Accounts(db, box.server_name, now_ms, tokens=tokens, devices=devices, passwords=Passwords(inline=True))


def used_database(data: Path) -> Path:
    """The database of a box that has run before. Raises `CommandError`."""
    from edgeserver.doctor import DATABASE, KEY

    try:
        found = (data / DATABASE).exists() and (data / KEY).exists()
    except PermissionError as error:
        raise CommandError(f"{data} cannot be looked into: {error.strerror}.") from error
    if not found:
        raise CommandError(f"there is no box in {data} yet: start it once with edgeserver serve, or name its folder with --data.")
    return data / DATABASE
