"""A policy server that refuses what speaks of spam, and signs everything else.

`PolicyServer` is the whole of its mind; `in_front_of` puts it before a homeserver's application, and the module is a
program that serves it alone over TLS, for a network namespace:

    python -m tests.lab.policy_server NAME SEED ROOM_VERSION ADDRESS PORT CERTIFICATE KEY
"""

from __future__ import annotations

import json
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edgeserver.federation import key_response
from edgeserver.matrix.event import event_id_of, signed_bytes
from edgeserver.matrix.room_versions import SUPPORTED
from edgeserver.matrix.signatures import SigningKey, encode_base64

SIGN = "/_matrix/policy/v1/sign"
REFUSAL = {"errcode": "M_FORBIDDEN", "error": "That smells of spam"}


class PolicyServer:
    """Signs by a key of its own, which is not that of the homeserver of the same name. `asked` are event ids."""

    def __init__(self, name: str, version: str, seed: str = "policy") -> None:
        self.name = name
        self.rules = SUPPORTED[version]
        self.key = SigningKey(seed.encode().ljust(32, b"."), "ed25519:policy_server")
        self.asked: list[str] = []

    @property
    def policy(self) -> dict[str, Any]:
        """The content of an m.room.policy event that names it."""
        return {"via": self.name, "public_keys": {"ed25519": encode_base64(self.key.verify_key)}}

    def answer(self, pdu: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(status, body) for a POST to SIGN."""
        self.asked.append(event_id_of(pdu, self.rules))
        if "spam" in json.dumps(pdu["content"]):
            return 400, REFUSAL
        signature = encode_base64(self.key.sign(signed_bytes(pdu, self.rules)))
        return 200, {self.name: {self.key.key_id: signature}}


def in_front_of(app: Any, policy: PolicyServer) -> Any:
    """An ASGI application that answers SIGN and leaves the rest to `app`."""

    async def front(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != SIGN:
            await app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        status, answer = policy.answer(json.loads(body))
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    return front


def homeserver_key(seed: str) -> SigningKey:
    """The key by which the server of this program signs requests and its own events."""
    return SigningKey(f"home {seed}".encode().ljust(32, b"."), "ed25519:home")


def _main(name: str, seed: str, version: str, address: str, port: str, certificate: str, key: str) -> None:
    policy, home = PolicyServer(name, version, seed), homeserver_key(seed)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.startswith("/_matrix/key/v2/server"):
                self.reply(200, key_response.write(name, home, (), int(time.time() * 1000)))
            else:
                self.reply(404, {"errcode": "M_UNRECOGNIZED", "error": "Not here"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(*(policy.answer(body) if self.path == SIGN else (404, {"errcode": "M_UNRECOGNIZED", "error": "Not here"})))

        def do_PUT(self) -> None:  # transactions: taken and forgotten, so that nobody thinks that it is down
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(200, {"pdus": {}})

        def reply(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer((address, int(port)), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    _main(*sys.argv[1:])
