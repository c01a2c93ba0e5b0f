"""The manifest of a bundle, `manifest.json`: validated when it is read and before it is written."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edge_siamese.errors import (
    BundleNotFound,
    BundleVersionError,
    ManifestError,
    SettingsError,
    UnsafePathError,
)
from edge_siamese.recognition.imaging import Preprocessing
from edge_siamese.system.files import MAX_NAME_BYTES
from edge_siamese.validation import Record, SchemaError, convert, parse_json, require_finite, require_time

FORMAT = "edge-siamese-bundle"
VERSION = 2
"""Version of the bundle format. Other versions are refused."""

DEFAULT_FALSE_ACCEPT_RATE = 1e-2
"""The false-accept rate of the threshold that is used where none was chosen."""
FALLBACK_THRESHOLD = 0.5
"""The threshold of a bundle that states none, because it had too few validation pairs."""

LOG = logging.getLogger(__name__)

Format = Literal["onnx", "tflite"]
Precision = Literal["fp32", "int8"]
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 256 << 20
"""Size of one file; an encoder of that size would not fit into the memory of a small board."""
MAX_ATTACHMENTS, MAX_THRESHOLDS = 32, 64
MAX_DIMENSIONS, MAX_SIDE = 16_384, 1024
"""Length of an embedding; height and width of an encoder's input."""
MAX_COUNT, MAX_ID_LENGTH = 2**53, 200
MAX_HEAD_NUMBER = 1e6
"""Magnitude of the numbers of a head: with larger ones, sums of distances overflow float32."""

Rate = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
PositiveCount = Annotated[int, Meta(ge=1)]
NonEmpty = Annotated[str, Meta(min_length=1)]


class EncoderInfo(Record):
    """The trained network."""

    name: NonEmpty
    parameters: Count
    """Number of trained parameters."""
    macs: Count
    """Multiply-accumulate operations per image."""
    citation: str


class EmbeddingInfo(Record):
    """The network's output for an image."""

    dimensions: PositiveCount
    normalization: Literal["l2", "none"]
    """`l2`: the runtime wrapper divides the network's output by its Euclidean norm."""

    @property
    def unit_length(self) -> bool:
        """Whether embeddings are unit vectors."""
        return self.normalization == "l2"


class HeadInfo(Record):
    """The sigmoid distance head; see `edge_siamese.recognition.head`."""

    distance: Literal["euclidean", "weighted_l1"]
    scale: Annotated[float, Meta(gt=0)]
    bias: float
    weights: str | None
    """Path of a float32 .npy of shape (dimensions,) in the bundle; only for `weighted_l1`."""

    def __post_init__(self) -> None:
        if self.distance == "weighted_l1" and self.weights is None:
            raise SchemaError("weights", "a weighted_l1 head needs the path of its weights")
        if self.distance == "euclidean" and self.weights is not None:
            raise SchemaError("weights", "must be null for a euclidean head")


class Threshold(Record):
    """A decision threshold on p(same), and its error rates."""

    false_accept_rate: Rate
    """Share of impostor pairs above the threshold."""
    probability: Rate
    false_reject_rate: Rate
    """Share of genuine pairs below the threshold."""
    impostor_pairs: PositiveCount
    """Number of held-out impostor pairs on which the rate was measured."""


class FileInfo(Record):
    """A file of the bundle. Files that are not listed are not part of it."""

    path: str
    """Relative to the bundle's directory, with forward slashes."""
    bytes: Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class ModelFile(FileInfo):
    """The encoder in one format and precision."""

    format: Format
    precision: Precision
    quantization: str | None
    """How an int8 file was quantized; null for fp32."""
    input_dtype: str
    """Data type of the graph's input: uint8, int8 or float32."""


class Manifest(Record):
    """The contents of `manifest.json`."""

    version: int
    model_id: NonEmpty
    """`ENCODER-HASH`, where the hash is the first twelve digits of the SHA-256 of the trained weights."""
    created: str
    """UTC, ISO 8601."""
    encoder: EncoderInfo
    input: Preprocessing
    embedding: EmbeddingInfo
    head: HeadInfo
    thresholds: tuple[Threshold, ...]
    models: Annotated[tuple[ModelFile, ...], Meta(min_length=1)]
    attachments: tuple[FileInfo, ...]
    """All other files: golden vectors, model card, weights of the head."""
    metrics: dict[str, float | dict[str, Any]]
    provenance: dict[str, Any]
    """Data, seed, commit and versions."""

    def __post_init__(self) -> None:
        self._require_limits()
        require_time("created", self.created)
        _require_distinct([(item.format, item.precision) for item in self.models], "models")
        _require_distinct([item.path for _, item in self.files()], "attachments")
        _require_order(self.thresholds)
        weights = self.head.weights
        if weights is not None and all(item.path != weights for item in self.attachments):
            raise SchemaError("head.weights", f'"{weights}" is not among the attachments')

    def _require_limits(self) -> None:
        """Refuse sizes that no encoder for a small board has, before work is done in proportion to them."""
        for key, items, most in (
            ("models", len(self.models), 4),
            ("attachments", len(self.attachments), MAX_ATTACHMENTS),
            ("thresholds", len(self.thresholds), MAX_THRESHOLDS),
        ):
            if items > most:
                raise SchemaError(key, f"has {items} items; at most {most} are allowed")
        for key, value, limit in (
            ("model_id", len(self.model_id), MAX_ID_LENGTH),
            ("encoder.parameters", self.encoder.parameters, MAX_COUNT),
            ("encoder.macs", self.encoder.macs, MAX_COUNT),
            ("input.height", self.input.height, MAX_SIDE),
            ("input.width", self.input.width, MAX_SIDE),
            ("embedding.dimensions", self.embedding.dimensions, MAX_DIMENSIONS),
            ("head.scale", self.head.scale, MAX_HEAD_NUMBER),
            ("head.bias", abs(self.head.bias), MAX_HEAD_NUMBER),
            *((f"{key}.bytes", item.bytes, MAX_FILE_BYTES) for key, item in self.files()),
            *(
                (f"thresholds[{index}].impostor_pairs", item.impostor_pairs, MAX_COUNT)
                for index, item in enumerate(self.thresholds)
            ),
        ):
            if value > limit:
                raise SchemaError(key, f"exceeds the limit of {limit:,.16g}")

    def files(self) -> list[tuple[str, FileInfo]]:
        """All listed files with their dotted keys."""
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
        available = ", ".join(f"{item.format} {item.precision}" for item in self.models)
        raise BundleNotFound(f"{self.model_id} has no {format} {precision} encoder; it has {available}")

    def threshold_at(self, false_accept_rate: float) -> Threshold:
        """The threshold for a false-accept rate.

        Raises:
            SettingsError: the bundle has none for it.
        """
        for threshold in self.thresholds:
            if math.isclose(threshold.false_accept_rate, false_accept_rate, rel_tol=1e-6):
                return threshold
        stated = ", ".join(f"{threshold.false_accept_rate:g}" for threshold in self.thresholds)
        remedy = "choose one of these or give" if stated else "give"
        raise SettingsError(
            f"{self.model_id} has no threshold for a false-accept rate of {false_accept_rate:g} "
            f"(it has: {stated or 'none'}); {remedy} the threshold itself"
        )

    def to_json(self) -> str:
        """The text of `manifest.json`.

        Raises:
            ManifestError, UnsafePathError: the manifest is not valid.
        """
        content = {"format": FORMAT, **msgspec.to_builtins(self)}
        try:
            require_finite(content)
        except SchemaError as error:
            raise ManifestError(f"the manifest of {self.model_id}: {error}") from error
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        Manifest.from_json(text, f"the manifest of {self.model_id}")
        return text

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Parse the text of a manifest.

        Args:
            text: JSON.
            where: the file name, for errors.

        Raises:
            ManifestError: the text breaks the schema; the message names the dotted key.
            BundleVersionError: the manifest has another version of the format.
            UnsafePathError: a path leaves the bundle's directory.
        """
        try:
            content = parse_json(text)
            if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
                raise SchemaError("format", f'must be "{FORMAT}": this is not the manifest of a bundle')
            version = content.get("version")
            if isinstance(version, int) and not isinstance(version, bool) and version != VERSION:
                raise BundleVersionError(
                    f"{where}: this release reads version {VERSION} of the bundle format, not {version}; "
                    + ("update edge-siamese" if version > VERSION else "export the bundle again")
                )
            manifest = convert(content, cls)
        except SchemaError as error:
            raise ManifestError(f"{where}: {error}") from error
        for key, item in manifest.files():
            _require_inside(item.path, f"{where}: {key}.path")
        return manifest


def _require_distinct(identities: Sequence[object], key: str) -> None:
    repeated = next((item for index, item in enumerate(identities) if item in identities[:index]), None)
    if repeated is not None:
        shown = " ".join(repeated) if isinstance(repeated, tuple) else f'"{repeated}"'
        raise SchemaError(key, f"{shown} is listed twice")


def _require_order(thresholds: Sequence[Threshold]) -> None:
    """A lower false-accept rate needs a higher threshold, which rejects more genuine pairs."""
    ordered = sorted(thresholds, key=lambda threshold: threshold.false_accept_rate)
    for lower, higher in pairwise(ordered):
        if lower.false_accept_rate == higher.false_accept_rate:
            raise SchemaError("thresholds", f"the rate {lower.false_accept_rate:g} is listed twice")
        for field in ("probability", "false_reject_rate"):
            if getattr(lower, field) < getattr(higher, field):
                raise SchemaError(
                    "thresholds",
                    f"{field} at the rate {lower.false_accept_rate:g} is lower than at {higher.false_accept_rate:g}",
                )


def _require_inside(path: str, where: str) -> None:
    """Refuse a path that could leave the bundle's directory on any system, judging by its text."""
    windows = PureWindowsPath(path)
    if not path or "\0" in path:
        raise UnsafePathError(f"{where}: {path!r} is not the name of a file")
    if path.startswith("/") or windows.drive or windows.root:
        raise UnsafePathError(f'{where}: "{path}" is absolute; a path has to be relative to the bundle')
    if "\\" in path:
        raise UnsafePathError(f'{where}: "{path}" has a backslash; folders are separated by forward slashes')
    parts = PurePosixPath(path).parts
    if ".." in parts:
        raise UnsafePathError(f'{where}: "{path}" leaves the bundle\'s directory through ".."')
    longest = max((len(part.encode("utf-8")) for part in parts), default=0)
    if longest > MAX_NAME_BYTES:
        raise UnsafePathError(
            f'{where}: "{path[:30]}…" has a name of {longest} bytes; a file\'s name has at most {MAX_NAME_BYTES}'
        )


def default_threshold(thresholds: Iterable[Threshold]) -> Threshold | None:
    """The default one of stated thresholds: at a false-accept rate of 1e-2, or else the strictest."""

    def order(threshold: Threshold) -> tuple[bool, float]:
        rate = threshold.false_accept_rate
        return not math.isclose(rate, DEFAULT_FALSE_ACCEPT_RATE, rel_tol=1e-6), rate

    return min(thresholds, key=order, default=None)


def threshold_origin(threshold: Threshold) -> str:
    """Human-readable origin of a threshold of a manifest."""
    return f"stated for a false-accept rate of {threshold.false_accept_rate:g}"


def choose_threshold(
    manifest: Manifest, threshold: float | None, false_accept_rate: float | None
) -> tuple[float, str]:
    """The threshold to use, and its human-readable origin.

    Args:
        manifest: the bundle's manifest.
        threshold: a probability, if the user gave one.
        false_accept_rate: the rate that the user asked for. None: the default threshold, or else
            `FALLBACK_THRESHOLD`, with a warning in the log.

    Raises:
        SettingsError: the bundle states no threshold for this rate.
    """
    if threshold is not None:
        return threshold, "given"
    if false_accept_rate is not None:
        stated = manifest.threshold_at(false_accept_rate)
        return stated.probability, threshold_origin(stated)
    if default := default_threshold(manifest.thresholds):
        return default.probability, threshold_origin(default)
    LOG.warning(
        "%s states no threshold; using p = %g. Pass a threshold to choose another",
        manifest.model_id,
        FALLBACK_THRESHOLD,
    )
    return FALLBACK_THRESHOLD, "assumed, since the bundle states none"
