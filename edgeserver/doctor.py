"""What `edgeserver check` does: the data folder, the key, the name and the database, looked at and never changed."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from edgeserver.app import identity
from edgeserver.matrix import server_names
from edgeserver.matrix.signatures import SigningKey
from edgeserver.store.integrity import Inspection, inspect, media_files

if TYPE_CHECKING:
    from pathlib import Path

KEY = "identity.key"
NAME = "server_name"
DATABASE = "edgeserver.db"


def examine(data: Path, configured: str = "") -> Inspection:
    """Examines a data folder. `configured` is the name that the configuration gives, if it gives one."""
    report = Inspection()
    if not data.is_dir():
        report.findings.append(f"there is no data folder at {data}")
        return report
    try:
        server_name = _name(report, data, configured)
        _key(report, data, server_name)
        if not (data / DATABASE).exists():
            report.findings.append(f"there is no database at {data / DATABASE}")
            return report
    except PermissionError as error:
        report.findings.append(f"{error.filename} may not be read by this user ({error.strerror})")
        return report
    found = inspect(data / DATABASE, server_name)
    report.checked += found.checked
    report.findings += found.findings
    report.notes += found.notes
    _media(report, data)
    return report


def _media(report: Inspection, data: Path) -> None:
    """Whether the files of media are there and whole. A running box makes some while we look: too many are no fault."""
    named = media_files(data / DATABASE)
    if named is None:
        return
    report.checked.append("media files")
    root = data / "media"
    there = {
        folder.name + file.name: file.stat().st_size
        for folder in (root.iterdir() if root.is_dir() else ())
        if len(folder.name) == 2 and folder.is_dir()
        for file in folder.iterdir()
    }
    missing, short = named.keys() - there.keys(), [digest for digest, size in named.items() if there.get(digest, size) != size]
    if missing:
        report.findings.append(f"{len(missing)} of {len(named)} files of media are missing in {root}; restore them from a backup")
    if short:
        report.findings.append(f"{len(short)} files of media in {root} are not of the size that they should have")
    if len(there) > len(named) - len(missing):
        report.notes.append(f"{len(there.keys() - named.keys())} files in {root} belong to no media; the next start removes them")


def _name(report: Inspection, data: Path, configured: str) -> str | None:
    """The name that the folder has settled on."""
    report.checked.append("server name")
    path = data / NAME
    if not path.exists():
        report.findings.append(f"{path} is missing: the box would take the configured name for its own; restore it from a backup")
        return None
    name = path.read_text(encoding="utf-8", errors="replace").strip()
    if not server_names.is_valid(name):
        report.findings.append(f"{path} holds {name!r}, which is no server name")
        return None
    if configured and configured != name:
        report.findings.append(f"the data folder belongs to {name}, but the configuration names {configured}: names are permanent")
    return name


def _key(report: Inspection, data: Path, server_name: str | None) -> None:
    report.checked.append("key")
    path = data / KEY
    if not path.exists():
        report.findings.append(f"{path} is missing: without it the box would become another one; restore it from a backup")
        return
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        report.findings.append(f"{path} can be read or written by others (mode {mode:03o}): run chmod 600 {path}")
    if not os.access(path, os.R_OK):
        report.findings.append(f"{path} cannot be read by this user")
        return
    if server_name is None:
        return
    try:
        box = identity.load_or_make(data, server_name, "")
    except identity.IdentityError as error:
        report.findings.append(str(error))
        return
    stated = server_names.key_of(server_name)
    if stated is not None and stated != SigningKey(box.seed, "ed25519:0").verify_key:
        report.findings.append(f"{path} is not the key that the name {server_name} states: one of the two is another box's")
