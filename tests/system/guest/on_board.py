"""Runs in an emulated userland: embeds, registers and recognizes with one runtime, and prints the results as JSON."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import numpy as np

from edge_siamese import Recognizer
from edge_siamese.models.bundle import load_bundle


def main(bundle_directory: str, runtime: str, precision: str, pictures: str) -> None:
    bundle = load_bundle(bundle_directory)
    recognizer = Recognizer(bundle, runtime=runtime, precision=precision, threads=1)
    embeddings = recognizer.encoder.embed_prepared(bundle.golden.images)
    for path in sorted(Path(pictures, "support").glob("*.png")):
        recognizer.register(path.stem, path)
    found = {}
    for path in sorted(Path(pictures, "query").glob("*.png")):
        recognition = recognizer.recognize(path)
        found[path.stem] = {"name": recognition.name, "probability": recognition.probability}
    report = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "runtime": recognizer.encoder.runtime,
        "objects": len(recognizer.support),
        "embeddings": embeddings.tolist(),
        "recognitions": found,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
