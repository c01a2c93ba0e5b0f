"""Base class of the encoders."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import nn

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.imaging import Bytes, Preprocessing


class EncoderNetwork(nn.Module):
    """A network from image bytes to embeddings.

    `forward` maps pixels (N, C, H, W), float32 in 0..255, to embeddings float32 (N, D), not normalized. It scales the pixels
    itself, so that the scaling is part of every exported graph.
    """

    name: str
    citation: str
    normalization: ClassVar[Literal["l2", "none"]]
    """`l2`: the device scales embeddings to unit length."""
    published_weights: ClassVar[str] = ""
    """Description and license of the published weights, for the model card; empty if there are none."""
    formats: ClassVar[tuple[Literal["onnx", "tflite"], ...]] = ("onnx", "tflite")
    """Formats that a bundle of this encoder has files in."""
    trainable: ClassVar[bool] = True
    dimensions: int
    preprocessing: Preprocessing
    training_preprocessing: Preprocessing | None = None
    """Preprocessing of the larger pictures from which training images are cropped; None: that of `preprocessing`."""
    training_size: tuple[int, int] | None = None
    """Height and width of training images; None: those of `preprocessing`."""

    @property
    def cropped_size(self) -> tuple[int, int]:
        """Height and width of training images after augmentation."""
        return self.training_size or (self.preprocessing.height, self.preprocessing.width)

    def initialize(self, scheme: str) -> None:
        """Draw random weights by another scheme than the encoder's own; raises `SettingsError` if there is none."""
        raise SettingsError(f"{self.name} has no initialization {scheme!r}; use --initialization encoder")

    def set_dropout(self, probability: float) -> None:
        """Apply dropout before the fully connected layer; raises `SettingsError` if the encoder has no such layer."""
        raise SettingsError(f"{self.name} has no dropout; leave out --dropout")

    def fit_projection(self, images: Bytes) -> None:
        """Fit layers that have no published weights to some images, uint8 (N, H, W, C); by default there are none."""

    def load_published_weights(self) -> None:
        """Load the pretrained weights of the encoder's authors; raises `SettingsError` if there are none."""
        raise SettingsError(f"there are no published weights for {self.name}; use --start random")

    def load_weights(self, path: Path) -> None:
        """Load pretrained weights from a file; raises `SettingsError` if the encoder does not read files."""
        raise SettingsError(f"{self.name} reads no weights from a file ({path}); encoders timm:NAME do")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(chain(self.parameters(), self.buffers())).device
