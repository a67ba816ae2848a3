"""Making thumbnails of real images, whole, broken and hostile ones."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from pathlib import Path

import pytest
from PIL import Image

from edgeserver.matrix import errors
from edgeserver.media import thumbnails
from edgeserver.media.thumbnails import ORIGINAL, Made, make
from tests.media.places import image, moving_image


def made_of(tmp_path: Path, data: bytes, size: tuple[int, int], method: str = "scale") -> Made:
    path = tmp_path / "image"
    path.write_bytes(data)
    return make(path, size, method)


def opened(made: Made) -> Image.Image:
    assert made.data is not None
    return Image.open(io.BytesIO(made.data))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_scaling_keeps_the_shape(tmp_path: Path, kind: str) -> None:
    made = made_of(tmp_path, image(2000, 1000, kind), (640, 480))
    assert made.content_type == "image/jpeg"
    assert opened(made).size == (640, 320)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_cropping_fills_the_size(tmp_path: Path, kind: str) -> None:
    assert opened(made_of(tmp_path, image(2000, 300, kind), (96, 96), "crop")).size == (96, 96)
    assert opened(made_of(tmp_path, image(2000, 20, kind), (96, 96), "crop")).size == (96, 20)


def test_transparency_stays(tmp_path: Path) -> None:
    made = made_of(tmp_path, image(500, 500, mode="RGBA"), (32, 32), "crop")
    assert made.content_type == "image/png"
    assert opened(made).mode == "RGBA"


def test_a_small_image_is_its_own_thumbnail_whatever_it_was_said_to_be(tmp_path: Path) -> None:
    assert made_of(tmp_path, image(20, 10), (32, 32), "crop") == Made(None, "image/png")
    assert made_of(tmp_path, image(3000, 10, "JPEG"), ORIGINAL) == Made(None, "image/jpeg")


def test_a_photograph_is_turned_as_its_camera_was_held(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    assert opened(made_of(tmp_path, image(1000, 500, "JPEG", exif=turned), (320, 240))).size == (120, 240)


def test_what_moves_stands_still_in_a_thumbnail(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), (n * 100, 0, 0)) for n in range(3)]
    written = io.BytesIO()
    frames[0].save(written, "GIF", save_all=True, append_images=frames[1:])
    assert getattr(Image.open(written), "is_animated", False)
    made = made_of(tmp_path, written.getvalue(), (32, 32))
    assert not getattr(opened(made), "is_animated", False)


def test_a_pixel_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (8_000, 12_000, 60_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
        with pytest.raises(errors.TooLarge):
            made_of(tmp_path, data, (32, 32), "crop")


@pytest.mark.parametrize("data", [b"", b"<svg/>", image(500, 500)[:200], image(500, 500, "BMP"), b"GIF89a" + b"\xff" * 50])
def test_what_is_broken_or_of_another_format_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(errors.Unknown) as caught:
        made_of(tmp_path, data, (32, 32), "crop")
    assert caught.value.status == 400


# Moving pictures (animated=true)


def moving(tmp_path: Path, data: bytes, size: tuple[int, int] = (320, 240), method: str = "scale") -> Made:
    path = tmp_path / "image"
    path.write_bytes(data)
    return make(path, size, method, animated=True)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
@pytest.mark.parametrize(("method", "box"), [("scale", (320, 160)), ("crop", (320, 240))])
def test_moving_pictures_move_on_as_webp_if_that_is_asked_for(tmp_path: Path, kind: str, method: str, box: tuple[int, int]) -> None:
    made = moving(tmp_path, moving_image(800, 400, 6, kind), method=method)
    assert made.content_type == "image/webp"
    shown = opened(made)
    assert (shown.size, shown.n_frames) == (box, 6)
    assert total_duration(shown) == 300


def total_duration(shown: Image.Image) -> int:
    total = 0
    for number in range(shown.n_frames):
        shown.seek(number)
        shown.load()
        total += shown.info["duration"]
    return total


def test_moving_pictures_that_are_small_are_their_own_thumbnail(tmp_path: Path) -> None:
    assert moving(tmp_path, moving_image(30, 20, 3)) == Made(None, "image/gif")


def test_what_does_not_move_is_as_if_nobody_had_asked(tmp_path: Path) -> None:
    assert moving(tmp_path, image(1000, 500, "JPEG")).content_type == "image/jpeg"
    assert moving(tmp_path, image(20, 10)) == Made(None, "image/png")


def test_of_many_frames_some_are_left_out_and_the_others_stay_longer(tmp_path: Path) -> None:
    made = moving(tmp_path, moving_image(340, 20, 250))
    shown = opened(made)
    assert thumbnails.MAX_FRAMES // 2 < shown.n_frames <= thumbnails.MAX_FRAMES
    assert total_duration(shown) == 250 * 50


def test_too_many_frames_or_pixels_stand_still(tmp_path: Path) -> None:
    for data in (gif_of_dots(8, 8, thumbnails.MAX_FRAMES_READ + 1), gif_of_dots(4000, 4000, 13)):
        assert moving(tmp_path, data).content_type in ("image/jpeg", "image/png")


def gif_of_dots(width: int, height: int, frames: int) -> bytes:
    """A large picture of which each frame changes one dot: a few bytes a frame, and all of the picture to be unpacked for it."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    dot = b"\x21\xf9\x04\0\x05\0\0\0" + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return screen + dot * frames + b";"


def test_moving_pictures_keep_what_is_transparent(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (500, 500), (number * 80, 0, 0, 60)) for number in range(3)]
    written = io.BytesIO()
    frames[0].save(written, "WEBP", save_all=True, append_images=frames[1:], duration=40, lossless=True)
    shown = opened(moving(tmp_path, written.getvalue()))
    assert shown.mode == "RGBA"
    assert shown.n_frames == 3


@pytest.mark.parametrize("cut", [60, 400, 900])
def test_moving_pictures_that_break_off_are_no_fault(tmp_path: Path, cut: int) -> None:
    data = moving_image(800, 400, 6)[:cut]
    with pytest.raises(errors.Unknown) as caught:
        moving(tmp_path, data)
    assert caught.value.status == 400


@pytest.mark.alone
def test_what_images_took_of_the_memory_is_given_back(tmp_path: Path) -> None:
    """Unpacked, the large one takes some 95 MB; a server makes thumbnails in a thread, whose memory is another matter again."""
    small, large, moves = tmp_path / "small", tmp_path / "large", tmp_path / "moves"
    small.write_bytes(image(900, 700))
    large.write_bytes(image(4800, 4900, "JPEG"))
    moves.write_bytes(moving_image(340, 260, 40))
    grown: list[int] = []

    def work() -> None:
        make(small, (320, 240), "scale")
        make(moves, (320, 240), "scale", animated=True)
        before = resident()
        for path in (moves, small, large):
            make(path, (1600, 1200) if path is large else (320, 240), "scale", animated=True)
            grown.append(resident() - before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert max(grown) < 20_000_000


def resident() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
