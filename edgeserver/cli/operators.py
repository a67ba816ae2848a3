"""`token` and `notice`: who may register on the running box, and what its people are to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.cli.configured import configuration
from edgeserver.cli.console import CommandError, day_of, plural, say, say_json, table
from edgeserver.cli.verbs import Verbs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

DAY_MS = 24 * 60 * 60 * 1000
NOTICE_TIMEOUT = 600.0
"""Seconds: every person's room may have to be made."""


def add(verbs: Verbs) -> None:
    token = verbs.verb(
        "token",
        "make and take back registration tokens",
        None,
        ["token add", "token list", "token remove abcd"],
        more='They let people register while [accounts] registration is "token", beside those of the configuration.',
    )
    below = Verbs(token)
    new = below.verb(
        "add",
        "make a registration token",
        add_token,
        ["token add", "token add --uses 1 --days 7", "token add harbour-2026 --json"],
        config=True,
        json=True,
    )
    new.add_argument("token", metavar="TOKEN", nargs="?", help="the token; one is made up if there is none here")
    new.add_argument("--uses", metavar="N", type=int, help="so many people may register with it (default: any number)")
    new.add_argument("--days", metavar="N", type=int, help="it is good for so many days (default: for ever)")
    below.verb("list", "show the registration tokens", list_tokens, ["token list", "token list --json"], config=True, json=True)
    gone = below.verb("remove", "take a registration token back", remove_token, ["token remove abcd"], config=True)
    gone.add_argument("token", metavar="TOKEN", help="the token; who has registered with it stays")
    notice = verbs.verb(
        "notice",
        "tell people something, as the server",
        send_notice,
        ['notice alice "Your uploads have been moved."', 'notice --all "The box restarts at noon."'],
        more="Each person is told in a room of their own that they cannot leave.",
        config=True,
        json=True,
    )
    notice.add_argument("words", metavar="PERSON TEXT", nargs="+", help="a user name and the text; with --all only the text")
    notice.add_argument("--all", action="store_true", help="tell everybody who has an account")


def _ask(
    arguments: argparse.Namespace, method: str, path: str | Sequence[str], body: dict[str, Any] | None = None, *, timeout: float = 30.0
) -> dict[str, Any]:
    """One call of the running box; see `ControlClient.call`."""
    from edgeserver.cli.control_client import client_of

    box = client_of(configuration(arguments).data)
    try:
        return box.call(method, path, body, timeout=timeout)
    finally:
        box.close()


def add_token(arguments: argparse.Namespace) -> int:
    until = None
    if arguments.days is not None:
        import time

        until = int(time.time() * 1000) + arguments.days * DAY_MS
    made = _ask(arguments, "POST", "tokens", {"token": arguments.token, "uses_allowed": arguments.uses, "expiry_time": until})
    if arguments.json:
        say_json(made)
        return 0
    say(f"The registration token is  {made['token']}")
    say(f"It is good for {_uses(made)}{_until(made)}. Next: give it to whoever is to register in a Matrix app.")
    return 0


def _uses(token: dict[str, Any]) -> str:
    allowed = token["uses_allowed"]
    return "any number of people" if allowed is None else plural(allowed, "person", "people")


def _until(token: dict[str, Any]) -> str:
    return "" if token["expiry_time"] is None else f", until {day_of(token['expiry_time'])}"


def list_tokens(arguments: argparse.Namespace) -> int:
    found = _ask(arguments, "GET", "tokens")["tokens"]
    if arguments.json:
        say_json({"tokens": found})
        return 0
    if found:
        rows = [(one["token"], f"{one['completed']} of {_uses(one)}", _until(one).removeprefix(", ")) for one in found]
        say(table(("token", "used by", ""), rows))
    say(f"{plural(len(found), 'token')}." if found else "There is no token yet. Make one with: edgeserver token add")
    return 0


def remove_token(arguments: argparse.Namespace) -> int:
    _ask(arguments, "DELETE", ("tokens", arguments.token))
    say(f"Nobody can register with {arguments.token} any more.")
    return 0


def send_notice(arguments: argparse.Namespace) -> int:
    words: list[str] = arguments.words
    if not arguments.all and len(words) < 2:
        raise CommandError("a notice needs a PERSON and a TEXT, or --all and a TEXT.", status=2)
    wish = {"text": " ".join(words)} if arguments.all else {"name": words[0], "text": " ".join(words[1:])}
    told = _ask(arguments, "POST", "notice", wish, timeout=NOTICE_TIMEOUT)["told"]
    if arguments.json:
        say_json({"told": told})
        return 0
    say(f"{plural(len(told), 'person has', 'people have')} been told." if told else "There is nobody to tell yet.")
    return 0
