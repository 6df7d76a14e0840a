"""The routes of the application -> OpenAPI 3.1: summaries are the functions' docstrings, and the
fields of requests those that are checked.
"""

from collections.abc import Iterable
from importlib.metadata import version

from pydantic import BaseModel
from starlette.routing import Route

from shakespeare_lm.serving.request import ChatRequest, CompletionRequest, Json, TokenizeRequest

_BODIES: dict[str, type[BaseModel]] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/tokenize": TokenizeRequest,
}


def describe(routes: Iterable[Route]) -> Json:
    """Return the OpenAPI document of these routes."""
    paths: Json = {}
    schemas: Json = {}
    for route in routes:
        answers = {"200": {"description": "the answer"}}
        operation: Json = {"summary": route.endpoint.__doc__, "responses": answers}
        body = _BODIES.get(route.path)
        if body:
            schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {})
            operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
        for name in route.param_convertors:
            place = {"in": "path", "required": True, "schema": {"type": "string"}}
            operation["parameters"] = [{"name": name, **place}]
        paths[route.path_format] = {"post" if body else "get": operation}
    info = {"title": "shakespeare-lm", "version": version("shakespeare-lm")}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}}
