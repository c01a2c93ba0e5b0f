"""The verdict: which encoder to use, and that it claims no improvement that its interval does not show."""

from __future__ import annotations

import numpy as np
import pytest

from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.images import ImageSet
from export.evaluation.metrics import class_interval
from export.evaluation.verdict import (
    SHIPPED,
    STARTING,
    TRAINED,
    Verdict,
    advice_on,
    choose_candidate,
    decide,
    run_episodes,
)

HEAD = SigmoidDistanceHead(scale=1.0, bias=0.0)


def pictures(classes: int, each: int = 8) -> ImageSet:
    labels = np.repeat(np.arange(classes), each).astype(np.int64)
    return ImageSet(
        "photos", np.zeros((len(labels), 1, 1, 1), np.uint8), labels, tuple(f"class {c}" for c in range(classes)),
        np.zeros(classes, np.int64), ("photos",), np.full(len(labels), -1, np.int64),
    )  # fmt: skip


def embeddings(images: ImageSet, noise: np.ndarray | float, seed: int) -> np.ndarray:
    """One direction a class, and noise of a strength for each class."""
    rng = np.random.default_rng(seed)
    strength = np.broadcast_to(noise, images.classes)[images.labels][:, None]
    vectors = np.eye(32)[images.labels] + strength * rng.normal(size=(len(images), 32))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def verdict(classes: int, training: int = 20, **noise: np.ndarray | float) -> Verdict:
    images = pictures(classes)
    names = {"shipped": SHIPPED, "starting": STARTING, "trained": TRAINED}
    found = {
        names[n]: (embeddings(images, value, seed), HEAD) for seed, (n, value) in enumerate(noise.items())
    }
    return decide(found, images, training)


def test_a_clear_improvement_over_both_is_recommended_with_its_intervals() -> None:
    found = verdict(12, shipped=0.5, starting=0.45, trained=0.1)
    assert found.choice == TRAINED and (found.way, found.classes) == (12, 12)
    by_name = {c.name: c for c in found.candidates}
    assert by_name[TRAINED].accuracy > 0.98 > 0.6 > by_name[SHIPPED].accuracy
    assert all(c.low <= c.accuracy <= c.high for c in found.candidates)
    gain = next(d for d in found.differences if (d.name, d.than) == (TRAINED, SHIPPED))
    assert gain.value == pytest.approx(by_name[TRAINED].accuracy - by_name[SHIPPED].accuracy)
    assert gain.shown and 0 < gain.low < gain.value < gain.high
    assert found.sentence.startswith(
        "Use the trained bundle: the trained bundle minus the shipped bundle objects: +"
    )


def test_an_improvement_on_some_classes_alone_is_not_claimed() -> None:
    """Better on three of eight classes and worse on two: the mean rises, and its interval includes zero."""
    trained = np.array([0.1, 0.1, 0.1, 0.5, 0.5, 0.7, 0.8, 0.5])
    found = verdict(8, shipped=0.5, trained=trained)
    (gain,) = found.differences
    assert gain.value > 0 > gain.low and not gain.shown
    assert found.choice == SHIPPED
    assert found.sentence.startswith(
        "Use the shipped bundle objects: no improvement over it is shown for new classes: "
    )


def test_few_classes_show_nothing_even_if_all_improve() -> None:
    found = verdict(5, shipped=0.6, trained=0.05)
    (gain,) = found.differences
    assert gain.low > 0 and not gain.shown and found.choice == SHIPPED
    assert "(5 classes are too few to show one)" in found.sentence


def test_a_training_that_only_equals_its_start_recommends_the_start() -> None:
    found = verdict(12, shipped=0.6, starting=0.1, trained=0.1)
    assert found.choice == STARTING
    assert found.sentence.startswith(
        "Use the starting weights (run again with --steps 0): the starting weights minus "
    )


def test_an_encoder_that_makes_one_vector_of_everything_recognizes_nothing() -> None:
    images = pictures(6)
    constant = np.ones((len(images), 4), np.float32)
    found = decide({TRAINED: (constant, HEAD), SHIPPED: (embeddings(images, 0.1, 0), HEAD)}, images, 20)
    assert {c.name: c.accuracy for c in found.candidates}[TRAINED] == 0.0
    assert found.choice == SHIPPED


def test_the_interval_resamples_classes_and_not_queries() -> None:
    """Half of the classes are always recognized, half hardly: 2,000 episodes do not make the interval narrow."""
    noise = np.array([0.01] * 5 + [3.0] * 5)
    (candidate,) = verdict(10, shipped=noise).candidates
    assert candidate.high - candidate.low > 0.4


@pytest.mark.parametrize(("classes", "expected"), [(9, True), (10, False)])
def test_fewer_than_ten_training_classes_are_advised_against(classes: int, expected: bool) -> None:
    assert bool(advice_on(classes)) == expected
    assert verdict(6, classes, shipped=0.1).advice == advice_on(classes)
    if expected:
        assert advice_on(classes).startswith("Training is not advised: 9 training classes are fewer than 10.")


def test_equal_seeds_give_equal_verdicts() -> None:
    assert verdict(7, shipped=0.4, trained=0.3) == verdict(7, shipped=0.4, trained=0.3)


def test_answers_of_several_folds_are_pooled_over_their_classes() -> None:
    """Class 0 of one fold is not class 0 of another."""
    parts = []
    for seed in range(3):
        images = pictures(4)
        candidates = {
            SHIPPED: (embeddings(images, 0.6, seed), HEAD),
            TRAINED: (embeddings(images, 0.1, 9), HEAD),
        }
        parts.append(run_episodes(candidates, images, 4, False, seed))
    found = choose_candidate(parts, 20, ("a reason",), "Too good.", folds=3)
    assert (found.classes, found.way, found.episodes, found.folds) == (12, 4, 6000, 3)
    assert found.choice == TRAINED and found.skipped == ("a reason",)
    means = [np.mean([part.right[SHIPPED].mean() for part in parts])]
    assert {c.name: c.accuracy for c in found.candidates}[SHIPPED] == pytest.approx(means[0])
    assert found.sentence.endswith(" Too good.") and found.measured.startswith(
        "3-fold cross-validation: each of the 12 "
    )


def test_the_verdict_says_whose_figures_it_shows() -> None:
    assert verdict(12, shipped=0.5).measured == (
        "The same 2,000 episodes for all, of 12 classes that were not trained on; 20 were."
    )


def test_the_interval_of_a_difference_covers_the_truth_with_few_classes() -> None:
    """With six classes, a percentile bootstrap misses the truth in 14 % of the cases, Student's interval in 5 %."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(400):
        gains = rng.normal(0.0, 0.2, 6)
        interval = class_interval(np.repeat(gains, 5), np.repeat(np.arange(6), 5))
        missed += not interval.low <= 0.0 <= interval.high
    assert 8 <= missed <= 32
