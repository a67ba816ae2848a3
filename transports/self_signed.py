"""A box without a certificate authority: an X.509 certificate that it signs itself with its ed25519 key.

Whoever knows the key needs no authority: the TLS handshake proves that the other end holds the key in the certificate
(RFC 8410 for ed25519 in X.509), and `public_key` says which key that is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256


class CertificateError(ValueError):
    """Not an X.509 certificate with an ed25519 key."""


def make_certificate(seed: bytes, server_name: str, *, now: datetime, lifetime: timedelta) -> tuple[bytes, bytes]:
    """Certificate and private key, both PEM, for the 32-byte ed25519 `seed`.

    The subject alternative name is the host of `server_name` (an address or a DNS name; its port is left out). `now` is
    an aware datetime; the certificate is valid from a day before it, because a box's clock may be wrong.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return _self_signed(Ed25519PrivateKey.from_private_bytes(seed), None, server_name, now, lifetime)


def make_p256_certificate(server_name: str, *, now: datetime, lifetime: timedelta) -> tuple[bytes, bytes]:
    """As `make_certificate`, with a new key on the curve P-256: clients of CoAP over DTLS know no ed25519."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    return _self_signed(ec.generate_private_key(ec.SECP256R1()), SHA256(), server_name, now, lifetime)


def _self_signed(
    key: Ed25519PrivateKey | EllipticCurvePrivateKey, digest: SHA256 | None, server_name: str, now: datetime, lifetime: timedelta
) -> tuple[bytes, bytes]:
    import ipaddress
    from datetime import timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    host = host_of(server_name)
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, digest)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private


def public_key(certificate: bytes) -> bytes:
    """The 32 raw bytes of the ed25519 key in a DER certificate. Raises CertificateError."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError("not a certificate that can be read") from error
    if not isinstance(key, Ed25519PublicKey):
        raise CertificateError("not an ed25519 key")
    return key.public_bytes_raw()


def host_of(server_name: str) -> str:
    """The host of a Matrix server name: without its port, and without the brackets of an IPv6 address."""
    if server_name.startswith("["):
        return server_name[1:].partition("]")[0]
    return server_name.partition(":")[0]
