"""The description is whole, follows the rules of OpenAPI 3.1, and describes the routes that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from edge_siamese.dashboard.app import openapi_json
from edge_siamese.dashboard.operations import table
from edge_siamese.dashboard.schemas import About, read_body, read_parameters, schema_of
from edge_siamese.validation import SchemaError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return dict(json.loads(json.dumps(describe("kitchen", "edge-siamese-1"), allow_nan=False)))


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
    assert found == {(operation.full_path, operation.method) for operation in table()}
    assert len(found) == len(table()) == 33
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
    changing = {"registerObject", "addView", "renameObject", "forgetObject", "mergeObjects", "removeView", "undo",
                "button", "wrong", "upload", "importCollection", "login", "logout"}  # fmt: skip
    assert {operation.name for operation in table() if operation.method != "GET"} == {*changing, "score"}


def test_the_documentation_names_every_address() -> None:
    text = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8")
    missing = [
        f"{operation.method} {operation.path}"
        for operation in table()
        if f"`{operation.method} {operation.path}`" not in text
    ]
    assert missing == []


# --- shapes ---


@dataclass(frozen=True)
class Inner:
    """A part."""

    word: Annotated[str, About("lower case", pattern="^[a-z]+$", longest=5)]


@dataclass(frozen=True)
class Shape:
    """All kinds."""

    number: Annotated[int, About("few", 1, 9)]
    inner: Inner | None = None
    words: Annotated[tuple[Annotated[str, About("short", longest=2)], ...], About(longest=2)] = ()
    choice: Literal["a", "b"] = "a"
    flag: bool = False
    share: Annotated[float | None, About("", 0, 1)] = None


def test_schemas_of_dataclasses() -> None:
    named: dict[str, Any] = {}
    assert schema_of(Shape, named) == {"$ref": "#/components/schemas/Shape"}
    assert named["Shape"] == {
        "type": "object",
        "description": "All kinds.",
        "properties": {
            "number": {"type": "integer", "description": "few", "minimum": 1, "maximum": 9},
            "inner": {"anyOf": [{"$ref": "#/components/schemas/Inner"}, {"type": "null"}]},
            "words": {
                "type": "array",
                "items": {"type": "string", "description": "short", "maxLength": 2},
                "maxItems": 2,
                "default": [],
            },
            "choice": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "flag": {"type": "boolean", "default": False},
            "share": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        },
        "required": ["number"],
        "additionalProperties": False,
    }


def test_what_fits_is_read() -> None:
    value = {"number": 3, "inner": {"word": "abc"}, "words": ["x", "yy"], "share": 0.5}
    assert read_body(value, Shape) == Shape(3, Inner("abc"), ("x", "yy"), share=0.5)
    assert read_parameters({"number": ["3"], "flag": ["true"], "choice": ["b"]}, Shape) == Shape(
        3, choice="b", flag=True
    )


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, "number: missing"),
        ({"number": 10}, "number: a number from 1 to 9 is needed"),
        ({"number": True}, "number: an integer is needed, not true"),
        ({"number": 1, "inner": {"word": "ABC"}}, "inner.word: lower case"),
        ({"number": 1, "inner": {"word": "abcdef"}}, "inner.word: at most 5 are taken"),
        ({"number": 1, "words": ["a", "b", "c"]}, "words: at most 2 are taken"),
        ({"number": 1, "words": ["a", "bcd"]}, "words[1]: at most 2 are taken"),
        ({"number": 1, "choice": "c"}, "choice: one of 'a', 'b' is needed, not \"c\""),
        ({"number": 1, "share": 1.5}, "share: a number from 0 to 1 is needed"),
        ({"number": 1, "shar": 1}, 'shar: unknown key; did you mean "share"?'),
    ],
)
def test_what_does_not_fit_is_told(value: dict[str, Any], problem: str) -> None:
    with pytest.raises(SchemaError) as caught:
        read_body(value, Shape)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"number": ["1", "2"]}, "number: it is given twice"),
        ({"number": ["one"]}, "number: a whole number is needed, not 'one'"),
        ({"number": ["1"], "flag": ["yes"]}, "flag: true or false is needed, not 'yes'"),
        ({"number": ["9" * 30]}, "number: a whole number is needed, not '" + "9" * 30 + "'"),
    ],
)
def test_parameters_that_are_none(given: dict[str, list[str]], problem: str) -> None:
    with pytest.raises(SchemaError) as caught:
        read_parameters(given, Shape)
    assert str(caught.value) == problem
