"""Whose an access token is, as far as the box has said so: what is kept here is given to nobody else, also while the line is down.

It is learnt from answers that pass through, and the box is asked (GET /account/whoami) only where the name itself is needed. Of some tokens
it is known merely that they are one of the box's people's; their owner is "". A token is forgotten as soon as the box does not know it any
more (401 M_UNKNOWN_TOKEN), and when it logs out.

The file `owners.json` holds pairs of the SHA-256 of a token, in hexadecimal digits, and its owner, the one used last at the end. Refresh
tokens are among them, marked so that none counts as an access token. Spec: client-server API, "Using access tokens", "Refreshing access
tokens".
"""

from __future__ import annotations

import hashlib
import re
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


class Owners:
    """User ids by token; all tokens are given as they stand in an Authorization header. `run` is one task for the life of the proxy.

    `box` is the box's public key in base64. `inline`: see `app.blocking`.
    """

    def __init__(self, line: Line, errands: Errands, path: Path, box: str, *, inline: bool = False) -> None:
        self._line = line
        self._errands = errands
        self._file = SmallFile(path, box, lambda: self._owners.items(), inline=inline)
        self._owners: dict[str, str] = {}
        self.when_forgotten: list[Callable[[str], None]] = []
        """Called with the `digest_of` a token that was forgotten, and with the user id of whom no token is known any more."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reads the file, and from then on writes it, until cancelled."""
        self._owners = _owners(await self._file.load())
        task_status.started()
        await self._file.run()

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
            self._learn(digest_of(authorization), user_id)

    def forget(self, authorization: str) -> None:
        self._forget(digest_of(authorization))

    def forget_all(self, user_id: str) -> None:
        """All tokens of one person."""
        for digest in [digest for digest, owner in self._owners.items() if owner == user_id]:
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
        elif response.status == 200 and kind is not Kind.LOGOUT:
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
        user_id = _text(told, "user_id") or self._known(used) or ""
        if token:
            self.learn(f"Bearer {token}", user_id)
        if refresh and user_id:
            self._learn(_refresh_digest(refresh), user_id)

    # ---- by digest

    def _known(self, digest: str) -> str | None:
        owner = self._owners.pop(digest, None)
        if owner is not None:
            self._owners[digest] = owner  # used last
        return owner

    def _learn(self, digest: str, user_id: str) -> None:
        known = self._known(digest)
        if known is None or (user_id and user_id != known):
            self._owners[digest] = user_id
            while len(self._owners) > MAX_TOKENS:
                del self._owners[next(iter(self._owners))]
            self._file.change()

    def _forget(self, digest: str) -> None:
        owner = self._owners.pop(digest, None)
        if owner is None:
            return
        self._file.change()
        gone = [digest, owner] if owner and owner not in self._owners.values() else [digest]
        for each in gone:
            for tell in self.when_forgotten:
                tell(each)


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


def _owners(told: list[Any]) -> dict[str, str]:
    """What the file says."""
    found = {}
    for entry in told[-MAX_TOKENS:]:
        match entry:
            case [str(digest), str(owner)] if _DIGEST.fullmatch(digest):
                found[digest] = owner
    return found
