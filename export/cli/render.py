"""`python -m export render`: render 3-D models from many sides."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from edge_siamese.errors import SettingsError
from edge_siamese.events import counted
from edge_siamese.system.files import write_text_atomically
from export.cli.options import amount, count, positive
from export.data.credits import credits_page
from export.data.turntable import AZIMUTHS, ELEVATIONS, SIDE, Model, find_models, render_models
from export.progress import counting, stderr_console

EXAMPLE = """\
examples:
  python -m export render build/models/BlendSwap-CC-0.sh3f --max-size 70 --out build/turntable
  python -m export render ~/products --out build/products
  python -m export render ~/products --views 36 --elevations 20 --out build/turning

MODELS is a furniture library of Sweet Home 3D (.sh3f), a folder with such files, or a folder of .obj and .glb files with y
upward. `scripts/fetch_models.py` fetches Sweet Home 3D's libraries. Each model is rendered in its own process; those
that cannot be rendered are skipped. The same command continues an interrupted run. It needs EGL (Debian: libegl1)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", type=Path, nargs="+", metavar="MODELS", help="libraries and folders of models"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument(
        "--views",
        type=positive,
        default=len(AZIMUTHS),
        metavar="N",
        help=f"views around an object, at each elevation; divides 360 (default: {len(AZIMUTHS)})",
    )
    parser.add_argument(
        "--elevations",
        type=elevation,
        nargs="+",
        default=list(ELEVATIONS),
        metavar="DEGREES",
        help="heights of the camera above the horizon, 0 to 90; with one, the pictures of an object are an even turn, which "
        f"the synthetic camera can show (default: {' '.join(map(str, ELEVATIONS))})",
    )
    parser.add_argument(
        "--side",
        type=positive,
        default=SIDE,
        metavar="PIXELS",
        help=f"side of the pictures (default: {SIDE})",
    )
    parser.add_argument(
        "--max-size",
        type=amount,
        metavar="CM",
        help="only models whose longest dimension is at most this (default: all)",
    )
    parser.add_argument(
        "--credits",
        type=Path,
        metavar="FILE",
        help="also write a Markdown page with the authors and licenses of the models",
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="number of processes (default: one per core)",
    )


def elevation(text: str) -> int:
    """Whole degrees above the horizon, 0 to 90."""
    degrees = count(text)
    if degrees > 90:
        raise argparse.ArgumentTypeError(f"{text!r} is not an elevation from 0 to 90 degrees")
    return degrees


def run(arguments: argparse.Namespace) -> int:
    console = stderr_console()
    if 360 % arguments.views:
        raise SettingsError(f"--views must divide 360, not {arguments.views}")
    elevations = sorted(set(arguments.elevations))
    models = [model for path in arguments.models for model in find_models(path)]
    if arguments.max_size is not None:
        models = [model for model in models if 0 < model.object.size_cm <= arguments.max_size]
        if not models:
            raise SettingsError(f"no model has a known size of at most {arguments.max_size:g} cm")
    with counting(console, f"rendering {counted(len(models), 'model')}", len(models)) as advance:

        def done(model: Model, failure: str) -> None:
            if failure:
                console.print(f"{model.object.id}: skipped: {failure}", markup=False, soft_wrap=True)
            advance()

        objects = render_models(
            models,
            arguments.out,
            azimuths=range(0, 360, 360 // arguments.views),
            elevations=elevations,
            side=arguments.side,
            jobs=arguments.jobs,
            done=done,
        )
    if arguments.credits:
        write_text_atomically(arguments.credits, credits_page(objects))
    views = arguments.views * len(elevations)
    outcome = f"{arguments.out}: {counted(len(objects), 'object')}, {views} views each"
    console.print(outcome, markup=False, soft_wrap=True)
    return 0
