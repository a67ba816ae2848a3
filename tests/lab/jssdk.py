"""matrix-js-sdk with its Rust cryptography, on Node, as another stock client (some 28 MB of packages)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.lab.client import Client
from tests.lab.npm import install, unavailable
from tests.lab.programs import which

__all__ = ["JsClient", "unavailable"]

_SOURCE = Path(__file__).with_name("js")


class JsClient(Client):
    """matrix-js-sdk with end-to-end encryption; its keys live as long as the process."""

    def __init__(self, directory: Path, homeserver: str, *, name: str, netns: str | None = None, ca: Path | None = None) -> None:
        self.homeserver, self.ca = homeserver, ca
        directory.mkdir(parents=True, exist_ok=True)
        trusted = {"NODE_EXTRA_CA_CERTS": str(ca)} if ca else {}
        argv = [which("node") or "node", install(_SOURCE) / "client.mjs"]
        super().__init__(argv, log=directory / f"{name}.log", netns=netns, env=trusted)

    async def login_sliding(self, user: str, password: str) -> dict[str, str]:
        """`login`, but it syncs by sliding sync: a list `rooms` of the first twenty rooms."""
        return await self.acall("login", **self._server(), user=user, password=password, sliding=True)

    # What only this client does. Each verb is the call of the same name in js/encryption.mjs or js/sections.mjs.

    async def do(self, verb: str, /, *, timeout: float = 60, **params: Any) -> Any:
        """One of those calls; raises `RpcError` with the client's own words."""
        return await self.acall(verb, timeout=timeout, **params)
