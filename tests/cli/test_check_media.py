"""`check` on the media of a box: every file that the index names must be there, and whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from edgeserver.app import identity
from edgeserver.doctor import examine
from tests.media.places import open_place


@pytest.fixture
def box(tmp_path: Path) -> Path:
    async def live() -> None:
        async with open_place(tmp_path) as place:
            for text in (b"one", b"two", b"three"):
                await place.upload(text)

    identity.load_or_make(tmp_path, "test", "mesh")
    trio.run(live)
    (tmp_path / "store.db").rename(tmp_path / "edgeserver.db")
    return tmp_path


def files(box: Path) -> list[Path]:
    return sorted(path for path in (box / "media").glob("??/*"))


def test_media_that_are_all_there_are_in_order(box: Path) -> None:
    report = examine(box)
    assert "media files" in report.checked
    assert [each for each in report.findings + report.notes if "media" in each] == []


def test_missing_and_damaged_files_are_found_and_strays_are_noted(box: Path) -> None:
    first, second, _ = files(box)
    first.unlink()
    second.write_bytes(b"longer than it was")
    (second.parent / ("0" * 62)).write_bytes(b"stray")
    report = examine(box)
    assert [each.partition(" in ")[0] for each in report.findings if "media" in each] == [
        "1 of 3 files of media are missing",
        "1 files of media",
    ]
    assert [each.partition(" ")[0] for each in report.notes if "belong to no media" in each] == ["1"]


def test_a_media_folder_that_is_gone_is_found(box: Path) -> None:
    (box / "media").rename(box / "elsewhere")
    assert any("3 of 3 files of media are missing" in each for each in examine(box).findings)
