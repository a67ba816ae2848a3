from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeserver.store.database import open_database
from tests.federation.sending import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A sender with an outbox of its own; nobody runs it yet."""
    async with open_database(tmp_path / "test.db", inline=True) as database:
        yield Bench(database)
