from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.rooms.house import House, Street, open_house


@pytest.fixture
def street() -> Street:
    return Street()


@pytest.fixture
async def one(tmp_path: Path, street: Street) -> AsyncIterator[House]:
    async with open_house(tmp_path, "one", street) as house:
        yield house


@pytest.fixture
async def two(tmp_path: Path, street: Street) -> AsyncIterator[House]:
    async with open_house(tmp_path, "two", street) as house:
        yield house


@pytest.fixture
async def three(tmp_path: Path, street: Street) -> AsyncIterator[House]:
    async with open_house(tmp_path, "three", street) as house:
        yield house
