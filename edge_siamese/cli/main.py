"""The command `edge-siamese`: parses arguments, runs one command, and prints errors as one line."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Literal, get_args, get_origin

from edge_siamese import __version__
from edge_siamese.cli.output import LogFormatter, discard_output, flush_output, prepare_output, print_error
from edge_siamese.daemon.commands import COMMANDS, Argument, arguments_of
from edge_siamese.registry import AUTO, CAMERAS, PANELS, PRECISIONS, RUNTIMES
from edge_siamese.system.signals import cleaning_up_when_ended
from edge_siamese.validation import SchemaError, convert

INTERRUPTED = 130
SPECIAL_COMMANDS = {
    "status": "daemon:status",
    "events": "daemon:events",
    "reload": "daemon:reload",
    "score": "objects:score",
    "export": "objects:export",
    "collect": "objects:collect",
    "import": "objects:import_",
}
"""Daemon commands with a function of their own, as MODULE:FUNCTION below `edge_siamese.cli`; the others share
`objects:call`."""
BUNDLE_HELP = "directory of a bundle, or name of a shipped one: objects, glyphs"


@cleaning_up_when_ended()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; None for the process's own.

    Returns:
        0, or 1 after an error, which is printed as one line on stderr. Wrong usage exits with 2.
    """
    prepare_output()
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            return _run(arguments)
        finally:
            flush_output()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the pipe, such as `head`, has closed it
        discard_output()
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            print_error(error)
        return 1


def _run(arguments: Sequence[str] | None) -> int:
    options = build_parser().parse_args(arguments)
    if logging.lastResort:
        logging.lastResort.setFormatter(LogFormatter())
    # One thread is enough for images of a camera's size; more cost memory and contend on a busy board.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    module, _, function = options.run.partition(":")
    return int(getattr(import_module(f"edge_siamese.cli.{module}"), function)(options))


class _Commands:
    """Adds subcommands to a parser, with the options that all of them share."""

    def __init__(self, parser: argparse.ArgumentParser, program: str, required: bool = True) -> None:
        self._program, self._nested = program, not required
        self._parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=required)

    def add(self, name: str, run: str, purpose: str, example: str = "") -> argparse.ArgumentParser:
        """Add a command; `run` is MODULE:FUNCTION below `edge_siamese.cli`, imported only when it runs."""
        parser = self._parsers.add_parser(
            name,
            help=purpose,
            description=purpose,
            epilog=f"example: {self._program} {name} {example}".rstrip(),
        )
        parser.set_defaults(run=run)
        _add_common(parser, self._nested)
        return parser


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="edge-siamese",
        description="Recognize objects from one example: the daemon, its objects, and the models that it loads.",
        epilog="Each command has an example: edge-siamese COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"edge-siamese {__version__}")
    commands = _Commands(parser, "edge-siamese")
    _add_settings(commands)
    _add_daemon(commands)
    _add_models(commands)
    _add_dashboard(commands)
    _add_bundles(commands)
    completion = commands.add(
        "completion", "completion:completion", "Print the completion script of a shell.", "bash"
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    return parser


def _add_settings(commands: _Commands) -> None:
    """The commands that write and read the settings file."""
    init = commands.add(
        "init",
        "init:init",
        "Write the settings for this machine: looks at camera and button, and asks at most five questions.",
        "--yes --camera synthetic --dashboard local",
    )
    init.add_argument(
        "--yes", action="store_true", help="ask nothing: use the detected devices and the options"
    )
    init.add_argument(
        "--force", action="store_true", help="change a file that exists without asking; the changes are shown"
    )
    init.add_argument("--camera", choices=(AUTO, *CAMERAS), help="kind of the camera")
    init.add_argument("--device", metavar="FILE", help="V4L2 device of a USB camera, such as /dev/video0")
    init.add_argument("--button", choices=(AUTO, *PANELS), help="kind of the button")
    init.add_argument("--model", metavar="NAME", help="objects, glyphs, or the directory of a bundle")
    init.add_argument(
        "--dashboard",
        choices=("off", "local", "network"),
        help="who can open the dashboard: nobody, this device, or the network",
    )
    init.add_argument(
        "--sound",
        choices=("off", "tones", "speech"),
        help="play no sounds, tones, or tones and speech for what is saved, refused and recognized",
    )
    init.add_argument("--broker", metavar="HOST", help="host name or URL of the MQTT broker; - for none")
    init.add_argument(
        "--set",
        action="append",
        metavar="TABLE.OPTION=VALUE",
        help="set any other option, such as camera.rotation=180; may be repeated",
    )
    config = commands.add(
        "config", "config:show", "Check the settings file, and show the settings in effect.", "check"
    )
    inner = _Commands(config, "edge-siamese config", required=False)
    check = inner.add(
        "check",
        "config:check",
        "Check the settings, and the model, camera, button and ports that they name.",
        "--config config.toml",
    )
    check.add_argument(
        "--values-only", action="store_true", help="check the file alone, such as one for another machine"
    )
    inner.add("show", "config:show", "Print all settings in effect, and where each comes from.", "--json")
    inner.add("diff", "config:diff", "Print what differs from the defaults, and from the running daemon.")


def _add_daemon(commands: _Commands) -> None:
    """The daemon itself, and the commands that it carries out."""
    commands.add("run", "daemon:run", "Run the daemon in the foreground.", "--config config.toml")
    commands.add("doctor", "daemon:doctor", "Check this machine, and say how to fix what is wrong.")
    parsers: dict[str, argparse.ArgumentParser] = {}
    groups: dict[str, _Commands] = {"": commands}
    for command in COMMANDS:
        group, _, name = command.cli.rpartition(" ")
        if not name:
            continue
        if group not in groups:
            groups[group] = _Commands(parsers[group], f"edge-siamese {group}", required=False)
        run_function = SPECIAL_COMMANDS.get(command.name, "objects:call")
        parser = groups[group].add(name, run_function, command.help, command.example)
        parser.set_defaults(command=command.name)
        parsers[command.cli] = parser
        if command.name in ("export", "import", "collect"):
            output = "" if command.name == "import" else "; - for standard output"
            parser.add_argument("file", metavar="FILE.zip", help=f"the archive{output}")
        for argument in arguments_of(command):
            if argument.name != "upload":
                _add_argument(parser, argument)
    parsers["status"].add_argument(
        "--watch", action="store_true", help="print a line each second until Ctrl-C"
    )


def _add_argument(parser: argparse.ArgumentParser, argument: Argument) -> None:
    """Add the option or positional argument for a field of a command's arguments."""
    options: dict[str, Any] = {"help": argument.description}
    choices = get_args(argument.type) if get_origin(argument.type) is Literal else ()
    many = get_origin(argument.type) is tuple
    if argument.type is bool:
        options["action"] = "store_true"
    else:
        options["type"] = _converter(argument)
        options["metavar"] = argument.command_line.get("metavar")
        if choices:
            options["choices"] = choices
        if argument.default not in (None, ()):
            options["default"] = argument.default
            options["help"] += f" (default: {argument.default})"
    if argument.required or argument.command_line.get("positional"):
        nargs = "+" if many else None if argument.required else "?"
        parser.add_argument(argument.name, nargs=nargs, **options)
    else:
        if many:
            options["nargs"] = "+"
        flag = argument.command_line.get("option", f"--{argument.name.replace('_', '-')}")
        parser.add_argument(flag, dest=argument.name, **options)


def _converter(argument: Argument) -> Callable[[str], Any]:
    """Return the function that reads an argument's text as its field is validated."""

    def convert_text(text: str) -> Any:
        if argument.is_picture or argument.type is not int:
            return text
        try:
            return convert(int(text), argument.annotation)
        except SchemaError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None

    return convert_text


def _add_models(commands: _Commands) -> None:
    model = commands.add(
        "model", "models:list_", "List the installed and the shipped models.", "install glyphs"
    )
    inner = _Commands(model, "edge-siamese model", required=False)
    install = inner.add(
        "install", "models:install", "Test a bundle, and install a copy as the current model.", "glyphs"
    )
    install.add_argument("bundle", metavar="BUNDLE", help=BUNDLE_HELP)
    inner.add("list", "models:list_", "List the installed and the shipped models.", "--json")
    inner.add("rollback", "models:rollback", "Make the previous model the current one.")


def _add_dashboard(commands: _Commands) -> None:
    dashboard = commands.add(
        "dashboard",
        "dashboard:address",
        "Show the dashboard's URL; manage its password and tokens.",
        "password",
    )
    inner = _Commands(dashboard, "edge-siamese dashboard", required=False)
    inner.add("address", "dashboard:address", "Print the URL.")
    password = inner.add(
        "password", "dashboard:password", "Set the password; prompts for it twice.", "--generate"
    )
    how = password.add_mutually_exclusive_group()
    how.add_argument("--stdin", action="store_true", help="read it from the first line of standard input")
    how.add_argument("--generate", action="store_true", help="generate a password and print it")
    token = inner.add("token", "dashboard:token", "Create an API token; it is printed only once.", "grafana")
    token.add_argument("name", metavar="NAME", help="name of the token, such as its purpose")
    inner.add("tokens", "dashboard:tokens", "List the tokens.", "--json")
    revoke = inner.add("revoke", "dashboard:revoke", "Revoke a token.", "grafana")
    revoke.add_argument("name", metavar="NAME", help="name of the token")


def _add_bundles(commands: _Commands) -> None:
    info = commands.add(
        "info", "models:info", "Describe a bundle and the runtimes of this machine.", "build/demo/bundle"
    )
    _add_bundle(info)
    selftest = commands.add(
        "selftest",
        "models:selftest",
        "Check that this machine computes what the workstation computed.",
        "build/demo/bundle --runtime onnxruntime",
    )
    _add_bundle(selftest)
    selftest.add_argument(
        "--runtime",
        choices=("all", AUTO, *RUNTIMES),
        default="all",
        help="inference runtime (default: all that work here)",
    )
    selftest.add_argument(
        "--precision",
        choices=("all", *PRECISIONS),
        default="all",
        help="precision (default: all in the bundle)",
    )
    _add_threads(selftest)

    compare = commands.add(
        "compare",
        "models:compare",
        "Compare two pictures: the probability that they show the same object.",
        "objects mug-1.png mug-2.png",
    )
    _add_bundle(compare, needed=True)
    compare.add_argument("first", metavar="A", help="picture file")
    compare.add_argument("second", metavar="B", help="picture file")
    _add_threshold(compare)
    _add_encoder(compare)

    recognize = commands.add(
        "recognize",
        "models:recognize",
        "Register objects from pictures and recognize other pictures, without the daemon.",
        "objects new.png --object mug=mug.png",
    )
    _add_bundle(recognize, needed=True)
    recognize.add_argument("pictures", nargs="+", metavar="PICTURE", help="picture files to recognize")
    recognize.add_argument(
        "--object",
        action="append",
        required=True,
        metavar="NAME=PICTURE",
        help="an object and its picture; may be repeated",
    )
    _add_threshold(recognize)
    _add_encoder(recognize)

    embed = commands.add(
        "embed",
        "models:embed",
        "Embed an array of images.",
        "build/demo/bundle images.npy --out embeddings.npy",
    )
    _add_bundle(embed, needed=True)
    embed.add_argument("images", metavar="IMAGES.npy", help="uint8 (n, height, width[, 1, 3 or 4])")
    embed.add_argument("--out", metavar="FILE.npy", required=True, help="output, float32 (n, dimensions)")
    _add_encoder(embed)

    bench = commands.add(
        "bench",
        "models:bench",
        "Measure time and memory of each stage of a frame on this machine.",
        "build/demo/bundle --threads 1 --runs 300",
    )
    _add_bundle(bench)
    bench.add_argument("--runs", type=_positive, default=300, help="number of timed frames (default: 300)")
    bench.add_argument(
        "--encoder", action="store_true", help="measure the encoder alone, on preprocessed images"
    )
    bench.add_argument(
        "--views",
        type=_positive,
        default=100,
        help="number of registered views to compare with (default: 100)",
    )
    bench.add_argument(
        "--camera", action="store_true", help="use the configured camera instead of a synthetic scene"
    )
    _add_encoder(bench)


def _add_common(parser: argparse.ArgumentParser, nested: bool) -> None:
    def default(value: object) -> object:
        # An option before the name of a nested command must not be overwritten by that command's default.
        return argparse.SUPPRESS if nested else value

    parser.add_argument(
        "--config",
        metavar="FILE",
        default=default(None),
        help="settings file (default: /etc/edge-siamese/config.toml if it exists)",
    )
    parser.add_argument("--json", action="store_true", default=default(False), help="print JSON")
    parser.add_argument(
        "--debug", action="store_true", default=default(False), help="show the traceback of errors"
    )


def _add_bundle(parser: argparse.ArgumentParser, needed: bool = False) -> None:
    if needed:
        parser.add_argument("bundle", metavar="BUNDLE", help=BUNDLE_HELP)
    else:
        parser.add_argument(
            "bundle",
            nargs="?",
            metavar="BUNDLE",
            help=f"{BUNDLE_HELP} (default: the daemon's model)",
        )


def _add_threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold",
        type=_probability,
        metavar="P",
        help="minimum p(same) to accept, 0 to 1 (default: the bundle's threshold)",
    )


def _add_encoder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runtime",
        choices=(AUTO, *RUNTIMES),
        default=AUTO,
        help="inference runtime (default: the first that works here)",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="int8", help="precision (default: int8)")
    _add_threads(parser)


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=_positive, help="number of threads (default: number of cores, at most 4)"
    )


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"must be a probability from 0 to 1, not {text!r}")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)
