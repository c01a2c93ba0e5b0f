"""The encoders that can be trained, one per module."""

from edge_siamese.errors import SettingsError
from export.encoders.base import EncoderNetwork
from export.encoders.efficientnet_lite import (
    EfficientNetLite0,
    EfficientNetLite0Full,
    EfficientNetLite0Small,
)
from export.encoders.glyphnet import GlyphNet
from export.encoders.koch2015 import Koch2015, KochHead

__all__ = ["ENCODERS", "EncoderNetwork", "GlyphNet", "Koch2015", "KochHead", "build_encoder"]

ENCODERS: dict[str, type[EncoderNetwork]] = {
    network.name: network
    for network in (GlyphNet, Koch2015, EfficientNetLite0, EfficientNetLite0Full, EfficientNetLite0Small)
}


def build_encoder(name: str) -> EncoderNetwork:
    """Create a randomly initialized encoder; uses torch's global generator.

    Raises:
        SettingsError: the name is unknown.
    """
    if name not in ENCODERS:
        raise SettingsError(f"there is no encoder {name!r}; known: {', '.join(sorted(ENCODERS))}")
    return ENCODERS[name]()
