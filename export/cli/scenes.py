"""`python -m export scenes`: show a bundle's engine objects that turn, strangers and an empty scene."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from export.cli.options import add_output_options, count, output, positive, seed
from export.evaluation.loading import open_bundle, open_model
from export.evaluation.scenes import (
    OBJECTS_IN_ALL,
    REGISTERED,
    STRANGERS,
    WITHIN_SECONDS,
    SceneRow,
    ScenesResult,
    VideoComposer,
    measure_scenes,
)
from export.evaluation.strangers import Share
from export.progress import stderr_console, working

EXAMPLE = """\
examples:
  python -m export scenes objects --turntable build/turntable --backgrounds drawn build/photographs/varied/photographs
  python -m export scenes objects build/imagenet --turntable build/turntable --registered 5 --json

The daemon's engine watches generated video. A button press registers an object; it leaves and returns in another pose,
place, size and light. Strangers come, one every ten seconds, and for a while the scene is empty. `python -m export render`
makes the turntable. Several bundles see the same video."""

DRAWN = "drawn"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundles",
        type=Path,
        nargs="+",
        metavar="BUNDLE",
        help="a bundle, the output of a pipeline, or the name of a shipped bundle (glyphs, objects)",
    )
    parser.add_argument(
        "--turntable",
        type=Path,
        required=True,
        metavar="DIR",
        help="objects rendered by `python -m export render`",
    )
    parser.add_argument(
        "--backgrounds",
        nargs="+",
        default=[DRAWN],
        metavar="DIR",
        help=f"folders of photographs, each measured by itself, or `{DRAWN}`: a table and a wall (default: {DRAWN})",
    )
    parser.add_argument(
        "--registered",
        type=positive,
        nargs="+",
        default=list(REGISTERED),
        metavar="N",
        help=f"numbers of registered objects (default: {' '.join(map(str, REGISTERED))})",
    )
    parser.add_argument(
        "--objects",
        type=positive,
        default=OBJECTS_IN_ALL,
        metavar="N",
        help=f"objects registered over all draws of each number, at least (default: {OBJECTS_IN_ALL})",
    )
    parser.add_argument(
        "--strangers",
        type=count,
        default=STRANGERS,
        metavar="N",
        help=f"visits of strangers, one every ten seconds (default: {STRANGERS}, an hour)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the video (default: 0)")
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    console = stderr_console()
    results = []
    with working(console, "reading the objects") as show_step:
        for backgrounds in arguments.backgrounds:
            folder = None if backgrounds == DRAWN else Path(backgrounds)
            composer = VideoComposer(arguments.turntable, folder, arguments.seed)
            for path in arguments.bundles:
                bundle = open_bundle(path)

                def advance(
                    step: str, about: str = f"{bundle.manifest.encoder.name}, {composer.backgrounds_are}"
                ) -> None:
                    show_step(f"{about}: {step}")

                results.append(
                    measure_scenes(
                        bundle,
                        open_model(bundle.path).encoder,
                        composer,
                        registered=arguments.registered,
                        objects_in_all=arguments.objects,
                        strangers=arguments.strangers,
                        advance=advance,
                    )
                )
    output(arguments, results, show)
    return 0


def show(result: ScenesResult, console: Console | None = None) -> None:
    """Print the table."""
    console = console or Console(highlight=False)
    console.print(
        f"\n[bold]{result.model_id}[/bold]  {result.objects} objects, backgrounds: {result.backgrounds}"
    )
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("objects", "presses\neach", "refused\n%"):
        table.add_column(title, justify="right")
    poses = [returned.pose for returned in result.results[0].returns]
    for title in (
        *(f"{pose}\n%" for pose in poses),
        "elsewhere\n%",
        "misnamed\n%",
        "false\nan hour",
        "empty\n%",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for row in result.results:
        table.add_row(*cells(row))
    console.print(table)
    for line in result.skipped:
        console.print(f"[dim]skipped: {line}[/dim]")
    about = (
        f"returns recognized within {WITHIN_SECONDS:g} s, by pose, and on another background; "
        f"{result.visits} visits of {result.strangers} strangers, one every ten seconds; "
        "small print: 95 % interval over objects"
    )
    console.print(f"[dim]{about}[/dim]")


def cells(row: SceneRow) -> list[str]:
    """The cells of a row."""
    last = row.returns[-1]
    return [
        str(row.registered),
        str(row.presses),
        f"{100 * row.refused:.0f}",
        *(_cell(returned.recognized, 100.0) for returned in row.returns),
        _cell(row.elsewhere, 100.0),
        _cell(last.misnamed, 100.0),
        _cell(row.strangers_per_hour, 1.0),
        _cell(row.empty, 100.0),
    ]


def _cell(share: Share, scale: float) -> str:
    return f"{scale * share.value:.1f}\n[dim]{scale * share.low:.1f}-{scale * share.high:.1f}[/dim]"
