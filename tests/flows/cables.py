"""Simulated lines between paired boxes, for runs in which they are cut: one cable for each pair that has one.

A cable is cut in two ways: its ports vanish, which both ends see at once, or nothing that is sent arrives, which they find out by
waiting. A box that loses its power falls silent without a word of farewell.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeserver.app import identity as identities
from edgeserver.store import database, pairings
from edgeserver.store.pairings import Pairing
from transports.memory import Medium, MemoryCable, MemoryEnd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Cables:
    """Boxes are known by name; the server name of `b0` is `b0.test`. `watch` is told of every frame (see `MemoryCable`)."""

    def __init__(self, watch: Callable[[str, bytes, bytes | None], None]) -> None:
        self._watch = watch
        self._laid: dict[tuple[str, str], tuple[MemoryCable, Medium]] = {}
        self.gateways: dict[str, str] = {}
        """Box without internet → the box that is its gateway, with which it has a cable."""

    def lay(self, one: str, other: str, medium: Medium, *, seed: int) -> None:
        """Between two boxes; the first of them by name calls."""
        one, other = sorted((one, other))
        cable = MemoryCable(medium, seed=seed, name=f"{one}-{other}")
        cable.watch = self._watch
        self._laid[one, other] = cable, medium

    def pairs(self) -> list[tuple[str, str]]:
        return list(self._laid)

    def ends(self, name: str) -> dict[str, MemoryEnd]:
        """The ends at that box, by the box at the other end."""
        at_a = {b: cable.a for (a, b), (cable, _) in self._laid.items() if a == name}
        at_b = {a: cable.b for (a, b), (cable, _) in self._laid.items() if b == name}
        return at_a | at_b

    def drivers(self, name: str) -> dict[str, MemoryEnd]:
        """By the name of the line."""
        return {f"to-{other}": end for other, end in self.ends(name).items()}

    def config(self, name: str) -> str:
        return "".join(f'[[links]]\nuri = "radio"\nname = "{line}"\n' for line in self.drivers(name))

    async def pair(self, data: dict[str, Path]) -> None:
        """Writes down in each box's data folder, before it is first opened, that it is paired with whoever it has a cable to."""
        keys = {name: identities.load_or_make(folder, f"{name}.test", "mesh").signing_key.verify_key for name, folder in data.items()}
        for name, folder in data.items():
            known = [self._pairing(name, other, keys[other]) for other in self.ends(name)]

            def write(tx: database.Transaction, known: list[Pairing] = known) -> None:
                for one in known:
                    pairings.put(tx, one)

            async with database.open_database(folder / "edgeserver.db", inline=True) as db:
                await db.write(write)

    def _pairing(self, name: str, other: str, key: bytes) -> Pairing:
        """With the other one, as the first knows it."""
        calls = f"to-{other}" if name < other else None
        fronted, gateway = self.gateways.get(other) == name, self.gateways.get(name) == other
        return Pairing(key, f"{other}.test", True, calls, fronted, gateway, 0)

    # Weather

    def cut(self, one: str, other: str, *, silently: bool) -> None:
        cable, medium = self._laid[min(one, other), max(one, other)]
        if silently:
            cable.medium = replace(medium, loss=1.0)
        else:
            cable.unplug()

    def heal(self) -> None:
        for cable, medium in self._laid.values():
            cable.medium = medium
            cable.plug()

    def power_off(self, name: str) -> None:
        """Not a byte more from that box until it opens its ports again."""
        for end in self.ends(name).values():
            end.wire = None

    def standing(self) -> list[str]:
        """Which are cut, and how."""
        unplugged = [f"{a}|{b}" for (a, b), (cable, _) in self._laid.items() if not cable.plugged]
        silent = [f"{a}~{b}" for (a, b), (cable, _) in self._laid.items() if cable.medium.loss >= 1.0]
        return unplugged + silent
