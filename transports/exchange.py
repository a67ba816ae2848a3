"""The one vocabulary of every wire: a request goes out, a response comes back.

An `Observation` is an exchange with any number of answers (RFC 7641 in spirit); some wires have it.

Over TCP and TLS an exchange is `transports.http`; over a serial line, a radio or our UDP link it is `transports.client`.
Whoever holds an `Exchange` cannot tell which one it is, but may ask its `profile` how thin the line is.

Errors, by what the caller may conclude::

    ExchangeError
    ├── Unreachable      nothing was delivered: the request can be sent again without harm
    ├── Interrupted      the request may or may not have been carried out: repeat only what is idempotent
    │   └── TimedOut     … because no answer came within the request's timeout
    └── TooLarge         the body is beyond what this line carries
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

Headers = tuple[tuple[str, str], ...]


class Priority(IntEnum):
    """Who goes first on a thin line; a lower number is served sooner. Nothing starves (see `transports.link.airtime`)."""

    INTERACTIVE = 0
    MESSAGE = 1
    RECEIPT = 2
    HISTORY = 3
    MEDIA = 4


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """What an endpoint may know of the wire below it.

    `bit_rate` is in bits a second and `mtu` in bytes (None where it does not matter); `peer` is the authenticated identity of the other end
    (a server name for a box, `client:<base32 key>` for a paired client device), None where the wire authenticates nobody.
    """

    name: str
    bit_rate: int | None = None
    mtu: int | None = None
    peer: str | None = None

    @property
    def is_thin(self) -> bool:
        """Below 64 kbit/s a full JSON answer keeps a person waiting."""
        return self.bit_rate is not None and self.bit_rate < 64_000


class BodySink(Protocol):
    """Takes the body of a response with status 200 in pieces, so that it never lies in memory whole. What it raises ends the exchange."""

    async def begin(self, headers: Headers) -> None:
        """The body follows. What an earlier try has brought is void."""
        ...

    async def write(self, chunk: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    `authority` is the server name that it is meant for (the HTTP Host; empty: whoever is at the other end); `target` is the path and query,
    percent-encoded, exactly as it is signed. `timeout` is in seconds and covers the whole exchange. A body of more
    than `max_response` bytes (None: what the wire allows) is not wanted. A wire that brings bodies in pieces gives them to `sink`, and
    the response then has none; one that brings them whole takes no notice of it.
    """

    method: str
    target: str
    authority: str = ""
    headers: Headers = ()
    body: bytes = b""
    priority: Priority = Priority.MESSAGE
    timeout: float = 60.0
    max_response: int | None = None
    sink: BodySink | None = field(default=None, compare=False, repr=False)

    def header(self, name: str) -> str | None:
        """The first header of that name, compared without case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


@dataclass(frozen=True, slots=True)
class Response:
    """One answer: the exact HTTP status, headers and the whole body."""

    status: int
    headers: Headers = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first header of that name, compared without case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


@dataclass(eq=False)
class ExchangeError(Exception):
    """An exchange that brought no response; `reason` is one sentence for the log."""

    reason: str = field(default="")

    def __str__(self) -> str:
        return self.reason


class Unreachable(ExchangeError):
    """Nothing was delivered: no route, no connection, line down."""


class Interrupted(ExchangeError):
    """The wire broke after the request had left: it may or may not have been carried out."""


class TimedOut(Interrupted):
    """No answer within the request's timeout."""


class TooLarge(ExchangeError):
    """The body is larger than this line is willing to carry."""


class Observation(Protocol):
    """A sync that the other end goes on answering, each time when there is news."""

    @property
    def is_over(self) -> bool:
        """Whether what was received last is the end; whoever wants more asks anew, from where that goes."""
        ...

    async def receive(self) -> Response:
        """The next answer. Raises the `ExchangeError` that has ended it, after all that came before; one who reads too slowly for
        what comes is interrupted."""
        ...

    def arrived(self) -> Response | None:
        """The next answer if it is here already. Who leaves takes these first: the other end knows that they have arrived."""
        ...


class Exchange(Protocol):
    """Anything that takes a request somewhere and brings the response back."""

    @property
    def profile(self) -> LinkProfile: ...

    async def exchange(self, request: Request) -> Response:
        """Carries one request. Raises `ExchangeError`; any status, 5xx included, is a response and not an error."""
        ...


@runtime_checkable
class Observable(Exchange, Protocol):
    """An exchange over a wire on which syncs can be observed."""

    def observe(self, request: Request) -> AbstractAsyncContextManager[Observation]:
        """A sync that is answered again whenever there is news, as a context. Raises `ExchangeError`."""
        ...
