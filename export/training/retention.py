"""Anti-forgetting loss: keeps the initial embeddings of unrelated pictures while an encoder is fine-tuned.

After Li and Hoiem, "Learning without Forgetting" (2016), with embeddings in place of class scores: besides the training
images, the encoder sees pictures of other things, for which the initial network provides the targets.
"""

from __future__ import annotations

from collections.abc import Iterator
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


class UnrelatedPictures:
    """Pictures of anything, which accompany the training images.

    Args:
        folder: JPEG, PNG or WebP files, in any subfolders.
        preprocessing: how training images are prepared.
        size: height and width of training images after augmentation.
        seed: decides which pictures each step uses and how they are augmented.
        worker: rank of the worker; each draws other batches, and all have the same `sample`.

    Raises:
        DataError: the folder does not exist or holds fewer than `MIN_IMAGES` pictures.
    """

    def __init__(
        self, folder: Path, preprocessing: Preprocessing, size: tuple[int, int], seed: int, worker: int = 0
    ) -> None:
        files = list(pictures_below(folder)) if folder.is_dir() else []
        self.images, _ = prepared_pictures(folder, files, preprocessing)
        if len(self.images) < MIN_IMAGES:
            raise DataError(
                f"{folder} has {len(self.images)} unrelated pictures, at least {MIN_IMAGES} are needed; "
                "scripts/fetch_photographs.py downloads some"
            )
        self.size, self.seed, self.worker = size, seed, worker

    def batch(self, count: int, step: int) -> Tensor:
        """Augmented pictures, pixels float32 (count, 3, H, W) in 0..255; a pure function of the seed and the step."""
        rng = np.random.default_rng([self.seed + self.worker, _SEED, step])
        chosen = torch.from_numpy(self.images[rng.integers(0, len(self.images), count)])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        pixels = augment(
            chosen.permute(0, 3, 1, 2).float(), AUGMENTATIONS["photo"], generator, fill=None, size=self.size
        )
        return pixels.contiguous(memory_format=torch.channels_last)

    def sample(self, count: int) -> Iterator[Tensor]:
        """`count` different pictures, or all, resized, in blocks: float32 (n, 3, H, W)."""
        chosen = np.random.default_rng([self.seed, _SEED]).permutation(len(self.images))[:count]
        for part in torch.split(torch.from_numpy(np.sort(chosen)), 64):
            pixels = torch.from_numpy(self.images[part.numpy()]).permute(0, 3, 1, 2).float()
            yield F.interpolate(pixels, self.size, mode="bilinear", antialias=True)


class AntiForgettingLoss:
    """The distance of the embeddings of unrelated pictures from those of the initial network.

    Args:
        initial: the network to stay close to; it is not modified.
        pictures: the unrelated pictures.
    """

    def __init__(self, initial: EncoderNetwork, pictures: UnrelatedPictures) -> None:
        self.pictures = pictures
        self.initial = initial
        self.device = initial.device
        with torch.no_grad():
            embeddings = [
                F.normalize(initial(pixels.to(self.device))) for pixels in pictures.sample(_MEAN_IMAGES)
            ]
        self.mean = torch.cat(embeddings).mean(dim=0)

    def batch(self, count: int, step: int) -> tuple[Tensor, Tensor]:
        """Augmented pictures and their targets; a pure function of the seed and the step.

        Returns:
            Pixels float32 (count, 3, H, W) in 0..255, and centered initial embeddings float32 (count, D), unit vectors.
        """
        pixels = self.pictures.batch(count, step).to(self.device)
        with torch.no_grad():
            return pixels, self.center(self.initial(pixels))

    def center(self, embeddings: Tensor) -> Tensor:
        """Embeddings (N, D) to unit vectors (N, D), relative to the mean of all pictures."""
        return F.normalize(F.normalize(embeddings) - self.mean)

    def loss(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Mean of 1 - cosine between embeddings (N, D), not normalized, and the targets (N, D) of `batch`."""
        return (1.0 - (self.center(embeddings) * targets).sum(dim=1)).mean()
