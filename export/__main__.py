"""`python -m export COMMAND …`: the workstation's command line; each command is a file of `export/cli/`."""

from __future__ import annotations

import argparse
import io
import os
import sys
from importlib import import_module

COMMANDS = {
    "pipeline": "train, calibrate, quantize, export, verify, evaluate, benchmark and report, in one go",
    "train": "train an encoder, or go on with an interrupted run",
    "bundle": "turn a training run into a bundle: four model files, head, thresholds, golden vectors",
    "verify": "prove that every file of a bundle behaves like the trained network",
    "evaluate": "measure one-shot and verification accuracy of a run or a bundle",
    "benchmark": "compare formats, precisions and runtimes: size, latency, accuracy, memory",
    "deploy": "copy a bundle to devices over ssh, where it becomes the current model",
    "ship": "put a bundle into the package: what devices use on which no model is installed",
    "reproduce": "measure what ships again, in every runtime here, and print the tables of the pages",
    "report": "write the report of a pipeline's directory anew",
    "demo": "the whole way in four minutes, on drawn glyphs, ending on the device's side",
}
INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status: 0, 1 for an error, 2 for wrong usage, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    # A terminal that knows only ASCII gets a question mark instead of a crash.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if not argv or argv[0] not in COMMANDS:
        return _overview(argv)
    debug = "--debug" in argv
    try:
        return _run(argv[0], argv[1:])
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if debug:
            raise
        print(f"error: {_explain(error)}", file=sys.stderr)
        return 1


def _run(name: str, argv: list[str]) -> int:
    # Only the chosen command's module is imported: torch alone takes seconds.
    module = import_module(f"export.cli.{name}")
    from export.conversion.silence import DEBUG_VARIABLE

    parser = argparse.ArgumentParser(
        prog=f"python -m export {name}",
        description=COMMANDS[name][0].upper() + COMMANDS[name][1:] + ".",
        epilog=module.EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks, and what the converters print")
    module.add_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.debug:
        os.environ[DEBUG_VARIABLE] = "1"
    return int(module.run(arguments))


def _explain(error: Exception) -> str:
    """One line on what went wrong; what nobody foresaw is named as what it is."""
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{sys.executable} lacks the package {error.name}: run `make setup` and use .venv/bin/python, or "
            "install requirements/host.lock"
        )
    from edge_siamese.errors import EdgeSiameseError

    if isinstance(error, EdgeSiameseError | OSError):
        return str(error)
    message = (str(error).strip().splitlines() or ["without a message"])[0]
    return f"{type(error).__name__}: {message} (not foreseen: --debug shows where; please report it)"


def _overview(argv: list[str]) -> int:
    lines = [f"  {name:<10} {what}" for name, what in COMMANDS.items()]
    text = "\n".join(
        [
            "usage: python -m export COMMAND …   (COMMAND --help tells more)",
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
        print(f"error: there is no command {argv[0]!r}", file=sys.stderr)
    print(text, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
