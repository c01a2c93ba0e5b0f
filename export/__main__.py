"""`python -m export COMMAND …`: the workstation's command line; each command is a module of `export/cli/`."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from importlib import import_module

from edge_siamese.system.signals import cleaning_up_when_ended

COMMANDS = {
    "data": "check a folder of pictures: counts, duplicates, damaged and unsuitable pictures",
    "pipeline": "train, bundle, verify, evaluate, benchmark and report, in one command",
    "train": "train an encoder, or resume a run",
    "bundle": "build a bundle from a training run: model files, head, thresholds, golden vectors",
    "verify": "compare every file of a bundle with the trained network",
    "evaluate": "measure one-shot and verification accuracy of a training run or a bundle",
    "benchmark": "compare formats, precisions and runtimes: size, latency, accuracy, memory",
    "encoders": "list the cost of encoders, also of networks of timm, and whether they convert to int8",
    "impostors": "store pictures of other things in a bundle as impostors, and measure the threshold that follows from them",
    "render": "render 3-D models from many sides, for scenes and training",
    "scenes": "measure recognition in generated video with turning objects and strangers",
    "deploy": "copy a bundle to devices over ssh and install it as their current model",
    "collect": "fetch pictures from devices over ssh, as a folder to train on",
    "sign": "sign a bundle with an SSH key, for devices that trust this key",
    "ship": "copy a bundle into the package as a shipped model",
    "reproduce": "measure the shipped bundles again, in every runtime of this machine",
    "report": "write the report of a pipeline, or print its tables",
    "demo": "train, export and measure on drawn glyphs, then run the daemon; five minutes",
}
INTERRUPTED, BROKEN_PIPE = 130, 141


@cleaning_up_when_ended()
def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C, 141 if nobody reads the output.
    """
    argv = sys.argv[1:] if argv is None else argv
    # A terminal that is limited to ASCII gets question marks instead of an error.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Lines appear immediately, also in a file or a pipe.
            stream.reconfigure(errors="replace", line_buffering=True)
    if not argv or argv[0] not in COMMANDS:
        return _overview(argv)
    debug = "--debug" in argv
    try:
        return _run(argv[0], argv[1:])
    except BrokenPipeError:  # the reader of the output is gone, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if debug:
            raise
        print(f"error: {_explain(error)}", file=sys.stderr)
        return 1


def _run(name: str, argv: list[str]) -> int:
    # More threads slow numpy down on images of this size, and many times over while other programs are running.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Only the chosen command's module is imported: torch alone takes seconds.
    module = import_module(f"export.cli.{name}")
    from export.conversion.silence import DEBUG_VARIABLE

    parser = argparse.ArgumentParser(
        prog=f"python -m export {name}",
        description=COMMANDS[name][0].upper() + COMMANDS[name][1:] + ".",
        epilog=module.EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--debug", action="store_true", help="show tracebacks and the output of the converters"
    )
    module.add_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.debug:
        os.environ[DEBUG_VARIABLE] = "1"
    return int(module.run(arguments))


def _explain(error: Exception) -> str:
    """One line about an error; unexpected errors include their type."""
    if isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError):
        return f"{error} (in {sys.executable}): run `make setup` and use .venv/bin/python"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"the package {error.name} is not installed for {sys.executable}: run `make setup` and use .venv/bin/python, or "
            "install requirements/host.lock"
        )
    from edge_siamese.errors import EdgeSiameseError

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" for {error.filename}" if error.filename else ""
        return f"no space left on the disk{where}: free some, and run the same command again"
    if isinstance(error, EdgeSiameseError | OSError):
        return str(error)
    message = (str(error).strip().splitlines() or ["no message"])[0]
    return (
        f"{type(error).__name__}: {message} (unexpected: use --debug for a traceback, and please report it)"
    )


def _overview(argv: list[str]) -> int:
    lines = [f"  {name:<10} {what}" for name, what in COMMANDS.items()]
    text = "\n".join(
        [
            "usage: python -m export COMMAND …   (COMMAND --help lists its options)",
            "",
            *lines,
            "",
            "example: python -m export pipeline --data omniglot --encoder glyphnet --out build/omniglot",
        ]
    )
    if argv and argv[0] in ("-h", "--help"):
        print(text)
        return 0
    if argv:
        print(f"error: unknown command {argv[0]!r}", file=sys.stderr)
    print(text, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
