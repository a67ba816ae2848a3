"""A town: one HTTPS server that is many homeservers to whoever asks, with the rooms of `town_room` and the keys of all its names.

It serves what a server needs that joins such a room and stays in it: keys (directly, by the Host that was asked for, and as a notary),
/make_join, /v2/send_join with and without `omit_members`, /state, /state_ids, /event, /event_auth, /backfill and /get_missing_events. It
takes every transaction and checks nothing: no signature, no right. Its names end in `.localhost`, which needs no DNS (RFC 6761).
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from edgeserver.federation import key_response
from edgeserver.matrix import signatures
from edgeserver.matrix.event import Event
from tests.lab.ca import Authority
from tests.lab.town_room import Servers, TownRoom

_BYTES_ACKED = 120
"""Offset in struct tcp_info (linux/tcp.h) of tcpi_bytes_acked, which tcpi_bytes_received follows: u64 each."""

Query = dict[str, list[str]]
Answer = tuple[int, Any]


class Town:
    """`with` serves. `name` is the resident server, `name_of(n)` the others; all lead to one port of loopback.

    `asked` counts the requests by endpoint; `silent` are names that take a connection and say nothing.
    """

    def __init__(self, authority: Authority, *, seed: int = 1) -> None:
        self.servers = Servers(seed)
        self.rooms: dict[str, TownRoom] = {}
        self.asked: Counter[str] = Counter()
        self.silent: set[str] = set()
        self.heard: set[str] = set()
        """Names that were sent a transaction with PDUs."""
        certificate = authority.issue("localhost", "town.localhost", "*.town.localhost")
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate.chain, certificate.key)
        self._server = _Server(self)
        self.port: int = self._server.server_address[1]
        self.name = f"localhost:{self.port}"
        self._routes = _routes(self)

    def name_of(self, number: int) -> str:
        return f"s{number}.town.localhost:{self.port}"

    def add(self, room: TownRoom) -> TownRoom:
        assert room.room_id is not None
        self.rooms[room.room_id] = room
        return room

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wire_bytes(self) -> int:
        """What TCP has carried so far to and from this server, the handshakes of TLS with it, headers of TCP and IP without."""
        return self._server.wire_bytes()

    # Answering

    def answer(self, host: str, method: str, target: str, body: bytes) -> Answer:
        parts = urlsplit(target)
        for name, on, pattern, handler in self._routes:
            if on == method and (found := pattern.fullmatch(parts.path)):
                self.asked[name] += 1
                content = orjson.loads(body) if body else {}
                return handler(host, [unquote(part) for part in found.groups()], parse_qs(parts.query), content)
        self.asked[f"{method} {parts.path.split('?')[0][:40]}"] += 1
        return 404, {"errcode": "M_UNRECOGNIZED", "error": "The town does not do that."}

    def keys_of(self, name: str) -> dict[str, Any]:
        return key_response.write(name, self.servers.key(name), (), int(time.time() * 1000))

    def notarised(self, names: Iterable[str]) -> Answer:
        key = self.servers.key(self.name)
        return 200, {"server_keys": [signatures.sign_json(self.keys_of(name), self.name, key) for name in names]}

    def make_join(self, room_id: str, user_id: str) -> Answer:
        room = self.rooms[room_id]
        template = room.main.template(user_id, "m.room.member", {"membership": "join"}, user_id)
        return 200, {"event": template, "room_version": room.rules.version}

    def send_join(self, room_id: str, pdu: dict[str, Any], *, omit_members: bool) -> Answer:
        room = self.rooms[room_id]
        join = Event.from_pdu(pdu, room.rules)
        state = room.main.state
        room.main.take(join)
        kept = [event for key, event in state.items() if not omit_members or key[0] != "m.room.member"]
        chain = room.chain_of([join, *kept])
        if omit_members:
            held = {event.event_id for event in kept}
            chain = [event for event in chain if event.event_id not in held]
        return 200, {
            "origin": self.name,
            "event": join.pdu,
            "state": [event.pdu for event in kept],
            "auth_chain": [event.pdu for event in chain],
            "members_omitted": omit_members,
            "servers_in_room": room.servers_in_room(),
        }

    def state(self, room_id: str, event_id: str, *, ids: bool) -> Answer:
        room = self.rooms[room_id]
        state = list(room.state_before(event_id).values())
        chain = room.chain_of(state)
        if ids:
            return 200, {"pdu_ids": [one.event_id for one in state], "auth_chain_ids": [one.event_id for one in chain]}
        return 200, {"pdus": [one.pdu for one in state], "auth_chain": [one.pdu for one in chain]}

    def event(self, event_id: str) -> Answer:
        for room in self.rooms.values():
            if event_id in room.events:
                return 200, {"origin": self.name, "origin_server_ts": 0, "pdus": [room.events[event_id].pdu]}
        return 404, {"errcode": "M_NOT_FOUND", "error": "There is no such event."}

    def event_auth(self, room_id: str, event_id: str) -> Answer:
        room = self.rooms[room_id]
        return 200, {"auth_chain": [event.pdu for event in room.chain_of([room.events[event_id]])]}

    def backfill(self, room_id: str, query: Query) -> Answer:
        found = self.rooms[room_id].before(query["v"], int(query["limit"][0]))
        return 200, {"origin": self.name, "origin_server_ts": 0, "pdus": [event.pdu for event in found]}

    def missing_events(self, room_id: str, content: dict[str, Any]) -> Answer:
        room = self.rooms[room_id]
        latest = [prev for one in content["latest_events"] if one in room.events for prev in room.events[one].prev_events]
        found = room.before(latest, content.get("limit", 10), content["earliest_events"])
        return 200, {"events": [event.pdu for event in reversed(found)]}

    def transaction(self, host: str, content: dict[str, Any]) -> Answer:
        if content.get("pdus"):
            self.heard.add(host)
        return 200, {"pdus": {}}


_Handler = Callable[[str, list[str], Query, Any], Answer]


def _routes(town: Town) -> list[tuple[str, str, re.Pattern[str], _Handler]]:
    v1, v2 = "/_matrix/federation/v1", "/_matrix/federation/v2"

    def notary(host: str, path: list[str], query: Query, content: Any) -> Answer:
        return town.notarised(content["server_keys"])

    table: list[tuple[str, str, _Handler]] = [
        ("GET", "/_matrix/key/v2/server", lambda host, path, query, content: (200, town.keys_of(host))),
        ("GET", "/_matrix/key/v2/query/{}", lambda host, path, query, content: town.notarised(path)),
        ("POST", "/_matrix/key/v2/query", notary),
        ("GET", f"{v1}/version", lambda host, path, query, content: (200, {"server": {"name": "town", "version": "1"}})),
        ("GET", f"{v1}/make_join/{{}}/{{}}", lambda host, path, query, content: town.make_join(*path)),
        (
            "PUT",
            f"{v2}/send_join/{{}}/{{}}",
            lambda host, path, query, content: town.send_join(path[0], content, omit_members=query.get("omit_members") == ["true"]),
        ),
        ("GET", f"{v1}/state/{{}}", lambda host, path, query, content: town.state(path[0], query["event_id"][0], ids=False)),
        ("GET", f"{v1}/state_ids/{{}}", lambda host, path, query, content: town.state(path[0], query["event_id"][0], ids=True)),
        ("GET", f"{v1}/event/{{}}", lambda host, path, query, content: town.event(*path)),
        ("GET", f"{v1}/event_auth/{{}}/{{}}", lambda host, path, query, content: town.event_auth(*path)),
        ("GET", f"{v1}/backfill/{{}}", lambda host, path, query, content: town.backfill(path[0], query)),
        ("POST", f"{v1}/get_missing_events/{{}}", lambda host, path, query, content: town.missing_events(path[0], content)),
        ("PUT", f"{v1}/send/{{}}", lambda host, path, query, content: town.transaction(host, content)),
        (
            "GET",
            f"{v1}/user/devices/{{}}",
            lambda host, path, query, content: (200, {"user_id": path[0], "stream_id": 1, "devices": []}),
        ),
        ("POST", f"{v1}/user/keys/query", lambda host, path, query, content: (200, {"device_keys": {}})),
        ("GET", f"{v1}/query/profile", lambda host, path, query, content: (200, {"displayname": "Somebody"})),
    ]
    return [
        (pattern.replace("/{}", "").rpartition("/_matrix/")[2], method, re.compile(pattern.replace("{}", "([^/]+)")), handler)
        for method, pattern, handler in table
    ]


class _Server(ThreadingHTTPServer):
    """A thread for each connection, whose TLS handshake is the thread's too."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, town: Town) -> None:
        self.town = town
        self._open: set[socket.socket] = set()
        self._carried = 0
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Connection)

    def get_request(self) -> tuple[Any, Any]:
        plain, address = super().get_request()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secured = self.town._tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._open.add(secured)
        return secured, address

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
            self._carried += _carried(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that goes away in the middle is nothing to print."""

    def wire_bytes(self) -> int:
        with self._lock:
            return self._carried + sum(_carried(one) for one in self._open)


def _carried(one: socket.socket) -> int:
    try:
        info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 16)
    except OSError:
        return 0
    return sum(struct.unpack_from("QQ", info, _BYTES_ACKED))


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle(self) -> None:
        self.connection.settimeout(120)
        self.connection.do_handshake()  # type: ignore[attr-defined]
        super().handle()

    def _answer(self) -> None:
        host = self.headers.get("Host", "")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if host in self.server.town.silent:
            time.sleep(120)
            return
        try:
            status, content = self.server.town.answer(host, self.command, self.path, body)
        except (KeyError, ValueError, json.JSONDecodeError) as error:
            status, content = 404, {"errcode": "M_NOT_FOUND", "error": f"The town does not know of it: {error!r}"}
        data = orjson.dumps(content)
        head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.connection.sendall(head.encode() + data)

    do_GET = do_PUT = do_POST = _answer

    def log_message(self, *_: Any) -> None:
        pass
