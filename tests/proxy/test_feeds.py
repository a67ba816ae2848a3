"""An app that begins anew behind the proxy, from what it or another app of the same person has been told: line or no line."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from urllib.parse import quote

import orjson
import trio
import trio.testing

from edgeserver.proxy import feeds as feeds_module
from edgeserver.proxy.asked import Asked
from edgeserver.proxy.feeds import Feeds
from edgeserver.proxy.owners import digest_of
from tests.proxy.rig import V3, HttpClient, StandIn, at_once, rig_in_memory, until
from tests.proxy.test_facts import SCREEN, SLIDING
from tests.proxy.test_real_box import Meter, line_of, paired_state, proxy_on
from transports.exchange import Response
from transports.memory import Medium, MemoryCable

ROOMS = 4
LAZY = quote('{"lazy_load_members":true}')


class App:
    """Alice's app, which keeps what it is told and nothing over a restart."""

    def __init__(self, proxy, token: str) -> None:
        self.client = HttpClient(proxy, token)
        self.begin_anew()

    def begin_anew(self) -> None:
        self.since: str | None = None
        self.rooms: dict[str, list[str]] = {}
        self.starts: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.to_device: list = []

    async def poll(self, timeout: int = 1000) -> None:
        since = "" if self.since is None else f"&since={self.since}"
        answer = await self.client("GET", f"{V3}/sync?timeout={timeout}{since}")
        assert answer.status == 200, answer.body
        self.since = answer.json["next_batch"]
        self.to_device += answer.json.get("to_device", {}).get("events", [])
        for room_id, entry in answer.json.get("rooms", {}).get("join", {}).items():
            self.starts.setdefault(room_id, entry["timeline"].get("prev_batch"))
            events = entry["timeline"]["events"]
            for event in (*entry["state"]["events"], *events):
                if event["type"] == "m.room.name":
                    self.names[room_id] = event["content"]["name"]
            words = [event["content"].get("body", "removed") for event in events if event["type"] == "m.room.message"]
            self.rooms.setdefault(room_id, []).extend(words)

    async def scroll_back(self, room_id: str, limit: int = 20, patience: float = 60) -> list[str] | None:
        """The words before what it was told, the newest first; None if that takes too long."""
        target = f"{V3}/rooms/{quote(room_id)}/messages?dir=b&limit={limit}&from={self.starts[room_id]}&filter={LAZY}"
        answer = await self.client("GET", target, patience=patience)
        if answer is None:
            return None
        assert answer.status == 200, answer.body
        senders = {event["sender"] for event in answer.json["chunk"]}
        assert senders == {event["state_key"] for event in answer.json["state"]}
        return [event["content"]["body"] for event in answer.json["chunk"] if event["type"] == "m.room.message"]


@asynccontextmanager
async def world(tmp_path):
    """A paired box, and Alice, twice logged in there, in some rooms with Bob's messages."""
    cable = MemoryCable(Medium(9600), seed=3)
    async with paired_state(tmp_path, cable) as (box, state):
        bob, alice = await box.person("bob"), await box.person("alice")
        rooms = [await bob.create_room(preset="public_chat", name=f"Room {number}") for number in range(ROOMS)]
        for number, room_id in enumerate(rooms):
            await alice.join(room_id)
            for hour in range(12):
                await bob.say(room_id, f"boat {hour} of {number}")
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "correct horse battery"}
        other = (await alice.ok("POST", "/login", login | {"device_id": "OTHER"}))["access_token"]
        yield box, state, cable, bob, alice, other, rooms


@asynccontextmanager
async def unplugged(state, cable):
    """A proxy that is started while its line is down."""
    from edgeserver.paired.line import Line
    from transports.link.connection import Link

    cable.unplug()
    link = Link(cable.a, state.identity, {state.box.public_key: state.box.name}.get, peer_key=state.box.public_key)
    line = Line(link, state.box.name)
    async with trio.open_nursery() as nursery, proxy_on(line, state) as app:
        nursery.start_soon(line.run)
        yield app
        nursery.cancel_scope.cancel()


async def test_an_app_that_begins_anew_costs_the_line_nothing_and_knows_what_it_knew(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (_, state, cable, bob, alice, _, rooms), line_of(state, cable) as (line, link):
        meter = Meter(link)
        async with proxy_on(line, state) as proxy:
            app = App(proxy, alice.token)
            await app.poll()
            await app.poll()
            await bob.say(rooms[0], "the last boat")
            await app.poll(30_000)
            known, names = dict(app.rooms), dict(app.names)
            assert known[rooms[0]][-1] == "the last boat"
        async with proxy_on(line, state) as proxy:
            app = App(proxy, alice.token)
            await meter.read("before")
            await app.poll()
            assert await meter.read("begun anew") == 0
            assert {*app.rooms} == {*rooms}
            assert all(known[room_id][-3:] == words[-3:] for room_id, words in app.rooms.items())
            assert app.names == names
            await bob.say(rooms[1], "one more boat")
            await app.poll(30_000)
            assert app.rooms[rooms[1]][-1] == "one more boat"


async def test_an_app_that_wants_all_state_anew_is_told_it_from_here_and_its_events_by_the_box(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (_, state, cable, bob, alice, _, rooms), line_of(state, cable) as (line, link):
        meter = Meter(link)
        async with proxy_on(line, state) as proxy:
            app = App(proxy, alice.token)
            await app.poll()
            await app.poll()
            await bob.say(rooms[0], "the last boat")
            await trio.sleep(5)
            await meter.read("before")
            whole = (await app.client("GET", f"{V3}/sync?full_state=true&timeout=1000&since={app.since}")).json
            assert await meter.read("all state") == 0
            assert whole["next_batch"] == app.since
            for room_id in rooms:
                told = {(event["type"], event["state_key"]) for event in whole["rooms"]["join"][room_id]["state"]["events"]}
                assert told >= {("m.room.create", ""), ("m.room.name", ""), ("m.room.member", alice.user_id)}
                assert whole["rooms"]["join"][room_id]["timeline"]["events"] == []
            await app.poll(30_000)
            assert app.rooms[rooms[0]][-1] == "the last boat"
            refused = await app.client("GET", f"{V3}/sync?full_state=true&since=rubbish")
            assert (refused.status, refused.json["errcode"]) == (400, "M_INVALID_PARAM")


async def test_all_state_that_the_box_tells_anew_ends_no_history(tmp_path, autojump_clock) -> None:
    async with (
        world(tmp_path) as (_, state, cable, bob, alice, _, rooms),
        line_of(state, cable) as (line, _),
        proxy_on(line, state) as host,
    ):
        app = App(host, alice.token)
        await app.poll()
        await app.poll()
        target = f"{V3}/sync?full_state=true&timeout=1000&since={app.since}"
        await app.client("GET", target)
        await bob.say(rooms[0], "the last boat")
        app.since = (await app.client("GET", target)).json["next_batch"]  # by the box, for it is asked for once more
        await app.poll()
        app.begin_anew()
        await app.poll()
        await app.poll(30_000)
        assert app.rooms[rooms[0]][-1] == "the last boat"
        assert len(app.rooms[rooms[0]]) + len(await app.scroll_back(rooms[0], 100) or ()) == 13


async def test_a_sliding_app_that_begins_anew_costs_the_line_nothing_either(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (_, state, cable, bob, alice, _, rooms), line_of(state, cable) as (line, link):
        meter = Meter(link)
        async with proxy_on(line, state) as proxy:
            client = HttpClient(proxy, alice.token)
            pos = (await client("POST", SLIDING, SCREEN)).json["pos"]
            await bob.say(rooms[2], "the last boat")
            told = (await client("POST", f"{SLIDING}?pos={pos}&timeout=30000", SCREEN)).json
            await client("POST", f"{SLIDING}?pos={told['pos']}&timeout=1000", SCREEN)
            await meter.read("before")
            again = (await client("POST", SLIDING, SCREEN)).json
            assert await meter.read("begun anew") == 0
            assert {*again["rooms"]} == {*rooms}
            assert all(room["initial"] for room in again["rooms"].values())
            assert again["rooms"][rooms[2]]["timeline"][-1]["content"]["body"] == "the last boat"
            assert again["rooms"][rooms[2]]["name"] == "Room 2"
            await bob.say(rooms[3], "one more boat")
            news = (await client("POST", f"{SLIDING}?pos={again['pos']}&timeout=30000", SCREEN)).json
            assert [event["content"]["body"] for event in news["rooms"][rooms[3]]["timeline"]] == ["one more boat"]


async def test_a_sliding_app_whose_connection_the_box_has_forgotten_begins_at_the_box(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (box, state, cable, _, alice, _, rooms), line_of(state, cable) as (line, _), proxy_on(line, state) as app:
        client = HttpClient(app, alice.token)
        pos = (await client("POST", SLIDING, SCREEN)).json["pos"]
        await client("POST", f"{SLIDING}?pos={pos}&timeout=1000", SCREEN)
        await box.stop()
        await box.start()
        again = (await client("POST", SLIDING, SCREEN)).json
        assert {*again["rooms"]} == {*rooms}
        refused = await client("POST", f"{SLIDING}?pos={again['pos']}&timeout=30000", SCREEN)
        assert (refused.status, refused.json["errcode"]) == (400, "M_UNKNOWN_POS")
        anew = (await client("POST", SLIDING, SCREEN)).json
        assert {*anew["rooms"]} == {*rooms}
        assert (await client("POST", f"{SLIDING}?pos={anew['pos']}&timeout=1000", SCREEN)).status == 200


async def test_an_app_started_while_the_line_is_down_shows_its_rooms_reads_back_and_catches_up(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (_, state, cable, bob, alice, _, rooms):
        async with line_of(state, cable) as (line, _), proxy_on(line, state) as proxy:
            app = App(proxy, alice.token)
            await app.poll()
            await app.poll()
            older = await app.scroll_back(rooms[0], 5)
            assert older
            assert await app.scroll_back(rooms[1], 5)
        async with unplugged(state, cable) as proxy:
            app = App(proxy, alice.token)
            with trio.fail_after(1):
                await app.poll()
            assert app.names == {room_id: f"Room {number}" for number, room_id in enumerate(rooms)}
            assert app.rooms[rooms[0]][-1] == "boat 11 of 0"
            assert await app.scroll_back(rooms[0], 5) == older
            assert await app.scroll_back(rooms[3]) is None  # nobody has read that
            await app.poll(30_000)
            await bob.say(rooms[0], "while the line was down")
            cable.plug()
            with trio.fail_after(300):
                while app.rooms[rooms[0]][-1] != "while the line was down":
                    await app.poll(30_000)
            assert app.rooms[rooms[0]].count("boat 11 of 0") == 1


async def test_what_was_read_back_is_not_fetched_again_unless_it_has_changed(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (_, state, cable, bob, alice, _, rooms), line_of(state, cable) as (line, link):
        meter = Meter(link)
        async with proxy_on(line, state) as proxy:
            app = App(proxy, alice.token)
            await app.poll()
            await app.poll()
            event_id = await bob.say(rooms[0], "a secret")
            await app.poll(30_000)
            older = await app.scroll_back(rooms[0], 5)
            await meter.read("before")
            assert await app.scroll_back(rooms[0], 5) == older
            assert await meter.read("again") == 0
            await bob.ok("PUT", f"/rooms/{quote(rooms[0])}/redact/{quote(event_id)}/r1", {})
            root = await _event_of(app, rooms[0])
            thread = {"msgtype": "m.text", "body": "late?", "m.relates_to": {"rel_type": "m.thread", "event_id": root}}
            await bob.ok("PUT", f"/rooms/{quote(rooms[0])}/send/m.room.message/t1", thread)
            while app.rooms[rooms[0]][-1] != "late?":
                await app.poll(30_000)
            await meter.read("before")
            assert await app.scroll_back(rooms[0], 5) == older
            assert await meter.read("with a thread at it") > 0
            app.begin_anew()
            await app.poll()
            assert "a secret" not in app.rooms[rooms[0]]
        assert b"a secret" not in await _kept(state)


async def _event_of(app: App, room_id: str) -> str:
    target = f"{V3}/rooms/{quote(room_id)}/messages?dir=b&limit=5&from={app.starts[room_id]}"
    return (await app.client("GET", target)).json["chunk"][0]["event_id"]


async def _kept(state) -> bytes:
    """All that a client that begins anew could be told."""
    from edgeserver.proxy.feed_file import FeedFile

    found = b""
    for path in (state.told_folder / "feeds").iterdir():
        file = FeedFile.found(path, _box(state))
        assert file is not None
        found += file.read().first(20)
    return found


def _box(state) -> str:
    from edgeserver.matrix.signatures import encode_base64

    return encode_base64(state.box.public_key)


async def test_a_second_app_of_the_same_person_begins_with_what_the_first_was_told_and_loses_no_message_to_its_device(
    tmp_path, autojump_clock
) -> None:
    async with world(tmp_path) as (_, state, cable, bob, alice, other, rooms), line_of(state, cable) as (line, link):
        meter = Meter(link)
        async with proxy_on(line, state) as proxy:
            first, second = App(proxy, alice.token), App(proxy, other)
            await first.poll()
            await second.client("GET", f"{V3}/account/whoami")
            await bob.ok("PUT", "/sendToDevice/m.test/1", {"messages": {alice.user_id: {"OTHER": {"for": "the second"}}}})
            await bob.say(rooms[0], "the last boat")
            await first.client("PUT", f"{V3}/rooms/{quote(rooms[0])}/send/m.room.message/mine", {"msgtype": "m.text", "body": "mine"})
            while "mine" not in first.rooms[rooms[0]]:
                await first.poll(30_000)
            await meter.read("before")
            await second.poll()
            assert await meter.read("the second begins") == 0
            assert second.rooms[rooms[0]][-2:] == ["the last boat", "mine"]
            answer = (await second.client("GET", f"{V3}/sync")).json  # the same anew, from the box: as if something had been wrong
            assert not _transactions(answer)
            await second.poll(30_000)
            assert [message["content"] for message in second.to_device] == [{"for": "the second"}]
            assert first.to_device == []


def _transactions(answer) -> list[str]:
    entries = answer["rooms"]["join"].values()
    events = [event for entry in entries for event in entry["timeline"]["events"]]
    return [event["unsigned"]["transaction_id"] for event in events if "transaction_id" in event.get("unsigned", {})]


async def test_nobody_begins_with_what_others_were_told_nor_who_has_logged_out(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (_, state, cable, bob, alice, _, _), line_of(state, cable) as (line, _), proxy_on(line, state) as proxy:
        app, stranger, thief = App(proxy, alice.token), App(proxy, bob.token), HttpClient(proxy, "guessed")
        await app.poll()
        await stranger.poll()
        assert {*stranger.names} == {*app.names}  # they share the rooms
        assert (await thief("GET", f"{V3}/sync")).status == 401
        assert len([*(state.told_folder / "feeds").iterdir()]) == 2
        cable.unplug()
        for client in (thief, HttpClient(proxy, "")):
            assert await client("GET", f"{V3}/sync", patience=60) is None
            assert await client("GET", f"{V3}/rooms/{quote(next(iter(app.names)))}/messages?dir=b", patience=60) is None
        cable.plug()
        assert (await app.client("POST", f"{V3}/logout", {})).status == 200
        assert len([*(state.told_folder / "feeds").iterdir()]) == 1
        cable.unplug()
        assert await app.client("GET", f"{V3}/sync", patience=60) is None


async def test_a_device_whose_token_is_replaced_keeps_what_it_was_told(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (_, state, cable, bob, alice, _, rooms), line_of(state, cable) as (line, link):
        meter = Meter(link)
        async with proxy_on(line, state) as proxy:
            client = HttpClient(proxy, "")
            who = {"type": "m.id.user", "user": alice.user_id}
            login = {"type": "m.login.password", "identifier": who, "password": "correct horse battery", "refresh_token": True}
            session = (await client("POST", f"{V3}/login", login)).json
            client.token = session["access_token"]
            pos = (await client("POST", SLIDING, SCREEN)).json["pos"]
            await client("POST", f"{SLIDING}?pos={pos}&timeout=1000", SCREEN)
            app = App(proxy, client.token)
            await app.poll()
            await app.poll()
            session = (await HttpClient(proxy, "")("POST", f"{V3}/refresh", {"refresh_token": session["refresh_token"]})).json
            client.token = app.client.token = session["access_token"]
            await meter.read("before")
            assert {*(await client("POST", SLIDING, SCREEN)).json["rooms"]} == {*rooms}
            app.begin_anew()
            await app.poll()
            assert {*app.rooms} == {*rooms}
            assert await meter.read("begun anew") == 0
            await bob.say(rooms[0], "one more boat")
            await app.poll(30_000)
            assert app.rooms[rooms[0]][-1] == "one more boat"


async def test_a_file_that_has_lost_its_end_tells_what_was_known_before_and_catches_up(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (_, state, cable, bob, alice, _, rooms), line_of(state, cable) as (line, _):
        async with proxy_on(line, state) as proxy:
            app = App(proxy, alice.token)
            await app.poll()
            await app.poll()
            [path] = (state.told_folder / "feeds").iterdir()
            size = path.stat().st_size
            for word in ("one", "two", "three"):
                await bob.say(rooms[0], word)
                await app.poll(30_000)
            await until(lambda: path.stat().st_size > size)
        content = path.read_bytes()
        path.write_bytes(content[: size + 5])
        async with proxy_on(line, state) as proxy:
            again = App(proxy, alice.token)
            again.since = app.since
            await bob.say(rooms[0], "four")
            for _ in range(3):
                await again.poll(5000)
            assert again.rooms == {rooms[0]: ["four"]}
        async with unplugged(state, cable) as proxy:
            anew = App(proxy, alice.token)
            await anew.poll()
            assert anew.rooms[rooms[0]][-4:] == ["one", "two", "three", "four"]


async def test_a_file_of_rubbish_or_of_another_box_is_removed(tmp_path, autojump_clock) -> None:
    async with world(tmp_path) as (_, state, cable, _, alice, _, _), line_of(state, cable) as (line, _):
        folder = state.told_folder / "feeds"
        folder.mkdir(parents=True, mode=0o700)
        (folder / f"{'0' * 64}.feed").write_bytes(b"rubbish")
        (folder / "note.txt").write_bytes(b"?")
        foreign = {"box": "other", "person": "", "form": "CLASSIC", "connection": "", "first": "", "state_after": False}
        (folder / f"{'1' * 64}.feed").write_bytes(orjson.dumps(foreign) + b"\n")
        async with proxy_on(line, state) as proxy:
            assert list(folder.iterdir()) == []
            await App(proxy, alice.token).poll()
            await until(lambda: len([*folder.iterdir()]) == 1)
        [path] = folder.iterdir()
        assert path.stat().st_mode & 0o77 == 0


async def test_files_are_written_anew_before_they_grow_long_and_few_are_kept(tmp_path, autojump_clock, monkeypatch) -> None:
    monkeypatch.setattr("edgeserver.proxy.feed_file.REWRITTEN", 2000)
    monkeypatch.setattr(feeds_module, "MAX_FEEDS", 3)
    async with world(tmp_path) as (_, state, cable, bob, alice, _, rooms), line_of(state, cable) as (line, _):
        folder = state.told_folder / "feeds"
        async with proxy_on(line, state) as proxy:
            app = App(proxy, alice.token)
            await app.poll()
            await app.poll()
            assert folder.stat().st_mode & 0o77 == 0
            for number in range(30):
                await bob.say(rooms[0], f"a sentence of some length, so that there is something to be written about number {number}")
                await app.poll(30_000)
            [path] = folder.iterdir()
            assert path.stat().st_size < 12_000
            for kind in "abc":
                wanted = quote(f'{{"room":{{"timeline":{{"not_types":["{kind}"]}}}}}}')
                await app.client("GET", f"{V3}/sync?filter={wanted}")
            await until(lambda: len([*folder.iterdir()]) == 3)
            assert not path.exists()


async def test_what_a_feed_says_is_out_of_memory_a_minute_after_somebody_has_asked(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        pos = (await rig.client("POST", SLIDING, {})).json["pos"]
        await rig.client("POST", f"{SLIDING}?pos={pos}&timeout=1000", {})
        assert (await rig.client("POST", SLIDING, {})).json["pos"] == pos
        [feed] = rig.app.feeds._feeds.values()
        assert feed.file.fold is not None
        await trio.sleep(130)
        assert feed.file.fold is None


class _Unreadable(StandIn):
    """What it says of older events is no JSON."""

    async def __call__(self, request, gone):
        if "/messages" in request.target:
            return Response(200, (("content-type", "application/json"),), b"<html>")
        return await super().__call__(request, gone)


async def test_a_page_that_is_no_json_ends_neither_the_proxy_nor_what_it_knows(tmp_path, autojump_clock) -> None:
    box = _Unreadable()
    box.beside = {"rooms": {}}
    async with rig_in_memory(tmp_path, box=box) as rig:
        await rig.client("GET", f"{V3}/sync")
        await rig.client("GET", f"{V3}/sync?since=s1&timeout=1000")
        for _ in range(2):
            assert (await rig.client("GET", f"{V3}/sync")).json["next_batch"] == "s1"
            assert (await rig.client("GET", f"{V3}/rooms/!r:box/messages?dir=b&from=s1")).body == b"<html>"
            await rig.client("GET", f"{V3}/sync?since=s1&timeout=1000")
        assert sum("/sync" in request.target and "since" not in request.target for request in rig.box.asked) == 1


async def test_a_feed_that_goes_on_is_not_given_up_for_others_that_only_begin(tmp_path, autojump_clock, monkeypatch) -> None:
    monkeypatch.setattr(feeds_module, "MAX_FEEDS", 3)
    box = StandIn()
    box.beside = {"rooms": {}}
    async with rig_in_memory(tmp_path, box=box) as rig:
        await rig.client("GET", f"{V3}/sync")
        for number, kind in enumerate("abcd"):
            wanted = quote(f'{{"room":{{"timeline":{{"not_types":["{kind}"]}}}}}}')
            await rig.client("GET", f"{V3}/sync?filter={wanted}")
            rig.box.tell(f"s{number + 2}", rooms={})
            await rig.client("GET", f"{V3}/sync?since=s{number + 1}&timeout=30000")
        asked = len(rig.box.asked)
        assert (await rig.client("GET", f"{V3}/sync")).json["next_batch"] == "s5"
        assert len(rig.box.asked) == asked


async def own_feeds(nursery, rig, folder) -> Feeds:
    """That write on threads, of a person whom the box knows."""
    assert (await rig.client("GET", f"{V3}/account/whoami")).status == 200
    feeds = Feeds(folder, "box", rig.app.owners)
    await nursery.start(feeds.run)
    return feeds


def told(position: str) -> Response:
    return Response(200, (), orjson.dumps({"next_batch": position}))


CLASSIC = Asked.classic({"room": {"timeline": {"limit": 5}}}, {})


async def test_nothing_stays_on_disk_of_what_is_given_up_while_it_is_written(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig, trio.open_nursery() as nursery:
        folder = tmp_path / "feeds"
        feeds = await own_feeds(nursery, rig, folder)
        feeds.hear("Bearer T", CLASSIC, None, told("s1_0"))
        assert await first_of(feeds, "Bearer T") == "s1_0"
        [path] = folder.iterdir()
        os.mkfifo(path.with_suffix(".new"))  # it cannot be opened for writing before somebody reads
        feeds.hear("Bearer T", CLASSIC, None, told("s2_0"))
        await trio.testing.wait_all_tasks_blocked()
        rig.app.owners.log_out("Bearer T")
        assert not path.exists()
        reader = os.open(path.with_suffix(".new"), os.O_RDONLY | os.O_NONBLOCK)
        await at_once(lambda: not [*folder.iterdir()])
        os.close(reader)
        nursery.cancel_scope.cancel()


async def test_who_begins_anew_with_a_new_token_before_the_old_feed_is_theirs_goes_on_with_the_new_one(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig, trio.open_nursery() as nursery:
        folder = tmp_path / "feeds"
        feeds = await own_feeds(nursery, rig, folder)
        rig.app.owners.learn("Bearer U", "@a:box")
        feeds.hear("Bearer T", CLASSIC, None, told("s1_0"))
        await at_once(lambda: len([*folder.glob("*.feed")]) == 1)
        for tell in rig.app.owners.when_replaced:
            tell(digest_of("Bearer T"), digest_of("Bearer U"))
        feeds.hear("Bearer U", CLASSIC, None, told("s5_0"))
        feeds.hear("Bearer U", CLASSIC, "s5_0", told("s6_0"))
        assert await first_of(feeds, "Bearer U") == "s6_0"
        await at_once(lambda: len([*folder.iterdir()]) == 1)
        assert await first_of(feeds, "Bearer U") == "s6_0"
        nursery.cancel_scope.cancel()


async def first_of(feeds: Feeds, authorization: str) -> str:
    found = await feeds.first(authorization, CLASSIC, 5, is_up=False)
    assert found is not None
    return orjson.loads(found[0])["next_batch"]


async def test_a_client_that_goes_away_while_it_begins_anew_takes_nothing_along(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig, trio.open_nursery() as nursery:
        assert (await rig.client("GET", f"{V3}/account/whoami")).status == 200
        for number in range(20):
            folder = tmp_path / str(number)
            folder.mkdir()
            feeds = Feeds(folder, "box", rig.app.owners)  # whoever asks writes, for nobody runs it
            feeds.hear("Bearer T", CLASSIC, None, told("s1_0"))
            scope = trio.CancelScope()
            nursery.start_soon(begin_within, scope, feeds)
            await at_once(lambda folder=folder: bool([*folder.iterdir()]))
            scope.cancel()
            assert await first_of(feeds, "Bearer T") == "s1_0"


async def begin_within(scope: trio.CancelScope, feeds: Feeds) -> None:
    with scope:
        await feeds.first("Bearer T", CLASSIC, 5, is_up=True)


async def test_to_catch_up_acknowledges_no_message_that_the_client_does_not(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig, trio.open_nursery() as nursery:
        feeds = await own_feeds(nursery, rig, tmp_path / "feeds")
        feeds.hear("Bearer T", CLASSIC, None, told("s4_0"))
        feeds.hear("Bearer T", CLASSIC, "s7_0_3", told("s8_0_3"))
        await at_once(lambda: feeds.lacking("Bearer T", CLASSIC, "s8_0_3") is not None)
        assert feeds.lacking("Bearer T", CLASSIC, "s8_0_3") == "s4_0_3"
        assert feeds.lacking("Bearer T", CLASSIC, "s8_0") == "s4_0"
        nursery.cancel_scope.cancel()


async def test_what_a_feed_lacked_and_gets_too_late_does_not_set_it_back_nor_does_rubbish_end_anything(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig, trio.open_nursery() as nursery:
        feeds = await own_feeds(nursery, rig, tmp_path / "feeds")
        feeds.hear("Bearer T", CLASSIC, None, told("s12_0"))
        feeds.hear("Bearer T", CLASSIC, "s4_0", told("s9_0"))
        feeds.hear("Bearer T", CLASSIC, "s12_0", told("s13_0"))
        assert await first_of(feeds, "Bearer T") == "s13_0"
        feeds.hear("Bearer T", CLASSIC, "rubbish", told("s13_0"))
        assert await feeds.first("Bearer T", CLASSIC, 5, is_up=False) is None
        nursery.cancel_scope.cancel()
