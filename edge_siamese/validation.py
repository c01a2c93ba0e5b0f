"""Reads JSON and TOML into dataclasses, strictly: the annotations are the schema, and all else is refused."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class SchemaError(ValueError):
    """A value that breaks the schema, and the dotted key at which it stands."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key = key
        self.problem = problem

    def under(self, parent: str) -> SchemaError:
        """The same error, told from the object that holds `parent`."""
        return SchemaError(_join(parent, self.key), self.problem)


def parse_json(text: str) -> Any:
    """JSON text to Python values; NaN, infinities, numbers beyond every float, repeated keys and half characters
    (a surrogate without its other one, which no file and no terminal can hold) are refused.

    Raises:
        SchemaError: the text is not JSON of this kind.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats)
    except SchemaError:
        raise
    except json.JSONDecodeError as error:
        raise SchemaError(
            "", f"not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, a tower of brackets
        raise SchemaError("", f"not JSON that can be read: {error}") from error
    require_finite(value)
    _require_text(value)
    return value


def require_finite(value: Any, key: str = "") -> None:
    """Raise `SchemaError`, naming the dotted key, if a number anywhere in `value` is not finite."""
    if isinstance(value, dict):
        for name, item in value.items():
            require_finite(item, _join(key, str(name)))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            require_finite(item, f"{key}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise SchemaError(key, f"a finite number is needed, not {value}")


def _require_text(value: Any, key: str = "") -> None:
    """Raise `SchemaError`, naming the dotted key, if a string anywhere in `value` cannot be written as UTF-8."""
    if isinstance(value, dict):
        for name, item in value.items():
            _require_text(name, key)
            _require_text(item, _join(key, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _require_text(item, f"{key}[{index}]")
    elif isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise SchemaError(
                key, f"{ascii(value)[:80]} is not text: half of a character is missing"
            ) from None


def read_object(value: Any, cls: type[T], key: str = "", *, optional: bool = False) -> T:
    """A parsed JSON object to the dataclass `cls`; every field has to be there, and no other key.

    With `optional`, as for settings, fields that have a default may be left out, here and in nested objects.

    Fields may be str, int, float, bool, None, Any, Literal, dataclasses, tuple[X, ...], dict[str, X] and
    unions of these. A `SchemaError` that `__post_init__` raises is told under the key of its object.

    Raises:
        SchemaError: what is wrong, with the dotted key.
    """
    if not isinstance(value, dict):
        raise SchemaError(key, f"an object is needed, not {_kind(value)}")
    hints = get_type_hints(cls)
    known = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in known]
    required = [field.name for field in known if not (optional and _has_default(field))]
    for name in value:
        if name not in names:
            raise SchemaError(_join(key, name), f"unknown key{nearest(name, names)}")
    for name in required:
        if name not in value:
            raise SchemaError(_join(key, name), "missing")
    fields = {
        name: _read(value[name], hints[name], _join(key, name), optional) for name in names if name in value
    }
    try:
        return cls(**fields)
    except SchemaError as error:
        raise error.under(key) from None


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """`; did you mean "scale"?`, or nothing when no known word is near."""
    match = difflib.get_close_matches(word, known, n=1)
    return f'; did you mean "{match[0]}"?' if match else ""


def _has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _read(value: Any, hint: Any, key: str, optional: bool = False) -> Any:
    """One value to the annotated type."""
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return read_object(value, hint, key, optional=optional)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise SchemaError(key, f"one of {', '.join(map(repr, arguments))} is needed, not {_shown(value)}")
        return value
    if origin in (Union, types.UnionType):
        arm = next((arm for arm in arguments if _fits(value, arm)), None)
        if arm is None:
            wanted = " or ".join(_KINDS.get(get_origin(arm) or arm, "an object") for arm in arguments)
            raise SchemaError(key, f"{wanted} is needed, not {_shown(value)}")
        return _read(value, arm, key, optional)
    if not _fits(value, hint):
        raise SchemaError(key, f"{_KINDS[origin or hint]} is needed, not {_shown(value)}")
    if origin is tuple:
        return tuple(
            _read(item, arguments[0], f"{key}[{index}]", optional) for index, item in enumerate(value)
        )
    if origin is dict:
        return {name: _read(item, arguments[1], _join(key, name), optional) for name, item in value.items()}
    if hint is float:
        try:
            return float(value)
        except OverflowError:
            raise SchemaError(key, "a finite number is needed, not an integer beyond every float") from None
    return value


def require_within(name: str, value: float, least: float, most: float) -> None:
    """Raise `SchemaError` if a number is out of its range; for a dataclass to check its own fields."""
    if not least <= value <= most:
        raise SchemaError(name, f"a number from {least:g} to {most:g} is needed, not {value:g}")


_KINDS: dict[Any, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    tuple: "a list",
    dict: "an object",
}
_JSON_TYPES: dict[Any, tuple[type, ...]] = {float: (int, float), tuple: (list,)}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of the kind that the annotation asks for, its contents aside."""
    kind = get_origin(hint) or hint
    if dataclasses.is_dataclass(kind):
        return isinstance(value, dict)
    if isinstance(value, bool):  # to Python a bool is an int as well; to JSON it is not
        return kind is bool
    return isinstance(value, _JSON_TYPES.get(kind, (kind,)))


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else _KINDS[type(value)]


def _shown(value: Any) -> str:
    return _kind(value) if isinstance(value, (list, dict)) else json.dumps(value, ensure_ascii=False)[:80]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise SchemaError(name, "this key stands twice in one object")
        result[name] = value
    return result


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent and name else parent or name
