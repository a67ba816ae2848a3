"""Content-Disposition, multipart frames and the choice of sizes: functions without a disk."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeserver.federation.multipart import decode_media
from edgeserver.matrix.errors import InvalidParam
from edgeserver.media import disposition, multipart, thumbnails


def test_only_types_that_cannot_run_scripts_are_shown_in_place() -> None:
    assert disposition.header("image/png", None) == "inline"
    assert disposition.header("Text/Plain; charset=utf-8", "a b.txt") == 'inline; filename="a b.txt"'
    assert disposition.header("text/html", "x.html") == 'attachment; filename="x.html"'
    assert disposition.header("image/svg+xml", None) == "attachment"


@given(st.text(max_size=60))
@example('a"b\\c')
@example("naïve – ü.png")
@example("x\r\nSet-Cookie: a=b")
def test_a_file_name_comes_back_from_its_header(name: str) -> None:
    clean = disposition.clean_name(name)
    header = disposition.header("image/png", clean)
    assert header.isascii()
    assert "\r" not in header
    assert "\n" not in header
    assert disposition.filename_in(header) == clean


def test_file_names_are_read_in_the_forms_that_servers_write() -> None:
    assert disposition.filename_in("inline; filename=plain.png") == "plain.png"
    assert disposition.filename_in('attachment; filename="with \\"quotes\\".png"') == 'with "quotes".png'
    assert disposition.filename_in("inline; filename=\"old.png\"; filename*=UTF-8''n%C3%A4w.png") == "näw.png"
    assert disposition.filename_in("inline") is None
    assert disposition.filename_in(None) is None


def test_a_content_type_that_is_none_becomes_octets() -> None:
    assert disposition.clean_type("text/plain; charset=utf-8") == "text/plain; charset=utf-8"
    for bad in (None, "", "image", "image/png\r\nX: y", "image/png; " + "x" * 300, "ä/b"):
        assert disposition.clean_type(bad) == "application/octet-stream"


@given(st.binary(max_size=300))
def test_what_the_frame_holds_can_be_taken_out_again(data: bytes) -> None:
    frame = multipart.frame("image/png", 'inline; filename="a.png"', "ab" * 32)
    media = decode_media(frame.content_type, frame.head + data + frame.tail)
    assert (media.body, media.content_type, media.content_disposition) == (data, "image/png", 'inline; filename="a.png"')


def test_the_boundary_stands_without_quotes_which_not_every_server_takes_off() -> None:
    frame = multipart.frame("image/png", "inline", "ab" * 32)
    assert frame.content_type == f"multipart/mixed; boundary=edge-{'ab' * 32}"


def test_a_header_cannot_break_out_of_its_line() -> None:
    with pytest.raises(ValueError, match="line break"):
        multipart.frame("image/png\r\nX: y", "inline", "ab" * 32)


@given(st.integers(1, 2000), st.integers(1, 2000), st.sampled_from(["crop", "scale"]))
def test_the_chosen_size_is_never_smaller_than_what_is_asked_for(width: int, height: int, method: str) -> None:
    size = thumbnails.choose(width, height, method)
    assert size == thumbnails.ORIGINAL or (size[0] >= width and size[1] >= height)


def test_impossible_sizes_are_refused() -> None:
    for width, height, method in ((0, 10, "crop"), (10, -1, "scale"), (10, 10, "stretch"), (10**8, 1, "crop")):
        with pytest.raises(InvalidParam):
            thumbnails.choose(width, height, method)
