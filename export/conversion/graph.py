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

RECTIFIERS = ("relu", "relu6")
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
    _drop_identities(folded)
    _fold_batch_norm(folded)
    _fold_channel_scales(folded)
    _pad_pooling_with_zeros(folded)
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


def operation_of(folded: fx.GraphModule, node: fx.Node) -> str:
    """Operation of a node in lower case, such as `relu` for `torch.relu`, `x.relu_()` and `nn.ReLU`, or an empty string."""
    module = module_of(folded, node)
    if module is not None:
        return type(module).__name__.lower()
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", "")).rstrip("_")
    return str(node.target).rstrip("_") if node.op == "call_method" else ""


def _drop_identities(folded: fx.GraphModule) -> None:
    """Remove what does nothing in evaluation mode, so that a convolution and its normalization are neighbors.

    This includes casts to float32, which have an effect only in training under autocast.
    """
    for node in list(folded.graph.nodes):
        is_cast = node.op == "call_method" and node.target == "float"
        if is_cast or isinstance(module_of(folded, node), nn.Identity | nn.Dropout | nn.Dropout2d):
            node.replace_all_uses_with(node.args[0])
            folded.graph.erase_node(node)


def _fold_channel_scales(folded: fx.GraphModule) -> None:
    """Fold products of a convolution with one constant per channel, as in Touvron et al., "LayerScale" (2021), into it."""
    for node in list(folded.graph.nodes):
        if node.op != "call_function" or node.target not in (operator.mul, torch.mul) or len(node.args) != 2:
            continue
        source, scale = node.args if module_of(folded, node.args[0]) else node.args[::-1]
        convolution, factors = module_of(folded, source), _constant(folded, scale)
        if not isinstance(convolution, nn.Conv2d) or len(source.users) != 1 or factors is None:
            continue
        if factors.numel() != convolution.out_channels or factors.shape[-3:].numel() != factors.numel():
            continue
        scaled = copy.deepcopy(convolution)
        factors = factors.flatten()
        scaled.weight = nn.Parameter(convolution.weight.detach() * factors.reshape(-1, 1, 1, 1))
        if convolution.bias is not None:
            scaled.bias = nn.Parameter(convolution.bias.detach() * factors)
        _replace(folded, str(source.target), scaled)
        node.replace_all_uses_with(source)
        folded.graph.erase_node(node)


def _pad_pooling_with_zeros(folded: fx.GraphModule) -> None:
    """Pad the input of max pooling after a rectifier with zeros, which int8 can represent, instead of minus infinity."""
    for node in list(folded.graph.nodes):
        pooling = module_of(folded, node)
        if not isinstance(pooling, nn.MaxPool2d) or pooling.padding in (0, (0, 0)):
            continue
        if operation_of(folded, node.args[0]) not in RECTIFIERS or pooling.ceil_mode or pooling.dilation != 1:
            continue
        vertical, horizontal = (pooling.padding,) * 2 if isinstance(pooling.padding, int) else pooling.padding
        unpadded = nn.MaxPool2d(pooling.kernel_size, pooling.stride)
        border = nn.ZeroPad2d((horizontal, horizontal, vertical, vertical))
        _replace(folded, str(node.target), nn.Sequential())
        folded.add_submodule(f"{node.target}.border", border)
        folded.add_submodule(f"{node.target}.pool", unpadded)
        with folded.graph.inserting_before(node):
            padded = folded.graph.call_module(f"{node.target}.border", (node.args[0],))
        node.target, node.args = f"{node.target}.pool", (padded,)


def _constant(folded: fx.GraphModule, node: Any) -> Tensor | None:
    """The parameter or buffer that a node of the graph reads, if any."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    owner, _, name = str(node.target).rpartition(".")
    value = getattr(folded.get_submodule(owner), name)
    return value.detach() if isinstance(value, Tensor) else None


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
    """Fold an affine map of the pixels, of one number or one per channel, into an unpadded convolution."""
    pixels = next(node for node in folded.graph.nodes if node.op == "placeholder")
    node, factor, offset = pixels, torch.ones(1).double(), torch.zeros(1).double()
    while len(node.users) == 1:
        following = next(iter(node.users))
        step = _affine_step(folded, following, node)
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
    if convolution.groups != 1 and len(factor) + len(offset) > 2:
        return
    scaled = copy.deepcopy(convolution)
    # The factors of the channels relative to the first one become part of the weights before these are rounded.
    relative = factor / factor[0]
    weight = convolution.weight.detach().double() * relative.reshape(1, -1, 1, 1)
    if snap:
        grid = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30) / 127.0
        weight = torch.round(weight / grid) * grid
    bias = torch.zeros(len(weight)) if convolution.bias is None else convolution.bias.detach()
    scaled.weight = nn.Parameter((weight * factor[0]).float())
    shift = ((offset / relative) * weight.sum(dim=(2, 3))).sum(dim=1)
    scaled.bias = nn.Parameter((bias.double() + shift).float())
    _replace(folded, str(first.target), scaled)
    first.replace_input_with(node, pixels)


Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _affine_step(folded: fx.GraphModule, node: fx.Node, source: fx.Node) -> Step | None:
    """The change of (factor, offset) by a node that combines `source` with numbers; None for other nodes.

    Factor and offset are float64 of shape (1,), or (C,).
    """
    if node.op != "call_function" or len(node.args) != 2 or node.kwargs:
        return None
    left, right = node.args
    s, first = _channel_numbers(folded, right if left is source else left), left is source
    if s is None:
        return None
    if node.target in (operator.add, torch.add):
        return lambda a, b: (a, b + s)
    if node.target in (operator.mul, torch.mul):
        return lambda a, b: (a * s, b * s)
    if node.target in (operator.sub, torch.sub):
        return (lambda a, b: (a, b - s)) if first else (lambda a, b: (-a, s - b))
    if node.target in (operator.truediv, torch.div) and first:
        return lambda a, b: (a / s, b / s)
    return None


def _channel_numbers(folded: fx.GraphModule, argument: Any) -> Tensor | None:
    """A plain number or a constant (1, C, 1, 1), as float64 (1,) or (C,); None for anything else."""
    if isinstance(argument, int | float):
        return torch.tensor([float(argument)], dtype=torch.float64)
    constant = _constant(folded, argument)
    if constant is None or constant.ndim != 4 or constant.shape[1] != constant.numel():
        return None
    return constant.flatten().double()


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
