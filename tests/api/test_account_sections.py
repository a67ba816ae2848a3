"""Registering, logging in and out, accounts, devices: over the API, as a client meets them."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgeserver.api.application import Application
from edgeserver.api.authentication import AccessTokens
from edgeserver.api.client import account, devices, login, moderation, register, register_by_secret
from edgeserver.api.client.register import RegistrationPolicy
from edgeserver.api.endpoint import Gate
from edgeserver.api.ratelimit import RateLimiter
from edgeserver.api.user_interactive import UserInteractive, standard_stages
from edgeserver.users.registration_tokens import RegistrationTokens
from edgeserver.users.requester import Requester
from tests.asgi import Answer, AsgiClient
from tests.users.places import Place, open_place

V3 = "/_matrix/client/v3"
PASSWORD = "correct horse"


class Bridges:
    """One application service with the users @irc_…:test."""

    async def requester(
        self, token: str, as_user: str | None, device_id: str | None = None, *, registering: bool = False
    ) -> Requester | None:
        return Requester(as_user or "@irc_bot:test", appservice_id="irc") if token == "as_token" else None

    def exclusive_to(self, user_id: str) -> str | None:
        return "irc" if user_id.startswith("@irc_") else None

    def alias_exclusive_to(self, alias: str) -> str | None:
        return None

    def has_alias(self, appservice_id: str, alias: str) -> bool:
        return False

    def may_have(self, appservice_id: str, user_id: str) -> bool:
        return user_id.startswith("@irc_")


@dataclass
class House:
    place: Place
    client: AsgiClient

    async def register(self, name: str = "alice", **body: Any) -> Answer:
        path, body = f"{V3}/register", {"username": name, "password": PASSWORD, **body}
        asked = await self.client.post(path, body)
        if asked.status != 401:
            return asked
        return await self.client.post(path, {**body, "auth": {"type": "m.login.dummy", "session": asked.json["session"]}})

    async def log_in(self, name: Any = "alice", password: str = PASSWORD, **body: Any) -> Answer:
        who = {"type": "m.id.user", "user": name} if isinstance(name, str) else name
        return await self.client.post(f"{V3}/login", {"type": "m.login.password", "identifier": who, "password": password, **body})


def build(place: Place, policy: RegistrationPolicy) -> House:
    limiter = RateLimiter(place.clock)
    interactive = UserInteractive(place.clock, standard_stages(place.accounts, lambda user_id: limiter.check("login_account", user_id)))
    bridges = Bridges()
    routes = [
        *register.routes(place.accounts, interactive, policy, appservices=bridges),
        *register_by_secret.routes(place.accounts, "secret", place.clock),
        *login.routes(place.accounts, place.tokens, place.devices, limiter=limiter, appservices=bridges),
        *account.routes(place.accounts, interactive),
        *devices.routes(place.devices, interactive),
        *moderation.routes(place.accounts, place.devices, "test"),
    ]
    gate = Gate(AccessTokens(place.tokens, appservices=bridges), limiter)
    return House(place, AsgiClient(Application(routes, gate)))


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_place(tmp_path) as opened:
        yield opened


@pytest.fixture
async def house(place: Place) -> House:
    return build(place, RegistrationPolicy(open=True, with_token=True))


async def test_a_person_registers_and_asks_who_they_are(house: House) -> None:
    asked = await house.client.post(f"{V3}/register", {})
    assert asked.status == 401
    assert asked.json["flows"] == [{"stages": ["m.login.dummy"]}, {"stages": ["m.login.registration_token"]}]
    assert "errcode" not in asked.json
    answer = await house.register(device_id="PHONE", initial_device_display_name="My phone")
    assert (answer.status, answer.json["user_id"], answer.json["device_id"]) == (200, "@alice:test", "PHONE")
    house.client.token = answer.json["access_token"]
    me = await house.client.get(f"{V3}/account/whoami")
    assert me.json == {"user_id": "@alice:test", "device_id": "PHONE", "is_guest": False}
    (device,) = (await house.client.get(f"{V3}/devices")).json["devices"]
    assert (device["device_id"], device["display_name"], device["last_seen_ip"]) == ("PHONE", "My phone", "192.0.2.1")


async def test_the_last_round_may_leave_out_what_the_first_has_said(house: House) -> None:
    asked = await house.client.post(f"{V3}/register", {"username": "alice", "password": PASSWORD, "inhibit_login": True})
    auth = {"type": "m.login.dummy", "session": asked.json["session"]}
    assert (await house.client.post(f"{V3}/register", {"auth": auth})).json == {"user_id": "@alice:test"}
    taken = await house.register()
    assert (taken.status, taken.json["errcode"]) == (400, "M_USER_IN_USE")


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"username": "a b"}, "M_INVALID_USERNAME"),
        ({"username": 1}, "M_BAD_JSON"),
        ({"password": "short"}, "M_WEAK_PASSWORD"),
        ({"password": None}, "M_MISSING_PARAM"),
        ({"device_id": 1}, "M_BAD_JSON"),
        ({"username": "irc_eve"}, "M_EXCLUSIVE"),
    ],
)
async def test_registrations_that_cannot_be(house: House, body: dict[str, Any], errcode: str) -> None:
    answer = await house.register(**{"name": "alice", **{("name" if k == "username" else k): v for k, v in body.items()}})
    assert (answer.status, answer.json["errcode"]) == (400, errcode)


async def test_guests_are_refused_and_closed_doors_say_so(house: House) -> None:
    guest = await house.client.post(f"{V3}/register?kind=guest", {})
    assert (guest.status, guest.json["errcode"]) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    closed = await build(house.place, RegistrationPolicy()).register()
    assert (closed.status, closed.json["errcode"]) == (403, "M_FORBIDDEN")


async def test_a_registration_token_opens_the_door_once(place: Place) -> None:
    house = build(place, RegistrationPolicy(with_token=True))
    token = (await RegistrationTokens(place.db, place.clock).create(uses=1)).token
    validity = "/_matrix/client/v1/register/m.login.registration_token/validity"
    assert (await house.client.get(validity, query={"token": token})).json == {"valid": True}
    body = {"username": "alice", "password": PASSWORD}
    asked = await house.client.post(f"{V3}/register", body)
    auth = {"type": "m.login.registration_token", "session": asked.json["session"]}
    wrong = await house.client.post(f"{V3}/register", {**body, "auth": {**auth, "token": "guess"}})
    assert (wrong.status, wrong.json["errcode"], wrong.json["session"]) == (401, "M_UNAUTHORIZED", auth["session"])
    skipped = await house.client.post(f"{V3}/register", {**body, "auth": {**auth, "type": "m.login.dummy"}})
    assert skipped.status == 401
    assert (await house.client.post(f"{V3}/register", {**body, "auth": {**auth, "token": token}})).status == 200
    assert (await house.client.get(validity, query={"token": token})).json == {"valid": False}


async def test_names_are_available_until_they_are_taken(house: House) -> None:
    path = f"{V3}/register/available"
    assert (await house.client.get(path, query={"username": "alice"})).json == {"available": True}
    await house.register()
    assert (await house.client.get(path, query={"username": "alice"})).json["errcode"] == "M_USER_IN_USE"
    assert (await house.client.get(path)).json["errcode"] == "M_MISSING_PARAM"


async def test_the_shared_secret_makes_accounts_as_in_synapse(house: House) -> None:
    path = "/_synapse/admin/v1/register"
    nonce = (await house.client.get(path)).json["nonce"]
    mac = hmac.new(b"secret", f"{nonce}\0root\0{PASSWORD}\0admin".encode(), "sha1").hexdigest()
    body = {"nonce": nonce, "username": "root", "password": PASSWORD, "admin": True, "mac": mac}
    answer = await house.client.post(path, body)
    assert (answer.status, answer.json["user_id"], answer.json["home_server"]) == (200, "@root:test", "test")
    assert (await house.client.post(path, body)).status == 400
    found = await house.place.accounts.account("@root:test")
    assert found is not None
    assert found.admin
    nonce = (await house.client.get(path)).json["nonce"]
    assert (await house.client.post(path, {**body, "nonce": nonce})).status == 403


async def test_the_shared_secret_makes_nobody_with_a_display_name_that_they_could_not_set(house: House) -> None:
    path = "/_synapse/admin/v1/register"
    nonce = (await house.client.get(path)).json["nonce"]
    mac = hmac.new(b"secret", f"{nonce}\0root\0{PASSWORD}\0notadmin".encode(), "sha1").hexdigest()
    body = {"nonce": nonce, "username": "root", "password": PASSWORD, "mac": mac, "displayname": "x" * 257}
    answer = await house.client.post(path, body)
    assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")
    assert await house.place.accounts.account("@root:test") is None


async def test_logging_in_with_every_form_of_identifier(house: House) -> None:
    await house.register()
    for name in ("alice", "@alice:test", "Alice"):
        assert (await house.log_in(name)).status == 200
    old = await house.client.post(f"{V3}/login", {"type": "m.login.password", "user": "alice", "password": PASSWORD})
    assert old.status == 200
    email = {"type": "m.id.thirdparty", "medium": "email", "address": "a@b.c"}
    for who in (email, "bob", "@alice:elsewhere"):
        answer = await house.log_in(who)
        assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")
    assert (await house.log_in(password="wrong")).json["errcode"] == "M_FORBIDDEN"
    assert (await house.log_in(password=5)).json["errcode"] == "M_BAD_JSON"  # type: ignore[arg-type]
    assert (await house.client.post(f"{V3}/login", {"type": "m.login.magic"})).json["errcode"] == "M_UNKNOWN"
    types = [flow["type"] for flow in (await house.client.get(f"{V3}/login")).json["flows"]]
    assert types == ["m.login.password", "m.login.application_service"]


async def test_guessing_passwords_is_slowed_down_for_the_account_wherever_it_comes_from(house: House) -> None:
    await house.register()
    answers = []
    for number in range(12):
        house.client.address = f"192.0.2.{number}"
        answers.append(await house.log_in(password="guess"))
    assert [a.status for a in answers] == [403] * 10 + [429] * 2
    assert answers[-1].json["errcode"] == "M_LIMIT_EXCEEDED"
    assert answers[-1].json["retry_after_ms"] > 0
    house.place.clock.now += answers[-1].json["retry_after_ms"]
    assert (await house.log_in()).status == 200


async def test_refreshing_over_the_api(house: House) -> None:
    await house.register()
    session = (await house.log_in(refresh_token=True)).json
    assert session["expires_in_ms"] > 0
    answer = await house.client.post(f"{V3}/refresh", {"refresh_token": session["refresh_token"]})
    assert answer.json.keys() == {"access_token", "refresh_token", "expires_in_ms"}
    assert (await house.client.get(f"{V3}/account/whoami", token=answer.json["access_token"])).status == 200
    assert (await house.client.post(f"{V3}/refresh", {"refresh_token": session["refresh_token"]})).status == 401


async def test_logging_out_here_and_everywhere(house: House) -> None:
    await house.register()
    tokens = [(await house.log_in()).json["access_token"] for _ in range(3)]
    assert (await house.client.post(f"{V3}/logout", token=tokens[0])).json == {}
    whoami = f"{V3}/account/whoami"
    assert [(await house.client.get(whoami, token=t)).status for t in tokens] == [401, 200, 200]
    await house.client.post(f"{V3}/logout/all", token=tokens[1])
    assert [(await house.client.get(whoami, token=t)).status for t in tokens] == [401, 401, 401]


async def prove(house: House, method: str, path: str, body: dict[str, Any], password: str = PASSWORD) -> Answer:
    asked = await house.client.request(method, path, json=body)
    assert (asked.status, asked.json["flows"]) == (401, [{"stages": ["m.login.password"]}])
    who = {"type": "m.id.user", "user": "alice"}
    auth = {"type": "m.login.password", "identifier": who, "password": password, "session": asked.json["session"]}
    return await house.client.request(method, path, json={**body, "auth": auth})


async def test_a_new_password_needs_the_old_one(house: House) -> None:
    await house.register()
    house.client.token = (await house.log_in()).json["access_token"]
    wrong = await prove(house, "POST", f"{V3}/account/password", {"new_password": "battery staple"}, "wrong password")
    assert (wrong.status, wrong.json["errcode"], wrong.json["completed"]) == (401, "M_FORBIDDEN", [])
    right = await prove(house, "POST", f"{V3}/account/password", {"new_password": "battery staple"})
    assert right.json == {}
    assert (await house.log_in(password=PASSWORD)).status == 403
    assert (await house.log_in(password="battery staple")).status == 200


async def test_devices_are_renamed_and_with_a_password_deleted(house: House) -> None:
    await house.register(device_id="A")
    await house.log_in(device_id="B")
    await house.log_in(device_id="C")
    house.client.token = (await house.log_in(device_id="D")).json["access_token"]
    path = f"{V3}/devices"
    assert (await house.client.put(f"{path}/A", {"display_name": "New"})).json == {}
    assert (await house.client.get(f"{path}/A")).json["display_name"] == "New"
    assert (await house.client.put(f"{path}/Z", {"display_name": "New"})).status == 404
    assert (await prove(house, "DELETE", f"{path}/A", {})).json == {}
    assert (await house.client.get(f"{path}/A")).status == 404
    assert (await prove(house, "POST", f"{V3}/delete_devices", {"devices": ["B", "C", "Z"]})).json == {}
    assert [d["device_id"] for d in (await house.client.get(path)).json["devices"]] == ["D"]
    assert ("deleted", "@alice:test", ["B", "C"]) in house.place.heard
    assert ("renamed", "@alice:test", ["A"]) in house.place.heard


async def test_a_session_of_one_request_proves_no_other(house: House) -> None:
    await house.register(device_id="A")
    house.client.token = (await house.log_in(device_id="D")).json["access_token"]
    asked = await house.client.delete(f"{V3}/devices/A")
    auth = {"type": "m.login.password", "user": "alice", "password": PASSWORD, "session": asked.json["session"]}
    other = await house.client.post(f"{V3}/account/deactivate", {"auth": auth})
    assert (other.status, other.json["errcode"]) == (403, "M_FORBIDDEN")


async def test_a_deactivated_account_is_gone(house: House) -> None:
    await house.register()
    house.client.token = (await house.log_in()).json["access_token"]
    answer = await prove(house, "POST", f"{V3}/account/deactivate", {})
    assert answer.json == {"id_server_unbind_result": "no-support"}
    house.client.token = None
    again = await house.log_in()
    assert (again.status, again.json["errcode"]) == (403, "M_USER_DEACTIVATED")


async def test_there_are_no_third_party_identifiers(house: House) -> None:
    token = (await house.register()).json["access_token"]
    assert (await house.client.get(f"{V3}/account/3pid", token=token)).json == {"threepids": []}
    refused = await house.client.post(f"{V3}/register/email/requestToken", {})
    assert (refused.status, refused.json["errcode"]) == (403, "M_THREEPID_DENIED")


async def test_an_application_service_registers_and_acts_for_its_users(house: House) -> None:
    body = {"type": "m.login.application_service", "username": "irc_eve"}
    assert (await house.client.post(f"{V3}/register", body)).status == 401
    token = "as_token"
    assert (await house.client.post(f"{V3}/register", body, token=token)).json["user_id"] == "@irc_eve:test"
    outside = await house.client.post(f"{V3}/register", {**body, "username": "alice"}, token=token)
    assert outside.json["errcode"] == "M_EXCLUSIVE"
    me = await house.client.get(f"{V3}/account/whoami?user_id=@irc_eve:test", token=token)
    assert me.json["user_id"] == "@irc_eve:test"
    who = {"type": "m.id.user", "user": "irc_eve"}
    session = await house.client.post(f"{V3}/login", {"type": "m.login.application_service", "identifier": who}, token=token)
    assert session.json["user_id"] == "@irc_eve:test"


async def test_only_an_administrator_asks_where_others_are(house: House) -> None:
    alice = (await house.register()).json["access_token"]
    await house.place.accounts.create_person("root", PASSWORD, admin=True)
    root = (await house.log_in("root")).json["access_token"]
    assert (await house.client.get(f"{V3}/admin/whois/@root:test", token=alice)).status == 403
    answer = await house.client.get(f"{V3}/admin/whois/@alice:test", token=root)
    assert list(answer.json["devices"].values()) == [
        {"sessions": [{"connections": [{"ip": "192.0.2.1", "last_seen": house.place.clock.now}]}]}
    ]


async def test_who_is_suspended_still_logs_in_where_application_services_do_too(house: House) -> None:
    token = (await house.register()).json["access_token"]
    await house.place.accounts.set_suspended("@alice:test", True)
    house.client.token = token  # an app that sends its old token along
    assert (await house.log_in()).status == 200
    await house.place.accounts.set_locked("@alice:test", True)
    locked = await house.log_in()
    assert (locked.status, locked.json["errcode"]) == (401, "M_USER_LOCKED")
