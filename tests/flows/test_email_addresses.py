"""Email addresses from a client's side, with a real mail server: registering, adding, logging in, a forgotten password."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from edgeserver.api.client.email_addresses import SUBMIT
from tests.api.answer_schemas import faults_of
from tests.asgi import Answer, AsgiClient
from tests.flows.world import BoxInWorld, Person, World
from tests.lab.mail import HOST, MailServer

V3 = "/_matrix/client/v3"
ANA = "ana@home.example"
PASSWORD = "correct horse battery"
NEW = "a much longer one"


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


def configured(mail: MailServer, *, registration: str = "optional", rates: bool = False, kind: str = "open") -> str:
    tokens = 'registration_tokens = ["t0ken"]\n' if kind == "token" else ""
    return (
        f'[http]\npublic_url = "https://box.example/"\n[accounts]\nregistration = "{kind}"\n{tokens}'
        f"[limits]\nrate_limits = {'true' if rates else 'false'}\n"
        f'[smtp]\nhost = "{HOST}"\nport = {mail.port}\ntls = "none"\nsender = "box@box.example"\nregistration = "{registration}"\n'
    )


async def post(box: BoxInWorld, path: str, body: Any, token: str | None = None, **options: Any) -> Answer:
    return await AsgiClient(box.box.app, token=token).post(f"{V3}{path}", body, **options)


def told(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json.get("errcode", "")


def request(email: str = ANA, **more: Any) -> dict[str, Any]:
    return {"client_secret": "s3cret", "email": email, "send_attempt": 1, **more}


async def follow(box: BoxInWorld, mail: MailServer) -> Answer:
    """Does what a person does with the newest mail: opens the link, presses the button."""
    link = mail.mails[-1].link
    assert link.startswith(SUBMIT)
    opened = await AsgiClient(box.box.app).get(link)
    assert opened.status == 200
    assert b"<button" in opened.body
    return await AsgiClient(box.box.app).request("POST", link, body=b"", headers={"content-type": "application/x-www-form-urlencoded"})


def proof(sid: str) -> dict[str, Any]:
    return {"type": "m.login.email.identity", "threepid_creds": {"sid": sid, "client_secret": "s3cret"}}


def password(name: Any = "alice", word: str = PASSWORD) -> dict[str, Any]:
    who = {"type": "m.id.user", "user": name} if isinstance(name, str) else name
    return {"type": "m.login.password", "identifier": who, "password": word}


async def with_address(box: BoxInWorld, mail: MailServer, name: str = "alice", address: str = ANA) -> Person:
    person = await box.person(name)
    sid = (await post(box, "/account/3pid/email/requestToken", request(address))).json["sid"]
    assert (await follow(box, mail)).status == 200
    await person.ok("POST", "/account/3pid/add", {"sid": sid, "client_secret": "s3cret", "auth": password(name)})
    return person


async def test_a_person_registers_with_the_address_that_the_mail_went_to(tmp_path, mail):
    async with World(tmp_path) as world:
        a = await world.box("a", configured(mail, registration="required"))
        body = {"username": "alice", "password": PASSWORD}
        asked = await post(a, "/register", body)
        assert (asked.status, asked.json["flows"]) == (401, [{"stages": ["m.login.email.identity"]}])
        sid = (await post(a, "/register/email/requestToken", request())).json["sid"]
        auth = {**proof(sid), "session": asked.json["session"]}
        assert told(await post(a, "/register", {**body, "auth": auth})) == (401, "M_THREEPID_AUTH_FAILED")
        done = await follow(a, mail)
        assert b"Your email address is confirmed" in done.body
        made = await post(a, "/register", {**body, "auth": auth})
        assert made.status == 200, made.body
        (one,) = (await AsgiClient(a.box.app, token=made.json["access_token"]).get(f"{V3}/account/3pid")).json["threepids"]
        assert (one["medium"], one["address"]) == ("email", ANA)
        # The session has served: nobody else registers with it, nor with the address
        again = await post(a, "/register", {"username": "eve", "password": PASSWORD, "auth": proof(sid)})
        assert told(again) == (401, "M_THREEPID_AUTH_FAILED")
        assert told(await post(a, "/register/email/requestToken", request())) == (400, "M_THREEPID_IN_USE")


async def test_an_address_is_asked_for_beside_a_token_and_may_be_left_out_where_it_is_optional(tmp_path, mail):
    async with World(tmp_path) as world:
        a = await world.box("a", configured(mail, kind="token"))
        asked = await post(a, "/register", {"username": "alice", "password": PASSWORD})
        token, email = "m.login.registration_token", "m.login.email.identity"
        assert asked.json["flows"] == [{"stages": [token]}, {"stages": [token, email]}]


async def test_an_address_is_added_with_the_password_and_taken_away(tmp_path, mail):
    async with World(tmp_path) as world:
        a = await world.box("a", configured(mail))
        alice = await a.person("alice")
        assert (await alice.ok("GET", "/capabilities"))["capabilities"]["m.3pid_changes"] == {"enabled": True}
        sid = (await post(a, "/account/3pid/email/requestToken", request(next_link="https://app.example/#/done"))).json["sid"]
        done = await follow(a, mail)
        assert b'href="https://app.example/#/done"' in done.body
        body = {"sid": sid, "client_secret": "s3cret"}
        asked = await alice.request("POST", "/account/3pid/add", body)
        assert (asked.status, asked.json["flows"]) == (401, [{"stages": ["m.login.password"]}])
        auth = {**password(), "session": asked.json["session"]}
        assert await alice.ok("POST", "/account/3pid/add", {**body, "auth": auth}) == {}
        found = await alice.ok("GET", "/account/3pid")
        assert faults_of("GET", f"{V3}/account/3pid", found) == []
        assert [one["address"] for one in found["threepids"]] == [ANA]
        bob = await a.person("bob")
        await bob.ok("POST", "/account/3pid/delete", {"medium": "email", "address": ANA})
        assert len((await alice.ok("GET", "/account/3pid"))["threepids"]) == 1
        gone = await alice.ok("POST", "/account/3pid/delete", {"medium": "email", "address": ANA})
        assert gone == {"id_server_unbind_result": "no-support"}
        assert (await alice.ok("GET", "/account/3pid"))["threepids"] == []


async def test_what_takes_an_identity_server_or_a_telephone_is_refused(tmp_path, mail):
    async with World(tmp_path) as world:
        a = await world.box("a", configured(mail))
        alice = await a.person("alice")
        for path in ("/account/3pid", "/account/3pid/bind", "/account/3pid/msisdn/requestToken", "/register/msisdn/requestToken",
                     "/account/password/msisdn/requestToken"):  # fmt: skip
            assert told(await alice.request("POST", path)) == (403, "M_THREEPID_DENIED"), path
        body = {"medium": "email", "address": ANA}
        assert await alice.ok("POST", "/account/3pid/unbind", body) == {"id_server_unbind_result": "no-support"}
        asked = await post(a, "/register", {"username": "eve", "password": PASSWORD})
        auth = {"type": "m.login.msisdn", "threepid_creds": {}, "session": asked.json["session"]}
        assert told(await post(a, "/register", {"username": "eve", "password": PASSWORD, "auth": auth})) == (401, "M_INVALID_PARAM")
        phone = {"type": "m.id.phone", "country": "GB", "phone": "07700900001"}
        assert told(await post(a, "/login", password(phone))) == (403, "M_FORBIDDEN")


async def test_an_address_is_as_good_as_a_name_to_log_in_with(tmp_path, mail):
    async with World(tmp_path) as world:
        a = await world.box("a", configured(mail))
        alice = await with_address(a, mail)
        who = {"type": "m.id.thirdparty", "medium": "email", "address": "Ana@home.example"}
        assert (await post(a, "/login", password(who))).json["user_id"] == alice.user_id
        assert told(await post(a, "/login", password(who, "guess"))) == (403, "M_FORBIDDEN")
        assert told(await post(a, "/login", password({**who, "address": "eve@home.example"}))) == (403, "M_FORBIDDEN")
        assert told(await post(a, "/login", password({**who, "medium": "msisdn"}))) == (403, "M_FORBIDDEN")
        # And to prove who one is
        asked = await alice.request("POST", "/account/deactivate")
        auth = {**password(who), "session": asked.json["session"]}
        bob = await a.person("bob")
        assert (await bob.request("POST", "/account/deactivate", {"auth": password(who)})).status == 401
        await alice.ok("POST", "/account/deactivate", {"auth": auth})
        assert (await post(a, "/login", password(who))).status == 403


async def test_a_forgotten_password_is_replaced_by_who_reads_the_mail(tmp_path, mail):
    async with World(tmp_path) as world:
        a = await world.box("a", configured(mail))
        alice = await with_address(a, mail)
        assert told(await post(a, "/account/password/email/requestToken", request("eve@home.example"))) == (400, "M_THREEPID_NOT_FOUND")
        sid = (await post(a, "/account/password/email/requestToken", request())).json["sid"]
        asked = await post(a, "/account/password", {"new_password": NEW})
        assert (asked.status, asked.json["flows"]) == (401, [{"stages": ["m.login.email.identity"]}])
        auth = {**proof(sid), "session": asked.json["session"]}
        assert told(await post(a, "/account/password", {"new_password": NEW, "auth": auth})) == (401, "M_THREEPID_AUTH_FAILED")
        await follow(a, mail)
        assert told(await post(a, "/account/password", {"new_password": "short", "auth": auth})) == (400, "M_WEAK_PASSWORD")
        assert (await post(a, "/account/password", {"new_password": NEW, "auth": auth})).json == {}
        assert told(await alice.request("GET", "/account/whoami")) == (401, "M_UNKNOWN_TOKEN")
        assert (await post(a, "/login", password(word=NEW))).status == 200
        assert told(await post(a, "/account/password", {"new_password": NEW, "auth": proof(sid)})) == (401, "M_THREEPID_AUTH_FAILED")


async def test_a_link_for_another_purpose_resets_no_password(tmp_path, mail):
    async with World(tmp_path) as world:
        a = await world.box("a", configured(mail))
        await with_address(a, mail)
        alice = await a.person("alice2")
        sid = (await post(a, "/account/3pid/email/requestToken", request("new@home.example"))).json["sid"]
        await follow(a, mail)
        answer = await post(a, "/account/password", {"new_password": NEW, "auth": proof(sid)})
        assert told(answer) == (400, "M_THREEPID_NOT_FOUND")
        adding = {"client_secret": "s3cret", "auth": password("alice2")}
        await alice.ok("POST", "/account/3pid/add", {"sid": sid, **adding})
        other = (await post(a, "/register/email/requestToken", request("third@home.example"))).json["sid"]
        await follow(a, mail)
        assert told(await alice.request("POST", "/account/3pid/add", {"sid": other, **adding})) == (403, "M_THREEPID_AUTH_FAILED")


async def test_opening_a_link_confirms_nothing_and_an_old_link_says_so(tmp_path, mail):
    async with World(tmp_path) as world:
        a = await world.box("a", configured(mail))
        sid = (await post(a, "/register/email/requestToken", request("<b>x</b>@home.example"))).json
        assert sid["errcode"] == "M_INVALID_PARAM"
        await post(a, "/register/email/requestToken", request())
        link = mail.mails[-1].link
        for _ in range(2):
            page = await AsgiClient(a.box.app).get(link)
            assert page.status == 200
            assert page.headers["content-type"].startswith("text/html")
            assert page.headers["referrer-policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
            assert b"Is that you?" in page.body
        assert re.search(rb"<button[^>]*>Confirm</button>", page.body)
        for method in ("GET", "POST"):
            void = await AsgiClient(a.box.app).request(method, f"{SUBMIT}?token=guess")
            assert void.status == 404
            assert b"not valid any more" in void.body


async def test_an_app_that_knows_nothing_of_mail_leaves_it_to_a_web_page(tmp_path, mail):
    async with World(tmp_path) as world:
        a = await world.box("a", configured(mail, registration="required"))
        body = {"username": "alice", "password": PASSWORD}
        session = (await post(a, "/register", body)).json["session"]
        path = f"{V3}/auth/m.login.email.identity/fallback/web"

        async def fill_in(**fields: str) -> Answer:
            return await AsgiClient(a.box.app).request("POST", path, query={"session": session}, body=urlencode(fields).encode())

        asking = await AsgiClient(a.box.app).get(path, query={"session": session})
        assert b'name="email"' in asking.body
        odd = await fill_in(email="nonsense")
        assert (odd.status, b"not an email address" in odd.body) == (400, True)
        assert b'name="email"' in (await fill_in()).body
        waiting = await fill_in(email=ANA)
        assert waiting.status == 200
        hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]+)"', waiting.body.decode()))
        early = await fill_in(**hidden)
        assert (early.status, b"has not been confirmed yet" in early.body) == (403, True)
        await follow(a, mail)
        done = await fill_in(**hidden)
        assert (done.status, b"onAuthDone" in done.body) == (200, True)
        made = await post(a, "/register", {**body, "auth": {"session": session}})
        assert made.status == 200, made.body
        assert await a.box.users.emails.owner(ANA) == "@alice:a.test"


async def test_a_validation_is_cancelled(tmp_path, mail):
    async with World(tmp_path) as world:
        a = await world.box("a", configured(mail))
        sid = (await post(a, "/account/3pid/email/requestToken", request())).json["sid"]
        path, body = "/account/3pid/email/cancelToken", {"sid": sid, "client_secret": "s3cret"}
        assert told(await post(a, path, {**body, "client_secret": "guess"})) == (403, "M_THREEPID_AUTH_FAILED")
        assert told(await post(a, path, {"sid": sid})) == (400, "M_MISSING_PARAM")
        assert (await post(a, path, body)).json == {}
        assert (await AsgiClient(a.box.app).get(mail.mails[-1].link)).status == 404


async def test_a_mail_server_that_refuses_is_told_to_the_client_and_bodies_that_make_no_sense_too(tmp_path, mail):
    async with World(tmp_path) as world:
        a = await world.box("a", configured(mail))
        mail.refuse("451 Later")
        path = "/account/3pid/email/requestToken"
        assert told(await post(a, path, request())) == (502, "M_UNKNOWN")
        mail.refuse(None)
        assert (await post(a, path, request())).status == 200
        for key in ("client_secret", "email", "send_attempt"):
            body = request()
            del body[key]
            assert told(await post(a, path, body)) == (400, "M_MISSING_PARAM")
        for odd in ({"send_attempt": "1"}, {"email": 5}, {"client_secret": []}, {"next_link": 5}):
            assert told(await post(a, path, request(**odd))) == (400, "M_BAD_JSON")
        assert told(await post(a, path, request(next_link="javascript:alert(1)"))) == (400, "M_INVALID_PARAM")


async def test_nobodys_mailbox_is_filled_and_nobody_fills_many(tmp_path, mail):
    async with World(tmp_path) as world:
        a = await world.box("a", configured(mail, rates=True))
        path = "/register/email/requestToken"
        client = AsgiClient(a.box.app)
        answers = []
        for number in range(4):
            client.address = f"192.0.2.{number}"
            answers.append(told(await client.post(f"{V3}{path}", request(send_attempt=number + 1))))
        assert answers == [(200, "")] * 3 + [(429, "M_LIMIT_EXCEEDED")]
        client.address = "192.0.2.99"
        many = [told(await client.post(f"{V3}{path}", request(f"p{number}@home.example"))) for number in range(11)]
        assert many == [(200, "")] * 10 + [(429, "M_LIMIT_EXCEEDED")]
        assert len(mail.mails) == 13


@pytest.mark.parametrize(("kind", "wish"), [("closed", "optional"), ("open", "no")])
async def test_where_nobody_registers_with_an_address_no_mail_goes_out_for_it(tmp_path, mail, kind, wish):
    async with World(tmp_path) as world:
        a = await world.box("a", configured(mail, kind=kind, registration=wish))
        assert told(await post(a, "/register/email/requestToken", request())) == (403, "M_THREEPID_DENIED")
        assert mail.mails == []
        if kind == "open":
            asked = await post(a, "/register", {"username": "alice", "password": PASSWORD})
            assert asked.json["flows"] == [{"stages": ["m.login.dummy"]}]


async def test_a_locked_account_gets_no_new_password_by_mail(tmp_path, mail):
    async with World(tmp_path) as world:
        a = await world.box("a", configured(mail))
        alice = await with_address(a, mail)
        sid = (await post(a, "/account/password/email/requestToken", request())).json["sid"]
        await follow(a, mail)
        await a.box.users.accounts.set_locked(alice.user_id, True)
        assert told(await post(a, "/account/password", {"new_password": NEW, "auth": proof(sid)})) == (401, "M_USER_LOCKED")
        await a.box.users.accounts.set_locked(alice.user_id, False)
        assert (await post(a, "/account/password", {"new_password": NEW, "auth": proof(sid)})).status == 200


async def test_without_a_mail_server_nothing_of_it_is_there(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a")
        alice = await a.person("alice")
        assert (await alice.ok("GET", "/capabilities"))["capabilities"]["m.3pid_changes"] == {"enabled": False}
        for path in ("/account/3pid/add", "/account/3pid/email/requestToken", "/account/password/email/requestToken"):
            assert told(await alice.request("POST", path)) == (403, "M_THREEPID_DENIED")
        assert told(await alice.request("POST", "/account/3pid/email/cancelToken")) == (404, "M_UNRECOGNIZED")
        assert told(await post(a, "/account/password", {"new_password": NEW})) == (401, "M_MISSING_TOKEN")
