"""`python -m export train`: train an encoder, or resume an interrupted run."""

from __future__ import annotations

import argparse

from export.cli.options import (
    add_data_options,
    add_recipe_options,
    add_training_options,
    list_recipes,
    output_directory,
    set_threads,
    splits_for,
    training_settings,
)
from export.conversion.operations import require_convertible
from export.encoders import build_encoder
from export.training.distributed import is_leader
from export.training.train import train

EXAMPLE = f"""\
examples:
  python -m export train --data omniglot --encoder glyphnet --out build/omniglot/train
  python -m export train --recipe omniglot-characters
  python -m export train --data folder:photos --steps 3000 --out build/photos/train
  torchrun --nproc-per-node 2 -m export train --data omniglot --encoder koch2015 --out build/koch/train

Ctrl-C saves a checkpoint; the same command resumes from it and ends with the same weights.

recipes:
{list_recipes()}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser, default="the encoder's own data")
    add_recipe_options(parser, "directory of the run")
    add_training_options(parser)


def run(arguments: argparse.Namespace) -> int:
    out = output_directory(arguments, below="train")
    settings = training_settings(arguments)
    set_threads(arguments)
    encoder = build_encoder(settings.encoder)
    require_convertible(encoder)
    splits = splits_for(settings, encoder, arguments.data_root)
    result = train(settings, splits, out, fresh=arguments.fresh)
    if not is_leader():
        return 0
    print(f"{result.describe()}, in {result.run}")
    return 0
