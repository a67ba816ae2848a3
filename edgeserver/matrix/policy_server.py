"""Policy servers: which one a room uses, and whether it has signed an event. Pure.

Spec: server-server API, "Policy Servers" (v1.18; MSC4284); client-server API, `m.room.policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix.event import Event, signed_bytes
from edgeserver.matrix.signatures import SignatureError, decode_base64, signatures_by, verify

if TYPE_CHECKING:
    from collections.abc import Mapping

POLICY: Final = ("m.room.policy", "")
KEY_ID: Final = "ed25519:policy_server"
"""Always the key id of a policy server's signature, whatever its signing key as a homeserver is called."""
_MAX_SIGNATURE: Final = 100


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """A room's policy server: the name under `via`, and its public key as unpadded base64, which may be no key at all."""

    server_name: str
    public_key: str


def named_by(policy: Event | None) -> PolicyServer | None:
    """What an m.room.policy event names; None for none, or for content that is not valid.

    A key that is a string but no key counts as valid: the room uses that server, and no event can have its signature.
    """
    if policy is None:
        return None
    server_name, keys = policy.content.get("via"), policy.content.get("public_keys")
    public_key = keys.get("ed25519") if isinstance(keys, dict) else None
    if not isinstance(server_name, str) or not isinstance(public_key, str):
        return None
    return PolicyServer(server_name, public_key)


def is_exempt(event: Event) -> bool:
    """Whether the event needs no signature: the one that names the policy server, so that a room can get rid of it."""
    return (event.type, event.state_key) == POLICY


def has_signed(event: Event, server: PolicyServer) -> bool:
    """Whether the event carries a signature of the policy server by the key that the room states."""
    signature = signatures_by(event.pdu, server.server_name).get(KEY_ID)
    if signature is None:
        return False
    try:
        key = decode_base64(server.public_key)
        verify(signed_bytes(event.pdu, event.rules), signature, key)
    except (ValueError, SignatureError):
        return False
    return True


def with_signature_in(event: Event, server: PolicyServer, answer: Mapping[str, Any]) -> Event | None:
    """The event with the signature that the policy server answered (`{server name: {key id: signature}}`); None if there
    is no valid one.

    What the event carries of that server's other signatures stays: they may be those of its sender.
    """
    signature = signatures_by({"signatures": answer}, server.server_name).get(KEY_ID)
    if signature is None or len(signature) > _MAX_SIGNATURE:
        return None
    by_server = {**signatures_by(event.pdu, server.server_name), KEY_ID: signature}
    pdu = {**event.pdu, "signatures": {**event.pdu["signatures"], server.server_name: by_server}}
    signed = Event.from_pdu(pdu, event.rules, event_id=event.event_id)
    return signed if has_signed(signed, server) else None
