"""The last step of the demo: a process without torch learns objects from one picture each and recognizes others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from edge_siamese.errors import EncoderError
from edge_siamese.models.bundle import Bundle
from export import records
from export.data.images import ImageSet, Splits
from export.evaluation.evaluate import as_data_uri
from export.evaluation.remote_runtime import device_python, run_device
from export.provenance import machine
from export.reporting.report import Demo, DemoQuery, DemoSupport

# Letters of an invented alphabet have invented names.
NAMES = ("ama", "beko", "duri", "felu", "gona")
UNKNOWN = 3


def recognize(bundle: Bundle, splits: Splits, out: Path) -> Demo:
    """Draw pictures of characters that were never trained on, and let the device's side recognize them.

    Args:
        bundle: what the device loads.
        splits: the evaluation classes give the pictures.
        out: gets `pictures/` and `demo.json`.

    Raises:
        EncoderError: there is no interpreter that stands for the device.
    """
    python = require_device()
    pictures = out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    images = splits.evaluation
    group = np.flatnonzero(images.class_groups == images.class_groups[0])
    classes = group[: len(NAMES) + UNKNOWN]
    supports = {
        name: _save(images, classes[i], 0, pictures / f"{name}-support.png") for i, name in enumerate(NAMES)
    }
    queries: list[tuple[Path, str | None]] = [
        (_save(images, classes[i], view, pictures / f"{name}-{label}.png"), name)
        for i, name in enumerate(NAMES)
        for view, label in ((1, "query"), (2, "query-2"))
    ]
    queries += [
        (_save(images, c, 0, pictures / f"stranger-{i + 1}.png"), None)
        for i, c in enumerate(classes[len(NAMES) :])
    ]
    options = [part for name, path in supports.items() for part in ("--object", f"{name}={path.resolve()}")]
    files = [str(path.resolve()) for path, _ in queries]
    arguments = ["recognize", str(bundle.path.resolve()), *files, *options, "--json"]
    said = json.loads(run_device(python, arguments))
    demo = Demo(
        supports=tuple(DemoSupport(name, _picture(path)) for name, path in supports.items()),
        queries=tuple(
            DemoQuery(_picture(path), truth, answer["name"], answer["probability"])
            for (path, truth), answer in zip(queries, said["recognitions"], strict=True)
        ),
        runtime=said["runtime"],
        precision=said["precision"],
        threshold=said["threshold"],
        command="make demo",
        machine=machine(),
    )
    records.write(out / "demo.json", demo)
    return demo


def require_device() -> Path:
    """The interpreter that stands for the device.

    Raises:
        EncoderError: there is none.
    """
    python = device_python()
    if python is None:
        raise EncoderError("there is no interpreter without torch; `make setup` makes .venv-device")
    return python


def _save(images: ImageSet, of: int, view: int, path: Path) -> Path:
    Image.fromarray(images.images[images.images_of(int(of))[view], ..., 0]).save(path)
    return path


def _picture(path: Path) -> str:
    with Image.open(path) as picture:
        return as_data_uri(np.asarray(picture)[..., None])
