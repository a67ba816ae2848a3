"""Invites to an address: an identity server, played by the test, has found the user and tells the user's box."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
import trio

from edgeserver.federation.errors import PeerError
from edgeserver.matrix.errors import MatrixError
from edgeserver.matrix.signatures import SigningKey, encode_base64, sign_json
from tests.asgi import Answer, AsgiClient
from tests.faults.test_bodies import Junk
from tests.flows.world import BoxInWorld, Person, World, until

IDENTITY, OTHER = SigningKey(b"i" * 32, "ed25519:0"), SigningKey(b"o" * 32, "ed25519:0")
TOKEN = "a token/of any kind"
NO_LIMITS = "[limits]\nrate_limits = false\n"


def public(key: SigningKey) -> str:
    return encode_base64(key.verify_key)


async def offer(person: Person, room_id: str, token: str = TOKEN, **content: Any) -> None:
    """What the inviter's server writes into the room once the identity server has taken the invite."""
    stated = {"display_name": "c…@e…", "public_key": public(IDENTITY), **content}
    path = f"/rooms/{quote(room_id)}/state/m.room.third_party_invite/{quote(token, safe='')}"
    await person.ok("PUT", path, {key: value for key, value in stated.items() if value is not None})


def signed(user_id: str, token: str = TOKEN, key: SigningKey = IDENTITY) -> dict[str, Any]:
    return sign_json({"mxid": user_id, "token": token, "sender": "@alice:a.test"}, "identity.example", key)


def pending(inviter: Person, room_id: str, user_id: str, proof: dict[str, Any] | None = None) -> dict[str, Any]:
    about = {"medium": "email", "address": "carol@example.org", "mxid": user_id, "room_id": room_id, "sender": inviter.user_id}
    return {**about, "signed": signed(user_id) if proof is None else proof}


async def onbind(box: BoxInWorld, user_id: str, *invites: Any, method: str = "PUT") -> Answer:
    body = {"medium": "email", "address": "carol@example.org", "mxid": user_id, "invites": list(invites)}
    return await AsgiClient(box.box.app).request(method, "/_matrix/federation/v1/3pid/onbind", json=body)


async def is_invited(person: Person, room_id: str) -> bool:
    return room_id in (await person.sync()).get("rooms", {}).get("invite", {})


@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_who_is_found_on_another_server_is_invited_by_the_inviters_server(tmp_path, autojump_clock, version):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, carol = await a.person("alice"), await b.person("carol")
        room_id = await alice.create_room(room_version=version, name="Den")
        await offer(alice, room_id)
        answer = await onbind(b, carol.user_id, pending(alice, room_id, carol.user_id), method="POST" if version == "11" else "PUT")
        assert (answer.status, answer.json) == (200, {})
        assert await is_invited(carol, room_id)
        stands = (await alice.state(room_id))["m.room.member", carol.user_id]
        invite = await alice.ok("GET", f"/rooms/{quote(room_id)}/event/{quote(stands)}")
        assert invite["sender"] == alice.user_id
        assert invite["content"]["third_party_invite"] == {"display_name": "c…@e…", "signed": signed(carol.user_id)}
        assert (await onbind(b, carol.user_id, pending(alice, room_id, carol.user_id))).status == 200  # told twice, invited once
        assert (await alice.state(room_id))["m.room.member", carol.user_id] == stands
        await carol.join(room_id)
        await carol.say(room_id, "found it")

        async def heard() -> bool:
            return await alice.texts(room_id) == ["found it"]

        await until(heard)
        assert await alice.state(room_id) == await carol.state(room_id)
        assert (await onbind(b, carol.user_id, pending(alice, room_id, carol.user_id))).status == 200
        assert carol.user_id in (await alice.ok("GET", f"/rooms/{quote(room_id)}/joined_members"))["joined"]


@pytest.mark.parametrize("version", ["10", "12"])
async def test_a_server_that_is_in_the_room_makes_the_invite_itself_and_tells_the_inviters(tmp_path, autojump_clock, version):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, bob, carol = await a.person("alice"), await b.person("bob"), await b.person("carol")
        room_id = await alice.create_room(room_version=version)
        await alice.invite(room_id, bob.user_id)
        await bob.sync()
        await bob.join(room_id)
        await offer(alice, room_id, public_key=public(OTHER), public_keys=[{"public_key": public(IDENTITY)}])

        async def known() -> bool:
            return ("m.room.third_party_invite", TOKEN) in await bob.state(room_id)

        await until(known)
        before = world.internet.requests
        assert (await onbind(b, carol.user_id, pending(alice, room_id, carol.user_id))).status == 200
        assert world.internet.requests == before
        assert await is_invited(carol, room_id)

        async def alices_server_knows() -> bool:
            return await alice.state(room_id) == await bob.state(room_id)

        await until(alices_server_knows)
        assert ("m.room.member", carol.user_id) in await alice.state(room_id)
        await carol.join(room_id)


FAULTS = ("key", "token", "user", "revoked", "withdrawn", "banned", "no signature")


@pytest.mark.parametrize("here", [True, False], ids=["in the room", "by exchange"])
async def test_a_proof_that_does_not_hold_invites_nobody(tmp_path, autojump_clock, here):
    async with World(tmp_path) as world:
        a, b = await world.box("a", NO_LIMITS), await world.box("b", NO_LIMITS)
        alice, carol, eve = await a.person("alice"), await b.person("carol"), await b.person("eve")
        for fault in FAULTS:
            room_id = await alice.create_room(preset="public_chat" if here else "private_chat")
            await offer(alice, room_id)
            if here:
                await eve.join(room_id, via="a.test")
            proof = await faulty(fault, alice, room_id, carol.user_id, eve.user_id)
            if here:
                await until(lambda room_id=room_id: same_state(alice, eve, room_id))
            answer = await onbind(b, carol.user_id, pending(alice, room_id, carol.user_id, proof))
            assert answer.status == (502 if fault == "revoked" else 200), fault
            assert not await is_invited(carol, room_id), fault
            member = (await alice.state(room_id)).get(("m.room.member", carol.user_id))
            assert (member is None) == (fault != "banned"), fault


async def faulty(fault: str, alice: Person, room_id: str, target: str, other: str) -> dict[str, Any]:
    """Brings the fault about, in the room or in the proof, which it returns."""
    proof = signed(target)
    match fault:
        case "key":
            return signed(target, key=OTHER)
        case "token":
            return signed(target, token="other")
        case "user":
            return signed(other) | {"mxid": target}
        case "no signature":
            return {**proof, "signatures": {"identity.example": {}}}
        case "withdrawn":
            await alice.ok("PUT", f"/rooms/{quote(room_id)}/state/m.room.third_party_invite/{quote(TOKEN, safe='')}", {})
        case "revoked":  # a key whose validity nobody here can ask for counts as little as one that is revoked
            await offer(alice, room_id, key_validity_url="https://identity.example/isvalid")
        case "banned":
            await alice.ok("POST", f"/rooms/{quote(room_id)}/ban", {"user_id": target})
    return proof


async def same_state(one: Person, other: Person, room_id: str) -> bool:
    return await one.state(room_id) == await other.state(room_id)


async def test_onbind_speaks_of_nobody_but_our_users_and_bounds_what_it_brings_about(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b", NO_LIMITS)
        alice, carol = await a.person("alice"), await b.person("carol")
        room_id = await alice.create_room()
        await offer(alice, room_id)
        asked = world.internet.requests
        for user_id in ("@nobody:b.test", alice.user_id):
            assert (await onbind(b, user_id, pending(alice, room_id, user_id))).status == 200
        strange = pending(alice, room_id, alice.user_id)
        malformed: list[Any] = [{}, 1, {**pending(alice, room_id, carol.user_id), "signed": {"token": "x"}}, strange]
        assert (await onbind(b, carol.user_id, *malformed, *([{}] * 20), pending(alice, room_id, carol.user_id))).status == 200
        assert world.internet.requests == asked
        client = AsgiClient(b.box.app)
        for body in ({}, {"mxid": carol.user_id}, {"mxid": 1, "invites": []}):
            answer = await client.put("/_matrix/federation/v1/3pid/onbind", body)
            assert (answer.status, answer.json["errcode"]) == (400, "M_BAD_JSON")
        assert (await client.put("/_matrix/federation/v1/3pid/onbind", {"x": "x" * 70_000})).status == 413
        world.internet.cut("a.test", "b.test")
        answer = await onbind(b, carol.user_id, pending(alice, room_id, carol.user_id))
        assert answer.status == 504  # the identity server is to try again
        world.internet.heal()
        world.internet.delay = 2.0
        answers: list[int] = []

        async def bind() -> None:
            answers.append((await onbind(b, carol.user_id, pending(alice, room_id, carol.user_id))).status)

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(bind)
        assert sorted(answers) == [200, 200, 200, 200, 429, 429]


async def test_onbind_is_rate_limited_by_address(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        b = await world.box("b")
        statuses = [(await onbind(b, "@nobody:b.test")).status for _ in range(11)]
        assert statuses == [200] * 10 + [429]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"type": "m.room.name"}, 400),
        ({"room_id": "!other:a.test"}, 400),
        ({"sender": "alice"}, 400),
        ({"state_key": "@eve:b.test"}, 400),
        ({"content": {"membership": "join"}}, 400),
        ({"content": {"membership": "invite", "third_party_invite": {"signed": {"token": "x"}}}}, 400),
        ({"sender": "@nobody:a.test"}, 403),
    ],
)
async def test_an_exchange_that_is_malformed_or_in_a_wrong_name_is_refused(tmp_path, autojump_clock, change, status):
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice, carol = await a.person("alice"), await b.person("carol")
        room_id = await alice.create_room()
        await offer(alice, room_id)
        proof = {"membership": "invite", "third_party_invite": {"signed": signed(carol.user_id)}}
        event = {"type": "m.room.member", "room_id": room_id, "sender": alice.user_id, "state_key": carol.user_id, "content": proof}
        exchange = b.box.inward.third_party_invites._calls.exchange_third_party_invite
        with pytest.raises(PeerError) as refused:
            await exchange("a.test", room_id, {**event, **change})
        assert refused.value.status == status
        with pytest.raises(PeerError) as unknown:
            await exchange("a.test", "!x:a.test", {**event, "room_id": "!x:a.test"})
        assert (unknown.value.status, unknown.value.errcode) == (404, "M_NOT_FOUND")
        assert ("m.room.member", carol.user_id) not in await alice.state(room_id)


async def test_an_offer_is_state_that_takes_the_power_to_invite(tmp_path, autojump_clock):
    async with World(tmp_path) as world:
        a = await world.box("a")
        alice, bob = await a.person("alice"), await a.person("bob")
        room_id = await alice.create_room(preset="public_chat", power_level_content_override={"invite": 50, "state_default": 0})
        await bob.join(room_id)
        path = f"/rooms/{quote(room_id)}/state/m.room.third_party_invite/x"
        assert (await bob.request("PUT", path, {"display_name": "d", "public_key": public(IDENTITY)})).status == 403
        await alice.ok("PUT", path, {"display_name": "d", "public_key": public(IDENTITY)})


async def test_no_proof_whatever_its_shape_makes_the_box_fail(tmp_path, autojump_clock):
    """Junk in every place of a request that is well-formed otherwise; what is not refused is ignored."""
    async with World(tmp_path) as world:
        a = await world.box("a", NO_LIMITS)
        alice, junk = await a.person("alice"), Junk(7)
        carol = await a.person("carol")
        room_id = await alice.create_room()
        await offer(alice, room_id)
        exchanged: set[int] = set()
        bound: set[int] = set()
        for number in range(300):
            await _offer_junk(alice, room_id, junk, number)
            proof: dict[str, Any] = signed(carol.user_id)
            content: dict[str, Any] = {"membership": "invite", "third_party_invite": {"signed": proof}}
            event = {"type": "m.room.member", "room_id": room_id, "sender": alice.user_id, "state_key": carol.user_id, "content": content}
            where = junk.chance.choice([event, content, content["third_party_invite"], proof, proof["signatures"]])
            for key in junk.chance.sample([*where, "new"], 1):
                where[key] = junk.value()
            proof["org.example"] = junk.value() if number % 3 == 0 else "x"
            try:
                await a.box.inward.third_party_invites.exchange("b.test", room_id, event)
            except MatrixError as error:
                exchanged.add(error.status)
            invite = {**pending(alice, room_id, carol.user_id, proof), junk.chance.choice(["mxid", "room_id", "sender", "x"]): junk.value()}
            try:
                await a.box.inward.third_party_invites.bound({"mxid": carol.user_id, "invites": [invite, junk.value()]})
            except MatrixError as error:
                bound.add(error.status)
        assert exchanged <= {400, 403, 404}
        assert bound <= {502, 504}
        assert ("m.room.member", carol.user_id) not in await alice.state(room_id)


async def _offer_junk(person: Person, room_id: str, junk: Junk, number: int) -> None:
    """Now and then the offer itself is junk, too."""
    if number % 10 == 5:
        path = f"/rooms/{quote(room_id)}/state/m.room.third_party_invite/{quote(TOKEN, safe='')}"
        answer = await person.request("PUT", path, {"public_key": junk.value(), "public_keys": junk.value(), "display_name": junk.value()})
        assert answer.status < 500
    elif number % 10 == 6:
        await offer(person, room_id)
