"""Glyphs: a synthetic data set of alphabets, written by simulated drawers.

An alphabet has a style and a set of stroke shapes; a character consists of one to four strokes, rarely more
(`export.data.strokes`). A drawer has a slant, proportions, a pen and a tremor, and each drawing varies a little.
Alphabet i of seed s is always the same, whatever else is generated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from msgspec import structs

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing, prepare_batch
from export.data.cache import Arrays, cached_arrays
from export.data.images import ImageSet, Splits
from export.data.strokes import Character, curve_weights, generate_alphabet

SIDE = 105
"""Side of a drawing in pixels before preprocessing, as in Omniglot."""
# Increase it when the same settings and seed give other pictures than before.
CACHE_VERSION = 1
TREMOR_WAVES = 5
FIRST_SYNTHETIC, SYNTHETIC_CHARACTERS = 1_000_000, 12
"""For `add_synthetic_alphabets`: index of the first alphabet, and characters of each."""
PAPER_EDGE = 4.0
SUPERSAMPLING = 3
"""Resolution of the canvas relative to the picture; averaging gives smooth edges."""
MAX_RADIUS = 4.0
MARGIN = 6
"""Pixels around the picture, for pens at its edge."""


@dataclass(frozen=True)
class GlyphSettings:
    """Sizes of the splits, and variation of the handwriting."""

    train_alphabets: int = 40
    validation_alphabets: int = 6
    evaluation_alphabets: int = 8
    train_characters: int = 12
    """Characters per training alphabet."""
    characters: int = 20
    """Characters per validation and evaluation alphabet: enough for 20-way episodes."""
    drawers: int = 10
    """Drawers, each of whom writes every character once."""
    variation: float = 1.0
    """Deviation of drawers and drawings from the ideal shape; 0 for none."""

    def __post_init__(self) -> None:
        for name in ("train_alphabets", "validation_alphabets", "evaluation_alphabets"):
            if getattr(self, name) < 1:
                raise DataError(f"glyphs need at least 1 for {name}, not {getattr(self, name)}")
        for name in ("train_characters", "characters", "drawers"):
            if getattr(self, name) < 2:
                raise DataError(f"glyphs need at least 2 for {name}, not {getattr(self, name)}")
        if not 0.0 <= self.variation <= 3.0:
            raise DataError(f"the variation of glyphs must be 0 to 3, not {self.variation}")


def load_glyphs(preprocessing: Preprocessing, settings: GlyphSettings | None = None, seed: int = 0) -> Splits:
    """Generate the three splits, with separate alphabets, or load them from the cache.

    Args:
        preprocessing: the encoder's input.
        settings: sizes and variation.
        seed: decides the alphabets and the drawings.

    Raises:
        DataError: the seed is negative.
    """
    settings = settings or GlyphSettings()
    if seed < 0:
        raise DataError(f"the seed of glyphs must be at least 0, not {seed}")
    sizes = (
        ("train", settings.train_alphabets, settings.train_characters),
        ("validation", settings.validation_alphabets, settings.characters),
        ("evaluation", settings.evaluation_alphabets, settings.characters),
    )

    def build() -> Arrays:
        arrays: Arrays = {}
        first = 0
        for name, alphabets, characters in sizes:
            arrays[name] = np.concatenate(
                [
                    prepare_batch(list(write_alphabet(seed, alphabet, characters, settings)), preprocessing)
                    for alphabet in range(first, first + alphabets)
                ]
            )
            first += alphabets
        return arrays

    key = {
        "version": CACHE_VERSION,
        "seed": seed,
        "settings": asdict(settings),
        "preprocessing": structs.asdict(preprocessing),
    }
    arrays = cached_arrays("glyphs", key, build)
    sets: dict[str, ImageSet] = {}
    first = 0
    for name, alphabets, characters in sizes:
        images = np.asarray(arrays[name], dtype=np.uint8)
        sets[name] = _image_set(
            f"glyphs {name}", images, range(first, first + alphabets), characters, settings.drawers
        )
        first += alphabets
    return Splits(
        train=sets["train"],
        validation=sets["validation"],
        evaluation=sets["evaluation"],
        provenance={"data": "glyphs", "version": CACHE_VERSION, "seed": seed, "settings": asdict(settings)}
        | {name: images.summary() for name, images in sets.items()}
        | {"warnings": []},
    )


def add_synthetic_alphabets(
    images: ImageSet, preprocessing: Preprocessing, alphabets: int, seed: int
) -> ImageSet:
    """Add generated alphabets, of `SYNTHETIC_CHARACTERS` characters each, to the classes of training drawings.

    docs/results.md has figures on the effect.

    Args:
        images: the drawings of a data set, with the same preprocessing.
        preprocessing: the encoder's input.
        alphabets: number of alphabets to add; none of them is in a split of `load_glyphs`.
        seed: decides the alphabets and the drawings.
    """
    settings = GlyphSettings(drawers=int(images.counts.max()))
    first = FIRST_SYNTHETIC

    def build() -> Arrays:
        written = (write_alphabet(seed, first + i, SYNTHETIC_CHARACTERS, settings) for i in range(alphabets))
        return {"images": np.concatenate([prepare_batch(list(one), preprocessing) for one in written])}

    key = {
        "version": CACHE_VERSION,
        "seed": seed,
        "beside": [first, alphabets, SYNTHETIC_CHARACTERS],
        "settings": asdict(settings),
        "preprocessing": structs.asdict(preprocessing),
    }
    drawings = np.asarray(cached_arrays("glyphs", key, build)["images"], dtype=np.uint8)
    names = range(first, first + alphabets)
    added = _image_set("synthetic", drawings, names, SYNTHETIC_CHARACTERS, settings.drawers)
    return images.with_classes_of(added, f"{images.name} and {added.name}")


def _image_set(
    name: str, images: npt.NDArray[np.uint8], alphabets: Iterable[int], characters: int, drawers: int
) -> ImageSet:
    groups = tuple(f"alphabet{alphabet:03d}" for alphabet in alphabets)
    classes = len(groups) * characters
    return ImageSet(
        name=name,
        images=images,
        labels=np.repeat(np.arange(classes, dtype=np.int64), drawers),
        class_names=tuple(f"{group}/character{c + 1:02d}" for group in groups for c in range(characters)),
        class_groups=np.repeat(np.arange(len(groups), dtype=np.int64), characters),
        group_names=groups,
        drawers=np.tile(np.arange(drawers, dtype=np.int64), classes),
    )


def write_alphabet(
    seed: int, alphabet: int, characters: int, settings: GlyphSettings
) -> npt.NDArray[np.uint8]:
    """The first characters of an alphabet, each written once by each drawer.

    Returns:
        uint8 (characters * drawers, SIDE, SIDE), 0 for ink; all drawings of the first character come first.
    """
    hands = [Hand.of((seed, alphabet, drawer), settings.variation) for drawer in range(settings.drawers)]
    points: list[npt.NDArray[np.float64]] = []
    owners: list[npt.NDArray[np.int64]] = []
    pens: list[float] = []
    for number, character in enumerate(generate_alphabet((seed, 1, alphabet), characters)):
        lines = write_character(character, hands, (seed, 3, alphabet, number))
        points.append(lines.reshape(-1, 2))
        owners.append(np.repeat(np.arange(len(hands)) + number * len(hands), lines.shape[1]))
        pens.extend(hand.pen for hand in hands)
    return draw_lines(np.concatenate(points), np.concatenate(owners), np.array(pens), SIDE)


@dataclass(frozen=True)
class Hand:
    """Handwriting of one drawer."""

    shape: tuple[tuple[float, float], tuple[float, float]]
    """Slant, rotation, proportions and size: a matrix from ideal units to pixels."""
    pen: float
    """Radius of the pen in pixels."""
    tremor: float
    """Amplitude of the tremor along a stroke, in ideal units."""
    sloppiness: float
    """Displacement of control points and of whole strokes, in ideal units."""
    overshoot: float
    """Elongation of the ends of a stroke, relative to its first and last segment."""
    rounding: float
    """0 keeps corners, 1 replaces them with curves."""

    @classmethod
    def of(cls, seed: tuple[int, int, int], variation: float) -> Hand:
        """The drawer of a (seed, alphabet, number)."""
        rng = np.random.default_rng([seed[0], 2, *seed[1:]])
        slant, turn = variation * rng.normal(0.0, [0.18, 0.09])
        proportion = np.exp(variation * rng.normal(0.0, 0.13))
        size = SIDE * rng.uniform(0.58, 0.80)
        cosine, sine = np.cos(turn), np.sin(turn)
        shape = (
            size
            * np.array([[cosine, sine], [-sine, cosine]])
            @ np.array([[proportion, 0], [-slant, 1 / proportion]])
        )
        return cls(
            shape=((float(shape[0, 0]), float(shape[0, 1])), (float(shape[1, 0]), float(shape[1, 1]))),
            pen=float(rng.uniform(1.0, 1.9)),
            tremor=float(variation * rng.gamma(2.0, 0.004)),
            sloppiness=float(variation * rng.uniform(0.018, 0.045)),
            overshoot=float(variation * rng.uniform(0.02, 0.10)),
            rounding=float(variation * rng.beta(1.0, 2.5) * 0.7),
        )


def write_character(
    character: Character, hands: list[Hand], seed: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """One drawing of a character by each drawer.

    Returns:
        float64 (hands, points, 2): path of the pen, in pixels of a picture of side `SIDE`.
    """
    control = sum(len(stroke.points) for stroke in character.strokes)
    strokes = len(character.strokes)
    each = 2 * control + strokes * (8 + 4 * TREMOR_WAVES) + 2
    # One generator per drawing, so that the number of drawers does not change the drawings.
    noise = np.stack(
        [np.random.default_rng([*seed, drawer]).standard_normal(each) for drawer in range(len(hands))]
    )
    taken = 0

    def draw(*shape: int) -> npt.NDArray[np.float64]:
        nonlocal taken
        begin, taken = taken, taken + int(np.prod(shape))
        return noise[:, begin:taken].reshape(len(hands), *shape)

    def of_hands(name: str) -> npt.NDArray[np.float64]:
        return np.array([getattr(hand, name) for hand in hands])[:, None, None]

    sloppiness, overshoot = of_hands("sloppiness"), of_hands("overshoot")
    tremor, rounding = of_hands("tremor"), of_hands("rounding")
    lines = []
    for stroke in character.strokes:
        extent = float(np.ptp(stroke.points, axis=0).max())
        inexact = sloppiness * (0.25 + 0.75 * extent)
        points = stroke.points + inexact * draw(len(stroke.points), 2)
        middle = points.mean(axis=1, keepdims=True)
        # Drawers rotate, stretch and misplace whole strokes more than parts of them.
        points = (
            (points - middle) @ (np.eye(2) + 3.0 * sloppiness * draw(2, 2)) + middle + sloppiness * draw(1, 2)
        )
        longer = overshoot * draw(2, 1)
        ends = points[:, [0, -1]] + longer * (points[:, [0, -1]] - points[:, [1, -2]])
        points = np.concatenate([ends[:, :1], points[:, 1:-1], ends[:, 1:]], axis=1)
        line = curve_weights(len(stroke.points), True, stroke.positions) @ points
        if not stroke.smooth:
            straight = curve_weights(len(stroke.points), False, stroke.positions) @ points
            line = rounding * line + (1 - rounding) * straight
        tremor_path = _tremor_waves(len(stroke.positions)) @ draw(2 * TREMOR_WAVES, 2)
        lines.append(line + tremor * extent * tremor_path)
    path = np.concatenate(lines, axis=1) @ np.array([hand.shape for hand in hands])
    return _place_on_paper(path, draw(1, 2))


def _place_on_paper(path: npt.NDArray[np.float64], shift: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Shift a path near the center of the paper; shrink it if it does not fit."""
    low, high = path.min(axis=1, keepdims=True), path.max(axis=1, keepdims=True)
    room = SIDE - 2 * PAPER_EDGE
    scale = np.minimum(1.0, room / (high - low).max(axis=2, keepdims=True))
    half = (high - low) / 2 * scale
    free = room / 2 - half
    return (path - (low + high) / 2) * scale + SIDE / 2 + np.clip(4.0 * shift, -free, free)


@lru_cache(maxsize=512)
def _tremor_waves(count: int) -> npt.NDArray[np.float64]:
    """(count, 2 * TREMOR_WAVES): waves along a stroke, with amplitudes inverse to their frequency."""
    turns = np.arange(1, TREMOR_WAVES + 1)
    angle = 2 * np.pi * np.linspace(0, 0.9, count)[:, None] * turns
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1) / np.tile(turns, 2)


def draw_lines(
    points: npt.NDArray[np.float64], owner: npt.NDArray[np.int64], radius: npt.NDArray[np.float64], side: int
) -> npt.NDArray[np.uint8]:
    """Draw lines by stamping a round pen at every point.

    Args:
        points: (P, 2): x and y in pixels, dense enough that the stamps merge into lines.
        owner: (P,): the picture that each point belongs to.
        radius: (N,): radius of the pen of each picture, in pixels, at most `MAX_RADIUS`, rounded to sixths of a pixel.
        side: side of a picture in pixels.

    Returns:
        uint8 (N, side, side): 0 for ink, 255 for paper.
    """
    resolution = (side + 2 * MARGIN) * SUPERSAMPLING
    near = ((points >= -1) & (points < side + 1)).all(axis=1)
    cells = np.floor((points[near] + MARGIN) * SUPERSAMPLING).astype(np.int64)
    owner = owner[near]
    centers = (owner * resolution + cells[:, 1]) * resolution + cells[:, 0]
    canvas = np.zeros(len(radius) * resolution * resolution, dtype=np.uint8)
    pens = np.clip(np.round(radius * SUPERSAMPLING * 2), 2, MAX_RADIUS * SUPERSAMPLING * 2).astype(np.int64)
    pen_of_point = pens[owner]
    for pen in np.unique(pens):
        canvas[(centers[pen_of_point == pen][:, None] + _stamp(int(pen), resolution)).ravel()] = 1
    picture = canvas.reshape(-1, resolution, resolution)[
        :, MARGIN * SUPERSAMPLING : -MARGIN * SUPERSAMPLING, MARGIN * SUPERSAMPLING : -MARGIN * SUPERSAMPLING
    ]
    rows = picture[:, 0::SUPERSAMPLING] + picture[:, 1::SUPERSAMPLING] + picture[:, 2::SUPERSAMPLING]
    ink = rows[:, :, 0::SUPERSAMPLING] + rows[:, :, 1::SUPERSAMPLING] + rows[:, :, 2::SUPERSAMPLING]
    return _SHADES[ink]


# Number of subpixels with ink to a gray value.
_SHADES = (
    255 - np.arange(SUPERSAMPLING * SUPERSAMPLING + 1) * 255 // (SUPERSAMPLING * SUPERSAMPLING)
).astype(np.uint8)


@lru_cache(maxsize=256)
def _stamp(diameter: int, row: int) -> npt.NDArray[np.int64]:
    """Offsets of the subpixels of a disc, on a canvas with the given row length."""
    reach = diameter // 2 + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    inside = 4 * (x * x + y * y) <= diameter * diameter
    return np.asarray(y[inside] * row + x[inside], dtype=np.int64)
