"""What such a program keeps on disk: its key and the box that it is paired with.

`identity.key` holds the 32-byte ed25519 seed in unpadded base64, readable by its owner only; the rest is in a file named for the program,
`proxy.json` or `chat.json`. Messages that wait are beside it, as `proxy.held` and `chat.outbox` describe, and what the box has told, as
`paired.facts` does and in the folder `proxy.told`; all that is forgotten when the program is paired anew.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from edgeserver.app.identity import write_durably
from edgeserver.matrix.signatures import decode_base64, encode_base64
from transports.identity import BadKey, Identity, dh_public
from transports.link.pairing import Paired

if TYPE_CHECKING:
    from pathlib import Path


class StateError(Exception):
    """The folder or a file in it cannot be used; one sentence for the person in front of the screen."""


@dataclass
class State:
    """`file` holds all but the key. `box` is None until a pairing."""

    file: Path
    identity: Identity
    box: Paired | None = None

    def pair(self, box: Paired) -> None:
        """Forgets what an earlier box has said. Raises `StateError`."""
        self.box = box
        try:
            self.facts_file.unlink(missing_ok=True)
            if self.told_folder.exists():
                shutil.rmtree(self.told_folder)
        except OSError as error:
            raise StateError(f"{error.filename} cannot be removed: {error.strerror}.") from error
        self.save()

    @property
    def facts_file(self) -> Path:
        """For `paired.facts`."""
        return self.file.with_suffix(".facts")

    @property
    def told_folder(self) -> Path:
        """For whatever else the program keeps of what its box has told; may not be there."""
        return self.file.with_suffix(".told")

    def save(self) -> None:
        """Writes the file. Raises `StateError`."""
        box = None if self.box is None else {"name": self.box.name, "key": encode_base64(self.box.public_key)}
        _write(self.file, orjson.dumps({"box": box}, option=orjson.OPT_INDENT_2))


def open_state(folder: Path, program: str) -> State:
    """Reads the folder of a `program` (the name of its file), and makes it and the key at the first start. Raises `StateError`."""
    key_file = folder / "identity.key"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not key_file.exists():
            _write(key_file, encode_base64(os.urandom(32)).encode() + b"\n")
        seed = decode_base64(key_file.read_text().strip())
    except (OSError, ValueError) as error:
        raise StateError(f"{key_file} cannot be read as a key ({error}).") from error
    if len(seed) != 32:
        raise StateError(f"{key_file} does not hold a 32-byte key; remove it and pair again.")
    state = State(folder / f"{program}.json", Identity(seed))
    if state.file.exists():
        _read(state)
    return state


def _read(state: State) -> None:
    try:
        box = orjson.loads(state.file.read_bytes())["box"]
        if box is not None:
            state.box = Paired(str(box["name"]), decode_base64(box["key"]))
            dh_public(state.box.public_key)
    except (OSError, KeyError, TypeError, ValueError, BadKey) as error:
        raise StateError(f"{state.file} is damaged ({error!r}); remove it and pair again.") from error


def _write(path: Path, content: bytes) -> None:
    """Raises `StateError`."""
    try:
        write_durably(path, content)
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror}.") from error
