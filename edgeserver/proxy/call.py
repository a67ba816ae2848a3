"""One request of an HTTP client, read to its end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

from edgeserver.matrix import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.proxy.paths import Treatment
    from transports.exchange import Request


@dataclass(frozen=True, slots=True)
class Call:
    """`path` is percent-encoded; `query` is the query string without its mark; `host` the Host header."""

    treatment: Treatment
    path: str
    query: str
    request: Request
    host: str = ""

    @property
    def authorization(self) -> str:
        """Whose request it is, as far as the proxy can tell."""
        return self.request.header("authorization") or ""

    @property
    def parameters(self) -> dict[str, str]:
        """Of the query. Raises M_INVALID_PARAM."""
        try:
            return dict(parse_qsl(self.query, keep_blank_values=True, max_num_fields=64))
        except ValueError as error:
            raise errors.InvalidParam("The query has too many parameters.") from error

    @property
    def speaks_for_another(self) -> bool:
        """Whether it may be an application service's for somebody else: the answer is then not for whoever has the token, and tells
        nothing of its owner. Spec: application service API, "Identity assertion".
        """
        try:
            return "user_id" in self.parameters
        except errors.InvalidParam:
            return True

    def identity(self) -> tuple[str, str, str, bytes]:
        """Two requests with the same are the same request."""
        return (self.request.method, self.request.target, self.authorization, self.request.body)

    def with_parameters(self, parameters: Mapping[str, str]) -> Request:
        """The request with another query."""
        query = urlencode(parameters, quote_via=quote, safe="~!*'()")
        return replace(self.request, target=f"{self.path}?{query}" if query else self.path)
