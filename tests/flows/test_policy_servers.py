"""Boxes in a room with a policy server, which is a box of its own with a policy server in front of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from edgeserver.matrix import policy_server
from edgeserver.store import events
from tests.flows.world import Person, World, until
from tests.lab.policy_server import PolicyServer, in_front_of


@dataclass
class Scene:
    """Alice on `a` and Bob on `b`, in a public room that `p` guards, where Polly is."""

    world: World
    alice: Person
    bob: Person
    polly: Person
    policy: PolicyServer
    room: str

    async def pdu(self, person: Person, event_id: str) -> Any:
        stored = await person.box.box.ground.db.read(lambda tx: events.get(tx, event_id))
        return None if stored is None else stored.event

    async def both_hold(self, *texts: str) -> None:
        async def hold() -> bool:
            return list(texts) == await self.alice.texts(self.room) == await self.bob.texts(self.room)

        await until(hold)


async def guarded(world: World, version: str = "12") -> Scene:
    a, b, p = [await world.box(name) for name in "abp"]
    alice, bob, polly = await a.person("alice"), await b.person("bob"), await p.person("polly")
    policy = PolicyServer("p.test", version)
    world.internet.plug("p.test", in_front_of(p.box.app, policy))
    room = await alice.create_room(preset="public_chat", room_version=version)
    for person in (polly, bob):
        await person.join(room, via="a.test")
    await alice.ok("PUT", f"/rooms/{quote(room)}/state/m.room.policy/", policy.policy)

    async def knows() -> bool:
        return ("m.room.policy", "") in await bob.state(room)

    await until(knows)
    return Scene(world, alice, bob, polly, policy, room)


@pytest.mark.parametrize("version", ["10", "12"])
async def test_what_the_policy_server_signs_goes_out_and_what_it_refuses_was_never_said(tmp_path: Path, autojump_clock: Any, version: str):
    async with World(tmp_path) as world:
        scene = await guarded(world, version)
        said = await scene.alice.say(scene.room, "fish")
        await scene.both_hold("fish")
        named = policy_server.named_by(await _policy_event(scene))
        assert named is not None
        assert policy_server.has_signed(await scene.pdu(scene.bob, said), named)
        assert scene.policy.asked == [said]
        refused = await scene.alice.request(
            "PUT", f"/rooms/{quote(scene.room)}/send/m.room.message/t1", {"msgtype": "m.text", "body": "spam"}
        )
        assert (refused.status, refused.json) == (400, {"errcode": "M_FORBIDDEN", "error": "That smells of spam"})
        assert await scene.pdu(scene.alice, scene.policy.asked[-1]) is None
        await scene.bob.say(scene.room, "bread")
        await scene.both_hold("fish", "bread")


async def _policy_event(scene: Scene) -> Any:
    return await scene.pdu(scene.bob, (await scene.bob.state(scene.room))["m.room.policy", ""])


async def test_without_its_policy_server_a_room_is_silent_until_somebody_frees_it(tmp_path: Path, autojump_clock: Any):
    async with World(tmp_path) as world:
        scene = await guarded(world)
        world.internet.cut("a.test", "p.test")
        world.internet.cut("b.test", "p.test")
        content = {"msgtype": "m.text", "body": "hello?"}
        path = f"/rooms/{quote(scene.room)}/send/m.room.message/t1"
        refused = await scene.alice.request("PUT", path, content)
        assert (refused.status, refused.json["errcode"]) == (504, "M_UNKNOWN")
        assert await scene.alice.texts(scene.room) == []
        await scene.alice.ok("PUT", f"/rooms/{quote(scene.room)}/state/m.room.policy/", {})
        await scene.alice.ok("PUT", path, content)
        await scene.both_hold("hello?")
        await scene.bob.say(scene.room, "free again")
        await scene.both_hold("hello?", "free again")


async def test_a_box_that_does_not_reach_the_policy_server_takes_what_others_have_had_signed(tmp_path: Path, autojump_clock: Any):
    async with World(tmp_path) as world:
        scene = await guarded(world)
        world.internet.cut("b.test", "p.test")
        await scene.alice.say(scene.room, "signed at a")
        await scene.both_hold("signed at a")
        refused = await scene.bob.request("PUT", f"/rooms/{quote(scene.room)}/send/m.room.message/t1", {"msgtype": "m.text", "body": "x"})
        assert refused.status == 504
        world.internet.heal()
        await scene.bob.say(scene.room, "and now I")
        await scene.both_hold("signed at a", "and now I")


async def test_who_joins_through_a_server_of_the_room_is_signed_for_there_or_refused(tmp_path: Path, autojump_clock: Any):
    async with World(tmp_path) as world:
        scene = await guarded(world)
        d = await world.box("d")
        dave, mallory = await d.person("dave"), await d.person("mallory")
        await mallory.ok("PUT", f"/profile/{quote(mallory.user_id)}/displayname", {"displayname": "buy spam"})
        answer = await mallory.request("POST", f"/join/{quote(scene.room)}?server_name=a.test")
        assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")
        await dave.join(scene.room, via="a.test")
        await dave.say(scene.room, "I am new")
        await scene.both_hold("I am new")
        join = (await scene.bob.state(scene.room))["m.room.member", dave.user_id]
        named = policy_server.named_by(await _policy_event(scene))
        assert named is not None
        assert policy_server.has_signed(await scene.pdu(scene.bob, join), named)


async def test_a_refused_name_is_kept_out_of_the_guarded_room_alone(tmp_path: Path, autojump_clock: Any):
    async with World(tmp_path) as world:
        scene = await guarded(world)
        other = await scene.alice.create_room()
        await scene.alice.ok("PUT", f"/profile/{quote(scene.alice.user_id)}/displayname", {"displayname": "spam & sons"})
        await trio.sleep(5)
        shown = {}
        for room in (scene.room, other):
            shown[room] = await scene.alice.ok("GET", f"/rooms/{quote(room)}/state/m.room.member/{quote(scene.alice.user_id)}")
        assert "displayname" not in shown[scene.room]
        assert shown[other]["displayname"] == "spam & sons"
