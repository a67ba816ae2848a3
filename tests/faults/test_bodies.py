"""Whatever a client sends, it is answered with a status and an errcode of the spec, and the log holds no traceback."""

from __future__ import annotations

import logging
import random
import re
from typing import Any

import orjson
import pytest

from tests.api import openapi
from tests.asgi import AsgiClient
from tests.flows.world import World

pytestmark = pytest.mark.provokes(*openapi.OPERATIONS)
"""What is asked here is nonsense, so only the answers are held against the specification."""

PARAMETER = re.compile(r"\{(\w+)(?::path)?\}")
UNLIMITED = "[limits]\nrate_limits = false\nupload_bytes = 100000\n"

SCALARS: list[Any] = [
    None, True, False, 0, -1, 1.5, 2**53, -(2**63), 2**64 - 1, 1e308, "", "a", "\x00", "é\u202e", "@", "!", "$", "#", "x" * 300,
    "@alice:a.test", "!room:a.test", "#alias:a.test", "$event", "mxc://a.test/x", "join", "m.room.member", "../../etc/passwd", "%00",
    "\ud7ff", "m.login.password", "ed25519:AAAA", "signed_curve25519:AAAA",
]  # fmt: skip
KEYS = """
user_id user identifier type password auth session device_id device_keys one_time_keys keys messages content state_key event_id
room_id membership reason filter room timeline limit preset invite room_version creation_content initial_state
power_level_content_override visibility room_alias_name name topic displayname avatar_url typing timeout m.fully_read m.read
thread_id search_term generic_search_term since server_name third_party_instance_id conditions actions pattern enabled kind
pushkey app_id data lang master_key self_signing_key user_signing_key signatures algorithm auth_data rooms sessions version
devices logout_devices new_password refresh_token token username initial_device_display_name presence status_msg body
@alice:a.test !room:a.test DEVICE * msgtype m.relates_to rel_type users alias alt_aliases redacts medium
""".split()  # noqa: SIM905
BROKEN = [
    b"", b"{", b"[]", b'"x"', b"null", b"1", b"\xff\xfe{}", b'{"a":NaN}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\\ud800"}',
    b'{"a":' + b"9" * 400 + b"}", b'{"a":1e999}', b'{"a":' * 5000 + b"1" + b"}" * 5000, b"[" * 100_000,
    b'{"a":' + b"[" * 99 + b"]" * 99 + b"}", b'{"a":1,"a":2}', b"\x00" * 64, b'{"\\u0000":"\\u0000"}', b"{}" + b" " * 1000,
    b'{"content":' + b"9" * 30 + b"}",
]  # fmt: skip


SEGMENTS = [
    "x", "%00", "%F0%9F%A6%AB", "%2F", "..", "@a:b", "!a:b", "$a", "a" * 600,
    "%ED%A0%80", "-1", "9" * 40, "+", "*"
]  # fmt: skip


class Junk:
    """Seeded values of any JSON type, made of what the endpoints look for."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def value(self, depth: int = 0) -> Any:
        kind = self.chance.random()
        if depth > 3 or kind < 0.45:
            return self.chance.choice(SCALARS)
        if kind < 0.6:
            return [self.value(depth + 1) for _ in range(self.chance.randrange(4))]
        return self.object(depth + 1)

    def object(self, depth: int = 0) -> dict[str, Any]:
        return {self.chance.choice(KEYS): self.value(depth + 1) for _ in range(self.chance.randrange(1, 6))}

    def segment(self, known: dict[str, str], name: str) -> str:
        if name in known and self.chance.random() < 0.6:
            return known[name]
        return self.chance.choice(SEGMENTS)


async def household(tmp_path, world: World):
    box = await world.box("a", UNLIMITED)
    alice = await box.person("alice")
    room_id = await alice.create_room(name="x")
    event_id = await alice.say(room_id, "hello")
    known = {
        "roomId": room_id.replace("!", "%21"), "eventId": event_id.replace("$", "%24"), "userId": "%40alice%3Aa.test",
        "eventType": "m.room.name", "stateKey": "", "txnId": "t", "type": "m.room.message",
        "roomIdOrAlias": room_id.replace("!", "%21"), "roomAlias": "%23x%3Aa.test", "deviceId": "TEST", "version": "1",
        "sessionId": "s", "serverName": "a.test", "mediaId": "x", "scope": "global", "kind": "override", "ruleId": "r", "filterId": "1",
        "receiptType": "m.read", "membership": "join", "field": "displayname", "keyName": "displayname",
    }  # fmt: skip
    return box, alice, known


def served(box, *, by_clients: bool = True) -> list[tuple[str, str]]:
    """(method, path with its parameters) of every endpoint that the box serves to clients, or to servers and operators.

    Topics, which have errors of their own shape, are tried in tests/api/test_topics.py.
    """
    prefixes = ("/_matrix/client/", "/_matrix/media/", "/.well-known/")
    routes = [route for route in box.box.app._app.routes if route.path.startswith(("/_", "/.well-known/"))]
    found = {(method, route.path) for route in routes for method in route.methods if route.path.startswith(prefixes) == by_clients}
    return sorted(one for one in found if "/r0/" not in one[1] and one[0] != "HEAD")


def assert_plain(caplog, answer, what) -> None:
    """No traceback, no 5xx but those that mean another server, and the standard error response."""
    faults = [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]
    assert not faults, (what, faults[0].getMessage(), faults[0].exc_info)
    assert answer.status < 500 or answer.status in (502, 504), (what, answer.status, answer.body)
    if answer.status >= 400:
        said = answer.json
        standard = isinstance(said.get("error"), str) and str(said.get("errcode")).startswith("M_")
        assert standard or (answer.status == 401 and "flows" in said), (what, answer.status, answer.body)


QUERY_KEYS = """
from to since limit dir timeout filter full_state set_presence server_name via at membership width height method timeout_ms
allow_remote filename user_id key ts kind version not_membership recurse include
""".split()  # noqa: SIM905
QUERY_VALUES = [
    "", "0", "-1", "9" * 30, "x", "true", "{}", "{",
    "[" * 500, "\x00", "%", "b", "s1_2_3", "\u0663", "1.5", "crop", '{"room":{"timeline":{"limit":-1}}}',
]  # fmt: skip


async def try_out(caplog, box, person, method: str, path: str, junk: Junk, known: dict[str, str]) -> None:
    """Every broken body and some junk for one endpoint."""
    bodies = [*BROKEN, *(orjson.dumps(junk.object()) for _ in range(8))] if method in ("PUT", "POST", "DELETE") else [b""] * 6
    for body in bodies:
        target = PARAMETER.sub(lambda found: junk.segment(known, found[1]), path)
        query = {junk.chance.choice(QUERY_KEYS): junk.chance.choice(QUERY_VALUES) for _ in range(junk.chance.randrange(4))}
        client = AsgiClient(box.box.app, token=person.token)
        caplog.clear()
        answer = await client.request(method, target, headers={"host": "client"}, body=body, query=query)
        assert_plain(caplog, answer, (method, target, query, body[:300]))
        if answer.status == 401 and answer.json.get("errcode") == "M_UNKNOWN_TOKEN":
            person.token = (await box.person(f"p{junk.chance.getrandbits(60):x}")).token


async def fuzz(tmp_path, caplog, seed: int) -> None:
    junk = Junk(seed)
    async with World(tmp_path) as world:
        box, alice, known = await household(tmp_path, world)
        for method, path in served(box):
            await try_out(caplog, box, alice, method, path, junk, known)
        assert len(served(box)) > 100


async def test_no_body_path_or_query_of_a_client_makes_the_box_fail(tmp_path, caplog, autojump_clock):
    await fuzz(tmp_path, caplog, 1)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2, 30))
async def test_no_body_path_or_query_of_a_client_makes_the_box_fail_with_other_seeds(tmp_path, caplog, autojump_clock, seed):
    await fuzz(tmp_path, caplog, seed)
