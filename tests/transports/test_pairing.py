"""Pairing by code and by QR code."""

from __future__ import annotations

import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.transports.rigs import ALICE, BOB, MemoryRig, both_up
from transports.exchange import Interrupted, Unreachable
from transports.link import pairing
from transports.link.pairing import Offer, PairingFailed, PairingGuest, PairingHost, PairingQR, make_code, normalise_code
from transports.memory import Medium

HASH = b"h" * 64
CHANCE = random.Random(5).randbytes


def offer(now: float = 0.0) -> Offer:
    return Offer("bob.example", BOB.public_key, now=now, random=CHANCE)


def talk(standing: Offer, secret, *, now: float = 1.0, guest_hash: bytes = HASH) -> tuple[PairingHost, PairingGuest]:
    host = PairingHost(standing, HASH, CHANCE)
    guest = PairingGuest("alice's phone", ALICE.public_key, secret, guest_hash, CHANCE)
    message: bytes | None = guest.hello
    while message is not None:
        message = guest.receive(host.receive(message, now))
    return host, guest


@pytest.mark.parametrize("how", ["code", "qr"])
def test_both_sides_learn_each_others_name_and_key(how: str) -> None:
    standing = offer()
    secret = standing.code.lower().replace("-", " ") if how == "code" else PairingQR.parse(standing.qr.format())
    host, guest = talk(standing, secret)
    assert host.paired == pairing.Paired("alice's phone", ALICE.public_key)
    assert guest.paired == pairing.Paired("bob.example", BOB.public_key)
    assert standing.trouble(2.0) == "this code has been used"


def test_three_wrong_codes_close_the_offer() -> None:
    standing = offer()
    for _ in range(3):
        with pytest.raises(PairingFailed, match="wrong"):
            talk(standing, "AAAA-AAAA")
    with pytest.raises(PairingFailed, match="too many"):
        talk(standing, standing.code)


def test_a_right_code_after_a_wrong_one_is_accepted() -> None:
    standing = offer()
    with pytest.raises(PairingFailed):
        talk(standing, "AAAA-AAAA")
    assert talk(standing, standing.code)[0].paired is not None


def test_an_offer_expires_after_ten_minutes() -> None:
    standing = offer(now=100.0)
    with pytest.raises(PairingFailed, match="expired"):
        talk(standing, standing.code, now=701.0)


@pytest.mark.parametrize("how", ["code", "qr"])
def test_somebody_in_the_middle_of_the_session_is_found_out(how: str) -> None:
    standing = offer()
    with pytest.raises(PairingFailed, match="wrong"):
        talk(standing, standing.code if how == "code" else standing.qr, guest_hash=b"x" * 64)


def test_a_host_that_does_not_know_the_code_learns_nothing_it_can_use() -> None:
    true, false = offer(), offer()
    host = PairingHost(false, HASH, CHANCE)
    guest = PairingGuest("alice's phone", ALICE.public_key, true.code, HASH, CHANCE)
    proof = guest.receive(host.receive(guest.hello, 1.0))
    with pytest.raises(PairingFailed):
        host.receive(proof, 1.0)
    with pytest.raises(PairingFailed, match="does not know the code"):
        guest.receive(bytes([4, 32]) + bytes(32))
    assert guest.paired is None


def test_a_box_other_than_the_scanned_one_is_refused() -> None:
    standing, other = offer(), Offer("eve.example", ALICE.public_key, now=0.0, random=CHANCE)
    with pytest.raises(PairingFailed, match="not the one"):
        talk(other, standing.qr)


def test_codes_are_forgiving_to_type_and_never_ambiguous() -> None:
    code = make_code(b"\x12\x34\x56\x78\x9a")
    assert len(code) == 9
    assert normalise_code(f" {code.lower()} ") == code.replace("-", "")
    for wrong in ("", "K7QM", "K7QM-2XP0", "K7QM-2XPAA", "K7QM-2XPÄ"):
        with pytest.raises(PairingFailed):
            normalise_code(wrong)


@given(st.text(min_size=1, max_size=40), st.binary(min_size=16, max_size=16))
def test_a_qr_code_comes_back(name: str, secret: bytes) -> None:
    qr = PairingQR(name, BOB.public_key, secret)
    assert PairingQR.parse(qr.format()) == qr


@given(st.text(max_size=60))
def test_any_other_text_is_no_pairing_code(text: str) -> None:
    for each in (text, "edgeserver:pair?" + text):
        with pytest.raises(PairingFailed):
            PairingQR.parse(each)


@given(st.binary(max_size=200), st.booleans())
def test_no_message_makes_either_side_do_anything_but_fail(message: bytes, proper_start: bool) -> None:
    host = PairingHost(offer(), HASH, CHANCE)
    with pytest.raises(PairingFailed):
        host.receive((b"\x01\x01\x00" if proper_start else b"") + message, 1.0)
    guest = PairingGuest("phone", ALICE.public_key, offer().qr, HASH, CHANCE)
    with pytest.raises(PairingFailed):
        guest.receive(message)


async def test_two_strangers_pair_over_a_thin_line_and_then_know_each_other(autojump_clock, nursery) -> None:
    rig = MemoryRig(Medium(2400, loss=0.1))
    guest_end = rig.start_alice(nursery, peer_key=None, as_stranger=True)
    host_end = rig.start_bob(nursery)
    host_end.link.strangers_welcome = True
    a, b = await both_up(guest_end, host_end)
    assert (a.profile.peer, b.profile.peer) == (None, None)
    standing, results = offer(), {}

    async def serve() -> None:
        results["host"] = await pairing.host(b, standing, trio.current_time, CHANCE)

    started = trio.current_time()
    async with trio.open_nursery() as inner:
        inner.start_soon(serve)
        results["guest"] = await pairing.guest(a, "phone", ALICE.public_key, standing.code, CHANCE)
    assert results["host"].public_key == ALICE.public_key
    assert results["guest"].public_key == BOB.public_key
    assert trio.current_time() - started < 30
    host_end.link.strangers_welcome = False
    guest_end.kill()
    known = rig.start_alice(nursery)
    a, b = await both_up(known, host_end)
    assert b.profile.peer == "alice.example"
    nursery.cancel_scope.cancel()


async def test_a_wrong_code_over_a_line_tells_both_people(autojump_clock, nursery) -> None:
    rig = MemoryRig(Medium(9600))
    guest_end = rig.start_alice(nursery, peer_key=None, as_stranger=True)
    host_end = rig.start_bob(nursery)
    host_end.link.strangers_welcome = True
    a, b = await both_up(guest_end, host_end)

    async def serve() -> None:
        with pytest.raises(PairingFailed, match="wrong"):
            await pairing.host(b, offer(), trio.current_time, CHANCE)

    async with trio.open_nursery() as inner:
        inner.start_soon(serve)
        with pytest.raises(PairingFailed, match="refused: the code was wrong"):
            await pairing.guest(a, "phone", ALICE.public_key, "AAAA-AAAA", CHANCE)
    nursery.cancel_scope.cancel()


class LastWordLost:
    """A guest's connection as the host sees it; the host's second message ends with `trouble`."""

    handshake_hash = HASH

    def __init__(self, guest: PairingGuest, trouble: Exception) -> None:
        self._guest, self._trouble = guest, trouble
        self._said, self._sent = guest.hello, 0

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._said

    async def send(self, message: bytes, *, priority=None) -> None:
        await trio.lowlevel.checkpoint()
        self._sent += 1
        if self._sent == 2:
            raise self._trouble
        self._said = self._guest.receive(message) or b""


async def test_a_guest_who_may_have_the_last_word_is_paired_and_one_who_has_not_may_try_again() -> None:
    standing = offer()

    def calls(trouble: Exception) -> LastWordLost:
        return LastWordLost(PairingGuest("phone", ALICE.public_key, standing.code, HASH, CHANCE), trouble)

    with pytest.raises(Unreachable):
        await pairing.host(calls(Unreachable("gone")), standing, lambda: 1.0, CHANCE)
    assert standing.trouble(1.0) is None
    paired = await pairing.host(calls(Interrupted("gone")), standing, lambda: 1.0, CHANCE)
    assert paired == pairing.Paired("phone", ALICE.public_key)
