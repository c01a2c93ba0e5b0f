"""Lets an encoder that starts from published weights remember what it knew, while it learns about few kinds of things.

Li and Hoiem, "Learning without Forgetting" (2016): besides the pictures that it is trained on, the encoder sees pictures
of anything, for which it is to keep the answers of the network that it started from; here the answers are embeddings.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing
from export.data.augment import AUGMENTATIONS, augment
from export.data.folders import SUFFIXES, prepared_pictures
from export.encoders import EncoderNetwork

FEWEST = 100
_MEASURED = 512
"""Pictures whose mean embedding is what all have in common."""
_SEED = 6


class Memory:
    """Pictures to remember by, and what the network of the start says about them."""

    def __init__(self, start: EncoderNetwork, folder: Path, preprocessing: Preprocessing, seed: int) -> None:
        """Read all pictures below a folder, prepared as training pictures are.

        Args:
            start: the network to remember; it is not changed.
            folder: JPEG, PNG or WebP files, in any folders.
            preprocessing: of the training pictures.
            seed: decides which picture is seen when, and how distorted.

        Raises:
            DataError: there is no such folder, or fewer than `FEWEST` pictures in it.
        """
        files = (
            sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
        )
        images, _ = prepared_pictures(folder, files, preprocessing)
        if len(images) < FEWEST:
            raise DataError(
                f"{folder} has {len(images)} pictures to remember by, at least {FEWEST} are needed; "
                "scripts/fetch_photographs.py fetches some"
            )
        self.images = images
        self.seed = seed
        own = start.preprocessing
        self.size = (own.height, own.width)
        self.start = start
        self.device = next(start.parameters()).device
        chosen = np.random.default_rng([seed, _SEED]).permutation(len(images))[:_MEASURED]
        whole = torch.from_numpy(images[np.sort(chosen)]).permute(0, 3, 1, 2)
        with torch.no_grad():
            seen = [
                F.normalize(start(self._fitted(part.to(self.device).float())))
                for part in torch.split(whole, 64)
            ]
        self.common = torch.cat(seen).mean(dim=0)

    def batch(self, count: int, step: int) -> tuple[Tensor, Tensor]:
        """The pictures of a step, a pure function of the seed and the step, and what the start says about them.

        Returns:
            float32 (count, 3, H, W) in 0..255, and float32 (count, D), unit vectors.
        """
        rng = np.random.default_rng([self.seed, _SEED, step])
        chosen = torch.from_numpy(self.images[rng.integers(0, len(self.images), count)])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        pixels = augment(
            chosen.permute(0, 3, 1, 2).float(),
            AUGMENTATIONS["photo"],
            generator,
            paper=None,
            size=self.size,
        )
        pixels = pixels.to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            return pixels, self.centered(self.start(pixels))

    def centered(self, embeddings: Tensor) -> Tensor:
        """Embeddings (N, D) to unit vectors (N, D) from what all pictures have in common."""
        return F.normalize(F.normalize(embeddings) - self.common)

    def forgotten(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """The mean of 1 - cosine between embeddings (N, D), not normalized, and what the start says of the pictures."""
        return (1.0 - (self.centered(embeddings) * targets).sum(dim=1)).mean()

    def _fitted(self, pixels: Tensor) -> Tensor:
        return F.interpolate(pixels, self.size, mode="bilinear", antialias=True)
