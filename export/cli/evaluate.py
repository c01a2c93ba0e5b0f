"""`python -m export evaluate`: measure one-shot and verification accuracy of a run or a bundle."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edge_siamese.registry import PRECISIONS, RUNTIMES
from export import records
from export.cli.options import add_data_options, add_output_options, positive, seed
from export.evaluation.embeddings import SUPPORTS
from export.evaluation.evaluate import FULL_SIZE, REDUCED_SIZE, Evaluation, default_size, evaluate
from export.evaluation.loading import TORCH, data_for, frames_for, head_for, open_model
from export.evaluation.one_shot import RULES
from export.evaluation.open_set import OpenSet
from export.evaluation.verification import PAIRS, Verification
from export.progress import stderr_console, working

EXAMPLE = """\
examples:
  python -m export evaluate build/omniglot
  python -m export evaluate build/omniglot --runtime tflite-runtime --precision int8 --json
  python -m export evaluate build/omniglot/train --runtime torch --shapes 20x1 20x5 --episodes 5000
  python -m export evaluate build/demo/bundle --data folder:photos
  python -m export evaluate glyphs --data omniglot --supports augmented --episodes 10000

Of a folder, the classes of its subfolder `evaluation` are measured, or else a fifth of all classes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        type=Path,
        metavar="RUN_OR_BUNDLE",
        help="a bundle, a training run, the output of a pipeline, or the name of a shipped bundle (glyphs, objects)",
    )
    add_data_options(parser, default="what the network was trained on")
    parser.add_argument(
        "--split",
        choices=("evaluation", "validation", "train"),
        default="evaluation",
        help="classes to measure (default: evaluation)",
    )
    parser.add_argument(
        "--runtime",
        choices=("auto", *RUNTIMES, TORCH),
        default="auto",
        help="runtime for a bundle, or torch for a training run (default: auto)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="int8",
        help="precision of the bundle's file (default: int8)",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="threads of the runtime (default: chosen by the runtime)",
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        type=way_and_shot,
        metavar="NxK",
        help=f"N-way K-shot episodes (default: {_join(FULL_SIZE.shapes)}; for a large encoder {_join(REDUCED_SIZE.shapes)})",
    )
    parser.add_argument(
        "--episodes",
        type=positive,
        metavar="N",
        help=f"episodes of each shape (default: {FULL_SIZE.episodes}; for a large encoder {REDUCED_SIZE.episodes})",
    )
    parser.add_argument(
        "--rule",
        choices=RULES,
        default=RULES[0],
        help=f"score of a class with several shots: the nearest shot, the mean of p(same), or the distance to the mean "
        f"embedding (default: {RULES[0]})",
    )
    parser.add_argument(
        "--supports",
        choices=SUPPORTS,
        default=SUPPORTS[0],
        help="how supports are embedded: in one pass, or as the mean of the variations made at registration "
        f"(default: {SUPPORTS[0]})",
    )
    parser.add_argument(
        "--pairs",
        type=positive,
        default=PAIRS,
        metavar="N",
        help=f"number of verification pairs (default: {PAIRS})",
    )
    parser.add_argument(
        "--per-class",
        type=positive,
        metavar="N",
        help=f"use at most N images of each class (default: all; for a large encoder {REDUCED_SIZE.per_class})",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of episodes and pairs (default: 0)"
    )
    add_output_options(parser)


def _join(shapes: Sequence[tuple[int, int]]) -> str:
    return " ".join(f"{way}x{shot}" for way, shot in shapes)


def way_and_shot(text: str) -> tuple[int, int]:
    """Parse `20x1` to (20, 1)."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or int(match[1]) < 2 or int(match[2]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NxK, such as 20x1 for 20-way 1-shot")
    return int(match[1]), int(match[2])


def run(arguments: argparse.Namespace) -> int:
    model = open_model(arguments.path, arguments.runtime, arguments.precision, arguments.threads)
    console = stderr_console()
    console.print(f"encoder {model.encoder.model_id}: {model.encoder.reason}")
    with working(console, "reading the data"):
        data, splits = data_for(model, arguments.data, arguments.data_root)
        augmented = arguments.supports == "augmented"
        frames = frames_for(model, data, arguments.data_root) if augmented else None
    with working(console, "embedding and scoring"):
        size = default_size(model.macs)
        head, thresholds = head_for(model, data, splits, arguments.data_root)
        result = evaluate(
            model.encoder,
            splits,
            head,
            split=arguments.split,
            thresholds=thresholds,
            shapes=arguments.shapes or size.shapes,
            episode_count=arguments.episodes or size.episodes,
            rule=arguments.rule,
            supports=arguments.supports,
            frames=frames,
            pairs=arguments.pairs,
            per_class=arguments.per_class or size.per_class,
            seed=arguments.seed,
        )
    if arguments.out:
        records.write(arguments.out, [result])
    if arguments.json:
        print(records.dumps(result), end="")
    else:
        show(result)
    return 0


def show(result: Evaluation, console: Console | None = None) -> None:
    """Print an evaluation as tables."""
    console = console or Console(highlight=False)
    data = result.data
    groups = f" in {data.groups} groups" if data.groups > 1 else ""
    seen = ", the split for training" if data.split == "train" else ""
    console.print(f"\n[bold]{result.encoder.model_id}[/bold]  {result.title}")
    console.print(
        f"{data.name}: {data.images:,} images of {data.classes} classes{groups}{seen}",
        markup=False,
        soft_wrap=True,
    )
    table = _table("one-shot and few-shot", "accuracy", "chance", "95 % interval", "from")
    if result.official:
        official = result.official
        table.add_row(
            f"official {official.way}-way 1-shot",
            f"[bold]{official.accuracy:.2%}[/bold]",
            f"{official.chance:.1%}",
            f"{official.low:.1%} to {official.high:.1%}",
            f"{official.correct} of {official.trials} trials",
        )
    for episodes in result.episodes:
        table.add_row(
            f"{episodes.title} {episodes.scope}" if data.groups > 1 else episodes.title,
            f"{episodes.accuracy:.2%}",
            f"{episodes.chance:.1%}",
            "{:.1%} to {:.1%}".format(*episodes.class_interval),
            f"{episodes.episodes:,} episodes",
        )
    console.print(table)
    if any(episodes.classes for episodes in result.episodes):
        console.print("[dim]intervals of episodes: over classes, for another sample of classes[/dim]")
    if result.baseline is not None and result.one_shot:
        console.print(f"starting weights: {result.baseline:.2%} in {result.one_shot.title}", soft_wrap=True)
    for line in result.skipped:
        console.print(f"skipped: {line}", style="dim", markup=False, soft_wrap=True)
    for open_set in result.open_set:
        _show_open_set(open_set, console)
    if result.verification:
        _show_verification(result.verification, console)
    console.print(f"[dim]{result.seconds:.0f} s on {result.machine}[/dim]")


def _show_open_set(result: OpenSet, console: Console) -> None:
    table = _table(f"{result.title}, others unknown", "FAR", "identified", "95 % interval", "at")
    for kind, points in (("", result.points), ("stated for ", result.stated)):
        for point in points:
            table.add_row(
                f"{kind}FAR {point.false_accept_rate:g}",
                f"{point.observed_far:.2%}",
                f"[bold]{point.rate:.1%}[/bold]",
                f"{point.low:.1%} to {point.high:.1%}",
                f"p >= {point.probability:.4f}",
            )
    table.add_row(
        f"without a threshold (chance {1 / result.registered:.1%})",
        "100%",
        f"{result.closed_rate:.1%}",
        "",
        "",
    )
    console.print(table)
    console.print(
        f"[dim]{result.known_queries:,} known and {result.unknown_queries:,} unknown queries in {result.episodes:,} episodes"
        + "".join(f"; too few for FAR {rate:g}" for rate in result.not_stated)
        + "[/dim]"
    )


def _show_verification(result: Verification, console: Console) -> None:
    table = _table("verification", "", "")
    table.add_row("accuracy at p = 0.5", f"[bold]{result.accuracy:.2%}[/bold]", "chance 50%")
    if result.class_low is not None and result.class_high is not None:
        table.add_row("95 % interval over classes", f"{result.class_low:.1%} to {result.class_high:.1%}", "")
    table.add_row(
        "accuracy, best threshold",
        f"{result.best_accuracy:.2%}",
        f"p = {result.best_threshold:.3f}, chosen on these pairs",
    )
    table.add_row("equal error rate", f"{result.eer:.2%}", "chance 50%")
    table.add_row("calibration error (ECE)", f"{result.ece:.4f}", "15 bins of equal width of p(same)")
    table.add_row("Brier score", f"{result.brier:.4f}", "")
    for check in result.thresholds:
        table.add_row(
            f"p >= {check.probability:.4f}",
            f"FAR {check.observed_far:.2e}",
            f"FRR {check.observed_frr:.1%}; stated for FAR {check.false_accept_rate:.0e}",
        )
    console.print(table)
    console.print(f"[dim]{result.describe_pairs()}[/dim]", soft_wrap=True)


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=True)
    return table
