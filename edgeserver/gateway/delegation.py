"""A box's word that another may front for it: JSON signed with the box's own key, so that it can be passed on from gateway to gateway.

``{"box": <server name>, "via": <server name of the gateway>, "issued_ts": <ms>, "signatures": {<box>: {<key id>: <signature>}}}``

A chain box → gateway → gateway's gateway is a list of such words, the box's own first: each `via` is the next one's `box`, and the last
`via` is whoever asks to have it accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.matrix import server_names
from edgeserver.matrix.signatures import SignatureError, sign_json, verify_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeserver.matrix.signatures import SigningKey

MAX_CHAIN = 4


def sign(box: str, via: str, issued_ts: int, key: SigningKey) -> dict[str, Any]:
    """The box's word that `via` may front for it."""
    return sign_json({"box": box, "via": via, "issued_ts": issued_ts}, box, key)


def check_chain(chain: Sequence[Any], announcer: str, pinned: Callable[[str], bytes | None]) -> str | None:
    """The server name at the beginning of a sound chain that ends at `announcer`; None if it is not sound.

    `pinned(server_name)` gives the ed25519 key of a box that is known by pairing; self-certifying names need nobody.
    """
    if not 1 <= len(chain) <= MAX_CHAIN:
        return None
    for word, following in zip(chain, [*chain[1:], {"box": announcer}], strict=True):
        if not isinstance(word, dict) or not isinstance(following, dict) or word.get("via") != following.get("box"):
            return None
        if not _is_signed(word, pinned):
            return None
    first: str = chain[0]["box"]
    return first


def _is_signed(word: dict[str, Any], pinned: Callable[[str], bytes | None]) -> bool:
    box = word.get("box")
    if not isinstance(box, str) or not server_names.is_valid(box) or type(word.get("issued_ts")) is not int:
        return False
    key = server_names.key_of(box) or pinned(box)
    signatures = word.get("signatures")
    mine = signatures.get(box) if isinstance(signatures, dict) else None
    if key is None or not isinstance(mine, dict) or not 1 <= len(mine) <= 4:
        return False
    for key_id in mine:
        try:
            verify_json(word, box, key_id, key)
        except SignatureError:
            continue
        return True
    return False
