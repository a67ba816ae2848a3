from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.users.places import Place, open_place


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_place(tmp_path) as opened:
        yield opened
