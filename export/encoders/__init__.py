"""The encoders: those of this project by name, networks of timm, and finished ONNX files."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from edge_siamese.errors import SettingsError
from export.encoder_names import EXTRACTOR_NOTATION, EXTRACTOR_PREFIX, TIMM_NOTATION, TIMM_PREFIX
from export.encoders.base import EncoderNetwork
from export.encoders.efficientnet_lite import (
    EfficientNetLite0,
    EfficientNetLite0Full,
    EfficientNetLite0Small,
)
from export.encoders.glyphnet import GlyphNet
from export.encoders.koch2015 import Koch2015, KochHead
from export.encoders.onnx_extractor import OnnxExtractor
from export.encoders.timm_backbone import TimmBackbone

__all__ = [
    "ENCODERS",
    "EncoderNetwork",
    "GlyphNet",
    "Koch2015",
    "KochHead",
    "build_encoder",
    "published_weights",
]

ENCODERS: dict[str, type[EncoderNetwork]] = {
    network.name: network
    for network in (GlyphNet, Koch2015, EfficientNetLite0, EfficientNetLite0Full, EfficientNetLite0Small)
}


def build_encoder(name: str, saved: Mapping[str, Tensor] | None = None) -> EncoderNetwork:
    """Create a randomly initialized encoder; uses torch's global generator.

    Args:
        name: one of `ENCODERS`, `timm:NAME[@SIDE][:stageN]`, or `onnx:FILE[@SIDE][:PIXELS]`.
        saved: the weights of a run, which the caller loads. They include an ONNX file, which is then not read again.

    Raises:
        SettingsError: the name is unknown, or the network or file is unsuitable.
    """
    if name.startswith(TIMM_PREFIX):
        return TimmBackbone(name)
    if name.startswith(EXTRACTOR_PREFIX):
        return OnnxExtractor(name, None if saved is None else saved.get("file"))
    if name not in ENCODERS:
        known = ", ".join([*sorted(ENCODERS), TIMM_NOTATION, EXTRACTOR_NOTATION])
        raise SettingsError(f"there is no encoder {name!r}; known: {known}")
    return ENCODERS[name]()


def published_weights(name: str) -> str:
    """Description and license of the published weights of an encoder; empty if there are none."""
    if name.startswith(TIMM_PREFIX):
        return "pretrained weights that timm downloads, under their own license"
    if name.startswith(EXTRACTOR_PREFIX):
        return "those of the ONNX file, under its own license"
    return ENCODERS[name].published_weights if name in ENCODERS else ""
