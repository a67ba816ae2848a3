"""Makes the zstd dictionary: `python -m transports.lowband.train`.

Writes `dictionaries/<hash>.zdict` and names it in `current.txt`; earlier files stay for peers of earlier releases.
The samples are in the very form in which `messages` compresses them, so train again when tables or samples change.
The same tables, samples and version of zstd give the same dictionary.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import zstandard

from transports.exchange import Request, Response
from transports.lowband import samples, tables
from transports.lowband.dictionary import Dictionaries, name_of
from transports.lowband.messages import VERSION, Hello, Session

SIZE = 24 * 1024
"""Bytes of the dictionary."""


class _Recorder(Dictionaries):
    """Keeps what would have been compressed."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: list[bytes] = []

    def compress(self, data: bytes, dictionary: bytes | None) -> bytes:
        self.samples.append(data)
        return data


def payloads(rounds: int = 150) -> list[bytes]:
    """Uncompressed message payloads of made-up traffic."""
    source, recorder = samples.Source(), _Recorder()
    session = Session(recorder, peer=Hello(VERSION, tables.extended().hash, ()))
    for _ in range(rounds):
        for method, target, asked, answered in samples.exchanges(source):
            body = b"" if asked is None else _json(asked)
            session.encode_request(1, Request(method, target, body=body))
            session.encode_response(1, Response(200, body=_json(answered)))
    return recorder.samples


def train() -> bytes:
    """The dictionary's bytes."""
    dictionary: bytes = zstandard.train_dictionary(SIZE, [*payloads()], k=256, d=8, level=3).as_bytes()
    return dictionary


def main() -> None:
    folder = Path(str(resources.files(__package__).joinpath("dictionaries")))
    folder.mkdir(exist_ok=True)
    dictionary = train()
    name = name_of(dictionary)
    (folder / f"{name}.zdict").write_bytes(dictionary)
    (folder / "current.txt").write_text(name + "\n")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


if __name__ == "__main__":
    main()
