"""The decision: the nearest object, unless a threshold or a negative rejects it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from edge_siamese.errors import EncoderError
from edge_siamese.recognition.decision import Acceptance, Recognition, decide, object_limits, preference
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
        runner_up_uid="u-pen",
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
        "general one, 0.75, because of its negatives."
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


class TestPlaces:
    """Distances of the query: 0.3 to the mug; the general threshold's is 0.39."""

    @staticmethod
    def decided(*places: float, threshold: float = GENERAL) -> Recognition:
        support = SupportSet.build((entry("mug", at(0.3)), entry("cup", at(0.35))), 2)
        return decide(support.with_places(np.array([at(place) for place in places])), HEAD, ORIGIN, threshold)

    def test_what_looks_more_like_the_empty_place_is_unknown(self) -> None:
        found = self.decided(9.0, -0.1)
        assert (found.name, found.uid, found.nearest) == (None, None, "mug")
        assert found.rule == "nearer to the empty place"
        assert str(found) == "unknown (nearest: mug, p = 0.88, but the empty place is nearer)"
        assert found.explain()[0] == (
            "Unknown: mug is nearest (p = 0.88), but the place as it was before an object was registered is nearer. "
            "If mug is there, add a view of it."
        )

    @pytest.mark.parametrize("place", [-0.3, 0.7, 9.0])
    def test_a_place_that_is_not_nearer_changes_nothing(self, place: float) -> None:
        assert self.decided(place).name == "mug"

    def test_a_place_that_may_show_the_object_itself_changes_nothing(self) -> None:
        """Within 0.65 of the general threshold's distance, 0.253, of one of its views."""
        assert self.decided(0.05).name == "mug"
        assert self.decided(0.04).name is None

    @pytest.mark.parametrize("threshold", [0.0, 1.0])
    def test_without_a_threshold_there_is_no_distance(self, threshold: float) -> None:
        assert self.decided(-0.1, threshold=threshold).rule in ("recognized", "below threshold")


class TestLookAlikes:
    """The head's scale is 10: a difference of 0.04 in distance is one of 0.4 in log-odds, a preference of 0.599."""

    @staticmethod
    def decided(difference: float, preference: float = 0.6, limits: list[float] | None = None) -> Recognition:
        entries = entry("mug", at(0.1)), entry("cup", at(0.1 + difference)), entry("pen", at(0.3))
        return decide(SupportSet.build(entries, 2, limits), HEAD, ORIGIN, GENERAL, preference)

    @pytest.mark.parametrize(
        ("difference", "rule"), [(0.0, True), (0.04, True), (0.041, False), (0.1, False)]
    )
    def test_two_objects_that_are_about_as_near_are_not_told_apart(
        self, difference: float, rule: bool
    ) -> None:
        found = self.decided(difference)
        assert (found.is_undecided, found.name is None, found.uid is None) == (rule, rule, rule)
        assert found.shows_something_known
        assert {found.nearest, found.runner_up} == {"mug", "cup"}
        assert {found.nearest_uid, found.runner_up_uid} == {"u-mug", "u-cup"}

    def test_the_explanation_names_both(self) -> None:
        found = self.decided(0.02)
        assert found.rule == "look-alikes"
        assert str(found) == "mug or cup (p = 0.98 and 0.98)"
        assert found.explain() == (
            "This is mug or cup: both are about equally close. Turn it, or add a view of each from the side where they "
            "differ.",
            "The nearest view is the only one of mug, id 1.",
            "The runner-up is cup, p = 0.98: 0.00 less.",
        )

    def test_a_preference_of_a_half_always_names_the_nearest(self) -> None:
        assert self.decided(0.0, 0.5).name in ("mug", "cup")
        assert self.decided(0.001, 0.5).name == "mug"

    def test_unknown_things_are_not_undecided(self) -> None:
        entries = entry("mug", at(0.45)), entry("cup", at(0.451))
        found = decide(SupportSet.build(entries, 2), HEAD, ORIGIN, GENERAL, 0.6)
        assert (found.rule, found.is_undecided) == ("below threshold", False)

    def test_a_runner_up_beyond_the_general_threshold_counts(self) -> None:
        entries = entry("mug", at(0.38)), entry("cup", at(0.4))
        assert decide(SupportSet.build(entries, 2), HEAD, ORIGIN, GENERAL, 0.6).is_undecided

    def test_a_runner_up_that_its_own_limit_refuses_does_not_count(self) -> None:
        assert self.decided(0.02, limits=[np.inf, 0.11, np.inf]).name == "mug"

    def test_a_single_object_is_never_undecided(self) -> None:
        assert (
            decide(SupportSet.build((entry("mug", at(0.1)),), 2), HEAD, ORIGIN, GENERAL, 0.99).name == "mug"
        )

    @pytest.mark.parametrize(
        ("nearest", "other", "expected"),
        [(0.1, 0.1, 0.5), (0.1, 0.14, 0.59869), (0.0, 0.2, 0.88080), (0.0, 9.0, 1.0)],
    )
    def test_the_preference_is_the_quotient_of_the_odds(
        self, nearest: float, other: float, expected: float
    ) -> None:
        assert preference(HEAD, nearest, other) == pytest.approx(expected, abs=1e-5)


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
        "runner_up_uid": None,
        "by_surroundings": False,
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


# --- limits and the general threshold ---


@pytest.mark.parametrize("number", [3e38, -3e38, np.inf, np.nan])
def test_an_embedding_whose_distances_overflow_is_an_error_of_the_encoder(number: float) -> None:
    support = SupportSet.build((entry("mug", ORIGIN),), 2)
    with pytest.raises(EncoderError, match="not 2 finite numbers up to 1e\\+06"):
        decide(support, HEAD, np.array([number, 0.0], np.float32), GENERAL)


def impostors_at(*distances: float) -> Floats:
    return np.stack([at(distance) for distance in distances])


CROWD = impostors_at(*(0.2 + 0.01 * number for number in range(100)))


def general_distance(rate: float | None, impostors: Floats | None, *entries: SupportEntry) -> float:
    """The distance of the general threshold of these objects."""
    support = SupportSet.build(entries or (entry("mug", ORIGIN),), 2)
    return HEAD.distance_at(Acceptance(GENERAL, "", rate, impostors).general_threshold(support, HEAD))


def test_without_impostors_the_fixed_threshold_holds() -> None:
    assert general_distance(None, CROWD) == pytest.approx(GENERAL_DISTANCE)
    assert general_distance(0.01, None) == pytest.approx(GENERAL_DISTANCE)
    empty = SupportSet.empty(2)
    assert Acceptance(GENERAL, "", 0.1, CROWD).general_threshold(empty, HEAD) == GENERAL
    assert object_limits(empty, HEAD, GENERAL).shape == (0,)


def test_the_rate_is_the_share_of_impostors_that_pass() -> None:
    found = [general_distance(rate, CROWD) for rate in (0.01, 0.05, 0.1, 0.5)]
    assert found == pytest.approx([0.209, 0.249, 0.299, 0.699], abs=1e-5)
    for rate, count in ((0.01, 1), (0.05, 5), (0.5, 50)):
        support, threshold = Acceptance(GENERAL, "", rate, CROWD).build_support(
            [entry("mug", ORIGIN)], 2, HEAD
        )
        passed = [decide(support, HEAD, impostor, threshold).name for impostor in CROWD]
        assert passed == ["mug"] * count + [None] * (100 - count)


def test_the_rate_holds_for_any_number_of_objects_and_views() -> None:
    rng = np.random.default_rng(2)
    crowd = unit_vectors(rng.normal(size=(400, 16)).astype(np.float32))
    head = SigmoidDistanceHead(scale=10.0, bias=9.0)
    acceptance = Acceptance(GENERAL, "", 0.05, crowd)
    for objects, views in ((1, 1), (5, 1), (5, 3), (60, 2)):
        entries = [
            SupportEntry(
                f"u{number}",
                f"object {number}",
                tuple(range(views)),
                unit_vectors(rng.normal(size=(views, 16)).astype(np.float32)),
                np.empty((0, 16), np.float32),
            )
            for number in range(objects)
        ]
        support, threshold = acceptance.build_support(entries, 16, head)
        passed = sum(decide(support, head, impostor, threshold).name is not None for impostor in crowd)
        assert passed == 20


def test_too_few_impostors_for_the_rate_can_only_be_stricter() -> None:
    few = impostors_at(0.3, 0.6)
    assert general_distance(0.01, few) == pytest.approx(0.299, abs=1e-5)
    assert general_distance(0.01, impostors_at(0.6, 0.9)) == pytest.approx(GENERAL_DISTANCE)
    assert general_distance(0.5, few) == pytest.approx(0.599, abs=1e-5)  # one of two may pass
    assert general_distance(1.0, few) == pytest.approx(GENERAL_DISTANCE)


def test_impostors_that_are_pictures_of_the_object_do_not_make_it_unrecognizable() -> None:
    assert general_distance(0.01, np.repeat(impostors_at(0.01), 100, axis=0)) == pytest.approx(
        0.5 * GENERAL_DISTANCE
    )


def test_where_the_threshold_comes_from_is_said() -> None:
    assert Acceptance(GENERAL, "given").description == "given"
    assert (
        Acceptance(GENERAL, "stated", 0.01, CROWD).description == "0.01 of 100 pictures of other things pass"
    )
    assert Acceptance(GENERAL, "stated", 0.001, CROWD).description == (
        "stated, or stricter: none of 100 pictures of other things passes"
    )


def test_a_steep_head_keeps_the_fixed_threshold() -> None:
    steep = SigmoidDistanceHead(scale=1e4, bias=5e3)
    support = SupportSet.build((entry("mug", ORIGIN),), 2)
    assert Acceptance(GENERAL, "", 0.5, CROWD).general_threshold(support, steep) == GENERAL


def negative_limit(threshold: float, *negatives: float, head: SigmoidDistanceHead = HEAD) -> float:
    support = SupportSet.build([entry("mug", ORIGIN, negatives=tuple(at(d) for d in negatives))], 2)
    return float(object_limits(support, head, threshold)[0])


def test_a_negative_makes_the_limit_stricter() -> None:
    assert negative_limit(GENERAL) == np.inf
    assert negative_limit(GENERAL, GENERAL_DISTANCE + 0.01) == np.inf
    assert negative_limit(GENERAL, 0.9 * GENERAL_DISTANCE) == pytest.approx(0.9 * GENERAL_DISTANCE)
    assert negative_limit(GENERAL, 0.9, 0.85 * GENERAL_DISTANCE) == pytest.approx(0.85 * GENERAL_DISTANCE)
    assert (
        negative_limit(GENERAL, 0.1) == negative_limit(GENERAL, 0.0) == pytest.approx(0.8 * GENERAL_DISTANCE)
    )


def test_the_nearest_view_is_what_a_negative_comes_near_to() -> None:
    support = SupportSet.build([entry("mug", at(0.0), at(1.0), negatives=(at(0.65),))], 2)
    assert object_limits(support, HEAD, GENERAL)[0] == pytest.approx(0.35)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_thresholds_that_decide_everything_leave_no_room_for_limits(threshold: float) -> None:
    assert negative_limit(threshold, 0.1, 0.2) == np.inf
    support = SupportSet.build((entry("mug", ORIGIN),), 2)
    assert Acceptance(threshold, "", 0.1, CROWD).general_threshold(support, HEAD) == threshold


def test_a_threshold_that_even_the_same_picture_misses() -> None:
    head = SigmoidDistanceHead(10.0, -5.0)
    assert head.distance_at(0.5) < 0
    assert negative_limit(0.5, 0.1, head=head) == np.inf


@pytest.mark.parametrize("head", [SOFT, WEIGHTED], ids=["euclidean", "weighted_l1"])
def test_the_threshold_is_the_same_in_blocks_of_any_size(
    head: SigmoidDistanceHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    support = SupportSet.build(random_entries(rng, 40), 4)
    acceptance = Acceptance(0.3, "", 0.05, (2 * rng.normal(size=(64, 4))).astype(np.float32))
    expected = acceptance.general_threshold(support, head)
    assert 0.0 < expected < 1.0
    for rows in (1, 7):
        monkeypatch.setattr("edge_siamese.recognition.decision._MAX_ROWS_AT_ONCE", rows)
        assert acceptance.general_threshold(support, head) == pytest.approx(expected, rel=1e-5)
