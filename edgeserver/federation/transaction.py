"""One transaction: rows of the outbox, as PUT /_matrix/federation/v1/send/{txnId} carries them.

Spec: server-server API, "Transactions", "Receipts". Pure but for a line in the log.
"""

from __future__ import annotations

import hashlib
import logging
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Any

from edgeserver.matrix import canonical_json
from transports.exchange import Priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgeserver.store.outbox import Pending

log = logging.getLogger(__name__)


def transaction_id(origin: str, destination: str, batch: Sequence[Pending], now_ms: int) -> str:
    """The id of a transaction: a hash of its rows' stream positions; of the time, for one that holds nothing."""
    rows = ",".join(str(row.stream) for row in batch) or f"at {now_ms}"
    digest = hashlib.sha256(f"{origin} {destination} {rows}".encode()).digest()
    return urlsafe_b64encode(digest[:12]).decode()


def content_of(origin: str, batch: Sequence[Pending], now_ms: int) -> dict[str, Any]:
    """The transaction itself."""
    edus = [row.edu for row in batch if row.edu is not None and _can_be_signed(row.edu)]
    return {
        "origin": origin,
        "origin_server_ts": now_ms,
        "pdus": [row.pdu for row in batch if row.pdu is not None],
        "edus": with_receipts_merged(edus),
    }


def priority_of(batch: Sequence[Pending]) -> Priority:
    """Messages go before receipts and presence on a thin line."""
    return Priority.MESSAGE if not batch or any(row.pdu is not None for row in batch) else Priority.RECEIPT


def with_receipts_merged(edus: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The EDUs with the receipts of all in as few as hold them: one EDU has one receipt of a user in a room, so one more for
    each thread in which somebody has read. They stand where the first of them stood.
    """
    kept: list[Mapping[str, Any]] = []
    merged: list[dict[str, Any]] = []
    for edu in edus:
        if edu.get("edu_type") != "m.receipt":
            kept.append(edu)
            continue
        entries = [
            (room_id, kind, user_id, receipt)
            for room_id, kinds in edu["content"].items()
            for kind, users in kinds.items()
            for user_id, receipt in users.items()
        ]
        into = next((one for one in merged if all(user not in one.get(room, {}).get(kind, {}) for room, kind, user, _ in entries)), None)
        if into is None:
            merged.append(into := {})
            kept.append({"edu_type": "m.receipt", "content": into})
        for room_id, kind, user_id, receipt in entries:
            into.setdefault(room_id, {}).setdefault(kind, {})[user_id] = receipt
    return kept


def _can_be_signed(edu: Mapping[str, Any]) -> bool:
    """Whether an EDU has a canonical form. What clients send to devices may hold floats, which no request can."""
    try:
        canonical_json.encode(edu)
    except canonical_json.CanonicalJSONError as error:
        log.info("an EDU %s is not sent: %s", edu.get("edu_type"), error)
        return False
    return True
