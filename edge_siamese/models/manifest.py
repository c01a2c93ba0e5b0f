"""The manifest of a bundle: what `manifest.json` says, checked when it is read and when it is written."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal

from edge_siamese.errors import (
    BundleNotFound,
    BundleVersionError,
    ManifestError,
    SettingsError,
    UnsafePathError,
)
from edge_siamese.recognition.imaging import Preprocessing
from edge_siamese.validation import SchemaError, parse_json, read_object, require_finite

FORMAT = "edge-siamese-bundle"
VERSION = 1

USUAL_FALSE_ACCEPT_RATE = 1e-2
"""The false-accept rate of the threshold that is used where none was chosen."""
FALLBACK_THRESHOLD = 0.5
"""The threshold of a bundle that states none, because it had too few validation pairs."""

LOG = logging.getLogger(__name__)

Format = Literal["onnx", "tflite"]
Precision = Literal["fp32", "int8"]

# Of a file's name, in UTF-8, on the usual file systems.
_MAX_BYTES_OF_A_NAME = 255


@dataclass(frozen=True)
class EncoderInfo:
    """The network that was trained."""

    name: str
    parameters: int
    """Trained numbers."""
    macs: int
    """Multiply-accumulates for one image."""
    citation: str

    def __post_init__(self) -> None:
        _require(bool(self.name), "name", "a name is needed, not an empty string")
        _require(self.parameters >= 0, "parameters", f"at least 0 is needed, not {self.parameters}")
        _require(self.macs >= 0, "macs", f"at least 0 is needed, not {self.macs}")


@dataclass(frozen=True)
class EmbeddingInfo:
    """What the network gives for an image."""

    dimensions: int
    normalization: Literal["l2", "none"]
    """`l2`: the runtime wrapper divides the network's output by its Euclidean norm."""

    def __post_init__(self) -> None:
        _require(self.dimensions >= 1, "dimensions", f"at least 1 is needed, not {self.dimensions}")


@dataclass(frozen=True)
class HeadInfo:
    """The sigmoid distance head; see `edge_siamese.recognition.head`."""

    distance: Literal["euclidean", "weighted_l1"]
    scale: float
    bias: float
    weights: str | None
    """Path of a float32 .npy of shape (dimensions,) in the bundle; for `weighted_l1` only."""

    def __post_init__(self) -> None:
        _require(self.scale > 0, "scale", f"a number above 0 is needed, not {self.scale}")
        if self.distance == "weighted_l1":
            _require(self.weights is not None, "weights", "a weighted_l1 head needs the path of its weights")
        else:
            _require(self.weights is None, "weights", f"a {self.distance} head takes null")


@dataclass(frozen=True)
class Threshold:
    """A probability above which two images are said to show the same thing, and what that costs."""

    false_accept_rate: float
    """The share of impostor pairs that the threshold was chosen to let through."""
    probability: float
    false_reject_rate: float
    """The share of genuine pairs that the threshold turns away."""
    impostor_pairs: int
    """How many held-out pairs of different things the rate was measured on."""

    def __post_init__(self) -> None:
        for name in ("false_accept_rate", "probability", "false_reject_rate"):
            value = getattr(self, name)
            _require(0.0 <= value <= 1.0, name, f"a number from 0 to 1 is needed, not {value}")
        _require(
            self.impostor_pairs >= 1, "impostor_pairs", f"at least 1 is needed, not {self.impostor_pairs}"
        )


@dataclass(frozen=True)
class FileInfo:
    """A file of the bundle; a file that is not listed is not part of it."""

    path: str
    """Relative to the bundle's directory, with forward slashes."""
    bytes: int
    sha256: str
    """64 lower-case hexadecimal digits."""

    def __post_init__(self) -> None:
        _require(self.bytes >= 0, "bytes", f"at least 0 is needed, not {self.bytes}")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise SchemaError("sha256", "64 lower-case hexadecimal digits are needed")


@dataclass(frozen=True)
class ModelFile(FileInfo):
    """The encoder in one format and precision."""

    format: Format
    precision: Precision
    quantization: str | None
    """How an int8 file was quantized; null for fp32."""
    input_dtype: str
    """What the graph reads: uint8, int8 or float32."""


@dataclass(frozen=True)
class Manifest:
    """All of `manifest.json`."""

    version: int
    model_id: str
    """`ENCODER-HASH`, the hash being the first twelve digits of the SHA-256 of the trained weights."""
    created: str
    """UTC, ISO 8601."""
    encoder: EncoderInfo
    input: Preprocessing
    embedding: EmbeddingInfo
    head: HeadInfo
    thresholds: tuple[Threshold, ...]
    models: tuple[ModelFile, ...]
    attachments: tuple[FileInfo, ...]
    """The other files: golden vectors, model card, weights of the head."""
    metrics: dict[str, float | dict[str, Any]]
    provenance: dict[str, Any]
    """Data, seed, commit, versions."""

    def __post_init__(self) -> None:
        _require(bool(self.model_id), "model_id", "an id is needed, not an empty string")
        _require(_is_utc(self.created), "created", f'a UTC time in ISO 8601 is needed, not "{self.created}"')
        for name in ("height", "width"):
            pixels = getattr(self.input, name)
            _require(pixels >= 1, f"input.{name}", f"at least 1 pixel is needed, not {pixels}")
        _require(bool(self.models), "models", "at least one model file is needed")
        _require_distinct([(item.format, item.precision) for item in self.models], "models")
        _require_distinct([item.path for _, item in self.files()], "attachments")
        if self.head.weights is not None:
            listed = any(item.path == self.head.weights for item in self.attachments)
            _require(listed, "head.weights", f'"{self.head.weights}" is not among the attachments')

    def files(self) -> list[tuple[str, FileInfo]]:
        """Every listed file with its dotted key."""
        models = [(f"models[{index}]", item) for index, item in enumerate(self.models)]
        return [*models, *((f"attachments[{index}]", item) for index, item in enumerate(self.attachments))]

    def model(self, format: str, precision: str) -> ModelFile:
        """The model file of this format (onnx, tflite) and precision (fp32, int8).

        Raises:
            BundleNotFound: the bundle has no such file.
        """
        for item in self.models:
            if (item.format, item.precision) == (format, precision):
                return item
        there = ", ".join(f"{item.format} {item.precision}" for item in self.models)
        raise BundleNotFound(f"{self.model_id} has no {format} {precision} encoder; it has {there}")

    def threshold_at(self, false_accept_rate: float) -> Threshold:
        """The threshold that was stated for a false-accept rate.

        Raises:
            SettingsError: the bundle states none for it.
        """
        for threshold in self.thresholds:
            if math.isclose(threshold.false_accept_rate, false_accept_rate, rel_tol=1e-6):
                return threshold
        stated = ", ".join(f"{threshold.false_accept_rate:g}" for threshold in self.thresholds)
        remedy = "choose one of these or give" if stated else "give"
        raise SettingsError(
            f"{self.model_id} states no threshold for a false-accept rate of {false_accept_rate:g} "
            f"(stated: {stated or 'none'}); {remedy} the threshold itself"
        )

    def to_json(self) -> str:
        """The text of `manifest.json`.

        Raises:
            ManifestError, UnsafePathError: reading the text back would raise it.
        """
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        try:
            require_finite(content)
        except SchemaError as error:
            raise ManifestError(f"the manifest of {self.model_id}: {error}") from error
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        Manifest.from_json(text, f"the manifest of {self.model_id}")
        return text

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Read the text of a manifest.

        Args:
            text: JSON.
            where: the file's name, for errors.

        Raises:
            ManifestError: the text breaks the schema; the message names the dotted key.
            BundleVersionError: the manifest is of another version of the format.
            UnsafePathError: a path leaves the bundle's directory.
        """
        try:
            content = parse_json(text)
            if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
                raise SchemaError("format", f'"{FORMAT}" is needed: this is not the manifest of a bundle')
            version = content.get("version")
            if isinstance(version, int) and not isinstance(version, bool) and version != VERSION:
                raise BundleVersionError(
                    f"{where}: this release reads version {VERSION} of the bundle format, not {version}; "
                    + ("update edge-siamese" if version > VERSION else "export the bundle again")
                )
            manifest = read_object(content, cls)
        except SchemaError as error:
            raise ManifestError(f"{where}: {error}") from error
        for key, item in manifest.files():
            _require_inside(item.path, f"{where}: {key}.path")
        return manifest


def _require(condition: bool, key: str, problem: str) -> None:
    if not condition:
        raise SchemaError(key, problem)


def _require_distinct(identities: Sequence[object], key: str) -> None:
    repeated = next((item for index, item in enumerate(identities) if item in identities[:index]), None)
    if repeated is not None:
        shown = " ".join(repeated) if isinstance(repeated, tuple) else f'"{repeated}"'
        raise SchemaError(key, f"{shown} is listed twice")


def _is_utc(text: str) -> bool:
    try:
        offset = datetime.fromisoformat(text).utcoffset()
    except ValueError:
        return False
    return offset is not None and not offset


def _require_inside(path: str, where: str) -> None:
    """Refuse, from the text alone, a path that could lead out of a directory on any system."""
    windows = PureWindowsPath(path)
    if not path or "\0" in path:
        raise UnsafePathError(f"{where}: {path!r} is not the name of a file")
    if path.startswith("/") or windows.drive or windows.root:
        raise UnsafePathError(f'{where}: "{path}" is absolute; a path has to be relative to the bundle')
    if "\\" in path:
        raise UnsafePathError(f'{where}: "{path}" has a backslash; folders are parted by a forward slash')
    parts = PurePosixPath(path).parts
    if ".." in parts:
        raise UnsafePathError(f'{where}: "{path}" leaves the bundle\'s directory through ".."')
    longest = max((len(part.encode("utf-8")) for part in parts), default=0)
    if longest > _MAX_BYTES_OF_A_NAME:
        raise UnsafePathError(
            f'{where}: "{path[:30]}…" has a name of {longest} bytes; a file\'s name has at most {_MAX_BYTES_OF_A_NAME}'
        )


def usual_threshold(manifest: Manifest) -> Threshold | None:
    """The threshold to use where none was chosen: at a false-accept rate of 1e-2, or else the strictest stated one."""

    def order(threshold: Threshold) -> tuple[bool, float]:
        rate = threshold.false_accept_rate
        return not math.isclose(rate, USUAL_FALSE_ACCEPT_RATE, rel_tol=1e-6), rate

    return min(manifest.thresholds, key=order, default=None)


def threshold_origin(threshold: Threshold) -> str:
    """Where a threshold of a manifest came from, for people."""
    return f"stated for a false-accept rate of {threshold.false_accept_rate:g}"


def choose_threshold(
    manifest: Manifest, threshold: float | None, false_accept_rate: float | None
) -> tuple[float, str]:
    """The threshold to use, and where it came from, for people.

    Args:
        manifest: of the bundle.
        threshold: a probability, if the user gave one.
        false_accept_rate: the rate that the user asked for. None: the usual threshold, or else
            `FALLBACK_THRESHOLD`, with a warning in the log.

    Raises:
        SettingsError: the bundle states no threshold for this rate.
    """
    if threshold is not None:
        return threshold, "given"
    if false_accept_rate is not None:
        found = manifest.threshold_at(false_accept_rate)
        return found.probability, threshold_origin(found)
    if usual := usual_threshold(manifest):
        return usual.probability, threshold_origin(usual)
    LOG.warning(
        "%s states no threshold; using p = %g. Pass a threshold to choose another",
        manifest.model_id,
        FALLBACK_THRESHOLD,
    )
    return FALLBACK_THRESHOLD, "assumed, since the bundle states none"
