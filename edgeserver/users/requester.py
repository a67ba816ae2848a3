"""Who makes a request, once the access token has been understood."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Requester:
    """The user on whose behalf a request runs.

    `device_id` is None for an application service that names no device; `appservice_id` is its id when it is one.
    `is_rate_limited`: it is one that is counted all the same.
    `token_id` is the row of the access token that was used, None for an application service.
    """

    user_id: str
    device_id: str | None = None
    is_guest: bool = False
    is_admin: bool = False
    appservice_id: str | None = None
    token_id: int | None = None
    is_rate_limited: bool = False
