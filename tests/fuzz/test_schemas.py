"""Values of every shape in place of what each schema expects: they are converted, or refused with a `SchemaError`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from edge_siamese.daemon.commands import COMMANDS
from edge_siamese.dashboard.credentials import Credentials
from edge_siamese.fleet.state import ObjectState, ViewState
from edge_siamese.models.installed import ModelState
from edge_siamese.models.manifest import Manifest
from edge_siamese.settings import Settings
from edge_siamese.store.archive import ArchiveManifest
from edge_siamese.validation import SchemaError, convert, parse_json

hypothesis.configuration.set_hypothesis_home_dir(Path(__file__).parents[2] / ".cache" / "hypothesis")
SCHEMAS = {
    schema.__name__: schema
    for schema in (
        Settings, Manifest, ArchiveManifest, ObjectState, ViewState, ModelState, Credentials,
        *(command.arguments for command in COMMANDS),
    )
}  # fmt: skip
FEW: dict[str, Any] = {
    "deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(hypothesis.HealthCheck),
}  # fmt: skip
ANY: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20)
    | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def near(hint: Any) -> st.SearchStrategy[Any]:
    """Values that resemble what a type accepts, and any others."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        fields = {
            field.encode_name: st.deferred(lambda t=field.type: near(t))
            for field in msgspec.structs.fields(hint)
        }
        return st.fixed_dictionaries({}, optional=fields) | st.fixed_dictionaries(fields) | ANY
    for inner in getattr(hint, "__args__", ()):
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            return st.lists(near(inner), max_size=3) | near(inner) | ANY
    return ANY


def refusal(function: Callable[..., object], *arguments: Any) -> str:
    """The message with which a function refuses its input; empty if it accepts it."""
    try:
        function(*arguments)
    except SchemaError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", list(SCHEMAS))
@hypothesis.settings(**FEW, max_examples=30)
@hypothesis.given(data=st.data())
def test_values_are_converted_or_refused(name: str, data: Any) -> None:
    message = refusal(convert, data.draw(near(SCHEMAS[name])), SCHEMAS[name], "place")
    assert not message or (message.startswith("place") and len(message.splitlines()) == 1)


@hypothesis.settings(**FEW, max_examples=300)
@hypothesis.given(value=ANY)
def test_json_is_read_as_it_was_written_or_refused(value: Any) -> None:
    text = json.dumps(value, default=str)
    if message := refusal(parse_json, text):
        assert len(message.splitlines()) == 1
        assert any(word in message for word in ("finite", "surrogate", "64 bits"))
    else:
        assert json.dumps(parse_json(text)) == text
