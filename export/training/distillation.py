"""Distillation: one network learns the embeddings of two, which are used side by side.

A network that was fine-tuned on objects tells objects apart better than with its published weights, and other things worse.
The embeddings of the two side by side are good at both, at twice the cost. Distillation turns the two into one network,
after Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, but with embeddings, not class scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_siamese.errors import SettingsError
from export.data.images import ImageSet
from export.encoders import EncoderNetwork
from export.training.objectives import Batch, Draw, Objective
from export.training.retention import UnrelatedPictures

FITTED_IMAGES = 2048
"""Number of pictures to which the common embedding and the student's first projection are fitted."""
RIDGE = 0.3
"""Penalty of the first projection, in mean squares of its inputs."""


class Teacher(nn.Module):
    """Two networks side by side: pixels (N, C, H, W), float32 in 0..255, to unit vectors (N, D).

    The embeddings of each network are scaled to unit length, centered on their mean over pictures of anything, and scaled to
    unit length again. Both are weighted, concatenated, and reduced to D principal components.

    Args:
        finetuned: the network that was trained on objects.
        published: the network with its published weights; its projection is fitted to the pictures.
        published_weight: weight of the published network in squared distances, 0 to 1.
        pictures: pictures of anything.
    """

    def __init__(
        self,
        finetuned: EncoderNetwork,
        published: EncoderNetwork,
        published_weight: float,
        pictures: UnrelatedPictures,
    ) -> None:
        super().__init__()
        published.fit_projection(pictures.images)
        self.networks = nn.ModuleList([finetuned, published]).eval().requires_grad_(False)
        self.factors = ((1.0 - published_weight) ** 0.5, published_weight**0.5)
        sample = [pixels.to(finetuned.device) for pixels in pictures.sample(FITTED_IMAGES)]
        with torch.no_grad():
            units = [torch.cat([F.normalize(net(pixels)) for pixels in sample]) for net in self.networks]
            self.means = [unit.mean(dim=0) for unit in units]
            both = self._side_by_side(units)
            self.mean = both.mean(dim=0)
            _, _, components = torch.linalg.svd(both - self.mean, full_matrices=False)
            self.components = components[: finetuned.dimensions].T

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        units = [F.normalize(network(pixels)) for network in self.networks]
        return F.normalize((self._side_by_side(units) - self.mean) @ self.components)

    def _side_by_side(self, units: Iterable[Tensor]) -> Tensor:
        parts = zip(self.factors, units, self.means, strict=True)
        return torch.cat([factor * F.normalize(unit - mean) for factor, unit, mean in parts], dim=1)


class Distillation(Objective):
    """The mean of 1 - cosine between the embeddings of the student and of the teacher.

    Args:
        draw: draws the images of a batch.
    """

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.draw = draw

    def batch(self, images: ImageSet, size: int, seed: int, step: int) -> Batch:
        chosen = self.draw(images, size, seed, step)
        return Batch(chosen, images.labels[chosen], None)

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Embeddings (B, D), not normalized, and those of the teacher (B, D), unit vectors, to the mean loss."""
        return (1.0 - (F.normalize(embeddings) * targets).sum(dim=1)).mean()


class DistillationStep(nn.Module):
    """Computes the loss from pixels; the module that distributed training wraps.

    Args:
        encoder: the student.
        objective: the loss.
        teacher: gives the targets.
        pictures: unrelated pictures; each step adds half as many as the batch has.
    """

    def __init__(
        self, encoder: EncoderNetwork, objective: Distillation, teacher: Teacher, pictures: UnrelatedPictures
    ) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, objective
        # Not a submodule: distributed training synchronizes the parameters of submodules, and the teacher has none to train.
        self.targets: Callable[[Tensor], Tensor] = lambda pixels: teacher(pixels)
        self.pictures = pictures

    def forward(self, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
        """Pixels float32 (B, C, H, W) in 0..255 to the loss, a scalar; labels are not used."""
        unrelated = self.pictures.batch(len(pixels) // 2, step).to(pixels.device)
        pixels = torch.cat([pixels, unrelated])
        loss: Tensor = self.objective(self.encoder(pixels), self.targets(pixels))
        return loss


@torch.no_grad()
def fit_to_teacher(encoder: EncoderNetwork, teacher: Teacher, pictures: UnrelatedPictures) -> None:
    """Fit the projection of the student to the teacher's embeddings, by ridge regression on its features.

    The features change less afterward than with an unfitted projection (Kumar et al., "Fine-Tuning can Distort Pretrained
    Features and Underperform Out-of-Distribution", 2022).

    Raises:
        SettingsError: the encoder has no projection.
    """
    projection = getattr(encoder, "projection", None)
    if not isinstance(projection, nn.Linear):
        raise SettingsError(
            f"distillation needs an encoder with a projection, which {encoder.name} does not have"
        )
    training, device = encoder.training, encoder.device
    encoder.eval()
    features, targets = [], []
    for pixels in pictures.sample(FITTED_IMAGES):
        features.append(encoder.features(pixels.to(device)))  # type: ignore[operator]
        targets.append(teacher(pixels.to(device)))
    inputs, outputs = torch.cat(features).double(), torch.cat(targets).double()
    mean, mean_output = inputs.mean(dim=0), outputs.mean(dim=0)
    centered = inputs - mean
    covariance = centered.T @ centered
    penalty = RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), device=device).double()
    weight = torch.linalg.solve(covariance + penalty, centered.T @ (outputs - mean_output)).T
    projection.weight.copy_(weight)
    projection.bias.copy_(mean_output - weight @ mean)
    encoder.train(training)
