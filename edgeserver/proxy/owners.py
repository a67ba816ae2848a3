"""Whose an access token is, as far as the box has said so: what is kept here is given to nobody else, also while the line is down.

It is learnt from answers that pass through, and the box is asked (GET /account/whoami) only where the name itself is needed. Of some tokens
it is known merely that they are one of the box's people's; their owner is "". A token is forgotten as soon as the box does not know it any
more (401 M_UNKNOWN_TOKEN), when another has taken its place, and when it logs out.

The file holds a list, what was used last at the end: the SHA-256 of an access token, in hexadecimal digits, and its owner; and, so that it
is known whose the next access token is, that of a refresh token, its owner, and the SHA-256 of the access token that came with it. Spec:
client-server API, "Using access tokens", "Refreshing access tokens".
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import trio

from edgeserver.proxy.errands import Terms
from edgeserver.proxy.paths import Keep, Kind
from edgeserver.proxy.replies import json_object
from edgeserver.proxy.small_file import SmallFile
from transports.exchange import Priority, Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeserver.paired.line import Line
    from edgeserver.proxy.call import Call
    from edgeserver.proxy.errands import Errands
    from transports.exchange import Response

MAX_TOKENS: Final = 128
PATIENCE: Final = 3600.0
WHOAMI: Final = "/_matrix/client/v3/account/whoami"
_TERMS: Final = Terms(linger=120.0)
_MAX_USER_ID: Final = 255
_TOLD_TO_PEOPLE: Final = frozenset((Kind.SYNC, Kind.SLIDING_SYNC))
_KEPT_FOR_PEOPLE: Final = frozenset((Keep.FOR_USER, Keep.FOR_DEVICE))
"""What the box answers only to its own people."""
_ACCOUNT: Final = re.compile(r"/_matrix/client/(?:r0|v\d+)/account/whoami")
_USER: Final = re.compile(r"/_matrix/client/(?:r0|v\d+)/user/([^/]+)/.*")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def digest_of(authorization: str) -> str:
    """The SHA-256 of the token in an Authorization header."""
    scheme, _, token = authorization.partition(" ")
    return hashlib.sha256((token.strip() if scheme.lower() == "bearer" else authorization).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Entry:
    """Of an access token; of a refresh token, if `access` is the digest of the access token that came with it."""

    owner: str
    access: str = ""


class Owners:
    """User ids by token; all tokens are given as they stand in an Authorization header. `run` is one task for the life of the proxy.

    `box` is the box's public key in base64. `inline`: see `app.blocking`.
    """

    def __init__(self, line: Line, errands: Errands, path: Path, box: str, *, inline: bool = False) -> None:
        self._line = line
        self._errands = errands
        self._file = SmallFile(path, box, self._told, inline=inline)
        self._owners: dict[str, _Entry] = {}
        self.when_forgotten: list[Callable[[str], None]] = []
        """Called with the `digest_of` a token that was forgotten, and with the user id of whom no token is known any more."""
        self.when_replaced: list[Callable[[str, str], None]] = []
        """Called with the `digest_of` an access token and of that which takes its place, before the first is forgotten."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reads the file, and from then on writes it, until cancelled."""
        self._owners = _owners(await self._file.load())
        task_status.started()
        await self._file.run()

    def _told(self) -> list[list[str]]:
        return [[digest, entry.owner, *([entry.access] if entry.access else [])] for digest, entry in self._owners.items()]

    def known(self, authorization: str) -> str | None:
        """The user id, "" of somebody whom the box knows but who is not known here, or None. Without the line."""
        return self._known(digest_of(authorization)) if authorization else None

    async def of(self, authorization: str) -> str | None:
        """The user id, for which the box is asked if need be; None if it does not say. Waits for the line. Raises M_LIMIT_EXCEEDED."""
        known = self.known(authorization)
        if not known and authorization:
            key = ("whose", digest_of(authorization))
            await self._errands.ask(key, partial(self._ask, authorization), _TERMS)
            known = self.known(authorization)
        return known or None

    async def _ask(self, authorization: str) -> Response:
        request = Request("GET", WHOAMI, headers=(("authorization", authorization),), priority=Priority.MESSAGE, timeout=float("inf"))
        response = await self._line.carry(request, repeatable=True, patience=PATIENCE)
        if _is_unknown(response):
            self.forget(authorization)
        elif response.status == 200:
            self.learn(authorization, _text(json_object(response.body), "user_id"))
        return response

    def learn(self, authorization: str, user_id: str) -> None:
        """The box has accepted that token; `user_id` may be "" if it has not said whose it is."""
        if authorization and len(user_id.encode()) <= _MAX_USER_ID:
            self._learn(digest_of(authorization), _Entry(user_id))

    def forget(self, authorization: str) -> None:
        """The token is not valid any longer; another may still take its place."""
        self._forget(digest_of(authorization))

    def log_out(self, authorization: str) -> None:
        """The token is not valid any longer, and neither is what refreshes it."""
        self._log_out(digest_of(authorization))

    def log_out_everywhere(self, user_id: str) -> None:
        for digest in [digest for digest, entry in self._owners.items() if entry.owner == user_id]:
            self._forget(digest)

    def is_path_of_its_own(self, call: Call) -> bool:
        """Whether it is for /user/{userId}/... of nobody but the token's owner."""
        user_id = _path_user(call)
        return bool(user_id) and user_id == self.known(call.authorization)

    def hear(self, call: Call, response: Response) -> None:
        """Learns from the box's answer to a client."""
        kind = call.treatment.kind
        if kind is Kind.LOGIN:
            self._hear_login(call, response)
        elif _is_unknown(response):
            self.forget(call.authorization)
        elif response.status == 200:
            user_id = _told_by(call, response)
            if user_id or kind in _TOLD_TO_PEOPLE or call.treatment.keep in _KEPT_FOR_PEOPLE:
                self.learn(call.authorization, user_id)

    def _hear_login(self, call: Call, response: Response) -> None:
        """POST /login, /register and /refresh."""
        used = _refresh_digest(_text(json_object(call.request.body), "refresh_token"))
        if _is_unknown(response):
            self._forget(used)
        told = json_object(response.body) if response.status == 200 else None
        token, refresh = _text(told, "access_token"), _text(told, "refresh_token")
        if not token:
            return
        before = self._owners.get(used)
        user_id = _text(told, "user_id") or ("" if before is None else before.owner)
        access = digest_of(f"Bearer {token}")
        self._learn(access, _Entry(user_id))
        if refresh and user_id:
            self._learn(_refresh_digest(refresh), _Entry(user_id, access))
        if before is not None:
            self._learn(used, _Entry(user_id, access))  # it is valid until the next is used, if this answer gets lost
            if before.access != access:
                for tell in self.when_replaced:
                    tell(before.access, access)
            self._log_out(before.access)

    # ---- by digest

    def _known(self, digest: str) -> str | None:
        entry = self._owners.pop(digest, None)
        if entry is None or entry.access:
            return None
        self._owners[digest] = entry  # used last
        return entry.owner

    def _learn(self, digest: str, entry: _Entry) -> None:
        known = self._owners.pop(digest, None)
        if known is not None and not entry.owner:
            entry = known
        self._owners[digest] = entry
        while len(self._owners) > MAX_TOKENS:
            del self._owners[next(iter(self._owners))]
        if entry != known:
            self._file.change()

    def _log_out(self, access: str) -> None:
        for digest in [digest for digest, entry in self._owners.items() if entry.access == access]:
            self._forget(digest)
        self._forget(access)

    def _forget(self, digest: str) -> None:
        entry = self._owners.pop(digest, None)
        if entry is None:
            return
        self._file.change()
        is_gone = bool(entry.owner) and all(each.owner != entry.owner for each in self._owners.values())
        for tell in self.when_forgotten:
            tell(digest)
            if is_gone:
                tell(entry.owner)


def _told_by(call: Call, response: Response) -> str:
    """Whose token it is, if the answer or the path of what was granted says so."""
    if _ACCOUNT.fullmatch(call.path) and not call.speaks_for_another:
        return _text(json_object(response.body), "user_id")
    return _path_user(call)


def _path_user(call: Call) -> str:
    """Of /user/{userId}/..., which the box answers to that user alone; "" of anything else."""
    path = _USER.fullmatch(call.path)
    return "" if path is None or call.speaks_for_another else unquote(path[1], errors="replace")


def _is_unknown(response: Response) -> bool:
    """Spec: client-server API, "Using access tokens" and "Soft logout"."""
    return response.status == 401 and _text(json_object(response.body), "errcode") == "M_UNKNOWN_TOKEN"


def _refresh_digest(token: str) -> str:
    return hashlib.sha256(b"refresh " + token.encode()).hexdigest()


def _text(told: dict[str, Any] | None, name: str) -> str:
    found = None if told is None else told.get(name)
    return found if isinstance(found, str) else ""


def _owners(told: list[Any]) -> dict[str, _Entry]:
    """What the file says."""
    found = {}
    for entry in told[-MAX_TOKENS:]:
        match entry:
            case [str(digest), str(owner), *rest] if _DIGEST.fullmatch(digest) and _is_access(rest):
                found[digest] = _Entry(owner, *rest)
    return found


def _is_access(rest: list[Any]) -> bool:
    return not rest or (len(rest) == 1 and isinstance(rest[0], str) and _DIGEST.fullmatch(rest[0]) is not None)
