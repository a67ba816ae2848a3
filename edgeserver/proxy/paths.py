"""How each request of an ordinary client is treated on a thin line: tables of methods and paths (pure).

Endpoints are the client-server API's; a path is matched without its prefix `/_matrix/client/<version>/`. What the tables
do not know goes over the line as it is: somebody waits for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from urllib.parse import quote, unquote

from transports.exchange import Priority


class Kind(Enum):
    """What the proxy does with a request, beyond carrying it."""

    FORWARD = auto()
    """Nothing."""
    SEND = auto()
    """Hold it until it is delivered, in the order of its lane, and once for each transaction id."""
    SYNC = auto()
    """Make it cheap, hold the poll at the box, let a newer one take its place."""
    SLIDING_SYNC = auto()
    """Let a newer one take its place."""
    OLDER = auto()
    """Give a page of older events from what has been told, as far as that goes."""
    HUSHED = auto()
    """Answer it here on a thin line: typing and presence."""
    CACHED = auto()
    """Answer it from a copy while that is fresh."""
    KEYS = auto()
    """Learn how many one-time keys of the device the box now holds."""
    FILTER = auto()
    """Thin the filter that is being defined; answer it here if it is known."""
    LOGIN = auto()
    """Learn whose the new token is; take the box's own address out of the answer."""
    LOGOUT = auto()
    """Forget whose the token is."""
    UPLOAD = auto()
    """Refuse what the line would carry for too long; carry the rest in parts."""
    DOWNLOAD = auto()
    """On a thin line give what is kept, fetch it in parts or refuse it (`proxy.media`); else fetch it in parts."""
    AUTOMATIC = auto()
    """A thumbnail: on a thin line as a download, which clients make without being asked to as well; else nothing."""
    PREVIEW = auto()
    """Answer with an empty preview on a thin line."""
    FOREIGN = auto()
    """Not an endpoint for clients."""


class Keep(Enum):
    """Whether its last answer is kept for when the line is down, and for whom (`proxy.kept_answers`)."""

    NOT = auto()
    FOR_ANYBODY = auto()
    """It is the same for everybody, and a client asks for it before it has a token."""
    FOR_PERSON = auto()
    """For the user who was given it, although the box asks for no token."""
    FOR_USER = auto()
    """For all devices of the user who was given it. That it is given at all says that the token is good."""
    FOR_DEVICE = auto()
    """The same, for the device alone."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """`repeatable`: carrying it out twice does no harm. `lane`: what must be delivered in order shares a lane (None: no matter)."""

    kind: Kind
    priority: Priority
    repeatable: bool
    lane: str | None = None
    keep: Keep = Keep.NOT


_CLIENT: Final = re.compile(r"/_matrix/client/(?:r0|v\d+|api/v1|unstable(?:/[a-z]+(?:\.[\w-]+)+)?)/(.*)", re.DOTALL)
_VERSIONS: Final = "/_matrix/client/versions"
_MEDIA: Final = re.compile(r"/_matrix/(?:media/\w+|client/v1/media)/(.*)", re.DOTALL)
_LANE: Final = re.compile(r"rooms/([^/]+)/")

_I, _M, _R, _H = Priority.INTERACTIVE, Priority.MESSAGE, Priority.RECEIPT, Priority.HISTORY
_ROOM: Final = "rooms/[^/]+"
_TABLE: Final = [
    (re.compile(rf"(?:{methods}) (?:{path})"), kind, priority)
    for methods, path, kind, priority in (
        ("PUT", rf"{_ROOM}/send/[^/]+/[^/]+", Kind.SEND, _M),
        ("PUT", rf"{_ROOM}/redact/[^/]+/[^/]+", Kind.SEND, _M),
        ("PUT", r"sendToDevice/[^/]+/[^/]+", Kind.SEND, _M),
        ("GET", r"sync", Kind.SYNC, _M),
        ("POST", r"sync", Kind.SLIDING_SYNC, _M),
        ("PUT", rf"{_ROOM}/typing/[^/]+", Kind.HUSHED, _R),
        ("PUT", r"presence/[^/]+/status", Kind.HUSHED, _R),
        ("GET", r"presence/[^/]+/status", Kind.FORWARD, _R),
        ("POST", rf"{_ROOM}/(?:receipt/.+|read_markers)", Kind.FORWARD, _R),
        ("GET", r"login", Kind.CACHED, _I),
        ("POST", r"login|register|refresh", Kind.LOGIN, _I),
        ("POST", r"logout(?:/all)?", Kind.LOGOUT, _I),
        ("GET", r"capabilities", Kind.CACHED, _I),
        ("POST", r"user/[^/]+/filter", Kind.FILTER, _I),
        ("GET", r"user/[^/]+/filter/[^/]+", Kind.FILTER, _I),
        ("GET", rf"{_ROOM}/messages", Kind.OLDER, _H),
        ("GET", rf"{_ROOM}/(?:context/.+|relations/.+|threads|timestamp_to_event)", Kind.FORWARD, _H),
        ("GET", rf"{_ROOM}/(?:members|joined_members|state|hierarchy)", Kind.FORWARD, _M),
        ("GET|PUT|POST|DELETE", r"room_keys/.*", Kind.FORWARD, _H),
        ("POST", r"keys/upload(?:/.*)?", Kind.KEYS, _M),
        ("GET|POST", r"publicRooms", Kind.FORWARD, _M),
        ("POST", r"search", Kind.FORWARD, _H),
    )
]
_KEPT: Final = [
    (re.compile(f"(?:{path})"), keep)
    for path, keep in (
        (r"login", Keep.FOR_ANYBODY),
        (r"account/whoami|devices(?:/[^/]+)?", Keep.FOR_DEVICE),
        (r"profile/[^/]+(?:/[^/]+)?|directory/room/[^/]+|auth_metadata", Keep.FOR_PERSON),
        (r"capabilities|voip/turnServer|thirdparty/protocols|joined_rooms|pushrules(?:/.*)?|room_keys/version(?:/[^/]+)?", Keep.FOR_USER),
        (r"user/[^/]+/(?:rooms/[^/]+/)?account_data/[^/]+|user/[^/]+/rooms/[^/]+/tags", Keep.FOR_USER),
        (rf"{_ROOM}/(?:state(?:/.*)?|members|joined_members|aliases|hierarchy)", Keep.FOR_USER),
        (rf"{_ROOM}/(?:messages|threads|(?:event|context|relations)/.+)", Keep.FOR_USER),
    )
]
"""What is kept of GET."""
_MEMBERS: Final = "(?:state(?:/.*)?|members|joined_members)"
_OUTDATES: Final = [
    (re.compile(f"(?:PUT|POST|DELETE) (?:{change})"), outdated)
    for change, outdated in (
        (r"(user/[^/]+/(?:rooms/[^/]+/)?account_data/[^/]+)", r"{}"),
        (r"(user/[^/]+/rooms/[^/]+)/tags/.*", r"{}/(?:tags|account_data/m\.tag)"),
        (rf"({_ROOM})/(?:read_markers|receipt/m\.fully_read/.*)", r"user/[^/]+/{}/account_data/m\.fully_read"),
        (r"pushrules/.*", r"pushrules(?:/.*)?|user/[^/]+/account_data/m\.push_rules"),
        (r"(profile/[^/]+)/.*", r"{}(?:/.*)?"),
        (rf"({_ROOM})/state/.*", rf"{{}}/(?:{_MEMBERS}|aliases|hierarchy)"),
        (rf"({_ROOM})/(?:join|leave|forget|invite|kick|ban|unban|upgrade)", rf"{{}}/{_MEMBERS}|joined_rooms"),
        (r"(?:join|knock)/([^/]+)", rf"rooms/{{}}/{_MEMBERS}|joined_rooms"),
        (r"createRoom", r"joined_rooms"),
        (rf"({_ROOM})/redact/.*", r"{}/(?:messages|threads|(?:event|context|relations)/.*)"),
        (r"(directory/room/.*)", rf"{{}}|{_ROOM}/aliases"),
        (r"devices/.*|delete_devices", r"devices(?:/.*)?"),
        (r"room_keys/version.*", r"room_keys/version.*"),
    )
]
"""Which kept answers a change makes untrue, as far as its path tells: `{}` stands for what the group has matched."""
_REPEATABLE_POSTS: Final = re.compile(
    rf"sync|keys/(?:query|upload(?:/.*)?)|{_ROOM}/(?:receipt/.+|read_markers|join)|join/[^/]+|user/[^/]+/filter"
    r"|search|publicRooms|user_directory/search|logout"
)
_SAFE_TO_REPEAT: Final = frozenset(("GET", "HEAD", "PUT", "DELETE"))


def treatment_of(method: str, path: str) -> Treatment:
    """`path` is percent-encoded, without its query."""
    repeatable = method in _SAFE_TO_REPEAT
    media = _MEDIA.fullmatch(path)
    if media is not None:
        return _media(method, media[1], repeatable)
    if path == _VERSIONS and method == "GET":
        return Treatment(Kind.CACHED, Priority.INTERACTIVE, True, keep=Keep.FOR_ANYBODY)
    client = _CLIENT.fullmatch(path)
    if client is None:
        return Treatment(Kind.FOREIGN, Priority.INTERACTIVE, False)
    rest = client[1]
    repeatable = repeatable or _REPEATABLE_POSTS.fullmatch(rest) is not None
    keep = next((keep for pattern, keep in _KEPT if method == "GET" and pattern.fullmatch(rest)), Keep.NOT)
    for pattern, kind, priority in _TABLE:
        if pattern.fullmatch(f"{method} {rest}"):
            return Treatment(kind, priority, repeatable, _lane(rest) if kind is Kind.SEND else None, keep)
    return Treatment(Kind.FORWARD, Priority.INTERACTIVE, repeatable, keep=keep)


def endpoint_of(path: str) -> str:
    """The path without its prefix, percent-encoded in one way; "" of what is no endpoint for clients."""
    client = _CLIENT.fullmatch(path)
    return "" if client is None else "/".join(quote(unquote(part), safe="") for part in client[1].split("/"))


def outdated_by(method: str, path: str) -> re.Pattern[str] | None:
    """The endpoints (as `endpoint_of`) whose kept answers that request makes untrue if the box grants it; None if none."""
    if method == "GET":
        return None
    endpoint = endpoint_of(path)
    for pattern, outdated in _OUTDATES:
        if (change := pattern.fullmatch(f"{method} {endpoint}")) is not None:
            return re.compile(outdated.replace("{}", re.escape(change[1]) if pattern.groups else ""))
    return None


def _media(method: str, rest: str, repeatable: bool) -> Treatment:
    if rest == "config" and method == "GET":
        return Treatment(Kind.CACHED, Priority.INTERACTIVE, True, keep=Keep.FOR_USER)
    if rest.startswith("thumbnail/") and method == "GET":
        return Treatment(Kind.AUTOMATIC, Priority.MEDIA, repeatable)
    if rest == "preview_url":
        return Treatment(Kind.PREVIEW, Priority.MEDIA, repeatable)
    if rest.startswith("download/") and method == "GET":
        return Treatment(Kind.DOWNLOAD, Priority.MEDIA, repeatable)
    upload = method in ("POST", "PUT")
    return Treatment(Kind.UPLOAD if upload else Kind.FORWARD, Priority.MEDIA, repeatable)


def _lane(rest: str) -> str:
    """Messages keep their order within a room, to-device messages among themselves."""
    room = _LANE.match(rest)
    return "" if room is None else room[1]
