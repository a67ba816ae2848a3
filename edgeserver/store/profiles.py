"""Profiles of our users, and whom a user may find: the table `profiles`, read together with `memberships`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.matrix import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeserver.store.database import Transaction


def profile(tx: Transaction, user_id: str) -> dict[str, Any]:
    """All fields of one of our users, decoded."""
    rows = tx.all("SELECT field, value FROM profiles WHERE user_id = ? ORDER BY field", (user_id,))
    return {field: canonical_json.decode_exact(value) for field, value in rows}


def member_fields(tx: Transaction, user_id: str) -> dict[str, Any]:
    """What a membership event says of a local user: `displayname` and `avatar_url`, those that are set."""
    return {name: value for name, value in profile(tx, user_id).items() if name in ("displayname", "avatar_url")}


def set_field(tx: Transaction, user_id: str, field: str, value: object) -> None:
    """Raises `CanonicalJSONError` for a value that is no JSON."""
    tx.execute(
        "INSERT OR REPLACE INTO profiles (user_id, field, value, stream) VALUES (?, ?, ?, ?)",
        (user_id, field, canonical_json.encode_loose(value), tx.stream()),
    )


def delete_field(tx: Transaction, user_id: str, field: str) -> bool:
    """Whether the field was there."""
    return tx.execute("DELETE FROM profiles WHERE user_id = ? AND field = ?", (user_id, field)).rowcount > 0


def local_people(tx: Transaction) -> Iterator[tuple[str, str | None, str | None]]:
    """(user_id, displayname, avatar_url) of our active users but guests; the values are JSON."""
    yield from tx.execute(
        "SELECT a.user_id, CAST(n.value AS TEXT), CAST(p.value AS TEXT) FROM accounts a"
        " LEFT JOIN profiles n ON n.user_id = a.user_id AND n.field = 'displayname'"
        " LEFT JOIN profiles p ON p.user_id = a.user_id AND p.field = 'avatar_url'"
        " WHERE a.deactivated_at IS NULL AND a.guest = 0"
    )


def people_in_sight(tx: Transaction, user_id: str) -> Iterator[tuple[str, str | None, str | None]]:
    """(user_id, displayname, avatar_url), the values as JSON, of remote people joined to a room that the user is
    joined to or that is in the public directory. Somebody in two such rooms comes twice.
    """
    yield from tx.execute(
        "SELECT m.user_id, json_quote(json_extract(CAST(e.pdu AS TEXT), '$.content.displayname')),"
        " json_quote(json_extract(CAST(e.pdu AS TEXT), '$.content.avatar_url'))"
        " FROM memberships m JOIN events e USING (event)"
        " WHERE m.membership = 'join' AND m.local = 0 AND m.room IN ("
        "  SELECT room FROM memberships WHERE user_id = ? AND membership = 'join'"
        "  UNION SELECT room FROM rooms WHERE published = 1)",
        (user_id,),
    )
