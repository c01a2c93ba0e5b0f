"""Measures each stage of a frame on this machine: capture, imaging, encode, score, decide."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edge_siamese.benchmark import peak_memory_bytes
from edge_siamese.cameras.camera import Camera
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.manifest import choose_threshold
from edge_siamese.recognition.decision import decide, object_limits
from edge_siamese.recognition.imaging import prepare
from edge_siamese.recognition.support import SupportEntry, SupportSet
from edge_siamese.recognition.tracking import Tracker
from edge_siamese.runtimes.encoder import GraphEncoder

T = TypeVar("T")

STAGES = ("capture", "imaging", "encode", "score", "decide")
WARM_UP_FRAMES = 10


@dataclass(frozen=True)
class Stage:
    """How long one stage takes, in milliseconds."""

    name: str
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class StageReport:
    """What a frame costs on this machine."""

    model_id: str
    runtime: str
    precision: str
    threads: int
    frames: int
    frame: str
    """Size and color of the camera's frames."""
    views: int
    """Registered views that each frame was scored against."""
    stages: tuple[Stage, ...]
    overhead_ms: float
    """The median of all that is neither capture nor encoder."""
    frames_per_second: float
    """If the camera gave frames as fast as they can be looked at."""
    peak_memory_mb: float


def random_support(views: int, dimensions: int, unit: bool = True, seed: int = 0) -> SupportSet:
    """So many objects with one view each, at random: what is scored against is a matter of size alone."""
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
) -> StageReport:
    """Look at so many frames of a camera as the daemon does, and time each stage.

    Args:
        bundle: gives head, threshold and impostors.
        encoder: the bundle's.
        camera: open; is asked for frames as fast as it gives them.
        frames: to time, after a warm-up.
        views: objects of one view each to score against.
    """
    support = random_support(views, encoder.dimensions)
    threshold, _ = choose_threshold(bundle.manifest, None, None)
    support = support.with_limits(object_limits(support, bundle.head, threshold, 0.01, bundle.impostors))
    tracker = Tracker(6, 4, 1, 10.0)
    times = np.zeros((frames, len(STAGES)))
    size = ""
    for index in range(-WARM_UP_FRAMES, frames):
        frame, capture = _timed(camera.capture)
        prepared, imaging = _timed(lambda pixels=frame.pixels: prepare(pixels, encoder.preprocessing))  # type: ignore[misc]
        embedding, encode = _timed(lambda image=prepared: encoder.embed_prepared(image[np.newaxis])[0])  # type: ignore[misc]
        _, score = _timed(lambda query=embedding: support.ranks(bundle.head, query))  # type: ignore[misc]
        _, decided = _timed(
            lambda query=embedding, when=frame.time: tracker.update(  # type: ignore[misc]
                decide(support, bundle.head, query, threshold), when
            )
        )
        if index >= 0:
            # Deciding scores as well: what is left is the deciding itself.
            times[index] = capture, imaging, encode, score, max(0.0, decided - score)
        size = (
            f"{frame.pixels.shape[1]}x{frame.pixels.shape[0]} {'gray' if frame.pixels.ndim == 2 else 'rgb'}"
        )
    p50, p95 = np.percentile(times, [50, 95], axis=0)
    at_work = times[:, 1:].sum(axis=1)
    return StageReport(
        model_id=encoder.model_id,
        runtime=encoder.runtime,
        precision=encoder.precision,
        threads=encoder.threads,
        frames=frames,
        frame=size,
        views=views,
        stages=tuple(
            Stage(name, round(float(a), 4), round(float(b), 4))
            for name, a, b in zip(STAGES, p50, p95, strict=True)
        ),
        overhead_ms=round(float(np.median(times[:, [1, 3, 4]].sum(axis=1))), 4),
        frames_per_second=round(1e3 / float(np.median(at_work)), 1),
        peak_memory_mb=round(peak_memory_bytes() / 2**20, 1),
    )


def _timed(function: Callable[[], T]) -> tuple[T, float]:
    """What a function returns, and the milliseconds that it took."""
    start = time.perf_counter_ns()
    result = function()
    return result, (time.perf_counter_ns() - start) / 1e6
