"""Draws examples/pictures: renderings of CC0 models from several sides, in front of plain and textured backgrounds.

.venv/bin/python scripts/fetch_models.py --out build/models
.venv/bin/python scripts/draw_example_pictures.py
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from edge_siamese.errors import DataError, EdgeSiameseError
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.system.files import write_atomically
from export.data.composition import Light, Placement, drawn_background, photographed, place
from export.data.credits import credits_page
from export.data.turntable import find_models, load_view, render_models

THINGS = (
    "Basketball", "Biplane", "Briefcase", "Cactus", "Coffee brewer", "Coffee cup", "Desk lamp", "Milk", "Plastic cup",
    "Table fan", "Teddy bear", "Text marker",
)  # fmt: skip
VIEWS = ((15, 0), (35, 30), (15, 330), (35, 60), (15, 300), (35, 90))
"""Elevation and azimuth of the camera for each picture of a thing, in degrees."""
SIDE, QUALITY = 160, 75


def background(rng: np.random.Generator, is_plain: bool) -> Bytes:
    """A paper in a light color, or a table in front of a wall; uint8 (SIDE, SIDE, 3)."""
    if not is_plain:
        return drawn_background(rng, SIDE, SIDE)
    return np.full((SIDE, SIDE, 3), rng.uniform(150, 235) + rng.uniform(-25, 25, 3)).astype(np.uint8)


def draw(cut_out: Bytes, rng: np.random.Generator, is_plain: bool) -> Bytes:
    """A picture of a thing, uint8 (SIDE, SIDE, 3), from a cut-out in RGBA."""
    x, y = rng.uniform(0.45, 0.55, 2)
    placement = Placement(x, y, rng.uniform(0.85, 1.0), rng.uniform(-6, 6))
    scene = place(background(rng, is_plain), cut_out, placement)
    noise = rng.normal(0, 1.5, scene.shape).astype(np.float32)
    return photographed(scene, Light(rng.uniform(0.85, 1.15), rng.uniform(0.95, 1.05)), noise)


def main(arguments: argparse.Namespace) -> None:
    models = [model for model in find_models(arguments.models) if model.object.name in THINGS]
    models = list({model.object.name: model for model in models}.values())
    if missing := set(THINGS) - {model.object.name for model in models}:
        raise DataError(f"{arguments.models} has no {', '.join(sorted(missing))}")
    folder = arguments.renderings
    elevations, azimuths = (sorted(set(angles)) for angles in zip(*VIEWS, strict=True))
    things = render_models(
        models, folder, elevations=elevations, azimuths=azimuths, side=2 * SIDE, jobs=os.cpu_count() or 1
    )
    for thing in things:
        for number, (elevation, azimuth) in enumerate(VIEWS, 1):
            rng = np.random.default_rng([arguments.seed, THINGS.index(thing.name), number])
            picture = draw(load_view(folder, thing, elevation, azimuth), rng, is_plain=number % 2 == 1)
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "WEBP", quality=QUALITY, method=6)
            path = arguments.out / thing.name.lower().replace(" ", "-") / f"{number}.webp"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file, content=content: file.write(content.getvalue()))
    print(f"{arguments.out}: {len(things)} things, {len(VIEWS)} pictures each; for examples/README.md:\n")
    print(credits_page(things).partition("several sides.\n\n")[2], end="")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--models", type=Path, default=Path("build/models/BlendSwap-CC-0.sh3f"), help="(default: %(default)s)"
)
parser.add_argument(
    "--renderings", type=Path, default=Path("build/turntable/examples"), help="(default: %(default)s)"
)
parser.add_argument("--out", type=Path, default=Path("examples/pictures"), help="(default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")

if __name__ == "__main__":
    try:
        main(parser.parse_args())
    except EdgeSiameseError as error:
        sys.exit(f"error: {error}")
