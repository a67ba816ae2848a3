"""A certificate authority for tests: P-256, with wildcard and IP names."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """Paths of PEM files; `chain` holds the certificate alone (it is signed by the root)."""

    chain: Path
    key: Path


class Authority:
    """A root whose certificate is at `certificate`; the same directory gives the same root again."""

    def __init__(self, directory: Path, name: str = "Edge lab root") -> None:
        self.directory = directory
        self.certificate = directory / "ca.pem"
        key_path = directory / "ca.key"
        directory.mkdir(parents=True, exist_ok=True)
        if key_path.exists():
            self._key = serialization.load_pem_private_key(key_path.read_bytes(), None)
            self._root = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            return
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _dated(subject, subject, self._key.public_key(), 0, 3650)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        self._root = builder.sign(self._key, hashes.SHA256())
        self.certificate.write_bytes(self._root.public_bytes(serialization.Encoding.PEM))
        _write_key(key_path, self._key)

    def issue(self, *names: str, starts_in_days: int = -1, ends_in_days: int = 30) -> Certificate:
        """A server certificate for DNS names (`*.example.org` too) and IP addresses; new at every call.

        Negative `ends_in_days` makes one that has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        builder = _dated(subject, self._root.subject, key.public_key(), starts_in_days, ends_in_days)
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._root.public_key()), critical=False)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        certificate = builder.sign(self._key, hashes.SHA256())
        stem = f"{names[0].replace('*', 'any').replace(':', '_')}-{certificate.serial_number:x}"[:80]
        paths = Certificate(self.directory / f"{stem}.pem", self.directory / f"{stem}.key")
        paths.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(paths.key, key)
        return paths


def _dated(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, starts_in_days: int, ends_in_days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    starts = min(starts_in_days, ends_in_days - 1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now + starts * _DAY).not_valid_after(now + ends_in_days * _DAY)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return x509.DNSName(name)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
