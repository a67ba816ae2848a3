"""Which membership events each device holds already, so that lazy loading does not send them again.

Spec: client-server API, "Lazy-loading room members": a member is redundant if it was sent before. What was sent with an answer counts
only once the client has shown, by a later token, that it got the answer; if it comes back with the token before, the answer was lost.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MAX_ENTRIES: Final = 8192
"""Of all devices together. Beyond that what devices hold that have not synced for longest is forgotten, and then sent once more."""

Device = tuple[str, str]
"""(user id, device id)"""


@dataclass(slots=True)
class _Held:
    """(room, member) → the event, and the stream position of the answer that carried it; and the newest of these positions."""

    members: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    newest: int = 0


class SentMembers:
    """A bounded memory."""

    def __init__(self) -> None:
        self._devices: OrderedDict[Device, _Held] = OrderedDict()
        self._entries = 0

    def holds(self, device: Device, room: int, member: str, event: int, since: int) -> bool:
        """Whether a device that has come to `since` holds this very membership event."""
        held = self._devices.get(device)
        known = None if held is None else held.members.get((room, member))
        return known is not None and known[0] == event and known[1] <= since

    def sent(
        self, device: Device, since: int | None, upto: int, members: Iterable[tuple[int, str, int]], anew: Collection[int] = ()
    ) -> None:
        """An answer to `since` (None: to who knows nothing) has the token `upto` and carries these (room, member, event).

        The rooms `anew` it tells as if they were new: what the device was sent of them before it may have dropped.
        """
        held = self._devices.pop(device, None) or _Held()
        self._entries -= len(held.members)
        if since is None:
            held = _Held()
        elif held.newest > since or anew:
            held.members = {key: known for key, known in held.members.items() if known[1] <= since and key[0] not in anew}
        held.newest = 0
        for room, member, event in members:
            known = held.members.pop((room, member), None)
            held.members[room, member] = known if known is not None and known[0] == event else (event, upto)
            held.newest = upto
        if held.members:
            self._devices[device] = held
            self._entries += len(held.members)
        self._bound()

    def forget(self, device: Device) -> None:
        """The device begins anew with what another one has been told."""
        held = self._devices.pop(device, None)
        self._entries -= 0 if held is None else len(held.members)

    def _bound(self) -> None:
        while self._entries > MAX_ENTRIES:
            oldest = next(iter(self._devices))
            if len(self._devices) > 1:
                self._entries -= len(self._devices.pop(oldest).members)
            else:
                members = self._devices[oldest].members
                del members[next(iter(members))]
                self._entries -= 1
