"""Brings a bundle to devices over ssh: copies it, and lets each device check it and make it current."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

from edge_siamese.errors import ExportError
from edge_siamese.models.bundle import MANIFEST, Bundle

# The bundle comes as a tar file on standard input, into a directory that goes in any case.
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
    """Where a bundle goes, and how to get there."""

    host: str
    """`host` or `user@host`, or a name of ssh's configuration."""
    options: tuple[str, ...] = ()
    """Further arguments of ssh, such as `-p 2222`."""
    command: str = "edge-siamese"
    """How the device's command is called there."""
    sudo: bool = True
    """Whether to install as root: the state directory is the service's."""

    def __post_init__(self) -> None:
        # ssh would take a name that begins with a dash for an option of its own.
        if not re.fullmatch(r"[^\s@-][^\s@]*(@[^\s@-][^\s@]*)?", self.host):
            raise ExportError(f"{self.host!r} is no host: HOST or USER@HOST is needed")


@dataclass(frozen=True)
class Deployment:
    """What came of one device."""

    host: str
    done: bool
    text: str
    """What the device said last, or why it failed."""


def archive(bundle: Bundle) -> bytes:
    """The files that the manifest lists, and the manifest, below `bundle/`; equal bundles give equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in (MANIFEST, *(item.path for _, item in bundle.manifest.files())):
            data = (bundle.path / path).read_bytes()
            entry = tarfile.TarInfo(f"bundle/{path}")
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def deploy(data: bytes, device: Device, timeout_s: float = 300.0) -> Deployment:
    """Send what `archive` made to one device, which checks it, keeps it and makes it current.

    The device's `model install` refuses a bundle that does not prove itself there; then nothing has changed. The model
    that was current becomes the previous one (`edge-siamese model rollback`).
    """
    words = [
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
            [*words, f"sh -c {shlex.quote(script)}"],
            input=data,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise ExportError("there is no ssh here: apt install openssh-client") from error
    except subprocess.TimeoutExpired:
        return Deployment(device.host, False, f"no end after {timeout_s:g} s")
    said = done.stdout.decode("utf-8", "replace").strip().splitlines()
    if done.returncode == 0:
        return Deployment(device.host, True, said[-1] if said else "installed")
    wrong = done.stderr.decode("utf-8", "replace").strip().splitlines() or said or ["no message"]
    text = wrong[-1].removeprefix("edge-siamese: ")
    if done.returncode == SSH_FAILED:
        text = f"not reached: {text}"
    elif "sudo" in text and "password" in text:
        text += "; let the user run it without a password, log in as root, or give --no-sudo"
    elif done.returncode == 127:
        text += "; is edge-siamese installed there?"
    return Deployment(device.host, False, text)


def options_of_ssh(port: int | None, identity: str | None, others: Sequence[str]) -> tuple[str, ...]:
    """The arguments of ssh for a port, a key file, and `-o` options."""
    words: list[str] = []
    if port is not None:
        words += ["-p", str(port)]
    if identity is not None:
        words += ["-i", identity]
    for option in others:
        words += ["-o", option]
    return tuple(words)
