"""The box's one key: link identity, Matrix signing key, and the key of its own X.509 certificate.

`identity.key` in the data folder holds the 32-byte ed25519 seed in unpadded base64 and is made on first boot, readable by its owner only.
It is the box: who loses it loses the name, who copies it is the box.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeserver.matrix import server_names
from edgeserver.matrix.signatures import SigningKey, decode_base64, encode_base64

if TYPE_CHECKING:
    from pathlib import Path


class IdentityError(Exception):
    """The key file or the name does not fit; one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class BoxIdentity:
    """Who the box is. `is_new`: the key was made just now."""

    seed: bytes
    server_name: str
    signing_key: SigningKey
    is_new: bool

    @property
    def is_self_named(self) -> bool:
        """Whether the name states the key."""
        return server_names.key_of(self.server_name) is not None


def load_or_make(folder: Path, name: str, suffix: str) -> BoxIdentity:
    """Reads the key, or makes it on first boot; settles the server name and refuses a change of it. Raises `IdentityError`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "identity.key"
    is_new = not path.exists()
    if is_new and (folder / "server_name").exists():
        raise IdentityError(f"{path} is missing, and no other key may take its place: restore it from a backup")
    if is_new:
        write_durably(path, encode_base64(os.urandom(32)).encode() + b"\n")
    seed = _read(path)
    public = SigningKey(seed, "ed25519:0").verify_key
    label = server_names.label_of(public)
    server_name = name or server_names.name_of(public, suffix)
    _settle_name(folder / "server_name", server_name)
    return BoxIdentity(seed, server_name, SigningKey(seed, server_names.key_id_of(label)), is_new)


def _settle_name(path: Path, server_name: str) -> None:
    """Names are permanent: every user id, room and signature of this box carries it."""
    if not path.exists():
        write_durably(path, server_name.encode() + b"\n")
        return
    settled = path.read_text().strip()
    if settled != server_name:
        raise IdentityError(
            f"this data folder belongs to {settled}, but the configuration names {server_name}: names are permanent,"
            f" so set the name (or the suffix) back, or begin with an empty data folder"
        )


def _read(path: Path) -> bytes:
    try:
        seed = decode_base64(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise IdentityError(f"{path} cannot be read as a key ({error}); restore it from a backup") from error
    if len(seed) != 32:
        raise IdentityError(f"{path} does not hold a 32-byte key; restore it from a backup")
    return seed


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file that its owner alone may read: whole or not at all, and on disk before it is used. Raises OSError."""
    partial = path.with_suffix(".new")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
