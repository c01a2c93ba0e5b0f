"""Discriminant weighting: directions of the embedding in which classes of one group differ count more.

Training separates all classes at once. What tells the characters of one alphabet apart is found afterward by linear
discriminant analysis (Fisher, "The use of multiple measurements in taxonomic problems", 1936) on embeddings of the training
images: the variation within classes becomes equal in all directions, and each direction gets a weight by the share of its
variance that is between classes of one group. Both are one matrix, which the last layer absorbs: the network costs the same.
"""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.embedding import unit_vectors
from export.data.images import ImageSet
from export.encoders import EncoderNetwork
from export.training.network import TorchEncoder

Matrix = npt.NDArray[np.float64]

SHRINKAGE = 0.6
"""Weight of equal variances in all directions in the estimated variation within classes. Chosen on validation alphabets."""
POWER = 0.5
"""Exponent of the share of variance. Chosen on validation alphabets: 1 identifies less at strict thresholds."""


def with_discriminant(encoder: EncoderNetwork, images: ImageSet) -> EncoderNetwork:
    """A copy of an encoder whose last layer includes the discriminant weighting of its embeddings of some images.

    Args:
        encoder: its embeddings are compared as unit vectors, and its last layer is linear.
        images: training images, prepared for the encoder and not distorted.

    Raises:
        SettingsError: the encoder does not end in a linear layer, or no group has two classes.
    """
    result = copy.deepcopy(encoder)
    layer = last_layer(result)
    units = unit_vectors(TorchEncoder(encoder).embed_prepared(images.images))
    matrix = torch.from_numpy(discriminant(units.astype(np.float64), images)).to(layer.weight.device)
    with torch.no_grad():
        layer.weight.copy_(matrix @ layer.weight.double())
        layer.bias.copy_(matrix @ layer.bias.double())
    return result


def last_layer(encoder: EncoderNetwork) -> nn.Linear:
    """The linear layer that computes the embedding; raises `SettingsError` if there is none."""
    layer = getattr(encoder, "embedding", getattr(encoder, "projection", None))
    if not isinstance(layer, nn.Linear):
        raise SettingsError(
            f"--discriminant needs an encoder that ends in a linear layer, which {encoder.name} does not"
        )
    return layer


def discriminant(
    units: Matrix, images: ImageSet, shrinkage: float = SHRINKAGE, power: float = POWER
) -> Matrix:
    """The weighting: whitening of the variation within classes, then the weights.

    Args:
        units: (N, D), the embeddings of `images.images` as unit vectors.
        images: their classes, and the groups of these.
        shrinkage: 0 to 1, the weight of equal variances in the variation within classes.
        power: exponent of the weights; 0 for whitening alone.

    Returns:
        (D, D), to multiply column vectors with.

    Raises:
        SettingsError: no group has two classes with pictures.
    """
    dimensions = units.shape[1]
    counts = images.counts
    means = np.zeros((images.classes, dimensions))
    np.add.at(means, images.labels, units)
    means /= np.maximum(counts, 1)[:, np.newaxis]
    within = _covariance(units - means[images.labels])
    members = [
        np.flatnonzero((images.class_groups == g) & (counts > 0)) for g in np.unique(images.class_groups)
    ]
    deviations = [means[classes] - means[classes].mean(axis=0) for classes in members if len(classes) > 1]
    if not deviations:
        raise SettingsError(
            f"--discriminant needs a group with two classes, which {images.name} does not have"
        )
    between = _covariance(np.concatenate(deviations))
    shrunk = (1.0 - shrinkage) * within + shrinkage * np.trace(within) / dimensions * np.eye(dimensions)
    variances, axes = np.linalg.eigh(shrunk)
    whitening = (axes / np.sqrt(variances)) @ axes.T
    ratios, directions = np.linalg.eigh(whitening @ between @ whitening)
    shares = np.maximum(ratios, 0.0) / (np.maximum(ratios, 0.0) + 1.0)
    # Rotated back, so that all numbers of the embedding have similar ranges: int8 has one scale for all of them.
    result: Matrix = (directions * shares**power) @ directions.T @ whitening
    return result


def _covariance(centered: Matrix) -> Matrix:
    result: Matrix = centered.T @ centered / len(centered)
    return result
