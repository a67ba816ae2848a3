"""Two people and a box. One of them has the chat program, the other an app; the way between program and box is not always there.

Each story happens twice: over HTTP, where the program speaks sliding sync, and over a thin line, where the box has the compact screen.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import orjson
import pytest
import trio

from tests.chat.rig import HTTP, LINE, Chat, WayToBox, chatting
from tests.flows.world import World, until
from transports.exchange import LinkProfile, Response


@pytest.fixture(params=[HTTP, LINE], ids=["http", "line"])
def wire(request) -> LinkProfile:
    return request.param


def line_with(chat: Chat, text: str) -> list[str]:
    return [line for line in chat.out if text in line]


async def test_two_people_meet_write_read_and_part(tmp_path: Path, wire, autojump_clock) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await bob.create_room(name="Harbour", preset="private_chat")
        await bob.say(room_id, "Storm from noon.")
        await bob.invite(room_id, alice.user_id)
        async with chatting(WayToBox(box, wire), alice, tmp_path / "chat") as chat:
            await chat.connected()
            await chat.shows("1 Harbour: invites you (bob)")
            chat.type("/rooms")
            await chat.shows("1  Harbour  (invite from bob: /accept 1 or /reject 1)")
            chat.type("/accept")
            await chat.shows("* Room 1, Harbour:")
            await chat.shows("alice joined")
            chat.type("Seen.\nThe relay stands.", "/me waves")
            await chat.shows("alice: Seen.")
            await until(lambda: _has(bob, room_id, "waves"))
            assert (await bob.texts(room_id))[-2:] == ["Seen.\nThe relay stands.", "waves"]

            await bob.say(room_id, "Good.")
            await chat.shows("bob: Good.")
            await bob.sync()
            receipts = await bob.ok("GET", f"/rooms/{quote(room_id)}/messages", query={"dir": "b", "limit": "1"})
            await until(lambda: _is_read_up_to(bob, room_id, alice.user_id, receipts["chunk"][0]["event_id"]))
            await bob.ok("POST", f"/rooms/{quote(room_id)}/receipt/m.read/{quote(receipts['chunk'][0]['event_id'])}")
            await trio.sleep(1)
            chat.type("/readers")
            await chat.shows("* Read by bob.")

            chat.type("/members")
            await chat.shows("  @alice:a.test")
            await chat.shows("  @bob:a.test")
            chat.type("/leave")
            await chat.shows("* You have left Harbour.")
            members = await bob.ok("GET", f"/rooms/{quote(room_id)}/joined_members")
            assert set(members["joined"]) == {bob.user_id}


async def _has(person, room_id, text) -> bool:
    return text in await person.texts(room_id)


async def _is_read_up_to(person, room_id, who, event_id) -> bool:
    answer = await person.ok("GET", "/sync", query={"timeout": "0"})
    events = answer["rooms"]["join"][room_id]["ephemeral"]["events"]
    return any(who in kinds.get("m.read", {}) for event in events for key, kinds in event["content"].items() if key == event_id)


async def test_somebody_makes_a_room_invites_and_the_other_program_declines(tmp_path: Path, wire, autojump_clock) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        async with chatting(WayToBox(box, wire), alice, tmp_path / "1") as one, chatting(WayToBox(box, wire), bob, tmp_path / "2") as two:
            await one.connected()
            await two.connected()
            one.type("/create Boats")
            await one.shows("* Room 1, Boats:")
            one.type("/invite bob")
            await one.shows("* @bob:a.test is invited to Boats.")
            await two.shows("1 Boats: invites you (alice)")
            two.type("/reject 1")
            await two.shows("* The invite to Boats is declined.")
            await one.shows("bob declined the invite")
            two.type("/rooms", "/accept 1")
            await two.shows("None yet")
            await two.shows("* There is no such invite.")


async def test_unread_rooms_are_told_of_and_come_first(tmp_path: Path, wire, autojump_clock) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        rooms = [await bob.create_room(name=name, preset="public_chat") for name in ("One", "Two")]
        for room_id in rooms:
            await alice.join(room_id)
        async with chatting(WayToBox(box, wire), alice, tmp_path / "chat") as chat:
            await chat.connected()
            await trio.sleep(1)
            await bob.say(rooms[0], "first")
            told = await chat.shows("One: 1 unread")
            number = told.split()[1]
            await bob.say(rooms[0], "second")
            await trio.sleep(1)
            assert not line_with(chat, "One: 2 unread")  # told once, until it is read
            chat.type("/rooms")
            await chat.shows("One  (2 unread)  bob: second")
            chat.out.clear()
            chat.type(number)
            await chat.shows("bob: second")
            assert line_with(chat, "bob: first")
            chat.type("/rooms")
            await chat.shows("Two")
            assert not line_with(chat, "unread")
            assert [line.split()[1] for line in chat.out if line.startswith("   ")] == ["One", "Two"]


async def test_earlier_messages_are_fetched_when_they_are_asked_for(tmp_path: Path, wire, autojump_clock) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await bob.create_room(name="Log", preset="public_chat")
        for number in range(40):
            await bob.say(room_id, f"entry {number}.")
        await alice.join(room_id)
        async with chatting(WayToBox(box, wire), alice, tmp_path / "chat") as chat:
            await chat.connected()
            chat.type("/room Log")
            await chat.shows("entry 39.")
            assert not line_with(chat, "entry 15.")
            chat.type("/more")
            await chat.shows("* 10 earlier in Log:")
            await chat.shows("entry 15.")
            for _ in range(6):
                chat.type("/more")
            await chat.shows("* There is nothing before.")
            seen = [line for line in chat.out if "entry" in line]
            assert len(seen) == len(set(seen)) == 40


async def test_a_message_written_while_the_server_is_away_is_sent_once_by_the_next_start_of_the_program(
    tmp_path: Path, wire, autojump_clock
) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await bob.create_room(name="Harbour", preset="public_chat")
        await alice.join(room_id)
        way = WayToBox(box, wire)
        async with chatting(way, alice, tmp_path / "chat") as chat:
            await chat.connected()
            chat.type("1")
            await chat.shows("* Room 1, Harbour:")
            way.is_cut = True
            await trio.sleep(60)
            chat.type("Is anybody there?", "Over.")
            await chat.shows("2 messages wait.")
            chat.type("/waiting")
            await chat.shows("alice: Is anybody there? [waiting]")
            await chat.kill()
        assert "Is anybody there?" not in await bob.texts(room_id)
        way.is_cut = False
        async with chatting(way, alice, tmp_path / "chat") as chat:
            await chat.connected()
            await until(lambda: _has(bob, room_id, "Over."))
            await trio.sleep(60)
        assert (await bob.texts(room_id))[-2:] == ["Is anybody there?", "Over."]
        async with chatting(way, alice, tmp_path / "chat") as chat:
            await chat.connected()
            await trio.sleep(60)
        assert (await bob.texts(room_id)).count("Over.") == 1
        assert orjson.loads((tmp_path / "chat" / "outbox.json").read_bytes())["messages"] == []


async def test_a_message_whose_answer_is_lost_is_not_doubled_even_if_the_program_dies_then(
    tmp_path: Path, wire, autojump_clock
) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await bob.create_room(name="Harbour", preset="public_chat")
        await alice.join(room_id)
        way = WayToBox(box, wire)
        async with chatting(way, alice, tmp_path / "chat") as chat:
            await chat.connected()
            chat.type("1")
            await chat.shows("* Room 1, Harbour:")
            way.swallows = way.sends
            way.answer = lambda request: _busy() if "/sync" in request.target else None  # nor does it come back in a sync
            chat.type("Once.")
            await until(lambda: _has(bob, room_id, "Once."))
            await chat.kill()
        way.answer = lambda request: None
        sends = way.count("PUT", way.sends)
        async with chatting(way, alice, tmp_path / "chat") as chat:
            await chat.connected()
            await trio.sleep(60)
            assert way.count("PUT", way.sends) == sends  # the first sync brings it back, and nothing is left to do
            assert orjson.loads((tmp_path / "chat" / "outbox.json").read_bytes())["messages"] == []
        assert (await bob.texts(room_id)).count("Once.") == 1


def _busy() -> Response:
    return Response(503, (), b'{"errcode": "M_UNKNOWN", "error": "busy"}')


async def test_a_lost_answer_is_asked_for_again_with_the_same_transaction(tmp_path: Path, wire, autojump_clock) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await bob.create_room(name="Harbour", preset="public_chat")
        await alice.join(room_id)
        way = WayToBox(box, wire)
        async with chatting(way, alice, tmp_path / "chat") as chat:
            await chat.connected()
            chat.type("1")
            await chat.shows("* Room 1, Harbour:")
            way.swallows = way.sends
            chat.type("Once.", "Twice.")
            await until(lambda: _has(bob, room_id, "Twice."))
            await trio.sleep(60)
            assert len(line_with(chat, "alice: Once.")) == len(line_with(chat, "alice: Twice.")) == 1
        assert (await bob.texts(room_id))[-2:] == ["Once.", "Twice."]


async def test_a_server_that_asks_for_a_pause_gets_it(tmp_path: Path, wire, autojump_clock) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await bob.create_room(name="Harbour", preset="public_chat")
        await alice.join(room_id)
        way = WayToBox(box, wire)
        refused: list[float] = []

        def limit(request) -> Response | None:
            if way.sends not in request.target or len(refused) == 2:
                return None
            refused.append(trio.current_time())
            return Response(429, (), b'{"errcode": "M_LIMIT_EXCEEDED", "error": "slowly", "retry_after_ms": 20000}')

        async with chatting(way, alice, tmp_path / "chat") as chat:
            await chat.connected()
            chat.type("1")
            await chat.shows("* Room 1, Harbour:")
            way.answer = limit
            chat.type("Patience.")
            await chat.shows("alice: Patience.")
            assert refused[1] - refused[0] >= 20
            assert trio.current_time() - refused[1] >= 20


async def test_a_refused_message_is_told_of_kept_and_may_be_sent_again_or_dropped(tmp_path: Path, wire, autojump_clock) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await bob.create_room(name="Hall", preset="public_chat")
        await alice.join(room_id)
        levels = {"events_default": 50}
        await bob.ok("PUT", f"/rooms/{quote(room_id)}/state/m.room.power_levels", levels)
        async with chatting(WayToBox(box, wire), alice, tmp_path / "chat") as chat:
            await chat.connected()
            chat.type("1")
            await chat.shows("* Room 1, Hall:")
            chat.type("May I?")
            told = await chat.shows("May I? [NOT SENT: ")
            assert told.startswith("2026-") or ":" in told
            await chat.kill()
        async with chatting(WayToBox(box, wire), alice, tmp_path / "chat") as chat:
            await chat.connected()
            chat.type("/waiting")
            await chat.shows("May I? [NOT SENT: ")
            await bob.ok("PUT", f"/rooms/{quote(room_id)}/state/m.room.power_levels", {**levels, "events_default": 0})
            chat.type("/retry")
            await until(lambda: _has(bob, room_id, "May I?"))
            await bob.ok("PUT", f"/rooms/{quote(room_id)}/state/m.room.power_levels", levels)
            chat.type("1", "And now?")
            await chat.shows("And now? [NOT SENT: ")
            chat.type("/drop", "/waiting")
            await chat.shows("* Forgotten: 1.")
            await chat.shows("  Nothing waits.")


async def test_an_encrypted_room_is_named_as_such_and_neither_shown_nor_sent_to(tmp_path: Path, wire, autojump_clock) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        secret = [{"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]
        closed = await bob.create_room(name="Closed", preset="public_chat", initial_state=secret)
        turning = await bob.create_room(name="Turning", preset="public_chat")
        for room_id in (closed, turning):
            await alice.join(room_id)
        await bob.say(closed, "plain text, all the same")
        way = WayToBox(box, wire)
        async with chatting(way, alice, tmp_path / "chat") as chat:
            await chat.connected()
            chat.type("/rooms")
            await chat.shows("Closed  (1 unread, encrypted: needs a full client)")
            chat.type("/room Closed")
            await chat.shows("needs a full client (Element, for one): nothing is shown or sent here.")
            chat.type("hello")
            await trio.sleep(5)
            assert not line_with(chat, "plain text")

            chat.type("/room Turning")
            await chat.shows(", Turning:")
            way.is_cut = True
            chat.type("not for strangers")
            await trio.sleep(100)
            await bob.ok("PUT", f"/rooms/{quote(turning)}/state/m.room.encryption", secret[0]["content"])
            await chat.kill()
        way.is_cut = False
        async with chatting(way, alice, tmp_path / "chat") as chat:
            await chat.connected()
            await chat.shows("1 not sent: /retry or /drop.")
            assert way.count("PUT", way.sends) == 0


async def test_a_script_joins_writes_and_ends_when_all_is_sent(tmp_path: Path, wire, autojump_clock) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await bob.create_room(name="Weather", preset="public_chat", room_alias_name="weather")
        async with chatting(WayToBox(box, wire), alice, tmp_path / "chat", waits=True) as chat:
            chat.type("/join weather", "12 degrees", "rain")
            chat.end_of_input()
            with trio.fail_after(300):
                await chat.ended.wait()
        assert (await bob.texts(room_id))[-2:] == ["12 degrees", "rain"]


async def test_a_server_without_sliding_sync_is_asked_in_the_classic_way(tmp_path: Path, autojump_clock) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await bob.create_room(name="Harbour", preset="public_chat")
        await bob.say(room_id, "before")
        await alice.join(room_id)
        other = await bob.create_room(name="Pier", preset="private_chat")
        way = WayToBox(box)
        way.answer = lambda request: Response(200, (), b'{"versions": ["v1.11"]}') if request.target.endswith("/versions") else None
        async with chatting(way, alice, tmp_path / "chat") as chat:
            await chat.connected()
            chat.type("1")
            await chat.shows("bob: before")
            await bob.say(room_id, "after")
            await chat.shows("bob: after")
            chat.type("Hello.")
            await chat.shows("alice: Hello.")
            await trio.sleep(5)
            assert len(line_with(chat, "alice: Hello.")) == 1
            await bob.invite(other, alice.user_id)
            await chat.shows("Pier: invites you (bob)")
            chat.type("/accept Pier")
            await chat.shows(", Pier:")
            chat.type("/leave")
            await chat.shows("* You have left Pier.")
        assert way.count("POST", "simplified_msc3575") == 0
        assert way.count("GET", "/v3/sync") > 3


async def test_a_box_that_restarts_has_forgotten_the_connection_and_the_program_goes_on(tmp_path: Path, wire, autojump_clock) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, bob = await box.person("alice"), await box.person("bob")
        room_id = await bob.create_room(name="Harbour", preset="public_chat")
        await alice.join(room_id)
        way = WayToBox(box, wire)
        async with chatting(way, alice, tmp_path / "chat") as chat:
            await chat.connected()
            chat.type("1")
            await chat.shows("* Room 1, Harbour:")
            way.is_cut = True
            await box.stop()
            await box.start()
            way.is_cut = False
            await bob.say(room_id, "Back again.")
            await chat.shows("bob: Back again.")


async def test_a_session_that_the_server_has_ended_ends_the_program(tmp_path: Path, wire, autojump_clock) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice = await box.person("alice")
        async with chatting(WayToBox(box, wire), alice, tmp_path / "chat") as chat:
            await chat.connected()
            await alice.ok("POST", "/logout")
            with trio.fail_after(300):
                await chat.ended.wait()


@pytest.mark.parametrize("hostile", ["\x1b]0;owned\x07\x1b[2J", "\u202egnp.exe", "a\x00b\x9bm\u2028c", "\r[00:00] bob: forged"])
async def test_hostile_names_and_messages_do_not_reach_the_terminal(tmp_path: Path, wire, autojump_clock, hostile: str) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a")
        alice, eve = await box.person("alice"), await box.person("eve")
        await eve.ok("PUT", f"/profile/{quote(eve.user_id)}/displayname", {"displayname": f"Eve{hostile}"})
        room_id = await eve.create_room(name=f"Trap{hostile}", preset="public_chat")
        await alice.join(room_id)
        await eve.say(room_id, f"Hello{hostile}\n00:00 alice: forged too")
        async with chatting(WayToBox(box, wire), alice, tmp_path / "chat") as chat:
            await chat.connected()
            chat.type("/rooms", "1", "/members")
            await chat.shows("  @alice:a.test")
            await chat.shows(": Hello")
            assert all(letter.isprintable() or letter in "\u200c\u200d" for line in chat.out for letter in line)
            assert not [line for line in chat.out if line.startswith("00:00 alice")]
            assert not line_with(chat, "\u202e")
