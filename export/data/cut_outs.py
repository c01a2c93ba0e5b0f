"""Image sets of turning objects: cut-outs for training, and pictures of them in front of backgrounds.

Training composes cut-outs with other backgrounds in each batch (`export.data.random_backgrounds`). For validation and
evaluation each view has its own background, so that the background does not reveal the object.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Bytes, Preprocessing, prepare
from export.data.composition import Light, Placement, drawn_background, photographed, place
from export.data.folders import MIN_CLASSES, split_classes
from export.data.images import ImageSet, Splits
from export.data.turntable import CutOuts, load_cut_outs, load_objects
from export.progress import track


def load_turntable(path: Path, preprocessing: Preprocessing, seed: int = 0) -> Splits:
    """Split rendered objects for training, validation and evaluation, and put each view in front of a drawn background.

    Args:
        path: folder of `python -m export render`.
        preprocessing: the encoder's input.
        seed: draws the split, as for a folder of pictures, and the backgrounds.

    Raises:
        DataError: there is no such folder, it is damaged, or it has too few objects.
    """
    cut_outs = cut_out_set(path)
    if cut_outs.classes < 3 * MIN_CLASSES:
        raise DataError(f"{path} has {cut_outs.classes} objects; at least {3 * MIN_CLASSES} are needed")
    parts = [_in_scenes(part, preprocessing, seed) for part in split_classes(cut_outs, seed)]
    train, validation, evaluation = parts
    return Splits(
        train=train,
        validation=validation,
        evaluation=evaluation,
        provenance={
            "data": f"turntable:{path}",
            "split": "objects drawn by the seed",
            "seed": seed,
            "train": train.summary(),
            "validation": validation.summary(),
            "evaluation": evaluation.summary(),
            "evaluation_classes": list(evaluation.class_names),
            "warnings": [],
        },
    )


def cut_out_set(path: Path, side: int | None = None) -> ImageSet:
    """All views of all rendered objects, uint8 (N, side, side, 4) RGBA; None for the side of the first object's pictures.

    Raises:
        DataError: there is no index, or a picture is missing or damaged.
    """
    objects = load_objects(path)
    if not objects:
        raise DataError(f"{path} has no objects")
    size = side or load_cut_outs(path, objects[0]).pixels.shape[2]
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # Pillow releases the GIL while it decodes.
        views = list(
            track(
                threads.map(lambda known: _resized(load_cut_outs(path, known), size), objects),
                f"reading {path}",
            )
        )
    count = sum(map(len, views))
    return ImageSet(
        name=path.name,
        images=np.concatenate(views),
        labels=np.repeat(np.arange(len(objects)), [len(v) for v in views]),
        class_names=tuple(known.id for known in objects),
        class_groups=np.zeros(len(objects), dtype=np.int64),
        group_names=(path.name,),
        drawers=np.full(count, -1, dtype=np.int64),
    )


def _resized(cut_outs: CutOuts, side: int) -> Bytes:
    pixels = cut_outs.pixels.reshape(-1, *cut_outs.pixels.shape[2:])
    if pixels.shape[1] == side:
        return pixels
    return np.stack([np.asarray(Image.fromarray(view).resize((side, side))) for view in pixels])


def _in_scenes(cut_outs: ImageSet, preprocessing: Preprocessing, seed: int) -> ImageSet:
    """Each view in front of a drawn background of its own, prepared for the encoder."""
    side = cut_outs.images.shape[1]
    images = np.empty((len(cut_outs), *preprocessing.shape), dtype=np.uint8)
    for index, cut_out in enumerate(cut_outs.images):
        rng = np.random.default_rng([seed, 12, cut_outs.labels[index], index])
        background = drawn_background(rng, side, side)
        placement = Placement(
            x=rng.uniform(0.4, 0.6),
            y=rng.uniform(0.4, 0.6),
            side=rng.uniform(0.7, 1.0),
            roll=rng.uniform(-10, 10),
        )
        light = Light(exposure=rng.uniform(0.7, 1.2), warmth=rng.uniform(0.93, 1.07))
        scene = place(background, cut_out, placement)
        noise = rng.normal(0.0, 3.0, scene.shape).astype(np.float32)
        images[index] = prepare(photographed(scene, light, noise), preprocessing)
    return replace(cut_outs, images=images)
