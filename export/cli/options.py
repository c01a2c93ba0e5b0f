"""Options that several commands share."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from edge_siamese.errors import SettingsError
from export import records
from export.data import load_splits
from export.data.folders import is_in_color
from export.data.images import Splits
from export.data.sources import source_names
from export.encoder_names import EXTRACTOR_NOTATION, PIXELS, TIMM_NOTATION
from export.encoders import ENCODERS, EncoderNetwork
from export.encoders.efficientnet_lite import weights_installed
from export.training.settings import (
    AUGMENTATION_NAMES,
    BUNDLE_PREFIX,
    INITIALIZATIONS,
    OBJECTIVES,
    OPTIMIZERS,
    PRECISIONS,
    RUN_PREFIX,
    SCHEDULES,
    STARTS,
    WEIGHTS_PREFIX,
    Recipe,
    TrainingSettings,
    encoder_defaults,
    load_recipe,
    recipe_names,
    settings_for,
)

DEFAULT_ENCODER, PHOTO_ENCODER = "glyphnet", "efficientnet-lite0"
"""Encoders without `--encoder`: for drawings and gray pictures, and for color photographs."""


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1)


def count(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0)


def seed(text: str) -> int:
    """A whole number from 0 to 2^31 - 1."""
    value = _whole(text, 0)
    if value >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed: a seed is below 2^31")
    return value


def amount(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _whole(text: str, minimum: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = minimum - 1
    if value < minimum:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {minimum}")
    return value


def encoder_name(text: str) -> str:
    """The name of an encoder; whether a network or a file exists is checked when it is built."""
    try:
        encoder_defaults(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def add_bundle_argument(parser: argparse.ArgumentParser) -> None:
    """`BUNDLE`; see `export.evaluation.loading.open_bundle`."""
    parser.add_argument(
        "bundle",
        type=Path,
        metavar="BUNDLE",
        help="a bundle, the output of a pipeline, or the name of a shipped bundle (glyphs, objects)",
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """`--out` and `--json`, for commands that print figures."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the figures to a JSON file")
    parser.add_argument("--json", action="store_true", help="print only JSON on standard output")


def output(arguments: argparse.Namespace, record: Any, show: Callable[[Any], object]) -> None:
    """Write a record, or a list of them, as `--out` and `--json` say; without `--json`, show each of them."""
    if arguments.out:
        records.write(arguments.out, record)
    if arguments.json:
        print(records.dumps(record), end="")
    else:
        for item in record if isinstance(record, list) else [record]:
            show(item)


def add_data_options(parser: argparse.ArgumentParser, default: str) -> None:
    """`--data` and `--data-root`; `default` describes what is used without `--data`."""
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="omniglot, glyphs (drawn by the program), grocery, folder:PATH with one subfolder per class, or turntable:PATH "
        "with rendered objects; other splits of Omniglot: omniglot:characters, omniglot:ALPHABET,ALPHABET; several, "
        "separated by commas, train together: the first is evaluated, and anything:PATH adds pictures, each its own class "
        f"(default: {default})",
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="directory with the pictures of omniglot or grocery (default: Omniglot is downloaded once and cached)",
    )


def add_recipe_options(parser: argparse.ArgumentParser, out_help: str) -> None:
    """`--recipe` and `--out`, of which the latter defaults to the recipe's."""
    parser.add_argument(
        "--recipe",
        type=_recipe,
        metavar="NAME",
        help=f"run a recipe of export/recipes ({', '.join(recipe_names())}) or a TOML file; other options override it",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"{out_help} (default: the recipe's)")
    parser.set_defaults(usage_error=parser.error)


def list_recipes() -> str:
    """The recipes with their descriptions, for `--help`."""
    width = max(map(len, recipe_names()))
    return "\n".join(f"  {name:<{width}}  {load_recipe(name).description}" for name in recipe_names())


def _recipe(text: str) -> Recipe:
    try:
        return load_recipe(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def output_directory(arguments: argparse.Namespace, below: str = "") -> Path:
    """`--out`, or the directory `below` in the recipe's output directory; exits with status 2 if neither is given."""
    if arguments.out is None and arguments.recipe is None:
        arguments.usage_error("one of the arguments --out --recipe is required")
    return arguments.out or Path(arguments.recipe.out) / below


def set_threads(arguments: argparse.Namespace) -> None:
    """Apply `--threads`, or the threads of the recipe."""
    if threads := arguments.threads or (arguments.recipe and arguments.recipe.threads):
        torch.set_num_threads(threads)


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Options for `TrainingSettings`; those left out come from the recipe or the encoder's defaults."""
    parser.add_argument(
        "--encoder",
        type=encoder_name,
        metavar="ENCODER",
        help=f"{', '.join(sorted(ENCODERS))}; {TIMM_NOTATION}, a network of timm on SIDE x SIDE pixels, cut after stage N; "
        f"or {EXTRACTOR_NOTATION}, a finished ONNX file, which is not trained and reads PIXELS: {', '.join(PIXELS)} "
        f"(default: {PHOTO_ENCODER}, which starts from ImageNet weights, for color photographs if these are installed; "
        f"otherwise {DEFAULT_ENCODER})",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="initial weights of a network of timm: .pt, .pth or .safetensors (default: timm downloads them)",
    )
    group = parser.add_argument_group("training (defaults: those of the recipe or the encoder)")
    group.add_argument(
        "--objective",
        choices=OBJECTIVES,
        help="loss: cosine-margin softmax, verification pairs, all pairs of a batch, or distillation",
    )
    group.add_argument(
        "--steps", type=count, metavar="N", help="optimizer steps in total; 0 keeps the initial weights"
    )
    group.add_argument(
        "--start",
        metavar="START",
        help=f"initial weights: {', '.join(STARTS)}, {RUN_PREFIX}DIR from an earlier run, {BUNDLE_PREFIX}NAME of a bundle",
    )
    group.add_argument(
        "--initialization",
        choices=INITIALIZATIONS,
        help="random initial weights: as the encoder's authors describe, or He et al. (koch2015 only)",
    )
    group.add_argument(
        "--finetuned-weight",
        type=amount,
        metavar="X",
        help="weight of the fine-tuned network, 0 to 1, in its average with the initial one",
    )
    group.add_argument(
        "--anti-forgetting-data",
        metavar="DIR",
        help="unrelated pictures on which the encoder has to keep its initial embeddings, or those of the teacher",
    )
    group.add_argument(
        "--published-weight",
        type=amount,
        metavar="X",
        help="distillation: weight of the published network in the teacher, 0 to 1 (default: 0.5)",
    )
    group.add_argument(
        "--anti-forgetting-weight",
        type=amount,
        metavar="X",
        help="weight of that loss relative to the objective",
    )
    group.add_argument(
        "--data-shares",
        metavar="N,N",
        help="shares of several data sets in a batch, such as 1,2,1 (default: equal shares)",
    )
    group.add_argument(
        "--pictures-per-class", type=positive, metavar="N", help="pictures of each class in a batch"
    )
    group.add_argument("--batch", type=positive, metavar="N", help="images per step, over all workers")
    group.add_argument("--optimizer", choices=OPTIMIZERS, help="AdamW, or SGD with momentum")
    group.add_argument("--learning-rate", type=amount, metavar="X", help="peak learning rate")
    group.add_argument(
        "--max-gradient-norm", type=amount, metavar="X", help="limit of the gradient's norm; 0 for none"
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="number format of convolutions and matrix products; bfloat16 is faster with AMX",
    )
    group.add_argument(
        "--dropout", type=amount, metavar="X",
        help="probability that an input of the fully connected layer is set to zero in training (koch2015 only)",
    )  # fmt: skip
    group.add_argument("--schedule", choices=SCHEDULES, help="cosine to zero, or 1 %% less each epoch")
    group.add_argument("--weight-decay", type=amount, metavar="X", help="decoupled for adamw, L2 for sgd")
    group.add_argument(
        "--warmup", type=amount, metavar="X", help="fraction of the steps in which the learning rate rises"
    )
    group.add_argument(
        "--augmentation", choices=sorted(AUGMENTATION_NAMES), help="distortion of training images"
    )
    group.add_argument(
        "--synthetic-alphabets",
        type=count,
        metavar="N",
        help="generated alphabets added to the training classes (drawings only)",
    )
    group.add_argument(
        "--symmetries",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="rotated and mirrored images are separate classes; with all-pairs, separate alphabets",
    )
    group.add_argument("--margin", type=amount, metavar="X", help="margin of the cosine objective")
    group.add_argument(
        "--logit-scale", type=amount, metavar="X", help="scale of the cosine objective's logits"
    )
    group.add_argument(
        "--classifier-lr-multiplier",
        type=amount,
        metavar="X",
        help="learning rate of class directions or of Koch's head, relative to the encoder's",
    )
    group.add_argument(
        "--freeze-batch-statistics",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="batch normalization keeps its initial running statistics",
    )
    group.add_argument(
        "--ema-fraction",
        type=amount,
        metavar="X",
        help="fraction of the run over which the kept weights are averaged; 0 keeps the last ones",
    )
    group.add_argument("--validations", type=positive, metavar="N", help="number of validations in the run")
    group.add_argument(
        "--validation-episodes", type=positive, metavar="N", help="episodes of each validation"
    )
    group.add_argument("--seed", type=seed, metavar="N", help="seed of every random choice")
    group.add_argument("--threads", type=positive, metavar="N", help="processor threads (default: all cores)")
    group.add_argument("--fresh", action="store_true", help="start over even if there is a run to resume")


def training_settings(arguments: argparse.Namespace) -> TrainingSettings:
    """Settings of a run: the encoder's defaults, changed by the recipe, changed by the options."""
    settings = arguments.recipe.changes if arguments.recipe else {}
    names = (field.name for field in fields(TrainingSettings))
    options = {name: getattr(arguments, name, None) for name in names}
    settings |= {name: value for name, value in options.items() if value is not None}
    if weights := getattr(arguments, "weights", None):
        if options.get("start"):
            arguments.usage_error("--weights and --start exclude each other")
        if not Path(weights).is_file():  # said before the data are read
            raise SettingsError(f"--weights {weights}: there is no such file")
        settings["start"] = f"{WEIGHTS_PREFIX}{weights}"
    if "encoder" not in settings:
        settings["encoder"] = default_encoder(settings.get("data"))
    return settings_for(settings.pop("encoder"), **settings)


def default_encoder(data: str | None) -> str:
    """The default encoder for some data; printed for a folder, where it depends on the pictures."""
    kind, _, path = source_names(data or "")[0].partition(":")
    if kind == "grocery":
        return PHOTO_ENCODER
    if kind != "turntable" and (kind != "folder" or not is_in_color(Path(path))):
        return DEFAULT_ENCODER
    if not weights_installed():
        print(
            f"encoder {DEFAULT_ENCODER}: the weights of {PHOTO_ENCODER}, the better one for color pictures, are not "
            "installed (make setup installs them)",
            file=sys.stderr,
        )
        return DEFAULT_ENCODER
    print(f"encoder {PHOTO_ENCODER}, for color pictures; --encoder chooses another", file=sys.stderr)
    return PHOTO_ENCODER


def splits_for(settings: TrainingSettings, encoder: EncoderNetwork, data_root: Path | None) -> Splits:
    """The data of a run."""
    composed = len(source_names(settings.data)) > 1 or settings.data.startswith("turntable:")
    larger = encoder.preprocessing if composed else None
    return load_splits(
        settings.data,
        encoder.preprocessing,
        data_root=data_root,
        seed=settings.seed,
        training_preprocessing=encoder.training_preprocessing or larger,
    )
