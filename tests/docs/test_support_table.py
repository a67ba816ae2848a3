"""Every operation of the specification is served, or there is a reason why it is not."""

from __future__ import annotations

import pytest

from tests.docs.support_table import APIS, REASONS, REFUSED, operations, served_keys, table


@pytest.fixture
async def served() -> set[str]:
    return await served_keys()


def test_each_operation_has_a_name_of_its_own() -> None:
    keys = [one.key for one in operations()]
    assert len(keys) > 180
    assert len(keys) == len(set(keys))


async def test_reasons_are_given_for_what_is_not_served_and_for_nothing_else(served: set[str]) -> None:
    every = {one.key for one in operations() if one.api in APIS}
    assert sorted(every - served - set(REASONS)) == [], "no route and no reason"
    assert sorted(served & set(REASONS)) == [], "served, so the reason has to go"
    assert sorted(set(REFUSED) - served) == [], "no route that refuses: the reason belongs into REASONS"
    assert sorted((set(REASONS) | set(REFUSED)) - every) == [], "no operation of the specification"
    assert all(reason and not reason.endswith(".") for reason in {**REASONS, **REFUSED}.values())


async def test_the_table_tells_every_section_and_every_gap(served: set[str]) -> None:
    lines = table(served).splitlines()
    for one in operations():
        if one.api in APIS and one.key in {*REASONS, *REFUSED}:
            assert any(line.startswith(f"| `{one.method} {one.path}` | ") for line in lines), one
    assert "| Report content | 3 | 3 |" in lines
