"""The program becomes a guest of the box: it learns the box's name and key by the code or QR string that the box shows."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import trio

from transports.link.connection import Link, LinkDown
from transports.link.pairing import Paired, PairingFailed, PairingQR, guest, normalise_code

if TYPE_CHECKING:
    from collections.abc import Callable

    from transports.identity import Identity
    from transports.link.wire import Driver

PATIENCE = 600.0
"""Seconds; no code lives longer."""
_LOOK_SECONDS = 1.0
_FAREWELL = 3.0  # the box must hear that its last message has arrived, or it will think that the line broke


def secret_of(text: str) -> str | PairingQR:
    """A code (K7QM-2XPA) or a QR string, as typed or scanned. Raises `PairingFailed`."""
    return PairingQR.parse(text) if text.strip().startswith("edgeserver:") else normalise_code(text)


def device_name(program: str) -> str:
    """How the box will call this device in its lists. No server name has a space: nobody takes the program for a box."""
    return f"{program} on {socket.gethostname()}"[:60]


async def pair(driver: Driver, identity: Identity, secret: str | PairingQR, name: str, say: Callable[[str], None]) -> Paired:
    """Calls whoever is at the other end of the line. A line that breaks is tried again. Raises `PairingFailed`."""
    link = Link(driver, identity, lambda key: None, as_stranger=True, redial_cap=15.0)
    say(f"Calling over {link.name} to pair.")
    trouble = f"nobody answered within {PATIENCE / 60:.0f} minutes; is a code shown at the box?"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        nursery.start_soon(_tell_trouble, link, say)
        with trio.move_on_after(PATIENCE):
            outcome = await _as_guest(link, identity, secret, name, say)
            if isinstance(outcome, Paired):
                nursery.cancel_scope.cancel()
                return outcome
            trouble = str(outcome)
        if link.trouble is not None:
            trouble = link.trouble
        nursery.cancel_scope.cancel()
    raise PairingFailed(trouble)


async def _tell_trouble(link: Link, say: Callable[[str], None]) -> None:
    """Says why the port is not open, as often as the reason changes: a mistyped path is not to be waited for in silence."""
    said = None
    while True:
        if link.trouble is not None and link.trouble != said:
            say(f"{link.trouble}. Plug it in or correct --link; it is tried again until then.")
        said = link.trouble
        await trio.sleep(_LOOK_SECONDS)


async def _as_guest(
    link: Link, identity: Identity, secret: str | PairingQR, name: str, say: Callable[[str], None]
) -> Paired | PairingFailed:
    """The box, or why it is not paired with us: raised here, that would end as a group."""
    while True:
        connection = await link.wait_up()
        try:
            paired = await guest(connection, name, identity.public_key, secret, os.urandom)
        except PairingFailed as error:
            return error
        except LinkDown as error:
            say(f"The line broke ({error}); trying again.")
            await trio.sleep(1)
            continue
        with trio.move_on_after(_FAREWELL):
            await connection.wait_down()
        return paired
