"""Checks 2 and 3 on receipt of a PDU: signatures and hashes (server-server API, "Checks performed on receipt of a PDU")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from edgeserver.matrix.pdu_checks import check_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.verdicts import Dropped

WITNESSES: Final = 4
"""So many of a room's servers are asked for keys that their owners do not give."""


class Verifier(Protocol):
    """Holds the keys."""

    async def verify(
        self, events: Sequence[Event], *, told_by: str | None = None, witnesses: Sequence[str] = (), in_bulk: bool = False
    ) -> list[Dropped | None]:
        """For each event None if every required signature verifies; else why not, `Unready` for want of keys.

        `told_by` is who gave us the events (None: we wanted them ourselves), `witnesses` are servers that may know the keys.
        `in_bulk`: events of very many servers, some of which are sure not to answer: each is given less time.
        """
        ...


async def checked(
    verifier: Verifier,
    found: Sequence[Event],
    *,
    told_by: str | None = None,
    witnesses: Sequence[str] = (),
    in_bulk: bool = False,
) -> list[Event | Dropped]:
    """The events that pass; one whose hash does not match comes back redacted, one whose signature does not as why not."""
    failures = await verifier.verify(found, told_by=told_by, witnesses=witnesses, in_bulk=in_bulk)
    return [
        (event if check_hash(event) else event.redacted()) if failure is None else failure
        for event, failure in zip(found, failures, strict=True)
    ]
