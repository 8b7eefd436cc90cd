"""``/openapi.json``: the routes and their bodies, described from what serves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from sgrt.server.http import Answer, Call, Handler, Route, encode

_REF = "#/components/schemas/{name}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "where in the body"},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def description(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document of these routes."""
    kinds = [route.body for route in routes if route.body is not None]
    bodies, schemas = msgspec.json.schema_components(kinds, ref_template=_REF)
    body_of = dict(zip(kinds, bodies, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        body = None if route.body is None else body_of[route.body]
        path = route.path.replace("/*", "/{name}")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, body)
    return {
        "openapi": "3.1.0",
        "info": {"title": "sgrt", "version": version},
        "security": [{"bearer": []}, {"key": []}, {}],
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Error": _ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(route: Route, body: dict[str, Any] | None) -> dict[str, Any]:
    summary = (route.handler.__doc__ or "").strip().partition("\n")[0]
    failed = {"schema": {"$ref": _REF.format(name="Error")}}
    answered: dict[str, Any] = {"description": "The answer."}
    if route.media:
        answered["content"] = {media: {} for media in route.media}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": answered,
            "default": {"description": "An error.", "content": {"application/json": failed}},
        },
    }
    if route.path.endswith("/*"):
        name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        operation["parameters"] = [name]
    if body is not None:
        content = {"application/json": {"schema": body}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.access == "open":
        operation["security"] = []
    return operation


def handler(routes: Sequence[Route], version: str) -> Handler:
    """What answers ``GET /openapi.json`` for these routes."""
    document = encode(description(routes, version))

    async def openapi(call: Call) -> Answer:
        return Answer(document)

    return openapi
