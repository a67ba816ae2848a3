from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.lab.ca import Authority, Certificate


def _handshake(authority: Authority, certificate: Certificate, name: str) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate.chain, certificate.key)
    client = ssl.create_default_context(cafile=authority.certificate)
    here, there = socket.socketpair()

    def accept() -> None:
        try:
            server.wrap_socket(there, server_side=True).close()
        except OSError:
            there.close()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        with client.wrap_socket(here, server_hostname=name):
            pass
    finally:
        here.close()
        thread.join()


@pytest.mark.parametrize("name", ["box.fleet.test", "hills.test", "127.0.0.1"])
def test_a_client_that_trusts_the_root_accepts_the_names_in_a_certificate(tmp_path: Path, name: str) -> None:
    authority = Authority(tmp_path)
    _handshake(Authority(tmp_path), authority.issue("*.fleet.test", "hills.test", "127.0.0.1"), name)


def test_other_names_other_roots_and_expired_certificates_are_refused(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    for certificate in (
        authority.issue("other.test"),
        stranger.issue("hills.test"),
        authority.issue("hills.test", ends_in_days=-1),
    ):
        with pytest.raises(ssl.SSLCertVerificationError):
            _handshake(authority, certificate, "hills.test")
