"""Identification among strangers: a few registered objects, and pictures of anything else.

Objects of a data set are registered from a few pictures each, as the device registers them. The device's own threshold
for a false-accept rate follows from these objects and the bundle's impostors (`Acceptance`). It is applied to other
pictures of the objects, and to pictures of strangers, which nobody registered and which are not among the impostors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_siamese.errors import DataError, ImageError
from edge_siamese.pictures import read_picture
from edge_siamese.recognition.decision import Acceptance
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Bytes, Preprocessing, prepare
from edge_siamese.recognition.support import SupportSet
from export.data.folders import pictures_in
from export.data.images import ImageSet, Indices
from export.evaluation.embeddings import Embeddings

RATES = (0.1, 0.01, 0.001)
REGISTERED = (1, 5, 20)
PICTURES = (1, 3)
"""Pictures that each object is registered from."""
EPISODES, QUERIES = 200, 8
MAX_OTHERS = 1000
OTHER_CLASSES = "other classes"
RESAMPLES = 1000


@dataclass(frozen=True)
class Share:
    """A share of pictures, with its 95 % bootstrap interval over episodes."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Identified:
    """Identification with some objects registered, at the threshold for one false-accept rate."""

    registered: int
    pictures: int
    """Pictures that each object was registered from."""
    false_accept_rate: float
    """The requested rate."""
    probability: float
    """The threshold on p(same): mean over episodes."""
    identified: Share
    """Share of the pictures of registered objects that were recognized as the right one."""
    confused: Share
    """Share of these pictures that were recognized as another registered object."""
    strangers: Share
    """Share of the pictures of strangers that were recognized as one of the objects."""


@dataclass(frozen=True)
class StrangersResult:
    """Results of `measure_strangers` for one encoder."""

    model_id: str
    data: str
    classes: int
    """Number of classes from which objects are drawn."""
    impostors: int
    """Number of impostors in the bundle."""
    strangers: int
    """Number of pictures of strangers."""
    strangers_are: str
    """Their origin: the name of their folder, or `other classes`."""
    episodes: int
    results: tuple[Identified, ...]
    skipped: tuple[str, ...]
    """Measurements that were skipped, because there are too few classes or pictures."""


def read_pictures(folder: Path, preprocessing: Preprocessing) -> Bytes:
    """Read all pictures of a folder and its subfolders, in the order of their names.

    Returns:
        uint8 (N, H, W, C), prepared for the encoder.

    Raises:
        DataError: the folder does not exist or has no pictures, or one cannot be read.
    """
    paths = pictures_in(folder)
    images = np.empty((len(paths), *preprocessing.shape), dtype=np.uint8)
    for index, path in enumerate(paths):
        try:
            images[index] = prepare(read_picture(path), preprocessing)
        except (ImageError, OSError) as error:
            raise DataError(f"{path}: {error}") from error
    return images


def measure_strangers(
    queries: Embeddings,
    supports: Embeddings,
    images: ImageSet,
    head: SigmoidDistanceHead,
    acceptances: Sequence[Acceptance],
    strangers: Embeddings | None = None,
    *,
    strangers_are: str = OTHER_CLASSES,
    model_id: str = "",
    episodes: int = EPISODES,
    seed: int = 0,
) -> StrangersResult:
    """Measure identification for each number of objects, number of pictures and false-accept rate.

    Args:
        queries: float32 (N, D), of `images.images`, embedded as frames.
        supports: float32 (N, D), of the same pictures, embedded as at registration.
        images: the classes to draw objects from.
        head: computes distances.
        acceptances: the rules to test, one for each false-accept rate.
        strangers: float32 (S, D), of pictures of anything else. None: pictures of the classes that were not drawn, which
            may look much like those that were.
        strangers_are: description of the strangers.
        model_id: id of the model, for the results.
        episodes: draws of objects and pictures.
        seed: equal seeds draw equally.
    """
    results, skipped = list[Identified](), list[str]()
    for registered in REGISTERED:
        for pictures in PICTURES:
            usable = np.flatnonzero(images.counts > pictures)
            if len(usable) < registered:
                skipped.append(
                    f"{registered} objects from {pictures} pictures each: {len(usable)} classes have more"
                )
                continue
            rng = np.random.default_rng([seed, 31, registered, pictures])
            counts = np.zeros((len(acceptances), episodes, 4))
            thresholds = np.zeros((len(acceptances), episodes))
            for episode in range(episodes):
                chosen = rng.choice(usable, registered, replace=False)
                known, asked, truth = list[Embeddings](), list[Embeddings](), list[int]()
                for place, label in enumerate(chosen):
                    order = rng.permutation(images.images_of(int(label)))
                    known.append(supports[order[:pictures]])
                    asked.append(queries[order[pictures : pictures + QUERIES]])
                    truth += [place] * len(asked[-1])
                support = SupportSet.of(
                    {str(place): rows for place, rows in enumerate(known)}, queries.shape[1]
                )
                distances = support.distances(head, np.concatenate(asked))
                nearest = distances.min(axis=1)
                right = distances.argmin(axis=1) == np.array(truth)
                unknown = queries[_not_drawn(images, chosen, rng)] if strangers is None else strangers
                unknown_nearest = support.distances(head, unknown).min(axis=1)
                for row, acceptance in enumerate(acceptances):
                    thresholds[row, episode] = acceptance.general_threshold(support, head)
                    limit = head.distance_at(thresholds[row, episode])
                    accepted = nearest <= limit
                    counts[row, episode] = (
                        (accepted & right).sum(),
                        (accepted & ~right).sum(),
                        len(truth),
                        (unknown_nearest <= limit).mean(),
                    )
            for row, acceptance in enumerate(acceptances):
                identified, confused, stranger = _shares(counts[row], seed)
                results.append(
                    Identified(
                        registered,
                        pictures,
                        acceptance.false_accept_rate or 0.0,
                        float(thresholds[row].mean()),
                        identified,
                        confused,
                        stranger,
                    )
                )
    impostors = acceptances[0].impostors if acceptances else None
    return StrangersResult(
        model_id,
        images.name,
        images.classes,
        0 if impostors is None else len(impostors),
        len(images.labels) if strangers is None else len(strangers),
        strangers_are,
        episodes,
        tuple(results),
        tuple(skipped),
    )


def _not_drawn(images: ImageSet, chosen: Indices, rng: np.random.Generator) -> Indices:
    """Indices of at most `MAX_OTHERS` pictures of the classes that were not chosen."""
    others = np.flatnonzero(~np.isin(images.labels, chosen))
    return rng.permutation(others)[:MAX_OTHERS]


def _shares(counts: Embeddings, seed: int) -> tuple[Share, Share, Share]:
    """Identified, confused and accepted strangers, from (episodes, 4): counts of the first two, queries, and the share."""
    draws = np.random.default_rng([seed, 32]).integers(0, len(counts), (RESAMPLES, len(counts)))
    resampled = counts[draws].sum(axis=1)
    total = counts.sum(axis=0)

    def share(column: int, divisor: int | None) -> Share:
        of_all = len(counts) if divisor is None else total[divisor]
        of_each = len(counts) if divisor is None else resampled[:, divisor]
        low, high = np.quantile(resampled[:, column] / of_each, [0.025, 0.975])
        return Share(float(total[column] / of_all), float(low), float(high))

    return share(0, 2), share(1, 2), share(3, None)
