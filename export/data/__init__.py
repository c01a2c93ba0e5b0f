"""Data sets by name: `omniglot`, `glyphs`, `grocery` or `folder:PATH`; their splits share no class."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing
from export.data.images import ImageSet, OneShotRun, Splits

__all__ = ["ImageSet", "OneShotRun", "Splits", "load_splits", "same_data", "same_source"]


def load_splits(
    data: str,
    preprocessing: Preprocessing,
    data_root: Path | None = None,
    seed: int = 0,
    training_preprocessing: Preprocessing | None = None,
) -> Splits:
    """Load a data set by its name.

    Args:
        data: `omniglot`, `glyphs` (generated), `grocery`, or `folder:PATH` with one subfolder per class;
            `omniglot:characters` and `omniglot:ALPHABET,ALPHABET` are other splits of Omniglot.
        preprocessing: the input of the encoder.
        data_root: folder of a published data set; None uses the environment, and downloads Omniglot.
        seed: decides what is generated (glyphs) and which classes go to which split (folders).
        training_preprocessing: also prepare the training pictures in this way, as `Splits.high_resolution_train`.

    Raises:
        DataError: the name is unknown, or the data are missing, damaged or too few.
    """
    if seed < 0:
        raise DataError(f"the seed must be at least 0, not {seed}")
    splits = _load(data, preprocessing, data_root, seed)
    if training_preprocessing is not None:
        splits = replace(
            splits,
            high_resolution_train=_load(data, training_preprocessing, data_root, seed, log=False).train,
        )
    return splits


def same_data(one: str, other: str) -> bool:
    """Whether two names mean the same data, also if the path of a folder is written differently."""
    kind, _, path = one.partition(":")
    other_kind, _, other_path = other.partition(":")
    return kind == other_kind and os.path.realpath(path) == os.path.realpath(other_path)


def same_source(one: str, other: str) -> bool:
    """Whether two data sets share classes: the same data, or two splits of Omniglot."""
    return same_data(one, other) or {name.partition(":")[0] for name in (one, other)} == {"omniglot"}


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
    raise DataError(f"there is no data set {data!r}; choose omniglot, glyphs, grocery or folder:PATH")
