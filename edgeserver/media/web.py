"""What previews need of the web: one page at a time, from an address that has been looked at first. Pure but for the Protocol.

An address that people write leads anywhere, into the network of the box, too. Here its form is checked: HTTP or HTTPS on their
own ports, a host name or a plain IP address, no user name. Where the name leads, `WebSource` checks, and connects to just that.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote, urljoin, urlsplit

if TYPE_CHECKING:
    from urllib.parse import SplitResult

MAX_URL: Final = 2048

_PORTS: Final = {"http": 80, "https": 443}
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f\\]")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PATH_SAFE: Final = "/%:@!$&'()*+,;=~-._"
_LOCAL: Final = ("localhost", "local", "internal", "home.arpa", "onion")


class AddressRefused(Exception):
    """An address that is not asked, whatever lies there; the reason is one sentence for a person."""


class WebFailed(Exception):
    """A page that could not be had; one sentence for the log."""


class PageTooLarge(WebFailed):
    """A page beyond the bound."""


@dataclass(frozen=True, slots=True)
class WebAddress:
    """One address: `host` in ASCII (an IPv6 address without brackets), `target` the path and query, percent-encoded."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    @property
    def authority(self) -> str:
        """The HTTP Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """What the site said; `location` where it sends us instead."""

    status: int
    content_type: str
    body: bytes
    location: str | None = None


class WebSource(Protocol):
    """The way to the web."""

    async def get(self, address: WebAddress, *, accept: str, max_bytes: int) -> WebAnswer:
        """One answer; redirects are the caller's. Raises `AddressRefused` for what leads into a private network, `WebFailed`."""
        ...


def address_of(url: str, base: WebAddress | None = None, *, any_port: bool = False) -> WebAddress:
    """The address of a URL, which may be relative to `base`. Raises `AddressRefused`."""
    if len(url) > MAX_URL or _FORBIDDEN.search(url.strip()):
        raise AddressRefused("This is no address of a page.")
    try:
        parts = urlsplit(url.strip() if base is None else urljoin(base.url, url.strip()))
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise AddressRefused("This is no address of a page.") from error
    if parts.scheme not in _PORTS or not host:
        raise AddressRefused("Only pages of http and https are previewed.")
    if "@" in parts.netloc:
        raise AddressRefused("An address with a user name is not previewed.")
    own = _PORTS[parts.scheme]
    if port is not None and port != own and not any_port:
        raise AddressRefused("Only pages on the ports 80 and 443 are previewed.")
    return WebAddress(parts.scheme, _host(host), port or own, _target(parts))


def _host(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host)) if "%" not in host else _refuse()
    except ValueError:
        pass
    try:
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        _refuse()
    labels = name.split(".")
    if len(name) > 253 or len(labels) < 2 or not all(map(_LABEL.fullmatch, labels)):
        _refuse()
    if _NUMBER.fullmatch(labels[-1]) or any(name == each or name.endswith(f".{each}") for each in _LOCAL):
        _refuse()  # 2130706433, 0x7f.1 and 127.1 are addresses to some resolvers
    return name


def _refuse() -> str:
    raise AddressRefused("This host is not previewed.")


def _target(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe=_PATH_SAFE)
    return f"{path}?{quote(parts.query, safe=_PATH_SAFE + '?')}" if parts.query else path
