"""A Raspberry Pi's userland without a board: Debian's arm64 trees, the device's wheels, and qemu as the processor."""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system import wheels
from tests.system.cache import cached

EMULATOR = "qemu-aarch64-static"
TOOLS = {EMULATOR: "qemu-user-static", "mmdebstrap": "mmdebstrap", "unshare": "util-linux"}
PRODUCT = "/opt/edge-siamese"


@dataclass(frozen=True)
class Board:
    """A processor, as qemu imitates it."""

    name: str
    cpu: str
    """As qemu knows it."""
    part: str
    """Arm's number of it, which libraries read in /proc/cpuinfo to choose their kernels."""
    features: str

    @property
    def cpuinfo(self) -> str:
        """What /proc/cpuinfo says on the board."""
        return "\n".join(
            f"processor\t: {number}\nBogoMIPS\t: 38.40\nFeatures\t: {self.features}\n"
            f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {self.part}\nCPU revision\t: 4\n"
            for number in range(4)
        )


ZERO_2_W = Board("Zero 2 W", "cortex-a53", "0xd03", "fp asimd evtstrm crc32 cpuid")
PI_5 = Board(
    "Pi 5",
    "cortex-a76",
    "0xd0b",
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
)


@dataclass(frozen=True)
class System:
    """A release of Raspberry Pi OS, as Debian has it."""

    suite: str
    python: str
    runtimes: tuple[str, ...]
    """That have a wheel for it."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Debian's packages in the tree."""
        minimal = f"libpython{self.python}-minimal", f"libpython{self.python}-stdlib"
        return (f"python{self.python}", *minimal, "libstdc++6", "libgomp1", "tzdata")


BOOKWORM = System("bookworm", "3.11", ("tflite-runtime", "onnxruntime"))
TRIXIE = System("trixie", "3.13", ("ai-edge-litert", "onnxruntime"))


def missing() -> str:
    """Why trees cannot be made and run here; empty if they can."""
    if platform.machine() not in ("x86_64", "aarch64"):
        return f"nobody has tried this on {platform.machine()}"
    packages = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    return f"needs Debian's packages {', '.join(packages)} (apt install them)" if packages else ""


@dataclass(frozen=True)
class Userland:
    """The tree of one system, which runs as one board at a time."""

    system: System
    tree: Path

    def command(
        self,
        board: Board,
        binds: Mapping[str, Path],
        arguments: Sequence[str],
        environment: Mapping[str, str],
    ) -> list[str]:
        """The command line that runs the system's Python with `arguments` as that board.

        Args:
            board: whose processor.
            binds: directories of this machine, by their place in the tree; it has to exist, or be below /mnt.
            arguments: of Python.
            environment: besides the path.
        """
        at = shlex.quote(str(self.tree))
        lines = [
            f"mount -t proc proc {at}/proc",
            f"mount -t tmpfs tmpfs {at}/run",
            f"mount -t tmpfs tmpfs {at}/tmp",
        ]
        lines += [f"mount --bind {at}/boards/{board.cpu} {at}/proc/cpuinfo"]
        lines += [f"mount --bind /dev {at}/dev", f"mount -t tmpfs tmpfs {at}/mnt"]
        for place, source in binds.items():
            lines.append(f"mkdir -p {at}{place}; mount --bind {shlex.quote(str(source))} {at}{place}")
        variables = {"PATH": "/usr/bin:/bin", "HOME": "/root", "PYTHONPATH": PRODUCT, "LC_ALL": "C.UTF-8"}
        given = [f"{name}={value}" for name, value in {**variables, **environment}.items()]
        emulated = [f"/{EMULATOR}", "-cpu", board.cpu, f"/usr/bin/python{self.system.python}", *arguments]
        lines.append(f"exec env -i {shlex.join(given)} /usr/sbin/chroot {at} {shlex.join(emulated)}")
        return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join(lines)]

    def run(
        self,
        board: Board,
        binds: Mapping[str, Path],
        arguments: Sequence[str],
        *,
        timeout: float = 120,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run the system's Python as that board, to its end; see `command`."""
        command = self.command(board, binds, arguments, environment)
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)

    @contextmanager
    def running(
        self, board: Board, binds: Mapping[str, Path], arguments: Sequence[str], log: Path
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A process of the system's Python as that board, which is ended with the block; see `command`.

        Args:
            board, binds, arguments: see `command`.
            log: what it says is written there.
        """
        with log.open("wb") as file:
            process = subprocess.Popen(self.command(board, binds, arguments, {}), stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def userland(system: System, cache: Path) -> Userland:
    """The tree of a system with the device's wheels in it, built on first use; needs the network then."""
    boards = (ZERO_2_W, PI_5)
    requirements = wheels.locked(system.python)
    sources = (Path(path).read_text(encoding="utf-8") for path in (__file__, wheels.__file__))
    recipe = "\n".join((system.suite, *system.packages, *requirements, *sources))

    def build(place: Path) -> None:
        tree = place / "tree"
        _debian(system, tree)
        wheels.install(requirements, system.python, "aarch64", tree)
        for board in boards:
            (tree / "boards").mkdir(exist_ok=True)
            (tree / "boards" / board.cpu).write_text(board.cpuinfo)
        processors = tree / "sys" / "devices" / "system" / "cpu"
        processors.mkdir(parents=True)
        for name, text in {"possible": "0-3", "present": "0-3", "online": "0-3", "kernel_max": "255"}.items():
            (processors / name).write_text(text + "\n")
        for name in ("proc", "mnt", "run", "tmp", "root", PRODUCT[1:]):
            (tree / name).mkdir(parents=True, exist_ok=True)
        emulator = shutil.which(EMULATOR)
        assert emulator
        shutil.copy2(emulator, tree / EMULATOR)

    return Userland(system, cached(cache, f"arm64-{system.suite}", recipe, build) / "tree")


def _debian(system: System, tree: Path) -> None:
    """Debian's packages, unpacked; none of their scripts runs, so that the tree takes seconds."""
    options = ["--quiet", "--variant=extract", "--arch=arm64", "--skip=check/qemu"]
    options += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    include = f"--include={','.join(system.packages)}"
    command = ["mmdebstrap", *options, include, system.suite, str(tree)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    # The links of a merged /usr are made by a script of a package.
    for name in ("bin", "lib", "sbin"):
        if not (tree / name).exists():
            (tree / name).symlink_to(f"usr/{name}")
