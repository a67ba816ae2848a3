"""POST /search: what is found, by whom, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeserver.api.client import search
from edgeserver.api.ratelimit import RATES, RateLimiter
from edgeserver.matrix import canonical_json
from edgeserver.rooms import search as rooms_search
from edgeserver.store import account_data, departures, search_index
from edgeserver.store.account_data import ignored_users
from tests.api.rooms_house import Client, Place, open_place
from tests.asgi import section_application
from tests.rooms.house import ALICE, BOB, Street


async def find(client: Client, term: str, *, token: str | None = None, **criteria: Any) -> dict[str, Any]:
    body = {"search_categories": {"room_events": {"search_term": term, "order_by": "recent", **criteria}}}
    query = {} if token is None else {"next_batch": token}
    found: dict[str, Any] = (await client.ok("POST", "search", json=body, **query))["search_categories"]["room_events"]
    return found


async def texts(client: Client, term: str, **criteria: Any) -> list[str]:
    results = (await find(client, term, **criteria))["results"]
    contents = [one["result"]["content"] for one in results]
    return [content.get("body", content.get("name", content.get("topic", ""))) for content in contents]


async def shared(place: Place, **new: Any) -> str:
    room_id = await place.alice.create(preset="public_chat", **new)
    await place.bob.ok("POST", "join", room_id)
    return room_id


@pytest.mark.parametrize(
    ("said", "term", "is_found"),
    [
        ("the diesel generator is down", "generator diesel", True),
        ("the diesel generator is down", "gener", True),
        ("the diesel generator is down", "erator", False),
        ("the diesel generator is down", "is", True),
        ("the diesel generator is down", "ge", False),
        ("the diesel generator is down", "generator petrol", False),
        ("the diesel generator is down", '"generator is down"', True),
        ("the diesel generator is down", '"is generator"', False),
        ("the diesel generator is down", '"gener"', False),
        ("Café au lait", "cafe", True),
        ("cafe\u0301", "CAFÉ", True),
        ("Straße gesperrt", "STRASSE", True),
        ("今日は良い天気ですね", "天気", True),
        ("今日は良い天気ですね", "気天", False),
        ("ภาษาไทยไม่มีช่องว่าง", "ไทย", True),
        ("हिन्दी में", "हिन्दी", True),
        ("हिन्दी में", '"हिन"', False),
        ("مُحَمَّد هنا", "محمد", True),
        ("שָׁלוֹם", "שלום", True),
        ("мост закрыт", "Мост", True),
        ("see https://maps.example/bridge?x=1", "maps.example/bridge", True),
        ("a AND b NEAR(c) body:d *", "AND NEAR(c) body:d *", True),
        ("plain or not", 'plain" OR "', True),
        ("plain", 'plain" OR "', False),
        ("plain", "(((", False),
        ("plain", '"', False),
        ("plain", "pl\0ain", False),
    ],
)
async def test_words_are_found_in_every_script_and_never_read_as_a_query(tmp_path: Path, said: str, term: str, is_found: bool) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        await place.alice.say(room_id, said, "t")
        assert await texts(place.alice, term) == ([said] if is_found else [])


async def test_what_was_sent_a_moment_ago_is_found_and_what_was_there_before_the_index_too(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(name="Water point", topic="Where water is")
        for number in range(3):
            await place.alice.say(room_id, f"water {number}")
        assert await texts(place.alice, "water") == ["water 2", "water 1", "water 0", "Where water is", "Water point"]
        await place.alice.say(room_id, "more water")
        assert (await texts(place.alice, "water"))[0] == "more water"
        assert await texts(place.alice, "water", keys=["content.name"]) == ["Water point"]
        assert await texts(place.alice, "water", keys=["content.topic", "content.name"]) == ["Where water is", "Water point"]


async def test_a_message_costs_the_index_nothing_until_somebody_searches(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        await find(place.alice, "x")
        blocks = "SELECT count(*), sum(length(block)) FROM search_index_data"
        before = await place.house.db.read(lambda tx: tx.one(blocks))
        for number in range(20):
            await place.alice.say(room_id, f"cheap {number}")
        assert await place.house.db.read(lambda tx: tx.one(blocks)) == before
        assert len(await texts(place.alice, "cheap", filter={"limit": 50})) == 20
        commits = place.house.db.commits
        await find(place.alice, "cheap")
        assert place.house.db.commits == commits


async def test_a_redaction_takes_a_message_out_at_once(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        for body in ("secret code", "secret door"):
            event_id = await place.alice.say(room_id, body)
        assert await texts(place.alice, "secret") == ["secret door", "secret code"]
        await place.alice.ok("PUT", "rooms", room_id, "redact", event_id, "r1", json={})
        raw = await place.house.db.read(lambda tx: search_index.hits(tx, '"door"', 2**62, 10))
        assert raw == []
        assert await texts(place.alice, "secret") == ["secret code"]
        late = await place.alice.say(room_id, "secret too")
        await place.alice.ok("PUT", "rooms", room_id, "redact", late, "r2", json={})
        assert await texts(place.alice, "secret") == ["secret code"]


async def test_an_edit_is_found_by_its_new_text_and_shows_the_message(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await shared(place)
        event_id = await place.alice.say(room_id, "meet at noon")

        async def edit(client: Client, body: str, txn: str) -> str:
            content = {
                "msgtype": "m.text", "body": f"* {body}", "m.new_content": {"msgtype": "m.text", "body": body},
                "m.relates_to": {"rel_type": "m.replace", "event_id": event_id},
            }  # fmt: skip
            return str((await client.ok("PUT", "rooms", room_id, "send", "m.room.message", txn, json=content))["event_id"])

        await edit(place.alice, "meet at dusk", "e1")
        found = await find(place.alice, "dusk")
        assert [one["result"]["event_id"] for one in found["results"]] == [event_id]
        assert found["highlights"] == ["dusk"]
        await edit(place.bob, "forged words", "e2")
        assert await texts(place.alice, "forged") == []
        empty = {"msgtype": "m.text", "body": "* edits nothing", "m.relates_to": {"rel_type": "m.replace", "event_id": event_id}}
        await place.alice.ok("PUT", "rooms", room_id, "send", "m.room.message", "e3", json=empty)
        assert await texts(place.alice, "nothing") == []
        await place.alice.ok("PUT", "rooms", room_id, "redact", event_id, "r", json={})
        assert await texts(place.alice, "dusk") == []


async def test_nobody_finds_what_they_may_not_read(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        room_id = await place.alice.create(preset="public_chat", initial_state=[hidden])
        await place.alice.say(room_id, "plan before bob")
        assert await texts(place.bob, "plan") == []
        await place.bob.ok("POST", "join", room_id)
        await place.alice.say(room_id, "plan with bob")
        await place.bob.ok("POST", "rooms", room_id, "leave")
        await place.alice.say(room_id, "plan after bob")
        found = await find(place.bob, "plan")
        assert [one["result"]["content"]["body"] for one in found["results"]] == ["plan with bob"]
        assert found["count"] == 1
        assert await texts(place.carol, "plan") == []
        await place.bob.ok("POST", "rooms", room_id, "forget")
        assert await texts(place.bob, "plan") == []


async def test_newcomers_do_not_find_what_the_erased_had_said(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await shared(place)
        event_id = await place.alice.say(room_id, "my address is 1 Main Street")
        new = {"msgtype": "m.text", "body": "my house is 2 Main Street"}
        edit = {**new, "m.new_content": new, "m.relates_to": {"rel_type": "m.replace", "event_id": event_id}}
        await place.alice.ok("PUT", "rooms", room_id, "send", "m.room.message", "e1", json=edit)
        await place.bob.say(room_id, "Main entrance")
        await place.house.db.write(lambda tx: departures.erase(tx, ALICE, tx.stream()))
        await place.carol.ok("POST", "join", room_id)
        found = await find(place.carol, "main", event_context={"include_profile": True})
        assert [one["result"]["content"].get("body") for one in found["results"]] == ["Main entrance"]
        assert "Street" not in str(found)
        assert (await find(place.carol, "street"))["count"] == 0
        assert "my address is 1 Main Street" in await texts(place.bob, "street")  # he was there


async def test_encrypted_rooms_are_left_out(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        await place.alice.say(room_id, "still plain")
        assert await texts(place.alice, "plain") == ["still plain"]
        sealed = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "plain", "body": "plain"}
        await place.alice.ok("PUT", "rooms", room_id, "send", "m.room.encrypted", "t", json=sealed)
        assert await texts(place.alice, "plain") == ["still plain"]
        await place.alice.ok("PUT", "rooms", room_id, "state", "m.room.encryption", json={"algorithm": "m.megolm.v1.aes-sha2"})
        assert await texts(place.alice, "plain") == []


async def test_those_whom_one_ignores_are_not_found(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await shared(place)
        await place.bob.say(room_id, "offer from bob")
        await place.alice.say(room_id, "offer from alice")
        ignored = {"ignored_users": {BOB: {}}}
        await place.house.db.write(lambda tx: account_data.put(tx, ALICE, "", "m.ignored_user_list", ignored))
        assert await texts(place.alice, "offer") == ["offer from alice"]
        assert await texts(place.bob, "offer") == ["offer from alice", "offer from bob"]


async def test_filters_take_rooms_senders_types_and_a_limit(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        one, other = await shared(place), await shared(place, name="boat house")
        await place.alice.say(one, "boat one")
        await place.bob.say(other, "boat two")
        assert await texts(place.alice, "boat") == ["boat two", "boat one", "boat house"]
        assert await texts(place.alice, "boat", filter={"rooms": [one]}) == ["boat one"]
        assert await texts(place.alice, "boat", filter={"not_rooms": [one], "senders": [BOB]}) == ["boat two"]
        assert await texts(place.alice, "boat", filter={"types": ["m.room.name"]}) == ["boat house"]
        assert await texts(place.alice, "boat", filter={"not_senders": [BOB], "not_types": ["m.room.n*"]}) == ["boat one"]
        assert await texts(place.alice, "boat", filter={"limit": 1}) == ["boat two"]
        assert await texts(place.alice, "boat", filter={"contains_url": True}) == []


async def test_a_room_that_is_named_is_searched_with_those_that_it_replaces(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        old = await place.alice.create(preset="public_chat", room_version="10")
        await place.alice.say(old, "rope old")
        new = (await place.alice.ok("POST", "rooms", old, "upgrade", json={"new_version": "11"}))["replacement_room"]
        await place.alice.say(new, "rope new")
        assert await texts(place.alice, "rope", filter={"rooms": [new]}) == ["rope new", "rope old"]
        assert await texts(place.alice, "rope", filter={"rooms": [old]}) == ["rope old"]


async def test_by_rank_what_says_it_oftener_and_shorter_comes_first(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        long = "the lamp is somewhere " + "in the long store room " * 10
        for body in ("lamp lamp lamp", "a lamp", long):
            await place.alice.say(room_id, body, f"t{len(body)}")
        found = await find(place.alice, "lamp", order_by="rank")
        assert [one["result"]["content"]["body"] for one in found["results"]] == ["lamp lamp lamp", "a lamp", long]
        ranks = [one["rank"] for one in found["results"]]
        assert ranks == sorted(ranks, reverse=True)
        assert (await find(place.alice, "lam"))["highlights"] == ["lamp"]


@pytest.mark.parametrize("order", ["recent", "rank"])
async def test_pages_meet_every_result_once(tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms_search, "WINDOW", 7)
    monkeypatch.setattr(rooms_search, "CHUNK", 4)
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        said = [f"fish {number} " + "fish " * (number % 3) for number in range(20)]
        for number, body in enumerate(said):
            await place.alice.say(room_id, body, f"t{number}")
        seen: list[str] = []
        token = None
        while True:
            page = await find(place.alice, "fish", token=token, order_by=order, filter={"limit": 3})
            seen += [one["result"]["content"]["body"] for one in page["results"]]
            token = page.get("next_batch")
            if token is None:
                break
        assert sorted(seen) == sorted(said)
        assert page["count"] == 20
        if order == "recent":
            assert seen == said[::-1]


async def test_groups_name_their_results_and_go_on_by_themselves(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        one, other = await shared(place), await shared(place)
        for number in range(4):
            await place.alice.say(one, f"seed {number}", f"a{number}")
        await place.bob.say(other, "seed b")
        groupings = {"group_by": [{"key": "room_id"}, {"key": "sender"}]}
        page = await find(place.alice, "seed", groupings=groupings, filter={"limit": 2})
        groups = page["groups"]
        assert [len(groups["room_id"][room_id]["results"]) for room_id in (other, one)] == [1, 1]
        assert groups["room_id"][other] == {"order": 1, "results": groups["sender"][BOB]["results"]}
        rest = await find(
            place.alice, "seed", groupings=groupings, filter={"limit": 9}, token=groups["room_id"][one]["next_batch"]
        )
        assert [hit["result"]["content"]["body"] for hit in rest["results"]] == ["seed 2", "seed 1", "seed 0"]
        assert "next_batch" not in rest["groups"]["room_id"][one]
        assert list(rest["groups"]["sender"]) == [ALICE]


async def test_context_profiles_and_state_come_if_they_are_asked_for(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        place.house.profiles[ALICE] = {"displayname": "Alice"}
        room_id = await shared(place)
        for number in range(3):
            await place.alice.say(room_id, f"before {number}")
        await place.bob.say(room_id, "needle")
        await place.alice.say(room_id, "after")
        plain = await find(place.alice, "needle")
        assert set(plain["results"][0]) == {"rank", "result"}
        assert "state" not in plain
        wanted = {"before_limit": 2, "after_limit": 3, "include_profile": True}
        found = await find(place.alice, "needle", event_context=wanted, include_state=True)
        context = found["results"][0]["context"]
        assert [one["content"]["body"] for one in context["events_before"]] == ["before 2", "before 1"]
        assert [one["content"]["body"] for one in context["events_after"]] == ["after"]
        assert context["profile_info"] == {ALICE: {"displayname": "Alice"}, BOB: {}}
        back = await place.alice.chunk(room_id, limit="1", **{"from": context["start"]})
        assert back == ["before 0"]
        assert {one["type"] for one in found["state"][room_id]} >= {"m.room.create", "m.room.member"}


async def test_what_was_backfilled_from_another_server_is_found_too(tmp_path: Path) -> None:
    street = Street()
    async with open_place(tmp_path, "one", street) as one, open_place(tmp_path, "two", street) as two:
        room_id = await one.alice.create(preset="public_chat")
        await one.alice.say(room_id, "kelp of old")
        await two.carol.ok("POST", "join", room_id, server_name="one")
        assert await texts(two.carol, "kelp") == []
        assert "kelp of old" in await two.carol.chunk(room_id)
        assert await texts(two.carol, "kelp") == ["kelp of old"]


async def test_an_index_of_another_form_is_made_anew(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create()
        await place.alice.say(room_id, "anew")
        assert await texts(place.alice, "anew") == ["anew"]
        await place.house.db.write(lambda tx: tx.execute("UPDATE search_progress SET form = 'old'") and None)
    async with open_place(tmp_path) as place:
        assert await texts(place.alice, "anew") == ["anew"]


ROOM_EVENTS = {"search_term": "x"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "M_BAD_JSON"),
        ({"search_categories": []}, "M_BAD_JSON"),
        ({"search_categories": {"room_events": 1}}, "M_BAD_JSON"),
        ({"search_categories": {"room_events": {}}}, "M_BAD_JSON"),
        ({"search_term": 1}, "M_BAD_JSON"),
        ({"search_term": "x" * 513}, "M_INVALID_PARAM"),
        ({"search_term": "x " * 17}, "M_INVALID_PARAM"),
        ({"order_by": "odd"}, "M_INVALID_PARAM"),
        ({"keys": ["content.url"]}, "M_INVALID_PARAM"),
        ({"keys": []}, "M_INVALID_PARAM"),
        ({"keys": "content.body"}, "M_INVALID_PARAM"),
        ({"filter": []}, "M_BAD_JSON"),
        ({"filter": {"limit": -1}}, "M_BAD_JSON"),
        ({"event_context": 1}, "M_BAD_JSON"),
        ({"event_context": {"before_limit": -1}}, "M_INVALID_PARAM"),
        ({"event_context": {"after_limit": True}}, "M_INVALID_PARAM"),
        ({"groupings": []}, "M_BAD_JSON"),
        ({"groupings": {"group_by": [{"key": "odd"}]}}, "M_INVALID_PARAM"),
    ],
)
async def test_a_question_that_cannot_be_read_is_refused(tmp_path: Path, body: dict[str, Any], code: str) -> None:
    if body and "search_categories" not in body:
        body = {"search_categories": {"room_events": {**ROOM_EVENTS, **body}}}
    async with open_place(tmp_path) as place:
        assert await place.alice.refused("POST", "search", json=body) == (400, code)


@pytest.mark.parametrize("token", ["x", "ä", "e30", "W10", "x" * 2000, "WzEsMiwzLDQsNV0", "W2ZhbHNlLCIxIixudWxsLDAsMF0"])
async def test_a_token_that_is_none_is_refused(tmp_path: Path, token: str) -> None:
    async with open_place(tmp_path) as place:
        body = {"search_categories": {"room_events": ROOM_EVENTS}}
        assert await place.alice.refused("POST", "search", json=body, next_batch=token) == (400, "M_INVALID_PARAM")


async def test_no_category_no_answer_and_too_large_a_question_none_either(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        assert await place.alice.ok("POST", "search", json={"search_categories": {}}) == {"search_categories": {}}
        large = {"search_categories": {"room_events": {"search_term": "x", "more": "x" * 70_000}}}
        assert await place.alice.refused("POST", "search", json=large) == (413, "M_TOO_LARGE")
        assert len(canonical_json.encode_loose(large)) > 64 * 1024


async def test_however_many_match_one_request_looks_at_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms_search, "MAX_SCANNED", 8)
    monkeypatch.setattr(rooms_search, "CHUNK", 4)
    async with open_place(tmp_path) as place:
        mine, others = await place.bob.create(), await place.alice.create()
        await place.bob.say(mine, "tide mine")
        for number in range(12):
            await place.alice.say(others, f"tide {number}")
        first = await find(place.bob, "tide")
        assert first["results"] == []
        rest = await find(place.bob, "tide", token=first["next_batch"])
        assert [one["result"]["content"]["body"] for one in rest["results"]] == ["tide mine"]


async def test_searches_are_rate_limited(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        limiter = RateLimiter(lambda: 0)
        routes = search.routes(place.house.db, place.indexer, ignored_users, place.house.now_ms)
        client = Client(section_application(routes, {"alice": ALICE}, limiter), token="alice")
        body = {"search_categories": {"room_events": ROOM_EVENTS}}
        answers = [await client.call("POST", "search", json=body) for _ in range(RATES["search"].burst + 1)]
        assert [answer.status for answer in answers] == [200] * RATES["search"].burst + [429]
        assert answers[-1].json["errcode"] == "M_LIMIT_EXCEEDED"
