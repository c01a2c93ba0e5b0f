"""Sources of training pictures: what `--data` names, and several of them together.

    grocery,turntable:build/turntable,anything:build/photographs/varied

The first source has the classes for validation and evaluation; all of them have training classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing
from export.data.folders import pictures_in, prepared_pictures
from export.data.images import ImageSet

KINDS = ("omniglot", "glyphs", "grocery", "folder", "turntable", "anything")
MAX_ANYTHING = 600
"""Number of pictures of `anything:PATH`: each must be seen several times in a training run."""
_NEXT_SOURCE = re.compile(rf",(?=(?:{'|'.join(KINDS)})(?:[:,]|$))")


def source_names(data: str) -> list[str]:
    """The sources of a data set: `grocery,folder:a,b` are `grocery` and `folder:a,b`."""
    return _NEXT_SOURCE.split(data)


def anything(path: Path, preprocessing: Preprocessing, seed: int = 0) -> ImageSet:
    """Pictures of a folder and its subfolders, each a class of its own; the seed draws `MAX_ANYTHING` of them.

    The augmented versions of a picture are the pictures of its class (Dosovitskiy et al., "Discriminative Unsupervised
    Feature Learning with Exemplar Convolutional Neural Networks", 2014).

    Raises:
        DataError: the folder does not exist or has no readable pictures.
    """
    paths = pictures_in(path)
    chosen = [
        paths[i] for i in np.sort(np.random.default_rng([seed, 11]).permutation(len(paths))[:MAX_ANYTHING])
    ]
    images, reasons = prepared_pictures(path, chosen, preprocessing)
    readable = [p for p, reason in zip(chosen, reasons, strict=True) if not reason]
    if not readable:
        raise DataError(f"{path}: {next(filter(None, reasons))}")
    count = len(readable)
    return ImageSet(
        name=path.name,
        images=images,
        labels=np.arange(count),
        class_names=tuple(str(p.relative_to(path)) for p in readable),
        class_groups=np.zeros(count, dtype=np.int64),
        group_names=(path.name,),
        drawers=np.full(count, -1, dtype=np.int64),
    )


def together(sets: Sequence[ImageSet]) -> ImageSet:
    """The classes of several sources, which `ImageSet.class_sources` numbers; RGBA if one of them has transparency."""
    channels = max(images.images.shape[3] for images in sets)
    classes = np.cumsum([0] + [images.classes for images in sets])
    groups = np.cumsum([0] + [len(images.group_names) for images in sets])
    return ImageSet(
        name=" and ".join(images.name for images in sets),
        images=np.concatenate([_with_channels(images.images, channels) for images in sets]),
        labels=np.concatenate([s.labels + first for s, first in zip(sets, classes[:-1], strict=True)]),
        class_names=tuple(name for images in sets for name in images.class_names),
        class_groups=np.concatenate(
            [s.class_groups + first for s, first in zip(sets, groups[:-1], strict=True)]
        ),
        group_names=tuple(name for images in sets for name in images.group_names),
        drawers=np.concatenate([images.drawers for images in sets]),
        class_sources=np.repeat(np.arange(len(sets)), [images.classes for images in sets]),
    )


def _with_channels(images: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.uint8]:
    if images.shape[3] == channels:
        return images
    if (images.shape[3], channels) != (3, 4):
        raise DataError("several sources of data need an encoder for color pictures")
    return np.pad(images, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=255)
