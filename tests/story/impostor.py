"""Somebody on the local network who announces names that are not his, as a program.

`python -m tests.story.impostor --address A --claim NAME KEY [--claim NAME KEY …]` announces each NAME with the ed25519 KEY (base64) at his
own address, and last the name that is truly his, which he prints. He answers on 8448 with his own certificate, and prints every line
that anybody says to him there.
"""

from __future__ import annotations

import argparse
import base64
import os
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import trio

from edgeserver.matrix import server_names
from edgeserver.matrix.signatures import SigningKey
from transports.discovery import Announcement, discover
from transports.self_signed import make_certificate

PORT = 8448


def _certificate(seed: bytes, name: str) -> ssl.SSLContext:
    chain, key = make_certificate(seed, name, now=datetime.now(UTC), lifetime=timedelta(days=2))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "chain.pem", Path(folder) / "key.pem"
        paths[0].write_bytes(chain)
        paths[1].write_bytes(key)
        context.load_cert_chain(*paths)
    return context


async def _listen(stream: trio.SSLStream[trio.SocketStream]) -> None:
    try:
        print("called", flush=True)
        while data := await stream.receive_some(65536):
            for line in data.decode("latin-1").splitlines():
                print("heard", line, flush=True)
    except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
        pass


async def _main(address: str, claims: list[tuple[str, str]]) -> None:
    seed = os.urandom(32)
    public = SigningKey(seed, "ed25519:0").verify_key
    own = server_names.name_of(public)
    said = [*((name, base64.b64decode(key + "==")) for name, key in claims), (own, public)]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_ssl_over_tcp, _listen, PORT, _certificate(seed, own)))
        for number, (name, key) in enumerate(said):
            announcement = Announcement(name, key, f"impostor-{number}", (address,), PORT)
            nursery.start_soon(lambda one=announcement: discover(None, one))
            await trio.sleep(0.5)
        print("truly", own, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Announces names that belong to others.")
    parser.add_argument("--address", required=True)
    parser.add_argument("--claim", nargs=2, action="append", default=[])
    options = parser.parse_args()
    trio.run(_main, options.address, options.claim)
