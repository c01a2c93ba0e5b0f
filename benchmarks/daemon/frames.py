"""Times what the daemon adds to the encoder's run for one frame, and how long scoring many views takes.

Started by `benchmarks.daemon.measure` in the interpreter to measure; prints JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.daemon.process import fill_store
from edge_siamese.benchmark import random_support
from edge_siamese.cameras.camera import Frame
from edge_siamese.cameras.synthetic.scene import Scene, demo_scene
from edge_siamese.daemon import engine as engine_module
from edge_siamese.daemon.engine import Engine
from edge_siamese.models.bundle import Bundle, choose_acceptance, load_bundle
from edge_siamese.recognition.decision import decide
from edge_siamese.recognition.imaging import Preprocessing, prepare
from edge_siamese.recognition.quality import is_blank
from edge_siamese.recognition.registration import NewView
from edge_siamese.recognition.support import SupportEntry, SupportSet
from edge_siamese.runtimes.encoder import GraphEncoder
from edge_siamese.runtimes.selection import load_encoder
from edge_siamese.settings import CameraSettings, Settings
from edge_siamese.store import SupportStore

VIEWS, SCORED_VIEWS, DIMENSIONS = 1000, 10_000, 128
SCENE_STEP_SECONDS = 0.25
"""Scene time between two frames: long enough for objects to come and go, so that there are events."""


class StageClock:
    """Times imaging and the encoder within one frame, in nanoseconds; 0 if a stage did not run."""

    def __init__(self, encoder: GraphEncoder) -> None:
        """Wrap this encoder's `embed_prepared` and the engine's `prepare`."""
        self.imaging = self.encoder = 0
        encoder.embed_prepared = self._timed(encoder.embed_prepared, "encoder")  # type: ignore[method-assign]
        engine_module.prepare = self._timed(prepare, "imaging")  # type: ignore[attr-defined]

    def reset(self) -> None:
        """Forget the last frame's times."""
        self.imaging = self.encoder = 0

    def _timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start = time.perf_counter_ns()
            result = function(*arguments)
            setattr(self, name, time.perf_counter_ns() - start)
            return result

        return timed


def frames_with_objects(scene: Scene, number: int, to: Preprocessing) -> list[npt.NDArray[np.uint8]]:
    """Up to `number` frames that show something; the daemon does not embed an empty table."""
    frames = []
    for step in range(10 * number):
        frame = scene.frame(SCENE_STEP_SECONDS * step)
        image = prepare(frame, to)
        if not is_blank(image):
            frames.append(frame)
        if len(frames) == number:
            break
    return frames


def measure_frames(
    bundle: Bundle, runtime: str, rounds: int, frames: int, views: int = VIEWS
) -> dict[str, Any]:
    """Time `Engine.process_frame` for frames of 640 x 480 against `views` views: in total, and of the encoder alone."""
    encoder = load_encoder(bundle, runtime, "int8", 1)
    pictures = {
        color: frames_with_objects(
            demo_scene(CameraSettings(), color), min(frames, 100), encoder.preprocessing
        )
        for color in ("gray", "rgb")
    }
    known = encoder.embed([pictures["gray"][3]])[0]
    clock = StageClock(encoder)
    times: dict[str, list[npt.NDArray[np.float64]]] = {color: [] for color in pictures}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "objects.db"
        fill_store(path, bundle.path, views - 1)
        with SupportStore(path, encoder.model_id, encoder.dimensions, keep_crops=False) as store:
            store.register("what the scene shows", NewView(known, (), "camera"))
            events: list[object] = []
            engine = Engine(Settings(), bundle, encoder, store, publish=events.append)
            for round_ in range(-1, rounds):  # the first round is a warm-up
                for color in pictures:
                    elapsed = _time_frames(engine, clock, pictures[color], frames)
                    if round_ >= 0:
                        times[color].append(elapsed)
    return {
        "model_id": encoder.model_id,
        "version": encoder.version,
        "views": views,
        "frames": rounds * frames,
        "rounds": rounds,
        "events": len(events),
        "colors": {color: _stages(elapsed) for color, elapsed in times.items()},
    }


def _time_frames(
    engine: Engine, clock: StageClock, pictures: list[npt.NDArray[np.uint8]], frames: int
) -> npt.NDArray[np.float64]:
    """(frames, 3): milliseconds in total, of imaging, and of the encoder."""
    elapsed = np.empty((frames, 3))
    for number in range(frames):
        frame = Frame(pictures[number % len(pictures)], time.monotonic(), number + 1)
        clock.reset()
        start = time.perf_counter_ns()
        engine.process_frame(frame)
        elapsed[number] = time.perf_counter_ns() - start, clock.imaging, clock.encoder
    assert (elapsed > 0).all(), "each frame goes through imaging and encoder"
    return elapsed / 1e6


def _stages(rounds: list[npt.NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    """The summary of each stage of a frame."""
    total, imaging, encoder = (np.stack([elapsed[:, column] for elapsed in rounds]) for column in range(3))
    stages = {
        "overhead": total - encoder,
        "imaging": imaging,
        "deciding": total - imaging - encoder,
        "encoder": encoder,
    }
    return {name: summary(values) for name, values in stages.items()}


def summary(rounds: npt.NDArray[np.float64]) -> dict[str, float]:
    """Median over rounds of p50 and p95, with the range of each.

    The median over rounds ignores a round in which the machine was busy.

    Args:
        rounds: milliseconds, (rounds, runs).
    """
    p50, p95 = np.percentile(rounds, [50, 95], axis=1)
    return {
        "p50_ms": round(float(np.median(p50)), 4),
        "p50_from_ms": round(float(p50.min()), 4),
        "p50_to_ms": round(float(p50.max()), 4),
        "p95_ms": round(float(np.median(p95)), 4),
        "p95_from_ms": round(float(p95.min()), 4),
        "p95_to_ms": round(float(p95.max()), 4),
    }


def measure_scoring(bundle: Bundle, rounds: int, runs: int) -> dict[str, Any]:
    """Time `decide` against 10,000 views: of 10,000 objects, and of 2,000 objects with five views and a negative."""
    single = random_support(SCORED_VIEWS, DIMENSIONS)
    entries = [
        SupportEntry(f"{first:032x}", f"object {first}", tuple(range(first, first + 5)), rows[:5], rows[5:])
        for first in range(0, SCORED_VIEWS, 5)
        for rows in (np.concatenate([single.embeddings[first : first + 5], -single.embeddings[first, None]]),)
    ]
    supports = {
        "one view each": single,
        "five views and a negative each": SupportSet.build(entries, DIMENSIONS),
    }
    threshold = choose_acceptance(bundle).threshold
    rng = np.random.default_rng(1)
    nearby = single.embeddings[rng.integers(0, SCORED_VIEWS, runs)]
    queries = nearby + 0.02 * rng.standard_normal((runs, DIMENSIONS))
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    times = {}
    for name, support in supports.items():
        elapsed = np.empty((rounds + 1, runs))
        for row in elapsed:
            for number, query in enumerate(queries):
                start = time.perf_counter_ns()
                decide(support, bundle.head, query, threshold)
                row[number] = (time.perf_counter_ns() - start) / 1e6
        times[name] = summary(elapsed[1:])
    return {"views": SCORED_VIEWS, "dimensions": DIMENSIONS, "rounds": rounds, "runs": runs, "objects": times}


def main() -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--frames", type=int, default=200)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    result = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "frame": measure_frames(bundle, options.runtime, options.rounds, options.frames),
        "scoring": measure_scoring(bundle, options.rounds, options.frames),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
