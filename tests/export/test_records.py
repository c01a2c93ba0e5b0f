"""Dataclasses to JSON files and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_siamese.errors import DataError
from export import records


@dataclass(frozen=True)
class Inner:
    value: float


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner | None
    items: tuple[Inner, ...]
    shares: tuple[float, ...]


RECORD = Outer("one", Inner(0.5), (Inner(1.0), Inner(2.0)), (0.25, 0.75))


@pytest.mark.parametrize("record", [RECORD, Outer("none", None, (), ())])
def test_a_record_comes_back_as_it_was(tmp_path: Path, record: Outer) -> None:
    records.write(tmp_path / "r.json", record)
    assert records.read(Outer, tmp_path / "r.json") == record
    assert records.read_all(Outer, tmp_path / "r.json") == (record,)


def test_a_list_comes_back_as_a_tuple(tmp_path: Path) -> None:
    records.write(tmp_path / "r.json", [RECORD, RECORD])
    assert records.read_all(Outer, tmp_path / "r.json") == (RECORD, RECORD)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.write(tmp_path / "r.json", Inner(float("nan")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "r.json does not exist"),
        ("{", "r.json cannot be read: not valid JSON"),
        (
            '{"value": "x"}',
            r"r.json is not a record of this release \(Expected `float`, got `str` - at `\$.value`\)",
        ),
        ("{}", r"\(Object missing required field `value`\); create it again"),
    ],
)
def test_what_is_no_record_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match=message):
        records.read(Inner, tmp_path / "r.json")


@dataclass(frozen=True)
class Grown:
    """What `Inner` became in a later release."""

    value: float
    notes: tuple[str, ...] = ()


def test_a_field_that_came_later_may_be_missing_if_it_has_a_default(tmp_path: Path) -> None:
    records.write(tmp_path / "r.json", Inner(0.5))
    assert records.read(Grown, tmp_path / "r.json") == Grown(0.5)
