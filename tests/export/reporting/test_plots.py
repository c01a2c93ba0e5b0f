"""The figures: what they say in words, and that they fit into any page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from export.evaluation.verification import ErrorCurve, Histogram, ReliabilityBin, ThresholdCheck
from export.reporting import plots
from export.reporting.plots import Plot, ScoreRow, TrainingPoint

THRESHOLDS = (ThresholdCheck(1e-2, 0.9, 0.008, 0.2), ThresholdCheck(1e-3, 0.99, 0.0009, 0.45))
HISTOGRAM = Histogram(
    edges=tuple(np.linspace(-6, 6, 7)),
    genuine=(0.0, 0.05, 0.05, 0.2, 0.3, 0.4),
    impostor=(0.5, 0.3, 0.1, 0.1, 0.0, 0.0),
)
CURVE = ErrorCurve(
    log_odds=tuple(np.linspace(-6, 6, 25)),
    far=tuple(1 / (1 + np.exp(np.linspace(-6, 6, 25) + 2))),
    frr=tuple(1 / (1 + np.exp(2 - np.linspace(-6, 6, 25)))),
    impostors="10,000 pairs",
    impostor_pairs=10_000,
    genuine_pairs=1_000,
    eer=0.1192,
)
BINS = tuple(
    ReliabilityBin(center, None, None, 0)
    if i == 2
    else ReliabilityBin(center, center, min(1.0, center + 0.05), 100)
    for i, center in enumerate(np.linspace(0.1, 0.9, 5))
)
HISTORY = tuple(TrainingPoint(100 * i, 9.0 - i, 0.5 + 0.1 * min(i, 3), 1e-3, 60.0 * i) for i in range(1, 6))


def every_plot() -> list[Plot]:
    return [
        plots.training_curves(HISTORY, 300),
        plots.one_shot_chart(
            [ScoreRow("this one", 0.96, 0.936, 0.975, ours=True), ScoreRow("Koch 2015", 0.92)]
        ),
        plots.score_histogram(HISTOGRAM, THRESHOLDS),
        plots.reliability_diagram(BINS, 0.0123),
        plots.error_rates(CURVE, THRESHOLDS),
    ]


@pytest.mark.parametrize("index", range(5))
def test_a_figure_is_well_formed_and_takes_its_colors_from_the_page(index: int) -> None:
    svg = every_plot()[index].svg
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "width" not in root.attrib
    assert root.attrib["aria-hidden"] == "true"
    colors = set(re.findall(r"#[0-9a-f]{6}", re.sub(r"var\(--[a-z]+, #[0-9a-f]{6}\)", "", svg)))
    assert colors == set()
    assert "var(--ink, #1f2429)" in svg or "var(--muted, #69727c)" in svg
    assert "DejaVu" not in svg
    assert "<style" not in svg
    assert "<metadata" not in svg


def test_figures_share_no_ids() -> None:
    ids = re.findall(r' id="([^"]+)"', "".join(plot.svg for plot in every_plot()))
    assert ids
    assert len(ids) == len(set(ids))


def test_references_inside_a_figure_lead_somewhere() -> None:
    for plot in every_plot():
        ids = set(re.findall(r' id="([^"]+)"', plot.svg))
        assert (
            set(re.findall(r'href="#([^"]+)"', plot.svg)) | set(re.findall(r"url\(#([^)]+)\)", plot.svg))
            <= ids
        )


def test_figures_are_the_same_each_time() -> None:
    assert [plot.svg for plot in every_plot()] == [plot.svg for plot in every_plot()]


def test_text_stays_text() -> None:
    svg = plots.one_shot_chart(
        [ScoreRow("this one", 0.96, 0.936, 0.975, ours=True), ScoreRow("Koch 2015", 0.92)]
    ).svg
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"this one", "Koch 2015", "96.0", "92.0", "accuracy, %"} <= set(texts)


def test_figures_say_in_words_what_they_show() -> None:
    training, one_shot, histogram, reliability, errors = (plot.alt for plot in every_plot())
    assert training == (
        "Over 500 steps the training loss goes from 8.00 to 4.00 and the validation accuracy from 60.0 to "
        "80.0 %; the weights of step 300 of 500 were kept."
    )
    assert one_shot == "One-shot accuracies: this one 96.0 % (93.6 to 97.5); Koch 2015 92.0 %."
    assert (
        histogram == "90.0 % of the genuine pairs and 10.0 % of the impostor pairs score at p = 0.5 or more."
    )
    assert reliability.startswith("Expected calibration error 0.0123. The bin that adds most to it states 0.")
    assert errors.startswith("FAR falls and FRR rises with the threshold; both are 11.92 % where they meet.")
    assert "At p = 0.9000 FAR is 8.0e-03 and FRR 20.0 %." in errors


def test_the_mark_is_at_the_weights_that_were_kept() -> None:
    start = TrainingPoint(0, None, 0.9, 0.0, 0.0)
    plot = plots.training_curves((start, *HISTORY), 0)
    assert "kept: starting weights, 90.0 %" in plot.svg
    assert plot.alt.endswith(
        "goes from 8.00 to 4.00 and the validation accuracy from 90.0 to 80.0 %; "
        "training did not help; the starting weights were kept."
    )
    # A history without the starting weights has nothing to mark.
    plot = plots.training_curves(HISTORY, 0)
    assert "kept" not in plot.svg and plot.alt.endswith(
        "training did not help; the starting weights were kept."
    )
    assert "kept: 80.0 %" in plots.training_curves(HISTORY, 500).svg


def test_thresholds_outside_of_the_picture_are_left_out() -> None:
    far_off = (ThresholdCheck(1e-4, 0.99999, 0.0, 1.0),)
    assert "FAR 0.01 %" not in plots.score_histogram(HISTOGRAM, far_off).svg
    assert "FAR 1 %" in plots.score_histogram(HISTOGRAM, THRESHOLDS).svg


@pytest.mark.parametrize(
    ("low", "high", "names"),
    [
        (-6.0, 6.0, ["0.01", "0.1", "0.5", "0.9", "0.99"]),
        (-14.0, 14.0, ["1e-06", "0.0001", "0.01", "0.5", "0.99", "0.9999", "0.999999"]),
        (-36.0, 46.0, ["1e-14", "1e-07", "0.5", "1 - 1e-07", "1 - 1e-14"]),
        (-0.5, 0.5, ["0.38", "0.44", "0.50", "0.56", "0.62"]),
    ],
)
def test_the_labels_of_probabilities_do_not_overlap(low: float, high: float, names: list[str]) -> None:
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(plots.WIDTH, 3.0))
        axes = figure.subplots()
        plots._logit_axis(axes, low, high)
        FigureCanvasAgg(figure).draw()
        labels = axes.get_xticklabels()
        assert [label.get_text() for label in labels] == names
        boxes = [label.get_window_extent() for label in labels]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
