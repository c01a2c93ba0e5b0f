"""Fixtures for all tests: a small real bundle, the runtimes that work here, the interpreter of the device."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_siamese.bundle import Bundle, load_bundle
from edge_siamese.runtimes import RUNTIMES, runtime_statuses
from tests.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parent.parent
DEVICE_PYTHON = "EDGE_SIAMESE_DEVICE_PYTHON"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle; not to be changed."""
    return load_bundle(write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle"))


@pytest.fixture(scope="session")
def weighted_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with a weighted L1 head and embeddings that are not normalised; not to be changed."""
    return load_bundle(write_tiny_bundle(tmp_path_factory.mktemp("weighted") / "bundle", weighted=True))


@pytest.fixture
def writable_bundle(tmp_path: Path) -> Path:
    """The directory of a tiny bundle that a test may damage."""
    return write_tiny_bundle(tmp_path / "bundle")


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    """Each runtime that works in this interpreter."""
    found = next(found for found in runtime_statuses() if found.name == request.param)
    if not found.usable:
        pytest.skip(str(found))
    return found.name


@pytest.fixture(scope="session")
def device_python() -> Path:
    """The interpreter with the device's packages: tflite-runtime, numpy 1, no torch."""
    path = Path(os.environ.get(DEVICE_PYTHON) or ROOT / ".venv-device" / "bin" / "python")
    if not path.exists():
        pytest.skip(f"no interpreter of the device at {path}; {DEVICE_PYTHON} can name another")
    return path
