"""What the content repository needs from the network: media of other servers.

Spec: server-server API, "Content Repository".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.matrix.errors import MatrixError


class ByteSink(Protocol):
    """Where the bytes of media go as they come: `files.IncomingFile`."""

    async def restart(self) -> None:
        """What was written is void: another try begins."""
        ...

    async def write(self, chunk: bytes) -> None: ...


class RemoteFile(Protocol):
    """Media of another server: its bytes (unless they went to a sink), or `location`, an https address to fetch them from."""

    @property
    def body(self) -> bytes: ...

    @property
    def content_type(self) -> str: ...

    @property
    def content_disposition(self) -> str | None: ...

    @property
    def location(self) -> str | None: ...


class RemoteMedia(Protocol):
    """Asks other servers. Each method raises `MediaUnavailable`, also for a body of more than `max_bytes`."""

    async def download(self, server: str, media_id: str, *, max_bytes: int, timeout_ms: int, into: ByteSink) -> RemoteFile:
        """GET /_matrix/federation/v1/media/download/{mediaId}"""
        ...

    async def thumbnail(
        self, server: str, media_id: str, *, width: int, height: int, method: str, animated: bool = False, max_bytes: int
    ) -> RemoteFile:
        """GET /_matrix/federation/v1/media/thumbnail/{mediaId}"""
        ...

    async def at_location(self, url: str, *, max_bytes: int, into: ByteSink) -> RemoteFile:
        """Fetches what a server had only an address for; never from a private network."""
        ...


class MediaUnavailable(Exception):
    """The other server could not be asked, or did not give it. `errcode` is its own, where it is one of the spec's."""

    def __init__(self, why: str, errcode: str = "M_UNKNOWN") -> None:
        super().__init__(why)
        self.errcode = errcode

    def as_matrix_error(self) -> MatrixError:
        """What a client is told."""
        if self.errcode == "M_NOT_FOUND":
            return errors.NotFound("The other server has no such media.")
        if self.errcode == "M_NOT_YET_UPLOADED":
            return errors.NotYetUploaded()
        if self.errcode == "M_TOO_LARGE":
            return errors.MatrixError(502, "M_TOO_LARGE", "The media is too large for this server.")
        return errors.Unknown("The other server could not be asked for the media.", status=502)
