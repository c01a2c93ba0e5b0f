"""`python -m export deploy`: copy a bundle to devices over ssh and install it as their current model."""

from __future__ import annotations

import argparse
import io
import tarfile
from contextlib import suppress
from dataclasses import dataclass

from rich.console import Console

from edge_siamese.errors import ExportError, RuntimeNotInstalled
from edge_siamese.models.bundle import MANIFEST, Bundle
from edge_siamese.models.signature import SIGNATURE
from edge_siamese.registry import AUTO
from edge_siamese.runtimes.confined_self_test import is_untrusted, run_self_test
from export import records
from export.cli.options import add_bundle_argument
from export.cli.ssh import Device, add_ssh_arguments, devices_of, run_script
from export.evaluation.loading import open_bundle
from export.progress import stderr_console, working

EXAMPLE = """\
examples:
  python -m export deploy build/omniglot pi@door.local
  python -m export deploy glyphs pi@door.local pi@shelf.local --identity ~/.ssh/fleet

Each device tests the bundle with its own runtime before it becomes the current model, and keeps its previous model:
`edge-siamese model rollback` restores it. Exits with 1 if a device failed; the others have the model anyway."""


# The bundle arrives as a tar file on standard input; the directory is removed in any case.
_REMOTE = """\
set -e
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT INT TERM HUP
chmod 755 "$directory"
tar -x -C "$directory" -f -
{install} "$directory/bundle"
"""


@dataclass(frozen=True)
class Deployment:
    """The outcome on one device."""

    host: str
    succeeded: bool
    text: str
    """The last line that the device printed, or why it failed."""


def archive(bundle: Bundle) -> bytes:
    """A tar file with manifest, signature and listed files, below `bundle/`; equal bundles give equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        signature = [SIGNATURE] if (bundle.path / SIGNATURE).exists() else []
        for path in (MANIFEST, *signature, *(item.path for _, item in bundle.manifest.files())):
            data = (bundle.path / path).read_bytes()
            entry = tarfile.TarInfo(f"bundle/{path}")
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def deploy(data: bytes, device: Device, timeout_s: float = 300.0) -> Deployment:
    """Send an archive to one device and install it there as the current model.

    The device's `model install` refuses a bundle whose self-test fails there; then nothing changes. The current model
    becomes the previous one (`edge-siamese model rollback`).
    """
    outcome = run_script(device, _REMOTE.format(install=f"{device.as_root} model install"), timeout_s, data)
    return Deployment(device.host, outcome.succeeded, outcome.text or "installed")


def _require_self_test(bundle: Bundle) -> None:
    """Run the self-test here, in a confined child, before any device does; raises the errors of `run_self_test`."""
    precision = "int8" if any(model.precision == "int8" for model in bundle.manifest.models) else "fp32"
    if is_untrusted(bundle):
        bundle.check()
        with suppress(RuntimeNotInstalled):  # the devices have one
            run_self_test(bundle, AUTO, precision).report.require()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle_argument(parser)
    add_ssh_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print only JSON on standard output")


def run(arguments: argparse.Namespace) -> int:
    bundle = open_bundle(arguments.bundle)
    _require_self_test(bundle)
    devices = devices_of(arguments)
    data = archive(bundle)
    console = Console(highlight=False)
    results: list[Deployment] = []
    for number, device in enumerate(devices, 1):
        with working(stderr_console(), f"{device.host}, {number} of {len(devices)}"):
            result = deploy(data, device, arguments.timeout)
        results.append(result)
        if not arguments.json:
            mark = "" if result.succeeded else "FAILED: "
            console.print(f"{device.host}: {mark}{result.text}", markup=False, soft_wrap=True)
    if arguments.json:
        print(records.dumps(results), end="")
    failed = [result.host for result in results if not result.succeeded]
    if failed:
        raise ExportError(f"{len(failed)} of {len(results)} devices failed: {', '.join(failed)}")
    return 0
