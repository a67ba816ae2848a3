"""`person lock`, `unlock`, `suspend`, `unsuspend` and `deactivate`: through the running box if there is one, else in its data folder."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from edgeserver.cli.configured import configuration
from edgeserver.cli.console import CommandError, say, say_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from edgeserver.cli.verbs import Verbs
    from edgeserver.users.accounts import Accounts

# Verb → what it sets and to what, its help, and what is said when it is done
_STANDINGS: dict[str, tuple[str, bool, str, str]] = {
    "lock": ("locked", True, "shut somebody out of their account for now", "is locked: their apps can do nothing until person unlock."),
    "unlock": ("locked", False, "let somebody into their locked account again", "is not locked; their sessions go on where they were."),
    "suspend": (
        "suspended",
        True,
        "let somebody read and leave, and nothing else, for now",
        "is suspended: they can read, leave rooms and take back what they said, until person unsuspend.",
    ),
    "unsuspend": ("suspended", False, "end somebody's suspension", "is not suspended."),
}


def add(below: Verbs) -> None:
    """Adds the verbs below `person`."""
    for verb, (key, value, help_text, done) in _STANDINGS.items():
        parser = below.verb(verb, help_text, _setter(key, value, done), [f"person {verb} alice"], config=True, json=True)
        _name(parser)
    ended = below.verb(
        "deactivate",
        "end somebody's account for good",
        deactivate,
        ["person deactivate alice", "person deactivate alice --erase --yes"],
        more="They are logged out and leave all rooms; the name stays taken. This cannot be undone.",
        config=True,
        json=True,
    )
    _name(ended)
    ended.add_argument("--erase", action="store_true", help="hide what they have written from those who come into their rooms later")
    ended.add_argument("--yes", action="store_true", help="do not ask whether that is really meant")


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a user name such as alice, or a whole user id of this box")


def _setter(key: str, value: bool, done: str) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        from edgeserver.cli.people import on_accounts

        async def change(accounts: Accounts) -> str:
            user_id = accounts.user_id(arguments.name)
            await (accounts.set_locked if key == "locked" else accounts.set_suspended)(user_id, value)
            return user_id

        path = ("people", arguments.name, key)
        user_id = on_accounts(configuration(arguments), lambda box: box.call("PUT", path, {key: value})["user_id"], change)
        return _told(arguments, {"user_id": user_id, key: value}, f"{user_id} {done}")

    return run


def deactivate(arguments: argparse.Namespace) -> int:
    from edgeserver.cli.people import on_accounts

    if not arguments.yes:
        _confirm(arguments.name)

    async def end(accounts: Accounts) -> str:
        user_id = accounts.user_id(arguments.name)
        await accounts.deactivate(user_id, erase=arguments.erase)
        return user_id

    wish = {"erase": arguments.erase}
    path = ("people", arguments.name, "deactivate")
    user_id = on_accounts(configuration(arguments), lambda box: box.call("POST", path, wish)["user_id"], end)
    text = f"{user_id} is deactivated for good. Their rooms are left while the box runs."
    return _told(arguments, {"user_id": user_id, "deactivated": True, "erased": arguments.erase}, text)


def _confirm(name: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError("this cannot be undone, and nobody can be asked: say --yes if it is meant.")
    if input(f"This cannot be undone. To deactivate {name}, type the name again: ") != name:
        raise CommandError("the names differ; nothing has been changed.")


def _told(arguments: argparse.Namespace, answer: dict[str, Any], text: str) -> int:
    if arguments.json:
        say_json(answer)
    else:
        say(text)
    return 0
