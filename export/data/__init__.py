"""Data sets by name: `omniglot`, `glyphs` or `folder:PATH`, each as splits that share no class."""

from __future__ import annotations

from pathlib import Path

from edge_siamese.errors import DataError
from edge_siamese.imaging import Preprocessing
from export.data.images import ImageSet, OneShotRun, Splits

__all__ = ["ImageSet", "OneShotRun", "Splits", "load_splits"]


def load_splits(
    data: str, preprocessing: Preprocessing, data_root: Path | None = None, seed: int = 0
) -> Splits:
    """Load a data set by its name.

    Args:
        data: `omniglot`, `glyphs` (drawn by the program), or `folder:PATH` with one sub-folder a class.
        preprocessing: the input of the encoder that is to see the pictures.
        data_root: where the Omniglot archives are; None looks at the environment, then fetches them.
        seed: decides what is drawn (glyphs) and which classes go to which split (folders).

    Raises:
        DataError: the name is unknown, or the data are missing, damaged or too few.
    """
    if seed < 0:
        raise DataError(f"the seed has to be 0 or more, not {seed}")
    if data == "omniglot":
        from export.data.omniglot import load_omniglot

        return load_omniglot(preprocessing, data_root=data_root, seed=seed)
    if data == "glyphs":
        from export.data.glyphs import load_glyphs

        return load_glyphs(preprocessing, seed=seed)
    kind, _, path = data.partition(":")
    if kind == "folder" and path:
        from export.data.folders import load_folder

        return load_folder(Path(path), preprocessing, seed=seed)
    raise DataError(f"there is no data set {data!r}; choose omniglot, glyphs or folder:PATH")
