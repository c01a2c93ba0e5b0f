"""Import rules that the contracts in pyproject.toml cannot state: no cycle, few packages, and a bare device."""

from __future__ import annotations

import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from edge_siamese import registry

ROOT = Path(__file__).parent.parent
PACKAGES = ("edge_siamese", "export")
REQUIRED = {"numpy", "msgspec", "PIL"}
"""Third-party packages that every installation has."""
OPTIONAL = {"paho", "prometheus_client", "starlette", "uvicorn"} | {
    library.split(".")[0]
    for drivers in (registry.CAMERAS, registry.PANELS, registry.RUNTIMES)
    for driver in drivers.values()
    for library in driver.libraries
}
"""Third-party packages that one module or package of `edge_siamese` wraps, and imports when it is used."""
WORKSTATION_ONLY = {
    "torch",
    "onnx",
    "litert_torch",
    "ai_edge_quantizer",
    "matplotlib",
    "rich",
    "jax",
    "export",
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """All imports, lazy ones and those for type checkers included."""
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def is_ours(module: str) -> bool:
    return module.split(".")[0] in PACKAGES


def test_no_modules_import_each_other(graph: grimp.ImportGraph) -> None:
    imports = {
        module: set(filter(is_ours, graph.find_modules_directly_imported_by(module)))
        for module in filter(is_ours, graph.modules)
    }
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {' <- '.join(error.args[1])}")


def test_the_device_imports_the_standard_library_and_few_packages(graph: grimp.ImportGraph) -> None:
    imported = {
        imported.split(".")[0]
        for module in graph.modules
        if module.split(".")[0] == "edge_siamese"
        for imported in graph.find_modules_directly_imported_by(module)
    }
    assert imported - sys.stdlib_module_names - {"edge_siamese"} - REQUIRED - OPTIONAL == set()


def test_few_modules_import_by_name() -> None:
    """A public name, a command, an integration, a driver, a runtime: each when it is first used."""
    users = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "edge_siamese").rglob("*.py"))
        if re.search(r"\b(import_module|__import__)\b", path.read_text(encoding="utf-8"))
    ]
    assert users == [
        "edge_siamese/__init__.py",
        "edge_siamese/cli/main.py",
        "edge_siamese/daemon/integrations.py",
        "edge_siamese/registry.py",
        "edge_siamese/runtimes/selection.py",
    ]


BARE_DEVICE = """
import importlib, pkgutil, sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
import edge_siamese
names = [m.name for m in pkgutil.walk_packages(edge_siamese.__path__, "edge_siamese.")]
for name in names:
    if name.endswith("__main__"):
        continue
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The dashboard is opened only where it is enabled, and says which library is missing.
        if error.name not in {missing} or not name.startswith("edge_siamese.dashboard."):
            raise

import numpy as np
from edge_siamese import Recognizer
from edge_siamese.runtimes.selection import available_runtimes
from edge_siamese.runtimes.fake import FAKE_HEAD, FakeEncoder
mug = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
pen = 255 - 2 * mug
recognizer = Recognizer(FakeEncoder(), 0.9, head=FAKE_HEAD)
recognizer.register("mug", mug)
recognizer.register("pen", pen)
assert available_runtimes() == ()
third_party = sorted({{n.split(".")[0] for n in sys.modules}} - sys.stdlib_module_names - {{"edge_siamese", "__main__"}})
print(len(names), recognizer.recognize(mug).name, recognizer.recognize(pen).name, *third_party)
"""


def require_bare_device_works(python: Path) -> None:
    missing = {*WORKSTATION_ONLY, *OPTIONAL, "tests", "scipy", "cv2"}
    done = subprocess.run(
        [str(python), "-c", BARE_DEVICE.format(missing=missing)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    count, mug, pen, *others = done.stdout.split()
    assert int(count) == len(list((ROOT / "edge_siamese").rglob("*.py"))) - 1
    assert (mug, pen) == ("mug", "pen")
    # Some modules of these packages, of what they need and of an environment have other names.
    assert {n for n in others if not n.startswith(("_", "cython", "typing_extensions"))} <= REQUIRED


def test_the_device_works_where_no_optional_library_can_be_imported() -> None:
    require_bare_device_works(Path(sys.executable))


@pytest.mark.system
def test_the_device_works_where_none_can_be_imported_with_a_device_s_numpy(device_python: Path) -> None:
    require_bare_device_works(device_python)
