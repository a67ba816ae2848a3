"""What the box has answered is there while the line is down: for whom it was given to, and unless something has changed since."""

from __future__ import annotations

import random
from urllib.parse import quote

import orjson
import pytest
import trio

from edgeserver.proxy.kept_answers import MAX_ANSWER, AnswerFolder, KeptAnswers
from edgeserver.proxy.paths import Keep, treatment_of
from tests.proxy.rig import V3, Doorkeeper, HttpClient, rig_in_memory
from tests.proxy.test_real_box import paired_box, proxy_on
from transports.exchange import Request, Response
from transports.memory import Medium, MemoryCable

V1 = "/_matrix/client/v1"
ROOM = f"{V3}/rooms/!a:box"
MINE = f"{V3}/user/@a:box"
START = (
    *(f"{V3}/account/whoami", f"{V3}/pushrules/", f"{MINE}/account_data/m.direct"),
    *(f"{V3}/profile/@b:box", f"{ROOM}/state", f"{V3}/devices"),
)
"""What an app asks for when it is started."""


class Notebook(Doorkeeper):
    """Each answer tells how often it was asked for; `bodies` are given as they are, `statuses` once."""

    def __init__(self, **users: str) -> None:
        super().__init__(**users)
        self.bodies: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}

    async def __call__(self, request: Request, gone: trio.Event) -> Response:
        answer = await super().__call__(request, gone)
        path = request.target.partition("?")[0]
        if answer.status != 200 or path.endswith(("/sync", "/login", "/whoami", "/versions", "/slow")):
            return answer
        body = self.bodies.get(path) or orjson.dumps({"time": self.count(request.method, request.target)})
        return Response(self.statuses.pop(path, 200), (("content-type", "application/json"), ("etag", '"x"')), body)


async def down(rig) -> None:
    rig.cable.unplug()
    await rig.down()


async def up(rig) -> None:
    rig.cable.plug()
    await rig.up()


async def kept(client, target: str):
    """The answer that is there at once, None if there is none. The line must be down."""
    began = trio.current_time()
    answer = await client("GET", target, patience=5)
    assert answer is None or answer.at == began
    return answer


async def test_an_app_is_started_while_the_line_is_down_and_gets_what_it_was_told_last(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Notebook()) as rig:
        told = {}
        for _ in range(2):  # while the line is up the box is asked each time
            for target in START:
                told[target] = await rig.client("GET", target)
        assert told[f"{V3}/pushrules/"].json == {"time": 2}
        assert len(rig.box.asked) == 2 * len(START)
        await down(rig)
        for target in START:
            assert (await kept(rig.client, target)).body == told[target].body
    for _ in range(2):
        async with rig_in_memory(tmp_path, plugged=False) as rig:
            for target in START:
                answer = await kept(rig.client, target)
                assert (answer.status, answer.body, sorted(answer.headers)) == (200, told[target].body, sorted(told[target].headers))
            assert await kept(rig.client, f"{ROOM}/state/m.room.name") is None
            assert await kept(rig.client, f"{ROOM}/state?at=elsewhere") is None


async def test_a_request_that_waits_when_the_line_goes_down_is_answered_and_a_later_answer_is_kept(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Notebook()) as rig:
        target = f"{V3}/joined_rooms"
        await rig.client("GET", target)
        answers = []

        async def ask() -> None:
            answers.append(await rig.client("GET", target))

        async with trio.open_nursery() as nursery:
            rig.cable.unplug()  # the proxy has not noticed yet
            assert rig.line.is_up
            nursery.start_soon(ask)
            await rig.down()
        assert answers[0].json == {"time": 1}
        await up(rig)
        await trio.sleep(30)
        assert rig.box.count("GET", "joined_rooms") == 2, "it went on for a while without the client"
        await down(rig)
        assert (await kept(rig.client, target)).json == {"time": 2}


async def test_a_request_that_nothing_is_kept_for_waits_for_the_line(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Notebook(), plugged=False) as rig:
        answers = []

        async def ask() -> None:
            answers.append(await rig.client("GET", f"{V3}/joined_rooms"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(1800)
            assert answers == []
            rig.cable.plug()
        assert answers[0].json == {"time": 1}


async def test_what_was_told_to_one_is_told_to_nobody_else(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Notebook()) as rig:
        second = HttpClient(rig.app, "T2")
        for target in START:
            await rig.client("GET", target)
        await second("GET", f"{V3}/account/whoami")
        await HttpClient(rig.app, "U")("GET", f"{V3}/account/whoami")
        await HttpClient(rig.app, "stranger")("GET", f"{V3}/joined_rooms")
        for target in (f"{V3}/pushrules/?user_id=@ghost:box", f"{V3}/pushrules/?" + "&".join("a=b" for _ in range(99))):
            await rig.client("GET", target)
        await down(rig)
        for token in ("U", "stranger", ""):
            for target in START:
                if (token, target) != ("U", f"{V3}/account/whoami"):
                    assert await kept(HttpClient(rig.app, token), target) is None
        found = [target for target in START if await kept(second, target) is not None]
        assert found == [target for target in START if not target.endswith("/devices")], "the same person's other device"
        assert await kept(rig.client, f"{V3}/pushrules/?user_id=@ghost:box") is None


async def test_an_event_that_one_device_has_sent_is_kept_as_that_device_sees_it(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Notebook()) as rig:
        target, second = f"{ROOM}/event/$e", HttpClient(rig.app, "T2")
        for client in (rig.client, second):
            await client("GET", f"{V3}/account/whoami")
        await rig.client("GET", target)
        rig.box.bodies[target] = b'{"unsigned":{"transaction_id":"t1"}}'
        await rig.client("GET", target)
        await down(rig)
        assert (await kept(rig.client, target)).json == {"unsigned": {"transaction_id": "t1"}}
        assert await kept(second, target) is None


async def test_who_is_known_by_name_only_later_gets_the_newest(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Notebook()) as rig:
        await rig.client("GET", f"{V3}/joined_rooms")
        assert rig.app.owners.known("Bearer T") == ""
        await rig.client("GET", f"{V3}/account/whoami")
        await rig.client("GET", f"{V3}/joined_rooms")
        await down(rig)
        assert (await kept(rig.client, f"{V3}/joined_rooms")).json == {"time": 2}


async def test_a_token_that_is_revoked_or_logs_out_gets_nothing_and_the_last_one_takes_all_with_it(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Notebook()) as rig:
        second, folder = HttpClient(rig.app, "T2"), tmp_path / "proxy.told" / "answers"
        for target in START:
            await rig.client("GET", target)
        await second("GET", f"{V3}/account/whoami")
        rig.box.users.pop("T")
        assert (await rig.client("GET", f"{V3}/voip/turnServer")).status == 401
        await down(rig)
        for target in START:
            assert await kept(rig.client, target) is None
        assert await kept(second, f"{V3}/pushrules/") is not None
        assert len(list(folder.iterdir())) == len(START) - 1, "without whoami and devices of the first, with whoami of the second"
        await up(rig)
        assert folder.parent.stat().st_mode & 0o077 == 0
        await second("POST", f"{V3}/logout", {})
        await trio.sleep(1)
        assert list(folder.iterdir()) == []


CHANGES = [
    ("PUT", f"{MINE}/account_data/m.direct", [f"{MINE}/account_data/m.direct"], [f"{MINE}/account_data/m.other"]),
    ("PUT", f"{V3}/user/%40a%3abox/account_data/m%2Edirect", [f"{MINE}/account_data/m.direct"], []),
    ("PUT", f"{MINE}/rooms/!a:box/account_data/x", [f"{MINE}/rooms/!a:box/account_data/x"], [f"{MINE}/account_data/x"]),
    ("PUT", f"{MINE}/rooms/!a:box/tags/u.x", [f"{MINE}/rooms/!a:box/tags"], [f"{MINE}/rooms/!b:box/tags"]),
    ("DELETE", f"{MINE}/rooms/!a:box/tags/u.x", [f"{MINE}/rooms/!a:box/account_data/m.tag"], []),
    ("PUT", f"{V3}/pushrules/global/room/!a/enabled", [f"{V3}/pushrules/", f"{V3}/pushrules/global/room/!a"], [f"{V3}/joined_rooms"]),
    ("PUT", f"{V3}/profile/@a:box/displayname", [f"{V3}/profile/@a:box", f"{V3}/profile/@a:box/displayname"], [f"{V3}/profile/@ab:box"]),
    ("PUT", f"{ROOM}/state/m.room.name", [f"{ROOM}/state", f"{ROOM}/state/m.room.name/"], [f"{V3}/rooms/!b:box/state", f"{ROOM}/event/$e"]),
    ("PUT", f"{ROOM}/state/m.room.canonical_alias/", [f"{ROOM}/aliases", f"{V1}/rooms/!a:box/hierarchy?limit=5"], []),
    ("POST", f"{ROOM}/kick", [f"{ROOM}/members?membership=join", f"{ROOM}/joined_members"], [f"{ROOM}/messages?dir=b"]),
    ("POST", f"{ROOM}/leave", [f"{V3}/joined_rooms", f"{ROOM}/state"], [f"{V3}/rooms/!b:box/state"]),
    ("POST", f"{V3}/join/%23x:box", [f"{V3}/joined_rooms"], [f"{ROOM}/state"]),
    ("POST", f"{V3}/join/%21a:box", [f"{V3}/joined_rooms", f"{ROOM}/state"], [f"{V3}/rooms/!b:box/state"]),
    ("POST", f"{ROOM}/read_markers", [f"{MINE}/rooms/!a:box/account_data/m.fully_read"], [f"{MINE}/rooms/!a:box/account_data/x"]),
    ("PUT", f"{V3}/directory/room/%23x:box", [f"{V3}/directory/room/%23x%3Abox", f"{ROOM}/aliases"], [f"{V3}/directory/room/%23y:box"]),
    ("DELETE", f"{V3}/devices/D", [f"{V3}/devices", f"{V3}/devices/D"], []),
    ("POST", f"{V3}/room_keys/version", [f"{V3}/room_keys/version", f"{V3}/room_keys/version/1"], []),
    ("PUT", f"{ROOM}/redact/$e/t1", [f"{ROOM}/event/$e", f"{ROOM}/messages?dir=b", f"{V1}/rooms/!a:box/relations/$e"], [f"{ROOM}/state"]),
    ("POST", f"{ROOM}/receipt/m.read/$e", [], [f"{ROOM}/state", f"{V3}/joined_rooms"]),
]


@pytest.mark.parametrize(("method", "change", "outdated", "untouched"), CHANGES)
async def test_a_change_outdates_what_it_contradicts(tmp_path, autojump_clock, method, change, outdated, untouched) -> None:
    async with rig_in_memory(tmp_path, box=Notebook()) as rig:
        await rig.client("GET", f"{V3}/account/whoami")
        for target in (*outdated, *untouched):
            assert (await rig.client("GET", target)).status == 200
        rig.box.statuses[change] = 403
        if "/redact/" not in change:  # which is a promise, and counts from when it was given
            assert (await rig.client(method, change, {})).status == 403
            await down(rig)
            for target in (*outdated, *untouched):
                assert await kept(rig.client, target) is not None, "the box has refused it"
            await up(rig)
        await rig.client(method, change, {})
        await down(rig)
        assert [target for target in outdated if await kept(rig.client, target) is not None] == []
        assert [target for target in untouched if await kept(rig.client, target) is None] == []
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        assert [target for target in outdated if await kept(rig.client, target) is not None] == []
        assert [target for target in untouched if await kept(rig.client, target) is None] == []


async def test_a_change_whose_answer_is_lost_counts_as_made(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Notebook()) as rig:
        await rig.client("GET", f"{V3}/joined_rooms")
        rig.box.hangs = trio.Event()
        assert await rig.client("POST", f"{V3}/createRoom", {}, patience=5) is None
        await down(rig)
        assert await kept(rig.client, f"{V3}/joined_rooms") is None


@pytest.mark.parametrize(("room", "times", "stays"), [("!a", 1, False), ("!b", 3, True), ("!b", 70, False)])
async def test_an_answer_from_before_a_change_is_not_kept_after_it(tmp_path, autojump_clock, room, times, stays) -> None:
    """Nor if there were so many changes meanwhile that not all are remembered."""

    class Slow(Notebook):
        async def __call__(self, request: Request, gone: trio.Event) -> Response:
            answer = await super().__call__(request, gone)
            await trio.sleep(600 if request.method == "GET" and "tags" in request.target else 0)
            return answer

    async with rig_in_memory(tmp_path, Medium(60_000), box=Slow()) as rig:
        await rig.client("GET", f"{V3}/account/whoami")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.client, "GET", f"{MINE}/rooms/!a/tags")
            await trio.sleep(5)
            for number in range(times):
                await rig.client("PUT", f"{MINE}/rooms/{room}/tags/u.{number}", {})
        await down(rig)
        assert (await kept(rig.client, f"{MINE}/rooms/!a/tags") is not None) is stays


@pytest.mark.parametrize(("status", "stays"), [(403, False), (404, False), (429, True), (500, True)])
async def test_what_the_box_gives_no_longer_is_not_kept_any_longer(tmp_path, autojump_clock, status, stays) -> None:
    async with rig_in_memory(tmp_path, box=Notebook()) as rig:
        await rig.client("GET", f"{ROOM}/state")
        rig.box.statuses[f"{ROOM}/state"] = status
        assert (await rig.client("GET", f"{ROOM}/state")).status == status
        await down(rig)
        assert (await kept(rig.client, f"{ROOM}/state") is not None) is stays


async def test_large_answers_are_not_kept_and_those_on_fat_lines_neither(tmp_path, autojump_clock) -> None:
    folder = tmp_path / "proxy.told" / "answers"
    async with rig_in_memory(tmp_path, Medium(1_000_000), box=Notebook()) as rig:
        await rig.up()
        await rig.client("GET", f"{ROOM}/state")
        await trio.sleep(1)
        assert list(folder.iterdir()) == []
    async with rig_in_memory(tmp_path, Medium(60_000), box=Notebook()) as rig:
        await rig.client("GET", f"{ROOM}/state")
        rig.box.bodies[f"{ROOM}/state"] = b'"' + b"x" * MAX_ANSWER + b'"'
        await rig.client("GET", f"{ROOM}/state")
        await down(rig)
        assert await kept(rig.client, f"{ROOM}/state") is None, "neither the large one nor what it has replaced"


async def test_an_answer_that_stays_the_same_is_written_once(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Notebook()) as rig:
        written = []
        for body in (b"[]", b"[]", b"[1]"):
            rig.box.bodies[f"{ROOM}/state"] = body
            await rig.client("GET", f"{ROOM}/state")
            await trio.sleep(1)
            (file,) = (tmp_path / "proxy.told" / "answers").iterdir()
            assert file.stat().st_mode & 0o077 == 0
            written.append(file.stat().st_mtime_ns)
        assert written[0] == written[1] < written[2]


async def test_files_that_are_damaged_or_another_box_s_count_as_none(tmp_path, autojump_clock) -> None:
    folder = tmp_path / "proxy.told" / "answers"
    targets = [f"{V3}/rooms/!{number}:box/state" for number in range(8)]
    async with rig_in_memory(tmp_path, box=Notebook()) as rig:
        for target in targets:
            rig.box.bodies[target] = orjson.dumps(list(range(500)))
            await rig.client("GET", target)
    files = sorted(folder.iterdir())
    assert len(files) == 8
    whole = files[0].read_bytes()
    told, _, frame = whole.partition(b"\n")
    files[0].write_bytes(b"")
    files[1].write_bytes(whole)  # under another's name
    files[2].write_bytes(files[2].read_bytes()[:-5])
    files[3].write_bytes(bytes(files[3].stat().st_size))
    flipped = bytearray(files[4].read_bytes())
    flipped[-3] ^= 1
    files[4].write_bytes(flipped)
    files[5].write_bytes(b"5\n" + frame)
    files[6].write_bytes(orjson.dumps(orjson.loads(files[6].read_bytes().partition(b"\n")[0]) | {"box": "other"}) + b"\n" + frame)
    (folder / "left.new").write_bytes(told)
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        assert sum([await kept(rig.client, target) is not None for target in targets]) == 1
        assert sum([await kept(rig.client, target) is not None for target in targets]) == 1
    assert list(folder.iterdir()) == [files[7]]


async def test_a_disk_that_cannot_be_written_keeps_nothing_and_is_said_once(tmp_path, autojump_clock, caplog) -> None:
    (tmp_path / "proxy.told").mkdir()
    (tmp_path / "proxy.told" / "answers").write_bytes(b"")
    async with rig_in_memory(tmp_path, box=Notebook()) as rig:
        for _ in range(2):
            for target in START:
                assert (await rig.client("GET", target)).status == 200
                await trio.sleep(1)
        await down(rig)
        assert await kept(rig.client, f"{V3}/pushrules/") is None
    assert caplog.text.count("answers cannot be used") == 1
    assert caplog.text.count("cannot be kept") == 1


@pytest.mark.parametrize(("max_bytes", "max_answers", "left"), [(20_000, 99, [0, 5, 6, 7, 8]), (99_000, 3, [0, 7, 8])])
async def test_they_are_bounded_and_what_was_not_used_for_longest_goes_first(
    tmp_path, autojump_clock, max_bytes, max_answers, left
) -> None:
    async with rig_in_memory(tmp_path, Medium(60_000), box=Notebook()) as rig:
        app, folder = rig.app, tmp_path / "bounded"
        bounds = {"max_bytes": max_bytes, "max_answers": max_answers}
        app.answers = KeptAnswers(rig.line, app._errands, app.owners, AnswerFolder(folder, "k"), inline=True, **bounds)
        async with trio.open_nursery() as nursery:
            await nursery.start(app.answers.run)
            await rig.client("GET", f"{V3}/account/whoami")
            for number in range(9):
                target = f"{V3}/rooms/!{number}:box/state"
                rig.box.bodies[target] = orjson.dumps(random.Random(number).randbytes(3000).hex())
                await rig.client("GET", target)
                await trio.sleep(1)
                assert len(list(folder.iterdir())) <= max_answers
                assert sum(file.stat().st_size for file in folder.iterdir()) <= max_bytes
                await down(rig)
                assert await kept(rig.client, f"{V3}/rooms/!0:box/state") is not None
                await up(rig)
            await down(rig)
            found = [number for number in range(9) if await kept(rig.client, f"{V3}/rooms/!{number}:box/state") is not None]
            assert found == left
            nursery.cancel_scope.cancel()


async def test_the_limits_of_the_box_are_known_after_a_restart_without_the_line(tmp_path, autojump_clock) -> None:
    targets = ("/_matrix/client/versions", f"{V3}/login", f"{V3}/capabilities", f"{V1}/media/config")
    async with rig_in_memory(tmp_path, box=Notebook()) as rig:
        for target in targets:
            await rig.client("GET", target)
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        for target in targets:
            assert await kept(rig.client, target) is not None
        found = [target for target in targets if await kept(HttpClient(rig.app, ""), target) is not None]
        assert found == list(targets[:2]), "before there is a token"


async def test_a_stranger_does_not_fill_what_is_kept_for_anybody(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Notebook()) as rig:
        for number in range(5):
            await HttpClient(rig.app, "")("GET", f"/_matrix/client/versions?x={number}")
        await trio.sleep(1)
        assert list((tmp_path / "proxy.told" / "answers").iterdir()) == []


async def test_the_page_promises_nothing_of_a_fat_line(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, Medium(1_000_000)) as rig:
        await rig.up()
        await down(rig)
        assert "apps see" not in (await rig.client("GET", "/", headers={"accept": "text/html"})).body.decode()


async def test_the_page_says_since_when_the_line_is_down_and_what_apps_see(tmp_path, autojump_clock) -> None:
    browser = {"accept": "text/html"}
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        await trio.sleep(720)
        page = (await rig.client("GET", "/", headers=browser)).body.decode()
        assert "It has not been up since this proxy was started, 12 min ago." in page
        await up(rig)
        assert (await rig.client("GET", "/")).json["down_seconds"] is None
        assert "apps see" not in (await rig.client("GET", "/", headers=browser)).body.decode()
        await down(rig)
        await trio.sleep(7200)
        assert 7200 <= (await rig.client("GET", "/")).json["down_seconds"] < 7201
        page = (await rig.client("GET", "/", headers=browser)).body.decode()
        assert "It went down 2.0 h ago. Until it is up again apps see what was known when it was up last." in page


async def test_a_real_box_lets_nobody_without_a_good_token_have_what_is_kept_for_its_people(tmp_path, autojump_clock) -> None:
    """A 200 to such a request is taken for the box's word that it knows the token."""
    cable = MemoryCable(Medium(60_000), seed=5)
    async with paired_box(tmp_path, cable) as (box, state, line, _), proxy_on(line, state) as app:
        alice = await box.person("alice")
        room = quote(await alice.create_room(preset="public_chat"))
        client, stranger = HttpClient(app, alice.token), HttpClient(app, "stranger")
        await client("GET", f"{V3}/account/whoami")
        me = f"{V3}/user/{alice.user_id}"
        await client("PUT", f"{me}/account_data/m.direct", {})
        event = (await client("PUT", f"{V3}/rooms/{room}/send/m.room.message/1", {"msgtype": "m.text", "body": "Hi"})).json["event_id"]
        in_room = ["state", "state/m.room.create", "members", "joined_members", "aliases", "messages?dir=b"]
        in_room += [f"event/{event}", f"context/{event}"]
        since = ["hierarchy", "threads", f"relations/{event}"]
        targets = [
            *(f"{V3}/{each}" for each in ("account/whoami", "devices", "capabilities", "voip/turnServer", "thirdparty/protocols")),
            *(f"{V3}/{each}" for each in ("joined_rooms", "pushrules/", "pushrules/global/")),
            *(f"{V3}/rooms/{room}/{each}" for each in in_room),
            *(f"{V1}/rooms/{room}/{each}" for each in since),
            *(f"{me}/{each}" for each in ("account_data/m.direct", f"rooms/{room}/tags")),
            f"{V1}/media/config",
        ]
        told = {}
        for target in targets:
            assert treatment_of("GET", target.partition("?")[0]).keep in (Keep.FOR_USER, Keep.FOR_DEVICE), target
            told[target] = await client("GET", target)
            assert told[target].status == 200, target
            assert (await stranger("GET", target)).status == 401, target
        cable.unplug()
        while line.is_up:
            await line.change()
        for target in targets:
            assert (await kept(client, target)).body == told[target].body
            assert await kept(stranger, target) is None
