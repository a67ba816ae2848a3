"""A CoAP client and a server in a world whose time and losses are made: nothing sleeps, and a seed makes the same run again."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from transports.coap.blockwise import Allowance
from transports.coap.client import Answered, ClientSession, Failed
from transports.coap.message import Code, Message, Option, decode
from transports.coap.server import Asked, Forgotten, ServerSession, Taken
from transports.msc3079.session import Pace

Answer = tuple[int, tuple[tuple[int, bytes], ...], bytes]


@dataclass
class World:
    """`serve` answers a request at once (None: later, by `answer`). Datagrams take `delay` seconds and are lost as `loses` says."""

    serve: Callable[[Asked], Answer | None]
    loss: float = 0.0
    delay: float = 0.05
    seed: int = 1
    quick: bool = False
    exponent: int = 6
    allowance: Allowance = field(default_factory=lambda: Allowance(1 << 22))
    loses: Callable[[str, Message], bool] | None = None
    pace: Pace | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.now = 0.0
        self.client = ClientSession(self.random.random, quick=self.quick, exponent=self.exponent)
        how = {} if self.pace is None else {"parameters": self.pace.parameters, "largest": self.pace.largest_block, "quick": False}
        self.server = ServerSession(self.random.random, self.allowance, **how)
        self.asked: list[Asked] = []
        self.heard: list[Asked | Taken | Forgotten] = []
        self.answers: list[Answered | Failed] = []
        self.sent: list[tuple[float, str, Message]] = []
        self._flying: list[tuple[float, int, str, bytes]] = []
        self._count = 0

    def ask(self, code: int = Code.GET, path: str = "x", payload: bytes = b"", *, observe: bool = False) -> int:
        options = tuple((Option.URI_PATH, part.encode()) for part in path.split("/"))
        exchange = self.client.ask(code, options, payload, self.now, observe=observe)
        self._flush()
        return exchange

    def answer(self, asked: Asked, answer: Answer) -> None:
        self.server.answer(asked.exchange, *answer, self.now, observe=asked.observes and answer[0] < Code.BAD_REQUEST)
        self._flush()

    def notify(self, asked: Asked, answer: Answer) -> bool:
        told = self.server.notify(asked.exchange, *answer, self.now)
        self._flush()
        return told

    def run(self, seconds: float = 600.0) -> None:
        """Lets the time pass, until nothing is left to do or it is over."""
        until = self.now + seconds
        while True:
            times = [time for time in (self.client.deadline, self.server.deadline) if time is not None]
            if self._flying:
                times.append(self._flying[0][0])
            next_ = max(min(times, default=until), self.now)
            if next_ >= until:
                self.now = until
                return
            self.now = next_
            while self._flying and self._flying[0][0] <= self.now:
                _, _, to, data = heapq.heappop(self._flying)
                self._handle(self.client.receive(data, self.now) if to == "client" else self.server.receive(data, self.now))
            self._handle([*self.client.advance(self.now), *self.server.advance(self.now)])

    def _handle(self, events: list) -> None:
        for event in events:
            if isinstance(event, Answered | Failed):
                self.answers.append(event)
                continue
            self.heard.append(event)
            if isinstance(event, Asked):
                self.asked.append(event)
                answer = self.serve(event)
                if answer is not None:
                    self.server.answer(event.exchange, *answer, self.now, observe=event.observes and answer[0] < Code.BAD_REQUEST)
        self._flush()

    def _flush(self) -> None:
        for to, datagrams in (("server", self.client.take()), ("client", self.server.take())):
            for data in datagrams:
                message = decode(data)
                self.sent.append((self.now, to, message))
                lost = self.loses(to, message) if self.loses is not None else self.random.random() < self.loss
                if not lost:
                    self._count += 1
                    heapq.heappush(self._flying, (self.now + self.delay, self._count, to, data))
