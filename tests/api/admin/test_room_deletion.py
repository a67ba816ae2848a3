"""Rooms that are removed: the people, the names, the rows, and what of it is still there after a kill."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import trio

from edgeserver.store import integrity
from tests.api.admin.office import Office, open_office
from tests.asgi import AsgiClient
from tests.flows.world import Person, until

ALICE, BOB, ROOT = "@alice:a.test", "@bob:a.test", "@root:a.test"
NOTHING = {"kicked_users": [], "failed_to_kick_users": [], "local_aliases": [], "new_room_id": None}


async def _status(office: Office, delete_id: str) -> str:
    return str((await office.ok("GET", "v2", "rooms", "delete_status", delete_id))["status"])


async def _rows(office: Office, room_id: str) -> int:
    def count(tx):
        number = tx.one("SELECT room FROM rooms WHERE room_id = ?", (room_id,))
        return 0 if number is None else 1 + tx.one("SELECT count(*) FROM events WHERE room = ?", number)[0]

    return int(await office.box.box.ground.db.read(count))


def _faults(folder: Path) -> list[str]:
    return integrity.inspect(folder / "a" / "data" / "edgeserver.db", "a.test").findings


async def _busy_room(office: Office, speaker: Person) -> str:
    """A room with all kinds of rows: messages, a redaction, receipts, tags, an alias."""
    room_id = await speaker.create_room(name="Bad", room_alias_name="bad", visibility="public", invite=[BOB], preset="private_chat")
    await office.bob.join(room_id)
    said = [await speaker.say(room_id, f"{n}") for n in range(20)]
    at = f"/rooms/{quote(room_id)}"
    await speaker.ok("PUT", f"{at}/redact/{quote(said[3])}/t1", {})
    await office.bob.ok("POST", f"{at}/receipt/m.read/{quote(said[7])}")
    await office.bob.ok("PUT", f"/user/{BOB}/rooms/{quote(room_id)}/tags/u.x", {"order": 0.5})
    return room_id


async def test_a_room_is_gone_without_a_trace_and_the_rest_holds_together(office: Office, autojump_clock: object, tmp_path: Path) -> None:
    kept = await _keep(office)
    room_id = await _busy_room(office, office.alice)
    done = await office.ok("DELETE", "v1", "rooms", room_id, json={"block": True})
    assert done == {**NOTHING, "kicked_users": [ALICE, BOB], "local_aliases": ["#bad:a.test"]}
    assert await _rows(office, room_id) == 0
    assert _faults(tmp_path) == []
    assert await office.alice.texts(kept) == ["kept"]
    assert await office.ok("GET", "v1", "rooms", room_id, "block") == {"block": True, "user_id": ROOT}
    assert (await office.alice.request("GET", "/directory/room/%23bad:a.test")).status == 404
    assert await office.refused("GET", "v1", "rooms", room_id) == (404, "M_NOT_FOUND")
    assert (await office.bob.ok("GET", "/joined_rooms"))["joined_rooms"] == [kept]
    again = await office.alice.create_room(room_alias_name="bad")
    await office.alice.say(again, "fresh")
    assert await office.alice.texts(again) == ["fresh"]
    assert _faults(tmp_path) == []


async def _keep(office: Office) -> str:
    kept = await office.alice.create_room(preset="public_chat")
    await office.bob.join(kept)
    await office.alice.say(kept, "kept")
    return kept


async def test_no_room_gets_the_number_of_one_that_was_removed(office: Office, autojump_clock: object) -> None:
    room_id = await office.alice.create_room()
    number = await _number(office, room_id)
    await office.ok("DELETE", "v1", "rooms", room_id)
    assert await _number(office, await office.alice.create_room()) > number


async def _number(office: Office, room_id: str) -> int:
    db = office.box.box.ground.db
    return int(await db.read(lambda tx: tx.one("SELECT room FROM rooms WHERE room_id = ?", (room_id,))[0]))


async def test_clients_that_wait_hear_that_they_are_out(office: Office, autojump_clock: object) -> None:
    room_id = await _busy_room(office, office.alice)
    await office.bob.sync()
    deleted = await office.ok("DELETE", "v2", "rooms", room_id)
    while "leave" not in (heard := (await office.bob.sync(timeout=10_000))["rooms"]):
        pass  # others leave first
    assert list(heard["leave"]) == [room_id]
    await until(lambda: _is(office, deleted["delete_id"], "complete"))
    assert await _rows(office, room_id) == 0


async def _is(office: Office, delete_id: str, status: str) -> bool:
    return await _status(office, delete_id) == status


async def test_people_are_moved_to_another_room_which_says_why(office: Office, autojump_clock: object) -> None:
    room_id = await _busy_room(office, office.alice)
    wish = {"new_room_user_id": ROOT, "room_name": "Moved", "message": "This room was closed.", "purge": False}
    done = await office.ok("DELETE", "v1", "rooms", room_id, json=wish)
    assert done["new_room_id"] is not None
    assert await office.alice.texts(done["new_room_id"]) == ["This room was closed."]
    assert (await office.bob.ok("GET", "/joined_rooms"))["joined_rooms"] == [done["new_room_id"]]
    assert (await office.alice.ok("GET", "/directory/room/%23bad:a.test"))["room_id"] == done["new_room_id"]
    path = f"/rooms/{quote(done['new_room_id'])}/send/m.room.message/1"
    spoken = await office.bob.request("PUT", path, {"msgtype": "m.text", "body": "x"})
    assert spoken.status == 403
    assert await _rows(office, room_id) > 0  # it was not to be purged
    assert (await office.ok("GET", "v1", "rooms", room_id))["forgotten"] is True


async def test_a_removal_goes_on_after_a_kill(tmp_path: Path, autojump_clock: object) -> None:
    async with open_office(tmp_path) as office:
        room_id = await _busy_room(office, office.alice)
        delete_id = (await office.ok("DELETE", "v2", "rooms", room_id))["delete_id"]
        await office.box.kill()
        await office.box.start()
        await until(lambda: _is(office, delete_id, "complete"))
        assert await _rows(office, room_id) == 0
        told = await office.ok("GET", "v2", "rooms", room_id, "delete_status")
        assert [one["delete_id"] for one in told["results"]] == [delete_id]
    assert _faults(tmp_path) == []


async def test_other_servers_hear_that_we_left_before_the_rows_go(tmp_path: Path, autojump_clock: object) -> None:
    async with open_office(tmp_path) as office:
        other = await office.world.box("b")
        carol = await other.person("carol")
        room_id = await office.alice.create_room(preset="public_chat")
        await carol.join(room_id, via="a.test")
        office.world.internet.cut("a.test", "b.test")
        delete_id = (await office.ok("DELETE", "v2", "rooms", room_id))["delete_id"]
        await trio.sleep(60)
        position = office.box.box.ground.db.position
        await trio.sleep(60)
        assert office.box.box.ground.db.position == position  # who waits writes nothing
        assert await _status(office, delete_id) == "active"
        assert await _rows(office, room_id) > 0
        office.world.internet.heal()
        await until(lambda: _is(office, delete_id, "complete"))
        members = await carol.ok("GET", f"/rooms/{quote(room_id)}/joined_members")
        assert list(members["joined"]) == ["@carol:b.test"]


async def test_who_never_hears_of_it_is_not_waited_for_for_ever(tmp_path: Path, autojump_clock: object) -> None:
    async with open_office(tmp_path) as office:
        other = await office.world.box("b")
        carol = await other.person("carol")
        room_id = await office.alice.create_room(preset="public_chat")
        await carol.join(room_id, via="a.test")
        office.world.internet.cut("a.test", "b.test")
        delete_id = (await office.ok("DELETE", "v2", "rooms", room_id))["delete_id"]
        await until(lambda: _is(office, delete_id, "complete"), seconds=3 * 3600)
        assert await _rows(office, room_id) == 0
    assert _faults(tmp_path) == []


async def test_what_cannot_be_removed_is_refused(office: Office, autojump_clock: object) -> None:
    assert await office.refused("DELETE", "v2", "rooms", "!nowhere:a.test") == (404, "M_NOT_FOUND")
    assert await office.ok("DELETE", "v1", "rooms", "!nowhere:a.test", json={"block": True}) == NOTHING
    assert (await office.ok("GET", "v1", "rooms", "!nowhere:a.test", "block"))["block"] is True
    assert await office.refused("DELETE", "v2", "rooms", "nowhere") == (400, "M_INVALID_PARAM")
    room_id = await office.alice.create_room()
    await office.ok("POST", "v1", "deactivate", "@bob:a.test")
    for mover in ("@x:b.test", "@nobody:a.test", "@bob:a.test"):
        assert await office.refused("DELETE", "v2", "rooms", room_id, json={"new_room_user_id": mover}) == (400, "M_UNKNOWN"), mover
    assert await office.refused("DELETE", "v2", "rooms", room_id, json={"purge": "yes"}) == (400, "M_BAD_JSON")
    await office.ok("DELETE", "v2", "rooms", room_id)
    assert await office.refused("DELETE", "v2", "rooms", room_id) == (400, "M_UNKNOWN")  # it is under way
    assert await office.refused("GET", "v2", "rooms", "delete_status", "x") == (404, "M_NOT_FOUND")
    assert await office.refused("GET", "v2", "rooms", "!other:a.test", "delete_status") == (404, "M_NOT_FOUND")


async def test_how_it_went_is_remembered_for_a_day(office: Office, autojump_clock: object) -> None:
    room_id = await office.alice.create_room()
    delete_id = (await office.ok("DELETE", "v2", "rooms", room_id))["delete_id"]
    await until(lambda: _is(office, delete_id, "complete"))
    await trio.sleep(25 * 3600)
    assert await office.refused("GET", "v2", "rooms", "delete_status", delete_id) == (404, "M_NOT_FOUND")


async def test_a_sliding_list_forgets_a_room_that_was_removed(office: Office, autojump_clock: object) -> None:
    kept = await _keep(office)
    room_id = await _busy_room(office, office.alice)
    body = {"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": []}}}
    path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"

    async def shown(person: Person) -> list[str]:
        client = AsgiClient(person.box.box.app, token=person.token)
        return list((await client.request("POST", path, json=body)).json["rooms"])

    assert set(await shown(office.bob)) == {kept, room_id}
    await office.ok("DELETE", "v1", "rooms", room_id)
    for _ in range(2):
        assert await shown(office.bob) == [kept]
    answer = await AsgiClient(office.box.box.app, token=office.bob.token).request("POST", path, json=body)
    assert answer.json["lists"]["all"]["count"] == 1
