"""Endpoints: their parameters, and their description as OpenAPI 3.1."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta
from starlette.requests import Request

from edge_siamese.dashboard.app import ENDPOINTS, openapi_json
from edge_siamese.dashboard.endpoints import Endpoint, describe
from edge_siamese.dashboard.schemas import ApiError, Message
from edge_siamese.dashboard.state import AppState

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return dict(json.loads(openapi_json("kitchen", "edge-siamese-1")))


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def values(document: Any, key: str) -> Iterator[Any]:
    """All that stands anywhere under this key."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(document, list):
        for value in document:
            yield from values(value, key)


def test_every_operation_is_described_once(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0" and document["info"]["title"] == "edge-siamese on kitchen"
    found = {(path, method.upper()) for path, method, _ in operations(document)}
    assert found == {(operation.full_path, operation.method) for operation in ENDPOINTS}
    assert len(found) == len(ENDPOINTS) == 38
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))


def test_what_is_referred_to_is_there(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for reference in values(document, "$ref"):
        assert reference.removeprefix("#/components/schemas/") in schemas
    assert all(schema["description"].endswith(".") for schema in schemas.values())


def test_parameters_of_the_path_are_described(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        described = [p["name"] for p in operation.get("parameters", []) if p["in"] == "path"]
        assert described == re.findall(r"[{](\w+)[}]", path), path
        assert all(p["required"] for p in operation.get("parameters", []) if p["in"] == "path")


def test_schemas_are_json_schemas(document: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema_rs")
    for schema in [*document["components"]["schemas"].values(), *values(document, "schema")]:
        jsonschema.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_every_operation_says_what_may_go_wrong(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        answers = operation["responses"]
        assert {"400", "403", "503"} <= set(answers), path
        if "security" in operation:
            assert "401" in answers
            assert [*operation["security"][1]] == (["session"] if method == "get" else ["session", "csrf"])
        for status, answer in answers.items():
            if int(status) >= 400 and status != "409":
                content = answer["content"]["application/json"]["schema"]
                assert content == {"$ref": "#/components/schemas/Failure"}, (path, status)


def test_only_what_a_stranger_needs_is_open_to_strangers(document: dict[str, Any]) -> None:
    found = [
        operation["operationId"] for _, _, operation in operations(document) if "security" not in operation
    ]
    assert found == ["session", "login", "openapi"]


def test_nothing_that_changes_something_is_a_get() -> None:
    changing = {"register", "rename", "forget", "merge", "remove_view", "undo",
                "button", "wrong", "set_regions", "restore", "clear_surroundings", "upload",
                "import_collection", "login", "logout"}  # fmt: skip
    assert {operation.name for operation in ENDPOINTS if operation.method != "GET"} == {*changing, "score"}


def test_the_documentation_lists_every_endpoint() -> None:
    text = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8")
    missing = [
        row
        for endpoint in ENDPOINTS
        if (row := f"| `{endpoint.method} {endpoint.path}` | {endpoint.summary} |\n") not in text
    ]
    assert missing == []


# --- parameters ---


Number = Annotated[int, Meta(description="few", ge=1, le=9)]


def endpoint() -> Endpoint:
    def example(
        state: AppState,
        number: Number,
        flag: bool = False,
        choice: Literal["a", "b"] = "a",
        after: int | None = None,
    ) -> Message:
        """An example."""
        return Message(text=f"{number} {flag} {choice} {after}")

    return Endpoint("GET", "/examples/{number}", "examples", example)


def parameters(number: str, query: str) -> dict[str, Any]:
    scope: Any = {"type": "http", "path_params": {"number": number}, "query_string": query.encode()}
    return endpoint()._read_parameters(Request(scope))


def test_parameters_are_read() -> None:
    assert parameters("3", "") == {"number": 3, "flag": False, "choice": "a", "after": None}
    assert parameters("9", "flag=true&choice=b&after=-5") == {
        "number": 9,
        "flag": True,
        "choice": "b",
        "after": -5,
    }


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("flag=yes", 'flag: must be true or false, not "yes"'),
        ("after=1&after=2", "after: given more than once"),
        ("after=one", 'after: must be an integer, not "one"'),
        ("after=null", 'after: must be an integer, not "null"'),
        ("choice=c", 'choice: must be one of "a", "b", not "c"'),
        ("chioce=a", 'chioce: unknown key; did you mean "choice"?'),
        ("number=3", "number: unknown key"),
        ("after=", 'after: must be an integer, not ""'),
    ],
)
def test_an_invalid_query(query: str, problem: str) -> None:
    with pytest.raises(ApiError) as caught:
        parameters("3", query)
    assert (caught.value.status, str(caught.value)) == (422, f"invalid query: {problem}")


@pytest.mark.parametrize("number", ["0", "10", "x", "1.5", "9" * 30, "3 "])
def test_an_invalid_path(number: str) -> None:
    with pytest.raises(
        ApiError, match=r"^there is nothing at this URL: number: must be an integer from 1 to 9"
    ) as caught:
        parameters(number, "")
    assert caught.value.status == 404


def test_the_description_of_an_endpoint() -> None:
    document = describe([endpoint()], "kitchen", "cookie")
    described = document["paths"]["/api/v1/examples/{number}"]["get"]
    assert (described["operationId"], described["summary"], described["tags"]) == (
        "example",
        "An example.",
        ["examples"],
    )
    assert described["parameters"] == [
        {
            "name": "number",
            "in": "path",
            "required": True,
            "schema": {"type": "integer", "minimum": 1, "maximum": 9},
            "description": "few",
        },
        {"name": "flag", "in": "query", "required": False, "schema": {"type": "boolean", "default": False}},
        {"name": "choice", "in": "query", "required": False, "schema": {"enum": ["a", "b"], "default": "a"}},
        {"name": "after", "in": "query", "required": False, "schema": {"type": "integer"}},
    ]
    assert described["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Message"
    }
    assert set(described["responses"]) == {"200", "400", "401", "403", "404", "409", "422", "429", "503"}
