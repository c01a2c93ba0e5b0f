"""Draws examples/turning: renderings of CC0 models that turn before the camera, cut out, for the demo's scene.

.venv/bin/python scripts/fetch_models.py --out build/models
.venv/bin/python scripts/draw_turning_objects.py
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
from export.data.credits import credits_page
from export.data.turntable import find_models, load_view, render_models

OBJECTS = ("Teddy bear", "Coffee cup", "Headphones", "Biplane", "Cactus")
"""In the order of the scene: three that are registered, a stranger, one that is registered by mistake."""
ELEVATION = 20
AZIMUTHS = tuple(range(-48, 49, 6))
"""Degrees from the front."""
SIDE, QUALITY = 160, 70


def cropped(views: list[Bytes]) -> list[Image.Image]:
    """Views, uint8 (side, side, 4), reduced to the square around the object in all of them."""
    rows, columns = np.nonzero(np.max([view[..., 3] for view in views], axis=0) > 8)
    center = (rows.min() + rows.max() + 1) / 2, (columns.min() + columns.max() + 1) / 2
    half = max(np.ptp(rows), np.ptp(columns)) / 2 + 2
    box = (center[1] - half, center[0] - half, center[1] + half, center[0] + half)
    return [
        Image.fromarray(view).resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box, reducing_gap=2.0)
        for view in views
    ]


def main(arguments: argparse.Namespace) -> None:
    models = {
        model.object.name: model for model in find_models(arguments.models) if model.object.name in OBJECTS
    }
    if missing := set(OBJECTS) - set(models):
        raise DataError(f"{arguments.models} has no {', '.join(sorted(missing))}")
    azimuths = [azimuth % 360 for azimuth in AZIMUTHS]
    objects = render_models(
        [models[name] for name in OBJECTS],
        arguments.renderings,
        elevations=[ELEVATION],
        azimuths=azimuths,
        side=2 * SIDE,
        jobs=os.cpu_count() or 1,
    )
    for place, turning in enumerate(objects, 1):
        views = [load_view(arguments.renderings, turning, ELEVATION, azimuth) for azimuth in azimuths]
        folder = arguments.out / f"{place}-{turning.name.lower().replace(' ', '-')}"
        folder.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(cropped(views), 1):
            content = io.BytesIO()
            picture.save(content, "WEBP", quality=QUALITY, alpha_quality=QUALITY, method=6)
            write_atomically(
                folder / f"{number:02}.webp", lambda file, content=content: file.write(content.getvalue())
            )
    print(f"{arguments.out}: {len(objects)} objects, {len(AZIMUTHS)} views each; for examples/README.md:\n")
    print(credits_page(objects).partition("several sides.\n\n")[2], end="")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--models", type=Path, default=Path("build/models/BlendSwap-CC-0.sh3f"), help="(default: %(default)s)"
)
parser.add_argument(
    "--renderings", type=Path, default=Path("build/turntable/turning"), help="(default: %(default)s)"
)
parser.add_argument("--out", type=Path, default=Path("examples/turning"), help="(default: %(default)s)")

if __name__ == "__main__":
    try:
        main(parser.parse_args())
    except EdgeSiameseError as error:
        sys.exit(f"error: {error}")
