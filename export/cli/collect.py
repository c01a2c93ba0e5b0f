"""`python -m export collect`: fetch pictures from devices over ssh, as a folder to train on."""

from __future__ import annotations

import argparse
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from edge_siamese.errors import ExportError, StoreError
from edge_siamese.events import counted
from edge_siamese.store.picture_archive import open_pictures
from export import records
from export.cli.ssh import Device, add_ssh_arguments, devices_of, run_script
from export.data.collected import CollectedFolder, Contents, Fetched
from export.evaluation.verdict import MIN_TRAINING_CLASSES
from export.progress import stderr_console, working

EXAMPLE = """\
examples:
  python -m export collect pi@door.local --out collected
  python -m export collect pi@door.local pi@shelf.local --out collected --dry-run

Fetches the pictures of registered objects, and those that were marked as wrong (`edge-siamese wrong`). The owner of a device
has to allow it: collect_pictures = true in [training] of its settings. A picture is fetched once, so the same command can be
repeated; one that you delete stays deleted. Wrong recognitions without a label go to the folder OUT-strangers.
Exits with 1 if a device failed; the pictures of the others are fetched anyway."""

MAX_ARCHIVE_BYTES = 2 << 30
_REMOTE = "exec {program} objects collect -\n"


@dataclass(frozen=True)
class Collection:
    """The outcome on one device."""

    host: str
    succeeded: bool
    text: str
    """What was fetched, or why it failed."""
    fetched: Fetched | None = None
    """None if it failed."""


def collect(folder: CollectedFolder, device: Device, timeout_s: float = 300.0) -> Collection:
    """Fetch the pictures of one device into a folder."""
    with tempfile.NamedTemporaryFile(suffix=".zip") as file:
        with working(stderr_console(), f"{device.host}: waiting for its pictures") as update:
            step = 0

            def received(size: int) -> None:
                nonlocal step
                if size >> 24 > step:  # a line for each 16 MiB
                    step = size >> 24
                    update(f"{device.host}: {size >> 20} MiB received")

            outcome = run_script(
                device,
                _REMOTE.format(program=device.as_root),
                timeout_s,
                output=file,
                max_output_bytes=MAX_ARCHIVE_BYTES,
                received=received,
            )
        if not outcome.succeeded:
            return Collection(device.host, False, outcome.text)
        file.flush()
        try:
            with open_pictures(Path(file.name), "nothing was collected") as archive:
                fetched = folder.add(device.host, archive)
        except StoreError as error:
            text = str(error).removeprefix(f"{file.name}: ").replace(file.name, "its response")
            return Collection(device.host, False, text)
    return Collection(device.host, True, _describe(fetched, folder.dry_run), fetched)


def _describe(fetched: Fetched, dry_run: bool) -> str:
    new = fetched.views + fetched.named + fetched.strangers
    parts = [
        (fetched.views, "of registered objects"),
        (fetched.named, "of labeled wrong recognitions"),
        (fetched.strangers, "of unlabeled wrong recognitions"),
    ]
    details = ", ".join(f"{count} {what}" for count, what in parts if count)
    text = f"{counted(new, 'new picture')}{f' ({details})' if details else ''}"
    if dry_run:
        text += ", not written"
    if fetched.moved:
        text += f"; {fetched.moved} moved to another object"
    if fetched.known:
        text += f"; {fetched.known} already fetched"
    if fetched.equal:
        text += f"; {fetched.equal} identical to another one"
    if fetched.without_pictures:
        text += f"; {counted(fetched.without_pictures, 'view')} without a picture on the device"
    return text


def next_steps(folder: CollectedFolder, contents: Contents) -> list[str]:
    """Summary of the folder and the next command, one string per line."""
    shown = _relative(folder.path)
    lines = [
        f"{shown} {'would have' if folder.dry_run else 'has'} {counted(contents.pictures, 'picture')} "
        f"of {counted(contents.objects, 'object')}"
        + (
            f", and {_relative(folder.strangers)} {counted(contents.strangers, 'picture')} of other things"
            if contents.strangers
            else ""
        )
    ]
    if contents.one_view:
        lines.append(
            f"{counted(contents.one_view, 'object')} with pictures of a single registration, which are very similar: "
            "add views on the device (edge-siamese register NAME --view)"
        )
    if contents.usable < contents.needed:
        lines.append(
            f"too few to train on: {counted(contents.usable, 'object')} with at least two pictures, and "
            f"{contents.needed} are needed; register more, or add folders of your own photos to {shown}"
        )
        return lines
    if contents.training_classes < MIN_TRAINING_CLASSES:
        lines.append(
            f"little to train on: {counted(contents.training_classes, 'object')} for training, the others are held out; "
            f"with fewer than {MIN_TRAINING_CLASSES} the pipeline advises against training, and compares the shipped bundle"
        )
    data = f"folder:{shown}" + (f",anything:{_relative(folder.strangers)}" if contents.strangers else "")
    lines.append(
        f"next: python -m export pipeline --data {shlex.quote(data)} --out {shlex.quote(f'build/{folder.path.name}')}"
    )
    return lines


def _relative(path: Path) -> str:
    """The path from the current folder, if it is below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ssh_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("collected"),
        metavar="FOLDER",
        help="the folder to train on, with one subfolder for each object (default: collected)",
    )
    parser.add_argument("--dry-run", action="store_true", help="count what would be fetched; write nothing")
    parser.add_argument("--json", action="store_true", help="print only JSON on standard output")


def run(arguments: argparse.Namespace) -> int:
    devices = devices_of(arguments)
    folder = CollectedFolder.open(arguments.out, arguments.dry_run)
    console = Console(highlight=False)
    results: list[Collection] = []
    for device in devices:
        result = collect(folder, device, arguments.timeout)
        results.append(result)
        if not arguments.json:
            mark = "" if result.succeeded else "FAILED: "
            console.print(f"{device.host}: {mark}{result.text}", markup=False, soft_wrap=True)
    contents = folder.contents()
    if arguments.json:
        print(records.dumps(Report(tuple(results), contents)), end="")
    elif any(result.succeeded for result in results):
        for line in next_steps(folder, contents):
            console.print(line, markup=False, soft_wrap=True)
    _require_success(results)
    return 0


@dataclass(frozen=True)
class Report:
    """The outcome of the command."""

    devices: tuple[Collection, ...]
    contents: Contents


def _require_success(results: Sequence[Collection]) -> None:
    failed = [result.host for result in results if not result.succeeded]
    if failed:
        raise ExportError(f"{len(failed)} of {len(results)} devices failed: {', '.join(failed)}")
