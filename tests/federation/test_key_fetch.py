"""Fetching keys over lines that break."""

from __future__ import annotations

import orjson
import pytest

from edgeserver.federation import key_response
from edgeserver.federation.key_fetch import PAUSES, KeyFetcher
from edgeserver.matrix.signatures import SigningKey
from transports.exchange import Interrupted, LinkProfile, Response, TimedOut

KEY = SigningKey(b"k" * 32, "ed25519:k")
NAME = "c.example.org"


class Line:
    """Answers with the keys after some failures."""

    profile = LinkProfile("line", 2400)

    def __init__(self, failures: list[Exception]) -> None:
        self.failures = failures
        self.asked = 0

    async def exchange(self, request):
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return Response(200, (), orjson.dumps(key_response.write(NAME, KEY, (), 1_790_000_000_000)))

    def direct(self, server_name):
        return [self]

    def notaries(self):
        return []


async def test_keys_are_asked_for_again_when_the_line_broke_under_the_request(autojump_clock):
    line = Line([Interrupted("broke") for _ in PAUSES])
    found = await KeyFetcher(line).fetch([NAME])
    assert found[NAME][0].server_name == NAME
    assert line.asked == len(PAUSES) + 1


@pytest.mark.parametrize("failures", [[TimedOut("late")], [Interrupted("broke") for _ in range(9)]])
async def test_a_server_that_does_not_answer_is_not_asked_for_ever(autojump_clock, failures):
    line = Line(failures)
    assert await KeyFetcher(line).fetch([NAME]) == {}
    assert line.asked <= len(PAUSES) + 1
