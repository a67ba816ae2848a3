"""Previews in a whole box, with its own DNS and its own way out, of a site on loopback: a lab's switch lets it ask there."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeserver.app.box import open_box
from edgeserver.config import parse
from tests.asgi import AsgiClient
from tests.media.places import image
from tests.media.site import open_site

CONFIG = """
[server]
name = "a.test"
[accounts]
registration = "open"
[media]
url_previews = true
[federation]
private_addresses = {private}
"""
PREVIEW = "/_matrix/client/v1/media/preview_url"


async def token(client: AsgiClient) -> str:
    body = {"username": "alice", "password": "correct horse battery"}
    path = "/_matrix/client/v3/register"
    session = (await client.post(path, body)).json["session"]
    answer = await client.post(path, {**body, "auth": {"type": "m.login.dummy", "session": session}})
    assert answer.status == 200, answer.body
    return str(answer.json["access_token"])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_box_previews_a_page_with_its_image(tmp_path: Path, host: str) -> None:
    async with open_site() as site, open_box(parse(CONFIG.format(private="true"), tmp_path)) as box:
        client = AsgiClient(box.app)
        client.token = await token(client)
        site.page("/a", '<meta property="og:title" content="T"><meta property="og:image" content="i.png">')
        site.page("/i.png", image(12, 8), "image/png")
        answer = await client.get(PREVIEW, query={"url": site.url("/a", host)})
        if host == "localhost":  # a name of this machine is none of a site, whatever a lab allows
            assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")
            return
        assert (answer.status, answer.json["og:title"], answer.json["og:image:width"]) == (200, "T", 12)
        found = await client.get("/_matrix/client/v1/media/download/" + answer.json["og:image"].removeprefix("mxc://"))
        assert found.body == image(12, 8)


async def test_a_box_in_the_field_asks_no_address_of_its_own_network(tmp_path: Path) -> None:
    async with open_site() as site, open_box(parse(CONFIG.format(private="false"), tmp_path)) as box:
        client = AsgiClient(box.app)
        client.token = await token(client)
        for url in (site.url("/a", "127.0.0.1"), "http://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest/meta-data"):
            answer = await client.get(PREVIEW, query={"url": url})
            assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")
        assert site.connections == 0
