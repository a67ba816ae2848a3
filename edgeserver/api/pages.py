"""Web pages that a person meets: behind the link in a mail, and where an app cannot ask for a proof itself.

A page is whole in itself: nothing is loaded, and no script runs but `AUTH_DONE` where a page carries it (Content Security Policy).
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from starlette.responses import Response

from edgeserver.matrix import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTH_DONE: Final = (
    "if (window.onAuthDone) { window.onAuthDone(); }"
    ' else if (window.opener && window.opener.postMessage) { window.opener.postMessage("authDone", "*"); }'
)
"""Tells the app that opened the page that its stage is complete (client-server API, "Fallback")."""

_STYLE = (
    "body{font:1.1em/1.5 sans-serif;max-width:32em;margin:3em auto;padding:0 1em;color:#222;background:#fff}"
    "input,button{font:inherit;padding:.4em .8em;margin:.3em 0}.wrong{color:#a00}"
)
_SCRIPT_HASH = b64encode(hashlib.sha256(AUTH_DONE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_SCRIPT_HASH}'; form-action 'self';"
        " frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",  # the address of a page may hold a token
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
MAX_FIELD: Final = 1000


def page(title: str, *parts: str, status: int = 200, auth_done: bool = False) -> Response:
    """A page of these parts, which are HTML (`paragraph`, `form`, `link` make them)."""
    script = f"<script>{AUTH_DONE}</script>" if auth_done else ""
    html = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{''.join(parts)}{script}</body></html>"
    )
    return Response(html, status, _HEADERS, "text/html")


def paragraph(text: str, *, wrong: bool = False) -> str:
    """One paragraph of plain text."""
    return f'<p{" class=wrong" if wrong else ""}>{escape(text)}</p>'


def link(url: str, text: str) -> str:
    return f'<p><a href="{escape(url)}" rel="noreferrer">{escape(text)}</a></p>'


def form(button: str, label: str = "", *, name: str = "", kind: str = "text", hidden: Mapping[str, str] | None = None) -> str:
    """A form that posts to the page's own address: one field, if it has a name, a button, and `hidden` fields."""
    kept = "".join(f'<input type="hidden" name="{escape(key)}" value="{escape(value)}">' for key, value in (hidden or {}).items())
    asked = f'<label>{escape(label)}<br><input type="{kind}" name="{name}" required autofocus></label><br>' if name else ""
    return f'<form method="post">{kept}{asked}<button type="submit">{escape(button)}</button></form>'


def field(body: bytes, name: str) -> str:
    """A field of a form (application/x-www-form-urlencoded); empty if it is missing. Raises M_BAD_JSON for what is no form."""
    try:
        found = parse_qs(body.decode("utf-8"), max_num_fields=10, keep_blank_values=True)
    except ValueError as error:
        raise errors.BadJson("That is not a form.") from error
    return found.get(name, [""])[0][:MAX_FIELD]
