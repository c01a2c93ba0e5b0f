"""`python -m export pipeline`: from images to a verified bundle and a report."""

from __future__ import annotations

import argparse
import shlex
import sys

from export.cli import benchmark, data, evaluate, verify
from export.cli.bundle import add_budget
from export.cli.options import (
    add_data_options,
    add_recipe_options,
    add_training_options,
    count,
    list_recipes,
    output_directory,
    set_threads,
    splits_for,
    training_settings,
)
from export.conversion.operations import require_convertible
from export.data.data_card import data_card
from export.data.folds import MAX_FOLDS
from export.encoders import build_encoder
from export.evaluation.cross_validation import MAX_CLASSES, plan
from export.evaluation.verdict import Verdict
from export.pipeline import run_pipeline
from export.progress import stderr_console
from export.training.distributed import require_single_process

EXAMPLE = f"""\
examples:
  python -m export pipeline --data omniglot --encoder glyphnet --out build/omniglot
  python -m export pipeline --recipe objects
  python -m export pipeline --data folder:photos --out build/photos
  python -m export pipeline --data folder:photos --folds 0 --out build/photos

Ctrl-C saves the training run; the same command resumes it.

recipes:
{list_recipes()}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser, default="the encoder's own data")
    add_recipe_options(parser, "directory of the results")
    add_budget(parser)
    parser.add_argument(
        "--folds",
        type=count,
        metavar="N",
        help="folds of classes for cross-validation of a folder, each an additional training run; 0 for none (default: up "
        f"to {MAX_FOLDS} if there are fewer than {MAX_CLASSES} classes without splits, otherwise none)",
    )
    add_training_options(parser)


def run(arguments: argparse.Namespace) -> int:
    require_single_process("pipeline")
    out = output_directory(arguments)
    settings = training_settings(arguments)
    set_threads(arguments)
    encoder = build_encoder(settings.encoder)
    require_convertible(encoder)
    splits = splits_for(settings, encoder, arguments.data_root)
    command = shlex.join(["python", "-m", "export", *sys.argv[1:]])
    card = None
    if splits.files is not None:
        card = data_card(splits, encoder.preprocessing)
        data.show(card, stderr_console(), brief=True)
    folds = plan(settings, splits, arguments.folds)
    result = run_pipeline(
        settings, splits, out, arguments.int8_budget, arguments.fresh, command=command, card=card, folds=folds
    )
    for evaluation in result.evaluations:
        evaluate.show(evaluation)
    verify.show(result.verification)
    benchmark.show(result.benchmark)
    if result.verdict is not None:
        show_verdict(result.verdict)
    print(f"\nreport: {result.report}")
    verify.require(result.verification)
    return 0


def show_verdict(verdict: Verdict) -> None:
    """Print the candidates, and which of them to use."""
    print(
        f"\nwhich encoder: {verdict.way}-way one-shot, chance {1 / verdict.way:.1%}; 95 % intervals over classes"
    )
    print(verdict.measured)
    for candidate in verdict.candidates:
        print(
            f"  {candidate.name:<26} {candidate.accuracy:6.1%}  {100 * candidate.low:.1f} to {100 * candidate.high:.1f}"
        )
    for line in verdict.skipped:
        print(f"  skipped: {line}")
    print(verdict.sentence)
    if verdict.advice:
        print(verdict.advice)
