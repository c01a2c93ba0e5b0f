"""Initial projection of the features of a pretrained network: their principal components on some images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from edge_siamese.recognition.imaging import Bytes

PROJECTED_IMAGES = 2048
"""Number of images whose features determine the initial projection."""
PROJECTION_SCALE = 0.25
"""Scale of the initial projection: only its direction matters, and smaller weights change faster in training."""


@torch.no_grad()
def fit_to_principal_components(
    projection: nn.Linear, features_of: Callable[[Tensor], Tensor], images: Bytes
) -> None:
    """Set a projection to the principal components of the features of some images.

    Args:
        projection: from the features to the embedding.
        features_of: pixels (N, C, H, W), float32 in 0..255, to features (N, F).
        images: uint8 (N, H, W, C).
    """
    device = projection.weight.device
    chosen = np.linspace(0, len(images) - 1, min(len(images), PROJECTED_IMAGES)).astype(np.int64)
    features = torch.cat(
        [
            features_of(torch.from_numpy(images[part]).permute(0, 3, 1, 2).to(device).float())
            for part in np.array_split(chosen, max(1, len(chosen) // 64))
        ]
    )
    mean = features.mean(dim=0)
    centered = (features - mean).double()
    covariance = centered.T @ centered
    components = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, : projection.out_features].T
    weight = components.to(mean.dtype) * PROJECTION_SCALE
    projection.weight.copy_(weight)
    projection.bias.copy_(-weight @ mean)
