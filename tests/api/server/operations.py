"""The operations of the server-server API and the schemas that the specification gives them (see tests/data/README.md).

    faults = faults_of_answer("GET /_matrix/federation/v1/version", answer)
    faults = faults_of_request("GET", "/_matrix/federation/v1/state/%21r?event_id=%24e", None)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from tests.api.answer_schemas import faults, fits

_DATA = json.loads((Path(__file__).parents[2] / "data" / "server_server_answers.json").read_text())
OPERATIONS: dict[str, dict[str, Any]] = _DATA["operations"]
PDUS: dict[str, dict[str, Any]] = _DATA["pdus"]
NOT_MEANT = {
    "PUT /_matrix/federation/v1/invite/{roomId}/{eventId}[1].event lacks origin",
    "PUT /_matrix/federation/v2/invite/{roomId}/{eventId}.event lacks origin",
    "PUT /_matrix/federation/v2/invite/{roomId}/{eventId} body.event lacks origin",
    "PUT /_matrix/federation/v2/send_join/{roomId}/{eventId} body lacks origin",
    "PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId} body lacks origin",
    "PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId} body lacks origin",
}
"""These schemas ask for a key that whole events of no room version have (`pdus`); Synapse leaves it out, too."""

_PDU_LISTS = ("pdus", "auth_chain", "state", "events", "knock_room_state")


def operation_of(method: str, path: str) -> str:
    """The operation that a percent-encoded path (without its query) belongs to: with the fewest parameters."""
    segments = path.split("/")
    fitting = [name for name in OPERATIONS if name.startswith(f"{method} ") and fits(name.split(" ", 1)[1].split("/"), segments)]
    assert fitting, f"{method} {path} is no operation of the specification"
    return min(fitting, key=lambda name: name.count("{"))


def faults_of_answer(operation: str, answer: Any, version: str | None = None) -> list[str]:
    """What is wrong with the JSON of a 200; with a room version, also with the events in it."""
    schema = OPERATIONS[operation].get("answer")
    found = [] if schema is None else faults(schema, answer, operation)
    if version is not None:
        for pdu in _pdus_in(answer):
            found += faults_of_pdu(pdu, version, operation)
    return [one for one in found if one not in NOT_MEANT]


def faults_of_pdu(pdu: Any, version: str, where: str) -> list[str]:
    schema = PDUS[max((one for one in PDUS if int(one) <= int(version)), key=int)]
    if version == "12" and pdu.get("type") == "m.room.create":
        schema = {**schema, "required": [name for name in schema["required"] if name != "room_id"]}
        if "room_id" in pdu:
            return [f"{where}: the create event has a room_id"]
    return faults(schema, pdu, f"{where} {pdu.get('type')}")


def faults_of_request(method: str, target: str, body: Any) -> list[str]:
    """What is wrong with a request: its path, its query, its body."""
    path, _, query = target.partition("?")
    operation = operation_of(method, path)
    known = OPERATIONS[operation]
    found = _faults_of_path(operation, path) + _faults_of_query(known.get("query", {}), query, operation)
    if "body" in known:
        found += [f"{operation} has no body"] if body is None else faults(known["body"], body, f"{operation} body")
    elif body is not None:
        found.append(f"{operation} has a body")
    return [one for one in found if one not in NOT_MEANT]


def _faults_of_path(operation: str, path: str) -> list[str]:
    schemas, found = OPERATIONS[operation].get("path", {}), []
    for part, segment in zip(operation.split(" ", 1)[1].split("/"), path.split("/"), strict=True):
        if part.startswith("{"):
            found += faults(schemas[part[1:-1]], unquote(segment), f"{operation} {part}")
    return found


def _faults_of_query(known: dict[str, Any], query: str, operation: str) -> list[str]:
    given: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        given.setdefault(name, []).append(value)
    found = [f"{operation} lacks {name}" for name, one in known.items() if one.get("required") and name not in given]
    for name, values in given.items():
        schema = known.get(name, {}).get("schema")
        if schema is None:
            found.append(f"{operation} has no parameter {name}")
            continue
        typed = [_typed(schema.get("items", schema), value) for value in values]
        if schema.get("type") != "array" and len(typed) > 1:
            found.append(f"{operation} has {name} twice")
        found += faults(schema, typed if schema.get("type") == "array" else typed[0], f"{operation} {name}")
    return found


def _typed(schema: dict[str, Any], text: str) -> Any:
    if schema.get("type") in ("integer", "boolean"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _pdus_in(answer: Any) -> Iterator[dict[str, Any]]:
    if isinstance(answer, list):
        for one in answer:
            yield from _pdus_in(one)
    if isinstance(answer, dict):
        for name in _PDU_LISTS:
            if isinstance(answer.get(name), list):
                yield from answer[name]
