"""Which configuration and which data folder a verb is about."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeserver.cli.console import CommandError

if TYPE_CHECKING:
    import argparse

    from edgeserver.config import Config

DEFAULT_FILE = "edgeserver.toml"
VARIABLE = "EDGESERVER_CONFIG"


def configuration(arguments: argparse.Namespace) -> Config:
    """The configuration that `--config` and `--data` mean. Raises `CommandError`."""
    from dataclasses import replace

    from edgeserver.config import Config

    path = file_of(arguments.config)
    config = Config() if path is None else load(path)
    if arguments.data is not None:
        config = replace(config, server=replace(config.server, data=str(Path(arguments.data).absolute())))
    return config


def file_of(given: str | None) -> Path | None:
    """The configuration file: the one given, else $EDGESERVER_CONFIG, else edgeserver.toml here; None if there is none of them."""
    named = given or os.environ.get(VARIABLE)
    if named:
        return Path(named)
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).exists() else None


def load(path: Path) -> Config:
    """Reads a file. Raises `CommandError`."""
    from edgeserver import config

    try:
        return config.load(path)
    except config.ConfigError as error:
        raise CommandError(str(error), status=2) from error
