"""Boots a real systemd: Debian's trees in containers of systemd-nspawn, without a network, thrown away afterward."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.system.cache import cached

TOOLS = {"systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap", "nsenter": "util-linux"}
# What a device has before it gets ours: a systemd that boots, what the package depends on, and what it recommends.
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "procps", "init-system-helpers"),
    *("python3", "python3-venv", "python3-numpy", "python3-pil"),
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")


@dataclass(frozen=True)
class Suite:
    """A release of Debian, which Raspberry Pi OS of the same name is made of."""

    name: str
    python: str
    systemd: int
    runtime: str
    """That is installed there."""
    refused_memory: str
    """What a mapping that is writable and executable gives: its filter of system calls, or the kernel, refuses it."""


BOOKWORM = Suite("bookworm", "3.11", 252, "tflite-runtime", "EPERM")
TRIXIE = Suite("trixie", "3.13", 257, "ai-edge-litert", "EACCES")


def missing_tools() -> str:
    """What is lacking to boot a container; empty if nothing is."""
    lacking = [f"{tool} (package {package})" for tool, package in TOOLS.items() if not shutil.which(tool)]
    return f"not installed: {', '.join(lacking)}; scripts/system_packages.sh installs them" if lacking else ""


def debian_tree(cache: Path, suite: Suite, *more: str) -> Path:
    """The tree of a minimal Debian that boots, with more packages; built in about a minute, once."""
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    command = ["mmdebstrap", "--quiet", "--variant=apt", "--format=directory", *options]
    command += [f"--include={','.join((*PACKAGES, *more))}", suite.name]

    def build(directory: Path) -> None:
        directory.chmod(0o755)  # it becomes /
        subprocess.run([*command, str(directory)], check=True)

    return cached(cache, "-".join((*more, "debian", suite.name)), json.dumps(command), build)


class Container:
    """A booted system; `run` runs a command in it as root.

    with Container(tree, share) as container:
        container.run("systemctl", "is-active", "edge-siamese")

    The tree is not changed: what happens is in memory, and gone at the end. `share` is /share in it.
    With `changes`, an empty directory that receives changed files, the system can be rebooted.
    `boot` is a directory that is its boot partition.
    """

    def __init__(
        self, tree: Path, share: Path, changes: Path | None = None, boot: Path | None = None
    ) -> None:
        self.tree, self.share, self.changes, self.boot = tree, share, changes, boot
        share.chmod(0o755)  # the service's account looks in, too
        if changes is not None:
            changes.chmod(0o755)  # it becomes /
        self._log = share / "console.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    def command(self) -> list[str]:
        """What boots the system; a boot partition's cmdline.txt says how."""
        name = f"edge-siamese-{self.tree.name}-{os.getpid()}"[:63]
        command = [
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--private-network",
            "--console=pipe",
        ]
        command += [f"--overlay={self.tree}:{self.changes}:/" if self.changes else "--volatile=overlay"]
        command += [f"--machine={name}", f"--bind={self.share}:/share"]
        words = "systemd.unit=multi-user.target"
        if self.boot is not None:
            command += [f"--bind={self.boot}:/boot/firmware"]
            words += f" {(self.boot / 'cmdline.txt').read_text()}"
        return [*command, "--directory", str(self.tree), "--boot", *words.split()]

    def start(self) -> None:
        """Start its first process, without waiting for what that starts."""
        command = self.command()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._init = wait_for(self._first_process, 20, "the container's first process", every=0.1)
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Container:
        self.start()
        try:
            wait_for(self._booted, 60 if self.boot is None else 180, "the container's systemd", every=0.2)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def reboot(self) -> None:
        """Shut the system down and boot it again from its changed files."""
        assert self.changes is not None, "nothing is left of a system whose changes are in memory"
        self._stop()
        self.__enter__()

    def kill(self) -> None:
        """End it as a power cut does: nothing in it gets a chance to finish."""
        assert self._process is not None
        os.kill(self._init, signal.SIGKILL)
        self._process.wait(20)

    def run(
        self,
        *command: str,
        check: bool = True,
        timeout: float = 60,
        environment: dict[str, str] | None = None,
    ) -> str:
        """Run a command in the container; what it wrote on its standard output, and, if it is not checked, its errors."""
        done = self.call(*command, timeout=timeout, environment=environment)
        if check:
            words = " ".join(command)
            assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            return done.stdout
        return done.stdout + done.stderr

    def call(
        self, *command: str, timeout: float = 60, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the container; all about how it went."""
        clean = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": "/root",
        }
        enter = ["nsenter", f"--target={self._init}", "--all", "--", *command]
        return subprocess.run(
            enter,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**clean, **(environment or {})},
            check=False,
        )

    def write(self, path: str, text: str) -> None:
        """Write a file of the container."""
        self.write_bytes(path, text.encode())

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file of the container."""
        place = self._path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)

    def exists(self, path: str) -> bool:
        """Whether there is such a file, or a link, in the container."""
        return os.path.lexists(self._path(path))

    def read(self, path: str) -> str:
        """The text of a file of the container."""
        return self._path(path).read_text(encoding="utf-8")

    def property(self, name: str, unit: str = "edge-siamese") -> str:
        """What `systemctl show` says of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def json(self, *command: str, timeout: float = 60) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.run(*command, timeout=timeout))

    def journal(self, unit: str = "edge-siamese") -> str:
        """What a unit, and systemd about it, wrote."""
        return self.run("journalctl", "--boot", "--no-pager", "--output=short-monotonic", f"--unit={unit}")

    def process_status(self, pid: str) -> dict[str, str]:
        """/proc/PID/status of a process of the container."""
        lines = self.run("cat", f"/proc/{pid}/status").splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}

    def _path(self, path: str) -> Path:
        # Seen from outside, the container's own view of its files is below its first process.
        return Path(f"/proc/{self._init}/root{path}")

    def _first_process(self) -> int:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"systemd-nspawn ended: {self._log.read_text(errors='replace')}")
        waiting = [self._process.pid]
        while waiting:
            pid = waiting.pop()
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            inside = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if len(inside) > 1 and inside[-1] == "1":
                return pid
            waiting += map(int, children)
        return 0

    def _booted(self) -> bool:
        state = self.call("systemctl", "is-system-running").stdout.strip()
        return state in ("running", "degraded")

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()  # systemd-nspawn shuts the container down
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(found: Callable[[], Any], seconds: float, what: str, every: float = 0.1) -> Any:
    """Ask again and again until the answer is true; the answer."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(every)
    return answer
