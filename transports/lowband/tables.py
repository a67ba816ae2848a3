"""The key, path and string tables of the low-bandwidth forms, as data.

`msc3079()` is version 1 of MSC3079 as the proposal and its reference code agree on it: 104 keys, 57 paths, no
strings. `extended()` is what two of our own ends speak: keys from code 105 on, today's client and federation paths
with the frequent ones first, and a string table. Codes beyond the proposal's differ between implementations, so both
ends name the extended tables by hash (`Tables.hash`) and use them only if they agree.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from transports.lowband.cbor import Vocabulary
from transports.lowband.targets import PathTable


@dataclass(frozen=True, slots=True)
class Tables:
    """One set of tables. `hash` is the first four bytes of the SHA-256 over everything in it."""

    vocabulary: Vocabulary
    paths: PathTable
    hash: bytes


def _data(name: str) -> Any:
    return json.loads(resources.files(__package__).joinpath(name).read_bytes())


def _hash(*parts: Any) -> bytes:
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).digest()[:4]


@cache
def msc3079_path_codes() -> dict[str, str]:
    """MSC3079 path code (one character, the first Uri-Path segment) → path template."""
    codes: dict[str, str] = _data("msc3079_paths.json")
    return codes


@cache
def msc3079() -> Tables:
    """MSC3079 `cbor_enum_version` 1 and `coap_enum_version` 1."""
    keys = _data("msc3079_keys.json")
    templates = tuple(msc3079_path_codes().values())
    return Tables(Vocabulary(keys), PathTable(templates), _hash(keys, templates))


@cache
def extended() -> Tables:
    """The proposal's keys and our own after them, our paths, our strings."""
    keys = dict(_data("msc3079_keys.json"))
    first = max(keys.values()) + 1
    keys.update({key: first + n for n, key in enumerate(_data("extended_keys.json"))})
    templates = tuple(_data("extended_paths.json"))
    strings = {text: n for n, text in enumerate(_data("extended_strings.json"))}
    return Tables(Vocabulary(keys, strings), PathTable(templates), _hash(keys, templates, strings))
