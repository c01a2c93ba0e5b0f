"""Describes the table of operations as OpenAPI 3.1."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from edge_siamese import __version__
from edge_siamese.dashboard.api_types import Failure
from edge_siamese.dashboard.bodies import TYPES
from edge_siamese.dashboard.operations import Answer, Operation, table
from edge_siamese.dashboard.schemas import is_required, schema_of

DESCRIPTION = """\
What the dashboard's page uses, for programs. What changes something needs the header `X-CSRF-Token` with what
`GET /api/v1/session` tells, or `Authorization: Bearer TOKEN` with a token of `sudo edge-siamese dashboard token NAME`. Where
the dashboard is on loopback and has neither password nor tokens, nobody needs to log in.
Numbers of the version in the path change only with what breaks programs; fields may be added to answers."""

_ALWAYS = (
    Answer(400, "The request cannot be read.", Failure),
    Answer(403, "Not from there, or not so.", Failure),
    Answer(429, "Too many requests without a login.", Failure, headers={"Retry-After": "Seconds to wait."}),
)
_INSIDE = (Answer(401, "Log in first.", Failure),)
_ADDRESSED = Answer(404, "There is nothing at this address.", Failure)
_BODY = (
    Answer(408, "The body took too long.", Failure),
    Answer(413, "The body is too large.", Failure),
    Answer(415, "The body is of another type.", Failure),
)
_WRONG = Answer(422, "A value is not what it has to be.", Failure)
_CONFLICT = Answer(409, "It cannot be now.", Failure)
_NOT_NOW = Answer(503, "The daemon cannot do that now.", Failure, headers={"Retry-After": "Seconds to wait."})


def describe(device: str = "edge-siamese", cookie: str = "edge-siamese-8765") -> dict[str, Any]:
    """The document, as JSON values.

    Args:
        device: what people call this machine.
        cookie: the name of the session's.
    """
    schemas: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    for operation in table():
        paths.setdefault(operation.full_path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"edge-siamese on {device}", "version": __version__, "description": DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": cookie},
                "csrf": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token"},
            },
        },
    }


def _operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.topic],
        "summary": operation.summary,
        "responses": _responses(operation, schemas),
    }
    parameters = [
        *_parameters(operation.parameters, "path", schemas),
        *_parameters(operation.query, "query", schemas),
    ]
    if parameters:
        described["parameters"] = parameters
    if operation.body != "none":
        described["requestBody"] = {"required": True, "content": _content(operation, schemas)}
    if not operation.public:
        changes: dict[str, Any] = {} if operation.method == "GET" else {"csrf": []}
        described["security"] = [{"token": []}, {"session": [], **changes}]
    return described


def _content(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    if operation.body == "json":
        return {"application/json": {"schema": schema_of(operation.shape or Any, schemas)}}
    return {kind: {"schema": {}} for kind in TYPES[operation.body]}


def _parameters(cls: type | None, place: str, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    if cls is None:
        return []
    hints, found = get_type_hints(cls, include_extras=True), []
    for field in dataclasses.fields(cls):
        schema = _without_null(schema_of(hints[field.name], schemas))
        described = {"name": field.name, "in": place, "required": is_required(field), "schema": schema}
        if text := schema.pop("description", ""):
            described["description"] = text
        found.append(described)
    return found


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Of a parameter: one that is not there is left out, for there is no null in an address."""
    types = schema.get("type")
    return {**schema, "type": types[0]} if isinstance(types, list) else dict(schema)


def _responses(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    answers = [operation.answer, *operation.others, *_ALWAYS, _NOT_NOW]
    answers += () if operation.public else _INSIDE
    answers += [_ADDRESSED] if operation.parameters is not None else []
    answers += [_WRONG] if operation.query is not None or operation.body != "none" else []
    answers += [*_BODY] if operation.body != "none" else []
    answers += [_CONFLICT] if not operation.public else []
    found: dict[str, Any] = {}
    for answer in answers:
        found.setdefault(str(answer.status), _response(answer, schemas))
    return dict(sorted(found.items()))


def _response(answer: Answer, schemas: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.text}
    if answer.headers:
        described["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    if answer.type:
        described["content"] = {answer.type: {}}
    elif answer.shape is not None:
        schema = schema_of(answer.shape, schemas)
        described["content"] = {"application/json": {"schema": schema}}
    return described
