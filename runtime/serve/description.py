"""What an app answers, as an OpenAPI document made from its routes and the structs that bodies are read as."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from greenroom.serve.exchange import HttpExchange
from greenroom.serve.routes import ApiRoute

__all__ = ["describe", "description_route"]

_NAME = re.compile(r"{(\w+)(?::\w+)?}")
_KEY = {"key": {"type": "http", "scheme": "bearer"}}
_FAULT = {"description": "Why there is no answer.", "content": {"application/json": {}}}


def describe(routes: Sequence[ApiRoute]) -> dict[str, Any]:
    """The document, of OpenAPI 3.1. Answers are said to be JSON or a stream, and no more than that."""
    routes = [route for route in routes if route.is_described]
    structs = [route.reads for route in routes if route.reads is not None]
    schemas, components = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    bodies = dict(zip(structs, schemas, strict=True))
    for route in routes:
        if route.reads is not None:  # an unknown field of a body is refused; below that it is passed over
            body = components[route.reads.__name__]
            body["additionalProperties"] = False
            body["properties"] = {**{name: {} for name in route.ignores}, **body["properties"]}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _NAME.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, bodies)
    return {
        "openapi": "3.1.0",
        "info": {"title": "greenroom", "version": importlib.metadata.version("greenroom")},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _KEY},
    }


def _operation(route: ApiRoute, bodies: dict[type[msgspec.Struct], dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {}, **({"text/event-stream": {}} if route.reads is not None else {})}
    operation: dict[str, Any] = {
        "summary": (route.handle.__doc__ or route.path).strip().splitlines()[0],
        "responses": {"200": {"description": "The answer.", "content": content}, "4XX": _FAULT, "503": _FAULT},
    }
    names = _NAME.findall(route.path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if route.reads is not None:
        body = {"application/json": {"schema": bodies[route.reads]}}
        operation["requestBody"] = {"required": True, "content": body}
    if route.needs_key:
        operation["security"] = [{"key": []}, {}]
    return operation


def description_route(routes: Sequence[ApiRoute]) -> ApiRoute:
    """`GET /openapi.json`: of `routes`, and of itself."""

    async def show_description(exchange: HttpExchange) -> None:
        """This document."""
        await exchange.send_json(body)

    own = ApiRoute("GET", "/openapi.json", show_description)
    body = msgspec.json.encode(describe([*routes, own]))
    return own
