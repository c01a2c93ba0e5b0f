"""Data card of a folder of pictures: counts, and what makes training worse or figures too good.

Two pictures are near-duplicates if their difference hashes (dHash of 16 x 16 bits: whether each pixel of a reduced gray
picture is brighter than its left neighbor; N. Krawetz, "Kind of Like That", 2013) differ in at most 50 of 256 bits, and
their gray values at 16 x 16 pixels correlate with at least 0.95. The hash alone does not tell thin lines on white paper
apart. Measured: no pair of different classes is one, among 3.4 million pairs of grocery photographs and 9.6 million of
Omniglot's drawings. Of 500 photographs, all are recognized at half the size, as JPEG of quality 40, and 30 % brighter;
97 % if 2 % is cut off at each edge, none at 5 %.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge_siamese.errors import DataError
from edge_siamese.pictures import to_pixels
from edge_siamese.recognition.imaging import Preprocessing
from export.data.cache import Arrays, cached_arrays
from export.data.embedded_pictures import thumbnail
from export.data.folders import SPLITS, Split, state_of
from export.data.images import Files, Splits
from export.progress import track
from export.records import valid_text

HASH_SIDE = 16
MAX_HASH_DISTANCE, MIN_CORRELATION = 50, 0.95
FEW_PICTURES = 5
"""Classes with fewer pictures are named: each is a support, and the others are too few to measure the class."""
MAX_IMBALANCE = 5.0
"""A training class with more pictures than this many times the median of the training classes is named."""
MAX_ASPECT = 2.0
"""Longer side by shorter side. Beyond it, the centered square has less than half of the picture."""
MIN_CONTRAST = 4.0
"""Standard deviation of the reduced gray picture, in levels of 256; a picture below it is blank."""
MIN_REPEATED_SHARE = 0.1
"""The card warns that figures are too good if this share of test pictures have a near-duplicate in their own class."""
MAX_GROUPS, MAX_FILES, MAX_SHOWN = 10, 6, 4
"""Examples of a finding: groups, files in a group, and groups with pictures."""
_BLOCK = 1024
# Increase it when the same files give different features.
_VERSION = 1
SPLIT_TITLES: dict[Split, str] = {"train": "training", "validation": "validation", "evaluation": "test"}


@dataclass(frozen=True)
class ClassCount:
    """A class and its number of pictures."""

    name: str
    split: str
    """`train`, `validation` or `evaluation`."""
    pictures: int


@dataclass(frozen=True)
class SplitCount:
    """Sizes of a split."""

    split: str
    title: str
    classes: int
    pictures: int
    fewest: int
    """Pictures of the smallest class."""
    median: float
    most: int


@dataclass(frozen=True)
class Group:
    """An example of a finding: a picture, or pictures that are duplicates of each other."""

    files: tuple[str, ...]
    """Paths relative to the folder; at most `MAX_FILES`."""
    note: str = ""
    thumbnails: tuple[str, ...] = ()
    """Data URIs of the first files; empty for most groups."""


@dataclass(frozen=True)
class Finding:
    """A problem of the data, with examples."""

    kind: str
    what: str
    """One sentence with the number of cases."""
    remedy: str
    count: int
    """Number of pictures, groups of duplicates or classes."""
    groups: tuple[Group, ...]
    """At most `MAX_GROUPS`."""
    serious: bool = False
    """Whether it makes figures too good or labels wrong."""


@dataclass(frozen=True)
class DataCard:
    """Counts and findings of a folder of pictures."""

    folder: str
    split: str
    """How the splits were made."""
    classes: tuple[ClassCount, ...]
    splits: tuple[SplitCount, ...]
    findings: tuple[Finding, ...]
    """The most important first."""
    caution: str = ""
    """Why the figures of the test classes may be too good; empty if nothing shows it."""
    caution_of_all: str = ""
    """The same for figures of all classes, as in cross-validation."""

    @property
    def pictures(self) -> int:
        return sum(c.pictures for c in self.classes)


@dataclass(frozen=True, eq=False)
class _Pictures:
    """Features of all pictures, in the order of the card's classes."""

    paths: list[Path]
    class_of: npt.NDArray[np.int64]
    split_of: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    """(N, 2): width and height, as displayed."""
    digests: npt.NDArray[np.uint8]
    """(N, 16): hash of the file's bytes."""
    hashes: npt.NDArray[np.bool_]
    """(N, 256): difference hash."""
    grays: npt.NDArray[np.float32]
    """(N, 256): gray values minus their mean, of length 1; zeros for a blank picture."""
    contrasts: npt.NDArray[np.float32]
    """(N,): standard deviation of the reduced gray picture, in levels of 256."""


def data_card(splits: Splits, preprocessing: Preprocessing) -> DataCard:
    """Look through the files of a folder.

    Args:
        splits: made by `export.data.folders.load_folder`.
        preprocessing: the input of the encoder, which decides when a picture is small and what is cropped.

    Raises:
        DataError: the data are not a folder of pictures.
    """
    if splits.files is None:
        raise DataError(
            "a data card is for folders of pictures: name a folder with one subfolder for each class"
        )
    files = splits.files
    classes = [
        ClassCount(name, split, len(files.used[name]))
        for split in SPLITS
        for name in getattr(splits, split).class_names
    ]
    pictures = _features(files, classes)
    clusters = _near_duplicates(pictures)
    found = [
        *_duplicate_findings(pictures, clusters, files.root),
        *_file_findings(files, pictures, preprocessing),
        *_count_findings(files, classes),
    ]
    return DataCard(
        folder=valid_text(files.root),
        split=str(splits.provenance.get("split", "")),
        classes=tuple(classes),
        splits=tuple(_split_count(split, classes) for split in SPLITS),
        findings=tuple(sorted(found, key=lambda finding: not finding.serious)),
        caution=_caution(
            pictures,
            clusters,
            pictures.split_of == SPLITS.index("evaluation"),
            "a training or validation class",
        ),
        caution_of_all=_caution(pictures, clusters, np.ones(len(pictures.paths), bool), "another class"),
    )


def _split_count(split: Split, classes: Sequence[ClassCount]) -> SplitCount:
    counts = [c.pictures for c in classes if c.split == split] or [0]
    number = sum(c.split == split for c in classes)
    return SplitCount(
        split, SPLIT_TITLES[split], number, sum(counts), min(counts), float(np.median(counts)), max(counts)
    )


def _features(files: Files, classes: Sequence[ClassCount]) -> _Pictures:
    paths = [path for c in classes for path in files.used[c.name]]
    each = [c.pictures for c in classes]

    def build() -> Arrays:
        with ThreadPoolExecutor(os.cpu_count()) as threads:  # Pillow releases the GIL while it decodes
            results = list(
                track(threads.map(_features_of, paths), f"looking through {valid_text(files.root)}")
            )
        names = ("sizes", "digests", "grays")
        return {
            name: np.stack(values) for name, values in zip(names, zip(*results, strict=True), strict=True)
        }

    key = {
        "version": _VERSION,
        "path": str(files.root.resolve()),
        "files": state_of(files.root, paths),
    }
    arrays = cached_arrays("data-card", key, build)
    levels = arrays["grays"].astype(np.uint8)
    wide = levels.astype(np.float32)
    grays = 0.5 * (wide[:, :, 1:] + wide[:, :, :-1]).reshape(len(paths), -1)
    grays -= grays.mean(axis=1, keepdims=True)
    contrasts = grays.std(axis=1)
    lengths = np.linalg.norm(grays, axis=1, keepdims=True)
    return _Pictures(
        paths=paths,
        class_of=np.repeat(np.arange(len(classes)), each),
        split_of=np.repeat([SPLITS.index(c.split) for c in classes], each),
        sizes=arrays["sizes"].astype(np.int64),
        digests=arrays["digests"].astype(np.uint8),
        hashes=(levels[:, :, 1:] > levels[:, :, :-1]).reshape(len(paths), -1),
        grays=np.where(contrasts[:, None] < MIN_CONTRAST, 0.0, grays / np.maximum(lengths, 1e-6)).astype(
            np.float32
        ),
        contrasts=contrasts,
    )


def _features_of(
    path: Path,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Size as displayed, hash of the bytes, and gray values (16, 17) of a picture that was read before."""
    data = path.read_bytes()
    digest = np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), np.uint8)
    with Image.open(io.BytesIO(data)) as file:
        size = file.size
        file.draft("RGB", (8 * HASH_SIDE, 8 * HASH_SIDE))
        pixels = to_pixels(file)
    if (pixels.shape[0] > pixels.shape[1]) != (size[1] > size[0]):  # rotated by its EXIF data
        size = size[::-1]
    gray = Image.fromarray(pixels).convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    return np.array(size, np.int64), digest, np.asarray(gray)


def _near_duplicates(pictures: _Pictures) -> list[npt.NDArray[np.int64]]:
    """Groups of pictures that are connected by near-duplicates or equal files; indices, ascending."""
    parents = np.arange(len(pictures.paths))

    def root(item: int) -> int:
        while parents[item] != item:
            parents[item] = parents[parents[item]]
            item = int(parents[item])
        return item

    for start in range(0, len(parents), _BLOCK):
        alike = pictures.grays[start : start + _BLOCK] @ pictures.grays[start:].T >= MIN_CORRELATION
        for one, other in np.argwhere(np.triu(alike, 1)) + start:
            near = (
                np.count_nonzero(pictures.hashes[one] != pictures.hashes[other], axis=-1) <= MAX_HASH_DISTANCE
            )
            if near:
                parents[root(int(other))] = root(int(one))
    first: dict[bytes, int] = {}
    for item, digest in enumerate(pictures.digests):
        original = first.setdefault(digest.tobytes(), item)
        parents[root(item)] = root(original)
    roots = np.array([root(item) for item in range(len(parents))], dtype=np.int64)
    order = np.argsort(roots, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(roots[order])) + 1) if len(order) else []
    return [group for group in groups if len(group) > 1]


def _duplicate_findings(
    pictures: _Pictures, clusters: Sequence[npt.NDArray[np.int64]], root: Path
) -> Iterable[Finding]:
    """Duplicates across splits, across classes of a split, and within a class: equal files, then similar pictures."""
    kinds: dict[str, list[npt.NDArray[np.int64]]] = {}
    for cluster in clusters:
        if len(np.unique(pictures.split_of[cluster])) > 1:
            kind = "across splits"
        elif len(np.unique(pictures.class_of[cluster])) > 1:
            kind = "across classes"
        elif len(np.unique(pictures.digests[cluster], axis=0)) == 1:
            kind = "copies"
        else:
            kind = "near-duplicates"
        kinds.setdefault(kind, []).append(cluster)
    texts = {
        "across splits": (
            "are in classes of different splits, which must not share pictures",
            "Keep each in the class that it belongs to, and delete the others. If classes of two splits show the same "
            "object, merge these classes",
        ),
        "across classes": (
            "are in several classes of a split",
            "Keep each in the class that it belongs to, or merge the classes",
        ),
        "copies": ("are the same file within a class", "Delete all but one of each group"),
        "near-duplicates": (
            "are near-duplicates within a class, such as burst photos, frames of a video or edited copies",
            "Keep one of each group, and photograph the object again in another place, pose or light",
        ),
    }
    for kind, (what, remedy) in texts.items():
        if groups := kinds.get(kind):
            number = sum(map(len, groups))
            yield Finding(
                kind=kind,
                what=f"{number:,} pictures in {counted(len(groups), 'group')} {what}.",
                remedy=f"{remedy}.",
                count=len(groups),
                groups=_examples(groups, pictures, root),
                serious=kind.startswith("across"),
            )


def _examples(
    groups: Sequence[npt.NDArray[np.int64]], pictures: _Pictures, root: Path, notes: Sequence[str] = ()
) -> tuple[Group, ...]:
    result = []
    for number, group in enumerate(groups[:MAX_GROUPS]):
        paths = _spread(group, pictures.class_of)
        named = tuple(valid_text(pictures.paths[i].relative_to(root)) for i in paths)
        more = f"and {len(group) - len(paths)} more" if len(group) > len(paths) else ""
        shown = paths if number < MAX_SHOWN else []
        result.append(
            Group(
                named,
                notes[number] if notes else more,
                tuple(thumbnail(pictures.paths[i]) for i in shown),
            )
        )
    return tuple(result)


def _spread(group: npt.NDArray[np.int64], class_of: npt.NDArray[np.int64]) -> list[int]:
    """At most `MAX_FILES` of a group, of every class before several of one."""
    _, first = np.unique(class_of[group], return_index=True)
    order = [*group[first].tolist(), *np.delete(group, first).tolist()]
    return order[:MAX_FILES]


def _file_findings(files: Files, pictures: _Pictures, preprocessing: Preprocessing) -> Iterable[Finding]:
    if files.unreadable:
        examples = [
            Group((valid_text(path.relative_to(files.root)),), reason.rpartition(": ")[2])
            for path, reason in list(files.unreadable.items())[:MAX_GROUPS]
        ]
        yield Finding(
            "unreadable",
            f"{counted(len(files.unreadable), 'file')} cannot be read, and {_are(files.unreadable)} not used.",
            "Copy them from the camera again, save them as JPEG, PNG or WebP, or delete them.",
            len(files.unreadable),
            tuple(examples),
        )
    shorter, longer = pictures.sizes.min(axis=1), pictures.sizes.max(axis=1)
    least = min(preprocessing.height, preprocessing.width) / 2
    selections = [
        (
            "blank",
            pictures.contrasts < MIN_CONTRAST,
            "{} blank: one color, or nearly",
            "Delete them: nothing can be learned from them.",
        ),
        (
            "small",
            shorter < least,
            f"{{}} small: the shorter side has less than {least:.0f} pixels, half of the encoder's input",
            "Replace them with the original photos; enlarged pictures are blurred, and camera frames are not.",
        ),
    ]
    if preprocessing.fit == "crop":
        selections.append(
            (
                "extreme shape",
                longer > MAX_ASPECT * shorter,
                f"{{}} more than {MAX_ASPECT:g} times as long as wide: less than half is in the centered square that the "
                "encoder sees",
                "Crop them around the object.",
            )
        )
    for kind, chosen, what, remedy in selections:
        if not (number := int(chosen.sum())):
            continue
        indices = np.flatnonzero(chosen)
        notes = [f"{width} x {height}" for width, height in pictures.sizes[indices[:MAX_GROUPS]]]
        subject = f"{counted(number, 'picture')} {_are(indices)}"
        pictured = _examples(list(indices[:, None]), pictures, files.root, notes)
        yield Finding(kind, f"{what.format(subject)}.", remedy, number, pictured)


def _count_findings(files: Files, classes: Sequence[ClassCount]) -> Iterable[Finding]:
    if small := list(files.small_classes.items()):
        yield Finding(
            "unused classes",
            f"{counted(len(small), 'class')} with fewer than two readable pictures {_are(small)} not used.",
            "Add pictures, or delete the folders.",
            len(small),
            tuple(Group((name,), counted(count, "picture")) for name, count in small[:MAX_GROUPS]),
        )
    if few := [c for c in classes if c.pictures < FEW_PICTURES]:
        few.sort(key=lambda c: c.pictures)
        yield Finding(
            "few pictures",
            f"{counted(len(few), 'class')} {_have(few)} fewer than {FEW_PICTURES} pictures.",
            "Add pictures in other places, poses and light: with so few, a single mistake moves the figure of a class by "
            "more than 20 points.",
            len(few),
            tuple(Group((c.name,), counted(c.pictures, "picture")) for c in few[:MAX_GROUPS]),
        )
    counts = [c.pictures for c in classes if c.split == "train"]
    typical = float(np.median(counts)) if counts else 0.0
    if large := [c for c in classes if c.split == "train" and c.pictures > MAX_IMBALANCE * typical]:
        large.sort(key=lambda c: -c.pictures)
        yield Finding(
            "imbalance",
            f"{counted(len(large), 'training class')} {_have(large)} more than {MAX_IMBALANCE:g} times as many pictures as "
            f"the median class ({typical:g}).",
            "Training sees such a class more often in proportion: add pictures to the others, or remove the most similar "
            "ones of this class.",
            len(large),
            tuple(Group((c.name,), counted(c.pictures, "picture")) for c in large[:MAX_GROUPS]),
        )


def _caution(
    pictures: _Pictures, clusters: Sequence[npt.NDArray[np.int64]], tested: npt.NDArray[np.bool_], others: str
) -> str:
    """What makes figures of the `tested` pictures, (N,), too good; `others` are the classes that they must not be in."""
    total = int(tested.sum())
    seen = repeated = 0
    for cluster in clusters:
        of_test = cluster[tested[cluster]]
        if len(of_test) < len(cluster) or (tested.all() and len(np.unique(pictures.class_of[cluster])) > 1):
            seen += len(of_test)
        _, inverse, counts = np.unique(pictures.class_of[of_test], return_inverse=True, return_counts=True)
        repeated += int((counts[inverse] > 1).sum())
    reasons = []
    if seen:
        reasons.append(
            f"{seen:,} of {total:,} test pictures {'is' if seen == 1 else 'are'} also in {others}, or "
            f"{'has' if seen == 1 else 'have'} a near-duplicate there"
        )
    if repeated >= MIN_REPEATED_SHARE * max(1, total):
        reasons.append(f"{repeated:,} of {total:,} test pictures have a near-duplicate in their own class")
    return f"The figures are too good: {'; '.join(reasons)}." if reasons else ""


def _are(items: Sized) -> str:
    return "is" if len(items) == 1 else "are"


def _have(items: Sized) -> str:
    return "has" if len(items) == 1 else "have"


def counted(number: int, noun: str) -> str:
    """Format a count: `1 class`, `2 classes`, `1,000 groups`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
