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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.daemon.process import fill_store
from edge_siamese.benchmark import random_support
from edge_siamese.cameras.camera import Frame
from edge_siamese.cameras.synthetic.scene import Scene, demo_scene
from edge_siamese.daemon import engine as engine_module
from edge_siamese.daemon.engine import Engine
from edge_siamese.models import shipped
from edge_siamese.models.bundle import Bundle, choose_acceptance, load_bundle
from edge_siamese.recognition.decision import decide
from edge_siamese.recognition.imaging import Bytes, Preprocessing, prepare
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
EMPTY_FRAMES = 12
"""Frames of the empty table before the others, from which the background is learned."""


@dataclass(frozen=True)
class Case:
    """What the camera delivers, and which part of its frames the encoder reads."""

    color: Literal["gray", "rgb"]
    focus: Literal["center", "foreground"] = "center"
    is_changing: bool = True
    """Whether objects come and go; otherwise the table stays empty, and the encoder does not run."""


NOTHING_NEW = "foreground, nothing new"
CASES = {
    "objects": {
        "color": Case("rgb"),
        "foreground": Case("rgb", "foreground"),
        NOTHING_NEW: Case("rgb", "foreground", is_changing=False),
    },
    "glyphs": {"gray": Case("gray"), "color": Case("rgb")},
}
"""Cases by shipped bundle and name."""
FRAMES = {"objects": 50, "glyphs": 200}
"""Frames of a round; tflite-runtime on x86 takes a tenth of a second for one of `objects`."""


class StageClock:
    """Times imaging, the focus and the encoder within one frame, in nanoseconds; 0 if a stage did not run."""

    def __init__(self, encoder: GraphEncoder) -> None:
        """Wrap this encoder's `embed_prepared` and the engine's `prepare`."""
        self.reset()
        encoder.embed_prepared = self._timed(encoder.embed_prepared, "encoder")  # type: ignore[method-assign]
        engine_module.prepare = self._timed(prepare, "imaging")  # type: ignore[attr-defined]

    def watch(self, engine: Engine) -> Engine:
        """Wrap the focus of an engine."""
        focus = engine.regions.first.focus
        focus.find = self._timed(focus.find, "focus")  # type: ignore[method-assign]
        return engine

    def reset(self) -> None:
        """Forget the last frame's times."""
        self.imaging = self.encoder = self.focus = 0

    def _timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **more: Any) -> Any:
            start = time.perf_counter_ns()
            result = function(*arguments, **more)
            setattr(self, name, time.perf_counter_ns() - start)
            return result

        return timed


class SceneFrames:
    """Frames of a scene with camera timestamps: first the empty table, then what the case defines."""

    def __init__(self, scene: Scene, case: Case, number: int, to: Preprocessing) -> None:
        """Draw up to `number` different frames."""
        shown, empty = [], None
        for step in range(10 * number):
            frame = scene.frame(SCENE_STEP_SECONDS * step)
            if not is_blank(prepare(frame, to)):
                shown.append(frame)
            elif empty is None:
                empty = frame
            if len(shown) == number and empty is not None:
                break
        assert empty is not None
        self.empty, self.shown = empty, shown if case.is_changing else [empty]
        self._now, self._number = 0.0, 0

    def next(self) -> Frame:
        """The next frame."""
        self._now += SCENE_STEP_SECONDS
        self._number += 1
        position = self._number - EMPTY_FRAMES
        pixels = self.empty if position <= 0 else self.shown[position % len(self.shown)]
        return Frame(pixels, self._now, self._number)


@contextmanager
def opened_store(bundle: Bundle, encoder: GraphEncoder, known: Bytes, views: int) -> Iterator[SupportStore]:
    """A store of random views, and one of what a picture shows."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "objects.db"
        fill_store(path, bundle.path, views - 1)
        with SupportStore(
            path, encoder.model_id, encoder.dimensions, unit_length=encoder.unit_length, keep_crops=False
        ) as store:
            store.register("what the scene shows", NewView(encoder.embed([known])[0], (), "camera"))
            yield store


def measure_frames(
    bundle: Bundle, runtime: str, cases: dict[str, Case], rounds: int, frames: int, views: int = VIEWS
) -> dict[str, Any]:
    """Time `Engine.process_frame` for frames of 640 x 480 against `views` views: in total, and its stages."""
    encoder = load_encoder(bundle, runtime, "int8", 1)
    films = {
        name: SceneFrames(
            demo_scene(CameraSettings(), case.color), case, min(frames, 100), encoder.preprocessing
        )
        for name, case in cases.items()
    }
    known = next(iter(films.values())).shown[3]
    clock = StageClock(encoder)
    times: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in cases}
    with opened_store(bundle, encoder, known, views) as store:
        events: list[object] = []
        engines = {
            name: clock.watch(
                Engine(
                    Settings(camera=CameraSettings(focus=case.focus)),
                    bundle,
                    encoder,
                    store,
                    publish=events.append,
                )
            )
            for name, case in cases.items()
        }
        for round_ in range(-1, rounds):  # the first round is a warm-up
            for name, case in cases.items():
                elapsed = _time_frames(engines[name], clock, films[name], frames)
                if round_ >= 0:
                    assert (elapsed[:, 0] > 0).all()
                    assert (elapsed[:, 3] > 0).all() == case.is_changing, "the encoder runs for what is new"
                    times[name].append(elapsed)
    return {
        "model_id": encoder.model_id,
        "version": encoder.version,
        "views": views,
        "frames": rounds * frames,
        "rounds": rounds,
        "events": len(events),
        "cases": {name: _stages(elapsed) for name, elapsed in times.items()},
    }


def _time_frames(
    engine: Engine, clock: StageClock, scene_frames: SceneFrames, frames: int
) -> npt.NDArray[np.float64]:
    """(frames, 4): milliseconds in total, of the focus, of imaging, and of the encoder."""
    elapsed = np.empty((frames, 4))
    for number in range(frames):
        frame = scene_frames.next()
        clock.reset()
        start = time.perf_counter_ns()
        engine.process_frame(frame)
        elapsed[number] = time.perf_counter_ns() - start, clock.focus, clock.imaging, clock.encoder
    return elapsed / 1e6


def _stages(rounds: list[npt.NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    """The summary of each stage of a frame."""
    total, focus, imaging, encoder = (
        np.stack([elapsed[:, column] for elapsed in rounds]) for column in range(4)
    )
    stages = {
        "total": total,
        "overhead": total - encoder,
        "focus": focus,
        "imaging": imaging,
        "deciding": total - focus - imaging - encoder,
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
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    bundles = {name: load_bundle(shipped(name)) for name in CASES}
    result = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "frame": {
            name: measure_frames(bundle, options.runtime, CASES[name], options.rounds, FRAMES[name])
            for name, bundle in bundles.items()
        },
        "scoring": measure_scoring(bundles["glyphs"], options.rounds, FRAMES["glyphs"]),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
