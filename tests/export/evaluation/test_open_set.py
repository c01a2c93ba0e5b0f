"""Open-set identification: thresholds from unknown queries, rates of known ones, intervals over episodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_siamese.errors import DataError
from edge_siamese.models.manifest import Threshold
from export.data.sampling import Episode
from export.evaluation.embeddings import embed_all
from export.evaluation.open_set import Scored, identification, open_sets, score
from tests.export.evaluation.test_evaluate import HEAD, PixelEncoder, drawn


def scored(episodes: int = 300, each: int = 10, seed: int = 0, shift: float = 0.0) -> Scored:
    """Normal scores: unknown ones around 0, known ones around 3, nine in ten of which take the right support."""
    rng = np.random.default_rng(seed)
    number = np.repeat(np.arange(episodes), each)
    moved = shift * rng.normal(size=episodes)[number]
    return Scored(
        known=3 + rng.normal(size=len(number)),
        right=rng.random(len(number)) < 0.9,
        known_episode=number,
        unknown=moved + rng.normal(size=len(number)),
        unknown_episode=number,
        episodes=episodes,
    )


def test_the_rate_is_of_known_queries_that_are_accepted_and_right() -> None:
    found = identification(scored(), registered=5, unknown=5)
    assert (found.registered, found.unknown, found.episodes) == (5, 5, 300)
    assert (found.known_queries, found.unknown_queries) == (3000, 3000)
    assert found.closed_rate == pytest.approx(0.9, abs=0.02)
    # Of 3,000 unknown queries 300 and 30 may pass, which suffices; 3 do not.
    assert [point.false_accept_rate for point in found.points] == [0.1, 0.01]
    assert found.not_stated == (0.001,)
    tenth, hundredth = found.points
    assert (tenth.observed_far, hundredth.observed_far) == (0.1, 0.01)
    # The thresholds are 1.28 and 2.33 standard deviations above 0, 1.72 and 0.67 below 3.
    assert tenth.rate == pytest.approx(0.9 * 0.957, abs=0.02)
    assert hundredth.rate == pytest.approx(0.9 * 0.749, abs=0.03)
    assert tenth.probability < hundredth.probability
    assert np.log(tenth.probability / (1 - tenth.probability)) == pytest.approx(1.28, abs=0.1)
    assert found.stated == ()


def test_stated_thresholds_are_tried_as_they_are() -> None:
    queries = scored()
    stated = (Threshold(1e-2, 0.9, 0.1, 1000), Threshold(1e-3, 0.99, 0.1, 1000))
    found = identification(queries, 5, 5, stated)
    assert [point.false_accept_rate for point in found.stated] == [1e-2, 1e-3]
    for point, probability in zip(found.stated, (0.9, 0.99), strict=True):
        limit = np.log(probability / (1 - probability))
        assert point.probability == probability
        assert point.observed_far == np.mean(queries.unknown >= limit)
        assert point.rate == np.mean(queries.right & (queries.known >= limit))
        # Of independent queries, a fixed threshold's interval is that of a proportion.
        half = 1.96 * np.sqrt(point.rate * (1 - point.rate) / 3000)
        assert (point.low, point.high) == pytest.approx((point.rate - half, point.rate + half), abs=0.005)


def test_the_interval_covers_that_the_threshold_is_found_among_few() -> None:
    rates = [identification(scored(seed=seed), 5, 5).points[1].rate for seed in range(40)]
    found = identification(scored(), 5, 5, (Threshold(1e-2, 0.9, 0.1, 1000),), seed=1)
    point = found.points[1]
    width = point.high - point.low
    assert point.low < point.rate < point.high
    assert width == pytest.approx(2 * 1.96 * np.std(rates), rel=0.45)
    assert width > 1.5 * (found.stated[0].high - found.stated[0].low)


def test_queries_of_one_episode_count_as_one_draw() -> None:
    alike = identification(scored(shift=1.0), 5, 5).points[1]
    apart = identification(scored(shift=0.0), 5, 5).points[1]
    assert alike.high - alike.low > 1.3 * (apart.high - apart.low)


def test_equal_seeds_give_equal_intervals() -> None:
    first, second, other = (identification(scored(), 5, 5, seed=seed) for seed in (3, 3, 4))
    assert first == second
    assert first.points[0].low != other.points[0].low


def test_only_the_first_classes_of_an_episode_are_registered() -> None:
    supports, queries = np.eye(3, dtype=np.float32)[:, None], np.eye(3, dtype=np.float32)
    table = np.concatenate([supports[:, 0], queries, queries])
    episode = Episode(supports=np.array([[0], [1], [2]]), queries=np.array([[3, 6], [4, 3], [5, 8]]))
    found = score(iter([episode, episode]), 2, table, table, HEAD)
    assert found.right.tolist() == [True, True, True, False] * 2
    far = 5 - 10 * np.sqrt(2)
    np.testing.assert_allclose(found.known, [5, 5, 5, 5] * 2, atol=1e-2)
    # The third class has a support of its own, which nobody registered.
    np.testing.assert_allclose(found.unknown, [far, far] * 2, atol=1e-5)
    assert found.known_episode.tolist() == [0] * 4 + [1] * 4
    assert found.unknown_episode.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("classes", "registered", "unknown", "each"),
    [(18, [5, 14], [13, 4], [4, 7]), (30, [5, 20], [20, 10], [2, 4]), (4, [3], [1], [7]), (6, [5], [1], [7])],
)
def test_as_many_are_registered_as_the_classes_allow(
    classes: int, registered: list[int], unknown: list[int], each: list[int]
) -> None:
    images = drawn(groups=1, classes=classes, noise=1.0)
    embeddings = embed_all(PixelEncoder(), images.images)
    found = open_sets(embeddings, images, HEAD, count=100)
    assert [one.registered for one in found] == registered
    assert [one.unknown for one in found] == unknown
    # About forty unknown queries per episode, as far as eight pictures per class go.
    assert [one.unknown_queries for one in found] == [100 * n * q for n, q in zip(unknown, each, strict=True)]
    assert [one.known_queries for one in found] == [
        100 * n * q for n, q in zip(registered, each, strict=True)
    ]
    assert all(one.closed_rate == 1.0 and point.rate == 1.0 for one in found for point in one.points)


def test_two_classes_are_too_few() -> None:
    images = drawn(groups=1, classes=2)
    with pytest.raises(DataError, match=r"needs three classes of two pictures, and there are 2$"):
        open_sets(embed_all(PixelEncoder(), images.images), images, HEAD)


def test_the_curve_falls_from_everything_accepted_and_its_default_is_the_stated_threshold() -> None:
    images, encoder = drawn(groups=1, classes=9, noise=60.0), PixelEncoder()
    embeddings = embed_all(encoder, images.images)
    stated = (Threshold(0.001, 0.95, 0.4, 100_000), Threshold(0.01, 0.8, 0.2, 100_000))
    for kind in open_sets(embeddings, images, HEAD, stated, 300):
        far, rate = ([getattr(p, name) for p in kind.curve] for name in ("far", "rate"))
        assert far == sorted(far) and rate == sorted(rate) and far[-1] == 1.0
        assert rate[-1] == pytest.approx(kind.closed_rate)
        assert all(p.low <= p.rate <= p.high and p.far_low <= p.far <= p.far_high for p in kind.curve)
        assert kind.default is not None and kind.default.probability == pytest.approx(0.8)
        at_stated = next(p for p in kind.stated if p.false_accept_rate == 0.01)
        assert (kind.default.far, kind.default.rate) == pytest.approx(
            (at_stated.observed_far, at_stated.rate)
        )
    (kind, *_) = open_sets(embeddings, images, HEAD, (), 50)
    assert kind.default is not None and kind.default.probability == pytest.approx(0.5)


def test_intervals_of_the_curve_resample_classes() -> None:
    """Half of the classes are always identified, half never: many queries do not make the interval narrow."""
    found = scored()
    labels = np.arange(len(found.known)) % 8
    halves = replace(
        found, right=labels < 4, known=np.full(len(labels), 9.0), known_class=labels, unknown_class=labels
    )
    default = identification(halves, 5, 5).default
    assert default is not None and default.rate == pytest.approx(0.5)
    assert default.low < 0.25 and default.high > 0.75
