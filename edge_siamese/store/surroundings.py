"""The file with the embeddings of a camera's surroundings, next to the database of objects. It has no pictures.

    surroundings.bin    one line of JSON, a `_Header`, then float16 (P + N, D), little-endian: places, then scenes

It is written atomically. A file that is damaged, or of another model, is ignored and replaced by the next write: it can be
learned again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from edge_siamese.errors import StoreError
from edge_siamese.recognition.imaging import Floats
from edge_siamese.store.errors import require_free_space, store_error
from edge_siamese.system.files import write_atomically
from edge_siamese.validation import Record, SchemaError, convert, parse_json

LOG = logging.getLogger(__name__)

FILE_NAME = "surroundings.bin"
VERSION = 1
MAX_FILE_BYTES = 16 * 1024 * 1024


class _Header(Record, frozen=True):
    """The first line of the file."""

    version: int
    model_id: str
    """The model that computed the embeddings."""
    dimensions: int
    places: int
    """The number of empty places."""
    sha256: str
    """Of everything after this line."""


class SurroundingsFile:
    """The file in a state directory; used from one thread.

    Args:
        state: the state directory; None to keep nothing.
    """

    def __init__(self, state: Path | None) -> None:
        self.path = None if state is None else state / FILE_NAME

    def load(self, model_id: str, dimensions: int) -> tuple[Floats, Floats]:
        """Load what a model learned: scenes, float32 (N, D), and places, float32 (P, D).

        Both are empty if the file is missing or damaged, or if another model wrote it.
        """
        nothing = np.empty((0, dimensions), np.float32), np.empty((0, dimensions), np.float32)
        if self.path is None:
            return nothing
        try:
            with self.path.open("rb") as file:
                header, _, content = file.read(MAX_FILE_BYTES).partition(b"\n")
            return _decode(header, content, model_id, dimensions)
        except FileNotFoundError:
            return nothing
        except (OSError, SchemaError) as error:
            LOG.warning("%s is ignored: %s", self.path, error)
            return nothing

    def save(self, model_id: str, scenes: Floats, places: Floats) -> None:
        """Replace scenes and places, (N, D) and (P, D); raises `StoreError` if the file cannot be written."""
        if self.path is None:
            return
        require_free_space(self.path.parent)
        usable = [_half(rows) for rows in (places, scenes)]
        content = b"".join(rows.tobytes() for rows in usable)
        digest = hashlib.sha256(content).hexdigest()
        header = _Header(VERSION, model_id, scenes.shape[1], len(usable[0]), digest)
        try:
            data = msgspec.json.encode(header) + b"\n" + content
            write_atomically(self.path, lambda file: file.write(data), mode=0o600)
        except OSError as error:
            raise store_error(error, self.path) from error

    def delete(self) -> None:
        """Delete the file, if there is one; raises `StoreError` if that fails."""
        if self.path is None:
            return
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self.path} cannot be deleted: {error.strerror or error}") from error


def _half(rows: Floats) -> npt.NDArray[np.float16]:
    """The rows in half precision, without those that it cannot represent."""
    with np.errstate(over="ignore"):
        half = rows.astype("<f2")
    return np.asarray(half[np.isfinite(half).all(axis=1)])


def _decode(header: bytes, content: bytes, model_id: str, dimensions: int) -> tuple[Floats, Floats]:
    known = convert(parse_json(header), _Header)
    if known.version != VERSION:
        raise SchemaError("version", f"must be {VERSION}, not {known.version}")
    if hashlib.sha256(content).hexdigest() != known.sha256:
        raise SchemaError("sha256", "is not that of the content")
    if (known.model_id, known.dimensions) != (model_id, dimensions):
        LOG.info("the surroundings were learned with another model, %s, and are ignored", known.model_id)
        none = np.empty((0, dimensions), np.float32)
        return none, none
    try:
        rows = np.frombuffer(content, "<f2").reshape(-1, dimensions).astype(np.float32)
    except ValueError:
        raise SchemaError("dimensions", f"do not match a content of {len(content)} bytes") from None
    if not np.isfinite(rows).all():
        raise SchemaError("sha256", "is that of numbers that are not finite")
    if not 0 <= known.places <= len(rows):
        raise SchemaError("places", f"must be at most {len(rows)}, not {known.places}")
    return rows[known.places :], rows[: known.places]
