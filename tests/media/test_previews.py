"""Previews of URLs: what a page says of itself, over real HTTP; and where nobody makes the box look."""

from __future__ import annotations

import gzip
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from edgeserver.api.client import url_previews as section
from edgeserver.api.ratelimit import RATES, RateLimiter
from edgeserver.app.web import PublicWeb
from edgeserver.matrix import errors
from edgeserver.matrix.errors import MatrixError
from edgeserver.media import open_graph
from edgeserver.media import previews as module
from edgeserver.media.previews import UrlPreviews
from edgeserver.media.web import AddressRefused, WebAddress, WebAnswer, address_of
from edgeserver.store import url_previews as table
from tests.asgi import AsgiClient, section_application
from tests.media.places import ALICE, Place, image, open_place
from tests.media.site import Names, Site, open_site

CARD = """<!doctype html><html><head><title>The page</title>
<meta property="og:title" content="A &amp; B"><meta property="og:title" content="second">
<meta property="og:description" content=" said
 in two lines "><meta property="og:image" content="/pictures/a.png"><meta property="og:image:width" content="9999">
<meta property="og:type" content="article"></head><body><p>Text</p></body></html>"""


class Lab:
    """A box that may ask 127.0.0.1 and nothing else, and a site there."""

    def __init__(self, place: Place, site: Site, names: Names, previews: UrlPreviews) -> None:
        self.place, self.site, self.names, self.previews = place, site, names, previews

    async def preview(self, path: str, host: str = "site.example") -> dict[str, Any]:
        return await self.previews.preview(self.site.url(path, host))

    async def refusal(self, url: str) -> tuple[int, str]:
        with pytest.raises(MatrixError) as caught:
            await self.previews.preview(url)
        return caught.value.status, caught.value.errcode


@asynccontextmanager
async def open_lab(folder: Path, **names: list[list[str]]) -> AsyncIterator[Lab]:
    async with open_place(folder) as place, open_site() as site, trio.open_nursery() as nursery:
        known = Names({"site.example": [["127.0.0.1"]], **{name.replace("_", "."): answers for name, answers in names.items()}})
        web = PublicWeb(known, may_connect=lambda address: address == "127.0.0.1")
        await nursery.start(web.run)
        yield Lab(place, site, known, UrlPreviews(place.db, place.media, web, place.clock, any_port=True, seconds=2.0))
        nursery.cancel_scope.cancel()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with open_lab(tmp_path) as opened:
        yield opened


async def test_a_page_is_previewed_with_its_image_as_media_of_this_server(lab: Lab) -> None:
    lab.site.page("/a", CARD)
    picture = image(40, 30)
    lab.site.page("/pictures/a.png", picture, "image/png")
    told = await lab.preview("/a")
    mxc = told.pop("og:image")
    assert told == {
        "og:title": "A & B",
        "og:description": "said in two lines",
        "og:type": "article",
        "og:image:type": "image/png",
        "og:image:width": 40,
        "og:image:height": 30,
        "matrix:image:size": len(picture),
    }
    found = await lab.place.media.open(*mxc.removeprefix("mxc://").split("/"))
    assert found.path.read_bytes() == picture
    assert "identity" in lab.site.heads[0]
    assert "edgeserver" in lab.site.heads[0]


async def test_a_page_is_fetched_once_for_all_who_ask_at_once_and_kept_for_a_day(lab: Lab) -> None:
    lab.site.page("/a", CARD)
    lab.site.page("/pictures/a.png", image(4, 4), "image/png")
    told = []

    async def ask() -> None:
        told.append(await lab.preview("/a#part"))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert all(each == told[0] for each in told)
    await lab.preview("/a")
    assert lab.site.asked == ["/a", "/pictures/a.png"]
    lab.place.clock.now += module.LIFETIME_MS
    await lab.preview("/a")
    assert lab.site.asked.count("/a") == 2


async def test_a_preview_whose_image_has_left_the_cache_is_made_anew(lab: Lab) -> None:
    lab.site.page("/a", CARD)
    lab.site.page("/pictures/a.png", image(4, 4), "image/png")
    first = await lab.preview("/a")
    await lab.place.media.purge_remote(lab.place.clock.now + 1)
    second = await lab.preview("/a")
    assert first["og:image"] != second["og:image"]
    await lab.place.media.open(*second["og:image"].removeprefix("mxc://").split("/"))


PAGES = [
    ("<title> Just a\n title </title>", {"og:title": "Just a title"}),
    ('<meta name="twitter:title" content="T"><meta name="twitter:description" content="D">', {"og:title": "T", "og:description": "D"}),
    ('<title>x</title><meta name="description" content="D">', {"og:title": "x", "og:description": "D"}),
    ("<p>Too short</p><p>A paragraph that is long <b>enough</b> to say something.", {}),
    (
        "<p>A paragraph that is long <b>enough</b> to say something.</p>",
        {"og:description": "A paragraph that is long enough to say something."},
    ),
    ("<script><title>no</title></script><!-- <title>no</title> -->", {}),
    ("<title>\0\x1b[31mred\u202e</title>", {"og:title": "[31mred"}),
    ("", {}),
    ("<title>" + "x" * 5000 + "</title>", {"og:title": "x" * 1000}),
    ("".join(f'<meta property="og:x{n}" content="y">' for n in range(500)), {f"og:x{n}": "y" for n in range(40)}),
]


@pytest.mark.parametrize(("page", "told"), PAGES)
async def test_what_a_page_without_a_card_says(lab: Lab, page: str, told: dict[str, str]) -> None:
    lab.site.page("/a", page)
    assert await lab.preview("/a") == told


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("<title>naïve</title>".encode("latin-1"), "text/html; charset=ISO-8859-1"),
        ('<meta charset="windows-1252"><title>naïve</title>'.encode("windows-1252"), "text/html"),
        ("<title>naïve</title>".encode(), "text/html"),
        ("<title>naïve</title>".encode(), "text/html; charset=no-such-thing"),
        ("<title>naïve</title>".encode(), "text/html; charset=base64"),
        (b"\xff\xfe" + "<title>naïve</title>".encode("utf-16-le"), "text/html; charset=utf-8"),
        (b"\xef\xbb\xbf" + "<title>naïve</title>".encode(), "application/xhtml+xml"),
    ],
)
async def test_a_page_is_read_in_its_own_characters(lab: Lab, body: bytes, kind: str) -> None:
    lab.site.page("/a", body, kind)
    assert (await lab.preview("/a"))["og:title"] == "naïve"


async def test_a_page_that_is_packed_although_that_was_not_asked_for(lab: Lab) -> None:
    lab.site.page("/a", gzip.compress(CARD.encode()), Content_Encoding="gzip")
    assert (await lab.preview("/a"))["og:title"] == "A & B"
    lab.site.page("/bomb", gzip.compress(b"<title>x</title>" + bytes(50_000_000)), Content_Encoding="gzip")
    assert (await lab.preview("/bomb"))["og:title"] == "x"
    lab.site.page("/broken", b"\x1f\x8bnothing", Content_Encoding="gzip")
    lab.site.page("/brotli", b"what", Content_Encoding="br")
    for path in ("/broken", "/brotli"):
        assert await lab.refusal(lab.site.url(path)) == (502, "M_UNKNOWN")


async def test_an_image_is_its_own_preview_and_other_files_have_none(lab: Lab) -> None:
    lab.site.page("/a.png", image(7, 5), "image/png")
    told = await lab.preview("/a.png")
    assert (told["og:image:width"], told["og:image:height"]) == (7, 5)
    for path, kind in (("/a.pdf", "application/pdf"), ("/a.svg", "image/svg+xml"), ("/b.png", "image/png"), ("/none", "")):
        lab.site.page(path, b"<svg/>", kind)
        assert await lab.preview(path) == {}


async def test_a_page_whose_head_says_nothing_is_asked_by_oembed(lab: Lab) -> None:
    lab.site.page("/a", '<link rel="alternate" type="application/json+oembed" href="/o?x=1&amp;y=2">')
    lab.site.page("/o?x=1&y=2", '{"title": "Song", "author_name": "Singer", "thumbnail_url": "/t.png", "html": "<b>"}', "application/json")
    lab.site.page("/t.png", image(3, 3), "image/png")
    told = await lab.preview("/a")
    assert (told["og:title"], told["og:description"], told["og:image:width"]) == ("Song", "Singer", 3)
    for number, bad in enumerate(("[]", "{", '{"title": 7}')):
        lab.site.page(f"/b{number}", f'<link rel="alternate" type="application/json+oembed" href="/bad{number}">')
        lab.site.page(f"/bad{number}", bad)
        assert await lab.preview(f"/b{number}") == {}


async def test_without_its_image_a_page_is_still_previewed(lab: Lab) -> None:
    for number, address in enumerate(("/none.png", "javascript:alert(1)", "http://[::1]/x.png", "file:///etc/passwd", "//far.example/x")):
        lab.site.page(f"/{number}", f'<meta property="og:title" content="T"><meta property="og:image" content="{address}">')
        assert await lab.preview(f"/{number}") == {"og:title": "T"}


# What sites do


async def test_redirects_are_followed_so_far(lab: Lab) -> None:
    lab.site.page("/a", CARD)
    lab.site.page("/pictures/a.png", image(3, 3), "image/png")
    for number in range(8):
        lab.site.page(f"/{number}", b"", status=302, Location=f"/{number - 1}" if number else "/a")
    assert (await lab.preview("/4"))["og:title"] == "A & B"
    assert await lab.refusal(lab.site.url("/7")) == (502, "M_UNKNOWN")
    lab.site.page("/loop", b"", status=301, Location="/loop")
    assert await lab.refusal(lab.site.url("/loop")) == (502, "M_UNKNOWN")


async def test_what_a_site_does_not_give_is_an_error_and_it_is_left_alone_for_a_while(lab: Lab) -> None:
    lab.site.page("/broken", b"", status=500)
    for _ in range(3):
        assert await lab.refusal(lab.site.url("/broken")) == (502, "M_UNKNOWN")
        assert await lab.refusal(lab.site.url("/", host="unknown.example")) == (502, "M_UNKNOWN")
    assert lab.site.asked == ["/broken"]
    assert lab.names.asked.count("unknown.example") == 1


async def test_pages_and_images_beyond_the_bounds_are_not_taken(lab: Lab) -> None:
    lab.site.page("/large", bytes(module.MAX_PAGE + 1))
    assert await lab.refusal(lab.site.url("/large")) == (502, "M_TOO_LARGE")
    lab.site.page("/a", CARD)
    lab.site.page("/pictures/a.png", bytes(module.MAX_IMAGE + 1), "image/png")
    assert "og:image" not in await lab.preview("/a")


async def test_a_site_that_does_not_answer_costs_so_much_time(lab: Lab) -> None:
    lab.site.gate = trio.Event()
    began = trio.current_time()
    assert await lab.refusal(lab.site.url("/a")) == (502, "M_UNKNOWN")
    assert trio.current_time() - began < 5


async def test_so_many_previews_are_kept(lab: Lab) -> None:
    kept = table.KeptPreview(None, "{}")

    def work(tx: Any) -> int:
        for number in range(table.MAX_PREVIEWS + 5):
            table.put(tx, f"https://{number}", kept, number + 1, 10**9)
        return tx.one("SELECT count(*) FROM url_previews")[0]

    assert await lab.place.db.write(work) == table.MAX_PREVIEWS
    assert await lab.place.db.read(lambda tx: table.get(tx, "https://0", "test", 5)) is None


@pytest.mark.parametrize(
    "page",
    [
        "<" * 300_000, "<!--" * 200_000, "<a " * 300_000, "<a b='" * 150_000, "<p>" * 100_000, "&#" * 400_000,
        "<meta " + "a=b " * 200_000 + ">", "<title>" + "</title " * 100_000, "<script>" * 100_000, "<![CDATA[" * 90_000,
    ],
    ids=lambda page: page[:12],
)  # fmt: skip
def test_a_hostile_page_costs_seconds_and_not_hours(page: str) -> None:
    began = time.process_time()
    open_graph.read(page.encode(), "text/html")
    assert time.process_time() - began < 20


# Where nobody makes the box look

FORMS = [
    "file:///etc/passwd", "ftp://site.example/", "gopher://site.example/", "javascript:alert(1)", "data:text/html,x", "//site.example/",
    "site.example", "", " ", "http://", "http:///a", "https://user@site.example/", "https://site.example@127.0.0.1/",
    "http://site.example:22/", "http://site.example:8008/", "https://site.example:80/", "http://site.example:99999/",
    "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/", "http://127.0.0.1.1/",
    "http://localhost/", "http://a.localhost/", "http://localhost./", "http://router/", "http://box.local/", "http://x.internal/",
    "http://[fe80::1%25eth0]/", "http://[::1", "http://a b.example/", "http://a.example\\@127.0.0.1/", "http://a.example/\r\nX: y",
    "http://exa\u2100mple.example/\x00", "http://" + "a" * 300 + ".example/", "http://x.example/" + "a" * 2100, "http://-.example/",
]  # fmt: skip
INSIDE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
    "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a00:1", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "2002:7f00:1::1", "2001:db8::1",
    "::127.0.0.1", "::ffff:0:7f00:1", "64:ff9b:1::7f00:1", "fec0::1", "3fff::1", "5f00::1", "192.88.99.1", "192.0.0.8", "240.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("url", FORMS)
def test_an_address_of_another_form_is_refused_before_anybody_is_asked(url: str) -> None:
    with pytest.raises(AddressRefused):
        address_of(url)


@pytest.mark.parametrize(
    ("url", "host", "rest"),
    [
        ("HTTPS://Site.Example:443/a b", None, None),
        ("HTTPS://Site.Example:443/ä?q=ö#f", "site.example", "https://site.example/%C3%A4?q=%C3%B6"),
        ("http://bücher.example", "xn--bcher-kva.example", "http://xn--bcher-kva.example/"),
        ("http://site.example./%2e%2e/x", "site.example", "http://site.example/%2e%2e/x"),
        ("https://[2606:4700::1111]/", "2606:4700::1111", "https://[2606:4700::1111]/"),
    ],
)
def test_an_address_has_one_form(url: str, host: str | None, rest: str | None) -> None:
    if host is None:
        with pytest.raises(AddressRefused):
            address_of(url)
        return
    address = address_of(url)
    assert (address.host, address.url) == (host, rest)
    assert address_of(address.url) == address


@pytest.mark.parametrize("inside", INSIDE)
async def test_no_name_and_no_address_leads_inside(tmp_path: Path, inside: str) -> None:
    async with open_place(tmp_path) as place, open_site() as site, trio.open_nursery() as nursery:
        names = Names({"inside.example": [[inside]], "mixed.example": [["1.1.1.1", inside]]})
        web = PublicWeb(names)
        await nursery.start(web.run)
        previews = UrlPreviews(place.db, place.media, web, place.clock, any_port=True)
        literal = f"[{inside}]" if ":" in inside else inside
        for host in ("inside.example", "mixed.example", literal):
            with pytest.raises(errors.Forbidden):
                await previews.preview(site.url("/a", host))
        assert site.connections == 0
        nursery.cancel_scope.cancel()


async def test_a_redirect_leads_nowhere_that_could_not_be_asked_for(lab: Lab) -> None:
    lab.names.table["inside.example"] = [["127.0.0.2"]]
    for number, location in enumerate(
        ("http://127.0.0.2/", "http://inside.example/", "file:///etc/passwd", "http://user@site.example/", "http://2130706434/")
    ):
        lab.site.page(f"/{number}", b"", status=302, Location=location)
        assert await lab.refusal(lab.site.url(f"/{number}")) == (403, "M_FORBIDDEN")


async def test_a_name_that_turns_inward_between_two_look_ups_is_not_followed(tmp_path: Path) -> None:
    """DNS rebinding: the address that was checked is the one that is connected to, and each step looks anew."""
    async with open_lab(tmp_path, turns_example=[["127.0.0.1"], ["127.0.0.2"]]) as lab:
        lab.site.page("/a", b"", status=302, Location="/b")
        lab.site.page("/b", CARD)
        assert await lab.refusal(lab.site.url("/a", "turns.example")) == (403, "M_FORBIDDEN")
        assert lab.site.asked == ["/a"]
        assert lab.names.asked == ["turns.example"] * 2


# The endpoint


async def test_the_endpoint(lab: Lab) -> None:
    lab.site.page("/a", "<title>T</title>")
    client = AsgiClient(section_application(section.routes(lab.previews), {"alice": ALICE}), token="alice")
    for base in ("/_matrix/client/v1/media", "/_matrix/media/v3", "/_matrix/media/r0"):
        answer = await client.get(f"{base}/preview_url", query={"url": lab.site.url("/a"), "ts": "1510610716656"})
        assert (answer.status, answer.json) == (200, {"og:title": "T"})
        assert (await AsgiClient(client.app).get(f"{base}/preview_url?url=x")).status == 401
    for query, errcode in (("", "M_MISSING_PARAM"), ("?url=http://a.example&ts=x", "M_INVALID_PARAM"), ("?url=file:///a", "M_FORBIDDEN")):
        assert (await client.get(f"/_matrix/client/v1/media/preview_url{query}")).json["errcode"] == errcode


async def test_who_asks_for_too_many_previews_is_told_when_to_come_back(lab: Lab) -> None:
    limiter = RateLimiter(lab.place.clock)
    client = AsgiClient(section_application(section.routes(lab.previews), {"alice": ALICE}, limiter), token="alice")
    answers = [await client.get("/_matrix/client/v1/media/preview_url?url=file:///a") for _ in range(RATES["preview"].burst + 1)]
    assert [answer.status for answer in answers] == [403] * RATES["preview"].burst + [429]


async def test_a_box_without_internet_says_so(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        with pytest.raises(errors.NotFound):
            await UrlPreviews(place.db, place.media, None, place.clock).preview("https://site.example/")


@pytest.mark.parametrize("name", ["punycode", "idna", "unicode_escape", "raw-unicode-escape", "utf-7"])
def test_what_is_no_encoding_of_pages_is_not_tried(name: str) -> None:
    """Python's decoder of Punycode takes minutes for what fits a page."""
    page = "<title>+AGE- \\u0061 xn--a.b-c9a</title>"
    assert open_graph.decode(page.encode(), f"text/html; charset={name}") == page


class SilentWeb:
    """Sites that never answer."""

    def __init__(self) -> None:
        self.asked = 0

    async def get(self, address: WebAddress, *, accept: str, max_bytes: int) -> WebAnswer:
        self.asked += 1
        await trio.sleep_forever()
        raise AssertionError


async def test_who_waits_for_a_turn_behind_slow_sites_waits_no_longer_than_for_a_page(tmp_path: Path, autojump_clock: object) -> None:
    async with open_place(tmp_path) as place:
        web = SilentWeb()
        previews = UrlPreviews(place.db, place.media, web, place.clock)
        refused: list[MatrixError] = []

        async def ask(number: int) -> None:
            with pytest.raises(MatrixError) as caught:
                await previews.preview(f"https://site.example/{number}")
            refused.append(caught.value)

        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, number)
        assert trio.current_time() - begun < 31
        assert [error.status for error in refused] == [502] * 10
        assert web.asked < 10
