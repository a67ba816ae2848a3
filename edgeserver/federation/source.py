"""What rooms and users ask of other servers: the protocols that they declare, implemented over federation."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from edgeserver.federation.errors import FederationError, PeerError, as_matrix_error
from edgeserver.federation.multipart import ByteSink, Media, PlainSink
from edgeserver.matrix.identifiers import domain_of
from edgeserver.media.remote import MediaUnavailable
from edgeserver.rooms.event_source import SourceFailed
from edgeserver.users.remote_keys import KeysUnavailable
from transports.exchange import ExchangeError, Priority

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edgeserver.federation.calls import Calls
    from edgeserver.federation.internet import InternetWeb

MEDIA_TIMEOUT: Final = 120.0


class FederationSource:
    """See `rooms.event_source.EventSource`: PDUs as they came, unverified; everything that goes wrong is `SourceFailed`.

    `priority` is that of single events and of states on a thin line: those of a room that is completed in the background can wait.
    """

    def __init__(self, calls: Calls, priority: Priority = Priority.MESSAGE) -> None:
        self._calls = calls
        self._priority = priority

    async def missing_events(
        self, server: str, room_id: str, earliest: Sequence[str], latest: Sequence[str], limit: int, min_depth: int
    ) -> list[dict[str, Any]]:
        with _source_errors():
            return await self._calls.missing_events(server, room_id, earliest, latest, limit, min_depth)

    async def event(self, server: str, event_id: str) -> dict[str, Any]:
        with _source_errors():
            pdu: dict[str, Any] = await self._calls.event(server, event_id, priority=self._priority)
            return pdu

    async def state_ids(self, server: str, room_id: str, event_id: str) -> tuple[list[str], list[str]]:
        with _source_errors():
            return await self._calls.state_ids(server, room_id, event_id, priority=self._priority)

    async def state(self, server: str, room_id: str, event_id: str) -> tuple[Sequence[Any], Sequence[Any]]:
        with _source_errors():
            return await self._calls.state(server, room_id, event_id, priority=self._priority)

    async def event_auth(self, server: str, room_id: str, event_id: str) -> list[dict[str, Any]]:
        with _source_errors():
            return await self._calls.event_auth(server, room_id, event_id)

    async def backfill(self, server: str, room_id: str, from_ids: Sequence[str], limit: int) -> list[dict[str, Any]]:
        with _source_errors():
            return await self._calls.backfill(server, room_id, from_ids, limit)

    async def timestamp_to_event(self, server: str, room_id: str, ts: int, *, backwards: bool) -> tuple[str, int]:
        """See `rooms.timestamps.TimestampSource`."""
        with _source_errors():
            return await self._calls.timestamp_to_event(server, room_id, ts, backwards=backwards)


class FederationSummaries:
    """See `rooms.remote_summaries.SummarySource`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def hierarchy(self, server: str, room_id: str, *, suggested_only: bool) -> dict[str, Any]:
        with _source_errors():
            return await self._calls.hierarchy(server, room_id, suggested_only=suggested_only)


class FederationMedia:
    """See `media.remote.RemoteMedia`; everything that goes wrong is `MediaUnavailable`.

    `web` fetches what another server has only an address for; None: this box has no internet.
    """

    def __init__(self, calls: Calls, web: InternetWeb | None = None) -> None:
        self._calls = calls
        self._web = web

    async def download(self, server: str, media_id: str, *, max_bytes: int, timeout_ms: int, into: ByteSink) -> Media:
        with _media_errors():
            return await self._calls.download(server, media_id, max_bytes=max_bytes, timeout_ms=timeout_ms, into=into)

    async def thumbnail(
        self, server: str, media_id: str, *, width: int, height: int, method: str, animated: bool = False, max_bytes: int
    ) -> Media:
        with _media_errors():
            return await self._calls.thumbnail(
                server, media_id, width=width, height=height, method=method, animated=animated, max_bytes=max_bytes
            )

    async def at_location(self, url: str, *, max_bytes: int, into: ByteSink) -> Media:
        """Fetches an https address, following no redirect; private networks are the pool's to refuse."""
        if self._web is None:
            raise MediaUnavailable("the media is on the internet, which this box has no way to")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or 443
        except ValueError as error:
            raise MediaUnavailable("the media is at a malformed address") from error
        if parts.scheme != "https" or not host or parts.username is not None:
            raise MediaUnavailable("the media is said to be at an address that is not https")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            sink = PlainSink(into)
            response = await self._web.get(host, port, target, max_response=max_bytes, timeout=MEDIA_TIMEOUT, sink=sink)
        except ExchangeError as error:
            raise MediaUnavailable(str(error)) from error
        if response.status != 200:
            raise MediaUnavailable(f"the address that the other server gave answers {response.status}")
        kind = response.header("content-type") or "application/octet-stream"
        return Media(b"", kind, response.header("content-disposition"))


@contextmanager
def _source_errors() -> Iterator[None]:
    try:
        yield
    except FederationError as error:
        raise SourceFailed(str(error)) from error


class FederationKeys:
    """See `users.remote_keys.RemoteKeys`: keys of other servers' users; everything that goes wrong is
    `KeysUnavailable`.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def query_keys(self, server: str, device_keys: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        with _key_errors():
            return await self._calls.query_keys(server, device_keys)

    async def claim_keys(self, server: str, one_time_keys: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        with _key_errors():
            return await self._calls.claim_keys(server, one_time_keys)

    async def user_devices(self, server: str, user_id: str) -> dict[str, Any]:
        with _key_errors():
            return await self._calls.user_devices(server, user_id)


class FederationQueries:
    """What client requests ask of other servers; everything that goes wrong is a `MatrixError` for the client."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def profile(self, user_id: str, field: str | None) -> dict[str, Any]:
        """The profile of another server's user, or one field of it."""
        with _client_errors():
            return await self._calls.profile(domain_of(user_id), user_id, field)

    async def directory(self, server: str, alias: str) -> tuple[str, list[str]]:
        """(room id, servers that are in the room) for another server's alias."""
        with _client_errors():
            return await self._calls.directory(server, alias)

    async def public_rooms(self, server: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """One page of another server's room directory; `content` as the body of POST /publicRooms."""
        with _client_errors():
            return await self._calls.public_rooms(server, content)


@contextmanager
def _key_errors() -> Iterator[None]:
    try:
        yield
    except FederationError as error:
        raise KeysUnavailable(str(error)) from error


@contextmanager
def _client_errors() -> Iterator[None]:
    try:
        yield
    except FederationError as error:
        raise as_matrix_error(error) from error


@contextmanager
def _media_errors() -> Iterator[None]:
    try:
        yield
    except PeerError as error:
        raise MediaUnavailable(str(error), error.errcode) from error
    except FederationError as error:
        raise MediaUnavailable(str(error)) from error
