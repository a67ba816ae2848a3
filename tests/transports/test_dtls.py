"""The DTLS listener on the loopback interface, with a client of pyOpenSSL."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import trio

from tests.transports.dtls_client import dtls_client
from transports.dtls import Credentials, DtlsError, DtlsListener
from transports.self_signed import make_certificate, make_p256_certificate

KEY = bytes(range(16))
LIFETIME = timedelta(days=365)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    pems = make_p256_certificate("box.test", now=datetime.now(UTC), lifetime=LIFETIME)
    for name, pem in zip(("cert.pem", "key.pem"), pems, strict=True):
        (folder / name).write_bytes(pem)
    return folder / "cert.pem", folder / "key.pem"


async def echo(channel):
    while True:
        try:
            await channel.send(await channel.receive())
        except trio.BrokenResourceError:
            return


@asynccontextmanager
async def listening(certificate=None, psk=True, serve=echo, **limits):
    chain, key = certificate or (None, None)
    listener = DtlsListener("127.0.0.1", 0, Credentials(chain, key, {b"rover": KEY} if psk else {}), serve, **limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.run)
        with trio.fail_after(30):
            yield listener
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-CCM8", "ECDHE-ECDSA-CHACHA20-POLY1305"])
async def test_a_client_that_checks_the_certificate_is_served(certificate, cipher):
    async with listening(certificate) as listener, dtls_client(listener.address, trusted=certificate[0], cipher=cipher) as client:
        await client.send(b"anybody there?")
        assert await client.receive() == b"anybody there?"


@pytest.mark.parametrize("cipher", ["PSK-AES128-CCM8", "ECDHE-PSK-CHACHA20-POLY1305", "PSK-AES128-GCM-SHA256"])
async def test_a_client_with_a_pre_shared_key_is_served(certificate, cipher):
    async with listening(certificate) as listener, dtls_client(listener.address, psk=(b"rover", KEY), cipher=cipher) as client:
        await client.send(b"anybody there?")
        assert await client.receive() == b"anybody there?"


@pytest.mark.parametrize("psk", [(b"rover", bytes(16)), (b"stranger", KEY)], ids=["wrong key", "unknown identity"])
async def test_a_wrong_key_gets_no_session_and_nothing_is_said_of_it(caplog, psk):
    async with listening() as listener, dtls_client(listener.address, psk=psk, cipher="PSK-AES128-CCM8") as client:
        with trio.move_on_after(0.5) as patience:
            await client.channel.do_handshake()
        assert patience.cancelled_caught
        assert not caplog.records


async def test_who_offers_no_cipher_of_ours_gets_no_session(certificate, caplog):
    async with listening(certificate, psk=False) as listener, dtls_client(listener.address, cipher="ECDHE-RSA-AES256-SHA") as client:
        with trio.move_on_after(0.5) as patience:
            await client.channel.do_handshake()
        assert patience.cancelled_caught
        assert not caplog.records


async def test_noise_and_half_handshakes_harm_nobody(certificate):
    async with listening(certificate) as listener:
        socket = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        with socket:
            for data in (b"", b"\x16", bytes(1500), b"\x16\xfe\xfd" + bytes(60), b"\x17\xfe\xfd\x00\x01" + bytes(40)):
                await socket.sendto(data, listener.address)
            async with dtls_client(listener.address, trusted=certificate[0], cipher="ECDHE-ECDSA-AES128-GCM-SHA256") as client:
                await client.send(b"still there?")
                assert await client.receive() == b"still there?"


async def test_one_address_has_no_more_than_its_part_of_the_sessions():
    async with listening(max_of_address=2) as listener, trio.open_nursery() as nursery:
        outcomes = []

        async def call(number):
            async with dtls_client(listener.address, psk=(b"rover", KEY), cipher="PSK-AES128-CCM8") as client:
                with trio.move_on_after(2):
                    await client.send(b"x")
                    outcomes.append(await client.receive())
                    await trio.sleep(2)

        for number in range(4):
            nursery.start_soon(call, number)
        await trio.sleep(1)
        assert outcomes == [b"x", b"x"]
        assert listener.sessions == 2


def rover(listener):
    return dtls_client(listener.address, psk=(b"rover", KEY), cipher="PSK-AES128-CCM8")


async def test_where_all_places_are_taken_by_who_talks_a_newcomer_waits():
    async with listening(max_sessions=1) as listener, rover(listener) as first, rover(listener) as second:
        await first.send(b"first")
        assert await first.receive() == b"first"
        with trio.move_on_after(0.5) as patience:
            await second.channel.do_handshake()
        assert patience.cancelled_caught
        assert listener.sessions == 1


async def test_who_has_been_silent_for_long_makes_room():
    async with listening(max_sessions=1, silent=0.0) as listener, rover(listener) as first, rover(listener) as second:
        for client in (first, second):
            await client.send(b"x")
            assert await client.receive() == b"x"
        with trio.move_on_after(0.5) as patience:
            await first.send(b"is anybody there?")
            await first.receive()
        assert patience.cancelled_caught


async def test_a_certificate_that_cannot_be_used_is_told_in_a_sentence(certificate, tmp_path):
    other = tmp_path / "other.key"
    other.write_bytes(make_certificate(bytes(32), "box.test", now=datetime.now(UTC), lifetime=LIFETIME)[1])
    for chain, key in ((certificate[0], other), (tmp_path / "absent", other)):
        with pytest.raises(DtlsError, match="cannot be used"):
            await DtlsListener("127.0.0.1", 0, Credentials(chain, key), echo).run()
    with pytest.raises(DtlsError, match="cannot listen"):
        await DtlsListener("192.0.2.1", 5684, Credentials(*certificate), echo).run()
    with pytest.raises(DtlsError, match="needs a certificate"):
        await DtlsListener("127.0.0.1", 0, Credentials(), echo).run()


async def test_a_renewed_certificate_is_shown_to_those_who_come_after(certificate, tmp_path):
    chain, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(certificate[0], chain)
    shutil.copy(certificate[1], key)
    async with listening((chain, key), check_certificate=0.05) as listener:
        pems = make_p256_certificate("box.test", now=datetime.now(UTC), lifetime=LIFETIME)
        key.write_bytes(pems[1])
        chain.write_bytes(pems[0])
        await trio.sleep(0.3)
        async with dtls_client(listener.address, trusted=chain, cipher="ECDHE-ECDSA-AES128-GCM-SHA256") as client:
            await client.send(b"new")
            assert await client.receive() == b"new"
