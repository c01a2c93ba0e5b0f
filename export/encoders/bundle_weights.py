"""Initial weights from a bundle: the int8 ONNX file of an encoder, loaded back into its float network.

A shipped bundle has no float weights. Its int8 weights are whole numbers times the scale of their channel, so they are close
to the exported weights: close enough to start training from.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from edge_siamese.errors import SettingsError
from edge_siamese.models.bundle import NETWORK, Bundle
from export.encoders.base import EncoderNetwork

MIN_COSINE = 0.9
"""Smallest cosine of the embeddings of the golden images to those of the network that the bundle was made of."""
_GRAPH = "encoder."
"""Prefix of the names of weights in an exported graph."""
_MIN_FACTOR = 1e-2
"""Norms with a smaller factor are replaced by the identity: weights would be divided by nearly zero."""

Layer = nn.Conv2d | nn.Linear


@torch.no_grad()
def load_bundle_weights(encoder: EncoderNetwork, bundle: Bundle) -> None:
    """Load the weights of a bundle into an encoder of the same name.

    The export folds batch normalization and the scaling of the pixels into the weights. This function unfolds them: the
    encoder keeps its own normalization and scaling, and gets the weights that give the same output with them.

    Args:
        encoder: with its published weights, if there are any.
        bundle: of the same encoder; only the int8 ONNX file is read.

    Raises:
        SettingsError: the bundle has another encoder, or its weights do not fit.
        BundleNotFound: the bundle has no int8 ONNX file, or no golden vectors.
    """
    name = bundle.manifest.encoder.name
    if name != encoder.name:
        raise SettingsError(f"{bundle.path} is a bundle of {name}, not of {encoder.name}")
    weights = dequantized_weights(onnx.load(bundle.model_path("onnx", "int8")))
    pixels = _PixelScaling.of(encoder)
    for layer, module, norm in _layers(encoder):
        weight, bias = weights.pop(f"{layer}.weight", None), weights.pop(f"{layer}.bias", None)
        if weight is None or weight.shape != module.weight.shape:
            raise SettingsError(f"{bundle.path} has other layers than {encoder.name}: {layer}")
        bias = torch.zeros(len(weight)) if bias is None else bias
        if module is pixels.first:
            weight, bias = pixels.unfold(weight, bias)
        if norm is not None:
            weight = _unfold(norm, weight, bias)
        elif module.bias is not None:
            module.bias.copy_(bias)
        module.weight.copy_(weight)
    if weights:
        raise SettingsError(f"{bundle.path} has other layers than {encoder.name}: {next(iter(weights))}")
    _require_equal_output(encoder, bundle)


def dequantized_weights(model: onnx.ModelProto) -> dict[str, Tensor]:
    """Float weights of an int8 graph that the export wrote, by their names in the encoder, such as `stem.0.weight`."""
    constants = {item.name: item for item in model.graph.initializer}
    result = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants:
            continue
        values, scale, zero_point = (
            torch.from_numpy(numpy_helper.to_array(constants[name]).copy()).double() for name in node.input
        )
        by_channel = (-1, *[1] * (values.ndim - 1))
        name = node.input[0].removesuffix("_quantized").removeprefix(_GRAPH)
        result[name] = (
            (values - zero_point.reshape(by_channel)) * scale.reshape(by_channel)
        ).reshape(values.shape).float()  # fmt: skip
    return result


def _layers(encoder: nn.Module) -> Iterator[tuple[str, Layer, nn.BatchNorm2d | None]]:
    """Convolutions and matrix products by name, each with the batch normalization that is registered right after it."""
    leaves = [(name, module) for name, module in encoder.named_modules() if not list(module.children())]
    for (name, module), (_, following) in zip(leaves, [*leaves[1:], ("", nn.Identity())], strict=True):
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield name, module, following if isinstance(following, nn.BatchNorm2d) else None


def _unfold(norm: nn.BatchNorm2d, weight: Tensor, bias: Tensor) -> Tensor:
    """The weights of a convolution before `norm` that, with it, amount to `weight` and `bias`; sets the norm's shift."""
    assert norm.running_mean is not None and norm.running_var is not None
    deviation = (norm.running_var + norm.eps).sqrt()
    factor = norm.weight / deviation
    factor = torch.where(factor.abs() < _MIN_FACTOR, torch.ones_like(factor), factor)
    norm.weight.copy_(factor * deviation)
    norm.bias.copy_(bias + norm.running_mean * factor)
    return weight / factor.reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class _PixelScaling:
    """What an encoder does to pixels before its first convolution: `factor * pixel + offset`, for each channel."""

    first: nn.Module
    factor: Tensor
    offset: Tensor

    @classmethod
    def of(cls, encoder: EncoderNetwork) -> _PixelScaling:
        """Measure it: the input of the first convolution for a black image and for an image of ones."""
        probe = copy.deepcopy(encoder).eval()
        names = [name for name, module in probe.named_modules() if isinstance(module, nn.Conv2d)]
        inputs: list[Tensor] = []
        probe.get_submodule(names[0]).register_forward_pre_hook(
            lambda _, arguments: inputs.append(arguments[0][0, :, 0, 0])
        )
        height, width, channels = encoder.preprocessing.shape
        for value in (0.0, 1.0):
            probe(torch.full((1, channels, height, width), value))
        return cls(encoder.get_submodule(names[0]), inputs[1] - inputs[0], inputs[0])

    def unfold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and bias for scaled pixels, from those for pixels."""
        unscaled = weight / self.factor.reshape(1, -1, 1, 1)
        shift = (unscaled * self.offset.reshape(1, -1, 1, 1)).sum(dim=(1, 2, 3))
        return unscaled, bias - shift


def _require_equal_output(encoder: EncoderNetwork, bundle: Bundle) -> None:
    images = torch.from_numpy(bundle.golden.images).permute(0, 3, 1, 2).float()
    expected = torch.from_numpy(bundle.golden.embeddings[NETWORK])
    cosine = float(F.cosine_similarity(copy.deepcopy(encoder).eval()(images), expected).min())
    if not cosine >= MIN_COSINE:
        raise SettingsError(
            f"the weights of {bundle.path} do not fit {encoder.name}: a cosine of {cosine:.2f} to its golden vectors"
        )
