"""The calibration methods, on data whose best range is known."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from edge_siamese.errors import ExportError
from export.conversion.ranges import (
    METHODS,
    SAMPLES,
    SIGMOID_SATURATION,
    ActivationStatistics,
    Method,
    choose,
    collect,
)
from export.conversion.routes import GraphStep
from tests.export.conversion.test_layer_comparison import FakeGraph, convolution


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


@pytest.mark.parametrize("method", METHODS)
def test_zero_is_inside_of_every_range(method: Method) -> None:
    values = np.linspace(2.0, 5.0, 256)[np.newaxis]
    low, high = statistics_of(values).range("a", method)
    assert low == 0.0 and 4.9 < high <= 5.0
    low, high = statistics_of(-values).range("a", method)
    assert -5.0 <= low < -4.9 and high == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_an_activation_of_zeros_has_an_empty_range(method: Method) -> None:
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
    statistics = collect(graph, np.zeros((5, 1, 1, 1), dtype=np.uint8))
    assert statistics.images == 5
    assert statistics.extremes == {"a": (-2.0, 9.0), "b": (0.0, 0.0)}
    assert [sample.tolist() for sample in statistics.samples["a"]] == [[1.0, -2.0], [3.0, 9.0], [4.0]]


def test_collect_needs_an_image() -> None:
    with pytest.raises(ExportError, match="at least one calibration image"):
        collect(FakeGraph([], {}), np.zeros((0, 1, 1, 1), dtype=np.uint8))


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
    statistics = collect(graph, np.zeros((1, 1, 1, 1), dtype=np.uint8))
    limit = math.log(511)
    assert choose(graph, statistics, "min-max") == {
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
    statistics = collect(graph, np.zeros((2, 1, 1, 1), dtype=np.uint8))
    expected = {"pixels": (0.0, 255.0), "out of a": (-40.0, 40.0), "t": (-1.0, 1.0)}
    assert choose(graph, statistics, "min-max") == expected
