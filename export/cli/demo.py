"""`python -m export demo`: the whole way on drawn glyphs, ending in a process that cannot import torch."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from rich.console import Console

from edge_siamese.errors import SettingsError
from export.cli import benchmark, verify
from export.cli.options import splits_for
from export.demo import recognize, require_device
from export.demo_scene import watch
from export.encoders import build_encoder
from export.pipeline import run_pipeline
from export.reporting.report import write_report
from export.training.settings import TrainingSettings, recipe
from export.training.train import SETTINGS

EXAMPLE = """\
examples:
  python -m export demo --out build/demo
  python -m export demo --out build/demo --fresh

Two minutes of training leave little room between classes: here an int8 file may lose a whole point of accuracy."""

STEPS, BATCH, BUDGET = 560, 192, 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("build/demo"), metavar="DIR", help="(default: build/demo)"
    )
    parser.add_argument("--fresh", action="store_true", help="train anew even if the demo was run before")


def is_other_run(run: Path, settings: TrainingSettings) -> bool:
    """Whether another release's demo left a run there, which this one cannot go on with."""
    try:
        former = TrainingSettings.from_dict(json.loads((run / SETTINGS).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return False
    except (ValueError, TypeError, SettingsError):
        return True
    return bool(settings.differences(former))


def run(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    require_device()
    settings = recipe("glyphnet", data="glyphs", steps=STEPS, batch=BATCH, validations=6)
    splits = splits_for(settings, build_encoder("glyphnet"), None)
    fresh = arguments.fresh or is_other_run(arguments.out / "train", settings)
    result = run_pipeline(
        settings, splits, arguments.out, int8_budget=BUDGET, fresh=fresh, rounds=2, command="make demo"
    )
    demo = recognize(result.bundle, splits, arguments.out)
    report = write_report(arguments.out)
    console = Console(highlight=False)
    for evaluation in result.evaluations:
        shot = evaluation.episodes[0]
        console.print(
            f"{evaluation.encoder.title}: {shot.title} {shot.accuracy:.1%} ({shot.low:.1%} to {shot.high:.1%})"
        )
    verify.show(result.verification)
    benchmark.show(result.benchmark)
    print(
        f"\nwithout torch, on {demo.runtime} {demo.precision}: {demo.right} of {len(demo.queries)} pictures right, "
        f"after one look at each of {len(demo.supports)} objects"
    )
    print(
        "\nthe daemon watches a synthetic scene, and its button is pressed; where its dashboard can be watched "
        "meanwhile, it says:\n"
    )
    story = watch(result.bundle, require_device(), arguments.out, lambda line: print(f"  {line}", flush=True))
    print(
        f"\n{', '.join(story.learned)}: learned at the press of a button and recognized when they came back; "
        f"{story.undone}: taken back, and unknown again; its dashboard was at {story.dashboard}; make run goes on with "
        "both, until Ctrl-C"
    )
    print(f"{(time.monotonic() - started) / 60:.1f} minutes; report: {report}")
    verify.require(result.verification)
    return 0
