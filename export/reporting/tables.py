"""Markdown tables of a pipeline's results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from export.evaluation.benchmark import BenchmarkRow
from export.evaluation.evaluate import Evaluation
from export.evaluation.one_shot import EpisodesResult
from export.evaluation.strangers import OTHER_CLASSES, Identified, StrangersResult
from export.reporting.report import (
    PUBLISHED,
    ReportInputs,
    duration,
    episode_rows,
    open_set_rows,
    percent,
    rate,
    size,
)


def summary_table(inputs: ReportInputs) -> str:
    """One line for each evaluation: accuracy, calibration, size and latency."""
    header = ("", "one-shot", "chance", "classes", "95 % interval", "ECE", "file", "latency")
    return markdown_table(header, (_summary(inputs, evaluation) for evaluation in inputs.evaluations))


def full_tables(inputs: ReportInputs) -> str:
    """All tables: accuracy, open-set identification, verification, thresholds and benchmark."""
    evaluations = inputs.evaluations
    columns = ("", *(_title(e) for e in evaluations))
    tables = [markdown_table(columns, _accuracy_rows(inputs))]
    if any(e.open_set for e in evaluations):
        tables.append(markdown_table(columns, _open_set_rows(inputs)))
    if all(e.verification for e in evaluations):
        tables.append(markdown_table(columns, _verification_rows(evaluations)))
    if inputs.benchmark:
        header = ("file and runtime", "size", "p50", "p95", "over fp32", "one-shot", "memory", "import")
        tables.append(markdown_table(header, map(_benchmark_row, inputs.benchmark.rows)))
    return "\n".join(tables)


def side_by_side(named: Sequence[tuple[str, ReportInputs]]) -> str:
    """Accuracy and cost: published results, and one line for each evaluated file of each run.

    Episodes are within a group if there are several groups. Latency is from image to embedding, on one thread.
    """
    shapes = ((20, 1), (5, 1), (20, 5))
    header = ("", "400 trials", *(f"{way}-way {shot}-shot" for way, shot in shapes))
    costs = ("same or different", "parameters", "MMAC", "file", "latency")
    rows = [
        [
            f"{p.label}, published",
            percent(p.accuracy),
            "",
            "",
            "",
            percent(p.pairs, 2) if p.pairs else "",
            *[""] * 4,
        ]
        for p in PUBLISHED
    ]
    guessing = ["chance", "5.0 %", *(percent(1 / way) for way, _ in shapes), "50.0 %", *[""] * 4]
    rows.append(guessing)
    for name, inputs in named:
        for evaluation in (e for e in inputs.evaluations if e.supports == "plain"):
            row, encoder = _benchmarked(inputs, evaluation), inputs.manifest and inputs.manifest.encoder
            rows.append(
                [
                    f"{name}: {_title(evaluation)}",
                    percent(evaluation.official.accuracy, 2) if evaluation.official else "",
                    *(percent(e.accuracy) if e else "" for e in _hardest(evaluation, shapes)),
                    percent(evaluation.verification.accuracy, 1) if evaluation.verification else "",
                    f"{encoder.parameters:,}" if encoder else "",
                    f"{encoder.macs / 1e6:.1f}" if encoder else "",
                    size(row.file_bytes) if row else "",
                    duration(row.p50_ms) if row else "",
                ]
            )
    return markdown_table((*header, *costs), rows)


def bundles_table(named: Sequence[tuple[str, ReportInputs, Sequence[StrangersResult]]]) -> str:
    """One line for each bundle: its accuracy and cost, with supports embedded as at registration.

    Episodes are the hardest ones, within a group, where the data have groups. Identification is that of five objects, each
    registered from one picture, at a false-accept rate of 1 %, the daemon's default.
    """
    header = (
        "bundle",
        "classes",
        "1 of 5, one picture each (chance 20 %)",
        "1 of 20, one picture each (chance 5 %)",
        "1 of 20, five pictures each (chance 5 %)",
        "identified, five objects",
        "strangers accepted",
        "look-alikes accepted",
        "file",
        "latency",
        "memory",
    )
    rows = []
    for name, inputs, strangers in named:
        evaluation = next(e for e in inputs.evaluations if e.supports == "augmented")
        measured = _benchmarked(inputs, evaluation)
        default = {result.strangers_are: _default(result) for result in strangers}
        others = default.pop(OTHER_CLASSES)
        anything = next(iter(default.values()), None)
        rows.append(
            [
                f"`{name}`",
                f"{evaluation.data.classes:,}",
                *(percent(e.accuracy) if e else "" for e in _hardest(evaluation, ((5, 1), (20, 1), (20, 5)))),
                percent(others.identified.value),
                rate(anything.strangers.value) if anything else "not measured",
                rate(others.strangers.value),
                size(measured.file_bytes) if measured else "",
                duration(measured.p50_ms) if measured else "",
                f"{measured.peak_memory_mb:.0f} MiB" if measured else "",
            ]
        )
    return markdown_table(header, rows)


def _default(result: StrangersResult) -> Identified:
    """Five objects from one picture each, at the daemon's default rate."""
    return next(
        row for row in result.results if (row.registered, row.pictures, row.false_accept_rate) == (5, 1, 0.01)
    )


def strangers_table(results: Sequence[StrangersResult]) -> str:
    """Identification among strangers, with a line for each number of objects, number of pictures and rate."""
    header = (
        "objects",
        "pictures of each",
        "requested rate",
        "identified",
        "named as another",
        *(f"accepted: {result.strangers_are} ({result.strangers:,})" for result in results),
    )
    rows = []
    for row, *others in zip(*(result.results for result in results), strict=True):
        accepted = (each.strangers for each in (row, *others))
        rows.append(
            (
                str(row.registered),
                str(row.pictures),
                rate(row.false_accept_rate),
                *(
                    f"{percent(share.value)} ({interval(share.low, share.high)})"
                    for share in (row.identified, row.confused)
                ),
                *(f"{rate(share.value)} ({interval(share.low, share.high)})" for share in accepted),
            )
        )
    return markdown_table(header, rows)


def _hardest(evaluation: Evaluation, shapes: Iterable[tuple[int, int]]) -> Iterator[EpisodesResult | None]:
    """The result of each (way, shot), within a group if there are groups."""
    for shape in shapes:
        kinds = [e for e in evaluation.episodes if (e.way, e.shot) == shape and not e.iconic]
        yield max(kinds, key=lambda e: e.within_group) if kinds else None


def _summary(inputs: ReportInputs, evaluation: Evaluation) -> list[str]:
    row = _benchmarked(inputs, evaluation)
    one_shot, ece = evaluation.one_shot, evaluation.verification.ece if evaluation.verification else None
    return [
        _title(evaluation),
        f"**{percent(one_shot.accuracy, 2)}**" if one_shot else "",
        percent(1 / one_shot.way) if one_shot else "",
        f"{one_shot.classes:,}" if one_shot else "",
        interval(one_shot.low, one_shot.high) if one_shot else "",
        f"{ece:.3f}" if ece is not None else "",
        size(row.file_bytes) if row else "",
        duration(row.p50_ms) if row else "",
    ]


def _benchmarked(inputs: ReportInputs, evaluation: Evaluation) -> BenchmarkRow | None:
    """The benchmark row of an evaluated file."""
    for row in inputs.benchmark.rows if inputs.benchmark else ():
        if (row.precision, row.runtime) == (evaluation.encoder.precision, evaluation.encoder.runtime):
            return row
    return None


def _accuracy_rows(inputs: ReportInputs) -> Iterable[list[str]]:
    if any(e.official for e in inputs.evaluations):
        officials = [e.official for e in inputs.evaluations]
        trials, way = next((o.trials, o.way) for o in officials if o)
        yield [
            f"{trials} official trials, {way}-way 1-shot within alphabet, chance {percent(1 / way)}",
            *(f"{percent(o.accuracy, 2)} ({interval(o.low, o.high)})" if o else "" for o in officials),
        ]
    for kind, results in episode_rows(inputs):
        cells = [f"{percent(r.accuracy, 2)} ({interval(*r.class_interval)})" if r else "" for r in results]
        chance = f"chance {percent(kind.chance)}"
        yield [f"{kind.episodes:,} episodes, {kind.title} {kind.scope}, {chance}", *cells]


def _open_set_rows(inputs: ReportInputs) -> Iterable[list[str]]:
    """Detection and identification rates; of stated thresholds also the false-accept rate."""
    for row in open_set_rows(inputs):
        cells = []
        for result in row.results:
            cell = f"{percent(result.rate)} ({interval(result.low, result.high)})" if result else ""
            cells.append(f"{rate(result.observed_far)}, {cell}" if result and row.stated else cell)
        if row.stated:
            yield [
                f"{row.kind.title}, threshold stated for FAR {row.rate:g}: unknown accepted, known identified",
                *cells,
            ]
        else:
            yield [f"{row.kind.title}, {rate(row.rate)} of unknown accepted: known identified", *cells]


def _verification_rows(evaluations: Sequence[Evaluation]) -> Iterable[list[str]]:
    verifications = [e.verification for e in evaluations if e.verification]
    pairs = f"{verifications[0].pairs:,} pairs"
    yield [
        f"{pairs}: accuracy at p = 0.5, chance 50 %",
        *(f"{percent(v.accuracy, 2)} ({interval(v.low, v.high)})" for v in verifications),
    ]
    yield [f"{pairs}: equal error rate", *(percent(v.eer, 2) for v in verifications)]
    yield [f"{pairs}: calibration error (ECE)", *(f"{v.ece:.4f}" for v in verifications)]
    for stated in [t.false_accept_rate for t in verifications[0].thresholds]:
        tried = [
            next((t for t in v.thresholds if t.false_accept_rate == stated), None) for v in verifications
        ]
        yield [
            f"threshold stated for FAR {stated:g}: observed FAR and FRR",
            *(f"{t.observed_far:.1e}, {percent(t.observed_frr)}" if t else "" for t in tried),
        ]


def _benchmark_row(row: BenchmarkRow) -> list[str]:
    return [
        f"{row.format} {row.precision}, {row.runtime} {row.version}",
        size(row.file_bytes),
        duration(row.p50_ms),
        duration(row.p95_ms),
        f"{row.speed_up:.2f}× ({row.speed_up_low:.2f} to {row.speed_up_high:.2f})" if row.speed_up else "",
        percent(row.accuracy.value, 2) if row.accuracy else "",
        f"{row.peak_memory_mb:.0f} MiB",
        f"{row.import_ms:.0f} ms",
    ]


def _title(evaluation: Evaluation) -> str:
    format = {"torch": "network", "onnxruntime": "ONNX"}.get(evaluation.encoder.runtime, "TFLite")
    return f"{format} {evaluation.title}"


def interval(low: float, high: float) -> str:
    """95 % interval in percent."""
    return f"{100 * low:.1f} to {100 * high:.1f}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """A Markdown table.

    Args:
        header: one title per column.
        rows: one cell per column.
        align: `l` or `r` for each column; by default all columns but the first are numbers, aligned right.
    """
    rule = ["---" if side == "l" else "---:" for side in align or "l" + "r" * (len(header) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *rows))
