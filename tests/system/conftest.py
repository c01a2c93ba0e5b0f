"""Fixtures of the tests that take a whole system: they run when they are asked for, by `make test-system`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
