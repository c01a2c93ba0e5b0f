"""Writes measured figures into the documents: README.md, docs/results.md and docs/results/.

.venv/bin/python -m benchmarks.pages             update the pages
.venv/bin/python -m benchmarks.pages --check     exit with 1 if a page is out of date

A page has a line `<!-- table: NAME -->` and a line `<!-- end -->`. What is between them is replaced by the table of that
name in `TABLES`, made from the JSON files in benchmarks/.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path

from benchmarks.daemon import measure as daemon
from benchmarks.daemon.process import ROOT
from benchmarks.integrations import measure as integrations
from export import records
from export.evaluation.evaluate import Evaluation
from export.evaluation.one_shot import EpisodesResult
from export.evaluation.scenes import ScenesResult
from export.evaluation.strangers import StrangersResult
from export.reporting.report import ReportInputs, percent, read_inputs
from export.reporting.scene_tables import scene_targets_table, scenes_table, scenes_verdict
from export.reporting.tables import (
    bundles_table,
    full_tables,
    interval,
    markdown_table,
    side_by_side,
    strangers_table,
    summary_table,
)
from scripts.generated import write_or_check

BENCHMARKS = ROOT / "benchmarks"
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md", *sorted((ROOT / "docs" / "results").glob("*.md")))
MARKED = re.compile(r"(<!-- table: ([^\n]+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHIPPED = ("glyphs", "objects")
NETWORKS = (*SHIPPED, "objects-small", "omniglot-koch2015")
RUNS = (*NETWORKS, "omniglot-glyphnet")
SPLITS = {
    "omniglot-characters": ("1,200 and 423 characters", "1,100 characters, 2,000 steps"),
    "omniglot-five-1": ("five alphabets", "136 characters, 800 steps"),
    "omniglot-five-2": ("five other alphabets", "211 characters, 800 steps"),
}
GENERALITY = (
    ("groceries", "", 5, 1),
    ("groceries", "", 20, 1),
    ("groceries", "", 20, 5),
    ("faces", "-faces", 20, 1),
    ("cut-out things", "-things", 5, 1),
    ("cut-out things", "-things", 5, 5),
)
"""(pictures, suffix of the directories, way, shot) of the comparison with ImageNet's weights."""


def main(arguments: list[str]) -> int:
    """Update or check the pages; returns the exit status."""
    pages = {page: fill(page.read_text(encoding="utf-8")) for page in PAGES}
    return write_or_check(pages, arguments, "-m benchmarks.pages", ROOT)


def fill(text: str) -> str:
    """Update the tables in the text of a page.

    Raises:
        KeyError: the page names an unknown table.
    """
    return MARKED.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}", text)


@cache
def inputs_of(name: str) -> ReportInputs:
    """The figures in a directory of benchmarks/."""
    return read_inputs(BENCHMARKS / name)


def strangers_of(name: str) -> tuple[StrangersResult, ...]:
    """Results of `python -m export impostors` for a bundle."""
    return records.read_all(StrangersResult, BENCHMARKS / name / "impostors.json")


def scenes_of(name: str) -> tuple[ScenesResult, ...]:
    """Results of `python -m export scenes` for a bundle."""
    return records.read_all(ScenesResult, BENCHMARKS / name / "scenes.json")


def splits_table() -> str:
    """Accuracy on further splits of Omniglot."""

    def row(name: str) -> tuple[str, ...]:
        (evaluation,) = inputs_of(name).evaluations
        trials = percent(evaluation.official.accuracy) if evaluation.official else ""
        kinds = ((20, 1, True), (20, 1, False), (5, 1, False), (20, 5, False))
        cells = [episodes_of(evaluation, *kind) for kind in kinds]
        split, training = SPLITS[name]
        return (f"{split}: `{name}`", training, trials, *(percent(e.accuracy) if e else "" for e in cells))

    header = (
        "split",
        "trained on",
        "400 trials (chance 5 %)",
        "20-way 1-shot, one alphabet (5 %)",
        "20-way 1-shot, all (5 %)",
        "5-way 1-shot, all (20 %)",
        "20-way 5-shot, all (5 %)",
    )
    return markdown_table(header, map(row, SPLITS), "llrrrrr")


def generality_table() -> str:
    """ImageNet's weights and `objects` on groceries and on other pictures; int8 in onnxruntime, ImageNet's in float32."""

    def cells(way: int, shot: int, evaluations: Iterable[Evaluation]) -> Iterable[str]:
        for evaluation in evaluations:
            result = episodes_of(evaluation, way, shot, within_group=False)
            yield f"{percent(result.accuracy)} ({interval(result.low, result.high)})" if result else ""

    rows = []
    for pictures, suffix, way, shot in GENERALITY:
        imagenet = inputs_of(f"imagenet{suffix}").evaluations[0]
        trained = next(
            e
            for e in inputs_of(f"objects{suffix}").evaluations
            if (e.encoder.runtime, e.supports) == ("onnxruntime", "plain")
        )
        rows.append(
            (
                f"{pictures}, {way}-way {shot}-shot (chance {100 // way} %)",
                *cells(way, shot, (imagenet, trained)),
            )
        )
    return markdown_table(("pictures", "ImageNet's weights", "`objects`"), rows)


def episodes_of(evaluation: Evaluation, way: int, shot: int, within_group: bool) -> EpisodesResult | None:
    """The episodes of one kind, with photographs or drawings as supports."""
    kind = (way, shot, within_group, False)
    return next((e for e in evaluation.episodes if (e.way, e.shot, e.within_group, e.iconic) == kind), None)


def _strangers(name: str) -> str:
    return strangers_table(strangers_of(name))


def _all_tables(name: str) -> str:
    return full_tables(inputs_of(name))


def _figures(path: Path) -> dict[str, object]:
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(figures, dict)
    return figures


TABLES: dict[str, Callable[[], str]] = {
    "bundles": lambda: bundles_table([(name, inputs_of(name), strangers_of(name)) for name in SHIPPED]),
    **{f"strangers of {name}": partial(_strangers, name) for name in SHIPPED},
    "scenes of objects": lambda: scenes_table(scenes_of("objects")),
    "targets in scenes": lambda: scene_targets_table(scenes_of("objects")),
    "verdict in scenes": lambda: scenes_verdict(scenes_of("objects")),
    "networks": lambda: side_by_side([(name, inputs_of(name)) for name in NETWORKS]),
    "splits": splits_table,
    "generality": generality_table,
    "daemon targets": lambda: daemon.targets_table(_figures(daemon.FIGURES)),
    "daemon": lambda: daemon.tables(_figures(daemon.FIGURES)),
    "integrations targets": lambda: integrations.targets_table(_figures(integrations.FIGURES)),
    "integrations": lambda: integrations.tables(_figures(integrations.FIGURES)),
    "summary": lambda: summary_table(inputs_of("omniglot-glyphnet")),
    **{f"all of {name}": partial(_all_tables, name) for name in RUNS},
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
