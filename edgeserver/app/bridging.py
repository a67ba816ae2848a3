"""The application services of a box, bound to its store and to their URLs. Imported only where some are configured."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeserver.bridges.calls import ServiceCalls
from edgeserver.bridges.deliveries import Deliveries
from edgeserver.bridges.names import NameQueries
from edgeserver.bridges.reach import UrlExchange
from edgeserver.bridges.services import Services
from edgeserver.bridges.third_party import ThirdParty
from edgeserver.matrix import errors
from transports.http import HttpPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from edgeserver.app.services import Ground, Users
    from edgeserver.bridges.registration import Registration
    from transports.exchange import Exchange

MAX_CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Bridging:
    """Who the services are, what they are asked, and what is bridged."""

    services: Services
    calls: Sequence[ServiceCalls]
    names: NameQueries
    third_party: ThirdParty

    async def ping(self, appservice_id: str, txn_id: str | None) -> int:
        """See `api.client.application_services.Pings`."""
        for one in self.calls:
            if one.service.id == appservice_id:
                return await one.ping(txn_id)
        raise errors.Forbidden("There is no such application service.")

    def deliveries(self, ground: Ground, users: Users) -> Deliveries:
        """The followers that send the services what concerns them."""
        found = Deliveries(
            self.calls,
            ground.db,
            ground.wakeups,
            users.typing,
            now_ms=ground.now_ms,
            random=random.Random(ground.random_bytes(16)).random,
        )
        self.services.heard = found.heard_from
        return found


@asynccontextmanager
async def open_bridging(
    registrations: Sequence[Registration], ground: Ground, ca_file: str | None, reach: Callable[[str], Exchange] | None
) -> AsyncIterator[Bridging]:
    """Makes the accounts of the services, and the connections to them. `reach`: what leads to a URL instead of HTTP."""
    services = Services(registrations, ground.server_name, ground.db, ground.now_ms)
    await services.ensure_senders()
    async with HttpPool(ca_file=ca_file, allow_plaintext=True, max_connections=MAX_CONNECTIONS) as pool:

        def exchange(url: str | None) -> Exchange | None:
            if url is None:
                return None
            return UrlExchange(pool, url) if reach is None else reach(url)

        calls = [ServiceCalls(one, exchange(one.registration.url)) for one in services]
        yield Bridging(services, calls, NameQueries(calls, ground.server_name), ThirdParty(calls, ground.db))
