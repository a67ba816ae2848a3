"""From a URI on the command line to the line: paired first where that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from edgeserver.app.wires import driver_of
from edgeserver.paired.facts import HeardFile
from edgeserver.paired.line import Line
from edgeserver.paired.pairing import device_name, pair, secret_of
from transports.link.connection import Link
from transports.link.pairing import PairingFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.paired.state import State
    from transports.link.wire import Driver

REDIAL_CAP = 60.0
"""Seconds between calls while the box does not answer."""
_LOOK_SECONDS = 1.0


class JoinError(Exception):
    """There is no line as asked for; one sentence for the person in front of the screen."""


async def line_to_box(
    uri: str, state: State, program: str, say: Callable[[str], None], *, pairing: str | None, name: str = "", driver: Driver | None = None
) -> Line:
    """The line to the box of `state`, which is not running yet.

    `program` is what this is (`proxy`); `pairing` a code or QR string to pair by first (None: paired already); `name` what the box calls
    this device; `driver` replaces that of the URI. Raises `JoinError`, `StateError`, and `app.wires.WireError` for the URI.
    """
    driver = driver or driver_of(uri)
    if pairing is not None:
        try:
            found = await pair(driver, state.identity, secret_of(pairing), name or device_name(program), say)
        except PairingFailed as error:
            raise JoinError(f"The pairing failed: {error}.") from error
        await trio.to_thread.run_sync(state.pair, found)
        say(f"Paired with {found.name}. From now on start the {program} without --pair.")
    box = state.box
    if box is None:
        raise JoinError(
            f"This {program} is not paired with a box yet. Let the box show a pairing code, and start this again with --pair CODE."
        )

    def known(key: bytes) -> str | None:
        return box.name if key == box.public_key else None

    facts = HeardFile(state.facts_file, state.identity.public_key)
    return Line(Link(driver, state.identity, known, peer_key=box.public_key, redial_cap=REDIAL_CAP), box.name, facts)


async def tell_of_line(line: Line, say: Callable[[str], None]) -> None:
    """Says how the line stands whenever that has changed, until cancelled."""
    said = None
    while True:
        sentence = line.sentence()
        if sentence != said:
            say(sentence)
            said = sentence
        with trio.move_on_after(float("inf") if line.is_up else _LOOK_SECONDS):
            await line.change()
