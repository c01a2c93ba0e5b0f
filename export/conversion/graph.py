"""The module that is exported: image bytes in rows, columns and channels to an embedding, with everything folded.

Batch normalization is folded into the convolution before it, and the scaling of the pixels into the first
convolution. Both are exact (to float rounding), and the second lets an int8 graph begin with a convolution of the raw
bytes: no operation on pixels is left to quantize.
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

# The largest difference that folding may make, relative to the largest number of an embedding.
FOLDING_TOLERANCE = 1e-4


class ExportedEncoder(nn.Module):
    """Images (N, H, W, C), uint8 or float32 in 0..255, to embeddings float32 (N, D), not normalized.

    Args:
        folded: the traced encoder, as `with_pixels_folded` makes it.
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
        encoder: left as it is.
        quantizable: for the int8 files; see `with_pixels_folded`. The float ones keep every digit.

    Raises:
        ExportError: the encoder cannot be traced, or folding changed what it computes.
    """
    folded = with_pixels_folded(with_normalizations_folded(encoder), snap=quantizable)
    result = ExportedEncoder(folded, encoder.preprocessing, encoder.dimensions).eval()
    if not quantizable:
        _check_folding(encoder, result)
    return result


def with_normalizations_folded(encoder: nn.Module) -> fx.GraphModule:
    """Trace a copy of an encoder and fold each batch normalization into the convolution before it.

    Raises:
        ExportError: the encoder cannot be traced.
    """
    try:
        folded = fx.symbolic_trace(copy.deepcopy(encoder).cpu().eval())
    except Exception as error:  # tracing runs the encoder's own code, which may raise anything
        raise ExportError(f"{type(encoder).__name__} cannot be traced for export: {error}") from error
    _fold_normalizations(folded)
    return _tidy(folded)


def with_pixels_folded(folded: fx.GraphModule, snap: bool = False) -> fx.GraphModule:
    """A copy in which the scaling of the pixels is part of the first convolution.

    Args:
        folded: from `with_normalizations_folded`.
        snap: put the weights of that convolution on their int8 grid first. Its bias then makes up for their rounding
            wherever the image is even, so that paper, which is most of a picture of ink, costs no accuracy.
    """
    result = copy.deepcopy(folded)
    _fold_pixel_scaling(result, snap)
    return _tidy(result)


def _tidy(folded: fx.GraphModule) -> fx.GraphModule:
    folded.graph.eliminate_dead_code()
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded


def layers(folded: fx.GraphModule) -> list[str]:
    """Names of the convolutions and matrix products, in the order in which they run."""
    return [
        str(node.target)
        for node in folded.graph.nodes
        if isinstance(module_of(folded, node), nn.Conv2d | nn.Linear)
    ]


def module_of(folded: fx.GraphModule, node: Any) -> nn.Module | None:
    """The submodule that a node of the graph calls, if it calls one."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return folded.get_submodule(str(node.target))
    return None


def _fold_normalizations(folded: fx.GraphModule) -> None:
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


def _fold_pixel_scaling(folded: fx.GraphModule, snap: bool) -> None:
    """Fold an affine map of the pixels into an un-padded convolution that takes nothing else."""
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
    # With padding, the border of zeros would have to become a border of -offset / factor, which no graph can pad with.
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
    """What a node does to (factor, offset) if it combines `source` with a plain number, else None."""
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
            f"folding changed what {encoder.name} computes, by {difference:.2g} of its largest number"
        )
