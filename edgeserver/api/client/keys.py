"""/keys/… Spec: client-server API, "End-to-End Encryption" and "Cross-signing".

POST /keys/upload, /keys/query, /keys/claim, /keys/device_signing/upload, /keys/signatures/upload; GET /keys/changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.endpoint import endpoint
from edgeserver.api.user_interactive import PASSWORD
from edgeserver.matrix import errors
from edgeserver.sync.since import parse
from edgeserver.users.device_keys import DEFAULT_TIMEOUT_MS, wanted_devices, wanted_keys

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.api.user_interactive import UserInteractive
    from edgeserver.users.cross_signing import CrossSigning
    from edgeserver.users.device_keys import DeviceKeys
    from edgeserver.users.device_lists import DeviceLists

CROSS_SIGNING_UPLOAD: Final = "POST /keys/device_signing/upload"


class KeySection:
    """The handlers."""

    def __init__(
        self,
        device_keys: DeviceKeys,
        device_lists: DeviceLists,
        cross_signing: CrossSigning,
        interactive: UserInteractive,
    ) -> None:
        self._device_keys = device_keys
        self._device_lists = device_lists
        self._cross_signing = cross_signing
        self._interactive = interactive

    async def upload(self, call: Call) -> dict[str, Any]:
        """POST /keys/upload"""
        device_id = call.requester.device_id
        if device_id is None:
            raise errors.InvalidParam("Keys belong to a device, and this session has none.")
        counts = await self._device_keys.upload(call.user_id, device_id, await call.json())
        return {"one_time_key_counts": counts}

    async def query(self, call: Call) -> dict[str, Any]:
        """POST /keys/query"""
        body = await call.json()
        wanted = wanted_devices(body.get("device_keys"))
        return await self._device_keys.query(call.user_id, wanted, _timeout(body))

    async def claim(self, call: Call) -> dict[str, Any]:
        """POST /keys/claim"""
        body = await call.json()
        return await self._device_keys.claim(wanted_keys(body.get("one_time_keys")), _timeout(body))

    async def changes(self, call: Call) -> dict[str, Any]:
        """GET /keys/changes. What changed after `to` is told too: the time of the last change alone is known."""
        since = call.query.get("from")
        if since is None:
            raise errors.MissingParam("from is missing.")
        if (upto := call.query.get("to")) is not None:
            parse(upto)
        return {**await self._device_lists.changes(call.user_id, parse(since).stream)}

    async def upload_cross_signing(self, call: Call) -> dict[str, Any]:
        """POST /keys/device_signing/upload"""
        body = await call.json()
        keys = {name: value for name, value in body.items() if name != "auth"}
        proof_alone = not keys and "auth" in body
        if call.requester.appservice_id is None and (
            proof_alone or await self._cross_signing.needs_authentication(call.user_id, keys)
        ):
            flows = [[PASSWORD]]
            proven = await self._interactive.authenticate(body, CROSS_SIGNING_UPLOAD, flows, user_id=call.user_id)
            keys = proven.body
        await self._cross_signing.upload(call.user_id, keys)
        return {}

    async def upload_signatures(self, call: Call) -> dict[str, Any]:
        """POST /keys/signatures/upload"""
        return {"failures": await self._cross_signing.sign(call.user_id, await call.json())}


def _timeout(body: dict[str, Any]) -> int:
    timeout = body.get("timeout", DEFAULT_TIMEOUT_MS)
    if type(timeout) is not int:
        raise errors.BadJson("timeout is a whole number of milliseconds.")
    return timeout


def routes(
    device_keys: DeviceKeys,
    device_lists: DeviceLists,
    cross_signing: CrossSigning,
    interactive: UserInteractive,
) -> list[Route]:
    handlers = KeySection(device_keys, device_lists, cross_signing, interactive)
    base = "/_matrix/client/v3/keys"
    return [
        *endpoint("POST", f"{base}/upload", handlers.upload, rate="keys"),
        *endpoint("POST", f"{base}/query", handlers.query, rate="keys"),
        *endpoint("POST", f"{base}/claim", handlers.claim, rate="keys"),
        *endpoint("GET", f"{base}/changes", handlers.changes, rate="keys"),
        *endpoint("POST", f"{base}/device_signing/upload", handlers.upload_cross_signing, rate="keys"),
        *endpoint("POST", f"{base}/signatures/upload", handlers.upload_signatures, rate="keys"),
    ]
