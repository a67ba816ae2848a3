"""The running box as the control API sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeserver import __version__
from edgeserver.api.control import BoxStatus
from edgeserver.matrix import errors
from edgeserver.store import outbox

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.app.box import Box
    from edgeserver.app.links import LinkService
    from edgeserver.app.low_bandwidth import ClientLine
    from edgeserver.app.neighbours import Neighbours
    from edgeserver.users.accounts import Accounts
    from transports.exchange import Exchange


class BoxOperations:
    """`api.control.Operations` over a box and its listeners."""

    def __init__(
        self,
        box: Box,
        client_urls: Sequence[str],
        federation_urls: Sequence[str],
        neighbours: Neighbours | None,
        client_lines: Sequence[ClientLine],
    ) -> None:
        self._box = box
        self._client_urls = list(client_urls)
        self._federation_urls = list(federation_urls)
        self._neighbours = neighbours
        self.client_lines = client_lines
        self._started_at = box.ground.now_ms()

    @property
    def accounts(self) -> Accounts:
        return self._box.users.accounts

    @property
    def lines(self) -> LinkService:
        return self._box.links

    async def status(self) -> BoxStatus:
        waiting = await self._box.ground.db.read(outbox.waiting)
        uplink = self._box.uplink
        return BoxStatus(
            self._box.identity.server_name,
            __version__,
            self._started_at,
            self._client_urls,
            self._federation_urls,
            self._box.ground.clock.trusted,
            None if uplink is None else uplink.is_up,
            [one.server_name for one in waiting],
        )

    def found(self) -> Mapping[str, Sequence[str]]:
        return {} if self._neighbours is None else self._neighbours.found

    def exchange_on(self, line_name: str) -> Exchange | None:
        if all(line.name != line_name for line in self._box.links.lines):
            raise errors.NotFound(f"There is no line {line_name!r}; edgeserver link status lists those that there are.")
        return self._box.links.exchange_on(line_name)
