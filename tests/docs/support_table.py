"""The table of what is served, made from the routes: `python -m tests.docs.support_table` writes it into README.md, between two comments.

The operations are those of the specification that a homeserver serves (tests/data/endpoints.csv). An operation is served if a box whose
every setting is on has a route for it that does not refuse whoever asks. What is not served needs a reason in `REASONS`, or in `REFUSED`
if there is a route that says so.
"""

from __future__ import annotations

import csv
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from edgeserver.app.box import Box, Wires, open_box
from edgeserver.config import parse

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BEGIN, END = "<!-- support table: begin -->", "<!-- support table: end -->"

EVERYTHING = """
[server]
name = "a.test"
[http]
public_url = "https://a.test"
well_known_server = "a.test:443"
[accounts]
registration = "open"
guests = 1
login_tokens = true
[smtp]
host = "mail.a.test"
sender = "box@a.test"
[federation]
internet = false
[media]
url_previews = true
[support]
page = "https://a.test/help"
[turn]
uris = ["turn:a.test:3478"]
shared_secret = "secret"
[bridges]
registrations = ["bridge.yaml"]
"""
"""A configuration that switches on whatever brings routes with it."""

BRIDGE = """
id: irc
url: null
as_token: a
hs_token: h
sender_localpart: irc
namespaces: {}
"""

NO_ASSOCIATIONS = "there is no identity server behind this one, and no telephone numbers are kept"
REASONS: dict[str, str] = {
    "oauth_server_metadata getAuthMetadata": "there is no OAuth 2.0 server here: people log in with a password",
    "sso_login_redirect redirectToSSO": "no identity provider is asked: people log in with a password",
    "sso_login_redirect redirectToIdP": "no identity provider is asked: people log in with a password",
    "policy_server getWellknownPolicy": "this server is no policy server; those of rooms are asked",
}
"""`file operation` of what has no route: why."""

REFUSED: dict[str, str] = {
    "administrative_contact post3PIDs": "deprecated: it would add an address that nobody has proven; `/account/3pid/add` is served",
    "administrative_contact bind3PID": NO_ASSOCIATIONS,
    "administrative_contact requestTokenTo3PIDMSISDN": NO_ASSOCIATIONS,
    "password_management requestTokenToResetPasswordMSISDN": NO_ASSOCIATIONS,
    "registration requestTokenToRegisterMSISDN": NO_ASSOCIATIONS,
    "third_party_membership inviteBy3PID": NO_ASSOCIATIONS,
}
"""`file operation` of what has a route that refuses whoever asks: why."""

PREFIXES = {"client-server": "", "server-server": "federation "}
APIS = {"client-server": "Client-server", "server-server": "Server-server"}


@dataclass(frozen=True)
class Operation:
    """One operation of the specification. `key` names it in the dictionaries of reasons."""

    api: str
    key: str
    section: str
    method: str
    path: str


def operations() -> list[Operation]:
    """Those that a homeserver serves."""
    with (ROOT / "tests/data/endpoints.csv").open(newline="") as file:
        return [_operation(row) for row in csv.DictReader(file) if row["served_by"] == "homeserver"]


def _operation(row: dict[str, str]) -> Operation:
    key = f"{PREFIXES[row['api']]}{row['file']} {row['operation']}"
    return Operation(row["api"], key, _title(row["section"]), row["method"], row["path"])


def _title(section: str) -> str:
    """`module: end_to_end_encryption` → `End to end encryption`."""
    name = section.rpartition(": ")[2].replace("_", " ")
    return name[0].upper() + name[1:]


def routes_of(box: Box) -> list[Any]:
    """The routes of a running box."""
    app = box.app
    while not hasattr(app, "routes"):
        app = app._app
    return list(app.routes)


def with_routes(all_operations: Iterable[Operation], routes: Iterable[Any]) -> set[str]:
    """The keys of the operations for which there is a route."""
    served = [(re.compile(_pattern(route.path)), route.methods) for route in routes]

    def is_there(operation: Operation) -> bool:
        path = re.sub(r"\{\w+\}", "x", operation.path)
        return any(operation.method in methods and pattern.fullmatch(path) for pattern, methods in served)

    return {operation.key for operation in all_operations if is_there(operation)}


def _pattern(path: str) -> str:
    parts = re.split(r"(\{\w+(?::path)?\})", path)
    return "".join((".*" if part.endswith(":path}") else "[^/]+") if part.startswith("{") else re.escape(part) for part in parts)


async def served_keys() -> set[str]:
    """The keys of what a box with every setting on has routes for."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bridge.yaml").write_text(BRIDGE)
        async with open_box(parse(EVERYTHING, Path(folder)), Wires(inline=True)) as box:
            return with_routes(operations(), routes_of(box))


def table(served: set[str]) -> str:
    """The block: sections with counts, then what is not served with the reason."""
    lines: list[str] = []
    why = {**REASONS, **REFUSED}
    for api, title in APIS.items():
        listed = [one for one in operations() if one.api == api]
        done = [one for one in listed if one.key in served and one.key not in REFUSED]
        lines += [f"**{title} API**: {len(done)} of {len(listed)} operations", "", "| section | served | of |", "|---|---:|---:|"]
        for section in sorted({one.section for one in listed}):
            whole = [one for one in listed if one.section == section]
            lines.append(f"| {section} | {sum(one in done for one in whole)} | {len(whole)} |")
        lines.append("")
    missing = [one for one in operations() if one.api in APIS and (one.key not in served or one.key in REFUSED)]
    if missing:
        lines += ["| not served | because |", "|---|---|"]
        lines += [f"| `{one.method} {one.path}` | {why[one.key]} |" for one in missing]
    return "\n".join(lines).strip()


def block_of(text: str) -> str | None:
    """What stands between the two comments of a README."""
    found = re.search(f"{re.escape(BEGIN)}\n(.*?)\n?{re.escape(END)}", text, re.DOTALL)
    return None if found is None else found[1].strip()


def main() -> None:
    text = README.read_text()
    if block_of(text) is None:
        raise SystemExit(f"README.md has no place for the table: put the two lines {BEGIN} and {END} where it is to be.")
    before, _, rest = text.partition(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{table(trio.run(served_keys))}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
