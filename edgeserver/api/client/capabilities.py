"""GET /capabilities. Spec: client-server API, "Capabilities negotiation"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeserver.api.endpoint import Call, Route


def routes(room_versions: Iterable[str], default_room_version: str, extra: Mapping[str, Any] | None = None) -> list[Route]:
    """`extra` are capabilities of other sections, by name. That for `moderation` is told to administrators alone."""
    enabled, disabled = {"enabled": True}, {"enabled": False}
    answer: dict[str, dict[str, Any]] = {
        "capabilities": {
            "m.change_password": enabled,
            "m.room_versions": {"default": default_room_version, "available": dict.fromkeys(room_versions, "stable")},
            "m.set_displayname": enabled,
            "m.set_avatar_url": enabled,
            "m.profile_fields": enabled,
            "m.3pid_changes": disabled,
            "m.get_login_token": disabled,
            "m.forget_forced_upon_leave": disabled,
            **(extra or {}),
        }
    }

    moderator = {"capabilities": {**answer["capabilities"], "m.account_moderation": {"suspend": True, "lock": True}}}

    async def get_capabilities(call: Call) -> dict[str, Any]:
        return moderator if call.requester.is_admin else answer

    return endpoint("GET", "/_matrix/client/v3/capabilities", get_capabilities)
