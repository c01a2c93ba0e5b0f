"""Times what the daemon adds to the encoder's own run of a frame, and what it takes to score many views.

A part of scripts/measure_daemon.py, run in the interpreter that is measured; prints JSON.
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

from edge_siamese.benchmark import random_support
from edge_siamese.cameras.camera import Frame
from edge_siamese.cameras.synthetic.scene import Scene, demo_scene
from edge_siamese.daemon import engine as engine_module
from edge_siamese.daemon.engine import Engine
from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.models.manifest import choose_threshold
from edge_siamese.recognition.decision import decide
from edge_siamese.recognition.imaging import Preprocessing, prepare
from edge_siamese.recognition.registration import NOTHING_CONTRAST, NewView
from edge_siamese.recognition.support import SupportEntry, SupportSet
from edge_siamese.runtimes.encoder import GraphEncoder
from edge_siamese.runtimes.selection import load_encoder
from edge_siamese.settings import CameraSettings, Settings
from edge_siamese.store import SupportStore
from scripts.daemon_process import fill_store

VIEWS, MANY_VIEWS, DIMENSIONS = 1000, 10_000, 128
EVERY_SECONDS = 0.25
"""Between two frames of the scene: objects come and go, so that there are events."""


class Clocked:
    """How long imaging and the encoder were at work in a frame, in nanoseconds; 0: not at all."""

    def __init__(self, encoder: GraphEncoder) -> None:
        """Put clocks around the encoder's method, of this one object, and around the engine's imaging."""
        self.preparing = self.running = 0
        encoder.embed_prepared = self._around(encoder.embed_prepared, "running")  # type: ignore[method-assign]
        engine_module.prepare = self._around(prepare, "preparing")

    def reset(self) -> None:
        """Another frame comes."""
        self.preparing = self.running = 0

    def _around(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start = time.perf_counter_ns()
            result = function(*arguments)
            setattr(self, name, time.perf_counter_ns() - start)
            return result

        return timed


def shown(scene: Scene, number: int, to: Preprocessing) -> list[npt.NDArray[np.uint8]]:
    """Frames with something on them, at most so many: of an empty table the daemon asks no encoder."""
    found = []
    for place in range(10 * number):
        frame = scene.frame(EVERY_SECONDS * place)
        image = prepare(frame, to)
        if int(image.max()) - int(image.min()) >= NOTHING_CONTRAST:
            found.append(frame)
        if len(found) == number:
            break
    return found


def measure_frames(
    bundle: Bundle, runtime: str, rounds: int, frames: int, views: int = VIEWS
) -> dict[str, Any]:
    """`Engine.see` of frames of 640 x 480 against so many views: all of it, the encoder's run, and the difference."""
    encoder = load_encoder(bundle, runtime, "int8", 1)
    scenes = {color: demo_scene(CameraSettings(), color) for color in ("gray", "rgb")}
    pictures = {
        color: shown(scene, min(frames, 100), encoder.preprocessing) for color, scene in scenes.items()
    }
    known = encoder.embed([pictures["gray"][3]])[0]
    clock = Clocked(encoder)
    times: dict[str, list[npt.NDArray[np.float64]]] = {color: [] for color in scenes}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "objects.db"
        fill_store(path, bundle.path, views - 1)
        with SupportStore(path, encoder.model_id, encoder.dimensions, keep_crops=False) as store:
            store.register("what the scene shows", NewView(known, (), "camera"))
            events: list[object] = []
            engine = Engine(Settings(), bundle, encoder, store, publish=events.append)
            for round_ in range(-1, rounds):  # the first one warms up
                for color in scenes:
                    took = _see(engine, clock, pictures[color], frames)
                    if round_ >= 0:
                        times[color].append(took)
    return {
        "model_id": encoder.model_id,
        "version": encoder.version,
        "views": views,
        "frames": rounds * frames,
        "rounds": rounds,
        "events": len(events),
        "colors": {color: _parts(found) for color, found in times.items()},
    }


def _see(
    engine: Engine, clock: Clocked, pictures: list[npt.NDArray[np.uint8]], frames: int
) -> npt.NDArray[np.float64]:
    """(frames, 3): milliseconds of all of it, of imaging, and of the encoder."""
    took = np.empty((frames, 3))
    for number in range(frames):
        frame = Frame(pictures[number % len(pictures)], time.monotonic(), number + 1)
        clock.reset()
        start = time.perf_counter_ns()
        engine.see(frame)
        took[number] = time.perf_counter_ns() - start, clock.preparing, clock.running
    assert (took > 0).all(), "each frame goes through imaging and encoder"
    return took / 1e6


def _parts(rounds: list[npt.NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    """Figures of each part of a frame."""
    seen, prepared, ran = (np.stack([found[:, part] for found in rounds]) for part in range(3))
    parts = {"overhead": seen - ran, "imaging": prepared, "deciding": seen - prepared - ran, "encoder": ran}
    return {name: summary(values) for name, values in parts.items()}


def summary(rounds: npt.NDArray[np.float64]) -> dict[str, float]:
    """(rounds, times) to the median over rounds of p50 and p95, and the range of each: a busy moment moves no median."""
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
    """`decide` against 10,000 views: of as many objects, and of objects with five views and a negative each."""
    single = random_support(MANY_VIEWS, DIMENSIONS)
    entries = [
        SupportEntry(f"{first:032x}", f"object {first}", tuple(range(first, first + 5)), rows[:5], rows[5:])
        for first in range(0, MANY_VIEWS, 5)
        for rows in (np.concatenate([single.embeddings[first : first + 5], -single.embeddings[first, None]]),)
    ]
    sets = {"one view each": single, "five views and a negative each": SupportSet.build(entries, DIMENSIONS)}
    threshold, _ = choose_threshold(bundle.manifest, None, 0.01)
    rng = np.random.default_rng(1)
    queries = single.embeddings[rng.integers(0, MANY_VIEWS, runs)] + 0.02 * rng.standard_normal(
        (runs, DIMENSIONS)
    )
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    found = {}
    for name, support in sets.items():
        times = np.empty((rounds + 1, runs))
        for took in times:
            for number, query in enumerate(queries):
                start = time.perf_counter_ns()
                decide(support, bundle.head, query, threshold)
                took[number] = (time.perf_counter_ns() - start) / 1e6
        found[name] = summary(times[1:])
    return {"views": MANY_VIEWS, "dimensions": DIMENSIONS, "rounds": rounds, "runs": runs, "objects": found}


def main() -> int:
    """Measure as the arguments say and print JSON."""
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
