"""matrix-js-sdk with its Rust cryptography, on Node, as another stock client.

Its packages are installed once, from the lock file, into a cache outside the tree (`$XDG_CACHE_HOME/edge-lab`).
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from tests.lab.client import Client
from tests.lab.programs import missing, run, which

_SOURCE = Path(__file__).with_name("js")
_FILES = ("package.json", "package-lock.json", "client.mjs", "encryption.mjs", "sections.mjs")
_NODE = 20  # the oldest major version that the pinned packages run on


@functools.cache
def unavailable() -> str | None:
    """Why the client cannot be run here, or None."""
    if reason := missing("node", "npm"):
        return reason
    version = run("node", "--version").strip()
    return None if int(version.lstrip("v").split(".")[0]) >= _NODE else f"needs Node {_NODE} or newer, found {version}"


def install() -> Path:
    """Makes sure that the packages are there (some 6 s and 28 MB the first time); returns the client's script.

    Raises `LabError` with npm's own words when it cannot.
    """
    pinned = b"".join((_SOURCE / name).read_bytes() for name in _FILES)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-lab"
    place = cache / f"js-{hashlib.sha256(pinned).hexdigest()[:16]}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / ".installed").exists():
            for name in _FILES:
                shutil.copy(_SOURCE / name, place / name)
            run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=place)
            (place / ".installed").touch()
    return place / "client.mjs"


class JsClient(Client):
    """matrix-js-sdk with end-to-end encryption; its keys live as long as the process."""

    def __init__(self, directory: Path, homeserver: str, *, name: str, netns: str | None = None, ca: Path | None = None) -> None:
        self.homeserver, self.ca = homeserver, ca
        directory.mkdir(parents=True, exist_ok=True)
        trusted = {"NODE_EXTRA_CA_CERTS": str(ca)} if ca else {}
        super().__init__([which("node") or "node", install()], log=directory / f"{name}.log", netns=netns, env=trusted)

    # What only this client does. Each verb is the call of the same name in js/encryption.mjs or js/sections.mjs.

    async def do(self, verb: str, /, *, timeout: float = 60, **params: Any) -> Any:
        """One of those calls; raises `RpcError` with the client's own words."""
        return await self.acall(verb, timeout=timeout, **params)
