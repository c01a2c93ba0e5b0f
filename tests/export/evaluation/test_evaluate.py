"""Evaluation on drawn classes with an encoder whose answers are known."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edge_siamese.errors import DataError
from edge_siamese.models.manifest import Threshold
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Frames, Preprocessing, prepare_batch
from export import records
from export.data import load_splits
from export.data.embedded_pictures import as_data_uri
from export.data.images import ImageSet, OneShotRun, Splits
from export.evaluation.embeddings import embed_all, embed_supports
from export.evaluation.evaluate import (
    SHAPES,
    Evaluation,
    EvaluationSize,
    default_size,
    evaluate,
    subsample,
    subsample_for,
)
from export.evaluation.one_shot import (
    EPISODES,
    SupportPool,
    class_scores,
    episode_result,
    iconic_result,
    official_trials,
    widest_one_shot,
)
from export.evaluation.verification import verification

HEAD = SigmoidDistanceHead(scale=10.0, bias=5.0)
THRESHOLD = Threshold(false_accept_rate=1e-2, probability=0.5, false_reject_rate=0.0, impostor_pairs=1)
INPUT = Preprocessing(4, 4)


class PixelEncoder:
    """The pixels themselves, divided by 255, as the embedding; counts what it is given."""

    runtime, precision, reason, model_id = "fake", "fp32", "a test", "pixels-000000000000"
    preprocessing, dimensions = INPUT, 16

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, images: Frames) -> npt.NDArray[np.float32]:
        return self.embed_prepared(prepare_batch(images, INPUT))

    def embed_prepared(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.embedded += len(images)
        return images.reshape(len(images), -1).astype(np.float32) / 255.0


def drawn(
    groups: int = 3, classes: int = 6, drawers: int = 8, noise: float = 30.0, seed: int = 0
) -> ImageSet:
    """Classes that are random 4 x 4 pictures, drawn with some noise."""
    rng = np.random.default_rng(seed)
    count = groups * classes
    labels = np.repeat(np.arange(count), drawers)
    pictures = rng.uniform(0, 255, (count, 4, 4, 1))[labels] + rng.normal(0, noise, (len(labels), 4, 4, 1))
    return ImageSet(
        name="drawn evaluation",
        images=pictures.clip(0, 255).astype(np.uint8),
        labels=labels,
        class_names=tuple(f"group{c // classes}/class{c % classes}" for c in range(count)),
        class_groups=np.repeat(np.arange(groups), classes),
        group_names=tuple(f"group{g}" for g in range(groups)),
        drawers=np.tile(np.arange(drawers), count),
    )


def flat(*values: int) -> npt.NDArray[np.uint8]:
    """One picture of a single gray for each value."""
    return np.stack([np.full(INPUT.shape, value, dtype=np.uint8) for value in values])


def splits(images: ImageSet, runs: tuple[OneShotRun, ...] = ()) -> Splits:
    return Splits(images, images, images, runs)


RUN = OneShotRun(
    name="run01",
    supports=flat(0, 100, 200),
    # The first two are nearest to their own supports. The third is nearest to 100, though it belongs to 200; an
    # assignment over all three queries would have saved it.
    queries=flat(10, 110, 140),
    answers=np.array([0, 1, 2]),
)


def test_official_trials_take_the_nearest_support_for_each_query_on_its_own() -> None:
    result, wrong = official_trials(
        PixelEncoder(), (RUN, replace(RUN, name="run02", queries=flat(0, 100, 200))), HEAD
    )
    assert [(run.name, run.correct, run.trials) for run in result.runs] == [("run01", 2, 3), ("run02", 3, 3)]
    assert (result.correct, result.trials) == (5, 6)
    assert result.accuracy == pytest.approx(5 / 6)
    assert result.low == pytest.approx(0.4365, abs=1e-4)  # Wilson, 5 of 6
    (mistake,) = wrong
    assert (mistake.where, mistake.truth_name, mistake.choice_name) == ("run01, item 3", "class 3", "class 2")
    assert mistake.query[0, 0, 0] == 140
    assert mistake.truth[0, 0, 0] == 200
    assert mistake.choice[0, 0, 0] == 100
    # Sixteen pixels that differ by 40 and by 60 of 255.
    assert mistake.choice_log_odds == pytest.approx(5 - 10 * 4 * 40 / 255, abs=1e-4)
    assert mistake.truth_log_odds == pytest.approx(5 - 10 * 4 * 60 / 255, abs=1e-4)


def test_a_head_that_is_certain_of_all_still_ranks_by_distance() -> None:
    # p is exactly 1 in float32 for all supports; the arg-max of p alone would always be the first.
    sure = SigmoidDistanceHead(scale=1.0, bias=200.0)
    result, _ = official_trials(PixelEncoder(), (replace(RUN, queries=flat(10, 110, 190)),), sure)
    assert result.correct == 3


def test_class_scores() -> None:
    # One query, two classes of two shots: one shot of class 0 is nearest, class 1 is good on average.
    log_odds = np.array([[[2.0, -9.0], [1.0, 1.0]]])
    assert class_scores(log_odds, "nearest").tolist() == [[2.0, 1.0]]
    assert class_scores(log_odds, "mean-probability").argmax() == 1
    # Both means are exactly 1 in float64, and the nearest shot decides.
    certain = np.array([[[60.0, 60.0], [61.0, 60.0]]])
    assert class_scores(certain, "mean-probability").argmax() == 1


def test_episodes_of_classes_that_are_far_apart_are_all_right() -> None:
    images = drawn(noise=1.0)
    embeddings = embed_all(PixelEncoder(), images.images)
    result, wrong = episode_result(embeddings, images, HEAD, way=5, shot=1, count=50)
    assert (result.accuracy, result.episodes, result.within_group, wrong) == (1.0, 50, True, [])
    assert (result.low, result.high) == (1.0, 1.0)


def test_episodes_of_pure_noise_are_right_by_chance() -> None:
    images = drawn()
    embeddings = np.random.default_rng(1).normal(size=(len(images.images), 16)).astype(np.float32)
    result, wrong = episode_result(embeddings, images, HEAD, way=5, shot=1, count=1000, within_group=False)
    assert result.accuracy == pytest.approx(0.2, abs=0.03)
    assert result.low < result.accuracy < result.high
    assert len(wrong) == round((1 - result.accuracy) * 5000)
    for error in wrong[:50]:
        assert error.truth_name != error.choice_name
        assert error.choice_log_odds >= error.truth_log_odds


def test_more_shots_help() -> None:
    images = drawn(noise=90.0)
    embeddings = embed_all(PixelEncoder(), images.images)
    one, _ = episode_result(embeddings, images, HEAD, way=5, shot=1, count=400)
    five, _ = episode_result(embeddings, images, HEAD, way=5, shot=5, count=400)
    assert five.low > one.high
    assert (five.rule, five.scope) == ("nearest", "within a group")
    for rule in ("mean-probability", "prototype"):
        other, _ = episode_result(embeddings, images, HEAD, way=5, shot=5, count=400, rule=rule)
        assert other.low > one.high
        assert (other.rule, other.scope) == (rule, f"within a group, {rule}")
        # One shot is one shot, whatever the rule.
        single, _ = episode_result(embeddings, images, HEAD, way=5, shot=1, count=400, rule=rule)
        assert single.accuracy == one.accuracy


def test_iconic_supports_are_found_by_the_names_of_their_classes() -> None:
    images = drawn(noise=1.0)
    embeddings = embed_all(PixelEncoder(), images.images)
    firsts = np.flatnonzero(images.drawers == 0)
    # The same classes in another order, one of them missing, and a stranger whose picture is everybody's nearest.
    order = np.random.default_rng(4).permutation(18)[:17]
    chosen = firsts[order]
    catalog = ImageSet(
        name="drawn iconic",
        images=np.concatenate([images.images[chosen], flat(128)]),
        labels=np.arange(18),
        class_names=(*(images.class_names[c] for c in order), "stranger"),
        class_groups=np.zeros(18, dtype=np.int64),
        group_names=("all",),
        drawers=np.full(18, -1),
    )
    pool = SupportPool(catalog, embed_all(PixelEncoder(), catalog.images))
    result, wrong = iconic_result(embeddings, images, pool, HEAD, way=17, count=30)
    assert (result.accuracy, result.iconic, result.within_group, result.episodes, wrong) == (
        1.0,
        True,
        False,
        30,
        [],
    )
    assert result.scope == "across groups, iconic supports"
    with pytest.raises(DataError, match=r"^drawn iconic: 18-way .* need 18 classes .*, and there are 17$"):
        iconic_result(embeddings, images, pool, HEAD, way=18)


def test_a_catalog_is_evaluated_beside_the_photographs_and_is_no_headline() -> None:
    images = drawn(noise=30.0)
    firsts = np.flatnonzero(images.drawers == 0)
    catalog = replace(
        images,
        name="iconic",
        images=images.images[firsts],
        labels=images.labels[firsts],
        drawers=images.drawers[firsts],
    )
    found = replace(splits(images), catalog=catalog)
    result = evaluate(
        PixelEncoder(), found, HEAD, shapes=[(20, 1), (5, 1), (5, 2)], episode_count=20, pairs=200
    )
    assert [(e.way, e.shot, e.iconic) for e in result.episodes if e.iconic] == [(5, 1, True)]
    assert any(
        line.startswith("20-way 1-shot with iconic supports: iconic: 20-way") for line in result.skipped
    )
    assert result.one_shot and result.one_shot[0] == "5-way 1-shot episodes, within group"
    other = evaluate(
        PixelEncoder(), found, HEAD, split="validation", shapes=[(5, 1)], episode_count=5, pairs=50
    )
    assert not any(e.iconic for e in other.episodes)


def test_augmented_supports_are_embedded_as_the_device_registers_them_and_queries_are_not() -> None:
    images = drawn(noise=30.0)
    calls = {"shapes": [(5, 1)], "episode_count": 40, "pairs": 200, "thresholds": (THRESHOLD,)}
    encoder = PixelEncoder()
    plain = evaluate(PixelEncoder(), splits(images, (RUN,)), HEAD, **calls)
    augmented = evaluate(encoder, splits(images, (RUN,)), HEAD, supports="augmented", **calls)
    # Each image once as a query and, with its four variations, once as a support; so are the run's three of each.
    assert encoder.embedded == 6 * len(images.images) + 6 * 3
    assert (plain.supports, augmented.supports) == ("plain", "augmented")
    assert augmented.title == "fp32, fake, augmented supports"
    assert augmented.verification == plain.verification
    assert augmented.episodes != plain.episodes
    assert augmented.open_set != plain.open_set
    queries, supports = embed_all(encoder, images.images), embed_supports(encoder, images.images)
    by_hand, _ = episode_result(queries, images, HEAD, 5, 1, 40, supports=supports)
    assert augmented.episodes[0] == by_hand


def test_augmented_supports_are_taken_of_larger_frames() -> None:
    """Each is what the device makes of a frame of twice the size, and queries stay as they are."""
    images = drawn(noise=30.0)
    larger = replace(images, images=np.repeat(np.repeat(images.images, 2, axis=1), 2, axis=2))
    rng = np.random.default_rng(8)
    larger = replace(larger, images=rng.permutation(larger.images, axis=0))
    run = replace(RUN, supports=np.repeat(np.repeat(RUN.supports, 2, axis=1), 2, axis=2)[::-1])
    calls = {"shapes": [(5, 1)], "episode_count": 40, "pairs": 200, "supports": "augmented"}
    found = evaluate(PixelEncoder(), splits(images, (RUN,)), HEAD, frames=splits(larger, (run,)), **calls)
    queries = embed_all(PixelEncoder(), images.images)
    supports = embed_supports(PixelEncoder(), larger.images)
    by_hand, _ = episode_result(queries, images, HEAD, 5, 1, 40, supports=supports)
    assert found.episodes[0] == by_hand
    own = evaluate(PixelEncoder(), splits(images, (RUN,)), HEAD, **calls)
    assert own.episodes[0].accuracy > by_hand.accuracy + 0.2  # the frames are of other classes here
    assert own.official and found.official and own.official.correct > found.official.correct


def test_verification_of_classes_that_are_far_apart() -> None:
    images = drawn(noise=5.0)
    embeddings = embed_all(PixelEncoder(), images.images)
    found = verification(embeddings, images, HEAD, [THRESHOLD], pairs=2000)
    assert (found.pairs, found.accuracy, found.best_accuracy, found.eer) == (2000, 1.0, 1.0, 0.0)
    assert 0.99 < found.low < found.high == 1.0
    assert found.curve.genuine_pairs == 18 * 28
    assert found.curve.impostor_pairs == 144 * 143 // 2 - 18 * 28
    assert found.curve.eer == 0.0
    (check,) = found.thresholds
    assert (check.observed_far, check.observed_frr) == (0.0, 0.0)
    assert sum(b.count for b in found.reliability) == 2000
    assert sum(found.histogram.genuine) == pytest.approx(1.0, abs=1e-4)
    assert sum(found.histogram.impostor) == pytest.approx(1.0, abs=1e-4)
    assert len(found.histogram.edges) == len(found.histogram.genuine) + 1
    assert list(found.curve.far) == sorted(found.curve.far, reverse=True)
    assert list(found.curve.frr) == sorted(found.curve.frr)


def test_verification_accuracy_is_at_p_one_half_and_the_best_one_is_not_below() -> None:
    images = drawn(noise=60.0)
    embeddings = embed_all(PixelEncoder(), images.images)
    strict = SigmoidDistanceHead(scale=10.0, bias=10.0)
    found = verification(embeddings, images, strict, pairs=4000)
    assert 0.5 < found.accuracy < found.best_accuracy < 1.0
    # A head whose p is 1/2 at the best threshold of the first has its best accuracy.
    moved = SigmoidDistanceHead(scale=10.0, bias=10.0 * strict.distance_at(found.best_threshold))
    better = verification(embeddings, images, moved, pairs=4000)
    assert better.accuracy == pytest.approx(found.best_accuracy, abs=0.001)
    assert better.eer == pytest.approx(found.eer)


def test_evaluation_embeds_each_image_once() -> None:
    encoder = PixelEncoder()
    images = drawn(noise=5.0)
    evaluate(encoder, splits(images, (RUN,)), HEAD, shapes=[(5, 1)], episode_count=20, pairs=200)
    assert encoder.embedded == len(images.images) + 6


def test_evaluation_tells_what_it_did_and_survives_json(tmp_path: Path) -> None:
    result = evaluate(
        PixelEncoder(),
        splits(drawn(), (RUN,)),
        HEAD,
        shapes=[(5, 1), (20, 1)],
        episode_count=30,
        pairs=200,
        command="python -m export evaluate x",
    )
    assert result.encoder.title == "fp32 · fake"
    assert (result.data.classes, result.data.groups, result.data.images) == (18, 3, 144)
    assert result.official is not None
    assert result.one_shot is not None
    assert result.one_shot[:2] == ("3 official trials, within alphabet", 2 / 3)
    assert [(e.way, e.within_group) for e in result.episodes] == [(5, True), (5, False)]
    assert len(result.skipped) == 2
    assert result.skipped[0].startswith("20-way 1-shot within groups: drawn evaluation")
    assert result.mistakes_of == "the 3 official trials"
    (mistake,) = result.mistakes
    assert 0.0 < mistake.truth_probability < mistake.choice_probability < 1.0
    assert [found.registered for found in result.open_set] == [5, 14]
    path = tmp_path / "evaluation.json"
    records.write(path, [result])
    assert records.read_all(Evaluation, path) == (result,)
    # What an earlier release wrote has neither of these.
    (old,) = json.loads(path.read_text())
    del old["open_set"], old["supports"]
    for episodes in old["episodes"]:
        del episodes["iconic"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert records.read(Evaluation, tmp_path / "old.json") == replace(result, open_set=())
    assert json.loads(path.read_text())[0]["command"] == "python -m export evaluate x"


def test_without_official_trials_episodes_give_headline_and_mistakes() -> None:
    result = evaluate(
        PixelEncoder(), splits(drawn(noise=90.0)), HEAD, shapes=[(5, 1)], episode_count=30, pairs=200
    )
    assert result.official is None
    assert result.one_shot is not None
    assert result.one_shot[0] == "5-way 1-shot episodes, within group"
    assert result.mistakes_of == "5-way 1-shot episodes within groups"
    gaps = [m.choice_probability - m.truth_probability for m in result.mistakes]
    assert len(gaps) == 18
    assert min(gaps) > 0.0


def test_official_trials_belong_to_the_evaluation_split() -> None:
    result = evaluate(
        PixelEncoder(),
        splits(drawn(), (RUN,)),
        HEAD,
        split="validation",
        shapes=[(5, 1)],
        episode_count=5,
        pairs=50,
    )
    assert result.official is None


def test_equal_seeds_give_equal_evaluations() -> None:
    first, second, other = (
        evaluate(
            PixelEncoder(),
            splits(drawn(noise=90.0)),
            HEAD,
            shapes=[(5, 1)],
            episode_count=50,
            pairs=200,
            seed=seed,
        )
        for seed in (3, 3, 4)
    )
    assert first.episodes == second.episodes
    assert first.verification == second.verification
    assert first.episodes != other.episodes


@pytest.mark.parametrize(("groups", "classes", "way"), [(1, 2, 2), (1, 4, 4), (2, 2, 2)])
def test_data_for_none_of_the_usual_episodes_is_measured_by_the_widest_there_are(
    groups: int, classes: int, way: int
) -> None:
    result = evaluate(
        PixelEncoder(), splits(drawn(groups, classes, noise=90.0)), HEAD, episode_count=50, pairs=200
    )
    (found,) = result.episodes
    assert (found.way, found.shot, found.within_group, found.episodes) == (way, 1, True, 50)
    kinds = 4 if groups == 1 else 8
    assert result.skipped[kinds] == (
        f"all requested episodes; replaced by {way}-way 1-shot within groups, the widest possible"
    )
    # Two classes are too few for a third that nobody registered.
    assert [line.split(":")[0] for line in result.skipped[kinds + 1 :]] == ["open-set identification"] * (
        groups * classes == 2
    )
    assert result.one_shot is not None
    assert result.one_shot[0] == f"{way}-way 1-shot episodes" + (
        ", within group" if result.data.groups > 1 else ""
    )
    assert result.mistakes_of == f"{way}-way 1-shot episodes within groups"
    assert result.mistakes


@pytest.mark.parametrize(("classes", "way"), [(6, 2), (10, 2), (20, 4)])
def test_a_small_folder_of_pictures_is_evaluated_by_default(tmp_path: Path, classes: int, way: int) -> None:
    images = drawn(groups=1, classes=classes, drawers=3)
    for number, (picture, label) in enumerate(zip(images.images[..., 0], images.labels, strict=True)):
        (tmp_path / f"class{label:02d}").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / f"class{label:02d}" / f"{number}.png")
    result = evaluate(PixelEncoder(), load_splits(f"folder:{tmp_path}", INPUT), HEAD, episode_count=20)
    assert [(e.way, e.shot, e.within_group) for e in result.episodes] == [(way, 1, True)]
    assert "replaced by" in result.skipped[4]
    assert result.verification is not None


def test_nothing_stands_in_where_one_kind_of_episodes_was_drawn() -> None:
    images = drawn(groups=3, classes=2)
    result = evaluate(PixelEncoder(), splits(images), HEAD, episode_count=20, pairs=200)
    assert [(e.way, e.shot, e.within_group) for e in result.episodes] == [(5, 1, False), (5, 5, False)]
    assert len(result.skipped) == 6


def test_nothing_stands_in_for_episodes_beside_official_trials() -> None:
    result = evaluate(
        PixelEncoder(), splits(drawn(1, 3), (RUN,)), HEAD, shapes=[(20, 1)], episode_count=5, pairs=50
    )
    assert result.episodes == ()
    assert len(result.skipped) == 1


def test_the_widest_episodes_are_across_groups_where_no_group_has_two_usable_classes() -> None:
    images = drawn(groups=1, classes=25)
    assert widest_one_shot(images) == (20, True)
    alone = replace(
        images, class_groups=np.arange(25), group_names=tuple(f"group{group}" for group in range(25))
    )
    assert widest_one_shot(alone) == (20, False)
    # Of five groups with two classes each, only the first group's second class has a second picture.
    pairs = drawn(groups=5, classes=2)
    kept = np.flatnonzero((pairs.drawers == 0) | (pairs.labels % 2 == 0) | (pairs.labels == 1))
    few = replace(pairs, images=pairs.images[kept], labels=pairs.labels[kept], drawers=pairs.drawers[kept])
    assert widest_one_shot(few) == (2, True)


def test_data_for_no_episode_at_all_is_an_error() -> None:
    with pytest.raises(
        DataError,
        match=r"^drawn evaluation has too few pictures for any episode: fewer than two of its classes have two pictures$",
    ):
        evaluate(PixelEncoder(), splits(drawn(groups=1, classes=3)), HEAD, per_class=1, episode_count=5)


def test_the_reason_why_there_is_no_verification_is_stated() -> None:
    result = evaluate(PixelEncoder(), splits(drawn(), (RUN,)), HEAD, per_class=1, shapes=[(5, 1)])
    assert result.verification is None
    assert result.skipped[-1].startswith("verification: drawn evaluation: verification pairs need a group")


def test_thin_keeps_some_images_of_each_class() -> None:
    images = drawn()
    few = subsample(images, 3)
    assert few.counts.tolist() == [3] * 18
    assert few.class_names == images.class_names
    assert subsample(images, None) is images


@pytest.mark.parametrize(("channels", "kind"), [(1, "png"), (3, "jpeg")])
def test_pictures_become_data_uris(channels: int, kind: str) -> None:
    image = np.full((6, 5, channels), 77, dtype=np.uint8)
    uri = as_data_uri(image)
    head, _, body = uri.partition(",")
    assert head == f"data:image/{kind};base64"
    picture = Image.open(io.BytesIO(base64.b64decode(body)))
    assert (picture.size, np.asarray(picture).max()) == ((5, 6), 77)


def test_a_heavy_encoder_is_looked_at_with_fewer_pictures() -> None:
    assert SHAPES == ((20, 1), (5, 1), (20, 5), (5, 5))
    assert default_size(24_400_000) == EvaluationSize(SHAPES, EPISODES, None)
    assert default_size(908_600_000) == EvaluationSize(((20, 1),), 200, 4)
    images = drawn(groups=3, classes=2, drawers=6)
    assert subsample_for(images, 1) is images
    assert subsample_for(images, 908_600_000).counts.tolist() == [4] * images.classes
