"""The session on disk: which server, who, and the access token, in `session.json`, readable by its owner only."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from edgeserver.app.identity import write_durably

if TYPE_CHECKING:
    from collections.abc import Mapping


class SavedError(Exception):
    """A file of ours cannot be used; one sentence for the person in front of the screen."""


@dataclass(frozen=True, slots=True)
class Saved:
    """`place` is the server's URL, or the name of the box at the other end of the line whose URI `link` is (empty: there is none). `token`
    is empty when the session has ended; the device is kept, so that messages that wait keep the meaning of their transaction ids.
    """

    place: str
    link: str
    user_id: str
    device_id: str
    token: str


_FILE: Final = "session.json"


def default_folder(environment: Mapping[str, str]) -> Path:
    """Where state belongs by the XDG Base Directory Specification."""
    told = environment.get("XDG_STATE_HOME", "")
    base = Path(told) if told.startswith("/") else Path(environment.get("HOME") or "~").expanduser() / ".local" / "state"
    return base / "edgeserver" / "chat"


def load(folder: Path) -> Saved | None:
    """The session of that folder; None if there is none. Raises `SavedError`."""
    path = folder / _FILE
    try:
        told = orjson.loads(path.read_bytes())
        found = Saved(**told)
        if not all(isinstance(value, str) for value in told.values()):
            raise ValueError("not a session")
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError) as error:
        raise SavedError(f"{path} is damaged ({error}); remove it and log in again.") from error
    return found


def keep(folder: Path, saved: Saved) -> None:
    """Raises `SavedError`."""
    path = folder / _FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(path, orjson.dumps(asdict(saved), option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise SavedError(f"{path} cannot be written: {error.strerror}.") from error


def forget(folder: Path) -> None:
    """Raises `SavedError`."""
    path = folder / _FILE
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SavedError(f"{path} cannot be removed: {error.strerror}.") from error
