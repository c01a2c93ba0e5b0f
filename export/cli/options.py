"""Options that several commands share."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from export.data import load_splits
from export.data.augment import AUGMENTATIONS
from export.data.images import Splits
from export.encoders import ENCODERS, EncoderNetwork
from export.training.objectives import OBJECTIVES
from export.training.settings import OPTIMIZERS, RUN, SCHEDULES, STARTS, TrainingSettings, recipe


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
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed: those are below 2^31")
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


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return value


def add_bundle_argument(parser: argparse.ArgumentParser) -> None:
    """`BUNDLE`; see `export.evaluation.loading.open_bundle`."""
    parser.add_argument(
        "bundle",
        type=Path,
        metavar="BUNDLE",
        help="a bundle, a pipeline's directory, or the name of a shipped bundle (glyphs, objects)",
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """`--out` and `--json`, for commands that print figures."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures to a JSON file, too")
    parser.add_argument("--json", action="store_true", help="print only JSON on standard output")


def add_data_options(parser: argparse.ArgumentParser, default: str) -> None:
    """`--data` and `--data-root`; `default` describes what is used without `--data`."""
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="omniglot, glyphs (drawn by the program), grocery, or folder:PATH with one subfolder per class; other splits "
        f"of Omniglot: omniglot:characters, omniglot:ALPHABET,ALPHABET (default: {default})",
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="directory with the pictures of omniglot or grocery (default: Omniglot is downloaded once and cached)",
    )


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """All that decides what a run becomes; what is left out comes from the encoder's recipe."""
    parser.add_argument("--encoder", default="glyphnet", choices=sorted(ENCODERS), help="(default: glyphnet)")
    group = parser.add_argument_group("training (each defaults to the encoder's recipe)")
    group.add_argument(
        "--objective", choices=OBJECTIVES, help="cosine-margin softmax over classes, or the paper's pairs"
    )
    group.add_argument(
        "--steps", type=count, metavar="N", help="optimizer steps in all; 0 keeps the published weights"
    )
    group.add_argument(
        "--start",
        metavar="START",
        help=f"weights to start from: {', '.join(STARTS)}, or {RUN}DIR of an earlier run",
    )
    group.add_argument(
        "--blend",
        type=amount,
        metavar="X",
        help="share of the way from the weights of the start to the trained ones",
    )
    group.add_argument(
        "--remember",
        metavar="DIR",
        help="pictures of anything, in which to go on seeing what it saw at the start",
    )
    group.add_argument(
        "--remembering", type=amount, metavar="X", help="how much that counts beside the objective"
    )
    group.add_argument("--batch", type=positive, metavar="N", help="images a step, over all workers")
    group.add_argument("--optimizer", choices=OPTIMIZERS, help="AdamW, or SGD with momentum")
    group.add_argument("--learning-rate", type=amount, metavar="X", help="the highest of the run")
    group.add_argument("--schedule", choices=SCHEDULES, help="down to zero, or 1 %% less an epoch")
    group.add_argument("--weight-decay", type=amount, metavar="X", help="decoupled for adamw, L2 for sgd")
    group.add_argument("--augmentation", choices=sorted(AUGMENTATIONS), help="how images are distorted")
    group.add_argument(
        "--invented",
        type=count,
        metavar="N",
        help="alphabets of invented characters to train on beside drawings",
    )
    group.add_argument(
        "--symmetries",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="turned and mirrored images as further classes",
    )
    group.add_argument(
        "--validations", type=positive, metavar="N", help="how often the validation accuracy is measured"
    )
    group.add_argument("--seed", type=seed, metavar="N", help="decides every random choice")
    group.add_argument("--threads", type=positive, metavar="N", help="processor threads (default: all cores)")
    group.add_argument("--fresh", action="store_true", help="start anew even if there is a run to go on with")


def training_settings(arguments: argparse.Namespace) -> TrainingSettings:
    """The recipe of the chosen encoder, with the given options."""
    names = (
        "data", "objective", "steps", "batch", "optimizer", "learning_rate", "schedule", "weight_decay",
        "augmentation", "invented", "symmetries", "validations", "seed", "start", "blend",
        "remember", "remembering",
    )  # fmt: skip
    return recipe(arguments.encoder, **{name: getattr(arguments, name) for name in names})


def splits_for(settings: TrainingSettings, encoder: EncoderNetwork, data_root: Path | None) -> Splits:
    """The data that a run of these settings sees."""
    return load_splits(
        settings.data,
        encoder.preprocessing,
        data_root=data_root,
        seed=settings.seed,
        finer=encoder.training_preprocessing,
    )
