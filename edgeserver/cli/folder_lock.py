"""One program at a time on a data folder: two would give out the same stream positions and take each other's control socket away."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeserver.cli.console import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def sole_user_of(data: Path, option: str = "--data") -> Iterator[None]:
    """Locks the folder, made if it is missing, until the block ends or the process dies. Raises `CommandError` if somebody else has it."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise CommandError(f"{data} cannot be used as the data folder: {error.strerror}.") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(folder)
        raise CommandError(f"another edgeserver is at work on {data}; stop it first, or name another folder with {option}.") from error
    except OSError:
        pass  # a file system without locks: then nobody else can be told from here
    try:
        yield
    finally:
        os.close(folder)
