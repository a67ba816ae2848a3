"""What a program had made durable when it said 200: its writes, syncs and responses in order, as strace saw them.

::

    recorder = Recorder(tmp_path / "trace", data_directory)
    with Box(…, wrapper=recorder.wrapper):
        …
    recording = recorder.read()
    for response in recording.responses(200):
        assert not recording.unsynced(database_wal, response.start)
        recording.rebuild(response.start, crashed)        # a directory as after a power cut at that moment

A call counts as begun at its line and as done at the line of its return, so two threads cannot hide behind each other:
a write is durable once a sync of its file that began after the write was done is itself done. Power is cut cruelly: all
that is not durable is gone, unless `keep` retains some of it. Creating, renaming and removing a file last at once; the
product's own rules about directories are not tested here. TLS hides responses: record plain HTTP.
"""

from __future__ import annotations

import math
import posixpath
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.programs import LabError, missing, which

_CALLS = (
    "pwrite64,write,writev,pwritev,sendto,sendmsg,fsync,fdatasync,ftruncate,fallocate,openat,lseek,"
    "unlink,unlinkat,rename,renameat,renameat2"
)
_LINE = re.compile(r"^(\d+) +(?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))$")
_RETURN = re.compile(r"^(.*)\)\s+= (.*)$")
_FD = re.compile(r"^(\d+)<((?:\\x[0-9a-f]{2})*)>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_PATH = re.compile(r'(?:<((?:\\x[0-9a-f]{2})*)>, )?"((?:\\x[0-9a-f]{2})*)"')  # a directory it is relative to, or none


def unavailable() -> str | None:
    """Why nothing can be recorded here, or None."""
    return missing("strace")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call. `start` and `end` are line numbers of the trace; `end` is None when it never returned."""

    name: str
    arguments: str
    result: str
    start: int
    end: int | None

    @property
    def value(self) -> int:
        """What it returned; -1 when it failed or never returned."""
        head = self.result.split("<")[0].split()
        return int(head[0], 0) if head and head[0] not in ("?", "") else -1

    @property
    def fd(self) -> tuple[int, str]:
        found = _FD.match(self.arguments)
        return (int(found[1]), _bytes(found[2]).decode(errors="replace")) if found else (-1, "")

    @property
    def strings(self) -> list[bytes]:
        found = _STRING.findall(self.arguments)
        if any(dots for _, dots in found):
            raise LabError("strace has shortened a string")
        return [_bytes(text) for text, _ in found]

    @property
    def numbers(self) -> list[int]:
        """Its plain numeric arguments after the file descriptor."""
        plain = _STRING.sub("", self.arguments).partition(",")[2]
        return [int(part, 0) for part in plain.split(",") if re.fullmatch(r"\s*-?(0x)?[0-9a-f]+\s*", part)]


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """Bytes for a file, or (`data` is None) a new length: `offset`."""

    path: str
    offset: int
    data: bytes | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sync:
    path: str
    start: int
    end: int


@dataclass(slots=True)
class Response:
    """One HTTP/1.1 response: `start` is the moment when its first byte was handed to the kernel."""

    status: int
    start: int
    data: bytes

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]


@dataclass(slots=True)
class Recording:
    """Everything that happened to the files below one directory, and all HTTP responses; moments are line numbers."""

    before: dict[str, bytes]
    writes: list[Write] = field(default_factory=list)
    syncs: list[Sync] = field(default_factory=list)
    moves: list[tuple[int, str, str | None]] = field(default_factory=list)  # (moment, path, new path or None: removed)
    all_responses: list[Response] = field(default_factory=list)
    last: int = 0
    root: str = ""
    _durable_at: dict[Write, float] = field(default_factory=dict)

    def responses(self, status: int = 200) -> list[Response]:
        return [response for response in self.all_responses if response.status == status]

    def is_durable(self, write: Write, at: int) -> bool:
        """Whether a sync of its file that began after the write was done, is done before that moment."""
        if write not in self._durable_at:
            ends = (sync.end for sync in self.syncs if sync.path == write.path and sync.start > write.end)
            self._durable_at[write] = min(ends, default=math.inf)
        return self._durable_at[write] < at

    def unsynced(self, path: Path, at: int) -> list[Write]:
        """The writes to a file that were begun before that moment and would not survive a power cut at it."""
        return [write for write in self.writes if write.path == str(path) and write.start < at and not self.is_durable(write, at)]

    def sync_moments(self) -> list[int]:
        """One moment after each sync, and the end: all the prefixes between which durable content differs."""
        return [*sorted(sync.end + 1 for sync in self.syncs), self.last + 1]

    def rebuild(self, at: int, into: Path, keep: Callable[[Write], bool] = lambda _: False) -> Path:
        """Writes the files as a power cut at that moment would leave them into the directory `into` (made new).

        Of what was not durable, only the writes for which `keep` says yes are there. SQLite's shared-memory index is
        left out, as nobody can rely on it. Returns `into`.
        """
        files = {path: bytearray(data) for path, data in self.before.items()}
        steps: list[tuple[int, Write | tuple[int, str, str | None]]] = [
            *((write.start, write) for write in self.writes if write.start < at),
            *((move[0], move) for move in self.moves if move[0] < at),
        ]
        for _, step in sorted(steps, key=lambda pair: pair[0]):
            if isinstance(step, Write):
                if self.is_durable(step, at) or keep(step):
                    _apply(files, step)
            elif (moved := files.pop(step[1], None)) is not None and step[2] is not None:
                files[step[2]] = moved
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        for path, data in files.items():
            if not path.endswith("-shm"):
                target = into / path.removeprefix(self.root + "/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        return into


class Recorder:
    """Set up before the program starts (it copies the files that are there); `read` after the program has ended."""

    def __init__(self, trace: Path, watched: Path) -> None:
        self.trace, self.watched = trace, watched.resolve()
        self._before = {str(path): path.read_bytes() for path in self.watched.rglob("*") if path.is_file() and path != trace}

    @property
    def wrapper(self) -> list[str]:
        """What goes before the program's command line."""
        strace = which("strace") or "strace"
        quiet = ["-f", "--seccomp-bpf", "-qqq", "-e", "signal=none", "-y", "-xx", "-s", "1000000"]
        return [strace, *quiet, "-e", f"trace={_CALLS}", "-o", str(self.trace)]

    def read(self) -> Recording:
        recording = Recording(self._before, root=str(self.watched))
        with self.trace.open(encoding="ascii", errors="replace") as lines:
            calls = sorted(_calls(lines), key=lambda call: call.start)
        _Reader(recording, str(self.watched) + "/").read(calls)
        return recording


class _Reader:
    """Sorts the calls of a trace into a recording. `offsets` holds the file position of each descriptor."""

    def __init__(self, recording: Recording, prefix: str) -> None:
        self._recording, self._prefix = recording, prefix
        self._offsets: dict[int, int] = {}
        self._sockets: dict[tuple[int, str], Response] = {}

    def read(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self._recording.last = max(self._recording.last, call.start, call.end or 0)
            if call.name in ("sendto", "sendmsg") or (call.name in ("write", "writev") and _is_socket(call)):
                self._send(call)
            elif call.name in ("fsync", "fdatasync"):
                if call.fd[1].startswith(self._prefix) and call.end is not None and call.value == 0:
                    self._recording.syncs.append(Sync(call.fd[1], call.start, call.end))
            elif call.name.startswith(("unlink", "rename")):
                self._move(call)
            elif call.name == "openat":
                self._open(call)
            elif call.fd[1].startswith(self._prefix):
                self._write(call)

    def _open(self, call: Call) -> None:
        found = _FD.match(call.result)
        if not found:
            return
        path = _bytes(found[2]).decode(errors="replace")
        self._offsets[int(found[1])] = -1 if "O_APPEND" in call.arguments else 0
        if path.startswith(self._prefix) and call.end is not None:
            if "O_TRUNC" in call.arguments:
                self._recording.writes.append(Write(path, 0, None, call.start, call.end))
            elif "O_CREAT" in call.arguments:
                self._recording.writes.append(Write(path, 0, b"", call.start, call.end))

    def _write(self, call: Call) -> None:
        fd, path = call.fd
        end = call.end if call.end is not None else self._recording.last + 10**9
        if call.name == "lseek":
            self._offsets[fd] = call.value
        elif call.name == "ftruncate":
            self._recording.writes.append(Write(path, call.numbers[0], None, call.start, end))
        elif call.name == "pwrite64":
            self._recording.writes.append(Write(path, call.numbers[-1], call.strings[0], call.start, end))
        elif call.name == "write" and self._offsets.get(fd, -1) >= 0:
            self._recording.writes.append(Write(path, self._offsets[fd], call.strings[0], call.start, end))
            self._offsets[fd] += len(call.strings[0])
        elif not path.endswith((".log", "-shm")):
            raise LabError(f"the recorder does not understand {call.name} on {path}")

    def _move(self, call: Call) -> None:
        names = ((_bytes(base).decode(), _bytes(name).decode()) for base, name in _PATH.findall(call.arguments))
        paths = [posixpath.join(base, name) for base, name in names]
        if call.value != 0 or not paths[0].startswith(self._prefix):
            return
        self._recording.moves.append((call.start, paths[0], paths[1] if len(paths) > 1 else None))

    def _send(self, call: Call) -> None:
        data = b"".join(call.strings)
        if data.startswith(b"HTTP/1.1 ") and data[9:12].isdigit():
            self._sockets[call.fd] = Response(int(data[9:12]), call.start, data)
            self._recording.all_responses.append(self._sockets[call.fd])
        elif call.fd in self._sockets:
            self._sockets[call.fd].data += data


def _calls(lines: Iterator[str]) -> Iterator[Call]:
    unfinished: dict[tuple[str, str], tuple[int, str]] = {}
    for number, line in enumerate(lines):
        found = _LINE.match(line.rstrip("\n"))
        if not found:
            continue
        pid, name, rest, resumed, tail = found.groups()
        if resumed:
            start, head = unfinished.pop((pid, resumed), (number, ""))
            name, rest = resumed, head + tail
        elif rest.endswith("<unfinished ...>"):
            unfinished[pid, name] = (number, rest.removesuffix("<unfinished ...>"))
            continue
        else:
            start = number
        if returned := _RETURN.match(rest):
            yield Call(name, returned[1], returned[2], start, number)
    for (_, name), (start, rest) in unfinished.items():
        yield Call(name, rest, "", start, None)


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _is_socket(call: Call) -> bool:
    return call.fd[1].startswith(("socket:", "TCP", "UNIX"))


def _apply(files: dict[str, bytearray], write: Write) -> None:
    content = files.setdefault(write.path, bytearray())
    if write.data is None:
        del content[write.offset :]
        content.extend(bytes(write.offset - len(content)))
        return
    if len(content) < write.offset:
        content.extend(bytes(write.offset - len(content)))
    content[write.offset : write.offset + len(write.data)] = write.data
