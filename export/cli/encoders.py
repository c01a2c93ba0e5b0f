"""`python -m export encoders`: the cost of encoders, and whether they can be converted to int8."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from edge_siamese.errors import SettingsError
from export.cli.options import add_output_options, encoder_name, output
from export.conversion.operations import require_convertible
from export.encoders import ENCODERS, build_encoder
from export.training.network import count_macs, count_parameters

EXAMPLE = """\
examples:
  python -m export encoders
  python -m export encoders timm:mobilenetv4_conv_small timm:fastvit_t8@161 timm:resnet18@161:stage3

The third column is in millions of multiply-accumulates (MMAC) per picture. Nothing is downloaded or trained."""


MIN_WIDTH = 110


@dataclass(frozen=True)
class EncoderCost:
    """The size of an encoder."""

    name: str
    height: int
    """Height of the picture, in pixels."""
    width: int
    """Width of the picture, in pixels."""
    macs: int
    """Multiply-accumulate operations for one picture."""
    parameters: int
    dimensions: int
    """Length of the embedding."""
    formats: tuple[str, ...]
    problem: str
    """Why it cannot be converted to int8; empty if it can."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "encoders",
        nargs="*",
        type=encoder_name,
        metavar="ENCODER",
        help="as for --encoder of pipeline (default: those of this project)",
    )
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    costs = [cost_of(name) for name in arguments.encoders or sorted(ENCODERS)]
    output(arguments, costs, lambda _: None)
    if not arguments.json:
        show(costs)
    return int(any(cost.problem for cost in costs))


def cost_of(name: str) -> EncoderCost:
    """Build an encoder with random weights and count; raises `SettingsError` if there is none."""
    with torch.random.fork_rng(devices=[]):
        encoder = build_encoder(name)
    problem = ""
    try:
        require_convertible(encoder)
    except SettingsError as error:
        problem = str(error)
    size = encoder.preprocessing
    return EncoderCost(
        name=name,
        height=size.height,
        width=size.width,
        macs=count_macs(encoder.eval()),
        parameters=count_parameters(encoder),
        dimensions=encoder.dimensions,
        formats=encoder.formats,
        problem=problem,
    )


def show(costs: list[EncoderCost]) -> None:
    """Print a table, and what cannot be converted."""
    console = Console(highlight=False)
    console.width = max(
        console.width, MIN_WIDTH
    )  # names of networks are long, and truncated names are useless
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("encoder", "pixels", "MMAC", "parameters", "embedding", "formats"):
        table.add_column(title, justify="left" if title in ("encoder", "formats") else "right", no_wrap=True)
    for cost in costs:
        table.add_row(
            cost.name, f"{cost.width}x{cost.height}", f"{cost.macs / 1e6:.1f}", f"{cost.parameters:,}",
            str(cost.dimensions), ", ".join(cost.formats),
        )  # fmt: skip
    console.print(table)
    for cost in costs:
        if cost.problem:
            console.print(cost.problem, markup=False, soft_wrap=True)
