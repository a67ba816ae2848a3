"""Makes `client_server_openapi.json` of the specification's own files: one OpenAPI document, its references resolved, its prose left out.

python -m tests.data.bundle_openapi /path/to/matrix-spec/data

What is left of an error's example is its errcode; the codes that only the prose of a response names stand in `x-errcodes`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

PROSE = {"description", "title", "summary", "externalDocs", "tags", "deprecated"}
METHODS = {"get", "put", "post", "delete", "head", "options", "patch"}
ERRCODE = re.compile(r"\b(?:M|IO_MATRIX|ORG_MATRIX)_[A-Z_]*[A-Z]\b")
OUTPUT = Path(__file__).with_name("client_server_openapi.json")


class Files:
    """YAML and JSON files, each read once."""

    def __init__(self) -> None:
        self._read: dict[Path, Any] = {}

    def __getitem__(self, path: Path) -> Any:
        if path not in self._read:
            self._read[path] = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        return self._read[path]

    def resolve(self, value: Any, at: Path) -> Any:
        """The value with whatever its references point at in their place."""
        if isinstance(value, list):
            return [self.resolve(one, at) for one in value]
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("$ref"), str):
            name, _, pointer = value["$ref"].partition("#")
            file = (at.parent / name).resolve() if name else at
            found = self[file]
            for part in filter(None, pointer.split("/")):
                found = found[part.replace("~1", "/").replace("~0", "~")]
            return self.resolve(found, file)
        return {name: self.resolve(one, at) for name, one in value.items()}


def schema_of(value: Any) -> Any:
    """A schema without prose and examples. What stands under `properties` is named by the schema and not by JSON Schema."""
    if isinstance(value, list):
        return [schema_of(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept: dict[str, Any] = {}
    for name, one in value.items():
        if name in ("properties", "patternProperties"):
            kept[name] = {key: schema_of(each) for key, each in one.items()}
        elif name in ("enum", "const", "default", "required"):
            kept[name] = one
        elif name not in PROSE and name not in ("example", "examples") and not name.startswith("x-"):
            kept[name] = schema_of(one)
    return kept


def media_types(content: dict[str, Any]) -> dict[str, Any]:
    return {name: {"schema": schema_of(one["schema"])} if "schema" in one else {} for name, one in content.items()}


def response_of(response: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {"description": ""}
    if response.get("content"):
        kept["content"] = media_types(response["content"])
    if response.get("headers"):
        kept["headers"] = {name: {"schema": schema_of(one.get("schema", {}))} for name, one in response["headers"].items()}
    said = [response.get("description", ""), *({**one, "schema": None} for one in response.get("content", {}).values())]
    in_schemas = set(ERRCODE.findall(json.dumps(response))) - {"M_UNKNOWN"}  # which is the example of every error's schema
    codes = in_schemas | set(ERRCODE.findall(json.dumps(said)))
    if codes:
        kept["x-errcodes"] = sorted(codes)
    return kept


def parameter_of(parameter: dict[str, Any]) -> dict[str, Any]:
    kept = {name: one for name, one in parameter.items() if name in ("name", "in", "required", "style", "explode", "allowEmptyValue")}
    return {**kept, "schema": schema_of(parameter["schema"])} if "schema" in parameter else {**kept, "content": parameter["content"]}


def operation_of(operation: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {"operationId": operation["operationId"]}
    if operation.get("parameters"):
        kept["parameters"] = [parameter_of(one) for one in operation["parameters"]]
    if operation.get("requestBody"):
        body = operation["requestBody"]
        kept["requestBody"] = {"required": body.get("required", False), "content": media_types(body["content"])}
    kept["responses"] = {str(status): response_of(one) for status, one in sorted(operation["responses"].items())}
    if operation.get("security"):
        kept["security"] = [{name: [] for name in one} for one in operation["security"]]
    return kept


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two operations that the specification states for one path and method: it tells them apart by a space after the path."""
    made = {**one, "responses": {**other["responses"], **one["responses"]}}
    for status, response in other["responses"].items():
        codes = {*made["responses"][status].get("x-errcodes", []), *response.get("x-errcodes", [])}
        made["responses"][status] = {**made["responses"][status], **({"x-errcodes": sorted(codes)} if codes else {})}
    if "requestBody" in one:
        bodies = [each["requestBody"]["content"]["application/json"]["schema"] for each in (one, other)]
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": {"anyOf": bodies}}}}
    known = {parameter["name"] for parameter in one.get("parameters", [])}
    both = [*one.get("parameters", []), *(each for each in other.get("parameters", []) if each["name"] not in known)]
    made["parameters"] = [{**each, "required": each["in"] == "path"} for each in both]
    return made


def bundle(spec: Path) -> dict[str, Any]:
    """The document of every operation of the client-server API; `spec` is the folder `data` of matrix-spec."""
    files, paths = Files(), {}
    for path in sorted((spec / "api" / "client-server").glob("*.yaml")):
        document = files.resolve(files[path.resolve()], path.resolve())
        base = document["servers"][0]["variables"].get("basePath", {}).get("default", "")
        for below, item in document["paths"].items():
            if item.get("parameters"):
                raise ValueError(f"{path} has parameters for a whole path")
            made = paths.setdefault(f"{base}{below}".rstrip(), {})
            for method in METHODS & item.keys():
                operation = operation_of(item[method])
                made[method] = merged(made[method], operation) if method in made else operation
    schemes = {
        "accessTokenQuery": {"type": "apiKey", "in": "query", "name": "access_token"},
        "accessTokenBearer": {"type": "http", "scheme": "bearer"},
        "appserviceAccessTokenQuery": {"type": "apiKey", "in": "query", "name": "access_token"},
        "appserviceAccessTokenBearer": {"type": "http", "scheme": "bearer"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Matrix client-server API", "version": "1.19"},
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {"securitySchemes": schemes},
    }


if __name__ == "__main__":
    text = json.dumps(bundle(Path(sys.argv[1])), separators=(",", ":"), ensure_ascii=False, sort_keys=True)
    OUTPUT.write_text(text + "\n", encoding="utf-8")
