"""Benchmark of an encoder and of each stage of a frame on this machine: latency, memory, start-up."""

from __future__ import annotations

import platform
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_siamese.cameras.camera import Camera
from edge_siamese.errors import SettingsError
from edge_siamese.models.bundle import Bundle, choose_acceptance
from edge_siamese.recognition.decision import decide
from edge_siamese.recognition.imaging import prepare
from edge_siamese.recognition.support import SupportEntry, SupportSet
from edge_siamese.recognition.tracking import Tracker
from edge_siamese.registry import AUTO
from edge_siamese.runtimes.encoder import GraphEncoder
from edge_siamese.runtimes.selection import load_encoder

STAGES = ("capture", "imaging", "encode", "score", "decide")
WARM_UP_FRAMES = 10
WARM_UP_RUNS = 20


@dataclass(frozen=True)
class EncoderReport:
    """Latency, memory and start-up times of one encoder."""

    model_id: str
    runtime: str
    version: str
    """Version of the runtime."""
    precision: str
    threads: int
    runs: int
    """Timed runs of one image each."""
    p50_ms: float
    """Median time from a prepared image to its embedding."""
    p95_ms: float
    import_ms: float | None
    """Import of the runtime without numpy; None if this process had imported it before."""
    load_ms: float
    """Loading of the file."""
    first_ms: float
    """The first run, which allocates what later runs use."""
    peak_memory_mb: float
    """Largest resident size of this process so far, in MiB: interpreter, numpy, runtime, encoder."""
    file_bytes: int
    reason: str
    """Why this runtime was measured."""
    python: str
    machine: str


def measure_encoder(
    bundle: Bundle, runtime: str = AUTO, precision: str = "int8", threads: int | None = None, runs: int = 300
) -> EncoderReport:
    """Load an encoder and time it on one image at a time, after a warm-up.

    Call this in a new process: the import of a runtime is measured only once, and the peak memory is that of the
    process.

    Raises:
        SettingsError: there is less than one run, or see `load_encoder`.
        RuntimeNotInstalled, BundleError, EncoderError: see `load_encoder`.
    """
    if runs < 1:
        raise SettingsError(f"at least one run is needed, not {runs}")
    encoder = load_encoder(bundle, runtime, precision, threads)
    # Noise: unlike with a picture of one color, no kernel can skip work.
    image = np.random.default_rng(0).integers(0, 256, (1, *encoder.preprocessing.shape), dtype=np.uint8)
    times = np.empty(1 + min(WARM_UP_RUNS, runs) + runs)
    for index in range(len(times)):
        start = time.perf_counter_ns()
        encoder.embed_prepared(image)
        times[index] = (time.perf_counter_ns() - start) / 1e6
    p50, p95 = np.percentile(times[-runs:], [50, 95])
    return EncoderReport(
        model_id=encoder.model_id,
        runtime=encoder.runtime,
        version=encoder.version,
        precision=precision,
        threads=encoder.threads,
        runs=runs,
        p50_ms=round(float(p50), 4),
        p95_ms=round(float(p95), 4),
        import_ms=None if encoder.import_seconds is None else round(1e3 * encoder.import_seconds, 2),
        load_ms=round(1e3 * encoder.load_seconds, 2),
        first_ms=round(float(times[0]), 4),
        peak_memory_mb=round(peak_memory_bytes() / 2**20, 1),
        file_bytes=encoder.path.stat().st_size,
        reason=encoder.reason,
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
    )


@dataclass(frozen=True)
class StageTime:
    """How long one stage takes, in milliseconds."""

    name: str
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class FrameReport:
    """Time of each stage of a frame."""

    model_id: str
    runtime: str
    precision: str
    threads: int
    frames: int
    frame: str
    """Size and color of the camera's frames."""
    views: int
    """Registered views that each frame was scored against."""
    stages: tuple[StageTime, ...]
    overhead_ms: float
    """Median time of imaging, score and decide together."""
    frames_per_second: float
    """Maximum rate, if the camera delivers frames as fast as they are processed."""
    peak_memory_mb: float


def random_support(views: int, dimensions: int, unit: bool = True, seed: int = 0) -> SupportSet:
    """Create a support set of random embeddings, one view for each object: scoring depends only on its size.

    Args:
        views: number of objects.
        dimensions: length of an embedding.
        unit: scale the embeddings to unit length.
        seed: seed of the random numbers.
    """
    embeddings = np.random.default_rng(seed).standard_normal((views, dimensions)).astype(np.float32)
    if unit:
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    none = np.empty((0, dimensions), dtype=np.float32)
    entries = [
        SupportEntry(f"{i:032x}", f"object {i + 1}", (i + 1,), row[np.newaxis], none)
        for i, row in enumerate(embeddings)
    ]
    return SupportSet.build(entries, dimensions)


def measure_stages(
    bundle: Bundle, encoder: GraphEncoder, camera: Camera, *, frames: int = 300, views: int = 100
) -> FrameReport:
    """Process frames of a camera as the daemon does, and time each stage.

    Args:
        bundle: source of head, threshold and impostors.
        encoder: the bundle's encoder.
        camera: an open camera, read as fast as it delivers frames.
        frames: number of timed frames, after a warm-up.
        views: number of registered objects, with one view each.
    """
    support = random_support(views, encoder.dimensions)
    threshold = choose_acceptance(bundle).general_threshold(support, bundle.head)
    tracker = Tracker(6, 4, 1, 10.0)
    times = np.zeros((frames, len(STAGES)))
    clock = time.perf_counter_ns
    for index in range(-WARM_UP_FRAMES, frames):
        started = clock()
        frame = camera.capture()
        captured = clock()
        image = prepare(frame.pixels, encoder.preprocessing)
        prepared = clock()
        embedding = encoder.embed_prepared(image[np.newaxis])[0]
        encoded = clock()
        support.ranks(bundle.head, embedding)
        scored = clock()
        tracker.update(decide(support, bundle.head, embedding, threshold), frame.time)
        decided = clock()
        if index >= 0:
            times[index] = np.diff([started, captured, prepared, encoded, scored, decided]) / 1e6
    # `decide` scores, too: its own time is the rest.
    times[:, 4] = np.maximum(0.0, times[:, 4] - times[:, 3])
    p50, p95 = np.percentile(times, [50, 95], axis=0)
    height, width = frame.pixels.shape[:2]
    return FrameReport(
        model_id=encoder.model_id,
        runtime=encoder.runtime,
        precision=encoder.precision,
        threads=encoder.threads,
        frames=frames,
        frame=f"{width}x{height} {'gray' if frame.pixels.ndim == 2 else 'rgb'}",
        views=views,
        stages=tuple(
            StageTime(name, round(float(a), 4), round(float(b), 4))
            for name, a, b in zip(STAGES, p50, p95, strict=True)
        ),
        overhead_ms=round(float(np.median(times[:, [1, 3, 4]].sum(axis=1))), 4),
        frames_per_second=round(1e3 / float(np.median(times[:, 1:].sum(axis=1))), 1),
        peak_memory_mb=round(peak_memory_bytes() / 2**20, 1),
    )


def peak_memory_bytes() -> int:
    """Return the largest resident size that this process has had.

    Linux carries `ru_maxrss` over from the parent process, so the child of a process that imported torch would seem
    as large as its parent. `VmHWM` starts again with each program.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
