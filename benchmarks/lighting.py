"""Measures how far embeddings of drawings move when the paper gets darker or the ink paler.

    .venv/bin/python benchmarks/lighting.py benchmarks/omniglot-glyphnet benchmarks/glyphs      # half a minute

Omniglot is taken from EDGE_SIAMESE_DATA, or fetched once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from export.data import load_splits
from export.training.network import TorchEncoder, load_run

DRAWINGS = 400
LIGHTING = {
    "paper 240": (240, 0),
    "paper 180": (180, 0),
    "ink 60": (255, 60),
    "paper 160 and ink 50": (160, 50),
}
"""The bytes of paper and ink, which are 255 and 0 in the data."""


def main() -> int:
    """Print one line per network and lighting condition: the mean Euclidean distance of unit vectors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="training runs with weights")
    torch.set_num_threads(1)
    for path in parser.parse_args().runs:
        network = load_run(path)
        encoder = TorchEncoder(network.module, network.model_id)
        images = load_splits("omniglot", network.preprocessing).validation.images[:DRAWINGS]
        plain = _unit(encoder.embed_prepared(images))
        for name, (paper, ink) in LIGHTING.items():
            changed = np.round(ink + (paper - ink) * (images / 255.0)).astype(np.uint8)
            moved = np.linalg.norm(_unit(encoder.embed_prepared(changed)) - plain, axis=1).mean()
            print(f"{path.name}: {name}: {moved:.3f}")
    return 0


def _unit(embeddings: np.ndarray) -> np.ndarray:
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))


if __name__ == "__main__":
    sys.exit(main())
