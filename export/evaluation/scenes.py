"""Scenes: the daemon's engine watches generated video of objects that turn, and of strangers that come and go.

What a person sees is measured, not what one picture gives. A button press registers an object that stands in front of the
camera. It leaves, and returns in another pose, place, size and light, on the same and on another background. Strangers,
which nobody registered, are shown one after the other, and so is the empty scene. Counted are the engine's own events.

Video is composed from rendered cut-outs (`export.data.turntable`) and encoded once; engines with other registered objects
replay its embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edge_siamese.cameras.camera import Frame
from edge_siamese.daemon.engine import Engine
from edge_siamese.errors import DataError
from edge_siamese.events import Event
from edge_siamese.models.bundle import Bundle
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.recognition.imaging import Bytes, Floats, prepare
from edge_siamese.recognition.quality import is_blank
from edge_siamese.settings import Settings
from edge_siamese.store import SupportStore
from export.data.composition import Light, Placement, draw_backgrounds, photographed, place
from export.data.turntable import CutOuts, load_cut_outs, load_objects
from export.evaluation.strangers import Share

WIDTH, HEIGHT = 320, 240
FRAME_RATE = 10.0
MOVE_FRAMES = 4
"""In which an object arrives in a hand, and leaves."""
STAY_FRAMES = 25
WITHIN_SECONDS = 2.0
"""A return counts as recognized if the object appears so soon after it stands still."""
EMPTY_FRAMES = 10
"""Blank frames between two visits; in these, a recognized object leaves."""
PRESS_FRAMES = 40
"""At most so many frames after a press: more than the registration waits."""
STRANGER_SECONDS = 10.0
"""From the arrival of one stranger to that of the next."""
EMPTY_SECONDS = 2.0
"""How long the empty scene is shown."""
NOISE = 3.0
DRIFT = 0.03
"""Amplitude of the automatic exposure's drift."""
BACKGROUNDS = 24
POSES = {"within 45°": 45, "within 90°": 90, "any": 180}
"""Largest turn of a returning object from the pose of its first view, in degrees."""
RETURNS = 2
"""Returns of each object for each range of poses: on the background of its registration, and on another one."""
REGISTERED = (5, 20, 100)
PRESSES = (1, 3)
OBJECTS_IN_ALL = 60
"""Objects registered over all draws of one size, at least."""
MAX_REGISTERED_SHARE = 0.6
"""Of the objects; the others are strangers."""
STRANGERS = 360
"""Visits: one hour."""
SMALL_CM = 70.0
"""Objects up to this size are registered first; larger ones, such as furniture, are strangers first."""
RESAMPLES = 1000


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
    refused: float
    """Share of all planned presses that did not register: a blurred picture, or an object that looks like another one. After
    a refused first press, an object gets no others. Its returns count as not recognized."""
    returns: tuple[Returns, ...]
    elsewhere: Share
    """Of the returns in all poses: those on another background than that of the registration that were recognized."""
    strangers_per_hour: Share
    """False appearances with a stranger every ten seconds."""
    empty: Share
    """Of the objects: those after whose departure the empty scene was taken for an object."""


@dataclass(frozen=True)
class ScenesResult:
    """What `measure_scenes` found for one bundle."""

    model_id: str
    objects: int
    strangers: int
    """Objects shown as strangers, which are never registered."""
    visits: int
    """Visits of strangers."""
    backgrounds: str
    results: tuple[SceneRow, ...]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Visit:
    """An object in front of the camera, from its arrival to its departure."""

    object: int
    azimuth: int
    """Index of the view."""
    elevation: int
    background: int
    placement: Placement
    light: Light
    seed: int
    moves: bool = True
    """Whether a hand brings and takes it."""
    stay: int = STAY_FRAMES


@dataclass(frozen=True, eq=False)
class Recording:
    """The embeddings of a piece of video."""

    embeddings: Floats
    """float32 (T, D); rows of blank frames are not used."""
    blank: tuple[bool, ...]
    arrived: int = 0
    """The first frame in which the object stands still."""


class VideoComposer:
    """Composes video from the objects of a turntable.

    Args:
        folder: rendered objects.
        backgrounds: a folder of photographs; None: drawn tables and walls.
        seed: of all draws.
    """

    def __init__(self, folder: Path, backgrounds: Path | None = None, seed: int = 0) -> None:
        self.objects = load_objects(folder)
        self.seed = seed
        self.backgrounds_are = "drawn" if backgrounds is None else backgrounds.name
        rng = np.random.default_rng([seed, 41])
        self.backgrounds = draw_backgrounds(backgrounds, WIDTH, HEIGHT, BACKGROUNDS, rng)
        self._noise = rng.normal(0, NOISE, (HEIGHT + 61, WIDTH + 67, 3)).astype(np.float32)

        @lru_cache(maxsize=32)
        def cut_outs(index: int) -> CutOuts:
            return load_cut_outs(folder, self.objects[index])

        self._cut_outs = cut_outs

    def visit(
        self, turning: int, azimuth: int, rng: np.random.Generator, background: int | None = None, **more: Any
    ) -> Visit:
        """Draw a visit: place, size, light and, unless given, the background.

        Args:
            turning: index of the object.
            azimuth: index of the view, modulo the number of views.
            rng: draws.
            background: index.
            more: other fields of the visit.
        """
        known = self.objects[turning]
        placement = Placement(
            x=0.5 + rng.uniform(-0.06, 0.06),
            y=0.5 + rng.uniform(-0.05, 0.07),
            side=rng.uniform(0.8, 1.2),
            roll=rng.normal(0, 4),
        )
        light = Light(exposure=rng.uniform(0.75, 1.25), warmth=rng.uniform(0.94, 1.06))
        chosen = int(rng.integers(len(self.backgrounds)))
        return Visit(
            turning,
            azimuth % len(known.azimuths),
            int(rng.integers(len(known.elevations))),
            chosen if background is None else background,
            placement,
            light,
            int(rng.integers(2**31)),
            **more,
        )

    def frames(self, visit: Visit) -> Iterator[Bytes]:
        """The video of a visit, uint8 (HEIGHT, WIDTH, 3) each."""
        rng = np.random.default_rng([self.seed, 42, visit.seed])
        cut_out = self._cut_outs(visit.object).pixels[visit.elevation, visit.azimuth]
        background = self.backgrounds[visit.background]
        side = 1.0 if rng.random() < 0.5 else -1.0
        phase = rng.uniform(0, 2 * np.pi, 3)
        moves = MOVE_FRAMES if visit.moves else 0
        for number in range(-moves, visit.stay + moves):
            away = max(0.0, -number / MOVE_FRAMES, (number - visit.stay + 1) / MOVE_FRAMES)
            sway = 0.002 * np.sin(number / np.array([5.1, 6.3, 9.7]) + phase)
            placement = replace(
                visit.placement,
                x=visit.placement.x + float(sway[0]) + side * 0.9 * away,
                y=visit.placement.y + float(sway[1]),
            )
            scene = place(background, cut_out, placement, hand_from=side if away else 0.0, shadow=not away)
            yield self._photograph(scene, visit.light, number, float(phase[2]), rng)

    def empty_frames(self, background: int, light: Light, count: int, seed: int) -> Iterator[Bytes]:
        """The video of an empty scene."""
        rng = np.random.default_rng([self.seed, 43, background, seed])
        for number in range(count):
            yield self._photograph(self.backgrounds[background], light, number, 0.0, rng)

    def _photograph(
        self, scene: Bytes, light: Light, number: int, phase: float, rng: np.random.Generator
    ) -> Bytes:
        drift = 1 + DRIFT * np.sin(number / 8 + phase)
        top, left = int(rng.integers(61)), int(rng.integers(67))
        noise = self._noise[top : top + HEIGHT, left : left + WIDTH]
        return photographed(scene, replace(light, exposure=light.exposure * drift), noise)


class _ReplayEncoder:
    """An encoder that returns prepared embeddings while one is set, and otherwise computes and remembers them."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known = dict[bytes, Floats]()
        self.next: Floats | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def embed_prepared(self, images: Bytes) -> Floats:
        if self.next is not None:
            return self.next[np.newaxis]
        keys = [image.tobytes() for image in images]
        missing = [index for index, key in enumerate(keys) if key not in self._known]
        if missing:
            for index, row in zip(missing, self._encoder.embed_prepared(images[missing]), strict=True):
                self._known[keys[index]] = row
        return np.stack([self._known[key] for key in keys])


def record(encoder: Encoder, frames: Iterator[Bytes], arrived: int = 0) -> Recording:
    """Encode video."""
    prepared = np.stack([prepare(frame, encoder.preprocessing) for frame in frames])
    embeddings = [
        encoder.embed_prepared(prepared[start : start + 16]) for start in range(0, len(prepared), 16)
    ]
    return Recording(np.concatenate(embeddings), tuple(is_blank(image) for image in prepared), arrived)


@dataclass
class _Shown:
    """What the engine reported during a recording."""

    appeared: list[tuple[str, float]] = field(default_factory=list)
    """uid, and seconds since the object stood still."""


class _SimulatedDaemon:
    """An engine on a clock of its own, with nothing registered at first."""

    def __init__(self, bundle: Bundle, encoder: _ReplayEncoder, settings: Settings) -> None:
        self._encoder: Any = encoder
        self._store = SupportStore(None, encoder.model_id, encoder.dimensions)
        self._events = list[Event]()
        self.engine = Engine(settings, bundle, self._encoder, self._store, publish=self._events.append)
        self.now, self._number = 1000.0, 0
        shape = (encoder.preprocessing.height, encoder.preprocessing.width, 3)
        self._blank = np.zeros(shape, np.uint8)
        self._textured = np.full(shape, 255, np.uint8)
        self._textured[::2] = 0

    def close(self) -> None:
        self._store.close()

    def press(self, frames: Iterator[Bytes]) -> str | None:
        """Press the button in front of a view; returns the uid, or None if the registration was refused."""
        self._events.clear()
        self.engine.gesture(Gesture.PRESS, self.now)
        for pixels in frames:
            if not self.engine.registrations.busy:
                break
            self._show(pixels)
        self.engine.tick(self.now + 60.0)  # past the time limit of a registration
        for event in self._events:
            if event.kind in ("registered", "view added"):
                return str(event.data["uid"])
        return None

    def replay(self, recording: Recording) -> _Shown:
        """Show a recording."""
        shown = _Shown()
        for number, (embedding, blank) in enumerate(zip(recording.embeddings, recording.blank, strict=True)):
            self._events.clear()
            self._encoder.next = embedding
            self._show(self._blank if blank else self._textured)
            seconds = (number - recording.arrived + 1) / FRAME_RATE
            shown.appeared += [
                (str(event.data["uid"]), seconds) for event in self._events if event.kind == "appeared"
            ]
        self._encoder.next = None
        return shown

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.engine.tick(self.now)

    def _show(self, pixels: Bytes) -> None:
        self.now += 1 / FRAME_RATE
        self._number += 1
        self.engine.process_frame(Frame(pixels, self.now, self._number))


@dataclass(frozen=True, eq=False)
class _Video:
    """All video of one run: what each object's presses and returns look like, the strangers, and the empty scene."""

    presses: dict[int, tuple[Visit, ...]]
    """By object: its sides, of which the first is the front."""
    returns: dict[int, dict[str, tuple[Recording, ...]]]
    strangers: tuple[tuple[int, Recording], ...]
    empty: tuple[Recording, ...]
    """By background."""


def measure_scenes(
    bundle: Bundle,
    encoder: Encoder,
    composer: VideoComposer,
    *,
    registered: Sequence[int] = REGISTERED,
    objects_in_all: int = OBJECTS_IN_ALL,
    strangers: int = STRANGERS,
    settings: Settings | None = None,
    advance: Callable[[str], object] = lambda _: None,
) -> ScenesResult:
    """Measure recognition of returning objects and false appearances.

    Args:
        bundle: source of head, thresholds and impostors.
        encoder: of the bundle.
        composer: composes the video.
        registered: numbers of registered objects.
        objects_in_all: objects registered over all draws of one number, at least.
        strangers: visits of strangers, one every ten seconds.
        settings: of the engine; None: the defaults.
        advance: called with what is being done.

    Raises:
        DataError: there are too few objects.
    """
    rng = np.random.default_rng([composer.seed, 44])
    order = rng.permutation(len(composer.objects))
    large = [composer.objects[int(index)].size_cm > SMALL_CM for index in order]
    order = np.concatenate([order[~np.array(large)], order[np.array(large)]]).astype(int)
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
    pool = pool[: max(max(numbers), min(objects_in_all, len(pool)))]
    video = _record_video(encoder, composer, pool, unknown, strangers, rng, advance)
    replaying = _ReplayEncoder(encoder)
    settings = settings or Settings()
    rows = []
    for number in numbers:
        draws = max(1, -(-objects_in_all // number))
        for presses in PRESSES:
            advance(f"{number} objects registered with {presses} press{'es' if presses > 1 else ''} each")
            draw_results = []
            for draw in range(draws):
                chosen = np.random.default_rng([composer.seed, 45, number, draw]).choice(
                    pool, number, replace=False
                )
                draw_results.append(
                    _measure_draw(
                        bundle, replaying, settings, composer, video, [int(i) for i in chosen], presses
                    )
                )
            rows.append(_row(number, presses, draw_results, strangers, composer.seed))
    return ScenesResult(
        encoder.model_id,
        len(order),
        len(unknown),
        strangers,
        composer.backgrounds_are,
        tuple(rows),
        skipped,
    )


def _record_video(
    encoder: Encoder,
    composer: VideoComposer,
    pool: Sequence[int],
    unknown: Sequence[int],
    strangers: int,
    rng: np.random.Generator,
    advance: Callable[[str], object],
) -> _Video:
    presses, returns = dict[int, tuple[Visit, ...]](), dict[int, dict[str, tuple[Recording, ...]]]()
    for done, index in enumerate(pool):
        advance(f"encoding returns: {done}/{len(pool)} objects")
        around = len(composer.objects[index].azimuths)
        front = int(rng.integers(around))
        views = [composer.visit(index, front, rng, moves=False, stay=PRESS_FRAMES)]
        for third in (1, 2):
            turned = front + round(around * third / 3 + rng.uniform(-0.5, 0.5))
            views.append(
                composer.visit(index, turned, rng, views[0].background, moves=False, stay=PRESS_FRAMES)
            )
        presses[index] = tuple(views)
        returns[index] = {}
        for pose, degrees in POSES.items():
            steps = around * degrees // 360
            visits = []
            for number in range(RETURNS):
                here = views[0].background
                other = (here + 1 + int(rng.integers(len(composer.backgrounds) - 1))) % len(
                    composer.backgrounds
                )
                turned = front + int(rng.integers(-steps, steps + 1))
                visits.append(composer.visit(index, turned, rng, other if number % 2 else here))
            returns[index][pose] = tuple(record(encoder, composer.frames(v), MOVE_FRAMES) for v in visits)
    shown = []
    for number in range(strangers):
        if number % 20 == 0:
            advance(f"encoding strangers: {number}/{strangers}")
        index = unknown[number % len(unknown)]
        visit = composer.visit(index, int(rng.integers(360)), rng)
        shown.append((index, record(encoder, composer.frames(visit), MOVE_FRAMES)))
    empty, count = [], round(EMPTY_SECONDS * FRAME_RATE)
    for background in range(len(composer.backgrounds)):
        light = Light(exposure=rng.uniform(0.75, 1.25), warmth=rng.uniform(0.94, 1.06))
        empty.append(record(encoder, composer.empty_frames(background, light, count, background)))
    return _Video(presses, returns, tuple(shown), tuple(empty))


@dataclass(frozen=True)
class _Return:
    """What the engine made of one return of an object."""

    object: int
    elsewhere: bool
    """Whether it was on another background."""
    in_time: bool
    misnamed: bool
    seconds: float | None
    """Until it appeared; None if it did not."""


@dataclass(frozen=True)
class _DrawResult:
    """Counts of one draw of objects."""

    refused: int
    returns: dict[str, list[_Return]]
    """By pose."""
    false_by_stranger: dict[int, int]
    empty: list[tuple[int, float]]
    """By object: 1 if something was recognized on its background without it."""


def _measure_draw(
    bundle: Bundle,
    encoder: _ReplayEncoder,
    settings: Settings,
    composer: VideoComposer,
    video: _Video,
    chosen: Sequence[int],
    presses: int,
) -> _DrawResult:
    daemon = _SimulatedDaemon(bundle, encoder, settings)
    try:
        refused, uids = 0, dict[int, str | None]()
        for index in chosen:
            uids[index] = None
            for visit in video.presses[index][:presses]:
                uid = daemon.press(composer.frames(visit))
                refused += uid is None
                uids[index] = uids[index] or uid
                if uids[index] is None:
                    break  # there is no object to add a view to
            daemon.wait(60.0)
        between = Recording(np.zeros((EMPTY_FRAMES, encoder.dimensions), np.float32), (True,) * EMPTY_FRAMES)
        returns = dict[str, list[_Return]]()
        for pose in POSES:
            returns[pose] = []
            for index in chosen:
                for number, recording in enumerate(video.returns[index][pose]):
                    shown = daemon.replay(recording)
                    own = [seconds for uid, seconds in shown.appeared if uid == uids[index]]
                    others = any(uid != uids[index] for uid, _ in shown.appeared)
                    in_time = bool(own) and own[0] <= WITHIN_SECONDS
                    returns[pose].append(
                        _Return(index, number % 2 == 1, in_time, others, own[0] if own else None)
                    )
                    daemon.replay(between)
                    daemon.wait(10.0)
        false = dict[int, int]()
        for index, recording in video.strangers:
            shown = daemon.replay(recording)
            false[index] = false.get(index, 0) + len(shown.appeared)
            daemon.replay(between)
            daemon.wait(10.0)
        empty = []
        for index in chosen:
            daemon.wait(10.0)
            shown = daemon.replay(video.empty[video.presses[index][0].background])
            empty.append((index, float(bool(shown.appeared))))
        return _DrawResult(refused, returns, false, empty)
    finally:
        daemon.close()


def _row(
    registered: int, presses: int, draw_results: Sequence[_DrawResult], strangers: int, seed: int
) -> SceneRow:
    hours = strangers * STRANGER_SECONDS / 3600
    rng = np.random.default_rng([seed, 46])
    returns = []
    for pose in POSES:
        outcomes = [outcome for result in draw_results for outcome in result.returns[pose]]
        seconds = [outcome.seconds for outcome in outcomes if outcome.in_time and outcome.seconds is not None]
        middle, late = np.quantile(seconds, [0.5, 0.9]) if seconds else (0.0, 0.0)
        returns.append(
            Returns(
                pose,
                _share([(o.object, float(o.in_time)) for o in outcomes], rng),
                _share([(o.object, float(o.misnamed)) for o in outcomes], rng),
                (float(middle), float(late)),
                len(outcomes),
            )
        )
    elsewhere = [
        (outcome.object, float(outcome.in_time))
        for result in draw_results
        for outcomes in result.returns.values()
        for outcome in outcomes
        if outcome.elsewhere
    ]
    by_stranger = [item for result in draw_results for item in result.false_by_stranger.items()]
    per_stranger = _share([(index, float(count)) for index, count in by_stranger], rng)
    each = len({index for index, _ in by_stranger}) / hours
    return SceneRow(
        registered,
        presses,
        len(draw_results),
        sum(result.refused for result in draw_results) / (registered * presses * len(draw_results)),
        tuple(returns),
        _share(elsewhere, rng),
        Share(per_stranger.value * each, per_stranger.low * each, per_stranger.high * each),
        _share([item for result in draw_results for item in result.empty], rng),
    )


def _share(values: Sequence[tuple[int, float]], rng: np.random.Generator) -> Share:
    """The mean of values, with its 95 % bootstrap interval over the objects that they belong to."""
    objects = sorted({index for index, _ in values})
    sums = np.zeros((len(objects), 2))
    for index, value in values:
        sums[objects.index(index)] += (value, 1)
    draws = rng.integers(0, len(objects), (RESAMPLES, len(objects)))
    resampled = sums[draws].sum(axis=1)
    low, high = np.quantile(resampled[:, 0] / resampled[:, 1], [0.025, 0.975])
    total = sums.sum(axis=0)
    return Share(float(total[0] / total[1]), float(low), float(high))
