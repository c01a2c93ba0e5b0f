"""Quantization: noise of each layer, calibration ranges, and the search for an int8 file within a budget."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edge_siamese.errors import EncoderError, ExportError
from export.conversion.float_graph import Bytes, Floats, Format, GraphStep, Range
from export.conversion.graph import exported_encoder
from export.conversion.onnx import OnnxGraph
from export.conversion.quantize import (
    CALIBRATIONS,
    COMPARED_IMAGES,
    SAMPLES,
    SIGMOID_SATURATION,
    ActivationStatistics,
    Attempt,
    Calibration,
    LayerNoise,
    Loss,
    QuantizationMethod,
    QuantizationRecord,
    choose_ranges,
    collect_statistics,
    compare_layers,
    describe_float_layers,
    quantize_within_budget,
    standard_methods,
)
from export.training.validation import Trials
from tests.export.conversion.test_graph import Tiny
from tests.tiny_network import pictures

FOUR_IMAGES = np.zeros((4, 1, 1, 1), dtype=np.uint8)
INT8 = Path("never-read.onnx")


class FakeGraph:
    """A graph of given activations, (N, …) by name, and of an int8 file that has `rounded` instead; two at a time."""

    format: Format = "onnx"
    input = "pixels"

    def __init__(
        self,
        steps: Collection[GraphStep],
        exact: Mapping[str, Floats],
        rounded: Mapping[str, Floats] | None = None,
    ) -> None:
        self.steps = tuple(steps)
        self.exact = {name: np.asarray(value, dtype=np.float32) for name, value in exact.items()}
        self.rounded = {name: np.asarray(value, dtype=np.float32) for name, value in (rounded or {}).items()}

    def activations(self, images: Bytes) -> Iterator[dict[str, Floats]]:
        for start in range(0, len(images), 2):
            yield {name: value[start : start + 2] for name, value in self.exact.items()}

    def quantized_activations(self, path: Path, images: Bytes) -> Iterator[dict[str, Floats]]:
        for start in range(0, len(images), 2):
            yield {name: value[start : start + 2] for name, value in self.rounded.items()}

    def quantize(self, out: Path, ranges: Mapping[str, Range], float_layers: Collection[str] = ()) -> None:
        raise AssertionError("nothing here writes a file")


def convolution(name: str, *inputs: str) -> GraphStep:
    return GraphStep(name, "Conv", inputs, f"out of {name}", weighted=True)


def signal(power: float) -> Floats:
    """One number for each of the four images: this power together, all of it in the last two."""
    return np.array([[0.0], [0.0], [1.0], [1.0]], dtype=np.float32) * math.sqrt(power / 2)


def test_noise_is_the_power_of_the_difference_over_that_of_the_signal_over_all_images() -> None:
    # The first batch has the noise and the second nearly all of the signal: a mean of ratios would be 0.5 and more.
    exact = np.array([[1.0, 0.0], [0.0, 1.0], [7.0, 0.0], [0.0, 7.0]])
    rounded = exact + np.array([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    graph = FakeGraph([convolution("a", "pixels")], {"out of a": exact}, {"out of a": rounded})
    assert compare_layers(graph, INT8, FOUR_IMAGES) == [LayerNoise("a", "Conv", noise=0.01, added=0.01)]


def test_the_culprit_is_not_the_noisiest_layer_but_the_one_that_adds_most() -> None:
    # Powers of the noise along the chain: 1, 9, 16 and 4 of a signal of 100.
    names = ("a", "b", "c", "d")
    steps = [convolution(name, f"out of {before}") for name, before in zip(names[1:], names, strict=False)]
    exact = {f"out of {name}": signal(100.0) for name in names}
    powers = dict(zip(names, (1.0, 9.0, 16.0, 4.0), strict=True))
    rounded = {f"out of {name}": signal(100.0) + signal(power) for name, power in powers.items()}
    found = compare_layers(FakeGraph([convolution("a", "pixels"), *steps], exact, rounded), INT8, FOUR_IMAGES)
    assert [layer.layer for layer in found] == ["b", "c", "a", "d"]
    assert [layer.noise for layer in found] == pytest.approx([0.09, 0.16, 0.01, 0.04], rel=1e-5)
    # d removes noise, and has not added less than none.
    assert [layer.added for layer in found] == pytest.approx([0.08, 0.07, 0.01, 0.0], rel=1e-4)
    assert found[-1].added == 0.0


def test_a_sum_is_to_blame_for_what_it_adds_to_its_noisiest_input() -> None:
    add = GraphStep("Add after b", "Add", ("out of a", "out of b"), "sum", weighted=False)
    graph = FakeGraph(
        [convolution("a", "pixels"), convolution("b", "pixels"), add],
        {"out of a": signal(100.0), "out of b": signal(100.0), "sum": signal(100.0)},
        {
            "out of a": signal(100.0) + signal(4.0),
            "out of b": signal(100.0) + signal(1.0),
            "sum": signal(100.0) + signal(25.0),
        },
    )
    found = {layer.layer: layer.added for layer in compare_layers(graph, INT8, FOUR_IMAGES)}
    assert found == pytest.approx({"Add after b": 0.21, "a": 0.04, "b": 0.01}, rel=1e-4)


def test_activations_that_the_int8_file_does_not_have_are_left_out() -> None:
    graph = FakeGraph(
        [convolution("a", "pixels"), convolution("b", "out of a")],
        {"pixels": signal(1.0), "out of a": signal(100.0), "out of b": signal(100.0)},
        {"pixels": signal(1.0), "out of b": signal(100.0) + signal(1.0), "scratch": signal(5.0)},
    )
    assert [layer.layer for layer in compare_layers(graph, INT8, FOUR_IMAGES)] == ["b"]


def test_the_raw_bytes_are_free_of_noise_whatever_the_file_says() -> None:
    graph = FakeGraph(
        [convolution("a", "pixels")],
        {"pixels": signal(100.0), "out of a": signal(100.0)},
        {"pixels": signal(25.0), "out of a": signal(100.0) + signal(4.0)},
    )
    (found,) = compare_layers(graph, INT8, FOUR_IMAGES)
    assert found.added == found.noise == pytest.approx(0.04, rel=1e-5)


def test_a_layer_says_its_noise_in_decibels() -> None:
    assert LayerNoise("stem.0", "Conv", 0.01, 0.01).signal_to_noise_db == pytest.approx(20.0)
    assert LayerNoise("stem.0", "Conv", 0.01, 0.0).describe() == "stem.0 (Conv, signal-to-noise 20.0 dB)"
    assert LayerNoise("a", "Gemm", 2.0, 0.0).describe() == "a (Gemm, signal-to-noise -3.0 dB)"
    assert LayerNoise("a", "Gemm", 0.0, 0.0).signal_to_noise_db == math.inf


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> OnnxGraph:
    torch.manual_seed(0)
    return OnnxGraph(exported_encoder(Tiny(), quantizable=True), tmp_path_factory.mktemp("layers"))


@pytest.mark.parametrize("damaged", ["stem.0", "expand.0", "project.0", "Add after project.0"])
def test_a_layer_of_a_real_file_that_was_damaged_comes_first(
    graph: OnnxGraph, damaged: str, tmp_path: Path
) -> None:
    images = pictures(16)
    ranges = choose_ranges(graph, collect_statistics(graph, images), "min-max")
    graph.quantize(tmp_path / "good.onnx", ranges)
    good = {layer.layer: layer for layer in compare_layers(graph, tmp_path / "good.onnx", images)}
    assert set(good) == {"stem.0", "expand.0", "project.0", "Add after project.0", "embedding"}
    assert all(layer.signal_to_noise_db > 25.0 for layer in good.values())
    step = next(step for step in graph.steps if step.name == damaged)
    low, high = ranges[step.output]
    graph.quantize(tmp_path / "bad.onnx", {**ranges, step.output: (low * 0.3, high * 0.3)})
    worst = compare_layers(graph, tmp_path / "bad.onnx", images)[0]
    assert worst.layer == damaged and worst.operation == step.operation
    assert worst.added > 10 * good[damaged].noise


def statistics_of(*batches: npt.ArrayLike) -> ActivationStatistics:
    """Of an activation `a`, from batches of shape (N, …)."""
    arrays = [np.asarray(batch, dtype=np.float32) for batch in batches]
    statistics = ActivationStatistics(images=sum(map(len, arrays)))
    for array in arrays:
        statistics.add({"a": array})
    return statistics


def test_min_max_covers_every_value_of_every_batch() -> None:
    statistics = statistics_of([[0.25, 3.0], [1.0, -0.5]], [[-1.5, 2.0]], [[0.0, 0.0]])
    assert statistics.extremes == {"a": (-1.5, 3.0)}
    assert statistics.range("a", "min-max") == (-1.5, 3.0)


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_zero_is_inside_of_every_range(method: Calibration) -> None:
    values = np.linspace(2.0, 5.0, 256)[np.newaxis]
    low, high = statistics_of(values).range("a", method)
    assert low == 0.0 and 4.9 < high <= 5.0
    low, high = statistics_of(-values).range("a", method)
    assert -5.0 <= low < -4.9 and high == 0.0


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_an_activation_of_zeros_has_an_empty_range(method: Calibration) -> None:
    assert statistics_of(np.zeros((3, 7))).range("a", method) == (0.0, 0.0)


def test_percentile_leaves_a_ten_thousandth_outside_on_either_side() -> None:
    # Of 20,001 values, a ten-thousandth is two: the third smallest and the third largest are the range.
    values = np.linspace(-1.0, 1.0, 20_001)
    values[[0, -1]] = -1000.0, 500.0
    statistics = statistics_of(np.random.default_rng(0).permutation(values)[np.newaxis])
    assert statistics.range("a", "percentile") == pytest.approx((-0.9998, 0.9998), abs=1e-6)
    assert statistics.range("a", "min-max") == (-1000.0, 500.0)


def test_least_squares_gives_up_outliers_for_a_finer_step() -> None:
    # All values but two are on the grid of 0.9 of the full range: only there does rounding cost nothing.
    step = 0.9 / 204
    grid = np.arange(-51, 205) * step
    values = np.concatenate([np.repeat(grid, 100), [-0.25, 1.0]])[np.newaxis]
    assert statistics_of(values).range("a", "least squares") == pytest.approx((-0.225, 0.9), rel=1e-6)


def test_least_squares_keeps_a_range_that_has_no_outliers() -> None:
    values = np.repeat(np.arange(-55, 201) / 100.0, 100)[np.newaxis]
    assert statistics_of(values).range("a", "least squares") == pytest.approx((-0.55, 2.0), rel=1e-6)


def test_least_squares_weighs_outliers_by_their_number() -> None:
    def high(outliers: int) -> float:
        bulk = np.random.default_rng(0).uniform(0.0, 0.5, 50_000)
        return statistics_of(np.concatenate([bulk, np.ones(outliers)])[np.newaxis]).range(
            "a", "least squares"
        )[1]

    # Clipping an outlier costs (1 - high)**2, rounding costs step**2 / 12 for each of the others: with one outlier
    # the sum is smallest near 0.95 or below, and with 5,000 it is not worth clipping.
    assert high(1) < 0.96
    assert high(5000) == 1.0


def test_a_sample_is_kept_of_activations_with_many_values_but_all_extremes() -> None:
    statistics = ActivationStatistics(images=SAMPLES // 3)
    values = np.zeros((2, 1000), dtype=np.float32)
    values[1, 999] = 7.0
    statistics.add({"a": values})
    # Three values for each image, so that all images together give SAMPLES.
    assert [len(sample) for sample in statistics.samples["a"]] == [2 * math.ceil(SAMPLES / (SAMPLES // 3))]
    assert statistics.range("a", "min-max") == (0.0, 7.0)


def test_small_activations_are_kept_whole_and_samples_do_not_change_with_their_source() -> None:
    values = np.arange(-100.0, 156.0, dtype=np.float32)[np.newaxis]
    statistics = ActivationStatistics(images=1)
    statistics.add({"a": values})
    values[:] = 0.0
    assert sorted(statistics.samples["a"][0]) == list(range(-100, 156))
    assert statistics.range("a", "least squares") == (-100.0, 155.0)


def test_equal_images_give_equal_samples() -> None:
    values = np.random.default_rng(0).normal(size=(1, SAMPLES + 5000)).astype(np.float32)
    first, second = (statistics_of(values) for _ in range(2))
    assert np.array_equal(first.samples["a"][0], second.samples["a"][0])
    assert len(first.samples["a"][0]) == SAMPLES


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused(broken: float) -> None:
    with pytest.raises(
        ExportError, match=r"^the activation a is not finite on a calibration image: the network is broken$"
    ):
        statistics_of([[1.0, 2.0]], [[broken, 0.0]])


def test_collect_takes_in_all_activations_of_all_batches() -> None:
    graph = FakeGraph([], {"a": [[1.0], [-2.0], [3.0], [9.0], [4.0]], "b": np.zeros((5, 2))})
    statistics = collect_statistics(graph, np.zeros((5, 1, 1, 1), dtype=np.uint8))
    assert statistics.images == 5
    assert statistics.extremes == {"a": (-2.0, 9.0), "b": (0.0, 0.0)}
    assert [sample.tolist() for sample in statistics.samples["a"]] == [[1.0, -2.0], [3.0, 9.0], [4.0]]


def test_collect_needs_an_image() -> None:
    with pytest.raises(ExportError, match="at least one calibration image"):
        collect_statistics(FakeGraph([], {}), np.zeros((0, 1, 1, 1), dtype=np.uint8))


def test_beyond_its_saturation_a_sigmoid_is_within_half_an_int8_step_of_its_end() -> None:
    assert 1.0 / (1.0 + math.exp(SIGMOID_SATURATION)) == pytest.approx(1 / 512)


@pytest.mark.parametrize("operation", ["Sigmoid", "LOGISTIC", "sigmoid"])
def test_what_goes_into_a_sigmoid_is_cut_where_the_sigmoid_saturates(operation: str) -> None:
    steps = [
        convolution("a", "pixels"),
        convolution("b", "pixels"),
        GraphStep("first", operation, ("out of a",), "p", weighted=False),
        GraphStep("second", operation, ("out of b",), "q", weighted=False),
    ]
    values = {"out of a": [[-40.0, 3.0]], "out of b": [[-2.0, 40.0]], "p": [[0.0, 60.0]], "q": [[0.0, 1.0]]}
    graph = FakeGraph(steps, values)
    statistics = collect_statistics(graph, np.zeros((1, 1, 1, 1), dtype=np.uint8))
    limit = math.log(511)
    assert choose_ranges(graph, statistics, "min-max") == {
        "out of a": (pytest.approx(-limit), 3.0),
        "out of b": (-2.0, pytest.approx(limit)),
        # Only what goes in is cut.
        "p": (0.0, 60.0),
        "q": (0.0, 1.0),
        "pixels": (0.0, 255.0),
    }


def test_other_operations_keep_their_range_and_pixels_always_have_all_bytes() -> None:
    graph = FakeGraph(
        [convolution("a", "pixels"), GraphStep("Tanh after a", "Tanh", ("out of a",), "t", weighted=False)],
        {"pixels": [[10.0], [20.0]], "out of a": [[-40.0], [40.0]], "t": [[-1.0], [1.0]]},
    )
    statistics = collect_statistics(graph, np.zeros((2, 1, 1, 1), dtype=np.uint8))
    expected = {"pixels": (0.0, 255.0), "out of a": (-40.0, 40.0), "t": (-1.0, 1.0)}
    assert choose_ranges(graph, statistics, "min-max") == expected


def methods(*losses: float | str) -> tuple[list[QuantizationMethod], Any]:
    """Remedies `0`, `1`, … that write their name and say `detail of NAME`, and the score that finds the given losses.

    A text instead of a number is the error of a method that cannot be made.
    """

    def method(name: str, loss: float | str) -> QuantizationMethod:
        def make(out: Path, _: Sequence[tuple[Attempt, Path]]) -> Sequence[str]:
            if isinstance(loss, str):
                raise ExportError(loss)
            out.write_text(name)
            return ()

        return QuantizationMethod(name, make)

    made = [method(str(number), loss) for number, loss in enumerate(losses)]
    return made, lambda path: exactly(losses[int(path.read_text())])


def exactly(points: Any) -> Loss:
    """A loss that is known exactly, as from very many classes."""
    return Loss(points, points, points, 1000)


def outcomes(record: QuantizationRecord) -> list[tuple[str, float | None, bool]]:
    return [(a.method, a.loss_points, a.accepted) for a in record.attempts]


def test_the_first_remedy_within_the_budget_is_kept_and_no_other_is_tried(tmp_path: Path) -> None:
    tried, score = methods(0.9, 0.4, -0.2, 0.0)
    record = quantize_within_budget("onnx", tried, tmp_path / "int8", score, 0.5)
    assert outcomes(record) == [("0", 0.9, False), ("1", 0.4, True)]
    assert (tmp_path / "int8").read_text() == "1"
    assert record.chosen == "1" and record.within_budget
    assert record.kept is record.attempts[1] and record.kept.detail == ""
    assert (record.format, record.budget_points) == ("onnx", 0.5)


def test_a_loss_of_exactly_the_budget_is_within_it(tmp_path: Path) -> None:
    tried, score = methods(0.5, 0.0)
    record = quantize_within_budget("tflite", tried, tmp_path / "int8", score, 0.5)
    assert outcomes(record) == [("0", 0.5, True)]


def trials(right: Sequence[bool], classes: Sequence[int]) -> Trials:
    return Trials(np.array(right, dtype=bool), np.array(classes), 2)


def test_a_loss_is_measured_in_pairs_and_its_interval_over_classes() -> None:
    before = trials([True] * 400, [0, 1] * 200)
    after = trials([False, *[True] * 399], [0, 1] * 200)
    loss = Loss.between(before, after)
    # The classes lost 0.5 and 0 points: mean 0.25, s = 0.353553, t_1 = 12.7062.
    assert (loss.points, loss.classes) == (pytest.approx(0.25), 2)
    assert (loss.low, loss.high) == pytest.approx((0.25 - 3.17655, 0.25 + 3.17655), abs=1e-4)
    same = Loss.between(before, before)
    assert (same.points, same.low, same.high) == (0.0, 0.0, 0.0)
    swapped = Loss.between(
        trials([True, False] * 4, [0, 0, 1, 1] * 2), trials([False, True] * 4, [0, 0, 1, 1] * 2)
    )
    assert (swapped.points, swapped.low, swapped.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("loss", "accepted"),
    [
        (Loss(0.5, 0.4, 0.6, 50), True),
        (Loss(0.7, -1.2, 2.6, 2), True),  # half a point too much on two classes may be chance
        (Loss(0.7, 0.55, 0.85, 50), False),
        (Loss(2.1, -3.0, 7.2, 2), False),  # too much to be put down to chance
        (Loss(math.nan, 0.0, 1.0, 50), False),
    ],
)
def test_the_budget_is_compared_with_the_interval(loss: Loss, accepted: bool) -> None:
    assert loss.within(0.5) == accepted


def test_few_classes_do_not_decide_for_float_layers(tmp_path: Path) -> None:
    tried, _ = methods(0.7, 0.0)
    record = quantize_within_budget("onnx", tried, tmp_path / "int8", lambda _: Loss(0.7, -1.2, 2.6, 2), 0.5)
    assert (tmp_path / "int8").read_text() == record.chosen == "0" and record.within_budget
    assert record.summary() == (
        "onnx: kept 0, not significantly over the budget of 0.5 points "
        "(95 % interval over 2 classes -1.20 to +2.60) (tried: 0 lost +0.70)"
    )


def test_an_accepted_file_is_kept_although_one_before_lost_less(tmp_path: Path) -> None:
    losses = [Loss(0.6, 0.55, 0.65, 9), Loss(0.9, 0.2, 1.6, 9)]
    tried, _ = methods(0.6, 0.9)
    record = quantize_within_budget(
        "onnx", tried, tmp_path / "int8", lambda path: losses[int(path.read_text())], 0.5
    )
    assert record.chosen == "1" and record.within_budget


def test_many_float_layers_are_counted_and_the_remedy_is_said() -> None:
    assert describe_float_layers([]) == ""
    assert describe_float_layers(["stem"]).startswith("1 layer in float32 (stem), so not full-integer")
    assert describe_float_layers([f"layer {i}" for i in range(11)]) == (
        "11 layers in float32 (layer 0, layer 1, layer 2, ...), so not full-integer: slower, and not for integer-only "
        "accelerators. More training classes, or a higher --int8-budget, avoid it"
    )


def test_if_all_lost_too_much_the_one_that_lost_least_is_kept_and_the_record_says_so(tmp_path: Path) -> None:
    tried, score = methods(3.0, 1.25, "no kernel", 2.0)
    record = quantize_within_budget("onnx", tried, tmp_path / "int8", score, 0.5)
    assert (tmp_path / "int8").read_text() == "1"
    assert outcomes(record) == [("0", 3.0, False), ("1", 1.25, False), ("2", None, False), ("3", 2.0, False)]
    assert record.chosen == "1" and not record.within_budget
    assert record.summary() == (
        "onnx: kept 1, over the budget of 0.5 points (95 % interval over 1000 classes +1.25 to +1.25); "
        "a higher --int8-budget accepts it (tried: 0 lost +3.00, 1 lost +1.25, 2 failed, 3 lost +2.00)"
    )


def test_of_equal_losses_the_cheaper_remedy_is_kept(tmp_path: Path) -> None:
    tried, score = methods(2.0, 1.0, 1.0)
    assert quantize_within_budget("onnx", tried, tmp_path / "int8", score, 0.5).chosen == "1"


def test_a_remedy_that_fails_is_recorded_with_its_reason_and_passed_over(tmp_path: Path) -> None:
    tried, score = methods("quantizing to ONNX int8 failed: no such operator", 0.1)
    record = quantize_within_budget("onnx", tried, tmp_path / "int8", score, 0.5)
    assert outcomes(record) == [("0", None, False), ("1", 0.1, True)]
    assert record.attempts[0].detail == "quantizing to ONNX int8 failed: no such operator"
    assert record.summary() == "onnx: kept 1 (tried: 0 failed, 1 lost +0.10)"


def test_a_file_that_cannot_be_scored_counts_as_failed(tmp_path: Path) -> None:
    tried, score = methods(0.0, 9.0)

    def picky(path: Path) -> Loss:
        if path.read_text() == "0":
            raise ExportError("the file does not run")
        return score(path)

    record = quantize_within_budget("onnx", tried, tmp_path / "int8", picky, 0.5)
    assert outcomes(record) == [("0", None, False), ("1", 9.0, False)]
    assert record.attempts[0].detail == "the file does not run"
    assert (tmp_path / "int8").read_text() == "1"


def test_a_file_that_a_runtime_refuses_counts_as_failed(tmp_path: Path) -> None:
    tried, score = methods(0.0, 9.0)

    def refused(path: Path) -> Loss:
        if path.read_text() == "0":
            raise EncoderError("onnxruntime does not load encoder.int8.onnx: no such kernel")
        return score(path)

    record = quantize_within_budget("onnx", tried, tmp_path / "int8", refused, 0.5)
    assert outcomes(record) == [("0", None, False), ("1", 9.0, False)]
    assert record.attempts[0].detail == "onnxruntime does not load encoder.int8.onnx: no such kernel"


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_score_that_is_no_number_counts_as_failed(score: float, place: int, tmp_path: Path) -> None:
    losses = [score, 9.0] if place == 0 else [9.0, score]
    tried, _ = methods(*losses)
    record = quantize_within_budget(
        "onnx", tried, tmp_path / "int8", lambda path: exactly(losses[int(path.read_text())]), 0.5
    )
    assert (record.attempts[place].loss_points, record.attempts[place].accepted) == (None, False)
    assert record.attempts[place].detail == "its score is not a number"
    assert (tmp_path / "int8").read_text() == record.chosen == str(1 - place)
    assert record.kept.loss_points == 9.0 and record.kept.detail == ""
    json.dumps(record.to_json(), allow_nan=False)


def test_if_none_can_be_made_the_first_reason_is_given_and_nothing_is_written(tmp_path: Path) -> None:
    tried, score = methods("the converter crashed", "something that follows from it")
    with pytest.raises(ExportError, match=r"^no int8 tflite file could be made: the converter crashed$"):
        quantize_within_budget("tflite", tried, tmp_path / "int8", score, 0.5)
    with pytest.raises(ExportError, match=r"^no int8 onnx file could be made: no method was given$"):
        quantize_within_budget("onnx", [], tmp_path / "int8", score, 0.5)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_not_taken_for_a_remedy_that_failed(tmp_path: Path) -> None:
    def interrupted(*_: object) -> Sequence[str]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_within_budget(
            "onnx", [QuantizationMethod("0", interrupted)], tmp_path / "int8", lambda _: exactly(0.0), 0.5
        )
    assert list(tmp_path.iterdir()) == []


def test_a_remedy_knows_the_attempts_before_it_and_their_files(tmp_path: Path) -> None:
    seen: list[list[tuple[str, float | None, str]]] = []
    tried, score = methods(3.0, 2.0)

    def make(out: Path, before: Sequence[tuple[Attempt, Path]]) -> Sequence[str]:
        seen.append([(attempt.method, attempt.loss_points, path.read_text()) for attempt, path in before])
        out.write_text("0")
        return ()

    quantize_within_budget("onnx", [*tried, QuantizationMethod("last", make)], tmp_path / "int8", score, 0.5)
    assert seen == [[("0", 3.0, "0"), ("1", 2.0, "1")]]


def test_seconds_are_those_of_making_and_scoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("export.conversion.quantize.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def taking(seconds: float, result: Any) -> Any:
        clock[0] += seconds
        return result

    tried = [
        QuantizationMethod(n, lambda out, _: taking(2.0, [""] * out.write_text("")))
        for n in ("slow", "slower")
    ]
    record = quantize_within_budget(
        "onnx", tried, tmp_path / "int8", lambda _: taking(5.0, exactly(1.0)), 0.5
    )
    assert [attempt.seconds for attempt in record.attempts] == [7.0, 7.0]


RECORD = QuantizationRecord(
    format="tflite",
    attempts=(
        Attempt("post-training, min-max ranges", 1.5, 2.0, False),
        Attempt("mixed precision, 10% of the layers in float32", -0.125, 3.0, True, "stem.0 in float32"),
    ),
    chosen="mixed precision, 10% of the layers in float32",
    budget_points=0.5,
)


def test_the_manifest_says_the_method_and_what_is_left_in_float() -> None:
    assert RECORD.describe() == "mixed precision, 10% of the layers in float32; stem.0 in float32"
    plain = QuantizationRecord("tflite", RECORD.attempts, "post-training, min-max ranges", 0.5)
    assert plain.describe() == "post-training, min-max ranges"
    assert RECORD.summary() == (
        "tflite: kept mixed precision, 10% of the layers in float32 "
        "(tried: post-training, min-max ranges lost +1.50, "
        "mixed precision, 10% of the layers in float32 lost -0.12)"
    )


BARE = {"loss_low": None, "loss_high": None, "classes": 0, "float_layers": []}


def test_the_record_is_json() -> None:
    assert json.loads(json.dumps(RECORD.to_json(), allow_nan=False)) == {
        "format": "tflite",
        "attempts": [
            {"method": "post-training, min-max ranges", "loss_points": 1.5, "seconds": 2.0, "accepted": False,
             "detail": "", **BARE},
            {"method": "mixed precision, 10% of the layers in float32", "loss_points": -0.125, "seconds": 3.0,
             "accepted": True, "detail": "stem.0 in float32", **BARE},
        ],
        "chosen": "mixed precision, 10% of the layers in float32",
        "budget_points": 0.5,
        "within_budget": True,
    }  # fmt: skip


STANDARD = [
    "post-training, min-max ranges",
    "post-training, percentile ranges",
    "post-training, least squares ranges",
    "mixed precision, 10% of the layers in float32",
    "mixed precision, 25% of the layers in float32",
    "quantization-aware training",
]
IMAGES = np.zeros((50, 1, 1, 1), dtype=np.uint8)


class RecordingGraph(FakeGraph):
    """Layers side by side, `noise[i]` the noise of layer i, and a sum that is noisier than all; files are JSON."""

    def __init__(self, noise: Sequence[float]) -> None:
        steps = [convolution(f"layer {number}", "pixels") for number in range(len(noise))]
        outputs = [step.output for step in steps]
        sum_of_all = GraphStep("Add after all", "Add", ("pixels",), "sum", weighted=False)
        values = np.random.default_rng(0).normal(size=(len(IMAGES), 400))
        super().__init__([*steps, sum_of_all], dict.fromkeys([*outputs, "sum"], values))
        self.rounded = {
            name: self.exact[name] + np.float32(level)
            for name, level in zip([*outputs, "sum"], [*noise, 10.0], strict=True)
        }
        self.runs = 0
        self.compared: list[tuple[dict[str, Any], int]] = []
        self.written: list[dict[str, Any]] = []

    def activations(self, images: Bytes) -> Iterator[dict[str, Floats]]:
        self.runs += len(images) == len(IMAGES)
        return super().activations(images)

    def quantized_activations(self, path: Path, images: Bytes) -> Iterator[dict[str, Floats]]:
        self.compared.append((json.loads(path.read_text()), len(images)))
        return super().quantized_activations(path, images)

    def quantize(self, out: Path, ranges: Mapping[str, Range], float_layers: Collection[str] = ()) -> None:
        self.written.append({"ranges": {k: list(v) for k, v in ranges.items()}, "float": list(float_layers)})
        out.write_text(json.dumps(self.written[-1]))


def standard(
    graph: FakeGraph, losses: Sequence[float], out: Path, retrained: Any = None
) -> QuantizationRecord:
    """Try the standard methods on a budget of 0.5, where the n-th file that can be made loses `losses[n]`."""
    left = iter(losses)

    def never() -> FakeGraph:
        raise AssertionError("trained again without need")

    return quantize_within_budget(
        "onnx", standard_methods(graph, IMAGES, retrained or never), out, lambda _: exactly(next(left)), 0.5
    )


def test_the_standard_methods_come_in_the_order_of_their_cost() -> None:
    graph = RecordingGraph([0.1] * 6)
    assert [method.name for method in standard_methods(graph, IMAGES, lambda: graph)] == STANDARD
    assert graph.runs == 0 and graph.written == []


def test_each_post_training_remedy_has_the_ranges_of_its_method(tmp_path: Path) -> None:
    graph = RecordingGraph([0.1])
    standard(graph, [3.0, 2.0, 0.1], tmp_path / "int8")
    min_max, percentile, least_squares = (
        np.array(file["ranges"]["out of layer 0"]) for file in graph.written
    )
    values = graph.exact["out of layer 0"]
    assert min_max == pytest.approx([values.min(), values.max()])
    assert percentile == pytest.approx(np.percentile(values, [0.01, 99.99]))
    # One share of the full range on both sides.
    assert np.ptp(least_squares / min_max) == pytest.approx(0.0, abs=1e-12)
    assert 0.4 <= (least_squares / min_max)[0] <= 1.0
    assert all(file["float"] == [] and file["ranges"]["pixels"] == [0.0, 255.0] for file in graph.written)
    # All methods choose from one run of the calibration images.
    assert graph.runs == 1


@pytest.mark.parametrize("layers", [1, 4, 5])
def test_of_two_shares_that_are_as_many_layers_one_is_tried(layers: int, tmp_path: Path) -> None:
    noise = [0.01 * number for number in range(layers)]
    graph = RecordingGraph(noise)
    record = standard(graph, [3.0, 2.0, 2.5, 1.0, 0.4], tmp_path / "int8", lambda: graph)
    assert [attempt.method for attempt in record.attempts] == [*STANDARD[:4], STANDARD[5]]
    assert [file["float"] for file in graph.written] == [[], [], [], [f"layer {layers - 1}"], []]
    assert record.chosen == STANDARD[5]


@pytest.mark.parametrize(("layers", "counts"), [(6, (1, 2)), (20, (2, 5))])
def test_mixed_precision_leaves_exactly_the_worst_weighted_layers_in_float(
    layers: int, counts: tuple[int, int], tmp_path: Path
) -> None:
    noise = 0.01 * np.random.default_rng(layers).permutation(np.arange(1, layers + 1))
    graph = RecordingGraph(noise.tolist())
    record = standard(graph, [3.0, 2.0, 2.5, 1.0, 0.4], tmp_path / "int8")
    worst = [f"layer {number}" for number in np.argsort(-noise)]
    for attempt, file, count in zip(record.attempts[3:], graph.written[3:], counts, strict=True):
        assert file["float"] == worst[:count]
        assert attempt.float_layers == tuple(worst[:count])
        assert attempt.detail == describe_float_layers(worst[:count])
    assert [attempt.method for attempt in record.attempts] == STANDARD[:5]
    assert record.chosen == STANDARD[4] and record.within_budget
    assert record.describe() == f"{STANDARD[4]}; {record.kept.detail}"


@pytest.mark.parametrize("best", [0, 1, 2])
def test_mixed_precision_goes_on_from_the_best_post_training_file(best: int, tmp_path: Path) -> None:
    graph = RecordingGraph([0.1, 0.2, 0.1, 0.1, 0.1, 0.1])
    losses = [2.0 if number == best else 3.0 for number in range(3)]
    standard(graph, [*losses, 2.5, 0.0], tmp_path / "int8")
    kept = graph.written[best]
    # Also after a mixed file that lost less than some, and its layers are found with a part of the images.
    assert graph.compared == [(kept, COMPARED_IMAGES)] * 2
    assert [file["ranges"] for file in graph.written[3:]] == [kept["ranges"]] * 2


def test_the_network_is_trained_again_only_if_all_else_lost_too_much(tmp_path: Path) -> None:
    graph, other, calls = RecordingGraph([0.1] * 6), RecordingGraph([0.1] * 6), []

    def retrained() -> RecordingGraph:
        calls.append("trained")
        return other

    for length in range(1, 6):
        losses = [1.0] * (length - 1) + [0.5]
        assert standard(graph, losses, tmp_path / "int8", retrained).chosen == STANDARD[length - 1]
        assert calls == []
    other.exact = {name: 2 * value for name, value in other.exact.items()}
    record = standard(graph, [1.0] * 5 + [0.75], tmp_path / "int8", retrained)
    assert calls == ["trained"] and record.chosen == STANDARD[5] and not record.within_budget
    # The file is the other network's, with min-max ranges of its own activations.
    (file,) = other.written
    value = other.exact["out of layer 0"]
    assert file["ranges"]["out of layer 0"] == pytest.approx([float(value.min()), float(value.max())])
    assert json.loads((tmp_path / "int8").read_text()) == file and file["float"] == []


def test_the_network_trained_again_gets_its_ranges_from_the_images_that_it_saw(tmp_path: Path) -> None:
    other = RecordingGraph([0.1])
    more = np.concatenate([IMAGES, IMAGES])
    *_, last = standard_methods(RecordingGraph([0.1]), IMAGES, lambda: other, more)
    seen: list[int] = []
    other.activations = lambda images: seen.append(len(images)) or iter([other.exact])  # type: ignore[method-assign,func-returns-value]
    assert last.make(tmp_path / "int8", []) == ()
    assert seen == [100] and len(other.written) == 1


def test_training_that_diverges_leaves_the_best_of_the_others(tmp_path: Path) -> None:
    def diverging() -> FakeGraph:
        raise ExportError("quantization-aware training diverged: the loss is not finite")

    record = standard(RecordingGraph([0.1] * 6), [3.0, 2.0, 1.0, 4.0, 5.0], tmp_path / "int8", diverging)
    assert record.chosen == STANDARD[2] and not record.within_budget
    assert record.attempts[5].loss_points is None
    assert record.attempts[5].detail == "quantization-aware training diverged: the loss is not finite"


def test_without_a_post_training_file_there_are_no_worst_layers(tmp_path: Path) -> None:
    class Unquantizable(RecordingGraph):
        def quantize(self, out: Path, ranges: Any, float_layers: Collection[str] = ()) -> None:
            raise ExportError("no kernel")

    record = standard(Unquantizable([0.1] * 6), [0.25], tmp_path / "int8", lambda: RecordingGraph([0.1]))
    assert [attempt.detail for attempt in record.attempts] == [
        *["no kernel"] * 3,
        *["there is no int8 file in which to find the worst layers"] * 2,
        "",
    ]
    assert record.chosen == STANDARD[5] and record.within_budget


def test_a_broken_network_fails_every_remedy_with_the_reason(tmp_path: Path) -> None:
    graph = RecordingGraph([0.1])
    graph.exact["sum"][3, 5] = np.nan

    def retrained() -> FakeGraph:
        return graph

    with pytest.raises(
        ExportError, match=r"^no int8 onnx file could be made: the activation \S+ is not finite"
    ):
        standard(graph, [], tmp_path / "int8", retrained)
