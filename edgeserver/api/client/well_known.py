"""GET /.well-known/matrix/{client,server,support}. Spec: client-server API and server-server API, "Server Discovery"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.matrix import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeserver.api.endpoint import Call, Handler, Route


def routes(
    *,
    base_url: str | None = None,
    server: str | None = None,
    support: Mapping[str, Any] | None = None,
    client_extra: Mapping[str, Any] | None = None,
) -> list[Route]:
    """`base_url` is where clients find the API, `server` the host:port where other servers do, `support` the whole
    document with contacts, `client_extra` further keys for clients. What is not given is 404 M_NOT_FOUND.
    """
    client = None if base_url is None else {**(client_extra or {}), "m.homeserver": {"base_url": base_url}}
    documents = {"client": client, "server": None if server is None else {"m.server": server}, "support": support}
    return [
        route
        for name, document in documents.items()
        for route in endpoint("GET", f"/.well-known/matrix/{name}", _teller_of(document), auth=Auth.NONE)
    ]


def support_document(page: str, contacts: Iterable[Mapping[str, str]]) -> dict[str, Any] | None:
    """/.well-known/matrix/support (MSC1929): None if there is nothing to tell. What is empty in a contact is left out."""
    told: dict[str, Any] = {}
    listed = [{key: value for key, value in contact.items() if value} for contact in contacts]
    if listed:
        told["contacts"] = listed
    if page:
        told["support_page"] = page
    return told or None


def _teller_of(document: Mapping[str, Any] | None) -> Handler:
    async def get_well_known(call: Call) -> Mapping[str, Any]:
        if document is None:
            raise errors.NotFound
        return document

    return get_well_known
