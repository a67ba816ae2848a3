"""Media that came over the line, on disk: whole ones, and the beginnings of those that are to go on.

Each has two files in the folder `media` of the proxy's state, named for the SHA-256 of what it is, and readable by their owner only:
`<digest>.json` says what it is, `<digest>.body` has as many bytes of it as have come. A body is on disk before anything is said of it; a
beginning that a power cut has torn is at most shorter.

Both bounded: the media that nobody has asked for for the longest time goes first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote

import orjson

from edgeserver.app.identity import write_durably
from edgeserver.paired.state import StateError

if TYPE_CHECKING:
    from pathlib import Path

    from transports.exchange import Headers

log = logging.getLogger(__name__)

MAX_BYTES: Final = 64_000_000
"""Of all bodies together."""
MAX_FILES: Final = 1000
_TOUCH_SECONDS: Final = 3600.0
_PATH: Final = re.compile(r"/_matrix/(?:media/\w+|client/v1/media)/(download|thumbnail)/([^/]{1,255})/([^/]{1,255})(?:/[^/]*)?")
_NAME: Final = re.compile(r"([0-9a-f]{64})\.json")
_OF_A_THUMBNAIL: Final = ("width", "height", "method", "animated")
_KEPT_HEADERS: Final = frozenset(
    ("content-type", "content-disposition", "content-security-policy", "x-content-type-options", "cross-origin-resource-policy",
     "cache-control", "etag")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MediaKey:
    """What is asked for: an mxc URI, and `variant` for the thumbnail of it (empty: the file)."""

    server: str
    media_id: str
    variant: str = ""

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join((self.server, self.media_id, self.variant)).encode()).hexdigest()


def media_key(path: str, query: str) -> MediaKey | None:
    """Of a request for media; None if it is none. `path` is percent-encoded."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    server, media_id = (unquote(part, errors="replace") for part in match.groups()[1:])
    if match[1] == "download":
        return MediaKey(server, media_id)
    try:
        asked = dict(parse_qsl(query, max_num_fields=16))
    except ValueError:
        return None
    return MediaKey(server, media_id, "thumbnail " + " ".join(f"{name}={asked[name][:16]}" for name in _OF_A_THUMBNAIL if name in asked))


@dataclass
class KeptMedia:
    """One of them. `target` and `authorization` are those of the request that fetches it; a whole one has no authorization any more.
    `total` is its size in bytes once that is known, `size` what is there. `wanted`: somebody has asked for it to be fetched.
    """

    key: MediaKey
    target: str
    authorization: str
    name: str = ""
    total: int | None = None
    etag: str = ""
    headers: Headers = field(default=())
    wanted: bool = False
    size: int = 0
    used_at: float = 0.0

    @property
    def is_whole(self) -> bool:
        return self.total is not None and self.size == self.total


class MediaFolder:
    """All of them, for `box` (a public key in base64). `load` comes first; all methods but `get` and `all` block and raise `StateError`."""

    def __init__(self, path: Path, box: str, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> None:
        self._path = path
        self._box = box
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._kept: dict[str, KeptMedia] = {}

    def get(self, key: MediaKey) -> KeptMedia | None:
        return self._kept.get(key.digest)

    def all(self) -> list[KeptMedia]:
        return list(self._kept.values())

    def load(self) -> None:
        """Reads the folder, and makes it. What is damaged is removed: it can be fetched again."""
        try:
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            names = sorted(os.listdir(self._path))
            for name in names:
                match = _NAME.fullmatch(name)
                if match is not None:
                    self._load(match[1])
            for name in names:
                stem = name.rpartition(".")[0]
                if name.endswith((".body", ".new")) and stem not in self._kept:
                    (self._path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"{self._path} cannot be used: {error.strerror}.") from error

    def _load(self, digest: str) -> None:
        head, body = self._path / f"{digest}.json", self._path / f"{digest}.body"
        try:
            found, box = _media(orjson.loads(head.read_bytes()))
            status = body.stat()
            found.size, found.used_at = status.st_size, status.st_mtime
            if found.key.digest != digest or (found.total is not None and found.size > found.total):
                raise ValueError("not what it says")
            if box != self._box and not found.is_whole:
                raise ValueError("begun with another box")
        except (OSError, LookupError, TypeError, ValueError) as error:
            log.warning("%s is of no use (%r) and removed.", head, error)
            head.unlink(missing_ok=True)
            body.unlink(missing_ok=True)
            return
        self._kept[digest] = found
        if found.is_whole and found.authorization:
            self.say(found)

    def begin(self, media: KeptMedia) -> None:
        """Has it begin anew, with nothing of it there."""
        media.size, media.total, media.etag = 0, None, ""
        digest = media.key.digest
        self._kept.pop(digest, None)  # so that room is made without it
        self._make_room(0)
        try:
            os.close(os.open(self._path / f"{digest}.body", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        except OSError as error:
            raise StateError(f"{self._path} cannot be written: {error.strerror}.") from error
        media.used_at = time.time()
        self._kept[digest] = media
        self.say(media)

    def add(self, media: KeptMedia, part: bytes) -> None:
        """More of it."""
        if self._kept.get(media.key.digest) is not media:
            raise StateError("What was fetched had to make room for something else.")
        self._make_room(len(part), media)
        try:
            descriptor = os.open(self._path / f"{media.key.digest}.body", os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                file.truncate(media.size)  # what a failed write has left
                file.seek(media.size)
                file.write(part)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StateError(f"{self._path} cannot be written: {error.strerror}.") from error
        media.size += len(part)
        media.used_at = time.time()

    def say(self, media: KeptMedia) -> None:
        """Writes down what it is and how it stands. A token is kept only where it is needed to go on without the client."""
        if media.is_whole:
            media.authorization, media.wanted = "", False
        told = {
            "box": self._box,
            "key": [media.key.server, media.key.media_id, media.key.variant],
            "target": media.target,
            "authorization": media.authorization if media.wanted else "",
            "name": media.name,
            "total": media.total,
            "etag": media.etag,
            "headers": [[name, value] for name, value in media.headers if name.lower() in _KEPT_HEADERS],
            "wanted": media.wanted,
        }
        try:
            write_durably(self._path / f"{media.key.digest}.json", orjson.dumps(told))
        except OSError as error:
            raise StateError(f"{self._path} cannot be written: {error.strerror}.") from error

    def read(self, media: KeptMedia) -> bytes:
        """The body of a whole one."""
        path = self._path / f"{media.key.digest}.body"
        try:
            body = path.read_bytes()
            if len(body) != media.total:
                raise StateError(f"{path} is damaged.")
            if time.time() - media.used_at > _TOUCH_SECONDS:
                os.utime(path)
                media.used_at = time.time()
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error.strerror}.") from error
        return body

    def remove(self, media: KeptMedia) -> None:
        self._kept.pop(media.key.digest, None)
        for end in ("json", "body"):
            try:
                (self._path / f"{media.key.digest}.{end}").unlink(missing_ok=True)
            except OSError as error:
                raise StateError(f"{self._path} cannot be changed: {error.strerror}.") from error

    def _make_room(self, more: int, keep: KeptMedia | None = None) -> None:
        """Those that are wanted go last of all."""
        in_order = sorted(self._kept.values(), key=lambda each: (each.wanted, each.used_at))
        size, count = sum(each.size for each in in_order) + more, len(in_order)
        for each in in_order:
            if size <= self._max_bytes and count <= self._max_files:
                return
            if each is not keep:
                size, count = size - each.size, count - 1
                self.remove(each)


def _media(told: Any) -> tuple[KeptMedia, str]:
    """What a file says, and whose box it is for. Raises LookupError, TypeError or ValueError if it says nothing."""
    server, media_id, variant = told["key"]
    total = told["total"]
    headers = tuple((name, value) for name, value in told["headers"])
    texts = (told["target"], told["authorization"], told["etag"], *(word for pair in headers for word in pair))
    "".join(texts).encode("latin-1")
    if any("\n" in text or "\r" in text for text in texts):
        raise ValueError("a line break")
    "".join((server, media_id, variant, told["name"], told["box"])).encode()
    if not (total is None or (type(total) is int and total >= 0)) or type(told["wanted"]) is not bool:
        raise TypeError("no size")
    key = MediaKey(server, media_id, variant)
    media = KeptMedia(key, told["target"], told["authorization"], told["name"], total, told["etag"], headers, told["wanted"])
    return media, told["box"]
