"""Names of encoders that are not modules of `export.encoders`: networks of timm, and ONNX files. Does not import torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edge_siamese.errors import SettingsError

TIMM_PREFIX, TIMM_NOTATION = "timm:", "timm:NAME[@SIDE][:stageN]"
EXTRACTOR_PREFIX, EXTRACTOR_NOTATION = "onnx:", "onnx:FILE[@SIDE][:PIXELS]"
Pixels = Literal["imagenet", "unit", "signed", "bytes"]
"""The values that a float ONNX file expects. `imagenet`: normalized with ImageNet's mean and deviation; `unit`: 0 to 1;
`signed`: -1 to 1; `bytes`: 0 to 255."""
PIXELS: tuple[Pixels, ...] = get_args(Pixels)
DEFAULT_SIDE = 161
MIN_SIDE, MAX_SIDE = 32, 512
_TIMM = re.compile(r"timm:(?P<network>[A-Za-z0-9_.]+)(?:@(?P<side>[0-9]{2,4}))?(?::stage(?P<stage>[0-9]+))?")
_EXTRACTOR = re.compile(
    rf"onnx:(?P<path>.+?)(?:@(?P<side>[0-9]{{2,4}}))?(?::(?P<pixels>{'|'.join(PIXELS)}))?"
)


@dataclass(frozen=True)
class BackboneName:
    """A network of timm as `--encoder` names it."""

    network: str
    """Name in timm, such as `fastvit_t8` or `resnet18.a1_in1k`."""
    side: int
    """Height and width of the picture in pixels."""
    stage: int | None
    """The stage after which the network is cut, from 1; None for the whole network without its classifier."""

    @classmethod
    def parse(cls, text: str) -> BackboneName:
        """Parse `timm:NAME[@SIDE][:stageN]`; raises `SettingsError` if it is not one."""
        match = _TIMM.fullmatch(text)
        if match is None:
            raise SettingsError(
                f"{text!r} is not {TIMM_NOTATION}, such as timm:mobilenetv4_conv_small@161:stage4"
            )
        side = int(match["side"] or DEFAULT_SIDE)
        _check_side(text, side)
        return cls(match["network"], side, int(match["stage"]) if match["stage"] else None)


@dataclass(frozen=True)
class ExtractorName:
    """An ONNX file as `--encoder` names it."""

    path: Path
    side: int | None
    """Height and width of the picture in pixels; None for those that the file states."""
    pixels: Pixels
    """Ignored for a file that reads bytes."""

    @classmethod
    def parse(cls, text: str) -> ExtractorName:
        """Parse `onnx:FILE[@SIDE][:PIXELS]`; raises `SettingsError` if it is not one."""
        match = _EXTRACTOR.fullmatch(text)
        if match is None:
            raise SettingsError(f"{text!r} is not {EXTRACTOR_NOTATION}, such as onnx:features.onnx@224:unit")
        side = int(match["side"]) if match["side"] else None
        if side is not None:
            _check_side(text, side)
        pixels = next((known for known in PIXELS if known == match["pixels"]), PIXELS[0])
        return cls(Path(match["path"]), side, pixels)


def _check_side(text: str, side: int) -> None:
    if not MIN_SIDE <= side <= MAX_SIDE:
        raise SettingsError(f"{text}: the side must be {MIN_SIDE} to {MAX_SIDE} pixels, not {side}")
