"""Filters fit for a thin line."""

from hypothesis import given
from hypothesis import strategies as st

from edgeserver.proxy.filters import FIRST_TIMELINE, MOST_FIRST, TIMELINE, thinned
from edgeserver.sync.filters import UNBROKEN

KEYS = st.sampled_from(["room", "timeline", "state", "ephemeral", "limit", "not_types", "x"])
LEAVES = st.sampled_from([None, True, -9, 3, 99, "", "m.typing"])
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)


def test_a_client_that_says_nothing_gets_few_events_lazy_members_no_presence_and_no_typing() -> None:
    assert thinned({}) == {
        "presence": {"not_types": ["*"]},
        "room": {
            "timeline": {"limit": TIMELINE, UNBROKEN: True},
            "state": {"lazy_load_members": True},
            "ephemeral": {"not_types": ["m.typing"]},
        },
    }


def test_what_the_client_says_stays() -> None:
    given_filter = {"event_fields": ["type"], "room": {"rooms": ["!a"], "timeline": {"limit": 50}, "state": {"lazy_load_members": False}}}
    thin = thinned(given_filter)
    assert thin["event_fields"] == ["type"]
    assert thin["room"]["rooms"] == ["!a"]
    assert thin["room"]["timeline"] == {"limit": 50}
    assert thin["room"]["state"] == {"lazy_load_members": False}


def test_an_initial_sync_brings_no_more_than_ten_events_a_room() -> None:
    assert thinned({"room": {"timeline": {"limit": 50}}}, initial=True)["room"]["timeline"] == {"limit": MOST_FIRST}
    assert thinned({"room": {"timeline": {"limit": 1}}}, initial=True)["room"]["timeline"] == {"limit": 1}
    assert thinned({}, initial=True)["room"]["timeline"] == {"limit": FIRST_TIMELINE}


@given(st.dictionaries(st.sampled_from(["room", "presence", "x"]), JSON, max_size=3), st.booleans())
def test_thinning_twice_is_thinning_once_and_no_shape_makes_it_fail(definition, initial) -> None:
    once = thinned(definition, initial=initial)
    assert thinned(once, initial=initial) == once
