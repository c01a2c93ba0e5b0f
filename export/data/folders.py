"""Data sets of the user's own pictures: `CLASS/PICTURE` or `GROUP/CLASS/PICTURE`, below splits if there are any."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import structs
from PIL import Image

from edge_siamese.errors import DataError, EdgeSiameseError, printable
from edge_siamese.pictures import read_picture
from edge_siamese.recognition.imaging import Preprocessing, prepare
from export.data.cache import Arrays, cached_arrays
from export.data.images import Files, ImageSet, Indices, Splits
from export.progress import track
from export.records import valid_text

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MAX_PIXELS = 80_000_000
"""Larger pictures may be decompression bombs and are skipped."""
MIN_CLASSES = 2
MIN_IMAGES = 2
HELD_OUT_FRACTION = 0.2
"""Fraction of the classes for validation, and again for evaluation."""
MAX_HELD_OUT_TOGETHER = 5
"""Classes of a group that are held out together if possible: enough for 5-way episodes within the group."""
COLOR_SAMPLE, COLOR_SIDE = 24, 64
"""Pictures that decide whether a folder is in color, and the side to which they are reduced."""
CLEAR_COLOR, COLORED_SHARE = 24, 0.02
"""Difference of red, green and blue that is a clear color, and the share of such pixels in a color picture."""
MAX_WARNINGS = 10
MAX_EXAMPLES = 3
# Increase it when the same files give other arrays than before.
CACHE_VERSION = 2

Split = Literal["train", "validation", "evaluation"]
SPLITS: tuple[Split, ...] = ("train", "validation", "evaluation")
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "evaluation",
    "testing": "evaluation",
    "eval": "evaluation",
    "evaluation": "evaluation",
}
"""Names of folders that are splits, in any case; `_set`, `-data`, a year and the like may follow."""
_SPLIT_FOLDER = re.compile(rf"({'|'.join(SPLIT_NAMES)})(?:[ _-]?(?:set|data|images|split|20\d\d))?")
_ESCAPED_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")
SYSTEM_NAMES = frozenset(
    {"thumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "lost+found", "$recycle.bin"}
)
"""Files and folders that operating systems and file servers add, in any case; ignored like hidden ones."""
COLLECTED_FILE = "collected.json"
"""The list of pictures from devices (`export/data/collected.py`), also ignored."""

LOG = logging.getLogger(__name__)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder and its subfolders, in the order of their paths.

    Raises:
        DataError: the folder does not exist or has no pictures.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{folder} has no pictures ({', '.join(sorted(SUFFIXES))})")
    return paths


def load_folder(path: Path, preprocessing: Preprocessing, seed: int = 0, log: bool = True) -> Splits:
    """Read a folder of pictures and split it by classes.

    Pictures are `CLASS/PICTURE`, or `GROUP/CLASS/PICTURE` for harder episodes within a group, as within an alphabet. JPEG,
    PNG and WebP files are read and rotated according to their EXIF data. Unreadable files, classes with fewer than two
    pictures, and pictures elsewhere in the folder are skipped with a warning; hidden files are ignored. Names that are not
    UTF-8 are shown with `\\xNN` for each wrong byte. Equal names in different Unicode forms are one class.

    Subfolders with the names in `SPLIT_NAMES` are the splits. Classes of `train` are held out for a missing split; a split
    for validation or evaluation alone is a data set that cannot be trained on. If the splits divide the pictures of the same
    classes, as for a classifier, they are put together. Without splits, the seed draws 60 % of the classes for training,
    20 % for validation and 20 % for evaluation, at least two each. A split with a single class of each group becomes one
    group.

    Raises:
        DataError: the folder does not exist, has too few classes or pictures, or its layout is ambiguous.
    """
    if not path.is_dir():  # a bundle's manifest has the path as `valid_text` writes it
        path = Path(_ESCAPED_BYTE.sub(lambda match: chr(0xDC00 + int(match[1], 16)), str(path)))
    if not path.is_dir():
        raise DataError(
            f"there is no folder {valid_text(path)}; --data folder:PATH requires one with a subfolder for each class"
        )
    scan = _Scan(path)
    places = _split_folders(path, scan)
    layout = {split: _classes(folder, scan) for split, folder in places.items()}
    if _divide_the_same_classes(layout, places, scan):
        layout, places = (
            {"train": _merge_equal_names([c for classes in layout.values() for c in classes], scan)},
            {},
        )
    elif not places:
        layout = {"train": _classes(path, scan)}
    scan.finish()
    reader = _Reader(path, preprocessing, scan.warnings)
    splits = reader.splits(layout, places, seed)
    reader.name_repeated_pictures(splits)
    splits = replace(
        splits,
        train=_comparable(splits.train, scan.warnings),
        validation=_comparable(splits.validation, scan.warnings),
        evaluation=_comparable(splits.evaluation, scan.warnings),
    )
    if log:
        _log(scan.warnings)
    return replace(
        splits,
        provenance={
            "data": f"folder:{valid_text(path)}",
            "split": "subfolders" if places else "classes drawn by the seed",
            "seed": seed,
            **{name: getattr(splits, name).summary() for name in SPLITS},
            "evaluation_classes": list(splits.evaluation.class_names),
            "warnings": scan.warnings,
        },
        files=reader.files_of(splits),
    )


def _log(warnings: Sequence[str]) -> None:
    for warning in warnings[:MAX_WARNINGS]:
        LOG.warning("%s", printable(warning))
    if len(warnings) > MAX_WARNINGS:
        LOG.warning("... and %d more warnings", len(warnings) - MAX_WARNINGS)


@dataclass(frozen=True)
class _Class:
    name: str
    """The folder's name, NFC; `GROUP/CLASS` in a group."""
    group: str
    """Empty for a class that is not in a group."""
    pictures: tuple[Path, ...]


@dataclass
class _Scan:
    """Lists folders and pictures, each once, and notes what is left out."""

    root: Path
    warnings: list[str] = field(default_factory=list)
    outside: list[Path] = field(default_factory=list)
    """Pictures that are not in the folder of a class."""
    others: list[Path] = field(default_factory=list)
    """Files that are not pictures."""
    seen: dict[str, Path] = field(default_factory=dict)
    """Folders by their real path: links can name one twice, or lead back to a folder above."""

    def folders(self, path: Path) -> list[Path]:
        """Subfolders that were not listed before, in order of their names."""
        result = []
        inner = [entry for entry in _entries(path) if entry.is_dir()]
        for folder in sorted(inner, key=Path.is_symlink):
            real = os.path.realpath(folder)
            former = self.seen.setdefault(real, folder)
            above = Path(os.path.realpath(self.root)).is_relative_to(real)
            if former == folder and not above:
                result.append(folder)
            else:
                target = valid_text(real if above else former)
                self.warnings.append(f"{valid_text(folder)} is a link to {target} and is skipped")
        return sorted(result)

    def pictures(self, path: Path) -> tuple[Path, ...]:
        """Pictures directly in a folder, in order of their names."""
        files = [entry for entry in _entries(path) if not entry.is_dir()]
        # A dangling link is reported when it is read; a pipe would block.
        pictures = tuple(f for f in files if f.suffix.lower() in SUFFIXES and (f.is_file() or f.is_symlink()))
        self.others.extend(file for file in files if file not in pictures)
        return pictures

    def leave_out(self, path: Path) -> None:
        """Note all pictures in a folder and below as left out."""
        self.outside.extend(pictures_below(path))

    def finish(self) -> None:
        """Turn the notes into warnings."""
        if self.outside:
            self.warnings.append(
                f"{_count(self.outside, 'picture')} ignored in {valid_text(self.root)}, not at CLASS/PICTURE or "
                f"GROUP/CLASS/PICTURE: {_examples(self.outside, self.root)}"
            )
        if self.others:
            self.warnings.append(
                f"{_count(self.others, 'file')} ignored in {valid_text(self.root)}, not JPEG, PNG or WebP: "
                f"{_examples(self.others, self.root)}"
            )


def _count(items: Collection[object], noun: str) -> str:
    return f"1 {noun}" if len(items) == 1 else f"{len(items):,} {noun}s"


def _examples(paths: Sequence[Path], root: Path) -> str:
    """The first few paths, relative to the root."""
    names = [valid_text(path.relative_to(root)) for path in paths[:MAX_EXAMPLES]]
    return ", ".join(names) + (", ..." if len(paths) > MAX_EXAMPLES else "")


def _entries(path: Path) -> list[Path]:
    try:
        return sorted(
            entry
            for entry in path.iterdir()
            if not entry.name.startswith(".") and entry.name.lower() not in {*SYSTEM_NAMES, COLLECTED_FILE}
        )
    except OSError as error:
        raise DataError(f"cannot read {valid_text(path)}: {error.strerror or error}") from error


def pictures_below(path: Path) -> Iterator[Path]:
    """All pictures in a folder and its subfolders, in order; links to folders are not followed."""
    for entry in _entries(path):
        if entry.is_dir():
            if not entry.is_symlink():
                yield from pictures_below(entry)
        elif entry.suffix.lower() in SUFFIXES:
            yield entry


def split_of(name: str) -> Split | None:
    """The split that a folder of this name is, if any."""
    match = _SPLIT_FOLDER.fullmatch(name.strip().casefold())
    return SPLIT_NAMES[match[1]] if match else None


def _split_folders(path: Path, scan: _Scan) -> dict[Split, Path]:
    """The subfolders that are splits; none if the subfolders are classes or groups.

    Raises:
        DataError: two folders are the same split, or there are pictures next to the splits.
    """
    result: dict[Split, Path] = {}
    others: list[Path] = []
    for folder in (entry for entry in _entries(path) if entry.is_dir()):
        split = split_of(folder.name)
        # A folder `train` with pictures directly in it is a class of trains.
        inner = [entry for entry in _entries(folder) if entry.is_dir()]
        if split is None or not any(True for place in inner for _ in pictures_below(place)):
            others.append(folder)
        elif split in result:
            raise DataError(
                f"{valid_text(result[split])} and {valid_text(folder)} are both the split {split}: "
                "merge them, or rename one"
            )
        else:
            result[split] = folder
    if not result:
        return {}
    for folder in others:
        if split_of(folder.name) is None and any(True for _ in pictures_below(folder)):
            names = ", ".join(valid_text(place.name) for place in result.values())
            raise DataError(
                f"{valid_text(path)} has folders of splits ({names}) next to {valid_text(folder.name)}: "
                f"move {valid_text(folder.name)} into one of them, or rename those that are not splits"
            )
        scan.leave_out(folder)
    scan.outside.extend(scan.pictures(path))
    if set(result) == {"validation"}:
        return {"evaluation": result["validation"]}
    return {split: result[split] for split in SPLITS if split in result}


def _classes(path: Path, scan: _Scan) -> list[_Class]:
    """The classes of a folder, in order of their names.

    Raises:
        DataError: two names differ in case only.
    """
    classes: list[_Class] = []
    scan.outside.extend(scan.pictures(path))
    for folder in scan.folders(path):
        pictures, below = scan.pictures(folder), scan.folders(folder)
        inner = {place: scan.pictures(place) for place in below}
        sizes = [len(files) for files in inner.values() if files]
        is_group = bool(below) and (
            not pictures or (len(sizes) >= MIN_CLASSES and sum(sizes) > len(pictures))
        )
        if not is_group:
            classes.append(_Class(_name(folder), "", pictures))
            for place in below:
                scan.leave_out(place)
            continue
        scan.outside.extend(pictures)
        for place, files in inner.items():
            classes.append(_Class(f"{_name(folder)}/{_name(place)}", _name(folder), files))
            for deeper in scan.folders(place):
                scan.leave_out(deeper)
    classes = _merge_equal_names(classes, scan)
    _warn_of_repeated_names(classes, scan)
    return classes


def _name(folder: Path) -> str:
    return unicodedata.normalize("NFC", valid_text(folder.name))


def _key(name: str) -> str:
    """Equal for names that differ only in case or Unicode form."""
    return unicodedata.normalize("NFC", name.casefold())


def _merge_equal_names(classes: Iterable[_Class], scan: _Scan) -> list[_Class]:
    """The classes, with those of equal names as one.

    Raises:
        DataError: names of classes or groups differ in case only.
    """
    result: dict[str, _Class] = {}
    spelling: dict[str, str] = {}
    for c in classes:
        for name in {c.name, c.group}:
            if spelling.setdefault(_key(name), name) != name:
                raise DataError(
                    f"{valid_text(scan.root)}: the folders {spelling[_key(name)]} and {name} differ in case only: "
                    "merge them if they show the same, or rename one"
                )
        former = result.get(c.name)
        result[c.name] = replace(c, pictures=(*former.pictures, *c.pictures)) if former else c
        if former and not {p.parent.name for p in former.pictures} & {p.parent.name for p in c.pictures}:
            scan.warnings.append(
                f"two folders in {valid_text(scan.root)} are called {c.name}, in different Unicode forms: they are one class"
            )
    return list(result.values())


def _warn_of_repeated_names(classes: Sequence[_Class], scan: _Scan) -> None:
    """Warn of class names that several groups share: such groups may be folds of one data set."""
    first: dict[str, str] = {}
    repeated = []
    for c in classes:
        if first.setdefault(_key(c.name.rpartition("/")[2]), c.name) != c.name:
            repeated.append((first[_key(c.name.rpartition("/")[2])], c.name))
    if repeated:
        scan.warnings.append(
            f"{_count(repeated, 'class name')} in several groups, such as {' and '.join(repeated[0])}, count as different "
            "classes; if the groups are parts of the same classes, name them train, validation and evaluation"
        )


def _divide_the_same_classes(
    layout: Mapping[Split, Sequence[_Class]], places: Mapping[Split, Path], scan: _Scan
) -> bool:
    """Whether the splits divide the pictures of each class, and not the classes.

    Raises:
        DataError: only some of the classes are in several splits.
    """
    grouped = {split: any(c.group for c in classes) for split, classes in layout.items()}
    mixed = len(set(grouped.values())) > 1
    owner: dict[str, tuple[Split, str]] = {}
    shared: list[tuple[str, Split, Split]] = []
    alone = 0
    for split, classes in layout.items():
        for c in (c for c in classes if c.pictures):
            key = _key(c.name.rpartition("/")[2] if mixed else c.name)
            if key in owner and owner[key][0] != split:
                shared.append((c.name, owner[key][0], split))
            else:
                alone += split != next(iter(layout))
                owner[key] = split, c.name
    if not shared:
        return False
    name, one, other = shared[0]
    if alone or mixed:
        more = f", and {len(shared) - 1} more classes are in two splits" if len(shared) > 1 else ""
        raise DataError(
            f"class {name} is in {valid_text(places[one])} and in {valid_text(places[other])}{more}; "
            "the splits must not share classes: evaluation needs classes that were not trained on"
        )
    names = ", ".join(valid_text(place.name) for place in places.values())
    scan.warnings.append(
        f"the splits {names} have the same classes, such as {name}: the pictures of each class are put together and the "
        "seed draws classes for each split, because evaluation needs classes that were not trained on"
    )
    return True


@dataclass
class _Reader:
    """Reads the pictures of classes; what is skipped is added to the warnings."""

    root: Path
    preprocessing: Preprocessing
    warnings: list[str]
    files: dict[str, list[tuple[Path, bytes]]] = field(default_factory=dict)
    """Pictures of each class that were read, each with a hash of its pixels."""
    unreadable: dict[Path, str] = field(default_factory=dict)
    small_classes: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return valid_text(self.root.resolve().name)

    def splits(
        self, layout: Mapping[Split, Sequence[_Class]], places: Mapping[Split, Path], seed: int
    ) -> Splits:
        if not places:
            return _random_splits(self.read(self.root, self.name, layout["train"]), self.root, seed)
        sets = {split: self.read(places[split], split, classes) for split, classes in layout.items()}
        missing = [split for split in SPLITS if split not in sets]
        if "train" not in sets:
            if "validation" in sets:
                raise DataError(
                    f"{valid_text(self.root)} has folders for validation and evaluation, but none for train; "
                    "to evaluate only, keep one of them"
                )
            empty = sets["evaluation"].select([])
            sets |= {name: replace(empty, name=name) for name in missing}
        elif missing:
            least = MIN_CLASSES * (1 + len(missing))
            if sets["train"].classes < least:
                raise DataError(
                    f"{valid_text(places['train'])} has {sets['train'].classes} usable classes; at least {least} are "
                    f"needed, of which {least - MIN_CLASSES} are held out, or a folder {missing[0]} next to it"
                )
            parts = _parts(sets["train"], seed, ("train", *missing))
            sets |= dict(zip(("train", *missing), parts, strict=True))
        return Splits(train=sets["train"], validation=sets["validation"], evaluation=sets["evaluation"])

    def read(self, path: Path, name: str, classes: Sequence[_Class]) -> ImageSet:
        """All usable classes."""
        pictures = [picture for c in classes for picture in c.pictures]
        images, reasons = prepared_pictures(path, pictures, self.preprocessing)
        self.warnings.extend(reason for reason in reasons if reason)
        self.unreadable |= {p: reason for p, reason in zip(pictures, reasons, strict=True) if reason}
        readable = np.array([not reason for reason in reasons], dtype=bool)
        owner = np.repeat(np.arange(len(classes)), [len(c.pictures) for c in classes])
        counts = np.bincount(owner[readable], minlength=len(classes))
        for c, count in zip(classes, counts, strict=True):
            if count < MIN_IMAGES:
                self.small_classes[c.name] = int(count)
                self.warnings.append(
                    f"class {c.name} in {valid_text(path)} has {count or 'no'} readable picture and is skipped: "
                    f"{MIN_IMAGES} are needed"
                )
        usable = np.flatnonzero(counts >= MIN_IMAGES)
        if len(usable) < MIN_CLASSES:
            reason = f" ({self.warnings[0]})" if self.warnings else ""
            raise DataError(
                f"{valid_text(path)} has {len(usable)} usable classes; it needs at least {MIN_CLASSES} subfolders with at "
                f"least {MIN_IMAGES} JPEG, PNG or WebP pictures each{reason}"
            )
        for index, image in zip(np.flatnonzero(readable), images, strict=True):
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            self.files.setdefault(classes[owner[index]].name, []).append((pictures[index], digest))
        group_names = sorted({c.group or name for c in classes})
        every = ImageSet(
            name=name,
            images=images,
            labels=owner[readable].astype(np.int64),
            class_names=tuple(c.name for c in classes),
            class_groups=np.array([group_names.index(c.group or name) for c in classes], dtype=np.int64),
            group_names=tuple(group_names),
            drawers=np.full(len(images), -1, dtype=np.int64),
        )
        return every.select(usable)

    def files_of(self, splits: Splits) -> Files:
        """The files behind the splits."""
        names = [name for split in SPLITS for name in getattr(splits, split).class_names]
        used = {name: tuple(path for path, _ in self.files[name]) for name in names}
        return Files(self.root, used, self.unreadable, self.small_classes)

    def name_repeated_pictures(self, splits: Splits) -> None:
        """Add a warning for each pair of splits with a picture in common."""
        first: dict[bytes, tuple[Split, Path]] = {}
        repeated: dict[tuple[Split, Split], list[tuple[Path, Path]]] = {}
        for split in SPLITS:
            for name in getattr(splits, split).class_names:
                for path, digest in self.files[name]:
                    other, original = first.setdefault(digest, (split, path))
                    if other != split:
                        repeated.setdefault((other, split), []).append((original, path))
        for (one, other), pairs in repeated.items():
            names = [valid_text(path.relative_to(self.root)) for path in pairs[0]]
            self.warnings.append(
                f"{_count(pairs, 'picture')} of {other} also in {one}, such as {' and '.join(names)}: "
                f"the figures of {other} may be too good"
            )


def _random_splits(images: ImageSet, path: Path, seed: int) -> Splits:
    if images.classes < 3 * MIN_CLASSES:
        raise DataError(
            f"{valid_text(path)} has {images.classes} usable classes; at least {3 * MIN_CLASSES} are needed, {MIN_CLASSES} "
            "each for training, validation and evaluation (for evaluation only, put them into a subfolder evaluation)"
        )
    train, validation, evaluation = split_classes(images, seed)
    return Splits(train=train, validation=validation, evaluation=evaluation)


def split_classes(images: ImageSet, seed: int) -> list[ImageSet]:
    """The classes for training, validation and evaluation, drawn by the seed."""
    return _parts(images, seed, ("train", "validation", "evaluation"))


def _parts(images: ImageSet, seed: int, names: Sequence[str]) -> list[ImageSet]:
    """Split by classes: all parts but the first get `HELD_OUT_FRACTION` of them."""
    left = np.random.default_rng([seed, 7]).permutation(images.classes)[::-1]
    held_out = max(MIN_CLASSES, round(HELD_OUT_FRACTION * images.classes))
    parts = []
    for _ in names[1:]:
        parts.append(draw_held_out(left, images.class_groups, held_out))
        left = left[~np.isin(left, parts[-1])]
    chosen = [left, *reversed(parts)]
    return [
        replace(images.select(np.sort(part)), name=f"{images.name} {name}")
        for part, name in zip(chosen, names, strict=True)
    ]


def draw_held_out(left: Indices, groups: Indices, count: int) -> Indices:
    """Draw classes to hold out, several of a group together.

    If they were drawn independently, classes of small groups would often lack similar classes to be told apart from.

    Args:
        left: available classes, in random order.
        groups: (classes,): the group of each class.
        count: number of classes to draw, at most all.
    """
    taken = np.empty(0, dtype=np.int64)
    while (room := count - len(taken)) > 0:
        own = groups[left]
        accompanied = np.isin(own, groups[taken]) | ((np.bincount(own)[own] > 1) & (room > 1))
        # The first class whose group has other classes left; otherwise the first class.
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
                threads.map(lambda p: _prepare_picture(p, preprocessing), pictures),
                f"reading {valid_text(path)}",
            ):
                reasons.append(result if isinstance(result, str) else "")
                if not isinstance(result, str):
                    images.append(result)
        stacked = np.stack(images) if images else np.empty((0, *preprocessing.shape), dtype=np.uint8)
        return {"images": stacked, "reasons": np.array(reasons, dtype=np.str_)}

    key = {
        "version": CACHE_VERSION,
        "path": str(path.resolve()),
        "files": state_of(path, pictures),
        "preprocessing": structs.asdict(preprocessing),
    }
    arrays = cached_arrays("folder", key, build)
    return np.asarray(arrays["images"], dtype=np.uint8), [str(reason) for reason in arrays["reasons"]]


def state_of(path: Path, pictures: Iterable[Path]) -> str:
    """A hash of names, sizes and times of change of picture files below a folder, as a key of the cache."""
    digest = hashlib.sha256()
    for picture in pictures:
        status = picture.stat() if picture.exists() else picture.lstat()
        digest.update(os.fsencode(os.path.relpath(picture, path)))
        digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _prepare_picture(picture: Path, preprocessing: Preprocessing) -> npt.NDArray[np.uint8] | str:
    """A prepared picture, uint8 (H, W, C), or the reason why it cannot be used."""
    try:
        with Image.open(picture) as header:
            pixels = header.width * header.height
        if pixels > MAX_PIXELS:
            return (
                f"{valid_text(picture)} is skipped: it has {pixels / 1e6:.0f} million pixels, "
                f"at most {MAX_PIXELS // 10**6} are read"
            )
    except Exception:  # read_picture below reports what is wrong
        pass
    try:
        return prepare(read_picture(picture), preprocessing)
    except EdgeSiameseError as error:
        return f"skipped: {str(error).replace(printable(str(picture)), valid_text(picture))}"


def is_in_color(path: Path) -> bool:
    """Whether most pictures of a folder, by a sample, are in color; False if there are none.

    A picture is in color if its red, green and blue differ clearly in some part of it.
    """
    pictures = list(pictures_below(path)) if path.is_dir() else []
    sample = [
        pictures[i] for i in np.linspace(0, len(pictures) - 1, min(COLOR_SAMPLE, len(pictures))).astype(int)
    ]
    votes = [_color_share(picture) > COLORED_SHARE for picture in sample]
    return 2 * sum(votes) > len(votes)


def _color_share(picture: Path) -> float:
    """Share of the pixels with a clear color; 0 for a picture that cannot be read."""
    try:
        with Image.open(picture) as file:
            if file.width * file.height > MAX_PIXELS:
                return 0.0
            file.draft("RGB", (COLOR_SIDE, COLOR_SIDE))
            pixels = np.asarray(file.convert("RGB").resize((COLOR_SIDE, COLOR_SIDE)))
    except Exception:  # decoders raise many types; load_folder reports what is wrong
        return 0.0
    return float(np.mean(np.ptp(pixels.astype(np.int16), axis=2) > CLEAR_COLOR))
