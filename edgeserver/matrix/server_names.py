"""Server names: the spec's grammar, and names that certify themselves.

Spec: appendices, "Server Name". A self-certifying name begins with a server's ed25519 public key, 32 bytes as 52
characters of lower-case RFC 4648 base32 without padding, as its first label: `<label>.<suffix>` behind a gateway,
`<label>.mesh` with no internet at all. Whoever holds such a name holds the key: nothing needs to be looked up.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final

MESH_SUFFIX: Final = "mesh"
"""The suffix of names that no gateway fronts."""

_LABEL_LENGTH = 52
_MAX_LENGTH = 255
_LABEL = re.compile(r"[a-z2-7]{52}")
_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_DNS_NAME = re.compile(r"[0-9A-Za-z.-]{1,255}")
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class ServerName:
    """A server name taken apart. `host` of an IPv6 literal keeps its brackets; `port` is None where none is written."""

    host: str
    port: int | None

    @property
    def is_ip_literal(self) -> bool:
        """Whether the host is an address and not a DNS name."""
        return self.host.startswith("[") or _is_ipv4(self.host)


def parse(name: str) -> ServerName | None:
    """Take a server name apart; None if it does not follow the grammar or is longer than 255 characters."""
    return _parse(name) if len(name) <= _MAX_LENGTH else None


def is_valid(name: str) -> bool:
    """Whether `name` follows the grammar of server names."""
    return parse(name) is not None


def label_of(public_key: bytes) -> str:
    """The first label of the name of the server with this ed25519 public key (32 bytes): 52 characters."""
    if len(public_key) != 32:
        raise ValueError("an ed25519 public key has 32 bytes")
    return base64.b32encode(public_key).decode("ascii").rstrip("=").lower()


def name_of(public_key: bytes, suffix: str = MESH_SUFFIX) -> str:
    """The self-certifying server name of this key under `suffix` (a gateway's domain, or `mesh`)."""
    return f"{label_of(public_key)}.{suffix}"


def key_of(server_name: str) -> bytes | None:
    """The public key (32 bytes) that a self-certifying name states; None for any other name.

    Exactly one spelling is accepted for each key: lower case, the four unused bits of the last character zero, no port.
    """
    return _key_of(server_name) if len(server_name) <= _MAX_LENGTH else None


def key_id_of(label: str) -> str:
    """The key id under which a self-certifying server signs: `ed25519:` and the first eight characters of its label.

    Takes the label or the whole name.
    """
    return f"ed25519:{label[:8]}"


def is_mesh(name: str) -> bool:
    """Whether this is a self-certifying name under `.mesh`, which DNS knows nothing of."""
    return name.endswith(f".{MESH_SUFFIX}") and len(name) == _LABEL_LENGTH + 5 and key_of(name) is not None


@lru_cache(maxsize=1024)
def _key_of(server_name: str) -> bytes | None:
    label, dot, suffix = server_name.partition(".")
    if not dot or not suffix or not _LABEL.fullmatch(label):
        return None
    parsed = parse(server_name)
    if parsed is None or parsed.port is not None:
        return None
    key = base64.b32decode(label.upper() + "====")
    return key if label_of(key) == label else None


@lru_cache(maxsize=1024)
def _parse(name: str) -> ServerName | None:
    if name.startswith("["):
        literal, bracket, rest = name.partition("]")
        host = literal + bracket
        if not bracket or not _is_ipv6(literal[1:]) or (rest and not rest.startswith(":")):
            return None
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = name.partition(":")
        if not _DNS_NAME.fullmatch(host):
            return None
    if not colon:
        return ServerName(host, None)
    if not _PORT.fullmatch(port) or int(port) > 65_535:
        return None
    return ServerName(host, int(port))


def _is_ipv4(host: str) -> bool:
    if not _IPV4.fullmatch(host):
        return False
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True


def _is_ipv6(text: str) -> bool:
    if "%" in text:
        return False
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
