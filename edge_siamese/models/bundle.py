"""Load and verify model bundles."""

from __future__ import annotations

import hashlib
import io
import math
import os
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

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
from edge_siamese.models import is_shipped, resolve
from edge_siamese.models.manifest import (
    DEFAULT_FALSE_ACCEPT_RATE,
    MAX_HEAD_NUMBER,
    MAX_MANIFEST_BYTES,
    FileInfo,
    Manifest,
    choose_threshold,
    default_threshold,
)
from edge_siamese.models.signature import require_signature
from edge_siamese.recognition.decision import Acceptance
from edge_siamese.recognition.embedding import usable_embeddings
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.system.files import write_atomically

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
IMPOSTORS = "impostors.npy"
MAX_IMPOSTORS, MAX_GOLDEN_IMAGES = 4096, 256
MAX_ARRAY_BYTES = 64 << 20
"""Bytes of all arrays of a file together."""
MAX_ARRAYS = 16
NETWORK = "network"
"""The key of `GoldenVectors.embeddings` that holds those of the trained float network."""

_ARRAYS: dict[str, type[np.generic]] = {
    "frame": np.uint8,
    "prepared_frame": np.uint8,
    "images": np.uint8,
    "scores": np.float32,
}
_EMBEDDINGS = "embeddings."
_END_OF_ARCHIVE = struct.Struct("<4sHHHHIIH")
_REMEDY = "copy or export the bundle again"


@dataclass(frozen=True, eq=False)
class GoldenVectors:
    """Inputs with the workstation's results, which show whether a device computes the same."""

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
    def load(cls, path: str | Path, content: bytes | None = None) -> GoldenVectors:
        """Read a file that `save` wrote; `content` replaces the bytes at `path`.

        Raises:
            BundleNotFound: there is no such file.
            BundleError: the file has no golden vectors, their shapes disagree, or a number is not finite.
        """
        path = Path(path)
        arrays = _read_arrays(path, content)
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
            and 1 <= len(self.images) <= MAX_GOLDEN_IMAGES
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
    signer: str = ""
    """The trusted key that signed it; empty if no signature was required."""

    @cached_property
    def golden(self) -> GoldenVectors:
        """The golden vectors, read on first use; raises the errors of `GoldenVectors.load`."""
        if all(item.path != GOLDEN for item in self.manifest.attachments):
            raise BundleNotFound(f"{self.path}: the manifest lists no {GOLDEN}")
        golden = GoldenVectors.load(self.path / GOLDEN, self._signed_content(GOLDEN))
        dimensions = golden.embeddings[NETWORK].shape[1]
        for name, values in golden.embeddings.items():
            self._check_embeddings(values, f"{self.path / GOLDEN}: {_EMBEDDINGS}{name}")
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
        stored = _read_array(path, self._signed_content(IMPOSTORS))
        dimensions, unit_length = self.manifest.embedding.dimensions, self.manifest.embedding.unit_length
        is_float = stored.dtype == np.float16 or not unit_length
        _require_numbers(stored, np.float16 if is_float else np.int8, f"{path}: the array")
        if stored.ndim != 2 or stored.shape[1] != dimensions or not 1 <= len(stored) <= MAX_IMPOSTORS:
            raise BundleError(
                f"{path}: 1 to {MAX_IMPOSTORS} embeddings of {dimensions} numbers are needed, not {stored.shape}"
            )
        impostors = stored.astype(np.float32)
        if not is_float:
            impostors /= np.maximum(np.linalg.norm(impostors, axis=1, keepdims=True), 1.0)
        self._check_embeddings(impostors, f"{path}: the array")
        impostors.setflags(write=False)
        return impostors

    def read(self, path: str) -> bytes:
        """Return the bytes of a file that the manifest lists, compared with its checksum.

        Raises:
            BundleNotFound: the manifest does not list it, or it is missing.
            TruncatedFileError, ChecksumError: it is not the file in the manifest.
        """
        item = next((item for _, item in self.manifest.files() if item.path == path), None)
        if item is None:
            raise BundleNotFound(f"{self.path}: the manifest lists no {path}")
        return _read_verified(self.path, item)

    def _signed_content(self, path: str) -> bytes | None:
        """The verified bytes of a file of a signed bundle, which may be replaced between two reads; None for others."""
        return self.read(path) if self.signer else None

    def check(self) -> None:
        """Read everything that the engine reads.

        Raises:
            BundleError: golden vectors or impostors are not those of the manifest's encoder.
        """
        _ = self.golden, self.impostors

    def _check_embeddings(self, embeddings: npt.NDArray[np.float32], where: str) -> None:
        unit_length = self.manifest.embedding.unit_length
        if not usable_embeddings(embeddings, unit_length).all():
            problem = "not of unit length" if unit_length else "all zero or too large"
            raise BundleError(f"{where} has embeddings that are {problem}")

    def model_path(self, format: str, precision: str) -> Path:
        """Path of the encoder in a format (onnx, tflite) and precision (fp32, int8).

        Raises:
            BundleNotFound: the bundle has no such file.
        """
        return self.path / self.manifest.model(format, precision).path


def choose_acceptance(
    bundle: Bundle, threshold: float | None = None, false_accept_rate: float | None = None
) -> Acceptance:
    """Return the rule for recognition with this bundle.

    Args:
        bundle: source of thresholds and impostors.
        threshold: a fixed one, on p(same).
        false_accept_rate: the share of pictures of other things that may be recognized. None: 0.01, or else the lowest rate
            for which the manifest states a threshold.

    Raises:
        SettingsError: the manifest states no threshold for this rate, and there are too few impostors to measure it.
        BundleError: the impostors cannot be read.
    """
    if threshold is not None:
        return Acceptance(threshold)
    default = default_threshold(bundle.manifest.thresholds)
    rate = false_accept_rate or (default.false_accept_rate if default else DEFAULT_FALSE_ACCEPT_RATE)
    is_measured = Acceptance(0.5, "", rate, bundle.impostors).is_measured
    is_stated = any(math.isclose(t.false_accept_rate, rate, rel_tol=1e-6) for t in bundle.manifest.thresholds)
    fixed, source = choose_threshold(
        bundle.manifest, None, None if is_measured and not is_stated else false_accept_rate
    )
    if default is None and not is_measured:
        return Acceptance(fixed, source)
    return Acceptance(fixed, source, rate, bundle.impostors)


def load_bundle(
    path: str | os.PathLike[str], verify_checksums: bool = True, trusted_keys: Sequence[str] = ()
) -> Bundle:
    """Load a bundle and verify all of its files.

    Args:
        path: the name of a shipped bundle, such as `objects`, or the directory of a bundle.
        verify_checksums: hash every file. Without it, only presence and size are checked, so that a small board does not
            read large encoders that were verified when they were installed.
        trusted_keys: public keys, as in the settings. With one, a bundle that is not shipped with the program has to be
            signed with one of them, and the bytes that are verified are the ones that are used.

    Raises:
        BundleNotFound: there is no bundle, or a file of it is missing.
        ManifestError, BundleVersionError, UnsafePathError: see `Manifest.from_json`. A symbolic link that
            leaves the directory is an unsafe path too.
        TruncatedFileError: the size of a file differs from the manifest.
        ChecksumError: the checksum of a file differs from the manifest.
        SignatureError: it is not signed with a trusted key.
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
    content = _read_manifest(manifest_path)
    signer = ""
    if trusted_keys and not is_shipped(directory):
        signer = require_signature(directory, content, trusted_keys)
    manifest = Manifest.from_json(_decoded(content, manifest_path), str(manifest_path))
    for _, item in manifest.files():
        _check_file(directory, item, verify_checksums or bool(signer))
    return Bundle(directory, manifest, _read_head(directory, manifest, bool(signer)), signer)


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
    _require_inside(directory, directory / MANIFEST)


def _read_manifest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"{path} has more than {MAX_MANIFEST_BYTES} bytes; {_REMEDY}")
    return content


def _decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text (byte {error.start})") from error


def _read_verified(directory: Path, item: FileInfo) -> bytes:
    """Return the bytes of a file; raises the errors of `load_bundle` if they do not match the manifest."""
    path = directory / item.path
    _check_file(directory, item, verify_checksum=False)
    try:
        with path.open("rb") as file:
            content = file.read(item.bytes + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) != item.bytes:
        raise TruncatedFileError(
            f"{path} changed while it was read; the manifest says {item.bytes} bytes; {_REMEDY}"
        )
    if hashlib.sha256(content).hexdigest() != item.sha256:
        raise ChecksumError(f"{path} is not the file in the manifest: its SHA-256 differs; {_REMEDY}")
    return content


def _require_inside(directory: Path, path: Path) -> None:
    # `Path.resolve` raises RuntimeError for a link to itself, but not from Python 3.13 on.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory)):
        raise UnsafePathError(f"{path} is a link that leaves the bundle's directory")


def _check_file(directory: Path, item: FileInfo, verify_checksum: bool) -> None:
    path = directory / item.path
    try:
        _require_inside(directory, path)
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise UnsafePathError(f"{path} is a pipe, a socket or a device, not a file")
        is_file, size = stat.S_ISREG(status.st_mode), status.st_size
        digest = sha256(path) if is_file and verify_checksum and size == item.bytes else item.sha256
    except FileNotFoundError:
        is_file = False
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    if not is_file:
        raise BundleNotFound(f"{path} is missing, though the manifest lists it; {_REMEDY}")
    if size != item.bytes:
        raise TruncatedFileError(f"{path} has {size} bytes; the manifest says {item.bytes}; {_REMEDY}")
    if digest != item.sha256:
        raise ChecksumError(f"{path} is not the file in the manifest: its SHA-256 differs; {_REMEDY}")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_head(directory: Path, manifest: Manifest, is_signed: bool) -> SigmoidDistanceHead:
    info = manifest.head
    weights = None
    if info.weights is not None:
        path = directory / info.weights
        (item,) = (item for item in manifest.attachments if item.path == info.weights)
        weights = _read_array(path, _read_verified(directory, item) if is_signed else None)
        if weights.shape != (manifest.embedding.dimensions,):
            raise BundleError(
                f"{path}: one weight for each of {manifest.embedding.dimensions} dimensions is needed"
            )
        _require_numbers(weights, np.float32, f"{path}: the array")
        if np.abs(weights).max() > MAX_HEAD_NUMBER:
            raise BundleError(f"{path}: a weight exceeds {MAX_HEAD_NUMBER:g}")
    return SigmoidDistanceHead(info.scale, info.bias, info.distance, weights)


def _read_array(path: Path, content: bytes | None = None) -> npt.NDArray[Any]:
    """The array of a .npy file, of which the header is checked before memory is allocated.

    `content` replaces the bytes at `path`.
    """
    with _numpy_errors(path), _opened(path, content) as file:
        if file.peek(2)[:2] == b"PK":
            raise BundleError(f"{path} holds several arrays, not one")
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return _parse_array(file, size)


def _opened(path: Path, content: bytes | None) -> io.BufferedReader:
    # io.BytesIO has no `peek`.
    return path.open("rb") if content is None else io.BufferedReader(io.BytesIO(content))


def _read_arrays(path: Path, content: bytes | None = None) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a .npz file; number, names and sizes are checked before anything is decompressed."""
    with _numpy_errors(path), _opened(path, content) as file:
        if file.peek(6)[:6] == b"\x93NUMPY":
            raise BundleError(f"{path} is one array, not several")
        _require_few_members(file)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_ARRAY_BYTES:
                raise ValueError(f"its arrays have more than {MAX_ARRAY_BYTES} bytes")
            arrays = {}
            for member in members:
                with archive.open(member) as array:
                    arrays[member.filename.removesuffix(".npy")] = _parse_array(array, member.file_size)
        return arrays


def _require_few_members(file: IO[bytes]) -> None:
    """Read the number of members where numpy's archives state it, since zipfile would list millions."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _END_OF_ARCHIVE.size))
    try:
        signature, *_, members, _, _, comment = _END_OF_ARCHIVE.unpack(file.read())
    except struct.error:
        signature = members = comment = 0
    if (signature, comment) != (b"PK\5\6", 0):
        raise ValueError("it is not an archive of arrays")
    if members > MAX_ARRAYS:
        raise ValueError(f"it has more than {MAX_ARRAYS} arrays")


def _parse_array(file: IO[bytes], size: int) -> npt.NDArray[Any]:
    """An array of numbers from a .npy file of `size` bytes, writable."""
    if size > MAX_ARRAY_BYTES:
        raise ValueError(f"it has more than {MAX_ARRAY_BYTES} bytes")
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(np.lib.format.read_magic(file))
    if read_header is None:
        raise ValueError("it has an unknown version")
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in "biuf":
        raise ValueError(f"it holds {dtype}, not numbers")
    expected = math.prod(shape) * dtype.itemsize
    content = bytearray(file.read(expected + 1)) if expected <= size else bytearray()
    if len(content) != expected:
        raise ValueError(f"an array of shape {shape} has {expected} bytes, which are not there")
    values = np.frombuffer(content, dtype)
    return values.reshape(shape[::-1]).T if fortran else values.reshape(shape)


@contextmanager
def _numpy_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except BundleError:
        raise
    except FileNotFoundError as error:
        raise BundleNotFound(f"{path} is missing; {_REMEDY}") from error
    except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds on damaged files
        raise BundleError(
            f"{path} is not a file of numpy arrays ({type(error).__name__}: {error})"
        ) from error


def _require_numbers(values: npt.NDArray[Any], dtype: type[np.generic], where: str) -> None:
    if values.dtype != dtype:
        raise BundleError(f"{where} must be {np.dtype(dtype)}, not {values.dtype}")
    if not np.isfinite(values).all():
        raise BundleError(f"{where} has numbers that are not finite")
