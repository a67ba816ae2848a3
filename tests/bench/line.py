"""Bytes and seconds on a serial line of 2400 baud, 8N1: `python -m tests.bench.line [--quick] [--only PREFIX] [--texts FILE]`.

The line is a pair of real ptys at their true rate between real processes; bytes are all that passed in both directions until the line was
quiet again, framing, acknowledgements and encryption included. Seconds are what the person waits. The same at the rates of radios
(`radio.py`), and what loss leaves of a line (`loss.py`), on lines in memory and a virtual clock.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import orjson
import trio
import trio.testing

from edgeserver.cli.control_client import client_of
from tests.bench.load import Connection, Refused
from tests.bench.report import Report, options, say
from tests.bench.rooms import furnish
from tests.bench.screen import AtTheLine
from tests.bench.servers import PASSWORD
from tests.bench.thin import CLIENT, ENCRYPTED, ON_SCREEN, SCREEN, SLIDING, text_message
from tests.lab.box import Box
from tests.lab.programs import LabError, Program, python_module, wait_for
from tests.lab.ptyline import PtyLine
from tests.lab.synapse import free_port

RATE = 2400
RETURNED = 5
QUIET = 1.0
"""Seconds without a byte after which the line counts as quiet: ten times what an acknowledgement is held back."""
CONFIG = """\
[server]
clock = "system"
log_level = "warning"
[http]
client = ["127.0.0.1:{port}"]
federation = []
[accounts]
registration = "open"
[limits]
rate_limits = false
[federation]
internet = false
[discovery]
mdns = false
[[links]]
uri = "serial:{port_file},{rate}"
name = "line"
"""


class Wire:
    """The line and its meter."""

    def __init__(self, line: PtyLine) -> None:
        self.line = line

    @property
    def bytes(self) -> int:
        stats = self.line.stats()
        return int(stats["a_to_b"]["bytes"] + stats["b_to_a"]["bytes"])

    def settle(self, quiet: float = QUIET) -> int:
        """Waits until nothing has passed for a while; returns the count."""
        count, since = self.bytes, time.monotonic()
        while time.monotonic() - since < quiet:
            time.sleep(0.05)
            if (now := self.bytes) != count:
                count, since = now, time.monotonic()
        return count

    @contextmanager
    def counting(self, into: list[float]) -> Iterator[None]:
        """Appends what passes until the line is quiet again."""
        before = self.settle()
        yield
        into.append(self.settle() - before)


class LineBox(Box):
    """A self-named box whose one line is a pty."""

    def __init__(self, folder: Path, port_file: Path) -> None:
        port = free_port()
        super().__init__(folder, CONFIG.format(port=port, port_file=port_file, rate=RATE), f"http://127.0.0.1:{port}")

    def control(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """A call of the control API."""
        return client_of(self.directory / "data").call(method, path, body, timeout=180)

    def register(self, name: str) -> tuple[str, str]:
        """User id and access token of a new account."""
        body = {"username": name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        answer = self.request("POST", f"{CLIENT}/register", body).json
        return answer["user_id"], answer["access_token"]

    def call(self, method: str, path: str, body: Any, token: str) -> Any:
        """The JSON of a 200. Raises `LabError`."""
        answer = self.request(method, CLIENT + path, body, token, timeout=300)
        if answer.status != 200:
            raise LabError(f"{method} {path}: {answer}")
        return answer.json

    def say(self, token: str, room_id: str, text: str, txn_id: str) -> None:
        self.call("PUT", f"/rooms/{quote(room_id)}/send/m.room.message/{txn_id}", text_message(text), token)


# A client behind the proxy


class Proxied:
    """A box, a line, a proxy that has been paired, and an account in 20 rooms with a few messages in each."""

    _alices = ""

    def __init__(self, folder: Path, running: ExitStack, text: Callable[[], str], furnished: int = 0, chance: Random | None = None) -> None:
        """With `furnished` rooms, most of them with a few members and some with many, instead of the 20 with two."""
        folder.mkdir(exist_ok=True)
        self.text = text
        self._seen: dict[str, str] = {}
        line = running.enter_context(PtyLine(folder, RATE))
        self.wire = Wire(line)
        self.box = LineBox(folder / "box", line.b)
        if furnished:
            with self.box:
                self.alice, self._alices = self.box.register("alice")
            database, server_name = folder / "box" / "data" / "edgeserver.db", self.alice.partition(":")[2]
            furnish(database, server_name, self.alice, furnished, chance or Random(1), text, ENCRYPTED)
        running.enter_context(self.box)
        if not furnished:
            self.alice, _ = self.box.register("alice")
        self.bob, self.bobs_token = self.box.register("bob")
        self.rooms = [self._room(number) for number in range(20 if not furnished else RETURNED)]
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        argv = ["proxy", "--link", f"serial:{line.a},{RATE}", "--listen", f"127.0.0.1:{port}", "--state", str(folder / "proxy")]
        self.facts_file = folder / "proxy" / "proxy.facts"
        self.proxy = Program(python_module("edgeserver", *argv), log=folder / "proxy.log")
        running.callback(self.proxy.stop)
        code = self.box.control("POST", "pairing", {"front": False})["code"]
        pairing = running.enter_context(Program([*self.proxy.argv, "--pair", code], log=folder / "pairing.log"))
        wait_for("the pairing", self._up, timeout=120, program=pairing)
        self.wire.settle()
        pairing.stop()
        self.wire.settle(3)

    def _room(self, number: int) -> str:
        more = {"preset": "public_chat", "name": f"Room number {number}"}
        room_id = str(self.box.call("POST", "/createRoom", more, self.bobs_token)["room_id"])
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
        if not number and not self._alices:
            self._alices = self.box.request("POST", f"{CLIENT}/login", login).json["access_token"]
        self.box.call("POST", f"/join/{quote(room_id)}", {}, self._alices)
        for turn in range(3):
            self.box.say(self.bobs_token, room_id, self.text(), f"room{number}.{turn}")
        return room_id

    def _up(self) -> bool:
        try:
            with Connection(self.url) as connection:
                return bool(connection.call("GET", "/")["up"])
        except OSError:
            return False

    def connect(self) -> float:
        """Starts the proxy; returns the seconds from the first byte on the line until it is up."""
        before = self.wire.bytes
        self.proxy.start()
        wait_for("the first byte", lambda: self.wire.bytes > before, timeout=60, program=self.proxy)
        began = time.perf_counter()
        wait_for("the line", self._up, timeout=60, program=self.proxy)
        return time.perf_counter() - began

    def hang_up(self) -> None:
        self.proxy.stop()
        self.wire.settle(3)

    def call(self, method: str, path: str, body: Any, token: str | None = None) -> Any:
        """Through the proxy: the JSON of a 200. Raises `Refused`."""
        with Connection(self.url) as connection:
            return connection.call(method, CLIENT + path, body, token)

    def screen(self, token: str, rooms: int = 0) -> None:
        """What is new on the first screen of whoever has this token, until so many rooms were told: a thin line brings them by and by."""
        told: set[str] = set()
        with Connection(self.url) as connection:
            while True:
                pos = self._seen.get(token)
                answer = connection.call("POST", f"{SLIDING}?timeout=30000" + ("" if pos is None else f"&pos={pos}"), SCREEN, token)
                self._seen[token] = answer["pos"]
                told |= answer["rooms"].keys()
                if len(told) >= rooms:
                    return
                if not answer["rooms"]:
                    raise LabError(f"no more than {len(told)} rooms came")

    def forget(self, token: str) -> None:
        """Its next screen is a first one."""
        self._seen.pop(token, None)

    def login(self) -> str:
        body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
        return str(self.call("POST", "/login", body)["access_token"])


def behind_the_proxy(report: Report, folder: Path) -> None:
    """What an ordinary client costs: connecting, logging in, the first sync, sending, receiving."""
    names = ["line.connect", "line.login", "line.send", "line.push"]
    if not any(report.wants(f"{name}.bytes", f"{name}.s") for name in names):
        return
    say("behind the proxy")
    with ExitStack() as running:
        bench = Proxied(folder, running, report.texts())
        wire = bench.wire
        calls = report.runs(5, 2) if report.wants("line.connect.bytes", "line.connect.s") else 1  # all that follows needs one
        _each(report, "line.connect", wire, [bench.connect] * calls, between=bench.hang_up)
        if report.wants("line.login.bytes", "line.login.s"):
            _each(report, "line.login", wire, [_seconds(bench.login)] * report.runs(5, 2))
        if report.wants("line.send.bytes", "line.send.s"):
            _send(report, bench)
        if report.wants("line.push.bytes"):
            _push(report, bench)


def screens(report: Report, folder: Path) -> None:
    """What a person sees first, with 20 and with 1,000 rooms, and when they come back."""
    folder.mkdir()
    for rooms in (20, 1000):
        wants = _wanted_of_screens(report, rooms)
        if not wants:
            continue
        say(f"first screen of {rooms} rooms")
        with ExitStack() as running:
            bench = Proxied(folder / str(rooms), running, report.texts(), furnished=rooms, chance=report.random)
            if "stock" in wants:
                token = _first_screens(report, "line.first_screen.stock.rooms1000", bench)
                _return(report, bench, token)
            if "screen" in wants:
                _screens_of_chat(report, bench, folder / str(rooms), running, rooms)


def _wanted_of_screens(report: Report, rooms: int) -> set[str]:
    """Which kinds of screens are to be measured with so many rooms."""
    screen = [f"line.first_screen.rooms{rooms}"]
    screen += ["line.return5", "line.push.text", "line.send.text"] if rooms == 1000 else []
    stock = ["line.first_screen.stock.rooms1000", "line.return5.stock"] if rooms == 1000 else []
    wanted = {"screen": screen, "stock": stock}
    return {kind for kind, names in wanted.items() if report.wants(*(f"{name}.{unit}" for name in names for unit in ("bytes", "s")))}


def _screens_of_chat(report: Report, bench: Proxied, folder: Path, running: ExitStack, rooms: int) -> None:
    """What a person sees of `edgeserver chat`: the compact screen."""
    bench.hang_up()
    chat = AtTheLine(f"serial:{bench.wire.line.a},{RATE}", folder / "chat")
    chat.pair(bench.box.control("POST", "pairing", {"front": False})["code"])
    bench.wire.settle(3)
    running.callback(chat.hang_up)

    def anew() -> None:
        """Without what it has kept of the room ids that it was told, or it would not be a first screen."""
        chat.hang_up()
        bench.wire.settle(3)
        (folder / "chat" / "chat.facts").unlink(missing_ok=True)
        chat.connect()

    chat.connect()
    note = "a new connection; the compact screen as chat asks for it; room ids included, event ids left out"
    _each(report, f"line.first_screen.rooms{rooms}", bench.wire, [chat.look] * report.runs(5, 2), between=anew, note=note)
    if rooms == 1000:
        _return_of_chat(report, bench, chat)
        _texts_of_chat(report, bench, chat)


def _return_of_chat(report: Report, bench: Proxied, chat: AtTheLine) -> None:
    steps: list[Callable[[], float]] = []
    texts: dict[int, set[str]] = {}

    def away(number: int) -> None:
        chat.look_away()
        said = [bench.text() for _ in bench.rooms]
        texts[number] = set(said)
        for room, text in zip(bench.rooms, said, strict=True):
            bench.box.say(bench.bobs_token, room, text, f"away{number}")
        bench.wire.settle()

    def again(number: int) -> float:
        return chat.look_again(texts[number])

    runs = report.runs(5, 2)
    away(0)
    steps = [partial(again, number) for number in range(runs)]
    following = iter(range(1, runs))
    note = "the same chat on the same connection, one message in each of five rooms"
    _each(report, "line.return5", bench.wire, steps, between=lambda: away(next(following)), note=note)


def _texts_of_chat(report: Report, bench: Proxied, chat: AtTheLine) -> None:
    """Messages that somebody reads and writes in an open room. `until`: what has passed when the person sees it; the rest comes after."""
    room = bench.rooms[0]
    chat.open(room)
    for metric, seen in (("line.push.text", "readable"), ("line.send.text", "shown as accepted")):
        texts = [bench.text() for _ in range(report.runs(20, 6))]
        until: list[float] = []
        seconds: list[float] = []
        whole: list[float] = []
        for number, text in enumerate(texts):
            before = bench.wire.settle()
            if metric == "line.push.text":
                bench.box.say(bench.bobs_token, room, text, f"text{number}")
                seconds.append(chat.reads(text))
            else:
                seconds.append(chat.say(room, text))
            until.append(bench.wire.bytes - before)
            whole.append(bench.wire.settle() - before)
        length, quiet = statistics.mean(map(len, texts)), statistics.median(whole)
        note = f"texts of {length:.0f} characters on average; until it is {seen}, after {statistics.median(seconds):.2f} s"
        note += f"; {quiet:.0f} B until the line is quiet" + (", with the receipt" if metric == "line.push.text" else "")
        report.median(f"{metric}.bytes", until, "B", note)


def again(report: Report, folder: Path) -> None:
    """What a second client behind the same proxy costs once the first has its screen, and the first one after a restart of the proxy."""
    seen, restarted = "line.again.first_screen.rooms20", "line.restarted.first_screen.rooms20"
    if not report.wants(*(f"{name}.{unit}" for name in (seen, restarted) for unit in ("bytes", "s"))):
        return
    say("first screen again")
    with ExitStack() as running:
        bench = Proxied(folder, running, report.texts(), furnished=20, chance=report.random)
        bench.connect()
        bench.screen(token := bench.login())
        calls = report.runs(5, 2)
        tokens = [bench.login() for _ in range(calls)]
        note = "other stock clients behind the same proxy, where one has seen it all; sliding sync"
        _each(report, seen, bench.wire, [_seconds(partial(bench.screen, each)) for each in tokens], note=note)

        def restart() -> None:
            bench.hang_up()
            bench.connect()
            bench.forget(token)

        restart()
        note = "the same client with its token, which has lost its position, after a restart of the proxy, so on a new connection"
        _each(report, restarted, bench.wire, [_seconds(partial(bench.screen, token))] * calls, between=restart, note=note)


def _first_screens(report: Report, metric: str, bench: Proxied) -> str:
    """Each on a new connection, which remembers nothing. Returns the token of the last."""
    tokens: list[str] = []

    def anew() -> None:
        if tokens:
            bench.hang_up()
            bench.facts_file.unlink(missing_ok=True)
        bench.connect()
        tokens.append(bench.login())

    anew()
    note = (
        "a new connection; sliding sync of a stock client behind the proxy that asks for what is shown; event ids and room ids included; "
        f"until all {ON_SCREEN} rooms are there"
    )
    look = _seconds(lambda: bench.screen(tokens[-1], ON_SCREEN))
    _each(report, metric, bench.wire, [look] * report.runs(5, 2), between=anew, note=note)
    return tokens[-1]


def _return(report: Report, bench: Proxied, token: str) -> None:
    """A client that asks again after messages came in five rooms while it did not look."""
    steps: list[Callable[[], float]] = []

    def look() -> float:
        return _seconds(partial(bench.screen, token, RETURNED))()

    bench.screen(token)
    for number in range(report.runs(5, 2)):

        def change(number: int = number) -> None:
            for room in bench.rooms:
                bench.box.say(bench.bobs_token, room, bench.text(), f"back{number}")

        steps += [lambda change=change: (change(), look())[1]]  # type: ignore[misc]
    _each(report, "line.return5.stock", bench.wire, steps, note="the same client on the same connection, one message in each of five rooms")


def _send(report: Report, bench: Proxied) -> None:
    token, target = bench.login(), f"/rooms/{quote(bench.rooms[0])}/send/m.room.message"
    texts = [bench.text() for _ in range(report.runs(20, 6))]
    steps = [_seconds(partial(bench.call, "PUT", f"{target}/m{number}", text_message(text), token)) for number, text in enumerate(texts)]
    note = f"texts of {statistics.mean(map(len, texts)):.0f} characters on average; seconds until the client has the event id"
    _each(report, "line.send", bench.wire, steps, note=note)


def _seconds(step: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        step()
        return time.perf_counter() - began

    return run


def _each(
    report: Report,
    metric: str,
    wire: Wire,
    steps: list[Callable[[], float]],
    *,
    between: Callable[[], object] = lambda: None,
    note: str | None = None,
) -> None:
    """Runs the steps, each of which returns its seconds, and prints bytes and seconds."""
    counts: list[float] = []
    seconds: list[float] = []
    for number, step in enumerate(steps):
        if number:
            between()
        with wire.counting(counts):
            seconds.append(step())
    report.median(f"{metric}.bytes", counts, "B", note)
    report.median(f"{metric}.s", seconds, "s", note)


def _push(report: Report, bench: Proxied) -> None:
    """Messages of another user come down a client's long poll, which is renewed each time."""
    token = bench.login()
    since = bench.box.call("GET", "/sync?timeout=0", None, token)["next_batch"]  # not over the line
    heard, ended = threading.Semaphore(0), threading.Event()

    def poll() -> None:
        at = since
        with contextlib.suppress(OSError, Refused):
            while not ended.is_set():
                found = bench.call("GET", f"/sync?timeout=30000&since={at}", None, token)
                at = found["next_batch"]
                if found.get("rooms"):
                    heard.release()

    threading.Thread(target=poll, daemon=True).start()
    counts: list[float] = []
    for number in range(report.runs(15, 5)):
        with bench.wire.counting(counts):
            bench.box.say(bench.bobs_token, bench.rooms[0], bench.text(), f"push{number}")
            if not heard.acquire(timeout=60):
                raise LabError("the message did not come down the poll")
    ended.set()
    report.median("line.push.bytes", counts, "B", "with the renewal of the poll and all acknowledgements")


# An idle hour


def idle_hour(report: Report, folder: Path) -> None:
    """A client behind the proxy that polls for an hour and hears nothing."""
    if not report.wants("line.idle_hour.bytes"):
        return
    say("idle hour")
    folder.mkdir()
    count = trio.run(_idle_hour, folder, clock=trio.testing.MockClock(autojump_threshold=0))
    note = "virtual clock; box, proxy and line in one process, the line at 2400 bit/s in memory; a client polls with a timeout of 30 s"
    report.line("line.idle_hour.bytes", count, "B", n=1, note=note)


async def _idle_hour(folder: Path) -> int:
    from tests.proxy.test_real_box import behind_the_proxy as world

    async with world(folder) as (box, client, meter):
        alice = await box.person("alice")
        await alice.create_room(name="Harbour")
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "correct horse battery"}
        client.token = (await client("POST", f"{CLIENT}/login", login)).json["access_token"]
        since = (await client("GET", f"{CLIENT}/sync?timeout=0")).json["next_batch"]
        await meter.read("before")
        began = trio.current_time()
        while trio.current_time() < began + 3600:
            since = (await client("GET", f"{CLIENT}/sync?timeout=30000&since={since}")).json["next_batch"]
        return int(await meter.read("hour"))


# Two boxes


def between_boxes(report: Report, folder: Path) -> None:
    """Federation over the line: joining a room at the other end, and messages."""
    if not report.wants("line.box.message.bytes", "line.box.join"):
        return
    say("between boxes")
    folder.mkdir()
    text = report.texts()
    with ExitStack() as running:
        line = running.enter_context(PtyLine(folder, RATE))
        wire = Wire(line)
        near, far = (running.enter_context(LineBox(folder / end, path)) for end, path in (("near", line.a), ("far", line.b)))
        code = near.control("POST", "pairing", {"front": False})["code"]
        far.control("POST", "pairing/guest", {"link": "line", "secret": code, "gateway": False})
        wait_for("the line", lambda: bool(far.control("GET", "peers")["paired"][0]["up_on"]), timeout=120)
        (_, alice), (_, bob) = near.register("alice"), far.register("bob")
        wire.settle(5)

        def join() -> None:
            room_id = rooms.pop()
            far.call("POST", f"/join/{quote(room_id)}?via={quote(room_id_server)}", {}, bob)
            joined.append(room_id)

        more = {"preset": "public_chat", "name": "Harbour"}
        rooms = [str(near.call("POST", "/createRoom", more, alice)["room_id"]) for _ in range(report.runs(5, 2))]
        room_id_server = near.call("GET", "/account/whoami", None, alice)["user_id"].partition(":")[2]
        joined: list[str] = []
        note = "a room of one member with a name, joined from the other box; the first join also fetches keys"
        _each(report, "line.box.join", wire, [_seconds(join)] * len(rooms), note=note)
        counts: list[float] = []
        texts = [text() for _ in range(report.runs(20, 4))]
        for number, body in enumerate(texts):
            with wire.counting(counts):
                near.say(alice, joined[0], body, f"m{number}")
                _wait_for_message(far, bob, joined[0], body)
        note = f"texts of {statistics.mean(map(len, texts)):.0f} characters on average, one at a time, with answers and acknowledgements"
        report.median("line.box.message.bytes", counts, "B", note)


def _wait_for_message(box: LineBox, token: str, room_id: str, body: str) -> None:
    def there() -> bool:
        found = box.call("GET", f"/rooms/{quote(room_id)}/messages?dir=b&limit=1", None, token)["chunk"]
        return bool(found) and found[0]["content"].get("body") == body

    wait_for("the message at the other box", there, timeout=60)


# A client of MSC3079


def low_bandwidth(report: Report, folder: Path) -> None:
    """What one message costs a client of CoAP over DTLS, without IP and UDP headers, when its connection stands."""
    if not report.wants("line.msc3079.send.bytes", "line.msc3079.response.bytes"):
        return
    say("msc3079")
    folder.mkdir()
    cipher = "PSK-AES128-CCM8"
    text = report.texts() if report.texts_file else lambda: "Hello World"
    texts = [text() for _ in range(report.runs(5, 2))]
    sent, answered, room_id = trio.run(_low_bandwidth, folder, cipher, texts)
    what = f"texts of {statistics.mean(map(len, texts)):.0f} characters on average" if report.texts_file else f"'{texts[0]}'"
    note = f"CoAP message and DTLS record ({cipher}) of {what} in a room with an id of {len(room_id)} characters, txn id of 10"
    report.median("line.msc3079.send.bytes", sent, "B", note)
    report.median("line.msc3079.response.bytes", answered, "B", note)


async def _low_bandwidth(folder: Path, cipher: str, texts: list[str]) -> tuple[list[float], list[float], str]:
    from edgeserver.app.low_bandwidth import serve_low_bandwidth
    from edgeserver.config import parse
    from tests.flows.world import World
    from tests.transports.coap_client import CoapClient
    from tests.transports.dtls_client import dtls_client

    key = bytes(range(16))
    text = f'[low_bandwidth]\nlisten = ["127.0.0.1:0"]\ncertificate = false\npre_shared_keys = ["bench:{key.hex()}"]\n'
    async with World(folder) as world:
        box = await world.box("a", text)
        alice = await box.person("alice")
        room_id = await alice.create_room()
        async with trio.open_nursery() as nursery:
            (port,) = (await nursery.start(serve_low_bandwidth, box.box.app, parse(text).low_bandwidth, None)).ports
            async with dtls_client(("127.0.0.1", port), psk=(b"bench", key), cipher=cipher) as channel:
                await channel.channel.do_handshake()
                client = CoapClient(channel)
                await nursery.start(client.run)
                await client.request("GET", f"{CLIENT}/account/whoami", token=alice.token)  # the token holds from here on
                sent: list[float] = []
                answered: list[float] = []
                for number, text in enumerate(texts):
                    channel.wire.clear()
                    target = f"{CLIENT}/rooms/{quote(room_id)}/send/m.room.message/m.{12345678 + number}"
                    await client.request("PUT", target, orjson.dumps(text_message(text)))
                    (way_out, request), (way_in, response) = channel.wire
                    if (way_out, way_in) != ("out", "in"):
                        raise LabError("a message and its answer were more than one datagram each")
                    sent.append(len(request))
                    answered.append(len(response))
                nursery.cancel_scope.cancel()
    return sent, answered, room_id


def in_memory(report: Report, folder: Path) -> None:
    """What is measured on simulated lines: radios and loss."""
    from tests.bench.loss import losses
    from tests.bench.radio import on_the_air
    from tests.bench.radio_screens import screens_on_the_air

    on_the_air(report, folder)
    screens_on_the_air(report, folder / "screens")
    losses(report)


def main() -> None:
    report = Report(options((__doc__ or "").splitlines()[0]))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        behind_the_proxy(report, Path(folder))
        screens(report, Path(folder) / "screens")
        again(report, Path(folder) / "again")
        between_boxes(report, Path(folder) / "boxes")
        idle_hour(report, Path(folder) / "idle")
        low_bandwidth(report, Path(folder) / "msc3079")
        in_memory(report, Path(folder) / "radio")


if __name__ == "__main__":
    main()
