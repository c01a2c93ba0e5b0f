"""The registry of cameras, panels and runtimes, what is derived from it, and how many files a new driver touches."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import fields
from packaging.requirements import Requirement

from edge_siamese.cli.main import build_parser
from edge_siamese.registry import AUTO, CAMERAS, PANELS, RUNTIMES, Driver, describe_choices
from edge_siamese.runtimes.selection import AUTO_ORDER
from edge_siamese.settings import CameraSettings, ModelSettings, PanelSettings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DRIVERS = {**CAMERAS, **PANELS, **RUNTIMES}


def choices(settings: type, name: str) -> tuple[str, ...]:
    """The values that a setting accepts."""
    (kind,) = (field.type for field in fields(settings) if field.name == name)
    return get_args(kind)


@pytest.mark.parametrize(
    ("settings", "name", "drivers"),
    [
        (CameraSettings, "kind", CAMERAS),
        (PanelSettings, "kind", PANELS),
        (ModelSettings, "runtime", RUNTIMES),
    ],
)
def test_settings_accept_what_is_registered(settings: type, name: str, drivers: Mapping[str, Driver]) -> None:
    assert choices(settings, name) == (AUTO, *drivers)


def test_the_command_line_offers_every_runtime() -> None:
    assert set(AUTO_ORDER) == set(RUNTIMES)
    options = build_parser().parse_args(["compare", "objects", "a", "b", "--runtime", AUTO_ORDER[-1]])
    assert options.runtime == AUTO_ORDER[-1]


@pytest.mark.parametrize("driver", DRIVERS.values(), ids=DRIVERS)
def test_a_driver_can_be_loaded_and_installed(driver: Driver) -> None:
    assert find_spec(driver.module) is not None
    assert isinstance(driver.load(), type)
    assert bool(driver.libraries) == bool(driver.install)
    if driver.extra:
        names = {Requirement(text).name for text in PROJECT["optional-dependencies"][driver.extra]}
        assert any(name in driver.install for name in names)


def test_choices_are_described_in_one_line() -> None:
    drivers = {"usb": CAMERAS["usb"], "none": PANELS["none"]}
    assert describe_choices(drivers) == "`usb`: a V4L2 device. `none`: no button and no LED."


# --- a new driver, in a copy of the tree ---

CAMERA = '''"""Camera that returns black frames."""

import time

import numpy as np

from edge_siamese.cameras.camera import Frame


class BlackCamera:
    """Black frames of the size in the settings."""

    description = "a black camera"

    def __init__(self, settings, color):
        self._pixels = np.zeros((settings.height, settings.width), np.uint8)
        self._number = 0

    def capture(self):
        self._number += 1
        return Frame(self._pixels, time.monotonic(), self._number)

    def hold_exposure(self, held):
        pass

    def close(self):
        pass
'''
RUNTIME = '''"""Runtime that embeds every image as ones."""

import numpy as np


class OnesGraph:
    """A graph whose embeddings are ones."""

    def __init__(self, package, path, threads, content=None):
        self.input_shape, self.dimensions = (12, 12, 1), 8

    @staticmethod
    def check_package(package):
        pass

    def run(self, images):
        return np.ones((len(images), self.dimensions), np.float32)
'''
CAMERA_ENTRY = """    "black": Driver(
        target="edge_siamese.cameras.black:BlackCamera",
        summary="black frames",
        libraries=("no_such_library",),
        install="pip install black-camera",
    ),
"""
RUNTIME_ENTRY = """    "ones": RuntimeDriver(
        target="edge_siamese.runtimes.ones:OnesGraph",
        summary="ones",
        libraries=("json",),
        install="pip install ones",
        format="onnx",
    ),
"""
USE_CAMERA = """
from pathlib import Path
from edge_siamese.cameras import open_camera
from edge_siamese.doctor import devices
from edge_siamese.settings_file import parse_settings

settings = parse_settings('[camera]\\nkind = "black"\\nwidth = 64\\nheight = 48')
camera = open_camera(settings.camera, "gray")
print(camera.description, camera.capture().pixels.shape)
print(devices._other_camera("black"))
"""
USE_RUNTIME = """
import sys
from edge_siamese.runtimes.selection import load_encoder, runtime_statuses
from edge_siamese.settings_file import parse_settings

print(parse_settings('[model]\\nruntime = "ones"').model.runtime)
print([str(status) for status in runtime_statuses() if status.name == "ones"])
print(load_encoder(sys.argv[1], "ones", "fp32"))
"""


GENERATED = {
    "docs/settings.md",
    "docs/edge-siamese.1",
    "systemd/config.toml",
    "edge_siamese/cli/completions/edge-siamese.bash",
    "edge_siamese/cli/completions/_edge-siamese",
    "edge_siamese/cli/completions/edge-siamese.fish",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a driver may touch."""
    folder = tmp_path / "checkout"
    for name in ("edge_siamese", "scripts", "systemd", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "images"))
    shutil.copy(ROOT / "CHANGELOG.md", folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def run_python(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def register(folder: Path, table: str, entry: str) -> None:
    """Add an entry to the end of a table of the registry."""
    path = folder / "edge_siamese" / "registry.py"
    text, count = re.subn(
        rf"(^{table}: .*?)(^}}$)",
        lambda match: match[1] + entry + match[2],
        path.read_text(encoding="utf-8"),
        count=1,
        flags=re.MULTILINE | re.DOTALL,
    )
    assert count == 1
    path.write_text(text, encoding="utf-8")


def touched(before: dict[str, bytes], folder: Path) -> set[str]:
    after = contents(folder)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_a_new_camera_touches_two_files_and_generated_ones(checkout: Path) -> None:
    before = contents(checkout)
    register(checkout, "CAMERAS", CAMERA_ENTRY)
    (checkout / "edge_siamese" / "cameras" / "black.py").write_text(CAMERA, encoding="utf-8")
    run_python(checkout, "scripts/settings_reference.py")
    run_python(checkout, "scripts/completions.py")
    run_python(checkout, "scripts/manual_page.py")
    assert touched(before, checkout) == {
        "edge_siamese/registry.py",
        "edge_siamese/cameras/black.py",
        *GENERATED,
    }
    camera, finding = run_python(checkout, "-c", USE_CAMERA).splitlines()
    assert camera == "a black camera (48, 64)"
    assert "no_such_library is not installed" in finding and "pip install black-camera" in finding
    assert "`black`: black frames." in (checkout / "docs" / "settings.md").read_text(encoding="utf-8")


def test_a_new_runtime_touches_two_files_and_generated_ones(checkout: Path, writable_bundle: Path) -> None:
    before = contents(checkout)
    register(checkout, "RUNTIMES", RUNTIME_ENTRY)
    (checkout / "edge_siamese" / "runtimes" / "ones.py").write_text(RUNTIME, encoding="utf-8")
    written = {"edge_siamese/registry.py", "edge_siamese/runtimes/ones.py"}
    assert touched(before, checkout) == written
    run_python(checkout, "scripts/settings_reference.py")
    run_python(checkout, "scripts/completions.py")
    run_python(checkout, "scripts/manual_page.py")
    assert touched(before, checkout) - written == {
        *GENERATED,
    }
    setting, statuses, encoder = run_python(checkout, "-c", USE_RUNTIME, str(writable_bundle)).splitlines()
    assert setting == "ones" and statuses.startswith("['ones ")
    assert " fp32 on ones " in encoder
