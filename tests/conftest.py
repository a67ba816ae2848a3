"""What holds for every test of the suite: each answer that a client gets is held against the specification (`tests/api/conformance.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import asgi
from tests.api.conformance import Conformance

_conformance = Conformance()
LONG = [
    "story/test_story.py", "flows/test_partitions.py", "story/test_nat.py", "convergence/test_servers_agree.py",
    "interop/test_synapse.py", "interop/test_synapse_policy_and_keys.py", "architecture/test_house_rules.py",
]  # fmt: skip
"""Files that take long, or wait for lines, begin first: so `make test` does not end with one of its workers alone."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-seconds", type=int, default=20, help="how long each decoder is fuzzed in the long form (tests/fuzz)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {Path(__file__).parent / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(autouse=True, scope="module")
def conformance() -> Iterator[Conformance]:
    """The check that runs behind `AsgiClient`, begun anew with each module."""
    _conformance.answered.clear()
    _conformance.refused.clear()
    asgi.observers.append(_conformance.observe)
    yield _conformance
    asgi.observers.remove(_conformance.observe)


@pytest.fixture(autouse=True)
def _provoked(request: pytest.FixtureRequest, conformance: Conformance) -> Iterator[None]:
    """`@pytest.mark.provokes(500, "POST /…")`: the test makes the server answer so, though the specification knows no such answer, or
    asks for that operation in a way that the specification does not know.
    """
    conformance.provoked = {one for mark in request.node.iter_markers("provokes") for one in mark.args}
    yield
    conformance.provoked = set()


@pytest.fixture
def whole_file(request: pytest.FixtureRequest) -> None:
    """For a test that sums up what the others of its file have done: it is skipped only where somebody has asked for some tests alone."""
    chosen = request.config.option
    if chosen.keyword or chosen.deselect or getattr(chosen, "lf", False) or any("::" in one for one in request.config.args):
        pytest.skip("it sums up its file, of which only some tests run")
