"""Chooses the range of each activation that eight bits have to cover, from what calibration images produce.

Both formats are quantized with these ranges, so a calibration method means the same in ONNX and in TFLite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edge_siamese.errors import ExportError
from export.conversion.routes import PIXEL_RANGE, Bytes, FloatGraph, Floats, Range

Method = Literal["min-max", "percentile", "least squares"]
METHODS: tuple[Method, ...] = ("min-max", "percentile", "least squares")

LEVELS = 255
PERCENTILE = 99.99
"""Of the values of an activation, this share (in percent) is inside the range on either side."""
SHRINKAGES = np.linspace(1.0, 0.4, 25)
"""Shares of the full range that `least squares` tries."""
SAMPLES = 1 << 17
"""Values kept of each activation."""
SIGMOID_SATURATION = math.log(2 * 256 - 1)
"""Beyond it a sigmoid is within half an int8 step (1/512) of 0 or 1: a range that goes further wastes levels."""


@dataclass
class ActivationStatistics:
    """Extremes and a sample of the values of each activation."""

    images: int
    """How many images will be seen: decides how many values are kept of each."""
    extremes: dict[str, Range] = field(default_factory=dict)
    samples: dict[str, list[Floats]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def add(self, activations: Mapping[str, Floats]) -> None:
        """Take in the activations of some images, (N, …) each."""
        for name, values in activations.items():
            if not np.isfinite(values).all():
                raise ExportError(
                    f"the activation {name} is not finite on a calibration image: the network is broken"
                )
            low, high = self.extremes.get(name, (math.inf, -math.inf))
            self.extremes[name] = min(low, float(values.min())), max(high, float(values.max()))
            wanted = math.ceil(SAMPLES / self.images) * len(values)
            flat = values.reshape(-1)
            kept = flat if flat.size <= wanted else flat[self._rng.integers(0, flat.size, wanted)]
            self.samples.setdefault(name, []).append(kept.astype(np.float32, copy=True))

    def range(self, name: str, method: Method) -> Range:
        """The range of an activation by one of `METHODS`; zero is always inside."""
        low, high = (min(0.0, self.extremes[name][0]), max(0.0, self.extremes[name][1]))
        if method == "min-max" or high - low == 0.0:
            return low, high
        sample = np.concatenate(self.samples[name])
        if method == "percentile":
            inside = np.percentile(sample, [100.0 - PERCENTILE, PERCENTILE])
            return min(0.0, max(low, float(inside[0]))), max(0.0, min(high, float(inside[1])))
        errors = [_squared_error(sample, low * share, high * share) for share in SHRINKAGES]
        share = float(SHRINKAGES[int(np.argmin(errors))])
        return low * share, high * share


def collect(graph: FloatGraph, images: Bytes) -> ActivationStatistics:
    """Run a float graph over the calibration images, uint8 (N, H, W, C)."""
    if not len(images):
        raise ExportError("quantization needs at least one calibration image")
    statistics = ActivationStatistics(len(images))
    for activations in graph.activations(images):
        statistics.add(activations)
    return statistics


def choose(graph: FloatGraph, statistics: ActivationStatistics, method: Method) -> dict[str, Range]:
    """The range of each activation of a graph."""
    ranges = {name: statistics.range(name, method) for name in statistics.extremes}
    for step in graph.steps:
        if step.operation.lower() in ("sigmoid", "logistic"):
            for name in step.inputs:
                low, high = ranges[name]
                ranges[name] = max(low, -SIGMOID_SATURATION), min(high, SIGMOID_SATURATION)
    ranges[graph.input] = PIXEL_RANGE
    return ranges


def _squared_error(sample: Floats, low: float, high: float) -> float:
    step = (high - low) / LEVELS
    zero = round(-low / step)
    levels = np.clip(np.round(sample / step) + zero, 0, LEVELS)
    return float(np.mean(np.square((levels - zero) * step - sample)))
