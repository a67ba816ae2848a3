"""Pairing: two ends that have never met learn each other's name and public key, and that nobody sits between them.

The *host* shows a code (`K7QM-2XPA`, 40 bits) and a QR code (a 16-byte secret, with the host's name and key); the
*guest* types the one or scans the other. Both talk over an anonymous session (Noise_NN, see `secure.py`), whose
handshake hash differs at the two ends if somebody is in the middle::

    guest → host    01  method (0 code, 1 QR), name, public key, SPAKE2 message (code only)
    host  → guest   02  name, public key, SPAKE2 message (code only)
    guest → host    03  proof
    host  → guest   04  proof          or 05 reason

All fields have a length byte. The secret K is the SPAKE2 result (RFC 9382's protocol as in the `spake2` package,
over ed25519) or the QR secret; a proof is BLAKE2b-256 keyed with K over the role, the handshake hash, and everything
said before. The guest proves first: a wrong guess costs a try and teaches nothing more. `MAX_TRIES` wrong tries or
the end of its lifetime close the offer; success uses it up.

If the line breaks before message 04 arrives the host may know the guest but not the other way round. So a code that
is used up still serves the guest who used it: he comes again, and both know each other.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl, quote

from transports.exchange import Interrupted, Priority, Unreachable
from transports.identity import BadKey, dh_public

if TYPE_CHECKING:
    from collections.abc import Callable

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
MAX_TRIES = 3
LIFETIME = 600.0
_BY_CODE, _BY_QR = 0, 1
_HELLO, _ANSWER, _GUEST_PROOF, _HOST_PROOF, _REFUSAL = 1, 2, 3, 4, 5
_QR_PREFIX = "edgeserver:pair?"
_MAX_NAME = 230


class PairingFailed(Exception):
    """Nobody was paired; the text says why, for the person in front of the screen."""


@dataclass(frozen=True)
class Paired:
    """The other end, proven: `name` is what it calls itself."""

    name: str
    public_key: bytes


# ---- what a person types or scans


def make_code(random: bytes) -> str:
    """Five random bytes as eight letters and digits that are hard to mistake."""
    number = int.from_bytes(random[:5], "big")
    letters = "".join(ALPHABET[number >> 5 * place & 31] for place in reversed(range(8)))
    return f"{letters[:4]}-{letters[4:]}"


def normalise_code(text: str) -> str:
    """What was meant: case, spaces and dashes do not matter. Raises `PairingFailed`."""
    code = re.sub(r"[\s-]", "", text).upper()
    if len(code) != 8 or not set(code) <= set(ALPHABET):
        raise PairingFailed("a pairing code looks like K7QM-2XPA; it has no 0, 1, I or O")
    return code


@dataclass(frozen=True)
class PairingQR:
    """The content of the QR code: `edgeserver:pair?n=<name>&k=<key, hex>&s=<secret, hex>`."""

    name: str
    public_key: bytes
    secret: bytes = field(repr=False)

    def format(self) -> str:
        return f"{_QR_PREFIX}n={quote(self.name, safe='')}&k={self.public_key.hex()}&s={self.secret.hex()}"

    @classmethod
    def parse(cls, text: str) -> PairingQR:
        """Raises `PairingFailed`."""
        text = text.strip()
        try:
            if not text.startswith(_QR_PREFIX) or len(text) > 1000:
                raise ValueError
            fields = dict(parse_qsl(text[len(_QR_PREFIX) :], strict_parsing=True, max_num_fields=8))
            key, secret = bytes.fromhex(fields["k"]), bytes.fromhex(fields["s"])
            if len(secret) != 16 or not 0 < len(fields["n"].encode()) <= _MAX_NAME:
                raise ValueError
            dh_public(key)
        except (ValueError, KeyError, BadKey) as error:
            raise PairingFailed("this is not an edgeserver pairing code") from error
        return cls(fields["n"], key, secret)


# ---- messages


def _pack(kind: int, *fields: bytes) -> bytes:
    return bytes([kind]) + b"".join(bytes([len(each)]) + each for each in fields)


def _unpack(message: bytes, kind: int, count: int) -> list[bytes]:
    if message[:1] == bytes([_REFUSAL]):
        raise PairingFailed("the other end refused: " + message[2:200].decode(errors="replace"))
    fields, at = [], 1
    while at < len(message):
        stop = at + 1 + message[at]
        fields.append(message[at + 1 : stop])
        at = stop
    if message[:1] != bytes([kind]) or len(fields) != count or at != len(message):
        raise PairingFailed("the other end did not keep to the pairing protocol")
    return fields


def _peer(name: bytes, public_key: bytes) -> Paired:
    try:
        dh_public(public_key)
        text = name.decode()
    except (BadKey, UnicodeDecodeError) as error:
        raise PairingFailed("the other end's name or key is malformed") from error
    if not 0 < len(name) <= _MAX_NAME or not text.isprintable():
        raise PairingFailed("the other end's name is malformed")
    return Paired(text, public_key)


def _proof(secret: bytes, role: bytes, handshake_hash: bytes, said: bytes) -> bytes:
    return hashlib.blake2b(role + handshake_hash + said, digest_size=32, key=secret, person=b"edgeserver pair").digest()


# ---- the host


class Offer:
    """An open pairing: the code, the QR secret, the tries that are left.

    One offer serves all sessions until it is used or closed.
    """

    def __init__(self, name: str, public_key: bytes, *, now: float, random: Callable[[int], bytes]) -> None:
        self.name = name
        self.public_key = public_key
        self.code = make_code(random(5))
        self.qr = PairingQR(name, public_key, random(16))
        self.expires_at = now + LIFETIME
        self.tries_left = MAX_TRIES
        self.used_by: bytes | None = None

    @property
    def used(self) -> bool:
        return self.used_by is not None

    def trouble(self, now: float, guest: bytes | None = None) -> str | None:
        """Why it does not stand any more, if it does not, for a guest with that key."""
        if self.used_by not in (None, guest):
            return "this code has been used"
        if self.tries_left <= 0:
            return "too many wrong codes; ask for a new one"
        return "this code has expired; ask for a new one" if now >= self.expires_at else None


class PairingHost:
    """The host's side of one session (sans-io). `receive` takes a message and gives the answer;

    `paired` is set at the end.
    """

    def __init__(self, offer: Offer, handshake_hash: bytes, random: Callable[[int], bytes]) -> None:
        self._offer = offer
        self._hash = handshake_hash
        self._random = random
        self._said = b""
        self._secret = b""
        self._guest: Paired | None = None
        self.paired: Paired | None = None

    def receive(self, message: bytes, now: float) -> bytes:
        """Raises `PairingFailed`, whose text should be sent back with `refusal`."""
        if self._guest is not None:
            self._check_offer(now, self._guest)
            return self._prove(message, self._guest)
        method, name, key, blinded = _unpack(message, _HELLO, 4)
        guest = _peer(name, key)
        self._check_offer(now, guest)
        self._guest = guest
        return self._answer(message, method, blinded)

    def _check_offer(self, now: float, guest: Paired) -> None:
        trouble = self._offer.trouble(now, guest.public_key)
        if trouble is not None:
            raise PairingFailed(trouble)

    def _answer(self, message: bytes, method: bytes, blinded: bytes) -> bytes:
        offer = self._offer
        if method == bytes([_BY_QR]):
            own, self._secret = b"", offer.qr.secret
        elif method == bytes([_BY_CODE]):
            own, self._secret = _spake2("A", offer.code, blinded, self._random)
        else:
            raise PairingFailed("an unknown way to pair")
        answer = _pack(_ANSWER, offer.name.encode(), offer.public_key, own)
        self._said = message + answer
        return answer

    def _prove(self, message: bytes, guest: Paired) -> bytes:
        (proof,) = _unpack(message, _GUEST_PROOF, 1)
        if not hmac.compare_digest(proof, _proof(self._secret, b"guest", self._hash, self._said)):
            self._offer.tries_left -= 1
            raise PairingFailed("the code was wrong")
        self._offer.used_by = guest.public_key
        self.paired = guest
        return _pack(_HOST_PROOF, _proof(self._secret, b"host", self._hash, self._said + message))


def refusal(reason: str) -> bytes:
    return _pack(_REFUSAL, reason.encode()[:200])


# ---- the guest


class PairingGuest:
    """The guest's side of one session (sans-io): send `hello`, then feed each message to `receive` and send what it
    gives.

    `secret` is what the person typed (a code) or what was scanned (a `PairingQR`).
    """

    def __init__(
        self, name: str, public_key: bytes, secret: str | PairingQR, handshake_hash: bytes, random: Callable[[int], bytes]
    ) -> None:
        self._hash = handshake_hash
        self._qr = secret if isinstance(secret, PairingQR) else None
        self._host: Paired | None = None
        self.paired: Paired | None = None
        self._secret = b"" if self._qr is None else self._qr.secret
        blinded = b""
        if not isinstance(secret, PairingQR):
            self._exchange = _Spake2("B", normalise_code(secret), random)
            blinded = self._exchange.message
        method = bytes([_BY_CODE if self._qr is None else _BY_QR])
        self.hello = self._said = _pack(_HELLO, method, name.encode(), public_key, blinded)

    def receive(self, message: bytes) -> bytes | None:
        """The next message to send, None when done. Raises `PairingFailed`."""
        if self._host is None:
            name, key, blinded = _unpack(message, _ANSWER, 3)
            self._host = _peer(name, key)
            if self._qr is None:
                self._secret = self._exchange.finish(blinded)
            elif key != self._qr.public_key or self._host.name != self._qr.name:
                raise PairingFailed("the box at the other end is not the one whose code was scanned")
            self._said += message
            proof = _pack(_GUEST_PROOF, _proof(self._secret, b"guest", self._hash, self._said))
            self._said += proof
            return proof
        (proof,) = _unpack(message, _HOST_PROOF, 1)
        if not hmac.compare_digest(proof, _proof(self._secret, b"host", self._hash, self._said)):
            raise PairingFailed("the other end does not know the code")
        self.paired = self._host
        return None


# ---- SPAKE2


class _Spake2:
    def __init__(self, side: str, code: str, random: Callable[[int], bytes]) -> None:
        from spake2 import SPAKE2_A, SPAKE2_B  # slow to import, and needed only while somebody pairs

        kind = SPAKE2_A if side == "A" else SPAKE2_B
        self._state = kind(code.replace("-", "").encode(), entropy_f=random)
        self.message: bytes = self._state.start()

    def finish(self, theirs: bytes) -> bytes:
        """Raises `PairingFailed`."""
        from spake2 import SPAKEError

        try:
            result: bytes = self._state.finish(theirs)
        except (SPAKEError, ValueError, AssertionError, IndexError) as error:
            raise PairingFailed("the other end's SPAKE2 message is malformed") from error
        return result


def _spake2(side: str, code: str, theirs: bytes, random: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    state = _Spake2(side, code, random)
    return state.message, state.finish(theirs)


# ---- the coroutines that move the messages


class _Talk(Protocol):
    @property
    def handshake_hash(self) -> bytes: ...

    async def send(self, message: bytes, *, priority: Priority = ...) -> None: ...

    async def receive(self) -> bytes: ...


async def host(connection: _Talk, offer: Offer, clock: Callable[[], float], random: Callable[[int], bytes]) -> Paired:
    """Serves one guest on an anonymous connection. Raises `PairingFailed` or `LinkDown`; the offer may stand for another try.

    The last message goes to a guest who has proved that he knows the code. He may have it although nobody acknowledged it: then he is
    paired with us, and we are with him.
    """
    state = PairingHost(offer, connection.handshake_hash, random)
    while state.paired is None:
        message = await connection.receive()
        try:
            answer = state.receive(message, clock())
        except PairingFailed as error:
            await connection.send(refusal(str(error)), priority=Priority.INTERACTIVE)
            raise
        try:
            await connection.send(answer, priority=Priority.INTERACTIVE)
        except Interrupted:
            if state.paired is None:
                raise
        except Unreachable:
            offer.used_by = None
            raise
    return state.paired


async def guest(connection: _Talk, name: str, public_key: bytes, secret: str | PairingQR, random: Callable[[int], bytes]) -> Paired:
    """Pairs with the host at the other end. Raises `PairingFailed` or `LinkDown`."""
    state = PairingGuest(name, public_key, secret, connection.handshake_hash, random)
    await connection.send(state.hello, priority=Priority.INTERACTIVE)
    while (answer := state.receive(await connection.receive())) is not None:
        await connection.send(answer, priority=Priority.INTERACTIVE)
    if state.paired is None:
        raise PairingFailed("the pairing ended without a result")
    return state.paired
