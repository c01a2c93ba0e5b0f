"""Image sets: prepared pictures with classes and groups, in three splits that share no class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Prepared pictures with their classes."""

    name: str
    """Name in messages and reports, such as `omniglot evaluation`."""
    images: npt.NDArray[np.uint8]
    """uint8 (N, H, W, C), prepared by `edge_siamese.recognition.imaging`."""
    labels: Indices
    """(N,): the class of each picture, 0 to `classes` - 1."""
    class_names: tuple[str, ...]
    """One name per class, such as `Greek/character03`."""
    class_groups: Indices
    """(classes,): the group (alphabet) of each class."""
    group_names: tuple[str, ...]
    """One name per group."""
    drawers: Indices
    """(N,): number of the drawer within the group; -1 if unknown."""
    class_sources: Indices | None = None
    """(classes,): the source of each class, 0, 1, ...; None for a single source."""

    def __post_init__(self) -> None:
        count = len(self.images)
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise DataError(
                f"{self.name}: pictures must be uint8 (N, H, W, C), not {self.images.dtype} {self.images.shape}"
            )
        if self.labels.shape != (count,) or self.drawers.shape != (count,):
            raise DataError(f"{self.name}: {count} pictures need {count} labels and drawers")
        if self.class_groups.shape != (self.classes,):
            raise DataError(
                f"{self.name}: {self.classes} classes need {self.classes} groups, not {self.class_groups.shape}"
            )
        if count and not (0 <= self.labels.min() and self.labels.max() < self.classes):
            raise DataError(f"{self.name}: labels must be 0 to {self.classes - 1}")
        if self.classes and not (
            0 <= self.class_groups.min() and self.class_groups.max() < len(self.group_names)
        ):
            raise DataError(f"{self.name}: groups of classes must be 0 to {len(self.group_names) - 1}")

    def __repr__(self) -> str:
        return (
            f"<{self.name}: {len(self)} images of {self.classes} classes in {len(self.group_names)} groups>"
        )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @cached_property
    def counts(self) -> Indices:
        """(classes,): the number of pictures of each class."""
        return np.bincount(self.labels, minlength=self.classes).astype(np.int64)

    @cached_property
    def by_class(self) -> Indices:
        """(N,): indices of all pictures, sorted by class."""
        return np.argsort(self.labels, kind="stable").astype(np.int64)

    @cached_property
    def starts(self) -> Indices:
        """(classes,): start of each class in `by_class`."""
        return np.cumsum(self.counts) - self.counts

    def images_of(self, label: int) -> Indices:
        """Indices of the pictures of a class, ascending."""
        start = self.starts[label]
        return self.by_class[start : start + self.counts[label]]

    def select(self, classes: Sequence[int] | Indices) -> ImageSet:
        """The pictures of some classes, which become classes 0, 1, ... in the given order.

        Groups without a class are dropped; the others keep their order.
        """
        chosen = np.asarray(classes, dtype=np.int64)
        if len(np.unique(chosen)) != len(chosen):
            raise DataError(f"{self.name}: a class is selected twice")
        new_label = np.full(self.classes, -1, dtype=np.int64)
        new_label[chosen] = np.arange(len(chosen))
        kept = np.flatnonzero(new_label[self.labels] >= 0)
        groups, class_groups = np.unique(self.class_groups[chosen], return_inverse=True)
        return ImageSet(
            name=self.name,
            images=self.images[kept],
            labels=new_label[self.labels[kept]],
            class_names=tuple(self.class_names[c] for c in chosen),
            class_groups=class_groups.astype(np.int64),
            group_names=tuple(self.group_names[g] for g in groups),
            drawers=self.drawers[kept],
            class_sources=None if self.class_sources is None else self.class_sources[chosen],
        )

    def with_classes_of(self, other: ImageSet, name: str) -> ImageSet:
        """The classes and groups of both sets, those of `self` first."""
        return ImageSet(
            name=name,
            images=np.concatenate([self.images, other.images]),
            labels=np.concatenate([self.labels, other.labels + self.classes]),
            class_names=self.class_names + other.class_names,
            class_groups=np.concatenate([self.class_groups, other.class_groups + len(self.group_names)]),
            group_names=self.group_names + other.group_names,
            drawers=np.concatenate([self.drawers, other.drawers]),
        )

    def comparable(self) -> ImageSet:
        """The same pictures; if no group has two classes, all classes become one group, so that episodes are possible."""
        if not self.classes or np.bincount(self.class_groups).max() > 1:
            return self
        return replace(self, class_groups=np.zeros_like(self.class_groups), group_names=(self.name,))

    def summary(self) -> dict[str, int]:
        """Number of images, classes and groups, for provenance and messages."""
        return {"images": len(self), "classes": self.classes, "groups": len(self.group_names)}


@dataclass(frozen=True, eq=False, repr=False)
class OneShotRun:
    """A published run of one-shot trials: each query belongs to exactly one of the supports."""

    name: str
    supports: npt.NDArray[np.uint8]
    """uint8 (way, H, W, C): one picture per class."""
    queries: npt.NDArray[np.uint8]
    """uint8 (Q, H, W, C)."""
    answers: Indices
    """(Q,): index of the correct support of each query."""


@dataclass(frozen=True, eq=False)
class Files:
    """Files of a folder of pictures."""

    root: Path
    used: Mapping[str, tuple[Path, ...]]
    """The pictures of each class of the splits, by its name, in the order of `ImageSet.images_of`."""
    unreadable: Mapping[Path, str]
    """Pictures that were not read, and why."""
    small_classes: Mapping[str, int]
    """Classes that are not used because they have too few pictures, with the number of readable ones."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Image sets for training, validation and evaluation, which share no class."""

    train: ImageSet
    validation: ImageSet
    evaluation: ImageSet
    official_runs: tuple[OneShotRun, ...] = ()
    """Published trials of this data set, if any."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Description of data and split, as JSON values; `warnings` lists what was skipped and why."""
    catalog: ImageSet | None = None
    """Supports for the evaluation classes from another domain than the queries, if any."""
    training_pictures: ImageSet | None = None
    """Pictures for training, if not those of `train`: larger pictures, cut-outs (RGBA), and classes of further sources."""
    files: Files | None = None
    """The files of the pictures, for data of the user."""
