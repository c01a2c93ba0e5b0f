"""Quantization within an accuracy budget: calibration ranges, layer comparison, and the methods to try.

Methods are tried in the order of their cost: other calibration ranges cost nothing, float layers cost speed on the device,
and quantization-aware training costs time on the workstation and changes the weights.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import starmap
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_siamese.errors import EdgeSiameseError, ExportError
from export.conversion.float_graph import PIXEL_RANGE, Bytes, FloatGraph, Floats, Format, Range
from export.evaluation import metrics
from export.training.validation import Trials

MAX_UNCERTAIN_LOSS = 4.0
"""A loss above this multiple of the budget is never attributed to the sample of classes."""
COMPARED_IMAGES = 32
"""Images on which layers of the float graph and of the int8 file are compared."""
FLOAT_FRACTIONS = (0.1, 0.25)
"""Fractions of the layers that mixed precision keeps in float32, in the order of trial; at least one layer."""
Calibration = Literal["min-max", "percentile", "least squares"]
CALIBRATIONS: tuple[Calibration, ...] = ("min-max", "percentile", "least squares")
NAMED_LAYERS = 3
"""Number of float layers that a message names."""
LEVELS = 255
PERCENTILE = 99.99
"""Percentage of the values of an activation below the upper limit, and above the lower limit."""
RANGE_FRACTIONS = np.linspace(1.0, 0.4, 25)
"""Fractions of the full range that `least squares` tries."""
SAMPLES = 1 << 17
"""Number of sampled values per activation."""
SIGMOID_SATURATION = math.log(2 * 256 - 1)
"""Inputs beyond it bring a sigmoid within half an int8 step (1/512) of 0 or 1, so a wider range wastes levels."""


@dataclass(frozen=True)
class Loss:
    """Loss of one-shot accuracy of an int8 file against the float network, in points (0.5 is half a percent)."""

    points: float
    low: float
    """95 % interval for another sample of classes, from the same trials of both."""
    high: float
    classes: int

    @classmethod
    def between(cls, before: Trials, after: Trials) -> Loss:
        """The loss from `before` to `after`, which are the same trials."""
        lost = 100.0 * (before.right.astype(np.float64) - after.right)
        points = 100.0 * (before.accuracy - after.accuracy)
        classes = len(np.unique(before.classes))
        if classes < 2:
            return cls(points, points, points, classes)
        interval = metrics.class_interval(lost, before.classes)
        return cls(points, interval.low, interval.high, classes)

    def within(self, budget: float) -> bool:
        """Whether the loss is within the budget, or its interval reaches into the budget."""
        return self.points <= budget or (self.low <= budget and self.points <= MAX_UNCERTAIN_LOSS * budget)

    def describe(self) -> str:
        """`+0.60 (-0.20 to +1.40 over 12 classes)`."""
        return f"{self.points:+.2f} ({self.low:+.2f} to {self.high:+.2f} over {self.classes} classes)"


Score = Callable[[Path], Loss]
"""Measures the loss of an int8 file."""


@dataclass
class ActivationStatistics:
    """Minimum, maximum and a sample of the values of each activation."""

    images: int
    """Total number of images, which decides how many values of each are sampled."""
    extremes: dict[str, Range] = field(default_factory=dict)
    samples: dict[str, list[Floats]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def add(self, activations: Mapping[str, Floats]) -> None:
        """Add the activations of some images, float32 (N, ...) each; raises `ExportError` if one is not finite."""
        for name, values in activations.items():
            if not np.isfinite(values).all():
                raise ExportError(
                    f"the activation {name} is not finite on a calibration image: the network is broken"
                )
            low, high = self.extremes.get(name, (math.inf, -math.inf))
            self.extremes[name] = min(low, float(values.min())), max(high, float(values.max()))
            count = math.ceil(SAMPLES / self.images) * len(values)
            flat = values.reshape(-1)
            kept = flat if flat.size <= count else flat[self._rng.integers(0, flat.size, count)]
            self.samples.setdefault(name, []).append(kept.astype(np.float32, copy=True))

    def range(self, name: str, calibration: Calibration) -> Range:
        """Range of an activation by one of `CALIBRATIONS`; it always contains zero."""
        low, high = (min(0.0, self.extremes[name][0]), max(0.0, self.extremes[name][1]))
        if calibration == "min-max" or high - low == 0.0:
            return low, high
        sample = np.concatenate(self.samples[name])
        if calibration == "percentile":
            inside = np.percentile(sample, [100.0 - PERCENTILE, PERCENTILE])
            return min(0.0, max(low, float(inside[0]))), max(0.0, min(high, float(inside[1])))
        errors = [_squared_error(sample, low * f, high * f) for f in RANGE_FRACTIONS]
        fraction = float(RANGE_FRACTIONS[int(np.argmin(errors))])
        return low * fraction, high * fraction


def collect_statistics(graph: FloatGraph, images: Bytes) -> ActivationStatistics:
    """Statistics of a float graph over the calibration images, uint8 (N, H, W, C)."""
    if not len(images):
        raise ExportError("quantization needs at least one calibration image")
    statistics = ActivationStatistics(len(images))
    for activations in graph.activations(images):
        statistics.add(activations)
    return statistics


def choose_ranges(
    graph: FloatGraph, statistics: ActivationStatistics, calibration: Calibration
) -> dict[str, Range]:
    """Range of each activation of a graph, by a calibration method."""
    ranges = {name: statistics.range(name, calibration) for name in statistics.extremes}
    for step in graph.steps:
        if step.operation.lower() in ("sigmoid", "logistic"):
            for name in step.inputs:
                low, high = ranges[name]
                ranges[name] = max(low, -SIGMOID_SATURATION), min(high, SIGMOID_SATURATION)
    ranges[graph.input] = PIXEL_RANGE
    return ranges


@dataclass(frozen=True)
class LayerNoise:
    """Quantization noise of an activation, over all images and elements."""

    layer: str
    """Name in the encoder; `OPERATION after LAYER` for an operation without weights."""
    operation: str
    noise: float
    """Power of the difference between int8 and float activation over the power of the latter."""
    added: float
    """Increase of `noise` over the noisiest input: the contribution of this layer."""

    @property
    def signal_to_noise_db(self) -> float:
        """Signal-to-quantization-noise ratio in decibels; infinite for equal activations."""
        return -10.0 * math.log10(self.noise) if self.noise > 0.0 else math.inf

    def describe(self) -> str:
        """`LAYER (OPERATION, 12.3 dB)`."""
        return f"{self.layer} ({self.operation}, signal-to-noise {self.signal_to_noise_db:.1f} dB)"


def compare_layers(graph: FloatGraph, int8: Path, images: Bytes) -> list[LayerNoise]:
    """Run both graphs over images uint8 (N, H, W, C) and compare the activations that both have.

    Noise accumulates, so the last layers are nearly always the noisiest. The result is therefore sorted by the noise that
    each layer adds.
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


@dataclass(frozen=True)
class Attempt:
    """A method that was tried, and its result."""

    method: str
    loss_points: float | None
    """None if the file could not be made or scored."""
    seconds: float
    """Time to make and score the file."""
    accepted: bool
    detail: str = ""
    """The layers in float32, or the reason for a failure."""
    loss_low: float | None = None
    """95 % interval of the loss, over the classes."""
    loss_high: float | None = None
    classes: int = 0
    """Number of classes that the loss was measured on."""
    float_layers: tuple[str, ...] = ()
    """Names of the layers that stayed in float32."""

    @property
    def loss(self) -> Loss | None:
        """None in a record without intervals."""
        if self.loss_points is None or self.loss_low is None or self.loss_high is None:
            return None
        return Loss(self.loss_points, self.loss_low, self.loss_high, self.classes)


@dataclass(frozen=True)
class QuantizationRecord:
    """How the int8 file of a format was made."""

    format: Format
    attempts: tuple[Attempt, ...]
    chosen: str
    """Method of the attempt whose file was kept."""
    budget_points: float

    @property
    def kept(self) -> Attempt:
        return next(attempt for attempt in self.attempts if attempt.method == self.chosen)

    @property
    def within_budget(self) -> bool:
        return self.kept.accepted

    def describe(self) -> str:
        """The method and the layers in float32, for the manifest."""
        return f"{self.chosen}; {self.kept.detail}" if self.kept.detail else self.chosen

    def summary(self) -> str:
        """One line of text: the method kept, and all attempts."""
        tried = ", ".join(
            f"{a.method} {'failed' if a.loss_points is None else f'lost {a.loss_points:+.2f}'}"
            for a in self.attempts
        )
        return f"{self.format}: kept {self.chosen}{self._verdict()} (tried: {tried})"

    def _verdict(self) -> str:
        kept, budget = self.kept, f"the budget of {self.budget_points:g} points"
        interval = (
            f" (95 % interval over {kept.classes} classes {kept.loss_low:+.2f} to {kept.loss_high:+.2f})"
            if kept.loss_low is not None and kept.loss_high is not None
            else ""
        )
        if not self.within_budget:
            return f", over {budget}{interval}; a higher --int8-budget accepts it"
        if kept.loss_points is not None and kept.loss_points > self.budget_points:
            return f", not significantly over {budget}{interval}"
        return f", {kept.detail}" if kept.float_layers else ""

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "attempts": [asdict(a) for a in self.attempts],
            "within_budget": self.within_budget,
        }


@dataclass(frozen=True)
class QuantizationMethod:
    """A method of quantization that can be tried."""

    name: str
    make: Callable[[Path, Sequence[tuple[Attempt, Path]]], Sequence[str]]
    """Writes the file and returns the layers that stayed in float32; gets the attempts so far with their files."""


def quantize_within_budget(
    format: Format, methods: Sequence[QuantizationMethod], out: Path, score: Score, budget_points: float
) -> QuantizationRecord:
    """Try methods until one stays within the budget, see `Loss.within`; otherwise keep the one with the smallest loss.

    Args:
        format: format of the file.
        methods: the methods, in the order of trial.
        out: path of the kept file.
        score: measures a file.
        budget_points: largest acceptable loss.

    Raises:
        ExportError: none of the methods succeeded.
    """
    tried: list[tuple[Attempt, Path]] = []
    with tempfile.TemporaryDirectory(prefix="edge-siamese-quantize-") as directory:
        for number, method in enumerate(methods):
            started = time.monotonic()
            path = Path(directory) / f"{number}.{format}"
            attempt = _attempt(method, path, tried, score, budget_points)
            tried.append((replace(attempt, seconds=time.monotonic() - started), path))
            if attempt.accepted:
                break
        candidates = [
            (attempt.loss_points, path, attempt) for attempt, path in tried if attempt.loss_points is not None
        ]
        if not candidates:
            reason = tried[0][0].detail if tried else "no method was given"
            raise ExportError(f"no int8 {format} file could be made: {reason}")
        # The accepted file is the last one: an earlier one may have lost less, but significantly more than the budget.
        _, path, kept = (
            candidates[-1] if candidates[-1][2].accepted else min(candidates, key=lambda item: item[0])
        )
        shutil.move(path, out)
    return QuantizationRecord(format, tuple(attempt for attempt, _ in tried), kept.method, budget_points)


def _attempt(
    method: QuantizationMethod,
    path: Path,
    tried: Sequence[tuple[Attempt, Path]],
    score: Score,
    budget_points: float,
) -> Attempt:
    try:
        layers = tuple(method.make(path, tried))
        loss = score(path)
    except EdgeSiameseError as error:
        return Attempt(method.name, None, 0.0, False, str(error))
    if not math.isfinite(loss.points):
        return Attempt(method.name, None, 0.0, False, "its score is not a number")
    return Attempt(
        method.name,
        loss.points,
        0.0,
        loss.within(budget_points),
        describe_float_layers(layers),
        loss.low,
        loss.high,
        loss.classes,
        layers,
    )


def describe_float_layers(layers: Sequence[str]) -> str:
    """The layers that stayed in float32, the consequence, and the remedy; empty if none did."""
    if not layers:
        return ""
    named = ", ".join(layers[:NAMED_LAYERS]) + (", ..." if len(layers) > NAMED_LAYERS else "")
    return (
        f"{len(layers)} {'layer' if len(layers) == 1 else 'layers'} in float32 ({named}), so not full-integer: slower, and "
        "not for integer-only accelerators. More training classes, or a higher --int8-budget, avoid it"
    )


def standard_methods(
    graph: FloatGraph,
    images: Bytes,
    retrained: Callable[[], FloatGraph] | None,
    retraining_images: Bytes | None = None,
) -> list[QuantizationMethod]:
    """Post-training quantization by each calibration method, mixed precision, then quantization-aware training.

    Args:
        graph: the float graph.
        images: the calibration set, training images uint8 (N, H, W, C).
        retrained: runs quantization-aware training and exports the result; called only as the last resort. None for a
            network that cannot be trained.
        retraining_images: images of that training; they also calibrate its result, which is adapted to their ranges.
            Default: the calibration set.
    """

    @cache
    def statistics() -> ActivationStatistics:
        return collect_statistics(graph, images)

    layers = sum(step.weighted for step in graph.steps)
    float_layers: dict[int, float] = {}
    for fraction in FLOAT_FRACTIONS:
        float_layers.setdefault(max(1, round(fraction * layers)), fraction)
    calibrations: dict[str, Calibration] = {
        f"post-training, {calibration} ranges": calibration for calibration in CALIBRATIONS
    }

    def post_training(calibration: Calibration) -> QuantizationMethod:
        def make(out: Path, _: Sequence[tuple[Attempt, Path]]) -> Sequence[str]:
            graph.quantize(out, choose_ranges(graph, statistics(), calibration))
            return ()

        return QuantizationMethod(f"post-training, {calibration} ranges", make)

    def mixed(count: int, fraction: float) -> QuantizationMethod:
        def make(out: Path, tried: Sequence[tuple[Attempt, Path]]) -> Sequence[str]:
            candidates = [
                (a.loss_points, a.method, p)
                for a, p in tried
                if a.method in calibrations and a.loss_points is not None
            ]
            if not candidates:
                raise ExportError("there is no int8 file in which to find the worst layers")
            _, best, path = min(candidates)
            weighted = {step.name for step in graph.steps if step.weighted}
            noises = compare_layers(graph, path, images[:COMPARED_IMAGES])
            worst = [noise.layer for noise in noises if noise.layer in weighted][:count]
            graph.quantize(out, choose_ranges(graph, statistics(), calibrations[best]), worst)
            return worst

        return QuantizationMethod(f"mixed precision, {fraction:.0%} of the layers in float32", make)

    def quantization_aware(retrained: Callable[[], FloatGraph]) -> QuantizationMethod:
        def make(out: Path, _: Sequence[tuple[Attempt, Path]]) -> Sequence[str]:
            trained = retrained()
            seen = images if retraining_images is None else retraining_images
            trained.quantize(out, choose_ranges(trained, collect_statistics(trained, seen), "min-max"))
            return ()

        return QuantizationMethod("quantization-aware training", make)

    methods = [*map(post_training, CALIBRATIONS), *starmap(mixed, float_layers.items())]
    return methods if retrained is None else [*methods, quantization_aware(retrained)]


def _squared_error(sample: Floats, low: float, high: float) -> float:
    step = (high - low) / LEVELS
    zero = round(-low / step)
    levels = np.clip(np.round(sample / step) + zero, 0, LEVELS)
    return float(np.mean(np.square((levels - zero) * step - sample)))
