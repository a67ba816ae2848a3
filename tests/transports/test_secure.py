"""Handshake, sealed frames, identities, and who replaces whom."""

from __future__ import annotations

import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.transports.rigs import ALICE, BOB, NAMES, MemoryRig, both_up
from transports.identity import BadKey, Identity, client_identity, dh_public, public_key_from_dh, sign_bit
from transports.link.airtime import DutyCycle
from transports.link.noise import Handshake, NoiseError, seal
from transports.link.rendezvous import Party, Rendezvous
from transports.link.secure import IK1, WAKE, Initiation, Refused, Response, Terms, expand
from transports.link.wire import LinkStats
from transports.memory import Medium

TERMS = Terms(max_message=1 << 20, mtu=240)


def channels(**terms):
    call = Initiation(ALICE, BOB.public_key, TERMS, b"1" * 32)
    response = Response(BOB, call.message, b"2" * 32)
    answer, theirs = response.answer(Terms(1 << 20, 240, **terms))
    ours, _ = call.finish(answer)
    return ours, theirs


def test_the_handshake_is_noise_ik_to_the_letter() -> None:
    # Noise_IK_25519_ChaChaPoly_BLAKE2b of rweather/noise-c's vectors (noise-c-basic.txt)
    hexed = bytes.fromhex
    caller = Handshake(
        "IK",
        initiator=True,
        prologue=hexed("50726f6c6f677565313233"),
        ephemeral=hexed("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"),
        static=hexed("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1"),
        remote_static=hexed("31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62"),
    )
    called = Handshake(
        "IK",
        initiator=False,
        prologue=hexed("50726f6c6f677565313233"),
        ephemeral=hexed("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"),
        static=hexed("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893"),
    )
    first = caller.write(hexed("4c756477696720766f6e204d69736573"))
    assert first.hex() == (
        "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944"
        "ba83a447b38c83e327ad936929812f624884847b7831e95e197b2f797088efdd232fe541af156ec6d0657602902a8c3e"
        "e64e470f4b6fcd9298ce0b56fe20f86e60d9d933ec6e103ffb09e6001d6abb64"
    )
    assert called.read(first) == hexed("4c756477696720766f6e204d69736573")
    second = called.write(hexed("4d757272617920526f746862617264"))
    assert second.hex() == (
        "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843"
        "9f069b267a06b3de3ecb1043bcb09807c6cd101f3826192a65f11ef3fe4317"
    )
    caller.read(second)
    assert caller.hash == called.hash
    assert caller.hash.hex().startswith("00e51d2aac81a9b8ebe441d6af3e1c8efc0f030cc608332edcb42588ff6a0ce2")
    key, _ = caller.split()
    sealed = seal(key, 0, b"", hexed("462e20412e20486179656b"))
    assert sealed.hex() == "cd54383060e7a28434cca27fb1cc524cfbabeb18181589df219d07"


@given(st.binary(min_size=32, max_size=32))
def test_an_ed25519_key_survives_the_way_over_x25519(seed: bytes) -> None:
    identity = Identity(seed)
    assert public_key_from_dh(identity.dh_public, sign_bit(identity.public_key)) == identity.public_key


def test_a_key_of_small_order_is_no_key() -> None:
    with pytest.raises(BadKey):
        dh_public(bytes(32))
    with pytest.raises(BadKey):
        public_key_from_dh(b"\x01" + bytes(31), 0)


def test_a_client_is_called_by_its_key() -> None:
    assert client_identity(bytes(32)) == "client:" + "a" * 52


def test_handshake_and_frames_have_the_promised_sizes() -> None:
    call = Initiation(ALICE, BOB.public_key, TERMS, b"1" * 32)
    answer, _ = Response(BOB, call.message, b"2" * 32).answer(TERMS)
    ours, _ = call.finish(answer)
    assert (len(call.message), len(answer), len(ours.seal(b""))) == (103, 55, 18)


def test_neither_identity_is_seen_on_the_wire() -> None:
    call = Initiation(ALICE, BOB.public_key, TERMS, b"1" * 32)
    answer, _ = Response(BOB, call.message, b"2" * 32).answer(TERMS)
    for identity in (ALICE, BOB):
        for key in (identity.public_key, identity.dh_public):
            assert key not in call.message + answer


def test_who_does_not_hold_the_called_key_cannot_read_the_call() -> None:
    call = Initiation(ALICE, BOB.public_key, TERMS, b"1" * 32)
    with pytest.raises(Refused):
        Response(Identity(b"m" * 32), call.message, b"2" * 32)


@given(st.integers(0, 10**6), st.integers(0, 254))
def test_a_changed_byte_anywhere_in_the_handshake_is_refused(where: int, by: int) -> None:
    call = Initiation(ALICE, BOB.public_key, TERMS, b"1" * 32)
    spoilt = bytearray(call.message)
    spoilt[1 + where % (len(spoilt) - 1)] ^= by + 1
    with pytest.raises(Refused):
        Response(BOB, bytes(spoilt), b"2" * 32)
    answer, _ = Response(BOB, call.message, b"2" * 32).answer(TERMS)
    spoilt = bytearray(answer)
    spoilt[1 + where % (len(spoilt) - 1)] ^= by + 1
    with pytest.raises(Refused):
        call.finish(bytes(spoilt))
    call.finish(answer)  # and the true answer is still good


@given(st.binary(max_size=130))
def test_no_bytes_make_the_handshake_do_anything_but_refuse(data: bytes) -> None:
    with pytest.raises(Refused):
        Response(BOB, bytes([IK1]) + data, b"2" * 32)


def test_strangers_share_keys_but_nobody_is_named() -> None:
    call = Initiation(ALICE, None, TERMS, b"1" * 32)
    response = Response(BOB, call.message, b"2" * 32)
    assert response.peer_key is None
    answer, theirs = response.answer(TERMS)
    ours, _ = call.finish(answer)
    assert ours.handshake_hash == theirs.handshake_hash
    assert theirs.open(ours.seal(b"hello"))[1] == b"hello"


def test_a_frame_is_accepted_once_and_in_any_order() -> None:
    ours, theirs = channels(connection_id=b"bobs")
    frames = [ours.seal(bytes([n])) for n in range(20)]
    random.Random(4).shuffle(frames)
    for frame in frames:
        theirs.open(frame)
        with pytest.raises(Refused):
            theirs.open(frame)


def test_after_many_lost_frames_the_counter_is_still_understood_and_ancient_frames_are_refused() -> None:
    ours, theirs = channels()
    ancient = ours.seal(b"ancient")
    for _ in range(15_000):
        ours._next += 1
    assert theirs.open(ours.seal(b"new")) == (15_001, b"new", True)
    with pytest.raises(Refused):
        theirs.open(ancient)


@given(st.integers(0, 2**40), st.integers(-16_000, 16_000))
def test_the_low_bits_of_a_counter_are_enough(near: int, off: int) -> None:
    value = max(0, near + off)
    assert expand(value % (1 << 15), near, 1 << 15) == value


def test_terms_of_another_version_are_refused() -> None:
    with pytest.raises(Refused):
        Terms.decode(b"\x02" + TERMS.encode(0)[1:])
    assert Terms.decode(TERMS.encode(1)) == (Terms(1 << 20, 240, 0.04, 0.0), 1)


def test_a_message_cut_short_is_a_noise_error() -> None:
    with pytest.raises(NoiseError):
        Handshake("NN", initiator=False, prologue=b"", ephemeral=b"1" * 32).read(b"short")


# ---- rendezvous


class Line:
    mtu, bit_rate, ordered, shared, connection_id, keepalive = 240, 2400, True, False, b"", 0.0

    def time_on_air(self, size: int) -> float:
        return size / 240


def meeting(identity: Identity, peer_key: bytes | None, seed: int, **party) -> Rendezvous:
    who = Party(identity, NAMES.get, peer_key, **party)
    chance = random.Random(seed)
    end = Rendezvous(who, Line(), duty=DutyCycle(), stats=LinkStats(), random=chance.randbytes)
    end.start(0.0)
    return end


def test_a_replayed_call_does_not_replace_a_session() -> None:
    alice, bob = meeting(ALICE, BOB.public_key, 1), meeting(BOB, None, 2)
    assert bob.next_frame(0.0) == bytes([WAKE])
    first = alice.next_frame(0.0)
    bob.receive(first, 1.0)
    alice.receive(bob.next_frame(1.0), 2.0)
    bob.receive(alice.next_frame(2.0), 3.0)
    session = bob.session
    assert session is not None
    recorded = first
    elsewhere = meeting(ALICE, BOB.public_key, 9)
    older = elsewhere.next_frame(0.0)
    for replayed in (recorded, older, older):
        bob.receive(replayed, 10.0)
    now = 10.0
    while now < 200:
        bob.next_frame(now)
        now = bob.deadline(now) or 200
    assert bob.session is session
    assert session.ended is None
    assert len(bob.ups) == 1


def test_strangers_are_heard_only_while_pairing_is_open() -> None:
    for welcome in (False, True):
        guest = meeting(ALICE, None, 1, as_stranger=True)
        host = meeting(BOB, None, 2, strangers_welcome=lambda w=welcome: w)
        host.next_frame(0.0)
        host.receive(guest.next_frame(0.0), 1.0)
        answer = host.next_frame(1.0)
        assert (answer is not None) is welcome


async def test_the_handshake_survives_the_loss_of_every_third_frame(autojump_clock, nursery) -> None:
    for seed in range(12):
        rig = MemoryRig(Medium(2400, loss=0.33), seed)
        alice, bob = rig.start_alice(nursery, random=random.Random(seed).randbytes), rig.start_bob(nursery)
        with trio.fail_after(300):
            await both_up(alice, bob)
        await trio.sleep(300)
        assert alice.link.connection.handshake_hash == bob.link.connection.handshake_hash
    nursery.cancel_scope.cancel()
