"""Previews of URLs that have been made: the answer as it was given, until it expires or others push it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edgeserver.store.database import Transaction

MAX_PREVIEWS: Final = 1000


@dataclass(frozen=True, slots=True)
class KeptPreview:
    """`body` is JSON; `image` the media id (on this server) of the image that it names."""

    image: str | None
    body: str


def get(tx: Transaction, url: str, server_name: str, now: int) -> KeptPreview | None:
    """None also if the image that the preview names has gone from the cache."""
    row = tx.one(
        "SELECT image, body FROM url_previews WHERE url = ? AND expires_at > ? AND (image IS NULL OR EXISTS"
        " (SELECT 1 FROM media WHERE server_name = ? AND media_id = image))",
        (url, now, server_name),
    )
    return None if row is None else KeptPreview(*row)


def put(tx: Transaction, url: str, preview: KeptPreview, now: int, expires_at: int) -> None:
    """Keeps it; what has expired and the oldest beyond `MAX_PREVIEWS` go."""
    tx.execute(
        "INSERT OR REPLACE INTO url_previews (url, fetched_at, expires_at, image, body) VALUES (?,?,?,?,?)",
        (url, now, expires_at, preview.image, preview.body),
    )
    tx.execute("DELETE FROM url_previews WHERE expires_at <= ?", (now,))
    tx.execute(
        "DELETE FROM url_previews WHERE url IN (SELECT url FROM url_previews ORDER BY fetched_at DESC LIMIT -1 OFFSET ?)",
        (MAX_PREVIEWS,),
    )
