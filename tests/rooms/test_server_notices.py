"""Server notices beside the API: who speaks, who is told, and what becomes of the rooms."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from edgeserver.matrix import errors
from edgeserver.rooms.server_notices import TAG
from tests.flows.world import World

ON_AND_IN = "[notices]\nauto_join = true\nname = 'The harbour office'\nuser = 'office'\n"


async def test_all_people_are_told_and_no_guest(tmp_path: Path, autojump_clock: object) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a", f"{ON_AND_IN}[accounts]\nguests = 1\n")
        alice, bob = await box.person("alice"), await box.person("bob")
        await box.box.users.accounts.create_guest(None, at_most=1)
        notices = box.box.rooms.notices
        assert await notices.announce("Low tide") == [alice.user_id, bob.user_id]
        assert await notices.announce("High tide") == [alice.user_id, bob.user_id]  # who speaks is not told
        joined = (await alice.sync())["rooms"]["join"]
        [(room_id, room)] = joined.items()
        said = [event["content"] for event in room["timeline"]["events"] if event["type"] == "m.room.message"]
        assert [(one["msgtype"], one["body"]) for one in said] == [(TAG, "Low tide"), (TAG, "High tide")]
        assert all("server_notice_type" in one for one in said)
        names = {(event["type"], event.get("state_key")): event["content"] for event in await _state(alice, room_id)}
        assert names["m.room.name", ""] == {"name": "The harbour office"}
        assert names["m.room.member", "@office:a.test"]["displayname"] == "The harbour office"


async def test_who_takes_no_invites_keeps_the_notice_from_nobody_else(tmp_path: Path, autojump_clock: object) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a", ON_AND_IN)
        alice, bob = await box.person("alice"), await box.person("bob")
        await alice.ok("PUT", f"/user/{alice.user_id}/account_data/m.invite_permission_config", {"default_action": "block"})
        notices = box.box.rooms.notices
        assert await notices.announce("Low tide") == [bob.user_id]
        with pytest.raises(errors.InviteBlocked):
            await notices.announce("Low tide", alice.user_id)


async def _state(person, room_id: str) -> list[dict]:
    return await person.ok("GET", f"/rooms/{quote(room_id)}/state")


async def test_where_they_are_switched_off_nobody_is_told(tmp_path: Path, autojump_clock: object) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a", "[notices]\nuser = ''\n")
        alice = await box.person("alice")
        with pytest.raises(errors.Unknown, match="not enabled"):
            await box.box.rooms.notices.announce("Low tide", alice.user_id)


async def test_a_person_who_has_the_name_speaks_for_nobody_else(tmp_path: Path, autojump_clock: object) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        await box.person("notices")
        alice = await box.person("alice")
        with pytest.raises(errors.UserInUse):
            await box.box.rooms.notices.announce("Low tide", alice.user_id)


async def test_who_has_no_account_any_more_leaves_the_room_of_notices(tmp_path: Path, autojump_clock: object) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a", ON_AND_IN)
        alice = await box.person("alice")
        await box.box.rooms.notices.announce("Low tide", alice.user_id)
        [room_id] = (await alice.sync())["rooms"]["join"]
        memberships = box.box.rooms.memberships
        with pytest.raises(errors.CannotLeaveServerNoticeRoom):
            await memberships.leave(alice.user_id, room_id)
        await box.box.users.accounts.deactivate(alice.user_id)
        await memberships.leave(alice.user_id, room_id)
        with pytest.raises(errors.NotFound):
            await box.box.rooms.notices.announce("Low tide", alice.user_id)
