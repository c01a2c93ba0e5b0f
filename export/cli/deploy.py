"""`python -m export deploy`: copy a bundle to devices over ssh and make it their current model."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from edge_siamese.errors import ExportError
from edge_siamese.models.bundle import MANIFEST, load_bundle
from export import records
from export.cli.options import positive
from export.deploy import Deployment, Device, archive, deploy, options_of_ssh
from export.progress import stderr_console, working

EXAMPLE = """\
examples:
  python -m export deploy build/omniglot pi@door.local
  python -m export deploy build/omniglot/bundle pi@door.local pi@shelf.local --identity ~/.ssh/fleet

Each device checks what it was sent with its own runtime, and keeps its former model: `edge-siamese model rollback`
goes back. Exits with 1 if a device failed; the others have the model all the same."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle, or a pipeline's directory")
    parser.add_argument("hosts", nargs="+", metavar="USER@HOST", help="devices, one after the other")
    parser.add_argument("--port", type=positive, help="of ssh (default: what ssh is configured for)")
    parser.add_argument("--identity", metavar="FILE", help="the private key to log in with")
    parser.add_argument(
        "--ssh-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="passed to ssh -o; may be repeated",
    )
    parser.add_argument(
        "--command",
        default="edge-siamese",
        metavar="PATH",
        help="the device's command (default: edge-siamese)",
    )
    parser.add_argument("--no-sudo", action="store_true", help="install as the user who logs in, not as root")
    parser.add_argument("--timeout", type=positive, default=300, metavar="SECONDS", help="for each device")
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")


def run(arguments: argparse.Namespace) -> int:
    place = arguments.bundle / "bundle"
    bundle = load_bundle(place if (place / MANIFEST).is_file() else arguments.bundle)
    options = options_of_ssh(arguments.port, arguments.identity, arguments.ssh_option)
    devices = [Device(host, options, arguments.command, not arguments.no_sudo) for host in arguments.hosts]
    data = archive(bundle)
    console = Console(highlight=False)
    found: list[Deployment] = []
    for number, device in enumerate(devices, 1):
        with working(stderr_console(), f"{device.host}, {number} of {len(devices)}"):
            result = deploy(data, device, arguments.timeout)
        found.append(result)
        if not arguments.json:
            mark = "" if result.done else "FAILED: "
            console.print(f"{device.host}: {mark}{result.text}", markup=False, soft_wrap=True)
    if arguments.json:
        print(records.dumps(found), end="")
    failed = [result.host for result in found if not result.done]
    if failed:
        raise ExportError(f"{len(failed)} of {len(found)} devices failed: {', '.join(failed)}")
    return 0
