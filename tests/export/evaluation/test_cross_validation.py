"""Cross-validation: when it is done, what it announces, that it resumes, and whose figures the verdict shows."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_siamese.errors import SettingsError
from export import pipeline
from export.data import cache, load_splits
from export.data.folds import all_classes
from export.data.images import Splits
from export.encoders import ENCODERS
from export.evaluation.cross_validation import CrossValidationPlan, cross_validate, plan
from export.evaluation.verdict import SHIPPED, STARTING, TRAINED, choose_candidate
from export.training import train as training
from export.training.settings import TrainingSettings
from export.training.train import Interrupted, learning_rate
from tests.export.conversion.test_onnx import Tiny
from tests.export.test_commands import write_photos


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingSettings:
    """A short training on nine classes of drawn pictures."""
    torch.set_num_threads(1)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setitem(ENCODERS, "tiny", Tiny)
    write_photos(tmp_path / "photos", 9, each=4)
    return TrainingSettings(
        data=f"folder:{tmp_path / 'photos'}", encoder="tiny", steps=4, batch=8, validations=2,
        validation_episodes=40, symmetries=False, augmentation="photo",
    )  # fmt: skip


def data_of(settings: TrainingSettings) -> Splits:
    return load_splits(settings.data, Tiny().preprocessing, seed=settings.seed)


def test_it_is_done_for_few_classes_that_the_seed_divided(settings: TrainingSettings) -> None:
    splits = data_of(settings)
    assert plan(settings, splits, None) == CrossValidationPlan(3, 9, 3, 3)
    assert plan(settings, splits, 0) is None
    assert plan(settings, splits, 4) == CrossValidationPlan(4, 9, 2, 3)
    chosen = replace(splits, provenance={**splits.provenance, "split": "subfolders"})
    assert plan(settings, chosen, None) is None and plan(settings, chosen, 3) is not None
    assert plan(replace(settings, data="glyphs"), splits, None) is None
    with pytest.raises(
        SettingsError, match="--folds 3: cross-validation is for a single folder of pictures; use --folds 0"
    ):
        plan(replace(settings, data="glyphs"), splits, 3)
    untrained = replace(settings, start="published", steps=0)
    assert plan(untrained, splits, None) is None
    with pytest.raises(SettingsError, match="nothing is trained with 0 steps"):
        plan(untrained, splits, 3)


def test_thirty_classes_are_enough_for_a_single_split(settings: TrainingSettings) -> None:
    splits = data_of(settings)
    many = splits.train.select(np.arange(splits.train.classes))
    names = tuple(f"more {number}" for number in range(26))
    many = replace(many, class_names=names, class_groups=np.zeros(26, np.int64))
    assert plan(settings, replace(splits, train=many), None) is None


def test_it_says_how_long_it_takes() -> None:
    said = CrossValidationPlan(5, 24, 4, 5).announce(630.0)
    assert said == (
        "cross-validation: 5 more training runs like this one, each without 4 to 5 of the 24 classes, take about 52 "
        "minutes; Ctrl-C saves, the same command resumes, and --folds 0 skips it"
    )
    assert "about a minute or less" in CrossValidationPlan(2, 8, 4, 4).announce(3.0)


def test_it_resumes_and_tests_every_class_once(
    settings: TrainingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits, out = data_of(settings), tmp_path / "folds"
    planned = plan(settings, splits, 3)
    assert planned is not None
    pool = all_classes(splits)
    shared = {SHIPPED: (np.eye(9, dtype=np.float32)[pool.labels], pipeline.SigmoidDistanceHead(1.0, 0.0))}
    said: list[str] = []

    def stop_in_second_fold(used: TrainingSettings, step: int, epoch_steps: int) -> float:
        if step == 2 and (out / "2-of-3").exists():
            signal.raise_signal(signal.SIGINT)
        return learning_rate(used, step, epoch_steps)

    with monkeypatch.context() as interruption:
        interruption.setattr(training, "learning_rate", stop_in_second_fold)
        with pytest.raises(Interrupted):
            cross_validate(settings, splits, planned, out, shared, progress=said.append)
    assert sorted(path.name for path in out.iterdir()) == ["1-of-3", "2-of-3"]
    first = (out / "1-of-3" / "best.pt").stat().st_mtime_ns
    answers = cross_validate(settings, splits, planned, out, shared, progress=said.append)
    assert (out / "1-of-3" / "best.pt").stat().st_mtime_ns == first
    assert said[0] == "fold 1 of 3: training on 4 classes, testing 3 others"
    assert [(part.way, part.episodes, len(np.unique(part.classes))) for part in answers] == [(3, 2000, 3)] * 3
    found = choose_candidate(answers, splits.train.classes, folds=planned.folds)
    assert (found.classes, found.folds, found.episodes, found.training_classes) == (9, 3, 6000, 5)
    accuracy = {candidate.name: candidate.accuracy for candidate in found.candidates}
    assert accuracy[SHIPPED] == 1.0 and 1 / 3 < accuracy[TRAINED] <= 1.0 and STARTING not in accuracy
    assert found.measured.startswith(
        "3-fold cross-validation: each of the 9 classes is tested by an encoder that was trained without it. 6,000 episodes"
    )
    assert "those of 3 float networks trained with its settings, not of the bundle" in found.measured


def test_the_pipelines_verdict_compares_with_the_shipped_bundle_on_all_classes(
    settings: TrainingSettings, tmp_path: Path, objects_shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = data_of(settings)
    planned = plan(settings, splits, 3)
    assert planned is not None
    found = pipeline._cross_validated(settings, splits, planned, tmp_path / "folds", False, "Too good.")
    assert {candidate.name for candidate in found.candidates} == {SHIPPED, TRAINED}
    assert (found.folds, found.classes, found.way) == (3, 9, 3)
    assert found.sentence.endswith(" Too good.")
    assert "fold 3 of 3: the weights of step" in capsys.readouterr().err
