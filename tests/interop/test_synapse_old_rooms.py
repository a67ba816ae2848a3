"""A box and a stock Synapse in rooms of the first five versions, whoever hosts them.

Versions 1 and 2 have events that name themselves, version 1 its own state resolution, version 3 event ids with slashes in them,
versions 1 to 5 numbers of any kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.interop.boxes import register, register_there
from tests.interop.lab_pair import (
    MEMBER,
    Lab,
    Pair,
    decline_and_withdraw,
    hears_join,
    last_content,
    paired_lab,
    room_of_both,
    same_state,
    troubles_between,
    unavailable,
)
from tests.interop.people import Person

_ABSENT = unavailable()

pytestmark = [
    pytest.mark.interop,
    pytest.mark.netns,
    pytest.mark.skipif(_ABSENT is not None, reason=_ABSENT or ""),
]

VERSIONS = ("1", "2", "3", "5")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with paired_lab(tmp_path_factory.mktemp("old-rooms")) as lab:
        yield lab


@pytest.fixture(params=[(version, host) for version in VERSIONS for host in ("B", "S")], ids=lambda one: f"v{one[0]}-{one[1]}")
def pair(request: pytest.FixtureRequest, lab: Lab) -> Pair:
    return lab.pair(*request.param)


async def test_an_invited_guest_joins_talks_redacts_and_leaves(pair: Pair) -> None:
    host, guest, version = pair
    room = await host.create_room(version, name="The mill", preset="private_chat")
    await host.invite(room, guest.user_id)
    shown = await guest.invited(room)
    assert next(event for event in shown if event["type"] == "m.room.name")["content"]["name"] == "The mill"
    await guest.join(room)
    said = await host.say(room, "Is the sluice open?")
    await guest.hears(room, said)
    answered = await guest.say(room, "Half.")
    assert (":" in answered) == (version in ("1", "2"))
    await host.hears(room, answered)
    await guest.hears(room, await host.set_state(room, "m.room.name", {"name": "The upper mill"}))
    await same_state(pair, room)

    # The guest takes back its own words, the host takes back the guest's.
    second = await guest.say(room, "Closed, I mean.")
    await host.hears(room, second)
    await host.hears(room, await guest.redact(room, answered))
    await guest.hears(room, await host.redact(room, second))
    for person in (host, guest):
        for event_id in (answered, second):
            assert (await _event(person, room, event_id))["content"] == {}
    await guest.leave(room)
    await host.until("the guest's leave", lambda: last_content(host, room).get("membership") == "leave")


async def test_nobody_knocks_at_a_room_that_knows_no_knocking(lab: Lab) -> None:
    for version, host in (("1", "B"), ("5", "S")):
        inside, outside, _ = lab.pair(version, host)
        room = await inside.create_room(version, preset="private_chat")
        path = f"/_matrix/client/v3/knock/{quote(room)}?via={inside.server_name}&server_name={inside.server_name}"
        refused = await outside.request("POST", path, {})
        assert refused.status in (400, 403), refused


async def test_an_invite_is_declined_and_another_is_withdrawn(pair: Pair) -> None:
    await decline_and_withdraw(pair)


async def test_numbers_of_any_kind_arrive_as_they_were_sent(pair: Pair) -> None:
    """Those of more than 64 bits are hidden in an inner list: Synapse's push rules break at them, though its events do not."""
    room = await room_of_both(pair)
    numbers = [0.5, 1.0, -0.0, 1e16, 1e-7, 1.7976931348623157e308, 2**53, [2**64, -(2**63) - 1, 10**400]]
    for speaker, listener in ((pair.host, pair.guest), (pair.guest, pair.host)):
        content = {"msgtype": "m.text", "body": "numbers", "numbers": numbers}
        sent = (await speaker.ok("PUT", f"/rooms/{quote(room)}/send/m.room.message/{quote(room)}", content))["event_id"]
        heard = await listener.hears(room, sent)
        assert list(map(repr, heard["content"]["numbers"])) == list(map(repr, numbers))


async def test_who_joins_late_pages_through_all_of_history(pair: Pair) -> None:
    host, guest, version = pair
    room = await host.create_room(version, preset="public_chat", name="Old talk")
    said = [await host.say(room, f"line {number}") for number in range(12)]
    await guest.join(room, host.server_name)
    found = [event["event_id"] for event in await guest.history(room, limit=8)]
    assert [one for one in found if one in said] == said[::-1]
    assert found == [event["event_id"] for event in await host.history(room, limit=8)]


async def test_a_fork_with_conflicting_state_heals_to_one_state(pair: Pair, lab: Lab) -> None:
    host, guest, version = pair
    room = await room_of_both(pair)
    third = register(lab.box, f"third{version}") if guest is lab.alice else register_there(lab.synapse, f"third{version}")
    await third.join(room, host.server_name)
    await hears_join(pair, room)
    levels = await host.ok("GET", f"/rooms/{quote(room)}/state/m.room.power_levels/")
    levels["users"][guest.user_id] = 100
    await guest.hears(room, await host.set_state(room, "m.room.power_levels", levels))
    lab.cut()
    said: dict[str, list[str]] = {}
    for number, person in enumerate((host, guest)):
        said[person.user_id] = [
            await person.say(room, "alone"),
            await person.set_state(room, "m.room.topic", {"topic": person.user_id}),
            await person.set_state(room, "m.room.power_levels", {**levels, "invite": 10 + number}),
            await person.set_state(room, "m.room.name", {"name": f"{person.user_id}'s"}),
            await person.set_state(room, "m.room.join_rules", {"join_rule": ["invite", "public"][number]}),
            await person.say(room, "still alone"),
        ]
    await host.set_state(room, "lab.only_here", {"by": host.user_id})
    await host.ok("POST", f"/rooms/{quote(room)}/ban", {"user_id": third.user_id})
    for name in ("Third", "The third"):
        await third.set_state(room, MEMBER, {"membership": "join", "displayname": name}, third.user_id)
    lab.restore()
    for person, other in ((host, guest), (guest, host)):
        for event_id in said[other.user_id]:
            await person.hears(room, event_id)
    await host.hears(room, await guest.say(room, "one again"))
    await guest.hears(room, await host.say(room, "indeed"))
    state = await same_state(pair, room)
    everything = [*said[host.user_id], *said[guest.user_id]]
    for kind in ("topic", "name", "power_levels", "join_rules"):
        assert state[f"m.room.{kind}", ""] in everything


async def _event(person: Person, room: str, event_id: str) -> dict:
    return await person.ok("GET", f"/rooms/{quote(room)}/event/{quote(event_id, safe='')}")


async def test_neither_log_tells_of_trouble(lab: Lab) -> None:
    # Who renames itself while it is banned elsewhere is heard no more; who is new is heard of before its join is.
    banned, new = r"Soft-failing .*state_key=@third.*You are banned", r"device list update edu for '@third.*don't share a room"
    assert troubles_between(lab, expected=f"{banned}|{new}") == []
