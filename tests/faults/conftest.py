"""A box as a process, for what can only happen to one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.boxes import local_box
from tests.lab.box import Box


@pytest.fixture
def small_box(tmp_path: Path) -> Iterator[Box]:
    with local_box(tmp_path, "a.test") as box:
        yield box
