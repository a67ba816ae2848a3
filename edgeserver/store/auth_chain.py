"""States and auth chains of any size, as they are served to other servers: ids first, then the stored bytes part by part.

A room of 100,000 members has a state of 100 MB; held as parsed events it would take a small box several times that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeserver.store import events

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeserver.store.database import Transaction


def chain_ids(tx: Transaction, event_ids: Iterable[str]) -> list[str]:
    """The ids that the events' `auth_events` lead to, of those that are held; the events themselves only if another leads to them."""
    chain: dict[str, None] = {}
    wanted = _cited(tx, list(event_ids))
    while wanted:
        held = _held(tx, wanted)
        chain.update(dict.fromkeys(held))
        wanted = [one for one in _cited(tx, held) if one not in chain]
    return list(chain)


def pdus(tx: Transaction, event_ids: Sequence[str]) -> list[bytes]:
    """The events as they are stored: canonical JSON."""
    return [pdu for (pdu,) in tx.all_in("SELECT pdu FROM events WHERE event_id IN", event_ids)]


def _cited(tx: Transaction, event_ids: Sequence[str]) -> list[str]:
    rows = tx.all_in("SELECT pdu FROM events WHERE event_id IN", event_ids)
    return list(dict.fromkeys(one for (pdu,) in rows for one in events.cited_ids(pdu)))


def _held(tx: Transaction, event_ids: Sequence[str]) -> list[str]:
    return [one for (one,) in tx.all_in("SELECT event_id FROM events WHERE event_id IN", event_ids)]
