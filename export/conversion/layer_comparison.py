"""Compares an int8 file with its float graph layer by layer, and names the layer that quantization hurts most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.conversion.routes import Bytes, FloatGraph


@dataclass(frozen=True)
class LayerNoise:
    """How far an activation of the int8 file is from the float one, over all images and elements."""

    layer: str
    """As the encoder calls it; `OPERATION after LAYER` for an operation without weights."""
    operation: str
    noise: float
    """Power of the difference over power of the float activation."""
    added: float
    """By how much `noise` is more than that of the noisiest input: what this layer itself is to blame for."""

    @property
    def signal_to_noise_db(self) -> float:
        """Signal-to-quantization-noise ratio in decibels; infinite for equal activations."""
        return -10.0 * math.log10(self.noise) if self.noise > 0.0 else math.inf

    def describe(self) -> str:
        """`LAYER (OPERATION, 12.3 dB)`."""
        return f"{self.layer} ({self.operation}, signal-to-noise {self.signal_to_noise_db:.1f} dB)"


def compare_layers(graph: FloatGraph, int8: Path, images: Bytes) -> list[LayerNoise]:
    """Run both graphs over images (N, H, W, C) and compare every activation that both have.

    Noise travels on through the layers that follow, so the last layers are nearly always the noisiest. The culprit is
    the layer that adds most to what came in, and the result is sorted by that.
    """
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for exact, rounded in zip(
        graph.activations(images), graph.quantized_activations(int8, images), strict=True
    ):
        for name in exact.keys() & rounded.keys():
            expected = exact[name].astype(np.float64)
            signal[name] = signal.get(name, 0.0) + float(np.sum(np.square(expected)))
            noise[name] = noise.get(name, 0.0) + float(np.sum(np.square(expected - rounded[name])))
    ratio = {name: noise[name] / max(signal[name], 1e-300) for name in noise}
    ratio[graph.input] = 0.0
    result = []
    for step in graph.steps:
        if step.output in ratio:
            before = max((ratio.get(name, 0.0) for name in step.inputs), default=0.0)
            after = ratio[step.output]
            result.append(LayerNoise(step.name, step.operation, after, max(0.0, after - before)))
    return sorted(result, key=lambda layer: -layer.added)
