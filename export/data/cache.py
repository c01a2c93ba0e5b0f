"""Cache of prepared images on disk, so that a data set is decoded only once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError
from edge_siamese.system.files import write_atomically

Arrays = dict[str, npt.NDArray[np.generic]]

VARIABLE = "EDGE_SIAMESE_CACHE"
LOG = logging.getLogger(__name__)


def cache_directory() -> Path:
    """`$EDGE_SIAMESE_CACHE`, or `edge-siamese` in the user's cache directory.

    Raises:
        DataError: there is no home directory, such as for a user id without an account.
    """
    try:
        if chosen := os.environ.get(VARIABLE):
            return Path(chosen).expanduser()
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "edge-siamese"
    except RuntimeError as error:
        raise DataError(f"there is no home directory for the cache: set {VARIABLE} to a directory") from error


def cached_arrays(kind: str, key: Mapping[str, object], build: Callable[[], Arrays]) -> Arrays:
    """The arrays that `build` returns, loaded from the cache if they were built before with an equal key.

    A damaged file is built again. A cache that cannot be written gives a warning.

    Args:
        kind: prefix of the file name.
        key: everything that decides the result, as JSON values: source checksums, preprocessing, version of the code.
        build: makes the arrays, without object dtypes.
    """
    text = json.dumps(key, sort_keys=True)
    try:
        directory = cache_directory()
    except DataError as error:
        LOG.warning("prepared pictures are not cached: %s", error)
        return build()
    path = directory / "prepared" / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.npz"
    arrays = _load(path, text)
    if arrays is None:
        arrays = build()
        _store(path, text, arrays)
    return arrays


def _load(path: Path, key: str) -> Arrays | None:
    try:
        # Reading a member completely checks its CRC.
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        LOG.warning("%s is damaged (%s) and will be built again", path, error)
        return None
    if str(arrays.pop("key", "")) != key:
        return None
    return arrays


def _store(path: Path, key: str, arrays: Arrays) -> None:
    try:
        write_atomically(path, lambda file: np.savez(file, key=np.array(key), **arrays))  # type: ignore[arg-type]
    except OSError as error:
        LOG.warning("prepared pictures are not cached: cannot write %s (%s)", path, error.strerror or error)
