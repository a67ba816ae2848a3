"""Asking a room's policy server to sign an event. Spec: server-server API, POST /_matrix/policy/v1/sign."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.federation.errors import FederationError, PeerError, PeerUnreachable, as_matrix_error
from edgeserver.matrix.errors import MatrixError
from edgeserver.rooms.policy import PolicyServerSilent

if TYPE_CHECKING:
    from edgeserver.federation.calls import Calls


class FederationPolicy:
    """See `rooms.policy.PolicySigner`. The policy server's own refusal goes to the client as it is, as the spec asks."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def sign(self, server: str, pdu: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._calls.policy_sign(server, pdu)
        except PeerUnreachable as failure:
            raise PolicyServerSilent(server) from failure
        except PeerError as refusal:
            if 400 <= refusal.status < 600 and refusal.status != 401:  # a client would take a 401 for the end of its session
                after = {} if refusal.retry_after_ms is None else {"retry_after_ms": refusal.retry_after_ms}
                raise MatrixError(refusal.status, refusal.errcode, refusal.error, **after) from refusal
            raise as_matrix_error(refusal) from refusal
        except FederationError as failure:
            raise as_matrix_error(failure) from failure
