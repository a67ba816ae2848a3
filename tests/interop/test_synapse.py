"""A box and a stock Synapse, each in a network namespace of its own, with names without ports by a wildcard in DNS.

Flow by room version and by who hosts the room (B: the box made it, S: Synapse did):

    flow                                                        10   11   12
    invite, join, talk, state, redaction, EDUs, leave           BS   BS   BS
    join by alias, kick, join again, ban                        BS   BS   BS
    an invite is declined; an invite is withdrawn               BS   BS   BS
    history of before a late join                               BS   BS   BS
    a crowded room, joined without its members at first         BS   BS   BS
    a fork while the line is cut, and its healing               BS   BS   BS
    a knock; a restricted join                                  BS   BS   BS
    a room is upgraded to version 12, and followed              BS   BS   BS
    a third-party invite, exchanged and taken up in the room    BS   BS   BS
    history under each of the four visibilities                 BS   BS   BS
    a short gap is closed by /get_missing_events                BS   BS   BS
    a long gap is closed by /state_ids and /backfill too        BS   BS   BS
    a jump to a date beyond what is held                        BS   BS   BS
    the tree of a space across servers, a room in short         BS   BS   BS
    the published rooms of the other server (no version)        both ways
    encrypted talk by matrix-nio, new devices                   BS   BS   BS
    profiles, media                                             both ways
    kill -9 of the box, restart of Synapse                      both ways
    a policy server: what it signs, what it refuses       (*)   BS   BS   BS
    300 events in one room after an outage                (*)   BS*  BS*  BS
    devices that changed during an outage                 (*)   both ways
    cross-signing keys, set and replaced                  (*)   both ways
    each as the notary of the other's keys                (*)   both ways

(*) stand in `test_synapse_policy_and_keys.py`, BS* in its long form (`make test-all`).
Rooms of versions 1, 2, 3 and 5, forks among them, stand in `test_synapse_old_rooms.py`.
Afterwards neither log may tell of trouble with the other.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from edgeserver.federation.resident import SMALL_ROOM
from edgeserver.matrix.signatures import SigningKey, encode_base64, sign_json
from tests.interop.boxes import PASSWORD, register, register_there
from tests.interop.lab_pair import (
    BOX,
    MEMBER,
    SYNAPSE,
    Lab,
    Pair,
    decline_and_withdraw,
    last_content,
    paired_lab,
    room_of_both,
    same_state,
    troubles_between,
    unavailable,
)
from tests.interop.people import Person
from tests.lab.client import NioClient
from tests.lab.rpc import RpcError

_ABSENT = unavailable()

pytestmark = [
    pytest.mark.interop,
    pytest.mark.netns,
    pytest.mark.skipif(_ABSENT is not None, reason=_ABSENT or ""),
]

VERSIONS = ("12", "11", "10")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with paired_lab(tmp_path_factory.mktemp("federation")) as lab:
        yield lab


@pytest.fixture(params=[(version, host) for version in VERSIONS for host in ("B", "S")], ids=lambda one: f"v{one[0]}-{one[1]}")
def pair(request: pytest.FixtureRequest, lab: Lab) -> Pair:
    version, host = request.param
    return lab.pair(version, host)


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
    await same_state(pair, room)

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
    await host.until("the guest's leave", lambda: last_content(host, room).get("membership") == "leave")
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
    await same_state(pair, room)
    await host.ok("POST", f"/rooms/{quote(room)}/ban", {"user_id": guest.user_id})
    await guest.until("the ban", lambda: guest.room(room).left)
    refused = await guest.request("POST", f"/_matrix/client/v3/join/{quote(room)}?via={host.server_name}&server_name={host.server_name}")
    assert (refused.status, refused.json["errcode"]) == (403, "M_FORBIDDEN")


async def test_an_invite_is_declined_and_another_is_withdrawn(pair: Pair) -> None:
    await decline_and_withdraw(pair)


async def test_a_knock_is_taken_back_and_another_answered(pair: Pair) -> None:
    """Refusing a knock is left out, and so is taking it back at Synapse: it does not tell the other server of either, nor
    listen when it is told that a knock is refused.
    """
    host, guest, version = pair
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room = await host.create_room(version, preset="private_chat", initial_state=[rules])

    async def knock() -> None:
        await guest.ok("POST", f"/knock/{quote(room)}?via={host.server_name}&server_name={host.server_name}", {"reason": "It rains"})
        await host.until("the knock", lambda: last_content(host, room).get("membership") == "knock")
        shown = await guest.until("the own knock", lambda: guest.room(room).knock)
        assert {"m.room.create", "m.room.join_rules"} <= {event["type"] for event in shown}

    await knock()
    assert last_content(host, room)["reason"] == "It rains"
    if guest.server_name == BOX:
        await guest.leave(room)
        await host.until("taken back", lambda: last_content(host, room).get("membership") == "leave")
        await knock()
    await host.invite(room, guest.user_id)
    await guest.invited(room)
    await guest.join(room)
    said = await guest.say(room, "Dry at last")
    await host.hears(room, said)
    await same_state(pair, room)


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
    state = await same_state(pair, hall)
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


@pytest.fixture(scope="module")
def crowds(lab: Lab) -> dict[str, list[Person]]:
    """So many people on each server that they are left out of a join."""
    return {
        BOX: [register(lab.box, f"guest{number}") for number in range(SMALL_ROOM + 1)],
        SYNAPSE: [register_there(lab.synapse, f"guest{number}") for number in range(SMALL_ROOM + 1)],
    }


async def test_a_crowded_room_is_joined_without_its_members_and_made_whole(pair: Pair, crowds: dict[str, list[Person]]) -> None:
    host, guest, version = pair
    room = await host.create_room(version, preset="public_chat", name="The fair")
    crowd = crowds[host.server_name]
    for one in crowd:
        await one.join(room, host.server_name)
    await guest.join(room, host.server_name)
    said = await guest.say(room, "What a crowd")
    await host.hears(room, said)
    answered = await crowd[-1].say(room, "Mind your purse")
    assert (await guest.hears(room, answered))["sender"] == crowd[-1].user_id
    await crowd[0].leave(room)
    joined = await guest.ok("GET", f"/rooms/{quote(room)}/joined_members")
    assert {one.user_id for one in (*crowd[1:], host, guest)} <= set(joined["joined"])
    await same_state(pair, room)


async def test_an_upgraded_room_is_followed_with_tags_and_names_its_predecessor(pair: Pair) -> None:
    host, guest, version = pair
    name = f"bridge{version}{'b' if host.server_name == BOX else 's'}"
    old = await room_of_both(pair, name="The bridge", room_alias_name=name)
    tag = f"/user/{quote(guest.user_id)}/rooms/{{}}/tags"
    await guest.ok("PUT", f"{tag.format(quote(old))}/m.favourite", {"order": 0.25})
    answer = await host.ok("POST", f"/rooms/{quote(old)}/upgrade", {"new_version": "12"})
    new = answer["replacement_room"]
    tombstone = (await host.state(old))["m.room.tombstone", ""]
    assert (await guest.hears(old, tombstone))["content"]["replacement_room"] == new
    stands = (await host.state(old))["m.room.power_levels", ""]
    await guest.sees_state(old, ("m.room.power_levels", ""), stands)
    path = f"/_matrix/client/v3/rooms/{quote(old)}/send/m.room.message/late"
    refused = await guest.request("PUT", path, {"msgtype": "m.text", "body": "still here"})
    assert (refused.status, refused.json["errcode"]) == (403, "M_FORBIDDEN")

    # The alias has moved along; a box finds the way by the tombstone alone, too.
    assert await guest.join(new if guest.server_name == BOX else f"#{name}:{host.server_name}") == new
    create = await guest.ok("GET", f"/rooms/{quote(new)}/state/m.room.create/")
    assert (create["predecessor"]["room_id"], create["room_version"]) == (old, "12")
    assert (await guest.ok("GET", f"/rooms/{quote(new)}/state/m.room.name/"))["name"] == "The bridge"
    assert (await guest.ok("GET", tag.format(quote(new))))["tags"] == {"m.favourite": {"order": 0.25}}
    await guest.hears(new, await host.say(new, "On the other side"))
    await host.hears(new, await guest.say(new, "Safe across"))
    await same_state(pair, new)
    await same_state(pair, old)


async def test_who_is_found_behind_an_address_is_invited(pair: Pair, lab: Lab) -> None:
    """By exchange with the host's server, and again by the guest's own server once that is in the room."""
    host, guest, version = pair
    identity = SigningKey(b"i" * 32, "ed25519:0")
    offer = {"display_name": "b...@h...", "public_key": encode_base64(identity.verify_key)}
    room = await host.create_room(version, preset="private_chat", name="Found")
    later = await host.set_state(room, "m.room.third_party_invite", offer, "later")
    await host.set_state(room, "m.room.third_party_invite", offer, "now")

    async def bound(token: str, user_id: str) -> None:
        proof = sign_json({"mxid": user_id, "token": token, "sender": host.user_id}, "identity.example", identity)
        found = {"medium": "email", "address": "bob@hills.example", "mxid": user_id}
        invite = {**found, "room_id": room, "sender": host.user_id, "signed": proof}
        answer = await guest.request("POST", "/_matrix/federation/v1/3pid/onbind", {**found, "invites": [invite]})
        assert (answer.status, answer.json) == (200, {}), answer

    await bound("now", guest.user_id)
    await guest.invited(room)
    await guest.join(room)
    await host.hears(room, await guest.say(room, "So it was me"))
    await guest.sees_state(room, ("m.room.third_party_invite", "later"), later)
    friend = _friend_of(guest, lab)
    await bound("later", friend.user_id)
    await friend.invited(room)
    state = await same_state(pair, room)
    invite = await host.ok("GET", f"/rooms/{quote(room)}/event/{quote(state[MEMBER, friend.user_id])}")
    assert (invite["sender"], invite["content"]["third_party_invite"]["display_name"]) == (host.user_id, "b...@h...")
    await friend.join(room)
    await host.hears(room, await friend.say(room, "And me"))


_friends: dict[str, Person] = {}


def _friend_of(person: Person, lab: Lab) -> Person:
    """A second person on the same server."""
    if person.server_name not in _friends:
        made = register(lab.box, "anna") if person.server_name == BOX else register_there(lab.synapse, "bert")
        _friends[person.server_name] = made
    return _friends[person.server_name]


async def test_each_visibility_of_history_shows_a_guest_what_it_says(pair: Pair) -> None:
    host, guest, version = pair
    shown = {
        "world_readable": ["before", "invited", "joined"],
        "shared": ["before", "invited", "joined"],
        "invited": ["invited", "joined"],
        "joined": ["joined"],
    }
    rooms = {}
    for setting in shown:
        state = [{"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": setting}}]
        rooms[setting] = room = await host.create_room(version, preset="private_chat", initial_state=state)
        await host.say(room, "before")
        await host.invite(room, guest.user_id)
        await host.say(room, "invited")
    for room in rooms.values():
        await guest.invited(room)
        await guest.join(room)
    last = {room: await host.say(room, "joined") for room in rooms.values()}
    for setting, room in rooms.items():
        await guest.hears(room, last[room])
        found = await guest.history(room, limit=20)
        bodies = [event["content"]["body"] for event in reversed(found) if "body" in event["content"]]
        assert bodies == shown[setting], setting


@dataclass
class _Side:
    person: Person
    said: list[str]


async def test_what_both_say_while_the_line_is_cut_arrives_once_on_both_sides(pair: Pair, lab: Lab) -> None:
    host, guest, _ = pair
    room = await room_of_both(pair)
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
    state = await same_state(pair, room)
    assert state["m.room.topic", ""] in topics


@pytest.mark.parametrize("host", ["B", "S"])
async def test_a_gap_is_closed_by_asking_for_the_missing_events(lab: Lab, host: str) -> None:
    """The host's server does not send what was said while the line was cut: the guest's has to ask for it."""
    people = (lab.alice, lab.bob) if host == "B" else (lab.bob, lab.alice)
    pairs = {await room_of_both(pair): pair for pair in (Pair(*people, version) for version in VERSIONS)}
    far: dict[str, list[str]] = {await room_of_both(pair): [] for pair in pairs.values()}
    asked = _missing_asked(lab, host)
    lab.cut()
    for room, said in far.items():
        said += [await people[0].say(room, f"far {number}") for number in range(20)]
        said.append(await people[0].set_state(room, "m.room.topic", {"topic": "in the gap"}))
        said += [await people[0].say(room, f"far {number}") for number in range(20, 40)]
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
        await same_state(pair, room)
    assert _missing_asked(lab, host) >= asked + len(VERSIONS)
    for room, said in far.items():
        await people[1].hears(room, await people[0].say(room, "after the long gap"))
        found = [event["event_id"] for event in await people[1].history(room, limit=30)]
        assert [event_id for event_id in found if event_id in said] == said[::-1]
        assert len(found) == len(set(found))
        await same_state(Pair(*people, "12"), room)


def _empty_outbox(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("DELETE FROM outbox")
        database.commit()


def _missing_asked(lab: Lab, host: str) -> int:
    """How often the guest's server has asked the host's for missing events."""
    asking = f"POST matrix-federation://{BOX}" if host == "B" else '"POST '
    return len(re.findall(f"{asking}/_matrix/federation/v1/get_missing_events", lab.synapse.program.log.read_text(errors="replace")))


# Rooms from outside


async def _v1(person: Person, path: str) -> tuple[int, Any]:
    answer = await person.request("GET", f"/_matrix/client/v1/{path}")
    return answer.status, answer.json


async def test_a_jump_to_a_date_beyond_what_is_held(pair: Pair) -> None:
    host, guest, version = pair
    room = await host.create_room(version, preset="public_chat")
    said = [await host.say(room, f"line {number}") for number in range(25)]
    stated = [(await host.ok("GET", f"/rooms/{quote(room)}/event/{quote(one)}"))["origin_server_ts"] for one in (said[3], said[4])]
    await guest.join(room, host.server_name)
    jump = f"rooms/{quote(room)}/timestamp_to_event"
    found = await _v1(guest, f"{jump}?ts={stated[1]}&dir=f")
    assert found == (200, {"event_id": said[4] if stated[0] < stated[1] else said[3], "origin_server_ts": stated[1]})
    assert (await guest.ok("GET", f"/rooms/{quote(room)}/context/{quote(found[1]['event_id'])}"))["event"]["sender"] == host.user_id
    status, before = await _v1(guest, f"{jump}?ts={stated[0]}&dir=b")
    assert (status, before["origin_server_ts"]) == (200, stated[0])
    assert (await _v1(guest, f"{jump}?ts={2**45}&dir=f"))[0] == 404


async def test_a_space_is_walked_and_a_room_summarised_across_servers(pair: Pair) -> None:
    host, guest, version = pair
    space = await host.create_room(version, name="The valley", preset="public_chat", creation_content={"type": "m.space"})
    lobby = await host.create_room(version, name="Lobby", preset="public_chat", topic="Come in")
    lair = await host.create_room(version, name="Lair", preset="private_chat")
    allow = [{"type": "m.room_membership", "room_id": lobby}]
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "restricted", "allow": allow}}
    hall = await host.create_room(version, name="Hall", preset="private_chat", initial_state=[rules])
    lower = await host.create_room(version, name="Lower valley", preset="public_chat", creation_content={"type": "m.space"})
    via = {"via": [host.server_name]}
    for order, child in enumerate((lobby, lair, lower)):
        await host.set_state(space, "m.space.child", {**via, "order": str(order)}, child)
    await host.set_state(lower, "m.space.child", via, hall)
    shown = await _v1(guest, f"room_summary/{quote(lobby)}?via={host.server_name}")
    assert (shown[1]["name"], shown[1]["topic"], shown[1]["membership"]) == ("Lobby", "Come in", "leave")
    assert (await _v1(guest, f"room_summary/{quote(lair)}?via={host.server_name}"))[0] == 404
    await guest.join(lobby, host.server_name)
    await guest.join(space, host.server_name)
    status, tree = await _v1(guest, f"rooms/{quote(space)}/hierarchy")
    assert status == 200
    assert [room["name"] for room in tree["rooms"]] == ["The valley", "Lobby", "Lower valley", "Hall"]
    (below,) = [room for room in tree["rooms"] if room["room_id"] == lower]
    assert [child["state_key"] for child in below["children_state"]] == [hall]
    assert "Hall" not in [room["name"] for room in (await _v1(guest, f"rooms/{quote(space)}/hierarchy?max_depth=1"))[1]["rooms"]]


async def test_published_rooms_are_listed_across_servers(lab: Lab) -> None:
    for person, other in ((lab.alice, lab.bob), (lab.bob, lab.alice)):
        name = f"Market of {person.server_name}"
        space = {"creation_content": {"type": "m.space"}}
        for number in range(3):
            await person.create_room("11", name=f"{name} {number}", preset="public_chat", visibility="public")
        await person.create_room("11", name=f"{name} space", preset="public_chat", visibility="public", **space)
        found: list[str] = []
        wish: dict[str, Any] = {"limit": 2, "filter": {"generic_search_term": name, "room_types": [None]}}
        while True:
            page = await other.ok("POST", f"/publicRooms?server={person.server_name}", wish)
            found += [room["name"] for room in page["chunk"]]
            if "next_batch" not in page:
                break
            wish["since"] = page["next_batch"]
        assert sorted(found) == [f"{name} {number}" for number in range(3)]


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
    room = await room_of_both(pair)
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
    await same_state(pair, room)


EXPECTED = "|".join(
    (
        r"/(timestamp_to_event|hierarchy)/.*Exception\('404",
        r"timestamp_to_event\(.*404: There is no",
        "Unable to get hierarchy of .*404",
        "Got device list update edu for .*, but don't share a room",
    )
)
"""There is no event at the end of time, and of a private room nothing is told. Synapse looks at a transaction's EDUs before it has taken in
the join that came with them, and asks for the devices of who joined all the same.
"""


async def test_neither_log_tells_of_trouble(lab: Lab) -> None:
    assert troubles_between(lab, expected=EXPECTED) == []
