"""The compact screen: a person is told what the full endpoints tell, in fewer words, and may do nothing that those refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import trio

from edgeserver.sync.sliding.screen import PREVIEW
from edgeserver.thin import screen
from edgeserver.thin.screen import Answer, Entry, Room, Wish
from tests.asgi import AsgiClient
from tests.flows.world import BoxInWorld, Person, World
from transports.exchange import LinkProfile

ENCRYPTION = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}


@pytest.fixture
async def box(tmp_path, autojump_clock) -> AsyncIterator[BoxInWorld]:
    async with World(tmp_path) as world:
        yield await world.box("a", "[limits]\nrate_limits = false\n")


class Screen:
    """A person's screen. `rooms` are what it was told of first, by their ids."""

    def __init__(self, person: Person, link: LinkProfile | None = None) -> None:
        self.person = person
        self.client = AsgiClient(person.box.box.app, token=person.token, link=link)
        self.pos: int | None = None
        self.numbers: dict[str, int] = {}

    async def ask(self, method: str, path: str, body: Any) -> Any:
        return await self.client.request(method, f"{screen.BASE}/{path}", json=body)

    async def look(self, wish: Wish | None = None, *, timeout: int = 0, pos: int | None = None) -> Answer:
        pos = self.pos if pos is None else pos
        query = f"sync?{'' if pos is None else f'pos={pos}&'}timeout={timeout}"
        found = await self.ask("POST", query, screen.write_wish(wish or Wish(20)))
        assert found.status == 200, found.body
        answer = screen.read_answer(found.json)
        self.pos = answer.pos
        self.numbers |= {room.room_id: room.number for room in answer.rooms if room.room_id}
        return answer

    def handle(self, room_id: str) -> int:
        return screen.handle(self.numbers[room_id], room_id)

    async def say(self, room_id: str, txn: str, **body: str) -> Any:
        return await self.ask("PUT", f"rooms/{self.handle(room_id)}/say/{txn}", body)


def only(answer: Answer) -> Room:
    [room] = answer.rooms
    return room


async def couple(box: BoxInWorld, **more: Any) -> tuple[Person, Person, str]:
    alice, bob = await box.person("alice"), await box.person("bob")
    room_id = await bob.create_room(**{"name": "Harbour", "preset": "public_chat", **more})
    await alice.join(room_id)
    return alice, bob, room_id


async def test_the_first_look_tells_of_each_room_its_name_its_last_words_and_what_is_unread(box) -> None:
    alice, bob, room_id = await couple(box)
    await bob.say(room_id, "Low tide at six.")
    answer = await Screen(alice).look()
    room = only(answer)
    assert (answer.count, room.room_id, room.name, room.unread, room.is_encrypted, room.stamp) == (1, room_id, "Harbour", 1, False, None)
    [entry] = room.entries
    assert (entry.sender, entry.kind, entry.text) == (bob.user_id, "text", "Low tide at six.")


async def test_later_looks_tell_what_is_new_and_nothing_twice(box) -> None:
    alice, bob, room_id = await couple(box)
    at = Screen(alice)
    first = only(await at.look())
    await bob.say(room_id, "One.")
    await bob.say(room_id, "Two.")
    news = only(await at.look())
    assert (news.number, news.room_id, news.name, news.unread) == (first.number, "", None, 2)
    assert (await at.look()).rooms == ()


async def test_an_answer_that_was_lost_is_given_again_and_a_place_of_another_connection_is_refused(box) -> None:
    alice, bob, room_id = await couple(box)
    at = Screen(alice)
    before = (await at.look()).pos
    await bob.say(room_id, "One.")
    lost = await at.look()
    again = await at.look(pos=before)
    assert only(again) == only(lost)
    stranger = Screen(alice)
    await stranger.look()  # a new connection of the same device ends the first
    for pos in (again.pos, before, again.pos + 7):
        refusal = await at.ask("POST", f"sync?pos={pos}&timeout=0", {"listed": 20})
        assert (refusal.status, refusal.json["errcode"]) == (400, "M_UNKNOWN_POS")
    assert (await stranger.look()).rooms == ()


async def test_places_of_this_dialect_and_of_the_other_are_not_taken_for_each_other(box) -> None:
    alice, _, _ = await couple(box)
    at = Screen(alice)
    await at.look()
    deployed = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
    body = {"conn_id": "org.edgeserver.screen", "lists": {}}
    refusal = await at.client.request("POST", f"{deployed}?pos={at.pos}", json=body)
    assert refusal.json["errcode"] == "M_UNKNOWN_POS"
    assert (await at.client.request("POST", deployed, json=body)).status == 200
    refusal = await at.ask("POST", f"sync?pos={at.pos}&timeout=0", {"listed": 20})
    assert refusal.json["errcode"] == "M_UNKNOWN_POS"


async def test_a_poll_waits_for_news_of_others_and_not_for_ones_own(box) -> None:
    alice, bob, room_id = await couple(box)
    at = Screen(alice)
    await at.look(Wish(20, open=room_id))
    heard: list[tuple[float, Answer]] = []

    async def poll() -> None:
        heard.append(((await at.look(Wish(20, open=room_id), timeout=60_000)), trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        await trio.sleep(1)
        said = await at.say(room_id, "1", text="Mine.")
        await at.ask("POST", f"rooms/{at.handle(room_id)}/read", {"number": said.json["number"]})
        await trio.sleep(10)
        assert heard == []
        began = trio.current_time()
        await bob.say(room_id, "Yours.")
    [(answer, at_time)] = heard
    assert at_time - began < 1
    mine, yours = only(answer).entries
    assert mine == Entry(said.json["number"], transaction="1")
    assert (yours.text, only(answer).unread) == ("Yours.", 1)


async def test_what_is_said_is_said_once_whichever_way_it_is_repeated(box) -> None:
    alice, bob, room_id = await couple(box)
    at = Screen(alice)
    await at.look()
    first = await at.say(room_id, "17", text="Hello.")
    assert (await at.say(room_id, "17", text="Hello.")).json == first.json
    assert (await at.ask("PUT", f"rooms/{quote(room_id)}/say/17", {"text": "Hello."})).json == first.json
    await alice.ok("PUT", f"/rooms/{quote(room_id)}/send/m.room.message/17", {"msgtype": "m.text", "body": "Hello."})
    assert (await at.say(room_id, "18", emote="waves")).status == 200
    assert await bob.texts(room_id) == ["Hello.", "waves"]
    await bob.ok("PUT", f"/rooms/{quote(room_id)}/state/m.room.encryption", ENCRYPTION["content"])
    assert (await at.say(room_id, "17", text="Hello.")).json == first.json  # it was said before the room was sealed


async def test_nothing_is_said_where_it_may_not_be(box) -> None:
    alice, bob, room_id = await couple(box)
    sealed = await bob.create_room(preset="public_chat", initial_state=[ENCRYPTION])
    await alice.join(sealed)
    foreign = await bob.create_room(name="Elsewhere")
    at, bobs = Screen(alice), Screen(bob)
    await at.look()
    await bobs.look()
    refusal = await at.say(sealed, "1", text="In the open.")
    assert (refusal.status, refusal.json["errcode"]) == (403, "M_FORBIDDEN")
    assert refusal.json["error"].startswith("The room is encrypted;")
    at.numbers[foreign] = bobs.numbers[foreign]
    for name in (at.handle(foreign), quote(foreign), at.handle(room_id) ^ 1, 99999999, "!no:a"):
        path = f"rooms/{name}"
        assert (await at.ask("PUT", f"{path}/say/2", {"text": "Hello?"})).json["errcode"] == "M_FORBIDDEN", path
        assert (await at.ask("POST", f"{path}/read", {"number": 1})).json["errcode"] == "M_FORBIDDEN", path
        assert (await at.ask("POST", f"{path}/older", {"before": 1})).json["errcode"] == "M_FORBIDDEN", path
    for body in ({}, {"text": 1}, {"text": ""}, {"emote": []}):
        assert (await at.ask("PUT", f"rooms/{at.handle(room_id)}/say/3", body)).json["errcode"] == "M_BAD_JSON"
    for body in ({}, {"number": "1"}, {"number": True}, {"number": 2**60}, {"number": 1, "private": 1}):
        assert (await at.ask("POST", f"rooms/{at.handle(room_id)}/read", body)).json["errcode"] == "M_BAD_JSON"
    for body in ({}, {"before": 1.5}, {"before": 1, "limit": 0}, {"before": 1, "limit": 1000}):
        assert (await at.ask("POST", f"rooms/{at.handle(room_id)}/older", body)).json["errcode"] == "M_BAD_JSON"
    number = only(await bobs.look(Wish(0, (bobs.handle(foreign),)))).entries[-1].number
    assert (await at.ask("POST", f"rooms/{at.handle(room_id)}/read", {"number": number})).json["errcode"] == "M_INVALID_PARAM"
    assert (await at.ask("POST", f"rooms/{at.handle(room_id)}/older", {"before": number})).json["errcode"] == "M_INVALID_PARAM"


async def test_a_receipt_ends_what_is_unread_and_is_shown_to_whom_it_is_meant_for(box) -> None:
    alice, bob, room_id = await couple(box)
    at, bobs = Screen(alice), Screen(bob)
    await bobs.look()
    said = (await bobs.say(room_id, "1", text="Read me.")).json["number"]
    assert only(await at.look()).unread == 1
    await bobs.look(Wish(20, open=room_id))
    await at.ask("POST", f"rooms/{at.handle(room_id)}/read", {"number": said, "private": True})
    assert (await bobs.look(Wish(20, open=room_id))).readers == ()
    assert (await at.look()).rooms == ()  # the screen knows what it has read
    at = Screen(alice)
    assert only(await at.look()).unread == 0
    said = (await bobs.say(room_id, "2", text="And me.")).json["number"]
    await at.ask("POST", f"rooms/{quote(room_id)}/read", {"number": said})
    [reader] = (await bobs.look(Wish(20, open=room_id))).readers
    assert (reader.user_id, reader.number, reader.room) == (alice.user_id, said, bobs.numbers[room_id])


async def test_an_open_room_tells_twenty_entries_and_who_speaks_and_older_ones_are_fetched_to_the_beginning(box) -> None:
    alice, bob, room_id = await couple(box)
    for number in range(45):
        await bob.say(room_id, f"Word {number}")
    await bob.ok("PUT", f"/profile/{bob.user_id}/displayname", {"displayname": "Bob the Builder"})
    at = Screen(alice)
    await at.look()
    room = only(await at.look(Wish(20, open=at.handle(room_id))))
    assert (room.has_gap, room.joined) == (True, 2)
    assert ("Bob the Builder") in [person.name for person in room.people]
    heard = [entry.text for entry in room.entries if entry.kind == "text"]
    assert heard == [f"Word {number}" for number in range(45 - len(heard), 45)]
    before: int | None = room.entries[0].number if room.before is None else room.before
    while before is not None:
        found = await at.ask("POST", f"rooms/{at.handle(room_id)}/older", {"before": before, "limit": 10})
        assert found.status == 200, found.body
        older = screen.read_older(found.json)
        heard = [entry.text for entry in older.entries if entry.kind == "text"] + heard
        before = older.before
    assert heard == [f"Word {number}" for number in range(45)]


async def test_a_list_begins_with_beginnings_of_texts_and_an_opened_room_has_all_of_them(box) -> None:
    alice, bob, room_id = await couple(box)
    at = Screen(alice)
    long = "Storm from noon: everybody in before eleven, please, and tie up what floats."
    await bob.say(room_id, f"1 {long}")
    [entry] = only(await at.look()).entries
    assert (entry.text, entry.is_cut) == (f"1 {long}"[:PREVIEW], True)
    opened = only(await at.look(Wish(20, open=room_id))).entries[-1]
    assert (opened.text, opened.is_cut) == (f"1 {long}", False)
    await at.look()
    await bob.say(room_id, f"2 {long}")
    assert only(await at.look()).entries[-1].text == f"2 {long}"
    assert (await at.look(Wish(20, open=room_id))).rooms == ()
    await at.look()
    for number in range(3, 6):
        await bob.say(room_id, f"{number} {long}")
    [cut] = only(await at.look()).entries
    assert (cut.text, cut.is_cut) == (f"5 {long}"[:PREVIEW], True)
    entries = only(await at.look(Wish(20, open=room_id))).entries
    assert [entry.text for entry in entries[-5:]] == [f"{number} {long}" for number in range(1, 6)]


async def test_edits_removals_and_happenings_come_as_what_a_person_reads(box) -> None:
    alice, bob, room_id = await couple(box)
    at = Screen(alice)
    await at.look(Wish(20, open=room_id))
    rooms = f"/rooms/{quote(room_id)}"
    said = await bob.say(room_id, "Low tide at six.")
    edit = {"msgtype": "m.text", "body": "* at seven", "m.new_content": {"msgtype": "m.text", "body": "At seven."}}
    await bob.ok("PUT", f"{rooms}/send/m.room.message/e", {**edit, "m.relates_to": {"rel_type": "m.replace", "event_id": said}})
    await bob.ok("PUT", f"{rooms}/redact/{quote(said)}/r", {})
    reply = {"msgtype": "m.text", "body": "> <@bob> quoted\n\nYes.", "m.relates_to": {"m.in_reply_to": {"event_id": said}}}
    await bob.ok("PUT", f"{rooms}/send/m.room.message/y", reply)
    await bob.ok("PUT", f"{rooms}/send/m.room.message/f", {"msgtype": "m.image", "body": "tide.jpg", "url": "mxc://a/b"})
    await bob.ok("PUT", f"{rooms}/send/m.reaction/a", {"m.relates_to": {"rel_type": "m.annotation", "event_id": said, "key": "x"}})
    await bob.ok("PUT", f"{rooms}/state/m.room.topic", {"topic": "Tides"})
    await bob.ok("POST", f"{rooms}/invite", {"user_id": "@carol:a.test"})
    await bob.ok("PUT", f"{rooms}/send/m.room.encrypted/c", {"algorithm": "x", "ciphertext": "blob" * 99})
    await bob.ok("PUT", f"{rooms}/send/m.room.message/l", {"msgtype": "m.text", "body": "y" * (screen.MAX_TEXT + 1)})
    room = only(await at.look(Wish(20, open=room_id)))
    removed, edited, removal, *rest = room.entries
    assert (removed.kind, edited.kind, edited.text, removal.kind) == ("removed", "edit", "At seven.", "removal")
    assert edited.target == removal.target == removed.number
    assert [(entry.kind, entry.text[:9], entry.whom, entry.is_cut) for entry in rest] == [
        ("text", "Yes.", "", False),
        ("image", "tide.jpg", "", False),
        ("topic", "Tides", "", False),
        ("invite", "", "@carol:a.test", False),
        ("encrypted", "", "", False),
        ("text", "yyyyyyyyy", "", True),
    ]


async def test_invites_say_who_asks_and_rooms_that_were_left_say_so(box) -> None:
    alice, bob, room_id = await couple(box)
    at = Screen(alice)
    await at.look()
    other = await bob.create_room(name="Boathouse", invite=[alice.user_id])
    invite = only(await at.look())
    assert (invite.room_id, invite.membership, invite.name, invite.inviter) == (other, "invite", "Boathouse", bob.user_id)
    await alice.join(other)
    joined = only(await at.look())
    assert (joined.number, joined.membership, joined.name) == (invite.number, "join", "Boathouse")
    await alice.ok("POST", f"/rooms/{quote(other)}/leave", {})
    assert only(await at.look()).membership == "leave"
    await bob.ok("POST", f"/rooms/{quote(room_id)}/kick", {"user_id": alice.user_id})
    assert only(await at.look()).membership == "leave"


async def test_rooms_stand_where_their_activity_puts_them(box) -> None:
    alice, bob, first = await couple(box, name="First")
    second = await bob.create_room(name="Second", preset="public_chat")
    await alice.join(second)
    await bob.say(first, "Newest.")
    carol = await box.person("carol")
    await carol.join(second)  # an event, and no activity
    at = Screen(alice)
    answer = await at.look()
    stamps = {}
    for room in answer.rooms:
        newest = max((entry.number for entry in room.entries if entry.bumps), default=None)
        stamps[room.room_id] = newest if room.stamp is None else room.stamp
    assert stamps[first] > stamps[second]
    assert {room.room_id: room.stamp is None for room in answer.rooms} == {first: True, second: False}


async def test_over_a_thin_line_a_hundred_rooms_come_in_portions_the_open_one_first(box) -> None:
    alice, bob = await box.person("alice"), await box.person("bob")
    rooms = [await bob.create_room(name=f"Room {number}", preset="public_chat") for number in range(100)]
    for room_id in rooms:
        await alice.join(room_id)
        await bob.say(room_id, "x" * 200)
    at = Screen(alice, LinkProfile("line", bit_rate=2400))
    wish = Wish(100, open=rooms[0])
    answers = [await at.look(wish)]
    while answers[-1].rooms:
        answers.append(await at.look(wish))
    assert len(answers) > 2
    assert answers[0].rooms[0].room_id == rooms[0]
    assert sorted(room.room_id for answer in answers for room in answer.rooms) == sorted(rooms)


async def test_the_box_says_that_it_has_the_screen_and_who_has_no_account_gets_nothing(box) -> None:
    alice, _, _ = await couple(box)
    stranger = AsgiClient(box.box.app)
    versions = await stranger.request("GET", "/_matrix/client/versions")
    assert versions.json["unstable_features"][screen.FEATURE] is True
    assert (await stranger.request("POST", f"{screen.BASE}/sync", json={"listed": 1})).json["errcode"] == "M_MISSING_TOKEN"
    assert (await Screen(alice).ask("POST", "sync", {"listed": -1})).json["errcode"] == "M_BAD_JSON"
    assert (await Screen(alice).ask("POST", "sync?pos=s1_x_1", {"listed": 1})).json["errcode"] == "M_UNKNOWN_POS"
