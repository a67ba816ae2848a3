import pytest

from edgeserver.store.database import open_database


@pytest.fixture
async def db(tmp_path):
    async with open_database(tmp_path / "gateway.db", inline=True) as db:
        yield db
