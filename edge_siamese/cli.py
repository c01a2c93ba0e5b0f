"""The command `edge-siamese`: reads the arguments, runs one command, and turns errors into one line."""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from edge_siamese import __version__, commands
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.runtimes import AUTO, PRECISIONS, RUNTIMES

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; None for the process's own.

    Returns:
        0, or 1 after an error, which is told in one line on stderr. Wrong usage ends the process with 2.
    """
    options = build_parser().parse_args(arguments)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has gone. Python must not find that out again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        else:
            expected = isinstance(error, (EdgeSiameseError, OSError))
            message = (
                str(error)
                if expected
                else f"unexpected {type(error).__name__}: {error} (--debug shows where)"
            )
            print(f"edge-siamese: {' '.join(message.split())}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="edge-siamese",
        description="Recognise objects that were seen once, with an encoder from a bundle.",
        epilog="Each command has an example: edge-siamese COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"edge-siamese {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(run: Callable[[argparse.Namespace], int], purpose: str, example: str) -> argparse.ArgumentParser:
        command = subparsers.add_parser(
            run.__name__,
            help=purpose,
            description=purpose,
            epilog=f"example: edge-siamese {run.__name__} {example}",
        )
        command.set_defaults(run=run)
        command.add_argument("bundle", metavar="BUNDLE", help="the directory of a bundle")
        command.add_argument("--json", action="store_true", help="print JSON, for machines")
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return command

    add(commands.info, "What a bundle holds, and which runtimes work here.", "build/demo/bundle")

    selftest = add(
        commands.selftest,
        "Prove that this machine computes what the workstation computed.",
        "build/demo/bundle --runtime onnxruntime",
    )
    selftest.add_argument(
        "--runtime", choices=("all", AUTO, *RUNTIMES), default="all", help="default: all that work here"
    )
    selftest.add_argument(
        "--precision", choices=("all", *PRECISIONS), default="all", help="default: all in the bundle"
    )
    _add_threads(selftest)

    score = add(
        commands.score,
        "How probably two pictures show the same thing.",
        "build/demo/bundle mug-1.png mug-2.png",
    )
    score.add_argument("first", metavar="A", help="a picture file")
    score.add_argument("second", metavar="B", help="a picture file")
    _add_threshold(score)
    _add_encoder(score)

    recognize = add(
        commands.recognize,
        "Learn objects from pictures, then name what other pictures show.",
        "build/demo/bundle new.png --object mug=mug.png",
    )
    recognize.add_argument("pictures", nargs="+", metavar="PICTURE", help="picture files to recognise")
    recognize.add_argument(
        "--object", action="append", required=True, metavar="NAME=PICTURE", help="may be repeated"
    )
    _add_threshold(recognize)
    _add_encoder(recognize)

    embed = add(
        commands.embed, "Embed an array of images.", "build/demo/bundle images.npy --out embeddings.npy"
    )
    embed.add_argument("images", metavar="IMAGES.npy", help="uint8 (n, height, width[, 1, 3 or 4])")
    embed.add_argument("--out", metavar="FILE.npy", required=True, help="gets float32 (n, dimensions)")
    _add_encoder(embed)

    bench = add(
        commands.bench,
        "Time and memory of the encoder on this machine.",
        "build/demo/bundle --threads 1 --runs 300",
    )
    bench.add_argument("--runs", type=_positive, default=300, help="timed images (default: 300)")
    _add_encoder(bench)
    return parser


def _add_threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold",
        type=_probability,
        metavar="P",
        help="p(same) from which on two pictures show the same thing, 0 to 1 (default: the bundle's own)",
    )


def _add_encoder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runtime", choices=(AUTO, *RUNTIMES), default=AUTO, help="default: the first that works here"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="int8", help="default: int8")
    _add_threads(parser)


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=_positive, help="default: the processor's cores, at most four")


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"a probability from 0 to 1 is needed, not {text!r}")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, not {text!r}")
    return int(text)
