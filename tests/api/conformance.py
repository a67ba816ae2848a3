"""What an answer of the client-server API must be, whatever was asked: held against the OpenAPI by every request of the whole suite.

`tests/conftest.py` puts `Conformance` behind `tests.asgi.AsgiClient`. A route that is new in the box is checked from its first test on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from tests.api import openapi
from tests.api.answer_schemas import faults
from tests.asgi import Answer, Asked

ANYWHERE: dict[int, set[str]] = {
    400: {"M_BAD_JSON", "M_NOT_JSON", "M_INVALID_PARAM", "M_MISSING_PARAM", "M_UNKNOWN", "M_UNKNOWN_DEVICE"},
    401: {"M_MISSING_TOKEN", "M_UNKNOWN_TOKEN", "M_USER_LOCKED"},
    403: {
        *("M_FORBIDDEN", "M_USER_DEACTIVATED", "M_GUEST_ACCESS_FORBIDDEN", "M_USER_SUSPENDED"),
        *("M_RESOURCE_LIMIT_EXCEEDED", "M_CONSENT_NOT_GIVEN"),
    },
    404: {"M_NOT_FOUND", "M_UNRECOGNIZED"},
    405: {"M_UNRECOGNIZED"},
    413: {"M_TOO_LARGE"},
    429: {"M_LIMIT_EXCEEDED"},
}
"""Common error codes: any operation may answer these with this status (client-server API, "Common error codes"; application service API,
"Identity assertion").
"""

V3, MEDIA = "/_matrix/client/v3", ("/_matrix/client/v1/media", "/_matrix/media/v3")
_AFAR = {(502, "M_UNKNOWN"), (504, "M_UNKNOWN")}  # another server has to be asked and cannot be, or answers nonsense
_OF_A_BRIDGE = _AFAR | {(408, "M_UNKNOWN")}  # and an application service may have to be asked ("Querying")
_JOINING = _AFAR | {(400, "M_INCOMPATIBLE_ROOM_VERSION"), (400, "M_UNABLE_TO_AUTHORISE_JOIN"), (400, "M_UNABLE_TO_GRANT_JOIN")}
_POLICED = {(400, "M_FORBIDDEN"), (504, "M_UNKNOWN")}  # the room's policy server refused (its error is passed on) or is away
_NO_MAIL = {(502, "M_UNKNOWN")}  # the mail server does not take it
_NO_THREEPIDS = {(403, "M_THREEPID_DENIED")}
IN_PROSE: dict[str, set[tuple[int, str]]] = {
    f"POST {V3}/register": {(400, "M_WEAK_PASSWORD")},
    f"POST {V3}/account/password": {(400, "M_WEAK_PASSWORD"), (400, "M_THREEPID_NOT_FOUND")},
    **{f"POST {V3}/{what}/email/requestToken": _NO_MAIL for what in ("account/3pid", "account/password", "register")},
    **{f"{method} {V3}/profile/{{userId}}/{{keyName}}": {(400, "M_KEY_TOO_LARGE")} for method in ("PUT", "DELETE")},
    f"POST {V3}/account/3pid": _NO_THREEPIDS,
    f"POST {V3}/account/3pid/add": _NO_THREEPIDS | {(403, "M_THREEPID_AUTH_FAILED")},  # as for the older /account/3pid
    f"POST {V3}/account/3pid/bind": _NO_THREEPIDS,
    f"POST {V3}/createRoom": _NO_THREEPIDS | {(400, "M_EXCLUSIVE")},
    f"POST {V3}/rooms/{{roomId}}/invite": _NO_THREEPIDS | _AFAR | _POLICED,
    f"POST {V3}/rooms/{{roomId}}/join": _JOINING,
    f"POST {V3}/join/{{roomIdOrAlias}}": _JOINING,
    f"POST {V3}/knock/{{roomIdOrAlias}}": _JOINING,
    f"PUT {V3}/rooms/{{roomId}}/send/{{eventType}}/{{txnId}}": _POLICED,
    f"PUT {V3}/rooms/{{roomId}}/state/{{eventType}}/{{stateKey}}": _POLICED | {(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM")},
    f"PUT {V3}/rooms/{{roomId}}/redact/{{eventId}}/{{txnId}}": _POLICED,
    f"POST {V3}/rooms/{{roomId}}/leave": {(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM")},
    **{f"{method} {V3}/directory/room/{{roomAlias}}": {(400, "M_EXCLUSIVE")} for method in ("PUT", "DELETE")},
    f"POST {V3}/login": {(400, "M_EXCLUSIVE")},
    **dict.fromkeys(
        (
            f"GET {V3}/directory/room/{{roomAlias}}", f"GET {V3}/profile/{{userId}}", f"GET {V3}/profile/{{userId}}/{{keyName}}",
        ),
        _OF_A_BRIDGE,
    ),
    **dict.fromkeys(
        (
            f"GET {V3}/publicRooms", f"POST {V3}/publicRooms", "GET /_matrix/client/v1/rooms/{roomId}/hierarchy",
            "GET /_matrix/client/v1/room_summary/{roomIdOrAlias}", "GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event",
        ),
        _AFAR,
    ),
    **{f"GET {root}/download/{{serverName}}/{{mediaId}}{name}": _AFAR for root in MEDIA for name in ("", "/{fileName}")},
    **{f"GET {root}/thumbnail/{{serverName}}/{{mediaId}}": _AFAR for root in MEDIA},
}  # fmt: skip
"""Codes that stand in the prose of the specification and not in its OpenAPI, and what federation and disks bring with them."""

INTERACTIVE_IN_PROSE = {f"POST {V3}/keys/device_signing/upload"}
INTERACTIVE = openapi.json_schema(openapi.OPERATIONS[f"POST {V3}/account/password"]["responses"]["401"])
HTTP_ITSELF = {206, 304, 416}
"""Parts of files and what a client holds already (RFC 9110): media may be asked for so."""

NOT_MEANT = (
    f"GET {V3}/voip/turnServer lacks ",
    f"GET {V3}/room_keys/version.algorithm is ",
    f"GET {V3}/room_keys/version/{{version}}.algorithm is ",
)
"""How these faults begin. Without a TURN server every homeserver answers `{}`, since browsers refuse an empty list of URIs; and a backup is
the client's affair, newer algorithms included (MSC3270).
"""


@dataclass
class Conformance:
    """`answered`: the operations that succeeded in the module that runs; `refused`: (operation, status, errcode) of the others.
    `provoked`: statuses, and operations that are asked wrongly, which a test means to provoke.
    """

    answered: set[str] = field(default_factory=set)
    refused: set[tuple[str, int, str]] = field(default_factory=set)
    provoked: set[int | str] = field(default_factory=set)

    def observe(self, asked: Asked, answer: Answer) -> None:
        """Raises AssertionError if the specification forbids this answer, or a request that the server took."""
        operation = openapi.operation_of(asked.method, asked.path)
        if operation is None or answer.status in self.provoked:
            return
        found = faults_of_answer(operation, asked, answer)
        if 200 <= answer.status < 300 and not found:
            self.answered.add(operation)
            found = [] if operation in self.provoked else faults_of_request(operation, asked)
        elif answer.status >= 400 and answer.headers.get("content-type") == "application/json" and answer.body and not found:
            self.refused.add((operation, answer.status, answer.json.get("errcode", "")))
        assert not found, "\n".join([f"{asked.method} {asked.path}: {answer.status}", *found])


def faults_of_answer(operation: str, asked: Asked, answer: Answer) -> list[str]:
    """What is wrong with the status, the content type and the body of an answer."""
    declared = openapi.OPERATIONS[operation]["responses"].get(str(answer.status))
    if answer.status in HTTP_ITSELF and "{mediaId}" in operation:
        return []
    if answer.status == 201 and "/media/v3/upload" in operation and answer.headers.get("location"):
        return []  # an upload that is begun, to be gone on with (the HTTP working group's resumable uploads)
    if 200 <= answer.status < 300:
        if declared is None:
            return [f"{operation} may not answer {answer.status}"]
        return [one for one in _faults_of_success(operation, declared, asked, answer) if not one.startswith(NOT_MEANT)]
    if asked.method == "HEAD" or (declared is not None and 300 <= answer.status < 400):
        return []
    return _faults_of_error(operation, declared or {}, answer)


def _faults_of_success(operation: str, declared: dict[str, Any], asked: Asked, answer: Answer) -> list[str]:
    kinds = declared.get("content", {})
    kind = answer.headers.get("content-type", "").partition(";")[0]
    schema = openapi.json_schema(declared)
    if schema is None:
        return []  # a file has the type that it was uploaded with
    if kind not in kinds:
        return [f"{operation} answers {kind!r}, not {' or '.join(kinds)}"]
    body = [] if asked.method == "HEAD" else json.loads(answer.body)
    if operation == f"GET {V3}/events":  # tells of typing, receipts and presence too, which are no room events
        body["chunk"] = [event for event in body["chunk"] if event["type"] not in ("m.typing", "m.receipt", "m.presence")]
    return [] if asked.method == "HEAD" else faults(schema, body, operation)


def _faults_of_error(operation: str, declared: dict[str, Any], answer: Answer) -> list[str]:
    if answer.headers.get("content-type", "").partition(";")[0] != "application/json":
        return [f"{operation}: an error must be JSON"]
    body = answer.json
    if not isinstance(body, dict):
        return [f"{operation}: an error must be an object"]
    schema = openapi.json_schema(declared)
    if answer.status == 401 and "flows" in body:
        schema = INTERACTIVE if operation in INTERACTIVE_IN_PROSE else schema
        return [f"{operation} has no user-interactive authentication"] if schema is None else faults(schema, body, operation)
    code, error = body.get("errcode"), body.get("error")
    if not isinstance(code, str) or not isinstance(error, str) or not error:
        return [f"{operation}: an error must have errcode and error, not {body!r:.200}"]
    known = ANYWHERE.get(answer.status, set()) | set(declared.get("x-errcodes", ()))
    if code not in known and (answer.status, code) not in IN_PROSE.get(operation, ()):
        return [f"{operation} may not answer {answer.status} {code} ({error})"]
    if answer.status == 429 and (type(body.get("retry_after_ms")) is not int or not answer.headers.get("retry-after", "").isdecimal()):
        return [f"{operation}: a rate limit says when to come back"]
    return [] if schema is None or answer.status == 401 else faults(schema, body, operation)


def faults_of_request(operation: str, asked: Asked) -> list[str]:
    """What is wrong with a request that the server took."""
    stated = openapi.OPERATIONS[operation]
    given = parse_qs(asked.query, keep_blank_values=True)
    asked_for = [one["name"] for one in stated.get("parameters", ()) if one["in"] == "query" and one.get("required")]
    found = [f"{operation} asks for {name}" for name in asked_for if name not in given]
    schema = openapi.json_schema(stated.get("requestBody", {}))
    if schema is not None and asked.body.strip():
        try:
            found += faults(schema, json.loads(asked.body), f"{operation} body")
        except ValueError:
            found.append(f"{operation} took a body that is not JSON")
    return found
