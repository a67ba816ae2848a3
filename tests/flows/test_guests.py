"""Guests: who gets an account as one, what it lets them do, where they may be, and how they become ordinary people."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest

from edgeserver.api.control import person
from edgeserver.api.guests import GUESTS_MAY
from tests.asgi import AsgiClient
from tests.flows.world import BoxInWorld, Person, World, until

OPEN = '[accounts]\nregistration = "open"\nguests = 2\n[limits]\nrate_limits = false\n'
V3 = "/_matrix/client/v3"


async def guest_of(box: BoxInWorld, **body: object) -> Person:
    answer = await AsgiClient(box.box.app).post(f"{V3}/register?kind=guest", body)
    assert answer.status == 200, answer.body
    return Person(box, answer.json["user_id"], answer.json["access_token"])


async def refused(person: Person, method: str, path: str, json: object = None) -> str:
    answer = await person.request(method, path, json)
    assert answer.status == 403, (method, path, answer.status, answer.body)
    return str(answer.json["errcode"])


async def test_a_box_has_no_guests_unless_it_is_told_to(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", '[accounts]\nregistration = "open"\n')
        answer = await AsgiClient(a.box.app).post(f"{V3}/register?kind=guest")
        assert (answer.status, answer.json["errcode"]) == (403, "M_GUEST_ACCESS_FORBIDDEN")


async def test_a_guest_chooses_the_name_of_the_device_and_nothing_else_and_there_are_only_so_many(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", OPEN)
        wanted = {"username": "mine", "password": "correct horse", "device_id": "MINE", "initial_device_display_name": "Kiosk"}
        guest = await guest_of(a, **wanted)
        who = await guest.ok("GET", "/account/whoami")
        assert who["is_guest"] is True
        assert who["user_id"] != "@mine:a.test"
        assert who["device_id"] != "MINE"
        assert (await guest.ok("GET", "/devices"))["devices"][0]["display_name"] == "Kiosk"
        second = await guest_of(a)
        answer = await AsgiClient(a.box.app).post(f"{V3}/register?kind=guest")
        assert (answer.status, answer.json["errcode"]) == (403, "M_GUEST_ACCESS_FORBIDDEN")
        await a.box.users.accounts.deactivate(second.user_id)
        await guest_of(a)
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": guest.user_id}, "password": ""}
        assert (await AsgiClient(a.box.app).post(f"{V3}/login", login)).status == 403


async def test_every_endpoint_that_is_not_for_guests_refuses_them_as_such(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", OPEN)
        guest = await guest_of(a)
        let_in: set[tuple[str, str]] = set()
        for route in a.box.app._app.routes:
            if not route.path.startswith("/_matrix/client/") or "{rest:path}" in route.path or "/r0/" in route.path:
                continue
            path = re.sub(r"\{[^}]*\}", "x", route.path)
            method = route.methods[0]
            client, query = AsgiClient(a.box.app, token=guest.token), {"timeout": "0", "dir": "b"}
            body = {"json": {}} if method in ("PUT", "POST") else {}
            answer = await client.request(method, path, query=query, **body)
            if answer.status == 403 and answer.json["errcode"] == "M_GUEST_ACCESS_FORBIDDEN":
                continue
            if (await AsgiClient(a.box.app).request(method, path, query=query, **body)).status != 401:
                continue  # anybody may ask
            if route.path == f"{V3}/register":
                continue  # anybody may ask, and is asked for proof
            let_in.add((method, re.sub(r"\{[^}]*\}", "{}", route.path)))
        served = {(route.methods[0], re.sub(r"\{[^}]*\}", "{}", route.path)) for route in a.box.app._app.routes}
        profile = {("PUT", f"{V3}/profile/{{}}/{{}}"), ("DELETE", f"{V3}/profile/{{}}/{{}}")}
        assert let_in - profile == (GUESTS_MAY & served) - profile
        assert served >= GUESTS_MAY
        for method, path in (("POST", "/createRoom"), ("POST", "/rooms/!x:a.test/invite"), ("GET", "/joined_rooms"),
                             ("POST", "/account/deactivate"), ("GET", "/pushrules/"), ("POST", "/user_directory/search")):  # fmt: skip
            assert await refused(guest, method, path) == "M_GUEST_ACCESS_FORBIDDEN"


async def test_of_their_profile_guests_may_change_the_name_alone(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", OPEN)
        guest = await guest_of(a)
        profile = f"/profile/{quote(guest.user_id)}"
        await guest.ok("PUT", f"{profile}/displayname", {"displayname": "Visitor"})
        assert await refused(guest, "PUT", f"{profile}/avatar_url", {"avatar_url": "mxc://a/b"}) == "M_GUEST_ACCESS_FORBIDDEN"
        assert await refused(guest, "DELETE", f"{profile}/avatar_url") == "M_GUEST_ACCESS_FORBIDDEN"
        await guest.ok("DELETE", f"{profile}/displayname")


@pytest.mark.parametrize("access", ["forbidden", "nonsense", None])
async def test_guests_join_only_where_the_room_says_that_they_may(tmp_path, autojump_clock, access):
    async with World(tmp_path) as world:
        a, b = await world.box("a", OPEN), await world.box("b")
        guest, alice, bob = await guest_of(a), await a.person("alice"), await b.person("bob")
        content = {} if access is None else {"guest_access": access}
        shut = await alice.create_room(preset="public_chat", initial_state=[{"type": "m.room.guest_access", "content": content}])
        can_join = [{"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}]
        open_ = await alice.create_room(preset="public_chat", initial_state=can_join)
        far = await bob.create_room(preset="public_chat", initial_state=can_join)
        await alice.invite(shut, guest.user_id)
        for room_id in (shut, far):
            assert await refused(guest, "POST", f"/rooms/{quote(room_id)}/join?via=b.test") == "M_GUEST_ACCESS_FORBIDDEN"
            member = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(guest.user_id)}"
            assert await refused(guest, "PUT", member, {"membership": "join"}) == "M_GUEST_ACCESS_FORBIDDEN"
        await guest.ok("POST", f"/rooms/{quote(open_)}/join")
        await guest.say(open_, "hello")
        member = f"/rooms/{quote(open_)}/state/m.room.member/{quote('@friend:a.test')}"
        assert await refused(guest, "PUT", member, {"membership": "invite"}) == "M_GUEST_ACCESS_FORBIDDEN"
        await guest.ok("POST", f"/rooms/{quote(open_)}/leave")
        await alice.join(far, via="b.test")  # now the box is in the room, and knows what it says of guests
        await guest.ok("POST", f"/rooms/{quote(far)}/join")


async def test_guests_read_a_world_readable_room_without_joining(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", OPEN)
        guest, alice = await guest_of(a), await a.person("alice")
        readable = [{"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}]
        room_id = await alice.create_room(initial_state=readable)
        said = await alice.say(room_id, "for all to read")
        assert await guest.texts(room_id) == ["for all to read"]
        assert (await guest.ok("GET", f"/rooms/{quote(room_id)}/context/{quote(said)}"))["event"]["event_id"] == said
        other = await alice.create_room(preset="public_chat")
        assert await refused(guest, "GET", f"/rooms/{quote(other)}/messages?dir=b") == "M_FORBIDDEN"


async def test_guests_leave_when_a_room_is_closed_to_them_and_others_stay(tmp_path, autojump_clock):
    """Closed by somebody of another server at that: each server sees to its own guests."""
    async with World(tmp_path) as world:
        a, b = await world.box("a", OPEN), await world.box("b")
        one, two, alice, bob = await guest_of(a), await guest_of(a), await a.person("alice"), await b.person("bob")
        can_join = [{"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}]
        room_id = await bob.create_room(preset="public_chat", initial_state=can_join)
        await alice.join(room_id, via="b.test")
        for guest in (one, two):
            await guest.ok("POST", f"/rooms/{quote(room_id)}/join")
            await guest.sync()

        async def are_joined(*expected: Person) -> bool:
            found = [(await person.ok("GET", f"/rooms/{quote(room_id)}/joined_members"))["joined"] for person in (alice, bob)]
            return all(joined.keys() == {person.user_id for person in expected} for joined in found)

        await until(lambda: are_joined(one, two, alice, bob))
        await bob.ok("PUT", f"/rooms/{quote(room_id)}/state/m.room.guest_access", {"guest_access": "forbidden"})
        await until(lambda: are_joined(alice, bob))
        assert room_id in (await one.sync())["rooms"]["leave"]
        assert await alice.state(room_id) == await bob.state(room_id)


async def test_a_guest_who_registers_keeps_name_rooms_and_session(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", OPEN)
        guest, other, alice = await guest_of(a), await guest_of(a), await a.person("alice")
        can_join = [{"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}]
        room_id = await alice.create_room(preset="public_chat", initial_state=can_join)
        await guest.ok("POST", f"/rooms/{quote(room_id)}/join")
        name, client = guest.user_id[1:].partition(":")[0], AsgiClient(a.box.app)
        body = {"username": name, "password": "correct horse", "guest_access_token": guest.token, "auth": {"type": "m.login.dummy"}}
        for wrong in ({"guest_access_token": other.token}, {"guest_access_token": alice.token}, {"guest_access_token": "no"}):
            answer = await client.post(f"{V3}/register", {**body, **wrong})
            assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")
        nameless = {key: value for key, value in body.items() if key != "username"}
        assert (await client.post(f"{V3}/register", nameless)).json["errcode"] == "M_MISSING_PARAM"
        assert (await client.post(f"{V3}/register", {**body, "guest_access_token": 1})).json["errcode"] == "M_BAD_JSON"
        answer = await client.post(f"{V3}/register", body)
        assert (answer.status, answer.json["user_id"]) == (200, guest.user_id)
        for token in (guest.token, answer.json["access_token"]):
            person = Person(a, guest.user_id, token)
            assert (await person.ok("GET", "/account/whoami"))["is_guest"] is False
            assert await person.ok("GET", "/joined_rooms") == {"joined_rooms": [room_id]}
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": "correct horse"}
        assert (await client.post(f"{V3}/login", login)).status == 200
        again = await client.post(f"{V3}/register", body)
        assert (again.status, again.json["errcode"]) == (403, "M_FORBIDDEN")
        await alice.ok("PUT", f"/rooms/{quote(room_id)}/state/m.room.guest_access", {"guest_access": "forbidden"})
        assert guest.user_id in (await alice.ok("GET", f"/rooms/{quote(room_id)}/joined_members"))["joined"]


async def test_the_operator_sees_who_is_a_guest(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a", OPEN)
        guest, alice = await guest_of(a), await a.person("alice")
        told = {one["user_id"]: one["guest"] for one in map(person, await a.box.users.accounts.people())}
        assert (told[guest.user_id], told[alice.user_id]) == (True, False)
