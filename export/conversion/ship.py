"""Prepares a bundle for shipping with the package: int8 files, few golden vectors, no paths of this machine."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import structs

from edge_siamese.errors import ExportError
from edge_siamese.models.bundle import (
    GOLDEN,
    IMPOSTORS,
    MANIFEST,
    NETWORK,
    Bundle,
    GoldenVectors,
    load_bundle,
)
from edge_siamese.models.manifest import ModelFile
from edge_siamese.models.selftest import self_test
from edge_siamese.runtimes.selection import load_encoder
from edge_siamese.system.files import replace_directory, write_atomically, write_text_atomically
from export import records
from export.conversion.bundle import CARD, RUNTIMES, attachment, bundle_staging
from export.conversion.verification import Verification

PRECISION = "int8"
MAX_GOLDEN_BYTES = 350_000
MIN_GOLDEN_IMAGES = 3
"""Two of one class and one of another, for pairs of both kinds."""
NAME = re.compile(r"[a-z][a-z0-9-]*")
VERIFICATION = "verification.json"
# Absolute paths and paths below a home directory, but no fractions, dates, or paths of URLs.
_LOCAL_PATH = re.compile(r"(?<![\w/.])~?(?:/[^\s/,;:'\"()]+)+/?")
_COMMANDS = ("command", "argv")


@dataclass(frozen=True)
class Shipped:
    """A shipped bundle and its size."""

    bundle: Bundle
    original_bytes: int
    """Size of the bundle that it was made from."""
    golden_images: int

    @property
    def files(self) -> dict[str, int]:
        """Size of each file in bytes."""
        return {path.name: path.stat().st_size for path in sorted(self.bundle.path.iterdir())}


def ship(run: Path, name: str, directory: Path) -> Shipped:
    """Make the shipped copy of a verified bundle; an existing one is replaced only when the new one is complete.

    The same bundle always gives the same bytes.

    Args:
        run: directory of a pipeline, with `bundle/` and `verification.json`.
        name: name of the copy.
        directory: directory of the shipped bundles.

    Raises:
        ExportError: the name is invalid; the bundle was not verified, or lacks an int8 file or the impostors; the target is
            not a bundle, or another process is writing it.
        BundleError: the bundle does not exist or is damaged.
        SelfTestFailed: a file does not reproduce the golden vectors.
        DataError: the verification does not exist or cannot be read.
    """
    if not NAME.fullmatch(name):
        raise ExportError(
            f"the name must consist of lowercase letters, digits and dashes, such as objects, not {name!r}"
        )
    source = load_bundle(run / "bundle")
    _require_verified(source, run / VERIFICATION)
    models = _shipped_models(source)
    kept = [item for item in source.manifest.attachments if item.path != GOLDEN]
    if all(item.path != IMPOSTORS for item in kept):
        raise ExportError(
            f"{source.path} has no {IMPOSTORS}: build the bundle again with python -m export bundle"
        )
    keys = (NETWORK, *(f"{model.format}-{model.precision}" for model in models))
    if missing := [key for key in keys if key not in source.golden.embeddings]:
        raise ExportError(f"{source.path / GOLDEN} has no embeddings of {missing[0]}: build the bundle again")
    _self_test(source)
    out = directory / name
    with bundle_staging(out, f"another process is writing {out}; wait for it") as staging:
        if out.exists() and not (out / MANIFEST).is_file():
            raise ExportError(f"{out} exists and is not a bundle; remove it")
        new = staging / name
        new.mkdir()
        for item in (*models, *kept):
            (new / item.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / item.path, new / item.path)
        if (new / CARD).is_file():
            card = (new / CARD).read_text(encoding="utf-8")
            write_text_atomically(new / CARD, shipped_card(card, source.manifest.models, models))
        images = write_golden(source.golden, keys, new / GOLDEN)
        manifest = structs.replace(
            source.manifest,
            models=models,
            attachments=tuple(
                attachment(new, path) for path in sorted({GOLDEN, *(item.path for item in kept)})
            ),
            provenance=remove_local_paths(source.manifest.provenance),
        )
        write_text_atomically(new / MANIFEST, manifest.to_json())
        _self_test(load_bundle(new))
        replace_directory(new, out)
    original_bytes = sum(item.bytes for _, item in source.manifest.files())
    return Shipped(load_bundle(out), original_bytes, images)


def shipped_card(card: str, models: tuple[ModelFile, ...], kept: tuple[ModelFile, ...]) -> str:
    """The model card without the rows of files that are not shipped."""
    dropped = tuple(f"| {m.format} {m.precision} |" for m in models if m not in kept)
    return "".join(line for line in card.splitlines(keepends=True) if not line.startswith(dropped))


def remove_local_paths(value: Any) -> Any:
    """Remove command lines from JSON values, and reduce local paths to their last component."""
    if isinstance(value, Mapping):
        return {key: remove_local_paths(item) for key, item in value.items() if key not in _COMMANDS}
    if isinstance(value, list | tuple):
        return [remove_local_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    kind, colon, path = value.partition(":")
    if colon and kind.isalpha() and re.match(r"/(?!/)|///|~", path):  # and no URL with a host
        return f"{kind}:{PurePosixPath(path).name}"  # `folder:/home/me/my photos`
    if value.startswith(("/", "~/")):
        return PurePosixPath(value).name
    return _LOCAL_PATH.sub(lambda match: PurePosixPath(match[0]).name, value)


def _require_verified(bundle: Bundle, path: Path) -> None:
    verification = records.read(Verification, path)
    if verification.model_id != bundle.manifest.model_id:
        raise ExportError(
            f"{path} belongs to another model, {verification.model_id}: verify the bundle again"
        )
    if not verification.passed:
        raise ExportError(f"{path}: {verification.model_id} did not pass verification and cannot be shipped")


def _shipped_models(bundle: Bundle) -> tuple[ModelFile, ...]:
    """The int8 file of each format; raises `ExportError` if one is missing."""
    models = tuple(model for model in bundle.manifest.models if model.precision == PRECISION)
    missing = sorted(set(RUNTIMES) - {model.format for model in models})
    if missing:
        raise ExportError(
            f"{bundle.path} has no {PRECISION} file for {' and '.join(missing)}; both are required"
        )
    return models


def _self_test(bundle: Bundle) -> None:
    """Raise `SelfTestFailed` unless the shipped files reproduce the golden vectors."""
    for format in sorted(RUNTIMES):
        encoder = load_encoder(bundle, RUNTIMES[format], PRECISION, threads=1)
        self_test(encoder, bundle.golden, bundle.head).require()
    _ = bundle.impostors


def write_golden(golden: GoldenVectors, keys: tuple[str, ...], path: Path) -> int:
    """Write as many golden vectors as fit into `MAX_GOLDEN_BYTES` when compressed.

    Args:
        golden: all golden vectors; the images of a class are adjacent.
        keys: keys of the embeddings to keep.
        path: the .npz file.

    Returns:
        The number of images written.
    """
    count = len(golden.images)
    data = _compressed(golden, keys, count)
    while len(data) > MAX_GOLDEN_BYTES and count > MIN_GOLDEN_IMAGES:
        count -= 1
        data = _compressed(golden, keys, count)
    write_atomically(path, lambda file: file.write(data))
    return count


def _compressed(golden: GoldenVectors, keys: tuple[str, ...], count: int) -> bytes:
    """Contents of a .npz file with the first `count` images and their embeddings and scores."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "frame": golden.frame,
        "prepared_frame": golden.prepared_frame,
        "images": golden.images[:count],
        "scores": golden.scores[:count, :count],
        **{f"embeddings.{key}": golden.embeddings[key][:count] for key in keys},
    }
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()
