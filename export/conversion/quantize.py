"""Quantizes within a budget of accuracy: tries one remedy after the other and writes down what it did.

The order is that of their cost to whoever runs the file: another choice of ranges costs nothing, float layers cost
speed, and training again costs the workstation's time and leaves the exact weights of the network.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import starmap
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_siamese.errors import EdgeSiameseError, ExportError
from export.conversion.float_graph import PIXEL_RANGE, Bytes, FloatGraph, Floats, Format, Range

Score = Callable[[Path], float]
"""Lost one-shot accuracy of an int8 file against the float network, in points (0.5 is half a percent)."""

# Images that are run through both graphs to find the layers that quantization hurts.
COMPARED_IMAGES = 32
# Shares of the layers that mixed precision leaves in float32, tried in this order; at least one layer. A share that is
# as many layers as the one before is not tried.
FLOAT_SHARES = (0.1, 0.25)


@dataclass(frozen=True)
class Attempt:
    """One way of quantizing, and what it cost."""

    method: str
    loss_points: float | None
    """None if it could not be made or scored."""
    seconds: float
    """To make the file and to score it."""
    accepted: bool
    detail: str = ""
    """Which layers stayed in float32, or why it failed."""


@dataclass(frozen=True)
class QuantizationRecord:
    """How the int8 file of a format came about."""

    format: Format
    attempts: tuple[Attempt, ...]
    chosen: str
    """The method of the attempt whose file was kept."""
    budget_points: float

    @property
    def kept(self) -> Attempt:
        return next(attempt for attempt in self.attempts if attempt.method == self.chosen)

    @property
    def within_budget(self) -> bool:
        return self.kept.accepted

    def describe(self) -> str:
        """For the manifest: the method and what is left in float32."""
        return f"{self.chosen}; {self.kept.detail}" if self.kept.detail else self.chosen

    def summary(self) -> str:
        """One line for people."""
        tried = ", ".join(
            f"{a.method} {'failed' if a.loss_points is None else f'lost {a.loss_points:+.2f}'}"
            for a in self.attempts
        )
        verdict = "" if self.within_budget else f", over the budget of {self.budget_points:g} points"
        return f"{self.format}: kept {self.chosen}{verdict} (tried: {tried})"

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "attempts": [asdict(a) for a in self.attempts],
            "within_budget": self.within_budget,
        }


@dataclass(frozen=True)
class Remedy:
    """A way of quantizing that may be tried."""

    method: str
    make: Callable[[Path, Sequence[tuple[Attempt, Path]]], str]
    """Writes the file, knowing the attempts so far and their files, and returns a detail to record."""


def quantize_within_budget(
    format: Format, remedies: Sequence[Remedy], out: Path, score: Score, budget_points: float
) -> QuantizationRecord:
    """Try remedies until one stays within the budget; else keep the one that lost least.

    Args:
        format: for the record.
        remedies: in the order to try.
        out: where the kept file goes.
        score: measures a file.
        budget_points: largest acceptable loss.

    Raises:
        ExportError: not one of them could be made.
    """
    tried: list[tuple[Attempt, Path]] = []
    with tempfile.TemporaryDirectory(prefix="edge-siamese-quantize-") as directory:
        for number, remedy in enumerate(remedies):
            started = time.monotonic()
            path = Path(directory) / f"{number}.{format}"
            loss = None
            try:
                detail = remedy.make(path, tried)
                loss = float(score(path))
                if not math.isfinite(loss):
                    loss, detail = None, "its score is not a number"
            except EdgeSiameseError as error:
                detail = str(error)
            accepted = loss is not None and loss <= budget_points
            tried.append((Attempt(remedy.method, loss, time.monotonic() - started, accepted, detail), path))
            if accepted:
                break
        made = [
            (attempt.loss_points, path, attempt) for attempt, path in tried if attempt.loss_points is not None
        ]
        if not made:
            why = tried[0][0].detail if tried else "no remedy was given"
            raise ExportError(f"no int8 {format} file could be made: {why}")
        _, path, kept = min(made, key=lambda item: item[0])
        shutil.move(path, out)
    return QuantizationRecord(format, tuple(attempt for attempt, _ in tried), kept.method, budget_points)


def standard_remedies(
    graph: FloatGraph,
    images: Bytes,
    retrained: Callable[[], FloatGraph],
    retraining_images: Bytes | None = None,
) -> list[Remedy]:
    """Post-training quantization by each calibration method, mixed precision, then quantization-aware training.

    Args:
        graph: the float graph.
        images: the calibration set, training images uint8 (N, H, W, C).
        retrained: trains for int8 and exports; called only if all else lost too much.
        retraining_images: what `retrained` trains on; its ranges are taken from them, because the network has fitted
            itself to the ranges that it saw, and others would undo that. The calibration set unless given.
    """

    @cache
    def statistics() -> ActivationStatistics:
        return collect(graph, images)

    layers = sum(step.weighted for step in graph.steps)
    shares: dict[int, float] = {}
    for share in FLOAT_SHARES:
        shares.setdefault(max(1, round(share * layers)), share)
    calibrations: dict[str, Method] = {f"post-training, {method} ranges": method for method in METHODS}

    def post_training(method: Method) -> Remedy:
        def make(out: Path, _: Sequence[tuple[Attempt, Path]]) -> str:
            graph.quantize(out, choose(graph, statistics(), method))
            return ""

        return Remedy(f"post-training, {method} ranges", make)

    def mixed(count: int, share: float) -> Remedy:
        def make(out: Path, tried: Sequence[tuple[Attempt, Path]]) -> str:
            made = [
                (a.loss_points, a.method, p)
                for a, p in tried
                if a.method in calibrations and a.loss_points is not None
            ]
            if not made:
                raise ExportError("there is no int8 file to tell the worst layers from")
            _, best, path = min(made)
            weighted = {step.name for step in graph.steps if step.weighted}
            noises = compare_layers(graph, path, images[:COMPARED_IMAGES])
            worst = [noise.layer for noise in noises if noise.layer in weighted][:count]
            graph.quantize(out, choose(graph, statistics(), calibrations[best]), worst)
            return f"{', '.join(worst)} in float32, so not full-integer"

        return Remedy(f"mixed precision, {share:.0%} of the layers in float32", make)

    def quantization_aware() -> Remedy:
        def make(out: Path, _: Sequence[tuple[Attempt, Path]]) -> str:
            trained = retrained()
            seen = images if retraining_images is None else retraining_images
            trained.quantize(out, choose(trained, collect(trained, seen), "min-max"))
            return ""

        return Remedy("quantization-aware training", make)

    return [*map(post_training, METHODS), *starmap(mixed, shares.items()), quantization_aware()]


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


@dataclass(frozen=True)
class LayerNoise:
    """How far an activation of the int8 file is from the float one, over all images and elements."""

    layer: str
    """As the encoder calls it; `OPERATION after LAYER` for an operation without weights."""
    operation: str
    noise: float
    """Power of the difference over power of the float activation."""
    added: float
    """By how much `noise` is more than that of the noisiest input: what this layer itself is to blame for."""

    @property
    def signal_to_noise_db(self) -> float:
        """Signal-to-quantization-noise ratio in decibels; infinite for equal activations."""
        return -10.0 * math.log10(self.noise) if self.noise > 0.0 else math.inf

    def describe(self) -> str:
        """`LAYER (OPERATION, 12.3 dB)`."""
        return f"{self.layer} ({self.operation}, signal-to-noise {self.signal_to_noise_db:.1f} dB)"


def compare_layers(graph: FloatGraph, int8: Path, images: Bytes) -> list[LayerNoise]:
    """Run both graphs over images (N, H, W, C) and compare every activation that both have.

    Noise travels on through the layers that follow, so the last layers are nearly always the noisiest. The culprit is
    the layer that adds most to what came in, and the result is sorted by that.
    """
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for exact, rounded in zip(
        graph.activations(images), graph.quantized_activations(int8, images), strict=True
    ):
        for name in exact.keys() & rounded.keys():
            expected = exact[name].astype(np.float64)
            signal[name] = signal.get(name, 0.0) + float(np.sum(np.square(expected)))
            noise[name] = noise.get(name, 0.0) + float(np.sum(np.square(expected - rounded[name])))
    ratio = {name: noise[name] / max(signal[name], 1e-300) for name in noise}
    ratio[graph.input] = 0.0
    result = []
    for step in graph.steps:
        if step.output in ratio:
            before = max((ratio.get(name, 0.0) for name in step.inputs), default=0.0)
            after = ratio[step.output]
            result.append(LayerNoise(step.name, step.operation, after, max(0.0, after - before)))
    return sorted(result, key=lambda layer: -layer.added)
