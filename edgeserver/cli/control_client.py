"""Talks to the running box over its control socket (`edgeserver/api/control.py` is the other end)."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpcore

from edgeserver.api.control_socket import PREFIX, SOCKET
from edgeserver.cli.console import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TIMEOUT = 30.0
_LONGEST_SOCKET_PATH = 107  # bytes: sockaddr_un.sun_path without its end, unix(7)


class NotRunning(CommandError):
    """Nobody listens on the control socket."""


class NotThere(CommandError):
    """The box has nothing of that name (M_NOT_FOUND)."""


class ControlClient:
    """Calls of the control API, one after the other."""

    def __init__(self, path: str) -> None:
        self._pool = httpcore.ConnectionPool(uds=path)

    def close(self) -> None:
        self._pool.close()

    def call(
        self, method: str, path: str | Sequence[str], body: dict[str, Any] | None = None, *, timeout: float = TIMEOUT
    ) -> dict[str, Any]:
        """One call; `path` is relative, or its segments if they need quoting; `timeout` in seconds.

        Raises `CommandError`, with the box's own words if it refuses.
        """
        segments = path if isinstance(path, str) else "/".join(quote(one, safe="") for one in path)
        limits = {"connect": TIMEOUT, "read": timeout, "write": TIMEOUT, "pool": TIMEOUT}
        try:
            response = self._pool.request(
                method,
                f"http://box{PREFIX}{segments}",
                headers={"content-type": "application/json"},
                content=b"" if body is None else json.dumps(body).encode(),
                extensions={"timeout": limits},
            )
        except httpcore.TimeoutException as error:
            raise CommandError(f"the box did not answer within {timeout:.0f} seconds.") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise CommandError("the box broke the connection off; is it being stopped?") from error
        return _told(response.status, response.content)


def client_of(data: Path) -> ControlClient:
    """A client of the box that runs on this data folder. Raises `NotRunning` if none does."""
    path = data / SOCKET
    try:
        if not path.is_socket():
            raise NotRunning(f"no box runs on {data}: start it with edgeserver serve, or name its folder with --data.")
    except PermissionError as error:
        raise CommandError(f"{data} cannot be looked into: {error.strerror}.") from error
    shortest = min((str(path), os.path.relpath(path)), key=len)
    if len(os.fsencode(shortest)) > _LONGEST_SOCKET_PATH:
        raise CommandError(f"the path of {path} is too long for a socket: go to that folder and use --data .")
    _knock(shortest)
    return ControlClient(shortest)


def _knock(path: str) -> None:
    """Sees whether somebody listens. Raises `CommandError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except PermissionError as error:
            raise CommandError(f"you may not open {path}: run this as the user that the box runs as, or as root.") from error
        except OSError as error:
            raise NotRunning(f"no box answers on {path}: start it with edgeserver serve.") from error


def _told(status: int, content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise CommandError(f"the box gave an answer that makes no sense (status {status}); is it of another release?")
    if status != 200:
        refused = NotThere if answer.get("errcode") == "M_NOT_FOUND" else CommandError
        raise refused(str(answer.get("error") or f"the box refused it (status {status})"))
    return answer
