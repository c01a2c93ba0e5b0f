"""Surroundings: which scenes are sampled and kept, and which limits follow from them."""

from __future__ import annotations

from random import Random
from statistics import NormalDist

import numpy as np
import pytest

from edge_siamese.recognition import surroundings
from edge_siamese.recognition.decision import decide
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Floats
from edge_siamese.recognition.support import SupportSet
from edge_siamese.recognition.surroundings import MIN_SCENES, Fit, SceneSampler, Surroundings, tightened

HEAD = SigmoidDistanceHead(scale=10.0, bias=8.0)
"""p = 0.5 at a distance of 0.8."""
SAME = 0.5


def at(degrees: float) -> Floats:
    """A unit vector in a plane."""
    angle = np.radians(degrees)
    return np.array([np.cos(angle), np.sin(angle), 0, 0], np.float32)


def sampler() -> SceneSampler:
    return SceneSampler(HEAD, SAME)


def feed(sampler: SceneSampler, degrees: float, frames: int, known: bool = False) -> list[Floats]:
    found = [sampler.add(at(degrees), known) for _ in range(frames)]
    return [scene for scene in found if scene is not None]


class TestSceneSampler:
    def test_a_scene_is_the_mean_of_its_frames(self) -> None:
        watching = sampler()
        assert feed(watching, 0, 4) == feed(watching, 10, 4) == []
        (scene,) = feed(watching, 90, 1)
        np.testing.assert_allclose(scene, (at(0) + at(10)) / 2, atol=1e-6)

    def test_a_scene_that_changes_slowly_is_one(self) -> None:
        watching = sampler()
        assert [feed(watching, degrees, 1) for degrees in range(0, 40, 2)] == [[]] * 20

    def test_what_moves_through_the_picture_leaves_none(self) -> None:
        watching = sampler()
        feed(watching, 0, 6)
        (empty,) = feed(watching, 60, 5)
        np.testing.assert_allclose(empty, at(0), atol=1e-6)
        assert feed(watching, 120, 6) == []
        (last,) = feed(watching, 0, 1)
        np.testing.assert_allclose(last, at(120), atol=1e-6)

    def test_a_scene_with_a_recognized_object_leaves_none(self) -> None:
        watching = sampler()
        feed(watching, 0, 9)
        assert len(feed(watching, 90, 1, known=True)) == 1
        feed(watching, 90, 20)
        assert feed(watching, 180, 1) == []

    def test_nothing_to_see_ends_a_scene(self) -> None:
        watching = sampler()
        feed(watching, 0, 6)
        scene = watching.add(None, False)
        assert scene is not None
        np.testing.assert_allclose(scene, at(0), atol=1e-6)
        assert watching.add(None, False) is None

    def test_a_scene_that_stays_is_sampled_each_minute(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(surroundings, "MAX_SCENE_FRAMES", 8)
        watching = sampler()
        assert [len(feed(watching, 0, 8)) for _ in range(4)] == [0, 1, 1, 1]

    def test_frames_before_a_registration_are_discarded(self) -> None:
        watching = sampler()
        feed(watching, 0, 20)
        watching.discard()
        assert feed(watching, 90, 1) == []


class TestSurroundings:
    def test_scenes_that_show_one_thing_are_kept_once(self) -> None:
        known = Surroundings(HEAD, SAME, np.empty((0, 4), np.float32))
        assert [known.add(at(degrees)) for degrees in (0, 20, 40, 60, 0)] == [True, False, True, False, False]
        np.testing.assert_array_equal(known.scenes, [at(0), at(40)])

    def test_a_full_sample_replaces_a_random_scene(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(surroundings, "MAX_SCENES", 2)
        known = Surroundings(HEAD, SAME, np.array([at(0), at(40), at(80)]), random=Random(1))
        before = known.scenes
        assert len(known) == 2
        assert known.add(at(120))
        assert len(known) == 2
        np.testing.assert_array_equal(before, [at(0), at(40)])
        assert any((row == at(120)).all() for row in known.scenes)

    def test_memory_is_bounded_with_many_dimensions(self) -> None:
        known = Surroundings(HEAD, SAME, np.zeros((600, 4096), np.float32))
        assert known.scenes.nbytes == 2 * 1024 * 1024

    def test_they_are_forgotten(self) -> None:
        known = Surroundings(HEAD, SAME, np.array([at(0)]))
        known.clear()
        assert known.scenes.shape == (0, 4)
        assert known.add(at(0))


GENERAL = 0.5
"""The general threshold: a distance of 0.8."""


def scenes_at(distances: Floats, seed: int = 0) -> Floats:
    """Unit vectors with these distances from `at(0)`, in random directions."""
    rng = np.random.default_rng(seed)
    angles = 2 * np.arcsin(np.asarray(distances) / 2)
    sides = rng.normal(size=(len(angles), 3))
    sides /= np.linalg.norm(sides, axis=1, keepdims=True)
    return np.column_stack([np.cos(angles), np.sin(angles)[:, None] * sides]).astype(np.float32)


def normal_scenes(median: float, spread: float, count: int = 200) -> Floats:
    """Scenes whose distances have the quantiles of a normal distribution."""
    shares = (np.arange(count) + 0.5) / count
    return scenes_at(np.array([NormalDist(median, spread).inv_cdf(share) for share in shares]))


MUG = SupportSet.of({"mug": [at(0)]}, 4)


class TestTightened:
    def test_far_surroundings_change_nothing(self) -> None:
        support, (fit,) = tightened(MUG, HEAD, GENERAL, normal_scenes(1.2, 0.08), 0.01)
        assert (fit.scenes, fit.is_near) == (200, False)
        assert fit.further == pytest.approx(NormalDist().cdf(5.0), abs=1e-6)
        assert fit.text == "99.99 % of what this camera sees is further away"
        np.testing.assert_array_equal(support.limits, [np.inf])
        assert not support.by_surroundings.any()

    def test_the_limit_lets_the_requested_share_pass(self) -> None:
        """1 % of the scenes are within 0.751, and 2.3 % within 0.8; the fit sees those beyond 0.88."""
        support, (fit,) = tightened(MUG, HEAD, GENERAL, normal_scenes(1.1, 0.15), 0.01)
        assert fit.is_near
        assert float(support.limits[0]) == pytest.approx(0.751, abs=0.01)
        assert fit.further == pytest.approx(0.977, abs=0.003)
        assert support.by_surroundings.tolist() == [True]

    def test_the_rate_is_that_of_all_objects_together(self) -> None:
        two = SupportSet.of({"mug": [at(0)], "cup": [at(180)]}, 4)
        scenes = normal_scenes(1.1, 0.15)
        one = tightened(MUG, HEAD, GENERAL, scenes, 0.005)[0].limits[0]
        assert tightened(two, HEAD, GENERAL, scenes, 0.01)[0].limits[0] == one

    def test_no_limit_falls_below_a_fraction_of_the_general_one(self) -> None:
        support, (fit,) = tightened(MUG, HEAD, GENERAL, normal_scenes(1.0, 0.2), 1e-9)
        assert float(support.limits[0]) == pytest.approx(0.8 * 0.8)
        assert fit.is_near

    @pytest.mark.parametrize("distance", [0.81, 0.87, 0.95])
    def test_unrecognized_views_of_the_object_itself_change_nothing(self, distance: float) -> None:
        """One scene in ten shows the object, turned."""
        far = normal_scenes(1.25, 0.08)
        own = scenes_at(np.full(20, distance), seed=1)
        support, (fit,) = tightened(MUG, HEAD, GENERAL, np.concatenate([far, own]), 0.01)
        assert not fit.is_near
        assert support.limits[0] == np.inf

    def test_an_object_registered_later_is_not_its_own_stranger(self) -> None:
        """All scenes show it, since it stood there before it was registered."""
        support, (fit,) = tightened(MUG, HEAD, GENERAL, scenes_at(np.linspace(0.0, 0.87, 300)), 0.01)
        assert fit == Fit(0)
        assert fit.text == "this camera has seen 0 of the 30 other scenes that are needed"
        assert support.limits[0] == np.inf

    def test_few_scenes_change_nothing(self) -> None:
        scenes = scenes_at(np.full(MIN_SCENES - 1, 0.9))
        assert tightened(MUG, HEAD, GENERAL, scenes, 0.01)[1] == (Fit(MIN_SCENES - 1),)
        enough = normal_scenes(1.0, 0.2, 60)
        assert tightened(MUG, HEAD, GENERAL, enough, 0.01)[1][0].is_near

    def test_a_stricter_limit_of_negatives_stays(self) -> None:
        strict = MUG.with_limits([0.65])
        support, (fit,) = tightened(strict, HEAD, GENERAL, normal_scenes(1.1, 0.15), 0.01)
        assert (float(support.limits[0]), fit.is_near) == (pytest.approx(0.65), False)

    @pytest.mark.parametrize("threshold", [0.0, 1.0])
    def test_without_a_threshold_there_is_no_distance(self, threshold: float) -> None:
        assert tightened(MUG, HEAD, threshold, normal_scenes(0.9, 0.1), 0.01) == (MUG, (Fit(0),))

    def test_without_objects_there_is_nothing_to_compare(self) -> None:
        nothing = SupportSet.empty(4)
        assert tightened(nothing, HEAD, GENERAL, normal_scenes(0.9, 0.1), 0.01) == (nothing, ())

    def test_the_decision_says_that_the_surroundings_are_the_cause(self) -> None:
        support, _ = tightened(MUG, HEAD, GENERAL, normal_scenes(1.0, 0.2), 0.01)
        found = decide(support, HEAD, scenes_at(np.array([0.7]))[0], GENERAL)
        assert (found.name, found.rule, found.by_surroundings) == (
            None,
            "below the object's own threshold",
            True,
        )
        assert found.explain()[0] == (
            "Unknown: mug is nearest, but p = 0.73 is below its own threshold, 0.83, which is stricter than the "
            "general one, 0.50, because of things that this camera sees."
        )


@pytest.mark.parametrize(
    ("further", "text"),
    [(0.5, "50.0 %"), (0.9876, "98.7 %"), (0.998, "99.8 %"), (0.9996, "99.96 %"), (1.0, "99.99 %")],
)
def test_the_share_is_rounded_down(further: float, text: str) -> None:
    assert Fit(99, further).text == f"{text} of what this camera sees is further away"
