"""Authenticated encryption with tags of 8 bytes, for lines so thin that 16 are a good part of a message.

Encrypt, then authenticate: ChaCha20 (RFC 8439), and over counter, associated data and ciphertext a keyed BLAKE2b whose
digest is 8 bytes long (RFC 7693 section 2.9). Keyed BLAKE2b is a pseudorandom function at every length of its digest:
each forged frame passes with probability 2^-64, whatever was sent and tried before. The precedents are AES-CCM_8 of
RFC 6655, whose tags are as long, and SRTP (RFC 3711), whose are shorter still.

Poly1305 tags are not merely cut in two, for its proof holds for whole tags: one zero byte more of ciphertext changes
the low half of the sum by one of about 2^52 values. AES-CCM_8 would need `cryptography`, megabytes of memory that a
box on a thin line otherwise never loads; BLAKE2b is the hash of the handshake already.

PyNaCl has no bare ChaCha20, but it is an exclusive or with a key stream: ChaCha20-Poly1305 applied to a ciphertext
gives the plaintext. Its tag is thrown away. Nothing is decrypted before the tag was found right.
"""

from __future__ import annotations

import hashlib
import hmac

from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt

from transports.link.noise import KEY, NoiseError, nonce
from transports.link.noise import TAG as _POLY1305_TAG

TAG = 8
_PERSON = b"edgeserver short"


def keys(key: bytes) -> bytes:
    """What `seal` and `unseal` take as their key, 64 bytes, from one direction's 32 of the handshake.

    Unrelated to what else is done with that.
    """
    return hashlib.blake2b(key=key, person=_PERSON, digest_size=2 * KEY).digest()


def seal(key: bytes, counter: int, associated: bytes, plaintext: bytes) -> bytes:
    """Ciphertext and tag. A counter is never used twice with the same key."""
    ciphertext = _cipher(key, counter, plaintext)
    return ciphertext + _tag(key, counter, associated, ciphertext)


def unseal(key: bytes, counter: int, associated: bytes, ciphertext: bytes) -> bytes:
    """The plaintext of what `seal` gave. Raises `NoiseError`."""
    if len(ciphertext) < TAG:
        raise NoiseError("shorter than its tag")
    rest, tag = ciphertext[:-TAG], ciphertext[-TAG:]
    if not hmac.compare_digest(tag, _tag(key, counter, associated, rest)):
        raise NoiseError("not authentic")
    return _cipher(key, counter, rest)


def _cipher(key: bytes, counter: int, data: bytes) -> bytes:
    return crypto_aead_chacha20poly1305_ietf_encrypt(data, None, nonce(counter), key[:KEY])[:-_POLY1305_TAG]


def _tag(key: bytes, counter: int, associated: bytes, ciphertext: bytes) -> bytes:
    head = nonce(counter) + len(associated).to_bytes(2, "big") + associated
    return hashlib.blake2b(head + ciphertext, key=key[KEY:], digest_size=TAG).digest()
