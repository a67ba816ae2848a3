"""HDLC-like framing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transports.framing import hdlc

payloads = st.binary(min_size=1, max_size=80) | st.lists(st.sampled_from([0x7E, 0x7D, 0x5E, 0x5D, 0x20]), min_size=1).map(bytes)


@given(st.lists(payloads, max_size=6), st.data())
def test_frames_come_out_as_they_went_in_however_the_bytes_are_chunked(frames: list[bytes], data) -> None:
    stream = b"".join(map(hdlc.encode, frames))
    decoder = hdlc.Decoder(200)
    out: list[bytes] = []
    while stream:
        take = data.draw(st.integers(1, len(stream)))
        out += decoder.feed(stream[:take])
        stream = stream[take:]
    assert out == frames
    assert decoder.crc_errors == 0


@given(payloads, st.integers(0, 10_000))
def test_one_flipped_bit_never_yields_another_frame(payload: bytes, where: int) -> None:
    frame = bytearray(hdlc.encode(payload))
    where %= 8 * len(frame)
    frame[where // 8] ^= 1 << where % 8
    assert all(out == payload for out in hdlc.Decoder(200).feed(bytes(frame)))


@given(st.binary(max_size=300), payloads)
def test_after_any_noise_the_next_frame_but_one_is_read(noise: bytes, payload: bytes) -> None:
    decoder = hdlc.Decoder(200)
    decoder.feed(noise)
    assert payload in decoder.feed(hdlc.encode(payload) + hdlc.encode(payload))


def test_a_frame_without_end_is_dropped_and_holds_no_memory() -> None:
    decoder = hdlc.Decoder(100)
    for _ in range(1000):
        assert decoder.feed(b"x" * 1000) == []
        assert len(decoder._buffer) <= 204
    assert decoder.oversized == 1
    assert decoder.feed(b"\x7e" + hdlc.encode(b"fine")) == [b"fine"]


def test_a_frame_costs_four_bytes() -> None:
    assert len(hdlc.encode(b"hello")) == 5 + hdlc.OVERHEAD


def test_a_frame_longer_than_allowed_is_refused() -> None:
    decoder = hdlc.Decoder(10)
    assert decoder.feed(hdlc.encode(bytes(11))) == []
    assert decoder.feed(hdlc.encode(bytes(10))) == [bytes(10)]
    assert decoder.oversized == 1
