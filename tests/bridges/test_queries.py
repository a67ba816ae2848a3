"""What application services are asked: unknown names, other networks, pings."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import trio

from tests.asgi import AsgiClient
from tests.bridges.story import FAST, bridged, heard, portal
from tests.flows.world import Person


async def test_an_unknown_ghost_is_made_when_somebody_wants_it(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (world, _a, bridge, alice):
        async def make(user_id: str) -> bool:
            if "nobody" in user_id:
                return False
            await bridge.register(user_id[1:].partition(":")[0])
            await bridge.ok("PUT", f"/profile/{quote(user_id)}/displayname", {"displayname": "Made"}, as_user=user_id)
            return True

        bridge.user = make
        assert (await alice.ok("GET", "/profile/@irc_one:a.test")) == {"displayname": "Made"}
        room = await alice.create_room()
        await alice.invite(room, "@irc_two:a.test")
        member = await alice.ok("GET", f"/rooms/{quote(room)}/state/m.room.member/@irc_two:a.test")
        assert (member["membership"], member["displayname"]) == ("invite", "Made")
        b = await world.box("b")
        bob = await b.person("bob")
        assert (await bob.ok("GET", "/profile/@irc_three:a.test")) == {"displayname": "Made"}
        await bob.invite(await bob.create_room(), "@irc_four:a.test")
        for _ in range(3):
            assert (await alice.request("GET", "/profile/@irc_nobody:a.test")).status == 404
        assert (await alice.request("GET", "/profile/@other:a.test")).status == 404
        names = [quote(f"/users/@irc_{name}:a.test", safe="/:@") for name in ("one", "two", "three", "four", "nobody")]
        assert bridge.asked == names
        await trio.sleep(60)
        assert (await alice.request("GET", "/profile/@irc_nobody:a.test")).status == 404
        assert bridge.asked == [*names, names[-1]]


async def test_an_unknown_alias_gets_its_room_when_somebody_wants_it(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (world, _, bridge, alice):
        made: dict[str, str] = {}

        async def make(alias: str) -> bool:
            assert (await bridge.call("GET", f"/directory/room/{quote(alias)}")).status == 404  # it looks itself, as bridges do
            name = alias[1:].partition(":")[0]
            made[alias] = (await bridge.ok("POST", "/createRoom", {"room_alias_name": name, "preset": "public_chat"}))["room_id"]
            return True

        bridge.alias = make
        one, two = "#irc_one:a.test", "#irc_two:a.test"
        await alice.join(one)
        assert made[one] in (await alice.ok("GET", "/joined_rooms"))["joined_rooms"]
        b = await world.box("b")
        bob = await b.person("bob")
        assert (await bob.ok("GET", f"/directory/room/{quote(two)}"))["room_id"] == made[two]
        bridge.down = True
        assert (await alice.request("GET", f"/directory/room/{quote('#irc_three:a.test')}")).status == 408
        assert (await alice.request("GET", f"/directory/room/{quote('#other:a.test')}")).status == 404


async def test_a_bridge_that_hangs_keeps_nobody_waiting_for_long(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        bridge.hangs = True
        began = trio.current_time()
        assert (await alice.request("GET", "/profile/@irc_one:a.test")).status == 408
        assert trio.current_time() - began < 20
        assert (await alice.request("GET", "/profile/@irc_one:a.test")).status == 408
        assert trio.current_time() - began < 20
        await alice.invite(await alice.create_room(), "@irc_two:a.test")


async def test_a_bridge_that_is_back_within_moments_is_asked_again(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        async def make(user_id: str) -> bool:
            await bridge.register("irc_one")
            return True

        bridge.user, bridge.down = make, True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.ok, "GET", "/profile/@irc_one:a.test")
            await trio.sleep(1.5)
            bridge.down = False


async def test_a_service_that_knows_the_older_paths_alone_is_served(tmp_path, autojump_clock):
    async with bridged(tmp_path, protocols=["irc"]) as (_, _, bridge, alice):
        async def make(user_id: str) -> bool:
            await bridge.register("irc_one")
            return True

        bridge.legacy, bridge.user, bridge.third_party = True, make, {"protocol/irc": PROTOCOL}
        room, _ = await portal(bridge, alice)
        await alice.say(room, "one")
        await heard(bridge, "one")
        await alice.ok("GET", "/profile/@irc_one:a.test")
        assert list(await alice.ok("GET", "/thirdparty/protocols")) == ["irc"]
        bridge.legacy = False
        await trio.sleep(4000)
        await alice.say(room, "two")
        await heard(bridge, "one", "two")


async def test_of_queries_to_a_bridge_only_so_many_wait(tmp_path, autojump_clock):
    async with bridged(tmp_path, FAST) as (_, _a, bridge, alice):
        bridge.hangs = True
        took: list[float] = []

        async def ask(number: int) -> None:
            began = trio.current_time()
            assert (await alice.request("GET", f"/profile/@irc_{number}:a.test")).status == 408
            took.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(ask, number)
        assert max(took) < 90
        assert sum(one < 1 for one in took) >= 40


async def test_who_is_not_logged_in_has_no_bridge_asked_for_aliases(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, a, bridge, _alice):
        path = f"/_matrix/client/v3/directory/room/{quote('#irc_one:a.test')}"
        answer = await AsgiClient(a.box.app).get(path)
        assert (answer.status, answer.json["errcode"], bridge.asked) == (404, "M_NOT_FOUND", [])


PROTOCOL = {
    "user_fields": ["nick"], "location_fields": ["channel"], "icon": "mxc://a.test/x",
    "field_types": {"nick": {"regexp": ".*", "placeholder": "nick"}},
    "instances": [{"desc": "Hills", "fields": {}, "network_id": "hills", "icon": "mxc://a.test/y"}, {"desc": 7}],
}  # fmt: skip


async def test_third_party_networks_are_told_and_looked_up(tmp_path, autojump_clock):
    async with bridged(tmp_path, FAST, protocols=["irc", "gone"]) as (_, _, bridge, alice):
        user = {"userid": "@irc_bob:a.test", "protocol": "irc", "fields": {"nick": "bob"}}
        place = {"alias": "#irc_hills:a.test", "protocol": "irc", "fields": {}}
        bridge.third_party = {
            "protocol/irc": PROTOCOL,
            "user/irc?nick=b+b%26": [user, {"userid": 3}],
            "location/irc?channel=hills": [place],
            "user?userid=%40irc_bob%3Aa.test": [user],
            "location?alias=%23irc_hills%3Aa.test": [place],
            "location/irc?channel=broken": {"no": "list"},
        }
        shown = {**PROTOCOL, "instances": [{**PROTOCOL["instances"][0], "instance_id": "irc|hills"}]}
        assert await alice.ok("GET", "/thirdparty/protocols") == {"irc": shown}
        assert await alice.ok("GET", "/thirdparty/protocol/irc") == shown
        assert bridge.asked.count("/thirdparty/protocol/irc") == 1
        assert await alice.ok("GET", "/thirdparty/user/irc", query={"nick": "b b&"}) == [user]
        assert await alice.ok("GET", "/thirdparty/location/irc", query={"channel": "hills"}) == [place]
        assert await alice.ok("GET", "/thirdparty/user", query={"userid": "@irc_bob:a.test"}) == [user]
        assert await alice.ok("GET", "/thirdparty/location", query={"alias": "#irc_hills:a.test"}) == [place]
        for path, query in (("protocol/gone", {}), ("protocol/none", {}), ("user/none", {}), ("user/irc", {"nick": "x"}),
                            ("location/irc", {"channel": "broken"}), ("user", {"userid": "@alice:a.test"})):  # fmt: skip
            answer = await alice.request("GET", f"/thirdparty/{path}", query=query)
            assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND"), path
        for path, code in (("user", "M_MISSING_PARAM"), ("user?userid=x", "M_INVALID_PARAM"), ("location?alias=x", "M_INVALID_PARAM")):
            answer = await alice.request("GET", f"/thirdparty/{path}")
            assert (answer.status, answer.json["errcode"]) == (400, code)


async def test_rooms_of_a_network_are_listed_apart(tmp_path, autojump_clock):
    async with bridged(tmp_path, protocols=["irc"]) as (world, a, bridge, alice):
        own = await alice.create_room(visibility="public", preset="public_chat", name="Own")
        theirs = await alice.create_room(preset="public_chat", name="Bridged")
        path = f"/directory/list/appservice/hills/{quote(theirs)}"
        await bridge.ok("PUT", path, {"visibility": "public"})
        b = await world.box("b")
        bob = await b.person("bob")

        async def listed(person: Person, **body: Any) -> list[str]:
            query = {} if person is alice else {"server": "a.test"}
            return [room["room_id"] for room in (await person.ok("POST", "/publicRooms", body, query=query))["chunk"]]

        for person in (alice, bob):
            assert await listed(person) == [own]
            assert await listed(person, third_party_instance_id="irc|hills") == [theirs]
            assert await listed(person, third_party_instance_id="irc|other") == []
            assert set(await listed(person, include_all_networks=True)) == {own, theirs}
        found = await listed(alice, include_all_networks=True, filter={"generic_search_term": "bridg"})
        assert found == [theirs]
        await bridge.ok("PUT", path, {"visibility": "private"})
        assert await listed(alice, third_party_instance_id="irc|hills") == []
        for json, code in (({}, "M_MISSING_PARAM"), ({"visibility": "x"}, "M_INVALID_PARAM")):
            assert (await bridge.call("PUT", path, json)).json["errcode"] == code
        unknown = await bridge.call("PUT", "/directory/list/appservice/hills/!x:a.test", {"visibility": "public"})
        assert (unknown.status, unknown.json["errcode"]) == (404, "M_NOT_FOUND")
        refused = await alice.request("PUT", path, {"visibility": "public"})
        assert (refused.status, refused.json["errcode"]) == (403, "M_FORBIDDEN")
        for other in (f"/directory/list/appservice/{'x' * 256}/{quote(theirs)}", "/directory/list/appservice/hills/nonsense"):
            refused = await bridge.call("PUT", other, {"visibility": "public"})
            assert (refused.status, refused.json["errcode"]) == (400, "M_INVALID_PARAM")
        many = [("irc", "hills", f"!{number}:a.test") for number in range(10_000)]
        await a.box.ground.db.write(lambda tx: tx.executemany("INSERT INTO bridge_rooms VALUES (?, ?, ?)", many))
        refused = await bridge.call("PUT", path, {"visibility": "public"})
        assert (refused.status, refused.json["errcode"]) == (400, "M_INVALID_PARAM")


PING = "/_matrix/client/v1/appservice/irc/ping"


async def test_a_ping_says_how_long_it_took_or_what_is_wrong(tmp_path, autojump_clock):
    async with bridged(tmp_path) as (_, _, bridge, alice):
        assert 0 < (await bridge.ok("POST", PING, {"transaction_id": "t"}))["duration_ms"] < 1000
        bridge.status = 418
        answer = await bridge.call("POST", PING)
        assert (answer.status, answer.json["errcode"], answer.json["status"]) == (502, "M_BAD_STATUS", 418)
        assert "out of order" in answer.json["body"]
        bridge.hangs = True
        answer = await bridge.call("POST", PING)
        assert (answer.status, answer.json["errcode"]) == (504, "M_CONNECTION_TIMEOUT")
        bridge.down = True
        answer = await bridge.call("POST", PING)
        assert (answer.status, answer.json["errcode"]) == (502, "M_CONNECTION_FAILED")
        other = await bridge.call("POST", "/_matrix/client/v1/appservice/xmpp/ping")
        assert (other.status, other.json["errcode"]) == (403, "M_FORBIDDEN")
        for txn_id in (7, "x" * 256):
            assert (await bridge.call("POST", PING, {"transaction_id": txn_id})).json["errcode"] == "M_BAD_JSON"
        people = await alice.request("POST", "/../v1/appservice/irc/ping")
        assert people.status in (403, 404)


async def test_a_service_without_a_url_is_sent_nothing_and_cannot_be_pinged(tmp_path, autojump_clock):
    async with bridged(tmp_path, url=None) as (_, _, bridge, alice):
        room, _ = await portal(bridge, alice)
        await alice.say(room, "one")
        answer = await bridge.call("POST", PING)
        assert (answer.status, answer.json["errcode"]) == (400, "M_URL_NOT_SET")
        assert (await alice.request("GET", "/profile/@irc_one:a.test")).status == 404
        assert bridge.attempts == []
