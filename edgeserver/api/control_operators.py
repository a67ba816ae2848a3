"""What the control API (`api/control.py`) has for the operator's words and invitations.

    GET    /_edgeserver/control/tokens            the registration tokens that were made here
    POST   /_edgeserver/control/tokens            makes one
    DELETE /_edgeserver/control/tokens/{token}    takes one back
    POST   /_edgeserver/control/notice            a server notice to one person, or to all
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.admin.registration_tokens import as_json
from edgeserver.api.control_socket import PREFIX
from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.server_notices import ServerNotices
    from edgeserver.users.accounts import Accounts
    from edgeserver.users.registration_tokens import RegistrationTokens


def routes(accounts: Accounts, tokens: RegistrationTokens, notices: ServerNotices) -> list[Route]:
    async def list_tokens(call: Call) -> dict[str, Any]:
        return {"tokens": [as_json(one) for one in await tokens.list()]}

    async def add_token(call: Call) -> dict[str, Any]:
        body = await call.json(optional=True)
        token, uses, until = (body.get(name) for name in ("token", "uses_allowed", "expiry_time"))
        if (token is not None and type(token) is not str) or any(one is not None and type(one) is not int for one in (uses, until)):
            raise errors.BadJson("token is a text; uses_allowed and expiry_time are whole numbers.")
        return as_json(await tokens.create(token, uses=uses, expires_at=until))

    async def remove_token(call: Call) -> dict[str, Any]:
        await tokens.delete(call.path["token"])
        return {}

    async def notice(call: Call) -> dict[str, Any]:
        body = await call.json()
        text, name = body.get("text"), body.get("name")
        if type(text) is not str or not text.strip() or (name is not None and type(name) is not str):
            raise errors.BadJson("A notice needs a text; name is a text, or left out for all.")
        return {"told": await notices.announce(text, None if name is None else accounts.user_id(name))}

    return [
        *endpoint("GET", PREFIX + "tokens", list_tokens, auth=Auth.NONE),
        *endpoint("POST", PREFIX + "tokens", add_token, auth=Auth.NONE),
        *endpoint("DELETE", PREFIX + "tokens/{token}", remove_token, auth=Auth.NONE),
        *endpoint("POST", PREFIX + "notice", notice, auth=Auth.NONE),
    ]
