"""The interface of a format to the quantizer: a float graph with visible activations, and int8 files made from it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Range = tuple[float, float]
Format = Literal["onnx", "tflite"]

# The image bytes are the quantized values: scale 1 and no arithmetic on pixels.
PIXEL_RANGE: Range = (0.0, 255.0)


@dataclass(frozen=True)
class GraphStep:
    """An operation of a float graph, including the activation function that its kernel applies."""

    name: str
    """Name of the encoder's layer for a convolution or matrix product; otherwise `OPERATION after LAYER`."""
    operation: str
    """Name of the operation in the format."""
    inputs: tuple[str, ...]
    """Names of the input activations."""
    output: str
    """Name of the output activation."""
    weighted: bool
    """Whether it is a convolution or a matrix product."""


class FloatGraph(Protocol):
    """A float graph, exported from a quantizable `ExportedEncoder`."""

    format: Format
    steps: tuple[GraphStep, ...]
    """In execution order."""
    input: str
    """Name of the activation that holds the pixels."""

    def activations(self, images: Bytes) -> Iterator[dict[str, Floats]]:
        """All activations by name, float32 (N, ...), for a few of the images uint8 (N, H, W, C) at a time."""

    def quantized_activations(self, path: Path, images: Bytes) -> Iterator[dict[str, Floats]]:
        """The dequantized activations of an int8 file made from this graph; those that it lacks are left out."""

    def quantize(self, out: Path, ranges: Mapping[str, Range], float_layers: Collection[str] = ()) -> None:
        """Write an int8 file.

        Args:
            out: the file.
            ranges: minimum and maximum of each activation.
            float_layers: names of weighted steps that stay in float32.

        Raises:
            ExportError: the quantizer failed.
        """


def name_steps(operations: list[tuple[str, bool]], layers: list[str], fallback: list[str]) -> list[str]:
    """Names for the operations of a graph, given as (operation, weighted) in execution order.

    Converters rename layers but keep their order, so the n-th weighted operation is the n-th of the encoder's `layers`. If a
    converter has split or merged layers, `fallback` has their names.
    """
    names = layers if sum(weighted for _, weighted in operations) == len(layers) else None
    result, last, index, others = [], "", 0, 0
    for (operation, weighted), own in zip(operations, fallback, strict=True):
        if weighted:
            last = names[index] if names else own
            index, others = index + 1, 0
            result.append(last)
        else:
            others += 1
            number = f" {others}" if others > 1 else ""
            result.append(
                f"{operation}{number} after {last}" if last else f"{operation}{number} at the input"
            )
    return result
