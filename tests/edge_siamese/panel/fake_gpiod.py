"""A fake of gpiod 2: the names, signatures and failures that `panel/gpio.py` uses, on lines that a test sets."""

from __future__ import annotations

import enum
import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any


class Direction(enum.Enum):
    AS_IS, INPUT, OUTPUT = 1, 2, 3


class Bias(enum.Enum):
    AS_IS, UNKNOWN, DISABLED, PULL_UP, PULL_DOWN = range(1, 6)


class EdgeDetection(enum.Enum):
    NONE, RISING, FALLING, BOTH = range(1, 5)


class Clock(enum.Enum):
    MONOTONIC, REALTIME, HTE = range(1, 4)


class Value(enum.Enum):
    INACTIVE, ACTIVE = 0, 1


@dataclass
class LineSettings:
    direction: Direction = Direction.AS_IS
    edge_detection: EdgeDetection = EdgeDetection.NONE
    bias: Bias = Bias.AS_IS
    active_low: bool = False
    debounce_period: timedelta = timedelta()
    event_clock: Clock = Clock.MONOTONIC
    output_value: Value = Value.INACTIVE


class EdgeEvent:
    class Type(enum.Enum):
        RISING_EDGE, FALLING_EDGE = 1, 2

    def __init__(self, event_type: Type, timestamp_ns: int, line_offset: int, line_seqno: int) -> None:
        self.event_type, self.timestamp_ns = event_type, timestamp_ns
        self.line_offset, self.line_seqno = line_offset, line_seqno


class RequestReleasedError(Exception):
    """As in gpiod: neither an OSError nor a ValueError."""


@dataclass
class FakeLine:
    """One line, at its logical level."""

    active: bool = False
    consumer: str = ""
    settings: LineSettings | None = None
    buffered: list[EdgeEvent] = field(default_factory=list)
    numbered: int = 0
    written: list[Value] = field(default_factory=list)


class FakeChip:
    """A chip that a test puts at a path."""

    def __init__(self, label: str, lines: int = 58) -> None:
        self.label = label
        self.lines = [FakeLine() for _ in range(lines)]
        self.debounces = True
        self.denied = self.gone = False
        self.open_requests = 0

    def edge(self, offset: int, active: bool, at_ns: int, *, lost: bool = False) -> None:
        """Let a line change; `lost`: the kernel's buffer had no room for it."""
        line = self.lines[offset]
        line.active, line.numbered = active, line.numbered + 1
        if not lost:
            kind = EdgeEvent.Type.RISING_EDGE if active else EdgeEvent.Type.FALLING_EDGE
            line.buffered.append(EdgeEvent(kind, at_ns, offset, line.numbered))


class Request:
    def __init__(self, chip: FakeChip, offset: int) -> None:
        self._chip, self._offset, self._released = chip, offset, False
        chip.open_requests += 1

    @property
    def _line(self) -> FakeLine:
        if self._released:
            raise RequestReleasedError("GPIO lines have been released")
        if self._chip.gone:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return self._chip.lines[self._offset]

    def wait_edge_events(self, timeout: timedelta | float | None = None) -> bool:
        if not self._line.buffered and timeout:
            time.sleep(min(float(timeout), 0.02))  # type: ignore[arg-type]
        return bool(self._line.buffered)

    def read_edge_events(self, max_events: int | None = None) -> list[EdgeEvent]:
        line = self._line
        taken, line.buffered = line.buffered[:max_events], line.buffered[max_events:]
        return taken

    def get_value(self, line: int) -> Value:
        assert line == self._offset
        return Value.ACTIVE if self._line.active else Value.INACTIVE

    def set_value(self, line: int, value: Value) -> None:
        assert line == self._offset
        self._line.written.append(value)

    def release(self) -> None:
        if not self._released:
            self._chip.lines[self._offset].consumer = ""
            self._chip.open_requests -= 1
        self._released = True


@dataclass(frozen=True)
class Info:
    label: str
    num_lines: int


class OpenChip:
    """gpiod.Chip of one fake machine; a subclass names the machine's chips."""

    chips: dict[str, FakeChip]

    def __init__(self, path: str) -> None:
        if self.chips[path].denied:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        self._chip = self.chips[path]

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def get_info(self) -> Info:
        return Info(self._chip.label, len(self._chip.lines))

    def get_line_info(self, line: int) -> FakeLine:
        return self._chip.lines[line]

    def request_lines(
        self,
        config: dict[int, LineSettings],
        consumer: str | None = None,
        event_buffer_size: int | None = None,
    ) -> Request:
        ((offset, settings),) = config.items()
        line = self._chip.lines[offset]
        if line.consumer:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if settings.debounce_period and not self._chip.debounces:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        line.consumer, line.settings = consumer or "", settings
        return Request(self._chip, offset)


class FakeGpiod:
    """Makes the module; `chips` by the name of their file."""

    def __init__(self, devices: Path) -> None:
        self.devices = devices
        self.chips: dict[str, FakeChip] = {}

    def add(self, name: str, label: str, lines: int = 58) -> FakeChip:
        (self.devices / name).touch()
        self.chips[str(self.devices / name)] = chip = FakeChip(label, lines)
        return chip

    def module(self) -> tuple[ModuleType, ModuleType]:
        gpiod, line = ModuleType("gpiod"), ModuleType("gpiod.line")
        gpiod.__path__ = []
        for name, value in {
            "Chip": type("Chip", (OpenChip,), {"chips": self.chips}),
            "LineSettings": LineSettings,
            "EdgeEvent": EdgeEvent,
            "is_gpiochip_device": lambda path: path in self.chips,
            "line": line,
        }.items():
            setattr(gpiod, name, value)
        for name, value in {
            "Direction": Direction,
            "Bias": Bias,
            "Edge": EdgeDetection,
            "Clock": Clock,
            "Value": Value,
        }.items():
            setattr(line, name, value)
        return gpiod, line


@contextmanager
def installed(devices: Path) -> Iterator[FakeGpiod]:
    """gpiod, for as long as the context lasts."""
    fake = FakeGpiod(devices)
    before = {name: sys.modules.get(name) for name in ("gpiod", "gpiod.line")}
    sys.modules["gpiod"], sys.modules["gpiod.line"] = fake.module()
    try:
        yield fake
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
