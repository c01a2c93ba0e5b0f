"""GlyphNet: a small inverted-residual encoder for handwriting that quantizes well and trains fast on a CPU.

Inverted residuals with linear bottlenecks and ReLU6 are from Sandler et al., "MobileNetV2" (2018). They are fused (expansion
and depthwise filter are one 3x3 convolution) after Gupta and Akin, "Accelerator-aware Neural Network Design using AutoML"
(2020): more arithmetic but fewer memory accesses per layer, which is faster with good dense kernels. The last feature map is
pooled by a depthwise convolution of its own size, after Chen et al., "MobileFaceNets" (2018), since the position of a stroke
matters. All operations (convolution, ReLU6, addition, one matrix product) have int8 kernels in every runtime.
"""

from __future__ import annotations

from torch import Tensor, nn

from edge_siamese.recognition.imaging import Preprocessing
from export.encoders.base import EncoderNetwork

# (expansion, channels, blocks, stride of the first block) of each stage
Stage = tuple[int, int, int, int]
STAGES: tuple[Stage, ...] = ((2, 48, 2, 2), (2, 96, 2, 2))


class GlyphNet(EncoderNetwork):
    """Pixels (N, 1, 56, 56), float32 in 0..255, to embeddings (N, dimensions), not normalized.

    Args:
        dimensions: length of the embedding.
        stem: channels of the first convolution.
        stages: the inverted-residual stages.
        features: channels of the last feature map, before pooling.
    """

    name = "glyphnet"
    citation = (
        "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018; fused as in Gupta and Akin, "
        "Accelerator-aware Neural Network Design using AutoML, 2020; pooled as in Chen et al., MobileFaceNets, 2018"
    )
    normalization = "l2"

    def __init__(
        self, dimensions: int = 128, stem: int = 24, stages: tuple[Stage, ...] = STAGES, features: int = 256
    ) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(56, 56, "gray")
        self.dimensions = dimensions
        # Without padding, the pixel scaling folds exactly into these weights on export.
        self.stem = _convolution(1, stem, kernel=3, stride=2, padding=0)
        blocks: list[nn.Module] = []
        channels, resolution = stem, 27
        for expansion, out, repeats, first_stride in stages:
            for stride in [first_stride] + [1] * (repeats - 1):
                blocks.append(FusedInvertedResidual(channels, out, stride, expansion))
                channels, resolution = out, (resolution + stride - 1) // stride
        self.blocks = nn.Sequential(*blocks)
        self.features = _convolution(channels, features, kernel=1, stride=1, padding=0)
        self.pool = nn.Conv2d(features, features, resolution, groups=features, bias=False)
        self.pool_norm = nn.BatchNorm2d(features)
        self.embedding = nn.Linear(features, dimensions)

    def forward(self, pixels: Tensor) -> Tensor:
        ink = (255.0 - pixels) * (1.0 / 255.0)
        pooled = self.pool_norm(self.pool(self.features(self.blocks(self.stem(ink))))).flatten(1)
        embedding: Tensor = self.embedding(pooled)
        return embedding


class FusedInvertedResidual(nn.Module):
    """Expand with a 3x3 convolution, project with a linear 1x1; with a residual connection if the shapes agree."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expand = _convolution(channels, hidden, kernel=3, stride=stride, padding=1)
        self.project = nn.Sequential(nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out))
        self.shortcut = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.expand(x))
        return x + y if self.shortcut else y


def _convolution(channels: int, out: int, kernel: int, stride: int, padding: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, padding, bias=False), nn.BatchNorm2d(out), nn.ReLU6()
    )
