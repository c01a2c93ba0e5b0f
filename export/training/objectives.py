"""Training objectives: cosine-margin softmax over classes, and cross-entropy over pairs.

An objective draws the images of a batch and turns their embeddings into a loss. The draw is a function of (seed, step)
alone, so a resumed run and every worker of a distributed run get the same batches as a single, uninterrupted process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_siamese.errors import SettingsError
from export.data.augment import SYMMETRIES
from export.data.images import ImageSet
from export.data.sampling import verification_pairs
from export.encoders import EncoderNetwork, KochHead
from export.training.settings import OBJECTIVES

Indices = npt.NDArray[np.int64]

EPOCH_PAIRS = 150_000
"""Koch 2015, section 4.1: the size of the largest training set there; here each epoch draws new pairs."""


@dataclass(frozen=True)
class Batch:
    """Images of a training step and their labels."""

    images: Indices
    """int64 (B,): indices into the training images."""
    labels: Indices
    """int64: (B,) classes, or (B / 2,) with 1 where images 2i and 2i + 1 show the same class."""
    symmetry: Indices | None
    """int64 (B,) in 0..7: the symmetry of the square to apply; None to keep the orientation."""

    def share(self, rank: int, workers: int) -> Batch:
        """The part of the batch for one of several workers."""
        images, labels = np.split(self.images, workers)[rank], np.split(self.labels, workers)[rank]
        return Batch(
            images, labels, None if self.symmetry is None else np.split(self.symmetry, workers)[rank]
        )


def shuffled(images: ImageSet, size: int, seed: int, step: int) -> Indices:
    """Images of a step: a new permutation each epoch, in which all classes are equally frequent."""
    order = _balanced(images)
    positions = np.arange(step * size, (step + 1) * size)
    epochs = positions // len(order)
    chosen = np.empty(size, dtype=np.int64)
    for epoch in np.unique(epochs):
        shuffled = np.random.default_rng([seed, 1, int(epoch)]).permutation(len(order))
        current = epochs == epoch
        chosen[current] = order[shuffled[positions[current] % len(order)]]
    return chosen


def _balanced(images: ImageSet) -> Indices:
    """Indices of images, with those of small classes repeated to the count of the largest class."""
    counts = np.bincount(images.labels, minlength=images.classes)
    if counts.min() == counts.max():
        return np.arange(len(images.labels))
    members = np.argsort(images.labels, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.concatenate(
        [np.resize(members[s : s + c], counts.max()) for s, c in zip(starts, counts, strict=True) if c]
    )


Draw = Callable[[ImageSet, int, int, int], Indices]
"""Maps image set, batch size, seed and step to the images of a batch."""


def by_class(shares: Sequence[int], pictures: int) -> Draw:
    """Draws several pictures of each class, and a fixed share of the batch from each source.

    Args:
        shares: share of each source; empty for equal shares.
        pictures: number of pictures of each class; they are repeated if a class has fewer.

    Returns:
        The function that draws a batch; the pictures of a class follow each other.

    Raises:
        SettingsError: raised by the returned function if the shares do not fit the data or the batch size.
    """

    def draw(images: ImageSet, size: int, seed: int, step: int) -> Indices:
        sources = (
            np.zeros(images.classes, dtype=np.int64) if images.class_sources is None else images.class_sources
        )
        parts = shares or [1] * (int(sources.max()) + 1)
        if len(parts) != int(sources.max()) + 1:
            raise SettingsError(
                f"there are {int(sources.max()) + 1} sources of data, but {len(parts)} shares of them"
            )
        unit = sum(parts) * pictures
        if size % unit:
            raise SettingsError(f"the batch must be a multiple of {unit} with these data_shares, not {size}")
        rng = np.random.default_rng([seed, 9, step])
        chosen = []
        for source, part in enumerate(parts):
            classes = np.flatnonzero((sources == source) & (images.counts > 0))
            for label in _next_classes(classes, size // unit * part, seed, source, step):
                chosen.append(np.resize(rng.permutation(images.images_of(label)), pictures))
        return np.concatenate(chosen)

    return draw


def _next_classes(classes: Indices, count: int, seed: int, source: int, step: int) -> Indices:
    """Classes of a step: a new permutation each time that all classes were drawn."""
    positions = np.arange(step * count, (step + 1) * count)
    rounds, places = np.divmod(positions, len(classes))
    orders = {
        r: np.random.default_rng([seed, 8, source, int(r)]).permutation(classes) for r in np.unique(rounds)
    }
    return np.array([orders[r][place] for r, place in zip(rounds, places, strict=True)], dtype=np.int64)


class Objective(nn.Module):
    """Base class of the objectives."""

    unit = 1
    """Number of successive images of a batch that belong together."""

    def images_per_epoch(self, images: ImageSet) -> int:
        """Number of images in an epoch, for schedules that fall by the epoch."""
        return len(images)

    def batch(self, images: ImageSet, size: int, seed: int, step: int) -> Batch:
        """The batch of `size` images of a step, counted from 0; a pure function of its arguments."""
        raise TypeError(f"{type(self).__name__} draws no batches")


class CosineMarginSoftmax(Objective):
    """CosFace: softmax over scale * (cos(angle to the class) - margin), of Wang et al., "CosFace", 2018.

    With `symmetries`, each rotated or mirrored version of a class is a class of its own (eight in all), after Santoro et
    al., "Meta-Learning with Memory-Augmented Neural Networks", 2016 (rotations by 90 degrees as new classes).
    """

    def __init__(
        self,
        classes: int,
        dimensions: int,
        symmetries: bool,
        scale: float = 24.0,
        margin: float = 0.25,
        draw: Draw = shuffled,
    ) -> None:
        super().__init__()
        self.draw = draw
        self.symmetries = symmetries
        self.scale, self.margin = scale, margin
        total = classes * (SYMMETRIES if symmetries else 1)
        self.directions = nn.Parameter(torch.randn(total, dimensions) / math.sqrt(dimensions))

    def batch(self, images: ImageSet, size: int, seed: int, step: int) -> Batch:
        chosen = self.draw(images, size, seed, step)
        labels = images.labels[chosen]
        if not self.symmetries:
            return Batch(chosen, labels, None)
        symmetry = np.random.default_rng([seed, 2, step]).integers(0, SYMMETRIES, size)
        return Batch(chosen, labels * SYMMETRIES + symmetry, symmetry)

    @torch.no_grad()
    def imprint(self, embeddings: Tensor, labels: Tensor) -> None:
        """Set the direction of each class to the mean of its unit vectors.

        After Qi, Brown and Lowe, "Low-Shot Learning with Imprinted Weights", 2018.

        Args:
            embeddings: float32 (N, D), at least one of each class; only without symmetries.
            labels: classes int64 (N,).
        """
        sums = torch.zeros_like(self.directions).index_add_(0, labels, F.normalize(embeddings))
        self.directions.copy_(F.normalize(sums))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Embeddings (B, D) and classes int64 (B,) to the mean loss."""
        cosines = F.normalize(embeddings) @ F.normalize(self.directions).T
        own = torch.full((len(labels), 1), -self.margin, dtype=cosines.dtype, device=cosines.device)
        return F.cross_entropy(self.scale * cosines.scatter_add(1, labels[:, None], own), labels)


class SiamesePairs(Objective):
    """Koch 2015, section 3.1: cross-entropy of p(same) over pairs, half of them of the same class.

    The probability comes from the encoder's own weighted L1 head if it has one, and otherwise from `EuclideanHead`,
    which is trained with the encoder.
    """

    unit = 2

    def __init__(self, encoder: EncoderNetwork) -> None:
        super().__init__()
        self.head = trainable_head(encoder)

    def images_per_epoch(self, images: ImageSet) -> int:
        return 2 * EPOCH_PAIRS

    def batch(self, images: ImageSet, size: int, seed: int, step: int) -> Batch:
        pairs = verification_pairs(images, size // 2, np.random.default_rng([seed, 3, step]))
        order = np.random.default_rng([seed, 4, step]).permutation(size // 2)
        interleaved = np.stack([pairs.a, pairs.b], axis=1)[order].reshape(-1)
        return Batch(interleaved, pairs.same[order].astype(np.int64), None)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Embeddings (B, D), where rows 2i and 2i + 1 are a pair, and labels int64 (B / 2,) to the mean loss."""
        log_odds = self.head(embeddings[0::2], embeddings[1::2])
        return F.binary_cross_entropy_with_logits(log_odds, labels.to(log_odds.dtype))


class AllPairs(Objective):
    """The objective of Koch 2015 over all pairs within each block of a batch; a block has drawings of one alphabet.

    Each drawing passes through the network once and is part of 31 pairs instead of one. As in `SiamesePairs`, a pair of
    different characters is from one alphabet, and the two kinds of pairs have equal weight. With `symmetries`, each block is
    rotated or mirrored as a whole, in one of eight ways: the alphabet seen from another side is an alphabet of its own.
    """

    unit = 32
    """Images of a block: two of each of 16 characters."""

    def __init__(self, encoder: EncoderNetwork, symmetries: bool = False) -> None:
        super().__init__()
        self.head = trainable_head(encoder)
        self.symmetries = symmetries

    def batch(self, images: ImageSet, size: int, seed: int, step: int) -> Batch:
        if size % self.unit:
            raise SettingsError(
                f"batch must be a multiple of {self.unit} with the objective all-pairs, not {size}"
            )
        pairable = images.counts > 1
        groups = [
            np.flatnonzero(pairable & (images.class_groups == group))
            for group in range(len(images.group_names))
        ]
        groups = [classes for classes in groups if len(classes) > 1]
        if not groups:
            raise SettingsError(f"{images.name} has no group of two classes with two pictures each")
        rng = np.random.default_rng([seed, 10, step])
        sizes, blocks = np.array([len(classes) for classes in groups]), size // self.unit
        drawn = rng.choice(len(groups), blocks, replace=blocks > len(groups), p=sizes / sizes.sum())
        chosen = np.concatenate(
            [
                rng.choice(images.images_of(label), 2, replace=False)
                for group in drawn
                for label in np.resize(rng.permutation(groups[group]), self.unit // 2)
            ]
        )
        symmetry = np.repeat(rng.integers(0, SYMMETRIES, blocks), self.unit) if self.symmetries else None
        return Batch(chosen, images.labels[chosen], symmetry)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Embeddings (B, D), of one group in each block of 32, and classes int64 (B,) to the mean loss."""
        first, second = torch.triu_indices(self.unit, self.unit, 1, device=labels.device)
        blocks = torch.arange(0, len(labels), self.unit, device=labels.device)[:, None]
        first, second = (blocks + first).flatten(), (blocks + second).flatten()
        log_odds = self.head(embeddings.index_select(0, first), embeddings.index_select(0, second))
        same = labels[first] == labels[second]
        losses = F.binary_cross_entropy_with_logits(log_odds, same.to(log_odds.dtype), reduction="none")
        return 0.5 * (losses[same].mean() + losses[~same].mean())


def trainable_head(encoder: EncoderNetwork) -> nn.Module:
    """The encoder's own weighted L1 head if it has one, and otherwise a new `EuclideanHead`."""
    head = getattr(encoder, "head", None)
    return head if isinstance(head, KochHead) else EuclideanHead()


class EuclideanHead(nn.Module):
    """Log-odds bias - scale * ||a - b|| of unit vectors (N, D) and (N, D), of shape (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))
        self.bias = nn.Parameter(torch.tensor(8.0))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.bias - self.scale * torch.linalg.vector_norm(F.normalize(a) - F.normalize(b), dim=1)


def build_objective(
    name: str,
    encoder: EncoderNetwork,
    classes: int,
    symmetries: bool,
    logit_scale: float = 24.0,
    margin: float = 0.25,
    draw: Draw = shuffled,
) -> Objective:
    """Build the objective `cosine`, `pairs` or `all-pairs` for an encoder and a number of training classes.

    Raises:
        SettingsError: the name is unknown, or the objective does not suit the encoder.
    """
    if name == "pairs":
        return SiamesePairs(encoder)
    if name == "all-pairs":
        return AllPairs(encoder, symmetries)
    if name != "cosine":
        raise SettingsError(f"there is no objective {name!r}; known: {', '.join(OBJECTIVES)}")
    if encoder.normalization != "l2":
        raise SettingsError(
            f"the cosine objective needs unit vectors; train {encoder.name} with --objective all-pairs"
        )
    return CosineMarginSoftmax(classes, encoder.dimensions, symmetries, logit_scale, margin, draw)
