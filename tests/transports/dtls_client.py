"""A DTLS client of trio and pyOpenSSL: with a certificate that it trusts, or with a pre-shared key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from OpenSSL import SSL
from OpenSSL._util import ffi, lib


class DtlsClient:
    """A channel of datagrams to `address`. `cipher` is what is offered; `wire` holds the UDP payloads, each way."""

    def __init__(self, channel: trio.DTLSChannel, wire: list[tuple[str, bytes]], context: SSL.Context) -> None:
        self.channel = channel
        self.wire = wire
        self._context = context  # the callback of a pre-shared key lives as long

    async def send(self, data: bytes) -> None:
        await self.channel.send(data)

    async def receive(self) -> bytes:
        return await self.channel.receive()


class _Tap:
    """A socket that keeps what passes."""

    def __init__(self, socket: trio.socket.SocketType, wire: list[tuple[str, bytes]]) -> None:
        self._socket = socket
        self._wire = wire

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    async def sendto(self, data: bytes, address: Any) -> int:
        self._wire.append(("out", data))
        return await self._socket.sendto(data, address)

    async def recvfrom(self, size: int) -> Any:
        data, address = await self._socket.recvfrom(size)
        self._wire.append(("in", data))
        return data, address


@asynccontextmanager
async def dtls_client(
    address: tuple[str, int],
    *,
    trusted: Path | None = None,
    psk: tuple[bytes, bytes] | None = None,
    cipher: str,
    socket: Any = None,
    mtu: int = 1232,
) -> AsyncIterator[DtlsClient]:
    """A client whose handshake is not done yet; `socket` is what it speaks over (None: UDP)."""
    context = SSL.Context(SSL.DTLS_CLIENT_METHOD)
    context.set_cipher_list(f"{cipher}:@SECLEVEL=0".encode())
    if trusted is not None:
        context.load_verify_locations(str(trusted))
        context.set_verify(SSL.VERIFY_PEER, lambda connection, certificate, error, depth, ok: bool(ok))
    callback = None
    if psk is not None:
        identity, key = psk

        def give(_ssl: Any, _hint: Any, name: Any, name_room: int, into: Any, room: int) -> int:
            ffi.memmove(name, identity + b"\0", len(identity) + 1)
            ffi.memmove(into, key, len(key))
            return len(key)

        callback = ffi.callback("unsigned int (SSL *, const char *, char *, unsigned int, unsigned char *, unsigned int)", give)
        lib.SSL_CTX_set_psk_client_callback(context._context, callback)
    wire: list[tuple[str, bytes]] = []
    with trio.DTLSEndpoint(_Tap(socket or trio.socket.socket(type=trio.socket.SOCK_DGRAM), wire)) as endpoint:
        client = DtlsClient(endpoint.connect(address, context), wire, context)
        client.channel.set_ciphertext_mtu(mtu)
        try:
            yield client
        finally:
            client.channel.close()
    del callback
