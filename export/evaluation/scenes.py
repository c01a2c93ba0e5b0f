"""Scenes: the daemon's engine watches generated video of objects that turn, and of strangers that come and go.

What a person sees is measured, not what one picture gives. A button press registers an object that stands in front of the
camera. It leaves, and returns in another pose, position, size and light, at the same and at another place. Strangers, which
nobody registered, come one after the other. Counted are the engine's own events.

Several contenders see the same video (`export.evaluation.scene_video`). Each encodes it once
(`export.evaluation.scene_recording`); engines with different numbers of registered objects replay its embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass

import numpy as np

from edge_siamese.errors import DataError
from edge_siamese.recognition.registration import NewView
from export.evaluation.metrics import class_accuracy_interval, rate_interval
from export.evaluation.scene_recording import (
    SETTLE_SECONDS,
    Contender,
    Recording,
    SceneRecorder,
    SceneWatcher,
)
from export.evaluation.scene_video import ARRIVED, FRAME_RATE, LEFT, Shot, VideoComposer, Visit, draw_light
from export.evaluation.strangers import Share

WITHIN_SECONDS = 2.0
"""A return counts as recognized if the object appears so soon after it stands still."""
PRESS_FRAMES = 45
"""How long an object stands still that is registered: more than the registration waits."""
STRANGER_SECONDS = 10.0
"""From the arrival of one stranger to that of the next."""
POSES = {"within 45°": 45, "within 90°": 90, "any": 180}
"""Largest turn of a returning object from the pose of its first view, in degrees."""
RETURNS = 2
"""Returns of each object for each range of poses: at the place of its registration, and at another one."""
REGISTERED = (5, 20, 100)
PRESSES = (1, 3)
OBJECTS_AT_A_PLACE = 5
OBJECTS_IN_ALL = 60
"""Objects registered over all draws of one size, at least."""
MAX_REGISTERED_SHARE = 0.6
"""Of the objects; the others are strangers."""
STRANGERS = 60
"""Visits at each place: ten minutes."""
SMALL_CM = 70.0
"""Objects up to this size are registered first; larger ones, such as furniture, are strangers first."""

Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Called with the name of a step and the number of its parts; the context's function is called after each part."""


@dataclass(frozen=True)
class Returns:
    """How objects were recognized that returned in one range of poses."""

    pose: str
    recognized: Share
    """Appeared under the right name within `WITHIN_SECONDS`."""
    misnamed: Share
    """Another object appeared instead or beside it."""
    seconds: tuple[float, float]
    """Until the right object appeared: median, and 90th percentile; over returns that were recognized."""
    count: int


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
    """Of the returns in all poses: those at another place than that of the registration that were recognized."""
    strangers_per_hour: Share
    """False appearances with a stranger every ten seconds: while it is there, or right after it left."""
    empty: Share
    """Of the visits: those before which an object was present at the empty place."""


@dataclass(frozen=True)
class ScenesResult:
    """What `measure_scenes` found for one contender."""

    name: str
    """Of the contender: a bundle or the baseline."""
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


@dataclass(frozen=True)
class _Return:
    """A return of a registered object."""

    pose: str
    elsewhere: bool
    """Whether it is at another place than that of the registration."""
    visit: Visit


@dataclass(frozen=True)
class _Script:
    """All visits of one run. A place is the index of a background."""

    homes: dict[int, int]
    """By object: the place of its registration."""
    presses: dict[int, tuple[Visit, ...]]
    """By object: its sides, of which the first is the front."""
    returns: dict[int, tuple[_Return, ...]]
    """By object."""
    strangers: dict[int, tuple[Visit, ...]]
    """By place."""

    def presses_at(self, place: int) -> list[Visit]:
        """The visits during which the button is pressed."""
        return [
            visit for index, visits in self.presses.items() if self.homes[index] == place for visit in visits
        ]

    def others_at(self, place: int) -> list[Visit]:
        """The returns and the strangers."""
        returns = [each.visit for visits in self.returns.values() for each in visits]
        return [visit for visit in returns if visit.background == place] + list(self.strangers.get(place, ()))


class _Tape:
    """What one contender makes of the visits of a script."""

    def __init__(self, contender: Contender) -> None:
        self.views = dict[Visit, NewView | None]()
        """Of the visits during which the button was pressed."""
        self.recordings = dict[Visit, Recording]()
        """Of all others."""
        self._recorder = SceneRecorder(contender)

    def close(self) -> None:
        self._recorder.close()

    def show(self, shots: Sequence[Shot], visit: Visit | None, press: bool) -> None:
        """Show a visit, and press the button or not; without a visit, a new place."""
        if visit is None:
            self._recorder.settle(shots)
        elif press:
            self.views[visit] = self._recorder.press(shots)
        else:
            self.recordings[visit] = self._recorder.record(shots)


def measure_scenes(
    contenders: Sequence[Contender],
    composer: VideoComposer,
    *,
    registered: Sequence[int] = REGISTERED,
    objects_in_all: int = OBJECTS_IN_ALL,
    strangers: int = STRANGERS,
    progress: Progress = lambda _what, _total: nullcontext(lambda: None),
) -> list[ScenesResult]:
    """Measure recognition of returning objects and false appearances.

    Args:
        contenders: all see the same video.
        composer: composes it.
        registered: numbers of registered objects.
        objects_in_all: objects registered over all draws of one number, at least.
        strangers: visits of strangers at each place, one every ten seconds.
        progress: shows the progress of recording and of counting.

    Returns:
        A result for each contender.

    Raises:
        DataError: there are too few objects.
    """
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
            f"{len(order)} objects are too few: {min(registered)} have to be registered, and others shown"
        )
    pool = pool[: max(max(numbers), objects_in_all)]
    script = _write_script(composer, pool, unknown, strangers, rng)
    visits = sum(
        len(script.presses_at(place)) + len(script.others_at(place))
        for place in range(len(composer.backgrounds))
    )
    with progress("recording video", visits) as advance:
        tapes = _record(contenders, composer, script, advance)
    draws = {
        number: [pool[start : start + number] for start in range(0, len(pool) - number + 1, number)]
        for number in numbers
    }
    results = []
    with progress("recognizing", len(contenders) * len(PRESSES) * sum(map(len, draws.values()))) as advance:
        for contender, tape in zip(contenders, tapes, strict=True):
            rows = []
            for number in numbers:
                for presses in PRESSES:
                    found = []
                    for objects in draws[number]:
                        found.append(_watch(contender, script, tape, objects, presses))
                        advance()
                    rows.append(_row(number, presses, found))
            results.append(
                ScenesResult(
                    contender.name,
                    contender.encoder.model_id,
                    contender.focus,
                    len(order),
                    len(unknown),
                    sum(map(len, script.strangers.values())),
                    composer.backgrounds_are,
                    tuple(rows),
                    contender.is_baseline,
                    skipped,
                )
            )
    return results


def _write_script(
    composer: VideoComposer,
    pool: Sequence[int],
    unknown: Sequence[int],
    strangers: int,
    rng: np.random.Generator,
) -> _Script:
    places = len(composer.backgrounds)
    homes = {index: number // OBJECTS_AT_A_PLACE % places for number, index in enumerate(pool)}
    presses, returns = dict[int, tuple[Visit, ...]](), dict[int, tuple[_Return, ...]]()
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
                    _Return(pose, elsewhere, composer.visit(index, turned, other if elsewhere else home, rng))
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
    return _Script(homes, presses, returns, by_place)


def _record(
    contenders: Sequence[Contender], composer: VideoComposer, script: _Script, advance: Callable[[], None]
) -> list[_Tape]:
    """Show the script's visits to all contenders, place by place, in the order of time."""
    tapes = list[_Tape]()
    with ExitStack() as stack:
        for contender in contenders:
            tapes.append(stack.enter_context(closing(_Tape(contender))))
        # Each contender watches in a thread of its own, while the next visit is composed.
        threads = [stack.enter_context(ThreadPoolExecutor(max_workers=1)) for _ in tapes]
        watching = list[Future[None]]()

        def show(shots: Iterable[Shot], visit: Visit | None = None, press: bool = False) -> None:
            composed = list(shots)
            while watching:
                watching.pop().result()
            for thread, tape in zip(threads, tapes, strict=True):
                watching.append(thread.submit(tape.show, composed, visit, press))

        for place in range(len(composer.backgrounds)):
            presses, others = script.presses_at(place), script.others_at(place)
            if presses or others:
                light = draw_light(np.random.default_rng([composer.seed, 45, place]))
                show(composer.empty_shots(place, light, SETTLE_SECONDS, 0))
            for visit in (*presses, *others):
                show(composer.shots(visit), visit, press=visit in presses)
                advance()
        for last in watching:
            last.result()
    return tapes


@dataclass(frozen=True)
class _Outcome:
    """What the engine made of one return of an object."""

    object: int
    pose: str
    elsewhere: bool
    in_time: bool
    misnamed: bool
    seconds: float | None
    """Until it appeared; None if it did not."""


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
    empty: list[tuple[int, bool]]
    """Place, and whether an object was present before the visit, of each visit of a stranger."""


def _watch(
    contender: Contender, script: _Script, tape: _Tape, objects: Sequence[int], presses: int
) -> _DrawResult:
    """Register objects, and replay their returns, and the strangers at the places of their registration."""
    result = _DrawResult([], [], [], [], [])
    with closing(SceneWatcher(contender)) as watcher:
        uids = dict[int, str | None]()
        for index in objects:
            first, *further = (tape.views[visit] for visit in script.presses[index][:presses])
            uids[index] = uid = watcher.register(first)
            result.refused.append((index, uid is None))
            if uid is not None:
                result.further.extend(watcher.register(view, to=uid) is None for view in further)
        for index in objects:
            for each in script.returns[index]:
                watched = watcher.watch(tape.recordings[each.visit])
                own = [number for uid, number in watched.appeared if uid == uids[index]]
                seconds = (own[0] - ARRIVED + 1) / FRAME_RATE if own else None
                result.returns.append(
                    _Outcome(
                        index,
                        each.pose,
                        each.elsewhere,
                        seconds is not None and seconds <= WITHIN_SECONDS,
                        any(uid != uids[index] and number < LEFT for uid, number in watched.appeared),
                        seconds,
                    )
                )
        for place in sorted({script.homes[index] for index in objects}):
            for visit in script.strangers[place]:
                watched = watcher.watch(tape.recordings[visit])
                result.strangers.append((visit.object, len(watched.appeared)))
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
    )


def _share(values: Sequence[tuple[int, bool]]) -> Share:
    """A share, with its 95 % interval over the objects or places that the values belong to."""
    classes, outcomes = zip(*values, strict=True)
    interval = class_accuracy_interval(outcomes, classes)
    return Share(float(np.mean(outcomes)), interval.low, interval.high)


def _hourly(counts: Sequence[tuple[int, int]]) -> Share:
    """Events an hour, with the 95 % interval over strangers, from those during each stranger's visit."""
    strangers, events = zip(*counts, strict=True)
    hourly = 3600 / STRANGER_SECONDS
    interval = rate_interval(events, strangers)
    return Share(hourly * float(np.mean(events)), hourly * interval.low, hourly * interval.high)
