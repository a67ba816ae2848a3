"""Token buckets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserver.api.ratelimit import Rate, RateLimiter
from edgeserver.matrix.errors import LimitExceeded
from tests.users.places import Clock


def limiter(clock: Clock, **options: object) -> RateLimiter:
    return RateLimiter(clock, rates={"x": Rate(1, 3), "other": Rate(1, 1)}, **options)  # type: ignore[arg-type]


def allowed(limit: RateLimiter, category: str = "x", key: str = "alice") -> bool:
    try:
        limit.check(category, key)
    except LimitExceeded:
        return False
    return True


def test_a_burst_is_let_through_and_then_one_a_second() -> None:
    clock = Clock()
    limit = limiter(clock)
    assert [allowed(limit) for _ in range(5)] == [True] * 3 + [False] * 2
    assert allowed(limit, key="bob")
    with pytest.raises(LimitExceeded) as caught:
        limit.check("x", "alice")
    clock.now += caught.value.retry_after_ms
    assert allowed(limit)
    assert not allowed(limit)


def test_an_unknown_category_counts_as_other_and_off_means_off() -> None:
    limit = limiter(Clock())
    assert [allowed(limit, "new") for _ in range(2)] == [True, False]
    off = limiter(Clock(), enabled=False)
    assert all(allowed(off) for _ in range(100))


def test_memory_is_bounded() -> None:
    limit = limiter(Clock(), buckets=10)
    for number in range(100):
        limit.check("x", str(number))
    assert len(limit._buckets) == 10


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=60))
def test_no_pattern_of_requests_gets_more_than_the_burst_and_the_rate(waits: list[int]) -> None:
    clock = Clock()
    start, let_through, limit = clock.now, 0, limiter(clock)
    for wait in waits:
        clock.now += wait
        let_through += allowed(limit)
    assert let_through <= 3 + (clock.now - start) / 1000
