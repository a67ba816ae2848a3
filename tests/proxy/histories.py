"""Apps behind a proxy live through generated histories, and in the end know what the box does, whatever became of the line meanwhile.

    .venv/bin/python -m tests.proxy.histories --seed 123            replays one seed
    .venv/bin/python -m tests.proxy.histories --seeds 0-1000

The history is that of `tests.sync.histories`, in which nobody ignores anybody. Two people have apps behind one proxy: two of classic
sync that ask for the same, and one of each dialect of sliding sync. They poll as apps do, and at whim hang up, lose an answer, or begin
anew with nothing but their token, while the cable is pulled, and box and proxy end in good order or are killed, and come back. Keys
are uploaded and taken, and messages go to the devices; the apps send, and ask again until they are answered. When nobody does anything
any more each must know what the box says: all that `tests.sync` checks, every message to the device, and how many keys are left; and each
room has each message of theirs once, by the event id that they were told.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import orjson
import trio
from trio.testing import MockClock

from edgeserver.paired.facts import HeardFile
from edgeserver.paired.line import Line
from edgeserver.paired.pairing import pair
from edgeserver.paired.state import State, open_state
from edgeserver.proxy.application import ProxyApplication
from tests.flows.world import PASSWORD, Person, World
from tests.proxy.rig import V3, Answer, HttpClient
from tests.sync import histories
from tests.sync.classic_client import ClassicClient
from tests.sync.sliding_client import PATHS, SlidingClient
from transports.link.connection import Link
from transports.memory import Medium, MemoryCable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

CONFIG = histories.CONFIG + '[[links]]\nuri = "serial:/dev/null,2400"\nname = "line"\n'
STEPS = 40
KEY = "curve25519"


class Hut:
    """A proxy at the end of a cable; `app` is None while it is not running."""

    def __init__(self, nursery: trio.Nursery, cable: MemoryCable, folder: Path) -> None:
        self._nursery, self._cable, self._folder = nursery, cable, folder
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._asking: set[trio.CancelScope] = set()
        self.app: ProxyApplication | None = None

    @property
    def _state(self) -> State:
        return open_state(self._folder, "proxy")

    async def pair(self, code: str) -> None:
        self._state.pair(await pair(self._cable.a, self._state.identity, code, "proxy in a hut", lambda sentence: None))

    async def start(self) -> None:
        await self._nursery.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        state, self._over = self._state, trio.Event()
        assert state.box is not None
        link = Link(self._cable.a, state.identity, {state.box.public_key: state.box.name}.get, peer_key=state.box.public_key)
        line = Line(link, state.box.name, HeardFile(state.facts_file, state.identity.public_key, inline=True))
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.run)
                app = ProxyApplication(line, state, inline=True)
                await nursery.start(app.run)
                self.app = app
                task_status.started()
                await trio.sleep_forever()
        self._over.set()

    async def stop(self) -> None:
        self.app = None
        for scope in self._asking:
            scope.cancel()
        self._scope.cancel()
        await self._over.wait()

    async def kill(self) -> None:
        """As by kill -9: the disk holds what it held at this moment."""
        held = self._folder.with_name("as it was")
        shutil.copytree(self._folder, held)
        await self.stop()
        shutil.rmtree(self._folder)
        held.rename(self._folder)

    async def ask(self, token: str, method: str, target: str, body: Any = None, *, patience: float = float("inf")) -> Answer | None:
        """None if no answer came: the app hung up after `patience` seconds, or the proxy ended."""
        if self.app is None:
            return None
        with trio.CancelScope() as scope:
            self._asking.add(scope)
            try:
                return await HttpClient(self.app, token)(method, target, body, patience=patience)
            finally:
                self._asking.discard(scope)
        return None

    async def surely(self, token: str, method: str, target: str, body: Any = None) -> Answer:
        """Asks until an answer comes."""
        while (answer := await self.ask(token, method, target, body)) is None:
            await trio.sleep(1)
        return answer


@dataclass
class Witness(Person):
    """Somebody who asks the box itself, as soon as it runs: what is true."""

    is_up: Callable[[], bool] = lambda: True

    async def request(self, method: str, path: str, json: Any = None, **options: Any) -> Any:
        """As `Person.request`."""
        while not self.is_up():
            await trio.sleep(0.5)
        return await super().request(method, path, json, **options)


class Inbox:
    """Messages to one device: those sent, and how often each has come."""

    def __init__(self) -> None:
        self.sent: set[str] = set()
        self._come: Counter[str] = Counter()

    def take(self, messages: Iterable[dict[str, Any]]) -> None:
        self._come.update(message["content"]["id"] for message in messages)

    def check(self, whose: str, *, may_repeat: bool) -> None:
        """That every message has come, and no more than once unless the app began anew."""
        assert not self.sent - self._come.keys(), f"{whose}: messages to the device are lost"
        assert may_repeat or set(self._come.values()) <= {1}, f"{whose}: messages came again: {self._come}"


class ProxiedApp(ClassicClient):
    """Of classic sync, with one filter for its life."""

    def __init__(self, person: Person, chance: random.Random, hut: Hut, device: str, wish: random.Random) -> None:
        """`wish` decides what it asks for."""
        super().__init__(person, chance, set())
        self.hut, self.device = hut, device
        self.lazy = True  # on a thin line all are
        self.filter = orjson.dumps({"room": {"timeline": {"limit": wish.choice([1, 2, 5])}}}).decode()
        self.state_after = wish.random() < 0.5
        self.inbox = Inbox()
        self.counts: dict[str, int] = {}
        self.keys = 0
        self.begun_anew = 0

    async def poll(self, *, lost: bool = False, timeout: int | None = None) -> bool:
        """One request by way of the proxy. `lost`: the app hangs up, or ends with the answer unread."""
        wait = self.chance.choice([0, 1000, 30_000]) if timeout is None else timeout
        query = {"timeout": str(wait), "filter": self.filter, **({"use_state_after": "true"} if self.state_after else {})}
        query |= {} if self.since is None else {"since": self.since}
        patience = self.chance.random() * 40 if lost else float("inf")
        answer = await self.hut.ask(self.person.token, "GET", f"{V3}/sync?{urlencode(query)}", patience=patience)
        if answer is None or lost:
            return True
        assert answer.status == 200, self._about("", f"{answer.status} {answer.body!r}")
        return await self.take(answer.json)

    async def take(self, answer: dict[str, Any], *, is_repeated: bool = False) -> bool:
        """As `ClassicClient.take`."""
        messages = answer.get("to_device", {}).get("events", ())
        self.inbox.take(messages)
        self.counts = answer.get("device_one_time_keys_count", self.counts)
        assert not is_repeated
        return await super().take(answer) or bool(messages)

    async def _older(self, room_id: str, query: dict[str, str]) -> Answer:
        """As `ClassicClient._older`, by way of the proxy."""
        return await self.hut.surely(self.person.token, "GET", f"{V3}/rooms/{quote(room_id)}/messages?{urlencode(query)}")

    async def upload_keys(self) -> None:
        """Some more of them. What they are made of is of no interest here."""
        made = {f"{KEY}:{self.keys + number}": f"{self.keys + number}" for number in range(self.chance.randrange(1, 5))}
        answer = await self.hut.ask(self.person.token, "POST", f"{V3}/keys/upload", {"one_time_keys": made})
        if answer is not None and answer.status == 200:
            self.keys += len(made)

    async def settle(self) -> None:
        """Polls until there is nothing new for half a minute."""
        await _settled(self)

    def begin_anew(self) -> None:
        """With nothing but the token."""
        self.begun_anew += 1
        for known in (self.rooms, self.account_data, self.receipts, self.typing):
            known.clear()
        self.since = None

    async def check(self, ever_ignored: set[str]) -> None:
        """Also what it knows of its device."""
        await super().check(ever_ignored)
        self.inbox.check(f"classic {self.person.user_id}", may_repeat=self.begun_anew > 0)
        true = await self.person.ok("GET", "/sync", query={"filter": '{"room":{"timeline":{"limit":1}}}'})
        assert self.counts == true["device_one_time_keys_count"], self._about("", "keys that are left")


class ProxiedSlidingApp(SlidingClient):
    """Of either dialect of sliding sync."""

    def __init__(self, person: Person, dialect: str, chance: random.Random, hut: Hut, device: str) -> None:
        super().__init__(person, dialect, chance, set())
        self.hut, self.device = hut, device
        self.inbox = Inbox()
        self.has_messages_to: str | None = None

    async def poll(self, *, lost: bool = False, timeout: int | None = None) -> bool:
        """One request by way of the proxy. `lost`: as `ProxiedApp.poll`."""
        wait = self.chance.choice([0, 1000, 30_000]) if timeout is None else timeout
        to_device = {"enabled": True, **({} if self.has_messages_to is None else {"since": self.has_messages_to})}
        body, query = {**self.wish, "extensions": {**self.wish["extensions"], "to_device": to_device}}, dict[str, str]()
        progress = {"timeout": wait, **({} if self.pos is None else {"pos": self.pos})}
        if self.dialect == "deployed":
            query = {name: str(value) for name, value in progress.items()}
        else:
            body |= progress
        patience = self.chance.random() * 40 if lost else float("inf")
        target = PATHS[self.dialect] + (f"?{urlencode(query)}" if query else "")
        answer = await self.hut.ask(self.person.token, "POST", target, body, patience=patience)
        if answer is None:
            return True
        if answer.status == 400 and answer.json["errcode"] == "M_UNKNOWN_POS":
            self.begun_anew += 1
            self.forget()
            return True
        assert answer.status == 200, (self.dialect, answer.status, answer.body)
        return True if lost else self.take(answer.json)

    async def settle(self) -> None:
        """Polls until there is nothing new for half a minute."""
        await _settled(self)

    def take(self, answer: dict[str, Any]) -> bool:
        """As `SlidingClient.take`. Lists of which nothing is told are as they were."""
        told = answer.get("extensions", {}).get("to_device", {})
        self.inbox.take(told.get("events", ()))
        self.has_messages_to = told.get("next_batch", self.has_messages_to)
        before = self.lists
        is_news = super().take(answer)
        self.lists = before | self.lists
        return is_news or bool(told.get("events"))

    def begin_anew(self) -> None:
        """With nothing but the token."""
        self.begun_anew += 1
        self.forget()
        self.has_messages_to = None


async def _settled(app: ProxiedApp | ProxiedSlidingApp) -> None:
    for _ in range(80):
        began = trio.current_time()
        if not await app.poll(timeout=30_000) and trio.current_time() - began > 29:
            return
    raise AssertionError(f"{app}: there is always something new")


class Story(histories.Story):
    """One history."""

    def __init__(self, seed: int, *, tell: bool = False) -> None:
        super().__init__(seed, tell=tell)
        self.apps: list[ProxiedApp] = []
        self.sliding: list[ProxiedSlidingApp] = []
        self.said: dict[str, dict[str, str]] = {}
        """Room id → text → event id, as the apps were told."""
        self.living: trio.Nursery
        self.happened: Counter[str] = Counter()
        self.is_over, self.box_is_up = False, True
        self.cable = MemoryCable(Medium(self.chance.choice([2400, 9600, 38_400])), seed=seed)
        self.hut: Hut

    async def run(self, folder: Path) -> None:
        async with World(folder) as world, trio.open_nursery() as nursery:
            self.box = await world.box("a", CONFIG, {"line": self.cable.b})
            self.people = [await self.box.person(name) for name in ("alice", "bob", "carol")]
            self.hut = Hut(nursery, self.cable, folder / "proxy")
            await self.hut.pair(self.box.box.links.open_offer(front=False)[0])
            await self.hut.start()
            for person in self.people[:2]:
                await self._settle_in(person)
            async with trio.open_nursery() as self.living:
                for app in (*self.apps, *self.sliding):
                    self.living.start_soon(self._live, app)
                for _ in range(STEPS):
                    await trio.sleep(self.chance.choice([0.05, 1, 10, 60]))
                    await self._disturb()
                    await self._step()
                self.cable.plug()
                self.is_over = True
            await trio.sleep(700)  # whoever typed has stopped, and the two ends have met
            for room_id, texts in self.said.items():
                await self._check_said(room_id, texts)
            for app in (*self.apps, *self.sliding):
                await self._send_to_device(app)
            for app in self.apps:
                await app.check(set())
            for watcher in self.sliding:
                watcher.widen()
                await watcher.settle()
                watcher.inbox.check(watcher.dialect, may_repeat=watcher.begun_anew > 0)
                await histories.Check(watcher, set()).run()
            nursery.cancel_scope.cancel()

    async def _settle_in(self, person: Person) -> None:
        for number, kind in enumerate((None, None, *PATHS)):
            login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": person.user_id}, "password": PASSWORD}
            answer = await self.hut.surely("", "POST", f"{V3}/login", login)
            own = Witness(person.box, person.user_id, answer.json["access_token"], is_up=lambda: self.box_is_up)
            chance = random.Random(f"{self.seed} {person.user_id} {number}")
            if kind is None:
                wish = random.Random(f"{self.seed} {person.user_id}")
                self.apps.append(ProxiedApp(own, chance, self.hut, answer.json["device_id"], wish))
            else:
                self.sliding.append(ProxiedSlidingApp(own, kind, chance, self.hut, answer.json["device_id"]))

    async def _live(self, app: ProxiedApp | ProxiedSlidingApp) -> None:
        """Polls, as an app does, and now and then something else happens to it."""
        while not self.is_over:
            chance = app.chance.random()
            if chance < 0.3:
                await trio.sleep(app.chance.random() * 60)
            elif chance < 0.35:
                app.begin_anew()
                self.happened["begun anew"] += 1
            elif chance < 0.45:
                self.living.start_soon(self._send, app)
            elif chance < 0.5:
                await app.upload_keys() if isinstance(app, ProxiedApp) else app.change_wish()
            await app.poll(lost=app.chance.random() < 0.2)
            if self.hut.app is None:
                await trio.sleep(1)

    async def _send(self, app: ProxiedApp | ProxiedSlidingApp) -> None:
        """Into any room, in which the app's person need not be. It is over when the app has an answer."""
        if not self.rooms:
            return
        room_id, text = self.chance.choice(self.rooms), f"{self.chance.getrandbits(40):x}"
        target = f"{V3}/rooms/{quote(room_id)}/send/m.room.message/{text}"
        answer = await self.hut.surely(app.person.token, "PUT", target, {"msgtype": "m.text", "body": text})
        if answer.status == 200:
            self.said.setdefault(room_id, {})[text] = answer.json["event_id"]
            self.happened["said"] += 1
        else:
            assert answer.status in (403, 404), answer.body

    async def _check_said(self, room_id: str, texts: dict[str, str]) -> None:
        for person in self.people:
            if room_id in (await person.ok("GET", "/joined_rooms"))["joined_rooms"]:
                page = await person.ok("GET", f"/rooms/{quote(room_id)}/messages", query={"dir": "b", "limit": "1000"})
                found = [(event["content"].get("body"), event["event_id"]) for event in page["chunk"]]
                assert sorted(one for one in found if one[0] in texts) == sorted(texts.items()), room_id
                self.happened["checked"] += len(texts)
                return

    async def _disturb(self) -> None:
        chance = self.chance.random()
        if chance < 0.1:
            self.cable.unplug()
            self.happened["cut"] += 1
        elif chance < 0.25:
            self.cable.plug()
        elif chance < 0.32:
            self.happened["restarted"] += 1
            await (self.hut.kill() if self.chance.random() < 0.5 else self.hut.stop())
            await trio.sleep(self.chance.choice([0, 5, 100]))
            await self.hut.start()
        elif chance < 0.42:
            await self._take_key(self.chance.choice(self.apps))
        elif chance < 0.46:
            self.happened["box killed"] += 1
            await self._box_comes_back(self.box.kill)
        elif chance < 0.54:
            await self._send_to_device(self.chance.choice([*self.apps, *self.sliding]))

    async def _box_comes_back(self, end: Callable[[], Awaitable[None]]) -> None:
        self.box_is_up = False
        await end()
        await trio.sleep(self.chance.choice([0, 5, 100]))
        await self.box.start()
        self.box_is_up = True

    async def _restart(self, person: Person) -> None:
        if self.chance.random() < 0.3:
            await self._box_comes_back(self.box.stop)

    async def _take_key(self, app: ProxiedApp) -> None:
        body = {"one_time_keys": {app.person.user_id: {app.device: KEY}}}
        taken = await self.people[2].ok("POST", "/keys/claim", body)
        self.happened["keys taken"] += bool(taken["one_time_keys"])

    async def _send_to_device(self, app: ProxiedApp | ProxiedSlidingApp) -> None:
        message = f"{len(app.inbox.sent)}"
        app.inbox.sent.add(message)
        body = {"messages": {app.person.user_id: {app.device: {"id": message}}}}
        await self.people[2].ok("PUT", f"/sendToDevice/m.test/{app.device}{message}", body)

    async def _ignore(self, person: Person) -> None:
        await self._take_key(self.chance.choice(self.apps))


def run(seed: int, *, tell: bool = False) -> Counter[str]:
    """One history in a folder of its own; what has happened in it. Raises AssertionError."""
    with tempfile.TemporaryDirectory(prefix="history-") as folder:
        story = Story(seed, tell=tell)
        trio.run(story.run, Path(folder), clock=MockClock(autojump_threshold=0))
    return story.happened


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", default="0-50", help="FIRST-LAST")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)  # of messages that the box refuses
    if chosen.seed is not None:
        print(run(chosen.seed, tell=True))
        return
    happened: Counter[str] = Counter()
    for seed in range(*map(int, chosen.seeds.split("-"))):
        try:
            happened += run(seed)
        except BaseException as error:
            print(f"seed {seed}: {error!r}", flush=True)
    print(happened)


if __name__ == "__main__":
    main()
