"""Handshake, sealed frames, identities, and who replaces whom."""

from __future__ import annotations

import hashlib
import random

import pytest
import trio
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given
from hypothesis import strategies as st

from tests.transports.rigs import ALICE, BOB, NAMES, MemoryRig, both_up
from transports.exchange import Priority
from transports.identity import BadKey, Identity, client_identity, dh_public, public_key_from_dh, sign_bit
from transports.link import short_tags
from transports.link.airtime import DutyCycle
from transports.link.noise import Handshake, NoiseError, seal
from transports.link.rendezvous import Party, Rendezvous
from transports.link.secure import IK1, MAX_FORGED, REACH, WAKE, Forged, Initiation, Refused, Response, Terms, expand
from transports.link.wire import LinkStats
from transports.memory import Medium

TERMS = Terms(max_message=1 << 20, mtu=240)


COMPACT = Terms(max_message=1 << 20, mtu=240, compact=True)


def channels(ours: Terms = TERMS, **terms):
    call = Initiation(ALICE, BOB.public_key, ours, b"1" * 32)
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


def test_terms_of_an_end_that_has_never_heard_of_compact_frames_are_read_and_ours_look_to_it_as_ever() -> None:
    theirs = bytes.fromhex("01 94 11 00 00f0")
    assert Terms.decode(theirs) == (Terms(1 << 20, 240, 0.34, 0.0), 1)
    assert Terms(1 << 20, 240, 0.34).encode(1) == theirs
    ours = Terms(1 << 20, 240, 0.34, compact=True).encode(1)
    assert ours == bytes.fromhex("01 94 91 00 00f0")  # which it reads as 2.9 s
    assert Terms.decode(ours) == (Terms(1 << 20, 240, 0.34, compact=True), 1)


# ---- compact frames


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**40), st.binary(max_size=10), st.binary(max_size=300))
def test_short_tags_seal_with_chacha20_and_blake2b_as_others_compute_them(key, counter, associated, plaintext) -> None:
    both = hashlib.blake2b(key=key, person=b"edgeserver short", digest_size=64).digest()
    assert short_tags.keys(key) == both
    nonce = bytes(4) + counter.to_bytes(8, "little")
    cipher = Cipher(algorithms.ChaCha20(both[:32], (1).to_bytes(4, "little") + nonce), None).encryptor()
    ciphertext = cipher.update(plaintext)
    covered = nonce + bytes([0, len(associated)]) + associated + ciphertext
    sealed = short_tags.seal(both, counter, associated, plaintext)
    assert sealed == ciphertext + hashlib.blake2b(covered, key=both[32:], digest_size=8).digest()
    assert short_tags.unseal(both, counter, associated, sealed) == plaintext


@given(st.binary(max_size=40), st.integers(0, 10**6), st.integers(0, 254))
def test_a_frame_with_a_short_tag_of_which_a_byte_was_changed_is_refused_and_the_true_one_still_good(text: bytes, where, by) -> None:
    ours, theirs = channels(COMPACT, compact=True)
    frame = ours.seal(text)
    spoilt = bytearray(frame)
    spoilt[where % len(spoilt)] ^= by + 1
    with pytest.raises(Refused):
        theirs.open(bytes(spoilt))
    for other in (frame[:-1], frame + b"\0", frame[:-9] + frame[-8:]):
        with pytest.raises(Refused):
            theirs.open(other)
    assert theirs.open(frame) == (0, text, True)


def test_frames_are_compact_only_if_both_ends_say_so() -> None:
    for mine in (False, True):
        for his in (False, True):
            ours, theirs = channels(Terms(1 << 20, 240, compact=mine), compact=his)
            assert ours.compact == theirs.compact == (mine and his)
            assert len(ours.seal(b"")) == ours.overhead == (10 if mine and his else 18)
            assert theirs.open(ours.seal(b"hello"))[1] == ours.open(theirs.seal(b"hello"))[1] == b"hello"


def test_an_answer_does_not_offer_what_the_caller_does_not_take() -> None:
    call = Initiation(ALICE, BOB.public_key, TERMS, b"1" * 32)
    answer, _ = Response(BOB, call.message, b"2" * 32).answer(COMPACT)
    _, terms = call.finish(answer)
    assert not terms.compact


def test_a_compact_frame_is_accepted_once_in_any_order_and_never_from_a_mirror() -> None:
    ours, theirs = channels(COMPACT, compact=True, connection_id=b"bobs")
    frames = [ours.seal(bytes([n])) for n in range(20)]
    random.Random(4).shuffle(frames)
    for frame in frames:
        with pytest.raises(Refused):
            ours.open(frame)
        theirs.open(frame)
        with pytest.raises(Refused):
            theirs.open(frame)
    assert theirs.forged == 0


def test_a_reflected_frame_is_a_forgery_for_each_direction_has_its_keys() -> None:
    ours, theirs = channels(COMPACT, compact=True)
    with pytest.raises(Forged):
        ours.open(ours.seal(b"echo"))
    assert theirs.open(ours.seal(b"no echo"))[1] == b"no echo"


def test_the_two_forms_of_a_frame_are_not_mistaken_for_each_other() -> None:
    whole, compact = channels(), channels(COMPACT, compact=True)
    for (one, _), (_, other) in ((whole, compact), (compact, whole)):
        with pytest.raises(Refused):
            other.open(one.seal(b"hello"))
        assert other.forged == 0


def test_the_counter_of_compact_frames_is_understood_after_many_lost_ones() -> None:
    ours, theirs = channels(COMPACT, compact=True)
    ancient = ours.seal(b"ancient")
    for _ in range(4_000):
        ours.seal(b"")
    assert theirs.open(ours.seal(b"new")) == (4_001, b"new", True)
    theirs.open(ancient)
    with pytest.raises(Refused):
        theirs.open(ancient)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=120))
def test_a_counter_of_one_byte_is_understood_whatever_of_the_frames_since_the_last_acknowledged_one_is_lost(fates) -> None:
    ours, theirs = channels(COMPACT, compact=True, connection_id=b"bobs")
    acknowledged = arrived = -1
    for number, (arrives, is_acknowledged) in enumerate(fates):
        frame = ours.seal(b"x", after=acknowledged)
        assert len(frame) == ours.overhead + (number - acknowledged > REACH)
        if arrives:
            assert theirs.open(frame) == (number, b"x", True)
            arrived = number
            with pytest.raises(Refused):
                theirs.open(frame)
        if is_acknowledged:
            acknowledged = arrived
    assert theirs.forged == 0


def test_a_message_cut_short_is_a_noise_error() -> None:
    with pytest.raises(NoiseError):
        Handshake("NN", initiator=False, prologue=b"", ephemeral=b"1" * 32).read(b"short")


# ---- rendezvous


class Line:
    mtu, bit_rate, ordered, shared, connection_id, keepalive = 240, 2400, True, False, b"", 0.0

    def time_on_air(self, size: int) -> float:
        return size / 240

    def receiving(self) -> bool:
        return False


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


def pass_frames(alice: Rendezvous, bob: Rendezvous, now: float) -> None:
    for _ in range(6):
        for here, there in ((alice, bob), (bob, alice)):
            while (frame := here.next_frame(now)) is not None:
                there.receive(frame, now)


def until_they_agree(alice: Rendezvous, bob: Rendezvous, now: float) -> float:
    """When both had the same session."""
    while True:
        pass_frames(alice, bob, now)
        if alice.session is not None and bob.session is not None and alice.session.handshake_hash == bob.session.handshake_hash:
            return now
        now += 0.25


def test_a_session_with_short_tags_ends_after_too_many_forgeries_and_its_ends_make_new_keys_within_seconds() -> None:
    alice, bob = meeting(ALICE, BOB.public_key, 1), meeting(BOB, None, 2)
    pass_frames(alice, bob, 0.0)
    older = alice.session
    forged = bytes([0x60, 0x02]) + bytes(9)
    for _ in range(MAX_FORGED - 1):
        bob.receive(forged, 5.0)
    pass_frames(alice, bob, 5.0)
    assert alice.session is older
    assert bob.session.ended is None
    bob.receive(forged, 6.0)
    assert "new keys" in bob.session.ended
    assert until_they_agree(alice, bob, 6.0) < 12
    assert alice.session is not older
    assert bob._stats.crc_errors == MAX_FORGED  # on a wire between two damage is the likelier cause


def test_forgeries_that_repeat_old_counters_do_not_count() -> None:
    ours, theirs = channels(COMPACT, compact=True)
    theirs.open(ours.seal(b"one"))
    for _ in range(100):
        with pytest.raises(Refused):
            theirs.open(bytes([0x40, 0]) + bytes(9))
    assert theirs.forged == 0


def test_noise_that_looks_like_compact_frames_does_not_make_an_end_without_session_talk() -> None:
    for peer_key in (None, BOB.public_key):
        quiet, noisy = meeting(ALICE, peer_key, 1), meeting(ALICE, peer_key, 1)
        chance, said = random.Random(5), [0, 0]
        for tenth in range(36_000):
            now = tenth / 10
            noisy.receive(bytes([0x40 | chance.randrange(64)]) + chance.randbytes(20), now)
            for which, end in enumerate((quiet, noisy)):
                while end.next_frame(now) is not None:
                    said[which] += 1
        assert said[1] <= 3 * said[0]


def test_one_compact_frame_that_it_cannot_read_makes_an_end_that_lost_the_session_ask_for_a_call() -> None:
    alice, bob = meeting(ALICE, BOB.public_key, 1), meeting(BOB, None, 2)
    pass_frames(alice, bob, 0.0)
    again = meeting(BOB, None, 3)
    while again.next_frame(0.0) is not None:
        pass  # its WAKE is lost
    alice.session.submit(b"still there?", Priority.MESSAGE)
    again.receive(alice.next_frame(100.0), 100.1)
    assert until_they_agree(alice, again, 100.2) < 108


async def test_the_handshake_survives_the_loss_of_every_third_frame(autojump_clock, nursery) -> None:
    for seed in range(12):
        rig = MemoryRig(Medium(2400, loss=0.33), seed)
        alice, bob = rig.start_alice(nursery, random=random.Random(seed).randbytes), rig.start_bob(nursery)
        with trio.fail_after(300):
            await both_up(alice, bob)
        await trio.sleep(300)
        assert alice.link.connection.handshake_hash == bob.link.connection.handshake_hash
    nursery.cancel_scope.cancel()
