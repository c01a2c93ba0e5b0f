"""The head: pinned numbers for both distances, and no overflow."""

import math

import numpy as np
import pytest

from edge_siamese.recognition.head import SigmoidDistanceHead


def test_euclidean_scores_are_the_sigmoid_of_bias_minus_scale_times_distance():
    head = SigmoidDistanceHead(scale=4.0, bias=2.0)
    queries = np.array([[1, 0], [0, 1]], dtype=np.float32)
    supports = np.array([[1, 0], [0, -1], [0.6, 0.8]], dtype=np.float32)
    root2, close, far = math.sqrt(2), math.sqrt(0.8), math.sqrt(0.4)
    distances = np.array([[0, root2, close], [root2, 2, far]])
    assert np.allclose(head.distances(queries, supports), distances, atol=1e-6)
    assert np.allclose(head.score(queries, supports), 1 / (1 + np.exp(4 * distances - 2)), atol=1e-6)
    assert head.score(queries, supports).dtype == np.float32


def test_weighted_l1_is_kochs_formula_with_the_sign_turned():
    alpha, bias = np.array([0.5, -2.0, 1.0], np.float32), 0.25
    head = SigmoidDistanceHead(1.0, bias, "weighted_l1", -alpha)
    a, b = np.array([[0.1, 0.9, 0.5]], np.float32), np.array([[0.3, 0.2, 0.5], [0.1, 0.9, 0.5]], np.float32)
    log_odds = 0.5 * 0.2 - 2.0 * 0.7 + 0.25
    assert np.allclose(
        head.score(a, b), [[1 / (1 + math.exp(-log_odds)), 1 / (1 + math.exp(-0.25))]], atol=1e-6
    )
    assert np.allclose(head.paired_distances(a, b[:1]), [1.3], atol=1e-6)


def test_blocks_of_the_weighted_l1_agree_with_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    a, b, w = (rng.normal(size=s).astype(np.float32) for s in ((9, 5), (4, 5), (5,)))
    head = SigmoidDistanceHead(1.0, 0.0, "weighted_l1", w)
    monkeypatch.setattr("edge_siamese.recognition.head._L1_BLOCK_BYTES", 2 * b.nbytes)
    expected = np.stack(
        [head.paired_distances(a, np.repeat(b[j : j + 1], 9, axis=0)) for j in range(4)], axis=1
    )
    assert np.allclose(head.distances(a, b), expected, atol=1e-6)


def test_far_distances_do_not_overflow():
    head = SigmoidDistanceHead(scale=1e4, bias=0.0)
    with np.errstate(all="raise", under="ignore"):
        assert head.probability([0.0, 1e6, -1e6]).tolist() == [0.5, 0.0, 1.0]


def test_distance_at_inverts_the_probability():
    head = SigmoidDistanceHead(scale=7.0, bias=5.0)
    assert head.distance_at(0.5) == pytest.approx(5 / 7)
    assert head.probability(head.distance_at(0.9)) == pytest.approx(0.9, abs=1e-6)
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        head.distance_at(1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": math.nan, "bias": 0.0}, "a head needs finite numbers"),
        ({"scale": 1.0, "bias": 0.0, "distance": "weighted_l1"}, "a weighted_l1 head takes weights"),
        ({"scale": 1.0, "bias": 0.0, "weights": np.ones(2, np.float32)}, "a euclidean head takes no weights"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SigmoidDistanceHead(**arguments)
