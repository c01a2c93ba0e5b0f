"""Settings of a training run: invalid ones are refused, each encoder has its defaults, and recipes change them."""

from __future__ import annotations

import argparse
import json
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.errors import SettingsError
from export.cli import pipeline, train
from export.cli.options import output_directory, training_settings
from export.data.augment import AUGMENTATIONS
from export.encoders import ENCODERS
from export.training.settings import (
    AUGMENTATION_NAMES,
    ENCODER_DEFAULTS,
    MAX_PHOTO_STEPS,
    TrainingSettings,
    load_recipe,
    recipe_names,
    settings_for,
    training_options,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"start": "luck"},
            "start 'luck' is not one of random, published, run:DIR, weights:FILE, bundle:NAME",
        ),
        ({"steps": 0}, "steps must be at least 1 with random initial weights, not 0"),
        ({"logit_scale": 0.0}, "logit_scale must be a number above 0, not 0.0"),
        (
            {"start": "published", "finetuned_weight": 1.5},
            "finetuned_weight must be at most 1, not 1.5",
        ),
        (
            {"finetuned_weight": 0.5},
            "finetuned_weight below 1 requires pretrained initial weights (start)",
        ),
        (
            {"anti_forgetting_data": "photos"},
            "anti_forgetting_data requires pretrained initial weights (start)",
        ),
        (
            {"data": "grocery", "synthetic_alphabets": 3},
            "synthetic_alphabets must be at least 0, and 0 for data other than omniglot, glyphs",
        ),
        (
            {"synthetic_alphabets": -1},
            "synthetic_alphabets must be at least 0, and 0 for data other than omniglot, glyphs",
        ),
        ({"optimizer": "lion"}, "optimizer 'lion' is not one of adamw, sgd"),
        ({"schedule": "flat"}, "schedule 'flat' is not one of cosine, exponential"),
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"validations": -1}, "validations must be at least 1, not -1"),
        ({"validation_episodes": 0}, "validation_episodes must be at least 1, not 0"),
        ({"learning_rate": float("inf")}, "learning_rate must be a number of at least 0, not inf"),
        ({"weight_decay": -0.1}, "weight_decay must be a number of at least 0, not -0.1"),
        ({"ema_fraction": float("nan")}, "ema_fraction must be a number of at least 0, not nan"),
        ({"warmup": 1.0}, "ema_fraction and warmup are fractions of the run and must be below 1"),
        ({"ema_fraction": 1.0}, "ema_fraction and warmup are fractions of the run and must be below 1"),
        (
            {"data_shares": "1,0"},
            "data_shares must be whole numbers of at least 1, such as 1,2,1, not '1,0'",
        ),
        (
            {"data_shares": "1;2"},
            "data_shares must be whole numbers of at least 1, such as 1,2,1, not '1;2'",
        ),
        ({"pictures_per_class": 0}, "pictures_per_class must be at least 1, not 0"),
        (
            {"objective": "pairs", "data_shares": "1"},
            "data_shares and pictures_per_class need the objective cosine or distillation",
        ),
        (
            {"objective": "pairs", "pictures_per_class": 2},
            "data_shares and pictures_per_class need the objective cosine or distillation",
        ),
        (
            {"objective": "pairs", "batch": 6},
            "batch must be a multiple of 4 with the objective pairs, not 6",
        ),
        ({"precision": "float16"}, "precision 'float16' is not one of float32, bfloat16"),
        ({"max_gradient_norm": -1.0}, "max_gradient_norm must be a number of at least 0, not -1.0"),
        ({"dropout": -0.5}, "dropout must be a number of at least 0, not -0.5"),
        ({"dropout": 1.0}, "dropout must be below 1, not 1.0"),
        (
            {"start": "published", "initialization": "he"},
            "initialization chooses random initial weights; it needs start = random",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        TrainingSettings(**changes)
    assert str(raised.value) == message


def test_an_augmentation_that_is_none_names_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"^augmentation 'mild' is not one of .*\bkoch\b.*\bstrong\b"):
        TrainingSettings(augmentation="mild")


def test_shares_are_numbers() -> None:
    assert TrainingSettings(data_shares="1,2,10").shares == [1, 2, 10]
    assert TrainingSettings().shares == []


def test_the_first_of_several_data_decides_whether_pictures_are_drawings() -> None:
    assert TrainingSettings(data="omniglot:Greek,Latin,glyphs").fill == 255.0
    assert TrainingSettings(data="grocery,anything:omniglot", synthetic_alphabets=0).fill is None


def test_the_smallest_settings_are_allowed() -> None:
    smallest = TrainingSettings(
        steps=1, batch=1, validations=1, validation_episodes=1, learning_rate=0.0, weight_decay=0.0,
        ema_fraction=0.0, warmup=0.0,
    )  # fmt: skip
    assert smallest.validation_steps() == {1}
    assert TrainingSettings(objective="pairs", batch=4).batch == 4


def test_settings_cannot_be_changed_afterward() -> None:
    with pytest.raises(FrozenInstanceError):
        TrainingSettings().steps = 5  # type: ignore[misc]


def test_every_encoder_has_defaults_of_its_own() -> None:
    assert set(ENCODER_DEFAULTS) == set(ENCODERS)
    assert {name: settings.encoder for name, settings in ENCODER_DEFAULTS.items()} == {
        name: name for name in ENCODERS
    }


def test_the_names_of_the_augmentations_are_those_that_exist() -> None:
    assert tuple(AUGMENTATIONS) == AUGMENTATION_NAMES


PUBLISHED_RUNS = sorted((Path(__file__).parents[3] / "benchmarks").glob("*/train/settings.json"))


def parse_options(options: list[str]) -> TrainingSettings:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return training_settings(parser.parse_args(options))


@pytest.mark.parametrize("path", PUBLISHED_RUNS, ids=lambda path: path.parts[-3])
def test_training_options_select_the_settings_of_a_published_run(path: Path) -> None:
    settings = TrainingSettings.from_dict(json.loads(path.read_text(encoding="utf-8")))
    assert parse_options(training_options(settings)) == settings


def test_training_options_cover_every_setting() -> None:
    changed = TrainingSettings(
        data="folder:my photos",
        encoder="efficientnet-lite0",
        start="run:build/other",
        objective="pairs",
        seed=3,
        steps=12,
        batch=8,
        optimizer="sgd",
        learning_rate=2e-5,
        weight_decay=0.125,
        schedule="exponential",
        warmup=0.0,
        augmentation="none",
        symmetries=True,
        margin=0.0,
        logit_scale=0.5,
        classifier_lr_multiplier=2.0,
        max_gradient_norm=0.5,
        precision="bfloat16",
        freeze_batch_statistics=False,
        finetuned_weight=0.0,
        anti_forgetting_data="other photos",
        published_weight=0.25,
        anti_forgetting_weight=1.5,
        ema_fraction=0.0,
        validations=3,
        validation_episodes=7,
    )
    drawings = replace(settings_for("glyphnet"), synthetic_alphabets=5)
    assert {line.split(":")[0] for line in changed.differences(settings_for("efficientnet-lite0"))} == {
        field.name for field in fields(TrainingSettings)
    } - {"encoder", "synthetic_alphabets", "data_shares", "pictures_per_class", "initialization", "dropout"}
    several = settings_for(
        "efficientnet-lite0-full", "grocery,anything:photos", data_shares="2,1", pictures_per_class=2
    )
    random = settings_for("koch2015", initialization="he", dropout=0.5)
    for settings in (changed, drawings, several, random):
        assert parse_options(training_options(settings)) == settings
    assert training_options(drawings) == [
        "--data", "omniglot", "--encoder", "glyphnet", "--synthetic-alphabets", "5"
    ]  # fmt: skip


def test_changes_override_the_defaults_and_none_leaves_them() -> None:
    changed = settings_for("glyphnet", data="glyphs", steps=12, batch=None, seed=3, symmetries=False)
    assert changed == replace(ENCODER_DEFAULTS["glyphnet"], data="glyphs", steps=12, seed=3, symmetries=False)
    assert settings_for("koch2015") == ENCODER_DEFAULTS["koch2015"]
    with pytest.raises(
        SettingsError,
        match=r"^there is no encoder 'vgg'; known: efficientnet-lite0, .*koch2015, timm:NAME.*, onnx:FILE.*",
    ):
        settings_for("vgg")


def test_an_encoder_that_starts_from_photographs_is_trained_on_others_as_on_its_own() -> None:
    own = ENCODER_DEFAULTS["efficientnet-lite0"]
    assert settings_for("efficientnet-lite0") == own and own.data == "grocery"
    assert settings_for("efficientnet-lite0", data="folder:photos") == replace(own, data="folder:photos")


@pytest.mark.parametrize("encoder", ["glyphnet", "koch2015"])
def test_photographs_are_trained_for_less_and_without_turning_classes(encoder: str) -> None:
    photos = settings_for(encoder, data="folder:photos")
    assert (photos.symmetries, photos.steps) == (False, MAX_PHOTO_STEPS)
    assert photos == replace(
        ENCODER_DEFAULTS[encoder], data="folder:photos", symmetries=False, augmentation="photo", steps=2000
    )
    asked = settings_for(encoder, data="folder:photos", symmetries=True, steps=6000)
    assert (asked.symmetries, asked.steps) == (True, 6000)


def test_drawings_are_filled_with_white_and_photographs_are_reflected() -> None:
    assert [TrainingSettings(data=data).fill for data in ("omniglot", "glyphs", "grocery", "folder:x")] == [
        255.0,
        255.0,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("fraction", "steps", "decay"),
    [(0.02, 7000, 1 - 1 / 140), (0.5, 10, 0.8), (0.02, 50, 0.0), (0.0, 7000, 0.0)],
)
def test_the_moving_average_is_over_a_fraction_of_the_run(fraction: float, steps: int, decay: float) -> None:
    assert TrainingSettings(ema_fraction=fraction, steps=steps).ema_decay == pytest.approx(decay)


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
    settings = settings_for("koch2015", data="folder:photos", seed=9)
    assert TrainingSettings.from_dict(asdict(settings)) == settings
    # A run of a former release lacks the newest settings, which then have their defaults.
    assert TrainingSettings.from_dict({"steps": 5}) == TrainingSettings(steps=5)


def test_settings_of_another_release_are_named() -> None:
    with pytest.raises(SettingsError) as raised:
        TrainingSettings.from_dict({**asdict(TrainingSettings()), "momentum": 0.9, "nesterov": 0.1})
    assert (
        str(raised.value) == "the run has unknown settings ['momentum', 'nesterov']: another release wrote it"
    )


def test_differences_name_the_setting_with_mine_first() -> None:
    mine = TrainingSettings(steps=5, data="glyphs")
    assert mine.differences(TrainingSettings(steps=6)) == [
        "data: 'glyphs', not 'omniglot'",
        "steps: 5, not 6",
    ]
    assert mine.differences(replace(mine)) == []


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_is_valid(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.out == f"build/{name}" and recipe.description
    changes = recipe.changes
    encoder = changes.pop("encoder")
    for field, value in changes.items():
        assert getattr(settings_for(encoder, **changes), field) == value


def test_the_shipped_bundles_have_recipes() -> None:
    assert {"omniglot", "glyphs", "objects", "objects-small"} <= set(recipe_names())


def parsed(command: str, *options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(command)
    {"train": train, "pipeline": pipeline}[command].add_arguments(parser)
    return parser.parse_args(options)


TURNTABLE = "turntable:build/turntable/training"


def test_options_override_the_recipe_which_overrides_the_defaults() -> None:
    arguments = parsed(
        "pipeline", "--recipe", "objects-first", "--steps", "7", "--encoder", "efficientnet-lite0-small"
    )
    expected = settings_for(
        "efficientnet-lite0-small", data=f"grocery,{TURNTABLE},anything:build/photographs/varied", data_shares="1,2,1",
        pictures_per_class=2, learning_rate=4e-4, classifier_lr_multiplier=12.0, logit_scale=20.0, margin=0.2,
        finetuned_weight=0.8, validations=1, steps=7,
    )  # fmt: skip
    assert training_settings(arguments) == expected


def test_results_go_to_the_directory_of_the_recipe_unless_another_is_given() -> None:
    assert output_directory(parsed("pipeline", "--recipe", "objects")) == Path("build/objects")
    assert output_directory(parsed("train", "--recipe", "objects"), below="train") == Path(
        "build/objects/train"
    )
    chosen = parsed("train", "--recipe", "objects", "--out", "elsewhere")
    assert output_directory(chosen, below="train") == Path("elsewhere")


def test_without_recipe_and_output_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        output_directory(parsed("train", "--steps", "3"))
    assert stopped.value.code == 2
    assert "one of the arguments --out --recipe is required" in capsys.readouterr().err


def test_help_lists_the_recipes() -> None:
    for module in (train, pipeline):
        for name in recipe_names():
            assert f"  {name} " in module.EXAMPLE and load_recipe(name).description in module.EXAMPLE


def test_a_recipe_of_an_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'description = "mine"\nout = "build/mine"\n[training]\nencoder = "glyphnet"\nsteps = 5\nmargin = 1\n'
    )
    arguments = parsed("train", "--recipe", str(path))
    assert training_settings(arguments) == settings_for("glyphnet", steps=5, margin=1.0)
    assert arguments.recipe.threads is None


def test_an_unknown_recipe_names_a_similar_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match="there is no recipe 'object'; did you mean \"objects\"\\?"):
        load_recipe("object")
    with pytest.raises(SystemExit) as stopped:
        parsed("train", "--recipe", "object")
    assert stopped.value.code == 2
    assert 'did you mean "objects"?' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nstep = 3", 'training.step: unknown key; did you mean "steps"?'),
        ("[training]\nsteps = 3.5", "training.steps: must be an integer or null, not 3.5"),
        ("thread = 1\n[training]", 'thread: unknown key; did you mean "threads"?'),
        ("threads = 0\n[training]", "threads: must be an integer of at least 1 or null, not 0"),
        ("", "training: missing"),
        ("[training", "not valid TOML"),
    ],
)
def test_a_mistake_in_a_recipe_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'description = "mine"\nout = "build/mine"\n{text}\n')
    with pytest.raises(SettingsError) as raised:
        load_recipe(str(path))
    assert str(raised.value).startswith(f"{path}: {message}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the recipe .*none\.toml: "):
        load_recipe(str(tmp_path / "none.toml"))
