"""The exported module: from image bytes to the embedding, with batch normalization and pixel scaling folded.

Batch normalization is folded into the convolution before it, and the scaling of the pixels into the first convolution. Both
are exact up to float rounding. As a result, an int8 graph begins with a convolution of the raw bytes, and no operation on
pixels has to be quantized.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edge_siamese.errors import ExportError
from edge_siamese.recognition.imaging import Preprocessing
from export.encoders import EncoderNetwork

FOLDING_TOLERANCE = 1e-4
"""Largest difference that folding may make, relative to the largest value of the embeddings."""


class ExportedEncoder(nn.Module):
    """Images (N, H, W, C), uint8 or float32 in 0..255, to embeddings float32 (N, D), not normalized.

    Args:
        folded: the traced encoder, from `fold_pixel_scaling`.
        preprocessing: the input of the encoder.
        dimensions: D.
    """

    def __init__(self, folded: fx.GraphModule, preprocessing: Preprocessing, dimensions: int) -> None:
        super().__init__()
        self.encoder = folded
        self.preprocessing = preprocessing
        self.dimensions = dimensions

    def forward(self, image: Tensor) -> Tensor:
        embedding: Tensor = self.encoder(image.permute(0, 3, 1, 2).to(torch.float32))
        return embedding


def exported_encoder(encoder: EncoderNetwork, quantizable: bool = False) -> ExportedEncoder:
    """A folded copy of a trained encoder.

    Args:
        encoder: it is not modified.
        quantizable: whether it is for the int8 files; see `snap` of `fold_pixel_scaling`.

    Raises:
        ExportError: the encoder cannot be traced, or folding changed its output.
    """
    folded = fold_pixel_scaling(fold_batch_norm(encoder), snap=quantizable)
    result = ExportedEncoder(folded, encoder.preprocessing, encoder.dimensions).eval()
    if not quantizable:
        _check_folding(encoder, result)
    return result


def fold_batch_norm(encoder: nn.Module) -> fx.GraphModule:
    """Trace a copy of an encoder and fold each batch normalization into the convolution before it.

    Raises:
        ExportError: the encoder cannot be traced.
    """
    try:
        folded = fx.symbolic_trace(copy.deepcopy(encoder).cpu().eval())
    except Exception as error:  # tracing runs the encoder's own code
        raise ExportError(f"{type(encoder).__name__} cannot be traced for export: {error}") from error
    _fold_batch_norm(folded)
    return _tidy(folded)


def fold_pixel_scaling(folded: fx.GraphModule, snap: bool = False) -> fx.GraphModule:
    """Fold the scaling of the pixels into the first convolution, in a copy.

    Args:
        folded: from `fold_batch_norm`.
        snap: round the weights of that convolution to their int8 grid first. Its bias then compensates the rounding where
            the image is uniform, so that white paper, most of a drawing, costs no accuracy.
    """
    result = copy.deepcopy(folded)
    _fold_scaling(result, snap)
    return _tidy(result)


def _tidy(folded: fx.GraphModule) -> fx.GraphModule:
    folded.graph.eliminate_dead_code()
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded


def layers(folded: fx.GraphModule) -> list[str]:
    """Names of the convolutions and matrix products, in execution order."""
    return [
        str(node.target)
        for node in folded.graph.nodes
        if isinstance(module_of(folded, node), nn.Conv2d | nn.Linear)
    ]


def module_of(folded: fx.GraphModule, node: Any) -> nn.Module | None:
    """The submodule that a node of the graph calls, if any."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return folded.get_submodule(str(node.target))
    return None


def _fold_batch_norm(folded: fx.GraphModule) -> None:
    for node in list(folded.graph.nodes):
        normalization = module_of(folded, node)
        if not isinstance(normalization, nn.BatchNorm2d):
            continue
        source = node.args[0]
        convolution = module_of(folded, source)
        if isinstance(convolution, nn.Conv2d) and len(source.users) == 1:
            _replace(folded, str(source.target), fuse_conv_bn_eval(convolution, normalization))
            node.replace_all_uses_with(source)
            folded.graph.erase_node(node)


def _fold_scaling(folded: fx.GraphModule, snap: bool) -> None:
    """Fold an affine map of the pixels into an unpadded convolution that has no other input."""
    pixels = next(node for node in folded.graph.nodes if node.op == "placeholder")
    node, factor, offset = pixels, 1.0, 0.0
    while len(node.users) == 1:
        following = next(iter(node.users))
        step = _affine_step(following, node)
        if step is None:
            break
        factor, offset = step(factor, offset)
        node = following
    if len(node.users) != 1:
        return
    first = next(iter(node.users))
    convolution = module_of(folded, first)
    # With padding, the border of zeros would have to become one of -offset / factor, which graphs cannot express.
    if not isinstance(convolution, nn.Conv2d) or convolution.padding not in ((0, 0), "valid"):
        return
    scaled = copy.deepcopy(convolution)
    weight = convolution.weight.detach().double()
    if snap:
        grid = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30) / 127.0
        weight = torch.round(weight / grid) * grid
    bias = torch.zeros(len(weight)) if convolution.bias is None else convolution.bias.detach()
    scaled.weight = nn.Parameter((weight * factor).float())
    scaled.bias = nn.Parameter((bias.double() + offset * weight.sum(dim=(1, 2, 3))).float())
    _replace(folded, str(first.target), scaled)
    first.replace_input_with(node, pixels)


Step = Callable[[float, float], tuple[float, float]]


def _affine_step(node: fx.Node, source: fx.Node) -> Step | None:
    """The change of (factor, offset) by a node that combines `source` with a plain number; None for other nodes."""
    if node.op != "call_function" or len(node.args) != 2 or node.kwargs:
        return None
    left, right = node.args
    number = right if left is source else left
    if not isinstance(number, int | float):
        return None
    s, first = float(number), left is source
    if node.target in (operator.add, torch.add):
        return lambda a, b: (a, b + s)
    if node.target in (operator.mul, torch.mul):
        return lambda a, b: (a * s, b * s)
    if node.target in (operator.sub, torch.sub):
        return (lambda a, b: (a, b - s)) if first else (lambda a, b: (-a, s - b))
    if node.target in (operator.truediv, torch.div) and first:
        return lambda a, b: (a / s, b / s)
    return None


def _replace(folded: fx.GraphModule, target: str, module: nn.Module) -> None:
    parent, _, name = target.rpartition(".")
    setattr(folded.get_submodule(parent), name, module)


@torch.no_grad()
def _check_folding(encoder: EncoderNetwork, folded: ExportedEncoder) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, *encoder.preprocessing.shape), generator=generator, dtype=torch.uint8)
    expected = copy.deepcopy(encoder).cpu().eval()(images.permute(0, 3, 1, 2).float())
    difference = float((folded(images) - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not difference <= FOLDING_TOLERANCE:
        raise ExportError(
            f"folding changed the output of {encoder.name} by {difference:.2g} of its largest value"
        )
