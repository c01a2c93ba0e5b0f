"""Omniglot: 1,623 handwritten characters of 50 alphabets by 20 drawers each, and its published one-shot runs.

Lake, Salakhutdinov, Tenenbaum, "Human-level concept learning through probabilistic program induction",
Science 350, 2015. Networks are trained and selected on the 30 background alphabets. The 20 evaluation alphabets and the 20
published runs of 20 trials (each within one alphabet) are for the final figures.

Other splits: `omniglot:ALPHABET,ALPHABET` trains on some background alphabets, `omniglot:characters` on characters of all
alphabets at random. Lake, Salakhutdinov, Tenenbaum, "The Omniglot challenge: a 3-year progress report" (2019), explains why
they cannot be compared: random characters are easier, since most others are of other alphabets; five alphabets are harder.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import structs
from PIL import Image, UnidentifiedImageError

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing, prepare
from export.data.archives import Archive, fetch_omniglot
from export.data.cache import Arrays, cache_directory, cached_arrays
from export.data.images import ImageSet, OneShotRun, Splits
from export.progress import track

SIDE = 105
ROOT_VARIABLE = "EDGE_SIAMESE_DATA"
# Increase it when the same archive gives other arrays than before.
CACHE_VERSION = 1

VALIDATION_ALPHABETS = ("Balinese", "Early_Aramaic", "Greek", "Syriac_(Estrangelo)")
"""Background alphabets that are held out first: scripts of different ages and shapes, with 22 to 24 characters each."""

CHARACTER_SPLIT = "characters"
CHARACTER_SPLIT_TRAIN, CHARACTER_SPLIT_VALIDATION = 1100, 100
"""Number of characters, together the 1,200 on which Vinyals et al. (2016) and later papers train; 423 remain."""
CHARACTER_SPLIT_SEED = 1200

DRAWING = re.compile(r"([^/]+)/(character\d+)/\d+_(\d+)\.png\Z")
RUN_FILE = re.compile(r"(?:[^/]+/)*(run\d+)/(?:(training|test)/([^/]+\.png)|(class_labels\.txt))")


def load_omniglot(
    preprocessing: Preprocessing,
    data_root: Path | None = None,
    seed: int = 0,
    validation_groups: int = 4,
    protocol: str = "",
) -> Splits:
    """Read Omniglot, after downloading it if necessary.

    Args:
        preprocessing: the encoder's input.
        data_root: folder with images_background.zip, images_evaluation.zip and all_runs.zip, or with their unpacked
            folders. Default: `$EDGE_SIAMESE_DATA/omniglot`, else a cache that is filled from the official repository.
        seed: decides which alphabets beyond the first four are held out, if any.
        validation_groups: number of background alphabets held out of training: first `VALIDATION_ALPHABETS`, for any
            seed, so that runs with different seeds can be compared; then others drawn by the seed.
        protocol: another split: `characters`, or the comma-separated names of the background alphabets to train on.

    Raises:
        DataError: an archive is missing or damaged, the download failed, or an alphabet is unknown.
    """
    root = find_root(data_root)
    archives = {name: _archive(root, name) for name in ("images_background", "images_evaluation", "all_runs")}
    background, background_fingerprint = _drawings(
        archives["images_background"], "omniglot background", preprocessing
    )
    evaluation, evaluation_fingerprint = _drawings(
        archives["images_evaluation"], "omniglot evaluation", preprocessing
    )
    if shared := set(background.group_names) & set(evaluation.group_names):
        raise DataError(f"{root}: alphabet {min(shared)} is in images_background and in images_evaluation")
    runs, runs_fingerprint = _runs(archives["all_runs"], preprocessing)
    if protocol == CHARACTER_SPLIT:
        splits = split_characters(background, evaluation)
    elif protocol:
        splits = split_alphabets(tuple(protocol.split(",")), background, evaluation, runs)
    else:
        is_held_out = np.isin(background.class_groups, _held_out(background, validation_groups, seed))
        splits = Splits(
            train=replace(background.select(np.flatnonzero(~is_held_out)), name="omniglot train"),
            validation=replace(background.select(np.flatnonzero(is_held_out)), name="omniglot validation"),
            evaluation=evaluation,
            official_runs=runs,
        )
    return replace(
        splits,
        provenance={
            "data": f"omniglot:{protocol}" if protocol else "omniglot",
            "archives": [background_fingerprint, evaluation_fingerprint, runs_fingerprint],
            "validation_alphabets": list(splits.validation.group_names),
            "train": splits.train.summary(),
            "validation": splits.validation.summary(),
            "evaluation": splits.evaluation.summary(),
            "official_trials": sum(len(run.answers) for run in splits.official_runs),
            "warnings": [],
        },
    )


def find_root(data_root: Path | None) -> Path:
    """Directory of the archives: the argument, the environment's, or a cache with downloaded archives.

    Raises:
        DataError: the folder does not exist, or the download failed.
    """
    if data_root is None and (chosen := os.environ.get(ROOT_VARIABLE)):
        data_root = Path(chosen).expanduser() / "omniglot"
        if not data_root.is_dir():
            raise DataError(
                f"{ROOT_VARIABLE} is set, but there is no folder {data_root}; unset it or pass --data-root"
            )
    if data_root is not None:
        if not data_root.is_dir():
            raise DataError(
                f"there is no folder {data_root}; --data-root has to hold images_background.zip and so on"
            )
        return data_root
    return fetch_omniglot(cache_directory() / "omniglot")


def _archive(root: Path, name: str) -> Archive:
    """The zip file or its unpacked folder, also in `one-shot-classification` as in the official repository."""
    for folder in (root, root / "one-shot-classification"):
        if (folder / f"{name}.zip").is_file():
            return Archive(folder / f"{name}.zip")
        if (folder / name).is_dir():
            return Archive(folder / name)
    if name == "all_runs":  # its zip file has no top folder, so unpacking it gives run01 and so on
        for folder in (root, root / "one-shot-classification"):
            if (folder / "run01").is_dir():
                return Archive(folder, pattern="run*")
    raise DataError(
        f"{root} holds neither {name}.zip nor a folder {name}; put the Omniglot archives there, "
        "or omit --data-root to download them"
    )


def _drawings(
    archive: Archive, name: str, preprocessing: Preprocessing
) -> tuple[ImageSet, dict[str, str | int]]:
    """All drawings `ALPHABET/characterNN/XXXX_YY.png`, sorted by name, and the fingerprint of the archive."""

    def build() -> Arrays:
        images, classes, drawers = [], [], []
        for path, content in track(archive.files(), f"reading {archive.path.name}"):
            match = DRAWING.search(path)
            if match is None:
                continue
            images.append(prepare(_decoded(content, archive, path), preprocessing))
            classes.append(f"{match[1]}/{match[2]}")
            drawers.append(int(match[3]) - 1)
        if not images:
            raise DataError(f"{archive.path} holds no drawings named ALPHABET/characterNN/XXXX_YY.png")
        return {
            "images": np.stack(images),
            "classes": np.array(classes),
            "drawers": np.array(drawers, dtype=np.int64),
        }

    arrays, fingerprint = _cached("omniglot", archive, preprocessing, build)
    class_names, labels = np.unique(arrays["classes"], return_inverse=True)
    alphabets = [str(c).split("/")[0] for c in class_names]
    group_names, class_groups = np.unique(alphabets, return_inverse=True)
    return ImageSet(
        name=name,
        images=np.asarray(arrays["images"], dtype=np.uint8),
        labels=labels.astype(np.int64),
        class_names=tuple(map(str, class_names)),
        class_groups=class_groups.astype(np.int64),
        group_names=tuple(map(str, group_names)),
        drawers=np.asarray(arrays["drawers"], dtype=np.int64),
    ), fingerprint


def _runs(
    archive: Archive, preprocessing: Preprocessing
) -> tuple[tuple[OneShotRun, ...], dict[str, str | int]]:
    """The published runs: `runNN/training/classCC.png`, `runNN/test/itemCC.png` and `runNN/class_labels.txt`."""

    def build() -> Arrays:
        arrays: Arrays = {}
        for name, run in _run_files(archive).items():
            supports, queries = sorted(run.training), sorted(run.test)
            answers = _answers(archive, name, run, supports, queries)
            for part, files, names in (("supports", run.training, supports), ("queries", run.test, queries)):
                arrays[f"{name}-{part}"] = np.stack(
                    [prepare(_decoded(files[n], archive, f"{name}/{n}"), preprocessing) for n in names]
                )
            arrays[f"{name}-answers"] = answers
        if not arrays:
            raise DataError(f"{archive.path} holds no runs named runNN/class_labels.txt")
        return arrays

    arrays, fingerprint = _cached("omniglot-runs", archive, preprocessing, build)
    names = sorted({key.split("-")[0] for key in arrays})
    runs = tuple(
        OneShotRun(
            name=name,
            supports=np.asarray(arrays[f"{name}-supports"], dtype=np.uint8),
            queries=np.asarray(arrays[f"{name}-queries"], dtype=np.uint8),
            answers=np.asarray(arrays[f"{name}-answers"], dtype=np.int64),
        )
        for name in names
    )
    return runs, fingerprint


@dataclass
class _RunFiles:
    training: dict[str, bytes]
    test: dict[str, bytes]
    labels: str | None = None


def _run_files(archive: Archive) -> dict[str, _RunFiles]:
    runs: dict[str, _RunFiles] = {}
    for path, content in archive.files():
        match = RUN_FILE.fullmatch(path)
        if match is None:
            continue
        run = runs.setdefault(match[1], _RunFiles({}, {}))
        if match[4]:
            run.labels = content.decode("utf-8", "replace")
        else:
            (run.training if match[2] == "training" else run.test)[match[3]] = content
    return runs


def _answers(
    archive: Archive, name: str, run: _RunFiles, supports: list[str], queries: list[str]
) -> npt.NDArray[np.int64]:
    """The index in `supports` that class_labels.txt gives for each of `queries`."""
    where = f"{archive.path}: {name}"
    if run.labels is None or not supports or not queries:
        raise DataError(f"{where} is incomplete: it needs class_labels.txt, training/*.png and test/*.png")
    label_of: dict[str, str] = {}
    for line in run.labels.split("\n"):
        paths = line.split()
        if not paths:
            continue
        if len(paths) != 2:
            raise DataError(
                f"{where}/class_labels.txt: a line has to be a test item and a training class, not {line!r}"
            )
        item, label = (path.rsplit("/", 1)[-1] for path in paths)
        if item in label_of or item not in run.test or label not in run.training:
            raise DataError(
                f"{where}/class_labels.txt: {line!r} does not pair one test item with one training class"
            )
        label_of[item] = label
    if missing := sorted(set(queries) - set(label_of)):
        raise DataError(f"{where}/class_labels.txt has no line for {missing[0]}")
    return np.array([supports.index(label_of[item]) for item in queries], dtype=np.int64)


def _cached(
    kind: str, archive: Archive, preprocessing: Preprocessing, build: Callable[[], Arrays]
) -> tuple[Arrays, dict[str, str | int]]:
    fingerprint = archive.fingerprint()
    key = {
        "version": CACHE_VERSION,
        "bytes": fingerprint["bytes"],
        "sha256": fingerprint["sha256"],
        "preprocessing": structs.asdict(preprocessing),
    }
    return cached_arrays(kind, key, build), fingerprint


def _decoded(content: bytes, archive: Archive, path: str) -> npt.NDArray[np.uint8]:
    """uint8 (105, 105), 0 for ink and 255 for paper."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if picture.size != (SIDE, SIDE):
                raise DataError(
                    f"{archive.path}: {path} is {picture.width} x {picture.height}, not {SIDE} x {SIDE}"
                )
            return np.asarray(picture.convert("L"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{archive.path}: {path} is not a PNG picture ({error})") from error


def _held_out(background: ImageSet, count: int, seed: int) -> list[int]:
    names = background.group_names
    if not 1 <= count < len(names):
        raise DataError(
            f"{background.name} has {len(names)} alphabets: 1 to {len(names) - 1} of them can be held out, not {count}"
        )
    first = [names.index(name) for name in VALIDATION_ALPHABETS if name in names]
    rest = [group for group in range(len(names)) if group not in first]
    rest = [rest[i] for i in np.random.default_rng([seed, len(names)]).permutation(len(rest))]
    return (first + rest)[:count]


def split_alphabets(
    alphabets: tuple[str, ...], background: ImageSet, evaluation: ImageSet, runs: tuple[OneShotRun, ...]
) -> Splits:
    """Train on some background alphabets, and validate on the others.

    Raises:
        DataError: an alphabet is not in the background set or is named twice, or none is left for validation.
    """
    names = list(background.group_names)
    if unknown := [name for name in alphabets if name not in names]:
        raise DataError(f"{unknown[0]!r} is not an alphabet of {background.name}: {', '.join(names)}")
    if len(set(alphabets)) != len(alphabets) or len(alphabets) >= len(names):
        raise DataError(
            f"name each training alphabet once, and leave at least one of {len(names)} for validation"
        )
    trained = np.isin(background.class_groups, [names.index(name) for name in alphabets])
    return Splits(
        train=replace(background.select(np.flatnonzero(trained)), name="omniglot train"),
        validation=replace(background.select(np.flatnonzero(~trained)), name="omniglot validation"),
        evaluation=evaluation,
        official_runs=runs,
    )


def split_characters(background: ImageSet, evaluation: ImageSet) -> Splits:
    """Split the characters of all fifty alphabets at random: 1,100 train, 100 validate, 423 evaluate.

    As in the papers, each rotation of an evaluation character by 90 degrees is a class of its own. The split is always the
    same; Vinyals et al. did not publish theirs. The official trials are left out, since it trains on their characters.
    """
    both = background.with_classes_of(evaluation, "omniglot")
    used = CHARACTER_SPLIT_TRAIN + CHARACTER_SPLIT_VALIDATION
    if both.classes <= used:
        raise DataError(f"omniglot has {both.classes} characters here; more than {used} are needed")
    order = np.random.default_rng(CHARACTER_SPLIT_SEED).permutation(both.classes)
    parts = np.split(order, [CHARACTER_SPLIT_TRAIN, used])
    train, validation, rest = (both.select(np.sort(part)) for part in parts)
    return Splits(
        train=replace(train, name="omniglot train"),
        validation=replace(validation, name="omniglot validation"),
        evaluation=replace(with_rotations(rest), name="omniglot characters"),
    )


def with_rotations(images: ImageSet) -> ImageSet:
    """Each class four times: rotated by 0, 90, 180 and 270 degrees, as classes of their own."""
    return ImageSet(
        name=images.name,
        images=np.concatenate([np.rot90(images.images, turns, axes=(1, 2)) for turns in range(4)]),
        labels=np.concatenate([images.labels + turns * images.classes for turns in range(4)]),
        class_names=tuple(
            f"{name}, turned by {90 * turns}" for turns in range(4) for name in images.class_names
        ),
        class_groups=np.tile(images.class_groups, 4),
        group_names=images.group_names,
        drawers=np.tile(images.drawers, 4),
    )
