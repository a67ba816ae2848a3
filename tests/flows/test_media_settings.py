"""What [media] in the configuration does to a whole box."""

from __future__ import annotations

import pytest

from tests.asgi import AsgiClient
from tests.flows.world import World

PREVIEW = "/_matrix/client/v1/media/preview_url?url=http://127.0.0.1/"
UPLOAD = "/_matrix/media/v3/upload"


@pytest.mark.parametrize(
    ("settings", "status", "errcode"),
    [
        ("", 404, "M_UNRECOGNIZED"),
        ("[media]\nurl_previews = true\n", 403, "M_FORBIDDEN"),
        ("[media]\nurl_previews = true\n[federation]\ninternet = false\n", 404, "M_NOT_FOUND"),
    ],
)
async def test_previews_are_there_if_they_are_wanted(tmp_path, autojump_clock, settings, status, errcode) -> None:
    async with World(tmp_path) as world:
        box = await world.box("a", settings)
        client = AsgiClient(box.box.app, token=(await box.person("alice")).token)
        answer = await client.get(PREVIEW)
        assert (answer.status, answer.json["errcode"]) == (status, errcode)


async def test_a_box_with_bounds_says_when_they_are_reached(tmp_path, autojump_clock) -> None:
    settings = '[media]\ntotal_bytes = 1000\nfiles_per_person = 3\ncontact = "mailto:admin@example.org"\n'
    async with World(tmp_path) as world:
        box = await world.box("a", settings)
        client = AsgiClient(box.box.app, token=(await box.person("alice")).token)
        assert (await client.get("/_matrix/client/v1/media/config")).json["m.storage.max_files"] == 3
        assert (await client.request("POST", UPLOAD, body=b"x" * 900)).status == 200
        answer = await client.request("POST", UPLOAD, body=b"x" * 101)
        assert (answer.status, answer.json["errcode"]) == (403, "M_RESOURCE_LIMIT_EXCEEDED")
        assert answer.json["admin_contact"] == "mailto:admin@example.org"
        for _ in range(2):
            assert (await client.request("POST", UPLOAD, body=b"x")).status == 200
        answer = await client.request("POST", UPLOAD, body=b"x")
        assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")


async def test_media_in_quarantine_is_there_for_no_other_server(tmp_path, autojump_clock) -> None:
    async with World(tmp_path) as world:
        a, b = await world.box("a"), await world.box("b")
        alice = AsgiClient(a.box.app, token=(await a.person("alice")).token)
        bob = AsgiClient(b.box.app, token=(await b.person("bob")).token)
        places = []
        for content in (b"one", b"two"):
            uri = (await alice.request("POST", UPLOAD, body=content)).json["content_uri"]
            places.append(uri.removeprefix("mxc://"))
        assert (await bob.get(f"/_matrix/client/v1/media/download/{places[0]}")).body == b"one"
        await a.box.media.quarantine(*places[1].split("/"), on=True)
        answer = await bob.get(f"/_matrix/client/v1/media/download/{places[1]}")
        assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND")
