"""DTLS 1.2 on one socket for many clients (RFC 6347), with a certificate, with pre-shared keys (RFC 4279), or both.

trio proves an address by a cookie before anything is kept for it (HelloVerifyRequest). A handshake that fails, or that is not through in
time, ends without a word in the log: anybody can cause one. There are at most MAX_SESSIONS, of which one address may have a part and
strangers in the middle of a handshake another; where all are taken, a newcomer gets the place of whoever has been silent longest, if
that is long enough. pyOpenSSL is imported when a listener is made and not before.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from OpenSSL import SSL

log = logging.getLogger(__name__)

MAX_SESSIONS = 256
MAX_OF_ADDRESS = 32
MAX_HANDSHAKES = 64
HANDSHAKE_SECONDS = 60.0
SILENT_SECONDS = 300.0
"""Who has been silent for so long makes room for somebody else."""
MTU = 1280 - 48
"""Bytes of a datagram: the IPv6 minimum less the headers of IPv6 and UDP."""
INBOX = 32
"""Datagrams that wait for one session, a set of RFC 9177's blocks and what else there may be."""
CHECK_CERTIFICATE_SECONDS = 60.0
_DTLS_1_2 = 0xFEFD

_CERTIFICATE_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-CCM",
    "ECDHE-ECDSA-AES128-CCM8", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-RSA-AES256-GCM-SHA384",
)  # fmt: skip
_PSK_CIPHERS = ("ECDHE-PSK-CHACHA20-POLY1305", "PSK-AES128-CCM8", "PSK-AES128-CCM", "PSK-AES128-GCM-SHA256", "PSK-CHACHA20-POLY1305")
# CoAP demands CCM8 (RFC 7252 §9.1.3), whose tag of 64 bits OpenSSL counts among the weak. The level has no other effect here: what may be
# agreed on is listed one by one, and no certificate of a client is looked at.
_LEVEL = "@SECLEVEL=0"


class DtlsError(Exception):
    """The listener cannot be opened; one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM files of a certificate chain and its key (read again when they change), and pre-shared keys by identity."""

    certificate: Path | None = None
    key: Path | None = None
    pre_shared: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)


class DtlsChannel:
    """Datagrams of one client. Both methods raise trio's BrokenResourceError once the session is over."""

    def __init__(self, channel: trio.DTLSChannel) -> None:
        self._channel = channel
        self.heard_at = trio.current_time()
        self.address: tuple[str, int] = channel.peer_address[:2]
        self.scope = trio.CancelScope()

    async def handshake(self, first_wait: float = 1.0) -> None:
        """Raises BrokenResourceError if it fails. What is not answered within `first_wait` seconds is sent again."""
        await self._call(partial(self._channel.do_handshake, initial_retransmit_timeout=first_wait))
        self.heard_at = trio.current_time()

    async def send(self, data: bytes) -> None:
        await self._call(self._channel.send, data)

    async def receive(self) -> bytes:
        data: bytes = await self._call(self._channel.receive)
        self.heard_at = trio.current_time()
        return data

    async def _call(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        from OpenSSL import SSL

        try:
            return await call(*args)
        except (SSL.Error, OSError, trio.ClosedResourceError) as error:
            raise trio.BrokenResourceError("the session is over") from error


class DtlsServer:
    """Serves the clients of one socket with `serve(channel)`, which returns when it has done with one.

    `silent` and `check_certificate` are in seconds.
    """

    def __init__(
        self,
        credentials: Credentials,
        serve: Callable[[DtlsChannel], Awaitable[None]],
        *,
        max_sessions: int = MAX_SESSIONS,
        max_of_address: int = MAX_OF_ADDRESS,
        silent: float = SILENT_SECONDS,
        check_certificate: float = CHECK_CERTIFICATE_SECONDS,
    ) -> None:
        self._credentials = credentials
        self._serve = serve
        self._max_sessions = max_sessions
        self._max_of_address = max_of_address
        self._silent = silent
        self._check_certificate = check_certificate
        self._mtu = MTU
        self._handshake_seconds = HANDSHAKE_SECONDS
        self._first_wait = 1.0
        self._sessions: set[DtlsChannel] = set()
        self._handshakes = 0
        self._addresses: Counter[str] = Counter()

    @property
    def sessions(self) -> int:
        """How many there are, handshakes included."""
        return len(self._sessions)

    async def _serve_socket(
        self, context: DtlsContext, socket: Any, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Until cancelled; closes the socket."""
        with trio.DTLSEndpoint(cast("Any", socket), incoming_packets_buffer=INBOX) as endpoint:
            async with trio.open_nursery() as nursery:
                if self._credentials.certificate is not None:
                    nursery.start_soon(context.keep_fresh, self._check_certificate)
                await nursery.start(endpoint.serve, context.context, self._attend)
                task_status.started()

    async def _attend(self, channel: trio.DTLSChannel) -> None:
        channel.set_ciphertext_mtu(self._mtu)
        session = DtlsChannel(channel)
        host = session.address[0]
        if self._addresses[host] >= self._max_of_address or self._handshakes >= MAX_HANDSHAKES or not self._make_room():
            return
        self._addresses[host] += 1
        self._sessions.add(session)
        try:
            with session.scope:
                if await self._shakes_hands(session):
                    await self._serve(session)
        finally:
            self._sessions.discard(session)
            self._addresses[host] -= 1
            if not self._addresses[host]:
                del self._addresses[host]

    async def _shakes_hands(self, session: DtlsChannel) -> bool:
        self._handshakes += 1
        try:
            with trio.move_on_after(self._handshake_seconds):
                await session.handshake(self._first_wait)
                return True
        except trio.BrokenResourceError:
            log.debug("a DTLS handshake with %s failed", session.address[0])
        finally:
            self._handshakes -= 1
        return False

    def _make_room(self) -> bool:
        if len(self._sessions) < self._max_sessions:
            return True
        silent = min(self._sessions, key=lambda session: session.heard_at)
        if trio.current_time() - silent.heard_at < self._silent:
            return False
        self._sessions.discard(silent)
        silent.scope.cancel()
        return True


class DtlsListener(DtlsServer):
    """A UDP port. `run` until cancelled.

    `port` 0 takes a free one; `address` says which. Raises DtlsError from `run` where address or certificate cannot be used.
    """

    def __init__(
        self, host: str, port: int, credentials: Credentials, serve: Callable[[DtlsChannel], Awaitable[None]], **limits: Any
    ) -> None:
        """`limits` are those of `DtlsServer`."""
        super().__init__(credentials, serve, **limits)
        self.address: tuple[str, int] = (host, port)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        context = DtlsContext(self._credentials)
        host, port = self.address
        family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
        socket = trio.socket.socket(family, trio.socket.SOCK_DGRAM)
        try:
            await socket.bind((host, port))
        except OSError as error:
            socket.close()
            raise DtlsError(f"cannot listen on {host}:{port}/udp: {error.strerror or error}") from error
        self.address = socket.getsockname()[:2]
        await self._serve_socket(context, _Socket(socket), task_status=task_status)


class _Socket:
    """A UDP socket whose sending never fails: a datagram that cannot leave is as good as lost. trio's task that receives for all
    sessions also repeats the ends of handshakes, and an error there would end the whole program.
    """

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self._socket = socket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    async def sendto(self, data: bytes, address: Any) -> int:
        try:
            return await self._socket.sendto(data, address)
        except (OSError, trio.ClosedResourceError):
            return len(data)

    async def recvfrom(self, size: int) -> tuple[bytes, Any]:
        while True:
            try:
                return await self._socket.recvfrom(size)
            except ConnectionError:
                continue  # an ICMP message about some earlier datagram


class DtlsContext:
    """The OpenSSL context of a server. What pyOpenSSL does not offer (pre-shared keys, another certificate later on) goes through the
    library that it is built on. Raises DtlsError.
    """

    def __init__(self, credentials: Credentials) -> None:
        from OpenSSL import SSL
        from OpenSSL._util import ffi, lib

        self._ffi, self._lib = ffi, lib
        self._credentials = credentials
        self.context: SSL.Context = SSL.Context(SSL.DTLS_SERVER_METHOD)
        self.context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET)
        self.context.set_min_proto_version(_DTLS_1_2)
        self.context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # it would hold 20,000 of them
        ciphers: list[str] = []
        if credentials.certificate is not None:
            ciphers += _CERTIFICATE_CIPHERS
            self._load()
        if credentials.pre_shared:
            ciphers += _PSK_CIPHERS
            self._psk = self._psk_callback(credentials.pre_shared)
            lib.SSL_CTX_set_psk_server_callback(self._pointer, self._psk)
        if not ciphers:
            raise DtlsError("DTLS needs a certificate or a pre-shared key")
        self.context.set_cipher_list(":".join([*ciphers, _LEVEL]).encode())

    @property
    def _pointer(self) -> Any:
        return cast("Any", self.context)._context

    def _load(self) -> None:
        """Takes up certificate and key from their files. Raises DtlsError."""
        from OpenSSL import SSL

        chain, key = str(self._credentials.certificate), str(self._credentials.key)
        trial = SSL.Context(SSL.DTLS_SERVER_METHOD)  # what does not belong together must not get into the one that is in use
        try:
            trial.use_certificate_chain_file(chain)
            trial.use_privatekey_file(key)
            trial.check_privatekey()
        except SSL.Error as error:
            raise DtlsError(f"the certificate {chain} with the key {key} cannot be used") from error
        self._lib.SSL_CTX_use_certificate_chain_file(self._pointer, chain.encode())
        self._lib.SSL_CTX_use_PrivateKey_file(self._pointer, key.encode(), self._lib.SSL_FILETYPE_PEM)
        self._lib.ERR_clear_error()

    def _psk_callback(self, keys: Mapping[bytes, bytes]) -> Any:
        ffi = self._ffi

        def find(_ssl: Any, identity: Any, into: Any, room: int) -> int:
            key = keys.get(ffi.string(identity), b"") if identity != ffi.NULL else b""
            if not 0 < len(key) <= room:
                return 0  # OpenSSL then goes through the motions with a random key
            ffi.memmove(into, key, len(key))
            return len(key)

        return ffi.callback("unsigned int (SSL *, const char *, unsigned char *, unsigned int)", find, error=0)

    async def keep_fresh(self, seconds: float) -> None:
        """Takes up the certificate again when its files change; handshakes from then on show the new one."""
        seen = self._changed_at()
        while True:
            await trio.sleep(seconds)
            now = self._changed_at()
            if now is None or now == seen:
                continue
            try:
                self._load()
            except DtlsError as error:
                log.warning("the changed certificate for DTLS cannot be used yet: %s", error)
                continue
            seen = now
            log.info("took up the changed certificate for DTLS")

    def _changed_at(self) -> tuple[int, int] | None:
        certificate, key = self._credentials.certificate, self._credentials.key
        try:
            return None if certificate is None or key is None else (certificate.stat().st_mtime_ns, key.stat().st_mtime_ns)
        except OSError:
            return None
