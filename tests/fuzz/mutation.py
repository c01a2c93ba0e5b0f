"""Mutations of valid samples: of their bytes, and of trees of JSON and TOML values."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

MAX_BYTES = 1_000_000
"""Size of an input, unless its sample is larger."""
NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63 - 1,
    2**64 - 1,
)
"""Values that lengths and offsets take wrongly."""


class Raw(str):
    """Text that is written as it is in place of a value."""

    __slots__ = ()


ODD_TEXTS = (
    "", " ", "\0", "a\0b", "\x1b[2J", "\r\n", "\u202egnp.exe", "\ufeff", "é" * 70, "\ud800", "x" * 300, "x" * 70_000,
    "../../etc/passwd", "/", "~", "~nobody/x", "C:\\x", "%00%n%s", "+/#", "null", "NaN", "1e400", "'; --", "{number}" * 2,
    "0" * 32, "f" * 32, "2026-01-02T03:04:05+00:00", "9999-12-31T23:59:59+14:00", "0000-00-00", "mug", "Mug", "İ", "ß",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    *ODD_TEXTS, None, True, False, 0, -1, 1, 2**31, 2**53 + 1, -(2**63) - 1, 2**64, 10**40, 0.0, -0.0, 1e-320, 3e38, 1e308,
    float("nan"), float("inf"), -float("inf"), [], {}, [[]], [None] * 50, {"": ""}, {"a": {"a": {"a": {}}}},
    *map(Raw, (
        "9" * 400, "9" * 5000, "1e999", "-1e999", "0.1e-99999", '"\\ud800"', '"\\u0000"', "00", "+1", "0x7F",
        "[" * 99 + "]" * 99, "[" * 4000 + "]" * 4000, "[" * 200_000, '{"a":' * 3000 + "1" + "}" * 3000,
    )),
)  # fmt: skip
ODD_TOML: tuple[Any, ...] = (
    *(value for value in ODD_VALUES if not isinstance(value, Raw) and value is not None),
    *map(Raw, (
        "1979-05-27", "1979-05-27T07:32:00Z", "07:32:00.999999", "0001-01-01T00:00:00-23:59", "9" * 400, "9" * 5000, "1e999",
        "0x" + "f" * 300, "0b1", "1_000", "+inf", "-nan", "'''\n'''", '"""\n"""', '"\\U0010ffff"', '"\\u0000"', '"\\ud800"',
        "[" * 3000 + "]" * 3000, "[" * 90 + "1" + "]" * 90, "{a={a={a=1}}}", "{a.b.c.d=1}", "{a=1,a=2}", "true false", "",
        "=", "#", "\r", "1\n[", "1\n[[model]]", "1\n[a.b.c]", "1\na.b = 2\na.b.c = 3", "{" + ".".join("a" * 2000) + "=1}",
    )),
)  # fmt: skip


def mutate_bytes(data: bytes, chance: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Change one to eight places of some bytes; `others` are samples to take parts from."""
    result = bytearray(data)
    for _ in range(min(chance.randint(1, 8), chance.randint(1, 8))):
        _change_place(result, chance, others)
    return bytes(result[: max(MAX_BYTES, len(data))])


def _change_place(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> None:
    place = chance.randrange(len(data) + 1)
    end = min(len(data), place + chance.choice((1, 2, 4, 8, 64, 1024)))
    match chance.randrange(9):
        case 0 | 1 if place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        case 2 if place < len(data):
            data[place] = chance.randrange(256)
        case 3:
            del data[place:end]
        case 4:
            data[place:place] = chance.randbytes(end - place)
        case 5:
            data[place:place] = data[place:end] * chance.choice((1, 1, 2, 100))
        case 6:
            size = chance.choice((1, 2, 4, 8))
            number = (chance.choice(NUMBERS) + chance.choice((-1, 0, 0, 1))) % 256**size
            data[place : place + size] = number.to_bytes(size, chance.choice(("little", "big")))
        case 7 if others:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            data[place:end] = other[start : start + chance.choice((4, 64, 1024, len(other)))]
        case 8 if chance.random() < 0.3:
            del data[place:]


def mutate_tree(value: Any, chance: random.Random, odd: Sequence[Any] = ODD_VALUES) -> Any:
    """Change one to four places of a tree of dictionaries and lists, which is copied."""
    for _ in range(min(chance.randint(1, 4), chance.randint(1, 4))):
        value = _change_tree(value, chance, odd)
    return value


def _change_tree(value: Any, chance: random.Random, odd: Sequence[Any]) -> Any:
    if not isinstance(value, (dict, list)) or not value or chance.random() < 0.05:
        return _odd_like(value, chance, odd)
    if isinstance(value, list):
        place = chance.randrange(len(value))
        match chance.randrange(8):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return value[:place] + [value[place]] * chance.choice((2, 2, 300)) + value[place:]
            case _:
                return [*value[:place], _change_tree(value[place], chance, odd), *value[place + 1 :]]
    name = chance.choice(list(value))
    changed = dict(value)
    match chance.randrange(10):
        case 0:
            del changed[name]
        case 1:
            changed[str(_odd_like(name, chance, ODD_TEXTS))] = changed.pop(name)
        case 2:
            changed[chance.choice(list(value))] = value[name]
        case 3:
            changed[_Duplicate(name)] = chance.choice(odd)
        case _:
            changed[name] = _change_tree(value[name], chance, odd)
    return changed


class _Duplicate(str):
    """A key that is written like another one."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def _odd_like(value: Any, chance: random.Random, odd: Sequence[Any]) -> Any:
    """An odd value, often one near the value that it replaces."""
    if chance.random() < 0.6:
        return chance.choice(odd)
    if isinstance(value, bool) or value is None:
        return chance.choice((True, False, 0, 1, None, "true"))
    if isinstance(value, (int, float)):
        return chance.choice(
            (value + 1, value - 1, -value, value * 1000, value * 0.3 if abs(value) < 1e300 else 0, str(value))
        )
    if isinstance(value, str):
        return mutate_bytes(value.encode("utf-8", "surrogatepass"), chance).decode("utf-8", "surrogateescape")
    return chance.choice(odd)


def to_json(value: Any) -> bytes:
    """Write a tree as JSON, with NaN, lone surrogates, keys twice and `Raw` texts."""
    return _json(value).encode("utf-8", "surrogatepass")


def _json(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{json.dumps(str(name))}: {_json(item)}" for name, item in value.items()) + "}"
        )
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def to_toml(value: Any) -> bytes:
    """Write tables of values as TOML, as far as it can say them; the rest as it comes."""
    if not isinstance(value, dict):
        return _toml(value).encode("utf-8", "surrogatepass")
    lines = []
    for name, table in value.items():
        if isinstance(table, dict):
            lines.append(f"[{_key(name)}]")
            lines += [f"{_key(key)} = {_toml(item)}" for key, item in table.items()]
        elif isinstance(table, list) and table and all(isinstance(item, dict) for item in table):
            for one in table:
                lines.append(f"[[{_key(name)}]]")
                lines += [f"{_key(key)} = {_toml(item)}" for key, item in one.items()]
        else:
            lines.insert(0, f"{_key(name)} = {_toml(table)}")
    return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")


def _key(name: str) -> str:
    return str(name) if name.replace("_", "").isalnum() and name.isascii() else json.dumps(str(name))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return str(value)
    return "''" if value is None else _json(value)
