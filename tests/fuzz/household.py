"""A box with people, rooms and files, asked by whoever: the values that requests are filled with are those that it has, and what it answers
is remembered for later requests.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import pytest
import trio

from tests.api import openapi
from tests.asgi import Answer, AsgiClient
from tests.flows.world import BoxInWorld, Person, World

V3 = "/_matrix/client/v3"
CONFIG = """
[accounts]
registration = "open"
guests = 1000
registration_shared_secret = "s"
[limits]
rate_limits = false
upload_bytes = 100000
[federation]
internet = false
[http]
public_url = "https://a.test"
"""
PASSWORD = "correct horse battery"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060"
    "000000050001a5f645400000000049454e44ae426082"
)
REMEMBERED = 40
SECONDS = 20.0
"""So long a request may take; what it is told to wait for is cut short."""

ALIKE = {
    "roomIdOrAlias": "roomId", "room_id": "roomId", "rooms": "roomId", "replacement_room": "roomId", "user_id": "userId", "users": "userId",
    "invite": "userId", "event_id": "eventId", "m.fully_read": "eventId", "m.read": "eventId", "device_id": "deviceId",
    "devices": "deviceId", "next_batch": "since", "prev_batch": "since", "from": "since", "to": "since", "start": "since", "end": "since",
    "filter_id": "filterId", "version": "version", "room_alias": "roomAlias", "alias": "roomAlias", "content_uri": "mxc",
    "avatar_url": "mxc", "session": "session", "refresh_token": "refresh_token", "type": "eventType", "via": "serverName",
    "server_name": "serverName", "user": "userId", "sender": "userId", "thread_id": "eventId", "batch": "since", "next_token": "since",
}  # fmt: skip
"""Names of keys and parameters that hold what another name holds."""


@dataclass
class Identity:
    """Whoever asks; `token` is None for nobody."""

    name: str
    token: str | None
    user_id: str = ""


@dataclass
class Household:
    """`known` holds values by the name of the parameter that they fit."""

    box: BoxInWorld
    identities: list[Identity]
    caplog: pytest.LogCaptureFixture
    known: dict[str, list[str]] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    renewed: int = 0

    @property
    def operations(self) -> set[str]:
        return openapi.served(self.box.box.app._app.routes)

    def learn(self, name: str, value: str) -> None:
        values = self.known.setdefault(ALIKE.get(name, name), [])
        if value not in values and len(value) < 300:
            values.append(value)
            if len(values) > REMEMBERED:
                del values[self.made.get(ALIKE.get(name, name), 0)]

    def learn_from(self, answer: Any) -> None:
        """Notes every id in an answer."""
        if isinstance(answer, list):
            for one in answer[:20]:
                self.learn_from(one)
        if isinstance(answer, dict):
            for name, one in list(answer.items())[:40]:
                if isinstance(one, str) and ALIKE.get(name, name) in self.known:
                    self.learn(name, one)
                    if ALIKE.get(name) == "mxc":
                        self.learn("mediaId", one.rpartition("/")[2])
                self.learn_from(one)

    def pick(self, name: str, chance: Random) -> str | None:
        """A value that fits a parameter, if one is known; of those that were made on purpose more often than others."""
        values = self.known.get(ALIKE.get(name, name))
        if not values:
            return None
        return chance.choice(values[: self.made.get(ALIKE.get(name, name), 0)] or values if chance.random() < 0.6 else values)

    async def ask(self, who: Identity, method: str, target: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Sends it. Raises AssertionError for what no request may bring about: a 5xx, a traceback, silence."""
        self.caplog.clear()
        client = AsgiClient(self.box.box.app, token=who.token)
        with trio.move_on_after(SECONDS) as scope:
            answer = await client.request(method, target, body=body, headers={"host": "a.test", **headers})
        assert not scope.cancelled_caught, f"no answer within {SECONDS:.0f} s"
        logged = [record for record in self.caplog.records if record.levelno >= logging.ERROR or record.exc_info]
        assert not logged, self.caplog.text[-3000:]
        assert answer.status < 500 or answer.status in (502, 504), answer.body[:300]
        assert answer.headers.get("access-control-allow-origin") == "*"
        if answer.headers.get("content-type") == "application/json" and answer.status < 400 and answer.body:
            self.learn_from(answer.json)
        if answer.status == 401 and who.token is not None and answer.json.get("errcode") == "M_UNKNOWN_TOKEN":
            await self.renew(who)
        return answer

    async def renew(self, who: Identity) -> None:
        """Somebody who has logged out by accident comes back: with the device that was, or, if the account is gone, as somebody new."""
        from edgeserver.matrix.errors import MatrixError
        from edgeserver.users.accounts import DeviceWish

        try:
            session = await self.box.box.users.accounts.log_in(who.user_id, DeviceWish(self.known["deviceId"][0], "fuzz"))
        except MatrixError:
            pass
        else:
            who.token = session.tokens.access_token
            return
        self.renewed += 1
        fresh = await _identity(self.box, who.name, f"{who.name}{self.renewed}")
        who.token, who.user_id = fresh.token, fresh.user_id
        self.learn("userId", fresh.user_id)


@asynccontextmanager
async def household(tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int) -> AsyncIterator[Household]:
    async with World(tmp_path, random_bytes=Random(seed).randbytes) as world:
        box = await world.box("a", CONFIG)
        identities = [await _identity(box, name, name) for name in ("nobody", "alice", "bob", "guest", "admin")]
        home = Household(box, identities, caplog)
        await _furnish(home)
        yield home


async def _identity(box: BoxInWorld, kind: str, name: str) -> Identity:
    if kind == "nobody":
        return Identity(kind, None)
    accounts = box.box.users.accounts
    if kind == "guest":
        answer = await AsgiClient(box.box.app).post(f"{V3}/register?kind=guest", {}, headers={"host": "a.test"})
        return Identity(kind, answer.json["access_token"], answer.json["user_id"])
    from edgeserver.users.accounts import DeviceWish

    user_id, session = await accounts.create_person(name, PASSWORD, admin=kind == "admin", device=DeviceWish(None, "fuzz"))
    assert session is not None
    return Identity(kind, session.tokens.access_token, user_id)


async def _furnish(home: Household) -> None:
    """Rooms with alice in them: public with guests and knocking, encrypted and hers alone, an old one; a file, a filter, a backup."""
    _, alice, bob, guest, admin = home.identities
    person = Person(home.box, alice.user_id, str(alice.token))
    public = await person.create_room(
        preset="public_chat", room_alias_name="harbour", visibility="public", name="Harbour", topic="Ships",
        initial_state=[{"type": "m.room.guest_access", "state_key": "", "content": {"guest_access": "can_join"}}],
    )  # fmt: skip
    private = await person.create_room(name="Private", invite=[bob.user_id])
    old = await person.create_room(room_version="6", preset="public_chat")
    space = await person.create_room(preset="public_chat", creation_content={"type": "m.space"})
    await person.ok("PUT", f"/rooms/{quote(space)}/state/m.space.child/{quote(public)}", {"via": ["a.test"]})
    for room_id in (public, private, old, space, "!none:a.test", "!elsewhere:b.test"):
        home.learn("roomId", room_id)
    for one in (guest, admin):
        await Person(home.box, one.user_id, str(one.token)).ok("POST", f"/rooms/{quote(public)}/join")
    event = await person.say(public, "ahoy")
    reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event, "key": "+"}}
    threaded = {"m.relates_to": {"rel_type": "m.thread", "event_id": event}, "msgtype": "m.text", "body": "in a thread"}
    sent = [await person.ok("PUT", f"/rooms/{quote(public)}/send/{kind}/{kind}", content) for kind, content in
            (("m.reaction", reaction), ("m.room.message", threaded))]  # fmt: skip
    for event_id in (event, await person.say(private, "secret"), await person.say(old, "old"), *(one["event_id"] for one in sent), "$none"):
        home.learn("eventId", event_id)
    made = await person.ok("POST", f"/user/{alice.user_id}/filter", {"room": {"timeline": {"limit": 5}}})
    device = (await person.ok("GET", "/account/whoami"))["device_id"]
    uploaded = await AsgiClient(home.box.box.app, token=alice.token).request(
        "POST", "/_matrix/media/v3/upload", body=PNG, headers={"content-type": "image/png", "host": "a.test"}
    )
    backup = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "A" * 43}}
    session = (await person.ok("POST", "/login", {
        "type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD, "refresh_token": True
    }))  # fmt: skip
    values = {
        "userId": [alice.user_id, bob.user_id, guest.user_id, admin.user_id, "@nobody:a.test", "@far:b.test"],
        "filterId": [made["filter_id"]], "deviceId": [device, "NONE"], "serverName": ["a.test", "b.test"],
        "mediaId": [uploaded.json["content_uri"].rpartition("/")[2], "none"], "mxc": [uploaded.json["content_uri"]],
        "version": [(await person.ok("POST", "/room_keys/version", backup))["version"], "11", "12"], "sessionId": ["s"],
        "width": ["32"], "height": ["32"], "fileName": ["a.png"], "method": ["crop", "scale"],
        "roomAlias": ["#harbour:a.test", "#none:a.test", "#far:b.test"], "since": [(await person.sync())["next_batch"]],
        "eventType": ["m.room.message", "m.room.member", "m.room.topic", "m.room.power_levels", "m.room.canonical_alias", "m.reaction"],
        "stateKey": ["", alice.user_id, bob.user_id], "kind": ["override", "underride", "sender", "room", "content"],
        "ruleId": [".m.rule.master", "ship", public, bob.user_id], "receiptType": ["m.read", "m.read.private", "m.fully_read"],
        "keyName": ["displayname", "avatar_url", "m.tz", "x.y"], "type": ["x.y", "m.push_rules", "m.direct", "m.fully_read"],
        "tag": ["m.favourite", "u.x"], "txnId": ["t1", "t2"], "relType": ["m.annotation", "m.thread", "m.replace"],
        "protocol": ["irc"], "session": ["x"], "refresh_token": [session["refresh_token"]], "dir": ["f", "b"],
    }  # fmt: skip
    for name, each in values.items():
        for one in each:
            home.known.setdefault(name, []).append(one)
    home.made = {name: len(each) for name, each in home.known.items()}
