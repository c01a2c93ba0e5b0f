"""`python -m export deploy`: copy a bundle to devices over ssh and install it as their current model."""

from __future__ import annotations

import argparse
import io
import re
import shlex
import subprocess
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from rich.console import Console

from edge_siamese.errors import ExportError, RuntimeNotInstalled
from edge_siamese.models.bundle import MANIFEST, Bundle
from edge_siamese.models.signature import SIGNATURE
from edge_siamese.registry import AUTO
from edge_siamese.runtimes.confined_self_test import is_untrusted, run_self_test
from export import records
from export.cli.options import add_bundle_argument, positive
from export.evaluation.loading import open_bundle
from export.progress import stderr_console, working

EXAMPLE = """\
examples:
  python -m export deploy build/omniglot pi@door.local
  python -m export deploy glyphs pi@door.local pi@shelf.local --identity ~/.ssh/fleet

Each device tests the bundle with its own runtime before it becomes the current model, and keeps its previous model:
`edge-siamese model rollback` restores it. Exits with 1 if a device failed; the others have the model nevertheless."""


# The bundle arrives as a tar file on standard input; the directory is removed in any case.
_REMOTE = """\
set -e
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT INT TERM HUP
chmod 755 "$place"
tar -x -C "$place" -f -
{install} "$place/bundle"
"""
_SUDO = 'if [ "$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi\n'
SSH_FAILED = 255


@dataclass(frozen=True)
class Device:
    """A device and how to reach it."""

    host: str
    """`host`, `user@host`, or a name from the ssh configuration."""
    options: tuple[str, ...] = ()
    """Further arguments of ssh, such as `-p 2222`."""
    command: str = "edge-siamese"
    """The device's `edge-siamese` command."""
    sudo: bool = True
    """Whether to install as root: the state directory is the service's."""

    def __post_init__(self) -> None:
        # ssh would parse a name that begins with a dash as an option.
        if not re.fullmatch(r"[^\s@-][^\s@]*(@[^\s@-][^\s@]*)?", self.host):
            raise ExportError(f"{self.host!r} is not a host: HOST or USER@HOST is needed")


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
    command = [
        "ssh",
        "-T",
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=10",
        *device.options,
        "--",
        device.host,
    ]
    install = f"{device.command} model install"
    script = (_SUDO if device.sudo else "") + _REMOTE.format(
        install=f"$as_root {install}" if device.sudo else install
    )
    try:
        done = subprocess.run(
            [*command, f"sh -c {shlex.quote(script)}"],
            input=data,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise ExportError("ssh is not installed: apt install openssh-client") from error
    except subprocess.TimeoutExpired:
        return Deployment(device.host, False, f"no answer within {timeout_s:g} s")
    output = done.stdout.decode("utf-8", "replace").strip().splitlines()
    if done.returncode == 0:
        return Deployment(device.host, True, output[-1] if output else "installed")
    errors = done.stderr.decode("utf-8", "replace").strip().splitlines() or output or ["no message"]
    text = errors[-1].removeprefix("edge-siamese: ")
    if done.returncode == SSH_FAILED:
        text = f"cannot connect: {text}"
    elif "sudo" in text and "password" in text:
        text += "; allow sudo without a password, log in as root, or use --no-sudo"
    elif done.returncode == 127:
        text += "; is edge-siamese installed there?"
    return Deployment(device.host, False, text)


def ssh_options(port: int | None, identity: str | None, options: Sequence[str]) -> tuple[str, ...]:
    """Arguments of ssh for a port, a key file, and `-o` options."""
    arguments: list[str] = []
    if port is not None:
        arguments += ["-p", str(port)]
    if identity is not None:
        arguments += ["-i", identity]
    for option in options:
        arguments += ["-o", option]
    return tuple(arguments)


def _require_self_test(bundle: Bundle) -> None:
    """Run the self-test here, in a confined child, before any device does; raises the errors of `run_self_test`."""
    precision = "int8" if any(model.precision == "int8" for model in bundle.manifest.models) else "fp32"
    if is_untrusted(bundle):
        bundle.check()
        with suppress(RuntimeNotInstalled):  # the devices have one
            run_self_test(bundle, AUTO, precision).report.require()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle_argument(parser)
    parser.add_argument("hosts", nargs="+", metavar="USER@HOST", help="the devices")
    parser.add_argument("--port", type=positive, help="port of ssh (default: from the ssh configuration)")
    parser.add_argument("--identity", metavar="FILE", help="private key for ssh")
    parser.add_argument(
        "--ssh-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option for ssh -o; may be repeated",
    )
    parser.add_argument(
        "--command",
        default="edge-siamese",
        metavar="PATH",
        help="path of edge-siamese on the device (default: edge-siamese)",
    )
    parser.add_argument("--no-sudo", action="store_true", help="install as the ssh user instead of root")
    parser.add_argument(
        "--timeout",
        type=positive,
        default=300,
        metavar="SECONDS",
        help="time limit for each device (default: 300)",
    )
    parser.add_argument("--json", action="store_true", help="print only JSON on standard output")


def run(arguments: argparse.Namespace) -> int:
    bundle = open_bundle(arguments.bundle)
    _require_self_test(bundle)
    options = ssh_options(arguments.port, arguments.identity, arguments.ssh_option)
    devices = [Device(host, options, arguments.command, not arguments.no_sudo) for host in arguments.hosts]
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
