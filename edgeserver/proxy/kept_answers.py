"""The last good answers of the box, on disk: they are given while the line is down, and to nobody but whom the box gave them to.

While the line is up every request goes to the box, and what it says replaces what is kept. `paths` says which answers are kept, for whom,
and which of them a change that goes through the proxy makes untrue. An answer belongs to a user (`owners`) or, where the user's devices are
told different things or it is not known whose a token is, to a token.

Each is a file in a folder, readable by its owner only, named for the SHA-256 of whose and what it is: a line of JSON (`box`, the public key
of the box in base64; `owner`, a user id or the SHA-256 of a token; `target`; `headers`; `digest`) and then the body, compressed. Files are
written without a sync, for all of it can be asked for again: one that a power cut has torn does not have its digest, and counts as none.

Bounded in bytes and number; what was not used for longest goes first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import orjson
import trio
import zstandard

from edgeserver.app.blocking import Hop
from edgeserver.proxy.owners import digest_of
from edgeserver.proxy.paths import Keep, Kind, endpoint_of, outdated_by
from transports.exchange import Response

if TYPE_CHECKING:
    import re
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from edgeserver.paired.line import Line
    from edgeserver.proxy.call import Call
    from edgeserver.proxy.errands import Errand, Errands
    from edgeserver.proxy.owners import Owners
    from transports.exchange import Headers

log = logging.getLogger(__name__)

MAX_BYTES: Final = 16_000_000
"""Of all files together."""
MAX_ANSWERS: Final = 2000
MAX_ANSWER: Final = 512_000
"""Bytes of a body that is kept, before compression."""
_MAX_HEAD: Final = 65_536
_TOUCH_SECONDS: Final = 3600.0
_RECENT: Final = 64
"""Changes that are remembered for the answers that are under way meanwhile."""


@dataclass(eq=False)
class KeptAnswer:
    """What is known of one without its body. `digest` is of headers and body; `size` bytes are on disk (0: not yet)."""

    owner: str
    target: str
    headers: Headers
    digest: str
    size: int = 0
    used_at: float = field(default_factory=time.time)

    @cached_property
    def name(self) -> str:
        return _name(self.owner, self.target)

    @cached_property
    def endpoint(self) -> str:
        return endpoint_of(self.target.partition("?")[0])


class AnswerFolder:
    """The files, for `box` (a public key in base64). All methods block."""

    def __init__(self, path: Path, box: str) -> None:
        self._path = path
        self._box = box

    def load(self) -> list[KeptAnswer]:
        """What is there, what was not used for longest first. Makes the folder, and removes what is damaged or another box's."""
        found = []
        try:
            for folder in (self._path.parent, self._path):
                folder.mkdir(exist_ok=True, mode=0o700)
            for name in os.listdir(self._path):
                answer = self._head(name)
                if answer is None:
                    (self._path / name).unlink()
                else:
                    found.append(answer)
        except OSError as error:
            log.warning("%s cannot be used: %s.", self._path, error.strerror)
        return sorted(found, key=lambda each: each.used_at)

    def _head(self, name: str) -> KeptAnswer | None:
        try:
            with (self._path / name).open("rb") as file:
                status = os.fstat(file.fileno())
                answer = _answer(orjson.loads(file.readline(_MAX_HEAD)), self._box, status)
        except (OSError, LookupError, TypeError, ValueError):
            return None
        return answer if name == _file(answer.name) else None

    def read(self, answer: KeptAnswer) -> Response | None:
        """None if it is damaged."""
        path = self._path / _file(answer.name)
        try:
            _, _, frame = path.read_bytes().partition(b"\n")
            body = _unpacked(frame)
            if time.time() - answer.used_at > _TOUCH_SECONDS:
                os.utime(path)
                answer.used_at = time.time()
        except (OSError, zstandard.ZstdError, ValueError) as error:
            log.warning("%s is of no use: %s", path, error)
            return None
        return Response(200, answer.headers, body) if _digest(answer.headers, body) == answer.digest else None

    def write(self, answer: KeptAnswer, body: bytes) -> int:
        """How many bytes it takes. Raises OSError."""
        path = self._path / _file(answer.name)
        told = {"box": self._box, "owner": answer.owner, "target": answer.target, "headers": answer.headers, "digest": answer.digest}
        content = orjson.dumps(told) + b"\n" + zstandard.ZstdCompressor(level=6).compress(body)
        new = path.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        new.replace(path)
        return len(content)

    def remove(self, name: str) -> None:
        """Raises OSError."""
        (self._path / _file(name)).unlink(missing_ok=True)


class KeptAnswers:
    """All of them. `run` is one task for the life of the proxy; what is kept or forgotten meanwhile is so at once, and on disk soon after.

    `inline`: see `app.blocking`.
    """

    def __init__(
        self,
        line: Line,
        errands: Errands,
        owners: Owners,
        folder: AnswerFolder,
        *,
        max_bytes: int = MAX_BYTES,
        max_answers: int = MAX_ANSWERS,
        inline: bool = False,
    ) -> None:
        self._line = line
        self._errands = errands
        self._owners = owners
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_answers = max_answers
        self._hop = Hop(inline=inline, in_turn=True)
        self._kept: dict[str, KeptAnswer] = {}  # by name, what was used last at the end
        self._unsettled: dict[str, Response | None] = {}  # by name: what is still to be written, or (None) removed
        self._work = trio.Event()
        self._changes = 0
        self._recent: deque[re.Pattern[str]] = deque(maxlen=_RECENT)
        self._trouble = ""
        owners.when_forgotten.append(self._forget_owner)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reads the folder, and from then on writes and removes files until cancelled."""
        self._kept = {answer.name: answer for answer in await self._hop(self._folder.load)}
        self._make_room()
        task_status.started()
        try:
            while True:
                await self._work.wait()
                self._work = trio.Event()
                while self._unsettled:
                    name, response = next(iter(self._unsettled.items()))
                    kept = self._kept.get(name)
                    self._settled(name, response, await self._hop(self._settle, name, kept, response))
        finally:
            for name, response in self._unsettled.items():
                self._settle(name, self._kept.get(name), response)

    # ---- clients

    async def answer(self, call: Call, begin: Callable[[], Errand]) -> Response:
        """The box's answer, for which `begin` asks; as soon as the line is down the kept one instead, if there is one."""
        if not self._line.is_up and (kept := await self.find(call)) is not None:
            return kept
        errand = begin()
        found: list[Response] = []

        async def watch_line() -> None:
            while self._line.is_up or (kept := await self.find(call)) is None:
                await self._line.change()
            found.append(kept)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_line)
            found.append(await self._errands.wait(errand))
            nursery.cancel_scope.cancel()
        return found[0]

    async def find(self, call: Call) -> Response | None:
        """The kept answer, if this client may have it."""
        for name in self._names(call):
            kept = self._kept.get(name)
            if kept is None:
                continue
            response = self._unsettled.get(name) or await self._hop(self._folder.read, kept)
            if response is None and self._kept.get(name) is kept:
                self._drop(name)
            elif response is not None and name in self._kept:  # it may have been forgotten while it was read
                self._kept[name] = self._kept.pop(name)
                return response
        return None

    async def ask(self, call: Call, carry: Callable[[], Awaitable[Response]]) -> Response:
        """The box's answer, which `carry` brings: keeps it, and forgets what it makes untrue. Raises what that raises."""
        outdated = outdated_by(call.request.method, call.path)
        if outdated is None:
            changes = self._changes
            response = await carry()
            self._owners.hear(call, response)  # now, for this goes on without the client
            if not self._has_changed(endpoint_of(call.path), since=changes):  # else it may be older than what was answered sooner
                self._hear(call, response)
            return response
        was_refused = False
        try:
            response = await carry()
            self._owners.hear(call, response)
            was_refused = 400 <= response.status < 500
            return response
        finally:
            if not was_refused:  # an answer that was lost may have been a yes
                self.outdate(outdated)

    def outdate(self, endpoints: re.Pattern[str]) -> None:
        """Something has changed that these tell of."""
        self._changes += 1
        self._recent.append(endpoints)
        for name in [name for name, kept in self._kept.items() if endpoints.fullmatch(kept.endpoint)]:
            self._drop(name)

    def _has_changed(self, endpoint: str, since: int) -> bool:
        """Whether what that tells of may have changed since there were so many changes."""
        recent = list(self._recent)[max(0, len(self._recent) - (self._changes - since)) :]
        return self._changes - since > len(recent) or any(change.fullmatch(endpoint) for change in recent)

    # ---- what is kept

    def _hear(self, call: Call, response: Response) -> None:
        is_wanted = self._line.is_thin or call.treatment.kind is Kind.CACHED
        if call.treatment.keep is Keep.NOT or not is_wanted or response.status not in (200, 403, 404):
            return
        owner = self._owner(call, response)
        names = list(self._names(call))
        if response.status == 200 and owner is not None and len(response.body) <= MAX_ANSWER:
            fresh = KeptAnswer(owner, call.request.target, response.headers, _digest(response.headers, response.body))
            names = [name for name in names if name != fresh.name]
            self._keep(fresh, response)
        for name in names:
            self._drop(name)  # the box has said something else since

    def _keep(self, fresh: KeptAnswer, response: Response) -> None:
        old = self._kept.pop(fresh.name, None)
        if old is not None and old.digest == fresh.digest and fresh.used_at - old.used_at < _TOUCH_SECONDS:
            self._kept[fresh.name] = old  # a flash card need not hear of it
            return
        self._kept[fresh.name] = fresh
        self._note(fresh.name, response)
        self._make_room()

    def _owner(self, call: Call, response: Response) -> str | None:
        """Whose that answer is; None if it is not to be kept."""
        keep, known = call.treatment.keep, self._owners.known(call.authorization)
        if keep is Keep.FOR_ANYBODY and not call.query:
            return ""
        if keep is Keep.NOT or known is None or call.speaks_for_another:
            return None
        is_the_devices = keep is Keep.FOR_DEVICE or not known or b'"transaction_id"' in response.body  # of an event that the device sent
        return digest_of(call.authorization) if is_the_devices else known

    def _names(self, call: Call) -> Iterator[str]:
        """Under which an answer may be kept that this client may have."""
        known = self._owners.known(call.authorization)
        if call.treatment.keep is Keep.FOR_ANYBODY and not call.query:
            yield _name("", call.request.target)
        elif call.treatment.keep is not Keep.NOT and known is not None and not call.speaks_for_another:
            yield _name(digest_of(call.authorization), call.request.target)
            if known:
                yield _name(known, call.request.target)

    def _forget_owner(self, owner: str) -> None:
        for name in [name for name, kept in self._kept.items() if kept.owner == owner]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        if self._kept.pop(name, None) is not None:
            self._note(name, None)

    def _make_room(self) -> None:
        size = sum(kept.size for kept in self._kept.values())
        for name, kept in list(self._kept.items()):
            if size <= self._max_bytes and len(self._kept) <= self._max_answers:
                return
            size -= kept.size
            self._drop(name)

    # ---- the disk

    def _note(self, name: str, response: Response | None) -> None:
        self._unsettled[name] = response
        self._work.set()

    def _settle(self, name: str, kept: KeptAnswer | None, response: Response | None) -> int:
        """Writes or removes the file; its size. Blocks."""
        try:
            if response is not None and kept is not None:
                return self._folder.write(kept, response.body)
            self._folder.remove(name)
        except OSError as error:
            trouble = str(error.strerror)
            if trouble != self._trouble:
                self._trouble = trouble
                log.warning("What the box has answered cannot be kept: %s.", trouble)
        return 0

    def _settled(self, name: str, response: Response | None, size: int) -> None:
        if self._unsettled[name] is not response:
            return  # there is something newer to do
        del self._unsettled[name]
        kept = self._kept.get(name)
        if kept is not None and size:
            kept.size = size
            self._make_room()
        elif kept is not None:
            del self._kept[name]


def _name(owner: str, target: str) -> str:
    return hashlib.sha256(f"{owner}\n{target}".encode()).hexdigest()


def _file(name: str) -> str:
    return f"{name}.answer"


def _digest(headers: Headers, body: bytes) -> str:
    return hashlib.sha256(orjson.dumps(headers) + b"\n" + body).hexdigest()


def _unpacked(frame: bytes) -> bytes:
    """Raises ZstdError or ValueError if it is no frame of at most `MAX_ANSWER` bytes."""
    size = zstandard.get_frame_parameters(frame).content_size
    if size > MAX_ANSWER:
        raise ValueError("too large")
    return bytes(zstandard.ZstdDecompressor().decompress(frame, max_output_size=MAX_ANSWER)) if size else b""


def _answer(told: Any, box: str, status: os.stat_result) -> KeptAnswer:
    """What a file says. Raises LookupError, TypeError or ValueError if it says nothing, or something of another box."""
    headers = tuple((name, value) for name, value in told["headers"])
    texts = (told["owner"], told["target"], told["digest"], *(word for pair in headers for word in pair))
    "".join(texts).encode("latin-1")
    if any("\n" in text or "\r" in text for text in texts):
        raise ValueError("a line break")
    if told["box"] != box:
        raise ValueError("another box")
    return KeptAnswer(told["owner"], told["target"], headers, told["digest"], status.st_size, status.st_mtime)
