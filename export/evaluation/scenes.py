"""Scenes: the daemon's engine watches generated video of objects that turn, and of strangers that come and go.

The measurement covers the user's experience, not single pictures. A button press registers an object in front of the camera.
The object leaves, and returns in another pose, position, size and light, at the same place and at another one. Strangers,
which nobody registered, come one after the other. The figures are counts of the engine's own events.

Several contenders see the same video (`export.evaluation.scene_video`). Each encodes it once
(`export.evaluation.scene_recording`); engines with different numbers of registered objects replay its embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass

import numpy as np

from edge_siamese.errors import DataError
from export.evaluation.metrics import class_accuracy_interval, rate_interval
from export.evaluation.scene_recording import Contender, SceneWatcher
from export.evaluation.scene_script import POSES, Script, ScriptRecording, record_script, write_script
from export.evaluation.scene_video import ARRIVED, FRAME_RATE, LEFT, VideoComposer
from export.evaluation.strangers import Share

RECOGNITION_SECONDS = 2.0
"""A return counts as recognized if the object appears within this time after it stands still."""
STRANGER_SECONDS = 10.0
"""Time from the arrival of one stranger to that of the next."""
REGISTERED = (5, 20, 100)
PRESSES = (1, 3)
MIN_TOTAL_OBJECTS = 60
"""Minimum number of objects registered over all draws of one size."""
MAX_REGISTERED_SHARE = 0.6
"""Share of the objects that may be registered; the others are strangers."""
STRANGERS = 60
"""Visits at each place: ten minutes."""
SMALL_CM = 70.0
"""Objects up to this size are registered first; larger ones, such as furniture, are strangers first."""

Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Called with the name of a step and the number of its parts; the context's function is called after each part."""


@dataclass(frozen=True)
class Returns:
    """Recognition of returning objects in one range of poses."""

    pose: str
    recognized: Share
    """Appeared under the right name within `RECOGNITION_SECONDS`."""
    misnamed: Share
    """Another object appeared instead of it or in addition."""
    seconds: tuple[float, float]
    """Time until the right object appeared: median, and 90th percentile; over returns that were recognized."""
    count: int
    undecided: Share | None = None
    """Reported as one of two objects that look alike, and as no single one; None if it was not measured."""


@dataclass(frozen=True)
class SceneRow:
    """Results for one number of registered objects and of presses."""

    registered: int
    presses: int
    """Views of each object, from three sides."""
    draws: int
    objects_refused: Share
    """Objects whose first press did not register them: a blurred picture, or it looks like another object. They get no
    further presses, and their returns count as not recognized."""
    views_refused: float | None
    """Share of the further presses that added no view; None without further presses."""
    returns: tuple[Returns, ...]
    elsewhere: Share
    """Share recognized of the returns, in all poses, at another place than that of the registration."""
    strangers_per_hour: Share
    """False appearances with a stranger every ten seconds: while it is there, or right after it left."""
    empty: Share
    """Share of the visits before which an object was reported at the empty place."""
    strangers_undecided: Share | None = None
    """Strangers reported as one of two objects, per hour; None if it was not measured."""


@dataclass(frozen=True)
class ScenesResult:
    """Results of `measure_scenes` for one contender."""

    name: str
    """Name of the contender: a bundle or the baseline."""
    model_id: str
    focus: str
    objects: int
    strangers: int
    """Objects shown as strangers, which are never registered."""
    visits: int
    """Visits of strangers, over all places."""
    backgrounds: str
    results: tuple[SceneRow, ...]
    is_baseline: bool = False
    skipped: tuple[str, ...] = ()


def measure_scenes(
    contenders: Sequence[Contender],
    composer: VideoComposer,
    *,
    registered: Sequence[int] = REGISTERED,
    min_total_objects: int = MIN_TOTAL_OBJECTS,
    strangers: int = STRANGERS,
    familiar: int = 0,
    progress: Progress = lambda _what, _total: nullcontext(lambda: None),
) -> list[ScenesResult]:
    """Measure recognition of returning objects and false appearances.

    Args:
        contenders: all see the same video.
        composer: composes it.
        registered: numbers of registered objects.
        min_total_objects: minimum number of objects registered over all draws of one number.
        strangers: visits of strangers at each place, one every ten seconds.
        familiar: the number of them that come before the returns and are not counted: from them the daemon learns its
            surroundings.
        progress: shows the progress of recording and of counting.

    Returns:
        A result for each contender.

    Raises:
        DataError: there are too few objects, or all strangers are familiar.
    """
    if familiar >= strangers:
        raise DataError(
            f"{familiar} of {strangers} visits of strangers at a place are familiar, so none is left to measure"
        )
    rng = np.random.default_rng([composer.seed, 44])
    order = rng.permutation(len(composer.objects))
    large = np.array([composer.objects[int(index)].size_cm > SMALL_CM for index in order], dtype=bool)
    order = np.concatenate([order[~large], order[large]]).astype(int)
    most = int(MAX_REGISTERED_SHARE * len(order))
    pool, unknown = [int(index) for index in order[:most]], [int(index) for index in order[most:]]
    numbers = [number for number in registered if number <= len(pool)]
    skipped = tuple(
        f"{number} objects: only {len(pool)} can be registered" for number in registered if number > len(pool)
    )
    if not numbers:
        raise DataError(
            f"{len(order)} objects are too few: at least {min(registered)} have to be registered, "
            "and others shown as strangers"
        )
    pool = pool[: max(max(numbers), min_total_objects)]
    script = write_script(composer, pool, unknown, strangers, rng)
    with progress("recording video", len(contenders) * script.visits) as advance:
        script_recordings = record_script(contenders, composer, script, advance)
    draws = {
        number: [pool[start : start + number] for start in range(0, len(pool) - number + 1, number)]
        for number in numbers
    }
    results = []
    with progress("recognizing", len(contenders) * len(PRESSES) * sum(map(len, draws.values()))) as advance:
        for contender, script_recording in zip(contenders, script_recordings, strict=True):
            rows = []
            for number in numbers:
                for presses in PRESSES:
                    found = []
                    for objects in draws[number]:
                        found.append(_watch(contender, script, script_recording, objects, presses, familiar))
                        advance()
                    rows.append(_row(number, presses, found))
            results.append(
                ScenesResult(
                    contender.name,
                    contender.encoder.model_id,
                    contender.focus,
                    len(order),
                    len(unknown),
                    sum(len(visits[familiar:]) for visits in script.strangers.values()),
                    composer.background_name,
                    tuple(rows),
                    contender.is_baseline,
                    skipped,
                )
            )
    return results


@dataclass(frozen=True)
class _Outcome:
    """The engine's result for one return of an object."""

    object: int
    pose: str
    elsewhere: bool
    in_time: bool
    misnamed: bool
    undecided: bool
    seconds: float | None
    """Time until it appeared; None if it did not."""


@dataclass(frozen=True)
class _DrawResult:
    """Counts of one draw of objects."""

    refused: list[tuple[int, bool]]
    """Object, and whether its first press was refused."""
    further: list[bool]
    """Whether each further press was refused."""
    returns: list[_Outcome]
    strangers: list[tuple[int, int]]
    """Object, and number of false appearances, of each visit of a stranger."""
    undecided: list[tuple[int, int]]
    """Object, and 1 if it was reported as one of two objects, of each visit of a stranger."""
    empty: list[tuple[int, bool]]
    """Place, and whether an object was present before the visit, of each visit of a stranger."""


def _watch(
    contender: Contender,
    script: Script,
    script_recording: ScriptRecording,
    objects: Sequence[int],
    presses: int,
    familiar: int,
) -> _DrawResult:
    """Register objects, and replay their returns, and the strangers at the places of their registration."""
    result = _DrawResult([], [], [], [], [], [])
    places = sorted({script.homes[index] for index in objects})
    with closing(SceneWatcher(contender)) as watcher:
        for place in places:
            watcher.see_place(script_recording.places[place])
        uids = dict[int, str | None]()
        for index in objects:
            first, *further = (script_recording.views[visit] for visit in script.presses[index][:presses])
            uids[index] = uid = watcher.register(first)
            result.refused.append((index, uid is None))
            if uid is not None:
                result.further.extend(watcher.register(view, to=uid) is None for view in further)
        for place in places:
            for visit in script.strangers[place][:familiar]:
                watcher.watch(script_recording.recordings[visit])
        for index in objects:
            for each in script.returns[index]:
                watched = watcher.watch(script_recording.recordings[each.visit])
                own = [number for uid, number in watched.appeared if uid == uids[index]]
                seconds = (own[0] - ARRIVED + 1) / FRAME_RATE if own else None
                result.returns.append(
                    _Outcome(
                        index,
                        each.pose,
                        each.elsewhere,
                        seconds is not None and seconds <= RECOGNITION_SECONDS,
                        any(uid != uids[index] and number < LEFT for uid, number in watched.appeared),
                        watched.was_undecided and not watched.appeared,
                        seconds,
                    )
                )
        for place in places:
            for visit in script.strangers[place][familiar:]:
                watched = watcher.watch(script_recording.recordings[visit])
                result.strangers.append((visit.object, len(watched.appeared)))
                result.undecided.append((visit.object, int(watched.was_undecided and not watched.appeared)))
                result.empty.append((place, watched.was_present))
    return result


def _row(registered: int, presses: int, draws: Sequence[_DrawResult]) -> SceneRow:
    outcomes = [outcome for draw in draws for outcome in draw.returns]
    further = [refused for draw in draws for refused in draw.further]
    returns = []
    for pose in POSES:
        of_pose = [outcome for outcome in outcomes if outcome.pose == pose]
        seconds = [outcome.seconds for outcome in of_pose if outcome.in_time and outcome.seconds is not None]
        middle, late = np.quantile(seconds, [0.5, 0.9]) if seconds else (0.0, 0.0)
        returns.append(
            Returns(
                pose,
                _share([(outcome.object, outcome.in_time) for outcome in of_pose]),
                _share([(outcome.object, outcome.misnamed) for outcome in of_pose]),
                (float(middle), float(late)),
                len(of_pose),
                _share([(outcome.object, outcome.undecided) for outcome in of_pose]),
            )
        )
    return SceneRow(
        registered,
        presses,
        len(draws),
        _share([each for draw in draws for each in draw.refused]),
        float(np.mean(further)) if further else None,
        tuple(returns),
        _share([(outcome.object, outcome.in_time) for outcome in outcomes if outcome.elsewhere]),
        _hourly([each for draw in draws for each in draw.strangers]),
        _share([each for draw in draws for each in draw.empty]),
        _hourly([each for draw in draws for each in draw.undecided]),
    )


def _share(values: Sequence[tuple[int, bool]]) -> Share:
    """A share, with its 95 % interval over the objects or places that the values belong to."""
    classes, outcomes = zip(*values, strict=True)
    interval = class_accuracy_interval(outcomes, classes)
    return Share(float(np.mean(outcomes)), interval.low, interval.high)


def _hourly(counts: Sequence[tuple[int, int]]) -> Share:
    """Events per hour, with the 95 % interval over strangers, from those during each stranger's visit."""
    strangers, events = zip(*counts, strict=True)
    hourly = 3600 / STRANGER_SECONDS
    interval = rate_interval(events, strangers)
    return Share(hourly * float(np.mean(events)), hourly * interval.low, hourly * interval.high)
