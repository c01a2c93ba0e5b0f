"""Data sets by name: `omniglot`, `glyphs`, `grocery`, `folder:PATH` or `turntable:PATH`; their splits share no class."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing
from export.data.images import ImageSet, OneShotRun, Splits
from export.data.sources import anything, source_names, together

__all__ = ["ImageSet", "OneShotRun", "Splits", "load_splits", "same_data", "same_source"]


def load_splits(
    data: str,
    preprocessing: Preprocessing,
    data_root: Path | None = None,
    seed: int = 0,
    training_preprocessing: Preprocessing | None = None,
    log: bool = True,
) -> Splits:
    """Load a data set by its name.

    Args:
        data: `omniglot`, `glyphs` (generated), `grocery`, `folder:PATH` with one subfolder per class, or `turntable:PATH`
            with rendered objects; `omniglot:characters` and `omniglot:ALPHABET,ALPHABET` are other splits of Omniglot.
            Several, separated by commas, are for training: the splits are those of the first, and `training_pictures` also
            have the training classes of the others. Only there, `anything:PATH` is a folder in which each picture is a
            class, and all objects of `turntable:PATH` are training classes.
        preprocessing: the input of the encoder.
        data_root: folder of a published data set; None uses the environment, and downloads Omniglot.
        seed: decides what is generated (glyphs) and which classes go to which split (folders).
        training_preprocessing: also load `Splits.training_pictures`, prepared in this way.
        log: log what is skipped in a folder.

    Raises:
        DataError: the name is unknown, or the data are missing, damaged or too few.
    """
    if seed < 0:
        raise DataError(f"the seed must be at least 0, not {seed}")
    first, *others = source_names(data)
    splits = _load(first, preprocessing, data_root, seed, log)
    if training_preprocessing is None:
        return splits
    pictures = _training_pictures(first, splits, training_preprocessing, data_root, seed)
    if others:
        further = [_further(name, training_preprocessing, data_root, seed) for name in others]
        sources = [{"data": name, **images.summary()} for name, images in zip(others, further, strict=True)]
        pictures = together([pictures, *further])
        splits = replace(splits, provenance=splits.provenance | {"further_sources": sources})
    return replace(splits, training_pictures=pictures)


def same_data(one: str, other: str) -> bool:
    """Whether two names refer to the same data, even if the path of a folder is written differently."""
    return [_resolved(name) for name in source_names(one)] == [
        _resolved(name) for name in source_names(other)
    ]


def same_source(one: str, other: str) -> bool:
    """Whether two data sets share classes: a source is the same, or both are splits of Omniglot."""
    kinds, other_kinds = ({name.partition(":")[0] for name in source_names(data)} for data in (one, other))
    own, others = ({_resolved(name) for name in source_names(data)} for data in (one, other))
    return bool(own & others) or "omniglot" in kinds & other_kinds


def _resolved(name: str) -> tuple[str, str]:
    kind, _, path = name.partition(":")
    return kind, os.path.realpath(path)


def _training_pictures(
    name: str, splits: Splits, preprocessing: Preprocessing, data_root: Path | None, seed: int
) -> ImageSet:
    """The training classes of the first source."""
    kind, _, rest = name.partition(":")
    if kind == "turntable" and preprocessing.color == "rgb":
        from export.data.cut_outs import cut_out_set
        from export.data.folders import split_classes

        return split_classes(cut_out_set(Path(rest), preprocessing.height), seed)[0]
    return _load(name, preprocessing, data_root, seed, log=False).train


def _further(name: str, preprocessing: Preprocessing, data_root: Path | None, seed: int) -> ImageSet:
    """The training classes of another source than the first."""
    kind, _, rest = name.partition(":")
    if kind == "anything" and rest:
        return anything(Path(rest), preprocessing, seed)
    if kind == "turntable" and rest:
        from export.data.cut_outs import cut_out_set

        return cut_out_set(Path(rest), preprocessing.height)
    return _load(name, preprocessing, data_root, seed).train


def _load(
    data: str, preprocessing: Preprocessing, data_root: Path | None, seed: int, log: bool = True
) -> Splits:
    kind, colon, rest = data.partition(":")
    if kind == "omniglot" and bool(colon) == bool(rest):
        from export.data.omniglot import load_omniglot

        return load_omniglot(preprocessing, data_root=data_root, seed=seed, protocol=rest)
    if data == "glyphs":
        from export.data.glyphs import load_glyphs

        return load_glyphs(preprocessing, seed=seed)
    if data == "grocery":
        from export.data.grocery import load_grocery

        return load_grocery(preprocessing, data_root=data_root)
    if kind == "folder" and rest:
        from export.data.folders import load_folder

        return load_folder(Path(rest), preprocessing, seed=seed, log=log)
    if kind == "turntable" and rest:
        from export.data.cut_outs import load_turntable

        return load_turntable(Path(rest), preprocessing, seed=seed)
    if kind == "anything":
        raise DataError(
            "anything:PATH is for training in addition to other data: name it after them, as in grocery,anything:PATH"
        )
    raise DataError(
        f"there is no data set {data!r}; choose omniglot, glyphs, grocery, folder:PATH or turntable:PATH"
    )
