"""Opens a bundle or a training run to evaluate, with its head and its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs

from edge_siamese import models
from edge_siamese.errors import SettingsError
from edge_siamese.models.bundle import MANIFEST, Bundle, load_bundle
from edge_siamese.models.manifest import Threshold
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Preprocessing
from export.data import load_splits, same_data, same_source
from export.data.images import Splits
from export.evaluation.head_calibration import fit_head
from export.evaluation.remote_runtime import open_encoder
from export.provenance import data_fingerprint

TORCH = "torch"


@dataclass(frozen=True)
class Model:
    """An encoder to evaluate, with what is known about it."""

    encoder: Encoder
    head: SigmoidDistanceHead | None
    """From the bundle; for a run it is fitted by `head_for`."""
    trained_head: SigmoidDistanceHead | None
    """The head trained along with a run's encoder (Koch's weighted L1), not yet calibrated."""
    thresholds: tuple[Threshold, ...]
    data: str | None
    """The training data: `omniglot`, `glyphs`, or `folder:PATH`."""
    seed: int
    """Seed of that data's split."""
    provenance: dict[str, Any]
    macs: int
    """Multiply-accumulates for one image."""


def open_bundle(path: Path) -> Bundle:
    """Load a bundle: its directory, a pipeline's directory with `bundle/` in it, or the name of a shipped one.

    Raises:
        BundleError: there is no bundle, or it is damaged.
    """
    inside = path / "bundle"
    return load_bundle(inside if (inside / MANIFEST).is_file() else models.resolve(path))


def open_model(
    path: Path, runtime: str = "auto", precision: str = "int8", threads: int | None = None
) -> Model:
    """Open a bundle or a training run. In a pipeline's directory, `runtime` decides which.

    Args:
        path: a bundle, the name of a shipped one, a run, or a directory with `bundle/` or `train/` in it.
        runtime: `torch` for the trained network of a run; otherwise a runtime for the files of a bundle.
        precision: fp32 or int8; a run has only fp32.
        threads: number of threads of the runtime.

    Raises:
        SettingsError: there is neither a bundle nor a run, or not the one that the runtime runs.
    """
    if not path.exists() and str(path) in models.names():
        path = models.shipped(str(path))
    bundle = next((place for place in (path, path / "bundle") if (place / MANIFEST).is_file()), None)
    if bundle and runtime != TORCH:
        loaded = load_bundle(bundle)
        provenance = loaded.manifest.provenance
        return Model(
            encoder=open_encoder(loaded, runtime, precision, threads),
            head=loaded.head,
            trained_head=None,
            thresholds=loaded.manifest.thresholds,
            data=setting(provenance, "data"),
            seed=setting(provenance, "seed") or 0,
            provenance=provenance,
            macs=loaded.manifest.encoder.macs,
        )
    # Imported here, because torch takes seconds to import and a bundle does not need it.
    from export.training.network import TorchEncoder, load_run

    if not path.exists():
        raise SettingsError(f"{path} does not exist; name a bundle or the directory of a training run")
    if runtime not in (TORCH, "auto"):
        raise SettingsError(
            f"{path} is not a bundle, and {runtime} runs only bundles: build one with `python -m export bundle`"
        )
    network = load_run(path)
    return Model(
        encoder=TorchEncoder(network.module, network.model_id),
        head=None,
        trained_head=network.head,
        thresholds=(),
        data=setting(network.provenance, "data"),
        seed=setting(network.provenance, "seed") or 0,
        provenance=network.provenance,
        macs=network.macs,
    )


def data_for(model: Model, data: str | None = None, data_root: Path | None = None) -> tuple[str, Splits]:
    """The name and the splits of the data to evaluate on; by default what the network was trained with.

    Raises:
        SettingsError: no data was named and the network does not record its training data; or the data have changed
            since training, so that training classes could be evaluated as new ones.
    """
    return splits_of(model.provenance, model.encoder.preprocessing, data, data_root)


def frames_for(model: Model, data: str, data_root: Path | None = None) -> Splits:
    """The same data at twice the encoder's resolution, from which augmented supports are made.

    The device makes them from camera frames, which have a higher resolution too. All splits are read with four times
    the bytes per picture: several gigabytes for ten thousand photographs.
    """
    own = model.encoder.preprocessing
    finer = structs.replace(own, height=2 * own.height, width=2 * own.width)
    return load_splits(data, finer, data_root=data_root, seed=model.seed)


def splits_of(
    provenance: dict[str, Any],
    preprocessing: Preprocessing,
    data: str | None = None,
    data_root: Path | None = None,
) -> tuple[str, Splits]:
    """The training data of a network, from its provenance, unless `data` names others. Raises the errors of `data_for`."""
    own = setting(provenance, "data")
    chosen = data or own
    if not isinstance(chosen, str):
        raise SettingsError("the network does not record its training data; choose data with --data")
    seed = setting(provenance, "seed") or 0
    splits = load_splits(chosen, preprocessing, data_root=data_root, seed=seed)
    if own and same_source(chosen, own):
        _require_unchanged(chosen, splits, provenance.get("data_fingerprint"))
    return chosen, splits


def _require_unchanged(data: str, splits: Splits, fingerprint: str | None) -> None:
    if fingerprint and fingerprint != data_fingerprint(splits):
        raise SettingsError(
            f"{data} has changed since the network was trained, so training classes could be evaluated as new ones: "
            "choose other data with --data, or train again"
        )


def head_for(
    model: Model, data: str, splits: Splits, data_root: Path | None = None
) -> tuple[SigmoidDistanceHead, tuple[Threshold, ...]]:
    """Head and thresholds: those of the bundle, or for a run those fitted on the validation classes of its data.

    Args:
        model: the model to evaluate.
        data: the name of the data that `splits` are.
        splits: the data to evaluate on.
        data_root: directory of the archives.
    """
    if model.head is not None:
        return model.head, model.thresholds
    same = model.data is None or same_data(model.data, data)
    own = splits if same else data_for(model, None, data_root)[1]
    embeddings = model.encoder.embed(own.validation.images)
    distance = model.trained_head.distance if model.trained_head else "euclidean"
    fitted = fit_head(embeddings, own.validation, distance, model.trained_head)
    return fitted.head, fitted.thresholds


def setting(provenance: dict[str, Any], name: str) -> Any:
    """A setting of the training run, from its provenance."""
    settings = provenance.get("settings")
    return settings.get(name) if isinstance(settings, dict) else None
