"""What everything stands on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from edgeserver.clock import Clock
    from edgeserver.matrix.signatures import SigningKey
    from edgeserver.store.database import Database
    from edgeserver.wakeups import Wakeups


@dataclass(frozen=True, slots=True)
class Ground:
    """What everything stands on."""

    db: Database
    wakeups: Wakeups
    clock: Clock
    server_name: str
    key: SigningKey
    nursery: trio.Nursery
    random_bytes: Callable[[int], bytes] = os.urandom

    @property
    def now_ms(self) -> Callable[[], int]:
        return self.clock.now_ms
