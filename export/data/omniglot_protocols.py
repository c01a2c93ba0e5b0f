"""Other splits of Omniglot that papers report on: few alphabets to train on, or characters of all alphabets at random.

Lake, Salakhutdinov, Tenenbaum, "The Omniglot challenge: a 3-year progress report" (2019), tells why the two are not to be
compared: characters at random are easier, being told apart from those of other alphabets, and five alphabets are harder.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edge_siamese.errors import DataError
from export.data.images import ImageSet, OneShotRun, Splits

CHARACTERS = "characters"
TRAINED, SELECTED_BY = 1100, 100
"""Of the 1,200 characters that Vinyals et al. (2016) and later papers train on and select by; 423 are left."""
_SEED = 1200


def few_alphabets(
    alphabets: tuple[str, ...], background: ImageSet, evaluation: ImageSet, runs: tuple[OneShotRun, ...]
) -> Splits:
    """Some background alphabets to train on; the others fit the head and choose the step, and teach nothing else.

    Raises:
        DataError: an alphabet is none of the background set, is named twice, or none is left.
    """
    names = list(background.group_names)
    if unknown := [name for name in alphabets if name not in names]:
        raise DataError(f"{unknown[0]!r} is no alphabet of {background.name}: {', '.join(names)}")
    if len(set(alphabets)) != len(alphabets) or len(alphabets) >= len(names):
        raise DataError(f"name each alphabet to train on once, and leave one of {len(names)} to select by")
    trained = np.isin(background.class_groups, [names.index(name) for name in alphabets])
    return Splits(
        train=replace(background.select(np.flatnonzero(trained)), name="omniglot train"),
        validation=replace(background.select(np.flatnonzero(~trained)), name="omniglot validation"),
        evaluation=evaluation,
        official_runs=runs,
    )


def characters_at_random(background: ImageSet, evaluation: ImageSet) -> Splits:
    """1,200 characters of all fifty alphabets to train on (100 of them to select by), 423 others to be told apart.

    As in the papers, each of these also counts as three further characters, turned by a quarter, a half and three quarters.
    There are no official trials in it: their characters were trained on. Always the same characters; Vinyals et al. did not
    publish theirs.
    """
    both = background.with_classes_of(evaluation, "omniglot")
    if both.classes <= TRAINED + SELECTED_BY:
        raise DataError(
            f"omniglot has {both.classes} characters here, more than {TRAINED + SELECTED_BY} are needed"
        )
    order = np.random.default_rng(_SEED).permutation(both.classes)
    parts = np.split(order, [TRAINED, TRAINED + SELECTED_BY])
    train, validation, rest = (both.select(np.sort(part)) for part in parts)
    return Splits(
        train=replace(train, name="omniglot train"),
        validation=replace(validation, name="omniglot validation"),
        evaluation=replace(turned(rest), name="omniglot characters"),
    )


def turned(images: ImageSet) -> ImageSet:
    """Each class four times: as it is, and turned by a quarter, a half and three quarters."""
    ways = range(4)
    return ImageSet(
        name=images.name,
        images=np.concatenate([np.rot90(images.images, way, axes=(1, 2)) for way in ways]),
        labels=np.concatenate([images.labels + way * images.classes for way in ways]),
        class_names=tuple(f"{name}, turned by {90 * way}" for way in ways for name in images.class_names),
        class_groups=np.tile(images.class_groups, 4),
        group_names=images.group_names,
        drawers=np.tile(images.drawers, 4),
    )
