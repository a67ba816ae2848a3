"""The schemas of a 200 of the client-server API, and as much of JSON Schema as the specification uses.

faults = faults_of("GET", "/_matrix/client/v3/sync", answer)
"""

from __future__ import annotations

import re
from typing import Any

from tests.api import openapi

SCHEMAS: dict[str, dict[str, Any]] = {
    name: schema for name, operation in openapi.OPERATIONS.items() if (schema := openapi.json_schema(operation["responses"].get("200", {})))
}
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def operation_of(method: str, path: str) -> str | None:
    """The operation that a path (without its query) belongs to, as `SCHEMAS` names it."""
    operation = openapi.operation_of(method, path)
    return operation if operation in SCHEMAS else None


def faults_of(method: str, path: str, answer: Any) -> list[str]:
    """What is wrong with the answer (200) of an operation; empty where the specification states no schema."""
    operation = operation_of(method, path)
    return [] if operation is None else faults(SCHEMAS[operation], answer, operation)


def fits(template: list[str], segments: list[str]) -> bool:
    """Whether the segments of a path are those of a path with parameters."""
    return len(template) == len(segments) and all(
        one == other or (one.startswith("{") and other) for one, other in zip(template, segments, strict=True)
    )


def faults(schema: dict[str, Any], value: Any, where: str) -> list[str]:
    """Where a value does not fit a schema."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(kind, value) for kind in kinds):
        return [f"{where} is {value!r:.80}, not {' or '.join(kinds)}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where} is {value!r:.80}, not one of {schema['enum']}")
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{where} is {value!r:.80}, which does not match {schema['pattern']}")
    for part in schema.get("allOf", []):
        found += faults(part, value, where)
    for way in ("anyOf", "oneOf"):
        choices = [faults(part, value, where) for part in schema.get(way, [])]
        if choices and all(choices):
            found += min(choices, key=lambda one: (one[0].startswith(f"{where} is "), len(one)))  # of the kind that was meant
    if isinstance(value, dict):
        found += _faults_of_object(schema, value, where)
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, item in enumerate(value):
            found += faults(schema["items"], item, f"{where}[{number}]")
    return found


def _faults_of_object(schema: dict[str, Any], value: dict[str, Any], where: str) -> list[str]:
    found = [f"{where} lacks {name}" for name in schema.get("required", []) if name not in value]
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, one in value.items():
        parts = [known[name]] if name in known else [part for pattern, part in patterns.items() if re.search(pattern, name)]
        if not parts and isinstance(schema.get("additionalProperties"), dict):
            parts = [schema["additionalProperties"]]
        for part in parts:
            found += faults(part, one, f"{where}.{name}")
    return found


def _is(kind: str, value: Any) -> bool:
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
