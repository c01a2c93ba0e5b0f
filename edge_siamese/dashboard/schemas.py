"""Dataclasses as shapes of what goes over the wire: read and checked here, and described as JSON Schema."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edge_siamese.validation import SchemaError, read_object

T = TypeVar("T")


@dataclass(frozen=True)
class About:
    """What `Annotated` adds to a field: what it is, and what it may be."""

    text: str = ""
    least: float | None = None
    most: float | None = None
    """Of a number."""
    shortest: int | None = None
    longest: int | None = None
    """Of a text or a list."""
    pattern: str = ""
    """Of a text, as both JSON Schema and Python's `re` read it."""
    example: Any = None


def read_body(value: Any, cls: type[T]) -> T:
    """A parsed JSON object to a dataclass; fields with a default may be left out.

    Raises:
        SchemaError: it is none, with the key at which it is not.
    """
    found = read_object(value, cls, optional=True)
    _check(found)
    return found


def read_parameters(given: Mapping[str, Sequence[str]], cls: type[T]) -> T:
    """What stands in a path or behind a question mark to a dataclass, each text to what its field is.

    Raises:
        SchemaError: one is unknown, missing, given twice, or not what it has to be.
    """
    hints, value = get_type_hints(cls), {}
    for name, texts in given.items():
        if len(texts) != 1:
            raise SchemaError(name, "it is given twice")
        value[name] = _read_text(texts[0], hints.get(name, str), name)
    return read_body(value, cls)


def schema_of(hint: Any, named: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of an annotation.

    Args:
        hint: as `edge_siamese.validation` reads it, with `Annotated` anywhere.
        named: gets the schemas of dataclasses, by their names, which the result refers to.
    """
    if get_origin(hint) is Annotated:
        inner, *more = get_args(hint)
        result = schema_of(inner, named)
        for about in more:
            if isinstance(about, About):
                result = {**result, **_words(about, result)}
        return result
    if hint is Any:
        return {}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if hint.__name__ not in named:
            named[hint.__name__] = {}  # in its place, in case it has itself in it
            named[hint.__name__] = _object_schema(hint, named)
        return {"$ref": f"#/components/schemas/{hint.__name__}"}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return _union_schema(arguments, named)
    if origin is tuple:
        return {"type": "array", "items": schema_of(arguments[0], named)}
    if origin is dict or hint is dict:
        values = schema_of(arguments[1], named) if arguments else {}
        return {"type": "object", **({"additionalProperties": values} if values else {})}
    return {"type": _TYPES[hint]}


_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def _union_schema(arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """Plain types as a list of types, with what `null` does not take part in; others as alternatives."""
    shapes = [schema_of(argument, named) for argument in arguments]
    if len(shapes) == 2 and shapes[1] == {"type": "null"} and "type" in shapes[0] and "enum" not in shapes[0]:
        return {**shapes[0], "type": [shapes[0]["type"], "null"]}
    return {"anyOf": shapes}


def _object_schema(cls: type, named: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    fields = dataclasses.fields(cls)
    properties = {}
    for field in fields:
        properties[field.name] = schema_of(hints[field.name], named)
        if field.default not in (dataclasses.MISSING, None):
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            properties[field.name] = {**properties[field.name], "default": default}
    required = [field.name for field in fields if is_required(field)]
    return {
        "type": "object",
        "description": (cls.__doc__ or "").split("\n")[0],
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _words(about: About, schema: dict[str, Any]) -> dict[str, Any]:
    listed = schema.get("type") == "array"
    words = {
        "description": about.text or None,
        "minimum": about.least,
        "maximum": about.most,
        "minItems" if listed else "minLength": about.shortest,
        "maxItems" if listed else "maxLength": about.longest,
        "pattern": about.pattern or None,
        "examples": None if about.example is None else [about.example],
    }
    return {name: value for name, value in words.items() if value is not None}


def _read_text(text: str, hint: Any, name: str) -> Any:
    """A text as the JSON value that it stands for."""
    arms = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if bool in arms:
        if text not in ("true", "false"):
            raise SchemaError(name, f"true or false is needed, not {ascii(text)[:80]}")
        return text == "true"
    if int in arms:
        if not re.fullmatch("-?[0-9]{1,18}", text):
            raise SchemaError(name, f"a whole number is needed, not {ascii(text)[:80]}")
        return int(text)
    return text


@cache
def _hints(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass; Python works them out of their texts each time, which takes longer than all else."""
    return get_type_hints(cls, include_extras=True)


def _check(value: Any, key: str = "") -> None:
    """Raise `SchemaError` where a dataclass has something that its annotations do not allow."""
    kind: Any = type(value)
    hints = _hints(kind)
    for field in dataclasses.fields(value):
        found, name = getattr(value, field.name), f"{key}.{field.name}" if key else field.name
        if dataclasses.is_dataclass(found) and not isinstance(found, type):
            _check(found, name)
        else:
            _check_value(found, hints[field.name], name)


def _check_value(value: Any, hint: Any, key: str) -> None:
    if get_origin(hint) is Annotated:
        inner, *more = get_args(hint)
        for about in more:
            if isinstance(about, About) and value is not None:
                _check_one(value, about, key)
        _check_value(value, inner, key)
    elif isinstance(value, tuple) and get_origin(hint) is tuple:
        for place, item in enumerate(value):
            _check_value(item, get_args(hint)[0], f"{key}[{place}]")
    elif get_origin(hint) in (Union, types.UnionType) and value is not None:
        for arm in get_args(hint):
            if arm is not type(None):
                _check_value(value, arm, key)


def _check_one(value: Any, about: About, key: str) -> None:
    if isinstance(value, (int, float)):
        if (about.least is not None and value < about.least) or (
            about.most is not None and value > about.most
        ):
            raise SchemaError(key, f"a number from {about.least:g} to {about.most:g} is needed")
        return
    if about.shortest is not None and len(value) < about.shortest:
        raise SchemaError(key, f"at least {about.shortest} are needed")
    if about.longest is not None and len(value) > about.longest:
        raise SchemaError(key, f"at most {about.longest} are taken")
    if about.pattern and isinstance(value, str) and not re.search(about.pattern, value):
        raise SchemaError(key, about.text or "it does not look like that")
