"""Train an encoder on a folder of pictures, and say whether it is better than the shipped bundle."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from edge_siamese import EdgeSiameseError
from export.data import load_splits
from export.encoders import build_encoder
from export.pipeline import run_pipeline
from export.training.settings import settings_for

EXAMPLE = """\
example:
  .venv/bin/python examples/train_on_folder.py examples/pictures --steps 60 --out build/example

`python -m export pipeline` does the same with more options."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", type=Path, help="a folder with a subfolder for each class")
    parser.add_argument("--out", type=Path, default=Path("build/example"), help="(default: %(default)s)")
    parser.add_argument(
        "--encoder", default="efficientnet-lite0-small", help="the network (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="training steps (default: the encoder's)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides which classes are held out")
    return parser


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    command = shlex.join(["python", "examples/train_on_folder.py", *arguments])  # for the report
    try:
        data = f"folder:{options.pictures}"
        settings = settings_for(options.encoder, data, steps=options.steps, seed=options.seed)
        splits = load_splits(data, build_encoder(settings.encoder).preprocessing, seed=settings.seed)
        result = run_pipeline(settings, splits, options.out, command=command)
    except EdgeSiameseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    verdict = result.verdict
    assert verdict is not None  # for a folder there is one
    print(f"\n{verdict.classes} classes that were not trained on; chance is {1 / verdict.way:.0%}")
    for candidate in verdict.candidates:
        print(
            f"  {candidate.name:<28} {candidate.accuracy:6.1%}  ({candidate.low:.1%} to {candidate.high:.1%})"
        )
    print("\n".join(filter(None, (verdict.sentence, verdict.advice))))
    print(f'\nreport: {result.report}\nin Python: Recognizer("{result.bundle.path}")')
    return 0


if __name__ == "__main__":
    sys.exit(main())
