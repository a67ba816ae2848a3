"""Identifiers: users, rooms, aliases, events.

Spec: appendices, "Identifier Grammar". Each is a sigil, a local part and, mostly, `:` and a server name; none is longer
than 255 bytes of UTF-8. What other servers already use is accepted widely; what is made here is made strictly.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import server_names

if TYPE_CHECKING:
    from typing import TypeGuard

MAX_BYTES: Final = 255

_STRICT_LOCALPART = re.compile(r"[a-z0-9._=\-/+]+")
_HASH_URL_SAFE = re.compile(r"[A-Za-z0-9_-]{43}")
_HASH_STANDARD = re.compile(r"[A-Za-z0-9+/]{43}")
_KEY_VERSION = re.compile(r"[A-Za-z0-9_]+")


def fits(identifier: str, limit: int = MAX_BYTES) -> bool:
    """Whether the text is Unicode of at most `limit` bytes in UTF-8."""
    if len(identifier) > limit:
        return False
    try:
        return identifier.isascii() or len(identifier.encode()) <= limit
    except UnicodeEncodeError:  # a lone surrogate
        return False


def domain_of(identifier: str) -> str:
    """The server name of a user id, alias or room id: everything after the first colon, "" if there is none.

    A room id of version 12 and an event id from version 3 on have none.
    """
    return identifier.partition(":")[2]


def localpart_of(identifier: str) -> str:
    """The part between the sigil and the first colon."""
    return identifier[1:].partition(":")[0]


def is_user_id(value: Any) -> TypeGuard[str]:
    """Whether this is a user id as other servers may send one: historical local parts included.

    Spec: appendices, "Historical User IDs": any Unicode but `:` and NUL, even the empty string.
    """
    return type(value) is str and _is_domain_id(value, "@")


def is_room_alias(value: Any) -> TypeGuard[str]:
    """Whether this is a room alias, `#localpart:domain`."""
    return type(value) is str and _is_domain_id(value, "#")


def is_room_id(value: Any) -> TypeGuard[str]:
    """Whether this is a room id: `!opaque:domain`, or `!` and a hash (v12)."""
    if type(value) is not str:
        return False
    return is_hash_room_id(value) or _is_domain_id(value, "!")


def is_hash_room_id(value: str) -> bool:
    """Whether this is a room id of version 12: `!` and 43 characters of URL-safe base64."""
    return value.startswith("!") and _HASH_URL_SAFE.fullmatch(value, 1) is not None


def is_domain_room_id(value: str) -> bool:
    """Whether this is a room id of versions 1 to 11: `!opaque:domain`."""
    return _is_domain_id(value, "!")


def is_event_id(value: Any) -> TypeGuard[str]:
    """Whether this is an event id of any room version."""
    if type(value) is not str:
        return False
    return is_url_safe_event_id(value) or is_standard_event_id(value) or is_domain_event_id(value)


def is_domain_event_id(value: str) -> bool:
    """Whether this is an event id of room versions 1 and 2: `$opaque:domain`."""
    return _is_domain_id(value, "$")


def is_standard_event_id(value: str) -> bool:
    """Whether this is an event id of room version 3: `$` and a hash in standard base64."""
    return value.startswith("$") and _HASH_STANDARD.fullmatch(value, 1) is not None


def is_url_safe_event_id(value: str) -> bool:
    """Whether this is an event id from room version 4 on: `$` and a hash in URL-safe base64."""
    return value.startswith("$") and _HASH_URL_SAFE.fullmatch(value, 1) is not None


def is_strict_localpart(localpart: str) -> bool:
    """Whether a user may be registered here under this local part (spec: appendices, "User Identifiers")."""
    return _STRICT_LOCALPART.fullmatch(localpart) is not None


def user_id(localpart: str, server_name: str) -> str:
    """The id of one of our users.

    Raises ValueError if the local part is outside the strict grammar or the id would be longer than 255 bytes.
    """
    identifier = f"@{localpart}:{server_name}"
    if not is_strict_localpart(localpart) or not fits(identifier):
        raise ValueError("not a valid local part of a user id")
    return identifier


def is_key_id(value: Any) -> TypeGuard[str]:
    """Whether this is a server's signing key id, `algorithm:version`."""
    if type(value) is not str or not fits(value):
        return False
    algorithm, colon, version = value.partition(":")
    return bool(algorithm) and bool(colon) and _KEY_VERSION.fullmatch(version) is not None


def _is_domain_id(value: str, sigil: str) -> bool:
    return len(value) <= MAX_BYTES and _follows_grammar(value, sigil)


@lru_cache(maxsize=4096)
def _follows_grammar(value: str, sigil: str) -> bool:
    if not value.startswith(sigil) or "\0" in value or not fits(value):
        return False
    _, colon, domain = value.partition(":")
    return bool(colon) and server_names.is_valid(domain)
