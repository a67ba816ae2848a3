"""Mutual authentication, encryption and replay protection of a link.

Design: Noise_IK_25519_ChaChaPoly_BLAKE2b between ends that know each other (the initiator must know the responder's
key, the responder looks the initiator's up), Noise_NN between strangers who are about to pair. Static keys are the
X25519 form of the ed25519 identities.

Properties, from the Noise specification's section 7.7 and what `rendezvous.py` adds:

- Mutual authentication, forward secrecy once the first sealed frame has passed each way, resistance to
  key-compromise impersonation from then on.
- Neither identity is ever on the wire in clear. The initiator's is encrypted to the responder's key; the responder
  sends none and answers nothing to whoever does not know its key (a passive listener who later steals the
  responder's key learns who had called).
- A replayed first message gets an answer that only the true initiator can use; no session is replaced before its
  owner has sealed a frame with the new keys.
- Sealed frames have a 64-bit counter (its low 15, 13 or 5 bits on the wire), each is accepted once, and only within 4,096
  of the newest.
- Strangers (NN) get encryption against listeners only; `pairing.py` binds its proof to `Channel.handshake_hash`, so
  a man in the middle is found out.
- Keys live as long as the session. Lengths and times of frames are not hidden.

Bytes: first message 103, second 55 (59 with a connection id), frame overhead 18 (counter 2, tag 16) plus the
connection id. Where both ends say so in their `Terms` (thin lines, on which no frame overtakes another) frames are
*compact*: tags of 8 bytes (see `short_tags.py`), and a counter of one byte as long as the other end has acknowledged one
of the last `REACH` frames, so 9 or 10 in all. Handshake messages always have whole tags, and what is agreed there is authentic.

All first bytes below 40 hex are handshake kinds, 40 and above start a sealed frame::

    20 <IK message 1>   21 <IK message 2>   22 <NN message 1>   23 <NN message 2>
    24 <first 8 bytes of the frame that could not be read, or nothing>      "I have no session, please start one"
    1 bit set, 15 bits counter, connection id, ciphertext and tag of 16
    bits 011, 13 bits counter, connection id, ciphertext and tag of 8       (compact)
    bits 010, 5 bits counter, connection id, ciphertext and tag of 8        (compact, short)

Forgeries of compact frames: each try succeeds with probability 2^-64, at the rate of a line of 64 kbit/s once in a
billion years. After `MAX_FORGED` (2^16) frames that were not authentic a session with such tags ends and new keys
are made, so nobody forges a frame of it with a better chance than 2^-48. Everything with a plausible counter counts:
damage, and on a shared channel what others say to each other, for none of it can be told from a try. That costs
little: strangers must fill the air with 65,536 frames, the better part of an hour of a 5 kbit/s channel and more than
any jammer needs, to make us spend some 200 bytes on a handshake; what was under way is then sent again. A lower limit
would let a busy channel interrupt its own sessions, and gain nothing: a try that failed teaches nothing about the next.

Amateur bands forbid encryption: a channel that signs without encrypting would be a second class with the methods of
`Channel`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from transports.identity import BadKey, Identity, dh_public, public_key_from_dh, sign_bit
from transports.link import noise, short_tags
from transports.link.noise import Handshake, NoiseError, Pattern

PROLOGUE = b"edgeserver link 1"
VERSION = 1
IK1, IK2, NN1, NN2, WAKE = 0x20, 0x21, 0x22, 0x23, 0x24
COUNTER = 2
SEALED = 0x40  # the least first byte of a sealed frame
REACH = 16
"""Frames that may be lost one after another before one with a short counter could be taken for another."""
MAX_FORGED = 1 << 16
_SHORT_MARK, _SHORT_SPAN = 0x40, 32
_REPLAY_WINDOW = 4096


class Refused(Exception):
    """A frame that is not authentic, was seen before, is too old, or comes from somebody unknown."""


class Forged(Refused):
    """A sealed frame whose tag is wrong: damaged, another session's, or forged."""


@dataclass(frozen=True)
class Terms:
    """What one end tells the other during the handshake.

    `max_message` in bytes (a power of two); `ack_delay` and `keepalive` in seconds (0: sends no keep-alives); `mtu`
    the longest frame that it takes; `connection_id` 0 to 8 bytes which it wants to see in each sealed frame;
    `compact`: that it takes compact frames and short acknowledgements, which are used if both say so.

    On the wire: version, 1 bit lost in the sender's key and 7 bits log2 of `max_message`, 1 bit `compact` and 7 bits
    `ack_delay` in 1/50 s, `keepalive` in seconds, `mtu` (2 bytes), `connection_id`. An end that does not know
    `compact` sends that bit as 0 and takes a 1 for 2.56 s more of `ack_delay`: it works, and waits longer before it
    sends again.
    """

    max_message: int
    mtu: int
    ack_delay: float = 0.025
    keepalive: float = 0.0
    connection_id: bytes = b""
    compact: bool = False

    def encode(self, bit: int) -> bytes:
        delay = self.compact << 7 | self._tick(self.ack_delay * 50, 127)
        head = (VERSION, bit << 7 | (self.max_message.bit_length() - 1), delay, self._tick(self.keepalive, 255))
        return bytes(head) + self.mtu.to_bytes(2, "big") + self.connection_id

    @staticmethod
    def _tick(value: float, most: int) -> int:
        return min(most, -int(-value // 1))

    @classmethod
    def decode(cls, data: bytes) -> tuple[Terms, int]:
        """The terms and the lost bit of the sender's public key. Raises `Refused`."""
        if not 6 <= len(data) <= 14 or data[0] != VERSION:
            raise Refused("the other end speaks another version of the link protocol")
        exponent, mtu = data[1] & 0x7F, int.from_bytes(data[4:6], "big")
        if not 10 <= exponent <= 30 or mtu < 64:
            raise Refused("impossible terms")
        return cls(1 << exponent, mtu, (data[2] & 0x7F) / 50, float(data[3]), data[6:], data[2] >= 0x80), data[1] >> 7


class Channel:
    """The two directions of an established session: seals frames, and opens each authentic one once.

    `forged` counts frames with a plausible counter and a wrong tag.
    """

    def __init__(self, handshake: Handshake, *, own_id: bytes = b"", peer_id: bytes = b"", compact: bool = False) -> None:
        self._send_key, self._receive_key = handshake.split()
        self.handshake_hash = handshake.hash
        self.compact = compact
        self.forged = 0
        if compact:
            self._mark, self._span, self._tag = 0x6000, 1 << 13, short_tags.TAG
            self._send_key, self._receive_key = short_tags.keys(self._send_key), short_tags.keys(self._receive_key)
            self._seal, self._unseal = short_tags.seal, short_tags.unseal
        else:
            self._mark, self._span, self._tag = 0x8000, 1 << 15, noise.TAG
            self._seal, self._unseal = noise.seal, noise.unseal
        self._own_id = own_id
        self._peer_id = peer_id
        self._next = 0
        self._newest = -1
        self._seen = 0  # bit n: counter newest - n was seen

    @property
    def overhead(self) -> int:
        """The most bytes that a sealed frame to the other end has beyond its plaintext."""
        return COUNTER + len(self._peer_id) + self._tag

    @property
    def next_counter(self) -> int:
        return self._next

    @property
    def worn_out(self) -> bool:
        """So many forgeries were tried that tags of this length should get new keys."""
        return self.compact and self.forged >= MAX_FORGED

    def seal(self, plaintext: bytes, *, after: int | None = None) -> bytes:
        """The next frame; its number is `next_counter` as it was before the call. `after`: the newest that the other end has acknowledged
        (-1: none), if that is known and frames do not overtake each other.
        """
        if self.compact and after is not None and self._next - after <= REACH:
            head = bytes((_SHORT_MARK | self._next % _SHORT_SPAN,)) + self._peer_id
        else:
            head = (self._mark | self._next % self._span).to_bytes(2, "big") + self._peer_id
        frame = head + self._seal(self._send_key, self._next, head, plaintext)
        self._next += 1
        return frame

    def open(self, frame: bytes) -> tuple[int, bytes, bool]:
        """(counter, plaintext, is it the newest so far). Raises `Refused`, `Forged` for a wrong tag."""
        is_short = self.compact and frame[0] & 0xE0 == _SHORT_MARK
        width, mark, span = (1, _SHORT_MARK, _SHORT_SPAN) if is_short else (COUNTER, self._mark, self._span)
        size = width + len(self._own_id)
        head, rest = frame[:size], frame[size:]
        low = int.from_bytes(head[:width], "big") ^ mark
        if len(rest) < self._tag or low >= span or head[width:] != self._own_id:
            raise Refused("not a sealed frame of this session")
        counter = expand(low, self._newest + 1, span)
        age = self._newest - counter
        if age >= _REPLAY_WINDOW or (age >= 0 and self._seen >> age & 1):
            raise Refused("seen before or too old")
        try:
            plaintext = self._unseal(self._receive_key, counter, head, rest)
        except NoiseError as error:
            self.forged += 1
            raise Forged(str(error)) from error
        if age < 0:
            self._seen = (self._seen << -age | 1) & (1 << _REPLAY_WINDOW) - 1
            self._newest = counter
        else:
            self._seen |= 1 << age
        return counter, plaintext, age < 0


def expand(low: int, near: int, span: int) -> int:
    """The number whose remainder by `span` is `low` and that lies nearest to `near` (never negative)."""
    value = near - near % span + low
    if value > near + span // 2:
        value -= span
    elif value <= near - span // 2:
        value += span
    return value if value >= 0 else value + span


class Initiation:
    """Our first message and what is needed to read the answer. `peer_key` None: to a stranger, for pairing."""

    def __init__(self, identity: Identity, peer_key: bytes | None, terms: Terms, ephemeral: bytes) -> None:
        self.peer_key = peer_key
        self._terms = terms
        pattern: Pattern = "NN" if peer_key is None else "IK"
        self._handshake = Handshake(
            pattern,
            initiator=True,
            prologue=PROLOGUE,
            ephemeral=ephemeral,
            static=identity.dh_private,
            remote_static=None if peer_key is None else dh_public(peer_key),
        )
        kind = NN1 if peer_key is None else IK1
        self.message = bytes([kind]) + self._handshake.write(terms.encode(sign_bit(identity.public_key)))

    def finish(self, answer: bytes) -> tuple[Channel, Terms]:
        """Reads the second message. Raises `Refused`, after which another answer may still be tried."""
        if answer[:1] != bytes([NN2 if self.peer_key is None else IK2]):
            raise Refused("an answer to something else")
        attempt = self._handshake.copy()
        try:
            terms, _ = Terms.decode(attempt.read(answer[1:]))
        except NoiseError as error:
            raise Refused(str(error)) from error
        compact = self._terms.compact and terms.compact
        return Channel(attempt, own_id=self._terms.connection_id, peer_id=terms.connection_id, compact=compact), terms


class Response:
    """A first message that was read, before it is answered: `peer_key` is who claims to call (None: a stranger)."""

    def __init__(self, identity: Identity, first: bytes, ephemeral: bytes) -> None:
        """Raises `Refused`."""
        if first[0] not in (IK1, NN1):
            raise Refused("not a first message")
        pattern: Pattern = "IK" if first[0] == IK1 else "NN"
        self._kind = IK2 if first[0] == IK1 else NN2
        self._handshake = Handshake(pattern, initiator=False, prologue=PROLOGUE, ephemeral=ephemeral, static=identity.dh_private)
        try:
            self.peer_terms, bit = Terms.decode(self._handshake.read(first[1:]))
            remote = self._handshake.remote_static
            self.peer_key = None if remote is None else public_key_from_dh(remote, bit)
        except (NoiseError, BadKey) as error:
            raise Refused(str(error)) from error

    def answer(self, terms: Terms) -> tuple[bytes, Channel]:
        """The second message and the channel;

        nothing may be believed of the channel before a frame was opened with it.
        """
        compact = terms.compact and self.peer_terms.compact
        message = bytes([self._kind]) + self._handshake.write(replace(terms, compact=compact).encode(0))
        own_id, peer_id = terms.connection_id, self.peer_terms.connection_id
        return message, Channel(self._handshake, own_id=own_id, peer_id=peer_id, compact=compact)
