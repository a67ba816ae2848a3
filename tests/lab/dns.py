"""A small DNS server over UDP for a namespace: what is in its zone file, and NXDOMAIN at once for everything else.

The zone is JSON: `{name: {type: [value, …]}}` with the types A, AAAA, CNAME, TXT (strings) and SRV (`[priority, weight,
port, target]`). `*.fleet.test` answers for whatever below it has no entry of its own. `{name: "SERVFAIL"}` fails, and
`{name: "silence"}` says nothing. A changed file counts from the next question on. Every question is printed as a line
of JSON: `{"name", "type", "rcode"}`.

As a program: `python -m tests.lab.dns --listen 10.77.0.1 --zone zone.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
from pathlib import Path
from typing import Any, Self

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.lab.netns import Namespace, socket_in
from tests.lab.programs import Program, python_module, wait_for

_TTL = 1
Zone = dict[str, Any]


def find(zone: Zone, name: str) -> Any | None:
    """The entry for a name: its own, else the nearest wildcard above it; None when there is neither."""
    if name in zone:
        return zone[name]
    labels = name.split(".")
    wildcards = (".".join(["*", *labels[depth:]]) for depth in range(1, len(labels)))
    return next((zone[wildcard] for wildcard in wildcards if wildcard in zone), None)


def answer(zone: Zone, query: dns.message.Message) -> dns.message.Message | None:
    """The response to a query; None for silence."""
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA
    question = query.question[0]
    name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
    entry = find(zone, name)
    if entry == "silence":
        return None
    if isinstance(entry, str):
        response.set_rcode(dns.rcode.from_text(entry))
    elif entry is None:
        is_above_a_name = any(known.endswith(f".{name}") for known in zone)
        response.set_rcode(dns.rcode.NOERROR if is_above_a_name else dns.rcode.NXDOMAIN)
    else:
        _fill(response, question.name.to_text(), kind, entry, zone)
    return response


def _fill(response: dns.message.Message, name: str, kind: str, entry: dict[str, list[Any]], zone: Zone) -> None:
    if kind != "CNAME" and "CNAME" in entry:
        target = entry["CNAME"][0]
        response.answer.append(dns.rrset.from_text(name, _TTL, "IN", "CNAME", f"{target.rstrip('.')}."))
        behind = find(zone, target.rstrip(".").lower())
        if isinstance(behind, dict):
            _fill(response, f"{target.rstrip('.')}.", kind, behind, zone)
    elif kind in entry:
        values = [_text(kind, value) for value in entry[kind]]
        response.answer.append(dns.rrset.from_text_list(name, _TTL, "IN", kind, values))


def _text(kind: str, value: Any) -> str:
    if kind == "SRV":
        return f"{value[0]} {value[1]} {value[2]} {value[3].rstrip('.')}."
    if kind == "CNAME":
        return f"{value.rstrip('.')}."
    return json.dumps(value) if kind == "TXT" else str(value)


def serve(listen: str, port: int, zone_file: Path) -> None:
    """Answers until it is killed."""
    with socket.socket(socket.AF_INET6 if ":" in listen else socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((listen, port))
        while True:
            data, sender = server.recvfrom(4096)
            with contextlib.suppress(dns.exception.DNSException, IndexError, OSError):
                query = dns.message.from_wire(data)
                response = answer(json.loads(zone_file.read_text()), query)
                if response is not None:
                    server.sendto(response.to_wire(), sender)
                said = "silence" if response is None else dns.rcode.to_text(response.rcode())
                asked = query.question[0]
                name = asked.name.to_text(omit_final_dot=True)
                kind = dns.rdatatype.to_text(asked.rdtype)
                print(json.dumps({"name": name, "type": kind, "rcode": said}), flush=True)


class NameServer:
    """The program in a namespace, or on an address of this machine. `zone(…)` replaces what it knows."""

    def __init__(self, directory: Path, zone: Zone, *, space: Namespace | None = None, address: str = "127.0.0.1", port: int = 53) -> None:
        self.address, self.port = space.address if space else address, port
        self._file = directory / "zone.json"
        self._log = directory / "dns.log"
        self._netns = space.name if space else None
        self.zone(zone)
        argv = python_module("tests.lab.dns", "--listen", self.address, "--port", str(port), "--zone", str(self._file))
        self.program = Program(argv, log=self._log, netns=self._netns)

    def zone(self, zone: Zone) -> None:
        """Counts from the next question on."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(zone))
        fresh.replace(self._file)

    def questions(self) -> list[dict[str, str]]:
        """What it was asked since it was first started, in order."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        asked = [json.loads(line) for line in lines if line.startswith("{")]
        return [question for question in asked if question["name"] != "ready.invalid"]

    def ask(self, name: str, kind: str, timeout: float = 2) -> dns.message.Message:
        """One question from within its namespace; raises TimeoutError when it says nothing."""
        with self._socket() as asker:
            asker.settimeout(timeout)
            asker.connect((self.address, self.port))
            asker.send(dns.message.make_query(name, kind).to_wire())
            return dns.message.from_wire(asker.recv(4096))

    def _socket(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        if self._netns:
            return socket_in(self._netns, family, socket.SOCK_DGRAM)
        return socket.socket(family, socket.SOCK_DGRAM)

    def _answers(self) -> bool:
        try:
            return self.ask("ready.invalid", "A", 0.2).rcode() == dns.rcode.NXDOMAIN
        except OSError:
            return False

    def __enter__(self) -> Self:
        self.program.start()
        wait_for("the name server", self._answers, timeout=20, program=self.program)
        return self

    def __exit__(self, *_: object) -> None:
        self.program.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="A small DNS server for a test network.")
    parser.add_argument("--listen", required=True)
    parser.add_argument("--port", type=int, default=53)
    parser.add_argument("--zone", type=Path, required=True)
    options = parser.parse_args()
    serve(options.listen, options.port, options.zone)


if __name__ == "__main__":
    main()
