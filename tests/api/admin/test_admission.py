"""Who may use the admin API: every one of its endpoints is tried by those who may not, and by the administrator."""

from __future__ import annotations

import re
from pathlib import Path

from tests.api.admin.office import ADMIN, Office, open_office
from tests.asgi import AsgiClient
from tests.docs.support_table import routes_of

VALUES = {
    "user_id": "@nobody:a.test",
    "room_id": "!nowhere:a.test",
    "event_id": "$" + "x" * 43,
    "destination": "nobody.test",
    "report_id": "77",
}


def _served(office: Office) -> list[tuple[str, str]]:
    """(method, path with values) of the whole admin API."""
    return [
        (route.methods[0], re.sub(r"\{(\w+)\}", lambda name: VALUES.get(name[1], "x"), route.path))
        for route in routes_of(office.box.box)
        if route.path.startswith(ADMIN)
    ]


async def test_nobody_but_an_administrator_is_let_in(office: Office, autojump_clock: object) -> None:
    served = _served(office)
    assert len(served) > 50
    for method, path in served:
        body = None if method == "GET" else {}
        tried = {}
        for who, token in (("nobody", None), ("alice", office.alice.token), ("guest", office.guest), ("root", office.token)):
            client = AsgiClient(office.box.box.app, token=token)
            answer = await client.request(method, path, json=body, headers={"host": "client"})
            tried[who] = (answer.status, answer.json.get("errcode"))
        assert tried["nobody"] == (401, "M_MISSING_TOKEN"), (method, path)
        assert tried["alice"] == (403, "M_FORBIDDEN"), (method, path)
        assert tried["guest"] == (403, "M_GUEST_ACCESS_FORBIDDEN"), (method, path)
        status, code = tried["root"]
        assert status < 500, (method, path, status)
        assert code not in ("M_FORBIDDEN", "M_MISSING_TOKEN", "M_UNRECOGNIZED"), (method, path, code)


async def test_another_server_is_no_administrator(office: Office, autojump_clock: object) -> None:
    signed = 'X-Matrix origin="b.test",destination="a.test",key="ed25519:1",sig="AAAA"'
    for method, path in _served(office):
        body = None if method == "GET" else {}
        answer = await AsgiClient(office.box.box.app).request(method, path, json=body, headers={"host": "a.test", "authorization": signed})
        assert (answer.status, answer.json["errcode"]) == (401, "M_MISSING_TOKEN"), (method, path)


async def test_who_is_administrator_no_longer_is_let_in_no_longer(office: Office, autojump_clock: object) -> None:
    await office.box.box.users.accounts.set_admin(office.alice.user_id, True)
    path = f"{ADMIN}/v1/server_version"
    alice = AsgiClient(office.box.box.app, token=office.alice.token)
    assert (await alice.get(path, headers={"host": "client"})).status == 200
    await office.ok("PUT", "v1", "users", office.alice.user_id, "admin", json={"admin": False})
    assert (await alice.get(path, headers={"host": "client"})).status == 403


async def test_the_version_is_that_of_this_program(office: Office, autojump_clock: object) -> None:
    told = (await office.ok("GET", "v1", "server_version"))["server_version"]
    assert told.startswith("edgeserver ")


async def test_names_are_free_or_taken_whether_or_not_registration_is_open(office: Office, autojump_clock: object) -> None:
    assert await office.ok("GET", "v1", "username_available", username="carol") == {"available": True}
    assert await office.refused("GET", "v1", "username_available", username="alice") == (400, "M_USER_IN_USE")
    assert await office.refused("GET", "v1", "username_available", username="No Name") == (400, "M_INVALID_USERNAME")
    assert await office.refused("GET", "v1", "username_available") == (400, "M_MISSING_PARAM")


async def test_parameters_of_the_query_are_held_to_their_types(tmp_path: Path, autojump_clock: object) -> None:
    async with open_office(tmp_path) as office:
        for query in ({"from": "-1"}, {"limit": "ten"}, {"guests": "1"}, {"dir": "up"}, {"order_by": "size"}):
            assert await office.refused("GET", "v2", "users", **query) == (400, "M_INVALID_PARAM"), query
