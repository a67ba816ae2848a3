"""Servers that lie: wrong signatures, forged events, cycles, floods of references, and other people's names."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager

import orjson
import pytest

from edgeserver.matrix import draft, signatures
from edgeserver.matrix.errors import MatrixError
from edgeserver.matrix.room_versions import ROOM_VERSIONS
from edgeserver.matrix.signatures import SigningKey
from tests.faults.stranger import V1, Stranger
from tests.faults.test_bodies import BROKEN, UNLIMITED, Junk, assert_plain, served, try_out
from tests.flows.world import World

RULES = "11"


@asynccontextmanager
async def visited(tmp_path):
    """A box with a public room, and a stranger who has joined it."""
    async with World(tmp_path) as world:
        box = await world.box("a", UNLIMITED)
        alice = await box.person("alice")
        room_id = await alice.create_room(preset="public_chat", room_version=RULES)
        stranger = Stranger(world)
        joined = await stranger.join("a.test", room_id)
        yield world, box, alice, room_id, stranger, joined


@pytest.mark.parametrize("wrong", ["destination", "key id", "signature", "another's key", "path", "body", "scheme", "origin", "missing"])
async def test_a_request_that_is_not_rightly_signed_is_answered_401(tmp_path, caplog, autojump_clock, wrong):
    async with visited(tmp_path) as (_, _, _, _, stranger, _):
        target, content = f"{V1}/send/t", {"origin": stranger.name, "pdus": [], "edus": []}
        key = SigningKey(b"z" * 32, "ed25519:e") if wrong == "another's key" else stranger.key
        origin = "nobody.test" if wrong == "origin" else stranger.name
        header = signatures.sign_request("PUT", target, origin, "b.test" if wrong == "destination" else "a.test", key, content)
        if wrong == "key id":
            header = header.replace("ed25519:e", "ed25519:f")
        elif wrong == "signature":
            header = header[:-10] + ("A" if header[-10] != "A" else "B") + header[-9:]
        elif wrong == "scheme":
            header = header.replace("X-Matrix", "Bearer")
        elif wrong == "missing":
            header = "X-Matrix origin=evil.test"
        body = orjson.dumps({**content, "more": 1} if wrong == "body" else content)
        response = await stranger.raw("a.test", "PUT", target + "u" if wrong == "path" else target, body, header)
        assert (response.status, orjson.loads(response.body)["errcode"]) == (401, "M_UNAUTHORIZED")
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_an_event_that_another_server_has_not_signed_is_not_taken(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, joined):
        good = stranger.message(room_id, [joined.event_id], joined.depth + 1, "mine")
        of_alice = stranger.message(room_id, [joined.event_id], joined.depth + 1, "not hers", sender=alice.user_id)
        broken = {**good.pdu, "signatures": {stranger.name: {"ed25519:e": "A" * 86}}}
        unsigned = {**good.pdu, "signatures": {}}
        for bad in (of_alice.pdu, broken, unsigned):
            answer = await stranger.transaction("a.test", [bad])
            assert all("error" in result for result in answer.values())
        assert await alice.texts(room_id) == []
        assert await stranger.transaction("a.test", [good.pdu]) == {good.event_id: {}}
        assert await alice.texts(room_id) == ["mine"]


async def test_an_event_with_another_content_than_was_hashed_is_kept_without_its_content(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, joined):
        good = stranger.message(room_id, [joined.event_id], joined.depth + 1, "what was said")
        forged = {**good.pdu, "content": {"msgtype": "m.text", "body": "what was not said"}}
        await stranger.transaction("a.test", [forged])
        page = await alice.ok("GET", f"/rooms/{room_id}/messages", query={"dir": "b"})
        (seen,) = [event for event in page["chunk"] if event["type"] == "m.room.message"]
        assert seen["content"] == {}
        await alice.say(room_id, "and on we go")


async def test_events_of_rooms_that_we_do_not_know_leave_no_trace(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, joined):
        strange = stranger.message("!elsewhere:evil.test", [joined.event_id], 5, "psst")
        assert await stranger.transaction("a.test", [strange.pdu, {"room_id": 5}, None, [], "x"]) == {}
        assert await alice.texts(room_id) == []


async def test_events_without_predecessors_in_a_circle_or_out_of_nothing_do_not_stop_the_room(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, joined):
        depth = joined.depth + 1
        orphan = stranger.message(room_id, [], depth, "orphan")
        answer = await stranger.transaction("a.test", [orphan.pdu])
        assert "error" in answer[orphan.event_id]
        # A circle cannot be hashed, so it is claimed: each answer of get_missing_events names one event further back, for ever.
        made = 0

        def one_more(target: str):
            nonlocal made
            made += 1
            first = stranger.message(room_id, [f"${made:043}"], depth + 1, f"older {made}")
            return {"events": [first.pdu], "pdus": [first.pdu], "auth_chain": [], "auth_chain_ids": [], "pdu_ids": []}

        stranger.answers[f"{V1}/get_missing_events"] = one_more
        stranger.answers[f"{V1}/event/"] = one_more
        stranger.answers[f"{V1}/state"] = one_more
        late = stranger.message(room_id, ["$" + "x" * 43], depth + 2, "late")
        await stranger.transaction("a.test", [late.pdu])
        assert made < 20
        itself = stranger.message(room_id, [late.event_id], depth, "before its time")
        await stranger.transaction("a.test", [itself.pdu])
        await alice.say(room_id, "still here")
        assert "still here" in await alice.texts(room_id)


@pytest.mark.parametrize("depth", [0, 1, 2**53 - 1])
async def test_a_forged_depth_does_not_keep_others_from_talking(tmp_path, autojump_clock, depth):
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, joined):
        forged = stranger.message(room_id, [joined.event_id], depth, "far out")
        assert await stranger.transaction("a.test", [forged.pdu]) == {forged.event_id: {}}
        for text in ("one", "two"):
            await alice.say(room_id, text)
        after = stranger.message(room_id, [forged.event_id], 7, "after")
        assert await stranger.transaction("a.test", [after.pdu]) == {after.event_id: {}}
        assert sorted(await alice.texts(room_id)) == ["after", "far out", "one", "two"]


async def test_a_transaction_beyond_fifty_pdus_or_a_hundred_edus_is_refused_whole(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, joined):
        good = stranger.message(room_id, [joined.event_id], joined.depth + 1, "one of many")
        edu = {"edu_type": "m.typing", "content": {"room_id": room_id, "user_id": stranger.user_id, "typing": True}}
        for content in ({"pdus": [good.pdu] * 51}, {"pdus": [], "edus": [edu] * 101}):
            status, answer = await stranger.ask("a.test", "PUT", f"{V1}/send/many", {"origin": stranger.name, **content})
            assert (status, answer["errcode"]) == (400, "M_INVALID_PARAM")
        assert await alice.texts(room_id) == []
        await stranger.transaction("a.test", [good.pdu] * 50, [edu] * 100, "many")
        assert await alice.texts(room_id) == ["one of many"]


async def test_edus_that_speak_for_users_of_others_are_passed_over(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, _):
        await alice.sync()
        other = "@carol:c.test"
        event_id = await alice.say(room_id, "read me")
        receipt = {room_id: {"m.read": {who: {"event_ids": [event_id], "data": {"ts": 1}} for who in (alice.user_id, other)}}}
        edus = [{"edu_type": "m.typing", "content": {"room_id": room_id, "user_id": who, "typing": True}} for who in (alice.user_id, other)]
        edus += [
            {"edu_type": "m.receipt", "content": receipt},
            {"edu_type": "m.device_list_update", "content": {"user_id": alice.user_id, "device_id": "X", "stream_id": 1, "deleted": True}},
            {"edu_type": "m.signing_key_update", "content": {"user_id": alice.user_id, "master_key": {"keys": {"ed25519:x": "x"}}}},
            {
                "edu_type": "m.direct_to_device",
                "content": {"sender": other, "type": "x", "message_id": "1", "messages": {alice.user_id: {"*": {"a": 1}}}},
            },
        ]
        await stranger.transaction("a.test", [], edus)
        seen = await alice.sync()
        room = seen["rooms"]["join"][room_id]
        assert [event for event in room["ephemeral"]["events"] if event["type"] in ("m.typing", "m.receipt")] == []
        assert seen.get("to_device", {}).get("events", []) == []
        assert len((await alice.ok("GET", "/devices"))["devices"]) == 1


async def test_a_server_that_a_room_has_shut_out_reaches_nobody_in_it(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, joined):
        await alice.ok("PUT", f"/rooms/{room_id}/state/m.room.server_acl", {"allow": ["*"], "deny": ["evil.test"]})
        late = stranger.message(room_id, [joined.event_id], joined.depth + 1, "let me in")
        answer = await stranger.transaction("a.test", [late.pdu])
        assert "error" in answer[late.event_id]
        status, _ = await stranger.ask("a.test", "GET", f"{V1}/backfill/{room_id.replace('!', '%21')}?v={joined.event_id}&limit=5")
        assert status == 403
        assert await alice.texts(room_id) == []


async def test_events_that_name_more_than_the_allowed_references_are_no_events(tmp_path, autojump_clock):
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, joined):
        good = stranger.message(room_id, [joined.event_id], joined.depth + 1, "x").pdu
        many = [f"${number:043}" for number in range(30)]
        for bad in ({**good, "prev_events": many}, {**good, "auth_events": many}, {**good, "prev_events": [[joined.event_id, {}]]}):
            assert await stranger.transaction("a.test", [bad]) == {}
        assert await alice.texts(room_id) == []


async def test_no_body_path_or_query_of_a_server_makes_the_box_fail(tmp_path, caplog, autojump_clock):
    junk = Junk(7)
    async with visited(tmp_path) as (_, box, alice, room_id, stranger, joined):
        known = {"roomId": room_id.replace("!", "%21"), "eventId": joined.event_id.replace("$", "%24")}
        known |= {"userId": "%40mallory%3Aevil.test", "txnId": "t"}
        for method, path in served(box, by_clients=False):
            await try_out(caplog, box, alice, method, path, junk, known)
            for body in [*BROKEN, *(orjson.dumps(junk.object()) for _ in range(8))]:
                target = path
                for name, value in known.items():
                    target = target.replace(f"{{{name}}}", value)
                content = None
                try:
                    content = orjson.loads(body) if body else None
                    header = signatures.sign_request(method, target, stranger.name, "a.test", stranger.key, content)
                except ValueError:
                    header = signatures.sign_request(method, target, stranger.name, "a.test", stranger.key, None)
                caplog.clear()
                response = await stranger.raw("a.test", method, target, body, header)
                assert_plain(caplog, _Plain(response), (method, target, body[:300]))


class _Plain:
    def __init__(self, response) -> None:
        self.status, self.body = response.status, response.body

    @property
    def json(self):
        return orjson.loads(self.body)


FIELDS = (
    *("type", "room_id", "sender", "content", "prev_events", "auth_events", "depth", "origin_server_ts", "state_key", "hashes"),
    *("signatures", "unsigned", "redacts", "event_id"),
)


@pytest.mark.parametrize("signed", [False, True])
async def test_a_pdu_with_anything_in_any_field_is_answered_and_the_room_goes_on(tmp_path, caplog, autojump_clock, signed):
    junk = Junk(11)
    async with visited(tmp_path) as (_, _, alice, room_id, stranger, joined):
        for number in range(60):
            pdus = []
            for _ in range(10):
                base = stranger.message(room_id, [joined.event_id], joined.depth + 1, f"{number}").pdu
                changes = {junk.chance.choice(FIELDS): junk.value() for _ in range(junk.chance.randrange(1, 3))}
                pdus.append(resigned({**base, **changes}, stranger) if signed else {**base, **changes})
            content = whole_numbers({"origin": stranger.name, "pdus": pdus, "edus": pdus})
            status, answer = await stranger.ask("a.test", "PUT", f"{V1}/send/{number}", content)
            assert status in (200, 401, 400), answer
            assert not [one for one in answer.get("pdus", {}).values() if one.get("error") == "Internal server error."]
        assert not [record for record in caplog.records if record.exc_info], caplog.text[-3000:]
        event_id = await alice.say(room_id, "on")
        assert (await alice.ok("GET", f"/rooms/{room_id}/event/{event_id}"))["content"]["body"] == "on"
        await alice.sync()


def resigned(pdu, stranger):
    """The same, hashed and signed by the stranger if it can be; as it is if it cannot."""
    try:
        return draft.complete(pdu, ROOM_VERSIONS[RULES], stranger.name, stranger.key).pdu
    except (MatrixError, ValueError, TypeError, AttributeError, KeyError):
        return pdu


def whole_numbers(value):
    """Without what no request can carry, so that the transaction itself is rightly signed."""
    if isinstance(value, dict):
        return {key: whole_numbers(member) for key, member in value.items()}
    if isinstance(value, list):
        return [whole_numbers(member) for member in value]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return 7 if is_number and not (isinstance(value, int) and abs(value) < 2**53) else value
