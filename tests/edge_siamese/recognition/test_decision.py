"""The decision: the nearest object, unless a threshold or a negative speaks against it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from edge_siamese.errors import EncoderError
from edge_siamese.recognition.decision import Recognition, decide, object_limit, object_limits
from edge_siamese.recognition.embedding import unit_vectors
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Floats
from edge_siamese.recognition.support import SupportEntry, SupportSet

HEAD = SigmoidDistanceHead(scale=10.0, bias=5.0)
WEIGHTED = SigmoidDistanceHead(2.0, 5.0, "weighted_l1", np.array([1.0, 0.5, 2.0, -0.1], np.float32))
SOFT = SigmoidDistanceHead(scale=2.0, bias=5.0)
GENERAL = 0.75
GENERAL_DISTANCE = HEAD.distance_at(GENERAL)
"""0.39"""


def at(distance: float) -> Floats:
    """A point so far from (0, 0)."""
    return np.array([distance, 0.0], np.float32)


def entry(name: str, *views: Floats, negatives: tuple[Floats, ...] = (), first: int = 1) -> SupportEntry:
    return SupportEntry(
        f"u-{name}",
        name,
        tuple(range(first, first + len(views))),
        np.array(views, np.float32).reshape(len(views), -1),
        np.array(negatives, np.float32).reshape(len(negatives), len(views[0])),
    )


def p(distance: float) -> float:
    return float(HEAD.probability(distance))


ORIGIN = at(0.0)


def decided(*entries: SupportEntry, limits: list[float] | None = None, query: Floats = ORIGIN) -> Recognition:
    return decide(SupportSet.build(entries, 2, limits), HEAD, query, GENERAL)


def test_nothing_registered() -> None:
    found = decided()
    assert found == Recognition(
        None, 0.0, None, None, 0.0, GENERAL, "nothing registered", general_threshold=GENERAL
    )
    assert str(found) == "unknown (nothing is registered)"
    assert found.explain() == ("Nothing is registered, so nothing can be recognized.",)


def test_the_nearest_view_is_recognized() -> None:
    found = decided(
        entry("mug", at(0.5), at(-0.1), first=7), entry("key", at(0.3)), entry("pen", at(0.2), first=20)
    )
    assert found == Recognition(
        "mug",
        pytest.approx(p(0.1)),
        "mug",
        "pen",
        pytest.approx(p(0.1) - p(0.2)),
        GENERAL,
        "recognized",
        "u-mug",
        "u-mug",
        8,
        GENERAL,
        view_place=2,
        view_count=2,
    )
    assert str(found) == "mug (p = 0.98; next: pen, 0.95)"
    assert found.explain() == (
        "This is mug: p = 0.98 reaches the general threshold, 0.75.",
        "The nearest is view 2 of 2 of mug, id 8.",
        "The runner-up is pen, p = 0.95: 0.03 less.",
    )


def test_below_the_threshold_nothing_is_recognized() -> None:
    found = decided(entry("mug", at(0.45)))
    assert (found.name, found.uid, found.nearest, found.nearest_uid) == (None, None, "mug", "u-mug")
    assert (found.rule, found.view, found.margin) == ("below threshold", 1, found.probability)
    assert str(found) == "unknown (nearest: mug, p = 0.62 < 0.75)"
    assert found.explain() == (
        "Unknown: mug is nearest, but p = 0.62 is below the general threshold, 0.75.",
        "The nearest view is the only one of mug, id 1.",
        "There is no runner-up.",
    )


def test_the_threshold_itself_is_enough() -> None:
    support = SupportSet.of({"thing": [[0.0, 1.0]]}, 2)
    found = decide(support, SigmoidDistanceHead(1.0, 0.0), np.array([0, 1], np.float32), 0.5)
    assert (found.name, found.probability, found.margin) == ("thing", 0.5, 0.5)


def test_probabilities_just_below_a_threshold_are_told_with_more_decimals() -> None:
    found = Recognition(None, 0.74996, "mug", None, 0.7, 0.75, "below threshold", general_threshold=0.75)
    assert str(found) == "unknown (nearest: mug, p = 0.74996 < 0.75000)"


def test_an_object_may_have_a_stricter_threshold_of_its_own() -> None:
    near, far = entry("mug", at(0.3)), entry("key", at(0.35))
    found = decided(near, far, limits=[0.2, np.inf])
    assert (found.name, found.nearest, found.rule) == (None, "mug", "below the object's own threshold")
    assert found.threshold == pytest.approx(p(0.2))
    assert found.general_threshold == GENERAL
    assert str(found) == "unknown (nearest: mug, p = 0.88 < 0.95, its own threshold)"
    assert found.explain()[0] == (
        "Unknown: mug is nearest, but p = 0.88 is below its own threshold, 0.95, which is stricter than the "
        "general one, 0.75, because other things look similar."
    )
    assert decided(near, far, limits=[0.31, np.inf]).explain()[0] == (
        "This is mug: p = 0.88 reaches its own threshold, 0.87."
    )
    exact = float(np.float32(0.3))
    assert decided(near, limits=[exact]).name == "mug"
    assert decided(near, limits=[np.nextafter(np.float32(exact), np.float32(0))]).name is None


def test_a_limit_is_never_laxer_than_the_general_threshold() -> None:
    found = decided(entry("mug", at(0.45)), limits=[0.9])
    assert (found.name, found.rule, found.threshold) == (None, "below threshold", GENERAL)
    both = decided(entry("mug", at(0.45)), limits=[0.2])
    assert (both.name, both.rule, both.threshold) == (None, "below threshold", pytest.approx(p(0.2)))


def test_an_object_whose_negative_is_nearer_is_rejected_for_the_next() -> None:
    found = decided(
        entry("mug", at(0.1), negatives=(at(0.9), at(-0.05))),
        entry("key", at(0.2), negatives=(at(0.2001),), first=5),
        entry("pen", at(0.3)),
    )
    assert (found.name, found.rule, found.view, found.runner_up) == ("key", "recognized", 5, "pen")
    assert found.rejected == ("mug",)
    assert found.explain()[2] == "Rejected, because one of their negatives is nearer than any view: mug."


def test_a_negative_decides_where_the_object_would_have_been_recognized() -> None:
    mug = entry("mug", at(0.1), negatives=(at(-0.05),))
    for others, runner_up in ((), None), ((entry("key", at(0.6)),), "key"):
        found = decided(mug, *others)
        assert (found.name, found.uid, found.nearest, found.nearest_uid) == (None, None, "mug", "u-mug")
        assert (found.rule, found.runner_up) == ("nearer to a negative", runner_up)
        assert found.probability == pytest.approx(p(0.1))
        assert str(found) == "unknown (nearest: mug, p = 0.98, but a negative of it is nearer)"
        assert found.explain()[0] == (
            "Unknown: mug is nearest (p = 0.98), but one of its negatives is nearer than any of its views."
        )
        assert not any(line.startswith("Nearer") for line in found.explain())


def test_a_threshold_decides_where_it_would_without_the_negative() -> None:
    found = decided(entry("mug", at(0.6), negatives=(at(-0.5),)), entry("key", at(0.7)))
    assert (found.nearest, found.rule, found.runner_up) == ("mug", "below threshold", "key")
    own = decided(entry("mug", at(0.3), negatives=(at(-0.2),)), limits=[0.25])
    assert (own.nearest, own.rule) == ("mug", "below the object's own threshold")


def test_a_negative_that_is_as_near_as_a_view_counts() -> None:
    rng = np.random.default_rng(2)
    views = unit_vectors(rng.normal(size=(300, 16)).astype(np.float32))
    for number in range(0, 300, 7):
        entries = [
            SupportEntry(str(n), str(n), (n,), view[np.newaxis], view[np.newaxis][: n == number])
            for n, view in enumerate(views)
        ]
        found = decide(SupportSet.build(entries, 16), HEAD, views[number] + np.float32(0.01), GENERAL)
        assert (found.name, found.nearest, found.rule) == (None, str(number), "nearer to a negative")


def test_every_object_may_be_rejected() -> None:
    found = decided(*(entry(str(n), at(n / 100), negatives=(at(0.0),)) for n in range(1, 30)))
    assert (found.name, found.nearest, found.runner_up) == (None, "1", None)
    assert found.rule == "nearer to a negative"
    assert found.rejected == tuple(str(n) for n in range(1, 30))


def test_probabilities_that_round_to_one_are_told_apart() -> None:
    support = SupportSet.of({"near": [[1.0, 0.1]], "same": [[1.0, 0.0]]}, 2)
    head = SigmoidDistanceHead(1.0, 40.0)
    found = decide(support, head, np.array([1, 0], np.float32), 0.5)
    assert (found.name, found.runner_up, found.probability, found.margin) == ("same", "near", 1.0, 0.0)


def test_it_is_told_to_programs_too() -> None:
    found = decided(entry("mug", at(0.1), negatives=(at(0.05),)), entry("key", at(0.2)))
    assert json.loads(json.dumps(found.data())) == {
        "name": "key",
        "probability": found.probability,
        "nearest": "key",
        "runner_up": None,
        "margin": found.probability,
        "threshold": 0.75,
        "rule": "recognized",
        "uid": "u-key",
        "nearest_uid": "u-key",
        "view": 1,
        "general_threshold": 0.75,
        "rejected": ["mug"],
        "view_place": 1,
        "view_count": 1,
    }


@pytest.mark.parametrize("embedding", [[0.0, np.nan], [0.0], [[0.0, 0.0]]])
def test_an_embedding_that_is_none(embedding: list[float]) -> None:
    with pytest.raises(
        EncoderError, match=r"^the encoder computed an embedding that is not 2 finite numbers"
    ):
        decided(entry("mug", at(0.1)), query=np.array(embedding, np.float32))


# --- against a reference that is written as the rules are ---


def reference(
    entries: list[SupportEntry], limits: Floats, head: SigmoidDistanceHead, query: Floats, threshold: float
) -> tuple[str | None, str, str, tuple[str, ...], float]:
    """(name, nearest, rule, rejected, probability), one object after the other, in double precision."""

    def distance(row: Floats) -> float:
        difference = row.astype(np.float64) - query.astype(np.float64)
        if head.weights is not None:
            return float(np.abs(difference) @ head.weights)
        return float(np.sqrt(difference @ difference))

    def probability(of: SupportEntry) -> float:
        return float(1 / (1 + np.exp(head.scale * min(map(distance, of.embeddings)) - head.bias)))

    def refusal(of: SupportEntry) -> str | None:
        if probability(of) < threshold:
            return "below threshold"
        nearest = min(map(distance, of.embeddings))
        return "below the object's own threshold" if nearest > limits[entries.index(of)] else None

    rejected: list[SupportEntry] = []
    for candidate in sorted(entries, key=lambda of: min(map(distance, of.embeddings))):
        nearest = min(map(distance, candidate.embeddings))
        if len(candidate.negatives) and min(map(distance, candidate.negatives)) <= nearest:
            rejected.append(candidate)
            continue
        if not refusal(candidate):
            names = tuple(of.name for of in rejected)
            return candidate.name, candidate.name, "recognized", names, probability(candidate)
        break
    else:
        candidate = rejected[0]
    found = rejected[0] if rejected else candidate
    rule = refusal(found) or "nearer to a negative"
    return None, found.name, rule, tuple(of.name for of in rejected), probability(found)


def random_entries(rng: np.random.Generator, count: int) -> list[SupportEntry]:
    entries = []
    for number in range(count):
        center = rng.normal(size=4)
        views = center + 0.2 * rng.normal(size=(rng.integers(1, 5), 4))
        negatives = center + 0.3 * rng.normal(size=(max(0, rng.integers(-2, 4)), 4))
        if number % 2:
            views, negatives = 0.7 * views, 0.7 * negatives
        entries.append(
            SupportEntry(
                f"u{number}",
                f"name {number}",
                tuple(range(100 * number, 100 * number + len(views))),
                views.astype(np.float32),
                negatives.astype(np.float32),
            )
        )
    return entries


@pytest.mark.parametrize("head", [HEAD, WEIGHTED], ids=["euclidean", "weighted_l1"])
def test_it_is_the_reference_on_random_objects(head: SigmoidDistanceHead) -> None:
    rng = np.random.default_rng(11)
    rules = set()
    for _ in range(150):
        entries = random_entries(rng, int(rng.integers(1, 9)))
        limits = np.where(rng.random(len(entries)) < 0.5, rng.random(len(entries)) * 0.6, np.inf)
        limits = limits.astype(np.float32)
        support = SupportSet.build(entries, 4, limits)
        for _ in range(4):
            near = entries[rng.integers(len(entries))]
            noise = rng.choice([0.15, 1.0])
            query = (near.embeddings[0] + noise * rng.normal(size=4)).astype(np.float32)
            found = decide(support, head, query, 0.6)
            expected = reference(entries, limits, head, query, 0.6)
            told = (found.name, found.nearest, found.rule, found.rejected)
            assert told == expected[:4]
            assert found.probability == pytest.approx(expected[4], abs=1e-5)
            rules.add((found.rule, bool(found.rejected)))
    assert len(rules) >= 6


def test_the_order_of_objects_and_views_changes_nothing() -> None:
    rng = np.random.default_rng(12)
    for _ in range(100):
        entries = random_entries(rng, 6)
        limits = rng.random(6).astype(np.float32)
        query = (entries[0].embeddings[0] + 0.15 * rng.normal(size=4)).astype(np.float32)
        found = decide(SupportSet.build(entries, 4, limits), HEAD, query, 0.6)
        order = rng.permutation(6)
        shuffled = []
        for place in order:
            one = entries[place]
            views, negatives = rng.permutation(len(one.embeddings)), rng.permutation(len(one.negatives))
            numbers = tuple(one.view_ids[view] for view in views)
            shuffled.append(
                SupportEntry(one.uid, one.name, numbers, one.embeddings[views], one.negatives[negatives])
            )
        again = decide(SupportSet.build(shuffled, 4, limits[order]), HEAD, query, 0.6)
        assert again == replace(found, view_place=again.view_place)


# --- limits ---


def impostors_at(*distances: float) -> Floats:
    return np.stack([at(distance) for distance in distances])


def test_without_impostors_and_negatives_the_general_threshold_decides_alone() -> None:
    assert object_limit(ORIGIN[np.newaxis], HEAD, GENERAL) == np.inf
    assert object_limit(ORIGIN[np.newaxis], HEAD, GENERAL, 0.01, impostors_at(0.5, 0.6)) == np.inf
    assert object_limits(SupportSet.empty(2), HEAD, GENERAL, 0.01, impostors_at(0.3)).shape == (0,)


def test_an_object_that_many_impostors_come_near_to_has_a_stricter_limit() -> None:
    crowd = impostors_at(*(0.2 + 0.01 * number for number in range(100)))
    limits = [
        object_limit(ORIGIN[np.newaxis], HEAD, GENERAL, rate, crowd) for rate in (0, 0.01, 0.05, 0.1, 0.18)
    ]
    assert limits == pytest.approx([0.2, 0.21, 0.25, 0.3, 0.38])
    assert object_limit(ORIGIN[np.newaxis], HEAD, GENERAL, 0.20, crowd) == np.inf
    support = SupportSet.build([entry("mug", ORIGIN)], 2, [limits[2]])
    accepted = [decide(support, HEAD, impostor, GENERAL).name for impostor in crowd]
    assert accepted == ["mug"] * 5 + [None] * 95
    assert object_limit(ORIGIN[np.newaxis], HEAD, GENERAL, None, crowd) == np.inf


def test_the_nearest_view_is_what_impostors_come_near_to() -> None:
    views = np.stack([at(0.0), at(1.0)])
    crowd = impostors_at(0.7, -0.3, 2.0)
    assert object_limit(views, HEAD, GENERAL, 0.0, crowd) == pytest.approx(0.3)
    assert object_limit(views, HEAD, GENERAL, 0.4, crowd) == pytest.approx(0.3)
    assert object_limit(views, HEAD, GENERAL, 0.7, crowd) == np.inf


def test_a_negative_makes_the_limit_stricter_but_less_than_impostors_may() -> None:
    views = ORIGIN[np.newaxis]

    def limit(*negatives: float) -> float:
        return object_limit(views, HEAD, GENERAL, negatives=impostors_at(*negatives))

    assert limit(GENERAL_DISTANCE + 0.01) == np.inf
    assert limit(0.9 * GENERAL_DISTANCE) == pytest.approx(0.9 * GENERAL_DISTANCE)
    assert limit(0.9, 0.85 * GENERAL_DISTANCE) == pytest.approx(0.85 * GENERAL_DISTANCE)
    assert limit(0.1) == limit(0.0) == pytest.approx(0.8 * GENERAL_DISTANCE)
    both = object_limit(views, HEAD, GENERAL, 0.0, impostors_at(0.25), impostors_at(0.35))
    assert both == pytest.approx(0.25)
    negative = object_limit(views, HEAD, GENERAL, 0.0, impostors_at(0.41), impostors_at(0.01))
    assert negative == pytest.approx(min(0.41, 0.8 * GENERAL_DISTANCE))
    assert object_limit(views, HEAD, GENERAL, 0.0, impostors_at(0.01)) == pytest.approx(
        0.5 * GENERAL_DISTANCE
    )


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_thresholds_that_decide_everything_leave_no_room_for_limits(threshold: float) -> None:
    crowd = impostors_at(0.1, 0.2)
    assert object_limit(ORIGIN[np.newaxis], HEAD, threshold, 0.01, crowd, crowd) == np.inf


def test_a_threshold_that_even_the_same_picture_misses() -> None:
    head = SigmoidDistanceHead(10.0, -5.0)
    assert head.distance_at(0.5) < 0
    assert object_limit(ORIGIN[np.newaxis], head, 0.5, 0.01, impostors_at(0.1), impostors_at(0.1)) == np.inf


@pytest.mark.parametrize("head", [SOFT, WEIGHTED], ids=["euclidean", "weighted_l1"])
def test_all_limits_at_once_are_those_of_each_object(
    head: SigmoidDistanceHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    entries = random_entries(rng, 40)
    crowd = (2 * rng.normal(size=(64, 4))).astype(np.float32)
    support = SupportSet.build(entries, 4)
    expected = [object_limit(one.embeddings, head, 0.3, 0.05, crowd, one.negatives) for one in entries]
    assert len(set(expected)) > 10
    for rows in (1, 7, 2048):
        monkeypatch.setattr("edge_siamese.recognition.decision._MAX_ROWS_AT_ONCE", rows)
        found = object_limits(support, head, 0.3, 0.05, crowd)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("head", [SOFT, WEIGHTED], ids=["euclidean", "weighted_l1"])
def test_limits_fall_with_whatever_makes_a_mistake_likelier(head: SigmoidDistanceHead) -> None:
    rng = np.random.default_rng(6)
    stricter = 0
    for _ in range(100):
        views, more = (rng.normal(size=(count, 4)).astype(np.float32) for count in (2, 3))
        negatives = rng.normal(size=(2, 4)).astype(np.float32)
        crowd = (2 * rng.normal(size=(50, 4))).astype(np.float32)
        threshold = float(rng.uniform(0.05, 0.9))
        general = head.distance_at(threshold)

        def limit(  # the distance that holds in the end
            views: Floats = views,
            threshold: float = threshold,
            rate: float = 0.1,
            crowd: Floats = crowd,
            negatives: Floats = negatives,
        ) -> float:
            found = object_limit(views, head, threshold, rate, crowd, negatives)
            return min(found, head.distance_at(threshold))

        found, eps = limit(), 1e-6  # matrix products of other sizes round otherwise
        assert min(general, 0.5 * general) - eps <= found <= general
        assert limit(rate=0.02) <= found <= limit(rate=0.3)
        assert limit(views=np.concatenate([views, more])) <= found + eps
        assert limit(threshold=min(0.99, threshold + 0.05)) <= found
        assert found - eps <= limit(negatives=negatives[:1]) <= limit(negatives=negatives[:0]) + eps
        stricter += found < general
    assert stricter > 30
