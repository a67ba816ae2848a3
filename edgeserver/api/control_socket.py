"""Where the control API is found. Apart from `control.py`, so that a caller need not import what serves it."""

from __future__ import annotations

from typing import Final

SOCKET: Final = "control.sock"
"""The socket's name in the data folder."""

PREFIX: Final = "/_edgeserver/control/"
