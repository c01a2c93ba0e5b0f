"""`python -m export train`: train an encoder, or resume a run."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from export.cli.options import add_data_options, add_training_options, splits_for, training_settings
from export.encoders import build_encoder
from export.training.distributed import is_leader
from export.training.train import train

EXAMPLE = """\
examples:
  python -m export train --data omniglot --encoder glyphnet --out build/omniglot/train
  python -m export train --data folder:photos --steps 3000 --out build/photos/train
  torchrun --nproc-per-node 2 -m export train --data omniglot --encoder koch2015 --out build/koch/train

Ctrl-C saves the run; the same command resumes it and ends with the same weights."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser, default="the encoder's own data")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory of the run")
    add_training_options(parser)


def run(arguments: argparse.Namespace) -> int:
    settings = training_settings(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    splits = splits_for(settings, build_encoder(settings.encoder), arguments.data_root)
    result = train(settings, splits, arguments.out, fresh=arguments.fresh)
    if not is_leader():
        return 0
    print(
        f"selected the weights of step {result.step} of {settings.steps}: one-shot {result.validation_accuracy:.2%} "
        f"on validation classes, after {result.seconds / 60:.1f} minutes of training, in {result.run}"
    )
    return 0
