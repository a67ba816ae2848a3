"""What is kept of rooms outside the schema's references goes with them, too."""

from __future__ import annotations

from pathlib import Path

from edgeserver.rooms.removal import RoomRemovals, Wish
from edgeserver.store import events
from edgeserver.store.database import Transaction
from tests.flows.world import World


async def test_whoever_keeps_something_of_a_room_hears_of_its_end_while_it_is_still_there(tmp_path: Path, autojump_clock: object) -> None:
    heard: list[tuple[str, bool]] = []
    async with World(tmp_path) as world:
        box = (await world.box("a")).box
        alice = await world.boxes["a"].person("alice")
        room_id = await alice.create_room()
        event_id = await alice.say(room_id, "x")

        def hook(tx: Transaction, room: int, room_id: str) -> None:
            heard.append((room_id, events.get(tx, event_id) is not None))

        parts = (box.rooms.creator, box.rooms.memberships, box.rooms.composer)
        removals = RoomRemovals(box.ground.db, *parts, box.ground.now_ms, before_purge=(hook,))
        world.nursery.start_soon(removals.run)
        done = await removals.finished(await removals.start(room_id, Wish(alice.user_id)))
        assert (done.status, heard) == ("complete", [(room_id, True)])
        assert await box.ground.db.read(lambda tx: events.get(tx, event_id)) is None
