"""Classic sync, both dialects of sliding sync, `/state` and `/messages` tell the same, however a client polls."""

from __future__ import annotations

import pytest

from tests.sync import histories


@pytest.mark.parametrize("seed", range(12))
def test_every_way_of_polling_comes_to_the_same(seed: int) -> None:
    histories.run(seed)


@pytest.mark.full
@pytest.mark.parametrize("first", range(100, 3100, 50))
def test_three_thousand_more_histories_come_to_the_same(first: int) -> None:
    for seed in range(first, first + 50):
        histories.run(seed)
