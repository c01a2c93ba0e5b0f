"""Surroundings: what a camera sees while nothing registered is near, and the limits of objects that follow from it.

Each scene, a visit or the empty place between two visits, is condensed to one embedding (`SceneSampler`). A bounded sample
of them is kept (`Surroundings`). An object whose limit they come close to gets a stricter one (`tightened`). The rules are
in docs/method.md, "Surroundings".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from statistics import NormalDist

import numpy as np

from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Floats
from edge_siamese.recognition.support import SupportSet

MAX_SCENES = 500
"""Scenes that are kept: 500 kB of memory with 256 dimensions, and half of it on disk."""
MAX_BYTES = 2 * 1024 * 1024
"""Memory of them, which limits their number with more dimensions."""
MIN_SCENE_FRAMES = 6
"""Frames of a scene: something that moves through the picture leaves none."""
MIN_PLACE_FRAMES = 100
"""Frames of a scene that may be the empty place: nobody holds an object still for that long before its registration."""
MAX_STANDING_FRAMES = 300
"""Frames for which an object may stand before the camera before it is registered."""
MAX_PLACES = 16
"""Empty places that are kept; a further one replaces the oldest."""
MAX_SCENE_FRAMES = 600
"""A scene that stays is sampled after this many frames, and then begins again."""
MIN_SCENES = 30
"""Scenes from which the distances of all others are estimated."""
GUARD = 1.1
"""A scene within this multiple of an object's limit may be the object itself, and says nothing about it."""
MIN_LIMIT = 0.8
"""The surroundings lower the limit of an object to no less than this fraction of the general threshold's distance."""
FIT_STEPS, MAX_MISSING = 20, 0.5
"""Steps of the fit, and the largest share of scenes within the guard distance that it assumes."""
RATE = 0.01
"""The share of scenes that may be within the limit of any object, if the settings state no rate."""


class SceneSampler:
    """Condenses the frames of a region to one embedding for each scene, the mean of its frames.

    A scene ends when a frame differs from its mean. A scene in which an object was recognized gives no embedding.

    Args:
        head: computes the distances.
        same: the distance within which two pictures show the same thing.
    """

    def __init__(self, head: SigmoidDistanceHead, same: float) -> None:
        self._head, self._same = head, same
        self._place: Floats | None = None
        self._standing = 0
        self.discard()

    def discard(self) -> None:
        """Begin again, without the frames so far."""
        self._sum: Floats | None = None
        self._frames, self._is_known = 0, False

    def add(self, embedding: Floats | None, is_known: bool) -> Floats | None:
        """Add a frame.

        Args:
            embedding: float32 (D,); None if there was nothing to see.
            is_known: an object was recognized, or is present.

        Returns:
            The embedding of the scene that ended with the previous frame, float32 (D,); None if it continues, was too short,
            or showed an object.
        """
        if embedding is None:
            self._place, self._standing = None, 0
            return self.end()
        ended = None
        if self._differs(embedding):
            if self._standing >= MIN_PLACE_FRAMES:
                self._place = None if self._is_known else self._mean()
            self._standing, ended = 0, self.end()
        elif self._frames >= MAX_SCENE_FRAMES:
            ended = self.end()
        self._sum = embedding.astype(np.float32) if self._sum is None else self._sum + embedding
        self._frames, self._standing = self._frames + 1, self._standing + 1
        self._is_known = self._is_known or is_known
        return ended

    def end(self) -> Floats | None:
        """End the scene; returns what `add` does."""
        scene = None if self._frames < MIN_SCENE_FRAMES or self._is_known else self._mean()
        self.discard()
        return scene

    @property
    def place(self) -> Floats | None:
        """The place as it was for a while before the present scene began, float32 (D,).

        None if it is uncertain: nothing stood still for long enough, an object was recognized there, or the present scene
        began long ago.
        """
        return self._place if self._standing <= MAX_STANDING_FRAMES else None

    def _mean(self) -> Floats | None:
        return None if self._sum is None else self._sum / np.float32(self._frames)

    def _differs(self, embedding: Floats) -> bool:
        mean = self._mean()
        if mean is None:
            return False
        return float(self._head.paired_distances(mean[None], embedding[None])[0]) > self._same


class Surroundings:
    """A bounded sample of scenes, and the empty places; no two scenes or places show the same thing.

    If it is full, a scene replaces a random one. So scenes of a previous location fade away, and frequent strangers do not
    displace rare ones.

    Args:
        head: computes the distances.
        same: the distance within which two pictures show the same thing.
        scenes: float32 (N, D), to begin with.
        places: float32 (P, D), to begin with.
        random: chooses what is replaced.
    """

    def __init__(
        self,
        head: SigmoidDistanceHead,
        same: float,
        scenes: Floats,
        places: Floats | None = None,
        random: Random | None = None,
    ) -> None:
        self._head, self._same, self._random = head, same, random or Random()
        self._capacity = max(1, min(MAX_SCENES, MAX_BYTES // (4 * scenes.shape[1])))
        self.scenes: Floats = scenes[: self._capacity].astype(np.float32)
        """float32 (N, D)."""
        self.places: Floats = (scenes[:0] if places is None else places[-MAX_PLACES:]).astype(np.float32)
        """float32 (P, D), the oldest first."""

    def __len__(self) -> int:
        """The number of scenes."""
        return len(self.scenes)

    def add(self, scene: Floats) -> bool:
        """Add a scene, float32 (D,); returns whether it differs from all others."""
        if len(self) and float(self._head.distances(scene[None], self.scenes).min()) <= self._same:
            return False
        if len(self) < self._capacity:
            self.scenes = np.concatenate([self.scenes, scene[None]])
        else:
            self.scenes = self.scenes.copy()  # readers may have the former array
            self.scenes[self._random.randrange(self._capacity)] = scene
        return True

    def add_place(self, place: Floats) -> bool:
        """Add an empty place, float32 (D,); returns whether it differs from all others."""
        if len(self.places) and float(self._head.distances(place[None], self.places).min()) <= self._same:
            return False
        self.places = np.concatenate([self.places, place[None]])[-MAX_PLACES:]
        return True

    def clear(self) -> None:
        """Forget all scenes and places."""
        self.scenes, self.places = self.scenes[:0], self.places[:0]


@dataclass(frozen=True)
class Fit:
    """How close the surroundings come to an object."""

    scenes: int
    """The number of scenes that are certain to be something else."""
    further: float | None = None
    """The estimated share of scenes that are further away than the general limit; None with too few scenes."""
    is_near: bool = False
    """Whether more of them are within its limit than the requested share."""

    @property
    def text(self) -> str:
        """Human-readable, such as `99.8 % of what this camera sees is further away`."""
        if self.further is None:
            return f"this camera has seen {self.scenes} of the {MIN_SCENES} other scenes that are needed"
        # Rounded down, and never 100: it is an estimate.
        digits = 1 if self.further < 0.999 else 2
        share = min(99.99, math.floor(100.0 * self.further * 10**digits + 1e-6) / 10**digits)
        return f"{share:.{digits}f} % of what this camera sees is further away"


def tightened(
    support: SupportSet, head: SigmoidDistanceHead, threshold: float, scenes: Floats, rate: float | None
) -> tuple[SupportSet, tuple[Fit, ...]]:
    """Make the limits stricter of objects that the surroundings come close to.

    The distances of scenes to an object are taken as normally distributed, up to their median. The limit is the distance
    within which the share `rate` of the scenes is expected, divided by the number of objects. Scenes within `GUARD` times
    the general limit are ignored: they may be the object itself. Other unrecognized views of it are few, and hardly
    change the median and the spread.

    Args:
        support: N objects, with their limits.
        head: computes the distances.
        threshold: the general threshold, a probability. With 0 or 1 nothing changes.
        scenes: float32 (S, D).
        rate: the share of scenes that may be recognized as any object; None: `RATE`.

    Returns:
        The objects with the stricter limits, and how close the scenes come to each of them.
    """
    if not (len(support) and 0.0 < threshold < 1.0):
        return support, (Fit(0),) * len(support)
    general = head.distance_at(threshold)
    deviations = NormalDist().inv_cdf(min(0.5, (RATE if rate is None else rate) / len(support)))
    limits, fits = support.limits.copy(), list[Fit]()
    for place, distances in enumerate(support.distances(head, scenes).T):
        certain = np.sort(distances[distances > GUARD * general])
        if general <= 0.0 or len(certain) < MIN_SCENES:
            fits.append(Fit(len(certain)))
            continue
        fitted = _fit_truncated(certain, GUARD * general)
        limit = max(MIN_LIMIT * general, fitted.mean + deviations * fitted.stdev)
        is_near = limit < min(general, float(limits[place]))
        if is_near:
            limits[place] = limit
        fits.append(Fit(len(certain), 1.0 - fitted.cdf(general), is_near))
    by_surroundings = np.array([fit.is_near for fit in fits])
    return support.with_limits(limits, by_surroundings), tuple(fits)


def _fit_truncated(distances: Floats, lower: float) -> NormalDist:
    """The normal distribution with the median and the 16 % quantile of a sample in which all below a bound is missing.

    Args:
        distances: sorted.
        lower: the bound.
    """
    standard, shares = NormalDist(), (0.16, 0.5)
    low, middle = (float(value) for value in np.quantile(distances, shares))
    missing, fitted = 0.0, standard
    for _ in range(FIT_STEPS):
        z_low, z_middle = (standard.inv_cdf(missing + share * (1.0 - missing)) for share in shares)
        spread = max(1e-6, (middle - low) / (z_middle - z_low))
        fitted = NormalDist(middle - spread * z_middle, spread)
        missing = min(MAX_MISSING, fitted.cdf(lower))
    return fitted
