"""Commands for bundles and models: inspect, test, compare, recognize, embed, measure, install."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import structs

from edge_siamese.cli.output import print_json, print_line, print_pairs, print_table
from edge_siamese.daemon.client import NOT_RUNNING, Installation, find_installation, reload
from edge_siamese.errors import ImageError, ModelError, RuntimeNotInstalled, SettingsError, SupportError
from edge_siamese.events import counted
from edge_siamese.models import describe_shipped, names, resolve, shipped
from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.models.installed import InstalledModel, InstalledModels
from edge_siamese.models.manifest import default_threshold, threshold_origin
from edge_siamese.models.selftest import SelfTestReport
from edge_siamese.models.signature import describe_signature, read_signature
from edge_siamese.pictures import read_picture
from edge_siamese.recognizer import Recognizer
from edge_siamese.runtimes.confined_self_test import run_self_test, try_encoder
from edge_siamese.runtimes.encoder import GraphEncoder
from edge_siamese.runtimes.selection import load_encoder, runtime_format, runtime_statuses
from edge_siamese.system.files import write_atomically


def info(options: argparse.Namespace) -> int:
    """Describe a bundle and the runtimes of this machine."""
    bundle = load_bundle(_named_or_current(options))
    statuses = runtime_statuses()
    manifest = bundle.manifest
    signature = describe_signature(bundle.path, _trusted_keys(options))
    if options.json:
        runtimes = {
            status.name: {"version": status.version, "problem": status.problem} for status in statuses
        }
        print_json({"manifest": json.loads(manifest.to_json()), "signature": signature, "runtimes": runtimes})
        return 0
    shape, embedding, head = "x".join(map(str, manifest.input.shape)), manifest.embedding, manifest.head
    print_pairs(
        {
            "model": "; ".join(filter(None, (manifest.model_id, describe_shipped(bundle.path)))),
            "created": manifest.created,
            "signature": signature,
            "encoder": f"{manifest.encoder.name}, {manifest.encoder.parameters:,} parameters, "
            f"{manifest.encoder.macs / 1e6:.1f} million multiply-accumulates",
            "input": f"uint8 {shape} {manifest.input.color}, {manifest.input.fit}",
            "embedding": f"{embedding.dimensions} numbers, normalization {embedding.normalization}",
            "head": f"p = sigmoid({head.bias:.3f} - {head.scale:.3f} x {head.distance} distance)",
        }
    )
    print()
    print_table(
        ("file", "bytes", "format", "precision", "quantization"),
        [(m.path, f"{m.bytes:,}", m.format, m.precision, m.quantization or "") for m in manifest.models],
    )
    if manifest.thresholds:
        print()
        print_table(
            ("false accepts", "false rejects", "threshold"),
            [
                (f"{t.false_accept_rate:g}", f"{t.false_reject_rate:.4f}", f"{t.probability:.4f}")
                for t in manifest.thresholds
            ],
        )
    if manifest.metrics:
        print()
        print_table(
            ("metric", "value"), [(name, f"{value:.4f}") for name, value in _numbers(manifest.metrics)]
        )
    print()
    print_table(("runtime", "here"), [(status.name, status.problem or status.version) for status in statuses])
    return 0


def selftest(options: argparse.Namespace) -> int:
    """Run the golden vectors through each selected encoder; returns 1 if one fails."""
    bundle = load_bundle(_named_or_current(options))
    reports: list[SelfTestReport] = []
    skipped: list[str] = []
    if options.runtime == "all":
        skipped = [str(status) for status in runtime_statuses() if not status.usable]
    for runtime, precision in _selected(bundle, options.runtime, options.precision):
        reports.append(run_self_test(bundle, runtime, precision, options.threads).report)
    if not reports:
        raise RuntimeNotInstalled(f"no runtime can run a file of this bundle here: {', '.join(skipped)}")
    passed = all(report.passed for report in reports)
    if options.json:
        print_json(
            {"passed": passed, "reports": [report.to_dict() for report in reports], "skipped": skipped}
        )
        return 0 if passed else 1
    print_table(
        (
            "runtime",
            "precision",
            "worst cosine",
            "diff. of p",
            "imaging",
            "head",
            "result",
        ),
        [
            (
                report.runtime,
                report.precision,
                f"{report.worst_cosine:.5f}",
                f"{report.largest_score_difference:.4f}",
                "exact" if report.imaging_exact else "differs",
                "exact" if report.head_exact else "differs",
                "passed" if report.passed else "FAILED",
            )
            for report in reports
        ],
    )
    for report in reports:
        if not report.passed:
            print_line(f"{report.runtime} {report.precision}: {'; '.join(report.lines)}")
    for line in skipped:
        print_line(f"skipped: {line}")
    return 0 if passed else 1


def compare(options: argparse.Namespace) -> int:
    """Compare two pictures."""
    bundle = load_bundle(options.bundle)
    encoder = _load_encoder(bundle, options)
    embeddings = encoder.embed([read_picture(options.first), read_picture(options.second)])
    distance = float(bundle.head.paired_distances(embeddings[:1], embeddings[1:])[0])
    probability = float(bundle.head.probability(distance))
    threshold, source, passes = options.threshold, "given", "given"
    if threshold is None and (stated := default_threshold(bundle.manifest.thresholds)):
        threshold, source = stated.probability, threshold_origin(stated)
        passes = f"{100.0 * stated.false_accept_rate:g} in 100 different pairs passes"
    same = None if threshold is None else probability >= threshold
    result = {
        "probability": probability,
        "threshold": threshold,
        "threshold_source": None if threshold is None else source,
        "same": same,
        "distance": distance,
        "model_id": encoder.model_id,
        "runtime": encoder.runtime,
        "precision": encoder.precision,
        "reason": encoder.reason,
    }
    if options.json:
        print_json(result)
        return 0
    if same is None:
        verdict = "none, since the bundle states no threshold; choose one with --threshold P"
    else:
        verdict = f"{'the same' if same else 'different'} (threshold {threshold:.4f}: {passes})"
    print_pairs(
        {
            "p(same)": f"{probability:.4f}",
            "verdict": verdict,
            "distance": f"{distance:.4f}",
            "encoder": f"{encoder.model_id}, {encoder.precision}",
            "runtime": encoder.reason,
        }
    )
    return 0


def recognize(options: argparse.Namespace) -> int:
    """Register objects from pictures, and recognize other pictures."""
    bundle = load_bundle(options.bundle)
    _try_for_root(bundle, options)
    recognizer = Recognizer(
        bundle,
        options.threshold,
        runtime=options.runtime,
        precision=options.precision,
        threads=options.threads,
    )
    for item in options.object:
        name, equals, picture = item.partition("=")
        if not (name and equals and picture):
            raise SupportError(f"--object takes NAME=PICTURE, not {item!r}")
        recognizer.register(name, picture)
    recognitions = [recognizer.recognize(picture) for picture in options.pictures]
    if options.json:
        print_json(
            {
                "recognitions": [asdict(item) for item in recognitions],
                "threshold": recognizer.threshold,
                "threshold_source": recognizer.threshold_source,
                "runtime": recognizer.encoder.runtime,
                "precision": recognizer.encoder.precision,
            }
        )
        return 0
    for picture, item in zip(options.pictures, recognitions, strict=True):
        print_line(f"{picture}: {item}")
    print_line(f"threshold: {recognizer.threshold:.4f} ({recognizer.threshold_source})")
    return 0


def embed(options: argparse.Namespace) -> int:
    """Embed an array of images."""
    images = _read_images(Path(options.images))
    encoder = _load_encoder(load_bundle(options.bundle), options)
    embeddings = encoder.embed(images)
    write_atomically(Path(options.out), lambda file: np.save(file, embeddings, allow_pickle=False))
    result = {
        "images": len(embeddings),
        "dimensions": encoder.dimensions,
        "out": options.out,
        "model_id": encoder.model_id,
        "runtime": encoder.runtime,
        "precision": encoder.precision,
        "reason": encoder.reason,
    }
    print_json(result) if options.json else print_pairs(result)
    return 0


def bench(options: argparse.Namespace) -> int:
    """Measure time and memory of each stage of a frame, or of the encoder alone."""
    # Without checksums: hashing all files would take longer than the measurement.
    bundle = load_bundle(_named_or_current(options), verify_checksums=False)
    return _bench_encoder(bundle, options) if options.encoder else _bench_stages(bundle, options)


def _bench_stages(bundle: Bundle, options: argparse.Namespace) -> int:
    from edge_siamese.benchmark import measure_stages
    from edge_siamese.cameras import open_camera
    from edge_siamese.cameras.camera import Camera
    from edge_siamese.cameras.synthetic.camera import SyntheticCamera
    from edge_siamese.system.board import read_board, temperature

    settings = find_installation(options.config).settings.camera
    encoder = _load_encoder(bundle, options)
    color = bundle.manifest.input.color
    camera: Camera
    if options.camera:
        camera = open_camera(settings, color)
    else:
        camera = SyntheticCamera(
            structs.replace(settings, kind="synthetic", frame_rate=240.0), color, sleep=lambda _: None
        )
    try:
        result = measure_stages(bundle, encoder, camera, frames=options.runs, views=options.views)
        description = camera.description
    finally:
        camera.close()
    board, heat = read_board(), temperature()
    if options.json:
        print_json({**asdict(result), "camera": description, "board": asdict(board), "temperature_c": heat})
        return 0
    print_pairs(
        {
            "board": board,
            "model": f"{result.model_id}, {result.precision} on {result.runtime}, "
            f"{counted(result.threads, 'thread')}",
            "camera": f"{description}; frames {result.frame}",
            "views": f"{result.views:,}",
        }
    )
    print()
    print_table(
        ("stage", "p50 ms", "p95 ms"),
        [(stage.name, f"{stage.p50_ms:.3f}", f"{stage.p95_ms:.3f}") for stage in result.stages],
    )
    print()
    print_pairs(
        {
            "beyond encoder": f"{result.overhead_ms:.3f} ms per frame",
            "frames": f"at most {result.frames_per_second:.0f} per second",
            "peak memory": f"{result.peak_memory_mb:.1f} MiB",
            "temperature": "unknown" if heat is None else f"{heat:.1f} °C",
        }
    )
    return 0


def _bench_encoder(bundle: Bundle, options: argparse.Namespace) -> int:
    from edge_siamese.benchmark import measure_encoder  # needs a module that only Unix has

    _try_for_root(bundle, options)
    result = measure_encoder(bundle, options.runtime, options.precision, options.threads, options.runs)
    if options.json:
        print_json(asdict(result))
        return 0
    imported = (
        "measured only in a fresh process" if result.import_ms is None else f"{result.import_ms:.1f} ms"
    )
    print_pairs(
        {
            "model": f"{result.model_id}, {result.precision}, {result.file_bytes:,} bytes",
            "runtime": result.reason,
            "threads": result.threads,
            "latency p50": f"{result.p50_ms:.3f} ms",
            "latency p95": f"{result.p95_ms:.3f} ms",
            "first image": f"{result.first_ms:.3f} ms",
            "import": imported,
            "load": f"{result.load_ms:.1f} ms",
            "peak memory": f"{result.peak_memory_mb:.1f} MiB",
        }
    )
    return 0


def install(options: argparse.Namespace) -> int:
    """Test a bundle, install a copy as the current model, and make a running daemon load it."""
    from edge_siamese.daemon.model_loader import repeat_self_test  # imports the store

    installation = find_installation(options.config)
    settings = installation.settings

    models = InstalledModels(settings.models)

    def check(bundle: Bundle) -> None:
        result = repeat_self_test(bundle, settings, models)
        if not options.json:
            print_line(
                f"{bundle.manifest.model_id} passed its self-test, {result.report.precision}: {result.reason}"
            )

    model = models.install(options.bundle, check, settings.model.trusted_keys)
    return _report_change(options, installation, model, f"{model.name} is now the current model")


def rollback(options: argparse.Namespace) -> int:
    """Make the previous model the current one."""
    installation = find_installation(options.config)
    model = InstalledModels(installation.settings.models).rollback()
    return _report_change(options, installation, model, f"{model.name} is the current model again")


def list_(options: argparse.Namespace) -> int:
    """List the installed and the shipped models."""
    settings = find_installation(options.config).settings
    models, configured = InstalledModels(settings.models), settings.model.bundle
    installed = models.all()
    listed = [*installed, *(InstalledModel(name, shipped(name), "shipped") for name in names())]
    if options.json:
        used = models.used(configured)
        print_json(
            [
                {
                    "name": item.name,
                    "role": item.role,
                    "path": str(item.path),
                    "problem": item.problem,
                    "signature": describe_signature(item.path, settings.model.trusted_keys),
                    "used": item.path == used,
                }
                for item in listed
            ]
        )
        return 0
    if listed:
        keys = settings.model.trusted_keys
        rows: list[tuple[str, ...]] = [(item.name, item.role, item.problem) for item in listed]
        header: tuple[str, ...] = ("model", "role", "problem")
        if keys or any(read_signature(item.path) for item in listed):
            header = (*header, "signature")
            rows = [
                (*row, describe_signature(item.path, keys)) for row, item in zip(rows, listed, strict=True)
            ]
        print_table(header, rows)
    if configured:
        print_line(f"the settings name {configured}, which is used")
    elif not installed:
        used = models.used()
        hint = f"using {describe_shipped(used)}" if used else "install one: edge-siamese model install BUNDLE"
        print_line(f"no model is installed; {hint}")
    return 0


def _report_change(
    options: argparse.Namespace, installation: Installation, model: InstalledModel, text: str
) -> int:
    """Make the daemon load a model, and print what it does; returns 1 if it does not use the model."""
    status, effect = 0, NOT_RUNNING
    configured = installation.settings.model.bundle
    uses = False
    if installation.running:
        report = reload(installation.settings.socket)
        loading, used = report["loading"], report["model"] or {"bundle": "", "model_id": "no model"}
        uses = os.path.realpath(used["bundle"]) == os.path.realpath(model.path)
        if uses:
            effect = "the daemon uses it"
        elif loading["busy"]:
            effect = f"the daemon is still loading it: {report['line']}"
        elif not configured:
            problem = loading["problem"] or report["fault"] or "see edge-siamese model list"
            status, effect = 1, f"but the daemon uses {used['model_id']}: {problem}"
    elif not installation.unreachable.startswith(NOT_RUNNING):
        effect = f"the daemon cannot be notified: {installation.unreachable}"
    if configured and installation.running:
        effect = f"but the settings name {configured}, which the daemon uses instead"
    elif configured:
        effect += f"; but the settings name {configured}, which is used instead"
    if options.json:
        print_json({"name": model.name, "path": str(model.path), "daemon": uses})
    else:
        print_line(f"{text}; {effect}")
    return status


def _named_or_current(options: argparse.Namespace) -> Path:
    """Return the bundle named on the command line, or the daemon's."""
    if options.bundle:
        return resolve(options.bundle)
    settings = find_installation(options.config).settings
    path = InstalledModels(settings.models).used(settings.model.bundle)
    if path is None:
        raise ModelError(
            "no model is installed: name a bundle, or install one: edge-siamese model install BUNDLE"
        )
    return path


def _trusted_keys(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the keys of the settings; none if they cannot be read: a bundle can be described without them."""
    try:
        return find_installation(options.config).settings.model.trusted_keys
    except SettingsError:
        return ()


def _load_encoder(bundle: Bundle, options: argparse.Namespace) -> GraphEncoder:
    _try_for_root(bundle, options)
    return load_encoder(bundle, options.runtime, options.precision, options.threads)


def _try_for_root(bundle: Bundle, options: argparse.Namespace) -> None:
    """As root, open an untrusted model in a confined child first; raises `ModelCrashed`."""
    if os.geteuid() == 0:
        try_encoder(bundle, options.runtime, options.precision, options.threads)


def _selected(bundle: Bundle, runtime: str, precision: str) -> list[tuple[str, str]]:
    """Return the selected pairs of runtime and precision that can run here."""
    files = [(m.format, m.precision) for m in bundle.manifest.models if precision in ("all", m.precision)]
    if runtime == "all":
        names = [status.name for status in runtime_statuses() if status.usable]
        return [(name, kind) for name in names for format, kind in files if format == runtime_format(name)]
    kinds = dict.fromkeys(kind for _, kind in files) if precision == "all" else [precision]
    return [(runtime, kind) for kind in kinds]


def _read_images(path: Path) -> npt.NDArray[Any]:
    try:
        images = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise ImageError(f"{path} is not a .npy file of numbers: {error}") from error
    if not isinstance(images, np.ndarray) or images.ndim not in (3, 4):
        raise ImageError(f"{path} does not hold one array of images, uint8 (n, height, width[, channels])")
    return images


def _numbers(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers among nested metrics, with dotted names."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)):
            yield prefix + name, value
