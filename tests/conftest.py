"""Fixtures for all tests: a small real bundle, shipped ones, the runtimes that work here, the device's interpreter."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from edge_siamese import models
from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.registry import RUNTIMES
from edge_siamese.runtimes.selection import runtime_statuses
from tests.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parent.parent
DEVICE_PYTHON = "EDGE_SIAMESE_DEVICE_PYTHON"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle; not to be changed."""
    return load_bundle(write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle"))


@pytest.fixture(scope="session")
def weighted_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with a weighted L1 head and embeddings that are not normalized; not to be changed."""
    return load_bundle(write_tiny_bundle(tmp_path_factory.mktemp("weighted") / "bundle", weighted=True))


@pytest.fixture
def writable_bundle(tmp_path: Path) -> Path:
    """The directory of a tiny bundle that a test may damage."""
    return write_tiny_bundle(tmp_path / "bundle")


@pytest.fixture
def nothing_shipped(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that came without bundles; the directory that they would be in."""
    directory = tmp_path_factory.mktemp("shipped")
    monkeypatch.setattr(models, "DIRECTORY", directory)
    return directory


@pytest.fixture
def objects_shipped(nothing_shipped: Path) -> Path:
    """A program that came with a tiny bundle as its default, `shipped-000000000000`; the directory of that bundle."""
    return write_tiny_bundle(nothing_shipped / models.DEFAULT, model_id="shipped-000000000000")


@pytest.fixture(params=tuple(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> str:
    """Each runtime that works in this interpreter."""
    found = next(found for found in runtime_statuses() if found.name == request.param)
    if not found.usable:
        pytest.skip(str(found))
    return found.name


@pytest.fixture(scope="session")
def device_python() -> Path:
    """The interpreter with the device's packages, without torch: on Python 3.11 tflite-runtime and numpy 1."""
    path = Path(os.environ.get(DEVICE_PYTHON) or ROOT / ".venv-device" / "bin" / "python")
    if not path.exists():
        pytest.skip(f"no interpreter of the device at {path}; {DEVICE_PYTHON} can name another")
    return path


@pytest.fixture(scope="session")
def device_tflite(device_python: Path) -> str:
    """The TFLite runtime of that interpreter."""
    ask = "import importlib.util as i; print('tflite-runtime' if i.find_spec('tflite_runtime') else 'ai-edge-litert')"
    return subprocess.run(
        [str(device_python), "-c", ask], capture_output=True, text=True, check=True
    ).stdout.strip()
