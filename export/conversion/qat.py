"""Quantization-aware training: fine-tunes the folded network to reproduce its float embeddings in int8 arithmetic.

Weights and activations are rounded in the forward pass, and gradients pass through the rounding unchanged: the
straight-through estimator of Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018. The float network is the teacher, so only images are needed, not labels.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from edge_siamese.errors import ExportError
from export.conversion.float_graph import Bytes
from export.conversion.graph import (
    RECTIFIERS,
    ExportedEncoder,
    fold_batch_norm,
    fold_pixel_scaling,
    module_of,
    operation_of,
)
from export.conversion.quantize import SIGMOID_SATURATION
from export.encoders import EncoderNetwork

PROBE_IMAGES = 64
"""Training images on which the losses before and after training are compared."""
MAX_LOSS_RATIO, TOLERABLE_LOSS = 2.0, 0.1
"""Training has diverged if it ends with more than this multiple of the initial loss, unless the loss is tolerable. The loss
is in units of the variance of the embeddings: 1 is that of their mean."""


@dataclass(frozen=True)
class QatSettings:
    """Settings of the fine-tuning."""

    steps: int = 300
    batch: int = 32
    learning_rate: float = 2e-3
    """Learning rate of Adam, relative to the root mean square of each weight: their scales differ by orders of magnitude."""
    seed: int = 0


def train_for_int8(
    encoder: EncoderNetwork, images: Bytes, settings: QatSettings | None = None
) -> ExportedEncoder:
    """Fine-tune a copy of a trained encoder so that quantization costs less accuracy.

    Args:
        encoder: the teacher; it is not modified.
        images: training images uint8 (N, H, W, C).
        settings: defaults to `QatSettings()`.

    Returns:
        A quantizable network.

    Raises:
        ExportError: the training diverged.
    """
    settings = settings or QatSettings()
    student = fold_batch_norm(encoder)
    teacher = copy.deepcopy(student).requires_grad_(False)
    # Train all parameters, including frozen ones and the biases that folding created.
    student.requires_grad_(True)
    rounded = add_fake_quantization(student)
    unit = encoder.normalization == "l2"
    rng = np.random.default_rng([settings.seed, 11])
    with torch.no_grad():
        for start in range(0, len(images), settings.batch):
            rounded(_pixels(images[start : start + settings.batch]))
    _freeze_ranges(rounded)
    probe = _pixels(images[np.linspace(0, len(images) - 1, min(len(images), PROBE_IMAGES)).astype(np.int64)])
    with torch.no_grad():
        variance = _embedding(teacher, probe, unit).var(0, correction=0).sum().clamp_min(1e-12)

    def loss_of(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            target = _embedding(teacher, pixels, unit)
        loss = (_embedding(rounded, pixels, unit) - target).square().sum(1).mean() / variance
        if not torch.isfinite(loss):
            raise ExportError("quantization-aware training diverged: the loss is not finite")
        return loss

    with torch.no_grad():
        before = float(loss_of(probe))
    optimizer = torch.optim.Adam(
        [
            {
                "params": [p],
                "lr": settings.learning_rate * max(float(p.detach().square().mean().sqrt()), 1e-6),
            }
            for p in rounded.parameters()
        ]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))
    )
    for _ in range(settings.steps):
        loss = loss_of(_pixels(images[np.sort(rng.integers(0, len(images), settings.batch))]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        _check_convergence(rounded, before, float(loss_of(probe)))
    for module in student.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    return ExportedEncoder(
        fold_pixel_scaling(student.eval(), snap=True), encoder.preprocessing, encoder.dimensions
    ).eval()


def add_fake_quantization(student: fx.GraphModule) -> fx.GraphModule:
    """A graph that shares the modules of `student` and rounds where an int8 file does.

    Weights are rounded per output channel; activations per tensor, after the rectifier if there is one. At first it
    observes ranges; `_freeze_ranges` makes it round.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(student.graph, {}))
    rounded = fx.GraphModule(student, graph)
    for index, node in enumerate(list(graph.nodes)):
        module, operation = module_of(rounded, node), operation_of(rounded, node)
        if isinstance(module, nn.Conv2d | nn.Linear):
            if not parametrize.is_parametrized(module, "weight"):
                parametrize.register_parametrization(module, "weight", FakeQuantizedWeight(), unsafe=True)
        elif operation not in (*RECTIFIERS, "add", "sigmoid"):
            continue
        followers = [operation_of(rounded, user) for user in node.users]
        if len(followers) == 1 and followers[0] in RECTIFIERS:
            continue
        # A sum with a plain number is part of the pixel scaling, which will be folded.
        if operation == "add" and not all(isinstance(argument, fx.Node) for argument in node.args):
            continue
        limit = SIGMOID_SATURATION if "sigmoid" in followers else math.inf
        name = f"rounded_{index}"
        rounded.add_module(name, FakeQuantizedActivation(limit))
        with graph.inserting_after(node):
            follower = graph.call_module(name, (node,))
        node.replace_all_uses_with(follower, delete_user_cb=lambda user, own=follower: user is not own)
    rounded.recompile()
    return rounded


class FakeQuantizedWeight(nn.Module):
    """Rounds a weight to 255 symmetric levels per output channel, as both quantizers do."""

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-12) / 127.0
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


class FakeQuantizedActivation(nn.Module):
    """Rounds an activation to 256 levels over its observed range.

    Args:
        limit: bound of the range; larger values do not matter to the next operation.
    """

    low: Tensor
    high: Tensor

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.observing = True
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            self.low = torch.minimum(self.low, x.detach().amin()).clamp_min(-self.limit)
            self.high = torch.maximum(self.high, x.detach().amax()).clamp_max(self.limit)
            return x
        scale = ((self.high - self.low) / 255.0).clamp_min(1e-12)
        zero = torch.round(-self.low / scale).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)


def _freeze_ranges(rounded: nn.Module) -> None:
    for module in rounded.modules():
        if isinstance(module, FakeQuantizedActivation):
            module.observing = False


def _check_convergence(rounded: nn.Module, before: float, after: float) -> None:
    """Check weights as well as the loss: rounding turns NaN and infinity into finite numbers."""
    if not all(bool(torch.isfinite(parameter).all()) for parameter in rounded.parameters()):
        raise ExportError("quantization-aware training diverged: a weight is not finite")
    if after > max(MAX_LOSS_RATIO * before, TOLERABLE_LOSS):
        raise ExportError(
            f"quantization-aware training diverged: the loss went from {before:.2g} to {after:.2g}"
        )


def _pixels(images: Bytes) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()


def _embedding(network: nn.Module, pixels: Tensor, unit: bool) -> Tensor:
    embedding: Tensor = network(pixels)
    return nn.functional.normalize(embedding) if unit else embedding
