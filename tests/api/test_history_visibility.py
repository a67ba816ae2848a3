"""Who may read what of a room: the four settings, for every way of having been in it or not; and changes of the setting itself.

Client-server API, "Room History Visibility".
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.rooms_house import Client, Place, open_place
from tests.rooms.house import ALICE, BOB, Street

SETTINGS = ("world_readable", "shared", "invited", "joined")
NOTHING = None

# What bob does, or is done to him: i(nvited), j(oins), l(eaves), b(anned), u(nbanned), k(icked), f(orgets). Alice says "0" before the
# first step and one number after each. What bob may read in the end, by setting; NOTHING: the room is closed to him.
STORIES: dict[str, tuple[str | None, str | None, str | None, str | None]] = {
    "": ("0", NOTHING, NOTHING, NOTHING),
    "i": ("01", NOTHING, NOTHING, NOTHING),
    "il": ("012", NOTHING, NOTHING, NOTHING),
    "b": ("01", NOTHING, NOTHING, NOTHING),
    "bu": ("012", NOTHING, NOTHING, NOTHING),
    "j": ("01", "01", "1", "1"),
    "ij": ("012", "012", "12", "2"),
    "jl": ("012", "01", "1", "1"),
    "jk": ("012", "01", "1", "1"),
    "jb": ("012", "01", "1", "1"),
    "jlb": ("0123", "01", "1", "1"),
    "jli": ("0123", "01", "1", "1"),
    "jlj": ("0123", "0123", "13", "13"),
    "ijlij": ("012345", "012345", "1245", "25"),
    "ijbuij": ("0123456", "0123456", "1256", "26"),
    "jlf": ("0123", NOTHING, NOTHING, NOTHING),
    "jlfj": ("01234", "01234", "14", "14"),
    "jlfi": ("01234", "01", "1", "1"),
    "jlfb": ("01234", NOTHING, NOTHING, NOTHING),
}


async def act(place: Place, room_id: str, step: str) -> None:
    own, body = {"j": "join", "l": "leave", "f": "forget"}, {"user_id": BOB}
    if step in own:
        await place.bob.ok("POST", "rooms", room_id, own[step])
    else:
        done = {"i": "invite", "b": "ban", "u": "unban", "k": "kick"}[step]
        await place.alice.ok("POST", "rooms", room_id, done, json=body)


async def seen(client: Client, room_id: str) -> str | None:
    answer = await client.call("GET", "rooms", room_id, "messages", dir="b", limit="100")
    if answer.status == 403:
        return NOTHING
    bodies = [event["content"].get("body") for event in reversed(answer.json["chunk"])]
    return "".join(body for body in bodies if body is not None)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story or "never there")
async def test_what_a_user_reads_by_setting_and_membership(tmp_path: Path, story: str) -> None:
    async with open_place(tmp_path) as place:
        for setting, expected in zip(SETTINGS, STORIES[story], strict=True):
            start = [{"type": "m.room.history_visibility", "content": {"history_visibility": setting}}]
            room_id = await place.alice.create(preset="public_chat", initial_state=start)
            said = [await place.alice.say(room_id, "0", f"{setting}0")]
            for number, step in enumerate(story, 1):
                await act(place, room_id, step)
                said.append(await place.alice.say(room_id, str(number), f"{setting}{number}"))
            assert await seen(place.bob, room_id) == expected, setting
            single = [(await place.bob.call("GET", "rooms", room_id, "event", event_id)).status for event_id in said]
            one_by_one = "".join(str(number) for number, status in enumerate(single) if status == 200)
            assert one_by_one == (expected or ""), setting
            for event_id in said:
                around = await place.bob.call("GET", "rooms", room_id, "context", event_id, limit="100")
                assert (around.status == 200) == (str(said.index(event_id)) in (expected or "")), setting
                if around.status == 200:
                    found = [*around.json["events_before"], *around.json["events_after"], around.json["event"]]
                    assert {one["content"]["body"] for one in found if "body" in one["content"]} <= set(expected or "")
            for what in ("state", "members"):
                assert ((await place.bob.call("GET", "rooms", room_id, what)).status == 200) == (expected is not NOTHING), setting


async def test_each_event_is_judged_by_the_setting_when_it_was_sent(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(preset="public_chat")
        changes = []
        for setting in ("joined", "world_readable", "invited", "shared", "world_readable", "joined"):
            content = {"history_visibility": setting}
            await place.alice.say(room_id, f"before {setting}", f"{len(changes)}")
            changes.append((await place.alice.ok("PUT", "rooms", room_id, "state", "m.room.history_visibility", json=content))["event_id"])
        await place.alice.say(room_id, "last")
        await place.bob.ok("POST", "join", room_id)
        page = await place.bob.ok("GET", "rooms", room_id, "messages", dir="b", limit="100")
        # In order: sent under shared (the preset), joined, world_readable, invited, shared, world_readable, joined
        bodies = [event["content"]["body"] for event in reversed(page["chunk"]) if "body" in event["content"]]
        assert bodies == ["before joined", "before invited", "before world_readable", "before joined"]
        shown = [event["event_id"] for event in reversed(page["chunk"]) if event["event_id"] in changes]
        # shared → joined, joined → world_readable, world_readable → invited, invited → shared, shared → world_readable, → joined
        assert shown == changes
        # Who never was in the room reads what was world-readable, by its id, and the changes to and from that.
        alone = [event_id for event_id in changes if (await place.carol.call("GET", "rooms", room_id, "event", event_id)).status == 200]
        assert alone == [changes[1], changes[2], changes[4], changes[5]]


async def test_of_the_own_membership_one_sees_how_it_began_and_how_it_ended(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        start = [{"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}]
        room_id = await place.alice.create(preset="public_chat", initial_state=start)
        for step in "ijl":
            await act(place, room_id, step)
        await place.alice.ok("POST", "rooms", room_id, "ban", json={"user_id": BOB})
        page = await place.bob.ok("GET", "rooms", room_id, "messages", dir="b", limit="100")
        shown = [event["content"]["membership"] for event in reversed(page["chunk"]) if event.get("state_key") == BOB]
        assert shown == ["join", "leave"]


async def test_who_peeks_reads_the_room_as_it_is_but_not_what_was_sent_before_all_might(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        room_id = await place.alice.create(preset="private_chat", name="Notices")
        secret = await place.alice.say(room_id, "secret")
        await place.alice.ok("PUT", "rooms", room_id, "state", "m.room.history_visibility", json={"history_visibility": "world_readable"})
        said = await place.alice.say(room_id, "open")
        assert await seen(place.bob, room_id) == "open"
        assert await place.bob.refused("GET", "rooms", room_id, "event", secret) == (404, "M_NOT_FOUND")
        assert (await place.bob.ok("GET", "rooms", room_id, "state", "m.room.name"))["name"] == "Notices"
        assert [one["state_key"] for one in (await place.bob.ok("GET", "rooms", room_id, "members"))["chunk"]] == [ALICE]
        assert await place.bob.refused("GET", "rooms", room_id, "joined_members") == (403, "M_FORBIDDEN")
        around = await place.bob.ok("GET", "rooms", room_id, "context", said)
        assert {event["content"].get("body") for event in around["events_before"]} == {None}


@pytest.mark.parametrize("setting", ["world_readable", "shared"])
async def test_a_room_that_everybody_here_has_left_and_forgotten_is_nobodys_to_read(tmp_path: Path, setting: str) -> None:
    """What is held of it grows old, and this server may share it no longer."""
    street = Street()
    async with open_place(tmp_path, "one", street) as one, open_place(tmp_path, "two", street) as two:
        start = [{"type": "m.room.history_visibility", "content": {"history_visibility": setting}}]
        room_id = await one.alice.create(preset="public_chat", initial_state=start)
        said = await one.alice.say(room_id, "hello")
        await two.carol.ok("POST", "join", room_id, via="one")
        assert await seen(two.carol, room_id) == "hello"
        await two.carol.ok("POST", "rooms", room_id, "leave")
        assert await seen(two.carol, room_id) == "hello"
        await two.carol.ok("POST", "rooms", room_id, "forget")
        for client in (two.carol, two.client("admin")):
            for path in (("messages",), ("state",), ("members",), ("joined_members",), ("state", "m.room.create")):
                assert await client.refused("GET", "rooms", room_id, *path, dir="b") == (403, "M_FORBIDDEN")
            for what in ("event", "context"):
                assert await client.refused("GET", "rooms", room_id, what, said) == (404, "M_NOT_FOUND")
        await two.carol.ok("POST", "join", room_id, via="one")
        assert await seen(two.carol, room_id) == "hello"


