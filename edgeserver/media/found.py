"""What the repository gives to whoever serves media."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Found:
    """A file to serve, with what goes into the headers. `hash` is SHA-256 in hex."""

    path: Path
    hash: str
    size: int
    content_type: str
    filename: str | None
