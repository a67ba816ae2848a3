"""The order of events that came together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeserver.rooms.graph import ids_in_order

NAMES = "abcdefgh"


@given(st.permutations(NAMES), st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=4)))
def test_each_comes_after_what_it_cites_and_else_in_the_order_given(order: list[str], cited: dict[str, list[str]]) -> None:
    older = {name: NAMES[: NAMES.index(name)] for name in NAMES}  # who cites only these is in no circle
    cites = {name: [one for one in cited.get(name, []) if one in older[name]] + ["unknown"] for name in order}
    found = ids_in_order(cites)
    assert sorted(found) == list(NAMES)
    for at, name in enumerate(found):
        assert set(cites[name]) - {"unknown"} <= set(found[:at])
    free = [name for name in found if cites[name] == ["unknown"]]
    assert free == [name for name in order if name in free]


def test_a_circle_and_what_cites_it_is_left_out() -> None:
    circle = {"above": ["one"], "one": ["two"], "two": ["one"], "self": ["self"]}
    assert ids_in_order({"last": ["free"], **circle, "free": []}) == ["free", "last"]
