"""Which request is treated how."""

import pytest

from edgeserver.proxy.paths import Keep, Kind, endpoint_of, treatment_of
from transports.exchange import Priority

ROOM = "/_matrix/client/v3/rooms/%21abc%3Abox"


@pytest.mark.parametrize(
    ("method", "path", "kind", "priority"),
    [
        ("PUT", f"{ROOM}/send/m.room.message/t1", Kind.SEND, Priority.MESSAGE),
        ("PUT", f"{ROOM}/redact/%24e/t2", Kind.SEND, Priority.MESSAGE),
        ("PUT", "/_matrix/client/v3/sendToDevice/m.room_key/t3", Kind.SEND, Priority.MESSAGE),
        ("PUT", f"{ROOM}/state/m.room.name", Kind.FORWARD, Priority.INTERACTIVE),
        ("GET", "/_matrix/client/v3/sync", Kind.SYNC, Priority.MESSAGE),
        ("GET", "/_matrix/client/r0/sync", Kind.SYNC, Priority.MESSAGE),
        ("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", Kind.SLIDING_SYNC, Priority.MESSAGE),
        ("PUT", f"{ROOM}/typing/%40a%3Abox", Kind.HUSHED, Priority.RECEIPT),
        ("PUT", "/_matrix/client/v3/presence/%40a%3Abox/status", Kind.HUSHED, Priority.RECEIPT),
        ("POST", f"{ROOM}/receipt/m.read/%24e", Kind.FORWARD, Priority.RECEIPT),
        ("POST", f"{ROOM}/read_markers", Kind.FORWARD, Priority.RECEIPT),
        ("GET", f"{ROOM}/messages", Kind.OLDER, Priority.HISTORY),
        ("GET", f"{ROOM}/context/%24e", Kind.FORWARD, Priority.HISTORY),
        ("GET", "/_matrix/client/v1/rooms/%21abc/relations/%24e/m.thread", Kind.FORWARD, Priority.HISTORY),
        ("PUT", "/_matrix/client/v3/room_keys/keys", Kind.FORWARD, Priority.HISTORY),
        ("GET", "/_matrix/client/versions", Kind.CACHED, Priority.INTERACTIVE),
        ("GET", "/_matrix/client/v3/login", Kind.CACHED, Priority.INTERACTIVE),
        ("POST", "/_matrix/client/v3/login", Kind.LOGIN, Priority.INTERACTIVE),
        ("POST", "/_matrix/client/v3/register", Kind.LOGIN, Priority.INTERACTIVE),
        ("POST", "/_matrix/client/v3/refresh", Kind.LOGIN, Priority.INTERACTIVE),
        ("POST", "/_matrix/client/v3/logout", Kind.LOGOUT, Priority.INTERACTIVE),
        ("POST", "/_matrix/client/v3/logout/all", Kind.LOGOUT, Priority.INTERACTIVE),
        ("GET", "/_matrix/client/v3/user/%40a%3Abox/filter/1", Kind.FILTER, Priority.INTERACTIVE),
        ("POST", "/_matrix/client/v3/user/%40a%3Abox/filter", Kind.FILTER, Priority.INTERACTIVE),
        ("POST", "/_matrix/media/v3/upload", Kind.UPLOAD, Priority.MEDIA),
        ("PUT", "/_matrix/media/v3/upload/box/abc", Kind.UPLOAD, Priority.MEDIA),
        ("GET", "/_matrix/client/v1/media/download/box/abc", Kind.DOWNLOAD, Priority.MEDIA),
        ("GET", "/_matrix/client/v1/media/thumbnail/box/abc", Kind.AUTOMATIC, Priority.MEDIA),
        ("GET", "/_matrix/media/v3/preview_url", Kind.PREVIEW, Priority.MEDIA),
        ("GET", "/_matrix/client/v1/media/config", Kind.CACHED, Priority.INTERACTIVE),
        ("GET", "/_matrix/client/v3/account/whoami", Kind.FORWARD, Priority.INTERACTIVE),
        ("PUT", "/_matrix/federation/v1/send/1", Kind.FOREIGN, Priority.INTERACTIVE),
        ("GET", "/_edgeserver/v1/time", Kind.FOREIGN, Priority.INTERACTIVE),
    ],
)
def test_each_endpoint_has_its_kind_and_priority(method, path, kind, priority) -> None:
    found = treatment_of(method, path)
    assert (found.kind, found.priority) == (kind, priority)


@pytest.mark.parametrize(
    ("method", "path", "keep"),
    [
        ("GET", "/_matrix/client/versions", Keep.FOR_ANYBODY),
        ("GET", "/_matrix/client/v3/login", Keep.FOR_ANYBODY),
        ("GET", "/_matrix/client/v3/profile/%40a%3Abox/displayname", Keep.FOR_PERSON),
        ("GET", "/_matrix/client/v3/account/whoami", Keep.FOR_DEVICE),
        ("GET", "/_matrix/client/v3/devices", Keep.FOR_DEVICE),
        ("GET", "/_matrix/client/v1/media/config", Keep.FOR_USER),
        ("GET", "/_matrix/client/v3/pushrules/", Keep.FOR_USER),
        ("GET", f"{ROOM}/state/m.room.member/%40a%3Abox", Keep.FOR_USER),
        ("GET", f"{ROOM}/messages", Keep.FOR_USER),
        ("GET", "/_matrix/client/unstable/org.example.msc1/rooms/!a/threads", Keep.FOR_USER),
        ("PUT", f"{ROOM}/state/m.room.name", Keep.NOT),
        ("HEAD", f"{ROOM}/state", Keep.NOT),
        ("GET", "/_matrix/client/v3/sync", Keep.NOT),
        ("GET", "/_matrix/client/v3/presence/@a:box/status", Keep.NOT),
        ("GET", "/_matrix/client/v3/notifications", Keep.NOT),
        ("GET", "/_matrix/client/v1/media/download/box/a", Keep.NOT),
    ],
)
def test_it_is_known_whose_answers_are_kept(method, path, keep) -> None:
    assert treatment_of(method, path).keep is keep


def test_endpoints_are_the_same_however_they_are_encoded() -> None:
    assert endpoint_of(f"{ROOM}/state/m%2Eroom.name") == endpoint_of("/_matrix/client/r0/rooms/!abc:box/state/m.room.name")
    assert endpoint_of("/_matrix/client/v3/rooms/a%2Fb/state") != endpoint_of("/_matrix/client/v3/rooms/a/b/state")
    assert endpoint_of("/_matrix/client/versions") == ""


@pytest.mark.parametrize(
    ("method", "rest", "repeatable"),
    [
        ("GET", "account/whoami", True),
        ("PUT", "rooms/!a/state/m.room.name", True),
        ("DELETE", "devices/D", True),
        ("POST", "keys/query", True),
        ("POST", "join/%23a%3Ab", True),
        ("POST", "keys/claim", False),
        ("POST", "createRoom", False),
        ("POST", "login", False),
    ],
)
def test_what_may_be_repeated_is_known(method, rest, repeatable) -> None:
    assert treatment_of(method, f"/_matrix/client/v3/{rest}").repeatable is repeatable


def test_messages_of_a_room_share_a_lane_and_so_do_to_device_messages() -> None:
    lanes = [
        treatment_of("PUT", f"/_matrix/client/v3/{rest}").lane
        for rest in ("rooms/!a/send/t/1", "rooms/!a/redact/e/2", "rooms/!b/send/t/3", "sendToDevice/t/4", "sendToDevice/u/5")
    ]
    assert lanes == ["!a", "!a", "!b", "", ""]
