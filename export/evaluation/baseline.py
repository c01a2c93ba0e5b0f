"""Baseline of the scenes: nearest neighbor on ImageNet features, as in teachable-machine demos.

The features are those of the published EfficientNet-Lite0, in float32, and are compared by their cosine. The engine always
names the nearest registered view, unless it is too far away: at that limit, 1 % of given pictures of anything pass, the
rule of the daemon's default. No registration is refused because an object looks like another one.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_siamese.errors import DataError
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.manifest import (
    DEFAULT_FALSE_ACCEPT_RATE,
    VERSION,
    EmbeddingInfo,
    EncoderInfo,
    HeadInfo,
    Manifest,
    ModelFile,
    Threshold,
)
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Bytes, Floats
from edge_siamese.settings import RecognitionSettings, RegistrationSettings, Settings, SurroundingsSettings
from export.encoders.base import EncoderNetwork
from export.encoders.efficientnet_lite import FEATURES, EfficientNetLite0Full
from export.evaluation.embeddings import embed_all
from export.evaluation.scene_recording import Contender
from export.evaluation.strangers import read_pictures
from export.training.network import TorchEncoder, count_macs, model_id

NAME = "nearest neighbor"
MIN_PICTURES = 100
"""Minimum number of pictures, so that at least one may pass."""
SAME_OBJECT, STEEPNESS = 0.8, 10.0
"""Distance up to which the frames of a registration show one object, and the head's scale; p(same) is 0.5 there. Neither
decides what is recognized."""
BIAS = STEEPNESS * SAME_OBJECT


class ImageNetFeatures(EfficientNetLite0Full):
    """Pixels (N, 3, 187, 187), float32 in 0..255, to the published network's pooled features (N, 1280)."""

    name = "imagenet-features"
    side = 187

    def __init__(self) -> None:
        super().__init__()
        del self.projection
        self.dimensions = FEATURES

    def forward(self, pixels: Tensor) -> Tensor:
        return self.features(pixels)


class _FoldedEncoder(TorchEncoder):
    """The network with its normalizations folded into the convolutions, which halves the time."""

    def __init__(self, module: EncoderNetwork, model_id: str) -> None:
        super().__init__(module.eval(), model_id)
        example = torch.zeros((1, 3, self.preprocessing.height, self.preprocessing.width))
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            traced = torch.jit.trace(module, example)  # type: ignore[no-untyped-call]
            self._folded = torch.jit.optimize_for_inference(torch.jit.freeze(traced))

    @torch.inference_mode()
    def embed_prepared(self, images: Bytes) -> Floats:
        """uint8 (N, H, W, C) to float32 (N, D)."""
        parts = [images[start : start + self.batch] for start in range(0, len(images), self.batch)]
        pixels = (torch.from_numpy(part).permute(0, 3, 1, 2).float() for part in parts)
        return np.concatenate([nn.functional.normalize(self._folded(block)).numpy() for block in pixels])


def imagenet_baseline(pictures: Path) -> Contender:
    """The baseline, with the limit that follows from these pictures.

    Raises:
        SettingsError: the published weights are not installed.
        DataError: the folder has too few pictures, or one cannot be read.
    """
    network = ImageNetFeatures()
    network.load_published_weights()
    encoder: Any = _FoldedEncoder(network, model_id(network))
    images = read_pictures(pictures, encoder.preprocessing)
    if len(images) < MIN_PICTURES:
        raise DataError(f"{pictures} has {len(images)} pictures; the baseline's limit needs {MIN_PICTURES}")
    impostors = embed_all(encoder, images)
    bundle = Bundle(pictures, _manifest(network, encoder), SigmoidDistanceHead(STEEPNESS, BIAS))
    vars(bundle)["impostors"] = impostors  # instead of those in the bundle's directory
    settings = Settings(
        recognition=RecognitionSettings(min_preference=0.5),
        surroundings=SurroundingsSettings(enabled=False),
        registration=RegistrationSettings(collisions="allow"),
    )
    return Contender(NAME, bundle, encoder, settings, is_baseline=True)


def _manifest(network: ImageNetFeatures, encoder: TorchEncoder) -> Manifest:
    """The manifest of a bundle that exists only in memory; its model file is a placeholder."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Manifest(
        version=VERSION,
        model_id=encoder.model_id,
        created="2020-01-01T00:00:00Z",
        encoder=EncoderInfo(network.name, parameters, count_macs(network), network.citation),
        input=encoder.preprocessing,
        embedding=EmbeddingInfo(encoder.dimensions, "l2"),
        head=HeadInfo("euclidean", STEEPNESS, BIAS, weights=None),
        thresholds=(Threshold(DEFAULT_FALSE_ACCEPT_RATE, 0.5, false_reject_rate=0.0, impostor_pairs=1),),
        models=(ModelFile("features", 0, "0" * 64, "onnx", "fp32", quantization=None, input_dtype="uint8"),),
        attachments=(),
        metrics={},
        provenance={},
    )
