"""A box and a stock Synapse: outages of many events, policy servers, and the keys of each other's people and servers.

The table of all flows stands in `test_synapse.py`. Afterwards neither log may tell of trouble with the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
import trio

from edgeserver.federation import key_response
from edgeserver.matrix import canonical_json, draft, signatures
from tests.api.test_keys import cross_signing
from tests.interop.boxes import PASSWORD, register, register_there
from tests.interop.lab_pair import BOX, GATE, SYNAPSE, Lab, Pair, paired_lab, room_of_both, same_state, troubles_between, unavailable
from tests.interop.people import Person
from tests.lab.policy_server import REFUSAL, PolicyServer, homeserver_key
from tests.lab.programs import Program, python_module, wait_for
from tests.lab.web import answers, arequest

_ABSENT = unavailable()

pytestmark = [
    pytest.mark.interop,
    pytest.mark.netns,
    pytest.mark.skipif(_ABSENT is not None, reason=_ABSENT or ""),
]

VERSIONS = ("12", "11", "10")
ENCRYPTION = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with paired_lab(tmp_path_factory.mktemp("federation")) as lab:
        yield lab


@pytest.mark.parametrize("talker", ["B", "S"])
@pytest.mark.parametrize("version", ["12", *(pytest.param(version, marks=pytest.mark.full) for version in ("11", "10"))])
async def test_three_hundred_events_of_an_outage_arrive_in_their_order(lab: Lab, version: str, talker: str) -> None:
    """The box sends them all, at a pace that Synapse keeps up with; Synapse sends the newest, and the box asks for the rest."""
    people = (lab.alice, lab.bob) if talker == "B" else (lab.bob, lab.alice)
    room = await room_of_both(Pair(*people, version))
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
    await same_state(Pair(*people, version), room)


# Policy servers


@dataclass
class Gate:
    """A policy server of its own for rooms of one version, and its user in them."""

    version: str
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


@pytest.fixture(scope="module", params=VERSIONS)
def gate(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Gate]:
    version = request.param
    certificate = lab.authority.issue(GATE)
    arguments = [GATE, "lab", version, lab.names.address, "8448", str(certificate.chain), str(certificate.key)]
    program = Program(python_module("tests.lab.policy_server", *arguments), log=lab.directory / "gate.log", netns=lab.names.name)
    program.start()
    try:
        url = f"https://{GATE}:8448/_matrix/key/v2/server"
        wait_for(GATE, lambda: answers(url, netns=lab.names.name, address=lab.names.address), timeout=20, program=program)
        yield Gate(version, PolicyServer(GATE, version, "lab"), f"@guard:{GATE}")
    finally:
        program.stop(timeout=2)


@pytest.mark.parametrize("host", ["B", "S"])
async def test_both_servers_heed_the_policy_server_of_a_room(lab: Lab, gate: Gate, host: str) -> None:
    pair = Pair(lab.alice, lab.bob, gate.version) if host == "B" else Pair(lab.bob, lab.alice, gate.version)
    room = await room_of_both(pair)
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
    assert (await same_state(pair, room))["m.room.topic", ""] == topic
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


async def test_neither_log_tells_of_trouble(lab: Lab) -> None:
    assert troubles_between(lab) == []
