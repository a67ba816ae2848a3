"""The Noise Protocol Framework, revision 34: the part that we use.

`Noise_IK_25519_ChaChaPoly_BLAKE2b` and `Noise_NN_25519_ChaChaPoly_BLAKE2b`: sections 5 (processing rules) and 7.4, 7.5 (patterns) of
https://noiseprotocol.org/noise.html. Primitives are libsodium's X25519 and ChaCha20-Poly1305 (IETF) and hashlib's BLAKE2b.
Ephemeral keys are arguments: nothing here draws random numbers.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
from typing import Literal

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)
from nacl.exceptions import CryptoError

TAG = 16
KEY = 32
Pattern = Literal["IK", "NN"]

# Message patterns; IK has the pre-message "<- s".
PATTERNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "IK": (("e", "es", "s", "ss"), ("e", "ee", "se")),
    "NN": (("e",), ("e", "ee")),
}


class NoiseError(Exception):
    """The message is not authentic, is cut short, or carries a key of small order."""


def nonce(counter: int) -> bytes:
    """The 12 bytes that ChaCha20-Poly1305 wants for a counter (section 12.3)."""
    return bytes(4) + counter.to_bytes(8, "little")


def seal(key: bytes, counter: int, associated: bytes, plaintext: bytes) -> bytes:
    """ENCRYPT(k, n, ad, plaintext) of section 12.3."""
    return crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, associated, nonce(counter), key)


def unseal(key: bytes, counter: int, associated: bytes, ciphertext: bytes) -> bytes:
    """DECRYPT(k, n, ad, ciphertext). Raises `NoiseError`."""
    if len(ciphertext) < TAG:
        raise NoiseError("shorter than its tag")
    try:
        return crypto_aead_chacha20poly1305_ietf_decrypt(ciphertext, associated, nonce(counter), key)
    except CryptoError as error:
        raise NoiseError("not authentic") from error


def _dh(private: bytes, public: bytes) -> bytes:
    try:
        return crypto_scalarmult(private, public)
    except CryptoError as error:  # an all-zero result
        raise NoiseError("a key of small order") from error


class Handshake:
    """One side's handshake state (section 5.3). `write` and `read` alternate, the initiator writes first; after two messages `split`."""

    def __init__(
        self,
        pattern: Pattern,
        *,
        initiator: bool,
        prologue: bytes,
        ephemeral: bytes,
        static: bytes | None = None,
        remote_static: bytes | None = None,
    ) -> None:
        name = f"Noise_{pattern}_25519_ChaChaPoly_BLAKE2b".encode()
        self.hash = name.ljust(64, b"\0")
        self._chaining_key = self.hash
        self._key: bytes | None = None
        self._counter = 0
        self._initiator = initiator
        self._messages = PATTERNS[pattern]
        self._turn = 0
        self._e = ephemeral
        self._s = static
        self._re: bytes | None = None
        self.remote_static = remote_static
        self._mix_hash(prologue)
        if pattern == "IK":
            responder = remote_static if initiator else crypto_scalarmult_base(static or b"")
            self._mix_hash(responder or b"")

    def copy(self) -> Handshake:
        """A state to try a doubtful message on: a failed `read` spoils the state that it was tried on."""
        return copy.copy(self)

    def write(self, payload: bytes) -> bytes:
        """The next handshake message."""
        out = b""
        for token in self._messages[self._turn]:
            if token == "e":
                public = crypto_scalarmult_base(self._e)
                self._mix_hash(public)
                out += public
            elif token == "s":
                out += self._encrypt(crypto_scalarmult_base(self._s or b""))
            else:
                self._mix_dh(token)
        self._turn += 1
        return out + self._encrypt(payload)

    def read(self, message: bytes) -> bytes:
        """The payload of the other side's message. Raises `NoiseError`."""
        rest = message
        for token in self._messages[self._turn]:
            if token == "e":
                self._re, rest = rest[:KEY], rest[KEY:]
                if len(self._re) < KEY:
                    raise NoiseError("cut short")
                self._mix_hash(self._re)
            elif token == "s":
                self.remote_static, rest = self._decrypt(rest[: KEY + TAG]), rest[KEY + TAG :]
            else:
                self._mix_dh(token)
        self._turn += 1
        return self._decrypt(rest)

    def split(self) -> tuple[bytes, bytes]:
        """The keys to send and to receive with (section 5.2, Split)."""
        first, second = self._hkdf(b"")
        return (first, second) if self._initiator else (second, first)

    def _mix_dh(self, token: str) -> None:
        # "es": initiator's e with responder's s; "se" the other way round.
        mine, theirs = (token[0], token[1]) if self._initiator else (token[1], token[0])
        private = self._e if mine == "e" else self._s
        public = self._re if theirs == "e" else self.remote_static
        self._chaining_key, self._key = self._hkdf64(_dh(private or b"", public or b""))
        self._counter = 0

    def _hkdf64(self, material: bytes) -> tuple[bytes, bytes]:
        temporary = hmac.digest(self._chaining_key, material, "blake2b")
        first = hmac.digest(temporary, b"\x01", "blake2b")
        second = hmac.digest(temporary, first + b"\x02", "blake2b")
        return first, second[:KEY]

    def _hkdf(self, material: bytes) -> tuple[bytes, bytes]:
        first, second = self._hkdf64(material)
        return first[:KEY], second

    def _mix_hash(self, data: bytes) -> None:
        self.hash = hashlib.blake2b(self.hash + data).digest()

    def _encrypt(self, plaintext: bytes) -> bytes:
        out = plaintext
        if self._key is not None:
            out = seal(self._key, self._counter, self.hash, plaintext)
            self._counter += 1
        self._mix_hash(out)
        return out

    def _decrypt(self, ciphertext: bytes) -> bytes:
        out = ciphertext
        if self._key is not None:
            out = unseal(self._key, self._counter, self.hash, ciphertext)
            self._counter += 1
        self._mix_hash(ciphertext)
        return out
