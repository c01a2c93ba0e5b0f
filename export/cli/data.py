"""`python -m export data`: counts, duplicates and unsuitable pictures of a folder, before training."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edge_siamese.errors import printable
from export.cli.options import add_output_options, default_encoder, encoder_name, output, seed
from export.data import load_splits
from export.data.data_card import DataCard, data_card
from export.encoders import build_encoder
from export.evaluation.verdict import advice_on

EXAMPLE = """\
examples:
  python -m export data photos
  python -m export data photos --seed 1 --json
  python -m export data photos --encoder efficientnet-lite0-small --out card.json

Nothing is changed or trained. `pipeline` makes the same card before it trains."""
MAX_BRIEF_GROUPS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="folder with one subfolder for each class")
    parser.add_argument(
        "--encoder",
        type=encoder_name,
        metavar="ENCODER",
        help="the encoder whose input decides which pictures are small (default: the pipeline's for this folder)",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed that draws the splits (default: 0)"
    )
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    data = f"folder:{Path(arguments.folder.removeprefix('folder:'))}"
    preprocessing = build_encoder(arguments.encoder or default_encoder(data)).preprocessing
    card = data_card(load_splits(data, preprocessing, seed=arguments.seed), preprocessing)
    output(arguments, card, show)
    return 0


def show(card: DataCard, console: Console | None = None, brief: bool = False) -> None:
    """Print a data card; `brief` prints fewer examples and no remedies."""
    console = console or Console(highlight=False)

    def write(text: str, style: str = "") -> None:
        console.print(printable(text), style=style, markup=False, soft_wrap=True)

    write(f"{card.folder}: {card.pictures:,} pictures of {len(card.classes)} classes ({card.split})")
    console.print(_counts(card))
    for finding in card.findings:
        write(f"{'!' if finding.serious else '-'} {finding.what}")
        if not brief:
            write(f"  {finding.remedy}", "dim")
        shown = finding.groups[: MAX_BRIEF_GROUPS if brief else None]
        for group in shown:
            write(f"    {' = '.join(group.files)}{f' ({group.note})' if group.note else ''}", "dim")
        if finding.count > len(shown):
            write(f"    and {finding.count - len(shown):,} more", "dim")
    if not card.findings:
        write("no duplicates, and no damaged or unsuitable pictures")
    if card.caution:
        write(f"! {card.caution}")
    training = next(split.classes for split in card.splits if split.split == "train")
    if not brief and training and (advice := advice_on(training)):
        write(f"! {advice}")


def _counts(card: DataCard) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("split")
    for title in ("classes", "pictures", "fewest", "median", "most"):
        table.add_column(title, justify="right")
    for split in card.splits:
        figures = (split.classes, split.pictures, split.fewest, split.median, split.most)
        table.add_row(split.title, *(f"{figure:,g}" for figure in figures))
    return table
