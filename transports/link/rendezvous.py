"""Who starts, who answers, and when one session takes another's place (sans-io).

    who           state                 on                               does
    ───────────   ───────────────────   ──────────────────────────────   ───────────────────────────────────────────
    knows a peer  no session            start, redial time, a WAKE       first message, repeated at growing pauses
    knows nobody  no session            start, a frame it cannot read    WAKE: "please start one", repeated as calls are
    either        any                   first message of a known peer    answer; the session is *pending*
    either        any                   the same of anybody else         nothing at all
    either        pending               a frame that its keys open       the session is up, the one before is over
    caller        first message is out  the answer                       the session is up, a PING at once confirms it
    either        first message is out  the peer's first message         the smaller of the two messages stands
    caller        session up, unproven  the peer's first message         ask for a sign of life; answer only after a while
    either        session up            the session ends                 back to "no session"

A restarted peer therefore replaces its old session by itself, with its first frames, and an idle line needs no
heartbeat. But an idle caller goes on believing in a session that the other end has lost while the line was silent, so
WAKEs, like calls, never cease: else both would wait until the caller had something to say. But an end that nobody can
call, for it is paired with nobody who would come on this wire, says nothing at all, whatever it hears.

A first message has its effect once: `Spent` remembers those whose session came up. One of which this end does not know
that (recorded before it started, or never answered) makes a pending session that never comes up; nobody's call takes
the place of another's that is pending, unless it is of the same kind.

A WAKE is not authentic: it makes us call, and what is up stays up until the call succeeds. While a session is up it makes
us call at once only if it repeats the beginning of a frame of this session of ours, for only who hears us and has no
session can send that. Any other is doubtful, as noise may look like it: where datagrams may come from anybody nothing
comes of it, on a wire between two we ask the session for a sign of life, which its other end gives, or answers with such
a WAKE if it has lost it.

On a channel whose air many stations share, everybody hears every call and every WAKE. There a call is answered by the
one link that `Party.admits` it, and a session is replaced by its own peer alone. As all are asked by each WAKE, its
pauses grow longer there.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transports.exchange import Priority
from transports.link.secure import IK1, IK2, NN1, NN2, SEALED, WAKE, Forged, Initiation, Refused, Response, Terms
from transports.link.session import Session, ack_delay, takes_compact

if TYPE_CHECKING:
    from collections.abc import Callable

    from transports.identity import Identity
    from transports.link.airtime import DutyCycle
    from transports.link.wire import LinkStats, Wire

_MAX_PENDING = 2  # of those who are known, and as many strangers
_MAX_SPENT = 1024
_ANSWERS = 3  # how often an answer is given unasked; once on a shared wire, where the caller's address may be forged
_PENDING_LIFE = 30.0
_CALLS_BESIDE_SESSION = 5
_PAUSE = 30.0  # after a session was closed on purpose
_WAKE_PAUSE = 2.0
_QUIETER = 6
_UNANSWERED, _UNANSWERED_ON_AIR = 2, 4  # after a doubtful WAKE
_HEAD = 8


class Spent:
    """First messages that have had their effect, by their digests; the last 1,024, some 150 kB.

    It outlives the wire: whoever recorded a call cannot use it after the port was opened anew.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, None] = {}

    def add(self, first: bytes) -> None:
        self._seen[self._digest(first)] = None
        if len(self._seen) > _MAX_SPENT:
            del self._seen[next(iter(self._seen))]

    def __contains__(self, first: bytes) -> bool:
        return self._digest(first) in self._seen

    @staticmethod
    def _digest(first: bytes) -> bytes:
        return hashlib.blake2b(first, digest_size=16).digest()


@dataclass(frozen=True)
class Party:
    """Who we are and whom we talk to.

    `known` maps an ed25519 public key to the identity that `LinkProfile.peer` will show, None for a stranger.
    `peer_key` is whom to call (None: wait to be called; on a shared wire nobody else is answered); `as_stranger`:
    call anonymously, for pairing. `strangers_welcome` is asked when an anonymous call comes. `admits` is asked on a
    shared channel whether a caller (None: a stranger) is for this link, or for another of the same station. `expects`
    tells whether anybody is known who might call on this wire. `wakes(now, pause)` is asked on a shared channel whether
    a WAKE is for this link to send, or another of the same station has sent one within half that pause.
    """

    identity: Identity
    known: Callable[[bytes], str | None]
    peer_key: bytes | None = None
    as_stranger: bool = False
    strangers_welcome: Callable[[], bool] = lambda: False
    admits: Callable[[bytes | None], bool] = lambda key: True
    expects: Callable[[], bool] = lambda: True
    wakes: Callable[[float, float], bool] = lambda now, pause: True
    spent: Spent = field(default_factory=Spent)


@dataclass(frozen=True)
class Up:
    """A session came up; `peer` is None when it is with a stranger."""

    session: Session
    peer: str | None
    peer_key: bytes | None


@dataclass
class _Call:
    initiation: Initiation
    next_at: float
    tries: int = 0
    last: float = float("-inf")
    stood_back: bool = False  # since the last try


@dataclass
class _Pending:
    first: bytes
    answer: bytes
    up: Up
    next_at: float
    expires: float
    tries: int = 0


class Rendezvous:
    """One end of a wire that is open. `random(n)` gives n bytes; times are seconds of the caller's clock."""

    def __init__(
        self,
        party: Party,
        wire: Wire,
        *,
        duty: DutyCycle,
        stats: LinkStats,
        random: Callable[[int], bytes],
        max_message: int = 1 << 20,
        redial_cap: float = 600.0,
    ) -> None:
        self._party = party
        self._wire = wire
        self._duty = duty
        self._stats = stats
        self._random = random
        self._redial_cap = redial_cap
        self._terms = Terms(
            max_message=1 << (max_message - 1).bit_length(),
            mtu=wire.mtu,
            ack_delay=ack_delay(wire),
            keepalive=wire.keepalive,
            connection_id=wire.connection_id,
            compact=takes_compact(wire),
        )
        self._broadcast = wire.shared and wire.time_on_air(1) > 0  # all hear all; datagrams may come from anybody, but take no air
        # On a shared wire the channel may be busy with others' frames.
        self._base = 0.5 + (8 if wire.shared else 2.5) * wire.time_on_air(160)
        # The caller believes in its session until its patience ends, so the other end must not forget it sooner.
        self._pending_life = _PENDING_LIFE + 20 * (self._base - 0.5)
        self.session: Session | None = None
        self._peer_key: bytes | None = None  # of the session
        self._unproven_until = float("-inf")  # a session of our calling, of which nothing was heard yet
        self._doubted_until: float | None = None
        self.ups: deque[Up] = deque()
        self.urgency, self.asks = Priority.INTERACTIVE, False
        """Of the last frame that `next_frame` gave; see `Session`."""
        self._call: _Call | None = None
        self._call_at: float | None = None
        self._pending: list[_Pending] = []
        self._out: deque[bytes] = deque(maxlen=4)
        self._wakes = 0
        self._wake_at: float | None = None
        self._last_wake = float("-inf")
        self._heads: deque[bytes] = deque(maxlen=16)
        self._unreadables = 0
        self._heed_at = float("-inf")

    @property
    def vacant(self) -> bool:
        """Nothing is up, pending or being tried."""
        return not (self.session or self._pending or self._call or self._call_at or self._out)

    def start(self, now: float) -> None:
        """The wire is open."""
        if self._calls:
            self._call_at = now
        else:
            self._ask_for_call(now)

    def _ask_for_call(self, now: float) -> None:
        if not self._calls and (self._broadcast or not self._wire.shared):
            self._wakes, self._wake_at = 0, now

    def redial(self, now: float) -> None:
        """Somebody wants a connection: do not wait out a long pause."""
        if self.session is None and self._calls:
            self._hurry(now)

    @property
    def _calls(self) -> bool:
        return self._party.peer_key is not None or self._party.as_stranger

    # ---- frames in

    def receive(self, frame: bytes, now: float) -> bool:
        """Takes any frame; True when it was authentic and the newest of the session."""
        if not frame:
            return False
        try:
            if frame[0] >= SEALED:
                return self._receive_sealed(frame, now)
            if frame[0] in (IK1, NN1):
                self._receive_first(frame, now)
            elif frame[0] in (IK2, NN2):
                self._receive_answer(frame, now)
            elif frame[0] == WAKE:
                self._receive_wake(frame[1:], now)
            else:
                raise Refused("unknown kind of frame")
        except Forged:
            # A compact frame has no CRC: on a wire between two a wrong tag is what the CRC of others would have told.
            if frame[0] < 0x80 and not self._wire.shared:
                self._stats.crc_errors += 1
            else:
                self._stats.refused_frames += 1
        except Refused:
            self._stats.refused_frames += 1
        return False

    def _receive_sealed(self, frame: bytes, now: float) -> bool:
        if self.session is not None:
            try:
                newest = self.session.receive_frame(frame, now)
                self._unproven_until, self._doubted_until = float("-inf"), None
                return newest
            except Refused:
                if not self._pending:
                    raise
        for pending in self._pending:
            try:
                newest = pending.up.session.receive_frame(frame, now)
            except Refused:
                continue
            if not self._still_welcome(pending.up.peer_key):
                self._pending.remove(pending)
                raise Refused("nobody who may call any more")
            self._party.spent.add(pending.first)
            self._raise(pending.up)
            return newest
        if self.session is None and not self._wire.shared:
            self._unreadable(frame, now)
        raise Refused("not for any session of ours")

    def _still_welcome(self, caller: bytes | None) -> bool:
        return self._party.strangers_welcome() if caller is None else self._party.known(caller) is not None

    def _unreadable(self, frame: bytes, now: float) -> None:
        # The other end still believes in a session that we have lost.
        doubtful = frame[0] < 0x80
        if doubtful:
            # Or it is noise: no CRC vouches for a compact frame, so a noisy line must not make us call without end.
            if now < self._heed_at:
                return
            self._heed_at = now + self._pause(self._unreadables, self._redial_cap)
            self._unreadables += 1
        if self._calls:
            self._hurry(now, anew=not doubtful)
        elif not self._pending and now - self._last_wake >= _WAKE_PAUSE and self._party.expects():
            self._last_wake = now
            self._out.append(bytes([WAKE]) + frame[:_HEAD])

    def _hurry(self, now: float, *, anew: bool = True) -> None:
        """Calls at once; `anew`: and the pauses, which had grown, begin anew."""
        if self._call is None:
            self._call_at = now
        elif now - self._call.last > self._base:
            self._call.next_at = now
            if anew:
                self._call.tries = min(self._call.tries, 1)

    def _receive_first(self, frame: bytes, now: float) -> None:
        for pending in self._pending:
            if pending.first == frame:
                self._out.append(pending.answer)
                return
        if frame in self._party.spent:
            raise Refused("a call that has had its effect")
        response = Response(self._party.identity, frame, self._random(32))
        peer = None
        if response.peer_key is not None:
            peer = self._party.known(response.peer_key)
            if peer is None:
                raise Refused("an unknown key")
        elif not self._party.strangers_welcome():
            raise Refused("a stranger, and no pairing is open")
        self._check_address(response.peer_key)
        if self._call is not None and self._call.tries and self._call.initiation.message < frame:
            self._hurry(now)
            return
        if self.session is not None and now < self._unproven_until and response.peer_key == self._peer_key:
            # Most likely it called before our confirmation could reach it: its answer to our call has brought up a session.
            self.session.confirm_soon()
            return
        self._stand_back(now)
        answer, channel = response.answer(self._terms)
        session = Session(channel, self._wire, self._terms, response.peer_terms, self._duty, self._stats, now)
        self._make_room(response.peer_key is None)
        self._pending.append(_Pending(frame, answer, Up(session, peer, response.peer_key), now, now + self._base + self._pending_life))

    def _make_room(self, for_stranger: bool) -> None:
        """Among those of one kind the newest stay: who only knows that pairing is open cannot push a peer's call aside."""
        alike = [pending for pending in self._pending if (pending.up.peer_key is None) is for_stranger]
        if len(alike) == _MAX_PENDING:
            self._pending.remove(alike[0])

    def _check_address(self, caller: bytes | None) -> None:
        """Raises `Refused` for a call that all heard and another link should answer."""
        if self._wire.shared and self._party.peer_key not in (None, caller):
            raise Refused("this call is for another link of this station")
        if not self._broadcast:
            return
        if self.session is not None and self._peer_key not in (None, caller):
            raise Refused("this link is in use by another peer")
        if not self._party.admits(caller):
            raise Refused("another link of this station answers this call")

    def _stand_back(self, now: float) -> None:
        """Gives the peer's call time to succeed before ours goes out; once between two tries of ours, for it may be a replay."""
        later = now + 6 * self._base
        if self._call is not None and not self._call.stood_back:
            self._call.stood_back = True
            self._call.next_at = max(self._call.next_at, later)
        elif self._call_at is not None:
            self._call = _Call(self._initiation(), later, stood_back=True)
            self._call_at = None

    def _initiation(self) -> Initiation:
        return Initiation(self._party.identity, self._party.peer_key, self._terms, self._random(32))

    def _receive_answer(self, frame: bytes, now: float) -> None:
        if self._call is None:
            return  # an echo; our confirmation, if it was lost, is repeated by the session
        channel, peer_terms = self._call.initiation.finish(frame)
        key = self._call.initiation.peer_key
        session = Session(channel, self._wire, self._terms, peer_terms, self._duty, self._stats, now)
        session.confirm_soon()
        peer = None if key is None else self._party.known(key)
        if key is not None and peer is None:
            raise Refused("the key that we call is not known any more")
        self._raise(Up(session, peer, key))
        self._unproven_until = now + 4 * self._base

    def _receive_wake(self, echo: bytes, now: float) -> None:
        heard = len(echo) == _HEAD and echo in self._heads
        if not self._calls or (now - self._last_wake < self._base and not (heard and self._doubted_until is not None)):
            return
        if self.session is None or (heard and not self._broadcast):
            self._last_wake, self._doubted_until = now, None
            self._heads.clear()
            self._hurry(now)
        elif self._wire.shared and not self._broadcast:
            raise Refused("woken by somebody who does not hear us")
        elif self._doubted_until is None:
            # Somebody seems to have lost a session: if ours brings no sign of life in time it was our peer, and we call.
            self._last_wake = now
            self._doubted_until = now + 2 * self._base
            self.session.confirm_soon()

    def _raise(self, up: Up) -> None:
        if self.session is not None:
            self.session.abandon("the other end started a new session")
        self.session = up.session
        self._peer_key = up.peer_key
        self._unproven_until, self._doubted_until = float("-inf"), None
        self._stats.handshakes += 1
        self._pending = []
        self._heads.clear()
        self._call = self._call_at = self._wake_at = None
        self._unreadables, self._heed_at = 0, float("-inf")
        self._last_wake = float("-inf")  # the next may come from one who has lost this session already
        self.ups.append(up)

    # ---- frames out

    def next_frame(self, now: float) -> bytes | None:
        """The frame to send now, if any."""
        self._reap(now)
        frame = self._handshake_frame(now)
        if frame is not None:
            seconds = self._wire.time_on_air(len(frame))
            self._duty.charge(now, seconds)
            self._stats.airtime += seconds
            self.urgency, self.asks = Priority.INTERACTIVE, False
            return frame
        if self.session is None:
            return None
        frame = self.session.next_frame(now)
        self.urgency, self.asks = self.session.urgency, self.session.asks
        if frame is not None:
            self._heads.append(frame[:_HEAD])
        return frame

    def left(self, now: float) -> None:
        """The wire has taken the frame that `next_frame` gave."""
        if self.session is not None:
            self.session.left(now)

    def _reap(self, now: float) -> None:
        if self.session is None or self.session.ended is None:
            return
        on_purpose = "closed" in self.session.ended
        self.session = self._doubted_until = None
        if self._calls:
            self._call_at = now + (_PAUSE if on_purpose else 0.0)
        elif not on_purpose:
            self._ask_for_call(now)

    def _handshake_frame(self, now: float) -> bytes | None:
        if self._duty.ready_at(now, self._wire.time_on_air(160)) > now:
            return None
        if self.session is not None and self._doubted_until is not None and now >= self._doubted_until:
            # On a busy channel silence alone says little, in noise not much.
            gone = self.session.unanswered >= (_UNANSWERED_ON_AIR if self._broadcast else _UNANSWERED)
            self._doubted_until = None if gone else now + self._base
            if gone:
                self._hurry(now)
        if self._out:
            return self._out.popleft()
        for pending in self._pending:
            if now >= pending.next_at:
                if now >= pending.expires:
                    self._pending.remove(pending)
                    if self.session is None:
                        self._ask_for_call(now)
                    return self._handshake_frame(now)
                pending.tries += 1
                last = pending.tries >= (1 if self._wire.shared else _ANSWERS)
                pending.next_at = pending.expires if last else now + self._base * 1.5**pending.tries
                return pending.answer
        if self._call_at is not None and now >= self._call_at:
            self._call_at = None
            self._call = _Call(self._initiation(), now)
        if self._call is not None and now >= self._call.next_at:
            return self._dial(self._call, now)
        if self._wake_at is not None and now >= self._wake_at and not self._pending:
            self._wakes += 1
            cap = self._redial_cap * (_QUIETER if self._broadcast else 1)
            pause = self._pause(self._wakes, cap)
            self._wake_at = now + pause
            return bytes([WAKE]) if self._party.expects() and (not self._broadcast or self._party.wakes(now, pause)) else None
        return None

    def _dial(self, call: _Call, now: float) -> bytes | None:
        if self.session is not None and call.tries >= _CALLS_BESIDE_SESSION:
            self._call = None
            return None
        call.next_at = now + self._pause(call.tries, self._redial_cap)
        call.tries += 1
        call.last = now
        call.stood_back = False
        return call.initiation.message

    def _pause(self, tries: int, cap: float) -> float:
        """Seconds until the next call or WAKE into the void; some chance in it, for others may have begun as we did."""
        pause = min(cap, self._base * (1 << min(tries, 20)))
        return pause * (0.8 + 0.4 * self._random(1)[0] / 255)

    def deadline(self, now: float) -> float | None:
        """When `next_frame` should be called again at the latest."""
        times = [self._doubted_until, self._call_at, None if self._pending else self._wake_at, self._call.next_at if self._call else None]
        times += [pending.next_at for pending in self._pending]
        if self._out:
            times.append(now)
        own = min((max(when, self._duty.ready_at(now, self._wire.time_on_air(160))) for when in times if when is not None), default=None)
        if self.session is None:
            return own
        other = self.session.deadline(now)
        return other if own is None else own if other is None else min(own, other)
