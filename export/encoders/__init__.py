"""The encoders that can be trained: one file each, with its citation on top."""

from edge_siamese.errors import SettingsError
from export.encoders.base import EncoderNetwork
from export.encoders.glyphnet import GlyphNet
from export.encoders.koch2015 import Koch2015, KochHead

__all__ = ["ENCODERS", "EncoderNetwork", "GlyphNet", "Koch2015", "KochHead", "build_encoder"]

ENCODERS: dict[str, type[EncoderNetwork]] = {"glyphnet": GlyphNet, "koch2015": Koch2015}


def build_encoder(name: str) -> EncoderNetwork:
    """A new, randomly initialised encoder; draws from torch's global generator.

    Raises:
        SettingsError: no encoder has that name.
    """
    if name not in ENCODERS:
        raise SettingsError(f"there is no encoder {name!r}; known are {', '.join(sorted(ENCODERS))}")
    return ENCODERS[name]()
