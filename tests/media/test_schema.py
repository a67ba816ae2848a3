"""A media index of a release before the freeze, brought to the newest schema."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from edgeserver.matrix import errors
from edgeserver.store import migrations
from edgeserver.store.media import ThumbnailKey
from tests.media.places import open_place


def older_index(path: Path) -> None:
    """With one upload and its thumbnail, as schema 11 had them."""
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute(f"PRAGMA application_id = {migrations.APPLICATION_ID}")
        connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID")
        for number, sql in migrations.steps():
            if number <= 11:
                connection.executescript(sql)
        connection.execute("PRAGMA user_version = 11")
        connection.execute(
            "INSERT INTO media (server_name, media_id, hash, size, user_id, created_at, used_at) VALUES ('test','old',?,3,'@a:test',1,1)",
            ("aa" * 32,),
        )
        connection.execute("INSERT INTO thumbnails VALUES ('test','old',96,96,'crop',?,5,'image/png',1)", ("bb" * 32,))
    connection.close()


async def test_what_was_there_stays_open_and_keeps_its_thumbnails(tmp_path: Path) -> None:
    older_index(tmp_path / "store.db")
    async with open_place(tmp_path) as place:
        for digest in ("aa" * 32, "bb" * 32):
            path = place.files.path(digest)
            path.parent.mkdir()
            path.write_bytes(b"old")
        assert (await place.media.open("test", "old", frozen=True)).size == 3
        thumbnail = await place.media.thumbnail(ThumbnailKey("test", "old", 90, 90, "crop"), frozen=True)
        assert thumbnail.hash == "bb" * 32
        new = await place.upload(b"new")
        with pytest.raises(errors.NotFound):
            await place.media.open("test", new, frozen=True)
