"""Relations over the API: what is bundled with events, /relations, /threads, what is refused; and thread subscriptions."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from edgeserver.store import account_data
from tests.api.answer_schemas import faults_of
from tests.api.rooms_house import Client, Place, open_place
from tests.rooms.house import ALICE, BOB

V1 = "/_matrix/client/v1/rooms/"
UNSTABLE = "/_matrix/client/unstable"
NUMBERS = itertools.count()


async def send(client: Client, room_id: str, kind: str = "m.room.message", **content: Any) -> str:
    path = ("rooms", room_id, "send", kind, f"n{next(NUMBERS)}")
    return str((await client.ok("PUT", *path, json={"msgtype": "m.text", **content}))["event_id"])


def to(event_id: str, rel_type: str = "m.thread", **more: Any) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": rel_type, "event_id": event_id, **more}}


def edit(event_id: str, body: str) -> dict[str, Any]:
    return {"body": f"* {body}", "m.new_content": {"body": body, "msgtype": "m.text"}, **to(event_id, "m.replace")}


async def react(client: Client, room_id: str, event_id: str, key: str = "👍") -> str:
    return await send(client, room_id, "m.reaction", **to(event_id, "m.annotation", key=key))


async def got(client: Client, path: str, **query: str) -> dict[str, Any]:
    answer = await client.request("GET", V1 + path, query=query)
    assert answer.status == 200, answer.body
    assert not faults_of("GET", V1 + path, answer.json)
    return dict(answer.json)


async def relations(client: Client, room_id: str, *rest: str, **query: str) -> dict[str, Any]:
    return await got(client, f"{quote(room_id, safe='')}/relations/" + "/".join(quote(one, safe="") for one in rest), **query)


async def threads(client: Client, room_id: str, **query: str) -> dict[str, Any]:
    return await got(client, f"{quote(room_id, safe='')}/threads", **query)


def ids(answer: dict[str, Any]) -> list[str]:
    return [event["event_id"] for event in answer["chunk"]]


async def bundle(client: Client, room_id: str, event_id: str) -> dict[str, Any]:
    event = await client.ok("GET", "rooms", room_id, "event", event_id)
    return dict(event["unsigned"].get("m.relations", {}))


async def redact(client: Client, room_id: str, event_id: str) -> None:
    await client.ok("PUT", "rooms", room_id, "redact", event_id, f"r{event_id}", json={})


async def room_of(place: Place, **new: Any) -> str:
    room_id = await place.alice.create(preset="public_chat", **new)
    await place.bob.ok("POST", "join", room_id)
    return room_id


# Bundled aggregations


async def test_the_newest_valid_edit_comes_with_the_event_whose_content_stays(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        said = await place.alice.say(room_id, "old")
        assert await bundle(place.bob, room_id, said) == {}
        await send(place.alice, room_id, **edit(said, "newer"))
        newest = await send(place.alice, room_id, **edit(said, "newest"))
        await send(place.bob, room_id, **edit(said, "forged"))
        await send(place.alice, room_id, body="no new content", **to(said, "m.replace"))
        await send(place.alice, room_id, "org.other", **edit(said, "another type"))
        event = await place.bob.ok("GET", "rooms", room_id, "event", said)
        assert event["content"]["body"] == "old"
        shown = event["unsigned"]["m.relations"]["m.replace"]
        assert (shown["event_id"], shown["sender"], shown["content"]["m.new_content"]["body"]) == (newest, ALICE, "newest")
        assert shown["room_id"] == room_id
        assert shown["unsigned"]["age"] >= 0
        # An edit is not edited
        await send(place.alice, room_id, **edit(newest, "an edit of an edit"))
        assert await bundle(place.bob, room_id, newest) == {}


async def test_a_redacted_edit_gives_way_to_the_one_before_and_a_redacted_event_has_none(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        said = await place.alice.say(room_id, "old")
        first, second = [await send(place.alice, room_id, **edit(said, body)) for body in "ab"]
        await redact(place.alice, room_id, second)
        assert (await bundle(place.bob, room_id, said))["m.replace"]["event_id"] == first
        assert ids(await relations(place.bob, room_id, said)) == [first]
        await redact(place.alice, room_id, said)
        assert await bundle(place.bob, room_id, said) == {}
        assert ids(await relations(place.bob, room_id, said)) == [first]  # it remains, serving no purpose


async def test_an_encrypted_edit_counts_without_its_content_being_known(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        said = await send(place.alice, room_id, "m.room.encrypted", ciphertext="x")
        newer = await send(place.alice, room_id, "m.room.encrypted", ciphertext="y", **to(said, "m.replace"))
        assert (await bundle(place.bob, room_id, said))["m.replace"]["event_id"] == newer


async def test_a_thread_comes_with_its_root(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        root = await place.alice.say(room_id, "root")
        await send(place.bob, room_id, body="1", **to(root))
        last = await send(place.bob, room_id, body="2", **to(root))
        newer = await send(place.bob, room_id, **edit(last, "2!"))
        await react(place.alice, room_id, last)
        thread = (await bundle(place.client("alice2"), room_id, root))["m.thread"]
        assert (thread["count"], thread["current_user_participated"]) == (2, True)  # she began it
        assert thread["latest_event"]["event_id"] == last
        assert thread["latest_event"]["unsigned"]["m.relations"]["m.replace"]["event_id"] == newer
        assert (await bundle(place.bob, room_id, root))["m.thread"]["current_user_participated"] is True
        await place.carol.ok("POST", "join", room_id)
        assert (await bundle(place.carol, room_id, root))["m.thread"]["current_user_participated"] is False
        await redact(place.bob, room_id, last)
        assert (await bundle(place.alice, room_id, root))["m.thread"]["count"] == 1
        await redact(place.alice, room_id, root)  # of a redacted root the thread stays
        assert (await bundle(place.alice, room_id, root))["m.thread"]["latest_event"]["content"]["body"] == "1"


async def test_references_are_listed_and_reactions_are_not(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        said = await place.alice.say(room_id, "poll")
        first, second = [await send(place.bob, room_id, "org.answer", **to(said, "m.reference")) for _ in "ab"]
        await react(place.bob, room_id, said)
        assert await bundle(place.alice, room_id, said) == {"m.reference": {"chunk": [{"event_id": first}, {"event_id": second}]}}


async def test_whom_one_ignores_counts_for_nothing(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        root = await place.alice.say(room_id, "root")
        own = await send(place.alice, room_id, body="1", **to(root))
        await send(place.bob, room_id, body="2", **to(root))
        await send(place.bob, room_id, "org.answer", **to(root, "m.reference"))
        theirs = await place.bob.say(room_id, "theirs")
        await send(place.bob, room_id, **edit(theirs, "newer"))
        other = await send(place.bob, room_id, body="3", **to(theirs))
        ignored = {"ignored_users": {BOB: {}}}
        await place.house.db.write(lambda tx: account_data.put(tx, ALICE, "", "m.ignored_user_list", ignored))
        found = await bundle(place.alice, room_id, root)
        assert found.keys() == {"m.thread"}
        assert (found["m.thread"]["count"], found["m.thread"]["latest_event"]["event_id"]) == (1, own)
        assert await bundle(place.alice, room_id, theirs) == {}
        assert ids(await relations(place.alice, room_id, root)) == [own]
        assert ids(await threads(place.alice, room_id)) == [root]
        # The root of a thread by somebody ignored is shown as if redacted
        mine = await send(place.alice, room_id, body="4", **to(theirs))
        shown = (await threads(place.alice, room_id))["chunk"]
        assert [(event["event_id"], event["content"].get("body")) for event in shown] == [(theirs, None), (root, "root")]
        assert shown[0]["unsigned"]["m.relations"]["m.thread"]["latest_event"]["event_id"] == mine
        assert ids(await threads(place.bob, room_id))[0] == theirs
        assert other in ids(await relations(place.bob, room_id, theirs))


async def test_state_events_have_no_aggregations(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        topic = (await place.alice.ok("PUT", "rooms", room_id, "state", "m.room.topic", json={"topic": "x"}))["event_id"]
        reaction = await react(place.bob, room_id, topic)
        await send(place.alice, room_id, body="1", **to(topic))
        assert await bundle(place.alice, room_id, topic) == {}
        assert reaction in ids(await relations(place.alice, room_id, topic))


async def test_pages_and_contexts_carry_aggregations_too(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        before = await place.alice.say(room_id, "before")
        said = await place.alice.say(room_id, "old")
        newer = await send(place.alice, room_id, **edit(said, "new"))
        earlier = await send(place.alice, room_id, **edit(before, "new"))
        page = await place.bob.ok("GET", "rooms", room_id, "messages", dir="b", limit="4")
        bundled = {event["event_id"]: event["unsigned"].get("m.relations", {}) for event in page["chunk"]}
        assert bundled[said]["m.replace"]["event_id"] == newer
        assert bundled[before]["m.replace"]["event_id"] == earlier
        assert bundled[newer] == {}
        found = await place.bob.ok("GET", "rooms", room_id, "context", said, limit="2")
        assert found["event"]["unsigned"]["m.relations"]["m.replace"]["event_id"] == newer
        assert found["events_before"][0]["unsigned"]["m.relations"]["m.replace"]["event_id"] == earlier


async def test_what_somebody_may_not_see_is_not_bundled_for_them(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        room_id = await room_of(place, initial_state=[hidden])
        said = await place.alice.say(room_id, "said")
        seen = await send(place.alice, room_id, body="in", **to(said))
        old = await send(place.alice, room_id, **edit(said, "seen"))
        await place.bob.ok("POST", "rooms", room_id, "leave")
        await send(place.alice, room_id, body="not for bob", **to(said))
        await send(place.alice, room_id, **edit(said, "not for bob"))
        found = await bundle(place.bob, room_id, said)
        assert (found["m.replace"]["event_id"], found["m.thread"]["latest_event"]["event_id"], found["m.thread"]["count"]) == (old, seen, 1)
        assert set(ids(await relations(place.bob, room_id, said))) == {seen, old}
        await place.bob.ok("POST", "join", room_id)
        found = await bundle(place.bob, room_id, said)  # what was said while he was away stays hidden
        assert (found["m.replace"]["event_id"], found["m.thread"]["latest_event"]["event_id"]) == (old, seen)
        assert set(ids(await relations(place.bob, room_id, said))) == {seen, old}


# GET /relations


async def test_relations_are_paged_both_ways_and_stay_in_order(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        root = await place.alice.say(room_id, "root")
        said = []
        for number in range(7):
            said.append(await send(place.alice, room_id, body=str(number), **to(root)))
            await place.bob.say(room_id, f"between {number}")
        first = await relations(place.bob, room_id, root, limit="3")
        assert "prev_batch" not in first
        await send(place.alice, room_id, body="meanwhile", **to(root))
        seen, page = ids(first), first
        while "next_batch" in page:
            page = await relations(place.bob, room_id, root, limit="3", **{"from": page["next_batch"]})
            assert page["chunk"]
            seen += ids(page)
        assert seen == said[::-1]
        back = await relations(place.bob, room_id, root, dir="f", limit="2", **{"from": first["next_batch"]})
        assert ids(back) == said[4:6]
        rest = await relations(place.bob, room_id, root, dir="f", **{"from": back["next_batch"]})
        assert ids(rest)[0] == said[6]
        assert "next_batch" not in rest
        assert ids(await relations(place.bob, room_id, root, to=first["next_batch"]))[1:] == said[:3:-1]
        forth = await relations(place.bob, room_id, root, dir="f", to=first["next_batch"])
        assert ids(forth) == said[:4]


async def test_tokens_of_messages_and_of_sync_serve_too(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        root = await place.alice.say(room_id, "root")
        one = await send(place.alice, room_id, body="1", **to(root))
        at = place.house.db.position
        start = (await place.alice.ok("GET", "rooms", room_id, "messages", dir="b", limit="1"))["start"]
        two = await send(place.alice, room_id, body="2", **to(root))
        assert ids(await relations(place.bob, room_id, root, **{"from": f"s{at}"})) == [one]
        assert ids(await relations(place.bob, room_id, root, **{"from": start})) == [one]
        assert ids(await relations(place.bob, room_id, root, dir="f", **{"from": f"s{at}"})) == [two]


async def test_relations_are_narrowed_by_type_of_relation_and_of_event(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        root = await place.alice.say(room_id, "root")
        inside = await send(place.alice, room_id, body="1", **to(root))
        sticker = await send(place.alice, room_id, "m.sticker", **to(root))
        reaction = await react(place.bob, room_id, root)
        assert ids(await relations(place.bob, room_id, root)) == [reaction, sticker, inside]
        assert ids(await relations(place.bob, room_id, root, "m.thread")) == [sticker, inside]
        assert ids(await relations(place.bob, room_id, root, "m.thread", "m.room.message")) == [inside]
        assert ids(await relations(place.bob, room_id, root, "m.replace")) == []


async def test_relations_of_relations_are_followed_if_wanted_three_levels_deep(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        root = await place.alice.say(room_id, "root")
        inside = await send(place.alice, room_id, body="1", **to(root))
        edited = await send(place.alice, room_id, **edit(inside, "1!"))
        reaction = await react(place.bob, room_id, edited)
        await react(place.bob, room_id, reaction)  # a fourth level
        direct = await relations(place.bob, room_id, root)
        assert (ids(direct), direct.get("recursion_depth")) == ([inside], None)
        deep = await relations(place.bob, room_id, root, recurse="true")
        assert (ids(deep), deep["recursion_depth"]) == ([reaction, edited, inside], 3)
        page = await relations(place.bob, room_id, root, recurse="true", limit="2")
        rest = await relations(place.bob, room_id, root, recurse="true", **{"from": page["next_batch"]})
        assert ids(page) + ids(rest) == ids(deep)
        # A filter applies to whatever lies between
        assert ids(await relations(place.bob, room_id, root, "m.annotation", recurse="true")) == []
        assert ids(await relations(place.bob, room_id, edited, "m.annotation", recurse="true"))[-1] == reaction


async def test_relations_are_refused_to_who_may_not_see_the_parent(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        other = await place.alice.create()
        root = await place.alice.say(room_id, "root")
        path = V1 + f"{quote(room_id, safe='')}/relations/"
        for client, target, room in ((place.carol, root, room_id), (place.alice, "$nothing", room_id), (place.alice, root, other)):
            answer = await client.request("GET", f"{V1}{quote(room, safe='')}/relations/{quote(target, safe='')}")
            assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND")
        for query in ({"limit": "0"}, {"limit": "x"}, {"dir": "x"}, {"from": "x"}, {"recurse": "maybe"}):
            answer = await place.alice.request("GET", path + quote(root, safe=""), query=query)
            assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")


# GET /threads


async def test_threads_are_listed_by_their_latest_event_and_paged(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        roots = [await place.alice.say(room_id, f"root {number}") for number in range(5)]
        for root in [*roots, roots[1]]:
            await send(place.alice, room_id, body="in", **to(root))
        await place.alice.say(room_id, "no thread")
        wanted = [roots[1], roots[4], roots[3], roots[2], roots[0]]
        page = await threads(place.bob, room_id, limit="2")
        assert page["chunk"][0]["unsigned"]["m.relations"]["m.thread"]["count"] == 2
        seen = ids(page)
        while "next_batch" in page:
            page = await threads(place.bob, room_id, limit="2", **{"from": page["next_batch"]})
            seen += ids(page)
        assert seen == wanted
        await redact(place.alice, room_id, ids(await relations(place.alice, room_id, roots[4]))[0])
        assert ids(await threads(place.bob, room_id)) == [one for one in wanted if one != roots[4]]


async def test_threads_in_which_one_has_spoken(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        first, second, third = [await place.alice.say(room_id, f"root {number}") for number in range(3)]
        for root in (first, second, third):
            await send(place.alice, room_id, body="in", **to(root))
        await send(place.bob, room_id, body="me too", **to(second))
        mine = await place.bob.say(room_id, "mine")
        await send(place.alice, room_id, body="in", **to(mine))
        assert ids(await threads(place.bob, room_id, include="participated")) == [mine, second]
        assert ids(await threads(place.bob, room_id, include="all")) == [mine, second, third, first]


async def test_threads_are_refused_to_who_is_not_in_the_room(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = quote(await room_of(place), safe="")
        answer = await place.carol.request("GET", f"{V1}{room_id}/threads")
        assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")
        for query in ({"limit": "0"}, {"from": "x"}, {"include": "some"}):
            answer = await place.alice.request("GET", f"{V1}{room_id}/threads", query=query)
            assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")


# What is refused


async def test_the_same_annotation_twice_is_refused_until_the_first_is_redacted(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        said = await place.alice.say(room_id, "said")
        first = await react(place.bob, room_id, said)
        same = ("PUT", "rooms", room_id, "send", "m.reaction", "again")
        body = to(said, "m.annotation", key="👍")
        assert await place.bob.refused(*same, json=body) == (400, "M_DUPLICATE_ANNOTATION")
        await react(place.bob, room_id, said, "👎")
        await react(place.alice, room_id, said)
        await send(place.bob, room_id, "org.bot", **body)
        await redact(place.bob, room_id, first)
        assert (await place.bob.call(*same, json=body)).status == 200
        assert (await place.bob.call(*same, json=body)).status == 200  # the same transaction
        assert await place.bob.refused(*same[:-1], "once more", json=body) == (400, "M_DUPLICATE_ANNOTATION")


async def test_no_thread_starts_from_an_event_that_relates_to_another(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        root = await place.alice.say(room_id, "root")
        reply = await send(place.bob, room_id, body="a rich reply", **{"m.relates_to": {"m.in_reply_to": {"event_id": root}}})
        await send(place.alice, room_id, body="in a thread from a reply", **to(reply))
        for parent in (
            await send(place.bob, room_id, body="in", **to(root)), await react(place.bob, room_id, root),
            await send(place.alice, room_id, **edit(root, "new")),
        ):  # fmt: skip
            path = ("rooms", room_id, "send", "m.room.message", f"n{parent}")
            assert await place.alice.refused("PUT", *path, json={"body": "nested", **to(parent)}) == (400, "M_UNKNOWN")


# Thread subscriptions


def subscription(room_id: str, root: str) -> str:
    return f"{UNSTABLE}/io.element.msc4306/rooms/{quote(room_id, safe='')}/thread/{quote(root, safe='')}/subscription"


async def test_a_thread_is_subscribed_to_by_hand_or_by_itself_and_left(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        root = await place.alice.say(room_id, "root")
        path = subscription(room_id, root)

        async def now() -> Any:
            answer = await place.bob.request("GET", path)
            return answer.json.get("automatic", answer.status)

        async def put(**body: Any) -> Any:
            answer = await place.bob.request("PUT", path, json=body)
            return answer.json.get("errcode", answer.status)

        assert await now() == 404
        assert (await place.bob.request("DELETE", path)).status == 200  # there is nothing to end
        mention = await send(place.alice, room_id, body="bob!", **to(root))
        aside = await place.alice.say(room_id, "bob!")
        assert await put(automatic=aside) == "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"
        assert await put(automatic="$nothing") == "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"
        assert await put(automatic=True) == "M_INVALID_PARAM"
        assert (await put(automatic=mention), await now()) == (200, True)
        assert (await put(), await now()) == (200, False)
        assert (await put(automatic=mention), await now()) == (200, False)  # by hand stays by hand
        assert ((await place.bob.request("DELETE", path)).status, await now()) == (200, 404)
        assert await put(automatic=mention) == "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION"
        assert (await place.bob.request("PUT", path, json={"automatic": mention})).status == 409
        again = await send(place.alice, room_id, body="bob!!", **to(root))
        assert (await put(automatic=again), await now()) == (200, True)
        await place.bob.request("DELETE", path)
        assert (await put(), await now()) == (200, False)


async def test_threads_that_are_none_or_not_for_one_cannot_be_subscribed_to(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        root = await place.alice.say(room_id, "root")
        reaction = await react(place.alice, room_id, root)
        for client, target in ((place.carol, root), (place.bob, "$nothing"), (place.bob, reaction)):
            for method in ("PUT", "GET", "DELETE"):
                options = {"json": {}} if method == "PUT" else {}
                answer = await client.request(method, subscription(room_id, target), **options)
                assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND")


async def test_changes_of_subscriptions_are_read_from_the_newest_back(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await room_of(place)
        roots = [await place.alice.say(room_id, f"root {number}") for number in range(4)]
        for root in roots:
            await place.bob.request("PUT", subscription(room_id, root), json={})
        at = place.house.db.position
        await place.bob.request("DELETE", subscription(room_id, roots[0]))
        path = f"{UNSTABLE}/io.element.msc4308/thread_subscriptions"

        async def changes(**query: str) -> Any:
            return (await place.bob.request("GET", path, query={"dir": "b", **query})).json

        found = await changes(limit="2")
        assert found["unsubscribed"][room_id].keys() == {roots[0]}
        assert {root: one["automatic"] for root, one in found["subscribed"][room_id].items()} == {roots[3]: False}
        assert found["subscribed"][room_id][roots[3]]["bump_stamp"] < found["unsubscribed"][room_id][roots[0]]["bump_stamp"]
        rest = await changes(**{"from": found["end"]})
        assert rest["subscribed"][room_id].keys() == {roots[1], roots[2]}
        assert "end" not in rest
        assert await changes(to=f"s{at}_0_0") == {"unsubscribed": found["unsubscribed"]}
        assert (await place.alice.request("GET", path, query={"dir": "b"})).json == {}
        for query in ({}, {"dir": "f"}, {"dir": "b", "limit": "0"}, {"dir": "b", "from": "x"}):
            answer = await place.bob.request("GET", path, query=query)
            assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("given", ["x" * 20, "-1", "s"])
async def test_tokens_of_others_are_refused(tmp_path: Path, given: str) -> None:
    async with open_place(tmp_path) as place:
        path = f"{UNSTABLE}/io.element.msc4308/thread_subscriptions"
        answer = await place.alice.request("GET", path, query={"dir": "b", "to": given})
        assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")
