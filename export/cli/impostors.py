"""`python -m export impostors`: give a bundle pictures of other things, and measure how well they set its threshold."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edge_siamese.errors import BundleError
from edge_siamese.models.bundle import choose_acceptance
from export.cli.options import (
    add_bundle_argument,
    add_data_options,
    add_output_options,
    output,
    positive,
    seed,
)
from export.evaluation.embeddings import Embeddings, embed_all, embed_as
from export.evaluation.loading import data_for, frames_for, open_bundle, open_model
from export.evaluation.strangers import (
    EPISODES,
    OTHER_CLASSES,
    RATES,
    Share,
    StrangersResult,
    measure_strangers,
    read_pictures,
)
from export.progress import stderr_console, working

EXAMPLE = """\
examples:
  python -m export impostors build/objects --store build/photographs/anything/impostors
  python -m export impostors objects --strangers build/photographs/anything/strangers

A device recognizes an object if the picture is nearer to it than all but a given share of the bundle's impostors: pictures
of things that nobody registered. The impostors of a new bundle are validation classes. --store replaces them with pictures
of what the camera will see. Without --store, the result is measured: objects of the data are registered, and their other
pictures, those of other classes, and the strangers are shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle_argument(parser)
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="store the embeddings of these pictures in the bundle"
    )
    parser.add_argument("--strangers", type=Path, metavar="DIR", help="measure with these pictures too")
    add_data_options(parser, default="what the network was trained on")
    parser.add_argument(
        "--episodes",
        type=positive,
        default=EPISODES,
        metavar="N",
        help=f"draws of registered objects (default: {EPISODES})",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the draws (default: 0)")
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    console = stderr_console()
    bundle = open_bundle(arguments.bundle)
    model = open_model(bundle.path)
    if arguments.store:
        # Imported here, because torch takes seconds to import and measuring does not need it.
        from export.conversion.bundle import store_impostors

        with working(console, f"embedding the pictures of {arguments.store}"):
            prepared = read_pictures(arguments.store, bundle.manifest.input)
            stored = store_impostors(bundle, embed_all(model.encoder, prepared), arguments.store.name)
        console.print(f"{bundle.path}: {stored} impostors stored")
        return 0
    if bundle.impostors is None:
        raise BundleError(f"{bundle.path} has no impostors: add some with --store DIR")
    with working(console, "reading the data"):
        data, splits = data_for(model, arguments.data, arguments.data_root)
        frames = frames_for(model, data, arguments.data_root).evaluation
        sets: dict[str, Embeddings | None] = {OTHER_CLASSES: None}
        if folder := arguments.strangers:
            pictures = read_pictures(folder, bundle.manifest.input)
            sets = {folder.name: embed_all(model.encoder, pictures), **sets}
    with working(console, "embedding and scoring"):
        images = splits.evaluation
        queries, supports = (
            embed_all(model.encoder, images.images),
            embed_as("augmented", model.encoder, frames.images),
        )
        usual = choose_acceptance(bundle)
        results = [
            measure_strangers(
                queries,
                supports,
                images,
                bundle.head,
                [replace(usual, false_accept_rate=rate) for rate in RATES],
                strangers,
                strangers_are=name,
                model_id=bundle.manifest.model_id,
                episodes=arguments.episodes,
                seed=arguments.seed,
            )
            for name, strangers in sets.items()
        ]
    output(arguments, results, show)
    return 0


def show(result: StrangersResult, console: Console | None = None) -> None:
    """Print the table."""
    console = console or Console(highlight=False)
    console.print(f"\n[bold]{result.model_id}[/bold]  objects of {result.data}, {result.classes} classes")
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("objects", "pictures\neach", "requested\nrate"):
        table.add_column(title, justify="right")
    for title in ("identified\n%", "as another\nobject, %", "strangers\naccepted, %", "threshold\np"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in result.results:
        table.add_row(
            str(row.registered),
            str(row.pictures),
            f"{100 * row.false_accept_rate:g} %",
            *(_cell(share) for share in (row.identified, row.confused, row.strangers)),
            f"{row.probability:.3f}",
        )
    console.print(table)
    for line in result.skipped:
        console.print(f"[dim]skipped: {line}[/dim]")
    about = f"strangers: {result.strangers_are}, {result.strangers} pictures; {result.impostors} impostors in the bundle"
    console.print(f"[dim]{about}; small print: 95 % interval over {result.episodes} draws[/dim]")


def _cell(share: Share) -> str:
    return f"{100 * share.value:.1f}\n[dim]{100 * share.low:.1f}-{100 * share.high:.1f}[/dim]"
