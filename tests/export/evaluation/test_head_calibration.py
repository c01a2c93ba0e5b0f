"""Fitting the head: known answers, calibration on classes never seen, and what is refused."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edge_siamese.errors import DataError, ExportError
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.images import ImageSet
from export.data.sampling import verification_pairs
from export.evaluation import metrics
from export.evaluation.head_calibration import (
    AllPairs,
    all_pairs,
    fit_head,
    fit_scale_and_bias,
    paired_distances,
    threshold_at,
)


def clusters(
    groups: int, classes: int, drawers: int = 20, seed: int = 0, spread: float = 0.45
) -> tuple[ImageSet, npt.NDArray[np.float32]]:
    """An image set with empty pictures, and unit embeddings (N, 32) around a direction for each class."""
    rng = np.random.default_rng(seed)
    count = groups * classes
    labels = np.repeat(np.arange(count), drawers)
    images = ImageSet(
        name="clusters",
        images=np.zeros((len(labels), 1, 1, 1), dtype=np.uint8),
        labels=labels,
        class_names=tuple(f"class {c}" for c in range(count)),
        class_groups=np.repeat(np.arange(groups), classes),
        group_names=tuple(f"group {g}" for g in range(groups)),
        drawers=np.tile(np.arange(drawers), count),
    )
    centers = rng.normal(size=(count, 32))
    points = centers[labels] / np.linalg.norm(centers[labels], axis=1, keepdims=True)
    points = points + rng.normal(size=points.shape) * spread / np.sqrt(32) * 2
    return images, (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def test_fit_finds_the_head_that_the_pairs_were_made_with() -> None:
    rng = np.random.default_rng(3)
    distances = rng.uniform(0.0, 2.0, 400_000)
    same = rng.random(400_000) < SigmoidDistanceHead(scale=9.0, bias=6.0).probability(distances)
    scale, bias = fit_scale_and_bias(distances, same)
    assert scale == pytest.approx(9.0, rel=0.02)
    assert bias == pytest.approx(6.0, rel=0.02)


def test_fit_does_not_depend_on_the_unit_of_distance() -> None:
    rng = np.random.default_rng(3)
    distances = rng.uniform(0.0, 2.0, 5000)
    same = rng.random(5000) < SigmoidDistanceHead(scale=9.0, bias=6.0).probability(distances)
    scale, bias = fit_scale_and_bias(distances, same)
    small_scale, small_bias = fit_scale_and_bias(distances * 1e-4 + 7.0, same)
    assert small_scale * 1e-4 == pytest.approx(scale, rel=1e-6)
    assert small_bias == pytest.approx(bias + small_scale * 7.0, rel=1e-6)


def test_fit_maximizes_the_likelihood_of_the_smoothed_targets() -> None:
    # Two pairs of each kind: the targets are 3/4 and 1/4, and two numbers reach them exactly at d = 1 and d = 3.
    scale, bias = fit_scale_and_bias([1.0, 1.0, 3.0, 3.0], [True, True, False, False])
    assert scale == pytest.approx(
        np.log(3.0), rel=1e-6
    )  # log-odds fall from log 3 to -log 3 over a distance of 2
    assert bias == pytest.approx(2.0 * np.log(3.0), rel=1e-6)


def test_fit_stays_finite_when_the_kinds_are_far_apart() -> None:
    distances = np.concatenate([np.full(10_000, 0.1), np.full(10_000, 1.9)])
    scale, bias = fit_scale_and_bias(distances, distances < 1.0)
    # log-odds of 10001 to 1 at both ends, 1.8 apart
    assert scale == pytest.approx(2 * np.log(10_001) / 1.8, rel=1e-3)
    assert bias / scale == pytest.approx(1.0, rel=1e-3)


def test_fit_of_equal_distances_is_the_base_rate() -> None:
    assert fit_scale_and_bias([1.0] * 4, [True, False, True, False]) == (0.0, 0.0)


def test_fit_needs_both_kinds() -> None:
    with pytest.raises(DataError, match="2 genuine and 0 impostor"):
        fit_scale_and_bias([0.0, 1.0], [True, True])


def test_calibration_carries_over_to_groups_never_seen() -> None:
    images, embeddings = clusters(groups=4, classes=25, seed=1)
    found = fit_head(embeddings, images, pairs=20_000)
    assert found.pairs == 20_000
    assert found.head.scale > 0.0
    assert found.head.distance == "euclidean"
    assert found.left_out_ece is not None
    assert max(found.ece, found.left_out_ece) < 0.03
    other_images, other = clusters(groups=10, classes=25, seed=2)
    pairs = verification_pairs(other_images, 20_000, np.random.default_rng(5))
    p = found.head.probability(found.head.paired_distances(other[pairs.a], other[pairs.b]))
    assert metrics.expected_calibration_error(p, pairs.same) < 0.03
    assert 0.0 < found.eer < 0.2


def test_equal_seeds_give_equal_heads() -> None:
    images, embeddings = clusters(groups=2, classes=10)
    first, second = (fit_head(embeddings, images, pairs=2000, seed=4) for _ in range(2))
    assert (first.head.scale, first.head.bias, first.thresholds) == (
        second.head.scale,
        second.head.bias,
        second.thresholds,
    )
    assert fit_head(embeddings, images, pairs=2000, seed=5).head.scale != first.head.scale


def test_thresholds_keep_what_they_promise_on_their_own_pairs() -> None:
    images, embeddings = clusters(groups=4, classes=25)
    found = fit_head(embeddings, images)
    pairs = all_pairs(embeddings, images, found.head)
    # 2000 images: 1,999,000 pairs, of which 100 * 190 are genuine.
    assert (len(pairs.genuine), len(pairs.impostor)) == (19_000, 1_980_000)
    assert pairs.within == 4 * 25 * 24 // 2 * 400
    assert [threshold.false_accept_rate for threshold in found.thresholds] == [1e-2, 1e-3, 1e-4]
    for threshold in found.thresholds:
        accepted = (found.head.probability(pairs.impostor) >= threshold.probability).sum()
        assert accepted == round(threshold.false_accept_rate * 1_980_000)
        rejected = (found.head.probability(pairs.genuine) < threshold.probability).mean()
        assert threshold.false_reject_rate == pytest.approx(rejected, abs=1e-4)
        assert threshold.impostor_pairs == 1_980_000
    assert found.impostors.startswith(
        "1,980,000 pairs of images of different classes, any two drawers: 480,000 within"
    )


def test_rates_that_the_pairs_do_not_suffice_for_are_not_stated() -> None:
    images, embeddings = clusters(groups=2, classes=5, drawers=10)
    found = fit_head(embeddings, images, pairs=2000)
    # 100 images make 4,500 impostor pairs: 45 false accepts at 1e-2, but 4.5 at 1e-3.
    assert [threshold.false_accept_rate for threshold in found.thresholds] == [1e-2]
    assert found.not_stated == (1e-3, 1e-4)


def test_a_steep_head_has_a_threshold_too() -> None:
    rng = np.random.default_rng(0)
    pairs = AllPairs(
        genuine=rng.uniform(0.0, 0.9, 1000).astype(np.float32),
        impostor=rng.uniform(1.0, 2.0, 4000).astype(np.float32),
        within=4000,
        images=100,
    )
    # Far below zero, e to the power of minus the log-odds is no float64.
    assert threshold_at(1e-2, pairs, SigmoidDistanceHead(scale=2000.0, bias=1000.0)) is None
    nearest = np.sort(pairs.impostor)
    head = SigmoidDistanceHead(scale=2000.0, bias=2000.0 * float(nearest[39] + nearest[40]) / 2)
    found = threshold_at(1e-2, pairs, head)
    assert found is not None
    assert found.probability == pytest.approx(0.5, abs=1e-3)
    assert found.false_reject_rate == 0.0


def test_impostors_of_a_part_are_spread_over_the_classes() -> None:
    images, embeddings = clusters(groups=2, classes=10, drawers=20)
    part = all_pairs(embeddings, images, SigmoidDistanceHead(5.0, 5.0), max_pairs=200 * 199 // 2)
    assert part.images == 200
    # Eight images of each class, then four more of half of the classes: 10 * (66 + 28) of the pairs are genuine.
    assert len(part.impostor) == 200 * 199 // 2 - 10 * (66 + 28)
    # Genuine pairs are few, so all of them are looked at.
    assert len(part.genuine) == 20 * 190


def test_all_pairs_agree_with_a_loop() -> None:
    images, embeddings = clusters(groups=2, classes=3, drawers=4)
    head = SigmoidDistanceHead(5.0, 5.0)
    pairs = all_pairs(embeddings, images, head)
    expected = [
        float(np.linalg.norm(embeddings[i] - embeddings[j]))
        for i in range(24)
        for j in range(i)
        if images.labels[i] == images.labels[j]
    ]
    assert np.sort(pairs.genuine) == pytest.approx(np.sort(expected), abs=1e-3)
    assert len(pairs.impostor) == 24 * 23 // 2 - len(expected)
    assert threshold_at(1e-3, pairs, head) is None


def test_a_trained_weighted_l1_head_gets_an_affine_correction_alone() -> None:
    images, embeddings = clusters(groups=3, classes=10)
    rng = np.random.default_rng(0)
    # Trained log-odds that are three times too sure and off by two.
    weights = rng.uniform(2.0, 4.0, 32).astype(np.float32)
    trained = SigmoidDistanceHead(scale=1.0, bias=10.0, distance="weighted_l1", weights=weights)
    found = fit_head(embeddings, images, "weighted_l1", trained, pairs=10_000)
    assert found.head.distance == "weighted_l1"
    assert found.head.weights is weights
    assert found.head.scale > 0.0
    assert found.ece < 0.03
    pairs = verification_pairs(images, 2000, np.random.default_rng(5))
    before = trained.log_odds(paired_distances(trained, embeddings, pairs.a, pairs.b))
    after = found.head.log_odds(paired_distances(found.head, embeddings, pairs.a, pairs.b))
    a, b = np.polyfit(before, after, 1)
    assert a == pytest.approx(found.head.scale)
    assert after == pytest.approx(a * before + b, abs=1e-6)


def test_a_network_that_learned_nothing_is_refused() -> None:
    images, embeddings = clusters(groups=2, classes=5)
    # Two images of a class always look like two other things, those of different classes sometimes alike.
    looks = (images.labels + images.drawers) % 20
    misled = np.eye(32, dtype=np.float32)[looks] + 0.01 * embeddings
    with pytest.raises(ExportError, match="no closer to each other than impostor pairs"):
        fit_head(misled, images, pairs=1000)


def test_a_network_that_diverged_is_refused() -> None:
    images, embeddings = clusters(groups=2, classes=5)
    embeddings[3, 4] = np.nan
    with pytest.raises(ExportError, match="not finite"):
        fit_head(embeddings, images)


def test_weighted_l1_needs_a_trained_head() -> None:
    images, embeddings = clusters(groups=2, classes=5)
    with pytest.raises(ValueError, match="corrected from a trained one"):
        fit_head(embeddings, images, "weighted_l1")


def test_a_single_group_has_nothing_to_leave_out() -> None:
    images, embeddings = clusters(groups=1, classes=10)
    assert fit_head(embeddings, images, pairs=1000).left_out_ece is None
