"""GET /_matrix/client/versions. Spec: client-server API, "API Versions"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.endpoint import Auth, endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.api.endpoint import Call, Route

VERSIONS: Final = ("r0.6.1", *(f"v1.{minor}" for minor in range(1, 20)))
"""Old versions stay beside the new ones: some clients look for one that they know by name."""


LOW_BANDWIDTH: Final = ("m.low_bandwidth", "org.matrix.msc3079.low_bandwidth")


def routes(
    unstable_features: Mapping[str, bool], versions: Sequence[str] = VERSIONS, *, low_bandwidth: Mapping[str, int] | None = None
) -> list[Route]:
    """`low_bandwidth` is what MSC3079 tells of its listener; None where there is none."""
    answer: dict[str, Any] = {"versions": list(versions), "unstable_features": dict(unstable_features)}
    if low_bandwidth is not None:
        answer |= {name: dict(low_bandwidth) for name in LOW_BANDWIDTH}

    async def get_versions(call: Call) -> dict[str, Any]:
        return answer

    return endpoint("GET", "/_matrix/client/versions", get_versions, auth=Auth.NONE)
