"""Generation of synthetic alphabets: characters made of pen strokes, as sequences of control points.

After Lake, Salakhutdinov, Tenenbaum, "Human-level concept learning through probabilistic program induction", Science 350,
2015: a character combines a few strokes from a small set of parts, and each drawer writes it differently. This generator is
much simpler and is not fitted to data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]

POINTS_PER_UNIT = 96
"""Drawn points of a stroke of length 1: dense enough that the stamps of a thin pen merge into a line."""
MIN_POINTS = 12
GRID = 20
MAX_SIMILARITY = 0.72
"""Cosine of the blurred ink of two characters of an alphabet above which the later one is generated again."""
MAX_ATTEMPTS = 25


@dataclass(frozen=True, eq=False)
class Stroke:
    """A movement of the pen."""

    points: Points
    """(k, 2): control points, x to the right and y down."""
    smooth: bool
    """Whether the pen follows a curve or straight lines through the points."""

    @cached_property
    def positions(self) -> Points:
        """(n,): positions of the drawn points for `curve_weights`, evenly spaced along the ideal shape."""
        coarse = np.linspace(0.0, len(self.points) - 1, 16 * (len(self.points) - 1) + 1)
        line = curve_weights(len(self.points), self.smooth, coarse) @ self.points
        passed = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
        count = max(MIN_POINTS, int(np.ceil(passed[-1] * POINTS_PER_UNIT)))
        return np.interp(np.linspace(0.0, passed[-1], count), passed, coarse)

    @cached_property
    def line(self) -> Points:
        """(n, 2): drawn points of the ideal shape."""
        return curve_weights(len(self.points), self.smooth, self.positions) @ self.points


@dataclass(frozen=True, eq=False)
class Character:
    """Strokes within the square from -0.5 to 0.5."""

    strokes: tuple[Stroke, ...]


@dataclass(frozen=True, eq=False)
class Style:
    """Common properties of the characters of an alphabet."""

    motifs: tuple[Stroke, ...]
    """Parts of the characters, centered and about 1 long."""
    stroke_odds: Points
    """(4,): probabilities of 1, 2, 3 and 4 strokes."""
    joined: float
    """Probability that a stroke touches an earlier one."""
    mirrored: float
    """Probability that a stroke mirrors the previous one."""
    turn: float
    """Motifs are rotated by multiples of this angle, in radians."""
    aspect: float
    """Typical width over height."""


def generate_alphabet(seed: tuple[int, ...], characters: int) -> tuple[Character, ...]:
    """The first characters of the alphabet with this seed; a larger number begins with the same ones."""
    style = _style(np.random.default_rng([*seed, 0]))
    kept: list[Character] = []
    rasters: list[npt.NDArray[np.float64]] = []
    for number in range(characters):
        best: tuple[float, Character, npt.NDArray[np.float64]] | None = None
        for attempt in range(MAX_ATTEMPTS):
            candidate = _character(style, np.random.default_rng([*seed, 1, number, attempt]))
            raster = _blurred_ink(candidate)
            similarity = max((float((raster * other).sum()) for other in rasters), default=0.0)
            if _is_dash(candidate):
                similarity += 1.0  # kept only if all attempts are dashes
            if best is None or similarity < best[0]:
                best = similarity, candidate, raster
            if similarity <= MAX_SIMILARITY:
                break
        assert best is not None
        kept.append(best[1])
        rasters.append(best[2])
    return tuple(kept)


def curve_weights(points: int, smooth: bool, position: Points) -> Points:
    """Weights of the control points in each point of the drawn line.

    Smooth lines are uniform Catmull-Rom splines through all points, with the end points mirrored outward.

    Args:
        points: number of control points, at least 2.
        smooth: a curve, or straight lines.
        position: (n,): positions on the line; 0 is the first control point, `points` - 1 the last.

    Returns:
        (n, points).
    """
    segment = np.clip(position.astype(np.int64), 0, points - 2)
    t = position - segment
    weights = np.zeros((len(position), points + 2))
    rows = np.arange(len(position))
    if smooth:
        weights[rows, segment] = (-t + 2 * t**2 - t**3) / 2
        weights[rows, segment + 1] = (2 - 5 * t**2 + 3 * t**3) / 2
        weights[rows, segment + 2] = (t + 4 * t**2 - 3 * t**3) / 2
        weights[rows, segment + 3] = (-(t**2) + t**3) / 2
    else:
        weights[rows, segment + 1] = 1 - t
        weights[rows, segment + 2] = t
    inner = weights[:, 1:-1].copy()
    # The point before the first is 2 * first - second; the one after the last is mirrored likewise.
    inner[:, 0] += 2 * weights[:, 0]
    inner[:, 1] -= weights[:, 0]
    inner[:, -1] += 2 * weights[:, -1]
    inner[:, -2] -= weights[:, -1]
    return inner


def _line(rng: np.random.Generator) -> Stroke:
    return Stroke(np.array([[-0.5, 0.0], [0.5, 0.0]]), smooth=False)


def _arc(rng: np.random.Generator) -> Stroke:
    half = rng.uniform(0.5, 2.3)
    angle = np.linspace(-half, half, 5)
    points = np.stack([np.sin(angle), -np.cos(angle)], axis=1)
    return Stroke(points, smooth=True)


def _loop(rng: np.random.Generator) -> Stroke:
    angle = np.linspace(0, 2 * np.pi, 9) + rng.uniform(0, 2 * np.pi)
    return Stroke(np.stack([np.cos(angle), rng.uniform(0.55, 1.0) * np.sin(angle)], axis=1), smooth=True)


def _wave(rng: np.random.Generator) -> Stroke:
    x = np.linspace(-0.5, 0.5, 5)
    return Stroke(np.stack([x, rng.uniform(0.15, 0.4) * np.array([0, -1, 0, 1, 0.0])], axis=1), smooth=True)


def _hook(rng: np.random.Generator) -> Stroke:
    reach = rng.uniform(0.15, 0.35)
    points = [[-0.5, 0], [0.1, 0], [0.42, 0.3 * reach], [0.5, reach], [0.35, 1.5 * reach], [0.2, 1.3 * reach]]
    return Stroke(np.array(points), smooth=True)


def _corner(rng: np.random.Generator) -> Stroke:
    opening = rng.uniform(0.8, 2.2)
    arm = rng.uniform(0.45, 1.0)
    return Stroke(np.array([[1, 0], [0, 0], [arm * np.cos(opening), arm * np.sin(opening)]]), smooth=False)


def _zigzag(rng: np.random.Generator) -> Stroke:
    height = rng.uniform(0.25, 0.6)
    corners = int(rng.integers(3, 5)) + 1
    x = np.linspace(-0.5, 0.5, corners)
    return Stroke(np.stack([x, height * (np.arange(corners) % 2 - 0.5)], axis=1), smooth=False)


def _tail(rng: np.random.Generator) -> Stroke:
    """A stem that ends in a small loop."""
    angle = np.linspace(-np.pi / 2, 1.4 * np.pi, 7)
    size = rng.uniform(0.16, 0.28)
    loop = np.stack([0.3 + size * np.cos(angle), size + size * np.sin(angle)], axis=1)
    return Stroke(np.concatenate([[[-0.6, 0.0], [-0.15, 0.0]], loop]), smooth=True)


def _spiral(rng: np.random.Generator) -> Stroke:
    angle = np.linspace(0, rng.uniform(2.6, 3.6) * np.pi, 11)
    return Stroke(
        (1 - 0.075 * angle)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1), smooth=True
    )


def _free(rng: np.random.Generator) -> Stroke:
    steps = rng.normal(0, 1, (int(rng.integers(4, 6)), 2))
    return Stroke(np.cumsum(steps, axis=0), smooth=True)


_PARTS: tuple[Callable[[np.random.Generator], Stroke], ...] = (
    _line, _arc, _loop, _wave, _hook, _corner, _zigzag, _tail, _spiral, _free,
)  # fmt: skip
_PART_ODDS = np.array([2.6, 2.2, 1.0, 0.9, 1.2, 1.5, 0.7, 0.8, 0.15, 1.0])


def _style(rng: np.random.Generator) -> Style:
    # A few kinds of parts dominate an alphabet: straight, round, looped, ...
    odds = _PART_ODDS * rng.gamma(0.7, 1.0, len(_PARTS))
    kinds = rng.choice(len(_PARTS), int(rng.integers(6, 11)), p=odds / odds.sum())
    if not (kinds == 0).any() and rng.random() < 0.7:
        kinds = np.append(kinds, 0)
    return Style(
        motifs=tuple(_unit(_PARTS[kind](rng)) for kind in kinds),
        stroke_odds=rng.dirichlet([1.2, 3.0, 2.6, 1.2]),
        joined=rng.uniform(0.45, 0.95),
        mirrored=rng.uniform(0.0, 0.25),
        turn=float(rng.choice([np.pi / 2, np.pi / 4, np.pi / 6])),
        aspect=float(np.exp(rng.normal(0, 0.25))),
    )


def _character(style: Style, rng: np.random.Generator) -> Character:
    count = 1 + int(rng.choice(4, p=style.stroke_odds))
    strokes: list[Stroke] = []
    for number in range(count):
        if strokes and rng.random() < style.mirrored:
            strokes.append(_mirror(strokes[-1], rng))
            continue
        part = style.motifs[int(rng.integers(len(style.motifs)))]
        size = (
            rng.uniform(0.75, 1.1)
            if number == 0
            else rng.uniform(0.35 if len(part.points) < 4 else 0.5, 0.95)
        )
        points = _turned(part.points, style.turn * int(rng.integers(24))) * size
        if rng.random() < 0.3:
            points = points * [-1, 1]
        points = points * [style.aspect**0.5, style.aspect**-0.5]
        if strokes:
            points = points + _place(strokes, points, style, rng)
        strokes.append(Stroke(points, part.smooth))
        if rng.random() < 0.06:
            strokes.append(_dot(strokes, rng))
    return _fitted(strokes)


def _place(strokes: list[Stroke], points: Points, style: Style, rng: np.random.Generator) -> Points:
    """Offset of a further stroke: its start, end or middle touches an earlier stroke, or it stands next to all of them."""
    before = strokes[int(rng.integers(len(strokes)))]
    if rng.random() < style.joined:
        onto = before.line[int(rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]) * (len(before.line) - 1))]
        anchor = points[[0, -1, len(points) // 2][int(rng.choice(3, p=[0.45, 0.2, 0.35]))]]
        return np.asarray(onto - anchor)
    every = np.concatenate([s.points for s in strokes])
    low, high = every.min(axis=0), every.max(axis=0)
    middle = (low + high) / 2
    side = [(1, 0), (-1, 0), (0, 1), (0, -1), (0, 0)][int(rng.integers(5))]
    reach = (high - low) / 2 + np.ptp(points, axis=0) / 2 + rng.uniform(0.08, 0.2)
    return np.asarray(middle + np.array(side) * reach - (points.min(axis=0) + points.max(axis=0)) / 2)


def _mirror(stroke: Stroke, rng: np.random.Generator) -> Stroke:
    """Mirror a stroke at one side of its bounding box, with or without a small gap."""
    axis = int(rng.random() < 0.3)
    edge = stroke.points[:, axis].max() + float(rng.choice([0.0, 0.06, 0.12]))
    points = stroke.points.copy()
    points[:, axis] = 2 * edge - points[:, axis]
    return Stroke(points, stroke.smooth)


def _dot(strokes: list[Stroke], rng: np.random.Generator) -> Stroke:
    every = np.concatenate([s.points for s in strokes])
    low, high = every.min(axis=0), every.max(axis=0)
    at = low + (high - low) * rng.uniform(0, 1, 2)
    side = int(rng.integers(2))
    at[side] = (low[side] - 0.15) if rng.random() < 0.5 else (high[side] + 0.15)
    return Stroke(at + np.array([[-0.02, -0.02], [0.02, 0.0], [0.0, 0.02]]), smooth=True)


def _is_dash(character: Character) -> bool:
    """Whether the character is a straight line, which would be the same in every alphabet."""
    every = np.concatenate([s.line for s in character.strokes])
    return bool(np.linalg.eigvalsh(np.cov(every.T))[0] < 0.05**2)


def _unit(stroke: Stroke) -> Stroke:
    """Center a stroke and scale its larger extent to 1."""
    low, high = stroke.points.min(axis=0), stroke.points.max(axis=0)
    return Stroke((stroke.points - (low + high) / 2) / (high - low).max(), stroke.smooth)


def _turned(points: Points, angle: float) -> Points:
    cosine, sine = np.cos(angle), np.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def _fitted(strokes: list[Stroke]) -> Character:
    every = np.concatenate([s.line for s in strokes])
    low, high = every.min(axis=0), every.max(axis=0)
    middle, extent = (low + high) / 2, (high - low).max()
    return Character(tuple(Stroke((s.points - middle) / extent, s.smooth) for s in strokes))


def _blurred_ink(character: Character) -> npt.NDArray[np.float64]:
    """Blurred ink on a coarse grid, (GRID, GRID), of Euclidean norm 1; similar characters have a product near 1."""
    every = np.concatenate([s.line for s in character.strokes])
    cells = np.clip(((every + 0.5) * GRID).astype(np.int64), 0, GRID - 1)
    ink = np.zeros((GRID, GRID))
    ink[cells[:, 1], cells[:, 0]] = 1.0
    blur = _blur()
    ink = blur @ ink @ blur
    return ink / np.linalg.norm(ink)


@lru_cache(maxsize=1)
def _blur() -> Points:
    distance = np.arange(GRID)[:, None] - np.arange(GRID)
    return np.asarray(np.exp(-(distance**2) / 2.0))
