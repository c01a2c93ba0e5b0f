"""Measure how a device with a bundle recognizes your pictures: some classes registered, the others unknown.

In each draw, some classes of a folder are registered from one picture each. All other pictures are shown: those of the
registered classes should be recognized, those of the other classes not. 95 % intervals are over classes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edge_siamese import EdgeSiameseError, Recognizer
from export.evaluation.metrics import class_accuracy_interval

EXAMPLE = """\
example:
  .venv/bin/python examples/evaluate_bundle.py objects examples/pictures --registered 5"""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
KNOWN, UNKNOWN = ("nearest object is right", "recognized", "wrong name"), "passes for an object"


def read_classes(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each subfolder with at least two of them."""
    classes = {
        place.name: sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
        for place in sorted(folder.iterdir())
        if place.is_dir()
    }
    return {name: pictures for name, pictures in classes.items() if len(pictures) >= 2}


def run_draw(
    recognizer: Recognizer, classes: dict[str, list[Path]], registered: int, rng: np.random.Generator
) -> Iterable[tuple[str, str, bool]]:
    """One draw: (question, class, answer) for each picture that is shown."""
    chosen = set(rng.choice(sorted(classes), registered, replace=False).tolist())
    supports = {name: classes[name][rng.integers(len(classes[name]))] for name in sorted(chosen)}
    for name, picture in supports.items():
        recognizer.register(name, picture)
    for name, pictures in classes.items():
        for picture in pictures:
            if picture == supports.get(name):
                continue
            result = recognizer.recognize(picture)
            if name in chosen:
                answers = (result.nearest == name, result.name == name, result.name not in (name, None))
                yield from ((question, name, answer) for question, answer in zip(KNOWN, answers, strict=True))
            else:
                yield UNKNOWN, name, result.name is not None
    for name in supports:
        recognizer.forget(name)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="objects, glyphs, or the directory of a bundle")
    parser.add_argument("pictures", type=Path, help="a folder with a subfolder for each class")
    parser.add_argument(
        "--registered", type=int, default=5, metavar="N", help="classes to register (default: 5)"
    )
    parser.add_argument("--draws", type=int, default=10, metavar="N", help="number of draws (default: 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws (default: 0)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    outcomes: dict[str, list[tuple[int, bool]]] = {question: [] for question in (*KNOWN, UNKNOWN)}
    try:
        classes = read_classes(options.pictures)
        if not 2 <= options.registered < len(classes):
            parser.error(
                f"--registered must be from 2 to {len(classes) - 1}: there are {len(classes)} classes"
            )
        recognizer = Recognizer(options.model, keep_crops=False)
        for number in range(options.draws):
            print(f"\rdraw {number + 1} of {options.draws}", end="", file=sys.stderr, flush=True)
            for question, name, answer in run_draw(recognizer, classes, options.registered, rng):
                outcomes[question].append((list(classes).index(name), answer))
        print(file=sys.stderr)
    except (EdgeSiameseError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{options.registered} of {len(classes)} classes registered from one picture each, {options.draws} draws"
    )
    for question, found in outcomes.items():
        indices, answers = zip(*found, strict=True)
        interval = class_accuracy_interval(answers, indices)
        of = "other classes" if question == UNKNOWN else "registered classes"
        chance = f"; chance {1 / options.registered:.0%}" if question == KNOWN[0] else ""
        print(
            f"  {of + ':':<20}{question:<26}{np.mean(answers):6.1%}  ({interval.low:.1%} to {interval.high:.1%}{chance})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
