"""Draws the report's figures with matplotlib, as inline SVG in the page's own colors and fonts.

matplotlib draws with placeholder colors; `inline` replaces them with the page's CSS variables, so that one drawing serves
light and dark, and leaves text as text, so that it can be selected, searched and read aloud.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from export.evaluation.open_set import CurvePoint, OpenSet
from export.evaluation.verification import ErrorCurve, Histogram, ReliabilityBin, ThresholdCheck
from export.provenance import outcome

# Placeholders, each the fallback of a CSS variable where the page sets none.
INK, MUTED, GRID, SURFACE = "#1f2429", "#69727c", "#dfe3e7", "#fefefd"
OURS, GENUINE, IMPOSTOR = "#0b6bcb", "#0b6bcc", "#d1680a"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    SURFACE: "--surface",
    OURS: "--accent",
    GENUINE: "--genuine",
    IMPOSTOR: "--impostor",
}
WIDTH = 4.6
BEHIND_TEXT = {"facecolor": SURFACE, "edgecolor": "none", "pad": 1.5}
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Plot:
    """A figure for the page."""

    svg: str
    """An `<svg>` element."""
    alt: str
    """Text alternative for screen readers."""


@dataclass(frozen=True)
class TrainingPoint:
    """One validation of a training run."""

    step: int
    """0 for the starting weights."""
    loss: float | None
    """Mean since the last validation; None for the starting weights."""
    validation_accuracy: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class ScoreRow:
    """One line of the one-shot figure."""

    label: str
    value: float
    """Accuracy in 0..1."""
    low: float | None = None
    """95 % interval, where there is one."""
    high: float | None = None
    ours: bool = False


def training_curves(points: Sequence[TrainingPoint], kept_step: int | None = None) -> Plot:
    """Loss and validation accuracy over steps, one above the other, with a mark at the kept weights if they are there."""
    steps = [point.step for point in points]
    accuracy = [100 * point.validation_accuracy for point in points]
    losses = [(point.step, point.loss) for point in points if point.loss is not None]
    kept = steps.index(kept_step) if kept_step in steps else None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.5))
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        upper.plot(steps, accuracy, color=OURS, marker="o", markersize=3)
        if kept is not None:
            _mark_kept(upper, steps[kept], accuracy[kept], right=kept > len(steps) / 2)
        upper.margins(y=0.18)
        upper.set_title("One-shot accuracy on validation classes, %", loc="left", color=INK)
        lower.plot([step for step, _ in losses], [loss for _, loss in losses], color=MUTED)
        lower.set_title("Training loss", loc="left", color=INK)
        lower.set_xlabel("optimizer step")
        for axes in (upper, lower):
            axes.yaxis.set_major_locator(MaxNLocator(4))
        lower.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        lower.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    alt = (
        f"Over {steps[-1]:,} steps the training loss goes from {losses[0][1]:.2f} to {losses[-1][1]:.2f} "
        f"and the validation accuracy from {accuracy[0]:.1f} to {accuracy[-1]:.1f} %"
    )
    kept_weights = "" if kept_step is None else f"; {outcome(kept_step, steps[-1])}"
    return Plot(inline(figure, "training"), f"{alt}{kept_weights}.")


def _mark_kept(axes: Axes, step: int, accuracy: float, right: bool) -> None:
    axes.plot(
        step, accuracy, "o", color=OURS, markersize=6, markeredgecolor=SURFACE, markeredgewidth=1.2
    )  # fmt: skip
    axes.annotate(
        f"kept: {accuracy:.1f} %" if step else f"kept: starting weights, {accuracy:.1f} %",
        (step, accuracy),
        xytext=(0, 8),
        textcoords="offset points",
        ha="right" if right else "left",
        color=INK,
    )


def one_shot_chart(rows: Sequence[ScoreRow]) -> Plot:
    """Accuracies on one line each, ours with their interval, best on top."""
    ordered = sorted(rows, key=lambda row: row.value)
    lowest = min(row.low if row.low is not None else row.value for row in ordered)
    left = max(0.0, 100 * lowest - 2.0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.62 + 0.36 * len(ordered)))
        axes = figure.subplots()
        for y, row in enumerate(ordered):
            color = OURS if row.ours else MUTED
            axes.plot([left, 100], [y, y], color=GRID, linewidth=0.7, zorder=1)
            if row.low is not None and row.high is not None:
                axes.plot(
                    [100 * row.low, 100 * row.high], [y, y], color=color, linewidth=5, alpha=0.28, zorder=2
                )
            axes.plot(100 * row.value, y, "o", color=color, markersize=7 if row.ours else 5.5, zorder=3)
            axes.annotate(
                f"{100 * row.value:.1f}",
                (100 * row.value, y),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8.5,
                color=INK if row.ours else MUTED,
                fontweight="bold" if row.ours else "normal",
            )
        axes.set_yticks(range(len(ordered)), [row.label for row in ordered])
        for label, row in zip(axes.get_yticklabels(), ordered, strict=True):
            label.set_color(INK if row.ours else MUTED)
            label.set_fontweight("bold" if row.ours else "normal")
        axes.set_xlim(left, 100.5)
        axes.set_ylim(-0.6, len(ordered) - 0.2)
        axes.grid(visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("accuracy, %")
    alt = "; ".join(
        f"{row.label} {100 * row.value:.1f} %"
        + (f" ({100 * row.low:.1f} to {100 * row.high:.1f})" if row.low and row.high else "")
        for row in reversed(ordered)
    )
    return Plot(inline(figure, "one-shot"), f"One-shot accuracies: {alt}.")


def score_histogram(histogram: Histogram, thresholds: Sequence[ThresholdCheck]) -> Plot:
    """Distribution of the scores of genuine and impostor pairs, over p(same) on a log-odds axis."""
    edges = np.array(histogram.edges)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.0))
        axes = figure.subplots()
        for shares, color, name in (
            (histogram.impostor, IMPOSTOR, "impostor pairs"),
            (histogram.genuine, GENUINE, "genuine pairs"),
        ):
            axes.stairs(100 * np.array(shares), edges, fill=True, color=color, alpha=0.30)
            axes.stairs(100 * np.array(shares), edges, color=color, linewidth=1.4, label=name)
        _logit_axis(axes, edges[0], edges[-1])
        # Room above the bars for the labels of the thresholds.
        axes.set_ylim(0, 140 * max(*histogram.genuine, *histogram.impostor))
        _mark_thresholds(axes, thresholds, top=True)
        axes.set_ylabel("% of the pairs of its kind")
        axes.set_xlabel("p(same) of a pair")
        axes.grid(axis="x", visible=False)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1.2)
    middles = (edges[1:] + edges[:-1]) / 2
    above = middles >= 0
    alt = (
        f"{100 * sum(np.array(histogram.genuine)[above]):.1f} % of the genuine pairs and "
        f"{100 * sum(np.array(histogram.impostor)[above]):.1f} % of the impostor pairs "
        "score at p = 0.5 or more."
    )
    return Plot(inline(figure, "histogram"), alt)


def reliability_diagram(bins: Sequence[ReliabilityBin], ece: float) -> Plot:
    """Observed frequency over stated probability, with the number of pairs in each bin below."""
    filled = [b for b in bins if b.predicted is not None and b.observed is not None]
    width = 1.0 / len(bins)
    total = sum(b.count for b in bins)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.5))
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1.0, dashes=(4, 3), label="a perfect head")
        upper.plot(
            [b.predicted for b in filled], [b.observed for b in filled], color=OURS, linewidth=1.2, alpha=0.6
        )
        largest = max(b.count for b in filled)
        sizes = [18 + 70 * b.count / largest for b in filled]
        upper.scatter(
            [b.predicted for b in filled],
            [b.observed for b in filled],
            s=sizes,
            color=OURS,
            zorder=3,
            label="this head",
        )
        upper.set_ylabel("observed share of genuine")
        upper.set_xlim(-0.02, 1.02)
        upper.set_ylim(-0.04, 1.04)
        upper.annotate(
            f"ECE {ece:.4f}",
            (0.985, 0.04),
            xycoords="axes fraction",
            ha="right",
            color=INK,
            fontsize=10,
            fontweight="bold",
        )
        upper.legend(loc="upper left", handlelength=1.6, scatterpoints=1)
        lower.bar(
            [b.center for b in bins],
            [100 * b.count / total for b in bins],
            width=0.82 * width,
            color=MUTED,
            alpha=0.55,
        )
        lower.set_ylabel("% of pairs")
        lower.set_xlabel("stated p(same)")
        lower.grid(axis="x", visible=False)
        lower.yaxis.set_major_locator(MaxNLocator(2))
    worst = max(filled, key=lambda b: b.count * abs((b.observed or 0.0) - (b.predicted or 0.0)))
    alt = (
        f"Expected calibration error {ece:.4f}. "
        f"The bin that adds most to it states {worst.predicted:.2f} where {worst.observed:.2f} of the pairs are genuine."
    )
    return Plot(inline(figure, "reliability"), alt)


def error_rates(curve: ErrorCurve, thresholds: Sequence[ThresholdCheck]) -> Plot:
    """FAR and FRR over the threshold on p(same), both on a logarithmic axis."""
    grid = np.array(curve.log_odds)
    floor = max(1.0 / curve.impostor_pairs, 1e-6)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.3))
        axes = figure.subplots()
        far, frr = np.array(curve.far), np.array(curve.frr)
        axes.plot(grid, np.where(far > 0, far, np.nan), color=IMPOSTOR, label="FAR: impostors accepted")
        axes.plot(grid, np.where(frr > 0, frr, np.nan), color=GENUINE, label="FRR: genuine rejected")
        axes.set_yscale("log")
        axes.set_ylim(floor, 1.4)
        axes.yaxis.set_major_locator(LogLocator(10, numticks=7))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        _logit_axis(axes, grid[0], grid[-1])
        _mark_thresholds(axes, thresholds, top=False)
        equal = int(np.argmin(np.abs(far - frr)))
        if curve.eer > 0:
            axes.plot(grid[equal], curve.eer, "o", color=INK, markersize=5, zorder=4)
            axes.annotate(
                f"EER {100 * curve.eer:.2f} %",
                (grid[equal], curve.eer),
                xytext=(10, 0),
                textcoords="offset points",
                va="center",
                color=INK,
                bbox=BEHIND_TEXT,
            )
        axes.set_xlabel("accept when p(same) is at least")
        axes.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1.2, columnspacing=1.0
        )
    alt = f"FAR falls and FRR rises with the threshold; both are {100 * curve.eer:.2f} % where they meet."
    if thresholds:
        alt += " " + " ".join(
            f"At p = {t.probability:.4f} FAR is {t.observed_far:.1e} and FRR {100 * t.observed_frr:.1f} %."
            for t in thresholds
        )
    return Plot(inline(figure, "error-rates"), alt)


def open_set_curve(kinds: Sequence[OpenSet]) -> Plot:
    """Share of the registered objects that are identified over the share of strangers that are accepted, for each number of
    registered objects, with bands and a dot at the default threshold."""
    colors = (OURS, IMPOSTOR)
    texts = []
    shown = [point for kind in kinds for point in (kind.curve[0], kind.default) if point]
    least = 80 * min(rate for point in shown for rate in (point.far, point.far_low) if rate > 0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4))
        axes = figure.subplots()
        for kind, color in zip(kinds, colors, strict=False):
            far = [100 * point.far for point in kind.curve]
            axes.fill_between(
                far, [100 * p.low for p in kind.curve], [100 * p.high for p in kind.curve],
                color=color, alpha=0.16, linewidth=0,
            )  # fmt: skip
            axes.plot(
                far, [100 * p.rate for p in kind.curve], color=color, label=f"{kind.registered} registered"
            )
            if kind.default is not None:
                _mark_default(axes, kind.default, color, least)
                at = kind.default
                texts.append(
                    f"With {kind.registered} registered, at p = {at.probability:.4f}, {100 * at.rate:.1f} % "
                    f"({100 * at.low:.1f} to {100 * at.high:.1f}) are identified and {100 * at.far:.1f} % "
                    f"({100 * at.far_low:.1f} to {100 * at.far_high:.1f}) of the strangers accepted."
                )
        axes.set_xscale("log")
        axes.set_xlim(least, 110)
        axes.set_ylim(0, 104)
        axes.xaxis.set_major_locator(LogLocator(10))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("strangers accepted, %")
        axes.set_ylabel("registered objects identified, %")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1.2)
    return Plot(inline(figure, "open-set"), " ".join(texts) or "Identified over accepted strangers.")


def _mark_default(axes: Axes, point: CurvePoint, color: str, least: float) -> None:
    """A dot at the default threshold, with its intervals in both directions."""
    x, y = max(100 * point.far, least), 100 * point.rate
    axes.plot(
        [max(100 * point.far_low, least), max(100 * point.far_high, least)],
        [y, y],
        color=color,
        linewidth=1.2,
    )
    axes.plot([x, x], [100 * point.low, 100 * point.high], color=color, linewidth=1.2)
    axes.plot(x, y, "o", color=color, markersize=7, markeredgecolor=SURFACE, markeredgewidth=1.4, zorder=4)


_MAX_TICKS, _AXIS_CHARACTERS = 7, 56
"""How many labels an axis has, and how many characters fit side by side below it."""


def _logit_axis(axes: Axes, low: float, high: float) -> None:
    """An x axis in log-odds with probabilities as ticks: 0.5, and as many powers of ten from 0 and from 1 as have room."""
    for step in count(1):
        ticks = [(x, name) for x, name in _probabilities(step, max(-low, high)) if low <= x <= high]
        room = [(right - left) / (high - low) * _AXIS_CHARACTERS for (left, _), (right, _) in pairwise(ticks)]
        needed = [(len(left) + len(right)) / 2 + 1 for (_, left), (_, right) in pairwise(ticks)]
        if len(ticks) <= _MAX_TICKS and all(has >= needs for has, needs in zip(room, needed, strict=True)):
            break
    if len(ticks) < 3:
        ticks = [(float(x), f"{1 / (1 + np.exp(-x)):.2f}") for x in np.linspace(low, high, 5)]
    axes.set_xlim(low, high)
    axes.set_xticks([x for x, _ in ticks], [name for _, name in ticks])


def _probabilities(step: int, limit: float) -> list[tuple[float, str]]:
    """Log-odds and names of 0.5 and of each `step`-th power of ten from 0 and from 1; log-odds up to a limit."""
    found = [(0.0, "0.5")]
    for power in range(step, 1 + int(limit / np.log(10.0)) + step, step):
        x = float(np.log(10.0) * power + np.log1p(-(10.0**-power)))
        near_one = f"{1 - 10.0**-power:.{power}f}" if power <= 6 else f"1 - 1e-{power:02}"
        found = [(-x, f"{10.0**-power:g}"), *found, (x, near_one)]
    return found


def _mark_thresholds(axes: Axes, thresholds: Sequence[ThresholdCheck], top: bool) -> None:
    """A dashed line for each threshold within the axes, with its false-accept rate at one end."""
    low, high = axes.get_xlim()
    for threshold in thresholds:
        x = float(np.log(threshold.probability / (1 - threshold.probability)))
        if not low <= x <= high:
            continue
        axes.axvline(x, color=MUTED, linewidth=0.9, dashes=(3, 2.5))
        axes.annotate(
            f"FAR {100 * threshold.false_accept_rate:g} %",
            (x, 0.985 if top else 0.03),
            xycoords=("data", "axes fraction"),
            xytext=(-3, 0),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="top" if top else "bottom",
            fontsize=7.5,
            color=MUTED,
        )


def inline(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element in the page's colors, with no id that another figure may have."""
    buffer = io.StringIO()
    metadata: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    used = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", text))
    names = {part for pair in used for part in pair if part}
    text = re.sub(
        r' id="([^"]+)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in names else "", text
    )
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable}, {color})")
    text = text.replace("'DejaVu Sans'", "var(--font, sans-serif)")
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        r'<svg class="plot" viewBox="\1" aria-hidden="true" focusable="false" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">',
        text,
        count=1,
    ).strip()
