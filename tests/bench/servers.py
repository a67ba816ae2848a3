"""The two homeservers that are compared, under one handle: ours as `edgeserver serve`, and a stock Synapse on SQLite.

Both run with their own defaults as far as cost goes (database, fsyncs, password hashing, TLS listener for federation); only rate limits are
lifted and registration is open.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from pathlib import Path
from typing import Any, Self

from tests.bench.load import Connection, request
from tests.lab.box import Box
from tests.lab.ca import Authority
from tests.lab.programs import Program, wait_for, which
from tests.lab.synapse import Synapse, free_port
from tests.lab.web import answers

CONFIG = """\
[server]
name = "{name}"
clock = "system"
log_level = "warning"
[http]
client = ["127.0.0.1:{client}"]
federation = ["127.0.0.1:{federation}"]
{certificate}
[accounts]
registration = "open"
[limits]
rate_limits = false
[federation]
private_addresses = true
{federating}
[discovery]
interfaces = ["127.0.0.1"]
{more}
"""
PASSWORD = "a long bench password"
_SYNAPSE = {"enable_registration": True, "enable_registration_without_verification": True, "bcrypt_rounds": 12}


def _certified(authority: Authority) -> str:
    certificate = authority.issue("localhost")
    return f'certificate = "{certificate.chain}"\ncertificate_key = "{certificate.key}"'


class Server:
    """One homeserver of one kind, in a folder; `with` starts and stops it. `count_syncs` runs it under strace, which slows it down."""

    def __init__(
        self,
        kind: str,
        folder: Path,
        *,
        count_syncs: bool = False,
        more: str = "",
        federating: str = "",
        authority: Authority | None = None,
        synapse: dict[str, Any] | None = None,
    ) -> None:
        """With an `authority`, which it believes and has its certificate from, it can federate with others of the same authority.

        `more` is added to a box's configuration, `federating` to its section [federation], `synapse` to a homeserver.yaml.
        """
        self.kind = kind
        self._trace = folder / "syncs"
        folder.mkdir(parents=True, exist_ok=True)
        if kind == "edgeserver":
            client, federation = free_port(), free_port()
            self.name = f"localhost:{federation}"
            self.url = f"http://127.0.0.1:{client}"
            config = CONFIG.format(
                name=self.name,
                client=client,
                federation=federation,
                certificate="" if authority is None else _certified(authority),
                federating="" if authority is None else f'extra_ca = "{authority.certificate}"\n{federating}',
                more=more,
            )
            self.program: Program = Box(folder, config, self.url).program
            self.database = folder / "data" / "edgeserver.db"
        else:
            peer = Synapse(folder, authority or Authority(folder / "ca"), config=_SYNAPSE | (synapse or {}))
            self.name, self.url, self.program = peer.server_name, peer.base_url, peer.program
            self.database = peer.database
        self._argv = self.program.argv
        if count_syncs:
            strace = [which("strace") or "strace", "-f", "--seccomp-bpf", "-qq", "-o", str(self._trace)]
            self.program.argv = [*strace, "-e", "trace=fsync,fdatasync", *self._argv]
        self._numbers = itertools.count()

    def start(self) -> float:
        """Starts it; returns after how many seconds it answered."""
        began = time.perf_counter()
        self.program.start()
        wait_for(self.kind, lambda: answers(f"{self.url}/_matrix/client/versions"), timeout=90, program=self.program)
        return time.perf_counter() - began

    def stop(self) -> None:
        self.program.stop(timeout=10)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Looking at the process

    def written(self) -> int:
        """Bytes that it has caused to be written to the disk so far (`write_bytes`)."""
        return int(self._proc("io").split("write_bytes: ")[1].split("\n")[0])

    def cpu(self) -> float:
        """Seconds of all its threads on a CPU so far, ended threads included: its POSIX process clock (clock_getcpuclockid(3))."""
        return time.clock_gettime((~self.program.pid << 3) | 2)

    def wakeups(self) -> dict[str, int]:
        """How often each of its threads has slept and been woken so far (`voluntary_ctxt_switches`)."""
        found: dict[str, int] = {}
        for task in Path(f"/proc/{self.program.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has just ended
                found[task.name] = int((task / "status").read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])
        return found

    def wakeups_since(self, before: dict[str, int]) -> int:
        """How often its threads of now have been woken since."""
        return sum(count - before.get(thread, 0) for thread, count in self.wakeups().items())

    def rss(self) -> float:
        """Resident memory, in MB (10^6 bytes)."""
        return self.program.rss() / 1e6

    def peak_rss(self) -> float:
        """The most resident memory it ever had since it was started, in MB (`VmHWM`)."""
        return self.program.peak_rss() / 1e6

    def syncs(self) -> int:
        """fsync and fdatasync calls so far, where it was started to count them."""
        text = self._trace.read_text(errors="replace")
        return sum(("fsync(" in line or "fdatasync(" in line) for line in text.splitlines())

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self.program.pid}/{name}").read_text()

    # Using it

    def register(self, connection: Connection, name: str | None = None) -> tuple[str, str]:
        """Makes an account; returns its user id and access token."""
        body = {"username": name or f"user{next(self._numbers)}", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        answer = connection.call("POST", "/_matrix/client/v3/register", body)
        return answer["user_id"], answer["access_token"]

    def create_room(self, connection: Connection, token: str, **body: Any) -> str:
        return str(connection.call("POST", "/_matrix/client/v3/createRoom", {"preset": "private_chat", **body}, token)["room_id"])

    def message(self, token: str, room_id: str, text: str) -> bytes:
        """A request that sends a text with a transaction id of its own."""
        path = f"/_matrix/client/v3/rooms/{room_id}/send/m.room.message/t{next(self._numbers)}"
        return request("PUT", path, {"msgtype": "m.text", "body": text}, token)
