"""Builds a bundle from a trained network: fits the head, exports, quantizes, and writes manifest and model card."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import structs

from edge_siamese.errors import ExportError, SettingsError
from edge_siamese.models.bundle import (
    GOLDEN,
    IMPOSTORS,
    MANIFEST,
    MAX_IMPOSTORS,
    NETWORK,
    Bundle,
    GoldenVectors,
    load_bundle,
    sha256,
)
from edge_siamese.models.manifest import (
    VERSION,
    EmbeddingInfo,
    EncoderInfo,
    FileInfo,
    HeadInfo,
    Manifest,
    ModelFile,
)
from edge_siamese.models.signature import SIGNATURE
from edge_siamese.recognition.imaging import Floats, prepare
from edge_siamese.runtimes.selection import load_encoder
from edge_siamese.system.files import (
    recover_directory,
    replace_directory,
    staging_directory,
    write_atomically,
    write_text_atomically,
)
from export.conversion.float_graph import Bytes, FloatGraph
from export.conversion.graph import ExportedEncoder, exported_encoder
from export.conversion.onnx import OnnxGraph, export_onnx, write_extractor
from export.conversion.qat import train_for_int8
from export.conversion.quantize import Loss, QuantizationRecord, quantize_within_budget, standard_methods
from export.conversion.tflite import TfliteGraph, export_tflite, read_tflite
from export.data.images import ImageSet, Indices, Splits
from export.encoders import EncoderNetwork, published_weights
from export.encoders.onnx_extractor import OnnxExtractor
from export.evaluation.evaluate import is_heavy, subsample_for
from export.evaluation.head_calibration import HeadCalibration, fit_head
from export.provenance import outcome_of, versions
from export.records import valid_values
from export.training.network import TorchEncoder, TrainedNetwork
from export.training.settings import BUNDLE_PREFIX, WEIGHTS_PREFIX
from export.training.validation import default_ways, one_shot_trials

CALIBRATION_IMAGES, HEAVY_CALIBRATION_IMAGES = 256, 64
RETRAINING_IMAGES, HEAVY_RETRAINING_IMAGES = 4096, 512
GOLDEN_CLASSES = 4
"""Classes of the golden vectors, with two images each, so that there are pairs of both kinds."""
SCORED_EPISODES = 4000
CARD, WEIGHTS = "MODEL_CARD.md", "head_weights.npy"
TITLES = {"onnx": "ONNX", "tflite": "TFLite"}
GRAPHS: dict[str, type[OnnxGraph] | type[TfliteGraph]] = {"onnx": OnnxGraph, "tflite": TfliteGraph}
RUNTIMES = {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}
"""The workstation's runtime for each format."""


@dataclass(frozen=True)
class BuiltBundle:
    """A finished bundle and how it was made."""

    bundle: Bundle
    calibration: HeadCalibration
    quantization: tuple[QuantizationRecord, ...]


def build_bundle(
    network: TrainedNetwork,
    splits: Splits,
    out: Path,
    int8_budget: float = 0.5,
    progress: Callable[[str], object] = lambda _: None,
) -> BuiltBundle:
    """Build a bundle from a network and its data; an existing one is replaced only when the new one is complete.

    Args:
        network: the trained network.
        splits: its data: training images calibrate the quantizers, validation images the head.
        out: directory of the bundle.
        int8_budget: points of one-shot accuracy on validation classes that an int8 file may lose before the next method of
            quantization is tried.
        progress: called with a description of each stage.

    Raises:
        SettingsError: the budget is not a finite number.
        ExportError: a conversion failed, `out` is not a bundle, or another export is writing it.
    """
    if not math.isfinite(int8_budget):
        raise SettingsError(f"the int8 budget must be a number of points, not {int8_budget}")
    if out.exists() and not (out / MANIFEST).is_file():
        raise ExportError(f"{out} exists and is not a bundle; choose another directory or remove it")
    busy = f"another export is writing {out}; wait for it, or choose another directory"
    with bundle_staging(out, busy) as staging:
        progress("fitting the head")
        reference = TorchEncoder(network.module, network.model_id)
        embeddings = reference.embed_prepared(splits.validation.images)
        distance: Literal["euclidean", "weighted_l1"] = "euclidean" if network.head is None else "weighted_l1"
        calibration = fit_head(embeddings, splits.validation, distance, network.head)
        new = staging / "bundle"
        new.mkdir()
        progress(f"exporting to {' and '.join(TITLES[format] for format in network.module.formats)}")
        _export(network, new)
        records = _quantized(network, splits, calibration, embeddings, new, int8_budget, progress)
        progress("writing golden vectors and manifest")
        manifest = _manifest(network, splits, calibration, records, new)
        manifest = _with_impostors(manifest, embeddings, splits.validation, new)
        bundle = _with_golden_vectors(manifest, reference, splits.validation, new)
        load_bundle(bundle.path)
        replace_directory(new, out)
    return BuiltBundle(load_bundle(out), calibration, records)


def _export(network: TrainedNetwork, new: Path) -> None:
    """Write the float files."""
    if isinstance(network.module, OnnxExtractor):
        write_extractor(network.module, new / "encoder.fp32.onnx")
        return
    plain = exported_encoder(network.module)
    export_onnx(plain, new / "encoder.fp32.onnx")
    export_tflite(plain, new / "encoder.fp32.tflite")


@contextmanager
def bundle_staging(out: Path, busy: str) -> Iterator[Path]:
    """Lock a bundle for writing, recover it if a killed writer left it under another name, and provide an empty directory.

    Yields:
        A temporary directory on the same file system.

    Raises:
        ExportError: another process is writing; the message is `busy`.
    """
    real = Path(os.path.realpath(out))
    with ExitStack() as stack:
        try:
            staging = stack.enter_context(staging_directory(real.with_name(f".{real.name}.part")))
        except BlockingIOError as error:
            raise ExportError(busy) from error
        recover_directory(out)
        yield staging


def _quantized(
    network: TrainedNetwork,
    splits: Splits,
    calibration: HeadCalibration,
    embeddings: Any,
    new: Path,
    int8_budget: float,
    progress: Callable[[str], object],
) -> tuple[QuantizationRecord, ...]:
    """Write both int8 files, calibrated with the same training images."""
    validation = subsample_for(splits.validation, network.macs)
    heavy = is_heavy(network.macs)
    if heavy:
        embeddings = TorchEncoder(network.module).embed_prepared(validation.images)
    images = training_images(splits, HEAVY_CALIBRATION_IMAGES if heavy else CALIBRATION_IMAGES)

    retraining_images = training_images(splits, HEAVY_RETRAINING_IMAGES if heavy else RETRAINING_IMAGES)

    @cache
    def student() -> ExportedEncoder:
        """The network of quantization-aware training, shared by both formats."""
        progress("training for int8")
        return train_for_int8(network.module, retraining_images)

    before = one_shot_trials(embeddings, validation, calibration.head, SCORED_EPISODES, seed=1)
    records = []
    for format in network.module.formats:
        progress(f"quantizing to {format} int8")
        with tempfile.TemporaryDirectory() as directory:
            work_directory = Path(directory)
            graph = quantizable_graph(network.module, format, work_directory)

            def retrained(graph_of: Any = GRAPHS[format], work_directory: Path = work_directory) -> Any:
                retrained_directory = work_directory / "retrained"
                retrained_directory.mkdir(exist_ok=True)
                return graph_of(student(), retrained_directory)

            def loss_of(path: Path, format: str = format) -> Loss:
                encoder = _encoder_of(path, format, network, calibration, new)
                after = one_shot_trials(
                    encoder.embed_prepared(validation.images),
                    validation,
                    calibration.head,
                    SCORED_EPISODES,
                    seed=1,
                )
                return Loss.between(before, after)

            trainable = retrained if network.module.trainable else None
            methods = standard_methods(graph, images, trainable, retraining_images)
            records.append(
                quantize_within_budget(
                    graph.format, methods, new / f"encoder.int8.{format}", loss_of, int8_budget
                )
            )
    return tuple(records)


def quantizable_graph(module: EncoderNetwork, format: str, directory: Path) -> FloatGraph:
    """The float graph of an encoder from which int8 files are made, in a temporary directory."""
    if isinstance(module, OnnxExtractor):
        return OnnxGraph(module, directory)
    return GRAPHS[format](exported_encoder(module, quantizable=True), directory)


def training_images(splits: Splits, count: int) -> Bytes:
    """A fixed random sample of training images of all classes, uint8 (N, H, W, C)."""
    chosen = np.random.default_rng(7).permutation(len(splits.train))[:count]
    return splits.train.images[np.sort(chosen)]


def _encoder_of(
    path: Path, format: str, network: TrainedNetwork, calibration: HeadCalibration, new: Path
) -> Any:
    """The device's encoder for a file that is not in a bundle yet."""
    info = _model_file(path, format, "int8", "being tried")
    with tempfile.TemporaryDirectory(dir=new.parent) as directory:
        work_directory = Path(directory)
        os.link(
            path, work_directory / path.name
        ) if path.stat().st_dev == work_directory.stat().st_dev else shutil.copy(path, work_directory)
        manifest = _bare_manifest(network, calibration, (info,))
        bundle = Bundle(work_directory, manifest, calibration.head)
        return load_encoder(bundle, RUNTIMES[format], "int8", threads=2)


def _model_file(path: Path, format: str, precision: str, quantization: str | None) -> ModelFile:
    dtype = "uint8"
    if format == "tflite":  # the quantizer chooses it if the first layer stays in float32
        file = read_tflite(path)
        dtype = file.tensors[file.inputs[0]].type.lower()
    return ModelFile(
        path=path.name,
        bytes=path.stat().st_size,
        sha256=sha256(path),
        format=format,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        quantization=quantization,
        input_dtype=dtype,
    )


def _bare_manifest(
    network: TrainedNetwork, calibration: HeadCalibration, models: tuple[ModelFile, ...]
) -> Manifest:
    head = calibration.head
    return Manifest(
        version=VERSION,
        model_id=network.model_id,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        encoder=EncoderInfo(network.name, network.parameters, network.macs, network.module.citation),
        input=network.preprocessing,
        embedding=EmbeddingInfo(network.module.dimensions, network.module.normalization),
        head=HeadInfo("euclidean", head.scale, head.bias, None),
        thresholds=calibration.thresholds,
        models=models,
        attachments=(),
        metrics={},
        provenance={},
    )


def _manifest(
    network: TrainedNetwork,
    splits: Splits,
    calibration: HeadCalibration,
    records: tuple[QuantizationRecord, ...],
    new: Path,
) -> Manifest:
    """The manifest of the files in `new`; also writes head weights and model card."""
    how = {record.format: record.describe() for record in records}
    models = tuple(
        _model_file(
            new / f"encoder.{precision}.{format}",
            format,
            precision,
            how[format] if precision == "int8" else None,
        )
        for format in network.module.formats
        for precision in ("fp32", "int8")
    )
    head, left_out = calibration.head, calibration.left_out_ece
    manifest = _bare_manifest(network, calibration, models)
    weights = head.weights
    if weights is not None:
        write_atomically(new / WEIGHTS, lambda file: np.save(file, weights, allow_pickle=False))
    manifest = structs.replace(
        manifest,
        head=HeadInfo(head.distance, head.scale, head.bias, None if weights is None else WEIGHTS),
        attachments=() if weights is None else (attachment(new, WEIGHTS),),
        metrics={
            "validation_one_shot": float(network.provenance["validation_accuracy"]),
            "validation_ece": calibration.ece,
            **({} if left_out is None else {"validation_left_out_ece": left_out}),
            "validation_eer": calibration.eer,
        },
        provenance=valid_values(
            {
                **network.provenance,
                "outcome": outcome_of(network.provenance),
                "impostors": calibration.impostors,
                "quantization": [record.to_json() for record in records],
                "exported_with": versions(),
            }
        ),
    )
    write_text_atomically(new / CARD, model_card(manifest, splits, calibration))
    return structs.replace(manifest, attachments=(*manifest.attachments, attachment(new, CARD)))


def attachment(directory: Path, path: str) -> FileInfo:
    """Manifest entry of a file that is not a model."""
    return FileInfo(path, (directory / path).stat().st_size, sha256(directory / path))


def impostor_images(images: ImageSet, limit: int = MAX_IMPOSTORS) -> Indices:
    """Indices of at most `limit` images, from as many classes as possible and evenly from each.

    If there are more classes than images, the classes are spaced evenly in their order, which is that of their groups
    (alphabets). Several images of a class are spaced evenly among its images.
    """
    present = np.flatnonzero(images.counts)
    total = min(limit, len(images))
    if len(present) >= total:
        shares = {int(c): 1 for c in present[np.linspace(0, len(present) - 1, total).astype(np.int64)]}
    else:
        shares = dict.fromkeys(present.tolist(), 0)
        while (missing := total - sum(shares.values())) > 0:
            candidates = [c for c in shares if shares[c] < images.counts[c]]
            spaced = np.linspace(0, len(candidates) - 1, min(missing, len(candidates)))
            for index in np.unique(spaced.astype(np.int64)):
                shares[candidates[index]] += 1
    chosen = [
        images.images_of(c)[np.linspace(0, images.counts[c] - 1, share).astype(np.int64)]
        for c, share in shares.items()
    ]
    return np.sort(np.concatenate(chosen))


def _with_impostors(manifest: Manifest, embeddings: Any, images: ImageSet, new: Path) -> Manifest:
    """The manifest with embeddings of unregistered objects, unless they overflow float16."""
    impostors = _pack_impostors(embeddings[impostor_images(images)], manifest.embedding.unit_length)
    if not np.isfinite(impostors).all():
        return manifest
    write_atomically(new / IMPOSTORS, lambda file: np.save(file, impostors, allow_pickle=False))
    return structs.replace(manifest, attachments=(*manifest.attachments, attachment(new, IMPOSTORS)))


def _pack_impostors(embeddings: Floats, unit_length: bool) -> npt.NDArray[Any]:
    """The array of `IMPOSTORS`: int8 directions for unit vectors, else float16, infinite where that overflows."""
    if unit_length:
        return np.round(embeddings * (127 / np.abs(embeddings).max(axis=1, keepdims=True))).astype(np.int8)
    with np.errstate(over="ignore"):
        return embeddings.astype(np.float16)


def store_impostors(bundle: Bundle, embeddings: Floats, source: str) -> int:
    """Replace the impostors of a bundle, completely or not at all.

    Args:
        bundle: the bundle, which may be a shipped one.
        embeddings: float32 (I, D), of pictures of things that nobody will register; more than `MAX_IMPOSTORS` are thinned
            out evenly.
        source: origin of the pictures, for the manifest's provenance.

    Returns:
        The number of embeddings stored.

    Raises:
        ExportError: they overflow float16, or another export is writing the bundle.
    """
    kept = np.linspace(0, len(embeddings) - 1, min(len(embeddings), MAX_IMPOSTORS)).astype(np.int64)
    impostors = _pack_impostors(embeddings[kept], bundle.manifest.embedding.unit_length)
    if not np.isfinite(impostors).all():
        raise ExportError("the embeddings are too large for float16; this encoder cannot have impostors")
    with bundle_staging(bundle.path, f"another export is writing {bundle.path}; wait for it") as staging:
        new = staging / "bundle"
        shutil.copytree(bundle.path, new, ignore=shutil.ignore_patterns(SIGNATURE))  # not of the new manifest
        write_atomically(new / IMPOSTORS, lambda file: np.save(file, impostors, allow_pickle=False))
        others = tuple(item for item in bundle.manifest.attachments if item.path != IMPOSTORS)
        manifest = structs.replace(
            bundle.manifest,
            attachments=(*others, attachment(new, IMPOSTORS)),
            provenance={**bundle.manifest.provenance, "impostor_pictures": source},
        )
        write_text_atomically(new / MANIFEST, manifest.to_json())
        _ = load_bundle(new).impostors
        replace_directory(new, bundle.path)
    return len(impostors)


def _with_golden_vectors(manifest: Manifest, reference: TorchEncoder, images: ImageSet, new: Path) -> Bundle:
    """Embed a few images with the network and with every file, and write the manifest with these golden vectors."""
    classes = np.linspace(0, images.classes - 1, GOLDEN_CLASSES).astype(np.int64)
    inputs = images.images[np.concatenate([images.images_of(c)[[0, -1]] for c in classes])]
    rows, columns = np.mgrid[0:120, 0:160]
    frame = np.stack([rows * 2, columns, (rows * columns) % 256], axis=2).astype(np.uint8)
    write_text_atomically(new / MANIFEST, manifest.to_json())
    bundle = load_bundle(new)
    embeddings = {NETWORK: reference.embed_prepared(inputs)}
    for model in manifest.models:
        encoder = load_encoder(bundle, RUNTIMES[model.format], model.precision, threads=1)
        embeddings[f"{model.format}-{model.precision}"] = encoder.embed_prepared(inputs)
    golden = GoldenVectors(
        frame=frame,
        prepared_frame=prepare(frame, manifest.input),
        images=inputs,
        embeddings=embeddings,
        scores=bundle.head.score(embeddings[NETWORK], embeddings[NETWORK]),
    )
    golden.save(new / GOLDEN)
    manifest = structs.replace(manifest, attachments=(*manifest.attachments, attachment(new, GOLDEN)))
    write_text_atomically(new / MANIFEST, manifest.to_json())
    return load_bundle(new)


FIGURES = {
    "validation_one_shot": "one-shot accuracy of the float network; the kept training step was selected by it",
    "validation_ece": "expected calibration error (ECE) of p(same), on the pairs that the head was fitted on",
    "validation_left_out_ece": (
        "expected calibration error (ECE) of each group (alphabet), with a head fitted on the other groups: "
        "an estimate for new classes"
    ),
    "validation_eer": "equal error rate on the same pairs; it does not depend on the fit",
}
"""Descriptions of the metrics in the manifest."""


def _training(manifest: Manifest, data: ImageSet) -> str:
    """Lines on data, outcome and settings of the training."""
    settings, result = manifest.provenance.get("settings", {}), outcome_of(manifest.provenance)
    sources = [f"{data.name}, {len(data):,} images of {data.classes} classes", *_further_sources(manifest)]
    pictures = f"{'; '.join(sources)}, under their own license"
    if not manifest.provenance.get("step") and result:
        tried = f" Tried on: {pictures}." if settings.get("steps") else ""
        return f"- Training: {result}.{tried}\n"
    kept = f"{result}; " if result else ""
    return (
        f"- Training data: {pictures}.\n"
        f"- Training: {kept}seed {settings.get('seed')}, objective `{settings.get('objective')}`.\n"
    )


def _further_sources(manifest: Manifest) -> Iterator[str]:
    """The data that the network was trained on besides the data set that it is evaluated on."""
    data = manifest.provenance.get("data")
    for source in data.get("further_sources", []) if isinstance(data, dict) else []:
        kind, _, path = str(source["data"]).partition(":")
        name = " ".join(filter(None, [kind, Path(path).name]))
        yield f"{name}, {source['images']:,} images of {source['classes']} classes"


def _initial_weights(provenance: dict[str, Any], encoder: str) -> str:
    start = str(provenance.get("settings", {}).get("start", "random"))
    published = published_weights(encoder) or "published weights"
    if start in ("random", "published"):
        return published if start == "published" else "random"
    if start.startswith(WEIGHTS_PREFIX):
        return f"those of the file {Path(start.removeprefix(WEIGHTS_PREFIX)).name}, under its own license"
    kind = "bundle" if start.startswith(BUNDLE_PREFIX) else "run"
    earlier = f"those of an earlier {kind} of this program"
    return (
        f"{earlier}, which started from {published}" if provenance.get("origin") == "published" else earlier
    )


def _anti_forgetting(settings: dict[str, Any]) -> str:
    """A line on the anti-forgetting loss, if there was one."""
    if not settings.get("anti_forgetting_data"):
        return ""
    data, weight = Path(settings["anti_forgetting_data"]).name, settings["anti_forgetting_weight"]
    if settings.get("objective") == "distillation":
        return (
            "- Distillation: the embeddings of the initial network and, with weight "
            f"{settings.get('published_weight', 0.5):g}, of the published one; also of unrelated pictures (`{data}`).\n"
        )
    return f"- Anti-forgetting loss: on unrelated pictures (`{data}`), with weight {weight:g}.\n"


def missing_formats(manifest: Manifest) -> str:
    """What a bundle without some format means for devices; empty if it has all."""
    formats = {model.format for model in manifest.models}
    if formats == set(TITLES):
        return ""
    titles, runtimes = ([names[f] for f in names if f in formats] for names in (TITLES, RUNTIMES))
    return f"the bundle holds only {' and '.join(titles)} files: devices need {' or '.join(runtimes)}"


def model_card(manifest: Manifest, splits: Splits, calibration: HeadCalibration) -> str:
    """The model card of a bundle, in Markdown."""
    settings, data = manifest.provenance.get("settings", {}), splits.train
    thresholds = "\n".join(
        f"| {t.false_accept_rate:g} | {t.probability:.4f} | {t.false_reject_rate:.1%} | {t.impostor_pairs:,} |"
        for t in manifest.thresholds
    )
    files = "\n".join(
        f"| {m.format} {m.precision} | {m.bytes:,} | {m.quantization or 'float'} |" for m in manifest.models
    )
    metrics = "\n".join(
        f"- {name.replace('_', ' ')}: {value:.4f}, {FIGURES[name]}"
        for name, value in manifest.metrics.items()
    )
    trained = manifest.provenance.get("step") != 0
    forgetting = _anti_forgetting(settings) if trained else ""
    purpose = "the training data" if trained else "the pictures of these figures"
    alone = missing_formats(manifest)
    formats = f"- Formats: {alone}.\n" if alone else ""
    missing = ", ".join(f"{rate:g}" for rate in calibration.not_stated)
    not_stated = f"\nToo few pairs to state a threshold at: {missing}.\n" if missing else ""
    return f"""# {manifest.model_id}

A Siamese encoder, `{manifest.encoder.name}`, that maps a picture to an embedding of {manifest.embedding.dimensions} numbers.
The distance of two embeddings gives the probability that both pictures show the same object.

- Encoder: {manifest.encoder.citation}. {manifest.encoder.parameters:,} parameters, {manifest.encoder.macs / 1e6:.1f} MMAC.
- Method: Koch, Zemel, Salakhutdinov, Siamese Neural Networks for One-shot Image Recognition, 2015.
{_training(manifest, data)}- Initial weights: {_initial_weights(manifest.provenance, manifest.encoder.name)}.
{forgetting}{formats}- Input: {manifest.input.height} x {manifest.input.width}, {manifest.input.color}, uint8.

## Files

| file | bytes | quantization |
|---|---|---|
{files}

## Figures on held-out classes ({splits.validation.name})

The network was not trained on these {splits.validation.classes} classes, but its weights were selected and its head
was fitted on them. Accuracy on new classes may be lower; `python -m export evaluate` measures it. The figures are those of
the float network. Guessing is right one time in {default_ways(splits.validation)} in the one-shot trials, and half of the
time on pairs.

{metrics}

| false-accept rate | threshold p | false-reject rate | impostor pairs |
|---|---|---|---|
{thresholds}
{not_stated}
## Use and limits

Intended for recognizing objects similar to {purpose}, from one picture of each. It says what a picture shows, not
where. Do not use it to recognize faces or to guard anything. The probabilities hold for pictures similar to the validation
data: measure on your own pictures before you rely on them.
"""
