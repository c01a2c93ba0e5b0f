"""Load and verify model bundles."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import (
    BundleError,
    BundleNotFound,
    ChecksumError,
    ManifestError,
    TruncatedFileError,
    UnsafePathError,
)
from edge_siamese.models import resolve
from edge_siamese.models.manifest import FileInfo, Manifest
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.system.files import write_atomically

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
IMPOSTORS = "impostors.npy"
MAX_IMPOSTORS = 512
NETWORK = "network"
"""The key of `GoldenVectors.embeddings` that holds those of the trained float network."""

_ARRAYS: dict[str, type[np.generic]] = {
    "frame": np.uint8,
    "prepared_frame": np.uint8,
    "images": np.uint8,
    "scores": np.float32,
}
_EMBEDDINGS = "embeddings."
_AGAIN = "copy or export the bundle again"


@dataclass(frozen=True, eq=False)
class GoldenVectors:
    """Inputs with the workstation's results, which prove that a device computes the same."""

    frame: npt.NDArray[np.uint8]
    """(h, w, 3): a frame that differs from the encoder's input in size and color."""
    prepared_frame: npt.NDArray[np.uint8]
    """(H, W, C): that frame after `imaging.prepare`; must be reproduced exactly."""
    images: npt.NDArray[np.uint8]
    """(K, H, W, C), prepared."""
    embeddings: dict[str, npt.NDArray[np.float32]]
    """(K, D) of `images` by "network" (the trained one) and by each file: "onnx-fp32", "tflite-int8", ..."""
    scores: npt.NDArray[np.float32]
    """(K, K): p(same) of every pair of the "network" embeddings."""

    def save(self, path: str | Path) -> None:
        """Write an uncompressed .npz, atomically."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays |= {_EMBEDDINGS + name: values for name, values in self.embeddings.items()}
        write_atomically(Path(path), lambda file: np.savez(file, **arrays))

    @classmethod
    def load(cls, path: str | Path) -> GoldenVectors:
        """Read a file that `save` wrote.

        Raises:
            BundleNotFound: there is no such file.
            BundleError: the file has no golden vectors, their shapes disagree, or a number is not finite.
        """
        path = Path(path)
        arrays = _read_numpy(path)
        if not isinstance(arrays, dict):
            raise BundleError(f"{path} is one array, not golden vectors")
        for name in (*_ARRAYS, _EMBEDDINGS + NETWORK):
            if name not in arrays:
                raise BundleError(f"{path}: the array {name} is missing")
        for name, values in arrays.items():
            if name not in _ARRAYS and not name.startswith(_EMBEDDINGS):
                raise BundleError(f"{path}: the array {name} is not one of golden vectors")
            _require_numbers(values, _ARRAYS.get(name, np.float32), f"{path}: {name}")
        embeddings = {
            name.removeprefix(_EMBEDDINGS): values
            for name, values in arrays.items()
            if name.startswith(_EMBEDDINGS)
        }
        golden = cls(embeddings=embeddings, **{name: arrays[name] for name in _ARRAYS})
        golden._require_agreement(path)
        return golden

    def _require_agreement(self, path: Path) -> None:
        network = self.embeddings[NETWORK].shape
        shapes_agree = (
            self.frame.ndim == 3
            and self.images.ndim == 4
            and self.images.shape[1:] == self.prepared_frame.shape
            and len(network) == 2
            and all(values.shape == network for values in self.embeddings.values())
            and self.scores.shape == (len(self.images),) * 2 == (network[0],) * 2
        )
        if not shapes_agree:
            raise BundleError(f"{path}: the shapes of the golden vectors disagree")


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle."""

    path: Path
    """Its directory."""
    manifest: Manifest
    head: SigmoidDistanceHead

    @cached_property
    def golden(self) -> GoldenVectors:
        """The golden vectors, read on first use; raises as `GoldenVectors.load` does."""
        if all(item.path != GOLDEN for item in self.manifest.attachments):
            raise BundleNotFound(f"{self.path}: the manifest lists no {GOLDEN}")
        golden = GoldenVectors.load(self.path / GOLDEN)
        dimensions = golden.embeddings[NETWORK].shape[1]
        if (
            golden.images.shape[1:] != self.manifest.input.shape
            or dimensions != self.manifest.embedding.dimensions
        ):
            raise BundleError(f"{self.path / GOLDEN}: these golden vectors belong to another encoder")
        return golden

    @cached_property
    def impostors(self) -> npt.NDArray[np.float32] | None:
        """(I, D): embeddings of impostors, read on first use; not writable. None if the bundle has none.

        Raises `BundleError` if the file does not match the manifest's encoder.
        """
        if all(item.path != IMPOSTORS for item in self.manifest.attachments):
            return None
        path = self.path / IMPOSTORS
        stored = _read_numpy(path)
        if not isinstance(stored, np.ndarray):
            raise BundleError(f"{path} holds several arrays, not one of impostors")
        dimensions = self.manifest.embedding.dimensions
        _require_numbers(stored, np.float16, f"{path}: the array")
        if stored.ndim != 2 or stored.shape[1] != dimensions or not 1 <= len(stored) <= MAX_IMPOSTORS:
            raise BundleError(
                f"{path}: 1 to {MAX_IMPOSTORS} embeddings of {dimensions} numbers are needed, not {stored.shape}"
            )
        impostors = stored.astype(np.float32)
        impostors.setflags(write=False)
        return impostors

    def model_path(self, format: str, precision: str) -> Path:
        """Path of the encoder in a format (onnx, tflite) and precision (fp32, int8).

        Raises:
            BundleNotFound: the bundle has no such file.
        """
        return self.path / self.manifest.model(format, precision).path


def load_bundle(path: str | os.PathLike[str], verify_checksums: bool = True) -> Bundle:
    """Load a bundle and verify all of its files.

    Args:
        path: the name of a shipped bundle, such as `objects`, or the directory of a bundle.
        verify_checksums: hash every file. Without it, only presence and size are checked, so that a small board does not
            read large encoders that were verified when they were installed.

    Raises:
        BundleNotFound: there is no bundle, or a file of it is missing.
        ManifestError, BundleVersionError, UnsafePathError: see `Manifest.from_json`. A symbolic link that
            leaves the directory is an unsafe path too.
        TruncatedFileError: the size of a file differs from the manifest.
        ChecksumError: the checksum of a file differs from the manifest.
        BundleError: the weights of the head do not match the manifest.
    """
    directory = resolve(path)
    manifest_path = directory / MANIFEST
    try:
        _require_manifest(directory)
    except OSError as error:
        if isinstance(error, BundleNotFound):
            raise
        raise BundleError(f"{directory} cannot be read: {error.strerror}") from error
    manifest = Manifest.from_json(_read_text(manifest_path), str(manifest_path))
    for _, item in manifest.files():
        _check_file(directory, item, verify_checksums)
    return Bundle(directory, manifest, _read_head(directory, manifest))


def _require_manifest(directory: Path) -> None:
    if not directory.is_dir():
        what = (
            "it is a file; give the directory that holds manifest.json"
            if directory.exists()
            else "no such directory"
        )
        raise BundleNotFound(f"no bundle at {directory}: {what}")
    if not (directory / MANIFEST).is_file():
        raise BundleNotFound(f"no bundle at {directory}: there is no {MANIFEST} in it")


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


def _check_file(directory: Path, item: FileInfo, verify_checksum: bool) -> None:
    path = directory / item.path
    try:
        inside = path.resolve().is_relative_to(directory.resolve())
        is_file = path.is_file()
        size = path.stat().st_size if is_file else 0
        digest = (
            sha256(path) if inside and is_file and verify_checksum and size == item.bytes else item.sha256
        )
    except RuntimeError as error:  # Python before 3.13
        raise UnsafePathError(f"{path} is a link that leads to itself") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    if not inside:
        raise UnsafePathError(f"{path} is a link that leaves the bundle's directory")
    if not is_file:
        raise BundleNotFound(f"{path} is missing, though the manifest lists it; {_AGAIN}")
    if size != item.bytes:
        raise TruncatedFileError(f"{path} has {size} bytes; the manifest says {item.bytes}; {_AGAIN}")
    if digest != item.sha256:
        raise ChecksumError(f"{path} is not the file in the manifest: its SHA-256 differs; {_AGAIN}")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_head(directory: Path, manifest: Manifest) -> SigmoidDistanceHead:
    info = manifest.head
    weights = None
    if info.weights is not None:
        path = directory / info.weights
        weights = _read_numpy(path)
        if not isinstance(weights, np.ndarray) or weights.shape != (manifest.embedding.dimensions,):
            raise BundleError(
                f"{path}: one weight for each of {manifest.embedding.dimensions} dimensions is needed"
            )
        _require_numbers(weights, np.float32, f"{path}: the array")
    return SigmoidDistanceHead(info.scale, info.bias, info.distance, weights)


def _read_numpy(path: Path) -> Any:
    """An array of a .npy, or the dict of arrays of a .npz."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            return dict(content.items())
    except FileNotFoundError as error:
        raise BundleNotFound(f"{path} is missing; {_AGAIN}") from error
    except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds on damaged files
        raise BundleError(
            f"{path} is not a file of numpy arrays ({type(error).__name__}: {error})"
        ) from error


def _require_numbers(values: npt.NDArray[Any], dtype: type[np.generic], where: str) -> None:
    if values.dtype != dtype:
        raise BundleError(f"{where} must be {np.dtype(dtype)}, not {values.dtype}")
    if not np.isfinite(values).all():
        raise BundleError(f"{where} has numbers that are not finite")
