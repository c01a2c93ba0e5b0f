"""`python -m export demo`: train, quantize, export and measure on drawn glyphs, then run the daemon on turning objects."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from rich.console import Console

from edge_siamese.errors import SettingsError
from export.cli import benchmark, verify
from export.cli.options import splits_for
from export.demo import play_scene, recognize, require_device
from export.encoders import build_encoder
from export.pipeline import run_pipeline
from export.reporting.report import write_report
from export.training.checkpoint import SETTINGS
from export.training.settings import TrainingSettings, settings_for

EXAMPLE = """\
examples:
  python -m export demo --out build/demo
  python -m export demo --out build/demo --fresh

After two minutes of training classes are still hard to tell apart, so an int8 file may lose one point of accuracy here."""

STEPS, BATCH, BUDGET = 560, 192, 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/demo"),
        metavar="DIR",
        help="directory of the results (default: build/demo)",
    )
    parser.add_argument("--fresh", action="store_true", help="train again, even if the demo was run before")


def has_other_settings(run: Path, settings: TrainingSettings) -> bool:
    """Whether the directory has a run that these settings cannot continue, such as that of another release."""
    try:
        previous = TrainingSettings.from_dict(json.loads((run / SETTINGS).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return False
    except (ValueError, TypeError, SettingsError):
        return True
    return bool(settings.differences(previous))


def run(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    require_device()
    settings = settings_for("glyphnet", data="glyphs", steps=STEPS, batch=BATCH, validations=6)
    splits = splits_for(settings, build_encoder("glyphnet"), None)
    fresh = arguments.fresh or has_other_settings(arguments.out / "train", settings)
    result = run_pipeline(
        settings, splits, arguments.out, int8_budget=BUDGET, fresh=fresh, rounds=2, command="make demo"
    )
    demo = recognize(result.bundle, splits, arguments.out)
    report = write_report(arguments.out)
    console = Console(highlight=False)
    for evaluation in result.evaluations:
        shot = evaluation.episodes[0]
        low, high = shot.class_interval
        console.print(
            f"{evaluation.encoder.title}: {shot.title} {shot.accuracy:.1%} ({low:.1%} to {high:.1%} over {shot.classes} "
            f"classes, chance {shot.chance:.1%})",
            soft_wrap=True,
        )
    verify.show(result.verification)
    benchmark.show(result.benchmark)
    print(
        f"\nWithout torch, on {demo.runtime} {demo.precision}: {demo.right} of {len(demo.queries)} pictures named "
        f"correctly, after one picture of each of {len(demo.supports)} objects; guessing gives {demo.chance:.1f}."
    )
    print(
        "\nThe daemon now runs the shipped bundle for objects on a rendered scene, in which things come, turn and leave, "
        "and the button is pressed. It prints the address of its dashboard:\n"
    )
    scene = play_scene(arguments.out, lambda line: print(f"  {line}", flush=True))
    print(f"\n{', '.join(scene.recognized)}: registered at the button and recognized when they returned.")
    print(f"{scene.undone}: registered by mistake, undone, and unknown again.")
    print(
        f"The dashboard was at {scene.dashboard}. `make run` runs the scene and the dashboard until Ctrl-C."
    )
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes. Report: {report}")
    verify.require(result.verification)
    return 0
