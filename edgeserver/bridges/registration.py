"""Registration files: what an application service is, as the bridge that will run generates it for its homeserver.

Spec: application service API, "Registration". YAML, of which JSON is a part. Beside the keys of the spec those are read that bridges
still write under older names: `de.sorunome.msc2409.push_ephemeral` (now `receive_ephemeral`) and `org.matrix.msc3202` (what an
encrypting service needs in its transactions). `io.element.msc4190` asks for what every application service may do here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from edgeserver.bridges.patterns import PatternError, compiled, matches
from edgeserver.matrix import identifiers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

MAX_FILE: Final = 256 * 1024
MAX_NAMESPACES: Final = 100
_HEADER_TEXT = re.compile(r"[\x21-\x7e]+")


class RegistrationError(Exception):
    """One sentence for the person who configured the file."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A pattern of names. Names of an `exclusive` one nobody else may make."""

    pattern: re.Pattern[str]
    exclusive: bool

    def takes(self, name: str) -> bool:
        return matches(self.pattern, name)


@dataclass(frozen=True, slots=True)
class Registration:
    """One application service. `url` None: it is sent nothing. `encrypts`: its transactions tell of device lists and key counts."""

    id: str
    url: str | None
    as_token: str
    hs_token: str
    sender_localpart: str
    users: tuple[Namespace, ...] = ()
    aliases: tuple[Namespace, ...] = ()
    rooms: tuple[Namespace, ...] = ()
    rate_limited: bool = False
    protocols: tuple[str, ...] = ()
    receive_ephemeral: bool = False
    encrypts: bool = False


def load(paths: Sequence[Path], server_name: str) -> list[Registration]:
    """Reads the files. Raises `RegistrationError`, for two services with the same id or token too."""
    found: list[Registration] = []
    for path in paths:
        try:
            text = path.read_bytes()
        except OSError as error:
            raise RegistrationError(f"{path} cannot be read: {error.strerror}.") from error
        one = parse(text, str(path))
        try:
            identifiers.user_id(one.sender_localpart, server_name)
        except ValueError:
            raise RegistrationError(f"{path}: sender_localpart is {one.sender_localpart!r}, which is no user name here.") from None
        for other in found:
            for key in ("id", "as_token", "sender_localpart"):
                if getattr(one, key) == getattr(other, key):
                    raise RegistrationError(f"{path}: its {key} is that of another application service too.")
        found.append(one)
    return found


def parse(text: bytes, source: str = "the registration") -> Registration:
    """Reads the text of a file. Raises `RegistrationError`."""
    if len(text) > MAX_FILE:
        raise RegistrationError(f"{source} is too large for a registration.")
    try:
        return _registration(_decoded(text))
    except _Wrong as wrong:
        raise RegistrationError(f"{source}: {wrong}.") from wrong


class _Wrong(Exception):
    """What is wrong, without a full stop."""


def _decoded(text: bytes) -> Mapping[str, Any]:
    import yaml  # only here: most boxes have no bridge

    try:
        found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1})"
        raise _Wrong(f"it is not valid YAML{where}") from error
    if not isinstance(found, dict):
        raise _Wrong("it is no registration of an application service, which is a mapping with id, url, as_token and others")
    return found


def _registration(given: Mapping[str, Any]) -> Registration:
    namespaces = given.get("namespaces")
    if not isinstance(namespaces, dict):
        raise _Wrong("namespaces is missing, or no mapping")
    if "|" in str(given.get("id")):  # it parts the id from that of a network, where rooms are listed
        raise _Wrong("id has the character |, which it cannot have here")
    return Registration(
        id=_text(given, "id"),
        url=_url(given),
        as_token=_token(given, "as_token"),
        hs_token=_token(given, "hs_token"),
        sender_localpart=_text(given, "sender_localpart"),
        users=_namespaces(namespaces, "users"),
        aliases=_namespaces(namespaces, "aliases"),
        rooms=_namespaces(namespaces, "rooms"),
        rate_limited=_flag(given, "rate_limited"),
        protocols=_protocols(given),
        receive_ephemeral=_flag(given, "receive_ephemeral") or _flag(given, "de.sorunome.msc2409.push_ephemeral"),
        encrypts=_flag(given, "org.matrix.msc3202"),
    )


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    if not isinstance(value, str) or not value or not identifiers.fits(value):
        raise _Wrong(f"{key} is missing, or no text of 1 to {identifiers.MAX_BYTES} bytes")
    return value


def _token(given: Mapping[str, Any], key: str) -> str:
    value = _text(given, key)
    if _HEADER_TEXT.fullmatch(value) is None:
        raise _Wrong(f"{key} has characters that an HTTP header cannot carry")
    return value


def _url(given: Mapping[str, Any]) -> str | None:
    if "url" not in given:
        raise _Wrong("url is missing (null says that the service is sent nothing)")
    url = given["url"]
    if url is None or url == "":
        return None
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        fine = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        fine = fine and parts is not None and not (parts.query or parts.fragment or parts.username) and url.isascii()
    except ValueError:
        fine = False
    if not fine:
        raise _Wrong(f"url is {url!r}, which is no http:// or https:// URL, such as http://localhost:29317")
    return str(url).rstrip("/")


def _flag(given: Mapping[str, Any], key: str) -> bool:
    value = given.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _Wrong(f"{key} is {value!r}, neither true nor false")
    return value


def _protocols(given: Mapping[str, Any]) -> tuple[str, ...]:
    value = given.get("protocols") or []
    if not isinstance(value, list) or not all(isinstance(one, str) and one and identifiers.fits(one) for one in value):
        raise _Wrong("protocols is no list of texts")
    return tuple(dict.fromkeys(value))


def _namespaces(given: Mapping[str, Any], kind: str) -> tuple[Namespace, ...]:
    value = given.get(kind) or []
    if not isinstance(value, list) or len(value) > MAX_NAMESPACES:
        raise _Wrong(f"namespaces.{kind} is no list of at most {MAX_NAMESPACES} namespaces")
    return tuple(_namespace(one, kind) for one in value)


def _namespace(value: object, kind: str) -> Namespace:
    if not isinstance(value, dict) or not isinstance(value.get("regex"), str):
        raise _Wrong(f"a namespace of {kind} has no regex")
    try:
        return Namespace(compiled(value["regex"]), _flag(value, "exclusive"))
    except PatternError as error:
        raise _Wrong(f"the regex {value['regex'][:100]!r} of namespaces.{kind} {error}") from error


def any_takes(namespaces: Iterable[Namespace], name: str, *, exclusive: bool = False) -> bool:
    """Whether some namespace (with `exclusive`: some exclusive one) takes the name."""
    return any(one.takes(name) for one in namespaces if one.exclusive or not exclusive)
