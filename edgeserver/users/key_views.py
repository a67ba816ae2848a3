"""What of a user's public keys is shown to whom. Pure.

Client-server API, "Cross-signing": signatures by others than the owner are shown to those who made them alone, and the
user-signing key to its owner alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.matrix.signatures import with_signature

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from edgeserver.store.device_keys import UserKeys

SECTIONS = {"master": "master_keys", "self_signing": "self_signing_keys", "user_signing": "user_signing_keys"}
"""Usage → its section in the answer to a key query."""


def device(user_id: str, keys: UserKeys, device_id: str) -> dict[str, Any] | None:
    """A device's identity keys with all signatures that their owner has put on them; None if there are none."""
    held = keys.devices.get(device_id)
    return None if held is None else _signed(held[0], user_id, keys, device_id, {user_id})


def cross_signing_key(user_id: str, keys: UserKeys, usage: str, viewer: str | None) -> dict[str, Any] | None:
    """A cross-signing key as `viewer` may see it (None: another server)."""
    held = keys.cross_signing.get(usage)
    if held is None or (usage == "user_signing" and viewer != user_id):
        return None
    key_id = next((value for value in held.get("keys", {}).values() if isinstance(value, str)), "")
    return _signed(held, user_id, keys, key_id, {user_id} if viewer is None else {user_id, viewer})


def describe(
    answer: dict[str, Any],
    user_id: str,
    keys: UserKeys,
    *,
    viewer: str | None,
    wanted: Collection[str],
    names: Mapping[str, str | None],
) -> None:
    """Adds one user to the answer of a key query. `wanted`: device ids, none means all; `names` are display names."""
    devices: dict[str, Any] = {}
    for device_id in keys.devices:
        found = device(user_id, keys, device_id) if not wanted or device_id in wanted else None
        if found is not None:
            name = names.get(device_id)
            devices[device_id] = {**found, "unsigned": {} if name is None else {"device_display_name": name}}
    answer["device_keys"][user_id] = devices
    for usage, section in SECTIONS.items():
        key = cross_signing_key(user_id, keys, usage, viewer)
        if key is not None:
            answer.setdefault(section, {})[user_id] = key


def _signed(obj: dict[str, Any], user_id: str, keys: UserKeys, key_id: str, signers: Collection[str]) -> dict[str, Any]:
    own = obj.get("signatures")
    kept = own.get(user_id) if isinstance(own, dict) else None
    shown: dict[str, Any] = {name: value for name, value in obj.items() if name not in ("signatures", "unsigned")}
    if isinstance(kept, dict):
        shown["signatures"] = {user_id: kept}
    for one in keys.signatures:
        if one.key_id == key_id and one.signer in signers:
            shown = with_signature(shown, one.signer, one.signing_key, one.signature)
    return shown
