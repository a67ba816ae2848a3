"""What guests may ask for: the list of the client-server API, "Guest access", "Client behaviour", and nothing beyond it.

Where an endpoint answers anybody, a guest is anybody.
"""

from __future__ import annotations

import re
from typing import Final

_ROOM = "/_matrix/client/v3/rooms/{}"
_MEDIA = "/_matrix/client/v1/media"

GUESTS_MAY: Final = frozenset(
    {
        # Retrieving events and media
        ("GET", f"{_ROOM}/state"),
        ("GET", f"{_ROOM}/context/{{}}"),
        ("GET", f"{_ROOM}/event/{{}}"),
        ("GET", f"{_ROOM}/state/{{}}"),
        ("GET", f"{_ROOM}/state/{{}}/"),
        ("GET", f"{_ROOM}/state/{{}}/{{}}"),
        ("GET", f"{_ROOM}/messages"),
        ("GET", f"{_ROOM}/members"),
        ("GET", f"{_ROOM}/initialSync"),
        ("GET", "/_matrix/client/v3/sync"),
        ("GET", "/_matrix/client/v3/events"),
        ("GET", f"{_MEDIA}/download/{{}}/{{}}"),
        ("GET", f"{_MEDIA}/download/{{}}/{{}}/{{}}"),
        ("GET", f"{_MEDIA}/thumbnail/{{}}/{{}}"),
        # Sending events
        ("POST", f"{_ROOM}/join"),
        ("POST", f"{_ROOM}/leave"),
        ("PUT", f"{_ROOM}/send/{{}}/{{}}"),
        ("PUT", f"{_ROOM}/state/{{}}"),
        ("PUT", f"{_ROOM}/state/{{}}/"),
        ("PUT", f"{_ROOM}/state/{{}}/{{}}"),
        ("PUT", "/_matrix/client/v3/sendToDevice/{}/{}"),
        # The account: of the profile the display name alone, which `client/profile.py` sees to
        ("PUT", "/_matrix/client/v3/profile/{}/{}"),
        ("DELETE", "/_matrix/client/v3/profile/{}/{}"),
        ("GET", "/_matrix/client/v3/devices"),
        ("GET", "/_matrix/client/v3/devices/{}"),
        ("PUT", "/_matrix/client/v3/devices/{}"),
        ("GET", "/_matrix/client/v3/account/whoami"),
        # End-to-end encryption
        ("POST", "/_matrix/client/v3/keys/upload"),
        ("POST", "/_matrix/client/v3/keys/query"),
        ("POST", "/_matrix/client/v3/keys/claim"),
    }
)

_PARAMETER = re.compile(r"\{[^}]*\}")


def may_ask(method: str, path: str) -> bool:
    """Whether guests may use the endpoint of this method and path (a path as in `endpoint.Route`)."""
    return (method, _PARAMETER.sub("{}", path)) in GUESTS_MAY
