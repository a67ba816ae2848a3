"""Schemathesis makes requests of the specification's own OpenAPI, right and wrong ones, and people of all kinds send them to a whole box.

Each answer is held against the specification (`tests/api/conformance.py`); besides, none is a 5xx, none leaves a traceback in the log, and
none is long in coming. Parameters and bodies are filled with what the box holds, and spoilt, by chance; a seed makes a run again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from hashlib import sha256
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import schemathesis
import trio
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from tests.api import openapi
from tests.fuzz.household import PASSWORD, Household, Identity, household

pytestmark = pytest.mark.provokes(*openapi.OPERATIONS)
"""What a server makes of a request that the specification does not allow is its own affair, as long as it answers in order."""

HOSTILE: list[Any] = [
    None, True, 0, -1, 2**31, 2**53, 2**63, -(2**63), 2**64, 10**30, 10**400, 0.5, 1e308, math.nan, math.inf, "", "\x00", "\ud800",
    "x" * 256, "é" * 200, "x" * 70_000, "@", "@alice", "@a:" + "b" * 300, "!", "$", "#a:b", "mxc://", "..", [], {}, [[]], {"": {}},
]  # fmt: skip
SEGMENTS = ["%00", "%ff", "%", "%2", "%2F..%2F", "%E2%80%AE", "a" * 600, "+", "%20", "..", "%ED%A0%80", "%C0%80", "~", "@", "é", "%5C"]
ODD_TYPES = ("text/plain", "", "x/\xe9;;=", "multipart/form-data")
WAITS = {"timeout", "timeout_ms"}
"""Nobody waits here: not for news, and not for an upload that was announced."""


LATE = ("/logout", "/logout/all", "/account/deactivate", "/account/password", "/leave", "/forget", "/upgrade", "/ban", "/kick")
"""Operations that take away what others need come last."""


class Maker:
    """Turns a case of Schemathesis into a request to this household."""

    def __init__(self, home: Household, who: Identity, chance: Random) -> None:
        self._home, self._who, self._chance = home, who, chance

    def target(self, case: Any) -> str:
        path = case.operation.path
        for name, value in (case.path_parameters or {}).items():
            given = str(value)
            kind = self._chance.random()
            if name == "userId" and kind < 0.45 and self._who.user_id:
                given = quote(self._who.user_id, safe="")
            elif kind < 0.8 and (known := self._home.pick(name, self._chance)) is not None:
                given = quote(known, safe="")
            elif kind > 0.93:
                given = self._chance.choice(SEGMENTS)
            path = path.replace(f"{{{name}}}", given or "x")
        query = urlencode([*self._query(case.query or {}), *([("timeout_ms", "1")] if "{mediaId}" in case.operation.path else [])])
        return f"{path}?{query}"

    def _query(self, query: dict[str, Any]) -> Iterator[tuple[str, str]]:
        for name, value in query.items():
            if name == "access_token":
                continue
            known = self._home.pick(name, self._chance)
            for one in value if isinstance(value, list) else [value]:
                text = known if known is not None and self._chance.random() < 0.6 else one if isinstance(one, str) else json.dumps(one)
                if name in WAITS:
                    text = "1" if text.strip().isdecimal() else text
                yield name, text
                if self._chance.random() < 0.05:
                    yield name, text + "0"

    def body(self, case: Any) -> tuple[bytes, dict[str, str]]:
        body, headers = case.body, {}
        if case.media_type is not None:
            headers["content-type"] = case.media_type if self._chance.random() < 0.95 else self._chance.choice(ODD_TYPES)
        if isinstance(body, bytes):
            return body, headers
        if type(body).__name__ == "NotSet":
            return (b"{}" if self._chance.random() < 0.1 else b""), headers  # a body where none belongs
        seasoned = self._season(body, "")
        if self._chance.random() < 0.25:
            seasoned = self._spoil(seasoned)
        raw = json.dumps(seasoned, allow_nan=True).encode()
        if self._chance.random() < 0.03:
            raw = raw.replace(b'""', b"[" * 3000 + b"]" * 3000, 1)
        if self._chance.random() < 0.02:
            raw = raw[:-1]
        return raw, headers

    def _season(self, value: Any, name: str) -> Any:
        """Ids that the box knows, and proof of who asks, in the place of made-up ones."""
        if name == "auth" and self._chance.random() < 0.5:
            person = {"type": "m.id.user", "user": self._who.user_id}
            return {"type": "m.login.password", "identifier": person, "password": PASSWORD}
        if isinstance(value, dict):
            return {self._key(key, name): self._season(one, key) for key, one in value.items()}
        if isinstance(value, list):
            return [self._season(one, name) for one in value]
        if isinstance(value, str) and self._chance.random() < 0.7 and (known := self._home.pick(name, self._chance)) is not None:
            return known
        return value

    def _key(self, key: str, within: str) -> str:
        if within in ("messages", "device_keys", "one_time_keys", "rooms", "users", "sessions", "state") and self._chance.random() < 0.6:
            return self._home.pick("userId" if within != "rooms" else "roomId", self._chance) or key
        return key

    def _spoil(self, value: Any) -> Any:
        """One place in it is something else."""
        if isinstance(value, dict) and value and self._chance.random() < 0.85:
            key = self._chance.choice(sorted(value))
            return {**value, key: self._spoil(value[key])}
        if isinstance(value, list) and value and self._chance.random() < 0.85:
            at = self._chance.randrange(len(value))
            return [*value[:at], self._spoil(value[at]), *value[at + 1 :]]
        return self._chance.choice(HOSTILE)


class Run:
    """One seed over all operations; `faults` tells what went wrong, request by request."""

    def __init__(self, home: Household, seed_: int, examples: int) -> None:
        self._home, self._seed, self._examples = home, seed_, examples
        self.faults: list[str] = []
        self.sent = 0
        self.succeeded: set[str] = set()

    def everything(self) -> None:
        """In a thread: Hypothesis is not for trio."""
        schema = schemathesis.openapi.from_dict(openapi.DOCUMENT)
        served = self._home.operations
        found = {f"{one.ok().method.upper()} {one.ok().path}": one.ok() for one in schema.get_all_operations()}
        for name in sorted(served, key=lambda name: (name.endswith(LATE), sha256(f"{self._seed}{name}".encode()).digest())):
            for mode in schemathesis.GenerationMode:
                self._try(found[name], name, mode)

    def _try(self, operation: Any, name: str, mode: Any) -> None:
        @seed(self._seed)
        @settings(
            max_examples=self._examples, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode), number=st.integers(0, 2**32))
        def each(case: Any, number: int) -> None:
            self._send(case, name, Random(f"{self._seed} {name} {mode} {self.sent} {number}"))

        try:
            each()
        except Unsatisfiable:
            assert "GET" in name, name  # an operation without parameters cannot be asked wrongly

    def _send(self, case: Any, name: str, chance: Random) -> None:
        who: Identity = chance.choices(self._home.identities, (1, 5, 2, 1, 1))[0]
        maker = Maker(self._home, who, chance)
        target, (body, headers) = maker.target(case), maker.body(case)
        self.sent += 1
        try:
            answer = trio.from_thread.run(self._home.ask, who, name.split(" ", 1)[0], target, body, headers)
        except AssertionError as fault:
            self.faults.append(f"{who.name}: {name} {target}\n  {headers} {body[:600]!r}\n  {fault}")
        else:
            if 200 <= answer.status < 300:
                self.succeeded.add(name)


async def attack(tmp_path: Any, caplog: pytest.LogCaptureFixture, seed_: int, examples: int) -> Run:
    async with household(tmp_path, caplog, seed_) as home:
        run = Run(home, seed_, examples)
        await trio.to_thread.run_sync(run.everything)
    assert not run.faults, f"{len(run.faults)} of {run.sent}\n" + "\n\n".join(run.faults[:20])
    return run


async def test_what_the_openapi_allows_and_forbids_is_answered_as_it_says(tmp_path, caplog):
    run = await attack(tmp_path, caplog, 1, 2)
    assert len(run.succeeded) > 50


@pytest.mark.full
@pytest.mark.parametrize("seed_", range(2, 4))
async def test_what_the_openapi_allows_and_forbids_is_answered_as_it_says_with_other_seeds(tmp_path, caplog, seed_):
    run = await attack(tmp_path, caplog, seed_, 12)
    assert len(run.succeeded) > 80
