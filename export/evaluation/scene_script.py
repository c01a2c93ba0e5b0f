"""The script of a scene measurement: which object appears at which place, in what order; and its recordings.

Recordings are cached by place, so that an interrupted measurement is resumed, and another contender or other thresholds are
measured without encoding the same video again. A recording is reused only if nothing that it depends on has changed,
which includes the code that makes it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import numpy as np

from edge_siamese.models.bundle import choose_acceptance
from edge_siamese.recognition.imaging import Floats
from edge_siamese.recognition.registration import NewView
from export.data.cache import Arrays, cached_arrays
from export.evaluation.remote_runtime import CHECKOUT
from export.evaluation.scene_recording import SETTLE_SECONDS, Contender, Recording, SceneRecorder
from export.evaluation.scene_video import VideoComposer, Visit

POSES = {"within 45°": 45, "within 90°": 90, "any": 180}
"""Largest turn of a returning object from the pose of its first view, in degrees."""
RETURNS = 2
"""Returns of each object for each range of poses: at the place of its registration, and at another one."""
PRESS_FRAMES = 45
"""Frames for which an object stands still during its registration: more than the registration's timeout."""
OBJECTS_PER_PLACE = 5
CODE = (
    "edge_siamese/recognition/*.py",
    "edge_siamese/daemon/engine.py",
    "edge_siamese/daemon/registration_session.py",
    "export/data/composition.py",
    "export/evaluation/scene_*.py",
)
"""Files that decide what is recorded."""


@dataclass(frozen=True)
class Return:
    """A return of a registered object."""

    pose: str
    elsewhere: bool
    """Whether it is at another place than that of the registration."""
    visit: Visit


@dataclass(frozen=True)
class Script:
    """All visits of one run. A place is the index of a background."""

    homes: dict[int, int]
    """By object: the place of its registration."""
    presses: dict[int, tuple[Visit, ...]]
    """By object: its sides, the front first."""
    returns: dict[int, tuple[Return, ...]]
    """Returns by object."""
    strangers: dict[int, tuple[Visit, ...]]
    """Visits of strangers by place."""

    def by_place(self) -> list[Stop]:
        """The places in the order of time, with their visits."""
        returns = [each.visit for visits in self.returns.values() for each in visits]
        places = sorted({*self.homes.values(), *(visit.background for visit in returns)})
        return [
            Stop(
                place,
                before,
                tuple(
                    visit
                    for index, home in self.homes.items()
                    if home == place
                    for visit in self.presses[index]
                ),
                (*(visit for visit in returns if visit.background == place), *self.strangers.get(place, ())),
            )
            for place, before in zip(places, [places[-1], *places], strict=False)
        ]

    @property
    def visits(self) -> int:
        """The number of visits."""
        return sum(len(stop.presses) + len(stop.others) for stop in self.by_place())


@dataclass(frozen=True)
class Stop:
    """The visits at one place, in the order of time."""

    place: int
    previous: int
    """The place that the camera was at before."""
    presses: tuple[Visit, ...]
    """During which the button is pressed."""
    others: tuple[Visit, ...]
    """Returns and strangers."""


@dataclass(frozen=True, eq=False)
class ScriptRecording:
    """The views and recordings of one contender for a script."""

    views: dict[Visit, NewView | None]
    """Views by the visit during which the button was pressed; None if the frames were not good enough."""
    recordings: dict[Visit, Recording]
    """Recordings of all other visits."""
    places: dict[int, Floats]
    """By place: its embedding while it is empty, (1, D), or (0, D) if the engine does not encode it."""


def write_script(
    composer: VideoComposer,
    pool: Sequence[int],
    unknown: Sequence[int],
    strangers: int,
    rng: np.random.Generator,
) -> Script:
    """Draw all visits.

    Args:
        composer: the objects and backgrounds.
        pool: indices of the objects that are registered.
        unknown: indices of the objects that appear as strangers.
        strangers: visits of strangers at each place of registration.
        rng: draws the visits.
    """
    places = len(composer.backgrounds)
    homes = {index: number // OBJECTS_PER_PLACE % places for number, index in enumerate(pool)}
    presses, returns = dict[int, tuple[Visit, ...]](), dict[int, tuple[Return, ...]]()
    for index, home in homes.items():
        around = len(composer.objects[index].azimuths)
        front = int(rng.integers(around))
        sides = [front, *(front + round(around * third / 3 + rng.uniform(-0.5, 0.5)) for third in (1, 2))]
        presses[index] = tuple(composer.visit(index, side, home, rng, PRESS_FRAMES) for side in sides)
        visits = []
        for pose, degrees in POSES.items():
            steps = around * degrees // 360
            for number in range(RETURNS):
                elsewhere = number % 2 == 1
                other = (home + 1 + int(rng.integers(places - 1))) % places
                turned = front + int(rng.integers(-steps, steps + 1))
                visits.append(
                    Return(pose, elsewhere, composer.visit(index, turned, other if elsewhere else home, rng))
                )
        returns[index] = tuple(visits)
    shown, by_place = 0, dict[int, tuple[Visit, ...]]()
    for home in sorted(set(homes.values())):
        visits_here = []
        for _ in range(strangers):
            index = unknown[shown % len(unknown)]
            visits_here.append(composer.visit(index, int(rng.integers(360)), home, rng))
            shown += 1
        by_place[home] = tuple(visits_here)
    return Script(homes, presses, returns, by_place)


def record_script(
    contenders: Sequence[Contender], composer: VideoComposer, script: Script, advance: Callable[[], None]
) -> list[ScriptRecording]:
    """Show a script to each contender, each in its own thread; `advance` is called after each visit of each."""
    stopped, lock = threading.Event(), threading.Lock()

    def step() -> None:
        if stopped.is_set():
            raise _StoppedError
        with lock:
            advance()

    with ThreadPoolExecutor(max_workers=len(contenders)) as pool:
        futures = [pool.submit(_record, contender, composer, script, step) for contender in contenders]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stopped.set()  # if one failed, or the user interrupted, the others have to end
    for future in futures:
        error = future.exception()
        if error is not None and not isinstance(error, _StoppedError):
            raise error
    return [future.result() for future in futures]


class _StoppedError(Exception):
    """Another contender failed."""


def _record(
    contender: Contender, composer: VideoComposer, script: Script, advance: Callable[[], None]
) -> ScriptRecording:
    script_recording = ScriptRecording({}, {}, {})
    for stop in script.by_place():
        arrays = _cached_stop(contender, composer, stop, advance)
        script_recording.places[stop.place] = arrays["place"]
        for visit, embedding in zip(stop.presses, arrays["views"], strict=True):
            script_recording.views[visit] = (
                None if np.isnan(embedding[0]) else NewView(embedding, (), "button")
            )
        embeddings, ends = arrays["embeddings"], np.cumsum(arrays["counts"])
        for visit, rows, start, end in zip(stop.others, arrays["rows"], [0, *ends], ends, strict=False):
            script_recording.recordings[visit] = Recording(embeddings[start:end], rows)
    return script_recording


def _cached_stop(
    contender: Contender, composer: VideoComposer, stop: Stop, advance: Callable[[], None]
) -> dict[str, Any]:
    """The arrays of `_record_stop`, from the cache if they were recorded before."""
    remaining = len(stop.presses) + len(stop.others)

    def count_visit() -> None:
        nonlocal remaining
        remaining -= 1
        advance()

    key = {
        "code": _code(),
        "contender": _describe(contender),
        "video": composer.fingerprint((stop.previous, stop.place), (*stop.presses, *stop.others)),
    }
    arrays = cached_arrays("scenes", key, lambda: _record_stop(contender, composer, stop, count_visit))
    for _ in range(remaining):
        advance()
    return arrays


def _record_stop(
    contender: Contender, composer: VideoComposer, stop: Stop, advance: Callable[[], None]
) -> Arrays:
    """Record what happens at a place.

    Returns:
        place: float32 (1, D) or (0, D), the empty place before all visits.
        views: float32 (presses, D), NaN where the frames were not good enough.
        rows: int32 (others, T), as in `Recording`.
        counts: (others,), embeddings of each recording.
        embeddings: float32 (sum of counts, D).
    """
    views, recordings = list[Floats](), list[Recording]()
    nothing = np.full(contender.encoder.dimensions, np.nan, np.float32)
    with closing(SceneRecorder(contender)) as recorder:
        for place in (stop.previous, stop.place):
            light = composer.light(place, np.random.default_rng([composer.seed, 45, place]))
            recorder.settle(composer.empty_shots(place, light, SETTLE_SECONDS, 0))
        empty = recorder.embed_place()
        for visit in stop.presses:
            view = recorder.press(list(composer.shots(visit)))
            views.append(nothing if view is None else view.embedding)
            advance()
        for visit in stop.others:
            recordings.append(recorder.record(composer.shots(visit)))
            advance()
    return {
        "place": empty,
        "views": np.stack(views) if views else np.empty((0, len(nothing)), np.float32),
        "rows": np.stack([recording.rows for recording in recordings]),
        "counts": np.array([len(recording.embeddings) for recording in recordings]),
        "embeddings": np.concatenate([recording.embeddings for recording in recordings]),
    }


def _describe(contender: Contender) -> dict[str, object]:
    """Everything that determines a contender's recordings, as JSON values."""
    encoder, head, settings = contender.encoder, contender.bundle.head, contender.settings
    recognition = settings.recognition
    acceptance = choose_acceptance(contender.bundle, recognition.threshold, recognition.false_accept_rate)
    weights = b"" if head.weights is None else head.weights.tobytes()
    return {
        "encoder": [encoder.model_id, encoder.runtime, encoder.precision],
        "head": [head.scale, head.bias, head.distance, hashlib.sha256(weights).hexdigest()],
        "threshold of pairs": acceptance.threshold,
        "settings": msgspec.to_builtins([settings.camera, settings.registration]),
    }


@cache
def _code() -> str:
    """A hash of the code that decides what is recorded."""
    digest = hashlib.sha256()
    for pattern in CODE:
        for path in sorted(CHECKOUT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()
