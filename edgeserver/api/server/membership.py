"""make_join, send_join, make_leave, send_leave, make_knock, send_knock and invite, v1 and v2.

Spec: server-server API, "Joining Rooms", "Leaving Rooms (Rejecting Invites)", "Knocking upon a room", "Inviting to
a room". The v1 forms of the PUTs answer `[200, {…}]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.api.responses import JsonResponse
from edgeserver.api.server.authentication import origin_of
from edgeserver.api.server.parameters import body_object, boolean
from edgeserver.federation.invites import told_version

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.responses import Response

    from edgeserver.api.endpoint import Call, Guard, Route
    from edgeserver.federation.invites import Invites
    from edgeserver.federation.resident import Resident

    Handler = Callable[[Call], Awaitable[dict[str, Any]]]

V1 = "/_matrix/federation/v1"
V2 = "/_matrix/federation/v2"


def routes(guard: Guard, resident: Resident, invites: Invites) -> list[Route]:
    def make(membership: str) -> Handler:
        async def make_membership(call: Call) -> dict[str, Any]:
            versions = call.query.getlist("ver")
            return await resident.make(origin_of(call), call.path["roomId"], call.path["userId"], membership, versions)

        return make_membership

    async def send_join(call: Call) -> dict[str, Any]:
        omit = boolean(call, "omit_members")
        return await resident.send_join(*_named(call), await call.json(), omit_members=omit)

    async def send_leave(call: Call) -> dict[str, Any]:
        await resident.send_leave(*_named(call), await call.json())
        return {}

    async def send_knock(call: Call) -> dict[str, Any]:
        return {"knock_room_state": await resident.send_knock(*_named(call), await call.json())}

    async def invite(call: Call) -> dict[str, Any]:
        body = await call.json()
        event = body_object(body, "event")
        pdu = await invites.take(*_named(call), event, body.get("room_version"), body.get("invite_room_state"))
        return {"event": pdu}

    async def invite_v1(call: Call) -> dict[str, Any]:
        event = await call.json()
        unsigned = event.get("unsigned")
        state = unsigned.get("invite_room_state") if isinstance(unsigned, dict) else None
        return {"event": await invites.take(*_named(call), event, told_version(state), state)}

    found: list[Route] = []
    for membership in ("join", "leave", "knock"):
        path = f"{V1}/make_{membership}/{{roomId}}/{{userId}}"
        found += endpoint("GET", path, make(membership), auth=guard)
    for name, handler in (("send_join", send_join), ("send_leave", send_leave)):
        found += endpoint("PUT", f"{V1}/{name}/{{roomId}}/{{eventId}}", _as_v1(handler), auth=guard)
        found += endpoint("PUT", f"{V2}/{name}/{{roomId}}/{{eventId}}", handler, auth=guard)
    found += endpoint("PUT", f"{V1}/send_knock/{{roomId}}/{{eventId}}", send_knock, auth=guard)
    found += endpoint("PUT", f"{V1}/invite/{{roomId}}/{{eventId}}", _as_v1(invite_v1), auth=guard)
    found += endpoint("PUT", f"{V2}/invite/{{roomId}}/{{eventId}}", invite, auth=guard)
    return found


def _named(call: Call) -> tuple[str, str, str]:
    return origin_of(call), call.path["roomId"], call.path["eventId"]


def _as_v1(handler: Handler) -> Callable[[Call], Awaitable[Response]]:
    async def answer(call: Call) -> Response:
        return JsonResponse([200, await handler(call)])

    return answer
