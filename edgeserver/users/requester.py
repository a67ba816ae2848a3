"""Who makes a request, once the access token has been understood."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Requester:
    """The user on whose behalf a request runs.

    `device_id` is None for an application service that names no device; `appservice_id` is its id when it is one.
    `token_id` is the row of the access token that was used, None for an application service. What a locked or a suspended
    account may still do says `api.moderated`.
    """

    user_id: str
    device_id: str | None = None
    is_guest: bool = False
    is_admin: bool = False
    appservice_id: str | None = None
    token_id: int | None = None
    is_locked: bool = False
    is_suspended: bool = False
