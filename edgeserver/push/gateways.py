"""What the follower asks of the world: a way to push gateways. Implemented in `app`, where wires are chosen.

POST /_matrix/push/v1/notify. Spec: Push Gateway API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from edgeserver.matrix import canonical_json
from transports.exchange import ExchangeError

if TYPE_CHECKING:
    from transports.exchange import Response

MAX_ANSWER: Final = 64 * 1024
TIMEOUT: Final = 30.0
LONGEST_ASKED: Final = 3600.0


class NotAllowed(ExchangeError):
    """This box does not call that gateway, now or later: it lies in a private network, is not spoken to with TLS, or is on an internet
    that the box does not use.
    """


class Gateways(Protocol):
    """The way to gateways."""

    async def notify(self, url: str, body: bytes) -> Response:
        """Posts the body (JSON) to the gateway at this URL. Raises `ExchangeError`, and `NotAllowed` where trying again is no use."""
        ...


def rejected(response: Response) -> list[str] | None:
    """The pushkeys that the gateway will have no more of; None if it did not take the notification."""
    if response.status != 200:
        return None
    try:
        answer: Any = canonical_json.decode_exact(response.body)
    except canonical_json.CanonicalJSONError:
        return None
    found = answer.get("rejected") if isinstance(answer, dict) else None
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def retry_after(response: Response | None) -> float:
    """Seconds that the gateway asks us to wait, an hour at most; 0 if it asks for nothing."""
    value = None if response is None else response.header("retry-after")
    if value is None or not (value.isascii() and value.isdecimal()):
        return 0.0
    return min(float(value[:6]), LONGEST_ASKED)
