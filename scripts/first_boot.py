"""Packs the folder that installs edge-siamese when a Raspberry Pi starts for the first time, without a network.

    .venv/bin/python scripts/first_boot.py                                     # for Raspberry Pi OS with a desktop
    .venv/bin/python scripts/first_boot.py --packages trixie                   # for Raspberry Pi OS Lite
    .venv/bin/python scripts/first_boot.py --config pi-01.toml --bundle build/glyphs/bundle

The zip file holds a folder edge-siamese: the Debian package, first-boot.sh, settings, and what the options add. Unzip it on
the boot partition that Raspberry Pi Imager wrote, then run edge-siamese/first-boot.sh --enable there. docs/installing.md has
the steps.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edge_siamese.errors import EdgeSiameseError  # noqa: E402
from edge_siamese.models.bundle import load_bundle  # noqa: E402
from edge_siamese.settings_file import load_settings  # noqa: E402
from edge_siamese.system.files import write_atomically  # noqa: E402

FOLDER = "edge-siamese"
# Dependencies of the package that Raspberry Pi OS Lite lacks.
NEEDED = ("python3-numpy", "python3-pil")
# Packages of every Raspberry Pi OS, whose dependencies are installed too.
PRESENT = ("apt", "systemd-sysv", "udev", "procps", "util-linux", "python3-venv")
SUITES = ("bookworm", "trixie")
MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
README = """\
edge-siamese for the first start of a Raspberry Pi

1. Write the card with Raspberry Pi Imager, with its settings as you like.
2. Copy this folder to the boot partition (bootfs), so that there is bootfs/edge-siamese/first-boot.sh.
3. Change config.toml if you like.
4. Linux and macOS:  sh bootfs/edge-siamese/first-boot.sh --enable
   Windows:          open bootfs/cmdline.txt in an editor. It is one line. If it contains
                     systemd.run=/boot/firstrun.sh, write this in front of it, and a space:
                         systemd.run=/boot/edge-siamese/first-boot.sh
                     Otherwise write this at the end of the line, after a space:
                         systemd.run=/boot/firmware/edge-siamese/first-boot.sh \
systemd.run_success_action=reboot systemd.unit=kernel-command-line.target
5. Start the Raspberry Pi. It restarts once, then installs. The green LED shows a heartbeat while it installs, and blinks
   fast after a failure.

first-boot.log in this folder says what happened. Its last line is the result.
"""


class FirstBootError(Exception):
    """The folder cannot be made."""


def packages(suite: str, arch: str, place: Path) -> list[Path]:
    """Download the packages of Debian that Raspberry Pi OS Lite lacks, verified by Debian's signatures.

    Args:
        suite: bookworm or trixie.
        arch: arm64 or amd64.
        place: an empty directory.

    Raises:
        FirstBootError: apt-get is not installed, or failed.
    """
    state = place / "apt"
    for name in ("lists/partial", "cache/archives/partial", "etc"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    # apt gives up its rights to download as _apt, which cannot write here.
    settings = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Dir::Etc": state / "etc",
        "APT::Architecture": arch,
        "APT::Architectures": arch,
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
    }
    configuration = "".join(f'{name} "{value}";\n' for name, value in settings.items())
    (state / "apt.conf").write_text(configuration, encoding="utf-8")
    signed = f" signed-by={KEYRING}" if KEYRING.is_file() else ""
    mirror = os.environ.get("DEBIAN_MIRROR", MIRROR)
    (state / "etc" / "sources.list").write_text(f"deb [arch={arch}{signed}] {mirror} {suite} main\n")

    def apt_get(*words: str) -> str:
        environment = {**os.environ, "APT_CONFIG": str(state / "apt.conf"), "LC_ALL": "C.UTF-8"}
        command = ["apt-get", "--quiet=2", *words]
        try:
            done = subprocess.run(
                command, cwd=place, env=environment, capture_output=True, text=True, check=False
            )
        except FileNotFoundError as error:
            raise FirstBootError("--packages needs apt-get: run it on Debian or a derivative") from error
        if done.returncode:
            raise FirstBootError(f"apt-get {words[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def closure(names: Sequence[str]) -> set[str]:
        lines = apt_get("--simulate", "install", *names).splitlines()
        return {line.split()[1] for line in lines if line.startswith("Inst ")}

    apt_get("update")
    apt_get("download", *sorted(closure(NEEDED) - closure(PRESENT)))
    return sorted(place.glob("*.deb"))


def contents(
    package: Path, config: Path | None, bundle: Path | None, added: Mapping[str, Sequence[Path]]
) -> dict[str, bytes]:
    """Files of the folder: path -> content.

    Args:
        package: the Debian package.
        config: settings file instead of the default settings.
        bundle: directory of a model.
        added: packages of each suite.

    Raises:
        EdgeSiameseError: the settings or the bundle are invalid.
        FirstBootError: there is no such bundle.
    """
    if config:
        load_settings(config)
    if bundle and not bundle.is_dir():
        raise FirstBootError(f"--bundle: {bundle} is not a directory")
    files = {
        package.name: package,
        "first-boot.sh": ROOT / "systemd" / "first-boot.sh",
        "config.toml": config or ROOT / "systemd" / "config.toml",
    }
    if bundle:
        load_bundle(bundle)
        files |= {f"bundle/{path.name}": path for path in bundle.iterdir() if path.is_file()}
    for suite, paths in added.items():
        files |= {f"packages/{suite}/{path.name}": path for path in paths}
    return {name: path.read_bytes() for name, path in files.items()} | {"README.txt": README.encode()}


def pack(files: Mapping[str, bytes], out: Path, epoch: int) -> None:
    """Write the zip file; the same files and time give the same bytes.

    Args:
        files: path in the folder -> content.
        out: the zip file.
        epoch: time of all files, in seconds since 1970.
    """
    moment = time.gmtime(max(epoch, 315532800))[:6]  # zip files begin in 1980

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name in sorted(files):
                info = zipfile.ZipInfo(f"{FOLDER}/{name}", moment)
                info.create_system = 3  # Unix, whose modes these are
                info.external_attr = (0o100755 if name.endswith(".sh") else 0o100644) << 16
                stored = name.endswith((".deb", ".tflite", ".onnx", ".npz"))  # compressed already, or large
                info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
                archive.writestr(info, files[name])

    write_atomically(out, write)


def build_package(arch: str, out: Path) -> Path:
    """Build the Debian package.

    Raises:
        FirstBootError: it failed.
    """
    command = ["sh", str(ROOT / "scripts" / "deb.sh"), "--arch", arch, "--out", str(out)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise FirstBootError(f"scripts/deb.sh failed: {done.stderr.strip()}")
    return Path(done.stdout.strip())


def first_boot(
    package: Path,
    out: Path,
    epoch: int,
    config: Path | None = None,
    bundle: Path | None = None,
    suites: Sequence[str] = (),
) -> Path:
    """Write `edge-siamese-first-boot_VERSION_ARCH.zip` into the directory `out`; returns its path.

    Args:
        package: the Debian package, `edge-siamese_VERSION_ARCH.deb`.
        out: a directory.
        epoch: time of all files, in seconds since 1970.
        config: settings file instead of the default settings.
        bundle: directory of a model.
        suites: systems whose missing packages are added.

    Raises:
        EdgeSiameseError: the settings or the bundle are invalid.
        FirstBootError: packages cannot be downloaded, or a file is missing.
    """
    name, _, rest = package.name.partition("_")
    arch = package.stem.rpartition("_")[2]
    path = out / f"{name}-first-boot_{Path(rest).stem}.zip"
    with tempfile.TemporaryDirectory() as work:
        added = {}
        for suite in suites:
            place = Path(work, suite)
            place.mkdir()
            added[suite] = packages(suite, arch, place)
        pack(contents(package, config, bundle, added), path, epoch)
    return path


def main() -> int:
    """Pack the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--deb", type=Path, metavar="FILE", help="the Debian package (default: build it)")
    parser.add_argument(
        "--arch",
        choices=("arm64", "amd64"),
        default="arm64",
        help="architecture of the package to build (default: arm64)",
    )
    parser.add_argument(
        "--packages", action="append", choices=SUITES, default=[], metavar="SUITE",
        help="add the packages that Raspberry Pi OS Lite lacks: bookworm or trixie; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings file (default: the default settings)"
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="a model to install (default: the shipped one)"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist", metavar="DIR", help="output directory (default: dist)"
    )
    arguments = parser.parse_args()
    try:
        if arguments.deb and not arguments.deb.is_file():
            raise FirstBootError(f"--deb: {arguments.deb} does not exist")
        package = arguments.deb or build_package(arguments.arch, arguments.out)
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or package.stat().st_mtime)
        options = (arguments.config, arguments.bundle, arguments.packages)
        path = first_boot(package, arguments.out, epoch, *options)
    except (FirstBootError, EdgeSiameseError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {path.stat().st_size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
