"""What bounds accounts: how often, how many, how large; each with the error that a client is told."""

from __future__ import annotations

from typing import Any

import pytest

from edgeserver.api.client.devices import MAX_AT_ONCE
from edgeserver.api.client.register_by_secret import NONCE_LIFETIME_MS, NONCES, SharedSecretRegistration
from edgeserver.api.user_interactive import LIFETIME_MS, SESSIONS, AuthenticationNeeded, UserInteractive
from edgeserver.matrix import errors
from tests.asgi import Answer, AsgiClient
from tests.flows.world import World, until

V3 = "/_matrix/client/v3"
V1 = "/_matrix/client/v1"
OPEN = '[accounts]\nregistration = "token"\nregistration_tokens = ["t0ken"]\nregistration_shared_secret = "s3cret"\n'

# Method, path, body, how many at once: of one address, or of one user where there is one
RATED: list[tuple[str, str, Any, int]] = [
    ("POST", f"{V3}/register", {}, 5),
    ("POST", f"{V3}/login", {"type": "m.login.magic"}, 10),
    ("POST", f"{V3}/refresh", {"refresh_token": "x"}, 10),
    ("GET", f"{V3}/register/available?username=x", None, 50),
    ("GET", f"{V1}/register/m.login.registration_token/validity?token=x", None, 10),
    ("POST", f"{V3}/auth/m.login.dummy/fallback/web?session=x", None, 10),
    ("GET", f"{V3}/auth/m.login.dummy/fallback/web?session=x", None, 50),
    ("GET", "/_synapse/admin/v1/register", None, 10),
    ("POST", "user:" + f"{V3}/account/password", {}, 10),
    ("POST", "user:" + f"{V3}/account/deactivate", {}, 10),
    ("POST", "user:" + f"{V1}/login/get_token", {}, 50),
    ("PUT", "user:" + f"{V3}/devices/X", {}, 50),
    ("DELETE", "user:" + f"{V3}/devices/X", None, 50),
    ("POST", "user:" + f"{V3}/delete_devices", {}, 50),
    ("PUT", "user:" + f"{V1}/admin/lock/@x:a.test", {}, 50),
    ("PUT", "user:" + f"{V1}/admin/suspend/@x:a.test", {}, 50),
    ("PUT", "user:" + f"{V3}/profile/@alice:a.test/m.tz", {}, 50),
    ("DELETE", "user:" + f"{V3}/profile/@alice:a.test/m.tz", None, 50),
    ("GET", f"{V3}/profile/@alice:a.test", None, 50),
]


@pytest.mark.parametrize(("method", "path", "body", "burst"), RATED, ids=[f"{one[0]} {one[1].rpartition('/v')[2]}" for one in RATED])
async def test_who_asks_too_often_is_told_when_to_come_back(tmp_path, autojump_clock, method, path, body, burst):
    async with World(tmp_path) as world:
        a = await world.box("a", OPEN)
        alice = await a.person("alice")
        client = AsgiClient(a.box.app, token=alice.token if path.startswith("user:") else None)
        options = {} if body is None else {"json": body}
        answers = [await client.request(method, path.removeprefix("user:"), **options) for _ in range(burst + 1)]
        assert 429 not in [answer.status for answer in answers[:burst]]
        assert (answers[-1].status, answers[-1].json["errcode"]) == (429, "M_LIMIT_EXCEEDED")
        assert answers[-1].json["retry_after_ms"] > 0
        client.address = "192.0.2.77"
        elsewhere = (await client.request(method, path.removeprefix("user:"), **options)).status
        assert (elsewhere == 429) == path.startswith("user:")  # a user is counted wherever they are


def told(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json.get("errcode", "")


async def test_what_is_too_large_or_too_much_is_refused(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", OPEN)
        alice = await a.person("alice")
        profile = f"/profile/{alice.user_id}"
        device = (await alice.ok("GET", "/account/whoami"))["device_id"]
        auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "correct horse battery"}
        cases: list[tuple[str, str, Any, tuple[int, str]]] = [
            ("PUT", f"{profile}/org.example.big", {"org.example.big": "x" * 66_000}, (400, "M_PROFILE_TOO_LARGE")),
            ("PUT", f"{profile}/org.example.huge", {"org.example.huge": "x" * 200_000}, (413, "M_TOO_LARGE")),
            ("PUT", f"{profile}/a.{'x' * 254}", {f"a.{'x' * 254}": 1}, (400, "M_KEY_TOO_LARGE")),
            ("PUT", f"{profile}/nodots", {"nodots": 1}, (400, "M_INVALID_PARAM")),
            ("PUT", f"{profile}/org.example.none", {}, (400, "M_MISSING_PARAM")),
            ("PUT", f"{profile}/displayname", {"displayname": "x" * 257}, (400, "M_INVALID_PARAM")),
            ("PUT", f"{profile}/m.tz", {"m.tz": 5}, (400, "M_INVALID_PARAM")),
            ("PUT", f"/devices/{device}", {"display_name": "x" * 257}, (400, "M_INVALID_PARAM")),
            ("POST", "/delete_devices", {"devices": ["x"] * (MAX_AT_ONCE + 1), "auth": auth}, (400, "M_BAD_JSON")),
            ("POST", "/account/password", {"new_password": "x" * 513, "auth": auth}, (400, "M_WEAK_PASSWORD")),
            ("POST", "/account/password", {"new_password": "x", "auth": auth}, (400, "M_WEAK_PASSWORD")),
        ]
        for method, path, body, expected in cases:
            assert told(await alice.request(method, path, body)) == expected, path
        half = {"org.example.a": "x" * 33_000}
        await alice.ok("PUT", f"{profile}/org.example.a", half)
        full = await alice.request("PUT", f"{profile}/org.example.b", {"org.example.b": "x" * 33_000})
        assert told(full) == (400, "M_PROFILE_TOO_LARGE")  # all fields together count


async def test_a_profile_of_any_fields_is_read_from_other_servers(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob = await a.person("alice"), await b.person("bob")
        path = f"/profile/{alice.user_id}"
        fields = {"displayname": "Alice", "m.tz": "Europe/Berlin", "org.example.pronouns": [{"x": "she/her"}], "org.example.none": None}
        for name, value in fields.items():
            await alice.ok("PUT", f"{path}/{name}", {name: value})
        assert await bob.ok("GET", path) == fields
        for name, value in fields.items():
            assert await bob.ok("GET", f"{path}/{name}") == {name: value}
        await alice.ok("DELETE", f"{path}/m.tz")
        assert told(await bob.request("GET", f"{path}/m.tz")) == (404, "M_NOT_FOUND")
        assert told(await bob.request("PUT", f"{path}/m.tz", {"m.tz": "UTC"})) == (403, "M_FORBIDDEN")
        capabilities = (await alice.ok("GET", "/capabilities"))["capabilities"]
        assert capabilities["m.profile_fields"] == {"enabled": True}


async def test_sessions_of_proofs_end_after_an_hour_and_only_so_many_are_held() -> None:
    now = 0
    interactive = UserInteractive(lambda: now, {})

    async def begin() -> str:
        with pytest.raises(AuthenticationNeeded) as asked:
            await interactive.authenticate({}, "x", [["m.login.dummy"]])
        return str(asked.value.extra["session"])

    first = await begin()
    assert interactive.offers(first, "m.login.dummy")
    for _ in range(SESSIONS):
        await begin()
    assert not interactive.offers(first, "m.login.dummy")
    last = await begin()
    now += LIFETIME_MS
    assert not interactive.offers(last, "m.login.dummy")
    assert await begin() != last


async def test_nonces_of_shared_secret_registration_expire_and_only_so_many_are_out() -> None:
    now = 0
    registration = SharedSecretRegistration(None, "s3cret", lambda: now)  # type: ignore[arg-type]

    class Asking:
        def __init__(self, nonce: str) -> None:
            self._nonce = nonce

        async def json(self) -> dict[str, Any]:
            return {"nonce": self._nonce, "username": "x", "password": "correct horse", "mac": "x"}

    async def answer(nonce: str) -> errors.CodedError:
        with pytest.raises(errors.CodedError) as refused:
            await registration.register(Asking(nonce))  # type: ignore[arg-type]
        return refused.value

    first = (await registration.nonce(None))["nonce"]  # type: ignore[arg-type]
    nonces = [(await registration.nonce(None))["nonce"] for _ in range(NONCES)]  # type: ignore[arg-type]
    assert "unrecognised nonce" in (await answer(first)).error
    assert (await answer(nonces[0])).CODE == "M_FORBIDDEN"  # known; the MAC is wrong
    now += NONCE_LIFETIME_MS
    assert "unrecognised nonce" in (await answer(nonces[1])).error


async def test_a_configured_registration_token_lets_anybody_in_who_has_it(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", OPEN)
        client = AsgiClient(a.box.app)
        validity = f"{V1}/register/m.login.registration_token/validity"
        assert (await client.get(validity, query={"token": "t0ken"})).json == {"valid": True}
        assert (await client.get(validity, query={"token": "guess"})).json == {"valid": False}
        for name in ("one", "two"):
            auth = {"type": "m.login.registration_token", "token": "t0ken"}
            made = await client.post(f"{V3}/register", {"username": name, "password": "correct horse", "auth": auth})
            assert made.status == 200, made.body


async def test_when_and_where_devices_were_last_seen_survives_a_restart(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a")
        alice = await a.person("alice")
        (seen,) = (await alice.ok("GET", "/devices"))["devices"]

        async def is_written() -> bool:
            row = await a.box.ground.db.read(lambda tx: tx.one("SELECT last_seen_at, last_seen_ip FROM devices"))
            return row == (seen["last_seen_ts"], "192.0.2.1")

        await until(is_written, seconds=1300)
