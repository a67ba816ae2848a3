"""A box and a stock Synapse, each in a network namespace of its own, with names without ports by a wildcard in DNS.

Flow by room version and by who hosts the room (B: the box made it, S: Synapse did):

    flow                                                        10   11   12
    invite, join, talk, state, redaction, EDUs, leave           BS   BS   BS
    join by alias, kick, join again, ban                        BS   BS   BS
    an invite is declined; an invite is withdrawn               BS   BS   BS
    history of before a late join                               BS   BS   BS
    a fork while the line is cut, and its healing               BS   BS   BS
    a knock; a restricted join                                  BS   BS   BS
    a short gap is closed by /get_missing_events                BS   BS   BS
    a long gap is closed by /state_ids and /backfill too        -    -    BS
    encrypted talk by matrix-nio, new devices                   BS   BS   BS
    300 events in one room after an outage                      -    -    BS
    a policy server: what it signs, what it refuses             -    -    BS
    devices that changed during an outage                       both ways
    cross-signing keys, set and replaced                        both ways
    each as the notary of the other's keys                      both ways
    profiles, media                                             both ways
    kill -9 of the box, restart of Synapse                      both ways

Afterwards neither log may tell of trouble with the other.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import trio

from edgeserver.federation import key_response
from edgeserver.matrix import canonical_json, draft, signatures
from tests.api.test_keys import cross_signing
from tests.interop.boxes import PASSWORD, federating_box, register, register_there, troubles
from tests.interop.people import Person
from tests.lab import netns, synapse
from tests.lab.box import Box
from tests.lab.ca import Authority
from tests.lab.client import NioClient
from tests.lab.dns import NameServer
from tests.lab.policy_server import REFUSAL, PolicyServer, homeserver_key
from tests.lab.programs import Program, python_module, wait_for
from tests.lab.rpc import RpcError
from tests.lab.synapse import Synapse
from tests.lab.web import answers, arequest

_ABSENT = synapse.unavailable() or netns.unavailable()

pytestmark = [
    pytest.mark.interop,
    pytest.mark.netns,
    pytest.mark.skipif(_ABSENT is not None, reason=_ABSENT or ""),
]

BOX, SYNAPSE, GATE = "one.fleet.test", "hills.test", "gate.test"
MEMBER = "m.room.member"
ENCRYPTION = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
VERSIONS = ("12", "11", "10")


@dataclass
class Lab:
    """The two servers, and the line between them."""

    box: Box
    synapse: Synapse
    lan: netns.Bridge
    space: netns.Namespace
    names: netns.Namespace
    authority: Authority
    alice: Person
    bob: Person
    directory: Path

    def cut(self) -> None:
        self.lan.cut(self.space)

    def restore(self) -> None:
        self.lan.restore(self.space)


class Pair(NamedTuple):
    """Who hosts the room and who comes to it."""

    host: Person
    guest: Person
    version: str


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("federation")
    authority = Authority(directory / "ca")
    with netns.Network() as net:
        lan = net.bridge("lan", "10.77.0.0/24")
        here, there, names = (net.namespace(label) for label in ("box", "hills", "names"))
        for space in (names, here, there):
            lan.join(space)
            space.nameserver(names.address)
        zone = {"*.fleet.test": {"A": [here.address]}, SYNAPSE: {"A": [there.address]}, GATE: {"A": [names.address]}}
        certificate = authority.issue("*.fleet.test")
        box = federating_box(directory / "box", BOX, here.address, here.name, certificate, authority.certificate, names.address)
        hills = Synapse(directory / "hills", authority, SYNAPSE, federation=(there.address, 8448), netns=there.name)
        with NameServer(directory, zone, space=names):
            try:
                hills.begin()
                box.start()
                hills.wait_ready()
                people = register(box, "alice"), register_there(hills, "bob")
                yield Lab(box, hills, lan, here, names, authority, *people, directory)
            finally:
                box.stop()
                hills.stop()


@pytest.fixture(params=[(version, host) for version in VERSIONS for host in ("B", "S")], ids=lambda one: f"v{one[0]}-{one[1]}")
def pair(request: pytest.FixtureRequest, lab: Lab) -> Pair:
    version, host = request.param
    return Pair(lab.alice, lab.bob, version) if host == "B" else Pair(lab.bob, lab.alice, version)


async def _room_of_both(pair: Pair, **body: object) -> str:
    """A public room that the guest has joined."""
    room = await pair.host.create_room(pair.version, preset="public_chat", **body)
    await pair.guest.join(room, pair.host.server_name)
    await _hears_join(pair, room)
    return room


async def _hears_join(pair: Pair, room: str) -> None:
    await pair.host.until("the guest's join", lambda: _last(pair.host, room).get("membership") == "join")


async def _same_state(pair: Pair, room: str) -> dict[tuple[str, str], str]:
    """Waits until both servers hold the same current state, and returns it."""
    for _ in range(40):
        one, other = await pair.host.state(room), await pair.guest.state(room)
        if one == other:
            return one
        await trio.sleep(0.25)
    raise AssertionError({key: (one.get(key), other.get(key)) for key in one.keys() | other.keys() if one.get(key) != other.get(key)})


def _last(person: Person, room: str) -> dict:
    """The content of the newest event that has come down."""
    timeline = person.room(room).timeline
    return dict(timeline[-1]["content"]) if timeline else {}


def _body(event: dict) -> str:
    return event["content"].get("body", "")


# Rooms


async def test_an_invited_guest_joins_talks_and_leaves(pair: Pair) -> None:
    host, guest, version = pair
    room = await host.create_room(version, name="The mill", preset="private_chat")
    assert (":" not in room) == (version == "12")
    await host.invite(room, guest.user_id)
    shown = await guest.invited(room)
    assert {"m.room.create", "m.room.name", "m.room.join_rules"} <= {event["type"] for event in shown}
    assert next(event for event in shown if event["type"] == "m.room.name")["content"]["name"] == "The mill"
    await guest.join(room)
    said = await host.say(room, "Is the sluice open?")
    assert (await guest.hears(room, said))["sender"] == host.user_id
    answered = await guest.say(room, "Half.")
    assert _body(await host.hears(room, answered)) == "Half."
    named = await host.set_state(room, "m.room.name", {"name": "The upper mill"})
    assert (await guest.hears(room, named))["content"]["name"] == "The upper mill"
    await _same_state(pair, room)

    await guest.ok("PUT", f"/rooms/{quote(room)}/typing/{quote(guest.user_id)}", {"typing": True, "timeout": 20_000})
    await host.until("typing", lambda: host.room(room).typing == [guest.user_id])
    await guest.ok("PUT", f"/rooms/{quote(room)}/typing/{quote(guest.user_id)}", {"typing": False})
    await host.until("typing ends", lambda: host.room(room).typing == [])
    await guest.ok("POST", f"/rooms/{quote(room)}/receipt/m.read/{quote(said)}")
    await host.until("receipt", lambda: host.room(room).receipts.get(guest.user_id) == said)

    redaction = await guest.redact(room, answered)
    await host.hears(room, redaction)
    seen = await host.ok("GET", f"/rooms/{quote(room)}/event/{quote(answered)}")
    assert seen["content"] == {}
    await guest.leave(room)
    await host.until("the guest's leave", lambda: _last(host, room).get("membership") == "leave")
    await host.say(room, "Alone again")
    await guest.until("left", lambda: guest.room(room).left)
    assert "Alone again" not in guest.room(room).texts()


async def test_a_guest_joins_by_alias_is_kicked_comes_back_and_is_banned(pair: Pair) -> None:
    host, guest, version = pair
    name = f"square{version}"
    room = await host.create_room(version, preset="public_chat", room_alias_name=name)
    assert await guest.join(f"#{name}:{host.server_name}") == room
    await host.say(room, "No dogs")
    await host.ok("POST", f"/rooms/{quote(room)}/kick", {"user_id": guest.user_id, "reason": "a dog"})
    await guest.until("the kick", lambda: guest.room(room).left)
    assert await guest.join(room, host.server_name) == room
    said = await guest.say(room, "Without the dog")
    assert _body(await host.hears(room, said)) == "Without the dog"
    await guest.hears(room, said)
    await _same_state(pair, room)
    await host.ok("POST", f"/rooms/{quote(room)}/ban", {"user_id": guest.user_id})
    await guest.until("the ban", lambda: guest.room(room).left)
    refused = await guest.request("POST", f"/_matrix/client/v3/join/{quote(room)}?via={host.server_name}&server_name={host.server_name}")
    assert (refused.status, refused.json["errcode"]) == (403, "M_FORBIDDEN")


async def test_an_invite_is_declined_and_another_is_withdrawn(pair: Pair) -> None:
    host, guest, version = pair
    room = await host.create_room(version, preset="private_chat")
    await host.invite(room, guest.user_id)
    await guest.invited(room)
    await guest.leave(room)
    await host.until("declined", lambda: _last(host, room).get("membership") == "leave")
    await host.invite(room, guest.user_id)
    await guest.invited(room)
    await host.ok("POST", f"/rooms/{quote(room)}/kick", {"user_id": guest.user_id})
    await guest.until("withdrawn", lambda: guest.room(room).left)


async def test_a_knock_is_taken_back_and_another_answered(pair: Pair) -> None:
    """Refusing a knock is left out, and so is taking it back at Synapse: it does not tell the other server of either, nor
    listen when it is told that a knock is refused.
    """
    host, guest, version = pair
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room = await host.create_room(version, preset="private_chat", initial_state=[rules])

    async def knock() -> None:
        await guest.ok("POST", f"/knock/{quote(room)}?via={host.server_name}&server_name={host.server_name}", {"reason": "It rains"})
        await host.until("the knock", lambda: _last(host, room).get("membership") == "knock")
        shown = await guest.until("the own knock", lambda: guest.room(room).knock)
        assert {"m.room.create", "m.room.join_rules"} <= {event["type"] for event in shown}

    await knock()
    assert _last(host, room)["reason"] == "It rains"
    if guest.server_name == BOX:
        await guest.leave(room)
        await host.until("taken back", lambda: _last(host, room).get("membership") == "leave")
        await knock()
    await host.invite(room, guest.user_id)
    await guest.invited(room)
    await guest.join(room)
    said = await guest.say(room, "Dry at last")
    await host.hears(room, said)
    await _same_state(pair, room)


async def test_a_restricted_room_admits_the_members_of_another(pair: Pair) -> None:
    host, guest, version = pair
    lobby = await host.create_room(version, preset="public_chat")
    allow = [{"type": "m.room_membership", "room_id": lobby}]
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "restricted", "allow": allow}}
    hall = await host.create_room(version, preset="private_chat", initial_state=[rules])
    via = f"via={host.server_name}&server_name={host.server_name}"
    refused = await guest.request("POST", f"/_matrix/client/v3/join/{quote(hall)}?{via}")
    assert (refused.status, refused.json["errcode"]) == (403, "M_FORBIDDEN")
    await guest.join(lobby, host.server_name)
    await guest.join(hall, host.server_name)
    said = await guest.say(hall, "A fine hall")
    await host.hears(hall, said)
    state = await _same_state(pair, hall)
    joined = await host.ok("GET", f"/rooms/{quote(hall)}/event/{quote(state[MEMBER, guest.user_id])}")
    assert joined["content"]["join_authorised_via_users_server"] == host.user_id


async def test_who_joins_late_pages_through_all_of_history(pair: Pair) -> None:
    host, guest, version = pair
    room = await host.create_room(version, preset="public_chat", name="Old talk")
    said = [await host.say(room, f"line {number}") for number in range(25)]
    await guest.join(room, host.server_name)
    found = [event["event_id"] for event in await guest.history(room, limit=8)]
    whole = [event["event_id"] for event in await host.history(room, limit=8)]
    assert [one for one in found if one in said] == said[::-1]
    assert found == whole


@dataclass
class _Side:
    person: Person
    said: list[str]


async def test_what_both_say_while_the_line_is_cut_arrives_once_on_both_sides(pair: Pair, lab: Lab) -> None:
    host, guest, _ = pair
    room = await _room_of_both(pair)
    levels = await host.ok("GET", f"/rooms/{quote(room)}/state/m.room.power_levels/")
    levels["users"][guest.user_id] = 50
    await guest.hears(room, await host.set_state(room, "m.room.power_levels", levels))
    sides = [_Side(host, []), _Side(guest, [])]
    lab.cut()
    for number in range(6):
        for side in sides:
            side.said.append(await side.person.say(room, f"{side.person.user_id} {number}"))
    topics = [await side.person.set_state(room, "m.room.topic", {"topic": side.person.user_id}) for side in sides]
    for side, other in (sides, sides[::-1]):
        await side.person.hears(room, side.said[-1])
        assert not {one["event_id"] for one in side.person.room(room).timeline} & set(other.said)
    lab.restore()
    for side, other in (sides, sides[::-1]):
        for event_id in [*side.said, topics[sides.index(side)]]:
            await other.person.hears(room, event_id)
    everything = sorted([*sides[0].said, *sides[1].said, *topics])
    for side in sides:
        heard = [one["event_id"] for one in side.person.room(room).timeline if one["event_id"] in everything]
        assert sorted(heard) == everything
        assert [one for one in heard if one in side.said] == side.said
    final = await guest.say(room, "one again")
    await host.hears(room, final)
    state = await _same_state(pair, room)
    assert state["m.room.topic", ""] in topics


@pytest.mark.parametrize("host", ["B", "S"])
async def test_a_gap_is_closed_by_asking_for_the_missing_events(lab: Lab, host: str) -> None:
    """The host's server does not send what was said while the line was cut: the guest's has to ask for it."""
    people = (lab.alice, lab.bob) if host == "B" else (lab.bob, lab.alice)
    pairs = {await _room_of_both(pair): pair for pair in (Pair(*people, version) for version in VERSIONS)}
    long_gap = await _room_of_both(Pair(*people, "12"))
    asked = _missing_asked(lab, host)
    lab.cut()
    far = [await people[0].say(long_gap, f"far {number}") for number in range(20)]
    far.append(await people[0].set_state(long_gap, "m.room.topic", {"topic": "in the gap"}))
    far += [await people[0].say(long_gap, f"far {number}") for number in range(20, 40)]
    lost = {room: [await pair.host.say(room, f"lost {number}") for number in range(7)] for room, pair in pairs.items()}
    if host == "B":
        lab.box.kill()
        _empty_outbox(lab.directory / "box" / "data" / "edgeserver.db")
        lab.restore()
        lab.box.start()
    else:  # after a restart Synapse sends the newest event of each room alone
        lab.synapse.stop()
        lab.restore()
        lab.synapse.start()
    for room, pair in pairs.items():
        newest = await pair.host.say(room, "after the gap")
        for event_id in (newest, *lost[room]):
            await pair.guest.hears(room, event_id)
        heard = [one["event_id"] for one in pair.guest.room(room).timeline if one["event_id"] in {*lost[room], newest}]
        assert heard == [*lost[room], newest]
        await _same_state(pair, room)
    assert _missing_asked(lab, host) >= asked + len(VERSIONS)
    await people[1].hears(long_gap, await people[0].say(long_gap, "after the long gap"))
    found = [event["event_id"] for event in await people[1].history(long_gap, limit=30)]
    assert [event_id for event_id in found if event_id in far] == far[::-1]
    assert len(found) == len(set(found))
    await _same_state(Pair(*people, "12"), long_gap)


def _empty_outbox(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("DELETE FROM outbox")
        database.commit()


def _missing_asked(lab: Lab, host: str) -> int:
    """How often the guest's server has asked the host's for missing events."""
    asking = f"POST matrix-federation://{BOX}" if host == "B" else '"POST '
    return len(re.findall(f"{asking}/_matrix/federation/v1/get_missing_events", lab.synapse.program.log.read_text(errors="replace")))


@pytest.mark.parametrize("talker", ["B", "S"])
async def test_three_hundred_events_of_an_outage_arrive_in_their_order(lab: Lab, talker: str) -> None:
    """The box sends them all, at a pace that Synapse keeps up with; Synapse sends the newest, and the box asks for the rest."""
    people = (lab.alice, lab.bob) if talker == "B" else (lab.bob, lab.alice)
    room = await _room_of_both(Pair(*people, "12"))
    lab.cut()
    said: list[str] = []
    limit = trio.CapacityLimiter(12)

    async def say(number: int) -> None:
        async with limit:
            said.append(await people[0].say(room, f"line {number}"))

    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(say, number)
    await lab.alice.say(room, "the box has something to say")
    lab.restore()
    last = await people[0].say(room, "that was all")
    await people[1].hears(room, last, patience=60)
    while len(heard := [one["event_id"] for one in await people[1].history(room, limit=100) if one["event_id"] in said]) < len(said):
        await trio.sleep(0.2)
    assert len(heard) == len(set(heard)) == 300
    spoken = said[::-1]  # what was said at the same moment has no order of its own
    assert max(abs(spoken.index(event_id) - place) for place, event_id in enumerate(heard)) <= 24
    await _same_state(Pair(*people, "12"), room)


# Policy servers


@dataclass
class Gate:
    """A policy server of its own, and its user in the rooms."""

    policy: PolicyServer
    user_id: str

    async def join(self, lab: Lab, room: str, through: str) -> None:
        """Joins as a server does that is nothing else: make_join, send_join."""
        rules = self.policy.rules
        made = await self._ask(lab, through, "GET", f"v1/make_join/{quote(room)}/{quote(self.user_id)}?ver={rules.version}")
        join = draft.complete(made["event"], rules, GATE, homeserver_key("lab"))
        await self._ask(lab, through, "PUT", f"v2/send_join/{quote(room)}/{quote(join.event_id)}", join.pdu)

    async def _ask(self, lab: Lab, server: str, method: str, path: str, body: Any = None) -> Any:
        target = f"/_matrix/federation/{path}"
        address = lab.space.address if server == BOX else lab.synapse.federation[0]
        authorization = signatures.sign_request(method, target, GATE, server, homeserver_key("lab"), body)
        answer = await arequest(
            method,
            f"https://{server}:8448{target}",
            body=None if body is None else canonical_json.encode(body),
            headers={"Authorization": authorization} | ({} if body is None else {"Content-Type": "application/json"}),
            netns=lab.names.name,
            address=address,
        )
        assert answer.status == 200, answer
        return answer.json


@pytest.fixture(scope="module")
def gate(lab: Lab) -> Iterator[Gate]:
    certificate = lab.authority.issue(GATE)
    arguments = [GATE, "lab", "12", lab.names.address, "8448", str(certificate.chain), str(certificate.key)]
    program = Program(python_module("tests.lab.policy_server", *arguments), log=lab.directory / "gate.log", netns=lab.names.name)
    program.start()
    try:
        url = f"https://{GATE}:8448/_matrix/key/v2/server"
        wait_for(GATE, lambda: answers(url, netns=lab.names.name, address=lab.names.address), timeout=20, program=program)
        yield Gate(PolicyServer(GATE, "12", "lab"), f"@guard:{GATE}")
    finally:
        program.stop(timeout=2)


@pytest.mark.parametrize("host", ["B", "S"])
async def test_both_servers_heed_the_policy_server_of_a_room(lab: Lab, gate: Gate, host: str) -> None:
    pair = Pair(lab.alice, lab.bob, "12") if host == "B" else Pair(lab.bob, lab.alice, "12")
    room = await _room_of_both(pair)
    await gate.join(lab, room, pair.host.server_name)
    named = await pair.host.set_state(room, "m.room.policy", gate.policy.policy)
    await pair.guest.hears(room, named)
    for person, other in ((pair.host, pair.guest), (pair.guest, pair.host)):
        said = await person.say(room, "fish")
        await other.hears(room, said)
        content = {"msgtype": "m.text", "body": "spam"}
        refused = await person.request("PUT", f"/_matrix/client/v3/rooms/{quote(room)}/send/m.room.message/spam", content)
        assert (refused.status, refused.json) == (400, REFUSAL)
        assert _is_signed_by(gate.policy, lab.synapse.timeline(room), said)
    topic = await pair.host.set_state(room, "m.room.topic", {"topic": "what is fresh"})
    await pair.guest.hears(room, topic)
    assert (await _same_state(pair, room))["m.room.topic", ""] == topic
    assert not [one for person in pair[:2] for one in person.room(room).texts() if "spam" in one]


def _is_signed_by(policy: PolicyServer, timeline: list[dict[str, Any]], event_id: str) -> bool:
    stored = next(one for one in timeline if one["event_id"] == event_id)
    return "ed25519:policy_server" in stored["signatures"].get(policy.name, {})


# Keys


@pytest.mark.parametrize("owner", ["B", "S"])
async def test_devices_that_changed_during_an_outage_are_known_after_it(lab: Lab, owner: str) -> None:
    name = f"dev{owner}".lower()
    person = register(lab.box, name) if owner == "B" else register_there(lab.synapse, name)
    other = lab.bob if owner == "B" else lab.alice
    room = await person.create_room("12", preset="public_chat", initial_state=[ENCRYPTION])
    await other.join(room, person.server_name)
    devices = [await person.another_device(PASSWORD)]
    await other.until("the first device", lambda: person.user_id in other.changed)
    for _ in range(40):
        if len((await other.keys_of(person))["device_keys"].get(person.user_id, {})) == 1:
            break
        await trio.sleep(0.1)
    other.changed.clear()
    lab.cut()
    devices += [await person.another_device(PASSWORD) for _ in range(4)]
    await devices.pop(0).ok("POST", "/logout")
    await person.say(room, "new phones")
    lab.restore()
    if other is lab.alice:  # Synapse has backed off until it hears of the box
        await lab.alice.say(room, "here we are")
    await other.until("the changes", lambda: person.user_id in other.changed)
    for _ in range(100):
        theirs = (await other.keys_of(person))["device_keys"].get(person.user_id, {})
        own = (await person.keys_of(person))["device_keys"][person.user_id]
        if set(theirs) == set(own):
            break
        await trio.sleep(0.1)
    assert {device_id: each["keys"] for device_id, each in theirs.items()} == {device_id: each["keys"] for device_id, each in own.items()}
    assert len(own) == 4


@pytest.mark.parametrize("owner", ["B", "S"])
async def test_cross_signing_keys_and_their_replacement_reach_the_other_server(lab: Lab, owner: str) -> None:
    name = f"cross{owner}".lower()
    person = register(lab.box, name) if owner == "B" else register_there(lab.synapse, name)
    other = lab.bob if owner == "B" else lab.alice
    room = await person.create_room("12", preset="public_chat", initial_state=[ENCRYPTION])
    await other.join(room, person.server_name)
    await other.keys_of(person)
    public = ("master_key", "self_signing_key")
    for generation in ("1", "2"):
        keys, _ = cross_signing(person.user_id, generation)
        other.changed.clear()
        await _upload_signing_keys(person, keys)
        await other.until("the new keys", lambda: person.user_id in other.changed)
        for _ in range(100):
            found = await other.keys_of(person)
            if all(found.get(f"{usage}s", {}).get(person.user_id, {}).get("keys") == keys[usage]["keys"] for usage in public):
                break
            await trio.sleep(0.1)
        assert found["master_keys"][person.user_id]["keys"] == keys["master_key"]["keys"]
        assert found["self_signing_keys"][person.user_id] == keys["self_signing_key"]
        assert person.user_id not in found.get("user_signing_keys", {})


async def _upload_signing_keys(person: Person, keys: dict[str, Any]) -> None:
    path = "/_matrix/client/v3/keys/device_signing/upload"
    answer = await person.request("POST", path, keys)
    if answer.status == 401:
        identifier = {"type": "m.id.user", "user": person.user_id}
        auth = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD, "session": answer.json["session"]}
        answer = await person.request("POST", path, {**keys, "auth": auth})
    assert answer.status == 200, answer


async def test_each_is_the_notary_of_the_others_keys(lab: Lab) -> None:
    for notary, name, other in ((lab.box, BOX, SYNAPSE), (lab.synapse, SYNAPSE, BOX)):
        own = key_response.read(notary.request("GET", "/_matrix/key/v2/server").json, name)
        asked = {"server_keys": {other: {}, "nobody.hills.test": {}}}
        by_get = notary.request("GET", f"/_matrix/key/v2/query/{other}").json["server_keys"]
        by_post = notary.request("POST", "/_matrix/key/v2/query", asked).json["server_keys"]
        for (found,) in (by_get, by_post):
            assert key_response.read(found, other).current
            [(key_id, key)] = own.current.items()
            signatures.verify_json(found, name, key_id, key)


# People, devices, files


async def test_profiles_are_asked_for_both_ways(lab: Lab) -> None:
    for person, other in ((lab.alice, lab.bob), (lab.bob, lab.alice)):
        await person.ok("PUT", f"/profile/{quote(person.user_id)}/displayname", {"displayname": f"Call me {person.user_id}"})
        found = await other.ok("GET", f"/profile/{quote(person.user_id)}")
        assert found["displayname"] == f"Call me {person.user_id}"


async def test_media_are_fetched_both_ways(lab: Lab) -> None:
    for person, other in ((lab.alice, lab.bob), (lab.bob, lab.alice)):
        data = f"a letter of {person.user_id}".encode()
        sent = await person.request("POST", "/_matrix/media/v3/upload?filename=letter.txt", data)
        assert sent.status == 200, sent
        place = sent.json["content_uri"].removeprefix("mxc://")
        found = await other.request("GET", f"/_matrix/client/v1/media/download/{place}")
        assert (found.status, found.body) == (200, data)


async def test_encrypted_talk_is_read_on_both_sides_and_on_new_devices(lab: Lab, tmp_path: Path) -> None:
    register(lab.box, "ada")
    register_there(lab.synapse, "ben")
    with (
        NioClient(tmp_path, lab.box.url, name="ada", netns=lab.box.netns) as ada,
        NioClient(tmp_path, lab.synapse.base_url, name="ben", netns=lab.synapse.netns) as ben,
        NioClient(tmp_path, lab.box.url, name="ada2", netns=lab.box.netns) as new_ada,
        NioClient(tmp_path, lab.synapse.base_url, name="ben2", netns=lab.synapse.netns) as new_ben,
    ):
        ada_id = (await ada.login("ada", PASSWORD))["user_id"]
        ben_id = (await ben.login("ben", PASSWORD))["user_id"]
        rooms = []
        for version in VERSIONS:
            for host, guest, host_id, guest_id in ((ada, ben, ada_id, ben_id), (ben, ada, ben_id, ada_id)):
                room = await host.create_room(encrypted=True, room_version=version, invite=[guest_id])
                await guest.wait_invite(room)
                await guest.join(room)
                await host.wait_member(room, guest_id)
                sent = await host.send(room, "Under seal")
                heard = await guest.wait_message(room, "Under seal")
                assert (heard["event_id"], heard["decrypted"]) == (sent, True)
                await guest.wait_member(room, host_id)
                await guest.send(room, "Seal unbroken")
                assert (await host.wait_message(room, "Seal unbroken"))["decrypted"]
                rooms.append(room)
        await new_ada.login("ada", PASSWORD)
        await new_ben.login("ben", PASSWORD)
        await _until_read(ben, new_ada, rooms[0])
        await _until_read(ada, new_ben, rooms[-1])


async def _until_read(sender: NioClient, device: NioClient, room: str) -> None:
    """Says something again and again until a new device can read it: the sender has to hear of that device first."""
    for number in range(20):
        await sender.send(room, f"For all your devices {number}")
        with contextlib.suppress(RpcError):
            assert (await device.wait_message(room, f"For all your devices {number}", timeout=1.5))["decrypted"]
            return
    raise AssertionError("the new device reads nothing")


# Trouble


async def test_nothing_is_lost_when_the_box_is_killed_and_synapse_restarted(lab: Lab) -> None:
    pair = Pair(lab.alice, lab.bob, "12")
    room = await _room_of_both(pair)
    said: list[str] = []
    for number in range(4):
        said.append(await lab.alice.say(room, f"before {number}"))
        said.append(await lab.bob.say(room, f"answer {number}"))
    lab.box.kill()
    said += [await lab.bob.say(room, f"to nobody {number}") for number in range(3)]
    lab.box.start()
    await lab.alice.hears(room, said[-1])
    said += [await lab.alice.say(room, f"back {number}") for number in range(3)]
    lab.synapse.stop()
    said += [await lab.alice.say(room, f"alone {number}") for number in range(3)]
    lab.box.kill()
    lab.synapse.start()
    lab.box.start()
    for person in (lab.alice, lab.bob):
        for event_id in said:
            await person.hears(room, event_id)
        heard = [one["event_id"] for one in person.room(room).timeline]
        assert sorted(one for one in heard if one in said) == sorted(said)
    await _same_state(pair, room)


def _complaints(log: str) -> list[str]:
    """The lines of Synapse's log that speak of us as a peer that does wrong, and its errors, but for one about itself."""
    loud = re.compile(rf"^\S+ \S+ (?!synapse\.util\.metrics)\S+ (ERROR|CRITICAL) | WARNING .*{re.escape(BOX)}")
    # The box was killed while Synapse answered; who is banned, or not in the lobby, is rightly refused.
    expected = re.compile(r"already disconnected|/make_join/.*HttpResponseException\('403")
    return [line for line in log.splitlines() if loud.search(line) and not expected.search(line)]


async def test_neither_log_tells_of_trouble(lab: Lab) -> None:
    assert troubles(lab.box) == []
    log = lab.synapse.program.log.read_text(errors="replace")
    assert _complaints(log) == []
    assert lab.synapse.rows("SELECT event_id, reason FROM rejections") == []
    destination = lab.synapse.destination(BOX)
    assert destination is not None
    assert destination["retry_interval"] == 0
    with contextlib.closing(sqlite3.connect(lab.directory / "box" / "data" / "edgeserver.db")) as database:
        assert database.execute("SELECT event_id FROM events WHERE verdict = 2").fetchall() == []  # rejected
