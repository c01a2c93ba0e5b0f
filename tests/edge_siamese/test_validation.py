"""The strict reader of JSON: what it takes, and the one line with which it refuses everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from edge_siamese.validation import SchemaError, nearest, parse_json, read_object, require_finite


@dataclass(frozen=True)
class Lens:
    focal_length: float
    maker: str | None

    def __post_init__(self) -> None:
        if self.focal_length <= 0:
            raise SchemaError("focal_length", f"a number above 0 is needed, not {self.focal_length}")


@dataclass(frozen=True)
class Camera:
    name: str
    pixels: int
    color: Literal["gray", "rgb"]
    sealed: bool
    lenses: tuple[Lens, ...]
    notes: dict[str, float | dict[str, Any]]


GOOD: dict[str, Any] = {
    "name": "front",
    "pixels": 12,
    "color": "rgb",
    "sealed": True,
    "lenses": [{"focal_length": 4, "maker": None}, {"focal_length": 2.5, "maker": "acme"}],
    "notes": {"gain": 2, "deep": {"er": [1]}},
}


def test_json_becomes_dataclasses() -> None:
    camera = read_object(GOOD, Camera)
    lenses = (Lens(4.0, None), Lens(2.5, "acme"))
    assert camera == Camera("front", 12, "rgb", True, lenses, {"gain": 2.0, "deep": {"er": [1]}})
    assert type(camera.lenses[0].focal_length) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "name: a string is needed, not 3"),
        ({"pixels": 3.0}, "pixels: an integer is needed, not 3.0"),
        ({"pixels": True}, "pixels: an integer is needed, not true"),
        ({"sealed": 1}, "sealed: true or false is needed, not 1"),
        ({"color": "red"}, "color: one of 'gray', 'rgb' is needed, not \"red\""),
        ({"color": None}, "color: one of 'gray', 'rgb' is needed, not null"),
        ({"color": ["gray"]}, "color: one of 'gray', 'rgb' is needed, not a list"),
        ({"lenses": {}}, "lenses: a list is needed, not an object"),
        ({"lenses": [3]}, "lenses[0]: an object is needed, not an integer"),
        ({"lenses": [{"focal_length": 1}]}, "lenses[0].maker: missing"),
        (
            {"lenses": [{"focal_length": "1", "maker": None}]},
            'lenses[0].focal_length: a number is needed, not "1"',
        ),
        (
            {"lenses": [{"focal_length": 1, "maker": 2}]},
            "lenses[0].maker: a string or null is needed, not 2",
        ),
        (
            {"lenses": [{"focal_length": 0, "maker": None}]},
            "lenses[0].focal_length: a number above 0 is needed, not 0.0",
        ),
        (
            {"lenses": [{"focal_length": 10**400, "maker": None}]},
            "lenses[0].focal_length: a finite number is needed, not an integer beyond every float",
        ),
        ({"notes": {"gain": "high"}}, 'notes.gain: a number or an object is needed, not "high"'),
        ({"pixles": 1}, 'pixles: unknown key; did you mean "pixels"?'),
        ({"zzz": 1}, "zzz: unknown key"),
    ],
)
def test_what_the_annotations_do_not_describe_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        read_object({**GOOD, **change}, Camera)
    assert str(caught.value) == message


def test_every_key_is_needed() -> None:
    for name in GOOD:
        with pytest.raises(SchemaError, match=f"^{name}: missing$"):
            read_object({key: value for key, value in GOOD.items() if key != name}, Camera)


def test_something_else_than_an_object_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"^an object is needed, not a list$"):
        read_object([], Camera)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"head": {"scale": NaN}}', "head.scale: a finite number is needed, not nan"),
        ('{"a": [1, -Infinity]}', "a[1]: a finite number is needed, not -inf"),
        ('{"a": 1e999}', "a: a finite number is needed, not inf"),
        ('{"a": 1, "b": 2, "a": 3}', "a: this key stands twice in one object"),
        ('{"a":\n 1', "not JSON: Expecting ',' delimiter in line 2, column 3"),
        ("", "not JSON: Expecting value in line 1, column 1"),
        (r'{"a": ["b", "\ud83d"]}', r"a[1]: '\ud83d' is not text: half of a character is missing"),
        (r'{"a": {"\udc00": 1}}', r"a: '\udc00' is not text: half of a character is missing"),
    ],
)
def test_json_that_is_not_clean_is_refused(text: str, message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        parse_json(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000])
def test_json_that_python_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(SchemaError, match=r"^not JSON that can be read: "):
        parse_json(text)


def test_whole_characters_pass() -> None:
    assert parse_json(r'{"\ud83d\ude00": ["é", "\u20ac"]}') == {"😀": ["é", "€"]}


def test_finite_numbers_pass() -> None:
    require_finite({"a": [1, 2.5, None, "NaN", {"b": True}], "c": 10**400})


def test_the_nearest_word_is_offered() -> None:
    assert nearest("onnxrutime", ("auto", "onnxruntime")) == '; did you mean "onnxruntime"?'
    assert nearest("x", ("auto", "onnxruntime")) == ""
