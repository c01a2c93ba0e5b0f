"""Fixtures of the tests that take a whole system: they run when they are asked for, by `make test-system`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.containers import BOOKWORM, TRIXIE, Suite, debian_tree, missing_tools
from tests.system.device import BROKEN, NEXT, Debs
from tests.system.packages import debian_package, foreign_wheels, source_of
from tests.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parent.parent.parent
ASKED = "EDGE_SIAMESE_SYSTEM_TESTS"


@pytest.fixture(scope="session", autouse=True)
def asked_for() -> None:
    """Skip unless these tests were asked for."""
    if os.environ.get(ASKED) != "1":
        pytest.skip(f"takes minutes, and root: make test-system runs it ({ASKED}=1)")


@pytest.fixture(scope="session")
def root(asked_for: None) -> None:
    """Skip unless this is root: trees of operating systems need owners, device nodes and mounts."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for trees of operating systems and their mounts")


@pytest.fixture(scope="session")
def cache(asked_for: None) -> Path:
    """Where trees and images are kept; may be empty."""
    place = os.environ.get("EDGE_SIAMESE_CACHE")
    return Path(place).expanduser() / "system" if place else ROOT / "build" / "cache" / "system"


@pytest.fixture(scope="session")
def demo_bundle(asked_for: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the bundle that `make demo` left, or else of the tiny one."""
    made = ROOT / "build" / "demo" / "bundle"
    if (made / "manifest.json").is_file():
        return made
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="session")
def wheel(asked_for: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(out), str(ROOT)], check=True
    )
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def arch(root: None) -> str:
    """What Debian calls this machine; skip where a container cannot be booted."""
    if lacking := missing_tools():
        pytest.skip(lacking)
    ask = ["dpkg", "--print-architecture"]
    return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def wheels(cache: Path, arch: str) -> Path:
    """What a device installs besides the wheel of this checkout."""
    return foreign_wheels(cache, arch)


@pytest.fixture(scope="session")
def debs(wheels: Path, arch: str, tmp_path_factory: pytest.TempPathFactory) -> Debs:
    """The Debian package of this checkout, and two of versions to come."""
    place = tmp_path_factory.mktemp("debs")
    begin = "        config = expand_path(options.config)"
    ends = {"edge_siamese/cli/daemon.py": (begin, f"        return 1\n{begin}")}
    later, broken = source_of(place / "later", NEXT), source_of(place / "ends", BROKEN, ends)
    return Debs(
        debian_package(place / "present", ROOT, wheels, arch),
        debian_package(place / "next", later, wheels, arch),
        debian_package(place / "broken", broken, wheels, arch),
    )


@pytest.fixture(scope="module", params=(BOOKWORM, TRIXIE), ids=lambda suite: suite.name)
def suite(request: pytest.FixtureRequest) -> Suite:
    """Each system that is supported."""
    found: Suite = request.param
    return found


@pytest.fixture(scope="module")
def tree(cache: Path, arch: str, suite: Suite) -> Path:
    """The system's tree; not to be changed."""
    return debian_tree(cache, suite)
