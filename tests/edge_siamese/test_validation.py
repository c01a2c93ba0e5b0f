"""Strict validation: what is accepted, and the message with which everything else is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from edge_siamese.validation import (
    MAX_DEPTH,
    Record,
    SchemaError,
    convert,
    convert_texts,
    is_time,
    json_schema,
    line_of,
    nearest,
    parse_json,
    parse_toml,
    require_finite,
    require_time,
)


class Lens(Record):
    """A lens.

    Of a camera.
    """

    focal_length: float
    maker: str | None

    def __post_init__(self) -> None:
        if self.focal_length <= 0:
            raise SchemaError("focal_length", f"must be a number above 0, not {self.focal_length}")


class Camera(Record):
    name: Annotated[str, Meta(min_length=1, max_length=10)]
    pixels: Annotated[int, Meta(ge=1, le=64, description="Megapixels.")]
    color: Literal["gray", "rgb"]
    sealed: bool
    lenses: tuple[Lens, ...]
    notes: dict[str, float | dict[str, Any]]
    gain: Annotated[float, Meta(ge=0, le=1)] | None = None
    size: tuple[int, int] = (1, 1)
    tags: Annotated[tuple[str, ...], Meta(max_length=2)] = ()
    mode: Annotated[str, Meta(pattern="^[a-z]+$")] = "auto"
    least: Annotated[float, Meta(ge=0.5)] = 1.0
    most: Annotated[int, Meta(gt=0, lt=9)] = 1
    lens: Lens | None = None
    owner: Annotated[str, Meta(min_length=1)] = "nobody"


GOOD: dict[str, Any] = {
    "name": "front",
    "pixels": 12,
    "color": "rgb",
    "sealed": True,
    "lenses": [{"focal_length": 4, "maker": None}, {"focal_length": 2.5, "maker": "acme"}],
    "notes": {"gain": 2, "deep": {"er": [1]}},
}


def test_convert_json_to_records() -> None:
    camera = convert(GOOD, Camera)
    lenses = (Lens(4.0, None), Lens(2.5, "acme"))
    assert camera == Camera("front", 12, "rgb", True, lenses, {"gain": 2.0, "deep": {"er": [1]}})
    assert type(camera.lenses[0].focal_length) is float
    assert camera.size == (1, 1)


def test_records_are_immutable() -> None:
    with pytest.raises(AttributeError):
        Lens(1.0, None).maker = "acme"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "name: must be a string of 1 to 10 characters, not 3"),
        ({"name": ""}, 'name: must be a string of 1 to 10 characters, not ""'),
        ({"pixels": 3.0}, "pixels: must be an integer from 1 to 64, not 3.0"),
        ({"pixels": True}, "pixels: must be an integer from 1 to 64, not true"),
        ({"pixels": 65}, "pixels: must be an integer from 1 to 64, not 65"),
        ({"gain": 1.5}, "gain: must be a number from 0 to 1 or null, not 1.5"),
        ({"gain": False}, "gain: must be a number from 0 to 1 or null, not false"),
        ({"least": 0.25}, "least: must be a number of at least 0.5, not 0.25"),
        ({"most": 9}, "most: must be an integer above 0 below 9, not 9"),
        ({"mode": "A"}, 'mode: must be a string that matches ^[a-z]+$, not "A"'),
        ({"size": [1]}, "size: must be a list of 2 items, not a list of 1"),
        ({"size": [1, "2"]}, 'size[1]: must be an integer, not "2"'),
        ({"tags": ["a", "b", "c"]}, "tags: must be a list of at most 2 items, not a list of 3"),
        ({"tags": ["a", 1]}, "tags[1]: must be a string, not 1"),
        ({"owner": ""}, 'owner: must be a string that is not empty, not ""'),
        ({"sealed": 1}, "sealed: must be true or false, not 1"),
        ({"color": "red"}, 'color: must be one of "gray", "rgb", not "red"'),
        ({"color": None}, 'color: must be one of "gray", "rgb", not null'),
        ({"color": ["gray"]}, 'color: must be one of "gray", "rgb", not a list'),
        ({"lenses": {}}, "lenses: must be a list, not an object"),
        ({"lenses": [3]}, "lenses[0]: must be an object, not 3"),
        ({"lenses": [{"focal_length": 1}]}, "lenses[0].maker: missing"),
        (
            {"lenses": [{"focal_length": "1", "maker": None}]},
            'lenses[0].focal_length: must be a number, not "1"',
        ),
        ({"lenses": [{"focal_length": 1, "maker": 2}]}, "lenses[0].maker: must be a string or null, not 2"),
        (
            {"lenses": [{"focal_length": 0, "maker": None}]},
            "lenses[0].focal_length: must be a number above 0, not 0.0",
        ),
        (
            {"lenses": [{"focal_length": 10**400, "maker": None}]},
            "lenses[0].focal_length: must be a number, not an integer beyond every float",
        ),
        ({"lens": {"focal_length": 1, "maker": []}}, "lens.maker: must be a string or null, not a list"),
        (
            {"lens": {"focal_length": -1, "maker": None}},
            "lens.focal_length: must be a number above 0, not -1.0",
        ),
        ({"lens": {"focal_lenght": 1}}, 'lens.focal_lenght: unknown key; did you mean "focal_length"?'),
        ({"lens": 1}, "lens: must be an object or null, not 1"),
        ({"notes": {"gain": "high"}}, 'notes.gain: must be a number or an object, not "high"'),
        ({"notes": {"gain": float("nan")}}, "notes.gain: must be a finite number, not nan"),
        ({"pixles": 1}, 'pixles: unknown key; did you mean "pixels"?'),
        ({"zzz": 1}, "zzz: unknown key"),
    ],
)
def test_refuse_what_the_annotations_do_not_allow(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        convert({**GOOD, **change}, Camera)
    assert str(caught.value) == message


def test_required_keys() -> None:
    for name in GOOD:
        with pytest.raises(SchemaError, match=f"^{name}: missing$"):
            convert({key: value for key, value in GOOD.items() if key != name}, Camera)


def test_the_key_of_the_value_comes_first() -> None:
    with pytest.raises(SchemaError) as caught:
        convert({"focal_length": "wide", "maker": None}, Lens, "cameras[3]")
    assert caught.value.key == "cameras[3].focal_length"
    with pytest.raises(SchemaError, match=r"^must be an object, not a list$"):
        convert([], Camera)


def test_convert_texts() -> None:
    class Query(Record):
        limit: Annotated[int, Meta(ge=1, le=100)] = 10
        threshold: float | None = None
        name: str = ""
        all: bool = False
        order: Literal["asc", "desc"] = "asc"

    texts = {"limit": "5", "threshold": "null", "name": "17", "all": "true", "order": "desc"}
    assert convert_texts(texts, Query) == Query(5, None, "17", True, "desc")
    for name, text, message in [
        ("limit", "0", "limit: must be an integer from 1 to 100, not 0"),
        ("limit", "five", 'limit: must be an integer from 1 to 100, not "five"'),
        ("limit", "9" * 5000, None),
        ("threshold", "nan", "threshold: must be a finite number, not nan"),
        ("order", "up", 'order: must be one of "asc", "desc", not "up"'),
        ("limt", "1", 'limt: unknown key; did you mean "limit"?'),
    ]:
        with pytest.raises(SchemaError) as caught:
            convert_texts({name: text}, Query)
        assert message is None or str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"head": {"scale": NaN}}', "head.scale: must be a finite number, not nan"),
        ('{"a": [1, -Infinity]}', "a[1]: must be a finite number, not -inf"),
        ('{"a": 1e999}', "a: must be a finite number, not inf"),
        ('{"a": 1, "b": 2, "a": 3}', "a: duplicate key"),
        ('{"a":\n 1', "not valid JSON: Expecting ',' delimiter at line 2, column 3"),
        ("", "not valid JSON: Expecting value at line 1, column 1"),
        (b'"\xff"', "not UTF-8 text: byte 1 is invalid"),
        (r'{"a": ["b", "\ud83d"]}', r"a[1]: '\ud83d' contains a lone surrogate"),
        (r'{"a": {"\udc00": 1}}', r"a: '\udc00' contains a lone surrogate"),
        ("[" * 100_000, "more than 100 nested levels"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "more than 100 nested levels"),
    ],
)
def test_refuse_json_that_is_not_clean(text: str | bytes, message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        parse_json(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("digits", ["9" * 20, "9" * 5000, "-9223372036854775809", "18446744073709551616"])
def test_refuse_an_integer_beyond_64_bits(digits: str) -> None:
    with pytest.raises(SchemaError, match=r"^a\[1\]: must be an integer of at most 64 bits$"):
        parse_json(f'{{"a": [0, {digits}]}}')
    assert parse_json("[-9223372036854775808, 18446744073709551615]") == [-(2**63), 2**64 - 1]


def test_levels_are_counted_before_parsing_and_not_in_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recursion limits of the parser differ between versions of Python."""
    strings = json.dumps(["[" * 200, '"' + "{" * 200 + "\\", '\\"[' * 200])
    assert parse_json(strings) == json.loads(strings)
    assert parse_json("[" + ",".join(["[[]]"] * 200) + "]") == [[[]]] * 200

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(json, "loads", fail)
    for text in (
        "[" * 101,
        '{"a":' * 101,
        '["' + "\\\\" * 50 + '",' + "[" * 100,
        '[{"":' * 51 + '"' + "[" * 9,
    ):
        with pytest.raises(SchemaError, match=r"^more than 100 nested levels$"):
            parse_json(text)
    for text, options, message in (
        ("[1, 2, 3]", {"max_values": 2}, "more than 2 values"),
        ("[1, 2, 3]", {"max_bytes": 8}, "9 bytes; at most 8 are accepted"),
        (b"[1, 2, 3]", {"max_bytes": 8}, "9 bytes; at most 8 are accepted"),
    ):
        with pytest.raises(SchemaError, match=f"^{message}$"):
            parse_json(text, **options)
    with pytest.raises(AssertionError):
        parse_json("[1, 2, 3]", max_values=3, max_bytes=9)


@pytest.mark.parametrize("text", ['"' * 200_001, '\\"' * 200_000, '"' + "\\" * 200_001, "[]" * 200_000])
def test_counting_levels_takes_linear_time(text: str) -> None:
    """A pattern that tries again at each quote would take minutes for these."""
    with pytest.raises(SchemaError, match=r"^not valid JSON: "):
        parse_json("[]," * 101 + text)


@pytest.mark.parametrize(
    "name", ["x" * 400_000, "a " + " " * 400_000, '"' * 200_000, "a." * 99 + "b" * 400_000]
)
def test_reading_toml_takes_linear_time(name: str) -> None:
    """Patterns that try again at each character would take minutes for these."""
    assert parse_toml(f"a = '{name}'") == {"a": name}
    with pytest.raises(SchemaError, match=r"^not valid TOML: "):
        parse_toml(f"{name}\n")
    assert line_of("b", f"{name}\n b = 1") == 2


def test_a_key_is_shown_in_part_and_printable() -> None:
    for text, message in (
        ('{"%s": 1}' % ("x" * 70_000), f"{'x' * 160}…: unknown key"),
        ('{"a\\r\\n\\u202e": 1}', "a\\r\\n\\u202e: unknown key"),
    ):
        with pytest.raises(SchemaError) as caught:
            convert(parse_json(text), Lens)
        assert str(caught.value) == message
    with pytest.raises(SchemaError) as caught:
        convert("a\x85\u2028\u202e", Lens)
    assert str(caught.value) == 'must be an object, not "a\\x85\\u2028\\u202e"'
    with pytest.raises(SchemaError) as caught:
        parse_json('{"%s": 1, "%s": 2}' % (("é" * 200,) * 2))
    assert str(caught.value) == f"{'é' * 160}…: duplicate key"


def test_whole_characters_and_deep_values_pass() -> None:
    assert parse_json(r'{"\ud83d\ude00": ["é", "\u20ac"]}') == {"😀": ["é", "€"]}
    assert parse_json("é".join('""').encode()) == "é"
    parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)


def test_finite_numbers_pass() -> None:
    require_finite({"a": [1, 2.5, None, "NaN", {"b": True}], "c": 10**400})


def test_parse_toml() -> None:
    assert parse_toml("[a]\nb = 1") == {"a": {"b": 1}}
    assert parse_toml(b"\xef\xbb\xbfa = 1\r\n") == {"a": 1}
    assert parse_toml("a." * 99 + "a = 1")["a"]["a"]
    with pytest.raises(SchemaError, match=r"^not valid TOML: Invalid value"):
        parse_toml("a = \n")


def test_json_schema() -> None:
    (camera, number), components = json_schema([Camera, float | None], "#/components/schemas/{name}")
    assert camera == {"$ref": "#/components/schemas/Camera"}
    assert number == {"anyOf": [{"type": "number"}, {"type": "null"}]}
    assert set(components) == {"Camera", "Lens"}
    assert components["Lens"] == {
        "type": "object",
        "description": "A lens.",
        "properties": {
            "focal_length": {"type": "number"},
            "maker": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["focal_length", "maker"],
        "additionalProperties": False,
    }
    assert components["Camera"]["properties"]["pixels"] == {
        "description": "Megapixels.",
        "type": "integer",
        "minimum": 1,
        "maximum": 64,
    }


def test_the_nearest_word_is_offered() -> None:
    assert nearest("onnxrutime", ("auto", "onnxruntime")) == '; did you mean "onnxruntime"?'
    assert nearest("x", ("auto", "onnxruntime")) == ""


def test_threads_may_use_a_type_for_the_first_time_together() -> None:
    """msgspec alone ends the process with a segmentation fault."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.edge_siamese.converting"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "160\n"), done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-24T10:00:00.000+00:00",
        "2026-11-24T10:00:00Z",
        "2026-11-24T10:00+00:00",
        "1970-01-01T00:00:00+00:00",
        "2099-12-31T23:59:59.999999999Z",
        "2028-02-29T00:00:00Z",
    ],
)
def test_times(text: str) -> None:
    assert is_time(text)
    for hours in (-14, 14):  # every zone can show it
        datetime.fromisoformat(text).astimezone(timezone(timedelta(hours=hours)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "NaN",
        "2026-11-24",
        "2026-11-24T10:00:00",
        "2026-11-24T10:00:00+02:00",
        "2026-11-24T10:00:00-00:00",
        "2026-11-24 10:00:00+00:00",
        "2026-02-30T00:00:00+00:00",
        "2027-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-11-24T24:00:01Z",
        "2026-11-24T10:00:61Z",
        "0001-01-01T00:00:00+00:00",
        "1969-12-31T23:59:59Z",
        "2100-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "20261124T100000Z",
        "2026-W48-2T10:00:00Z",
        "\u0662026-11-24T10:00:00Z",
        "2026-11-24T10:00:00Z\n",
        "2026-11-24T10:00:00." + "0" * 5000 + "Z",
    ],
)
def test_other_strings_are_not_times(text: str) -> None:
    assert not is_time(text)
    with pytest.raises(
        SchemaError, match=r"^at: must be a UTC time in ISO 8601 from 1970 to 2099, not "
    ) as error:
        require_time("at", text)
    assert len(str(error.value)) < 200
