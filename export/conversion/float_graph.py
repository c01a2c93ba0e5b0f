"""What the quantizer needs of a format: a float graph whose activations can be seen, and int8 files made from it."""

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

# The raw bytes are the quantized values: scale 1, and no arithmetic on pixels.
PIXEL_RANGE: Range = (0.0, 255.0)


@dataclass(frozen=True)
class GraphStep:
    """One operation of a float graph, with the activation function that its kernel applies."""

    name: str
    """`LAYER`, as the encoder calls it, for a convolution or matrix product; `OPERATION after LAYER` for the rest."""
    operation: str
    """As the format calls it."""
    inputs: tuple[str, ...]
    """Names of the activations that go in."""
    output: str
    """Name of the activation that comes out."""
    weighted: bool
    """A convolution or a matrix product."""


class FloatGraph(Protocol):
    """A float graph, exported from a quantizable `ExportedEncoder`."""

    format: Format
    steps: tuple[GraphStep, ...]
    """In the order in which they run."""
    input: str
    """Name of the activation that holds the pixels."""

    def activations(self, images: Bytes) -> Iterator[dict[str, Floats]]:
        """Every activation by name, a few images (N, H, W, C) at a time."""

    def quantized_activations(self, path: Path, images: Bytes) -> Iterator[dict[str, Floats]]:
        """The same of an int8 file made from this graph, as real numbers; those that it does not have are left out."""

    def quantize(self, out: Path, ranges: Mapping[str, Range], float_layers: Collection[str] = ()) -> None:
        """Write an int8 file.

        Args:
            out: the file.
            ranges: smallest and largest value of each activation.
            float_layers: names of weighted steps that stay in float32.

        Raises:
            ExportError: the quantizer failed.
        """


def name_steps(operations: list[tuple[str, bool]], layers: list[str], fallback: list[str]) -> list[str]:
    """Names for the operations of a graph, given (operation, weighted) in order and the encoder's own layers.

    Converters rename layers but keep their order, so the n-th weighted operation is the n-th layer; `fallback` names
    them if a converter has split or merged some.
    """
    names = layers if sum(weighted for _, weighted in operations) == len(layers) else None
    result, last, met, others = [], "", 0, 0
    for (operation, weighted), own in zip(operations, fallback, strict=True):
        if weighted:
            last = names[met] if names else own
            met, others = met + 1, 0
            result.append(last)
        else:
            others += 1
            again = f" {others}" if others > 1 else ""
            result.append(f"{operation}{again} after {last}" if last else f"{operation}{again} at the input")
    return result
