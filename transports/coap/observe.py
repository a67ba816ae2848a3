"""Who observes what (RFC 7641): the server's list of one peer's observers, and a client's judgement of which notification is newer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transports.coap.blockwise import Key
    from transports.coap.message import Message

MAX_OBSERVERS = 8
"""Of one peer."""
REGISTER, DEREGISTER = 0, 1
_WRAP = 1 << 24
_ORDER_SECONDS = 128.0


@dataclass(slots=True)
class Observer:
    """One entry: the request that made it, and the notification that is under way."""

    exchange: int
    """The number by which the session's user knows the request."""
    request: Message
    key: Key
    registered: bool = False
    """Whether the first answer has gone out with the Observe option."""
    message_id: int | None = None
    """Of the notification that is not acknowledged yet."""
    fetching: bool = False
    """Whether the peer still has to fetch the rest of a notification."""


class Observers:
    """Entries by token: one endpoint and token have one entry (§4.1), so registering again replaces it."""

    def __init__(self) -> None:
        self._by_token: dict[bytes, Observer] = {}
        self._sequence = 1

    def add(self, observer: Observer) -> Observer | None:
        """The entry that this one replaces: the one of its token, or the oldest where there are too many."""
        gone = self._by_token.pop(observer.request.token, None)
        if gone is None and len(self._by_token) >= MAX_OBSERVERS:
            gone = self._by_token.pop(next(iter(self._by_token)))
        self._by_token[observer.request.token] = observer
        return gone

    def remove(self, observer: Observer) -> None:
        if self._by_token.get(observer.request.token) is observer:
            del self._by_token[observer.request.token]

    def by_token(self, token: bytes) -> Observer | None:
        return self._by_token.get(token)

    def by_exchange(self, exchange: int) -> Observer | None:
        return next((each for each in self._by_token.values() if each.exchange == exchange), None)

    def by_message(self, message_id: int) -> Observer | None:
        return next((each for each in self._by_token.values() if each.message_id == message_id), None)

    def by_key(self, key: Key) -> Observer | None:
        """The one whose notification's rest is fetched by requests of this key."""
        return next((each for each in self._by_token.values() if each.fetching and each.key == key), None)

    def all(self) -> list[Observer]:
        return list(self._by_token.values())

    def next_sequence(self) -> int:
        """The next value of the Observe option, 24 bits."""
        self._sequence = (self._sequence + 1) % _WRAP
        return self._sequence


def is_newer(earlier: int, earlier_at: float, later: int, later_at: float) -> bool:
    """Whether the notification that came later is also the newer one (§3.4); times in seconds."""
    ahead = earlier < later < earlier + _WRAP // 2 or later < earlier - _WRAP // 2
    return ahead or later_at > earlier_at + _ORDER_SECONDS
