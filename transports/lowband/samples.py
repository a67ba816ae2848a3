"""Made-up Matrix traffic to train the dictionary on: nobody's real messages, and the same in every run.

Choices come from a counter run through SHAKE-128, so no random module is needed.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any
from urllib.parse import quote

_WORDS_TEXT = """
the a to you is it and of in for on that we be have are with this at not will can but they do what so there was
if all from get out no just up water power road station radio boat camp help doctor ok yes thanks tomorrow today
morning evening meet when where coming back home team south north bridge village weather storm rain battery
message please call need send list food fuel medicine school meeting good great know see later now here
"""
_WORDS = tuple(_WORDS_TEXT.split())
_NAMES = (
    "alice",
    "bob",
    "carol",
    "dave",
    "erin",
    "frank",
    "grace",
    "heidi",
    "ivan",
    "judy",
    "mallory",
    "niaj",
    "olivia",
    "peggy",
    "rupert",
    "sybil",
    "trent",
)
_SERVERS = ("example.org", "box.local", "valley.example", "matrix.org", "hill.local", "harbour.example")
_ENCRYPTED = "m.megolm.v1.aes-sha2"


class Source:
    """Choices that are the same in every run."""

    def __init__(self) -> None:
        self._count = 0
        self.now = 1_780_000_000_000

    def raw(self, size: int) -> bytes:
        self._count += 1
        return hashlib.shake_128(self._count.to_bytes(8, "big")).digest(size)

    def number(self, end: int) -> int:
        return int.from_bytes(self.raw(6), "big") % end

    def pick(self, options: Any) -> Any:
        return options[self.number(len(options))]

    def base64(self, size: int) -> str:
        return base64.b64encode(self.raw(size)).rstrip(b"=").decode()

    def hashed(self, sigil: str) -> str:
        return sigil + base64.urlsafe_b64encode(self.raw(32)).rstrip(b"=").decode()

    def room(self) -> str:
        return self.hashed("!") if self.number(2) else f"!{self.base64(12).replace('/', 'x')}:{self.pick(_SERVERS)}"

    def user(self) -> str:
        return f"@{self.pick(_NAMES)}:{self.pick(_SERVERS)}"

    def mxc(self) -> str:
        return f"mxc://{self.pick(_SERVERS)}/{self.base64(18).replace('/', 'x').replace('+', 'y')}"

    def text(self) -> str:
        return " ".join(self.pick(_WORDS) for _ in range(2 + self.number(14)))

    def tick(self) -> int:
        self.now += self.number(90_000)
        return self.now


def _message(s: Source) -> tuple[str, dict[str, Any]]:
    """Type and content of a timeline event."""
    kind = s.number(8)
    if kind < 3:
        return "m.room.message", {"body": s.text(), "m.mentions": {}, "msgtype": "m.text"}
    if kind == 3:
        relation = {"event_id": s.hashed("$"), "key": s.pick("👍❤😂🎉"), "rel_type": "m.annotation"}
        return "m.reaction", {"m.relates_to": relation}
    if kind == 4:
        text = s.text()
        edit = {"body": text, "m.mentions": {}, "msgtype": "m.text"}
        relation = {"event_id": s.hashed("$"), "rel_type": "m.replace"}
        return "m.room.message", {
            "body": f"* {text}",
            "m.new_content": edit,
            "m.relates_to": relation,
            "msgtype": "m.text",
        }
    if kind == 5:
        reply = {"m.in_reply_to": {"event_id": s.hashed("$")}}
        mentions = {"user_ids": [s.user()]}
        return "m.room.message", {"body": s.text(), "m.mentions": mentions, "m.relates_to": reply, "msgtype": "m.text"}
    if kind == 6:
        info = {
            "h": 480 + s.number(2000),
            "mimetype": "image/jpeg",
            "size": s.number(900_000),
            "w": 640 + s.number(3000),
        }
        return "m.room.message", {"body": "image.jpg", "info": info, "msgtype": "m.image", "url": s.mxc()}
    return "m.room.encrypted", {
        "algorithm": _ENCRYPTED,
        "ciphertext": s.base64(120 + s.number(200)),
        "device_id": s.base64(8).upper().replace("/", "A").replace("+", "B")[:10],
        "sender_key": s.base64(32),
        "session_id": s.base64(32),
    }


def _state(s: Source, sender: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Type, state key and content of a room's state events."""
    levels = {
        "ban": 50,
        "events": {
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.encryption": 100,
            "m.room.history_visibility": 100,
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.server_acl": 100,
            "m.room.tombstone": 150,
        },
        "events_default": 0,
        "historical": 100,
        "invite": 0,
        "kick": 50,
        "redact": 50,
        "state_default": 50,
        "users": {sender: 100},
        "users_default": 0,
    }
    member = {"avatar_url": s.mxc(), "displayname": s.pick(_NAMES).title(), "membership": "join"}
    return [
        ("m.room.create", "", {"room_version": "12"}),
        ("m.room.create", "", {"creator": sender, "room_version": "10"}),
        ("m.room.member", sender, member),
        (
            "m.room.member",
            s.user(),
            {"displayname": s.pick(_NAMES).title(), "membership": s.pick(("join", "invite", "leave"))},
        ),
        ("m.room.power_levels", "", levels),
        ("m.room.join_rules", "", {"join_rule": s.pick(("public", "invite"))}),
        ("m.room.history_visibility", "", {"history_visibility": "shared"}),
        ("m.room.guest_access", "", {"guest_access": "can_join"}),
        ("m.room.encryption", "", {"algorithm": _ENCRYPTED}),
        ("m.room.name", "", {"name": s.text().title()[:30]}),
        ("m.room.topic", "", {"topic": s.text()}),
    ]


def _pdu(s: Source, room: str, *, state: tuple[str, str, dict[str, Any]] | None = None) -> dict[str, Any]:
    sender = s.user()
    server = sender.partition(":")[2]
    kind, content = _message(s) if state is None else (state[0], state[2])
    return {
        "auth_events": [s.hashed("$") for _ in range(2 + s.number(2))],
        "content": content,
        "depth": 1 + s.number(5000),
        "hashes": {"sha256": s.base64(32)},
        "origin_server_ts": s.tick(),
        "prev_events": [s.hashed("$")],
        "room_id": room,
        "sender": sender,
        "signatures": {server: {f"ed25519:{s.pick(('auto', 'a_' + s.base64(3), '1'))}": s.base64(64)}},
        "type": kind,
        **({} if state is None else {"state_key": state[1]}),
    }


def _client_event(s: Source, *, state: tuple[str, str, dict[str, Any]] | None = None) -> dict[str, Any]:
    pdu = _pdu(s, "", state=state)
    kept: dict[str, Any] = {
        key: pdu[key] for key in ("content", "origin_server_ts", "sender", "type", "state_key") if key in pdu
    }
    unsigned: dict[str, Any] = {"age": s.number(900_000)}
    if s.number(3) == 0:
        unsigned["transaction_id"] = f"m{s.now}.{s.number(100)}"
    return {**kept, "event_id": s.hashed("$"), "unsigned": unsigned}


def _sync(s: Source) -> dict[str, Any]:
    """A classic sync response (client-server API, Syncing)."""
    joined = {}
    for _ in range(1 + s.number(3)):
        states = _state(s, s.user())
        receipt = {s.hashed("$"): {"m.read": {s.user(): {"thread_id": "main", "ts": s.tick()}}}}
        joined[s.room()] = {
            "account_data": {"events": [{"content": {"event_id": s.hashed("$")}, "type": "m.fully_read"}]},
            "ephemeral": {
                "events": [
                    {"content": receipt, "type": "m.receipt"},
                    {"content": {"user_ids": [s.user()]}, "type": "m.typing"},
                ]
            },
            "state": {"events": [_client_event(s, state=state) for state in states[: s.number(len(states))]]},
            "summary": {"m.heroes": [s.user()], "m.invited_member_count": 0, "m.joined_member_count": 2 + s.number(40)},
            "timeline": {
                "events": [_client_event(s) for _ in range(1 + s.number(4))],
                "limited": False,
                "prev_batch": "s12_7",
            },
            "unread_notifications": {"highlight_count": 0, "notification_count": s.number(9)},
        }
    return {
        "account_data": {"events": []},
        "device_lists": {"changed": [s.user()], "left": []},
        "device_one_time_keys_count": {"signed_curve25519": 50},
        "device_unused_fallback_key_types": ["signed_curve25519"],
        "next_batch": f"s{s.number(9999)}",
        "presence": {"events": []},
        "rooms": {"invite": {}, "join": joined, "leave": {}},
        "to_device": {"events": []},
    }


def _sliding(s: Source) -> dict[str, Any]:
    """A simplified sliding sync response (MSC4186)."""
    rooms = {}
    for _ in range(1 + s.number(4)):
        states = _state(s, s.user())
        rooms[s.room()] = {
            "bump_stamp": s.number(99_999),
            "heroes": [{"displayname": s.pick(_NAMES).title(), "user_id": s.user()}],
            "highlight_count": 0,
            "initial": True,
            "invited_count": 0,
            "is_dm": False,
            "joined_count": 2 + s.number(30),
            "name": s.text().title()[:24],
            "notification_count": s.number(5),
            "num_live": 1,
            "prev_batch": f"t{s.number(9999)}",
            "required_state": [_client_event(s, state=state) for state in states[-s.number(4) :]],
            "timeline": [_client_event(s)],
        }
    return {
        "extensions": {
            "account_data": {},
            "e2ee": {"device_one_time_keys_count": {"signed_curve25519": 50}, "device_unused_fallback_key_types": []},
            "receipts": {"rooms": {}},
            "to_device": {"events": [], "next_batch": str(s.number(999))},
            "typing": {"rooms": {}},
        },
        "lists": {"main": {"count": s.number(300)}},
        "pos": f"{s.number(9999)}",
        "rooms": rooms,
    }


def _device_keys(s: Source) -> dict[str, Any]:
    user, device = s.user(), s.base64(9).upper().replace("/", "A").replace("+", "B")[:10]
    return {
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", _ENCRYPTED],
        "device_id": device,
        "keys": {f"curve25519:{device}": s.base64(32), f"ed25519:{device}": s.base64(32)},
        "signatures": {user: {f"ed25519:{device}": s.base64(64)}},
        "user_id": user,
    }


def _one_time_keys(s: Source) -> dict[str, Any]:
    signature = {s.user(): {"ed25519:ABCDEFGHIJ": s.base64(64)}}
    return {f"signed_curve25519:AAAA{s.base64(3)}": {"key": s.base64(32), "signatures": signature} for _ in range(5)}


def exchanges(s: Source) -> list[tuple[str, str, Any, Any]]:
    """Method, target, request and response bodies of one round."""
    room, user = s.room(), s.user()
    kind, content = _message(s)
    device = _device_keys(s)
    states = _state(s, user)
    sliding = {
        "conn_id": "main",
        "extensions": {"e2ee": {"enabled": True}, "to_device": {"enabled": True, "since": "12"}},
        "lists": {
            "main": {
                "ranges": [[0, 19]],
                "timeline_limit": 1,
                "required_state": [
                    ["m.room.name", ""],
                    ["m.room.avatar", ""],
                    ["m.room.encryption", ""],
                    ["m.room.member", "$LAZY"],
                    ["m.room.member", "$ME"],
                ],
            }
        },
        "room_subscriptions": {},
    }
    transaction = {
        "origin": s.pick(_SERVERS),
        "origin_server_ts": s.tick(),
        "pdus": [_pdu(s, room) for _ in range(1 + s.number(4))],
    }
    edus = [
        {"content": {"room_id": room, "typing": True, "user_id": user}, "edu_type": "m.typing"},
        {
            "content": {room: {"m.read": {user: {"data": {"ts": s.tick()}, "event_ids": [s.hashed("$")]}}}},
            "edu_type": "m.receipt",
        },
    ]
    member = _pdu(s, room, state=states[2])
    token = f"?timeout=30000&since=s{s.number(9999)}"
    return [
        ("PUT", f"/_matrix/client/v3/rooms/{room}/send/{kind}/m{s.now}.1", content, {"event_id": s.hashed("$")}),
        ("GET", "/_matrix/client/v3/sync" + token, None, _sync(s)),
        (
            "POST",
            "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?pos=12&timeout=30000",
            sliding,
            _sliding(s),
        ),
        ("PUT", f"/_matrix/federation/v1/send/{s.now}", transaction, {"pdus": {s.hashed("$"): {}}}),
        ("PUT", f"/_matrix/federation/v1/send/{s.now}", {**transaction, "pdus": [], "edus": edus}, {"pdus": {}}),
        (
            "POST",
            "/_matrix/client/v3/keys/query",
            {"device_keys": {user: []}, "timeout": 10000},
            {
                "device_keys": {user: {device["device_id"]: device}},
                "failures": {},
                "master_keys": {},
                "self_signing_keys": {},
            },
        ),
        (
            "POST",
            "/_matrix/client/v3/keys/upload",
            {"device_keys": device, "one_time_keys": _one_time_keys(s)},
            {"one_time_key_counts": {"signed_curve25519": 50}},
        ),
        (
            "POST",
            "/_matrix/client/v3/keys/claim",
            {"one_time_keys": {user: {"ABCDEFGHIJ": "signed_curve25519"}}, "timeout": 10000},
            {"failures": {}, "one_time_keys": {user: {"ABCDEFGHIJ": _one_time_keys(s)}}},
        ),
        (
            "POST",
            "/_matrix/client/v3/login",
            {
                "identifier": {"type": "m.id.user", "user": "alice"},
                "initial_device_display_name": "Phone",
                "password": "secret",
                "type": "m.login.password",
            },
            {"access_token": s.base64(24), "device_id": "ABCDEFGHIJ", "home_server": s.pick(_SERVERS), "user_id": user},
        ),
        (
            "GET",
            f"/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=20&from=t1",
            None,
            {"chunk": [_client_event(s) for _ in range(6)], "end": "t2", "start": "t1", "state": []},
        ),
        (
            "GET",
            f"/_matrix/federation/v1/make_join/{room}/{user}?ver=10&ver=11&ver=12",
            None,
            {"event": member, "room_version": "12"},
        ),
        (
            "PUT",
            f"/_matrix/federation/v2/send_join/{room}/{s.hashed('$')}",
            member,
            {
                "auth_chain": [_pdu(s, room, state=state) for state in states[:4]],
                "event": member,
                "members_omitted": False,
                "origin": s.pick(_SERVERS),
                "state": [_pdu(s, room, state=state) for state in states[2:]],
            },
        ),
        (
            "POST",
            f"/_matrix/federation/v1/get_missing_events/{room}",
            {"earliest_events": [s.hashed("$")], "latest_events": [s.hashed("$")], "limit": 20, "min_depth": 0},
            {"events": [_pdu(s, room) for _ in range(3)]},
        ),
        (
            "GET",
            "/_matrix/key/v2/server",
            None,
            {
                "old_verify_keys": {},
                "server_name": s.pick(_SERVERS),
                "signatures": {s.pick(_SERVERS): {"ed25519:a_1": s.base64(64)}},
                "valid_until_ts": s.tick(),
                "verify_keys": {"ed25519:a_1": {"key": s.base64(32)}},
            },
        ),
        ("GET", f"/_matrix/client/v3/profile/{user}", None, {"avatar_url": s.mxc(), "displayname": "Alice"}),
        (
            "GET",
            "/_matrix/client/versions",
            None,
            {
                "unstable_features": {"org.matrix.msc3079.low_bandwidth": True, "org.matrix.simplified_msc3575": True},
                "versions": ["r0.6.1", "v1.1", "v1.5", "v1.11", "v1.12"],
            },
        ),
        (
            "POST",
            "/_matrix/client/v3/createRoom",
            {
                "initial_state": [{"content": {"algorithm": _ENCRYPTED}, "state_key": "", "type": "m.room.encryption"}],
                "invite": [user],
                "is_direct": True,
                "name": s.text(),
                "preset": "trusted_private_chat",
                "visibility": "private",
            },
            {"room_id": room},
        ),
        (
            "PUT",
            f"/_matrix/client/v3/sendToDevice/m.room.encrypted/m{s.now}.2",
            {
                "messages": {
                    user: {
                        "ABCDEFGHIJ": {
                            "algorithm": "m.olm.v1.curve25519-aes-sha2",
                            "sender_key": s.base64(32),
                            "ciphertext": {s.base64(32): {"body": s.base64(300), "type": 0}},
                            "org.matrix.msgid": s.base64(16),
                        }
                    }
                }
            },
            {},
        ),
        ("GET", f"/_matrix/client/v3/rooms/{room}/state", None, [_client_event(s, state=state) for state in states]),
    ]


class _Polls:
    """What a box says to one app of classic sync: a token that goes on, a few rooms, one event at a time."""

    def __init__(self, s: Source) -> None:
        self._s = s
        self._stream = 100 + s.number(100_000)
        self._run = s.number(1 << 40)
        self.user = s.user()
        self.rooms = [s.room() for _ in range(5)]
        self._people = [s.user() for _ in range(6)]

    @property
    def token(self) -> str:
        return f"s{self._stream}_{self._run}"

    def quiet(self) -> dict[str, Any]:
        self._stream += 1
        counts = {"device_one_time_keys_count": {"signed_curve25519": 50 * self._s.number(2)}, "device_unused_fallback_key_types": []}
        return {**counts, "next_batch": self.token}

    def news(self) -> dict[str, Any]:
        s, before = self._s, self.token
        sender = s.pick(self._people)
        member = {"content": {"membership": "join"}, "sender": sender, "state_key": sender, "type": "m.room.member"}
        receipt = {s.hashed("$"): {"m.read": {sender: {"thread_id": "main", "ts": s.tick()}}}}
        room = {
            "account_data": {"events": []},
            "ephemeral": {"events": [{"content": receipt, "type": "m.receipt"}] if s.number(6) == 0 else []},
            "state": {"events": [self._event({**member, "unsigned": {"age": s.number(900_000)}})] if s.number(4) == 0 else []},
            "summary": {},
            "timeline": {"events": [self._said(sender)], "limited": False, "prev_batch": before},
            "unread_notifications": {"highlight_count": 0, "notification_count": 1 + s.number(5)},
        }
        return {**self.quiet(), "rooms": {"join": {s.pick(self.rooms): room}}}

    def _said(self, sender: str) -> dict[str, Any]:
        s = self._s
        content: dict[str, Any] = {"body": s.text(), "msgtype": "m.text"}
        if s.number(3) == 0:
            content["m.mentions"] = {}
        unsigned = {"age": s.number(40), "membership": "join"}
        return self._event({"content": content, "sender": sender, "type": "m.room.message", "unsigned": unsigned})

    def _event(self, rest: dict[str, Any]) -> dict[str, Any]:
        return {**rest, "event_id": self._s.hashed("$"), "origin_server_ts": self._s.tick()}


def polls(s: Source) -> list[tuple[str, str, Any, Any]]:
    """What goes over a line for an app behind a proxy: it logs in, waits for news, and says something now and then."""
    at = _Polls(s)
    device = s.base64(9).upper().replace("/", "A").replace("+", "B")[:10]
    login = {"identifier": {"type": "m.id.user", "user": at.user[1:].partition(":")[0]}, "password": "secret", "type": "m.login.password"}
    room = {"ephemeral": {"not_types": ["m.typing"]}, "state": {"lazy_load_members": True}, "timeline": {"limit": 20}}
    filtered = {"presence": {"not_types": ["*"]}, "room": room}
    found: list[tuple[str, str, Any, Any]] = [
        ("POST", "/_matrix/client/v3/login", login, {"access_token": f"esa_{s.hashed('')[:24]}", "device_id": device, "user_id": at.user}),
        ("GET", "/_matrix/client/v3/account/whoami", None, {"device_id": device, "is_guest": False, "user_id": at.user}),
        ("POST", f"/_matrix/client/v3/user/{quote(at.user, safe='')}/filter", filtered, {"filter_id": "1"}),
    ]
    txn = s.number(100_000)
    for turn in range(16):
        sync = f"/_matrix/client/v3/sync?filter=1&since={at.token}"
        found.append(("GET", sync, None, at.quiet() if turn in (0, 9) else at.news()))
        if turn % 4 == 3:
            txn += 1
            target = f"/_matrix/client/v3/rooms/{quote(at.rooms[0], safe='!' * s.number(2))}/send/m.room.message/m{txn}"
            found.append(("PUT", target, {"body": s.text(), "msgtype": "m.text"}, {"event_id": s.hashed("$")}))
    return found


_SCREEN = "/_matrix/client/unstable/org.edgeserver.screen"


class _Screen:
    """What a box and a program that shows text say to each other: numbers that go on, few rooms, short texts."""

    def __init__(self, s: Source) -> None:
        self._s = s
        self.pos = s.number(1 << 20)
        self.txn = s.number(1 << 31)
        self._event = 60_000 + s.number(100_000)
        self._rooms = [200 + s.number(900) for _ in range(30)]
        self._people = [s.user() if s.number(3) else f"@guest{s.number(10**7)}:box{s.number(40)}.example" for _ in range(12)]

    def entry(self, text: str | None = None) -> dict[str, Any]:
        s = self._s
        self._event += 1 + s.number(3) * s.number(20)
        s.now += 1000 * (2 + s.number(60) * s.number(20))
        found = {"number": self._event, "seconds": s.now // 1000, "sender": s.pick(self._people)}
        if s.number(10) == 0:
            return {**found, "kind": s.pick(("emote", "notice", "image", "file", "name", "topic")), "text": s.text()}
        if s.number(10) == 0:
            return {**found, "kind": s.pick(("join", "leave", "encrypted", "encrypted", "removed"))}
        return {**found, "text": s.text() if text is None else text}

    def first(self) -> dict[str, Any]:
        """A first answer: the newest room first."""
        s, rooms = self._s, []
        stamps = sorted((self._event - s.number(60 * (1 + n)) for n in range(20)), reverse=True)
        now = s.now // 1000
        for stamp, number in zip(stamps, self._rooms, strict=False):
            now -= 1 + s.number(60) * s.number(20)
            entry = {**self.entry(), "number": stamp, "seconds": now}
            if len(entry.get("text", "")) > 32:
                entry |= {"cut": True, "text": entry["text"][:32]}
            name = s.text().title()[:24] if s.number(3) else f"Harbour {s.number(90)}"
            room: dict[str, Any] = {"number": number, "room_id": s.hashed("!"), "name": name, "events": [entry]}
            room |= {"unread": 1 + s.number(5)} if s.number(3) else {}
            if s.number(2):
                room |= {"encrypted": True, "events": [{"kind": "encrypted", "number": stamp, "seconds": now}]}
            if s.number(12) == 0:
                room |= {"stamp": stamp + 1, "highlights": 1}
            if s.number(10) == 0:
                room = {**{key: value for key, value in room.items() if key != "name"}, "heroes": [s.pick(_NAMES).title()]}
            rooms.append(room)
        asked = {"membership": "invite", "number": s.number(900), "room_id": s.hashed("!"), "stamp": self._event, "inviter": s.user()}
        return self.answer([*rooms, asked])

    def answer(self, rooms: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        self.pos += 1
        return {"pos": self.pos, "count": 1000, **({"rooms": rooms} if rooms else {}), **more}

    def news(self) -> dict[str, Any]:
        """A message or a few."""
        s, more = self._s, {}
        rooms = [
            {"number": s.pick(self._rooms), "events": [self.entry()], "unread": 1 + s.number(3)} for _ in range(s.pick((1, 1, 1, 1, 2, 5)))
        ]
        if s.number(6) == 0:
            more["receipts"] = [{"room": s.pick(self._rooms), "sender": s.pick(self._people), "number": self._event}]
        if s.number(6) == 0:
            rooms[0]["events"].insert(0, {"number": self._event - 1, "txn_id": self.txn})
        return self.answer(rooms, **more)

    def opened(self) -> dict[str, Any]:
        """A room that a person has opened."""
        names = [{"sender": person, "name": person[1:].partition(":")[0].title()} for person in self._people[:4]]
        room = {"number": self._rooms[0], "events": [self.entry() for _ in range(12)], "gap": True, "joined": 12, "users": names}
        return self.answer([room])

    def handle(self) -> int:
        number: int = self._s.pick(self._rooms)
        return number << 8 | self._s.number(256)

    def said(self) -> dict[str, Any]:
        self._event += 1 + self._s.number(4)
        return {"number": self._event}

    @property
    def newest(self) -> int:
        return self._event


def screens(s: Source) -> list[tuple[str, str, Any, Any]]:
    """The same of the compact screen, which goes over lines that remember and nowhere else."""
    at = _Screen(s)
    found: list[tuple[str, str, Any, Any]] = [("POST", f"{_SCREEN}/sync", {}, at.first())]
    opened = None
    for turn in range(12):
        wish: dict[str, Any] = {} if opened is None else {"open": opened}
        found.append(("POST", f"{_SCREEN}/sync?pos={at.pos}", wish, at.opened() if turn == 4 else at.news()))
        opened = at.handle() if turn == 3 else opened
        handle = at.handle() if opened is None else opened
        at.txn += 1
        found.append(("PUT", f"{_SCREEN}/rooms/{handle}/say/{at.txn}", {s.pick(("text",) * 7 + ("emote",)): s.text()}, at.said()))
        found.append(("POST", f"{_SCREEN}/rooms/{handle}/read", {"number": at.newest}, {}))
    found.append(("POST", f"{_SCREEN}/sync?pos={at.pos}", {"listed": 40, "open": opened}, at.answer([])))
    older = {"before": at.newest - 30, "events": [at.entry() for _ in range(10)], "users": []}
    found.append(("POST", f"{_SCREEN}/rooms/{opened}/older", {"before": at.newest - 20, "limit": 10}, older))
    return found
