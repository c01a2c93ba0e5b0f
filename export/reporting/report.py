"""HTML report of a pipeline's directory: one file that opens without a network."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import numpy as np
from markupsafe import Markup

from edge_siamese.errors import BundleError, DataError
from edge_siamese.models.manifest import Manifest
from edge_siamese.system.files import write_text_atomically
from export import records
from export.conversion.verification import Verification
from export.data.data_card import DataCard, counted
from export.evaluation.benchmark import Benchmark, BenchmarkRow
from export.evaluation.class_analysis import ClassAnalysis
from export.evaluation.evaluate import Evaluation
from export.evaluation.one_shot import EpisodesResult
from export.evaluation.open_set import Identification, OpenSet
from export.evaluation.scenes import ScenesResult
from export.evaluation.verdict import Verdict
from export.provenance import DID_NOT_HELP, outcome, outcome_of
from export.records import valid_text
from export.reporting import plots
from export.reporting.plots import Plot, ScoreRow, TrainingPoint
from export.training.settings import ENCODER_DEFAULTS, TrainingSettings, training_options

Record = TypeVar("Record")

REPORT = "report.html"
MAX_MATRIX_CLASSES = 30
"""More do not fit on a page."""
MIN_MAP_RATIO, MAX_MAP_RATIO = 1.3, 1.8
"""Width by height of the map of embeddings."""
TEMPLATE = Path(__file__).with_name("report.html.j2")


# The files of a pipeline's directory; each may be missing.
HISTORY, SETTINGS = "train/history.jsonl", "train/settings.json"
EVALUATION, VERIFICATION, BENCHMARK = "evaluation.json", "verification.json", "benchmark.json"
SCENES = "scenes.json"
VERDICT, DATA_CARD, CLASSES = "verdict.json", "data_card.json", "classes.json"
MANIFEST, DEMO = "bundle/manifest.json", "demo.json"


@dataclass(frozen=True)
class Published:
    """An accuracy on the 400 official Omniglot trials (within-alphabet, 20-way, one-shot)."""

    name: str
    accuracy: float
    source: str
    label: str
    """Name in a table of several papers."""
    pairs: float | None = None
    """Accuracy on pairs of drawings in Koch's protocol."""


PUBLISHED = (
    Published(
        "ARC",
        0.985,
        "Shyam, Gupta, Dukkipati, “Attentive Recurrent Comparators”, ICML 2017",
        "ARC (Shyam et al. 2017)",
    ),
    Published(
        "BPL",
        0.967,
        "Lake, Salakhutdinov, Tenenbaum, “Human-level concept learning through probabilistic program "
        "induction”, Science 350, 2015; uses the pen strokes",
        "BPL (Lake et al. 2015), from pen strokes",
    ),
    Published("human", 0.955, "as above", "people (Lake et al. 2015)"),
    Published(
        "Koch 2015",
        0.920,
        "Koch, Zemel, Salakhutdinov, “Siamese Neural Networks for One-shot Image Recognition”, 2015, table 2",
        "Koch et al. 2015",
        0.9342,
    ),
)


@dataclass(frozen=True)
class DemoSupport:
    """An object as it was registered: from one picture."""

    name: str
    picture: str
    """A data URI, see `embedded_pictures.as_data_uri`."""


@dataclass(frozen=True)
class DemoQuery:
    """A picture and the answer of the device."""

    picture: str
    truth: str | None
    """The object's name; None for something that was never registered."""
    answer: str | None
    """The name that the device gave; None for "I do not know this"."""
    probability: float
    """p(same) with the nearest support."""

    @property
    def right(self) -> bool:
        return self.truth == self.answer


@dataclass(frozen=True)
class Demo:
    """Recognition results of a process without torch, with one picture per object."""

    supports: tuple[DemoSupport, ...]
    queries: tuple[DemoQuery, ...]
    runtime: str
    precision: str
    threshold: float
    """Below this p(same) the answer is "unknown"."""
    command: str
    machine: str

    @property
    def right(self) -> int:
        return sum(query.right for query in self.queries)

    @property
    def chance(self) -> float:
        """Expected number of correct answers from guessing: one of the objects, or unknown."""
        return len(self.queries) / (len(self.supports) + 1)


@dataclass(frozen=True)
class ReportInputs:
    """Contents of a pipeline's directory; the report omits what is None or empty."""

    name: str
    """Name of the directory."""
    history: tuple[TrainingPoint, ...] = ()
    settings: TrainingSettings | None = None
    evaluations: tuple[Evaluation, ...] = ()
    benchmark: Benchmark | None = None
    verification: Verification | None = None
    manifest: Manifest | None = None
    demo: Demo | None = None
    scenes: tuple[ScenesResult, ...] = ()
    verdict: Verdict | None = None
    card: DataCard | None = None
    classes: ClassAnalysis | None = None

    @cached_property
    def int8(self) -> Evaluation | None:
        return next((e for e in self.evaluations if e.encoder.precision == "int8"), None)

    @cached_property
    def fp32(self) -> Evaluation | None:
        return next((e for e in self.evaluations if e.encoder.precision == "fp32"), None)

    @property
    def main(self) -> Evaluation | None:
        """The evaluation that the figures show: that of int8, which devices run, if there is one."""
        return self.int8 or self.fp32

    @property
    def kept_step(self) -> int | None:
        """Step of the kept weights, 0 for the starting weights; None if there is neither a manifest nor a history."""
        step = self.manifest.provenance.get("step") if self.manifest else None
        if isinstance(step, int):
            return step
        # As in training: on a tie the later weights.
        return max(self.history, key=lambda p: (p.validation_accuracy, p.step)).step if self.history else None

    @property
    def outcome(self) -> str:
        """The weights that the training kept; empty if unknown."""
        if self.manifest and (text := outcome_of(self.manifest.provenance)):
            return text
        if self.kept_step is None or self.settings is None:
            return ""
        return outcome(self.kept_step, self.settings.steps)

    @property
    def warnings(self) -> list[str]:
        """Warnings about the training data."""
        data = self.manifest.provenance.get("data") if self.manifest else None
        return [str(line) for line in data.get("warnings", ())] if isinstance(data, dict) else []


@dataclass(frozen=True)
class Card:
    """One figure at the top of the page."""

    title: str
    value: str
    unit: str
    lines: tuple[str, ...]


def read_inputs(directory: Path) -> ReportInputs:
    """Read the results in a pipeline's directory.

    Raises:
        DataError: the directory is missing or has no results, or a file is damaged.
    """
    if not directory.is_dir():
        raise DataError(f"{directory} is not a directory; name the --out of a pipeline")
    inputs = ReportInputs(
        name=directory.resolve().name,
        history=_history(directory / HISTORY),
        settings=_record(TrainingSettings, directory / SETTINGS),
        evaluations=records.read_all(Evaluation, directory / EVALUATION)
        if (directory / EVALUATION).exists()
        else (),
        benchmark=_record(Benchmark, directory / BENCHMARK),
        verification=_record(Verification, directory / VERIFICATION),
        manifest=_manifest(directory / MANIFEST),
        demo=_record(Demo, directory / DEMO),
        verdict=_record(Verdict, directory / VERDICT),
        card=_record(DataCard, directory / DATA_CARD),
        classes=_record(ClassAnalysis, directory / CLASSES),
        scenes=records.read_all(ScenesResult, directory / SCENES) if (directory / SCENES).exists() else (),
    )
    if inputs == ReportInputs(name=inputs.name):
        raise DataError(
            f"{directory} has nothing to report: "
            f"neither {HISTORY}, nor {EVALUATION}, nor {BENCHMARK}, nor {MANIFEST}"
        )
    return inputs


def _history(path: Path) -> tuple[TrainingPoint, ...]:
    if not path.exists():
        return ()
    names = tuple(TrainingPoint.__dataclass_fields__)
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return tuple(TrainingPoint(**{name: line[name] for name in names}) for line in lines)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a history of a training run ({error})") from error


def _record(kind: type[Record], path: Path) -> Record | None:
    return records.read(kind, path) if path.exists() else None


def _manifest(path: Path) -> Manifest | None:
    if not path.exists():
        return None
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"), str(path))
    except BundleError as error:
        raise DataError(str(error)) from error


def write_report(directory: Path, out: Path | None = None) -> Path:
    """Render the report of a pipeline's directory; returns the file."""
    target = out or directory / REPORT
    write_text_atomically(target, render(read_inputs(directory)))
    return target


def render(inputs: ReportInputs) -> str:
    """The self-contained HTML page, without scripts or external requests."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": percent,
        "size": size,
        "rate": rate,
        "duration": duration,
        "count": lambda number: f"{number:,}",
        "of_what": counted,
    }
    page = environment.get_template(TEMPLATE.name).render(
        inputs=inputs,
        main=inputs.main,
        headline=headline(inputs),
        cards=cards(inputs),
        figures={name: _Figure(plot) for name, plot in figures(inputs).items()},
        published=PUBLISHED if _on_omniglot(inputs) else (),
        episode_rows=episode_rows(inputs),
        open_set_rows=open_set_rows(inputs),
        slowest=max((row.p50_ms for row in inputs.benchmark.rows), default=1.0) if inputs.benchmark else 1.0,
        quantization=_quantization(inputs),
        error_rates_caption=_error_rates_caption(inputs.main),
        settings=asdict(inputs.settings) if inputs.settings else {},
        open_set_caption=_open_set_caption(inputs.main),
        training_command=_training_command(inputs.settings),
        embedding_map=embedding_map(inputs.classes) if inputs.classes else None,
        matrix=confusion_matrix(inputs.classes) if inputs.classes else None,
    )
    return valid_text(page)


def headline(inputs: ReportInputs) -> str:
    """The result in one or two sentences."""
    parts = []
    best, float_result = inputs.main, inputs.fp32
    if DID_NOT_HELP in inputs.outcome:
        parts.append(DID_NOT_HELP[0].upper() + DID_NOT_HELP[1:])
    if best and best.one_shot:
        accuracy = best.one_shot.accuracy
        pictures = "training pictures" if best.data.split == "train" else "new ones"
        parts.append(
            f"After one picture of each class it recognizes {percent(accuracy)} of {pictures} "
            f"({best.one_shot.title}; {best.one_shot.describe()})"
        )
        if inputs.int8 and float_result and float_result.one_shot:
            lost = 100 * (float_result.one_shot[1] - accuracy)
            verb = (
                "loses nothing" if lost == 0 else f"{'loses' if lost > 0 else 'gains'} {abs(lost):.2f} points"
            )
            parts[-1] += f"; int8 {verb} against the float network"
    if fast := _measured(inputs, "int8"):
        text = (
            f"This {fast.format} int8 file is {size(fast.file_bytes)} "
            f"and takes {duration(fast.p50_ms)} an image on one thread"
        )
        if fast.speed_up:
            text += f", {fast.speed_up:.1f} times as fast as fp32"
        parts.append(text)
    return ". ".join(parts) + "." if parts else ""


def cards(inputs: ReportInputs) -> list[Card]:
    """The main figures, for the top of the page."""
    result = []
    best, float_result = inputs.main, inputs.fp32
    if best and best.one_shot:
        shot = best.one_shot
        title, accuracy = shot.title, shot.accuracy
        lines = [
            f"{best.encoder.precision}, 95 % interval {shot.interval} {100 * shot.low:.1f} to {100 * shot.high:.1f}",
            f"chance {100 / shot.way:.3g} %, {shot.classes:,} classes",
        ]
        if shot.baseline is not None:
            lines.append(f"starting weights: {percent(shot.baseline)}")
        if float_result and float_result is not best and float_result.one_shot:
            lines.append(f"fp32: {percent(float_result.one_shot[1])}")
        result.append(Card("One-shot accuracy", f"{100 * accuracy:.1f}", "%", (*lines, title)))
    small, large = _measured(inputs, "int8"), _measured(inputs, "fp32")
    if small:
        number, unit = size(small.file_bytes).split()
        lines = [f"{small.format} int8"]
        if large:
            lines.append(
                f"fp32: {size(large.file_bytes)}, {large.file_bytes / small.file_bytes:.1f} times as much"
            )
        result.append(Card("File", number, unit, tuple(lines)))
        number, unit = duration(small.p50_ms).split()
        lines = [f"int8 on {small.runtime}, one thread"]
        if large:
            lines.append(f"fp32: {duration(large.p50_ms)}")
        result.append(Card("Latency", number, unit, tuple(lines)))
    if best and best.verification:
        pairs = best.verification
        result.append(
            Card("Equal error rate", f"{100 * pairs.eer:.1f}", "%", (pairs.describe_pairs(), "chance 50 %"))
        )
        result.append(
            Card(
                "Calibration error",
                f"{pairs.ece:.3f}",
                "ECE",
                ("of p(same), on the same pairs", "0 is perfect"),
            )
        )
    if inputs.demo:
        demo = inputs.demo
        lines = [
            f"of {len(demo.queries)} pictures, after one picture of each of {len(demo.supports)} objects",
            f"guessing among the objects and unknown: {demo.chance:.1f}",
        ]
        result.insert(0, Card("Recognized", str(demo.right), "right", tuple(lines)))
    return result


def figures(inputs: ReportInputs) -> dict[str, Plot]:
    """The plots that the inputs allow, by name."""
    result = {}
    if len(inputs.history) > 1:
        result["training"] = plots.training_curves(inputs.history, inputs.kept_step)
    rows = [
        ScoreRow(
            e.title,
            e.one_shot[1],
            e.one_shot[2],
            e.one_shot[3],
            ours=True,
        )
        for e in inputs.evaluations
        if e.one_shot
    ]
    if rows and _on_omniglot(inputs):
        result["one_shot"] = plots.one_shot_chart([*rows, *(ScoreRow(p.name, p.accuracy) for p in PUBLISHED)])
    if inputs.main and inputs.main.verification:
        pairs = inputs.main.verification
        result["histogram"] = plots.score_histogram(pairs.histogram, pairs.thresholds)
        result["reliability"] = plots.reliability_diagram(pairs.reliability, pairs.ece)
        result["error_rates"] = plots.error_rates(pairs.curve, pairs.thresholds)
    curves = [kind for kind in inputs.main.open_set if kind.curve] if inputs.main else []
    if curves:
        result["open_set"] = plots.open_set_curve(curves)
    return result


@dataclass(frozen=True)
class Dot:
    """A picture on the map of embeddings."""

    left: float
    """Percent of the map's width."""
    top: float
    """Percent of the map's height."""
    label: int
    name: str
    picture: str
    number: int
    """From 1, within its class."""


@dataclass(frozen=True)
class EmbeddingMap:
    """The map of embeddings: its dots, class after class, and its shape."""

    dots: tuple[Dot, ...]
    ratio: float
    """Width by height."""


def embedding_map(analysis: ClassAnalysis) -> EmbeddingMap:
    """Place the points of an analysis on a map with equal scales on both axes."""
    x = np.array([point.x for point in analysis.points])
    y = np.array([point.y for point in analysis.points])
    width, height = max(float(np.ptp(x)), 1e-9), max(float(np.ptp(y)), 1e-9)
    ratio = min(max(width / height, MIN_MAP_RATIO), MAX_MAP_RATIO)
    scale = max(width / ratio, height)
    left = 0.5 + (x - (x.max() + x.min()) / 2) / (scale * ratio)
    top = 0.5 - (y - (y.max() + y.min()) / 2) / scale
    numbers: dict[int, int] = {}
    dots = []
    for point, across, down in zip(analysis.points, left, top, strict=True):
        numbers[point.label] = numbers.get(point.label, 0) + 1
        dots.append(
            Dot(
                round(4 + 92 * float(across), 2), round(4 + 92 * float(down), 2), point.label,
                analysis.classes[point.label].name, point.picture, numbers[point.label],
            )
        )  # fmt: skip
    return EmbeddingMap(tuple(dots), round(ratio, 3))


@dataclass(frozen=True)
class MatrixRow:
    """A row of the confusion matrix."""

    number: int
    name: str
    shares: tuple[float, ...]


def confusion_matrix(analysis: ClassAnalysis) -> list[MatrixRow]:
    """The matrix of the classes that are mistaken most often, at most `MAX_MATRIX_CLASSES`."""
    chosen = analysis.worst_first[:MAX_MATRIX_CLASSES]
    return [
        MatrixRow(
            number, analysis.classes[label].name, tuple(analysis.matrix[label][other] for other in chosen)
        )
        for number, label in enumerate(chosen, 1)
    ]


class _Figure:
    """A plot for the template: its SVG is trusted, its description is not."""

    def __init__(self, plot: Plot) -> None:
        self.svg, self.alt = Markup(plot.svg), plot.alt


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def rate(share: float) -> str:
    """An error rate: 0.02 %, 1.3 %, 12 %."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.1f} %"


def size(count: int) -> str:
    """Bytes in decimal units, as file managers show them."""
    return f"{count / 1e6:.1f} MB" if count >= 999_500 else f"{count / 1e3:.0f} kB"


def duration(milliseconds: float) -> str:
    return f"{milliseconds:.2f} ms" if milliseconds < 10 else f"{milliseconds:.1f} ms"


def _error_rates_caption(evaluation: Evaluation | None) -> str:
    """Caption of the error rates: the pairs and the lines."""
    if evaluation is None or evaluation.verification is None:
        return ""
    pairs, curve = evaluation.verification, evaluation.verification.curve
    text = f"Over all {curve.impostor_pairs:,} impostor and {curve.genuine_pairs:,} genuine pairs"
    if curve.within is not None and 2 * curve.within < curve.impostor_pairs:
        text += "; most impostors are from another group and easier than those above"
    return f"{text}. Dashed: thresholds stated on validation classes." if pairs.thresholds else f"{text}."


def _open_set_caption(evaluation: Evaluation | None) -> str:
    """Caption of the open-set curve: its operating point, and what the intervals cover."""
    point = next((kind.default for kind in evaluation.open_set if kind.default), None) if evaluation else None
    if evaluation is None or point is None:
        return ""
    stated = f"the stated default threshold, p = {point.probability:.4f}"
    threshold = stated if evaluation.open_set[0].stated else "p = 0.5, because no threshold is stated"
    return (
        f"Each point of a curve is a threshold. The dots are at {threshold}. Strangers are pictures of the classes that are "
        "not registered. Bands and bars: 95 % intervals over classes (bootstrap). A device sets its threshold by the "
        "bundle's pictures of other things, if there are enough, and may be at another point."
    )


def _training_command(settings: TrainingSettings | None) -> str:
    """The command that repeats a training run."""
    if settings is None or settings.encoder not in ENCODER_DEFAULTS:
        return ""
    return shlex.join(["python", "-m", "export", "train", *training_options(settings), "--out", "DIR"])


def _measured(inputs: ReportInputs, precision: str) -> BenchmarkRow | None:
    """The benchmark row of the main evaluation's runtime, or of the fastest one if that was not measured."""
    rows = [row for row in inputs.benchmark.rows if row.precision == precision] if inputs.benchmark else []
    own = [row for row in rows if inputs.main and row.runtime == inputs.main.encoder.runtime]
    return min(own or rows, key=lambda row: row.p50_ms, default=None)


def _on_omniglot(inputs: ReportInputs) -> bool:
    return bool(inputs.main and inputs.main.official and inputs.main.data.name.startswith("omniglot"))


def episode_rows(inputs: ReportInputs) -> list[tuple[EpisodesResult, list[EpisodesResult | None]]]:
    """Each kind of episode with its result in each evaluation; within groups, few shots, many ways first."""
    columns = [
        {(e.way, e.shot, e.within_group, e.iconic, e.scope): e for e in evaluation.episodes}
        for evaluation in inputs.evaluations
    ]
    kinds = {key: result for column in columns for key, result in column.items()}
    keys = sorted(kinds, key=lambda key: (not key[2], key[3], key[1], -key[0], key[4]))
    return [(kinds[key], [column.get(key) for column in columns]) for key in keys]


@dataclass(frozen=True)
class OpenSetRow:
    """One line of the table on open-set identification."""

    kind: OpenSet
    """The task, from the first evaluation that has it."""
    rate: float
    """The requested false-accept rate, or the one that the threshold was stated for."""
    stated: bool
    """Whether the threshold is one of the bundle's."""
    results: tuple[Identification | None, ...]
    """In each evaluation."""


def open_set_rows(inputs: ReportInputs) -> list[OpenSetRow]:
    """Each threshold of each number of registered objects, with its result in each evaluation."""
    columns = [
        {
            (kind.registered, stated, point.false_accept_rate): (kind, point)
            for kind in evaluation.open_set
            for stated, points in ((False, kind.points), (True, kind.stated))
            for point in points
        }
        for evaluation in inputs.evaluations
    ]
    first: dict[tuple[int, bool, float], OpenSet] = {}
    for column in columns:
        for key, (kind, _) in column.items():
            first.setdefault(key, kind)
    return [
        OpenSetRow(
            first[key], key[2], key[1], tuple(column[key][1] if key in column else None for column in columns)
        )
        for key in sorted(first, key=lambda key: (key[0], key[1], -key[2]))
    ]


def _quantization(inputs: ReportInputs) -> Sequence[dict[str, Any]]:
    """The quantizer's records, as the bundle's provenance keeps them: a list, or an object by format."""
    kept = (inputs.manifest.provenance.get("quantization") if inputs.manifest else None) or []
    entries = list(kept.values()) if isinstance(kept, dict) else kept
    return (
        [entry for entry in entries if isinstance(entry, dict) and "attempts" in entry]
        if isinstance(entries, list)
        else []
    )
