"""Who one end of a link is: an ed25519 key pair, and its X25519 form for the handshake.

The conversion is libsodium's `crypto_sign_ed25519_*_to_curve25519`: the map between the birational curves of RFC 7748 section 4.1.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from nacl.bindings import crypto_sign_ed25519_pk_to_curve25519, crypto_sign_ed25519_sk_to_curve25519
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey

_P = 2**255 - 19


class BadKey(ValueError):
    """These 32 bytes are no usable ed25519 public key."""


@dataclass(frozen=True)
class Identity:
    """A long-term identity from its 32-byte seed."""

    seed: bytes = field(repr=False)
    public_key: bytes = field(init=False)
    dh_private: bytes = field(init=False, repr=False)
    dh_public: bytes = field(init=False)
    _key: SigningKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key = SigningKey(self.seed)
        public_key = bytes(key.verify_key)
        put = object.__setattr__
        put(self, "_key", key)
        put(self, "public_key", public_key)
        put(self, "dh_private", crypto_sign_ed25519_sk_to_curve25519(self.seed + public_key))
        put(self, "dh_public", dh_public(public_key))

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(data).signature


def dh_public(public_key: bytes) -> bytes:
    """The X25519 form of an ed25519 public key. Raises `BadKey`, for small subgroups too."""
    try:
        return crypto_sign_ed25519_pk_to_curve25519(public_key)
    except (CryptoError, TypeError, ValueError) as error:
        raise BadKey("not an ed25519 public key") from error


def sign_bit(public_key: bytes) -> int:
    """The one bit of an ed25519 public key that its X25519 form has lost."""
    return public_key[31] >> 7


def public_key_from_dh(dh_key: bytes, bit: int) -> bytes:
    """The ed25519 public key of an X25519 key and the lost bit: y = (u - 1) / (u + 1) (RFC 7748 section 4.1). Raises `BadKey`."""
    u = int.from_bytes(dh_key, "little") % 2**255
    if (u + 1) % _P == 0:
        raise BadKey("no ed25519 point belongs to this X25519 key")
    y = (u - 1) * pow(u + 1, -1, _P) % _P
    public_key = (y | (bit & 1) << 255).to_bytes(32, "little")
    if dh_public(public_key) != dh_key:
        raise BadKey("no ed25519 point belongs to this X25519 key")
    return public_key


def client_identity(public_key: bytes) -> str:
    """How a paired client device is called in `LinkProfile.peer`."""
    return "client:" + base64.b32encode(public_key).decode().rstrip("=").lower()
