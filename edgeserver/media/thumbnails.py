"""Thumbnails: which size, and making them.

Spec: client-server API, "Thumbnails": never smaller than asked for unless the original is, never larger than the
original. Sizes are of a fixed list, so that nobody can have thousands made of one image. Pillow is imported when the
first thumbnail is made.
"""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import errors

if TYPE_CHECKING:
    from pathlib import Path

CROP: Final = "crop"
SCALE: Final = "scale"

SIZES: Final = {
    CROP: ((32, 32), (96, 96), (256, 256), (512, 512)),
    SCALE: ((320, 240), (640, 480), (800, 600), (1600, 1200)),
}
"""Width and height in pixels by method: those that the spec names, and a few above them."""

ORIGINAL: Final = (0, 0)
"""Beyond the list: the image at its own size."""

MAX_ASKED: Final = 100_000
MAX_FILE: Final = 64 * 1024 * 1024
MAX_PIXELS: Final = 24_000_000
"""An image is unpacked in memory, 3 or 4 bytes a pixel."""
MAX_JPEG_PIXELS: Final = 80_000_000
"""JPEG can be unpacked at an eighth of its size."""

MAX_FRAMES_READ: Final = 1000
MAX_PIXELS_READ: Final = 200_000_000
"""Of all frames of moving pictures together, which are unpacked one after the other."""
MAX_FRAMES: Final = 100
MAX_PIXELS_MOVING: Final = 12_000_000
"""Of all frames of a moving thumbnail together, which lie in memory until it is written."""
MAX_SECONDS: Final = 10.0
DEFAULT_DURATION: Final = 100
MAX_DURATION: Final = 60_000
"""Of one frame, in ms."""

_TYPES: Final = {"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp"}
_QUALITY: Final = 80


@dataclass(frozen=True, slots=True)
class Made:
    """A thumbnail. `data` is None where the original serves as it is."""

    data: bytes | None
    content_type: str


def choose(width: int, height: int, method: str) -> tuple[int, int]:
    """The smallest size of the list that is not smaller than what is asked for; ORIGINAL if none is that large.

    Raises M_INVALID_PARAM.
    """
    if method not in SIZES:
        raise errors.InvalidParam("method is crop or scale.")
    if not (0 < width <= MAX_ASKED and 0 < height <= MAX_ASKED):
        raise errors.InvalidParam("width and height are numbers of pixels.")
    for size in SIZES[method]:
        if size[0] >= width and size[1] >= height:
            return size
    return ORIGINAL


def make(path: Path, size: tuple[int, int], method: str, *, animated: bool = False) -> Made:
    """Makes a thumbnail; to be run in a thread. `animated`: moving, if the image moves and is not beyond the bounds.

    Raises M_TOO_LARGE for an image that would not fit the memory, M_UNKNOWN (400) for what is no image.
    """
    try:
        return _opened(path, size, method, animated=animated)
    finally:
        release_memory()


def _opened(path: Path, size: tuple[int, int], method: str, *, animated: bool) -> Made:
    if path.stat().st_size > MAX_FILE:
        raise errors.TooLarge("The image is too large for a thumbnail.")
    from PIL import Image

    try:
        with Image.open(path, formats=list(_TYPES)) as image:
            return (_moving(image, size, method) if animated else None) or _make(image, size, method)
    except errors.TooLarge:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise errors.TooLarge("The image is too large for a thumbnail.") from error
    except Exception as error:  # what a decoder raises on a broken image is anybody's guess
        raise errors.Unknown("This is no image that a thumbnail can be made of.", status=400) from error


def _make(image: Any, size: tuple[int, int], method: str) -> Made:
    is_jpeg = image.format == "JPEG"
    if image.width * image.height > (MAX_JPEG_PIXELS if is_jpeg else MAX_PIXELS):
        raise errors.TooLarge("The image is too large for a thumbnail.")
    box = size if size != ORIGINAL else (image.width, image.height)
    if _fits(image, box) and not getattr(image, "is_animated", False):
        return Made(None, _TYPES[image.format])
    if is_jpeg:
        image.draft(None, (2 * box[0], 2 * box[1]) if method == SCALE else _covering(image.size, box))
        if image.width * image.height > MAX_PIXELS:
            raise errors.TooLarge("The image is too large for a thumbnail.")
    small = _resized(image, box, method)
    written = io.BytesIO()
    if small.mode == "RGBA":
        small.save(written, "PNG", optimize=True)
        return Made(written.getvalue(), "image/png")
    small.save(written, "JPEG", quality=_QUALITY, optimize=True)
    return Made(written.getvalue(), "image/jpeg")


def _moving(image: Any, size: tuple[int, int], method: str) -> Made | None:
    """Moving pictures as WebP, which the spec prefers; None for what does not move, or is too much to be made to.

    Every frame must be unpacked, for each stands upon the last one; of many some are left out, and the others stay longer.
    """
    frames = getattr(image, "n_frames", 1)
    pixels = image.width * image.height
    if frames < 2 or frames > MAX_FRAMES_READ or pixels > MAX_PIXELS or pixels * frames > MAX_PIXELS_READ:
        return None
    box = size if size != ORIGINAL else (image.width, image.height)
    if _fits(image, box):
        return Made(None, _TYPES[image.format])
    most = min(MAX_FRAMES, max(2, MAX_PIXELS_MOVING // (min(box[0], image.width) * min(box[1], image.height))))
    every = -(-frames // most)
    deadline = time.monotonic() + MAX_SECONDS
    made: list[Any] = []
    durations: list[int] = []
    for number in range(frames):
        if time.monotonic() > deadline:
            image.seek(0)
            return None
        image.seek(number)
        image.load()
        shown = min(MAX_DURATION, int(image.info.get("duration") or DEFAULT_DURATION))
        if number % every:
            durations[-1] += shown
        else:
            made.append(_resized(image, box, method))
            durations.append(shown)
    written = io.BytesIO()
    made[0].save(
        written, "WEBP", save_all=True, append_images=made[1:], duration=durations, loop=image.info.get("loop", 0),
        quality=_QUALITY, method=0,
    )  # fmt: skip
    return Made(written.getvalue(), "image/webp")


def _fits(image: Any, box: tuple[int, int]) -> bool:
    return bool(image.width <= box[0] and image.height <= box[1])


def _resized(image: Any, box: tuple[int, int], method: str) -> Any:
    """The frame that is being shown, the right way up, in RGB or RGBA."""
    from PIL import Image, ImageOps

    plain = ImageOps.exif_transpose(image)
    has_alpha = plain.mode in ("RGBA", "LA", "PA") or "transparency" in plain.info
    plain = plain.convert("RGBA" if has_alpha else "RGB")
    if method == CROP and not _fits(image, box):
        return ImageOps.fit(plain, (min(box[0], plain.width), min(box[1], plain.height)), Image.Resampling.LANCZOS)
    plain.thumbnail(box, Image.Resampling.LANCZOS)
    return plain


def _covering(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The size at which the whole image covers the box: a draft of at least that much is enough to cut from."""
    ratio = max(box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def measured(data: bytes) -> tuple[int, int, str] | None:
    """Width, height and content type of an image, from its head alone; None for what is no image."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=list(_TYPES)) as image:
            return image.width, image.height, _TYPES[str(image.format)]
    except Exception:  # as above
        return None


def release_memory() -> None:
    """Gives what an image has taken back to the system, when nothing refers to it any more: glibc would keep hundreds of
    megabytes for the next image of a thread, and a small machine wants them.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
