"""Messages that the proxy holds outlive the proxy: restarts, kills at any moment, a disk that is full. Time is virtual, files are real."""

from __future__ import annotations

import copy
import random
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
import trio

from edgeserver.cli.reasons import reasons
from edgeserver.paired.state import StateError, open_state
from edgeserver.proxy import outbox
from edgeserver.proxy.call import Call
from edgeserver.proxy.errands import Errands
from edgeserver.proxy.held import MAX_HELD_BYTES, HeldFolder, HeldMessage
from edgeserver.proxy.outbox import Outbox
from edgeserver.proxy.paths import treatment_of
from edgeserver.proxy.program import ProxyOptions, run
from tests.proxy.rig import BOX, V3, HttpClient, Rig, StandIn, at_once, rig_in_memory, until
from transports.exchange import Request, Response
from transports.link.pairing import Paired
from transports.memory import Medium

TEXT = {"msgtype": "m.text", "body": "hello"}


def send(transaction: str, room: str = "!a") -> str:
    return f"{V3}/rooms/{room}/send/m.room.message/{transaction}"


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "outbox").glob("*.held"))


async def hold(rig: Rig, *targets: str, client: HttpClient | None = None) -> None:
    """Sends them one after the other, and hangs up on each when it is held."""
    for target in targets:
        count = rig.app.outbox.held + 1
        assert await (client or rig.client)("PUT", target, TEXT, patience=1) is None
        await rig.held(count)


async def delivered(rig: Rig) -> None:
    await until(lambda: rig.app.outbox.held == 0)


async def test_what_was_held_is_delivered_in_order_after_a_restart_without_any_client(tmp_path, autojump_clock) -> None:
    box = StandIn()
    targets = [send(f"t{number}", room) for number in range(4) for room in ("!a", "!b")]
    targets += [f"{V3}/rooms/!a/redact/$e/t9", f"{V3}/sendToDevice/m.room.encrypted/d1"]
    async with rig_in_memory(tmp_path, box=box, plugged=False) as rig:
        await hold(rig, *targets)
    assert len(files(tmp_path)) == len(targets)
    async with rig_in_memory(tmp_path, box=box, plugged=False) as rig:
        assert (await rig.client("GET", "/")).json["held_messages"] == len(targets)
        await hold(rig, send("t10"))
    async with rig_in_memory(tmp_path, box=box) as rig:
        await delivered(rig)
    asked = [request.target for request in box.asked]
    for part in ("!a", "!b", "sendToDevice"):
        assert [each for each in asked if part in each] == [each for each in [*targets, send("t10")] if part in each]
    for request in box.asked:
        assert request.headers == (("authorization", "Bearer T"), ("content-type", "application/json"))
        assert orjson.loads(request.body) == TEXT
    assert files(tmp_path) == []
    async with rig_in_memory(tmp_path, box=box) as rig:
        await rig.up()
        await trio.sleep(60)
    assert len(box.asked) == len(asked)


async def test_a_repeat_after_the_restart_joins_the_message_or_gets_the_answer_that_came_meanwhile(tmp_path, autojump_clock) -> None:
    box = StandIn()
    async with rig_in_memory(tmp_path, box=box, plugged=False) as rig:
        await hold(rig, send("t0"), send("t1"))
    async with rig_in_memory(tmp_path, box=box, plugged=False) as rig:
        answers = []

        async def repeat() -> None:
            answers.append(await rig.client("PUT", send("t0"), TEXT))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(repeat)
            await trio.sleep(600)
            assert (answers, rig.app.outbox.held, len(files(tmp_path))) == ([], 2, 2)
            rig.cable.plug()
        await delivered(rig)
        await trio.sleep(1800)
        untaken = await rig.client("PUT", send("t1"), TEXT)
        other = await HttpClient(rig.app, "U")("PUT", send("t1"), TEXT)
        assert [each.json["event_id"] for each in (*answers, untaken, other)] == ["$event0", "$event1", "$event2"]
    assert box.count("PUT", "/send/") == 3


async def test_a_kill_between_the_boxs_answer_and_the_removal_makes_one_event(tmp_path, autojump_clock) -> None:
    box = StandIn()
    async with rig_in_memory(tmp_path, box=box, plugged=False) as rig:
        await hold(rig, send("t0"), send("t1"))
        shutil.copytree(tmp_path / "outbox", tmp_path / "kept")
        rig.cable.plug()
        await delivered(rig)
    shutil.copytree(tmp_path / "kept", tmp_path / "outbox", dirs_exist_ok=True)
    async with rig_in_memory(tmp_path, box=box) as rig:
        await delivered(rig)
        assert (await rig.client("PUT", send("t1"), TEXT)).json == {"event_id": "$event1"}
    assert box.order == ["t0", "t1"]
    assert box.count("PUT", "/send/") == 4
    assert files(tmp_path) == []


async def test_whatever_the_moment_of_the_kill_each_message_comes_once_and_in_the_order_of_its_room(tmp_path, autojump_clock) -> None:
    """Impatient clients send while the line comes and goes; pictures of disk and box are taken all the time, and life goes on from each."""
    chance = random.Random(5)
    rooms = {room: [f"{room}{number}" for number in range(15)] for room in ("a", "b")}
    moments: list[tuple[Path, StandIn, set[str]]] = []
    answered: set[str] = set()
    talking = len(rooms)

    async def talk(client: HttpClient, room: str) -> None:
        nonlocal talking
        for transaction in rooms[room]:
            await trio.sleep(chance.expovariate(0.5))
            if await client("PUT", send(transaction, room), TEXT, patience=chance.uniform(0.2, 6)) is not None:
                answered.add(transaction)
        talking -= 1

    async def go_on(client: HttpClient, room: str, taken: set[str]) -> None:
        """A client repeats all that it was not answered, in order."""
        for transaction in rooms[room]:
            if transaction not in taken:
                assert (await client("PUT", send(transaction, room), TEXT)).status == 200

    def picture(box: StandIn) -> None:
        folder = tmp_path / f"moment{len(moments)}"
        while not (folder / "outbox").exists():
            try:
                shutil.copytree(tmp_path / "first" / "outbox", folder / "outbox")
            except shutil.Error:  # a thread has removed or renamed a file meanwhile
                shutil.rmtree(folder)
        then = StandIn()
        then.order, then.events = copy.copy(box.order), copy.copy(box.events)
        moments.append((folder, then, set(answered)))

    (tmp_path / "first").mkdir()
    async with rig_in_memory(tmp_path / "first", Medium(2400)) as rig, trio.open_nursery() as nursery:
        await rig.up()
        for room in rooms:
            nursery.start_soon(talk, rig.client, room)
        while talking:
            (rig.cable.plug if chance.random() < 0.5 else rig.cable.unplug)()
            for _ in range(4):
                await trio.sleep(chance.expovariate(0.5))
                for _ in range(chance.randrange(200)):
                    await trio.lowlevel.checkpoint()  # time for threads, which a virtual clock does not wait for
                picture(rig.box)
    assert sum(bool(files(folder)) for folder, _, _ in moments) > 5
    for folder, box, taken in moments[:: max(1, len(moments) // 25)]:
        async with rig_in_memory(folder, box=box) as rig:
            async with trio.open_nursery() as nursery:
                for room in rooms:
                    nursery.start_soon(go_on, rig.client, room, taken)
            await delivered(rig)
        for room, all_of_it in rooms.items():
            assert [each for each in box.order if each.startswith(room)] == all_of_it


async def test_a_message_that_is_through_at_once_is_never_written(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.up()
        before = (tmp_path / "outbox").stat().st_mtime_ns
        for number in range(5):
            assert (await rig.client("PUT", send(f"t{number}"), TEXT)).status == 200
        assert (tmp_path / "outbox").stat().st_mtime_ns == before


async def test_a_message_is_on_disk_as_soon_as_its_client_has_left(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.up()
        rig.box.rate_limits = 3
        assert await rig.client("PUT", send("t"), TEXT, patience=outbox.GRACE / 2) is None
        await at_once(lambda: rig.app.outbox.held == 1)
        assert len(files(tmp_path)) == 1
        await delivered(rig)
        await at_once(lambda: not files(tmp_path))
        assert rig.box.order == ["t"]


@pytest.mark.parametrize("goes_down", [False, True])
async def test_a_message_is_on_disk_when_its_answer_takes_long_or_the_line_goes_down(tmp_path, autojump_clock, goes_down) -> None:
    async with rig_in_memory(tmp_path) as rig, trio.open_nursery() as nursery:
        await rig.up()
        rig.box.rate_limits = 1000
        for number in range(3):
            nursery.start_soon(rig.client, "PUT", send(f"t{number}"), TEXT)
        if goes_down:
            rig.cable.unplug()
            await rig.down()
        else:
            await trio.sleep(outbox.GRACE)
        await at_once(lambda: rig.app.outbox.held == 3)
        assert len(files(tmp_path)) == 3
        nursery.cancel_scope.cancel()


async def test_a_box_that_limits_the_rate_for_long_gets_a_held_message_all_the_same(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        await hold(rig, send("t0"), send("t1"))
        rig.box.rate_limits = 40
        rig.cable.plug()
        await delivered(rig)
        assert rig.box.order == ["t0", "t1"]
        assert len(rig.box.asked) == 42


class Refusing(StandIn):
    """A box that knows the token T no more."""

    async def __call__(self, request: Request, gone: trio.Event) -> Response:
        if request.header("authorization") == "Bearer T":
            self.asked.append(request)
            return Response(401, (("content-type", "application/json"),), b'{"errcode":"M_UNKNOWN_TOKEN","error":"."}')
        return await super().__call__(request, gone)


async def test_a_token_that_the_box_refuses_costs_its_own_messages_by_its_own_answer(tmp_path, autojump_clock, caplog) -> None:
    box = Refusing()
    async with rig_in_memory(tmp_path, box=box, plugged=False) as rig:
        await hold(rig, send("t0"), send("t1"))
        await hold(rig, send("t2"), client=HttpClient(rig.app, "U"))
    async with rig_in_memory(tmp_path, box=box) as rig:
        await delivered(rig)
        assert (len(box.asked), box.order) == (3, ["t2"])
    assert files(tmp_path) == []
    assert caplog.messages == ["A message that was held is given up: the box answered 401"] * 2


async def test_a_message_that_has_waited_for_a_day_over_a_restart_is_given_up(tmp_path, autojump_clock, caplog) -> None:
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        await hold(rig, send("t0"), send("t1"))
    path = files(tmp_path)[0]
    head, _, body = path.read_bytes().partition(b"\n")
    path.write_bytes(orjson.dumps({**orjson.loads(head), "at": int(time.time() - 23 * 3600) * 1000}) + b"\n" + body)
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        assert rig.app.outbox.held == 2
        answers = []

        async def repeat() -> None:
            answers.append(await rig.client("PUT", send("t0"), TEXT))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(repeat)
            await trio.sleep(2 * 3600)
        assert (answers[0].status, answers[0].json["error"]) == (504, "The line to the box brought no answer within 24 hours.")
        await at_once(lambda: len(files(tmp_path)) == 1)
        await trio.sleep(23 * 3600)
        await at_once(lambda: files(tmp_path) == [])
        assert rig.app.outbox.held == rig.app.outbox.held_bytes == 0
    assert caplog.messages == ["A message that was held is given up: The line to the box brought no answer within 24 hours."]


async def test_what_is_held_is_bounded_before_and_after_a_restart(tmp_path, autojump_clock) -> None:
    big = {"body": "x" * 900_000}
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        for number in range(MAX_HELD_BYTES // 901_000):
            assert await rig.client("PUT", send(f"t{number}"), big, patience=1) is None
            await rig.held(number + 1)
    for _ in range(2):
        async with rig_in_memory(tmp_path, plugged=False) as rig:
            assert rig.app.outbox.held == 8
            refused = await rig.client("PUT", send("more"), big)
            assert (refused.status, refused.json["errcode"]) == (429, "M_LIMIT_EXCEEDED")
            assert len(files(tmp_path)) == 8
            assert await rig.client("PUT", send("t0"), big, patience=1) is None  # a repeat is no further message


@contextmanager
def unwritable(folder: Path):
    """Nothing can be written there: somebody has put a file in its place."""
    folder.rename(folder.with_name("away"))
    folder.write_text("a file")
    yield
    folder.unlink()
    folder.with_name("away").rename(folder)


async def test_what_cannot_be_written_is_not_held_but_refused_with_the_reason(tmp_path, autojump_clock, caplog) -> None:
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        with unwritable(tmp_path / "outbox"):
            for number in range(2):
                refused = await rig.client("PUT", send(f"t{number}"), TEXT)
                path = tmp_path / "outbox" / f"{number + 1:016d}.held"
                reason = f"The line to the box is down, and the message cannot be held: {path} cannot be written: Not a directory."
                assert (refused.status, refused.json["error"]) == (507, reason)
        assert (rig.app.outbox.held, rig.app.outbox.held_bytes) == (0, 0)
        await hold(rig, send("t1"))
        rig.cable.plug()
        await delivered(rig)
        assert rig.box.order == ["t1"]
    assert len(caplog.messages) == 2
    assert "Traceback" not in caplog.text


async def test_no_message_is_held_whose_forerunner_could_not_be_written(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig, trio.open_nursery() as nursery:
        await rig.up()
        rig.box.rate_limits = 1000
        answers = {}

        async def say(transaction: str) -> None:
            answers[transaction] = await rig.client("PUT", send(transaction), TEXT)

        (tmp_path / "outbox" / f"{2:016d}.new").mkdir()  # where the second would be written
        for number in range(1, 4):
            nursery.start_soon(say, f"t{number}")
            await trio.sleep(0.1)
        rig.cable.unplug()
        await rig.down()
        await until(lambda: len(answers) == 2)
        assert {transaction: answer.status for transaction, answer in answers.items()} == {"t2": 507, "t3": 507}
        assert [path.name for path in files(tmp_path)] == [f"{1:016d}.held"]
        nursery.cancel_scope.cancel()


class SlowFolder(HeldFolder):
    """One on a disk that takes its time: nothing is written before `may_write` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "BOX")
        self.may_write = threading.Event()
        self.begun = self.written = 0

    def write(self, message: HeldMessage) -> None:
        self.begun += 1
        assert self.may_write.wait(30)
        super().write(message)
        self.written += 1


async def test_a_message_whose_answer_comes_while_it_is_being_written_is_removed(tmp_path, autojump_clock) -> None:
    folder = SlowFolder(tmp_path / "outbox")
    path = send("t")
    async with rig_in_memory(tmp_path / "rig") as rig, trio.open_nursery() as nursery:
        errands = Errands()
        slow = Outbox(rig.line, errands, folder)
        await nursery.start(errands.run)
        await nursery.start(slow.run)
        rig.box.rate_limits = 2
        request = Request("PUT", path, headers=(("authorization", "Bearer T"),), body=b"{}")
        answers = []

        async def say() -> None:
            answers.append(await slow.send(Call(treatment_of("PUT", path), path, "", request)))

        nursery.start_soon(say)
        await trio.sleep(outbox.GRACE)
        await at_once(lambda: folder.begun == 1)
        await until(lambda: bool(answers))
        assert (answers[0].status, folder.written, slow.held) == (200, 0, 0)
        folder.may_write.set()
        await at_once(lambda: folder.written == 1)
        await at_once(lambda: not files(tmp_path))
        assert slow.held == 0
        nursery.cancel_scope.cancel()


async def test_while_the_line_is_up_a_full_disk_keeps_no_message_back(tmp_path, autojump_clock, caplog) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.up()
        rig.box.rate_limits = 5
        with unwritable(tmp_path / "outbox"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.client, "PUT", send("t"), TEXT)
                await trio.sleep(outbox.GRACE)
                await at_once(lambda: bool(caplog.messages))
        assert (rig.app.outbox.held, rig.box.order) == (0, ["t"])
    assert len(caplog.messages) == 1
    assert "cannot be written" in caplog.messages[0]


@pytest.mark.parametrize("is_file", [False, True])
async def test_a_proxy_with_an_outbox_that_it_cannot_use_ends_with_one_sentence(tmp_path, is_file) -> None:
    state = open_state(tmp_path, "proxy")
    state.pair(Paired("box.example", BOX.public_key))
    path = tmp_path / "outbox"
    if is_file:
        path.write_text("a file")
    else:
        path.mkdir()
        path = path / f"{7:016d}.held"
        path.write_bytes(b"half a mess")
    with pytest.raises(BaseExceptionGroup) as caught:
        await run(ProxyOptions("serial:/dev/null,2400", "127.0.0.1:0", state=tmp_path), print)
    (told,) = reasons(caught.value, (StateError,)) or []
    assert told.startswith(str(path))
    assert ("cannot be used" if is_file else "is damaged") in told


async def test_what_was_held_for_one_box_is_not_told_to_another(tmp_path, autojump_clock, caplog) -> None:
    (tmp_path / "outbox").mkdir()
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        await hold(rig, send("t0"))
    (path,) = files(tmp_path)
    head, _, body = path.read_bytes().partition(b"\n")
    path.write_bytes(orjson.dumps({**orjson.loads(head), "box": "another"}) + b"\n" + body)
    async with rig_in_memory(tmp_path) as rig:
        await rig.up()
        await trio.sleep(60)
        assert (rig.app.outbox.held, rig.box.asked) == (0, [])
        rig.cable.unplug()
        await rig.down()
        await hold(rig, send("t1"))
    assert [each.name for each in files(tmp_path)] == [path.name, f"{2:016d}.held"]
    assert caplog.messages == ["1 held messages are for another box than this one; they are not sent."]
