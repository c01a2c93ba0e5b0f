"""What every encoder is: an `nn.Module` from image bytes to embeddings that says what it reads and where it is from."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.imaging import Preprocessing


class EncoderNetwork(nn.Module):
    """`forward` takes bytes (N, C, H, W) as float32 in 0..255 and returns embeddings (N, D), not normalized.

    The scaling of the pixels is its first operation, so that it is inside every exported graph.
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    normalization: ClassVar[Literal["l2", "none"]]
    """How the device finishes an embedding: to unit length, or not at all."""
    published: ClassVar[str] = ""
    """What the published weights are and under which license, if there are any; for the model card."""
    dimensions: int
    preprocessing: Preprocessing
    training_preprocessing: Preprocessing | None = None
    """How pictures are prepared that augmentation cuts its training images out of; None: as `preprocessing` says."""

    def load_published_weights(self) -> None:
        """Take the weights of somebody's earlier training; raises `SettingsError` if there are none for this encoder."""
        raise SettingsError(f"there are no published weights for {self.name}; start it from random ones")
