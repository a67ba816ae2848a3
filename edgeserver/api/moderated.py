"""What a locked and what a suspended account may still do. Spec: client-server API, "Account locking", "Account suspension".

A locked account may log out and nothing else. A suspended one may read whatever it could read before, and do what `SUSPENDED_MAY`
lists: what keeps its owner's devices, keys and settings, and what takes them out of rooms. Whatever writes for others to see is not
listed, so that an endpoint nobody has thought of is refused.
"""

from __future__ import annotations

import re
from typing import Final

_V3 = "/_matrix/client/v3"
_ROOM = f"{_V3}/rooms/{{}}"
_ACCOUNT_DATA = f"{_V3}/user/{{}}"
_DEHYDRATED = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
_SCREEN = "/_matrix/client/unstable/org.edgeserver.screen"
_RULE = f"{_V3}/pushrules/global/{{}}/{{}}"

LOCKED_MAY: Final = frozenset({("POST", f"{_V3}/logout"), ("POST", f"{_V3}/logout/all")})

SUSPENDED_MAY: Final = frozenset(
    {
        *LOCKED_MAY,
        # Sessions and devices
        ("POST", "/_matrix/client/v1/login/get_token"),
        ("PUT", f"{_V3}/devices/{{}}"),
        ("DELETE", f"{_V3}/devices/{{}}"),
        ("POST", f"{_V3}/delete_devices"),
        # The account itself
        ("POST", f"{_V3}/account/password"),
        ("POST", f"{_V3}/account/deactivate"),
        # Verifying devices: messages to one's own, which `client/to_device.py` sees to; keys, signatures and their backup
        ("PUT", f"{_V3}/sendToDevice/{{}}/{{}}"),
        ("POST", f"{_V3}/keys/upload"),
        ("POST", f"{_V3}/keys/query"),
        ("POST", f"{_V3}/keys/claim"),
        ("POST", f"{_V3}/keys/device_signing/upload"),
        ("POST", f"{_V3}/keys/signatures/upload"),
        ("POST", f"{_V3}/room_keys/version"),
        ("PUT", f"{_V3}/room_keys/version/{{}}"),
        ("DELETE", f"{_V3}/room_keys/version/{{}}"),
        ("PUT", f"{_V3}/room_keys/keys"),
        ("PUT", f"{_V3}/room_keys/keys/{{}}"),
        ("PUT", f"{_V3}/room_keys/keys/{{}}/{{}}"),
        ("DELETE", f"{_V3}/room_keys/keys"),
        ("DELETE", f"{_V3}/room_keys/keys/{{}}"),
        ("DELETE", f"{_V3}/room_keys/keys/{{}}/{{}}"),
        ("PUT", _DEHYDRATED),
        ("DELETE", _DEHYDRATED),
        ("POST", f"{_DEHYDRATED}/{{}}/events"),
        # Rooms: leaving them, and taking back what one has said, which `client/room_events.py` sees to
        ("POST", f"{_ROOM}/leave"),
        ("POST", f"{_ROOM}/forget"),
        ("PUT", f"{_ROOM}/redact/{{}}/{{}}"),
        ("PUT", f"{_ROOM}/send/{{}}/{{}}"),
        # Reading and searching by POST
        ("POST", "/_matrix/client/v4/sync"),
        ("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"),
        ("POST", f"{_SCREEN}/sync"),
        ("POST", f"{_SCREEN}/rooms/{{}}/older"),
        ("POST", f"{_V3}/search"),
        ("POST", f"{_V3}/publicRooms"),
        ("POST", f"{_V3}/user_directory/search"),
        ("POST", f"{_ACCOUNT_DATA}/filter"),
        # How far one has read, and one's own settings
        ("POST", f"{_ROOM}/receipt/{{}}/{{}}"),
        ("POST", f"{_ROOM}/read_markers"),
        ("POST", f"{_SCREEN}/rooms/{{}}/read"),
        ("PUT", f"{_ACCOUNT_DATA}/account_data/{{}}"),
        ("PUT", f"{_ACCOUNT_DATA}/rooms/{{}}/account_data/{{}}"),
        ("PUT", f"{_ACCOUNT_DATA}/rooms/{{}}/tags/{{}}"),
        ("DELETE", f"{_ACCOUNT_DATA}/rooms/{{}}/tags/{{}}"),
        ("POST", f"{_V3}/pushers/set"),
        ("PUT", _RULE),
        ("DELETE", _RULE),
        ("PUT", f"{_RULE}/enabled"),
        ("PUT", f"{_RULE}/actions"),
    }
)

_PARAMETER = re.compile(r"\{[^}]*\}")


def locked_may(method: str, path: str) -> bool:
    """Whether a locked account may use the endpoint of this method and path (a path as in `endpoint.Route`)."""
    return (method, _PARAMETER.sub("{}", path)) in LOCKED_MAY


def suspended_may(method: str, path: str) -> bool:
    """Whether a suspended account may use the endpoint of this method and path (a path as in `endpoint.Route`)."""
    return method == "GET" or (method, _PARAMETER.sub("{}", path)) in SUSPENDED_MAY
