"""Accounts that end: their rooms are left, here and elsewhere, whatever is killed; and erasure hides from newcomers what they said."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from edgeserver.store import accounts, departures, rooms
from tests.asgi import AsgiClient
from tests.flows.world import BoxInWorld, Person, World, until

V3 = "/_matrix/client/v3"
AUTH = {"type": "m.login.password", "password": "correct horse battery"}


async def end(person: Person, **body: Any) -> None:
    """Deactivates as a client does: asked for the password in the first round."""
    name = person.user_id[1:].partition(":")[0]
    asked = await person.request("POST", "/account/deactivate", body)
    assert (asked.status, asked.json["flows"]) == (401, [{"stages": ["m.login.password"]}])
    auth = {**AUTH, "identifier": {"type": "m.id.user", "user": name}, "session": asked.json["session"]}
    assert await person.ok("POST", "/account/deactivate", {**body, "auth": auth}) == {"id_server_unbind_result": "no-support"}


async def memberships(box: BoxInWorld, user_id: str) -> dict[str, str]:
    found = await box.box.ground.db.read(lambda tx: rooms.memberships_of(tx, user_id))
    return {one.room_id: one.membership for one in found}


def everything_is_left(box: BoxInWorld, user_id: str) -> Any:
    async def check() -> bool:
        return set((await memberships(box, user_id)).values()) <= {"leave"} and not await box.box.ground.db.read(departures.pending)

    return check


async def test_a_deactivated_account_leaves_declines_and_withdraws_here_and_elsewhere(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob, carol = await a.person("alice"), await a.person("bob"), await b.person("carol")
        own, far = await alice.create_room(preset="public_chat"), await carol.create_room(preset="public_chat")
        await bob.join(own)
        await alice.join(far, "b.test")
        invited, knocked = await carol.create_room(), await bob.create_room(initial_state=[_knockable()])
        await carol.invite(invited, alice.user_id)
        await alice.ok("POST", f"/knock/{quote(knocked)}")
        assert sorted((await memberships(a, alice.user_id)).values()) == ["invite", "join", "join", "knock"]
        await end(alice)
        await until(everything_is_left(a, alice.user_id))

        async def carol_knows() -> bool:
            gone = {one: await carol.ok("GET", f"/rooms/{quote(one)}/members") for one in (far, invited)}
            return all(_membership(found["chunk"], alice.user_id) == "leave" for found in gone.values())

        await until(carol_knows)
        members = (await bob.ok("GET", f"/rooms/{quote(own)}/members"))["chunk"]
        assert _membership(members, alice.user_id) == "leave"
        assert (await alice.request("GET", "/account/whoami")).json["errcode"] == "M_UNKNOWN_TOKEN"
        answer = await bob.request("GET", f"/profile/{alice.user_id}")
        assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND")


def _knockable() -> dict[str, Any]:
    return {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}


def _membership(members: list[dict[str, Any]], user_id: str) -> str:
    (one,) = [event["content"]["membership"] for event in members if event["state_key"] == user_id]
    return str(one)


async def test_a_box_that_is_killed_in_the_middle_goes_on_leaving_when_it_is_back(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob, carol = await a.person("alice"), await a.person("bob"), await b.person("carol")
        invited, own = await carol.create_room(), await bob.create_room(preset="public_chat")
        await carol.invite(invited, alice.user_id)
        await alice.join(own)
        world.internet.delay = 20.0
        await end(alice)

        async def own_is_left() -> bool:
            return (await memberships(a, alice.user_id))[own] == "leave"

        await until(own_is_left)
        assert (await memberships(a, alice.user_id))[invited] == "invite"
        await a.kill()
        world.internet.delay = 0.02
        await a.start()
        await until(everything_is_left(a, alice.user_id))

        async def carol_knows() -> bool:
            return _membership((await carol.ok("GET", f"/rooms/{quote(invited)}/members"))["chunk"], alice.user_id) == "leave"

        await until(carol_knows)


async def test_nothing_personal_is_left_in_the_store(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a")
        alice = await a.person("alice")
        await alice.ok("PUT", f"/user/{alice.user_id}/account_data/m.x", {"secret": 1})
        await alice.ok("PUT", f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
        backup = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "x"}}
        await alice.ok("POST", "/room_keys/version", backup)
        pusher = {"kind": "http", "app_id": "x", "pushkey": "k", "app_display_name": "x", "device_display_name": "x", "lang": "en"}
        await alice.ok("POST", "/pushers/set", {**pusher, "data": {"url": "https://push.test/_matrix/push/v1/notify"}})
        await end(alice, erase=True)
        for table in accounts._PERSONAL:
            counted = await a.box.ground.db.read(lambda tx, table=table: tx.one(f"SELECT count(*) FROM {table}"))
            assert counted == (0,), table


async def test_erasure_hides_from_newcomers_what_those_who_were_there_go_on_seeing(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob, carol, dave = await a.person("alice"), await a.person("bob"), await a.person("carol"), await b.person("dave")
        await alice.ok("PUT", f"/profile/{alice.user_id}/displayname", {"displayname": "Alice A."})
        room = await alice.create_room(preset="public_chat", name="Garden")
        said = await alice.say(room, "my address is 1 Main Street")
        await bob.join(room)  # after it was said, and before the erasure: the history is shared
        await bob.say(room, "thank you")
        await end(alice, erase=True)
        await until(everything_is_left(a, alice.user_id))
        assert "my address is 1 Main Street" in await bob.texts(room)
        await carol.join(room)
        await dave.join(room, "a.test")
        path = f"/rooms/{quote(room)}"
        assert (await bob.ok("GET", f"{path}/event/{quote(said)}"))["content"]["body"] == "my address is 1 Main Street"
        assert (await carol.ok("GET", f"{path}/event/{quote(said)}"))["content"] == {}
        synced = (await carol.sync())["rooms"]["join"][room]["timeline"]["events"]
        assert [event["content"] for event in synced if event["event_id"] == said] in ([{}], [])
        named = {"displayname": "Alice A."}
        for newcomer in (carol, dave):
            page = await newcomer.ok("GET", f"{path}/messages", query={"dir": "b", "limit": "100"})
            shown = {event["event_id"]: event for event in page["chunk"]}
            assert shown[said]["content"] == {}
            assert "thank you" in [event["content"].get("body") for event in page["chunk"]]
            assert "Main Street" not in str(page)
            own = [event["content"] for event in page["chunk"] if event.get("state_key") == alice.user_id]
            assert own in ([{"membership": "leave"}, {"membership": "join"}], [{"membership": "leave"}, {"membership": "join", **named}])
            assert newcomer is dave or "Alice A." not in str(own)  # that she was allowed in is proof that his server was given whole
        context = await carol.ok("GET", f"{path}/context/{quote(said)}")
        assert context["event"]["content"] == {}
        assert (await carol.ok("GET", f"{path}/state/m.room.name"))["name"] == "Garden"  # the room is still what it was


async def test_without_erasure_newcomers_read_what_was_said(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a")
        alice, bob, carol = await a.person("alice"), await a.person("bob"), await a.person("carol")
        room = await alice.create_room(preset="public_chat")
        await bob.join(room)
        await alice.say(room, "for everybody")
        await end(alice)
        await carol.join(room)
        assert "for everybody" in await carol.texts(room)


async def test_nobody_is_invited_who_is_gone_and_erase_is_a_yes_or_no(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, carol = await a.person("alice"), await b.person("carol")
        answer = await alice.request("POST", "/account/deactivate", {"erase": "yes", "auth": AUTH})
        assert (answer.status, answer.json["errcode"]) == (400, "M_BAD_JSON")
        await end(alice)
        room = await carol.create_room()
        answer = await carol.request("POST", f"/rooms/{quote(room)}/invite", {"user_id": alice.user_id})
        assert answer.status in (403, 404)
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": AUTH["password"]}
        again = await AsgiClient(a.box.app).post(f"{V3}/login", login)
        assert (again.status, again.json["errcode"]) == (403, "M_USER_DEACTIVATED")
