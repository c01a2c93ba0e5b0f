"""Puts wheels of another Python, or of another processor, into a tree without running either."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tests.requirement_files import requirements

# The versions of glibc that wheels name; each system under test has a newer one.
GLIBC = (17, 24, 26, 27, 28, 31, 34, 35)


def locked(python: str) -> tuple[str, ...]:
    """What the device's lock says for a Python such as 3.13, as pip takes it."""
    environment = {"python_version": python, "python_full_version": f"{python}.2"}
    return tuple(
        f"{item.name}{item.specifier}"
        for item in requirements("device.lock")
        if item.marker is None or item.marker.evaluate(environment)
    )


def install(requirements: Sequence[str], python: str, machine: str, tree: Path) -> None:
    """Download wheels and unzip them where Debian's Python of `tree` looks; nothing that they need comes with them.

    Args:
        requirements: as pip takes them.
        python: such as 3.13.
        machine: aarch64 or x86_64.
        tree: of an operating system.
    """
    place = tree / "usr" / "local" / "lib" / f"python{python}" / "dist-packages"
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC] + [f"manylinux2014_{machine}"]
    if machine == "x86_64":
        platforms += ["manylinux2010_x86_64", "manylinux1_x86_64"]
    with tempfile.TemporaryDirectory() as wheels:
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        options += [f"--platform={platform}" for platform in platforms]
        options += [f"--python-version={python}", "--implementation=cp", f"--dest={wheels}"]
        command = [sys.executable, "-m", "pip", "download", *options, *requirements]
        subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
        for path in sorted(Path(wheels).glob("*.whl")):
            unpack(path, place)


def unpack(wheel: Path, place: Path) -> Path:
    """Unzip a wheel into `place`, which is made."""
    place.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    for scripts in place.glob("*.data/purelib"):
        shutil.copytree(scripts, place, dirs_exist_ok=True)
    return place
