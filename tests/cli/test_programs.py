from __future__ import annotations

import pytest

from tests.cli.conftest import Terminal


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--link", "pigeon:1"], "the proxy cannot run: 'pigeon:1' is no line that this release knows"),
        (["--link", "udp:127.0.0.1:9"], "This proxy is not paired with a box yet."),
        (["--link", "udp:127.0.0.1:9", "--pair", "nonsense"], "a pairing code looks like K7QM-2XPA"),
    ],
)
def test_a_proxy_that_cannot_run_says_why_in_a_sentence(run: Terminal, words: list[str], told: str) -> None:
    assert run("proxy", *words) == 1
    assert told in run.error
    assert "Traceback" not in run.error


def test_what_follows_demo_is_for_the_demonstration(run: Terminal) -> None:
    assert run("demo", "--radio", "carrier-pigeon") == 2
    assert "carrier-pigeon" in run.error
