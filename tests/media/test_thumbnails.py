"""Making thumbnails of real images, whole, broken and hostile ones."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from edgeserver.matrix import errors
from edgeserver.media.thumbnails import ORIGINAL, Made, make
from tests.media.places import image


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
