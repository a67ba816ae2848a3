"""The README tells what is served as it is."""

from __future__ import annotations

from tests.docs.support_table import README, block_of, served_keys, table


async def test_the_table_of_the_readme_is_the_one_made_from_the_routes() -> None:
    told = block_of(README.read_text())
    assert told is not None, "README.md has no place for the table"
    assert told == table(await served_keys()), "run: python -m tests.docs.support_table"
