"""Node programs of the laboratory: a folder beside this file with a package.json, its lock file and scripts.

Their packages are installed once for each state of the folder, from the lock file, into a cache outside the tree
(`$XDG_CACHE_HOME/edge-lab`).
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
from pathlib import Path

from tests.lab.programs import missing, run

_NODE = 20  # the oldest major version that the pinned packages run on


@functools.cache
def unavailable() -> str | None:
    """Why Node programs cannot be run here, or None."""
    if reason := missing("node", "npm"):
        return reason
    version = run("node", "--version").strip()
    return None if int(version.lstrip("v").split(".")[0]) >= _NODE else f"needs Node {_NODE} or newer, found {version}"


def install(source: Path) -> Path:
    """Makes sure that a folder's packages are there; returns the folder's installed copy.

    Raises `LabError` with npm's own words when it cannot.
    """
    files = sorted(source.iterdir())
    pinned = b"".join(each.name.encode() + b"\0" + each.read_bytes() for each in files)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-lab"
    place = cache / f"{source.name}-{hashlib.sha256(pinned).hexdigest()[:16]}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / ".installed").exists():
            for each in files:
                shutil.copy(each, place / each.name)
            run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=place)
            (place / ".installed").touch()
    return place
