"""One HTTP request from the test itself, into a network namespace where that is wanted."""

from __future__ import annotations

import functools
import http.client
import json
import socket
import ssl
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from tests.lab.netns import connection_in


@dataclass(frozen=True)
class Answer:
    """A response read to its end; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    method: str,
    url: str,
    *,
    body: Any = None,
    token: str | None = None,
    headers: dict[str, str] | None = None,
    netns: str | None = None,
    address: str | None = None,
    ca: Path | None = None,
    timeout: float = 30,
) -> Answer:
    """Sends it and reads the answer; any status is an answer. Raises OSError, also when nobody listens.

    `body` is sent as it is when it is bytes, else as JSON. The TCP connection is made inside `netns`, to `address` when
    given and else to the URL's host as this machine resolves it; `ca` is a PEM file to check an https URL against
    (None: nothing is checked).
    """
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    sent = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        sent.setdefault("Content-Type", "application/json")
    connection = http.client.HTTPConnection(parts.hostname, port, timeout=timeout)
    connection.sock = connection_in(netns, (address or parts.hostname, port), timeout)
    if parts.scheme == "https":
        connection.sock = _tls(connection.sock, parts.hostname, ca)
    try:
        target = parts.path or "/"
        connection.request(method, f"{target}?{parts.query}" if parts.query else target, body, sent)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    except http.client.HTTPException as error:
        raise ConnectionError(f"{method} {url}: {error!r}") from error
    finally:
        connection.close()


def _tls(plain: socket.socket, name: str, ca: Path | None) -> socket.socket:
    context = ssl.create_default_context(cafile=ca)
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        return context.wrap_socket(plain, server_hostname=name)
    except BaseException:
        plain.close()
        raise


async def arequest(method: str, url: str, **options: Any) -> Answer:
    """`request` for trio: other tasks go on meanwhile."""
    send = functools.partial(request, method, url, **options)
    return await trio.to_thread.run_sync(send, abandon_on_cancel=True)


def answers(url: str, **options: Any) -> bool:
    """Whether a GET gets a 2xx within a second."""
    try:
        return 200 <= request("GET", url, timeout=1, **options).status < 300
    except OSError:
        return False
