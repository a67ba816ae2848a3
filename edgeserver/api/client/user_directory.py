"""POST /user_directory/search. Spec: client-server API, "User Directory"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.profiles import Profiles

DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 50
MAX_TERM: Final = 256


def routes(profiles: Profiles) -> list[Route]:
    async def search(call: Call) -> dict[str, Any]:
        body = await call.json()
        term, limit = body.get("search_term"), body.get("limit", DEFAULT_LIMIT)
        if type(term) is not str or len(term) > MAX_TERM:
            raise errors.BadJson(f"search_term must be a text of at most {MAX_TERM} characters.")
        if type(limit) is not int or limit < 1:
            raise errors.InvalidParam("limit must be a positive number.")
        results, limited = await profiles.search(call.user_id, term, min(limit, MAX_LIMIT))
        return {"results": results, "limited": limited}

    return endpoint("POST", "/_matrix/client/v3/user_directory/search", search, rate="search", max_body=4096)
