"""The page of the proxy at `/`: how the line stands, what it has carried, and media that a person may have fetched. JSON for scripts.

    GET  /        HTML for browsers, JSON for everybody else
    POST /fetch   `token`, `media` (a digest): fetches what was refused       303 back to /
    POST /stop    the same: ends a fetch                                      303 back to /

What it does costs the line, so no other web page may make it do anything, nor read what it shows. It is given on a loopback address
and to a Host of that kind only (against DNS rebinding), without CORS; a form counts if Origin and Sec-Fetch-Site (Fetch Metadata) do not
say that it comes from elsewhere, and if it has the token that this run has put onto its page. What others have written is escaped, and
a policy allows neither scripts nor anything from elsewhere.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from html import escape
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from edgeserver.matrix import errors
from edgeserver.proxy.meter import DAY, HOUR
from edgeserver.proxy.replies import error_response, json_response
from transports.exchange import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.paired.line import Line
    from edgeserver.proxy.media import Item, Media
    from edgeserver.proxy.meter import Meter
    from edgeserver.proxy.outbox import Outbox

PATHS: Final = frozenset(("/", "/fetch", "/stop"))
MAX_FORM: Final = 4096
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
_HEADERS: Final = (
    ("content-type", "text/html; charset=utf-8"),
    ("cache-control", "no-store"),
    ("content-security-policy", _POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),  # without any, browsers send the form with `Origin: null`
)
_STYLE: Final = (
    "body{font:1em/1.4 sans-serif;max-width:46em;margin:1em auto;padding:0 1em}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;padding:.2em .6em .2em 0;vertical-align:top;overflow-wrap:anywhere}form{margin:0}"
)
_REFRESH_SECONDS: Final = 10


class FrontPage:
    """The page. `respond` answers every request for one of `PATHS`."""

    def __init__(self, line: Line, outbox: Outbox, media: Media, meter: Meter) -> None:
        self._line = line
        self._outbox = outbox
        self._media = media
        self._meter = meter
        self._token = secrets.token_urlsafe(16)

    def respond(self, method: str, path: str, headers: Mapping[str, str], client: str | None, body: bytes) -> Response:
        """`headers` by name in lower case; `client` is the IP address, None where there is none (a Unix socket)."""
        is_ours = _is_loopback(client) and _is_loopback(_host_of(headers.get("host", "")))
        if path == "/" and method in ("GET", "HEAD"):
            if is_ours and "text/html" in headers.get("accept", ""):
                return Response(200, _HEADERS, self._html().encode())
            return json_response(self._standing() | (self._listed() if is_ours else {}))
        if path == "/" or method != "POST":
            return error_response(errors.Unrecognized(status=405))
        form = dict(parse_qsl(body.decode("latin-1"), max_num_fields=8)) if body.count(b"&") < 8 else {}
        if not is_ours or not _is_from_here(headers) or not hmac.compare_digest(form.get("token", "").encode(), self._token.encode()):
            return error_response(errors.Forbidden("This form was not sent by the page of this proxy; load the page again."))
        act = self._media.wish if path == "/fetch" else self._media.stop
        act(form.get("media", ""))  # what is not there any longer is not on the page either
        return Response(303, (("location", "/"), ("cache-control", "no-store")))

    # ---- for scripts

    def _standing(self) -> dict[str, Any]:
        stats = self._line.stats
        return {
            "line": self._line.sentence(),
            "up": self._line.is_up,
            "down_seconds": self._line.down_seconds,
            "held_messages": self._outbox.held,
            "bytes_in": stats.bytes_in,
            "bytes_out": stats.bytes_out,
        }

    def _listed(self) -> dict[str, Any]:
        lately = {name: dict(zip(("in", "out"), self._meter.last(span), strict=True)) for name, span in (("hour", HOUR), ("day", DAY))}
        media = self._media
        under_way = [_told(item) | {"received": item.received, "seconds_left": media.seconds_left(item)} for item in media.under_way]
        refused = [_told(item) | {"received": item.received, "trouble": item.trouble} for item in media.refused]
        return {"bytes_lately": lately, "media": {"policy": media.policy.value, "under_way": under_way, "refused": refused}}

    # ---- for people

    def _html(self) -> str:
        stats = self._line.stats
        rows = [("since the start", stats.bytes_in, stats.bytes_out), *(
            (name, *self._meter.last(span)) for name, span in (("in the last hour", HOUR), ("in the last day", DAY))
        )]  # fmt: skip
        meter = "".join(f"<tr><td>{name}<td>{_bytes(read)}<td>{_bytes(written)}" for name, read, written in rows)
        held = self._outbox.held
        parts = [
            f"<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content={_REFRESH_SECONDS}>",
            f"<meta name=viewport content='width=device-width'><title>edgeserver proxy</title><style>{_STYLE}</style>",
            f"<h1>The line</h1><p>{escape(self._line.sentence())}{self._downtime()}",
            f"<p>{'No message is held.' if not held else f'{held} messages are held until they are delivered.'}",
            f"<table><tr><th>carried<th>in<th>out{meter}</table>",
        ]
        under_way, refused = self._media.under_way, self._media.refused
        if under_way:
            parts.append("<h2>On its way</h2><table>" + "".join(map(self._progress, under_way)) + "</table>")
        parts.append("<h2>Media that did not come by itself</h2>")
        if refused:
            parts.append("<table>" + "".join(map(self._offer, refused)) + "</table>")
        else:
            parts.append("<p>None that an app has asked for lately.")
        return "\n".join(parts)

    def _downtime(self) -> str:
        seconds = self._line.down_seconds
        if seconds is None or not self._line.is_thin:
            return ""
        since = "It went down" if self._line.profile is not None else "It has not been up since this proxy was started,"
        return f"<p>{since} {_duration(seconds)} ago. Until it is up again apps see what was known when it was up last."

    def _progress(self, item: Item) -> str:
        left = self._media.seconds_left(item)
        done = f"{_bytes(item.received)} of {'?' if item.size is None else _bytes(item.size)}"
        stop = "stops" if item.is_stopping else self._button(item, "stop")
        return f"<tr><td>{_title(item)}<td>{done}<td>{'' if left is None else _duration(left) + ' left'}<td>{stop}"

    def _offer(self, item: Item) -> str:
        left = self._media.seconds_left(item)
        size = "" if item.size is None else _bytes(item.size)
        there = f", {_bytes(item.received)} are here" if item.received else ""
        trouble = f"<br>{escape(item.trouble)}" if item.trouble else ""
        takes = "" if left is None else f"about {_duration(left)}"
        return f"<tr><td>{_title(item)}{trouble}<td>{size}{there}<td>{takes}<td>{self._button(item, 'fetch')}"

    def _button(self, item: Item, verb: str) -> str:
        hidden = f"<input type=hidden name=token value='{self._token}'><input type=hidden name=media value='{item.key.digest}'>"
        return f"<form method=post action=/{verb}>{hidden}<button>{'Fetch it now' if verb == 'fetch' else 'Stop'}</button></form>"


def _told(item: Item) -> dict[str, Any]:
    uri = f"mxc://{item.key.server}/{item.key.media_id}"
    return {"media": item.key.digest, "uri": uri, "thumbnail": bool(item.key.variant), "name": item.name, "size": item.size}


def _title(item: Item) -> str:
    name = item.name or f"mxc://{item.key.server}/{item.key.media_id}"
    return escape(f"{'thumbnail of ' if item.key.variant else ''}{name[:120]}")


def _bytes(count: int) -> str:
    return f"{count:,} bytes" if count < 10_000 else f"{count / 1000:,.0f} kB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _host_of(header: str) -> str:
    """The Host header without its port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_loopback(host: str | None) -> bool:
    if host is None or host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_from_here(headers: Mapping[str, str]) -> bool:
    here = f"http://{headers.get('host', '')}"
    return headers.get("origin", here) == here and headers.get("sec-fetch-site", "none") in ("same-origin", "none")
