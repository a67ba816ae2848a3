from __future__ import annotations

import logging
from contextlib import chdir
from pathlib import Path

import pytest

from edgeserver.cli import main


class Terminal:
    """Runs verbs in this process, in a folder of its own."""

    def __init__(self, folder: Path, captured: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._captured = captured
        self.out = self.error = ""

    def __call__(self, *words: str) -> int:
        """The exit code; `out` and `error` are then what was said."""
        self._captured.readouterr()
        root = logging.getLogger()
        handlers, level = root.handlers, root.level
        with chdir(self.folder):
            try:
                status = main(list(words))
            except SystemExit as stop:
                status = int(stop.code or 0)
            finally:
                root.handlers = handlers
                root.setLevel(level)
        self.out, self.error = self._captured.readouterr()
        return status


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capsys)
