"""Anti-forgetting loss: keeps the initial embeddings of unrelated pictures while an encoder is fine-tuned.

After Li and Hoiem, "Learning without Forgetting" (2016), with embeddings in place of class scores: besides the training
images, the encoder sees pictures of other things, for which the initial network provides the targets.
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
from export.data.folders import pictures_below, prepared_pictures
from export.encoders import EncoderNetwork

MIN_IMAGES = 100
_MEAN_IMAGES = 512
"""Number of images from which the mean embedding is computed."""
_SEED = 6


class AntiForgettingLoss:
    """Unrelated pictures, and the distance of their embeddings from those of the initial network.

    Args:
        initial: the network to stay close to; it is not modified.
        folder: JPEG, PNG or WebP files, in any subfolders.
        preprocessing: how training images are prepared.
        seed: decides which pictures each step uses and how they are augmented.

    Raises:
        DataError: the folder does not exist or holds fewer than `MIN_IMAGES` pictures.
    """

    def __init__(
        self, initial: EncoderNetwork, folder: Path, preprocessing: Preprocessing, seed: int
    ) -> None:
        files = list(pictures_below(folder)) if folder.is_dir() else []
        images, _ = prepared_pictures(folder, files, preprocessing)
        if len(images) < MIN_IMAGES:
            raise DataError(
                f"{folder} has {len(images)} pictures for the anti-forgetting loss, at least {MIN_IMAGES} are needed; "
                "scripts/fetch_photographs.py downloads some"
            )
        self.images = images
        self.seed = seed
        self.size = initial.cropped_size
        self.initial = initial
        self.device = initial.device
        chosen = np.random.default_rng([seed, _SEED]).permutation(len(images))[:_MEAN_IMAGES]
        sample = torch.from_numpy(images[np.sort(chosen)]).permute(0, 3, 1, 2)
        with torch.no_grad():
            embeddings = [
                F.normalize(initial(self._resize(part.to(self.device).float())))
                for part in torch.split(sample, 64)
            ]
        self.mean = torch.cat(embeddings).mean(dim=0)

    def batch(self, count: int, step: int) -> tuple[Tensor, Tensor]:
        """Augmented pictures and their targets; a pure function of the seed and the step.

        Returns:
            Pixels float32 (count, 3, H, W) in 0..255, and centered initial embeddings float32 (count, D), unit vectors.
        """
        rng = np.random.default_rng([self.seed, _SEED, step])
        chosen = torch.from_numpy(self.images[rng.integers(0, len(self.images), count)])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        pixels = augment(
            chosen.permute(0, 3, 1, 2).float(), AUGMENTATIONS["photo"], generator, fill=None, size=self.size
        )
        pixels = pixels.to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            return pixels, self.center(self.initial(pixels))

    def center(self, embeddings: Tensor) -> Tensor:
        """Embeddings (N, D) to unit vectors (N, D), relative to the mean of all pictures."""
        return F.normalize(F.normalize(embeddings) - self.mean)

    def loss(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Mean of 1 - cosine between embeddings (N, D), not normalized, and the targets (N, D) of `batch`."""
        return (1.0 - (self.center(embeddings) * targets).sum(dim=1)).mean()

    def _resize(self, pixels: Tensor) -> Tensor:
        return F.interpolate(pixels, self.size, mode="bilinear", antialias=True)
