"""Strict validation of JSON, TOML and requests: type annotations are the schema, msgspec checks them.

A schema is a `Record` with annotated fields. Ranges, lengths and patterns are `msgspec.Meta` in `Annotated`; a check across
fields is `__post_init__`, which raises `SchemaError` with the field's name. Constructing a `Record` directly runs
`__post_init__` alone: types and ranges are checked by `convert`.
"""

from __future__ import annotations

import codecs
import datetime
import difflib
import json
import math
import re
import threading
import tomllib
import types
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from edge_siamese.errors import first_line, printable

T = TypeVar("T")

MAX_DEPTH = 100
"""Nesting levels that `parse_json` and `parse_toml` accept."""
MAX_JSON_BYTES = 32 * 2**20
MAX_JSON_VALUES = 2_000_000
"""Values in a JSON text; each takes many times its size in memory."""
MAX_MESSAGE_VALUES = 10_000
"""Values in a request or a message from outside."""

_MAX_SHOWN_CHARACTERS = 80
"""Characters of a rejected value in a message."""
_MAX_SHOWN_KEY = 160
"""Characters of a dotted key in a message."""

_ANALYSIS = threading.Lock()
_analyzed: set[Any] = set()
_NOTHING = object()
"""A value of no type."""

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|\+00:00)")
MIN_YEAR, MAX_YEAR = 1970, 2099
"""Years of times. A board without a clock battery starts in 1970; the first and last years that Python knows are out of
range in some time zones."""

_Location = tuple[str | int, ...]

_TOO_DEEP = f"more than {MAX_DEPTH} nested levels"
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]++|[\]}]++', re.DOTALL)
"""Strings and runs of brackets in JSON. It matches in linear time, also an unterminated string."""
_KEY_PART = r"(?:[\w-]++|\"[^\"\n]*+\"|'[^'\n]*+')"
_LONG_KEY = re.compile(rf"(?<![\w-]){_KEY_PART}(?:[ \t]*+\.[ \t]*+{_KEY_PART}){{{MAX_DEPTH}}}")
"""A dotted key of TOML with more parts than `MAX_DEPTH`, for which `tomllib` takes time that grows with the square. It is
searched for in linear time."""
_LONG_NUMBER = re.compile(r"\d[\d_]{1000}")
_HUGE = 1 << 64
"""Replaces integers with more digits than 64 bits have; `_refuse_number` refuses it under its key."""


class SchemaError(ValueError):
    """A value that breaks the schema, with the dotted key of the value."""

    def __init__(self, key: str, problem: str) -> None:
        shown = key if len(key) <= _MAX_SHOWN_KEY else f"{key[:_MAX_SHOWN_KEY]}…"
        super().__init__(printable(f"{shown}: {problem}" if key else problem))
        self.key = key
        self.problem = problem

    def under(self, parent: str) -> SchemaError:
        """The same error with the key relative to the object that holds `parent`."""
        return SchemaError(_join(parent, self.key), self.problem)


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all schemas: an immutable object that `convert` reads without unknown keys."""


def convert(value: Any, type: type[T], key: str = "") -> T:
    """Convert parsed JSON or TOML to a `Record` or another annotated type.

    Strict: booleans are not numbers, 1.0 is not an integer, unknown keys are errors. Integers are accepted as floats and
    lists as tuples. Fields with a default may be left out. NaN and infinity are refused.

    Args:
        value: dictionaries, lists, strings, numbers, booleans and None.
        type: the annotated type, usually a `Record`.
        key: the dotted key of `value`, for errors.

    Raises:
        SchemaError: `value` breaks the schema; the message has the dotted key, what is expected, and the actual value.
    """
    require_finite(value, key)
    try:
        return quick_convert(value, type)
    except msgspec.ValidationError as error:
        raise _explain(value, type, key, error) from None


def quick_convert(value: Any, type: type[T], *, strict: bool = True) -> T:
    """Convert as `convert` does, but raise `msgspec.ValidationError` without an explanation, and accept NaN and infinity.

    Args:
        value: as for `convert`.
        type: the annotated type.
        strict: False accepts strings in place of numbers and booleans.
    """
    if type not in _analyzed:
        # msgspec analyzes a type when it is first used, and crashes if another thread uses it meanwhile.
        with _ANALYSIS, suppress(msgspec.ValidationError):
            msgspec.convert(_NOTHING, type)
        _analyzed.add(type)
    return msgspec.convert(value, type, strict=strict)


def convert_texts(values: Mapping[str, str], type: type[T], key: str = "") -> T:
    """Convert strings, such as those of a URL's query, to a `Record`: `"5"` to 5, `"true"` to True, `"null"` to None.

    Raises:
        SchemaError: see `convert`.
    """
    hints = get_type_hints(type, include_extras=True)
    return convert(
        {name: _parse_text(text, hints.get(name, str)) for name, text in values.items()}, type, key
    )


def parse_json(
    text: str | bytes, *, max_bytes: int = MAX_JSON_BYTES, max_values: int = MAX_JSON_VALUES
) -> Any:
    """Parse JSON strictly, with the same result on every Python.

    NaN, infinity, integers beyond 64 bits, duplicate keys, lone surrogates, and more than `MAX_DEPTH` levels are refused.

    Args:
        text: JSON; bytes are UTF-8.
        max_bytes: maximum length, in characters for a string.
        max_values: maximum number of values in lists and objects. A comma within a string counts as well.

    Raises:
        SchemaError: the text is not such JSON.
    """
    if len(text) > max_bytes:
        raise SchemaError("", f"{len(text)} bytes; at most {max_bytes} are accepted")
    text = _decode(text)
    _check_size(text, max_values)
    try:
        value = json.loads(text, object_pairs_hook=_refuse_duplicates, parse_int=_parse_integer)
    except json.JSONDecodeError as error:
        raise SchemaError(
            "", f"not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    for location, item in _walk(value):
        _refuse_number(item, location)
        _refuse_surrogates(item, location)
    return value


def parse_toml(text: str | bytes) -> dict[str, Any]:
    """Parse TOML, which may start with a byte-order mark.

    Infinity, NaN, integers beyond 64 bits, and more than `MAX_DEPTH` levels are refused.

    Raises:
        SchemaError: the text is not such TOML. The message has the line, except for a value with a key: see `line_of`.
    """
    text = _decode(text, with_line=True).removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    if match := _LONG_KEY.search(text):
        raise _toml_error(f"a key with more than {MAX_DEPTH} parts", text, match)
    try:
        value = tomllib.loads(text)
        for location, item in _walk(value):
            _refuse_number(item, location)
    except tomllib.TOMLDecodeError as error:
        raise SchemaError("", f"not valid TOML: {error}") from error
    except RecursionError as error:
        raise _toml_error(_TOO_DEEP, text, _deep_bracket(text)) from error
    except SchemaError:
        raise
    except ValueError as error:  # an integer of thousands of digits, or a date that does not exist
        raise _toml_error(first_line(error), text, _LONG_NUMBER.search(text)) from error
    return value


def line_of(key: str, text: str | bytes) -> int | None:
    """The line of TOML text that sets a dotted key, or else the table that it belongs to; None if neither is found.

    An index selects one of the tables of that name, as in `regions[1].box`.
    """
    names = re.sub(r"\[\d+\]", "", key).split(".")
    places = {
        tuple(re.sub(r"\[\d+\]", "", match.string[: match.end()]).split(".")): int(match[1])
        for match in re.finditer(r"\[(\d+)\]", key)
    }
    table: list[str] = []
    found: dict[int, int] = {}
    counts: Counter[tuple[str, ...]] = Counter()
    for number, line in enumerate(_decode(text).split("\n"), 1):
        line = line.strip()
        name, separator, _ = line.lstrip("[").partition("]" if line.startswith("[") else "=")
        if not separator or not name.strip() or set(name) & set("=#[]{},"):
            continue
        if line.startswith("["):
            path = table = _toml_names(name)
            if line.startswith("[["):
                counts[tuple(table)] += 1
                if places.get(tuple(table), counts[tuple(table)] - 1) != counts[tuple(table)] - 1:
                    table = path = [""]  # another table of this name
        else:
            path = [*table, *_toml_names(name)]
        shared = min(len(path), len(names))
        if path[:shared] == names[:shared]:
            found.setdefault(shared, number)
    return found[max(found)] if found else None


def format_toml(value: Any) -> str:
    """Format a string, a number, a boolean or a list of them as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(format_toml, value))}]"
    return f"{value:_}" if isinstance(value, int) and value >= 100_000 else repr(value)


def require_finite(value: Any, key: str = "") -> None:
    """Raise `SchemaError` with the dotted key if a number anywhere in `value` is NaN or infinite."""
    for location, item in _walk(value):
        if isinstance(item, float) and not math.isfinite(item):
            raise SchemaError(_dotted(location, key), f"must be a finite number, not {item}")


def is_time(text: str) -> bool:
    """Whether a string is a UTC time in ISO 8601 that every program here can read, format and sort."""
    if not _TIME.fullmatch(text):
        return False
    try:
        return MIN_YEAR <= datetime.datetime.fromisoformat(text).year <= MAX_YEAR
    except ValueError:  # such as February 30
        return False


def require_time(key: str, text: str) -> None:
    """Raise `SchemaError` with the dotted key unless a string `is_time`."""
    if not is_time(text):
        shown = text[:_MAX_SHOWN_CHARACTERS]
        raise SchemaError(key, f'must be a UTC time in ISO 8601 from {MIN_YEAR} to {MAX_YEAR}, not "{shown}"')


def json_schema(
    types: Iterable[Any], ref_template: str = "#/$defs/{name}"
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """JSON Schema of annotated types.

    Args:
        types: `Record`s or other annotated types.
        ref_template: where references to named schemas point, such as `#/components/schemas/{name}`.

    Returns:
        One schema for each type, and the schemas of all `Record`s by class name.
    """
    schemas, components = msgspec.json.schema_components(types, ref_template=ref_template)
    for component in components.values():
        component.pop("title", None)
        if "description" in component:
            component["description"] = component["description"].split("\n")[0]
    return list(schemas), components


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean "scale"?`, or an empty string if no known word is similar."""
    match = difflib.get_close_matches(word, list(known), n=1)
    return f'; did you mean "{match[0]}"?' if match else ""


def expected(hint: Any) -> str:
    """Describe the values that a type accepts, such as `an integer from 1 to 64` or `a string or null`."""
    hint, meta = _split(hint)
    origin = get_origin(hint) or hint
    if origin is Literal:
        choices = ", ".join(json.dumps(choice, ensure_ascii=False) for choice in get_args(hint))
        return f"one of {choices}"
    if origin in (Union, types.UnionType):
        return " or ".join(expected(arm) for arm in get_args(hint))
    if _is_record(origin):
        return "an object"
    if origin is tuple and Ellipsis not in get_args(hint):
        return f"a list of {len(get_args(hint))} items"
    return _KINDS.get(origin, getattr(origin, "__name__", str(origin))) + _constraints(origin, meta)


_KINDS: dict[Any, str] = {
    str: "a string",
    int: "an integer",
    bytes: "base64",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    None: "null",
    tuple: "a list",
    list: "a list",
    dict: "an object",
}


def _explain(value: Any, hint: Any, key: str, error: msgspec.ValidationError) -> SchemaError:
    """Describe the first problem of a value that msgspec refused with `error`: key, expectation and actual value."""
    hint, meta = _split(hint)
    if get_origin(hint) in (Union, types.UnionType):
        arm = next((arm for arm in get_args(hint) if _is_container_for(value, arm)), None)
        if arm is not None:
            return _explain(value, arm, key, _failure(value, arm) or error)
    elif isinstance(value, dict) and _is_record(hint):
        return _explain_record(value, hint, key, error)
    for name, item, item_hint in _items(value, hint, key):
        if failure := _failure(item, item_hint):
            return _explain(item, item_hint, name, failure)
    description = expected(Annotated[hint, meta] if meta else hint)
    return SchemaError(
        key, f"must be {description}, not {_shown(value, counted=description.startswith('a list '))}"
    )


def _explain_record(
    value: dict[str, Any], record: type[msgspec.Struct], key: str, error: msgspec.ValidationError
) -> SchemaError:
    fields = {field.encode_name: field for field in msgspec.structs.fields(record)}
    for name in value:
        if name not in fields:
            return SchemaError(_join(key, name), f"unknown key{nearest(name, fields)}")
    for name, field in fields.items():
        if name in value:
            if failure := _failure(value[name], field.type):
                return _explain(value[name], field.type, _join(key, name), failure)
        elif field.required:
            return SchemaError(_join(key, name), "missing")
    cause = error.__cause__  # the fields are valid, so `__post_init__` raised it
    return cause.under(key) if isinstance(cause, SchemaError) else SchemaError(key, str(error))


def _items(value: Any, hint: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Dotted key, value and annotation of each item of a list or a dictionary that fits the annotation."""
    arguments = get_args(hint)
    if not arguments or not _is_container_for(value, hint):
        return
    if isinstance(value, dict):
        for name, item in value.items():
            yield _join(key, str(name)), item, arguments[1]
    elif get_origin(hint) is list or Ellipsis in arguments:
        for index, item in enumerate(value):
            yield f"{key}[{index}]", item, arguments[0]
    elif len(arguments) == len(value):
        for index, (item, argument) in enumerate(zip(value, arguments, strict=True)):
            yield f"{key}[{index}]", item, argument


def _failure(value: Any, hint: Any) -> msgspec.ValidationError | None:
    try:
        quick_convert(value, hint)
    except msgspec.ValidationError as error:
        return error
    return None


def _split(hint: Any) -> tuple[Any, msgspec.Meta | None]:
    """An annotation without its `Annotated`, and the constraints."""
    if get_origin(hint) is not Annotated:
        return hint, None
    inner, *more = get_args(hint)
    return inner, next((item for item in more if isinstance(item, msgspec.Meta)), None)


def _is_record(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _is_container_for(value: Any, hint: Any) -> bool:
    """Whether both the value and the annotation are an object, or both are a list."""
    hint, _ = _split(hint)
    origin = get_origin(hint) or hint
    if isinstance(value, dict):
        return origin is dict or _is_record(origin)
    return isinstance(value, (list, tuple)) and origin in (list, tuple)


def _constraints(kind: Any, meta: msgspec.Meta | None) -> str:
    """The constraints in words, such as ` from 1 to 64`, or an empty string."""
    if meta is None:
        return ""
    if kind in (int, float):
        parts = _range(meta.ge, meta.le), f" above {meta.gt:g}" if meta.gt is not None else ""
        below = f" below {meta.lt:g}" if meta.lt is not None else ""
        multiple = f" that is a multiple of {meta.multiple_of:g}" if meta.multiple_of is not None else ""
        return "".join((*parts, below, multiple))
    if meta.min_length == 1 and meta.max_length is None:
        return " that is not empty"
    unit = "characters" if kind is str else "items"
    length = _range(meta.min_length, meta.max_length).replace(" from ", " of ")
    pattern = f" that matches {meta.pattern}" if meta.pattern is not None else ""
    return (f"{length} {unit}" if length else "") + pattern


def _range(minimum: float | None, maximum: float | None) -> str:
    if minimum is not None and maximum is not None:
        return f" from {_number(minimum)} to {_number(maximum)}"
    if minimum is not None:
        return f" of at least {_number(minimum)}"
    return f" of at most {_number(maximum)}" if maximum is not None else ""


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _shown(value: Any, *, counted: bool = False) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if counted else "a list"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 1024:
        return "an integer beyond every float"
    if isinstance(value, (datetime.date, datetime.time)):
        return f"the {type(value).__name__} {value}"
    return json.dumps(value, ensure_ascii=False, default=str)[:_MAX_SHOWN_CHARACTERS]


def _parse_text(text: str, hint: Any) -> Any:
    """Convert a string to the annotated type; if that accepts strings or the conversion fails, return the string."""
    hint, _ = _split(hint)
    arms = (
        [_split(arm)[0] for arm in get_args(hint)] if get_origin(hint) in (Union, types.UnionType) else [hint]
    )
    if str in arms:
        return text
    for arm in arms:
        try:
            return quick_convert(text, arm, strict=False)
        except msgspec.ValidationError:
            continue
    return text


def _decode(text: str | bytes, *, with_line: bool = False) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        if text[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise SchemaError("", "UTF-16 text instead of UTF-8") from error
        line = f" (at line {text.count(10, 0, error.start) + 1})" if with_line else ""
        raise SchemaError("", f"not UTF-8 text: byte {error.start} is invalid{line}") from error


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise SchemaError(name, "duplicate key")
        result[name] = value
    return result


def _refuse_number(value: Any, location: _Location) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise SchemaError(_dotted(location), f"must be a finite number, not {value}")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise SchemaError(_dotted(location), "must be an integer of at most 64 bits")


def _parse_integer(digits: str) -> int:
    return int(digits) if len(digits) <= 20 else _HUGE


def _check_size(text: str, max_values: int) -> None:
    """Raise `SchemaError` for JSON with too many values or levels, before it is parsed."""
    containers = text.count("[") + text.count("{")
    if containers + text.count(",") > max_values:
        raise SchemaError("", f"more than {max_values} values")
    if containers > MAX_DEPTH and _deep_bracket(text):
        raise SchemaError("", _TOO_DEEP)


def _deep_bracket(text: str) -> re.Match[str] | None:
    """The first brackets below `MAX_DEPTH` levels of JSON, or of TOML, whose other strings and comments are not skipped."""
    depth = 0
    for match in _BRACKETS.finditer(text):
        run = match.group()
        if run[0] in "[{":
            depth += len(run)
            if depth > MAX_DEPTH:
                return match
        elif run[0] != '"':
            depth -= len(run)
    return None


def _toml_error(problem: str, text: str, match: re.Match[str] | None) -> SchemaError:
    place = "" if match is None else f" (at line {text.count(chr(10), 0, match.start()) + 1})"
    return SchemaError("", f"not valid TOML: {problem}{place}")


def _toml_names(text: str) -> list[str]:
    """The parts of a dotted key, as far as they contain no dot themselves."""
    return [part.strip(" \t\"'") for part in text.split(".")]


def _refuse_surrogates(value: Any, location: _Location) -> None:
    """Raise `SchemaError` if a string or one of an object's keys cannot be written as UTF-8."""
    for text in value if isinstance(value, dict) else (value,):
        if isinstance(text, str) and not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                shown = ascii(text)[:_MAX_SHOWN_CHARACTERS]
                raise SchemaError(_dotted(location), f"{shown} contains a lone surrogate") from None


def _walk(value: Any) -> Iterator[tuple[_Location, Any]]:
    """Every value in a tree of dictionaries and lists, with its location, in the order of the text."""
    pending: list[Iterator[tuple[_Location, Any]]] = [iter([((), value)])]
    while pending:
        for location, item in pending[-1]:
            yield location, item
            if isinstance(item, (dict, list, tuple)):
                if len(location) >= MAX_DEPTH:
                    raise SchemaError(_dotted(location[:2]), _TOO_DEEP)
                pending.append(_children(location, item))
                break
        else:
            pending.pop()


def _children(location: _Location, value: Any) -> Iterator[tuple[_Location, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return (((*location, name), item) for name, item in items)


def _dotted(location: _Location, key: str = "") -> str:
    for part in location:
        key = f"{key}[{part}]" if isinstance(part, int) else _join(key, str(part))
    return key


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent and name else parent or name
