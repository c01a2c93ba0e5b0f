"""Devices and scripts that run on them over ssh, with the program of OpenSSH."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from edge_siamese.errors import ExportError, printable
from export.cli.options import positive

SSH_FAILED = 255
_CHUNK_BYTES = 1 << 20
_MAX_TEXT_BYTES = 1 << 20
"""What is kept of messages of a device."""


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
    """Whether to run it as root: state directory and control socket are the service's."""

    def __post_init__(self) -> None:
        # ssh would parse a name that begins with a dash as an option.
        if not re.fullmatch(r"[^\s@-][^\s@]*(@[^\s@-][^\s@]*)?", self.host):
            raise ExportError(f"{self.host!r} is not a host: HOST or USER@HOST is needed")

    @property
    def as_root(self) -> str:
        """The device's command in a script for `run_script`, as root unless `sudo` is false."""
        return f"$as_root {self.command}" if self.sudo else self.command


@dataclass(frozen=True)
class ScriptResult:
    """The outcome of a script on one device."""

    succeeded: bool
    text: str
    """The last line that the script printed, or why it failed; one line without control characters."""


def run_script(
    device: Device,
    script: str,
    timeout_s: float,
    data: bytes = b"",
    *,
    output: IO[bytes] | None = None,
    max_output_bytes: int = _MAX_TEXT_BYTES,
    received: Callable[[int], object] = lambda _: None,
) -> ScriptResult:
    """Run a script of sh on a device.

    Args:
        device: the device.
        script: may use `Device.as_root`.
        timeout_s: time limit in seconds.
        data: its standard input.
        output: receives its standard output, if the script prints data and not messages.
        max_output_bytes: a script that prints more is stopped, and has failed.
        received: called with the number of bytes of standard output so far.

    Raises:
        ExportError: ssh is not installed.
    """
    root = 'if [ "$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi\n' if device.sudo else ""
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
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as errors,
        tempfile.TemporaryFile() as text,
    ):
        given.write(data)
        given.seek(0)
        try:
            process = subprocess.Popen(
                [*command, f"sh -c {shlex.quote(root + script)}"],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        except FileNotFoundError as error:
            raise ExportError("ssh is not installed: apt install openssh-client") from error
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout_s, stop)
        timer.start()
        try:
            assert process.stdout is not None
            complete = _copy(process.stdout, output or text, max_output_bytes, received)
            if not complete:
                process.kill()
            process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        if late.is_set():
            return ScriptResult(False, f"no answer within {timeout_s:g} s")
        if not complete:
            return ScriptResult(False, f"it sends more than {max_output_bytes:,} bytes")
        lines = _lines(text)
        if process.returncode == 0:
            return ScriptResult(True, lines[-1] if lines else "")
        return ScriptResult(False, _problem(process.returncode, _lines(errors) or lines or ["no message"]))


def _copy(source: IO[bytes], target: IO[bytes], limit: int, received: Callable[[int], object]) -> bool:
    """Copy until the end; False if there is more than the limit."""
    total = 0
    while chunk := source.read(_CHUNK_BYTES):
        total += len(chunk)
        if total > limit:
            return False
        target.write(chunk)
        received(total)
    return True


def _lines(file: IO[bytes]) -> list[str]:
    """The last lines of a text from a device, without what a terminal would interpret."""
    file.seek(max(0, file.seek(0, 2) - _MAX_TEXT_BYTES))
    return [printable(line) for line in file.read().decode("utf-8", "replace").strip().splitlines()]


def _problem(status: int, messages: Sequence[str]) -> str:
    text = messages[-1].removeprefix("edge-siamese: ")
    if status == SSH_FAILED:
        return f"cannot connect: {_connection_problem(text, messages)}"
    if "sudo" in text and "password" in text:
        return text + "; allow sudo without a password, log in as root, or use --no-sudo"
    return text + "; is edge-siamese installed there?" if status == 127 else text


def _connection_problem(text: str, messages: Sequence[str]) -> str:
    """The last line of ssh, or a clearer one, with the remedy."""
    for line in messages:
        if found := re.fullmatch(r"Warning: (Identity file .+ not accessible: .+?)\.?", line):
            return found[1]
        if "HOST IDENTIFICATION HAS CHANGED" in line:
            return "the host key has changed; if the device was installed again, remove its old key with ssh-keygen -R"
    if text == "Host key verification failed.":
        return "the host key is not known; log in once with ssh, and accept it"
    if text.endswith(").") and "Permission denied (" in text:
        return f"{text[:-1]}; name the key with --identity, or copy yours to the device with ssh-copy-id"
    return text


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


def add_ssh_arguments(parser: argparse.ArgumentParser) -> None:
    """The devices, and the options of the connections to them."""
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
    parser.add_argument("--no-sudo", action="store_true", help="run it as the ssh user instead of root")
    parser.add_argument(
        "--timeout",
        type=positive,
        default=300,
        metavar="SECONDS",
        help="time limit for each device (default: 300)",
    )


def devices_of(arguments: argparse.Namespace) -> list[Device]:
    """The devices that `add_ssh_arguments` names; raises `ExportError` for a host that is not valid."""
    options = ssh_options(arguments.port, arguments.identity, arguments.ssh_option)
    return [Device(host, options, arguments.command, not arguments.no_sudo) for host in arguments.hosts]
