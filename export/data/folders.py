"""Data sets of the user's own pictures: `CLASS/PICTURE` or `GROUP/CLASS/PICTURE`."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import structs
from PIL import Image

from edge_siamese.errors import DataError, EdgeSiameseError
from edge_siamese.pictures import read_picture
from edge_siamese.recognition.imaging import Preprocessing, prepare
from export.data.cache import Arrays, cached_arrays
from export.data.images import ImageSet, Indices, Splits
from export.progress import track

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MAX_PIXELS = 80_000_000
"""Larger pictures may be decompression bombs and are skipped."""
MIN_CLASSES = 2
MIN_IMAGES = 2
HELD_OUT_FRACTION = 0.2
"""Fraction of the classes for validation, and again for evaluation."""
MAX_HELD_OUT_TOGETHER = 5
"""Classes of a group that are held out together if possible: enough for 5-way episodes within the group."""
MAX_WARNINGS = 10
# Increase it when the same files give other arrays than before.
CACHE_VERSION = 1

LOG = logging.getLogger(__name__)


def load_folder(path: Path, preprocessing: Preprocessing, seed: int = 0) -> Splits:
    """Read a folder of pictures and split it by classes.

    Pictures are `CLASS/PICTURE`, or `GROUP/CLASS/PICTURE` for harder episodes within a group, as within an alphabet. JPEG,
    PNG and WebP files are read and rotated as their EXIF data say. Unreadable files, and classes with fewer than two
    pictures, are skipped with a warning; hidden files are ignored.

    Subfolders named `train`, `evaluation` and optionally `validation` are the splits; without `validation`, classes of
    `train` are held out for it. `evaluation` alone is a data set that cannot be trained on. Otherwise the seed draws 60 % of
    the classes for training, 20 % for validation and 20 % for evaluation, at least two each. A split with a single class of
    each group becomes one group.

    Raises:
        DataError: the folder does not exist, or has too few classes or pictures.
    """
    if not path.is_dir():
        raise DataError(
            f"there is no folder {path}; --data folder:PATH requires one with a subfolder for each class"
        )
    warnings: list[str] = []
    named = {folder.name.lower(): folder for folder in _folders(path)}
    if set(named) in ({"evaluation"}, {"train", "evaluation"}, {"train", "validation", "evaluation"}):
        splits = _given_splits(named, preprocessing, seed, warnings)
        how = "subfolders"
    else:
        splits = _random_splits(_read(path, path.name, preprocessing, warnings), path, seed)
        how = "classes drawn by the seed"
    splits = replace(
        splits,
        train=_comparable(splits.train, warnings),
        validation=_comparable(splits.validation, warnings),
        evaluation=_comparable(splits.evaluation, warnings),
    )
    for warning in warnings[:MAX_WARNINGS]:
        LOG.warning("%s", warning)
    if len(warnings) > MAX_WARNINGS:
        LOG.warning("... and %d more such lines", len(warnings) - MAX_WARNINGS)
    return replace(
        splits,
        provenance={
            "data": f"folder:{path}",
            "split": how,
            "seed": seed,
            "train": splits.train.summary(),
            "validation": splits.validation.summary(),
            "evaluation": splits.evaluation.summary(),
            "evaluation_classes": list(splits.evaluation.class_names),
            "warnings": warnings,
        },
    )


def _given_splits(
    named: dict[str, Path], preprocessing: Preprocessing, seed: int, warnings: list[str]
) -> Splits:
    sets = {name: _read(folder, name, preprocessing, warnings) for name, folder in named.items()}
    seen: dict[str, str] = {}
    for name, images in sets.items():
        for class_name in images.class_names:
            if class_name in seen:
                raise DataError(
                    f"class {class_name} is in {named[seen[class_name]]} and in {named[name]}; "
                    "the splits must not share classes"
                )
            seen[class_name] = name
    if "train" not in sets:
        empty = sets["evaluation"].select([])
        sets |= {name: replace(empty, name=name) for name in ("train", "validation")}
    elif "validation" not in sets:
        train = sets["train"]
        if train.classes < 2 * MIN_CLASSES:
            raise DataError(
                f"{named['train']} has {train.classes} usable classes; at least {2 * MIN_CLASSES} are needed, of which "
                f"{MIN_CLASSES} are held out, or a folder validation beside it"
            )
        sets["train"], sets["validation"] = _parts(train, seed, ("train", "validation"))
    return Splits(train=sets["train"], validation=sets["validation"], evaluation=sets["evaluation"])


def _random_splits(images: ImageSet, path: Path, seed: int) -> Splits:
    if images.classes < 3 * MIN_CLASSES:
        raise DataError(
            f"{path} has {images.classes} usable classes; at least {3 * MIN_CLASSES} are needed, {MIN_CLASSES} "
            "each for training, validation and evaluation (for evaluation only, put them into a subfolder evaluation)"
        )
    train, validation, evaluation = _parts(images, seed, ("train", "validation", "evaluation"))
    return Splits(train=train, validation=validation, evaluation=evaluation)


def _parts(images: ImageSet, seed: int, names: Sequence[str]) -> list[ImageSet]:
    """Split by classes: all parts but the first get `HELD_OUT_FRACTION` of them."""
    left = np.random.default_rng([seed, 7]).permutation(images.classes)[::-1]
    held_out = max(MIN_CLASSES, round(HELD_OUT_FRACTION * images.classes))
    parts = []
    for _ in names[1:]:
        parts.append(_draw_held_out(left, images.class_groups, held_out))
        left = left[~np.isin(left, parts[-1])]
    chosen = [left, *reversed(parts)]
    return [
        replace(images.select(np.sort(part)), name=f"{images.name} {name}")
        for part, name in zip(chosen, names, strict=True)
    ]


def _draw_held_out(left: Indices, groups: Indices, count: int) -> Indices:
    """Draw classes to hold out, several of a group together.

    Drawn one by one, few classes of many small groups would have no similar class to be compared with.

    Args:
        left: available classes, in random order.
        groups: (classes,): the group of each class.
        count: number of classes to draw, at most all.
    """
    taken = np.empty(0, dtype=np.int64)
    while (room := count - len(taken)) > 0:
        own = groups[left]
        accompanied = np.isin(own, groups[taken]) | ((np.bincount(own)[own] > 1) & (room > 1))
        # The first class with company in its group; if there is none, the first one.
        group = own[np.argmax(accompanied)]
        taken = np.concatenate([taken, left[own == group][: min(room, MAX_HELD_OUT_TOGETHER)]])
        left = left[~np.isin(left, taken)]
    return taken


def _comparable(images: ImageSet, warnings: list[str]) -> ImageSet:
    comparable = images.comparable()
    if comparable is not images:
        warnings.append(
            f"{images.name} has a single class of each group: its {images.classes} classes become one group"
        )
    return comparable


@dataclass(frozen=True)
class _Class:
    name: str
    group: str
    pictures: tuple[Path, ...]


def _read(path: Path, name: str, preprocessing: Preprocessing, warnings: list[str]) -> ImageSet:
    """All usable classes of a folder; what is skipped is added to the warnings."""
    classes = _classes(path, name, warnings)
    pictures = [picture for c in classes for picture in c.pictures]
    images, reasons = prepared_pictures(path, pictures, preprocessing)
    warnings.extend(reason for reason in reasons if reason)
    readable = np.array([not reason for reason in reasons], dtype=bool)
    owner = np.repeat(np.arange(len(classes)), [len(c.pictures) for c in classes])
    counts = np.bincount(owner[readable], minlength=len(classes))
    for c, count in zip(classes, counts, strict=True):
        if count < MIN_IMAGES:
            warnings.append(
                f"class {c.name} in {path} has {count or 'no'} readable picture and is skipped: {MIN_IMAGES} are needed"
            )
    usable = np.flatnonzero(counts >= MIN_IMAGES)
    if len(usable) < MIN_CLASSES:
        reason = f" ({warnings[0]})" if warnings else ""
        raise DataError(
            f"{path} has {len(usable)} usable classes; it needs at least {MIN_CLASSES} subfolders with at least "
            f"{MIN_IMAGES} JPEG, PNG or WebP pictures each{reason}"
        )
    group_names = sorted({c.group for c in classes})
    every = ImageSet(
        name=name,
        images=images,
        labels=owner[readable].astype(np.int64),
        class_names=tuple(c.name for c in classes),
        class_groups=np.array([group_names.index(c.group) for c in classes], dtype=np.int64),
        group_names=tuple(group_names),
        drawers=np.full(len(images), -1, dtype=np.int64),
    )
    return every.select(usable)


def _classes(path: Path, name: str, warnings: list[str]) -> list[_Class]:
    classes: list[_Class] = []
    ignored: list[Path] = []
    for folder in _folders(path):
        pictures = _pictures(folder, ignored)
        below = _folders(folder)
        if pictures or not below:
            classes.append(_Class(folder.name, name, pictures))
            continue
        for inner in below:
            classes.append(_Class(f"{folder.name}/{inner.name}", folder.name, _pictures(inner, ignored)))
    if ignored:
        warnings.append(
            f"{len(ignored)} files in {path} are not JPEG, PNG or WebP and are ignored, such as {ignored[0].name}"
            if len(ignored) > 1
            else f"{ignored[0]} is not JPEG, PNG or WebP and is ignored"
        )
    return classes


def _folders(path: Path) -> list[Path]:
    return [entry for entry in _entries(path) if entry.is_dir()]


def _pictures(path: Path, ignored: list[Path]) -> tuple[Path, ...]:
    files = [entry for entry in _entries(path) if entry.is_file()]
    ignored.extend(file for file in files if file.suffix.lower() not in SUFFIXES)
    return tuple(file for file in files if file.suffix.lower() in SUFFIXES)


def _entries(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def prepared_pictures(
    path: Path, pictures: Sequence[Path], preprocessing: Preprocessing
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Read and prepare pictures.

    Returns:
        The readable ones, uint8 (n, H, W, C); and for every picture the reason why it is missing, or an empty string.
    """

    def build() -> Arrays:
        reasons, images = [], []
        # Pillow releases the GIL while it decodes.
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for result in track(
                threads.map(lambda p: _prepare_picture(p, preprocessing), pictures), f"reading {path}"
            ):
                reasons.append(result if isinstance(result, str) else "")
                if not isinstance(result, str):
                    images.append(result)
        stacked = np.stack(images) if images else np.empty((0, *preprocessing.shape), dtype=np.uint8)
        return {"images": stacked, "reasons": np.array(reasons, dtype=np.str_)}

    digest = hashlib.sha256()
    for picture in pictures:
        status = picture.stat()
        digest.update(f"{picture.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    key = {
        "version": CACHE_VERSION,
        "path": str(path.resolve()),
        "files": digest.hexdigest(),
        "preprocessing": structs.asdict(preprocessing),
    }
    arrays = cached_arrays("folder", key, build)
    return np.asarray(arrays["images"], dtype=np.uint8), [str(reason) for reason in arrays["reasons"]]


def _prepare_picture(picture: Path, preprocessing: Preprocessing) -> npt.NDArray[np.uint8] | str:
    """A prepared picture, uint8 (H, W, C), or the reason why it cannot be used."""
    try:
        with Image.open(picture) as header:
            pixels = header.width * header.height
        if pixels > MAX_PIXELS:
            return f"{picture} is skipped: it has {pixels / 1e6:.0f} million pixels, at most {MAX_PIXELS // 10**6} are read"
    except Exception:  # read_picture below reports what is wrong
        pass
    try:
        return prepare(read_picture(picture), preprocessing)
    except EdgeSiameseError as error:
        return f"skipped: {error}"
