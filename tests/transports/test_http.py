"""Exchanges over HTTP: who is trusted, what is bounded, and what an error lets one conclude. All on loopback."""

import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import trio

from transports import self_signed
from transports.exchange import Interrupted, Request, TimedOut, TooLarge, Unreachable
from transports.http import HttpPool, PinnedKey, Plaintext, Route, VerifiedName

LOOPBACK = ("127.0.0.1",)
SEED, OTHER_SEED = bytes(range(32)), bytes(range(1, 33))


def certificate(seed, name):
    return self_signed.make_certificate(seed, name, now=datetime.now(UTC), lifetime=timedelta(days=30))


def key_of(pem):
    return self_signed.public_key(ssl.PEM_cert_to_DER_cert(pem.decode()))


def ok(body=b"hello", status=b"200 OK"):
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nX-Name: Value\r\n\r\n%s" % (status, len(body), body)


class Server:
    """Answers each request with the next of `answers`; a function is called with the stream instead."""

    def __init__(self, answers):
        self.answers = list(answers)
        self.requests = []
        self.connections = 0
        self.port = 0

    async def handle(self, stream):
        self.connections += 1
        data = b""
        try:
            while chunk := await stream.receive_some(65536):
                data += chunk
                while b"\r\n\r\n" in data:
                    head, _, rest = data.partition(b"\r\n\r\n")
                    length = next((int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-l")), 0)
                    while len(rest) < length:
                        rest += await stream.receive_some(65536)
                    body, data = rest[:length], rest[length:]
                    self.requests.append((head, body))
                    answer = self.answers.pop(0) if self.answers else ok()
                    if answer is None:
                        return
                    await (stream.send_all(answer) if isinstance(answer, bytes) else answer(stream))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


@asynccontextmanager
async def serving(*answers, tls=None):
    """A server on loopback; `tls` is certificate and key in PEM."""
    server = Server(answers)

    async def handle(tcp):
        stream = tcp if context is None else trio.SSLStream(tcp, context, server_side=True, https_compatible=True)
        try:
            await server.handle(stream)
        finally:
            await trio.aclose_forcefully(stream)

    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        server.port = listeners[0].socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()


@pytest.fixture
def box(tmp_path):
    """A certificate for box.example in one file with its key, and the certificate alone."""
    pem, key = certificate(SEED, "box.example:8448")
    both, alone = tmp_path / "box.pem", tmp_path / "ca.pem"
    both.write_bytes(pem + key)
    alone.write_bytes(pem)
    return both, alone, key_of(pem)


def plain(server, host="box.example", addresses=LOOPBACK):
    return Route(host, addresses, server.port, Plaintext())


async def test_a_request_arrives_with_host_headers_and_body_and_the_answer_comes_back():
    async with serving(ok(b"hi", b"418 Teapot")) as server, HttpPool(allow_plaintext=True) as pool:
        request = Request("PUT", "/a%20b?c=d", "other.example", (("X-A", "b"), ("Host", "evil")), b"body")
        response = await pool.peer(plain(server)).exchange(request)
    assert (response.status, response.body, response.header("X-Name")) == (418, b"hi", "Value")
    head, body = server.requests[0]
    assert head.startswith(b"PUT /a%20b?c=d HTTP/1.1\r\nHost: other.example\r\n")
    assert b"X-A: b" in head
    assert head.count(b"ost: ") == 1
    assert body == b"body"


async def test_a_connection_is_kept_and_used_again():
    async with serving() as server, HttpPool(allow_plaintext=True) as pool:
        for _ in range(3):
            await pool.exchange(Request("GET", "/"), plain(server))
    assert server.connections == 1
    assert b"Host: box.example" in server.requests[0][0]


async def test_without_tls_is_only_spoken_when_it_was_asked_for():
    async with serving() as server, HttpPool() as pool:
        with pytest.raises(Unreachable):
            await pool.exchange(Request("GET", "/"), plain(server))
    assert server.connections == 0


async def test_a_redirect_is_an_answer_and_is_not_followed():
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with serving(answer) as server, HttpPool(allow_plaintext=True) as pool:
        assert (await pool.exchange(Request("GET", "/"), plain(server))).status == 302


async def test_addresses_are_tried_in_order():
    async with serving() as server, HttpPool(allow_plaintext=True) as pool:
        route = plain(server, addresses=("127.0.0.2", "127.0.0.1"))
        assert (await pool.exchange(Request("GET", "/"), route)).status == 200


async def test_where_nobody_listens_is_unreachable():
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with HttpPool(allow_plaintext=True) as pool:
            with pytest.raises(Unreachable):
                await pool.exchange(Request("GET", "/"), Route("x", ("127.0.0.1", "::1"), port, Plaintext()))
            with pytest.raises(Unreachable):
                await pool.exchange(Request("GET", "/"), Route("x", (), port, Plaintext()))


async def test_an_address_that_is_not_allowed_is_never_connected_to():
    async with serving() as server, HttpPool(allow_plaintext=True, allow_address=lambda a: not a.startswith("127.")) as pool:
        with pytest.raises(Unreachable):
            await pool.exchange(Request("GET", "/"), plain(server))
    assert server.connections == 0


async def test_a_connection_closed_after_the_request_is_an_interruption():
    async with serving(None) as server, HttpPool(allow_plaintext=True) as pool:
        with pytest.raises(Interrupted) as caught:
            await pool.exchange(Request("POST", "/", body=b"x"), plain(server))
    assert not isinstance(caught.value, TimedOut)


async def test_an_answer_that_is_not_http_is_an_interruption():
    async with serving(b"SSH-2.0-nonsense\r\n\r\n") as server, HttpPool(allow_plaintext=True) as pool:
        with pytest.raises(Interrupted):
            await pool.exchange(Request("GET", "/"), plain(server))


async def silence(stream):
    await trio.sleep_forever()


async def test_no_answer_in_time_is_a_timeout():
    async with serving(silence) as server, HttpPool(allow_plaintext=True) as pool:
        with pytest.raises(TimedOut):
            await pool.exchange(Request("GET", "/", timeout=0.1), plain(server))
        # and the pool goes on
        assert (await pool.exchange(Request("GET", "/"), plain(server))).status == 200


async def test_no_handshake_in_time_is_unreachable(box):
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, silence, 0)
        port = listeners[0].socket.getsockname()[1]
        async with HttpPool() as pool:
            with pytest.raises(Unreachable):
                await pool.exchange(Request("GET", "/", timeout=0.1), Route("x", LOOPBACK, port, PinnedKey(box[2])))
        nursery.cancel_scope.cancel()


async def endless(stream):
    await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await stream.send_all(b"3e8\r\n" + bytes(1000) + b"\r\n")


async def test_a_body_beyond_the_bound_is_too_large():
    answers = (ok(bytes(3000)), endless, ok(bytes(3000)))
    async with serving(*answers) as server, HttpPool(allow_plaintext=True, max_response=2000) as pool:
        for _ in range(2):
            with pytest.raises(TooLarge):
                await pool.exchange(Request("GET", "/"), plain(server))
        assert len((await pool.exchange(Request("GET", "/"), plain(server), max_response=3000)).body) == 3000


async def test_a_body_beyond_what_the_request_wants_is_not_read():
    async with serving(ok(bytes(1500)), endless, ok(bytes(1500))) as server, HttpPool(allow_plaintext=True, max_response=2000) as pool:
        for _ in range(2):
            with pytest.raises(TooLarge):
                await pool.exchange(Request("GET", "/", max_response=1000), plain(server))
        assert len((await pool.exchange(Request("GET", "/", max_response=9000), plain(server))).body) == 1500


@pytest.mark.parametrize("request_", [Request("GET", "/ü"), Request("GET", "/", headers=(("a", "b\r\nc: d"),)), Request("GET", "/a b")])
async def test_what_cannot_be_a_request_is_unreachable(request_):
    async with serving() as server, HttpPool(allow_plaintext=True) as pool:
        with pytest.raises(Unreachable):
            await pool.exchange(request_, plain(server))
    assert server.requests == []


async def test_a_certificate_of_a_trusted_authority_must_carry_the_name(box):
    both, alone, _ = box
    async with serving(tls=both) as server, HttpPool(ca_file=str(alone)) as pool:
        right = Route("delegating.example", LOOPBACK, server.port, VerifiedName("box.example"))
        assert (await pool.exchange(Request("GET", "/"), right)).status == 200
        assert b"Host: delegating.example" in server.requests[0][0]
        wrong = Route("delegating.example", LOOPBACK, server.port, VerifiedName("delegating.example"))
        with pytest.raises(Unreachable):
            await pool.exchange(Request("GET", "/"), wrong)
    assert len(server.requests) == 1


async def test_a_self_signed_certificate_is_not_trusted_by_default(box):
    async with serving(tls=box[0]) as server, HttpPool() as pool:
        with pytest.raises(Unreachable):
            await pool.exchange(Request("GET", "/"), Route("b", LOOPBACK, server.port, VerifiedName("box.example")))
    assert server.requests == []


async def test_a_pinned_key_is_enough_and_another_key_gets_no_byte(box):
    both, _, key = box
    async with serving(tls=both) as server, HttpPool() as pool:
        assert (await pool.exchange(Request("GET", "/"), Route("b", LOOPBACK, server.port, PinnedKey(key)))).status == 200
        for other in (key_of(certificate(OTHER_SEED, "x")[0]), bytes(32)):
            with pytest.raises(Unreachable):
                await pool.exchange(Request("GET", "/"), Route("b", LOOPBACK, server.port, PinnedKey(other, "box.example")))
    assert len(server.requests) == 1


async def test_a_connection_is_never_reused_for_a_peer_it_was_not_checked_for(box):
    """Same address and port, different proof: each needs a connection of its own."""
    both, alone, key = box
    async with serving(tls=both) as server, HttpPool(ca_file=str(alone)) as pool:
        await pool.exchange(Request("GET", "/"), Route("b", LOOPBACK, server.port, VerifiedName("box.example")))
        await pool.exchange(Request("GET", "/"), Route("b", LOOPBACK, server.port, PinnedKey(key)))
        for tls in (VerifiedName("b"), PinnedKey(bytes(32))):
            with pytest.raises(Unreachable):
                await pool.exchange(Request("GET", "/"), Route("b", LOOPBACK, server.port, tls))
    assert len(server.requests) == 2


async def test_a_key_that_is_not_ed25519_is_not_a_pinned_key(tmp_path):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    )  # fmt: skip
    file = tmp_path / "ec.pem"
    file.write_bytes(cert.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(self_signed.CertificateError):
        self_signed.public_key(cert.public_bytes(Encoding.DER))
    async with serving(tls=file) as server, HttpPool() as pool:
        with pytest.raises(Unreachable):
            await pool.exchange(Request("GET", "/"), Route("b", LOOPBACK, server.port, PinnedKey(bytes(32))))
    assert server.requests == []


@pytest.mark.parametrize(
    ("server_name", "alternative"),
    [("box.local", "box.local"), ("box.local:8448", "box.local"), ("10.0.0.1:80", "10.0.0.1"), ("[fe80::1]:8448", "fe80::1")],
)
def test_a_certificate_names_the_host_of_the_server_name(server_name, alternative):
    from cryptography import x509

    parsed = x509.load_pem_x509_certificate(certificate(SEED, server_name)[0])
    names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [alternative]


def test_noise_is_no_certificate():
    with pytest.raises(self_signed.CertificateError):
        self_signed.public_key(b"noise")
