"""The HTTP listeners: TLS with a certificate that may change under way."""

from __future__ import annotations

import gc
import os
import ssl
import warnings
from datetime import UTC, datetime, timedelta

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edgeserver.app.listeners import CHECK_CERTIFICATE_SECONDS, ListenerError, Tls, _context, _reload, serve
from transports.self_signed import make_certificate


def write(tls: Tls, name: str) -> bytes:
    """A new certificate in both files; returns it as it goes over the wire (DER)."""
    pem, key = make_certificate(os.urandom(32), name, now=datetime.now(UTC), lifetime=timedelta(days=9))
    before = tls.certificate.stat().st_mtime_ns if tls.certificate.exists() else 0
    tls.certificate.write_bytes(pem)
    tls.key.write_bytes(key)
    os.utime(tls.certificate, ns=(before + 10**9, before + 10**9))
    return ssl.PEM_cert_to_DER_cert(pem.decode())


@pytest.fixture
def tls(tmp_path):
    return Tls(tmp_path / "certificate.pem", tmp_path / "certificate.key")


def shown_by(context: ssl.SSLContext) -> bytes:
    """The certificate that a handshake shows."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = client_context.wrap_bio(down, up), context.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return shown


async def test_a_changed_certificate_is_taken_up_without_a_restart(tls, nursery, mock_clock: MockClock, caplog):
    first = write(tls, "*.gw.test")
    context = _context(tls)
    nursery.start_soon(_reload, context, tls)

    async def pass_a_minute() -> None:
        await wait_all_tasks_blocked()
        mock_clock.jump(CHECK_CERTIFICATE_SECONDS)
        await wait_all_tasks_blocked()

    await pass_a_minute()
    assert shown_by(context) == first
    second = write(tls, "*.gw.test")
    assert shown_by(context) == first
    await pass_a_minute()
    assert shown_by(context) == second

    # Half written: the old one goes on until both files fit.
    whole, key = tls.certificate.read_bytes(), tls.key.read_bytes()
    third = write(tls, "*.gw.test")
    pem = tls.certificate.read_bytes()
    tls.certificate.write_bytes(pem[:100])
    await pass_a_minute()
    assert shown_by(context) == second
    tls.certificate.unlink()
    await pass_a_minute()
    assert shown_by(context) == second
    tls.certificate.write_bytes(pem)
    await pass_a_minute()
    assert shown_by(context) == third
    assert (whole, key) != (pem, tls.key.read_bytes())


async def _app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (kind := (await receive())["type"]) != "lifespan.shutdown":
            await send({"type": f"{kind}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def test_a_listener_answers_over_tls_with_its_certificate(tls, nursery):
    certificate = write(tls, "a.test")
    (url,) = await nursery.start(serve, _app, ["127.0.0.1:0"], tls)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    port = int(url.rpartition(":")[2])
    with trio.fail_after(10):
        stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=client, https_compatible=True)
        async with stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
            assert stream.getpeercert(binary_form=True) == certificate
    nursery.cancel_scope.cancel()


async def test_an_address_that_is_taken_is_one_sentence():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Hypercorn forgets the socket that it could not bind
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(serve, _app, ["127.0.0.1:0"])
            with pytest.raises(ExceptionGroup) as refused:
                await nursery.start(serve, _app, [url.removeprefix("http://")])
            assert refused.group_contains(ListenerError, match="cannot listen on 127.0.0.1")
            nursery.cancel_scope.cancel()
        del refused
        gc.collect()


@pytest.mark.parametrize("missing", ["certificate", "key"])
async def test_a_certificate_that_cannot_be_used_is_one_sentence(tls, missing):
    write(tls, "a.test")
    getattr(tls, missing).write_text("nothing")
    with pytest.raises(ListenerError, match="cannot be used"):
        _context(tls)
