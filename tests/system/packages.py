"""Makes what is installed on a device, for tests: wheels, Debian packages, and versions that do not exist yet."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.system.cache import cached

ROOT = Path(__file__).parents[2]
# All that the package is built from.
SOURCE = (
    *("edge_siamese", "systemd", "scripts", "requirements", "docs"),
    *("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"),
)
OURS = "edge_siamese-*.whl"


def source_of(place: Path, version: str, changed: dict[str, tuple[str, str]] | None = None) -> Path:
    """A copy of the checkout with another version number.

    Args:
        place: is made.
        version: such as 9.0.0.
        changed: what else is replaced: file -> (text, other text).
    """
    for name in SOURCE:
        kept = shutil.ignore_patterns("__pycache__")
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=kept)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    init = place / "edge_siamese" / "__init__.py"
    text, count = re.subn(
        r'__version__ = "[^"]+"', f'__version__ = "{version}"', init.read_text(encoding="utf-8")
    )
    assert count == 1
    init.write_text(text, encoding="utf-8")
    for name, (before, after) in (changed or {}).items():
        text = (place / name).read_text(encoding="utf-8")
        assert before in text
        (place / name).write_text(text.replace(before, after), encoding="utf-8")
    return place


def foreign_wheels(cache: Path, arch: str) -> Path:
    """The wheels of others that a device installs, for both Pythons, and onnxruntime; fetched once."""
    script, lock = ROOT / "scripts" / "wheels.sh", ROOT / "requirements" / "device.lock"

    def build(directory: Path) -> None:
        runtimes = ["--runtime", "auto", "--runtime", "onnxruntime"]
        run("sh", str(script), str(directory), "--arch", arch, *runtimes)
        for path in directory.glob(OURS):
            path.unlink()

    return cached(cache, f"wheels-{arch}", script.read_text() + lock.read_text(), build)


def collect(place: Path, source: Path, wheels: Path, *, without: str = "onnxruntime") -> Path:
    """A folder of wheels as `scripts/wheels.sh` leaves it: ours of `source`, and those of others."""
    place.mkdir(parents=True)
    for path in wheels.glob("*.whl"):
        if not path.name.startswith(without):
            shutil.copy2(path, place)
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(place), str(source))
    return place


def debian_package(place: Path, source: Path, wheels: Path, arch: str) -> Path:
    """The Debian package of a source."""
    folder = collect(place / "wheels", source, wheels)
    run(
        "sh", str(source / "scripts" / "deb.sh"), "--arch", arch, "--wheels", str(folder), "--out", str(place)
    )
    (path,) = place.glob("*.deb")
    return path


def run(*command: str) -> str:
    """Run a command; its output, or an error with all that it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
