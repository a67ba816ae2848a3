"""How much media this server takes, and what whoever asks for more is told.

Spec: client-server API, "Content repository": 413 M_TOO_LARGE for one upload that is too large, 403 M_FORBIDDEN for a user
who has reached a quota; "Common error codes": 403 M_RESOURCE_LIMIT_EXCEEDED for a server that is full, which must name
whom to ask: without such a contact M_FORBIDDEN is what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeserver.matrix import errors
from edgeserver.store import media as table
from edgeserver.store import partial_uploads

if TYPE_CHECKING:
    from edgeserver.matrix.errors import MatrixError
    from edgeserver.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes unless it says otherwise.

    `upload`: of one upload. `quota`, `files`: of all uploads of one user, bytes and how many. `total`: of all uploads of all
    users; 0: as much as the disk has. `remote`: of one file of another server. `cache`: of all that can be had again (files of
    other servers, thumbnails, images of previews). `contact`: a URI to ask when the server is full.
    """

    upload: int = 50 * 1024 * 1024
    quota: int = 2 * 1024**3
    files: int = 100_000
    total: int = 0
    remote: int = 50 * 1024 * 1024
    cache: int = 1024**3
    contact: str = ""

    def check_size(self, size: int) -> None:
        """Raises M_TOO_LARGE."""
        if size > self.upload:
            raise errors.TooLarge(f"The media is larger than {self.upload} bytes.")

    def check_quota(self, tx: Transaction, user_id: str, size: int, *, counted: bool = False) -> None:
        """Whether the user may upload one more file of so many bytes; `counted`: its id is among the user's files already.

        Raises M_FORBIDDEN, M_RESOURCE_LIMIT_EXCEEDED.
        """
        used, files = table.used_by(tx, user_id)
        if used + size > self.quota:
            raise errors.Forbidden("Your uploads have reached the quota of this server.")
        if files + (not counted) > self.files:
            raise errors.Forbidden(f"You have uploaded {self.files} files, and this server keeps no more.")
        if self.total and table.used_by_all(tx) + size > self.total:
            raise self.full()

    def check_parts(self, tx: Transaction, user_id: str, size: int, *, counted: bool = False) -> None:
        """The same for an upload in parts: what the user has under way counts as if it were there."""
        pending = partial_uploads.under_way(tx, user_id)
        self.check_quota(tx, user_id, size + sum(each.length or each.received for each in pending), counted=counted)

    def full(self) -> MatrixError:
        """What is said when the whole server has no room left."""
        said = "This server has no room left for media."
        return errors.ResourceLimitExceeded(self.contact, said) if self.contact else errors.Forbidden(said)
