"""Which membership events each device holds already, so that lazy loading does not send them again.

Spec: client-server API, "Lazy-loading room members": a member is redundant if it was sent before. What was sent with an answer counts
only once the client has shown, by a later token, that it got the answer.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_ENTRIES: Final = 8192
"""Beyond that the oldest are forgotten, and then sent once more."""

Device = tuple[str, str]
"""(user id, device id)"""


class SentMembers:
    """A bounded memory: (device, room, member) → the event, and the stream position of the answer that carried it."""

    def __init__(self) -> None:
        self._sent: OrderedDict[tuple[Device, int, str], tuple[int, int]] = OrderedDict()

    def holds(self, device: Device, room: int, member: str, event: int, since: int) -> bool:
        """Whether a device that has come to `since` holds this very membership event."""
        known = self._sent.get((device, room, member))
        return known is not None and known[0] == event and known[1] <= since

    def sent(self, device: Device, upto: int, members: Iterable[tuple[int, str, int]]) -> None:
        """An answer with the token `upto` carries these (room, member, event)."""
        for room, member, event in members:
            key = (device, room, member)
            known = self._sent.pop(key, None)
            self._sent[key] = known if known is not None and known[0] == event else (event, upto)
        while len(self._sent) > MAX_ENTRIES:
            self._sent.popitem(last=False)
