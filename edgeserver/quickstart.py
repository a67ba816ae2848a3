"""`edgeserver quickstart`: from three questions to a documented configuration.

The file is the documented example (`config.describe`) with the answers filled in, so that everything else can be found in it later.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeserver import config
from edgeserver.app.wires import WireError, driver_of, listener_of
from edgeserver.matrix import server_names

if TYPE_CHECKING:
    from collections.abc import Callable

REGISTRATION = ("closed", "token", "open")
DEFAULT_BAUD = "2400"
_PORTS = ("serial/by-id/*", "ttyUSB*", "ttyACM*", "ttyAMA*")


@dataclass(frozen=True, slots=True)
class Answers:
    """What the configuration is made of; None where nobody has answered yet.

    `name` is "" for a box that names itself, under `suffix`. `links` are URIs.
    """

    name: str | None = None
    suffix: str | None = None
    registration: str | None = None
    links: list[str] | None = None
    data: str = "data"
    tokens: list[str] = field(default_factory=list)


# Asking


def ask(given: Answers, prompt: Callable[[str], str], say: Callable[[str], None]) -> Answers:
    """Asks for whatever is not given; a wrong answer is asked for again. `prompt` shows a text and returns the line typed."""
    answers = given
    if answers.name is None:
        say("A server name is a domain that you own, such as matrix.example.org. Names are permanent: every account carries it.")
        say("Without one, the box names itself after its own key.")
        answers = replace(answers, name=_until_right(prompt, say, "Server name (empty: names itself): ", check_name))
    if answers.name == "" and answers.suffix is None:
        say("A self-named box is reached from the internet through a gateway: another box, under whose domain it is named.")
        say("Without one it is a .mesh box, which can never be reached from the internet.")
        answers = replace(answers, suffix=_until_right(prompt, say, "Gateway's domain (empty: none): ", check_suffix) or "mesh")
    if answers.registration is None:
        say("Who may make an account? closed: only you, by edgeserver person add. token: whoever has a token. open: anybody.")
        answers = replace(answers, registration=_until_right(prompt, say, "Registration [closed]: ", check_registration) or "closed")
    if answers.links is None:
        ports = serial_ports()
        say(f"Serial ports on this machine: {', '.join(ports)}." if ports else "There is no serial port on this machine now.")
        line = _until_right(prompt, say, "A line to another box, such as serial:/dev/ttyUSB0,2400 (empty: none): ", check_link)
        answers = replace(answers, links=[complete_link(line)] if line else [])
    return answers


def _until_right(prompt: Callable[[str], str], say: Callable[[str], None], question: str, check: Callable[[str], None]) -> str:
    while True:
        answer = prompt(question).strip()
        if not answer:
            return ""
        try:
            check(answer)
        except ValueError as error:
            say(f"{error}.")
            continue
        return answer


def filled(given: Answers) -> Answers:
    """The answers with the defaults for what nobody answered, checked. Raises ValueError with a sentence."""
    answers = replace(
        given,
        name=given.name or "",
        suffix=given.suffix or "mesh",
        registration=given.registration or "closed",
        links=[complete_link(link) for link in given.links or []],
    )
    if answers.name:
        check_name(answers.name)
    check_suffix(answers.suffix or "")
    check_registration(answers.registration or "")
    for link in answers.links or []:
        check_link(link)
    if answers.registration == "token" and not answers.tokens:
        answers = replace(answers, tokens=[secrets.token_urlsafe(9)])
    return answers


def serial_ports() -> list[str]:
    """Device files that look like serial ports; the stable names first."""
    return [str(path) for pattern in _PORTS for path in sorted(Path("/dev").glob(pattern))]


def check_name(name: str) -> None:
    if not server_names.is_valid(name) or "." not in name:
        raise ValueError(f"{name!r} is not a server name; it is a domain such as matrix.example.org")
    if name.endswith(".mesh"):
        raise ValueError("a .mesh name states the box's own key, so the box gives it to itself: leave the name empty")


def check_suffix(suffix: str) -> None:
    if not server_names.is_valid(suffix) or ":" in suffix:
        raise ValueError(f"{suffix!r} is not a domain such as gw.example.org")


def check_registration(word: str) -> None:
    if word not in REGISTRATION:
        raise ValueError(f"{word!r} is none of {', '.join(REGISTRATION)}")


def check_link(uri: str) -> None:
    try:
        if listener_of(complete_link(uri)) is None:
            driver_of(complete_link(uri))
    except WireError as error:
        raise ValueError(str(error)) from error


def complete_link(uri: str) -> str:
    """A bare device path is a serial line at 2400 baud."""
    if not uri.startswith("/"):
        return uri
    return f"serial:{uri}" if "," in uri else f"serial:{uri},{DEFAULT_BAUD}"


# Writing


def text(answers: Answers) -> str:
    """The configuration file. Raises `ConfigError` if the answers do not fit together."""
    values: dict[tuple[str, str], Any] = {("accounts", "registration"): answers.registration or "closed"}
    if answers.name:
        values["server", "name"] = answers.name
    else:
        values["server", "suffix"] = answers.suffix or "mesh"
    if answers.data != "data":
        values["server", "data"] = answers.data
    if answers.tokens:
        values["accounts", "registration_tokens"] = answers.tokens
    made = _fill(config.describe(), values)
    for uri in answers.links or []:
        made += f"\n[[links]]\nuri = {_toml(uri)}\n"
    config.parse(made)
    return made


def _fill(example: str, values: dict[tuple[str, str], Any]) -> str:
    """Puts values in the place of the example's commented defaults."""
    lines, section, missing = [], "", set(values)
    for line in example.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        key = line[2:].partition(" = ")[0] if line.startswith("# ") and " = " in line else ""
        if (section, key) in missing:
            missing.remove((section, key))
            line = f"{key} = {_toml(values[section, key])}"
        lines.append(line)
    if missing:
        raise ValueError(f"the example configuration has no place for {sorted(missing)}")
    return "\n".join(lines) + "\n"


def _toml(value: str | list[str]) -> str:
    """A TOML basic string is a JSON string."""
    return json.dumps(value, ensure_ascii=True)


def write(path: Path, content: str) -> None:
    """Writes a new file that its owner alone may read. Raises FileExistsError, and OSError."""
    import os

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)


def next_steps(answers: Answers, path: Path) -> str:
    """What the answers mean, and what to do now."""
    lines = []
    if answers.name:
        lines.append(f"The box will be {answers.name}, for good. For the internet it needs a certificate of that name ([http] certificate)")
        lines.append("and an open port 8448, or [http] well_known_server. Over lines and on local networks it works without.")
    elif answers.suffix == "mesh":
        lines.append("The box will name itself, for good.")
        lines.append("A .mesh name can never be reached from the internet, only over lines and local networks.")
    else:
        lines.append(f"The box will name itself under {answers.suffix}, for good.")
        lines.append("Once it runs, pair it with that gateway: edgeserver pair CODE --gateway")
    if answers.tokens:
        lines.append(f"People register with the token {answers.tokens[0]} (in the file, too).")
    start = "edgeserver serve" if path == Path("edgeserver.toml") else f"edgeserver serve --config {path}"
    return "\n".join([*lines, f"Next: {start}"])
