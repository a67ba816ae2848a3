"""HDLC-like framing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transports.framing import hdlc

either = st.binary(min_size=1, max_size=80) | st.lists(st.sampled_from([0x7E, 0x7D, 0x5E, 0x5D, 0x20]), min_size=1).map(bytes)
checked = either.map(lambda payload: bytes([payload[0] % 0x40 | payload[0] & 0x80]) + payload[1:])  # with a CRC
guarded = either.map(lambda payload: bytes([0x40 | payload[0] % 0x40]) + payload[1:] + bytes(10))  # by a tag of their own
payloads = checked | guarded


def is_guarded(payload: bytes) -> bool:
    return 0x40 <= payload[0] < 0x80


@given(st.lists(st.tuples(payloads, st.booleans()), max_size=6), st.data())
def test_frames_come_out_as_they_went_in_however_the_bytes_are_chunked(frames: list[tuple[bytes, bool]], data) -> None:
    stream = b"".join(hdlc.encode(frame, flag_stands=at > 0 and stands) for at, (frame, stands) in enumerate(frames))
    decoder = hdlc.Decoder(200)
    out: list[bytes] = []
    while stream:
        take = data.draw(st.integers(1, len(stream)))
        out += decoder.feed(stream[:take])
        stream = stream[take:]
    assert out == [frame for frame, _ in frames]
    assert decoder.crc_errors == 0


@given(checked, st.integers(0, 10_000))
def test_one_flipped_bit_never_yields_another_frame_but_one_that_a_tag_must_guard(payload: bytes, where: int) -> None:
    frame = bytearray(hdlc.encode(payload))
    where %= 8 * len(frame)
    frame[where // 8] ^= 1 << where % 8
    assert all(out == payload or is_guarded(out) for out in hdlc.Decoder(200).feed(bytes(frame)))


@given(st.binary(max_size=300), payloads)
def test_after_any_noise_the_next_frame_but_one_is_read(noise: bytes, payload: bytes) -> None:
    decoder = hdlc.Decoder(200)
    decoder.feed(noise)
    assert payload in decoder.feed(hdlc.encode(payload) + hdlc.encode(payload, flag_stands=True))


def test_a_frame_without_end_is_dropped_and_holds_no_memory() -> None:
    decoder = hdlc.Decoder(100)
    for _ in range(1000):
        assert decoder.feed(b"x" * 1000) == []
        assert len(decoder._buffer) <= 204
    assert decoder.oversized == 1
    assert decoder.feed(b"\x7e" + hdlc.encode(b"\x20fine")) == [b"\x20fine"]


def test_a_frame_costs_four_bytes_two_when_its_tag_guards_it_and_one_less_behind_another() -> None:
    checked, guarded = b"\x20ello world", b"\x40ello world"
    assert len(hdlc.encode(checked)) == len(checked) + hdlc.OVERHEAD
    assert len(hdlc.encode(guarded)) == len(guarded) + 2
    assert len(hdlc.encode(guarded, flag_stands=True)) == len(guarded) + 1


def test_what_is_too_short_for_a_tag_is_damage() -> None:
    decoder = hdlc.Decoder(100)
    assert decoder.feed(b"~@ishorte~") == []
    assert decoder.crc_errors == 1


def test_a_frame_longer_than_allowed_is_refused() -> None:
    decoder = hdlc.Decoder(10)
    assert decoder.feed(hdlc.encode(bytes(11))) == []
    assert decoder.feed(hdlc.encode(bytes(10))) == [bytes(10)]
    assert decoder.oversized == 1
