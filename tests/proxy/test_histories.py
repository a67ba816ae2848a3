"""Apps behind a proxy come to know what the box does, through cuts, restarts and power cuts."""

from __future__ import annotations

import pytest

from tests.proxy import histories


@pytest.mark.parametrize("seed", range(8))
def test_apps_behind_a_proxy_know_in_the_end_what_the_box_does(seed: int) -> None:
    assert histories.run(seed)["begun anew"]


@pytest.mark.full
@pytest.mark.parametrize("first", range(100, 1100, 50))
def test_a_thousand_more_histories_end_as_well(first: int) -> None:
    for seed in range(first, first + 50):
        histories.run(seed)
