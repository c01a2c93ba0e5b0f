"""What every encoder is: an `nn.Module` from image bytes to embeddings that says what it reads and where it is from."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from edge_siamese.imaging import Preprocessing


class EncoderNetwork(nn.Module):
    """`forward` takes bytes (N, C, H, W) as float32 in 0..255 and returns embeddings (N, D), not normalised.

    The scaling of the pixels is its first operation, so that it is inside every exported graph.
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    normalisation: ClassVar[Literal["l2", "none"]]
    """How the device finishes an embedding: to unit length, or not at all."""
    dimensions: int
    preprocessing: Preprocessing
