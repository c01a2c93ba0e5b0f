"""What a training step consists of: the loss, the optimizer, and the weights that are kept of it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from export.encoders import EncoderNetwork
from export.training.objectives import Objective
from export.training.retention import Memory
from export.training.settings import TrainingSettings


class TrainingStep(nn.Module):
    """From pixels to the loss: what gradients flow through, and what distributed training wraps."""

    def __init__(
        self, encoder: EncoderNetwork, objective: Objective, memory: Memory | None = None, weight: float = 0.0
    ) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, objective
        self.memory, self.weight = memory, weight

    def forward(self, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
        if self.memory is None:
            loss: Tensor = self.objective(self.encoder(pixels), labels)
            return loss
        others, known = self.memory.batch(len(pixels) // 2, step)
        embeddings = self.encoder(torch.cat([pixels, others]))
        own, remembered = embeddings[: len(pixels)], embeddings[len(pixels) :]
        return self.objective(own, labels) + self.weight * self.memory.forgotten(remembered, known)


def build_optimizer(
    settings: TrainingSettings, encoder: EncoderNetwork, objective: Objective
) -> torch.optim.Optimizer:
    """Weight decay acts on matrices and convolutions, not on biases, norms and the few numbers of a head."""
    own = {id(p): p for p in encoder.parameters()}
    further = {id(p): p for p in objective.parameters() if id(p) not in own}.values()
    directions = [p for p in further if p.ndim > 1]
    parameters = [*own.values(), *(p for p in further if p.ndim <= 1)]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay, "rate": 1.0},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "rate": 1.0},
        {"params": directions, "weight_decay": settings.weight_decay, "rate": settings.class_rate},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def freeze_statistics(encoder: nn.Module) -> None:
    """Let every norm use the statistics that it has, whatever the batch; what it scales and shifts by still learns."""
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


@torch.no_grad()
def blended(start: EncoderNetwork | None, trained: EncoderNetwork, share: float) -> EncoderNetwork:
    """The network so far on the straight way from the start's weights to the trained ones.

    Wortsman et al., "Robust fine-tuning of zero-shot models" (2022): what lies between keeps more of what the start knew
    about things that were not in the training pictures.
    """
    if start is None or share >= 1.0:
        return trained
    between = copy.deepcopy(trained)
    known = start.state_dict()
    for name, value in between.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.lerp(known[name], value, share))
    return between


@torch.no_grad()
def update_average(
    average: EncoderNetwork, encoder: EncoderNetwork, settings: TrainingSettings, step: int
) -> None:
    """Exponential average of the weights, running statistics of the norms included (Polyak and Juditsky, 1992)."""
    # Early in a run the average must not remember the random start.
    decay = min(settings.average_decay, (1.0 + step) / (10.0 + step)) if settings.average else 0.0
    for kept, new in zip(average.state_dict().values(), encoder.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1.0 - decay)
        else:
            kept.copy_(new)
