"""Settings of a training run: what contradicts itself is refused, and recipes are what the documentation says."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, replace
from typing import Any

import pytest

from edge_siamese.errors import SettingsError
from export.encoders import ENCODERS
from export.training.settings import PHOTO_STEPS, RECIPES, TrainingSettings, recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "luck"}, "start 'luck' is not one of random, published, run:DIR"),
        ({"steps": 0}, "steps has to be at least 1, not 0: random weights know nothing"),
        ({"sharpness": 0.0}, "sharpness has to be a number above 0, not 0.0"),
        (
            {"start": "published", "blend": 1.5},
            "blend is a share of the way from earlier weights to the trained ones, up to 1",
        ),
        ({"blend": 0.5}, "blend is a share of the way from earlier weights to the trained ones, up to 1"),
        ({"remember": "photos"}, "there is nothing to remember without earlier weights to start from"),
        (
            {"data": "grocery", "invented": 3},
            "invented alphabets stand beside drawings (omniglot, glyphs) alone, 0 or more",
        ),
        ({"invented": -1}, "invented alphabets stand beside drawings (omniglot, glyphs) alone, 0 or more"),
        ({"optimizer": "lion"}, "optimizer 'lion' is not one of adamw, sgd"),
        ({"schedule": "flat"}, "schedule 'flat' is not one of cosine, exponential"),
        ({"batch": 0}, "batch has to be at least 1, not 0"),
        ({"validations": -1}, "validations has to be at least 1, not -1"),
        ({"validation_episodes": 0}, "validation_episodes has to be at least 1, not 0"),
        ({"learning_rate": float("inf")}, "learning rate has to be a number of at least 0, not inf"),
        ({"weight_decay": -0.1}, "weight decay has to be a number of at least 0, not -0.1"),
        ({"average": float("nan")}, "average has to be a number of at least 0, not nan"),
        ({"warmup": 1.0}, "average and warmup are shares of the run, below 1"),
        ({"average": 1.0}, "average and warmup are shares of the run, below 1"),
        (
            {"objective": "pairs", "batch": 6},
            "a batch of pairs has half of each kind: its size is a multiple of 4, not 6",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        TrainingSettings(**changes)
    assert str(raised.value) == message


def test_an_unknown_encoder_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"^encoder 'vgg' is not one of glyphnet, koch2015, .*lite0\b"):
        TrainingSettings(encoder="vgg")


def test_an_augmentation_that_is_none_names_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"^augmentation 'mild' is not one of .*\bkoch\b.*\bstrong\b"):
        TrainingSettings(augmentation="mild")


def test_the_smallest_settings_are_allowed() -> None:
    smallest = TrainingSettings(
        steps=1, batch=1, validations=1, validation_episodes=1, learning_rate=0.0, weight_decay=0.0,
        average=0.0, warmup=0.0,
    )  # fmt: skip
    assert smallest.validation_steps() == {1}
    assert TrainingSettings(objective="pairs", batch=4).batch == 4


def test_settings_cannot_be_changed_afterward() -> None:
    with pytest.raises(FrozenInstanceError):
        TrainingSettings().steps = 5  # type: ignore[misc]


def test_every_encoder_has_a_recipe_of_its_own() -> None:
    assert set(RECIPES) == set(ENCODERS)
    assert {name: settings.encoder for name, settings in RECIPES.items()} == {name: name for name in ENCODERS}


def test_a_recipe_takes_changes_and_leaves_what_is_none() -> None:
    changed = recipe("glyphnet", data="glyphs", steps=12, batch=None, seed=3, symmetries=False)
    assert changed == replace(RECIPES["glyphnet"], data="glyphs", steps=12, seed=3, symmetries=False)
    assert recipe("koch2015") == RECIPES["koch2015"]
    with pytest.raises(
        SettingsError, match=r"^there is no encoder 'vgg'; known are efficientnet-lite0, .*koch2015$"
    ):
        recipe("vgg")


def test_an_encoder_that_starts_from_photographs_is_trained_on_others_as_on_its_own() -> None:
    own = RECIPES["efficientnet-lite0"]
    assert recipe("efficientnet-lite0") == own and own.data == "grocery"
    assert recipe("efficientnet-lite0", data="folder:photos") == replace(own, data="folder:photos")


@pytest.mark.parametrize("encoder", ["glyphnet", "koch2015"])
def test_photographs_are_trained_for_less_and_without_turning_classes(encoder: str) -> None:
    photos = recipe(encoder, data="folder:photos")
    assert (photos.symmetries, photos.steps) == (False, PHOTO_STEPS)
    assert photos == replace(
        RECIPES[encoder], data="folder:photos", symmetries=False, augmentation="photo", steps=2000
    )
    asked = recipe(encoder, data="folder:photos", symmetries=True, steps=6000)
    assert (asked.symmetries, asked.steps) == (True, 6000)


def test_paper_is_white_for_drawings_and_nothing_for_photographs() -> None:
    assert [TrainingSettings(data=data).paper for data in ("omniglot", "glyphs", "grocery", "folder:x")] == [
        255.0,
        255.0,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("average", "steps", "decay"),
    [(0.02, 7000, 1 - 1 / 140), (0.5, 10, 0.8), (0.02, 50, 0.0), (0.0, 7000, 0.0)],
)
def test_the_average_is_over_a_share_of_the_run(average: float, steps: int, decay: float) -> None:
    assert TrainingSettings(average=average, steps=steps).average_decay == pytest.approx(decay)


@pytest.mark.parametrize(
    ("steps", "validations", "after"),
    [
        (7, 3, {2, 5, 7}),
        (3, 20, {1, 2, 3}),
        (100, 1, {100}),
        (7000, 7, {1000, 2000, 3000, 4000, 5000, 6000, 7000}),
    ],
)
def test_the_last_step_is_validated(steps: int, validations: int, after: set[int]) -> None:
    assert TrainingSettings(steps=steps, validations=validations).validation_steps() == after


def test_settings_survive_being_written_and_read() -> None:
    settings = recipe("koch2015", data="folder:photos", seed=9)
    assert TrainingSettings.from_dict(asdict(settings)) == settings
    # A run of a former release lacks the newest settings, which then have their defaults.
    assert TrainingSettings.from_dict({"steps": 5}) == TrainingSettings(steps=5)


def test_settings_of_another_release_are_named() -> None:
    with pytest.raises(SettingsError) as raised:
        TrainingSettings.from_dict({**asdict(TrainingSettings()), "momentum": 0.9, "dropout": 0.1})
    assert (
        str(raised.value)
        == "the run was made by another release: it has the unknown settings ['dropout', 'momentum']"
    )


def test_differences_name_the_setting_with_mine_first() -> None:
    mine = TrainingSettings(steps=5, data="glyphs")
    assert mine.differences(TrainingSettings(steps=6)) == [
        "data: 'glyphs', not 'omniglot'",
        "steps: 5, not 6",
    ]
    assert mine.differences(replace(mine)) == []
