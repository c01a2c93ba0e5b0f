"""`python -m export scenes`: measure recognition in generated video with turning objects and strangers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console
from rich.table import Table

from edge_siamese.settings import CameraSettings, Settings
from export.cli.options import add_output_options, count, output, positive, seed
from export.evaluation.loading import open_bundle, open_model
from export.evaluation.scene_recording import Contender
from export.evaluation.scene_video import VideoComposer
from export.evaluation.scenes import (
    MIN_TOTAL_OBJECTS,
    RECOGNITION_SECONDS,
    REGISTERED,
    STRANGERS,
    SceneRow,
    ScenesResult,
    measure_scenes,
)
from export.evaluation.strangers import Share
from export.progress import counting, stderr_console, working

EXAMPLE = """\
examples:
  python -m export scenes objects --turntable build/turntable/evaluation --baseline build/photographs/anything/impostors
  python -m export scenes objects --turntable build/turntable/evaluation --focus center foreground
  python -m export scenes objects build/photos --turntable build/turntable/evaluation --registered 5 --json
  python -m export scenes objects --turntable build/turntable/evaluation --backgrounds drawn ~/photographs/rooms

The daemon's engine watches generated video. A button press registers an object; it leaves and returns in another pose,
position, size and light. Strangers come, one every ten seconds. `python -m export render` makes the turntable. All bundles
and the baseline see the same video. The baseline names the nearest registered view by ImageNet features.

Embeddings are cached. The same command resumes an interrupted measurement."""

DRAWN = "drawn"
Focus = Literal["center", "foreground"]


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
        "--focus",
        nargs="+",
        choices=get_args(Focus),
        default=[CameraSettings().focus],
        help=f"part of a frame that the encoder reads, as `camera.focus` in the settings; each is measured separately "
        f"(default: {CameraSettings().focus}). The baseline reads the center.",
    )
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="DIR",
        help="also measure nearest neighbor on ImageNet features; 1 %% of the pictures in this folder pass its limit",
    )
    parser.add_argument(
        "--backgrounds",
        nargs="+",
        default=[DRAWN],
        metavar="DIR",
        help=f"folders of photographs, each measured separately, or `{DRAWN}`: a table and a wall (default: {DRAWN})",
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
        default=MIN_TOTAL_OBJECTS,
        metavar="N",
        help=f"minimum number of objects registered over all draws of each number (default: {MIN_TOTAL_OBJECTS})",
    )
    parser.add_argument(
        "--strangers",
        type=positive,
        default=STRANGERS,
        metavar="N",
        help=f"visits of strangers at each place of registration, one every ten seconds (default: {STRANGERS})",
    )
    parser.add_argument(
        "--familiar",
        type=count,
        default=0,
        metavar="N",
        help="the first N of these visits take place before the objects return and are not counted: the daemon learns from "
        "them what its camera sees (default: 0)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the video (default: 0)")
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    console = stderr_console()
    with working(console, "reading the bundles"):
        contenders = [_contender(path, focus) for path in arguments.bundles for focus in arguments.focus]
    if arguments.baseline:
        # Imported here, because torch takes seconds to import and bundles do not need it.
        from export.evaluation.baseline import imagenet_baseline

        with working(console, f"embedding the pictures of {arguments.baseline}"):
            contenders.append(imagenet_baseline(arguments.baseline))
    results = list[ScenesResult]()
    for backgrounds in arguments.backgrounds:
        folder = None if backgrounds == DRAWN else Path(backgrounds)
        composer = VideoComposer(arguments.turntable, folder, arguments.seed)

        def progress(
            step: str, total: int, about: str = composer.background_name
        ) -> AbstractContextManager[Callable[[], None]]:
            return counting(console, f"{about}: {step}", total)

        results += measure_scenes(
            contenders,
            composer,
            registered=arguments.registered,
            min_total_objects=arguments.objects,
            strangers=arguments.strangers,
            familiar=arguments.familiar,
            progress=progress,
        )
    output(arguments, results, show)
    return 0


def _contender(path: Path, focus: Focus) -> Contender:
    bundle = open_bundle(path)
    name = path.resolve().parent.name if path.name == "bundle" else path.name
    settings = Settings(camera=CameraSettings(focus=focus))
    return Contender(name, bundle, open_model(bundle.path).encoder, settings)


def show(result: ScenesResult, console: Console | None = None) -> None:
    """Print the table."""
    console = console or Console(highlight=False)
    console.print(
        f"\n[bold]{result.name}[/bold]  {result.model_id}, focus: {result.focus}, {result.objects} objects, "
        f"backgrounds: {result.backgrounds}"
    )
    table = Table(box=None, header_style="dim", pad_edge=False)
    poses = [f"{returned.pose}\n%".replace("within ", "") for returned in result.results[0].returns]
    for title in (
        "objects,\npresses",
        "refused,\nfurther %",
        *poses,
        "other\nplace %",
        "wrong\nname %",
        *(["either\n%"] if _max_undecided(result.results[0]) else []),
        "false\n/hour",
        "empty\n%",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for row in result.results:
        table.add_row(*cells(row))
    console.print(table)
    for line in result.skipped:
        console.print(f"[dim]skipped: {line}[/dim]")
    about = (
        "refused: objects at their first press, and further presses; "
        f"returns recognized within {RECOGNITION_SECONDS:g} s, turned by at most this angle, and at another place; "
        f"{result.visits} visits of {result.strangers} strangers, one every ten seconds; "
        "either: reported as one of two look-alikes; "
        "small print: 95 % interval over objects, strangers or places"
    )
    console.print(f"[dim]{about}[/dim]")


def cells(row: SceneRow) -> list[str]:
    """The cells of a row."""
    further = "" if row.views_refused is None else f", {100 * row.views_refused:.0f}"
    misnamed = max((returned.misnamed for returned in row.returns), key=lambda share: share.value)
    undecided = _max_undecided(row)
    return [
        f"{row.registered}, {row.presses}",
        f"{100 * row.objects_refused.value:.0f}{further}",
        *(_cell(returned.recognized, 100.0) for returned in row.returns),
        _cell(row.elsewhere, 100.0),
        _cell(misnamed, 100.0),
        *([] if undecided is None else [_cell(undecided, 100.0)]),
        _cell(row.strangers_per_hour, 1.0),
        _cell(row.empty, 100.0),
    ]


def _max_undecided(row: SceneRow) -> Share | None:
    """The share of returns reported as one of two objects, in the worst range of poses; None if it was not measured."""
    measured = [returned.undecided for returned in row.returns if returned.undecided is not None]
    return max(measured, key=lambda share: share.value, default=None)


def _cell(share: Share, scale: float) -> str:
    return (
        f"{_short(scale * share.value)}\n[dim]{_short(scale * share.low)}-{_short(scale * share.high)}[/dim]"
    )


def _short(number: float) -> str:
    return f"{number:.1f}" if number < 9.95 else f"{number:.0f}"
