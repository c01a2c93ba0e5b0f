"""Compares engines on the same frames: one region and three, and surroundings that are off and full.

Started by `benchmarks.daemon.measure` in the interpreter to measure; prints JSON. The engines of a comparison take turns.
Times are processor time of this process, which other programs change less than elapsed time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.daemon.frames import SCENE_STEP_SECONDS, VIEWS, opened_store
from edge_siamese.benchmark import random_support
from edge_siamese.cameras.camera import Frame
from edge_siamese.cameras.synthetic.scene import demo_scene
from edge_siamese.daemon.engine import Engine
from edge_siamese.models import shipped
from edge_siamese.models.bundle import Bundle, choose_acceptance, load_bundle
from edge_siamese.recognition.imaging import Bytes, Preprocessing, prepare
from edge_siamese.recognition.quality import is_blank
from edge_siamese.recognition.support import SupportSet
from edge_siamese.recognition.surroundings import MAX_PLACES, MAX_SCENES, tightened
from edge_siamese.runtimes.encoder import GraphEncoder
from edge_siamese.runtimes.selection import load_encoder
from edge_siamese.settings import (
    CameraSettings,
    RecognitionSettings,
    RegionSettings,
    Settings,
    SurroundingsSettings,
)
from edge_siamese.store import SupportStore
from edge_siamese.store.surroundings import SurroundingsFile

BUNDLE = "objects"
REGIONS = (
    RegionSettings(name="left", box=(0.0, 0.0, 0.5, 0.5)),
    RegionSettings(name="right", box=(0.5, 0.0, 0.5, 0.5)),
    RegionSettings(name="below", box=(0.0, 0.5, 0.5, 0.5)),
)
"""Three quarters of the picture. They are compared with the first one alone."""
CHANGING = {"one changes, two are static": 1, "all three change": 3}
"""The number of regions in which objects come and go. In the others nothing is new."""
PER_FRAME = (1, 3)
"""Values of `regions_per_frame`."""
TURN_SECONDS = 0.25
"""Processor time of a turn. A round has four: one region, three, three, one."""
FILM_FRAMES = 60
FRAME_SECONDS = 0.1
"""Camera time between two frames."""
LEARNED_FRAMES = 30
"""Frames of the empty scene before the others, from which the background is learned."""
SURROUNDINGS_FRAMES = 60
"""Frames of a round."""
LIMIT_RUNS = 9
"""Timed computations of the limits."""


class EncoderClock:
    """Counts the runs of an encoder and their processor time."""

    def __init__(self, encoder: GraphEncoder) -> None:
        """Wrap `embed_prepared` of this encoder."""
        self.runs = self.spent = 0
        run = encoder.embed_prepared

        def timed(images: Bytes) -> npt.NDArray[np.float32]:
            start = time.process_time_ns()
            result = run(images)
            self.spent += time.process_time_ns() - start
            self.runs += len(images)
            return result

        encoder.embed_prepared = timed  # type: ignore[method-assign]


@dataclass
class Film:
    """Frames that repeat, with camera timestamps; first those of the empty scene."""

    empty: Sequence[Bytes]
    shown: Sequence[Bytes]
    number: int = 0

    def next(self) -> Frame:
        """The next frame."""
        self.number += 1
        position = self.number - LEARNED_FRAMES
        frames = self.empty if position <= 0 else self.shown
        return Frame(frames[position % len(frames)], FRAME_SECONDS * self.number, self.number)


def draw(settings: CameraSettings, seed: int, frames: int, to: Preprocessing) -> tuple[list[Bytes], ...]:
    """Frames of a scene without and with objects, each list at most `frames` long; noise and light vary."""
    scene = demo_scene(settings, "rgb", seed)
    empty, shown = list[Bytes](), list[Bytes]()
    for step in range(10 * frames):
        moment = SCENE_STEP_SECONDS * step
        drawn = scene.frame(moment)
        if not any(True for _ in scene.script.shows(moment)):
            empty.append(drawn)
        elif not is_blank(prepare(drawn, to)):
            shown.append(drawn)
    return empty[:frames], shown[:frames]


def quarters(changing: int, frames: int, to: Preprocessing) -> Film:
    """A film of 640 x 480 of four scenes, of which the first `changing` have objects that come and go."""
    scenes = [draw(CameraSettings(width=320, height=240), seed, frames, to) for seed in range(4)]

    def joined(parts: Sequence[Sequence[Bytes]]) -> list[Bytes]:
        left, right, below, last = ([part[n % len(part)] for n in range(frames)] for part in parts)
        return [
            np.vstack([np.hstack(above), np.hstack(under)])
            for above, under in zip(zip(left, right, strict=True), zip(below, last, strict=True), strict=True)
        ]

    return Film(
        joined([empty for empty, _ in scenes]),
        joined([scene[place < changing] for place, scene in enumerate(scenes)]),
    )


def engine_of(
    settings: Settings,
    bundle: Bundle,
    encoder: GraphEncoder,
    store: SupportStore,
    surroundings: SurroundingsFile | None = None,
) -> Engine:
    return Engine(settings, bundle, encoder, store, publish=lambda _: None, surroundings=surroundings)


# --- regions ---


@dataclass
class Runner:
    """An engine with a film of its own."""

    engine: Engine
    film: Film
    clock: EncoderClock
    frames: int = 0
    runs: int = 0
    spent: float = 0.0
    """Seconds."""

    def turn(self, seconds: float) -> None:
        """Process frames until the time is over."""
        runs, start = self.clock.runs, time.process_time()
        while (spent := time.process_time() - start) < seconds:
            self.step()
            self.frames += 1
        self.spent += spent
        self.runs += self.clock.runs - runs

    def step(self) -> None:
        """Process the next frame."""
        frame = self.film.next()
        self.engine.process_frame(frame)
        self.engine.tick(frame.time)

    def take(self) -> tuple[float, float]:
        """Frames per second, and encoder runs for each frame, since the last call."""
        found = self.frames / self.spent, self.runs / self.frames
        self.frames, self.runs, self.spent = 0, 0, 0.0
        return found


def measure_regions(
    bundle: Bundle, runtime: str, rounds: int, seconds: float = TURN_SECONDS, views: int = VIEWS
) -> dict[str, Any]:
    """Frame rates with the first region alone and with three, of the same frames, for each of `CHANGING`."""
    encoder = load_encoder(bundle, runtime, "int8", 1)
    films = {
        name: quarters(changing, FILM_FRAMES, encoder.preprocessing) for name, changing in CHANGING.items()
    }
    known = next(iter(films.values())).shown[3][:240, :320]
    with opened_store(bundle, encoder, known, views) as store:
        clock = EncoderClock(encoder)

        def runner(name: str, regions: tuple[RegionSettings, ...], per_frame: int) -> Runner:
            settings = Settings(
                camera=CameraSettings(focus="foreground"),
                recognition=RecognitionSettings(regions_per_frame=per_frame),
                regions=regions,
            )
            film = Film(films[name].empty, films[name].shown)
            made = Runner(engine_of(settings, bundle, encoder, store), film, clock)
            for _ in range(LEARNED_FRAMES + 1):
                made.step()
            return made

        pairs = {
            (name, per_frame): (runner(name, REGIONS[:1], per_frame), runner(name, REGIONS, per_frame))
            for name in films
            for per_frame in PER_FRAME
        }
        rates: dict[tuple[str, int], list[tuple[tuple[float, float], ...]]] = {key: [] for key in pairs}
        for round_ in range(-1, rounds):  # the first round is a warm-up
            for key, (one, three) in pairs.items():
                for runner_ in (one, three, three, one):
                    runner_.turn(seconds)
                taken = one.take(), three.take()
                if round_ >= 0:
                    rates[key].append(taken)
    return {
        "model_id": encoder.model_id,
        "version": encoder.version,
        "views": views,
        "focus": "foreground",
        "rounds": rounds,
        "seconds": 2 * seconds,
        "cases": [
            {"case": name, "regions_per_frame": per_frame, "changing": CHANGING[name], **_rates(found)}
            for (name, per_frame), found in rates.items()
        ],
    }


def _rates(rounds: Sequence[tuple[tuple[float, float], ...]]) -> dict[str, Any]:
    # (rounds, one or three, frames per second or runs for each frame)
    found = np.array(rounds)
    return {
        **{
            name: {
                "per_second": spread(found[:, column, 0], 1),
                "encoder_runs": round(float(np.median(found[:, column, 1])), 3),
            }
            for column, name in enumerate(("one", "three"))
        },
        "ratio": spread(found[:, 1, 0] / found[:, 0, 0], 3),
    }


# --- surroundings ---


def measure_surroundings(
    bundle: Bundle,
    runtime: str,
    rounds: int,
    frames: int = SURROUNDINGS_FRAMES,
    views: int = VIEWS,
    limit_runs: int = LIMIT_RUNS,
) -> dict[str, Any]:
    """What full surroundings add to the daemon's overhead for a frame, and how long the limits of objects take."""
    encoder = load_encoder(bundle, runtime, "int8", 1)
    empty, shown = draw(CameraSettings(), 0, FILM_FRAMES, encoder.preprocessing)
    rows = random_support(MAX_SCENES + MAX_PLACES, encoder.dimensions, seed=1).embeddings
    with (
        tempfile.TemporaryDirectory() as directory,
        opened_store(bundle, encoder, shown[3], views) as store,
    ):
        file = SurroundingsFile(Path(directory))
        file.save(encoder.model_id, rows[:MAX_SCENES], rows[MAX_SCENES:])
        off = Settings(surroundings=SurroundingsSettings(enabled=False))
        engines = [
            engine_of(off, bundle, encoder, store),
            engine_of(Settings(), bundle, encoder, store, file),
        ]
        learner = engines[1].surroundings
        assert learner is not None
        assert (len(learner.scenes), len(learner.places)) == (MAX_SCENES, MAX_PLACES), "they are full"
        clock = EncoderClock(encoder)
        runners = [Runner(engine, Film(empty, shown), clock) for engine in engines]
        times = np.empty((rounds + 1, frames, 2))
        for row in times:  # the first round is a warm-up
            for number, pair in enumerate(row):
                for column in (0, 1) if number % 2 else (1, 0):
                    pair[column] = _overhead(runners[column])
        limits = _time_limits(bundle, engines[0].support, learner.scenes, limit_runs)
    p50 = np.median(times[1:], axis=1)
    return {
        "model_id": encoder.model_id,
        "version": encoder.version,
        "views": views,
        "scenes": MAX_SCENES,
        "places": MAX_PLACES,
        "rounds": rounds,
        "frames": rounds * frames,
        "off_ms": spread(p50[:, 0], 4),
        "full_ms": spread(p50[:, 1], 4),
        "added_ms": spread(np.median(times[1:, :, 1] - times[1:, :, 0], axis=1), 4),
        "ratio": spread(p50[:, 1] / p50[:, 0], 3),
        "limits_ms": spread(limits, 2),
    }


def _overhead(runner: Runner) -> float:
    """Milliseconds of the next frame without the encoder's run."""
    spent, start = runner.clock.spent, time.process_time_ns()
    runner.step()
    return (time.process_time_ns() - start - runner.clock.spent + spent) / 1e6


def _time_limits(
    bundle: Bundle, support: SupportSet, scenes: npt.NDArray[np.float32], runs: int
) -> npt.NDArray[np.float64]:
    """Milliseconds of comparing all objects with the scenes, during which the daemon processes no frame."""
    acceptance = choose_acceptance(bundle)
    elapsed = np.empty(runs)
    for number in range(runs):
        start = time.process_time_ns()
        tightened(support, bundle.head, acceptance.threshold, scenes, acceptance.false_accept_rate)
        elapsed[number] = (time.process_time_ns() - start) / 1e6
    return elapsed


def spread(values: npt.NDArray[np.float64], digits: int) -> dict[str, float]:
    """Median over rounds, with the lowest and the highest round."""
    found = {"median": np.median(values), "from": values.min(), "to": values.max()}
    return {name: round(float(value), digits) for name, value in found.items()}


def main() -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    bundle = load_bundle(shipped(BUNDLE))
    result = {
        "runtime": options.runtime,
        "bundle": BUNDLE,
        "numpy": np.__version__,
        "cores": sorted(os.sched_getaffinity(0)),
        "regions": measure_regions(bundle, options.runtime, options.rounds),
        "surroundings": measure_surroundings(bundle, options.runtime, options.rounds),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
